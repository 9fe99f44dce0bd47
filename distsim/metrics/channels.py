"""The CCA family's view of a layer: rows are pixels of examples, columns are channels.

Everything follows from three small matrices of centred products, Sxx = XᵀX, Syy = YᵀY and Sxy = XᵀY. So a layer of any
spatial size is read once, in blocks.

Rank. Columns are scaled to unit variance first, since no canonical correlation depends on their scale. The rank is then
that of a correlation matrix. `distsim.metrics.rounding` decides which of its eigenvalues are zero and which columns are
constant. A constant column is a dead channel.
"""

from dataclasses import dataclass, field, replace

from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, Undefined
from distsim.metrics.linalg import running_sum
from distsim.metrics.reads import NOW, Cached, Number, Reads, as_divisor, first, least
from distsim.metrics.rounding import EPS, rank_of_products, squares_of_constant


@dataclass(frozen=True)
class ChannelSide:
    """One network's side: centred products of its columns.

    Where its reads are deferred, ranks and other counts are arrays, and what is beyond a rank is zero, not cut.
    """

    n: int  # rows
    mean: Array  # (p,)
    products: Array  # (p, p) float64, XᵀX of the centred columns
    reads: Reads = field(default=NOW, compare=False, repr=False)
    # of a side without some examples: the side with all of them, whose number of directions `kept` is taken over
    whole: "ChannelSide | None" = field(default=None, compare=False, repr=False)

    @Cached
    def now(self) -> "ChannelSide":
        """Return this side with numbers that are read at once."""
        whole = self.whole and self.whole.now
        return replace(self, reads=NOW, whole=whole) if self.reads.deferred else self

    @property
    def columns(self) -> int:
        return int(self.products.shape[0])

    @Cached
    def _deviations(self) -> Array:
        """Return the norms of the centred columns, (p,), exactly 0 where a column is dead."""
        xp = array_namespace(self.products)
        squares = xp.linalg.diagonal(self.products)
        return xp.sqrt(xp.where(squares > squares_of_constant(self.n, self.mean), squares, xp.zeros_like(squares)))

    @Cached
    def dead(self) -> Number:
        """Return the number of columns without variance."""
        return self.reads.count(self._deviations == 0)

    @Cached
    def all_dead(self) -> bool:
        """Return whether no column has variance."""
        return self.reads.decide(self.dead == self.columns, likely=False)

    def require_variance(self) -> None:
        """Raise Undefined if no column has variance."""
        if self.all_dead:
            raise Undefined("every channel is constant")

    @Cached
    def _inverse(self) -> Array:
        """Return one over the norms of the centred columns, (p,), 0 where a column is dead."""
        xp, d = array_namespace(self.products), self._deviations
        return xp.where(d > 0, 1 / xp.where(d > 0, d, xp.ones_like(d)), xp.zeros_like(d))

    @Cached
    def _correlation(self) -> tuple[Array, Array, Number]:
        """Return the eigenvalues of the correlation matrix, descending, their vectors, and the rank."""
        self.require_variance()
        values, vectors = _descending(self._inverse[:, None] * self.products * self._inverse[None, :])
        # centred columns span at most n - 1 dimensions
        return values, vectors, least(rank_of_products(values, self.reads), self.n - 1)

    @Cached
    def whitening(self) -> tuple[Array, Array]:
        """Return W and B, (p, rank) each, with XW orthonormal and XᵀXW = B for the centred X.

        Undefined: no column has variance.
        """
        values, vectors, rank = self._correlation
        root = array_namespace(values).sqrt(first(values, rank))
        vectors = first(vectors, rank, axis=1)
        return self._inverse[:, None] * vectors / as_divisor(root), self._deviations[:, None] * vectors * root

    @Cached
    def _principal(self) -> tuple[Array, Array]:
        """Return the eigenvalues of the products, descending, and the vectors; dead columns are set to zero."""
        alive = array_namespace(self.products).astype(self._deviations > 0, self.products.dtype)
        return _descending(alive[:, None] * self.products * alive[None, :])

    @property
    def alive(self) -> Array:
        """Return which columns have variance, (p,) bool."""
        return self._deviations > 0

    @Cached
    def spectrum(self) -> tuple[Array, Array]:
        """Return the singular values of the centred X above rounding, (r,), and its right singular vectors, (p, r).

        Dead columns are zero in the vectors. Undefined: no column has variance.
        """
        self.require_variance()
        values, vectors = self._principal
        keep = least(self.rank, rank_of_products(values, self.reads))
        return array_namespace(values).sqrt(first(values, keep)), first(vectors, keep, axis=1)

    @property
    def rank(self) -> Number:
        """Return the number of independent columns, 0 if none has variance."""
        return 0 if self.all_dead else self._correlation[2]

    @Cached
    def effective_rank(self) -> Number:
        """Return the participation ratio of the variances along the principal directions, 0 if no column has variance.

            (Σλᵢ)² / Σλᵢ² = tr(S)² / ‖S‖²_F      λᵢ: eigenvalues of S = XᵀX

        Gao et al. 2017. It is 1 if one direction holds all variance, and the rank if all directions hold the same.
        Unlike the rank, it changes when single columns are scaled.
        """
        if self.all_dead:
            return 0.0
        xp = array_namespace(self.products)
        scaled = self.products / xp.max(xp.linalg.diagonal(self.products))  # so that no square overflows
        parts = (self.reads.number(part) for part in (xp.linalg.trace(scaled), xp.sum(scaled * scaled)))
        return self.reads.later(lambda trace, squares: trace**2 / squares, *parts)

    def kept(self, variance: float) -> Number:
        """Return k, the fewest principal directions of X that hold this share of its variance; 0 if it has none.

        k is the smallest with Σσ²[:k] / Σσ² ≥ variance, and at most the rank. Without some examples it is that of all.
        """
        if self.all_dead:
            return 0
        values, _ = self._principal
        xp = array_namespace(values)
        if self.whole is not None:
            k = least(self.whole.kept(variance), self.rank)
        else:
            share = running_sum(values) / xp.sum(values)
            k = least(self.reads.count(share < variance - self.columns * EPS) + 1, self.rank)
        # an eigenvalue of the unscaled products may be rounding although the rank after scaling counts its direction
        return least(k, rank_of_products(values, self.reads))

    def leading(self, variance: float) -> Array:
        """Return W (p, k), XW orthonormal: the `kept` directions of X. Undefined: no column has variance."""
        self.require_variance()
        values, vectors = self._principal
        k = self.kept(variance)
        return first(vectors, k, axis=1) / as_divisor(array_namespace(values).sqrt(first(values, k)))


