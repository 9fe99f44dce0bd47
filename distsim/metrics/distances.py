"""Distances between a side's examples, for the metrics that compare neighbours and orders of distances."""

import numpy as np
from numpy.typing import NDArray

from distsim.metrics.kernels import KernelSide
from distsim.metrics.reads import read

# Rounding of a squared distance, in units times the sum of both squared norms. Measured: 1 for copies, 6 for others.
ROUNDING = 16


def squared_distances(side: KernelSide) -> NDArray[np.float64]:
    """Return the squared Euclidean distances between all examples, (n, n), from d² = Kᵢᵢ + Kⱼⱼ − 2Kᵢⱼ.

    Those within rounding of 0 are 0. Undefined: the side has no variance.
    """
    side.trace  # noqa: B018  raises Undefined for a side without variance
    gram, norms = read(side.full_gram), read(side.diagonal)
    squared: NDArray[np.float64] = norms[:, None] + norms
    rounding = ROUNDING * side.unit * squared
    squared -= 2 * gram
    squared[squared <= rounding] = 0
    return squared
