"""Comparison of one layer across several networks: every metric from one pass over the activations.

`Reference` computes the complete network's side once, for every network that is compared with it. The side is the
products of its channels, and its Gram matrix with the root of that, or its features. `compare_pairs` reads any number
of networks together and compares any pairs of them, and `compare_tile` adds their values without blocks of examples.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distsim.comparison.devices import is_deferred
from distsim.comparison.pair import Draft, Pair, PairSide, Result
from distsim.comparison.sides import InMemory, LayerSource, Side, Wanted, collect, held
from distsim.comparison.spread import (
    BlockedChannels,
    CrossBlocks,
    Jackknife,
    OwnBlocks,
    PermutedCrosses,
    Several,
    permuted,
)
from distsim.metrics.arrays import Workspace
from distsim.metrics.jackknife import BlockedSide, Blocks
from distsim.metrics.reads import Reads, assumptions_of
from distsim.metrics.registry import METRICS, Metric, known

__all__ = ["InMemory", "LayerSource", "Reference", "Result", "applicable", "compare_pairs", "compare_tile"]


def applicable(metrics: Iterable[str], kind: str) -> tuple[str, ...]:
    """Return those of the metrics that a layer of this kind has: cosine, for example, only the output layer."""
    return tuple(name for name in metrics if METRICS[name].applies_to(kind))


class Reference:
    """The complete network's side of one layer, to compare other networks with.

    metrics    names in the registry; those that the layer's kind does not have are left out
    precision  exact: NBS is within 1e-6 of its float64 value. fast: within 5e-4 on the CPU, from float32 eigenvalues or
               the leading eigenvectors only; on a GPU it is exact. The other metrics are within 1e-6 in both.
    qdwh       whether NBS comes from polar factors, with bounds; None: on GPUs with full-rate float64
    """

    def __init__(
        self,
        layer: LayerSource,
        metrics: Sequence[str],
        device: str = "cpu",
        precision: str = "exact",
        qdwh: bool | None = None,
    ) -> None:
        self.layer, self.device, self.precision, self.qdwh = layer, device, precision, qdwh
        self.asked_for = tuple(metrics)
        self.metrics = known(applicable(metrics, layer.kind))
        self._wrong: set[str] = set()
        self._blocked: tuple[BlockedChannels | None, BlockedSide | None] | None = None
        self.workspace = Workspace()
        # a small layer is kept in memory, another is read again for each comparison
        self._centred = held(layer, device) if _any(self.metrics, "channels") else layer
        (side,), _ = collect([self._centred], [self._wanted], device=device, workspace=self.workspace)
        self.side = _deferred(PairSide(layer, side, device)) if is_deferred(device) else PairSide(layer, side, device)

    @property
    def _wanted(self) -> Wanted:
        return Wanted(kernel=_any(self.metrics, "kernel"))

    def compare(self, layer: LayerSource, metrics: Collection[str] | None = None) -> dict[str, Result]:
        """Compare this layer, as y, with the complete network's, as x. Return each metric's result by name.

        metrics : None for all; others are left out
        ValueError: the layers' shapes do not fit together. FloatingPointError: an activation is not finite.
        """
        return self.read(layer).results(metrics)

    def draft(self, layer: LayerSource, reads: Reads | None = None, metrics: Collection[str] | None = None) -> Draft:
        """Begin the comparison that `compare` makes. On a GPU no number is read before the draft's results are.

        reads : those with which the layer's activations were computed, if there were any
        metrics : None for all; others are left out
        """
        return self.read(layer, reads).draft(metrics)

    def read(
        self, layer: LayerSource, reads: Reads | None = None, orders: Sequence[Any] = (), blocks: Blocks | None = None
    ) -> "Read":
        """Read a layer's activations once, for all that is then asked of them, until another layer is read.

        reads : as for `draft`
        orders : permutations of the examples, (n,) each, with which the layer is to be compared too
        blocks : of the examples, without each of which it is (distsim.metrics.jackknife.split)
        Errors are those of `compare`.
        """
        reads = reads or Reads(self.side.reads.deferred)
        nothing = Wanted(channels=False, kernel=False)
        theirs = replace(self._wanted, passing=True)
        sources, wanted, crosses = [self._centred, layer], [nothing, theirs], [(0, 1)]
        if not _any(self.metrics, "channels"):  # then the complete network need not be read again
            _must_fit(self.layer, layer)
            sources, wanted, crosses = [layer], [theirs], []
        each = [reads] * len(sources)
        moved = PermutedCrosses(orders) if orders and crosses else None
        ours = self._blocks_of(blocks) if blocks is not None else None
        own, cross = (OwnBlocks(blocks, 1), CrossBlocks(blocks)) if blocks is not None and crosses else (None, None)
        also = [collector for collector in (moved, own, cross) if collector is not None]
        sides, products = collect(sources, wanted, crosses, self.device, self.workspace, each, also)
        y = PairSide(layer, sides[-1], self.device, reads=reads)
        pair = Pair(self.side, y, products.get((0, 1)), self.precision == "fast", self.qdwh, self.workspace, reads)
        without = None
        if blocks is not None and ours is not None:
            channels = None
            if own is not None and cross is not None and ours[0] is not None:
                channels = ours[0], own.blocked(y.channels), cross.within
            without = Jackknife(pair, blocks, channels, ours[1])
        return Read(self, pair, orders, moved.totals() if moved else [None] * len(orders), without)

    def _blocks_of(self, blocks: Blocks) -> tuple[BlockedChannels | None, BlockedSide | None]:
        """Return the complete network's sums over these blocks, which are made once."""
        if self._blocked is None:
            channels, kernel = None, None
            if _any(self.metrics, "channels"):
                own = OwnBlocks(blocks)
                nothing = Wanted(channels=False, kernel=False)
                collect([self._centred], [nothing], device=self.device, workspace=self.workspace, also=[own])
                channels = own.blocked(self.side.channels)
            if _any(self.metrics, "kernel"):
                kernel = BlockedSide(self.side.kernel, blocks)
            self._blocked = channels, kernel
        return self._blocked

    def learn(self, draft: Draft) -> None:
        """Note which metrics rest on a wrong assumption about the complete network's side.

        From now on they are computed with numbers that are read at once. Otherwise they would be computed twice.
        draft : whose results were returned
        """
        sides = self.side.collected.channels, self.side.collected.kernel
        ours = {each for side in sides if side is not None for each in assumptions_of(side)}
        self._wrong |= {name for name, wrong in draft.wrong.items() if ours.intersection(wrong)}


