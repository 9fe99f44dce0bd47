"""The same metrics computed in other ways: as the papers' authors did, and by short but careful code.

Both hold whole arrays in memory. They use NumPy's BLAS, as distsim does. Arrays are channels last: (n, h, w, c) or
(n, p).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Clock:
    """The seconds spent on each part of a computation."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


# --- the original authors' code: every pair from scratch --------------------------------------------------------------


def seeds_way(X: Array, Y: Array, clock: Clock) -> dict[str, float]:
    """Compute the metrics as the papers' code does: float32 features, n x n kernels, NBS from the eigenvalues of KL.

    After marcozullich/pruned_layer_similarity (SVD reduction, Gram matrices, CKA, NBS) and google/svcca (canonical
    correlations from covariances in float64, weights of PWCCA from the canonical vectors). Their defects are corrected
    (CONFORMANCE §8), so that values can be compared.
    """
    with clock("SVD and CCA"):
        x, y = _rows(X), _rows(Y)
        rho, alpha = _covariance_cca(x, y)
        reduced = _covariance_cca(_svd_reduced(x), _svd_reduced(y))[0]
    with clock("Gram matrices"):
        K, L = (A.reshape(len(A), -1) @ A.reshape(len(A), -1).T for A in (X, Y))
    with clock("CKA"):
        K_, L_ = _centred_kernel(K), _centred_kernel(L)
        cka = np.trace(K_ @ L_) / (np.linalg.norm(K_) * np.linalg.norm(L_))
    with clock("NBS"):
        K_, L_ = _centred_kernel(K), _centred_kernel(L)
        eigenvalues = np.linalg.eigvals(K_ @ L_).real
        nbs = np.sqrt(eigenvalues.clip(0)).sum() / np.sqrt(np.trace(K_) * np.trace(L_))
    return {
        "mean_cca": float(rho.mean()),
        "svcca": float(reduced.mean()),
        "pwcca": float((alpha * rho).sum() / alpha.sum()),
        "cka": float(cka),
        "nbs": float(nbs),
    }


def _rows(X: Array) -> Array:
    return X.reshape(-1, X.shape[-1])


def _svd_reduced(x: Array, share: float = 0.99) -> Array:
    """Return the columns U·s that hold this share of the variance."""
    U, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    cumulative = np.cumsum(s * s) / np.sum(s * s)
    k = int((cumulative <= share).sum()) + 1
    return U[:, :k] * s[:k]


