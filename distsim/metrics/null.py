"""The chance level of CKA, exactly: its mean and standard deviation when the examples of one side are permuted.

Over all n! permutations P, the moments of ⟨K, PLPᵀ⟩ depend on three numbers of each centred Gram matrix: the trace, the
norm, and the sum of squares of the diagonal. CKA is the RV coefficient of the two sides, for which Kazi-Aoual et al.
(1995) give them.
"""

from typing import NamedTuple

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, Undefined, both_examples
from distsim.metrics.kernels import KernelPair, KernelSide, kernel_pair

FULL = 1 - 1e-6  # a chance level above this leaves no room for a calibrated value
LEAST = 4  # examples from which the variance is defined


class Null(NamedTuple):
    """What a similarity is by chance: its mean and standard deviation over permutations of one side's examples."""

    mean: float
    sd: float

    def z(self, value: float) -> float | None:
        """Return how many standard deviations a value is above the mean, or None if the deviation is zero."""
        return (value - self.mean) / self.sd if self.sd > 0 else None

    def calibrated(self, value: float) -> float | None:
        """Return (value - mean)/(1 - mean): 0 at chance level, 1 for equal sides. None if the mean is above `FULL`."""
        return (value - self.mean) / (1 - self.mean) if self.mean <= FULL else None


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


def mean_of_cka(pair: KernelPair) -> float:
    """Return the mean of `cka` over all permutations of the examples of y. Undefined: a side has no variance.

        E[CKA(X, PY)] = tr K tr L / ((n - 1) ‖K‖_F ‖L‖_F)

    K and L are centred: their rows sum to zero. So the mean of K's entries is tr K / n on the diagonal and
    -tr K / (n(n - 1)) beside it.
    """
    x, y = pair.x, pair.y
    return x.trace * y.trace / ((x.n - 1) * x.norm * y.norm)


def of_cka(pair: KernelPair) -> Null | None:
    """Return mean and sd of `cka` over all permutations of the examples of y, or None for fewer than 4 examples.

    With t = tr K/‖K‖_F and s = Σ Kᵢᵢ²/‖K‖²_F of each side:

        Var = 2(n-1-tₓ²)(n-1-t_y²) / ((n-1)²(n+1)(n-2)) + uₓu_y / (n(n+1)(n-1)(n-2)(n-3))
        u   = n(n+1)s - (n-1)(t² + 2)

    Kazi-Aoual, Hitier, Sabatier and Lebreton (1995), for centred sides. Undefined: a side has no variance.
    """
    n = pair.x.n
    if n < LEAST:
        return None
    (tx, ux), (ty, uy) = _shape(pair.x), _shape(pair.y)
    even = 2 * (n - 1 - tx**2) * (n - 1 - ty**2) / ((n - 1) ** 2 * (n + 1) * (n - 2))
    uneven = ux * uy / (n * (n + 1) * (n - 1) * (n - 2) * (n - 3))
    return Null(mean_of_cka(pair), max(even + uneven, 0.0) ** 0.5)


def of_unbiased(pair: KernelPair) -> Null | None:
    """Return mean and sd of `cka_unbiased` over all permutations, or None for fewer than 4 examples.

    They are 0 and √(2/(n(n - 3))), whatever the sides are: a U-centred matrix has a zero diagonal, and its rows sum to
    zero.
    """
    n = pair.x.n
    return Null(0.0, (2 / (n * (n - 3))) ** 0.5) if n >= LEAST else None


def _shape(side: KernelSide) -> tuple[float, float]:
    """Return t and u of a side, as in `of_cka`."""
    n, t = side.n, side.trace / side.norm
    k = side.diagonal / side.norm
    s = float(array_namespace(k).sum(k * k))
    return t, n * (n + 1) * s - (n - 1) * (t**2 + 2)
