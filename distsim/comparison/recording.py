"""Recording of the layers' outputs of any PyTorch model, in one pass over some inputs."""

import contextlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from distsim.comparison.arguments import require_channels
from distsim.comparison.choosing import Selector, choose, is_transposed_linear
from distsim.comparison.inputs import (
    Data,
    Feed,
    batches,
    copied,
    cut,
    examples,
    joined,
    number_of_batches,
    rows,
    shown,
    tensors,
)
from distsim.comparison.progress import Bar
from distsim.environment import free_memory
from distsim.metrics.rounding import is_constant, unit_of
from distsim.models import calls
from distsim.tf32 import SWITCH

# Modules whose 3-D outputs are (n, c, t).
POOLINGS_1D = tuple(kind for kind in calls.POOLINGS if kind.__name__.endswith("1d"))
SEQUENCES = (*calls.ONE_DIMENSIONAL, *calls.CHANNELS_FIRST, *POOLINGS_1D)
ALONE = 2  # examples at each end of a batch that run once more, by themselves
# How far a layer's output may then be from that in the whole batch, as a share of its largest value. Rounding is 1e-6.
SAME = {torch.float32: 1e-3, torch.float64: 1e-6}
SAME_HALF = 0.05  # for float16 and bfloat16
COMPILED = "_orig_mod"  # where torch.compile keeps the model itself
PANEL_BYTES = 2**28  # float64 activations that are centred at a time, all layers together


