"""A network that is G networks of one kind side by side, so that one step trains all of them.

Each parameter and buffer is stacked along a new first axis of G runs. Between modules, the runs' channels lie side by
side: (n, G·c, h, w), or (n, G·p) after flattening. So what acts on each value or channel by itself (activations,
pooling, additions, flattening) is used as it is, in the network's own `forward`. Only these modules are replaced:

    Conv2d     one convolution with G times as many groups
    BatchNorm  over all channels; the number of batches is counted for each run
    Linear     a batched product
    Dropout    each run draws its mask from its own stream

No run reads a value of another, so a run that becomes NaN leaves the others as they are. A block-diagonal convolution
would multiply that NaN by zero, which is NaN.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distsim.models import Dropout, Network
from distsim.models.layers import Scale

# Modules that act on each value, or on each channel, by itself.
BY_CHANNEL: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardtanh),
    *(nn.Hardsigmoid, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Identity, Scale),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)


def fused(network: Network, runs: int, batch: int, image: tuple[int, int, int]) -> Network:
    """Return `runs` networks of this kind as one, all parameters and buffers zero. The network itself is not changed.

    Input (n, runs·channels, h, w), output (n, runs·classes), run after run. Parameters and buffers have the network's
    names.

    batch : number of images in a step; image : (channels, h, w) of one, for the shapes of what is dropped out
    The network must be one that `distsim.training.fusible.require_fusible` lets pass.
    """
    shapes, device = _inputs_of_dropouts(network, image), next(network.parameters()).device
    replaced: dict[nn.Module, nn.Module] = {}
    # all modules that have parameters or buffers are replaced, so these need no copy
    result = copy.deepcopy(network, {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())})
    for path, module in dict(result.named_modules()).items():
        for name, child in module.named_children():
            inner = f"{path}.{name}".lstrip(".")
            if type(child) in _FUSED and child not in replaced:
                replaced[child] = _FUSED[type(child)](child, runs)
            if type(child) is Dropout and child not in replaced:
                replaced[child] = FusedDropout(child.p, runs, batch, shapes[inner], device)
            if child in replaced:
                setattr(module, name, replaced[child])
    return result


def side_by_side(images: Tensor, runs: int) -> Tensor:
    """Return (runs·n, c, h, w), run after run, as (n, runs·c, h, w), channels last in memory."""
    n, c, h, w = images.shape
    pixels = images.permute(0, 2, 3, 1).view(runs, n // runs, h, w, c)
    beside = pixels.permute(1, 2, 3, 0, 4).reshape(n // runs, h, w, runs * c)
    return beside.permute(0, 3, 1, 2)


def losses_of(output: Tensor, labels: Tensor) -> Tensor:
    """Return each run's mean cross-entropy, (G,).

    output : (n, G·classes), run after run; labels : (G, n) int64
    """
    runs, n = labels.shape
    logits = output.view(n * runs, -1)
    each = F.cross_entropy(logits, labels.t().reshape(-1), reduction="none")
    return each.view(n, runs).mean(dim=0)


def set_run(network: nn.Module, slot: int, weights: Mapping[str, Tensor]) -> None:
    """Copy a network's parameters and buffers to its place among the runs."""
    for name, stack in network.state_dict().items():
        stack[slot].copy_(weights[name])


def run_of(network: nn.Module, slot: int) -> dict[str, Tensor]:
    """Return a run's parameters and buffers, as views."""
    return {name: stack[slot] for name, stack in network.state_dict().items()}


class FusedConv2d(nn.Module):
    """Convolutions of (n, runs·inputs, h, w) to (n, runs·outputs, h', w'), each run with its own weights."""

    def __init__(self, conv: nn.Conv2d, runs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_filters(conv.weight, runs))
        self.bias = _stack(conv.bias, runs)
        self._options: dict[str, Any] = {
            "stride": conv.stride,
            "padding": conv.padding,
            "dilation": conv.dilation,
            "groups": runs * conv.groups,
        }

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.flatten(0, 1), _flat(self.bias), **self._options)

    def products(self, x: Tensor, multiple: int = 1) -> Tensor:
        """Return the convolutions without their bias. A group's inputs are filled up with zeros to this multiple."""
        weight = self.weight.flatten(0, 1)
        if lack := -weight.shape[1] % multiple:
            weight = F.pad(weight, (0, 0, 0, 0, 0, lack))
            n, _, h, w = x.shape
            by_group = x.permute(0, 2, 3, 1).reshape(n, h, w, self._options["groups"], -1)
            x = F.pad(by_group, (0, lack)).flatten(3).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, None, **self._options)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, {self._options}"


