"""Overlap of nearest neighbours."""

import numpy as np

from distsim.metrics.arrays import Array, Undefined, both_examples, or_nan
from distsim.metrics.distances import ROUNDING, squared_distances
from distsim.metrics.kernels import KernelPair, KernelSide, kernel_pair
from distsim.metrics.reads import read

NEIGHBOURS = 10


def knn_overlap(X: Array, Y: Array, *, k: int = NEIGHBOURS, channels_last: bool = False) -> float:
    """Return which share of an example's k nearest neighbours is the same on both sides, on average, in [0, 1].

        Σᵢ |Nₖ(xᵢ) ∩ Nₖ(yᵢ)| / (n·k)        Nₖ: the k nearest other examples, by Euclidean distance

    Huh et al. 2024 use it with normalised rows. Unchanged by rotating, scaling or shifting either side. Independent
    sides give k/(n - 1). Of equally near examples the first counts.

    k : number of neighbours. Shapes as in `cka`.
    Returns nan with an UndefinedSimilarity warning if a side has no variance, or n is not above k.
    ValueError: k is below 1, the numbers of rows differ, or a value is not finite.
    """
    if k < 1:
        raise ValueError(f"knn_overlap: k must be at least 1, got {k}")
    X, Y = both_examples("knn_overlap", X, Y)
    return or_nan("knn_overlap", from_pair, kernel_pair(X, Y), k)


def from_pair(pair: KernelPair, k: int = NEIGHBOURS) -> float:
    """Return `knn_overlap` of a pair. Undefined: a side has no variance, or n is not above k."""
    n = pair.x.n
    if n <= k:
        raise Undefined(f"{k} neighbours need more than {k} examples, there are {n}")
    x, y = (_near(side, k) for side in (pair.x, pair.y))
    return float((x & y).sum()) / (n * k)


def _near(side: KernelSide, k: int) -> np.ndarray:
    """Return whether example j is among the k nearest of example i, (n, n) bool.

    Examples within rounding of the k-th nearest are equally near: copies of an example are, however they are rounded.
    """
    squared, norms = squared_distances(side), read(side.diagonal)[:, None]
    np.fill_diagonal(squared, np.inf)
    last = np.partition(squared, k - 1, axis=1)[:, k - 1 : k]
    rounding = ROUNDING * side.unit * (norms + (np.sqrt(norms) + np.sqrt(last)) ** 2)  # norms of both, at most
    nearer = squared < last - rounding
    equal = (squared <= last + rounding) & ~nearer
    wanted = k - nearer.sum(axis=1, keepdims=True)
    return nearer | (equal & (np.cumsum(equal, axis=1) <= wanted))