def _covariance_cca(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the canonical correlations and the weight of each in PWCCA, from x's side."""
    covariance = np.cov(x.T, y.T)  # NumPy makes this float64
    p = x.shape[1]
    wx, wy = _inverse_root(covariance[:p, :p]), _inverse_root(covariance[p:, p:])
    P, rho, _ = np.linalg.svd(wx.T @ covariance[:p, p:] @ wy, full_matrices=False)
    centred = x - x.mean(axis=0)
    variates = centred @ (wx @ P)
    alpha = np.abs(variates.T @ centred).sum(axis=1)
    return rho, alpha


def _inverse_root(S: Array) -> Array:
    """Return W with WᵀSW = 1 on the range of S."""
    values, vectors = np.linalg.eigh(S)
    keep = values > 1e-10 * values[-1]  # google/svcca's epsilon in its tutorial on SVCCA
    return vectors[:, keep] / np.sqrt(values[keep])


def _centred_kernel(K: Array) -> Array:
    return K - K.mean(axis=0, keepdims=True) - K.mean(axis=1, keepdims=True) + K.mean()


# --- short but careful: float64, with the reference's side kept ------------------------------------------------------


class CachedReference:
    """The complete network's side of a layer in float64: whitening of its channels, K and K^½."""

    def __init__(self, X: Array) -> None:
        self._rows = _rows(X).astype(np.float64)
        self._rows -= self._rows.mean(axis=0)
        self._products = self._rows.T @ self._rows
        self._K = _gram(X)
        values, vectors = np.linalg.eigh(self._K)
        self._root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
        self._trace, self._norm = float(np.trace(self._K)), float(np.sqrt(np.sum(self._K**2)))

    def compare(self, Y: Array, clock: Clock) -> dict[str, float]:
        with clock("CCA"):
            y = _rows(Y).astype(np.float64)
            y -= y.mean(axis=0)
            cross, products = self._rows.T @ y, y.T @ y
            wx, wy = _scaled_inverse_root(self._products), _scaled_inverse_root(products)
            P, rho, _ = np.linalg.svd(wx.T @ cross @ wy, full_matrices=False)
            alpha = np.abs(self._products @ wx @ P).sum(axis=0)
            kx, ky = _leading(self._products), _leading(products)
            reduced = np.linalg.svd(kx.T @ cross @ ky, compute_uv=False)
        with clock("Gram matrix"):
            L = _gram(Y)
        with clock("CKA"):
            cka = np.sum(self._K * L) / (self._norm * np.sqrt(np.sum(L * L)))
        with clock("NBS"):
            values = np.linalg.eigvalsh(self._root @ L @ self._root)
            nbs = np.sqrt(values.clip(0)).sum() / np.sqrt(self._trace * np.trace(L))
        return {
            "mean_cca": float(rho.mean()),
            "svcca": float(reduced.mean()),
            "pwcca": float((alpha * rho).sum() / alpha.sum()),
            "cka": float(cka),
            "nbs": float(nbs),
        }


def _scaled_inverse_root(S: Array) -> Array:
    """Return W as `_inverse_root` does, with channels scaled to unit variance first.

    No canonical correlation depends on the scale of a channel. Weak channels count as they do in distsim, whose rank
    tolerance this is.
    """
    deviations = np.sqrt(np.diag(S))
    inverse = np.divide(1, deviations, out=np.zeros_like(deviations), where=deviations > 0)
    values, vectors = np.linalg.eigh(inverse[:, None] * S * inverse)
    keep = values > 10 * len(S) * np.finfo(np.float64).eps * values[-1]
    return inverse[:, None] * vectors[:, keep] / np.sqrt(values[keep])


def _gram(X: Array) -> Array:
    flat = X.reshape(len(X), -1).astype(np.float64)
    flat -= flat.mean(axis=0)
    return flat @ flat.T


def _leading(S: Array, share: float = 0.99) -> Array:
    values, vectors = np.linalg.eigh(S)
    values, vectors = values[::-1], vectors[:, ::-1]
    k = int((np.cumsum(values) / values.sum() < share).sum()) + 1
    return vectors[:, :k] / np.sqrt(values[:k])


def cosine(X: Array, Y: Array) -> float:
    """Compute the cosine of the output layer, which is the same in all ways."""
    x, y = (A.astype(np.float64).ravel() for A in (X, Y))
    return float(abs(x @ y) / np.sqrt((x @ x) * (y @ y)))


# --- the reference values: float64, without squared singular values --------------------------------------------------


def kernel_values(X: Array, Y: Array) -> dict[str, float]:
    """Compute CKA and NBS in float64 from scratch.

    NBS comes from the singular values of TxᵀTy, where T is a side itself or, for a wide side, its triangular factor.
    """
    K, L = _gram(X), _gram(Y)
    cka = np.sum(K * L) / np.sqrt(np.sum(K * K) * np.sum(L * L))
    nuclear = np.linalg.svd(_triangle(X).T @ _triangle(Y), compute_uv=False).sum()
    return {"cka": float(cka), "nbs": float(nuclear / np.sqrt(np.trace(K) * np.trace(L)))}


def _triangle(X: Array) -> Array:
    """Return T (n, min(n, p)) with TTᵀ = XXᵀ and X = TQ for an orthogonal Q; columns of X are centred first."""
    flat = X.reshape(len(X), -1).astype(np.float64)
    flat -= flat.mean(axis=0)
    if flat.shape[1] <= flat.shape[0]:
        return flat
    return np.asarray(np.linalg.qr(flat.T, mode="r")).T
