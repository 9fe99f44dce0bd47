"""Any two networks, layer by layer: `compare` gives the similarity of every layer of one to every layer of the other.

Both run over the same inputs, once; what their layers put out is kept in memory; and what the metrics need of one layer
is computed once, however many layers it is compared with.
"""

import contextlib
import difflib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from distsim.comparison import require_device
from distsim.metrics.arrays import Undefined
from distsim.metrics.channels import ChannelPair, ChannelSide
from distsim.metrics.kernels import KernelPair, KernelSide, Unresolved
from distsim.metrics.registry import METRICS, Metric, known
from distsim.statistics import PRECISIONS, Wanted, collect, free_memory, on_device

__all__ = ["Similarities", "compare"]

Data = torch.Tensor | Iterable[Any]
Row = dict[str, Any]

DEFAULT = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
SEQUENCES = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d)  # their 3-D outputs are (n, c, t)
PANEL_BYTES = 2**28  # of float64 activations that are centred at a time, all layers together
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
    """The similarity of every layer of `model_a` to every layer of `model_b`, on the same inputs.

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
    precision   exact, or fast: as for `distsim.comparison.Reference`

    Models run in eval mode without gradients and are left as they were. Kept is a copy of what a layer puts out, made
    when it runs, so that what is done in place afterwards does not matter; of a layer that runs several times in a
    forward pass, such as a ReLU that is used twice, it is the last output; of a tuple the first tensor.

    Metrics over channels need equal positions: layers of unequal height, width or length are brought to the smaller
    of each by adaptive average pooling, and layers of different kinds, (n, p), (n, t, d) and (n, c, h, w), to the mean
    over positions. Metrics over kernels compare any two layers as they are; cosine only those of equal shape, the
    others have NaN.

    In memory are the activations of all layers of both models, 4 bytes each; one cka or nbs adds up to 8·n² bytes, or
    twice that, for each layer of model_a.

    FloatingPointError: an activation is not finite. MemoryError: the activations will clearly not fit. ValueError,
    TypeError: names of layers or metrics, batches or outputs that are none of the above.
    """
    chosen = _metrics(metrics)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    require_device(device)
    names_a, names_b = _both(layers)
    watched = [_Watched("model_a", model_a, names_a, channels or {})]
    if model_b is model_a and names_b == names_a:
        watched *= 2
    else:
        watched.append(_Watched("model_b", model_b, names_b, channels or {}))
    _run(watched, data, batch_size, kernels=any(metric.view == "kernel" for metric in chosen))
    ours, theirs = (one.outputs for one in watched)
    rows: dict[tuple[str, str, str], Row] = {}
    for view, results in (("channels", _by_channels), ("kernel", _by_kernels), ("output", _by_outputs)):
        if of_view := [metric for metric in chosen if metric.view == view]:
            for x, y, metric, row in results(ours, theirs, of_view, device, precision):
                rows[x.name, y.name, metric.name] = row
    layers_a, layers_b = (tuple(output.name for output in side) for side in (ours, theirs))
    order = itertools.product(layers_a, layers_b, (metric.name for metric in chosen))
    return Similarities(layers_a, layers_b, tuple(metric.name for metric in chosen), tuple(rows[key] for key in order))


@dataclass(frozen=True)
class Similarities:
    """What `compare` found. `rows` are plain dicts; tables need pandas and heat maps matplotlib."""

    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...] = field(repr=False)

    @cached_property
    def table(self) -> Any:
        """A DataFrame with a row for each layer of a, layer of b and metric.

        value           NaN where it is undefined, and the reason
        n, columns_a, columns_b   rows and columns that the metric saw
        rank_a, rank_b  independent channels among them; of metrics over channels, else missing
        dead_a, dead_b  channels of the layer that are constant
        """
        import pandas as pd

        return pd.DataFrame(self.rows).astype({"rank_a": "Int64", "rank_b": "Int64"})

    def matrix(self, metric: str | None = None) -> Any:
        """A DataFrame, layers of a x layers of b. The metric may be left out where there is one only."""
        import pandas as pd

        if metric is None and len(self.metrics) == 1:
            (metric,) = self.metrics
        if metric not in self.metrics:
            raise ValueError(f"metric must be one of {self.metrics}, got {metric!r}")
        values = np.array([row["value"] for row in self.rows if row["metric"] == metric])
        return pd.DataFrame(
            values.reshape(len(self.layers_a), len(self.layers_b)),
            pd.Index(self.layers_a, name="layer_a"),
            pd.Index(self.layers_b, name="layer_b"),
        )

    def heatmap(self, metric: str | None = None) -> Any:
        """A matplotlib Figure of the matrix, first layers at the lower left; of every metric, if none is named.

        `figure.savefig(path)` writes it, or `distsim.figures.render`, which gives the same bytes every time.
        """
        return _heatmap({name: self.matrix(name) for name in ([metric] if metric else self.metrics)})


