"""What a comparison says beside its values: the same with permuted examples, and without each block of the examples.

Both need no more of the activations than one pass, which may be the comparison's own: cross-products of channels with
permuted examples, and sums over blocks. Gram matrices and features are permuted as they are, and blocks are taken out
of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
from array_api_compat import array_namespace

from distsim.comparison.pair import Pair, PairSide
from distsim.comparison.sides import Cross, LayerSource, Side, Slab, between, product_of
from distsim.metrics.arrays import Array, Undefined
from distsim.metrics.channels import ChannelSide
from distsim.metrics.jackknife import BLOCKS, BlockedPair, BlockedSide, Blocks, deleted, kept
from distsim.metrics.reads import computed, fetched, noting
from distsim.metrics.registry import Metric
from distsim.metrics.rounding import EPS

# Of the square that taking out a block moves a channel's mean by: up to this share of it, what is left is rounding.
CANCELLED = 1e4 * EPS


class Several(TypedDict):
    """A metric's values with examples permuted, or without blocks of them, and why there are none. Stored as JSON."""

    values: list[float | None]
    reasons: list[str]


@dataclass(frozen=True)
class Taken:
    """A LayerSource of some examples of another, in some order."""

    source: LayerSource
    examples: Any  # (m,) their indices

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def kind(self) -> str:
        return self.source.kind

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.examples), *self.source.shape[1:]

    @property
    def dtype(self) -> str:
        return self.source.dtype

    @property
    def panel_rows(self) -> int:
        return self.source.panel_rows

    def panels(self, rows: int) -> Iterator[Any]:
        for panel in self.source.panels(rows):
            yield panel[on_device_of(panel, self.examples)]


def on_device_of(like: Any, indices: Any) -> Any:
    """Return indices as an array that arrays like this one can be indexed with."""
    if isinstance(like, np.ndarray):
        return indices
    import torch

    return torch.as_tensor(indices, device=like.device)


# --- permuted examples -----------------------------------------------------------------------------------------------


class PermutedCrosses:
    """The cross-products of two layers' channels, with the second layer's examples in other orders."""

    def __init__(self, orders: Sequence[Any], places: tuple[int, int] = (0, 1)) -> None:
        self._orders, self._places, self._crosses = orders, places, [Cross() for _ in orders]

    def add(self, panels: tuple[Slab, ...]) -> None:
        x, y = (panels[place] for place in self._places)
        for order, cross in zip(self._orders, self._crosses, strict=True):
            cross.add(x, y.of(on_device_of(y.A, order)))

    def totals(self) -> list[Array]:
        """Return the centred cross-products of each order."""
        return [cross.total() for cross in self._crosses]


def permuted(pair: Pair, order: Any, cross: Array | None, metrics: Sequence[Metric]) -> Pair:
    """Return a pair with y's examples in another order. cross : its cross-products, if a metric is over channels"""
    kernel, y = None, pair.y
    if any(metric.view == "kernel" for metric in metrics):
        held = y.kernel.gram if y.kernel.features is None else y.kernel.features
        kernel = y.kernel.in_order(on_device_of(held, order))
    moved = PairSide(
        Taken(y.source, order), Side(y.collected.channels, kernel), y.device, y.dead, y.example, reads=y.reads
    )
    return Pair(pair.x, moved, cross, pair.fast, pair.qdwh, pair.workspace, pair.reads)


# --- without blocks of examples --------------------------------------------------------------------------------------


class OwnBlocks:
    """Sums of a layer's channels over the examples of each block."""

    def __init__(self, blocks: Blocks, place: int = 0) -> None:
        self._blocks, self._place = blocks, place
        self._within: list[Array] = [0.0] * len(blocks)
        self._sums: list[list[Array]] = [[] for _ in blocks]
        self._shifts: list[tuple[Array, Array]] = []
        self._unit = EPS

    def add(self, panels: tuple[Slab, ...]) -> None:
        slab = panels[self._place]
        xp, self._unit = array_namespace(slab.A), slab.unit
        self._shifts.append((slab.shift, slab.rest))
        for block, examples in enumerate(self._blocks):
            part = slab.of(on_device_of(slab.A, examples))
            self._within[block] = self._within[block] + product_of(part.rows, None)
            self._sums[block].append(xp.sum(part.A, axis=0, dtype=xp.float64).reshape(slab.shift.shape))

    def blocked(self, side: ChannelSide) -> "BlockedChannels":
        """Return the blocks of this side of all examples."""
        xp = array_namespace(side.products)
        shift, rest = (xp.concat(list(parts)) for parts in zip(*self._shifts, strict=True))
        D = between(shift, rest, self._unit)[1]
        sums = [xp.concat(parts) for parts in self._sums]
        return BlockedChannels(side, D, sums, self._within, [len(block) for block in self._blocks])