@dataclass(frozen=True, eq=False)
class Read:
    """A layer that a `Reference` has read, until it reads another."""

    reference: Reference
    pair: Pair
    orders: Sequence[Any]
    crosses: Sequence[Any]  # of each order; None without metrics over channels
    without: Jackknife | None

    def draft(self, metrics: Collection[str] | None = None) -> Draft:
        """Begin the comparison, as `Reference.draft`."""
        return self.pair.draft(self._chosen(metrics), self.reference._wrong)

    def results(self, metrics: Collection[str] | None = None) -> dict[str, Result]:
        """Return each metric's result by name, as `Reference.compare`."""
        draft = self.draft(metrics)
        results = draft.results()
        self.reference.learn(draft)
        return results

    def by_chance(self, place: int, metrics: Collection[str] | None = None) -> dict[str, Result]:
        """Return each metric's result with the examples in the order at this place, by name."""
        chosen = self._chosen(metrics)
        return permuted(self.pair, self.orders[place], self.crosses[place], chosen).results(chosen)

    def without_blocks(self, metrics: Collection[str] | None = None) -> dict[str, Several]:
        """Return each metric's values without each block, by name."""
        if self.without is None:
            raise AssertionError("no blocks were read")
        return self.without.values(self._chosen(metrics))

    def _chosen(self, metrics: Collection[str] | None) -> list[Metric]:
        return [each for each in self.reference.metrics if metrics is None or each.name in metrics]


