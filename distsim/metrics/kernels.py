"""The kernel family's view of a layer: rows are examples, columns are channels x pixels, the kernel is linear.

A side is kept in the smaller of two forms: its centred features X (n, p) if p < n, else its Gram matrix K = XXᵀ (n, n).
Sums over n² entries are always taken in float64.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from distsim.metrics.arrays import Array, Undefined, Workspace
from distsim.metrics.channels import centred
from distsim.metrics.linalg import by_both, cholesky, congruence, eigvalsh, inner
from distsim.metrics.polar import Enclosure, enclosed, on_full_rate
from distsim.metrics.reads import NOW, Cached, Number, Reads, last, read
from distsim.metrics.roots import as_dtype, root_sum, sum_of_roots
from distsim.metrics.rounding import EPS, is_constant, least_pivot, rank_of_gram

SMALL = 512  # up to this size singular values come from an SVD; above, from an eigenproblem, which is 10 times faster
TAIL = 1e-4  # share of the trace that `fast` leaves out when it takes leading eigenvectors


class Unresolved(Exception):
    """Raised where a Gram matrix of float32 products is too close to singular, so that float64 products are needed."""


@dataclass(frozen=True)
class KernelSide:
    """One network's side. Exactly one of `features` (n, p) and `gram` (n, n) is set; both are of centred columns.

    `features` may lack constant columns; `columns` counts them too. Where reads are deferred, they have all columns.
    """

    n: int
    columns: int
    features: Array | None = None
    gram: Array | None = None
    unit: float = EPS  # relative rounding of the products whose sum the Gram matrix is
    narrow: bool = False  # features are float32 values, and so many that their products are taken in float32
    reads: Reads = field(default=NOW, compare=False, repr=False)
    # of a side with its examples in another order: the side itself, and the order
    permuted: tuple["KernelSide", Array] | None = field(default=None, compare=False, repr=False)

    def in_order(self, order: Array) -> "KernelSide":
        """Return this side with its examples in another order, (n,). What the order does not change is kept."""
        xp = array_namespace(self.gram if self.features is None else self.features)
        features = None if self.features is None else xp.take(self.features, order, axis=0)
        gram = None if self.gram is None else xp.take(xp.take(self.gram, order, axis=0), order, axis=1)
        return replace(self, features=features, gram=gram, permuted=(self, order))

    @Cached
    def now(self) -> "KernelSide":
        """Return this side with numbers that are read at once, and without constant features."""
        if not self.reads.deferred:
            return self
        if self.permuted is not None:
            return self.permuted[0].now.in_order(self.permuted[1])
        varies = None if self.features is None else read(self._varies)
        if varies is None or varies.all():
            return replace(self, reads=NOW)
        xp = array_namespace(self.features)
        chosen = xp.asarray(np.flatnonzero(varies), device=device(self.features))
        return replace(self, features=xp.take(self.features, chosen, axis=1), reads=NOW)

    @property
    def _varies(self) -> Array:
        xp = array_namespace(self.features)
        return xp.any(self.features != 0, axis=0)

    @Cached
    def varied(self) -> bool:
        """Return whether no feature is constant, which only a side whose reads are deferred has."""
        if self.features is None or not self.reads.deferred:
            return True
        if self.permuted is not None:
            return self.permuted[0].varied
        return self.reads.decide(array_namespace(self.features).all(self._varies), likely=True)

    @Cached
    def trace(self) -> Number:
        """Return ‖X‖²_F = tr K. Undefined: no variance."""
        if self.permuted is not None:
            return self.permuted[0].trace
        if self.features is not None:
            xp = array_namespace(self.features)
            value = self.reads.number(xp.sum(self.features * self.features))
        else:
            value = self.reads.number(array_namespace(self.gram).linalg.trace(self.gram))
        empty = self.features is not None and self.features.shape[1] == 0
        if empty or not self.reads.decide(value > 0, likely=True):
            raise Undefined("every activation is the same for all examples")
        return value

    @Cached
    def norm(self) -> Number:
        """Return ‖K‖_F = ‖XᵀX‖_F."""
        if self.permuted is not None:
            return self.permuted[0].norm
        if self.features is None:
            return _norm(self.gram, self.reads)
        F = self.narrow_features if self.narrow else self.features
        return _norm(as_dtype(F.T @ F, "float64"), self.reads)

    @Cached
    def narrow_features(self) -> Array:
        """Return the features as float32, (n, p)."""
        return as_dtype(self.features, "float32")

    @Cached
    def full_gram(self) -> Array:
        return self.gram if self.features is None else self.features @ self.features.T

    @Cached
    def diagonal(self) -> Array:
        """Return the diagonal of K, (n,)."""
        if self.features is None:
            return array_namespace(self.gram).linalg.diagonal(self.gram)
        return array_namespace(self.features).sum(self.features * self.features, axis=1)

    @Cached
    def squares_of_diagonal(self) -> Number:
        """Return Σ Kᵢᵢ²."""
        if self.permuted is not None:
            return self.permuted[0].squares_of_diagonal
        return self.reads.number(array_namespace(self.diagonal).sum(self.diagonal**2))

    @Cached
    def factor(self) -> Array:
        """Return F (n, r) with FFᵀ = K: the features, or V√Λ from the eigenvectors V and eigenvalues Λ of K."""
        if self.features is not None:
            return self.features
        xp = array_namespace(self.gram)
        if self.permuted is not None:
            return xp.take(self.permuted[0].factor, self.permuted[1], axis=0)
        values, vectors = xp.linalg.eigh(self.gram)
        keep = rank_of_gram(values, self.unit, self.reads)
        return last(vectors, keep, axis=1) * xp.sqrt(last(values, keep))

    @Cached
    def leading(self) -> Array:
        """Return V√Λ (n, r) for the leading eigenvectors of K, which hold all but `TAIL` of the trace."""
        xp = array_namespace(self.gram)
        values, vectors = xp.linalg.eigh(self.gram)
        values = xp.clip(values, 0.0, None)
        tail = NOW.count(xp.cumulative_sum(values) < TAIL * xp.sum(values))
        return vectors[:, tail:] * xp.sqrt(values[tail:])

    @Cached
    def lift(self) -> Number:
        """Return tr K/n², with which K + lift·11ᵀ may be regular.

        The vector of ones is in the null space of every centred K. The addition changes no other eigenvalue.
        """
        return self.trace / self.n**2

    @Cached
    def cholesky(self) -> Array | None:
        """Return the lower triangular C (n, n) with CCᵀ = K + lift·11ᵀ, or None if K is too close to singular.

        The smallest pivot tells whether the smallest eigenvalues are above the rounding of K's entries.
        """
        C = cholesky(self.full_gram + self.lift, self.reads)
        return C if C is not None and self._stands_out(C, 0.0) else None

    @Cached
    def narrow_cholesky(self) -> Array | None:
        """Return `cholesky` in float32."""
        C = self.cholesky
        return None if C is None else array_namespace(C).astype(C, array_namespace(C).float32)

    @Cached
    def regular(self) -> bool:
        """Return whether K has a `cholesky`. A factorisation in float32 decides it where that leaves no doubt."""
        if self.permuted is not None:
            return self.permuted[0].regular
        if self.unit > EPS and "cholesky" not in self.__dict__:
            xp = array_namespace(self.gram)
            C = cholesky(xp.astype(self.gram, xp.float32) + _as_of(self.lift, xp.float32), self.reads)
            if C is not None and self._stands_out(C, 1e-4):
                return True
        return self.cholesky is not None

    def _stands_out(self, C: Array, floor: float) -> bool:
        xp = array_namespace(C)
        smallest = self.reads.number(as_dtype(xp.min(xp.linalg.diagonal(C)), "float64")) ** 2
        largest = self.reads.number(xp.max(xp.linalg.diagonal(self.full_gram)))
        return self.reads.decide(smallest > max(least_pivot(self.unit), floor) * largest, likely=True)


@dataclass(frozen=True)
class KernelPair:
    """Two sides of a layer, and what the metrics of the kernel view need of both.

    fast : the nuclear norm may be taken in float32 or from leading eigenvectors only, where it is not `enclosed`
    qdwh : whether the nuclear norm is `enclosed`; None: where the arrays' device has full-rate float64
    """

    x: KernelSide
    y: KernelSide
    fast: bool = False
    qdwh: bool | None = None
    workspace: Workspace = field(default_factory=Workspace, compare=False)
    reads: Reads = field(default=NOW, compare=False, repr=False)

    @Cached
    def shared(self) -> Number:
        """Return ⟨K, L⟩_F = ‖XᵀY‖²_F."""
        if self.small:
            return inner(self.cross, self.cross, self.reads)
        return inner(self.x.full_gram, self.y.full_gram, self.reads)

    @Cached
    def cross(self) -> Array:
        """Return FxᵀFy for the two sides' factors. It is XᵀY if both sides are kept as features."""
        if self.narrow:
            return as_dtype(self.x.narrow_features.T @ self.y.narrow_features, "float64")
        return self.x.factor.T @ self.y.factor

    @property
    def narrow(self) -> bool:
        """Return whether XᵀY is computed in float32."""
        return self.small and self.x.narrow and self.y.narrow and min(_size(self.x), _size(self.y)) > SMALL

    @property
    def small(self) -> bool:
        """Return whether both sides are kept as features."""
        return self.x.features is not None and self.y.features is not None

    @Cached
    def enclosure(self) -> Enclosure | None:
        """Return ‖XᵀY‖_* between its bounds, from the polar factor of FxᵀFy for the two sides' roots F.

        Returns None where this route is not taken, and where its bounds are too far apart.
        Unresolved: Gram matrices of float64 products are needed.
        """
        if not self._by_polar:
            return None
        (A, lifted_x), (B, lifted_y) = _root(self.x), _root(self.y)
        found = enclosed(A.T @ B, self.reads)
        if found is not None and lifted_x and lifted_y:
            found = found.minus(self._lifted_null)
        return found if found is not None and self.reads.decide(found.narrow, likely=True) else None

    @Cached
    def _by_polar(self) -> bool:
        held = self.x.gram if self.x.features is None else self.x.features
        return on_full_rate(held) if self.qdwh is None else self.qdwh

    @Cached
    def nuclear(self) -> Number:
        """Return ‖XᵀY‖_*, the sum of the singular values of XᵀY, by the cheapest route that keeps its digits.

        - On cards with full-rate float64: from the `enclosure`, if there is one. Else as elsewhere:
        - Two Gram matrices: the roots of the eigenvalues of CᵀLC, with the Cholesky factor C of K. With `fast` this is
          done in float32. If that may lose too much, or if K is singular, `fast` takes the roots of the eigenvalues of
          FᵀLF, with the leading eigenvectors F of K.
        - One Gram matrix: the roots of the eigenvalues of XᵀLX.
        - Small sides, and wherever squares would lose digits (rank-deficient sides): an SVD of FxᵀFy.

        The eigenvalues of KL are never used, since KL is not symmetric.
        Unresolved: Gram matrices of float64 products are needed.
        """
        if self.enclosure is not None:
            return self.enclosure.value
        x, y = self.x, self.y
        if not (x.varied and y.varied):  # eigenvalues of constant features are zero, and their roots are not exact
            return replace(self, x=x.now, y=y.now, reads=NOW).nuclear
        narrow = max(x.unit, y.unit) > EPS
        small = min(_size(x), _size(y)) <= SMALL
        if x.features is None and y.features is None and (narrow or not small):
            if x.cholesky is not None:
                total = self._by_cholesky(x.narrow_cholesky) if self.fast else None
                if total is not None:
                    return total
                if y.regular:
                    return self._root_sum(eigvalsh(self._lifted(x.cholesky))) - self._lifted_null
            if self.fast:
                return self._by_leading()
        if (x.features is None) != (y.features is None) and narrow:
            regular = (x if x.features is None else y).regular
            total = sum_of_roots(self._squares(), reads=self.reads) if regular else None
            if total is not None:
                return total
        if narrow:
            raise Unresolved
        if not small and (x.features is not None or y.features is not None):
            total = sum_of_roots(self._squares(), self.narrow, self.reads)
            if total is None and self.narrow:
                return replace(self, x=replace(x, narrow=False)).nuclear
            if total is not None:
                return total
        return self._by_svd()

    @property
    def _lifted_null(self) -> Number:
        """Return the singular value that lifting both sides adds."""
        return (self.x.trace * self.y.trace) ** 0.5 / self.x.n

    def _lifted(self, C: Array) -> Array:
        """Return the lower triangle of CᵀLC in C's dtype, with L lifted as K is in C."""
        L = self.workspace.empty(C, f"gram {C.dtype}", C.shape, C.dtype)
        L[...] = self.y.gram
        L += self.y.lift
        return congruence(C, L, self.workspace)

    def _by_cholesky(self, C: Array) -> Number | None:
        total = sum_of_roots(self._lifted(C), reads=self.reads)
        return None if total is None else total - self._lifted_null

    def _by_leading(self) -> Number:
        xp = array_namespace(self.y.gram)
        F = xp.astype(self.x.leading, xp.float32)
        squares = xp.astype(F.T @ (xp.astype(self.y.gram, xp.float32) @ F), xp.float64)
        return self._root_sum(eigvalsh((squares + squares.T) / 2))

    def _root_sum(self, values: Array) -> Number:
        return self.reads.number(root_sum(values))

    def _squares(self) -> Array:
        """Return the smaller symmetric matrix whose eigenvalues are the squared singular values of XᵀY."""
        x, y = (self.x, self.y) if _size(self.x) <= _size(self.y) else (self.y, self.x)
        X: Array = x.features
        if y.features is None:
            return X.T @ (y.gram @ X)
        cross = self.cross if x is self.x else self.cross.T
        return cross @ cross.T

    def _by_svd(self) -> Number:
        """Return the sum of singular values by an SVD, or of large matrices on a GPU by `by_both`."""
        if self._by_polar and min(self.cross.shape) > SMALL:
            return by_both(self.cross, self.reads)
        xp = array_namespace(self.cross)
        return self.reads.number(xp.sum(xp.linalg.svdvals(self.cross)))


