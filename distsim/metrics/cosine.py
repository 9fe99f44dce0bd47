"""Cosine similarity of flattened outputs."""

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, Undefined, both_examples, or_nan
from distsim.metrics.reads import NOW, Number, Reads


def cosine(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Return the absolute cosine of the two sides as single vectors, not centred, in [0, 1].

        |⟨vec X, vec Y⟩| / (‖X‖_F ‖Y‖_F)

    Ansuini et al. 2021, §6.2, on the output layer.

    X, Y : arrays of equal shape, (n, p) or (n, c, h, w)
    Returns nan with an UndefinedSimilarity warning if a side is zero.
    ValueError: the shapes differ, or a value is not finite.
    """
    if tuple(X.shape) != tuple(Y.shape):
        raise ValueError(f"cosine: X has shape {tuple(X.shape)}, Y has {tuple(Y.shape)}; they must match")
    X, Y = both_examples("cosine", X, Y)
    return or_nan("cosine", from_matrices, X, Y)


def from_matrices(X: Array, Y: Array, reads: Reads = NOW) -> Number:
    """Return `cosine` of two matrices (n, p). Undefined: a side is zero."""
    xp = array_namespace(X, Y)
    shared, *squares = (reads.number(xp.sum(A * B)) for A, B in ((X, Y), (X, X), (Y, Y)))
    if not all(reads.decide(square > 0, likely=True) for square in squares):
        raise Undefined("every activation is zero")
    return reads.later(lambda shared, x, y: min(abs(shared) / (x * y) ** 0.5, 1.0), shared, *squares)
