"""Sums of the roots of eigenvalues, and what rounding of the eigenvalues may add to them."""

from typing import Any

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array
from distsim.metrics.linalg import eigvalsh
from distsim.metrics.reads import NOW, Number, Reads
from distsim.metrics.rounding import EPS32

LOST = {"float64": 3e-7, "float32": 2e-4}  # share of a sum of singular values that squares of this dtype may lose


def as_dtype(A: Array, dtype: str) -> Any:
    """Return an array in this dtype; the array itself if it has it."""
    xp = array_namespace(A)
    return xp.astype(A, getattr(xp, dtype), copy=False)


def sum_of_roots(squares: Array, of_narrow: bool = False, reads: Reads = NOW) -> Number | None:
    """Return the sum of the roots of a symmetric matrix's eigenvalues, read from its lower triangle.

    Returns None if rounding of the small eigenvalues may cost more than `LOST`.
    of_narrow : the squares are float64, but of a matrix of float32 products
    """
    eigenvalues = eigvalsh(squares)
    xp = array_namespace(eigenvalues)
    dtype = str(eigenvalues.dtype).rpartition(".")[2]
    unit, values = float(xp.finfo(eigenvalues.dtype).eps), as_dtype(eigenvalues, "float64")
    total, doubt = reads.number(root_sum(values)), reads.number(_doubt(values, unit))
    if of_narrow:
        doubt = doubt + reads.number(_product_doubt(values))
    if reads.decide(doubt <= LOST[dtype] * total, likely=True):
        return total
    if of_narrow:
        return None
    # take the small ones for zero if a gap separates them, and if the sum would hardly change were they not
    small = values <= 16 * unit * values[-1]
    gap = not reads.decide(xp.any(~small & (values < 1.6e5 * unit * values[-1])), likely=False)
    rest = reads.number(root_sum(xp.where(small, xp.zeros_like(values), values)))
    hidden = reads.count(small) * reads.number(_moved(values, unit)) ** 0.5
    return rest if gap and reads.decide(hidden <= LOST[dtype] * rest, likely=True) else None


def root_sum(values: Array) -> Array:
    """Return the sum of the roots of eigenvalues. Negative ones, which are rounding, count as zero."""
    xp = array_namespace(values)
    return xp.sum(xp.sqrt(xp.clip(as_dtype(values, "float64"), 0.0, None)))


def _doubt(values: Array, unit: float) -> Array:
    """Return by how much rounding may have changed the sum of the roots of eigenvalues, ascending.

    The exact eigenvalues cannot be negative. Rounding moves them up or down by chance. Zero eigenvalues come out
    negative as often as positive, and the roots of the positive ones add up.
    """
    xp = array_namespace(values)
    moved = _moved(values, unit)
    shifts = moved / (2 * xp.sqrt(xp.where(values > moved, values, moved)))
    return xp.sqrt(xp.sum(shifts * shifts)) + root_sum(-values)


def _product_doubt(squares: Array) -> Array:
    """Return what rounding a square matrix's entries to float32 may add to the sum of its singular values.

    The rounding acts as a random matrix. To a singular value it adds the square of its own norm over twice that value,
    and at most its norm.
    squares : of the singular values
    """
    xp = array_namespace(squares)
    norm = 4 * EPS32 * (xp.sum(xp.clip(squares, 0.0, None)) / squares.shape[0]) ** 0.5
    floor = norm * norm / 4
    return xp.sum(norm * norm / (2 * xp.sqrt(xp.where(squares > floor, squares, floor))))


def _moved(values: Array, unit: float) -> Array:
    """Return by how much rounding of a matrix's entries and of its reduction moves most of its n eigenvalues.

    A little more than the 2 to 6 times unit·λ_max/n that were measured.
    """
    return 8 * unit * values[-1] / int(values.shape[0])
