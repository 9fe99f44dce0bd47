"""CKA and NBS over channels only: rows are pixels of examples, as in the CCA family, so that place does not matter."""

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, Undefined, both_rows, or_nan
from distsim.metrics.channels import ChannelPair, ChannelSide, channel_pair
from distsim.metrics.kernels import inner


def cka_channels(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Linear CKA of two layers whose rows are pixels of examples and whose columns are channels, in [0, 1].

        ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F)      columns centred

    The formula of `cka`, in the view of `mean_cca`, whose shapes, warnings and errors it has.
    """
    X, Y = both_rows("cka_channels", X, Y, channels_last)
    return or_nan("cka_channels", cka_from_pair, channel_pair(X, Y))


def nbs_channels(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Normalized Bures similarity in the view of `mean_cca`, in [0, 1].

    ‖XᵀY‖_* / (‖X‖_F ‖Y‖_F)      columns centred
    """
    X, Y = both_rows("nbs_channels", X, Y, channels_last)
    return or_nan("nbs_channels", nbs_from_pair, channel_pair(X, Y))


def cka_from_pair(pair: ChannelPair) -> float:
    _alive(pair.x, pair.y)
    x, y = pair.x.products, pair.y.products
    return min(inner(pair.cross, pair.cross) / (inner(x, x) * inner(y, y)) ** 0.5, 1.0)


def nbs_from_pair(pair: ChannelPair) -> float:
    _alive(pair.x, pair.y)
    xp = array_namespace(pair.cross)
    traces = [float(xp.linalg.trace(side.products)) for side in (pair.x, pair.y)]
    return min(float(xp.linalg.svdvals(pair.cross).sum()) / (traces[0] * traces[1]) ** 0.5, 1.0)


def _alive(*sides: ChannelSide) -> None:
    if any(side.dead == side.columns for side in sides):
        raise Undefined("every channel is constant")
