"""Representational similarity analysis."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsim.extras import require_modules
from distsim.metrics.arrays import Array, Undefined, both_examples, or_nan
from distsim.metrics.distances import ROUNDING, squared_distances
from distsim.metrics.kernels import KernelPair, KernelSide, kernel_pair
from distsim.metrics.rounding import EPS

FEWEST = 3  # examples: two make one distance only


def rsa(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Return the rank correlation of the two sides' dissimilarities, in [-1, 1].

        ρ(d(xᵢ, xⱼ), d(yᵢ, yⱼ)) over all pairs i < j        d: Euclidean distance, ρ: Spearman's correlation

    Kriegeskorte et al. 2008. Ranks make the square of the distance give the same value. Equal distances share their
    mean rank. Unchanged by rotating, scaling or shifting either side. Independent sides give values around 0.
    Shapes and errors as in `cka`.
    Returns nan with an UndefinedSimilarity warning if a side has no variance, or if all its distances are equal.
    """
    X, Y = both_examples("rsa", X, Y)
    return or_nan("rsa", from_pair, kernel_pair(X, Y))


def from_pair(pair: KernelPair) -> float:
    """Return `rsa` of a pair. Undefined: a side has no variance, all its distances are equal, or n is below 3."""
    require_modules("rsa", "scipy")
    from scipy.stats import rankdata

    if pair.x.n < FEWEST:
        raise Undefined(f"dissimilarities need at least {FEWEST} examples, there are {pair.x.n}")
    ranks = [rankdata(_levels(side)) for side in (pair.x, pair.y)]
    a, b = (of_side - of_side.mean() for of_side in ranks)
    scale = float((a * a).sum() * (b * b).sum()) ** 0.5
    if not scale > 0:
        raise Undefined("every example is equally far from every other")
    return float(np.clip((a * b).sum() / scale, -1.0, 1.0))


def _levels(side: KernelSide) -> NDArray[Any]:
    """Return the squared distance of each pair of examples, or its place among all, where equal ones are the same.

    Distances that differ by rounding only would get ranks of their own. Of float64 products, those that follow each
    other within rounding are one level. Rounding of float32 is as large as the gaps between genuine distances.
    """
    squared = squared_distances(side)[np.triu_indices(side.n, 1)]
    if side.unit > EPS:
        return squared
    order = np.argsort(squared)
    rounding = 2 * ROUNDING * EPS * side.trace / side.n
    levels = np.empty(len(squared), np.int64)
    levels[order] = np.cumsum(np.diff(squared[order], prepend=0.0) > rounding)
    return levels
