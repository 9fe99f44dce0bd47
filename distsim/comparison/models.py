"""Any two networks, layer by layer: `compare` gives the similarity of every layer of one to every layer of the other.

Both run over the same inputs, once; what their layers put out is kept in memory; and what the metrics need of one layer
is computed once, however many layers it is compared with.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from distsim.comparison.pair import Pair, PairSide, Result
from distsim.comparison.recording import PANEL_BYTES, Data, LayerOutput, Recording, record
from distsim.comparison.sides import PRECISIONS, Side, Wanted, collect
from distsim.comparison.similarities import Row, Similarities
from distsim.environment import require_cupy
from distsim.metrics.arrays import Workspace
from distsim.metrics.registry import METRICS, Metric, known

__all__ = ["Similarities", "compare"]
CROSS_BYTES = 2**29  # of cross-products of channels that are held at a time


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
) -> "Similarities":
    """Return the similarity of every layer of `model_a` to every layer of `model_b`, on the same inputs.

    In what comes back x is model_a and y is model_b.

    data        a tensor of inputs (n, ...), which is cut into batches of `batch_size`; or an iterable of batches, each
                a tensor or a tuple or list that begins with one, as a DataLoader gives them. Gone through once
    layers      names as in `named_modules()`, for both models, or a pair of lists, one for each, where None means the
                default: convolutions and linear layers whose output has a row for each input, in the order in which
                they run
    metrics     names in `distsim.metrics.registry.METRICS`, own ones included
    channels    the dimension of a layer's output that is its channels, by name, where that is not dimension 1 of
                (n, c, h, w), the last of (n, p) and (n, t, d). Known by themselves: linear and layer norms (last),
                Conv1d and BatchNorm1d (first)
    device      where similarities are computed: cpu, or cuda, with CuPy. Models run where their parameters are
    precision   exact, or fast: as for `distsim.comparison.layer.Reference`

    Models run in eval mode without gradients and are left as they were. Kept is a copy of what a layer puts out, made
    when it runs, so that what is done in place afterwards does not matter; of a layer that runs several times in a
    forward pass, such as a ReLU that is used twice, it is the last output; of a tuple the first tensor.

    Metrics over channels need equal positions: layers of unequal height, width or length are brought to the smaller
    of each by adaptive average pooling, and layers of different kinds, (n, p), (n, t, d) and (n, c, h, w), to the mean
    over positions. Metrics over kernels compare any two layers as they are; cosine only those of equal shape, the
    others have no value.

    In memory are the activations of all layers of both models, 4 bytes each; one cka or nbs adds up to 8·n² bytes, or
    twice that, for each layer of model_a, and as much again where nbs needs float64 products.

    FloatingPointError: an activation is not finite. MemoryError: the activations will clearly not fit. ValueError,
    TypeError: names of layers or metrics, batches or outputs that are none of the above.
    """
    chosen = _metrics(metrics)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    require_cupy(device)
    names_a, names_b = _both(layers)
    watched = [Recording("model_a", model_a, names_a, channels or {})]
    if model_b is model_a and names_b == names_a:
        watched *= 2
    else:
        watched.append(Recording("model_b", model_b, names_b, channels or {}))
    record(watched, data, batch_size, kernels=any(metric.view == "kernel" for metric in chosen))
    ours, theirs = (one.outputs for one in watched)
    over_channels = [metric for metric in chosen if metric.view == "channels"]
    over_examples = [metric for metric in chosen if metric.view != "channels"]
    found: dict[tuple[str, str], dict[str, Result]] = {}
    for x, y, results in itertools.chain(
        _over_channels(ours, theirs, over_channels, device) if over_channels else (),
        _over_examples(ours, theirs, over_examples, device, precision == "fast") if over_examples else (),
    ):
        found.setdefault((x.name, y.name), {}).update(results)
    names_x, names_y = (tuple(output.name for output in side) for side in (ours, theirs))
    names = tuple(metric.name for metric in chosen)
    rows = (
        Row(layer_x=x, layer_y=y, metric=name, **found[x, y][name])
        for x, y, name in itertools.product(names_x, names_y, names)
    )
    return Similarities(names_x, names_y, names, tuple(rows))


# --- which layers, which metrics -------------------------------------------------------------------------------------


def _metrics(names: str | Sequence[str]) -> tuple[Metric, ...]:
    chosen = known(dict.fromkeys([names] if isinstance(names, str) else names))
    if not chosen:
        raise ValueError(f"metrics is empty; there are {tuple(METRICS)}")
    return chosen


def _both(layers: Sequence[Any] | None) -> tuple[list[str] | None, list[str] | None]:
    """The names for each model; None: its default."""
    pair: list[Any] = [layers, layers]
    if layers is not None and len(layers) == 2 and not any(isinstance(one, str) for one in layers):
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

Results = Iterator[tuple[LayerOutput, LayerOutput, dict[str, Result]]]
Outputs = Sequence[LayerOutput]


def _over_channels(ours: Outputs, theirs: Outputs, metrics: Sequence[Metric], device: str) -> Results:
    """Layers of one size at a time: each is read, pooled and whitened once per size that it is compared at."""
    groups: dict[tuple[int, int], list[tuple[LayerOutput, LayerOutput]]] = {}
    for x, y in itertools.product(ours, theirs):
        groups.setdefault(_common_size(x, y), []).append((x, y))
    for size, pairs in groups.items():
        sides: dict[LayerOutput, PairSide] = {}
        for some in _portions(pairs):
            layers = list(dict.fromkeys(itertools.chain.from_iterable(some)))
            rows = _panel_rows(layers, size)
            collected, crosses = collect(
                [replace(layer, size=size, panel_rows=rows) for layer in layers],
                [Wanted(channels=layer not in sides, kernel=False) for layer in layers],
                [(layers.index(x), layers.index(y)) for x, y in some],
                device,
            )
            for layer, side in zip(layers, collected, strict=True):
                sides.setdefault(layer, _side(layer, size, device, side))
            for x, y in some:
                pair = Pair(sides[x], sides[y], crosses.pop((layers.index(x), layers.index(y))))
                yield x, y, pair.results(metrics)


def _over_examples(ours: Outputs, theirs: Outputs, metrics: Sequence[Metric], device: str, fast: bool) -> Results:
    """Layers as they are. In memory are the kernel sides of all of `ours` and of one of `theirs`."""
    held = {x: _side(x, x.size, device) for x in ours}
    workspace = Workspace()
    for y in theirs:
        side = held[y] if y in held else _side(y, y.size, device)
        for x in ours:
            yield x, y, Pair(held[x], side, fast=fast, workspace=workspace).results(metrics)


def _side(layer: LayerOutput, size: tuple[int, int], device: str, collected: Side | None = None) -> PairSide:
    """The layer, pooled to a size; `dead` counts channels of the layer as it is."""
    source = replace(layer, size=size, panel_rows=_panel_rows([layer], size))
    return PairSide(source, collected or Side(), device, layer.dead, layer.of_example)


def _common_size(x: LayerOutput, y: LayerOutput) -> tuple[int, int]:
    if x.positions != y.positions:
        return 1, 1
    return min(x.size[0], y.size[0]), min(x.size[1], y.size[1])


def _portions(pairs: Sequence[tuple[LayerOutput, LayerOutput]]) -> Iterator[list[tuple[LayerOutput, LayerOutput]]]:
    """The pairs in their order, so many at a time as have `CROSS_BYTES` of cross-products."""
    portion: list[tuple[LayerOutput, LayerOutput]] = []
    held = 0
    for x, y in pairs:
        size = 8 * x.array.shape[3] * y.array.shape[3]
        if portion and held + size > CROSS_BYTES:
            yield portion
            portion, held = [], 0
        portion.append((x, y))
        held += size
    yield portion


def _panel_rows(layers: Outputs, size: tuple[int, int]) -> int:
    per_row = sum(8 * size[1] * layer.array.shape[0] * layer.array.shape[3] for layer in layers)
    return max(1, min(size[0], PANEL_BYTES // per_row))
