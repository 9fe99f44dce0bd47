"""The delete-block jackknife: how sure a similarity is over examples.

The examples are split into ten blocks at random, and each value is computed without each block in turn:

    se² = 9/10 · Σⱼ (θ₍ⱼ₎ − θ̄)²      θ₍ⱼ₎: the value without block j, θ̄: the mean of the ten

Kernels are centred again without the block. A bootstrap over examples would repeat some of them, and a repeated example
is as similar to itself as can be, which makes kernel similarities too large.

CKA without a block follows from sums over blocks of the Gram matrices that are there, at the cost of reading them once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from distsim.metrics.arrays import Array, Undefined
from distsim.metrics.kernels import KernelPair, KernelSide, centred_features
from distsim.metrics.reads import Cached, Number, Reads, read
from distsim.metrics.rounding import EPS
from distsim.seeds import numpy_stream

BLOCKS = 10
ROWS = 512  # of two Gram matrices that are multiplied entry by entry at a time
ROUNDING = 64 * EPS  # share of a side's trace up to which what is left without a block is rounding

Blocks = Sequence[Any]  # the examples of each block, (m,) indices


def split(n: int, seed: int) -> list[np.ndarray]:
    """Split n examples at random into `BLOCKS` blocks whose sizes differ by at most one.

    The split depends on n and the seed only, so that all layers and networks of a sweep have the same.
    ValueError: there are fewer examples than blocks.
    """
    if n < BLOCKS:
        raise ValueError(f"{BLOCKS} blocks need at least {BLOCKS} examples, there are {n}")
    order = numpy_stream(seed, "jackknife", n).permutation(n)
    return [np.sort(block) for block in np.array_split(order, BLOCKS)]


def kept(n: int, block: Any) -> np.ndarray:
    """Return the examples that are not in a block, in their order."""
    return np.delete(np.arange(n), block)


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of a value, from the values without each block."""
    deviations = np.asarray(values) - np.mean(values)
    return float(((len(values) - 1) / len(values) * (deviations * deviations).sum()) ** 0.5)


def se_of(values: Sequence[float | None]) -> float | None:
    """Return the standard error of a value as `standard_error` does, or None if a value without a block is missing."""
    there = [value for value in values if value is not None]
    return standard_error(there) if len(there) == len(values) else None


def deleted(side: KernelSide, block: Any) -> KernelSide:
    """Return a side without the examples of a block, centred again."""
    held = side.gram if side.features is None else side.features
    xp = array_namespace(held)
    keep = xp.asarray(kept(side.n, block), device=device(held))
    n = int(keep.shape[0])
    if side.features is None:
        K = xp.take(xp.take(side.gram, keep, axis=0), keep, axis=1)
        means = xp.mean(K, axis=0)
        K -= means[:, None]
        K -= means[None, :] - xp.mean(means)
        return KernelSide(n, side.columns, gram=K, unit=side.unit, reads=side.reads)
    features = centred_features(xp.take(side.features, keep, axis=0))
    if not side.reads.deferred:  # constant features are left out
        features = features[:, read(xp.any(features != 0, axis=0))]
    if features.shape[1] >= n:
        return KernelSide(n, side.columns, gram=features @ features.T, reads=side.reads)
    return KernelSide(n, side.columns, features=features, narrow=side.narrow, reads=side.reads)


@dataclass(frozen=True, eq=False)
class BlockedSide:
    """A side of the kernel view, and what the examples outside each block make of it."""

    side: KernelSide
    blocks: Blocks

    @property
    def now(self) -> "BlockedSide":
        """Return this side with numbers that are read at once."""
        return BlockedSide(self.side.now, self.blocks) if self.side.reads.deferred else self

    @Cached
    def members(self) -> Array:
        """Return whether example i is in block j, (n, blocks) of 0 and 1."""
        table = np.zeros((self.side.n, len(self.blocks)))
        for place, block in enumerate(self.blocks):
            table[block, place] = 1.0
        held = self.side.gram if self.side.features is None else self.side.features
        return array_namespace(held).asarray(table, device=device(held))

    @Cached
    def sizes(self) -> list[int]:
        """Return how many examples are left without each block."""
        return [self.side.n - len(block) for block in self.blocks]

    @Cached
    def sums(self) -> Array:
        """Return the sum of each row of K over the examples outside each block, (n, blocks)."""
        if self.side.features is None:
            of_blocks = self.side.gram @ self.members
        else:
            of_blocks = self.side.features @ (self.side.features.T @ self.members)
        return array_namespace(of_blocks).sum(of_blocks, axis=1)[:, None] - of_blocks

    @Cached
    def totals(self) -> Array:
        """Return the sum of all entries of K outside each block, (blocks,)."""
        return array_namespace(self.sums).sum(self.sums * (1 - self.members), axis=0)

    @Cached
    def diagonals(self) -> Array:
        """Return the diagonal of K centred again without each block, (n, blocks), 0 for the examples of the block."""
        sizes = self._sizes
        centred = self.side.diagonal[:, None] - 2 * self.sums / sizes + self.totals / sizes**2
        return centred * (1 - self.members)

    @Cached
    def squares(self) -> Array:
        """Return ‖K‖²_F without each block, (blocks,). Undefined: a side has no variance without one."""
        traces = array_namespace(self.diagonals).sum(self.diagonals, axis=0)
        varies = array_namespace(traces).min(traces) > ROUNDING * self.side.trace
        if not self.side.reads.decide(varies, likely=True):
            raise Undefined("every activation is the same for all examples that are left without a block")
        if self.side.features is None:
            return _products_of_grams(self, self)
        return _products_of_features(self, self, None)

    @property
    def _sizes(self) -> Array:
        return array_namespace(self.members).sum(1 - self.members, axis=0)