# --- what the models put out -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Output:
    """What a layer puts out for all examples; a `distsim.statistics.LayerSource`, pooled to `size`."""

    name: str
    array: NDArray[np.float32]  # (n, h, w, c); h or w are 1 where there is none
    positions: int  # dimensions of positions: 0 of (n, p), 1 of (n, t, d), 2 of (n, c, h, w)
    size: tuple[int, int]
    panel_rows: int = 1
    kind: str = "any"
    dtype: str = "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[0], *self.size, self.array.shape[3]

    @property
    def of_example(self) -> tuple[int, ...]:
        return self.array.shape[1 : 1 + self.positions] + self.array.shape[3:]

    @cached_property
    def dead(self) -> int:
        """Channels that are constant. Exactly: float32 values have no rounding to allow for."""
        axes = (0, 1, 2)
        return int((self.array.max(axis=axes) == self.array.min(axis=axes)).sum())

    def panels(self, rows: int) -> Iterator[NDArray[Any]]:
        for start in range(0, self.size[0], rows):
            if self.size == self.array.shape[1:3]:
                yield self.array[:, start : start + rows]
            else:
                stop = min(start + rows, self.size[0])
                yield np.concatenate([self._pooled(row) for row in range(start, stop)], axis=1)

    def _pooled(self, row: int) -> NDArray[np.float64]:
        """(n, 1, w, c), a row of the adaptive average pooling. In float64 constant channels stay constant."""
        (h, w), (from_h, from_w) = self.size, self.array.shape[1:3]
        first, last = row * from_h // h, -(-(row + 1) * from_h // h)
        examples = max(1, PANEL_BYTES // (8 * (last - first) * from_w * self.array.shape[3]))
        pooled = [
            F.adaptive_avg_pool2d(block[:, first:last].double().permute(0, 3, 1, 2), (1, w)).permute(0, 2, 3, 1)
            for block in torch.from_numpy(self.array).split(examples)
        ]
        return torch.cat(pooled).numpy()


class _Watched:
    """A model and what its layers have put out so far."""

    def __init__(self, label: str, model: nn.Module, names: list[str] | None, channels: Mapping[str, int]) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"{label} must be a torch.nn.Module, got {type(model).__name__}")
        self.label, self.model = label, model
        self._named, self.channels = names is not None, channels
        self._modules = _default(model) if names is None else _of_names(label, model, names)
        self._blocks: dict[str, list[torch.Tensor]] = {}
        self._positions: dict[str, int] = {}
        held = next(itertools.chain(model.parameters(), model.buffers()), None)
        self._device = None if held is None else held.device

    def run(self, inputs: torch.Tensor) -> None:
        outputs: dict[str, torch.Tensor] = {}

        def keep(name: str, output: Any) -> None:
            outputs.pop(name, None)  # so that the order is that of the last calls
            try:
                outputs[name] = self._copied(name, output, len(inputs))
            except (TypeError, ValueError):
                if self._named or self._blocks or name in self.channels:
                    raise

        with contextlib.ExitStack() as hooks:  # only now: the other model may have the same modules
            for name, module in self._modules.items():
                handle = module.register_forward_hook(lambda module, args, output, name=name: keep(name, output))
                hooks.callback(handle.remove)
            self.model(inputs.to(self._device or inputs.device, copy=True))  # the model may write into it
        if not self._blocks:
            self._settle(list(outputs))
        for name, blocks in self._blocks.items():
            if name not in outputs:
                raise ValueError(f"{self.label}: layer {name!r} did not run for every batch")
            if not torch.isfinite(outputs[name]).all():
                raise FloatingPointError(f"{self.label}: layer {name} has activations that are not finite")
            if blocks and blocks[0].shape[1:] != outputs[name].shape[1:]:
                shapes = tuple(blocks[0].shape[1:]), tuple(outputs[name].shape[1:])
                raise ValueError(f"{self.label}: layer {name!r} puts out {shapes[0]}, then {shapes[1]} (channels last)")
            blocks.append(outputs[name])

    def _settle(self, ran: list[str]) -> None:
        """Which layers are kept, after the first batch."""
        if idle := [name for name in self._modules if name not in ran]:
            if self._named:
                raise ValueError(f"{self.label}: layer {idle[0]!r} does not run in the forward pass")
            self._modules = {name: self._modules[name] for name in ran}
        if not self._modules:
            raise ValueError(f"{self.label} has no convolution or linear layer that suits; say which with layers=[...]")
        self._blocks = {name: [] for name in self._modules}

    def _copied(self, name: str, output: Any, n: int) -> torch.Tensor:
        """(n, ..., channels), float32, on the CPU."""
        where = f"{self.label}: layer {name!r} puts out"
        if isinstance(output, tuple | list) and output:
            output = output[0]
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            what = output.dtype if isinstance(output, torch.Tensor) else type(output).__name__
            raise TypeError(f"{where} {what}; expected a tensor of real numbers")
        shape = tuple(output.shape)
        if output.ndim not in (2, 3, 4) or shape[0] != n or 0 in shape:
            raise ValueError(f"{where} {shape} for {n} inputs; expected (n, p), (n, t, d) or (n, c, h, w), n = {n}")
        channels = self.channels.get(name, _channels(self._modules[name], output.ndim))
        if channels % output.ndim == 0 or not -output.ndim <= channels < output.ndim:
            raise ValueError(f"{where} {shape}, whose channels cannot be dimension {channels}")
        self._positions[name] = output.ndim - 2
        last = output.detach().movedim(channels, -1)
        return last.to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)

    @property
    def columns(self) -> dict[str, int]:
        """Numbers that each layer puts out for one example, after the first batch."""
        return {name: blocks[0][0].numel() for name, blocks in self._blocks.items()}

    @cached_property
    def outputs(self) -> list[_Output]:
        """Of each layer, all examples. The blocks are given up one layer at a time."""
        return [self._joined(name) for name in self._blocks]

    def _joined(self, name: str) -> _Output:
        whole = torch.cat(self._blocks[name]).contiguous()
        self._blocks[name] = []
        n, *positions, c = whole.shape
        h, w = (*positions, 1, 1)[:2]
        return _Output(name, whole.reshape(n, h, w, c).numpy(), self._positions[name], (h, w))