class FusedLinear(nn.Module):
    """Products of (n, runs·inputs) to (n, runs·outputs), each run with its own weights."""

    def __init__(self, linear: nn.Linear, runs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_stacked(linear.weight, runs))
        self.bias = _stack(linear.bias, runs)

    def forward(self, x: Tensor) -> Tensor:
        by_run = x.unflatten(1, (len(self.weight), -1)).transpose(0, 1)
        weight = self.weight.transpose(1, 2)
        if self.bias is None:
            result = torch.bmm(by_run, weight)
        else:
            result = torch.baddbmm(self.bias.unsqueeze(1), by_run, weight)
        return result.transpose(0, 1).flatten(1)

    def extra_repr(self) -> str:
        return str(tuple(self.weight.shape))


class FusedBatchNorm(nn.Module):
    """Batch normalisation of all runs' channels, with statistics and a number of batches for each run."""

    num_batches_tracked: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, runs: int) -> None:
        super().__init__()
        self.weight, self.bias = _stack(norm.weight, runs), _stack(norm.bias, runs)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            buffer = getattr(norm, name)
            self.register_buffer(name, None if buffer is None else _stacked(buffer, runs))
        self.momentum, self.eps = cast(float, norm.momentum), norm.eps

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        statistics = _flat(self.running_mean), _flat(self.running_var)
        of_batch = self.training or self.running_mean is None
        weight, bias = _flat(self.weight), _flat(self.bias)
        return F.batch_norm(x, *statistics, weight, bias, of_batch, self.momentum, self.eps)

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, eps={self.eps}"


class FusedDropout(nn.Module):
    """Dropout of all runs. `draw` makes the masks of a step, each from the run's own stream."""

    uniform: Tensor

    def __init__(self, p: float, runs: int, batch: int, shape: tuple[int, ...], device: torch.device) -> None:
        """shape : of what is dropped out of one image in one run."""
        super().__init__()
        self.p = p
        self.streams = tuple(Stream() for _ in range(runs))
        self.register_buffer("uniform", torch.zeros(runs, batch, *shape, device=device), persistent=False)

    def draw(self) -> None:
        """Draw the numbers that decide a step's masks."""
        for numbers, stream in zip(self.uniform, self.streams, strict=True):
            numbers.uniform_(generator=stream.generator)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = (self.uniform >= self.p).transpose(0, 1).flatten(1, 2)
        return x * keep / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}, {tuple(self.uniform.shape)}"


class Stream:
    """A run's stream of random numbers for one dropout module. The class has what a step asks of `Dropout`."""

    def __init__(self) -> None:
        self.generator: torch.Generator | None = None

    def reseed(self, seed: int, device: torch.device) -> None:
        """Begin the stream of this seed, on the device of the inputs."""
        if self.generator is None or self.generator.device.type != device.type:
            self.generator = torch.Generator(device=device)
        self.generator.manual_seed(seed)

    def __deepcopy__(self, memo: object) -> "Stream":
        return Stream()  # a generator cannot be copied


_FUSED: dict[type[nn.Module], Callable[[Any, int], nn.Module]] = {
    nn.Conv2d: FusedConv2d,
    nn.Linear: FusedLinear,
    nn.BatchNorm1d: FusedBatchNorm,
    nn.BatchNorm2d: FusedBatchNorm,
}
REPLACED = (*_FUSED, Dropout)


def dropouts_of(network: nn.Module) -> Iterator[FusedDropout]:
    """Yield the fused network's dropout modules, each once, in order."""
    return (module for module in network.modules() if isinstance(module, FusedDropout))


def _inputs_of_dropouts(network: Network, image: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Return path -> the shape of what each dropout module gets of one image."""
    shapes: dict[str, tuple[int, ...]] = {}
    dropouts = {path: module for path, module in network.named_modules() if isinstance(module, Dropout)}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, path=path: _note(shapes, path, inputs[0]))
        for path, module in dropouts.items()
    ]
    if hooks:
        like, training = next(network.parameters()), network.training
        with torch.no_grad():
            network.eval()(torch.zeros(1, *image, dtype=like.dtype, device=like.device))
        network.train(training)
    for hook in hooks:
        hook.remove()
    return shapes


def _note(shapes: dict[str, tuple[int, ...]], path: str, x: Tensor) -> None:
    shapes[path] = tuple(x.shape[1:])


def _stacked(tensor: Tensor, runs: int) -> Tensor:
    return tensor.new_zeros((runs, *tensor.shape))


def _stack(parameter: Tensor | None, runs: int) -> nn.Parameter | None:
    return None if parameter is None else nn.Parameter(_stacked(parameter, runs))


def _filters(weight: Tensor, runs: int) -> Tensor:
    """Return a stack whose first two axes together are the filters of one convolution, channels last in memory."""
    outputs, *rest = weight.shape
    filters = weight.new_zeros((runs * outputs, *rest)).contiguous(memory_format=torch.channels_last)
    return filters.view(runs, outputs, *rest)


def _flat(stack: Tensor | None) -> Tensor | None:
    return None if stack is None else stack.view(-1)