def compare_pairs(
    layers: Sequence[LayerSource],
    pairs: Sequence[tuple[int, int]],
    metrics: Sequence[str],
    device: str = "cpu",
    precision: str = "exact",
    qdwh: bool | None = None,
) -> dict[tuple[int, int], dict[str, Result]]:
    """Compare the pairs (i, j) of layers, reading each layer once. Return the results by pair and metric.

    Results, errors and `qdwh` are those of `Reference`. All layers' statistics are in memory together: for a layer with
    more features than examples an n x n float64 matrix and its Cholesky factor.
    """
    return {
        pair: results
        for pair, (results, _) in compare_tile(layers, pairs, metrics, device=device, precision=precision, qdwh=qdwh)
    }


def compare_tile(
    layers: Sequence[LayerSource],
    pairs: Sequence[tuple[int, int]],
    metrics: Sequence[str],
    with_se: Sequence[str] = (),
    blocks: Blocks = (),
    *,
    device: str = "cpu",
    precision: str = "exact",
    qdwh: bool | None = None,
) -> Iterator[tuple[tuple[int, int], tuple[dict[str, Result], dict[str, Several]]]]:
    """Yield what `compare_pairs` returns of each pair, and the values of the metrics `with_se` without each block.

    blocks : of the examples (distsim.metrics.jackknife.split). Their sums of channels are in memory for all layers and
        all pairs together: `BLOCKS` matrices of channels by channels each.
    """
    values, errors = known(metrics), known(with_se)
    every = tuple(dict.fromkeys((*values, *errors)))
    wanted = Wanted(kernel=_any(every, "kernel"))
    crosses = list(pairs) if _any(every, "channels") else []
    own, within = list[OwnBlocks](), dict[tuple[int, int], CrossBlocks]()
    if _any(errors, "channels"):
        own = [OwnBlocks(blocks, place) for place in range(len(layers))]
        within = {pair: CrossBlocks(blocks, pair) for pair in pairs}
    collected, products = collect(layers, [wanted] * len(layers), crosses, device, also=[*own, *within.values()])
    sides = [PairSide(layer, side, device) for layer, side in zip(layers, collected, strict=True)]
    sides = [_deferred(side) for side in sides] if is_deferred(device) else sides
    of_channels = [each.blocked(side.channels) for each, side in zip(own, sides, strict=False)]
    over_kernels = _any(errors, "kernel")
    of_kernels = [BlockedSide(side.kernel, blocks) if over_kernels else None for side in sides]
    workspace = Workspace()
    for i, j in pairs:
        reads = Reads(sides[i].reads.deferred)
        pair = Pair(sides[i], sides[j], products.get((i, j)), precision == "fast", qdwh, workspace, reads)
        found = pair.results(metric for metric in values if metric.applies_to(layers[i].kind))
        channels = (of_channels[i], of_channels[j], within[i, j].within) if own else None
        without = Jackknife(pair, blocks, channels, of_kernels[i], of_kernels[j])
        yield (i, j), (found, without.values(metric for metric in errors if metric.applies_to(layers[i].kind)))


def _deferred(side: PairSide) -> PairSide:
    """Return a side that was collected with numbers that were read at once, and defers all further ones."""
    reads, (channels, kernel) = Reads(deferred=True), (side.collected.channels, side.collected.kernel)
    collected = Side(channels and replace(channels, reads=reads), kernel and replace(kernel, reads=reads))
    return replace(side, collected=collected, reads=reads)


def _any(metrics: Iterable[Metric], view: str) -> bool:
    return any(metric.view == view for metric in metrics)


def _must_fit(ours: LayerSource, theirs: LayerSource) -> None:
    if theirs.shape[:-1] != ours.shape[:-1]:
        raise ValueError(f"layer {theirs.name}: shapes {ours.shape} and {theirs.shape} do not fit together")
