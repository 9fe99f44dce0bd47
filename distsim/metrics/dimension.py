"""Intrinsic dimension of one side's examples, from the distances to their two nearest neighbours."""

from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_cupy_array, is_torch_array

from distsim.metrics.arrays import Array, Undefined, both_examples, or_nan
from distsim.metrics.kernels import TILE, KernelPair, KernelSide, Unresolved, kernel_side
from distsim.metrics.rounding import EPS

FEWEST = 3  # examples: each has two neighbours then
ROUNDING = 16  # times the unit and the sum of both squared norms; of copies' squared distances 1 was seen, of others 6
RESOLVED = 64  # times that, from which squared distances of float32 products are good to 0.2 %, and nearly all to more


def intrinsic_dimension(X: Array, *, channels_last: bool = False) -> float:
    """Intrinsic dimension of the examples by TwoNN: how many coordinates it takes to tell neighbours apart. Above 0.

        μ = r₂/r₁        Euclidean distances of an example to its second and its first nearest neighbour
        −log(1 − F(μ)) = d·log μ        d: least squares, F the share of examples with at most this μ

    Facco et al. 2017, without the tenth of the examples whose μ is largest, as there. The fit is scikit-dimension's
    TwoNN. Unchanged by rotating, scaling or shifting. Examples that have an exact copy are left out, as examples and as
    neighbours.

    X : (n, p), or (n, c, h, w) read as n rows of c·h·w features; `channels_last` changes nothing here
    nan with UndefinedSimilarity (a warning) if there is no variance, if fewer than 3 examples have no copy, or if
    nearly all are as far from their second neighbour as from their first. ValueError: not finite; scikit-dimension is
    not installed.
    """
    X, _ = both_examples("intrinsic_dimension", X, X)
    return or_nan("intrinsic_dimension", of_side, kernel_side(X))


def of_complete(pair: KernelPair) -> float:
    return of_side(pair.x)


def of_pruned(pair: KernelPair) -> float:
    return of_side(pair.y)


def of_side(side: KernelSide) -> float:
    estimator = _two_nn()
    if side.n < FEWEST:
        raise Undefined(f"the intrinsic dimension needs at least {FEWEST} examples, there are {side.n}")
    side.trace  # noqa: B018  raises Undefined for a side without variance
    squared = _nearest(side)
    single = squared[:, 0] > 0
    if not single.all():
        if single.sum() < FEWEST:
            raise Undefined(f"the intrinsic dimension needs {FEWEST} examples without a copy, there are {single.sum()}")
        squared = _nearest(_only(side, single))
    dimension = float(estimator.fit(np.sqrt(squared)).dimension_)
    if not dimension > 0:  # all μ that are fitted are 1
        raise Undefined("nearly every example is as far from its second neighbour as from its first")
    return dimension


def _two_nn() -> Any:
    try:
        from skdim.id import TwoNN  # takes seconds
    except ImportError:
        raise ValueError("intrinsic dimensions need scikit-dimension: pip install 'distsim[dimension]'") from None
    return TwoNN(dist=True)  # of the distances to both neighbours


def _nearest(side: KernelSide) -> np.ndarray:
    """(n, 2) squared distances of each example to its first and its second neighbour.

    d² = Kᵢᵢ + Kⱼⱼ − 2Kᵢⱼ, in blocks of rows. A first distance within rounding is 0; a second one within rounding of the
    first equals it. Unresolved: that needs float64 products.
    """
    A: Array = side.gram if side.features is None else side.features
    xp = array_namespace(A)
    norms = xp.linalg.diagonal(A) if side.features is None else xp.sum(A * A, axis=1)
    found = []
    for start in range(0, side.n, TILE):
        block = A[start : start + TILE]
        squared = norms - 2 * (block if side.features is None else block @ A.T)  # lacks Kᵢᵢ
        own = norms[start : start + TILE]
        every = xp.arange(squared.shape[0])
        squared[every, start + every] = xp.inf
        nearest = xp.argmin(squared, axis=1)
        first = squared[every, nearest] + own
        squared[every, nearest] = xp.inf
        second = xp.min(squared, axis=1) + own
        rounding = ROUNDING * side.unit * (own + norms[nearest])
        if side.unit > EPS and bool(xp.any(first <= RESOLVED * rounding)):
            raise Unresolved
        first = xp.where(first > rounding, first, xp.zeros_like(first))
        second = xp.where(second - first > rounding, second, first)
        found.append(xp.stack([first, second], axis=1))
    return _numpy(xp.concat(found))


def _only(side: KernelSide, examples: np.ndarray) -> KernelSide:
    """The side of some of its examples, not centred anew: that changes no distance."""
    A: Array = side.gram if side.features is None else side.features
    xp = array_namespace(A)
    rows = xp.asarray(np.flatnonzero(examples))
    A = A[rows]
    if side.features is None:
        return replace(side, n=A.shape[0], gram=A[:, rows])
    return replace(side, n=A.shape[0], features=A)


def _numpy(A: Array) -> np.ndarray:
    if is_cupy_array(A):
        return A.get()
    return A.cpu().numpy() if is_torch_array(A) else A