class CrossBlocks:
    """Sums of the products of two layers' channels over the examples of each block."""

    def __init__(self, blocks: Blocks, places: tuple[int, int] = (0, 1)) -> None:
        self._blocks, self._places = blocks, places
        self.within: list[Array] = [0.0] * len(blocks)

    def add(self, panels: tuple[Slab, ...]) -> None:
        x, y = (panels[place] for place in self._places)
        for block, examples in enumerate(self._blocks):
            chosen = on_device_of(x.A, examples)
            self.within[block] = self.within[block] + product_of(x.of(chosen).rows, y.of(chosen).rows)


@dataclass(frozen=True, eq=False)
class BlockedChannels:
    """A side of the channel view, and sums over the examples of each block.

    D       (pixels, c) each pixel's mean less the channel's
    sums    of each block: (pixels, c) of the values less their pixel's mean
    within  of each block: (c, c) of the products of these
    sizes   of each block: its examples
    """

    side: ChannelSide
    D: Array
    sums: list[Array]
    within: list[Array]
    sizes: list[int]

    @cached_property
    def means(self) -> list[Array]:
        """Return for each block the sum over the rows left of the values less the mean of all, (c,)."""
        xp = array_namespace(self.D)
        of_pixels = xp.sum(self.D, axis=0)
        return _of_others([xp.sum(S, axis=0) + size * of_pixels for S, size in zip(self.sums, self.sizes, strict=True)])

    @cached_property
    def rows(self) -> list[int]:
        """Return for each block how many rows are left."""
        return [(sum(self.sizes) - size) * int(self.D.shape[0]) for size in self.sizes]

    @cached_property
    def _products(self) -> list[Array]:
        return _of_others(_about_the_mean(self, self, self.within))

    @cached_property
    def alive(self) -> list[Array]:
        """Return for each block which channels vary without it, (c,)."""
        xp = array_namespace(self.D)
        found = []
        for P, t, rows in zip(self._products, self.means, self.rows, strict=True):
            moved = t * t / rows
            found.append(xp.linalg.diagonal(P) - moved > CANCELLED * moved)
        return found

    @cached_property
    def without(self) -> list[ChannelSide]:
        """Return the side without each block, centred again."""
        xp, found = array_namespace(self.D), []
        for P, t, rows, alive in zip(self._products, self.means, self.rows, self.alive, strict=True):
            mask = xp.astype(alive, P.dtype)
            products = (P - t[:, None] * t[None, :] / rows) * mask[:, None] * mask[None, :]
            mean = self.side.mean + t / rows
            found.append(ChannelSide(rows, mean, products, self.side.reads, whole=self.side))
        return found


def crosses_without(x: BlockedChannels, y: BlockedChannels, within: list[Array]) -> list[Array]:
    """Return the centred cross-products of two sides without each block. within : of a `CrossBlocks`"""
    xp, found = array_namespace(x.D), []
    products = _of_others(_about_the_mean(x, y, within))
    for place, P in enumerate(products):
        t_x, t_y = x.means[place], y.means[place]
        masks = [xp.astype(side.alive[place], P.dtype) for side in (x, y)]
        found.append((P - t_x[:, None] * t_y[None, :] / x.rows[place]) * masks[0][:, None] * masks[1][None, :])
    return found


def _about_the_mean(x: BlockedChannels, y: BlockedChannels, within: list[Array]) -> list[Array]:
    """Return each block's products of the channels less their means over all examples and pixels."""
    even = x.D.T @ y.D
    each = zip(within, x.sums, y.sums, x.sizes, strict=True)
    return [W + S_x.T @ y.D + x.D.T @ S_y + size * even for W, S_x, S_y, size in each]


