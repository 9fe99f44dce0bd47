"""Linear centred kernel alignment."""

from array_api_compat import array_namespace

from distsim.metrics import null
from distsim.metrics.arrays import Array, Undefined, both_examples, or_nan
from distsim.metrics.kernels import KernelPair, KernelSide, kernel_pair
from distsim.metrics.reads import Number, Reads
from distsim.metrics.rounding import EPS


def cka(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Return the linear centred kernel alignment, in [0, 1].

        CKA = ⟨K, L⟩_F / (‖K‖_F ‖L‖_F) = ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F)      K = XXᵀ, L = YYᵀ, columns centred

    Kornblith et al. 2019, Eq. 4 with linear kernels; Ansuini et al. 2021, Eq. 6. The biased estimate, as in the papers.
    Unchanged by rotating or scaling either side.

    X, Y : (n, p1), (n, p2), or (n, c, h, w) read as n rows of c·h·w features; `channels_last` changes nothing here
    Returns nan with an UndefinedSimilarity warning if a side has no variance.
    ValueError: the numbers of rows differ, or a value is not finite.
    """
    X, Y = both_examples("cka", X, Y)
    return or_nan("cka", from_pair, kernel_pair(X, Y))


def cka_unbiased(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Return linear CKA with the unbiased estimate of HSIC, at most 1.

        HSIC₁(K, L) = ⟨U(K), U(L)⟩ / (n(n - 3))      U: zero diagonal, rows and columns centred without it
        CKA₁ = HSIC₁(K, L) / √(HSIC₁(K, K) · HSIC₁(L, L))

    Song et al. 2012, Nguyen et al. 2021. Independent sides give values around 0, negative ones included. Unlike `cka`,
    it does not rise with the number of features.
    Returns nan with an UndefinedSimilarity warning if a side has no variance, or if there are fewer than 4 examples.
    Shapes and errors as in `cka`.
    """
    X, Y = both_examples("cka_unbiased", X, Y)
    return or_nan("cka_unbiased", unbiased_from_pair, kernel_pair(X, Y))


def unbiased_from_pair(pair: KernelPair) -> Number:
    """Return `cka_unbiased` of a pair. Undefined: a side has no variance, or there are fewer than 4 examples."""
    if pair.x.n < 4:
        raise Undefined(f"the unbiased estimate needs at least 4 examples, there are {pair.x.n}")
    pair.x.trace, pair.y.trace  # noqa: B018  raises Undefined for a side without variance
    reads = pair.reads
    own_x, own_y = (_unbiased(side, side, side.norm**2, reads) for side in (pair.x, pair.y))
    if not all(reads.decide(own > 0, likely=True) for own in (own_x, own_y)):
        raise Undefined("the unbiased estimate of a side's variance is zero")
    shared = _unbiased(pair.x, pair.y, pair.shared, reads)
    return reads.later(lambda shared, x, y: min(shared / (x * y) ** 0.5, 1.0), shared, own_x, own_y)


def _unbiased(x: KernelSide, y: KernelSide, shared: Number, reads: Reads) -> Number:
    """Return n(n - 3) HSIC₁(K, L) from ⟨K, L⟩ (`shared`) and the diagonals k and l alone.

        ⟨U(K), U(L)⟩ = ⟨K, L⟩ - Σ k·l + tr K tr L / ((n - 1)(n - 2)) - 2 Σ k·l / (n - 2)

    That is enough because the rows of K and L sum to zero. Returns 0 where the value is within rounding of it.
    """
    n = x.n
    diagonals = reads.number(array_namespace(x.diagonal).sum(x.diagonal * y.diagonal)) * (1 + 2 / (n - 2))
    traces = x.trace * y.trace / ((n - 1) * (n - 2))
    value = shared - diagonals + traces
    clear = abs(value) > 16 * EPS * (abs(shared) + diagonals + traces)
    return value if reads.decide(clear, likely=True) else 0.0


def from_pair(pair: KernelPair) -> Number:
    """Return `cka` of a pair. Undefined: a side has no variance."""
    pair.x.trace, pair.y.trace  # noqa: B018  raises Undefined for a side without variance
    return pair.reads.later(lambda s, x, y: min(s / (x * y), 1.0), pair.shared, pair.x.norm, pair.y.norm)


CHANCE = 0.25  # of the value of `cka` for permuted examples, from which it should be read with care


def by_chance(pair: KernelPair) -> str:
    """Say what `cka` is by chance if that is more than `CHANCE`, else ""."""
    x, y = pair.x, pair.y
    return pair.reads.later(_said, x.n, x.trace, y.trace, x.norm, y.norm)


def _said(n: int, trace_x: float, trace_y: float, norm_x: float, norm_y: float) -> str:
    expected = null.mean(n, trace_x, trace_y, norm_x, norm_y)
    if expected <= CHANCE:
        return ""
    said = f"{expected:.2f} by chance, with {n} rows"
    return f"{said}, so it cannot be calibrated" if expected > null.FULL else said
