"""Projection-weighted CCA."""

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, both_rows, or_nan
from distsim.metrics.channels import ChannelPair, channel_pair


def pwcca(X: Array, Y: Array, *, side: str = "smaller", channels_last: bool = False) -> float:
    """Return the projection-weighted CCA similarity, in [0, 1].

        PWCCA = Σ αᵢρᵢ / Σ αᵢ,   αᵢ = Σⱼ |⟨zᵢ, xⱼ⟩|      zᵢ canonical vectors and xⱼ centred columns of one side

    Morcos et al. 2018; Ansuini et al. 2021, Eq. 4-5. Not symmetric: the weights come from one `side`, which is "first"
    (X), "second" (Y) or "smaller" (the side of smaller rank, or X if the ranks are equal). google/svcca's own code
    differs: it takes the weights from uncentred activations. Unchanged by shifts and by scaling a side, but not by
    scaling single columns.
    Where correlations repeat, their vectors and hence the weights are not unique. (p1 + p2 - (n - 1) correlations are
    1, if that number is positive.)
    Shapes, warnings and errors as in `mean_cca`. ValueError also if `side` is none of the three.
    """
    X, Y = both_rows("pwcca", X, Y, channels_last)
    return or_nan("pwcca", from_pair, channel_pair(X, Y), side=side)


def from_pair(pair: ChannelPair, side: str = "smaller") -> float:
    """Return `pwcca` of a pair. Undefined: a side has no variance."""
    if side not in ("smaller", "first", "second"):
        raise ValueError(f"pwcca: side must be smaller, first or second, got {side!r}")
    xp = array_namespace(pair.cross)
    P, rho, Q = pair.canonical
    if side == "second" or (side == "smaller" and pair.y.rank < pair.x.rank):
        loadings = pair.y.whitening[1] @ Q.T
    else:
        loadings = pair.x.whitening[1] @ P
    alpha = xp.sum(xp.abs(loadings), axis=0)
    return float(xp.sum(alpha * rho) / xp.sum(alpha))
