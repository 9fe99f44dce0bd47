"""Comparison of any two networks: `compare` returns the similarity of each layer of one to each layer of the other.

Both networks run on the same inputs once. Their layers' outputs are kept in memory. What the metrics need of a layer is
computed once, however many layers it is compared with.
"""

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from distsim.comparison.beside import MOST, Beside, Cells
from distsim.comparison.pair import Pair, PairSide
from distsim.comparison.recording import PANEL_BYTES, Data, LayerOutput, Recording, record
from distsim.comparison.sides import PRECISIONS, Side, Wanted, collect
from distsim.comparison.similarities import LeftOut, Row, Similarities
from distsim.comparison.spread import BlockedChannels, CrossBlocks, Jackknife, OwnBlocks, PermutedCrosses
from distsim.environment import require_device
from distsim.metrics.arrays import UnreliableSimilarity, Workspace
from distsim.metrics.registry import METRICS, Metric, known

__all__ = ["Similarities", "compare"]
CROSS_BYTES = 2**29  # cross-products of channels that are in memory at a time


def compare(
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data,
    *,
    layers: Sequence[Any] | None = None,
    metrics: str | Sequence[str] = ("cka",),
    channels: Mapping[str, int] | None = None,
    batch_size: int = 128,
    device: str = "cpu",
    precision: str = "exact",
    measure: str | Sequence[str] = (),
    permutations: int = 0,
    names: tuple[str, str] | None = None,
) -> "Similarities":
    """Return the similarity of every layer of `model_a` to every layer of `model_b`, on the same inputs.

    In the result, x is model_a and y is model_b.

    data        a tensor of inputs (n, ...), which is cut into batches of `batch_size`; or an iterable of batches, as a
                DataLoader gives them: each is a tensor, or a tuple or list that begins with one. It is read once
    layers      names as in `named_modules()`, for both models; or a pair of such lists, one for each model. None means
                the default: convolutions and linear layers whose output has a row for each input, in the order in
                which they run. Other layers with weights are left out; a `LeftOut` warning and the result's `left_out`
                name them
    metrics     names in `distsim.metrics.registry.METRICS`, your own included
    channels    which dimension of a layer's output is its channels, by the layer's name. Needed where that is not
                dimension 1 of (n, c, h, w) or the last of (n, p) and (n, t, d). Linear layers and layer norms (last),
                Conv1d and BatchNorm1d (first) are known
    device      where similarities are computed: cpu or cuda. Models run where their parameters are
    precision   exact or fast, as for `distsim.comparison.layer.Reference`
    measure     se: the column `se`, each value's standard error over examples, by leaving out each tenth of them. It
                takes a tenth of the values' time where layers have more features than inputs, and up to four times as
                long as they where they have fewer. se_nbs: the same of NBS and of other metrics of kernels that must be
                computed ten times for it, at ten times the cost
    permutations   number of permutations of model_b's inputs, each at the cost of the comparison: the columns `null`
                and, from 20 on, `z` of every metric, and what the best of many layers has by chance
    names       what heat maps call the two models. None: their classes, with an x and a y where these are equal

    Models run in eval mode without gradients and are left as they were. A layer's output is copied when the layer has
    run, so later in-place changes do not matter. If a layer runs several times in a forward pass, such as a ReLU that
    is used twice, its last output counts. Of a tuple the first tensor counts.

    Metrics over channels need equal positions. Layers of unequal height, width or length are reduced to the smaller of
    each by adaptive average pooling. Layers of different kinds, (n, p), (n, t, d) and (n, c, h, w), are reduced to the
    mean over positions. Metrics over kernels compare any two layers as they are. Cosine compares only layers of equal
    shape; other pairs have no value.

    The activations of all layers of both models are in memory, 4 bytes each. cka or nbs adds up to 8·n² bytes, or twice
    that, for each layer of model_a, and as much again if nbs needs float64 products.

    Values that say little, for example because there are too few inputs, give one `UnreliableSimilarity` warning.
    FloatingPointError: an activation is not finite. MemoryError: the activations will clearly not fit. ValueError,
    TypeError: a layer's or metric's name, a batch or an output is not as described.
    """
    chosen, beside = _metrics(metrics), _beside(measure, permutations)
    _require_names(names)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    require_device(device)
    names_a, names_b = _both(layers)
    recordings = [Recording("model_a", model_a, names_a, channels or {})]
    if model_b is model_a and names_b == names_a:
        recordings *= 2
    else:
        recordings.append(Recording("model_b", model_b, names_b, channels or {}))
    record(recordings, data, batch_size, kernels=any(metric.view == "kernel" for metric in chosen))
    ours, theirs = (recording.outputs for recording in recordings)
    left_out = {recording.label: recording.left_out for recording in recordings if recording.left_out}
    similarities = _similarities(ours, theirs, chosen, device, precision == "fast", beside)
    called = _names_of(model_a, model_b) if names is None else (names[0], names[1])
    similarities = replace(similarities, left_out=left_out, names=called)
    for model, reasons in left_out.items():
        named = "; ".join(f"{name!r}: {reason}" for name, reason in reasons.items())
        warnings.warn(f"{model}: layers are left out ({named})", LeftOut, stacklevel=2)
    if similarities.doubts:
        warnings.warn(similarities.doubts, UnreliableSimilarity, stacklevel=2)
    return similarities


