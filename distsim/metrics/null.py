"""The chance level of CKA, exactly: its mean and standard deviation when the examples of one side are permuted.

Over all n! permutations P, the moments of ⟨K, PLPᵀ⟩ depend on three numbers of each centred Gram matrix: the trace, the
norm, and the sum of squares of the diagonal. CKA is the RV coefficient of the two sides, for which Kazi-Aoual et al.
(1995) give them.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from distsim.metrics.arrays import Array, Undefined, both_examples
from distsim.metrics.kernels import KernelPair, kernel_pair
from distsim.metrics.reads import Number

REACH, STEPS = 8.0, 501  # of the integral over a normal number: standard deviations, and places
FULL = 1 - 1e-6  # a chance level above this leaves no room for a calibrated value
LEAST = 4  # examples from which the variance is defined
PERMUTED = 20  # permutations from which on their standard deviation is given, and so z


class Null(NamedTuple):
    """What a similarity is by chance: its mean and standard deviation over permutations of one side's examples."""

    mean: Number  # a float, but while numbers of a device are not read yet
    sd: Number

    def z(self, value: float) -> float | None:
        """Return how many standard deviations a value is above the mean, or None if the deviation is zero."""
        return (value - self.mean) / self.sd if self.sd > 0 else None

    def calibrated(self, value: float) -> float | None:
        """Return (value - mean)/(1 - mean): 0 at chance level, 1 for equal sides. None if the mean is above `FULL`."""
        return (value - self.mean) / (1 - self.mean) if self.mean <= FULL else None


def largest(nulls: Sequence[Null]) -> float:
    """Return what the largest of several values is by chance: the mean of the largest of independent normal numbers.

    The values of a network's layers are not independent, so theirs is less: between this and the largest mean.
    """
    sure = max((null.mean for null in nulls if null.sd <= 0), default=-math.inf)
    others = [null for null in nulls if null.sd > 0]
    if not others:
        return sure
    low = max(sure, min(null.mean - REACH * null.sd for null in others))
    high = max(sure, max(null.mean + REACH * null.sd for null in others))
    grid = np.linspace(low, high, STEPS)
    below = np.prod([[NormalDist(null.mean, null.sd).cdf(at) for at in grid] for null in others], axis=0)
    return high - float((grid[1] - grid[0]) * (below.sum() - (below[0] + below[-1]) / 2))


def cka_null(X: Array, Y: Array) -> Null | None:
    """Return what `cka(X, Y)` is by chance: its mean and sd over all permutations of the rows of Y.

    X, Y : (n, p1), (n, p2), or (n, c, h, w) read as n rows of c·h·w features
    Returns None where there is none: fewer than 4 examples, or a side without variance.
    ValueError: the numbers of rows differ, or a value is not finite.
    """
    X, Y = both_examples("cka_null", X, Y)
    try:
        return of_cka(kernel_pair(X, Y))
    except Undefined:
        return None


def of_cka(pair: KernelPair) -> Null | None:
    """Return mean and sd of `cka` over all permutations of the examples of y, or None for fewer than 4 examples.

    Undefined: a side has no variance.
    """
    x, y = pair.x, pair.y
    if x.n < LEAST:
        return None
    of_both = x.n, x.trace, y.trace, x.norm, y.norm
    squares = x.squares_of_diagonal, y.squares_of_diagonal
    return Null(pair.reads.later(mean, *of_both), pair.reads.later(_sd, *of_both, *squares))


def of_unbiased(pair: KernelPair) -> Null | None:
    """Return mean and sd of `cka_unbiased` over all permutations, or None for fewer than 4 examples.

    They are 0 and √(2/(n(n - 3))), whatever the sides are: a U-centred matrix has a zero diagonal, and its rows sum to
    zero.
    """
    n = pair.x.n
    return Null(0.0, (2 / (n * (n - 3))) ** 0.5) if n >= LEAST else None


def mean(n: int, trace_x: float, trace_y: float, norm_x: float, norm_y: float) -> float:
    """Return the mean of `cka` over all permutations of the examples of one side.

        E[CKA(X, PY)] = tr K tr L / ((n - 1) ‖K‖_F ‖L‖_F)

    K and L are centred: their rows sum to zero. So the mean of K's entries is tr K / n on the diagonal and
    -tr K / (n(n - 1)) beside it.
    """
    return trace_x * trace_y / ((n - 1) * norm_x * norm_y)


def _sd(
    n: int, trace_x: float, trace_y: float, norm_x: float, norm_y: float, squares_x: float, squares_y: float
) -> float:
    """Return the standard deviation that belongs to `mean`. squares : Σ Kᵢᵢ² of each side

    With t = tr K/‖K‖_F and s = Σ Kᵢᵢ²/‖K‖²_F of each side:

        Var = 2(n-1-tₓ²)(n-1-t_y²) / ((n-1)²(n+1)(n-2)) + uₓu_y / (n(n+1)(n-1)(n-2)(n-3))
        u   = n(n+1)s - (n-1)(t² + 2)

    Kazi-Aoual, Hitier, Sabatier and Lebreton (1995), for centred sides.
    """
    tx, ty = trace_x / norm_x, trace_y / norm_y
    ux, uy = (
        n * (n + 1) * squares / norm**2 - (n - 1) * (t**2 + 2)
        for t, norm, squares in ((tx, norm_x, squares_x), (ty, norm_y, squares_y))
    )
    even = 2 * (n - 1 - tx**2) * (n - 1 - ty**2) / ((n - 1) ** 2 * (n + 1) * (n - 2))
    uneven = ux * uy / (n * (n + 1) * (n - 1) * (n - 2) * (n - 3))
    return max(even + uneven, 0.0) ** 0.5
