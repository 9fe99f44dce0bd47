"""Comparison of any networks: `compare` returns the similarity of each layer of one to each layer of the other.

All networks run on the same inputs once. Their layers' outputs are kept in memory. What the metrics need of a layer is
computed once for a pair of networks, however many layers it is compared with.
"""

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from distsim.comparison.arguments import (
    channels_of,
    measures_of,
    metrics_of,
    progress_of,
    require_channels,
    whole,
)
from distsim.comparison.beside import MOST, Beside, Cells
from distsim.comparison.choosing import Selector, selections
from distsim.comparison.given import Given, Model, models_of
from distsim.comparison.inputs import Choice, Data, Feed, Forward, feeds
from distsim.comparison.pair import Pair, PairSide
from distsim.comparison.progress import Bar, progress_bar
from distsim.comparison.recording import PANEL_BYTES, LayerOutput, Recording, record
from distsim.comparison.several import Comparisons
from distsim.comparison.sides import PRECISIONS, Side, Wanted, collect
from distsim.comparison.similarities import LeftOut, Row, Similarities
from distsim.comparison.spread import BlockedChannels, CrossBlocks, Jackknife, OwnBlocks, PermutedCrosses
from distsim.environment import require_device
from distsim.metrics.arrays import UnreliableSimilarity, Workspace
from distsim.metrics.registry import Metric

__all__ = ["Comparisons", "Similarities", "compare"]
CROSS_BYTES = 2**29  # cross-products of channels that are in memory at a time


def compare(
    model_a: Model | Mapping[str, Model] | Sequence[Model],
    model_b: Model | Data = None,
    data: Data = None,
    *,
    layers: Any = None,
    metrics: str | Sequence[str] = ("cka",),
    batch: Choice | Mapping[str, Choice] | None = None,
    forward: Forward | Mapping[str, Forward] | None = None,
    channels: Mapping[str, int] | None = None,
    batch_size: int = 128,
    device: str = "cpu",
    precision: str = "exact",
    measure: str | Sequence[str] = (),
    permutations: int = 0,
    progress: bool | None = None,
) -> Any:
    """Return the similarity of every layer of one model to every layer of another, on the same inputs.

        compare(model_a, model_b, data)                    Similarities, where x is model_a and y is model_b
        compare({"a": a, "b": b, "c": c}, data)            Comparisons: each two of them, under these names

    A model is an `nn.Module`. It may also be activations that exist already: an array (n, ...), or a dict of arrays by
    layer. If all models are activations, there are no data. A dict of two models gives Similarities, too. A list of
    models names them model_a, model_b, ...

    data        a tensor or a NumPy array of inputs (n, ...), or a dict of these (Hugging Face's BatchEncoding), which
                are cut into batches of `batch_size`; a Dataset; or an iterable of batches, as a DataLoader gives them.
                It is read once
    layers      what is compared: a name as in `named_modules()`, a pattern ("layer*.relu"; * stands for dots, too), a
                type of modules (nn.Conv2d), or a list of these. One choice for all models, or a dict by their names, or
                a list of lists, one for each model. None means the default: convolutions and linear layers whose output
                has a row for each input, in the order in which they run. What a pattern, a type or the default finds
                and cannot be compared is left out: a `LeftOut` warning and the result's `left_out` name it
    metrics     names in `distsim.metrics.registry.METRICS`, your own included
    batch       what the model is given of a batch: a key of a dict, a place in a tuple, or a function of the batch that
                returns a tensor, a dict of keywords, or a tuple of arguments. By default a tensor is given as it is, of
                a tuple or list the first, and a dict by keywords, without those that the model's `forward` has not
    forward     a function (model, batch) that runs the model, where `model(batch)` is not what is wanted. Both may be a
                dict by the models' names
    channels    which dimension of a layer's output is its channels, by the layer's name. Needed where that is not
                dimension 1 of (n, c, h, w) or the last of (n, p) and (n, t, d). Linear layers and layer norms (last),
                Conv1d and BatchNorm1d (first) are known
    device      where similarities are computed: cpu or cuda. Models run where their parameters are
    precision   exact or fast, as for `distsim.comparison.layer.Reference`
    measure     se: the column `se`, each value's standard error over examples, by leaving out each tenth of them. It
                takes a tenth of the values' time where layers have more features than inputs, and up to four times as
                long as they where they have fewer. se_nbs: the same of NBS and of other metrics of kernels that must be
                computed ten times for it, at ten times the cost
    permutations   number of permutations of y's inputs, each at the cost of the comparison: the columns `null` and,
                from 20 on, `z` of every metric, and what the best of many layers has by chance
    progress    whether a bar on stderr says how far it is. By default after three seconds, on a terminal or in a
                notebook

    Models run in eval mode without gradients and are left as they were. A layer's output is copied when the layer has
    run, so later in-place changes do not matter. If a layer runs several times in a forward pass, such as a ReLU that
    is used twice, its last output counts. Of a tuple or a dict the first tensor counts.

    Metrics over channels need equal positions. Layers of unequal height, width or length are reduced to the smaller of
    each by adaptive average pooling. Layers of different kinds, (n, p), (n, t, d) and (n, c, h, w), are reduced to the
    mean over positions. Metrics over kernels compare any two layers as they are. Cosine compares only layers of equal
    shape; other pairs have no value.

    The activations of all layers of all models are in memory, 4 bytes each, or 8 where an array is given that float32
    does not hold. cka or nbs adds up to 8·n² bytes, or twice
    that, for each layer of x, and as much again if nbs needs float64 products.

    Values that say little, for example because there are too few inputs, give one `UnreliableSimilarity` warning.
    FloatingPointError: an activation is not finite. MemoryError: the activations will clearly not fit. ValueError,
    TypeError: a layer's or metric's name, a batch or an output is not as described. What a model's own code raises has
    a note of what it was given.
    """
    chosen = metrics_of(metrics)
    beside = Beside(measures_of(measure), whole("permutations", permutations, 0, MOST))
    channels, progress = channels_of(channels), progress_of(progress)
    batch_size = whole("batch_size", batch_size, 1)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    require_device(device)
    models, named, data = models_of(model_a, model_b, data)
    names = list(models)
    wanted = zip(names, selections(layers, names), feeds(batch, forward, names), strict=True)
    with progress_bar(progress) as bar:
        sides = _sides(models, wanted, channels)
        kernels = any(metric.view == "kernel" for metric in chosen)
        given = [output.name for side in sides if isinstance(side, Given) for output in side.outputs]
        if recordings := [side for side in sides if isinstance(side, Recording)]:
            record(recordings, data, batch_size, kernels, bar, given)
        else:
            require_channels(channels, given)
        _require_equal_lengths(sides)
        pairs = {}
        for (x, ours), (y, theirs) in itertools.combinations(zip(names, sides, strict=True), 2):
            similarities = _similarities(ours.outputs, theirs.outputs, chosen, device, precision == "fast", beside, bar)
            left_out = {side.label: side.left_out for side in (ours, theirs) if side.left_out}
            called = (x, y) if named or len(models) > 2 else _classes(models[x], models[y])
            pairs[x, y] = replace(similarities, left_out=left_out, model_x=called[0], model_y=called[1])
    found = next(iter(pairs.values())) if len(pairs) == 1 else Comparisons(pairs)
    for model, reasons in found.left_out.items():
        listed = "; ".join(f"{name!r}: {reason}" for name, reason in reasons.items())
        warnings.warn(f"{model}: layers are left out ({listed})", LeftOut, stacklevel=2)
    if found.doubts:
        warnings.warn(found.doubts, UnreliableSimilarity, stacklevel=2)
    return found


