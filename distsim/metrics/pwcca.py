"""Projection-weighted CCA."""

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, both_rows, or_nan
from distsim.metrics.channels import ChannelPair, channel_pair
from distsim.metrics.reads import Number, first


def pwcca(X: Array, Y: Array, *, side: str = "smaller", weights: str = "paper", channels_last: bool = False) -> float:
    """Return the projection-weighted CCA similarity, in [0, 1].

        PWCCA = Σ αᵢρᵢ / Σ αᵢ,   αᵢ = Σⱼ |⟨zᵢ, xⱼ⟩|      zᵢ canonical vectors and xⱼ centred columns of one side

    Morcos et al. 2018; Ansuini et al. 2021, Eq. 4-5. Not symmetric: the weights come from one `side`, which is "first"
    (X), "second" (Y) or "smaller" (the side of smaller rank, or X if the ranks are equal). Unchanged by shifts and by
    scaling a side, but not by scaling single columns.
    weights : "paper", or "google" for the weights of google/svcca's code, which are others; see `google_from_pair`
    Where correlations repeat, their vectors and hence the weights are not unique. (p1 + p2 - (n - 1) correlations are
    1, if that number is positive.)
    Shapes, warnings and errors as in `mean_cca`. ValueError also if `side` or `weights` is another word.
    """
    X, Y = both_rows("pwcca", X, Y, channels_last)
    return or_nan("pwcca", from_pair, channel_pair(X, Y), side=side, weights=weights)


def from_pair(pair: ChannelPair, side: str = "smaller", weights: str = "paper") -> Number:
    """Return `pwcca` of a pair. Undefined: a side has no variance."""
    if side not in ("smaller", "first", "second"):
        raise ValueError(f"pwcca: side must be smaller, first or second, got {side!r}")
    if weights == "google":
        return google_from_pair(pair, side)
    if weights != "paper":
        raise ValueError(f"pwcca: weights must be paper or google, got {weights!r}")
    xp = array_namespace(pair.cross)
    P, rho, Q = pair.canonical
    if side == "second" or (side == "smaller" and pair.reads.decide(pair.y.rank < pair.x.rank, likely=False)):
        loadings = pair.y.whitening[1] @ Q.T
    else:
        loadings = pair.x.whitening[1] @ P
    alpha = first(xp.sum(xp.abs(loadings), axis=0), pair.count)
    return pair.reads.number(xp.sum(alpha * first(rho, pair.count)) / xp.sum(alpha))


def google_from_pair(pair: ChannelPair, side: str = "first") -> float:
    """Return PWCCA as google/svcca's `compute_pwcca` computes it, with ρ and the weights from one side.

        Sxx^-½ Sxy Syy^-½ = U diag(ρ) Vᵀ        dᵢ = X' uᵢ + mᵢ        αᵢ = Σⱼ |⟨qᵢ, xⱼ⟩|

    X' are the centred columns, xⱼ the columns as they are, and mᵢ is the mean of column i, added throughout. The q are
    the d made orthonormal one after the other. Differences to the paper's formula: dᵢ is not a canonical vector, since
    a factor Sxx^-½ is missing, and neither X nor d is centred. So a shift of X changes the value. It also depends on
    the signs of the singular vectors, which the data do not determine: they are those that LAPACK returns.
    Constant columns are left out, so numbers of the pair must not be deferred. Undefined: a side has no variance.

    With X' = E diag(σ) Wᵀ and E orthonormal, xⱼ and dᵢ are known by their coordinates in the columns of E and 1/√n.
    """
    xp = array_namespace(pair.cross)
    first = side == "first" or (side == "smaller" and pair.x.rank <= pair.y.rank)
    x, y, cross = (pair.x, pair.y, pair.cross) if first else (pair.y, pair.x, pair.cross.T)
    (sx, wx), (sy, wy) = x.spectrum, y.spectrum
    there = xp.nonzero(x.alive)[0]
    U, rho, _ = xp.linalg.svd((wx[there] / sx) @ (wx.T @ cross @ wy) @ (wy[xp.nonzero(y.alive)[0]] / sy).T)
    k = min(sx.shape[0], sy.shape[0])
    U, rho, means = U[:, :k], xp.clip(rho[:k], 0.0, 1.0), x.mean[there] * x.n**0.5
    columns = xp.concat([sx[:, None] * wx[there].T, means[None, :]])
    directions = xp.concat([sx[:, None] * (wx[there].T @ U), means[None, :k]])
    q, _ = xp.linalg.qr(directions)
    alpha = xp.sum(xp.abs(columns.T @ q), axis=0)
    return pair.reads.number(xp.sum(alpha * rho) / xp.sum(alpha))