# --- which layers, which metrics -------------------------------------------------------------------------------------


def _metrics(names: str | Sequence[str]) -> tuple[Metric, ...]:
    chosen = known(dict.fromkeys([names] if isinstance(names, str) else names))
    if not chosen:
        raise ValueError(f"metrics is empty; there are {tuple(METRICS)}")
    return chosen


def _require_names(names: object) -> None:
    if names is not None and not (
        isinstance(names, tuple | list) and len(names) == 2 and all(isinstance(name, str) and name for name in names)
    ):
        raise ValueError(f"names must be two names, of model_a and of model_b, got {names!r}")


def _names_of(model_a: nn.Module, model_b: nn.Module) -> tuple[str, str]:
    """Return what to call two models: by their classes, if these differ."""
    x, y = type(model_a).__name__, type(model_b).__name__
    return (x, y) if x != y or model_a is model_b else (f"{x} (x)", f"{y} (y)")


def _beside(measure: str | Sequence[str], permutations: int) -> "Beside":
    names = (measure,) if isinstance(measure, str) else tuple(measure)
    if unknown := sorted(set(names) - {"se", "se_nbs"}):
        raise ValueError(f"measure takes se and se_nbs, got {', '.join(map(repr, unknown))}")
    if isinstance(permutations, bool) or not isinstance(permutations, int) or not 0 <= permutations <= MOST:
        raise ValueError(f"permutations must be a whole number from 0 to {MOST:,}, got {permutations!r}")
    return Beside(names, permutations)


def _both(layers: Sequence[Any] | None) -> tuple[list[str] | None, list[str] | None]:
    """Return the layers' names for each model, None where it is to have the default."""
    pair: list[Any] = [layers, layers]
    if layers is not None and len(layers) == 2 and not any(isinstance(names, str) for names in layers):
        pair = list(layers)
    for names in pair:
        if names is None:
            continue
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"layers must be a list of names, or a pair of such lists, got {layers!r}")
        if not names or len(set(names)) < len(names):
            raise ValueError(f"layers must name at least one layer, and each once, got {list(names)}")
    ours, theirs = (None if names is None else list(names) for names in pair)
    return ours, theirs


# --- pairs of layers -------------------------------------------------------------------------------------------------

Results = Iterator[tuple[LayerOutput, LayerOutput, dict[str, Cells]]]
Outputs = Sequence[LayerOutput]


def _similarities(
    ours: Outputs, theirs: Outputs, metrics: Sequence[Metric], device: str, fast: bool, asked: Beside
) -> Similarities:
    """Compare all layers of one model with all of the other by all metrics."""
    beside = asked.of(ours[0].shape[0])
    over_channels = [metric for metric in metrics if metric.view == "channels"]
    over_examples = [metric for metric in metrics if metric.view != "channels"]
    measured: dict[tuple[str, str], dict[str, Cells]] = {}
    for x, y, results in itertools.chain(
        _over_channels(ours, theirs, over_channels, device, beside) if over_channels else (),
        _over_examples(ours, theirs, over_examples, device, fast, beside) if over_examples else (),
    ):
        measured.setdefault((x.name, y.name), {}).update(results)
    names_x, names_y = (tuple(output.name for output in side) for side in (ours, theirs))
    names = tuple(metric.name for metric in metrics)
    rows = (
        Row(layer_x=x, layer_y=y, metric=name, **measured[x, y][name])
        for x, y, name in itertools.product(names_x, names_y, names)
    )
    return Similarities(names_x, names_y, names, tuple(rows))


