"""CKA and NBS over channels: rows are pixels of examples, as for the CCA family.

So a position in the image does not matter.
"""

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, Undefined, both_rows, or_nan
from distsim.metrics.channels import ChannelPair, ChannelSide, channel_pair
from distsim.metrics.linalg import inner


def cka_channels(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Return linear CKA with pixels of examples as rows and channels as columns, in [0, 1].

        ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F)      columns centred

    The formula is that of `cka`. Shapes, warnings and errors as in `mean_cca`.
    """
    X, Y = both_rows("cka_channels", X, Y, channels_last)
    return or_nan("cka_channels", cka_from_pair, channel_pair(X, Y))


def nbs_channels(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Return the normalized Bures similarity with pixels of examples as rows and channels as columns, in [0, 1].

        ‖XᵀY‖_* / (‖X‖_F ‖Y‖_F)      columns centred

    The formula is that of `nbs`. Shapes, warnings and errors as in `mean_cca`.
    """
    X, Y = both_rows("nbs_channels", X, Y, channels_last)
    return or_nan("nbs_channels", nbs_from_pair, channel_pair(X, Y))


def cka_from_pair(pair: ChannelPair) -> float:
    """Return `cka_channels` of a pair. Undefined: a side has no variance."""
    _alive(pair.x, pair.y)
    x, y = pair.x.products, pair.y.products
    return min(inner(pair.cross, pair.cross) / (inner(x, x) * inner(y, y)) ** 0.5, 1.0)


def nbs_from_pair(pair: ChannelPair) -> float:
    """Return `nbs_channels` of a pair. Undefined: a side has no variance."""
    _alive(pair.x, pair.y)
    xp = array_namespace(pair.cross)
    traces = [float(xp.linalg.trace(side.products)) for side in (pair.x, pair.y)]
    return min(float(xp.linalg.svdvals(pair.cross).sum()) / (traces[0] * traces[1]) ** 0.5, 1.0)


def _alive(*sides: ChannelSide) -> None:
    if any(side.dead == side.columns for side in sides):
        raise Undefined("every channel is constant")
