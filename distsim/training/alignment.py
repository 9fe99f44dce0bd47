"""Alignment of channels: which channel of one network does what a channel of another does.

Two networks may compute the same with their channels in another order. Before their weights are mixed, each channel of
the second is matched with one of the first, layer by layer, by the correlation of what they output.

A network is followed symbolically (torch.fx). Every convolution and linear layer begins a new set of channels. What
acts on single channels (normalisation, activations, pooling, dropout) keeps the set. An addition joins two sets: their
channels must have one common order. The classes at the end, and the image's channels, keep their order. A network that
cannot be followed in this way is not aligned.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx, nn

from distsim.activations.probe import BATCH, Probe
from distsim.data import augment
from distsim.models import Dropout, Network
from distsim.models.layers import Scale
from distsim.training.stepper import State

LAYERS = (nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Hardswish)
POOLINGS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
BY_CHANNEL = (*NORMS, *ACTIVATIONS, *POOLINGS, nn.Identity, nn.Dropout, Dropout, Scale)
ADDITIONS = ("add", "iadd")


class NotAligned(ValueError):
    """The network has something that cannot be followed. The message names it."""


@dataclass
class _Channels:
    """A set of channels whose order may be changed together."""

    count: int
    fixed: bool = False  # the image's, or the classes
    joined: "_Channels | None" = None  # the set that this one became part of
    watched: list[str] = field(default_factory=list)  # modules whose outputs show the channels

    @property
    def root(self) -> "_Channels":
        return self if self.joined is None else self.joined.root

    def join(self, other: "_Channels") -> None:
        """Make both one set."""
        a, b = self.root, other.root
        if a is b:
            return
        if a.count != b.count:
            raise NotAligned(f"it adds {a.count} and {b.count} channels")
        a.fixed, a.watched, b.joined = a.fixed or b.fixed, [*a.watched, *b.watched], a


@dataclass(frozen=True)
class _Flow:
    """What flows between modules: a set of channels, of which each stands for `repeats` numbers after flattening."""

    channels: _Channels
    flat: bool = False


@dataclass(frozen=True)
class _Axis:
    """An axis of a parameter or buffer that runs over a set of channels, perhaps several numbers for each."""

    name: str
    axis: int
    channels: _Channels


class Aligner:
    """Aligns networks of one kind."""

    def __init__(self, network: Network) -> None:
        """Follow the network. NotAligned: it has something that cannot be followed."""
        self._axes = list(_axes(network))
        roots = {id(axis.channels.root): axis.channels.root for axis in self._axes}
        self._free = [channels for channels in roots.values() if not channels.fixed]

    def aligned(self, network: Network, first: State, last: State, probe: Probe) -> State:
        """Return the second network's weights with its channels in the order that fits the first's best.

        The network that they make computes the same as before. Channels that are dead, here or there, come last in the
        matching: they correlate with nothing.

        network : of the kind, on the probe's device; its weights are replaced
        """
        outputs = _Correlations(network, [name for channels in self._free for name in channels.watched])
        outputs.run(first, last, probe)
        orders: dict[int, Tensor] = {}
        for channels in self._free:
            total = sum(outputs.of(name) for name in channels.watched)
            _, order = linear_sum_assignment(np.asarray(total), maximize=True)
            orders[id(channels)] = torch.from_numpy(order)
        result = dict(last)
        for axis in self._axes:
            order = orders.get(id(axis.channels.root))
            if order is not None:
                result[axis.name] = _reordered(result[axis.name], axis, order)
        return result


def _reordered(tensor: Tensor, axis: _Axis, order: Tensor) -> Tensor:
    """Return the tensor with its channels along an axis in this order."""
    repeats = tensor.shape[axis.axis] // axis.channels.root.count
    places = (order[:, None] * repeats + torch.arange(repeats)).flatten()
    return tensor.index_select(axis.axis, places.to(tensor.device))


# --- following a network ---------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*LAYERS, *BY_CHANNEL, nn.Flatten)) or super().is_leaf_module(m, module_qualified_name)


def _axes(network: Network) -> Iterator[_Axis]:
    """Yield which axes of which tensors run over which channels. NotAligned: the network cannot be followed."""
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # fx raises many kinds for what cannot be known without values
        raise NotAligned(f"its forward pass cannot be followed: {error}") from None
    modules, flows, used = dict(network.named_modules()), dict[fx.Node, _Flow](), set[str]()
    for node in graph.nodes:
        inputs = [flows[argument] for argument in node.all_input_nodes if argument in flows]
        if node.op == "placeholder":
            flows[node] = _Flow(_Channels(0, fixed=True))
        elif node.op == "output":
            for flow in inputs:
                flow.channels.root.fixed = True
        elif node.op == "call_module":
            path = str(node.target)
            if path in used and not isinstance(modules[path], (*ACTIVATIONS, *POOLINGS, nn.Identity, nn.Flatten)):
                raise NotAligned(f"it calls {path} more than once")
            used.add(path)
            flows[node] = yield from _of_module(path, modules[path], inputs[0])
        else:
            flows[node] = _of_function(node, inputs)
    leaves = {path for path, module in modules.items() if any(True for _ in module.parameters(recurse=False))}
    if left := sorted(leaves - used):
        raise NotAligned(f"it uses the parameters of {left[0]} in a way that cannot be followed")


def _of_module(path: str, module: nn.Module, flow: _Flow) -> Any:
    """Yield the axes of a module's tensors, and return what flows out of it."""
    if isinstance(module, LAYERS):
        if isinstance(module, nn.Conv2d) and module.groups != 1:
            raise NotAligned(f"{path} is a convolution in groups")
        if flow.channels.root.count:
            yield _Axis(f"{path}.weight", 1, flow.channels)
        made = _Channels(module.weight.shape[0], watched=[path])
        yield _Axis(f"{path}.weight", 0, made)
        if module.bias is not None:
            yield _Axis(f"{path}.bias", 0, made)
        return _Flow(made)
    if isinstance(module, nn.Flatten):
        return _Flow(flow.channels, flat=True)
    if not isinstance(module, BY_CHANNEL):
        raise NotAligned(f"{path} is a {type(module).__name__}, which cannot be followed")
    if isinstance(module, NORMS):
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.ndim == 1:
                yield _Axis(f"{path}.{name}", 0, flow.channels)
    if isinstance(module, ACTIVATIONS) and not flow.flat:
        flow.channels.root.watched[:] = [path]  # what leaves an activation is what the next layer sees
    return flow