@torch.no_grad()
def _run(watched: Sequence[_Watched], data: Data, batch_size: int, kernels: bool) -> None:
    """One pass over the data."""
    models = list(dict.fromkeys(watched))
    first = True
    with _evaluating([one.model for one in models]):
        for inputs in _batches(data, batch_size):
            for one in models:
                one.run(inputs)
            if first:
                _require_memory(models, _examples(data, len(inputs)), kernels)
                if unknown := set(models[0].channels) - {name for one in models for name in one.columns}:
                    raise ValueError(f"channels names {sorted(unknown)}, which are not among the layers")
            first = False
    if first:
        raise ValueError("data is empty")


@contextlib.contextmanager
def _evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Eval mode inside the block; afterwards each module's own flag, since some may have been in eval mode before."""
    before = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


def _batches(data: Data, batch_size: int) -> Iterator[torch.Tensor]:
    if isinstance(data, torch.Tensor):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        yield from (data[start : start + batch_size] for start in range(0, len(data), batch_size))
        return
    if isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        raise TypeError(
            "data is a Dataset, which gives single examples; wrap it: torch.utils.data.DataLoader(data, 128)"
        )
    for batch in data:
        inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(inputs, torch.Tensor) or inputs.ndim == 0:
            raise TypeError(f"a batch must be a tensor, or a tuple or list that begins with one, got {type(batch)}")
        if len(inputs):
            yield inputs


def _examples(data: Data, first: int) -> int:
    """At least so many, as far as can be told from the first batch."""
    if isinstance(data, torch.Tensor):
        return len(data)
    try:
        batches = len(data) if isinstance(data, Sized) else 1
    except TypeError:  # a DataLoader over a stream
        batches = 1
    return max(1, batches - 1) * first