def _over_channels(ours: Outputs, theirs: Outputs, metrics: Sequence[Metric], device: str, beside: Beside) -> Results:
    """Compare layers over channels, one size at a time. A layer is read, pooled and whitened once for each size."""
    groups: dict[tuple[int, int], list[tuple[LayerOutput, LayerOutput]]] = {}
    for x, y in itertools.product(ours, theirs):
        groups.setdefault(_common_size(x, y), []).append((x, y))
    for size, pairs in groups.items():
        sides: dict[LayerOutput, PairSide] = {}
        of_channels: dict[LayerOutput, BlockedChannels] = {}
        for portion in _portions(pairs, beside.products):
            layers = list(dict.fromkeys(itertools.chain.from_iterable(portion)))
            rows = _panel_rows(layers, size)
            new = [place for place, layer in enumerate(layers) if layer not in sides]
            places = [(layers.index(x), layers.index(y)) for x, y in portion]
            own = {place: OwnBlocks(beside.blocks, place) for place in new if beside.blocks}
            within = {two: CrossBlocks(beside.blocks, two) for two in places if beside.blocks}
            moved = {two: PermutedCrosses(beside.orders, two) for two in places if beside.orders}
            collected, crosses = collect(
                [replace(layer, size=size, panel_rows=rows) for layer in layers],
                [Wanted(channels=place in new, kernel=False) for place in range(len(layers))],
                places,
                device,
                also=[*own.values(), *within.values(), *moved.values()],
            )
            for place, (layer, side) in enumerate(zip(layers, collected, strict=True)):
                sides.setdefault(layer, _side(layer, size, device, side))
                if place in own:
                    of_channels[layer] = own[place].blocked(sides[layer].channels)
            for (x, y), two in zip(portion, places, strict=True):
                pair = Pair(sides[x], sides[y], crosses.pop(two))
                blocked = (of_channels[x], of_channels[y], within.pop(two).within) if within else None
                totals = moved.pop(two).totals() if moved else ()
                yield x, y, beside.cells(pair, metrics, Jackknife(pair, beside.blocks, blocked), totals)


def _over_examples(
    ours: Outputs, theirs: Outputs, metrics: Sequence[Metric], device: str, fast: bool, beside: Beside
) -> Results:
    """Compare layers as they are. The kernel sides of all of `ours` and of one of `theirs` are in memory."""
    sides = {x: _side(x, x.size, device) for x in ours}
    workspace = Workspace()
    for y in theirs:
        side = sides[y] if y in sides else _side(y, y.size, device)
        for x in ours:
            pair = Pair(sides[x], side, fast=fast, workspace=workspace)
            yield x, y, beside.cells(pair, metrics, Jackknife(pair, beside.blocks), [None] * len(beside.orders))


def _side(layer: LayerOutput, size: tuple[int, int], device: str, collected: Side | None = None) -> PairSide:
    """Return the side of a layer pooled to a size. Dead channels are those of the layer before pooling."""
    source = replace(layer, size=size, panel_rows=_panel_rows([layer], size))
    return PairSide(source, collected or Side(), device, layer.dead, layer.of_example)


def _common_size(x: LayerOutput, y: LayerOutput) -> tuple[int, int]:
    if x.positions != y.positions:
        return 1, 1
    return min(x.size[0], y.size[0]), min(x.size[1], y.size[1])


def _portions(
    pairs: Sequence[tuple[LayerOutput, LayerOutput]], products: int = 1
) -> Iterator[list[tuple[LayerOutput, LayerOutput]]]:
    """Yield the pairs in their order, as many at a time as have `CROSS_BYTES` of cross-products.

    products : number of them that are made of a pair
    """
    portion: list[tuple[LayerOutput, LayerOutput]] = []
    total = 0
    for x, y in pairs:
        size = 8 * x.array.shape[3] * y.array.shape[3] * products
        if portion and total + size > CROSS_BYTES:
            yield portion
            portion, total = [], 0
        portion.append((x, y))
        total += size
    yield portion


def _panel_rows(layers: Outputs, size: tuple[int, int]) -> int:
    per_row = sum(8 * size[1] * layer.array.shape[0] * layer.array.shape[3] for layer in layers)
    return max(1, min(size[0], PANEL_BYTES // per_row))
