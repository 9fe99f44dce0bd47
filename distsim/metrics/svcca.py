"""Singular-vector CCA: each side is first reduced to its leading directions."""

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, both_rows, or_nan
from distsim.metrics.channels import ChannelPair, channel_pair, mean_correlation, saturated
from distsim.metrics.reads import Number, least


def svcca(X: Array, Y: Array, variance: float = 0.99, *, mean_rule: str = "all", channels_last: bool = False) -> float:
    """Return the mean SVCCA similarity, in [0, 1].

        X' = X V_k,  k the smallest with Σσ²[:k] / Σσ² ≥ variance   (σ, V: SVD of the centred X; Y' likewise)
        SVCCA = mean canonical correlation of X' and Y'

    Raghu et al. 2017. Unchanged by rotating or scaling either side, but not by general linear maps. Shapes, warnings
    and errors as in `mean_cca`. ValueError also if `variance` is outside (0, 1].
    """
    X, Y = both_rows("svcca", X, Y, channels_last)
    return or_nan("svcca", from_pair, channel_pair(X, Y), variance=variance, mean_rule=mean_rule)


def from_pair(pair: ChannelPair, variance: float = 0.99, mean_rule: str = "all") -> Number:
    """Return `svcca` of a pair. Undefined: a side has no variance."""
    if not 0 < variance <= 1:
        raise ValueError(f"svcca: variance must be in (0, 1], got {variance}")
    xp = array_namespace(pair.cross)
    rho = xp.linalg.svdvals(pair.x.leading(variance).T @ pair.cross @ pair.y.leading(variance))
    return mean_correlation(xp.clip(rho, 0.0, 1.0), least(*kept(pair, variance)), mean_rule, pair.reads)


def saturation(pair: ChannelPair, variance: float = 0.99) -> str:
    """Say why the correlations of the leading directions should be read with care, "" if nothing is wrong with them."""
    return pair.reads.later(saturated, pair.x.n, *kept(pair, variance))


def kept(pair: ChannelPair, variance: float = 0.99) -> tuple[Number, Number]:
    """Return k of both sides: the numbers of leading directions that are compared."""
    return pair.x.kept(variance), pair.y.kept(variance)
