"""CKA and NBS over channels: rows are pixels of examples, as for the CCA family.

So a position in the image does not matter.
"""

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, both_rows, or_nan
from distsim.metrics.channels import ChannelPair, ChannelSide, channel_pair
from distsim.metrics.linalg import inner
from distsim.metrics.reads import Number


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


def cka_from_pair(pair: ChannelPair) -> Number:
    """Return `cka_channels` of a pair. Undefined: a side has no variance."""
    _alive(pair.x, pair.y)
    x, y, reads = pair.x.products, pair.y.products, pair.reads
    shared, own_x, own_y = (inner(A, A, reads) for A in (pair.cross, x, y))
    return reads.later(lambda shared, x, y: min(shared / (x * y) ** 0.5, 1.0), shared, own_x, own_y)


def nbs_from_pair(pair: ChannelPair) -> Number:
    """Return `nbs_channels` of a pair. Undefined: a side has no variance."""
    _alive(pair.x, pair.y)
    xp, reads = array_namespace(pair.cross), pair.reads
    traces = [reads.number(xp.linalg.trace(side.products)) for side in (pair.x, pair.y)]
    nuclear = reads.number(xp.sum(xp.linalg.svdvals(pair.cross)))
    return reads.later(lambda nuclear, x, y: min(nuclear / (x * y) ** 0.5, 1.0), nuclear, *traces)


def _alive(*sides: ChannelSide) -> None:
    for side in sides:
        side.require_variance()