def _of_others(parts: list[Array]) -> list[Array]:
    """Return for each part the sum of all others. Nothing is subtracted, so that no digit is lost."""
    return [sum(parts[:place] + parts[place + 1 :]) for place in range(len(parts))]


@dataclass(frozen=True, eq=False)
class Jackknife:
    """A pair of layers, and what is needed to compare them without each block of their examples.

    channels  both sides' blocks, and the sums of a `CrossBlocks`; None: no metric over channels is asked for
    kernel    x's blocks of the kernel view, where they are kept for several pairs; kernel_y: y's
    """

    pair: Pair
    blocks: Blocks
    channels: tuple[BlockedChannels, BlockedChannels, list[Array]] | None = None
    kernel: BlockedSide | None = None
    kernel_y: BlockedSide | None = None

    def values(self, metrics: Iterable[Metric]) -> dict[str, Several]:
        """Return each metric's values without each block, by name. Errors are those of `Draft.results`."""
        chosen = list(metrics)
        found: dict[str, Several] = {}
        for metric in chosen:
            if metric.view == "kernel" and metric.without is not None:
                found[metric.name] = self._from_sums(metric)
        others = [metric for metric in chosen if metric.name not in found]
        for pair in self._pairs(others) if others else ():
            for name, result in pair.results(others).items():
                several = found.setdefault(name, Several(values=[], reasons=[]))
                several["values"].append(result["value"])
                several["reasons"].append(result["reason"])
        return {metric.name: found[metric.name] for metric in chosen}

    @cached_property
    def _blocked(self) -> BlockedPair:
        """Return both sides' blocks of the kernel view. What metrics share is computed once."""
        x = self.kernel or BlockedSide(self.pair.x.kernel, self.blocks)
        y = self.kernel_y or BlockedSide(self.pair.y.kernel, self.blocks)
        return BlockedPair(x, y, self.pair.kernels)

    @cached_property
    def _blocked_now(self) -> BlockedPair:
        """Return the same with numbers that are read at once."""
        now = self.pair.now
        return BlockedPair(self._blocked.x.now, BlockedSide(now.y.kernel, self.blocks), now.kernels)

    def _from_sums(self, metric: Metric) -> Several:
        assert metric.without is not None
        try:
            values = _read(metric, self._blocked, self.pair.required)
            if values is None:
                values = computed(metric.without(self._blocked_now))
        except Undefined as reason:
            return missing(str(reason))
        return Several(values=list(values), reasons=[""] * BLOCKS)

    def _pairs(self, metrics: Sequence[Metric]) -> Iterator[Pair]:
        """Yield the pair without each block."""
        of_kernel = any(metric.view == "kernel" for metric in metrics)
        sides_of = None if self.channels is None else self.channels[:2]
        crosses = None if self.channels is None else crosses_without(*self.channels)
        for place, block in enumerate(self.blocks):
            keep, sides = kept(self.pair.x.source.shape[0], block), []
            for number, side in enumerate((self.pair.x, self.pair.y)):
                channels = None if sides_of is None else sides_of[number].without[place]
                kernel = deleted(side.kernel, block) if of_kernel else None
                source = Taken(side.source, keep)
                both = Side(channels, kernel)
                dead = side.dead_channels  # nobody reads it of a pair without a block
                sides.append(PairSide(source, both, side.device, dead, side.example, side.reads))
            cross = None if crosses is None else crosses[place]
            pair = self.pair
            yield Pair(sides[0], sides[1], cross, pair.fast, pair.qdwh, pair.workspace, pair.reads)


def missing(reason: str) -> Several:
    """Return that there is no value without any block, and why."""
    return Several(values=[None] * BLOCKS, reasons=[reason] * BLOCKS)


def _read(metric: Metric, pair: BlockedPair, required: list[tuple[Array, Exception]]) -> list[float] | None:
    """Return a metric's values without each block, or None where an assumption was wrong (distsim.metrics.reads)."""
    assert metric.without is not None
    with noting() as notes:
        values = metric.without(pair)
    tree = values, [each.right for each in notes], [condition for condition, _ in required]
    values, right, holds = fetched(tree) if pair.reads.deferred else tree
    for (_, error), does in zip(required, holds, strict=True):
        if not does:
            raise error
    return list(computed(values)) if all(map(bool, right)) else None
