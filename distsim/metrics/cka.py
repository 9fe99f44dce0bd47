"""Linear centred kernel alignment."""

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, Undefined, both_examples, or_nan
from distsim.metrics.kernels import KernelPair, KernelSide, kernel_pair
from distsim.metrics.rounding import EPS


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
    own_x, own_y = (_unbiased(side, side, side.norm**2) for side in (pair.x, pair.y))
    if not (own_x > 0 and own_y > 0):
        raise Undefined("the unbiased estimate of a side's variance is zero")
    return min(_unbiased(pair.x, pair.y, pair.shared) / (own_x * own_y) ** 0.5, 1.0)


def _unbiased(x: KernelSide, y: KernelSide, shared: float) -> float:
    """n(n - 3) HSIC₁(K, L) from ⟨K, L⟩ and the diagonals k, l alone: rows of K and L sum to zero.

        ⟨U(K), U(L)⟩ = ⟨K, L⟩ - Σ k·l + tr K tr L / ((n - 1)(n - 2)) - 2 Σ k·l / (n - 2)

    Zero where it is no more than rounding.
    """
    n = x.n
    diagonals = float(array_namespace(x.diagonal).sum(x.diagonal * y.diagonal)) * (1 + 2 / (n - 2))
    traces = x.trace * y.trace / ((n - 1) * (n - 2))
    value = shared - diagonals + traces
    return value if abs(value) > 16 * EPS * (abs(shared) + diagonals + traces) else 0.0


def from_pair(pair: KernelPair) -> float:
    pair.x.trace, pair.y.trace  # noqa: B018  raises Undefined for a side without variance
    return min(pair.shared / (pair.x.norm * pair.y.norm), 1.0)
