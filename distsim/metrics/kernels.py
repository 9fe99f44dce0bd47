"""The kernel family's view of a layer: rows are examples, columns are channels x pixels, the kernel is linear.

A side is held in the smaller of two forms: its centred features X (n, p) where p < n, else its Gram matrix K = XXᵀ
(n, n). Sums over n² entries are taken in float64 throughout.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, Undefined
from distsim.metrics.channels import EPS, centred

SMALL = 512  # up to this size singular values come from an SVD; above, from an eigenproblem, which is 10 times faster
TILE = 512
TAIL = 1e-4  # share of the trace that `fast` leaves out
LOST = 2e-7  # of a sum of singular values, that their squares may have lost before the SVD is taken after all


class Unresolved(Exception):
    """A Gram matrix of float32 products is too near to singular for its nuclear norm; float64 products are needed."""


@dataclass(frozen=True)
class KernelSide:
    """One network's side: exactly one of `features` (n, p) and `gram` (n, n) is set, both of centred columns.

    Constant columns may be left out of `features`; `columns` counts them.
    """

    n: int
    columns: int
    features: Array | None = None
    gram: Array | None = None
    unit: float = EPS  # relative rounding of the products that the Gram matrix was summed from

    @cached_property
    def trace(self) -> float:
        """‖X‖²_F = tr K. Undefined: no variance."""
        if self.features is not None:
            xp = array_namespace(self.features)
            value = float(xp.sum(self.features * self.features))
        else:
            value = float(array_namespace(self.gram).linalg.trace(self.gram))
        if not value > 0:
            raise Undefined("every activation is the same for all examples")
        return value

    @cached_property
    def norm(self) -> float:
        """‖K‖_F = ‖XᵀX‖_F."""
        small = self.gram if self.features is None else self.features.T @ self.features
        return _norm(small)

    @cached_property
    def full_gram(self) -> Array:
        return self.gram if self.features is None else self.features @ self.features.T

    @cached_property
    def unbiased_norm(self) -> float:
        """‖U(K)‖_F, the root of n(n - 3) HSIC₁(K, K)."""
        return _norm(u_centred(self.full_gram))

    @cached_property
    def factor(self) -> Array:
        """(n, r) matrix F with FFᵀ = K: the features themselves, else V√Λ from the eigenvectors of K.

        Eigenvalues within 10·eps of the largest are rounding. Higher a floor would cut genuine directions: what matters
        of an eigenvalue is its root.
        """
        if self.features is not None:
            return self.features
        xp = array_namespace(self.gram)
        values, vectors = xp.linalg.eigh(self.gram)
        keep = int(xp.sum(xp.astype(values > 10 * self.unit * values[-1], xp.int64)))
        return vectors[:, -keep:] * xp.sqrt(values[-keep:])

    @cached_property
    def leading(self) -> Array:
        """(n, r) the first columns of `factor` that hold all but `TAIL` of the trace."""
        xp = array_namespace(self.gram)
        values, vectors = xp.linalg.eigh(self.gram)
        values = xp.clip(values, 0.0, None)
        tail = int(xp.sum(xp.astype(xp.cumulative_sum(values) < TAIL * xp.sum(values), xp.int64)))
        return vectors[:, tail:] * xp.sqrt(values[tail:])

    @cached_property
    def cholesky(self) -> Array | None:
        """(n, n) lower triangular C with CCᵀ = K + t/n·11ᵀ, t = tr K/n; None where K is too near to singular.

        The vector of ones is in the null space of every centred K; the addition makes K regular and moves nothing else.
        Then the smallest pivot tells whether the smallest eigenvalues stand out of the rounding of K's entries.
        """
        K = self.full_gram
        xp = array_namespace(K)
        lift = self.trace / self.n
        try:
            C = xp.linalg.cholesky(K + lift / self.n)
        except (np.linalg.LinAlgError, RuntimeError):  # NumPy's and torch's; CuPy gives NaN
            return None
        pivots = xp.linalg.diagonal(C) ** 2
        largest = float(xp.max(xp.linalg.diagonal(K)))
        # below 1e-10 the squares of small singular values drown in float64's rounding of the large ones
        return C if float(xp.min(pivots)) > max(16 * self.unit, 1e-10) * largest else None


@dataclass(frozen=True)
class KernelPair:
    x: KernelSide
    y: KernelSide
    fast: bool = False

    @cached_property
    def cross(self) -> Array:
        """FxᵀFy of the two sides' factors; XᵀY where both are held as features."""
        return self.x.factor.T @ self.y.factor

    @property
    def small(self) -> bool:
        """Whether both sides are held as features."""
        return self.x.features is not None and self.y.features is not None

    @cached_property
    def nuclear(self) -> float:
        """‖XᵀY‖_*, the sum of the singular values of XᵀY, by the cheapest route that keeps its digits.

        Two Gram matrices: the roots of the eigenvalues of BᵀB, B = CyᵀCx with the Cholesky factors C; `fast`, those of
        FᵀLF with the leading eigenvectors F of K. One Gram matrix: those of XᵀLX. For small sides, and wherever squares
        would lose digits (rank-deficient sides), an SVD of FxᵀFy. Never the eigenvalues of KL, which is not symmetric.
        Unresolved: that needs Gram matrices of float64 products.
        """
        x, y = self.x, self.y
        narrow = max(x.unit, y.unit) > EPS
        small = min(_size(x), _size(y)) <= SMALL
        if x.features is None and y.features is None and (narrow or not small):
            if self.fast:
                return self._by_leading()
            if x.cholesky is not None and y.cholesky is not None:
                xp = array_namespace(x.cholesky)
                B = triangular_product(y.cholesky, x.cholesky)
                values = xp.linalg.eigvalsh(B.T @ B)
                total = float(xp.sum(xp.sqrt(xp.clip(values, 0.0, None))))
                return total - (x.trace * y.trace) ** 0.5 / x.n  # of the pair of lifted null directions
        if narrow:
            raise Unresolved
        squared = None if small or (x.features is None and y.features is None) else _roots(self._squares())
        return self._by_svd() if squared is None else squared

    def _by_leading(self) -> float:
        xp = array_namespace(self.y.gram)
        F = xp.astype(self.x.leading, xp.float32)
        squares = xp.astype(F.T @ (xp.astype(self.y.gram, xp.float32) @ F), xp.float64)
        values = xp.linalg.eigvalsh((squares + squares.T) / 2)
        return float(xp.sum(xp.sqrt(xp.clip(values, 0.0, None))))

    def _squares(self) -> Array:
        """Symmetric matrix whose eigenvalues are the squared singular values of XᵀY, the smaller one."""
        x, y = (self.x, self.y) if _size(self.x) <= _size(self.y) else (self.y, self.x)
        X: Array = x.features
        if y.features is None:
            return X.T @ (y.gram @ X)
        cross = X.T @ y.features
        return cross @ cross.T

    def _by_svd(self) -> float:
        return float(array_namespace(self.cross).linalg.svdvals(self.cross).sum())


