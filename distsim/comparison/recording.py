"""What the layers of any PyTorch model put out for some inputs, recorded in one pass."""

import contextlib
import difflib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from distsim.environment import free_memory
from distsim.metrics.rounding import is_constant, unit_of

Data = torch.Tensor | Iterable[Any]
DEFAULT = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
SEQUENCES = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d)  # their 3-D outputs are (n, c, t)
PANEL_BYTES = 2**28  # of float64 activations that are centred at a time, all layers together


# --- what the models put out -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """What a layer puts out for all examples; a `distsim.comparison.sides.LayerSource`, pooled to `size`."""

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
        """Channels that are constant, as `distsim.metrics.rounding` says."""
        axes = (0, 1, 2)
        mean = self.array.mean(axis=axes, dtype=np.float64)
        deviation = np.maximum(self.array.max(axis=axes) - mean, mean - self.array.min(axis=axes))
        return int(is_constant(deviation, mean, unit_of(self.array)).sum())

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


class Recording:
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
    def outputs(self) -> list[LayerOutput]:
        """Of each layer, all examples. The blocks are given up one layer at a time."""
        return [self._joined(name) for name in self._blocks]

    def _joined(self, name: str) -> LayerOutput:
        whole = torch.cat(self._blocks[name]).contiguous()
        self._blocks[name] = []
        n, *positions, c = whole.shape
        h, w = (*positions, 1, 1)[:2]
        return LayerOutput(name, whole.reshape(n, h, w, c).numpy(), self._positions[name], (h, w))


@torch.no_grad()
def record(watched: Sequence[Recording], data: Data, batch_size: int, kernels: bool) -> None:
    """One pass over the data."""
    models = list(dict.fromkeys(watched))
    first = True
    with _evaluating([one.model for one in models]):
        for inputs in _batches(data, batch_size):
            for one in models:
                one.run(inputs)
            if first:
                require_memory(models, _examples(data, len(inputs)), kernels)
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


def require_memory(models: Sequence[Recording], n: int, kernels: bool) -> None:
    """MemoryError: n examples need more than the machine has free."""
    need = sum(4 * n * columns for model in models for columns in model.columns.values())
    if kernels:
        need += sum(8 * n * min(n, columns) for columns in models[0].columns.values())
    if (free := free_memory()) is not None and need > free:
        raise MemoryError(
            f"what the layers put out for {n} examples needs {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: "
            "name fewer layers, or give fewer examples"
        )


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
