"""Normalized Bures similarity."""

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, both_examples, or_nan
from distsim.metrics.kernels import EPS, KernelPair, kernel_pair


def nbs(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Normalized Bures similarity with linear kernels, in [0, 1].

        NBS = tr[(K^½ L K^½)^½] / √(tr K · tr L) = ‖XᵀY‖_* / (‖X‖_F ‖Y‖_F)      K = XXᵀ, L = YYᵀ, columns centred

    Tang et al. 2020. Ansuini et al. 2021, Eq. 7, prints the root outside the trace; the trace of the root is meant.
    Its arccosine is the angular Procrustes distance. Unchanged by rotating or scaling either side.
    Shapes, warnings and errors as in `cka`.
    """
    X, Y = both_examples("nbs", X, Y)
    return or_nan("nbs", from_pair, kernel_pair(X, Y))


def from_pair(pair: KernelPair) -> float:
    scale = (pair.x.trace * pair.y.trace) ** 0.5
    if pair.cross is not None:
        total = float(array_namespace(pair.cross).linalg.svdvals(pair.cross).sum())
    else:
        total = _root_trace(pair.x.root, pair.y.full_gram)
    return min(total / scale, 1.0)


def _root_trace(root: Array, L: Array) -> float:
    """tr[(R L R)^½]. Eigenvalues within n·eps of the largest are rounding; their roots would add up, so they go."""
    xp = array_namespace(root, L)
    product = root @ L @ root
    values = xp.linalg.eigvalsh((product + product.T) / 2)
    floor = values.shape[0] * EPS * xp.max(values)
    return float(xp.sum(xp.sqrt(xp.where(values > floor, values, xp.zeros_like(values)))))
