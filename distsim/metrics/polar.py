"""The nuclear norm of a matrix between two bounds, from its polar factor, in float64.

For M = UΣVᵀ the polar factor is UVᵀ, and ‖M‖_* = ⟨UVᵀ, M⟩. QDWH (Nakatsukasa, Bai and Gygi 2010) finds it by products,
Cholesky factors and triangular solves only, at which GPUs are good. Eigenvalues took twice the time on an H100.
docs/metrics.md derives the bounds.
"""

from dataclasses import dataclass

import array_api_compat
from array_api_compat import array_namespace, is_cupy_array, is_torch_array

from distsim.metrics.arrays import Array, full_rate_float64
from distsim.metrics.linalg import cholesky, inner, solve_lower
from distsim.metrics.reads import NOW, Number, Reads
from distsim.metrics.rounding import EPS

START = 1e-9  # l₀: singular values above this share of ‖M‖_F converge. With 1e-12 factorisations would fail
STEPS = 5  # after which l is 1 to the last digit
WIDEN = 10  # times ε times the larger side: what rounding may change in a bound, as a share of it
LARGE = 1e140  # entries up to this have squares that float64 can add up
APART = 1e-6  # share of the lower bound by which the bounds of a useful enclosure may differ


@dataclass(frozen=True)
class Enclosure:
    """A nuclear norm, and two bounds between which it lies."""

    value: Number
    lower: Number
    upper: Number

    @property
    def narrow(self) -> Number:
        """Return whether the bounds are at most `APART` of the lower one apart."""
        return self.upper - self.lower <= APART * self.lower

    def minus(self, known: Number) -> "Enclosure":
        """Return the enclosure of what is left without one singular value that is known."""
        return Enclosure(self.value - known, self.lower - known, self.upper - known)


def enclosed(M: Array, reads: Reads = NOW) -> Enclosure | None:
    """Return the nuclear norm of M (m, n), float64, with its bounds.

        ⟨Q, M⟩ ≤ ‖M‖_* ≤ ⟨Q, M⟩ / l + min(m, n)·l₀·‖M‖_F       each widened by WIDEN·max(m, n)·ε of itself

    Returns None if M is zero or not finite, its squares may leave float64's range, or a matrix could not be factored.
    """
    xp = array_namespace(M)
    largest = xp.max(xp.abs(M))
    if not reads.decide((largest > 1 / LARGE) & (largest < LARGE), likely=True):  # nor is nan
        return None
    if M.shape[0] < M.shape[1]:
        M = M.T
    size = inner(M, M, reads) ** 0.5
    found = _polar(M / size, reads)
    if found is None:
        return None
    Q, reached = found
    value = inner(Q, M, reads)
    rounding = WIDEN * M.shape[0] * EPS
    upper = value / reached + M.shape[1] * START * size
    finite = reads.decide(value - value == 0, likely=True)  # neither infinite nor nan
    return Enclosure(value, value * (1 - rounding), upper * (1 + rounding)) if finite else None


def weights(lowest: float) -> tuple[float, float, float, float]:
    """Return a, b, c of one step and the next l, for singular values in [l, 1] (`lowest` is l).

    The step maps σ to σ(a + bσ²)/(1 + cσ²), [l, 1] into [l', 1] with the largest l' possible, and [0, l] into [0, l'].
    """
    square = lowest * lowest
    d = (4 * (1 - square) / square**2) ** (1 / 3)
    root = (1 + d) ** 0.5
    a = root + 0.5 * (8 - 4 * d + 8 * (2 - square) / (square * root)) ** 0.5
    b = (a - 1) ** 2 / 4
    c = a + b - 1
    return a, b, c, min(lowest * (a + b * square) / (1 + c * square), 1.0)


def _polar(X: Array, reads: Reads) -> tuple[Array, float] | None:
    """Return Q (m, n) of X (m, n) with m ≥ n and ‖X‖₂ ≤ 1, and l, or None if a matrix could not be factored.

    Q has X's singular vectors. The singular values of X in [l₀, 1] have become ones in [l, 1], smaller ones have become
    ones in [0, 1].
    """
    xp, reached = array_namespace(X), START
    one = xp.eye(X.shape[1], dtype=X.dtype, device=array_api_compat.device(X))
    for _ in range(STEPS):
        a, b, c, reached = weights(reached)
        C = cholesky(c * (X.T @ X) + one, reads)
        if C is None:
            return None
        Y = solve_lower(C, solve_lower(C, X.T), transposed=True).T  # X(I + cXᵀX)⁻¹
        X = (b / c) * X + (a - b / c) * Y
    return X, reached


def on_full_rate(A: Array) -> bool:
    """Return whether A is on a GPU that computes in float64 at full rate, where `enclosed` is faster than eigenvalues.

    On other GPUs and on CPUs it is not.
    """
    if is_cupy_array(A):
        digits = str(A.device.compute_capability)  # "90" for 9.0
        return full_rate_float64((int(digits[:-1]), int(digits[-1])))
    if is_torch_array(A) and A.device.type == "cuda":
        import torch

        return full_rate_float64(torch.cuda.get_device_capability(A.device))
    return False