def _of_function(node: fx.Node, inputs: list[_Flow]) -> _Flow:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if name in ADDITIONS and len(inputs) == 2:
        inputs[0].channels.join(inputs[1].channels)
        return inputs[0]
    if name in ("flatten", "relu", "contiguous") and len(inputs) == 1:
        return _Flow(inputs[0].channels, flat=inputs[0].flat or name == "flatten")
    raise NotAligned(f"it calls {name}, which cannot be followed")


# --- correlations of channels ----------------------------------------------------------------------------------------


class _Correlations:
    """The correlations between the channels of some modules in two networks, over the probe's images and positions."""

    def __init__(self, network: Network, paths: list[str]) -> None:
        self._network, self._paths = network, paths
        self._sums: dict[str, list[Any]] = {}

    @torch.no_grad()
    def run(self, first: State, last: State, probe: Probe) -> None:
        """Run both networks over the probe."""
        for images in probe.images.split(BATCH):
            inputs = augment.normalise(images, probe.mean, probe.sd)
            both = [self._outputs(weights, inputs) for weights in (first, last)]
            for path in self._paths:
                x, y = (outputs[path] for outputs in both)
                new = [len(x), x.sum(0), y.sum(0), x.T @ y, (x * x).sum(0), (y * y).sum(0)]
                old = self._sums.get(path)
                self._sums[path] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

    def _outputs(self, weights: State, inputs: Tensor) -> dict[str, Tensor]:
        """Return each module's output as a float64 matrix (examples x positions, channels)."""
        found: dict[str, Tensor] = {}

        def keep(path: str, output: Tensor) -> None:
            found.setdefault(path, output.double().movedim(1, -1).flatten(0, -2))

        self._network.load_state_dict(weights)
        self._network.eval()
        modules = dict(self._network.named_modules())
        hooks = [
            modules[path].register_forward_hook(lambda m, args, output, path=path: keep(path, output))
            for path in self._paths
        ]
        try:
            self._network(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def of(self, path: str) -> Tensor:
        """Return the correlations, (channels of the first, channels of the last), 0 for channels without variance."""
        n, x, y, xy, xx, yy = self._sums[path]
        covariance = xy - x[:, None] * y / n
        deviations = [(squares - total * total / n).clamp_min(0).sqrt() for total, squares in ((x, xx), (y, yy))]
        floors = [1e-7 * squares.sqrt() for squares in (xx, yy)]  # below is rounding of the difference
        inverse = [
            torch.where(sd > floor, 1 / sd.clamp_min(torch.finfo(sd.dtype).tiny), 0.0)
            for sd, floor in zip(deviations, floors, strict=True)
        ]
        return (inverse[0][:, None] * covariance * inverse[1]).cpu()