@dataclass(frozen=True, eq=False)
class BlockedPair:
    """Two sides of the kernel view, and the same blocks of both."""

    x: BlockedSide
    y: BlockedSide
    pair: KernelPair

    @property
    def reads(self) -> Reads:
        return self.pair.reads

    @Cached
    def shared(self) -> Array:
        """Return ⟨K, L⟩_F without each block, (blocks,)."""
        if self.pair.small:
            return _products_of_features(self.x, self.y, self.pair.cross)
        return _products_of_grams(self.x, self.y)


def _products_of_grams(x: BlockedSide, y: BlockedSide) -> Array:
    """Return ⟨HKH, HLH⟩ of the Gram matrices without each block, (blocks,). H centres.

    ⟨HKH, HLH⟩ = Σᵢⱼ KᵢⱼLᵢⱼ − 2/m Σᵢ kᵢlᵢ + kl/m²      kᵢ: sum of row i, k: of all, over the m examples left
    """
    K, L, members = x.side.full_gram, y.side.full_gram, x.members
    xp = array_namespace(K)
    between: Array = 0.0  # Σ KL over pairs of blocks
    for start in range(0, x.side.n, ROWS):
        rows = slice(start, start + ROWS)
        between = between + members[rows].T @ ((K[rows] * L[rows]) @ members)
    total, of_block, within = xp.sum(between), xp.sum(between, axis=0), xp.linalg.diagonal(between)
    outside = total - 2 * of_block + within
    left, sizes = 1 - members, x._sizes
    by_rows = xp.sum(x.sums * y.sums * left, axis=0)
    return outside - 2 * by_rows / sizes + x.totals * y.totals / sizes**2


def _products_of_features(x: BlockedSide, y: BlockedSide, cross: Array | None) -> Array:
    """Return ‖XᵀY‖²_F of the features without each block, centred again, (blocks,). cross : XᵀY of all examples"""
    X: Array = x.side.features
    Y: Array = y.side.features
    xp = array_namespace(X)
    cross = X.T @ Y if cross is None else cross
    sums_x, sums_y = X.T @ (1 - x.members), Y.T @ (1 - y.members)
    found = []
    for place, (block, size) in enumerate(zip(x.blocks, x.sizes, strict=True)):
        chosen = xp.asarray(block, device=device(X))
        C = cross - xp.take(X, chosen, axis=0).T @ xp.take(Y, chosen, axis=0)
        C -= sums_x[:, place : place + 1] * sums_y[:, place] / size
        found.append(xp.sum(C * C))
    return xp.stack(found)


def cka(pair: BlockedPair) -> list[Number]:
    """Return `cka` without each block. Undefined: a side has no variance."""
    x, y, reads = pair.x.squares, pair.y.squares, pair.reads
    return [
        reads.later(_ratio, *(reads.number(each[place]) for each in (pair.shared, x, y)))
        for place in range(len(pair.x.blocks))
    ]


def _ratio(shared: float, x: float, y: float) -> float:
    return min(shared / (x * y) ** 0.5, 1.0)


def unbiased(pair: BlockedPair) -> list[Number]:
    """Return `cka_unbiased` without each block. Undefined: as the value itself is, or a side has no variance."""
    x, y, reads = pair.x, pair.y, pair.reads
    if min(x.sizes) < 4:
        raise Undefined(f"the unbiased estimate needs at least 4 examples, there are {min(x.sizes)} without a block")
    own_x, own_y = _unbiased(x, x, x.squares), _unbiased(y, y, y.squares)
    xp = array_namespace(own_x)
    if not reads.decide(xp.all(own_x > 0) & xp.all(own_y > 0), likely=True):
        raise Undefined("the unbiased estimate of a side's variance is zero without a block")
    shared = _unbiased(x, y, pair.shared)
    return [
        reads.later(_ratio, *(reads.number(each[place]) for each in (shared, own_x, own_y)))
        for place in range(len(x.blocks))
    ]


def _unbiased(x: BlockedSide, y: BlockedSide, shared: Array) -> Array:
    """Return n(n − 3) HSIC₁ without each block, (blocks,), as `distsim.metrics.cka` does for all examples."""
    xp, n = array_namespace(shared), x._sizes
    diagonals = xp.sum(x.diagonals * y.diagonals, axis=0) * (1 + 2 / (n - 2))
    traces = xp.sum(x.diagonals, axis=0) * xp.sum(y.diagonals, axis=0) / ((n - 1) * (n - 2))
    value = shared - diagonals + traces
    clear = abs(value) > 16 * EPS * (abs(shared) + diagonals + traces)
    return xp.where(clear, value, xp.zeros_like(value))