def _require_memory(models: Sequence[_Watched], n: int, kernels: bool) -> None:
    """MemoryError: n examples need more than the machine has free."""
    need = sum(4 * n * columns for model in models for columns in model.columns.values())
    if kernels:
        need += sum(8 * n * min(n, columns) for columns in models[0].columns.values())
    if (free := free_memory()) is not None and need > free:
        raise MemoryError(
            f"what the layers put out for {n} examples needs {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: "
            "name fewer layers, or give fewer examples"
        )


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


def _default(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if name and isinstance(module, DEFAULT)}


def _of_names(label: str, model: nn.Module, names: Collection[str]) -> dict[str, nn.Module]:
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    for name in names:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=3, cutoff=0.5) or list(modules)[:3]
            raise ValueError(f"{label} has no layer {name!r}; near: {', '.join(map(repr, near))}")
    return {name: modules[name] for name in names}


def _channels(module: nn.Module, dimensions: int) -> int:
    """The dimension of a module's output that is its channels."""
    last = isinstance(module, nn.Linear) or type(module) is nn.LayerNorm  # subclasses may permute
    if dimensions == 2 or last:
        return -1
    if dimensions == 3:
        return 1 if isinstance(module, SEQUENCES) else -1
    return 1


# --- pairs of layers -------------------------------------------------------------------------------------------------

Results = Iterator[tuple[_Output, _Output, Metric, Row]]
Outputs = Sequence[_Output]


def _by_channels(ours: Outputs, theirs: Outputs, metrics: Sequence[Metric], device: str, precision: str) -> Results:
    """Layers of one size at a time: each is read, pooled and whitened once per size that it is compared at."""
    groups: dict[tuple[int, int], list[tuple[_Output, _Output]]] = {}
    for x, y in itertools.product(ours, theirs):
        groups.setdefault(_common_size(x, y), []).append((x, y))
    for size, pairs in groups.items():
        sides: dict[_Output, ChannelSide] = {}
        for some in _portions(pairs):
            layers = list(dict.fromkeys(itertools.chain.from_iterable(some)))
            rows = _panel_rows(layers, size)
            collected, crosses = collect(
                [replace(layer, size=size, panel_rows=rows) for layer in layers],
                [Wanted(channels=layer not in sides, kernel=False) for layer in layers],
                [(layers.index(x), layers.index(y)) for x, y in some],
                device,
            )
            sides |= {layer: side.channels for layer, side in zip(layers, collected, strict=True) if side.channels}
            for x, y in some:
                pair = ChannelPair(sides[x], sides[y], crosses.pop((layers.index(x), layers.index(y))))
                seen = {"n": pair.x.n, "columns_a": pair.x.columns, "columns_b": pair.y.columns}
                ranks = {"rank_a": pair.x.rank, "rank_b": pair.y.rank}
                for metric in metrics:
                    yield x, y, metric, _row(x, y, metric, (pair,), seen | ranks)


def _by_kernels(ours: Outputs, theirs: Outputs, metrics: Sequence[Metric], device: str, precision: str) -> Results:
    """In memory are the kernel sides of all of `ours` and of one of `theirs`."""
    sides: dict[_Output, KernelSide] = {}

    def side(layer: _Output, wide: bool = False) -> KernelSide:
        source = replace(layer, panel_rows=_panel_rows([layer], layer.size))
        (found,), _ = collect([source], [Wanted(channels=False, wide=wide)], (), device)
        if found.kernel is None:
            raise AssertionError("no kernel side was collected")
        return found.kernel

    for y in theirs:
        for x in ours:
            for layer in (x, y):
                if layer not in sides:
                    sides[layer] = side(layer)
            pair = KernelPair(sides[x], sides[y], precision == "fast")
            seen = {"n": pair.x.n, "columns_a": pair.x.columns, "columns_b": pair.y.columns}
            for metric in metrics:
                try:
                    row = _row(x, y, metric, (pair,), seen)
                except Unresolved:  # from now on with float64 products
                    sides |= {layer: side(layer, wide=True) for layer in {x, y}}
                    pair = KernelPair(sides[x], sides[y])
                    row = _row(x, y, metric, (pair,), seen)
                yield x, y, metric, row
        if y not in ours:
            del sides[y]


