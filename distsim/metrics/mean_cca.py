"""Mean canonical correlation."""

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, both_rows, or_nan
from distsim.metrics.channels import ChannelPair, channel_pair, mean_correlation
from distsim.metrics.reads import Number, first


def mean_cca(
    X: Array, Y: Array, *, mean_rule: str = "all", denominator: str = "rank", channels_last: bool = False
) -> float:
    """Return the mean CCA similarity: the mean of the canonical correlations, in [0, 1].

        ρ = singular values of (XᵀX)^-½ XᵀY (YᵀY)^-½        columns centred, inverse on each side's range

    Raghu et al. 2017; Ansuini et al. 2021, Eq. 3. Unchanged by any invertible linear map of either side's columns.

    X, Y : (n, p1), (n, p2), or (n, c, h, w) read as n·h·w rows of c channels (channels_last: (n, h, w, c))
    mean_rule : "all", or "mass98" for the leading correlations that hold 98 % of the sum, as google/svcca reports
    denominator : "rank" divides by the smaller rank. "columns" divides by min(p1, p2), as Eq. 3 is printed: a direction
        that a side has lost then counts as ρ = 0
    Returns nan with an UndefinedSimilarity warning if a side has no variance.
    ValueError: the shapes or numbers of rows differ, or a value is not finite.
    """
    X, Y = both_rows("mean_cca", X, Y, channels_last)
    return or_nan("mean_cca", from_pair, channel_pair(X, Y), mean_rule=mean_rule, denominator=denominator)


def mean_squared_cca(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Return the mean of the squared canonical correlations, in [0, 1]: the CKA of the whitened sides.

    Shapes, warnings and errors as in `mean_cca`.
    """
    X, Y = both_rows("mean_squared_cca", X, Y, channels_last)
    return or_nan("mean_squared_cca", squared_from_pair, channel_pair(X, Y))


def squared_from_pair(pair: ChannelPair) -> Number:
    """Return `mean_squared_cca` of a pair. Undefined: a side has no variance."""
    rho = first(pair.correlations, pair.count)
    total = pair.reads.number(array_namespace(rho).sum(rho * rho))
    return pair.reads.later(lambda total, count: total / count, total, pair.count)


def from_pair(pair: ChannelPair, mean_rule: str = "all", denominator: str = "rank") -> Number:
    """Return `mean_cca` of a pair. Undefined: a side has no variance."""
    rho = pair.correlations
    if denominator not in ("rank", "columns"):
        raise ValueError(f"mean_cca: denominator must be rank or columns, got {denominator!r}")
    value = mean_correlation(rho, pair.count, mean_rule, pair.reads)
    if denominator == "rank":
        return value
    if mean_rule != "all":
        raise ValueError("mean_cca: denominator='columns' goes with mean_rule='all'")
    columns = min(pair.x.columns, pair.y.columns)
    return pair.reads.later(lambda value, count: value * count / columns, value, pair.count)
