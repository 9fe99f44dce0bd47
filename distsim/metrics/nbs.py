"""Normalized Bures similarity."""

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, both_examples, or_nan
from distsim.metrics.kernels import KernelPair, kernel_pair


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
    """‖FxᵀFy‖_* over √(tr K · tr L), for factors with FFᵀ the kernel.

    Not from eigenvalues of KL or of K^½LK^½: they are squares of these singular values, and lose half the digits.
    """
    scale = (pair.x.trace * pair.y.trace) ** 0.5
    total = float(array_namespace(pair.cross).linalg.svdvals(pair.cross).sum())
    return min(total / scale, 1.0)