def _size(side: KernelSide) -> int:
    return side.n if side.features is None else int(side.features.shape[1])


def _roots(squares: Array) -> float | None:
    """Sum of the roots of a matrix's eigenvalues; None where rounding of the small ones may matter.

    Those within rounding of zero are zero if a gap sets them apart.
    """
    xp = array_namespace(squares)
    values = xp.linalg.eigvalsh(squares)
    floor = 16 * EPS * values[-1]
    kept = xp.where(values > floor, values, xp.zeros_like(values))
    total = float(xp.sum(xp.sqrt(kept)))
    small = int(xp.sum(xp.astype(values <= floor, xp.int64)))
    gap = not bool(xp.any((values > floor) & (values < 1e4 * floor)))
    if small and not gap and small * float(xp.sqrt(floor)) > LOST * total:
        return None
    return total


def triangular_product(A: Array, B: Array) -> Array:
    """AᵀB of two lower triangular matrices (n, n), leaving out the products of blocks that are zero."""
    xp = array_namespace(A)
    n = A.shape[0]
    product = xp.empty_like(A)
    for i in range(0, n, TILE):
        for j in range(0, n, TILE):
            k = max(i, j)
            product[i : i + TILE, j : j + TILE] = A[k:, i : i + TILE].T @ B[k:, j : j + TILE]
    return product


def kernel_side(X: Array) -> KernelSide:
    """The side of one matrix (n, p), float64, not yet centred."""
    n, p = X.shape
    X = centred_features(X)
    return KernelSide(n, p, features=X) if p < n else KernelSide(n, p, gram=X @ X.T)


def centred_features(X: Array) -> Array:
    """X minus its column means, with constant columns exactly zero.

    What centring leaves of a constant column is rounding, and would be all there is where every column is constant.
    """
    X, mean = centred(X)
    xp = array_namespace(X)
    return xp.where(xp.max(xp.abs(X), axis=0) > 8 * EPS * xp.abs(mean), X, xp.zeros_like(X))


def kernel_pair(X: Array, Y: Array) -> KernelPair:
    return KernelPair(kernel_side(X), kernel_side(Y))


def u_centred(K: Array) -> Array:
    """K without its diagonal, minus what makes its rows and columns sum to zero (Székely and Rizzo 2014)."""
    xp = array_namespace(K)
    n = K.shape[0]
    U, every = K * 1.0, xp.arange(n)
    U[every, every] = 0.0
    means = xp.sum(U, axis=0) / (n - 2)
    means = means - xp.sum(means) / (2 * (n - 1))
    U -= means[:, None] + means[None, :]
    U[every, every] = 0.0
    return U


def inner(A: Array, B: Array) -> float:
    """⟨A, B⟩_F. Written as a sum: the libraries' own dot products lose digits on large arrays."""
    return float(array_namespace(A, B).sum(A * B))


def _norm(A: Array) -> float:
    """Frobenius norm. Written as a sum: the libraries' own norm functions lose digits on large arrays."""
    xp = array_namespace(A)
    return float(xp.sqrt(xp.sum(A * A)))