# --- the models ------------------------------------------------------------------------------------------------------


def _sides(
    models: Mapping[str, Model],
    wanted: Iterable[tuple[str, tuple[Selector, ...] | None, Feed]],
    channels: Mapping[str, int],
) -> list[Recording | Given]:
    """Return each model's side. A model that is given twice, with the same layers and inputs, has one."""
    made: dict[tuple[int, Any, Feed], Recording | Given] = {}
    sides = []
    for name, selectors, feed in wanted:
        model = models[name]
        key = id(model), selectors, feed
        if key not in made:
            is_network = isinstance(model, nn.Module)
            made[key] = (
                Recording(name, model, selectors, channels, feed)
                if is_network
                else Given(name, model, selectors, channels)
            )
        sides.append(made[key])
    return sides


def _require_equal_lengths(sides: Sequence[Recording | Given]) -> None:
    lengths = {side.label: side.outputs[0].shape[0] for side in sides}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(f"models must have the same examples, in the same order: {listed}")


# --- their names -----------------------------------------------------------------------------------------------------


def _classes(x: Model, y: Model) -> tuple[str, str]:
    """Return what to call two models that nobody named: by their classes, if they are modules."""
    if not (isinstance(x, nn.Module) and isinstance(y, nn.Module)):
        return "model x", "model y"
    of_x, of_y = type(x).__name__, type(y).__name__
    return (of_x, of_y) if of_x != of_y or x is y else (f"{of_x} (x)", f"{of_y} (y)")


# --- pairs of layers -------------------------------------------------------------------------------------------------

Results = Iterator[tuple[LayerOutput, LayerOutput, dict[str, Cells]]]
Outputs = Sequence[LayerOutput]


def _similarities(
    ours: Outputs, theirs: Outputs, metrics: Sequence[Metric], device: str, fast: bool, asked: Beside, bar: Bar
) -> Similarities:
    """Compare all layers of one model with all of the other by all metrics."""
    beside = asked.of(ours[0].shape[0])
    over_channels = [metric for metric in metrics if metric.view == "channels"]
    over_examples = [metric for metric in metrics if metric.view != "channels"]
    measured: dict[tuple[str, str], dict[str, Cells]] = {}
    bar.begin("comparing layers", len(ours) * len(theirs) * (bool(over_channels) + bool(over_examples)))
    for x, y, results in itertools.chain(
        _over_channels(ours, theirs, over_channels, device, beside) if over_channels else (),
        _over_examples(ours, theirs, over_examples, device, fast, beside) if over_examples else (),
    ):
        measured.setdefault((x.name, y.name), {}).update(results)
        bar.step()
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
