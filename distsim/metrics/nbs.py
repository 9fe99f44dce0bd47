"""Normalized Bures similarity, and the angular Procrustes distance, of which it is the cosine."""

import math

from distsim.metrics.arrays import Array, both_examples, or_nan
from distsim.metrics.kernels import KernelPair, kernel_pair
from distsim.metrics.reads import Number


def nbs(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Return the normalized Bures similarity with linear kernels, in [0, 1].

        NBS = tr[(K^½ L K^½)^½] / √(tr K · tr L) = ‖XᵀY‖_* / (‖X‖_F ‖Y‖_F)      K = XXᵀ, L = YYᵀ, columns centred

    Tang et al. 2020. Ansuini et al. 2021, Eq. 7, prints the root outside the trace, but means the trace of the root.
    The arccosine of NBS is the angular Procrustes distance. Unchanged by rotating or scaling either side.
    Shapes, warnings and errors as in `cka`.
    """
    X, Y = both_examples("nbs", X, Y)
    return or_nan("nbs", from_pair, kernel_pair(X, Y))


def procrustes(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Return the angular Procrustes distance, arccos NBS, in [0, π/2].

    A metric in the strict sense (Williams et al. 2021). Unlike the similarities here, it is 0 for equal sides. Shapes,
    warnings and errors as in `cka`.
    """
    X, Y = both_examples("procrustes", X, Y)
    return or_nan("procrustes", angle_from_pair, kernel_pair(X, Y))


def angle_from_pair(pair: KernelPair) -> Number:
    """Return `procrustes` of a pair. Undefined: a side has no variance."""
    return pair.reads.later(math.acos, from_pair(pair))


def from_pair(pair: KernelPair) -> Number:
    """Return `nbs` of a pair. Undefined: a side has no variance."""
    traces = pair.x.trace, pair.y.trace  # before `nuclear`, so that a side without variance raises Undefined
    return pair.reads.later(_share, pair.nuclear, *traces)


def _share(nuclear: float, trace_x: float, trace_y: float) -> float:
    return min(nuclear / (trace_x * trace_y) ** 0.5, 1.0)


def bounds_of_pair(pair: KernelPair) -> tuple[Number, Number] | None:
    """Return the bounds between which `nbs` of a pair lies, or None where they were not needed to compute it.

    Undefined: a side has no variance.
    """
    if pair.enclosure is None:
        return None
    lower, upper = (
        pair.reads.later(_share, bound, pair.x.trace, pair.y.trace)
        for bound in (pair.enclosure.lower, pair.enclosure.upper)
    )
    return lower, upper


def few_rows(pair: KernelPair) -> str:
    """Say that a pair has fewer rows than columns, where NBS is high by chance, else ""."""
    return "fewer rows than columns" if pair.x.n < max(pair.x.columns, pair.y.columns) else ""
