"""The kernel family's view of a layer: rows are examples, columns are channels x pixels, the kernel is linear.

A side is held in the smaller of two forms: its centred features X (n, p) where p < n, else its Gram matrix K = XXᵀ
(n, n). Sums over n² entries are taken in float64 throughout.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, Undefined
from distsim.metrics.channels import centred

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class KernelSide:
    """One network's side: exactly one of `features` (n, p) and `gram` (n, n) is set, both of centred columns."""

    n: int
    columns: int
    features: Array | None = None
    gram: Array | None = None

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
    def factor(self) -> Array:
        """(n, r) matrix F with FFᵀ = K: the features themselves, else V√Λ from the eigenvectors of K.

        Eigenvalues within 10·eps of the largest are rounding. Higher a floor would cut genuine directions: what matters
        of an eigenvalue is its root.
        """
        if self.features is not None:
            return self.features
        xp = array_namespace(self.gram)
        values, vectors = xp.linalg.eigh(self.gram)
        keep = int(xp.sum(xp.astype(values > 10 * EPS * values[-1], xp.int64)))
        return vectors[:, -keep:] * xp.sqrt(values[-keep:])


@dataclass(frozen=True)
class KernelPair:
    x: KernelSide
    y: KernelSide

    @cached_property
    def cross(self) -> Array:
        """FxᵀFy of the two sides' factors; XᵀY where both are held as features."""
        return self.x.factor.T @ self.y.factor

    @property
    def small(self) -> bool:
        """Whether both sides are held as features."""
        return self.x.features is not None and self.y.features is not None


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


def _norm(A: Array) -> float:
    """Frobenius norm. Written as a sum: the libraries' own norm functions lose digits on large arrays."""
    xp = array_namespace(A)
    return float(xp.sqrt(xp.sum(A * A)))