def _by_outputs(ours: Outputs, theirs: Outputs, metrics: Sequence[Metric], device: str, precision: str) -> Results:
    for x, y in itertools.product(ours, theirs):
        sides = [layer.array.reshape(len(layer.array), -1) for layer in (x, y)]
        seen = {"n": sides[0].shape[0], "columns_a": sides[0].shape[1], "columns_b": sides[1].shape[1]}
        for metric in metrics:
            if x.of_example != y.of_example:
                reason = f"unequal shapes: {x.of_example} and {y.of_example}"
                row = _row(x, y, metric, (), seen) | {"value": float("nan"), "reason": reason}
            else:
                row = _row(x, y, metric, [on_device(side, device).astype("float64") for side in sides], seen)
            yield x, y, metric, row


def _row(x: _Output, y: _Output, metric: Metric, sides: Sequence[Any], seen: Row) -> Row:
    """A row of the table; without sides, one without a value."""
    value, reason = float("nan"), ""
    if sides:
        try:
            value = float(metric.measure(*sides))
        except Undefined as undefined:
            reason = str(undefined)
    names = {"layer_a": x.name, "layer_b": y.name, "metric": metric.name, "value": value, "reason": reason}
    return names | {"rank_a": None, "rank_b": None} | seen | {"dead_a": x.dead, "dead_b": y.dead}


def _common_size(x: _Output, y: _Output) -> tuple[int, int]:
    if x.positions != y.positions:
        return 1, 1
    return min(x.size[0], y.size[0]), min(x.size[1], y.size[1])


def _portions(pairs: Sequence[tuple[_Output, _Output]]) -> Iterator[list[tuple[_Output, _Output]]]:
    """The pairs in their order, so many at a time as have `CROSS_BYTES` of cross-products."""
    portion: list[tuple[_Output, _Output]] = []
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


# --- the figure ------------------------------------------------------------------------------------------------------

CELL = 0.19  # inches, as much as a tick label needs
ANNOTATED = 12  # layers of a model up to which values are written into the cells


def _heatmap(matrices: Mapping[str, Any]) -> Any:
    """One panel for each metric's matrix, side by side; cells without a value are grey and crossed."""
    import matplotlib.style
    from matplotlib.figure import Figure

    from distsim.figures import STYLE

    some = next(iter(matrices.values()))
    few = max(some.shape) <= ANNOTATED
    cell = 2 * CELL if few else CELL
    names = [0.065 * max(map(len, names)) for names in (some.index, some.columns)]  # inches, at 8 points
    width = max(2.0, cell * some.shape[1]) + names[0] + 1.3
    height = max(2.0, cell * some.shape[0]) + names[1] + 0.8
    with matplotlib.style.context(["default", STYLE, {"axes.grid": False}]):
        figure = Figure(figsize=(width * len(matrices), height), layout="constrained")
        panels = figure.subplots(1, len(matrices), squeeze=False)[0]
        for panel, (metric, matrix) in zip(panels, matrices.items(), strict=True):
            _cells(figure, panel, metric, matrix, few)
        figure.draw_without_rendering()  # laid out once, as in distsim.figures
        figure.set_layout_engine("none")
    return figure


def _cells(figure: Any, panel: Any, metric: str, matrix: Any, few: bool) -> None:
    from distsim.figures import SHADES

    values = matrix.to_numpy()
    there = values[np.isfinite(values)]
    low, high = there.min(initial=0.0), there.max(initial=1.0)
    panel.set_facecolor("0.88")
    image = panel.imshow(values, cmap=SHADES, vmin=low, vmax=high, origin="lower", aspect="equal")
    panel.set_xticks(range(len(matrix.columns)), matrix.columns, rotation=90)
    panel.set_yticks(range(len(matrix.index)), matrix.index)
    panel.tick_params(length=0)
    panel.set(xlabel="model_b", ylabel="model_a")
    for (i, j), value in np.ndenumerate(values):
        if not np.isfinite(value):
            panel.text(j, i, "×", ha="center", va="center", fontsize=7, color="0.4")
        elif few:
            dark = (value - low) / (high - low) > 0.55
            panel.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "0.1")
    label = METRICS[metric].label if metric in METRICS else ""
    figure.colorbar(image, ax=panel, label=label or metric, fraction=0.05, pad=0.02)