def _size(side: KernelSide) -> int:
    return side.n if side.features is None else int(side.features.shape[1])


def _root(side: KernelSide) -> tuple[Array, bool]:
    """Return F (n, r) with FFᵀ = K, and whether K is lifted in it. It is the Cholesky factor, where K has one.

    Unresolved: K is of float32 products, and too close to singular.
    """
    if side.permuted is not None:
        F, lifted = _root(side.permuted[0])
        return array_namespace(F).take(F, side.permuted[1], axis=0), lifted
    if side.features is None and side.cholesky is not None:
        return side.cholesky, True
    if side.unit > EPS:
        raise Unresolved
    return side.factor, False


def _as_of(value: Number, dtype: Any) -> Number:
    """Return a number as it is, and one whose read is deferred in this dtype."""
    return value if isinstance(value, float) else array_namespace(value).astype(value, dtype)


def kernel_side(X: Array) -> KernelSide:
    """Return the side of one matrix (n, p), float64, not yet centred."""
    n, p = X.shape
    X = centred_features(X)
    return KernelSide(n, p, features=X) if p < n else KernelSide(n, p, gram=X @ X.T)


def centred_features(X: Array) -> Array:
    """Return X minus its column means, with constant columns exactly zero.

    Centring leaves only rounding of a constant column. If every column were constant, that rounding would be all the
    metric sees.
    """
    X, mean = centred(X)
    xp = array_namespace(X)
    return xp.where(is_constant(xp.max(xp.abs(X), axis=0), mean, EPS), xp.zeros_like(X), X)


def kernel_pair(X: Array, Y: Array) -> KernelPair:
    """Return the pair of two matrices, (n, p1) and (n, p2), float64, not yet centred."""
    return KernelPair(kernel_side(X), kernel_side(Y))


def _norm(A: Array, reads: Reads) -> Number:
    """Return the Frobenius norm."""
    return inner(A, A, reads) ** 0.5
