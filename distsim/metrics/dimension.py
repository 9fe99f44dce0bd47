"""Intrinsic dimension of one side's examples, from their distances to their two nearest neighbours."""

from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from distsim import extras
from distsim.metrics.arrays import Array, Undefined, both_examples, or_nan
from distsim.metrics.distances import ROUNDING
from distsim.metrics.kernels import KernelPair, KernelSide, Unresolved, kernel_side
from distsim.metrics.linalg import TILE
from distsim.metrics.reads import NOW, read
from distsim.metrics.rounding import EPS

FEWEST = 3  # examples, so that each has two neighbours
# Times `ROUNDING`: from here on squared distances of float32 products are good to 0.2 %, and nearly all to more.
RESOLVED = 64


def intrinsic_dimension(X: Array, *, channels_last: bool = False) -> float:
    """Return the intrinsic dimension by TwoNN, above 0: how many coordinates it takes to tell neighbours apart.

        μ = r₂/r₁        Euclidean distances of an example to its second and its first nearest neighbour
        −log(1 − F(μ)) = d·log μ        d: least squares, F the share of examples with at most this μ

    Facco et al. 2017. As there, the tenth of the examples with the largest μ is left out. The fit is scikit-dimension's
    TwoNN. Unchanged by rotating, scaling or shifting. Examples that have an exact copy are left out, both as examples
    and as neighbours.

    X : (n, p), or (n, c, h, w) read as n rows of c·h·w features; `channels_last` changes nothing here
    Returns nan with an UndefinedSimilarity warning if there is no variance, if fewer than 3 examples have no copy, or
    if nearly all examples are as far from their second neighbour as from their first.
    ValueError: a value is not finite, or scikit-dimension is not installed.
    """
    X, _ = both_examples("intrinsic_dimension", X, X)
    return or_nan("intrinsic_dimension", of_side, kernel_side(X))


def of_complete(pair: KernelPair) -> float:
    """Return the intrinsic dimension of the pair's x, which is the complete network's side."""
    return of_side(pair.x)


def of_pruned(pair: KernelPair) -> float:
    """Return the intrinsic dimension of the pair's y, which is the pruned network's side."""
    return of_side(pair.y)


def of_side(side: KernelSide) -> float:
    """Return the intrinsic dimension of a side.

    Undefined: where `intrinsic_dimension` returns nan. Unresolved: float64 products are needed.
    """
    estimator = _two_nn()
    if side.n < FEWEST:
        raise Undefined(f"the intrinsic dimension needs at least {FEWEST} examples, there are {side.n}")
    side.trace  # noqa: B018  raises Undefined for a side without variance
    squared = _nearest(side)
    unique = squared[:, 0] > 0
    if not unique.all():
        if unique.sum() < FEWEST:
            raise Undefined(f"the intrinsic dimension needs {FEWEST} examples without a copy, there are {unique.sum()}")
        squared = _nearest(_only(side, unique))
    dimension = float(estimator.fit(np.sqrt(squared)).dimension_)
    if not dimension > 0:  # every μ in the fit is 1
        raise Undefined("nearly every example is as far from its second neighbour as from its first")
    return dimension


def _two_nn() -> Any:
    try:
        from skdim.id import TwoNN  # takes seconds
    except ImportError:
        raise ValueError(f"intrinsic dimensions need scikit-dimension: {extras.command(['dimension'])}") from None
    return TwoNN(dist=True)  # fits the distances to both neighbours


def _nearest(side: KernelSide) -> np.ndarray:
    """Return the squared distances of each example to its first and its second neighbour, (n, 2).

    d² = Kᵢᵢ + Kⱼⱼ − 2Kᵢⱼ, in blocks of rows. A first distance within rounding of 0 is set to 0. A second distance
    within rounding of the first is set to the first. Unresolved: float64 products are needed.
    """
    A: Array = side.gram if side.features is None else side.features
    xp = array_namespace(A)
    norms = xp.linalg.diagonal(A) if side.features is None else xp.sum(A * A, axis=1)
    distances = []
    for start in range(0, side.n, TILE):
        block = A[start : start + TILE]
        squared = norms - 2 * (block if side.features is None else block @ A.T)  # Kᵢᵢ is added below
        own = norms[start : start + TILE]
        every = xp.arange(squared.shape[0], device=device(A))
        squared[every, start + every] = xp.inf
        nearest = xp.argmin(squared, axis=1)
        first = squared[every, nearest] + own
        squared[every, nearest] = xp.inf
        second = xp.min(squared, axis=1) + own
        rounding = ROUNDING * side.unit * (own + norms[nearest])
        if side.unit > EPS and NOW.decide(xp.any(first <= RESOLVED * rounding), likely=False):
            raise Unresolved
        first = xp.where(first > rounding, first, xp.zeros_like(first))
        second = xp.where(second - first > rounding, second, first)
        distances.append(xp.stack([first, second], axis=1))
    return read(xp.concat(distances))


def _only(side: KernelSide, examples: np.ndarray) -> KernelSide:
    """Return the side reduced to some examples. It is not centred again, since that changes no distance."""
    A: Array = side.gram if side.features is None else side.features
    xp = array_namespace(A)
    rows = xp.asarray(np.flatnonzero(examples), device=device(A))
    A = A[rows]
    if side.features is None:
        return replace(side, n=A.shape[0], gram=A[:, rows])
    return replace(side, n=A.shape[0], features=A)
