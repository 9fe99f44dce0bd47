"""Linear predictivity: how well one side predicts the other."""

import numpy as np
from array_api_compat import array_namespace, device

from distsim.metrics.arrays import Array, Undefined, both_examples, or_nan
from distsim.metrics.kernels import KernelPair, kernel_pair
from distsim.metrics.reads import read
from distsim.metrics.rounding import rank_of_gram, unit_of

FOLDS = 5
PENALTIES = np.logspace(-8, 2, 21)  # times the mean eigenvalue of the training examples' Gram matrix
FEWEST = 2 * FOLDS  # examples


def linear_predictivity(X: Array, Y: Array, *, channels_last: bool = False) -> float:
    """Return the share of Y's variance that a ridge regression from X explains on examples left out, at most 1.

        R² = 1 − Σ ‖y − ŷ(x)‖² / Σ ‖y − ȳ‖²        over all examples, each predicted by a fit without its fold

    Five folds: example i is in fold i mod 5. In each fold the penalty, of 21, is the one with the least generalised
    cross-validation error on the training examples (Golub, Heath and Wahba 1979). It is not symmetric. Values below 0
    are worse than the mean of the training examples.
    Shapes as in `cka`.
    Returns nan with an UndefinedSimilarity warning if a side has no variance, or if there are fewer than 10 examples.
    ValueError: the numbers of rows differ, or a value is not finite.
    """
    X, Y = both_examples("linear_predictivity", X, Y)
    return or_nan("linear_predictivity", from_pair, kernel_pair(X, Y))


def from_pair(pair: KernelPair) -> float:
    """Return `linear_predictivity` of a pair. Undefined: a side has no variance, or too few examples.

    A ridge regression needs no more than the Gram matrices: ŷ = HY for the training examples' Y, with H from K alone,
    and ‖y − HY‖² = Lᵢᵢ − 2 hᵀl + hᵀLh.
    """
    n = pair.x.n
    if n < FEWEST:
        raise Undefined(f"{FOLDS} folds need at least {FEWEST} examples, there are {n}")
    pair.x.trace, pair.y.trace  # noqa: B018  raises Undefined for a side without variance
    folds = np.arange(n) % FOLDS
    errors, total = np.sum([_of_fold(pair.x.full_gram, pair.y.full_gram, folds == k) for k in range(FOLDS)], axis=0)
    return 1 - float(errors / total)


def _of_fold(K: Array, L: Array, left_out: np.ndarray) -> tuple[float, float]:
    """Return Σ ‖y − ŷ‖² and Σ ‖y − ȳ‖² over the examples left out. ȳ is the mean of the others."""
    K_tt, K_vt, _ = _centred(K, left_out)
    L_tt, L_vt, l_vv = _centred(L, left_out)
    xp = array_namespace(K)
    total = float(read(xp.sum(l_vv)))
    values, vectors = xp.linalg.eigh(_but_mean(_but_mean(K_tt).T))
    rank = int(rank_of_gram(values, unit_of(K)))
    if not rank or not float(read(values[-1])) > 0:  # the training examples of this side are all equal
        return total, total
    aligned = vectors.T @ _but_mean(_but_mean(L_tt).T) @ vectors
    penalty = _penalty(read(values)[-rank:], np.clip(np.diagonal(read(aligned)), 0.0, None))
    values, vectors = values[-rank:], vectors[:, -rank:]
    H = _but_mean(K_vt) @ (vectors / (values + penalty))  # in the basis of the eigenvectors
    errors = xp.sum(l_vv) - 2 * xp.sum(H * (_but_mean(L_vt) @ vectors)) + xp.sum((H @ aligned[-rank:, -rank:]) * H)
    return float(read(errors)), total


def _but_mean(G: Array) -> Array:
    """Return the rows of G in a basis of what is orthogonal to the constant vector: n columns become n − 1.

    The constant vector is one that a centred Gram matrix maps to zero. It belongs to the mean, which the fit has to
    itself. Left among the eigenvectors, it would stand there as rounding, which small penalties magnify. A Householder
    reflection maps it to the first unit vector, and that column is left out.
    """
    xp, n = array_namespace(G), int(G.shape[1])
    across = np.full(n, n**-0.5)
    across[0] += 1
    w = xp.asarray(across / np.linalg.norm(across), dtype=G.dtype, device=device(G))
    return (G - 2 * (G @ w)[:, None] * w[None, :])[:, 1:]


def _centred(G: Array, left_out: np.ndarray) -> tuple[Array, Array, Array]:
    """Return the blocks train x train and out x train of a Gram matrix, and the diagonal of out x out.

    All are of features from which the mean of the training examples is subtracted.
    """
    xp = array_namespace(G)
    train, out = (xp.asarray(np.flatnonzero(which), device=device(G)) for which in (~left_out, left_out))
    rows = xp.take(G, train, axis=0)
    G_tt = xp.take(rows, train, axis=1)
    G_vt = xp.take(xp.take(G, out, axis=0), train, axis=1)
    mean, mean_v = xp.mean(G_tt, axis=0), xp.mean(G_vt, axis=1)
    whole = xp.mean(mean)
    diagonal = xp.take(xp.linalg.diagonal(G), out, axis=0)
    return (
        G_tt - mean[:, None] - mean[None, :] + whole,
        G_vt - mean_v[:, None] - mean[None, :] + whole,
        diagonal - 2 * mean_v + whole,
    )


def _penalty(values: np.ndarray, aligned: np.ndarray) -> float:
    """Return the penalty with the least n·‖(I − H)Y‖²/tr(I − H)².

    values : eigenvalues of K above rounding, on the training examples and without the constant vector, ascending
    aligned : vᵀLv of the eigenvectors of all eigenvalues; those that `values` lacks come first, and nothing is fitted
        along them
    """
    unfitted = len(aligned) - len(values)
    penalties = values.sum() / (len(aligned) + 1) * PENALTIES
    left = penalties[:, None] / (values + penalties[:, None])  # eigenvalues of I − H, one row for each penalty
    errors = (left**2 * aligned[unfitted:]).sum(axis=1) + aligned[:unfitted].sum()
    return float(penalties[np.argmin(errors / (left.sum(axis=1) + unfitted) ** 2)])
