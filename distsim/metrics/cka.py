"""Linear centred kernel alignment."""

from distsim.metrics.arrays import Array, Undefined, both_examples, or_nan
from distsim.metrics.kernels import KernelPair, inner, kernel_pair, u_centred


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


def cka_unbiased(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Linear CKA with the unbiased estimate of HSIC, at most 1; around 0, and then also below, for independent sides.

        HSIC₁(K, L) = ⟨U(K), U(L)⟩ / (n(n - 3))      U: zero diagonal, rows and columns centred without it
        CKA₁ = HSIC₁(K, L) / √(HSIC₁(K, K) · HSIC₁(L, L))

    Song et al. 2012, Nguyen et al. 2021. Unlike `cka` it does not rise with the number of features.
    nan with UndefinedSimilarity (a warning) if a side has no variance, or for fewer than 4 examples. Shapes and errors
    as in `cka`.
    """
    X, Y = both_examples("cka_unbiased", X, Y)
    return or_nan("cka_unbiased", unbiased_from_pair, kernel_pair(X, Y))


def unbiased_from_pair(pair: KernelPair) -> float:
    if pair.x.n < 4:
        raise Undefined(f"the unbiased estimate needs at least 4 examples, there are {pair.x.n}")
    pair.x.trace, pair.y.trace  # noqa: B018  raises Undefined for a side without variance
    norms = pair.x.unbiased_norm * pair.y.unbiased_norm
    if not norms > 0:
        raise Undefined("the unbiased estimate of a side's variance is zero")
    U, V = u_centred(pair.x.full_gram), u_centred(pair.y.full_gram)
    return min(inner(U, V) / norms, 1.0)


def from_pair(pair: KernelPair) -> float:
    pair.x.trace, pair.y.trace  # noqa: B018  raises Undefined for a side without variance
    if pair.small:
        shared = inner(pair.cross, pair.cross)
    else:
        shared = inner(pair.x.full_gram, pair.y.full_gram)
    return min(shared / (pair.x.norm * pair.y.norm), 1.0)