# --- what the models output -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """A layer's output for all examples: a `distsim.comparison.sides.LayerSource` that is pooled to `size`."""

    name: str
    array: NDArray[Any]  # (n, h, w, c), float32 or float64; h or w is 1 if the output has no such dimension
    positions: int  # number of dimensions of positions: 0 for (n, p), 1 for (n, t, d), 2 for (n, c, h, w)
    size: tuple[int, int]
    panel_rows: int = 1
    kind: str = "any"

    @property
    def dtype(self) -> str:
        return str(self.array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[0], *self.size, self.array.shape[3]

    @property
    def of_example(self) -> tuple[int, ...]:
        """Return the shape of the output for one example, channels last."""
        return self.array.shape[1 : 1 + self.positions] + self.array.shape[3:]

    @cached_property
    def dead(self) -> int:
        """Return the number of channels that `distsim.metrics.rounding` counts as constant."""
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
        """Return a row of the adaptive average pooling, (n, 1, w, c), in float64, where constant channels stay so."""
        (h, w), (from_h, from_w) = self.size, self.array.shape[1:3]
        first, last = row * from_h // h, -(-(row + 1) * from_h // h)
        examples = max(1, PANEL_BYTES // (8 * (last - first) * from_w * self.array.shape[3]))
        pooled = [
            F.adaptive_avg_pool2d(block[:, first:last].double().permute(0, 3, 1, 2), (1, w)).permute(0, 2, 3, 1)
            for block in torch.from_numpy(self.array).split(examples)
        ]
        return torch.cat(pooled).numpy()


def layer_output(name: str, values: NDArray[Any], positions: int) -> LayerOutput:
    """Return the output of a layer from an array (n, ..., channels) with this number of dimensions of positions."""
    n, *sizes, c = values.shape
    h, w = (*sizes, 1, 1)[:2]
    return LayerOutput(name, values.reshape(n, h, w, c), positions, (h, w))


Recorded = tuple[Any, dict[str, torch.Tensor]]  # what a model was given, and what its layers returned


class Recording:
    """A model, and the outputs of its layers so far."""

    def __init__(
        self,
        label: str,
        model: nn.Module,
        selectors: Sequence[Selector] | None,
        channels: Mapping[str, int],
        feed: Feed = Feed(),  # noqa: B008  # it is frozen
    ) -> None:
        """Choose the layers: those of `selectors`, or the default ones if it is None.

        label : the model's name in errors; channels : as in `distsim.comparison.models.compare`; feed : how it is run
        ValueError: a selector chooses no layer.
        """
        self.label, self.model = label, getattr(model, COMPILED, model)  # a compiled graph runs without hooks
        if self.model is not model and selectors is not None:
            prefix = f"{COMPILED}."
            selectors = [one.removeprefix(prefix) if isinstance(one, str) else one for one in selectors]
        self._chosen, self.channels, self._feed = choose(label, self.model, selectors), channels, feed
        self._modules, self.left_out = self._chosen.modules, self._chosen.left_out
        self._axes: dict[str, int] = {}
        self._blocks: dict[str, list[torch.Tensor]] = {}
        self._positions: dict[str, int] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._checked = False  # whether some inputs ran by themselves too
        self._ones: list[Recorded] = []  # the first two batches of one input
        tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
        self._device = None if tensor is None else tensor.device

    def run(self, batch: Any) -> int:
        """Run the model on a batch and record what its layers return. Return the number of examples."""
        inputs = self._feed.chosen(batch, self.model, self.label)
        n = rows(inputs)
        assert n is not None
        first = not self._blocks
        if first:
            self._axes = self._axes_of(cut(inputs, n, 0, ALONE))
        outputs = self._outputs(inputs, n)
        if first:
            self._settle(list(outputs))
        if not self._checked:
            self._check(inputs, n, outputs)
        for name, blocks in self._blocks.items():
            if name not in outputs:
                raise ValueError(f"{self.label}: layer {name!r} did not run for every batch")
            if not torch.isfinite(outputs[name]).all():
                raise FloatingPointError(f"{self.label}: layer {name} has activations that are not finite")
            if blocks and blocks[0].shape[1:] != outputs[name].shape[1:]:
                shapes = tuple(blocks[0].shape[1:]), tuple(outputs[name].shape[1:])
                raise ValueError(
                    f"{self.label}: layer {name!r} returns {shapes[0]}, then {shapes[1]} (channels last): all inputs "
                    "must be of one size (pad texts to one length)"
                )
            blocks.append(outputs[name])
        return n

    def _outputs(self, inputs: Any, n: int, faults: dict[str, str] | None = None) -> dict[str, torch.Tensor]:
        """Run the model on these inputs and return copies of the layers' outputs, in the order of their last calls.

        faults : gets what is wrong with an output, by layer; None: that is an error, or the layer is left out
        """
        outputs: dict[str, torch.Tensor] = {}
        raised: list[Exception] = []

        def keep(name: str, output: Any) -> None:
            outputs.pop(name, None)
            try:
                outputs[name] = self._copied(name, output, n)
            except (TypeError, ValueError) as error:
                if faults is not None:
                    faults[name] = str(error).removeprefix(f"{self.label}: layer {name!r} ")
                    return
                if self._is_wanted(name) or self._blocks:
                    raised.append(error)
                    raise
                self.left_out[name] = str(error).removeprefix(f"{self.label}: layer {name!r} ")

        with calls.hooks(self.model) as handles:  # for this pass only: the other model may have the same modules
            for name, module in self._modules.items():
                handles.append(module.register_forward_hook(lambda m, args, output, name=name: keep(name, output)))
            try:
                with SWITCH.float32():
                    self._feed.run(self.model, copied(inputs, self._device))
            except Exception as error:
                if not raised:
                    error.add_note(f"{self.label} fails for a batch of {shown(inputs)}")
                raise
        return outputs

    def _is_wanted(self, name: str) -> bool:
        """Return whether the layer itself was asked for, so that it must not be left out."""
        return name in self._chosen.by_name or name in self.channels

    def _axes_of(self, inputs: Any) -> dict[str, int]:
        """Return which dimension of each module's 3-D output is its channels, by the modules that ran before it."""
        channels = next((tensor.shape[1] for tensor in tensors(inputs) if tensor.ndim > 1), 0)
        own = copied(inputs, self._device)
        try:
            ran, _ = calls.calls_of(self.model, lambda: self._feed.run(self.model, own), channels)
        except Exception:  # it may not run on so few inputs; if it does not run at all, the next pass says so
            return {}
        return {call.path: call.axis for call in ran if call.output is not None and call.output.ndim == 3}

    def _check(self, inputs: Any, n: int, outputs: dict[str, torch.Tensor]) -> None:
        """Check once that inputs at both ends alone, which may be mixed with earlier ones only, give what they gave.

        Of two batches of one input both run together. ValueError: a layer depends on the batch.
        """
        if n > 1:
            few = max(1, min(ALONE, n - 1))
            for start in (0, n - few):
                part = {name: output[start : start + few] for name, output in outputs.items()}
                self._require_the_same(cut(inputs, n, start, start + few), few, part, n)
            self._checked = True
        elif len(self._ones) < 2:
            self._ones.append((inputs, outputs))
            if len(self._ones) == 2:
                self._check_together(*self._ones)

    def _check_together(self, one: Recorded, other: Recorded) -> None:
        try:
            inputs = joined(one[0], other[0])
        except (KeyError, RuntimeError, TypeError, ValueError):  # of two sizes
            return
        names = [name for name in one[1] if name in other[1] and one[1][name].shape == other[1][name].shape]
        self._require_the_same(inputs, 2, {name: torch.cat([one[1][name], other[1][name]]) for name in names}, 1)

    def _require_the_same(self, inputs: Any, n: int, expected: Mapping[str, torch.Tensor], size: int) -> None:
        """Check that n inputs, run as a batch, give what they gave in a batch of this size. ValueError: see `_check`.

        A layer without a row for each input here has none in other batches: its dimensions were equal by chance.
        """
        faults = dict[str, str]()
        try:
            again = self._outputs(inputs, n, faults)
        except Exception:  # a model may need a batch of a certain size
            return
        for name, before in [(name, expected[name]) for name in self._modules if name in expected]:
            if name in again and again[name].shape != before.shape:
                faults[name] = f"returns {tuple(again[name].shape)} for {n} inputs (channels last)"
            if name in faults:
                self._leave_out(name, faults[name])
            if name not in again or name in faults:
                continue
            far, largest = float((again[name] - before).abs().max()), float(before.abs().max())
            if far > SAME.get(self._dtypes[name], SAME_HALF) * largest:
                raise ValueError(
                    f"{self.label}: layer {name!r} returns other values for the same inputs in a batch of {n} than "
                    f"in one of {size}. Either the model is random in eval mode (dropout needs "
                    "training=self.training), or examples of a batch are mixed (batch norm without running statistics, "
                    "or a module that takes the first dimension for time)"
                )

    def _leave_out(self, name: str, reason: str) -> None:
        """Leave out a layer that ran. ValueError: it was asked for by name."""
        if self._is_wanted(name):
            raise ValueError(f"{self.label}: layer {name!r} {reason}")
        self.left_out[name] = reason
        del self._modules[name], self._blocks[name]
        self._require_some()

    def _settle(self, ran: list[str]) -> None:
        """Decide after the first batch which layers are recorded."""
        if idle := [name for name in self._modules if name not in ran]:
            if named := [name for name in idle if name in self._chosen.by_name]:
                raise ValueError(f"{self.label}: layer {named[0]!r} does not run in the forward pass")
            for name in idle:
                self.left_out.setdefault(name, "it does not run as a module in the forward pass")
        if not self._chosen.in_order:
            self._modules = {name: self._modules[name] for name in ran}
        self._require_some()
        self._blocks = {name: [] for name in self._modules}

    def _require_some(self) -> None:
        if not self._modules:
            left_out = "".join(f"; {name!r} is left out: {reason}" for name, reason in self.left_out.items())
            raise ValueError(
                f"{self.label} has no convolution or linear layer that can be compared; name layers with layers=[...]"
                f"{left_out}"
            )

    def _copied(self, name: str, output: Any, n: int) -> torch.Tensor:
        """Copy a layer's output for n inputs as (n, ..., channels) float32 on the CPU.

        TypeError: it is not a tensor of real numbers. ValueError: its shape does not fit.
        """
        where = f"{self.label}: layer {name!r} returns"
        while isinstance(output, tuple | list | Mapping) and output:  # Hugging Face's outputs are dicts
            output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            kind = output.dtype if isinstance(output, torch.Tensor) else type(output).__name__
            raise TypeError(f"{where} {kind}; expected a tensor of real numbers")
        shape = tuple(output.shape)
        if output.ndim not in (2, 3, 4) or shape[0] != n or 0 in shape:
            raise ValueError(f"{where} {shape} for {n} inputs; expected (n, p), (n, t, d) or (n, c, h, w) with n = {n}")
        channels = self.channels.get(name, _channels(self._modules[name], output.ndim, self._axes.get(name, -1)))
        if channels % output.ndim == 0 or not -output.ndim <= channels < output.ndim:
            raise ValueError(f"{where} {shape}, whose channels cannot be dimension {channels}")
        self._positions[name], self._dtypes[name] = output.ndim - 2, output.dtype
        last = output.detach().movedim(channels, -1)
        return last.to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)

    @property
    def columns(self) -> dict[str, int]:
        """Return how many numbers each layer returns for one example. Call it after the first batch only."""
        return {name: blocks[0][0].numel() for name, blocks in self._blocks.items()}

    @cached_property
    def outputs(self) -> list[LayerOutput]:
        """Return each layer's output for all examples. The batches' copies are freed one layer at a time."""
        return [self._joined(name) for name in self._blocks]

    def _joined(self, name: str) -> LayerOutput:
        whole = torch.cat(self._blocks[name]).contiguous()
        self._blocks[name] = []
        return layer_output(name, whole.numpy(), self._positions[name])


@torch.no_grad()
def record(
    recordings: Sequence[Recording], data: Data, batch_size: int, kernels: bool, bar: Bar, given: Collection[str] = ()
) -> None:
    """Run the models on the data, in one pass. The same recording may be given twice.

    kernels : metrics of the kernel view will follow, which need memory too
    given : names of layers beside those of the recordings, which `channels` may name
    ValueError: `data` is empty, or `channels` names an unknown layer. MemoryError: as in `require_memory`.
    """
    recordings = list(dict.fromkeys(recordings))
    first = True
    with _evaluating([recording.model for recording in recordings]):
        bar.begin("running the models", number_of_batches(data, batch_size))
        for batch in batches(data, batch_size):
            n = min([recording.run(batch) for recording in recordings])
            if first:
                require_memory(recordings, examples(data, n, batch_size), kernels)
                names = {name for recording in recordings for name in recording.columns}
                require_channels(recordings[0].channels, names.union(given))
            first = False
            bar.step()
    if first:
        raise ValueError("data is empty")


@contextlib.contextmanager
def _evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Put the models in eval mode inside the block, and then restore each module's own mode."""
    before = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


def require_memory(recordings: Sequence[Recording], n: int, kernels: bool) -> None:
    """Check that the recordings of n examples fit into memory.

    kernels : count the first model's features or Gram matrices too
    MemoryError: they need more than the machine has free.
    """
    need = sum(4 * n * columns for recording in recordings for columns in recording.columns.values())
    if kernels:
        sides = [sum(8 * n * min(n, columns) for columns in one.columns.values()) for one in recordings]
        need += max(sides[:-1] or sides)  # of one model at a time, which is not the last
    if (free := free_memory()) is not None and need > free:
        raise MemoryError(
            f"the layers' outputs for {n} examples need {need / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free: "
            "name fewer layers, or pass fewer examples"
        )


def _channels(module: nn.Module, dimensions: int, of_three: int) -> int:
    """Return which dimension of a module's output is its channels.

    of_three : the answer for a 3-D output of a module that does not say it itself
    """
    last = isinstance(module, nn.Linear) or type(module) is nn.LayerNorm  # a subclass of LayerNorm may permute
    last = last or is_transposed_linear(module)
    if dimensions == 2 or last:
        return -1
    if dimensions == 3:
        return 1 if isinstance(module, SEQUENCES) else of_three
    return 1
