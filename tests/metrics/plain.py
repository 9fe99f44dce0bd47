"""Each metric once more, by the plainest route in NumPy: what `distsim.metrics` computes is held against these.

Written from SPEC §4, not from the package. They are slow, work in float64, and know no backend. `test_conformance.py`
holds these derivations themselves against the published values.
"""

import numpy as np
import scipy.linalg


def fold(X):
    """(n, c, h, w) → (n·h·w, c): every position is an example, every channel a column."""
    return np.array([X[i, :, y, x] for i in range(X.shape[0]) for y in range(X.shape[2]) for x in range(X.shape[3])])


def flatten(X):
    """(n, …) → (n, everything else)."""
    return np.array([x.ravel() for x in X])


def centred(X):
    return X - X.mean(axis=0)


def basis(X):
    """Orthonormal columns that span the centred X: QR with pivoting, columns brought to length 1 first.

    The span of the columns is all that CCA sees, so their lengths may be evened out before rank is judged.
    """
    rounding = len(X) * np.finfo(float).eps * np.linalg.norm(X, axis=0)  # what centring leaves of a constant column
    X = centred(X)
    length = np.linalg.norm(X, axis=0)
    X = X[:, length > rounding] / length[length > rounding]
    Q, R, _ = scipy.linalg.qr(X, mode="economic", pivoting=True)
    return Q[:, np.abs(np.diag(R)) > max(X.shape) * np.finfo(float).eps * abs(R[0, 0])]


def correlations(X, Y):
    """Canonical correlations, largest first: cosines of the angles between the two column spaces."""
    return np.linalg.svd(basis(X).T @ basis(Y), compute_uv=False)


def mass98(rho):
    """Mean of rho[:i] for the smallest i < len(rho) that holds 98 % of the sum; of all where there is none."""
    for i in range(len(rho)):
        if rho[:i].sum() / rho.sum() >= 0.98:
            return rho[:i].mean()
    return rho.mean()


def mean_cca(X, Y):
    return correlations(X, Y).mean()


def directions(X, variance):
    """The smallest number of principal directions of the centred X that hold this share of its variance."""
    energy = np.linalg.svd(centred(X), compute_uv=False) ** 2
    k = 1
    while energy[:k].sum() < variance * energy.sum():
        k += 1
    return k


def reduced(X, k):
    """The centred X in its k leading principal directions, (n, k)."""
    Vt = np.linalg.svd(centred(X), full_matrices=False)[2]
    return centred(X) @ Vt[:k].T


def svcca(X, Y, variance=0.99):
    return mean_cca(reduced(X, directions(X, variance)), reduced(Y, directions(Y, variance)))


def pwcca_first(X, Y):
    """Canonical correlations weighted by how much of the columns of X each canonical vector of X takes up."""
    Qx = basis(X)
    U, rho, _ = np.linalg.svd(Qx.T @ basis(Y), full_matrices=False)
    alpha = np.abs((Qx @ U).T @ centred(X)).sum(axis=1)
    return (alpha * rho).sum() / alpha.sum()


def pwcca(X, Y):
    """Weights from the side of smaller rank; the first where ranks are equal."""
    return pwcca_first(X, Y) if basis(X).shape[1] <= basis(Y).shape[1] else pwcca_first(Y, X)


def pwcca_google(X, Y):
    """google/svcca's `compute_pwcca`, step by step on the activations themselves, weights from X."""

    def inverse_root(S):
        values, vectors = np.linalg.eigh(S)
        return vectors / np.sqrt(values) @ vectors.T

    n = len(X)
    covariances = np.cov(X.T, Y.T)
    p = X.shape[1]
    Sxx, Sxy, Syy = covariances[:p, :p], covariances[:p, p:], covariances[p:, p:]
    U, rho, _ = np.linalg.svd(inverse_root(Sxx) @ Sxy @ inverse_root(Syy), full_matrices=False)
    mean = X.mean(axis=0)
    directions = (X - mean) @ U + np.tile(mean[: U.shape[1]], (n, 1))
    Q, _ = np.linalg.qr(directions)
    alpha = np.abs(Q.T @ X).sum(axis=1)
    return (alpha * rho).sum() / alpha.sum()


def gram(X):
    """HXXᵀH with H the centring matrix."""
    n = len(X)
    H = np.eye(n) - np.ones((n, n)) / n
    return H @ X @ X.T @ H


def cka(X, Y):
    K, L = gram(X), gram(Y)
    return (K * L).sum() / np.sqrt((K * K).sum() * (L * L).sum())


def nbs_product(X, Y):
    """tr[(K^½ L K^½)^½] as the sum of the roots of the eigenvalues of K L: good to 1e-7 near rank deficiency."""
    K, L = gram(X), gram(Y)
    return np.sqrt(np.linalg.eigvals(K @ L).real.clip(0)).sum() / np.sqrt(np.trace(K) * np.trace(L))


def nbs_matrix_root(X, Y):
    """The same trace with matrix square roots written out, in the n − 1 dimensions that centring leaves.

    For p ≥ n − 1 on both sides only: the Grams must be regular there.
    """
    B = scipy.linalg.helmert(len(X))  # (n - 1, n), orthonormal rows, each orthogonal to the constant vector
    K, L = B @ X @ X.T @ B.T, B @ Y @ Y.T @ B.T
    root = scipy.linalg.sqrtm(K)
    return np.trace(scipy.linalg.sqrtm(root @ L @ root)).real / np.sqrt(np.trace(K) * np.trace(L))


def nbs_nuclear(X, Y):
    """‖XᵀY‖_* / (‖X‖_F ‖Y‖_F), good to rounding."""
    X, Y = centred(X), centred(Y)
    return np.linalg.svd(X.T @ Y, compute_uv=False).sum() / np.sqrt((X**2).sum() * (Y**2).sum())


def cosine(X, Y):
    return abs(np.dot(X.ravel(), Y.ravel())) / np.sqrt(np.dot(X.ravel(), X.ravel()) * np.dot(Y.ravel(), Y.ravel()))