@dataclass(frozen=True)
class ChannelPair:
    """Two sides and the centred cross-products of their columns, Sxy (p1, p2)."""

    x: ChannelSide
    y: ChannelSide
    cross: Array
    reads: Reads = field(default=NOW, compare=False, repr=False)

    @Cached
    def canonical(self) -> tuple[Array, Array, Array]:
        """Return P (rank x, k), ρ (k,) descending and Q (k, rank y), the SVD of WxᵀSxyWy; k is the smaller rank."""
        xp = array_namespace(self.cross)
        wx, wy = self.x.whitening[0], self.y.whitening[0]
        P, rho, Q = xp.linalg.svd(wx.T @ self.cross @ wy, full_matrices=False)
        return P, xp.clip(rho, 0.0, 1.0), Q

    @property
    def correlations(self) -> Array:
        """Return the canonical correlations, (min(rank x, rank y),), descending, in [0, 1].

        Undefined: a side has no variance.
        """
        return self.canonical[1]

    @property
    def count(self) -> Number:
        """Return how many canonical correlations there are. Where reads are deferred, zeros follow them."""
        return least(self.x.rank, self.y.rank)


FEW = 5  # rows for each direction, below which canonical correlations of unrelated data are large


def saturation(pair: ChannelPair) -> str:
    """Say why the canonical correlations of a pair should be read with care, "" if nothing is wrong with them."""
    return pair.reads.later(saturated, pair.x.n, pair.x.rank, pair.y.rank)


def saturated(n: int, rank_x: int, rank_y: int) -> str:
    """Say why the correlations of two spaces of these dimensions in n centred rows should be read with care, else "".

    Both spaces lie in the n - 1 dimensions of centred columns. They share at least rank_x + rank_y - (n - 1) of them,
    and as many correlations are 1 whatever the data are. Below `FEW` rows for each direction, correlations of unrelated
    data are large.
    """
    forced = rank_x + rank_y - (n - 1)
    if forced > 0:
        return f"{forced} of {min(rank_x, rank_y)} correlations are 1 by force: ranks {rank_x} and {rank_y}, {n} rows"
    if n < FEW * max(rank_x, rank_y):
        return f"high by chance: {n} rows for ranks {rank_x} and {rank_y}"
    return ""


def _descending(symmetric: Array) -> tuple[Array, Array]:
    """Return the eigenvalues from large to small, and their vectors as columns.

    Negative eigenvalues are rounding and become 0.
    """
    xp = array_namespace(symmetric)
    values, vectors = xp.linalg.eigh(symmetric)
    return xp.clip(xp.flip(values, axis=0), 0.0, None), xp.flip(vectors, axis=1)


def centred(X: Array) -> tuple[Array, Array]:
    """Return X minus its column means, and the means.

    The mean is subtracted twice, since the first mean of large values carries rounding.
    """
    xp = array_namespace(X)
    mean = xp.mean(X, axis=0)
    X = X - mean
    rest = xp.mean(X, axis=0)
    return X - rest, mean + rest


def channel_pair(X: Array, Y: Array) -> ChannelPair:
    """Return the pair of two matrices, (n, p1) and (n, p2), float64, not yet centred."""
    n = X.shape[0]
    X, mean_x = centred(X)
    Y, mean_y = centred(Y)
    return ChannelPair(ChannelSide(n, mean_x, X.T @ X), ChannelSide(n, mean_y, Y.T @ Y), X.T @ Y)


def mean_correlation(rho: Array, count: Number, mean_rule: str, reads: Reads = NOW) -> Number:
    """Return the mean of descending correlations: `all`, or the leading ones that hold 98 % of their sum (`mass98`).

    mass98 is what google/svcca reports. It is the mean over s[:i] for the smallest i in 0 ... len-1 with
    Σs[:i] >= 0.98 Σs, and over all s if there is no such i. It lies above the plain mean.

    count : how many correlations there are; from there on `rho` is ignored
    ValueError: another rule.
    """
    if mean_rule not in ("all", "mass98"):
        raise ValueError(f"mean_rule must be all or mass98, got {mean_rule!r}")
    xp = array_namespace(rho)
    rho = first(rho, count)
    if mean_rule == "mass98":
        before = running_sum(rho) - rho  # Σs[:i] for i = 0 ... len-1
        enough = xp.astype(before >= 0.98 * xp.sum(rho), xp.int64)
        count = least(reads.count(xp.cumulative_sum(enough) == 0), count)
    return reads.later(_mean, reads.number(xp.sum(first(rho, count))), count)


def _mean(total: float, count: int) -> float:
    return total / count if count else 0.0
