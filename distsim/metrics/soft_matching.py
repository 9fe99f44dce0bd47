"""Soft matching of channels."""

import numpy as np

from distsim.extras import require_modules
from distsim.metrics.arrays import Array, Undefined, both_rows, or_nan
from distsim.metrics.channels import ChannelPair, ChannelSide, channel_pair
from distsim.metrics.reads import read


def soft_matching(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Return the mean correlation of matched channels, under the best matching, in [0, 1].

        max over T of Σᵢⱼ Tᵢⱼ corr(xᵢ, yⱼ)        Tᵢⱼ ≥ 0, rows of T sum to 1/p1, columns to 1/p2

    Khosla and Williams 2024, as a correlation. With equally many channels T is a permutation, and each channel of one
    side has one partner. Else a channel may be shared out among several. Unlike CKA and NBS it changes when a side is
    rotated: it asks whether single channels are the same. Constant channels correlate 0 with every other.
    Shapes, warnings and errors as in `mean_cca`.
    """
    X, Y = both_rows("soft_matching", X, Y, channels_last)
    return or_nan("soft_matching", from_pair, channel_pair(X, Y))


def from_pair(pair: ChannelPair) -> float:
    """Return `soft_matching` of a pair. Undefined: a side has no variance."""
    require_modules("soft_matching", "scipy")
    correlations = read(pair.cross) * _scales(pair.x)[:, None] * _scales(pair.y)
    if correlations.shape[0] == correlations.shape[1]:
        from scipy.optimize import linear_sum_assignment

        matched = correlations[linear_sum_assignment(correlations, maximize=True)].mean()
    else:
        matched = _transported(correlations)
    return float(np.clip(matched, 0.0, 1.0))


def _scales(side: ChannelSide) -> np.ndarray:
    """Return one over the norm of each centred channel, (p,), and 0 for constant ones."""
    if side.dead == side.columns:
        raise Undefined("every channel is constant")
    alive, squares = read(side.alive), np.diagonal(read(side.products))
    return np.where(alive, 1 / np.sqrt(np.where(alive, squares, 1.0)), 0.0)


def _transported(gains: np.ndarray) -> float:
    """Return the largest Σ Tᵢⱼ·gains for T with uniform margins: a linear program."""
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    rows, columns = gains.shape
    margins = vstack(
        [kron(eye_array(rows), np.ones((1, columns))), kron(np.ones((1, rows)), eye_array(columns))], format="csr"
    )
    sums = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    found = linprog(-gains.ravel(), A_eq=margins, b_eq=sums, bounds=(0, None), method="highs")
    if not found.success:
        raise Undefined(f"the matching was not found: {found.message}")
    return float(-found.fun)
