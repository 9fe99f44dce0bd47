"""Linear centred kernel alignment."""

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, both_examples, or_nan
from distsim.metrics.kernels import KernelPair, kernel_pair


def cka(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Linear centred kernel alignment, in [0, 1].

        CKA = ⟨K, L⟩_F / (‖K‖_F ‖L‖_F) = ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F)      K = XXᵀ, L = YYᵀ, columns centred

    Kornblith et al. 2019, Eq. 4 with linear kernels; Ansuini et al. 2021, Eq. 6. The biased estimate, as in the papers.
    Unchanged by rotating or scaling either side.

    X, Y : (n, p1), (n, p2), or (n, c, h, w) read as n rows of c·h·w features; `channels_last` changes nothing here
    nan with UndefinedSimilarity (a warning) if a side has no variance. ValueError: rows differ, not finite.
    """
    X, Y = both_examples("cka", X, Y)
    return or_nan("cka", from_pair, kernel_pair(X, Y))


def from_pair(pair: KernelPair) -> float:
    pair.x.trace, pair.y.trace  # noqa: B018  raises Undefined for a side without variance
    if pair.small:
        inner = _inner(pair.cross, pair.cross)
    else:
        inner = _inner(pair.x.full_gram, pair.y.full_gram)
    return min(inner / (pair.x.norm * pair.y.norm), 1.0)


def _inner(A: Array, B: Array) -> float:
    return float(array_namespace(A, B).sum(A * B))
