"""The calls of a network's modules in a forward pass, in the order in which they end."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

CONVOLUTIONS = nn.modules.conv._ConvNd
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
LINEAR = (nn.Linear, nn.MultiheadAttention)
ONE_DIMENSIONAL = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d)
CHANNELS_FIRST = (nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)  # whatever the number of dimensions
POOLINGS = tuple(kind for name, kind in vars(nn.modules.pooling).items() if "Pool" in name and "Unpool" not in name)
_OF_ATTENTION = (nn.MultiheadAttention, nn.Softmax, nn.Softmin, nn.Softmax2d, nn.LogSoftmax)
ACTIVATIONS = tuple(
    kind
    for name, kind in vars(nn.modules.activation).items()
    if name in nn.modules.activation.__all__ and kind not in _OF_ATTENTION
)


# Which dimensions of a tensor may hold its channels, the likeliest first, by the kind of the last module with weights
# and by the number of dimensions.
SIDES: dict[str, dict[int, tuple[int, ...]]] = {
    "first": {3: (2, 1), 4: (1,)},  # 2-d convolutions; their (n, c, h, w) may later become (n, t, d)
    "first of three": {3: (1, 2), 4: (1,)},  # (n, c, t)
    "last": {3: (2, 1), 4: (3, 1)},
    "either": {3: (2, 1), 4: (1, 3)},  # a layer norm with its own `forward`, which may permute
}


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module in a forward pass."""

    path: str  # of the module, as in `named_modules`; "": the network itself
    module: nn.Module
    call: int  # number of the call of this module, from 1
    after: str  # conv | fc | "": kind of the last module with weights that ran, this one included
    channels: int  # number of channels of the last module with weights
    side: str  # which dimension of that module's output holds its channels: a key of SIDES
    output: torch.Tensor | None  # a copy; None: not a tensor

    @property
    def leaf(self) -> bool:
        """Return whether the module has no submodules."""
        return next(self.module.children(), None) is None

    @property
    def axis(self) -> int:
        """Return the dimension of the output that holds its channels.

        That is the first of SIDES whose length is `channels`, or else the likeliest.
        """
        assert self.output is not None
        if self.output.ndim not in SIDES["last"]:
            return 1
        places = SIDES[self.side][self.output.ndim]
        return next((place for place in places if self.output.shape[place] == self.channels), places[0])


def calls(network: nn.Module, images: torch.Tensor) -> tuple[list[Call], Any]:
    """Return the calls of one forward pass in the order in which they ended, and the network's output."""
    return calls_of(network, lambda: network(images), images.shape[1])


def calls_of(network: nn.Module, run: Callable[[], Any], channels: int) -> tuple[list[Call], Any]:
    """Return the calls while `run` runs the network, and what it returns. channels : of the inputs"""
    ended: list[Call] = []
    times: Counter[str] = Counter()
    after, side = "", "first"

    def keep(path: str, module: nn.Module, output: Any) -> None:
        nonlocal after, channels, side
        if isinstance(module, CONVOLUTIONS):
            after = "conv"
        elif isinstance(module, LINEAR):
            after = "fc"
        if (width := _width(module)) is not None:
            channels, side = width, _side(module, output)
        times[path] += 1
        copy = output.detach().clone() if isinstance(output, torch.Tensor) else None
        ended.append(Call(path, module, times[path], after, channels, side, copy))

    with hooks(network) as handles:
        for path, module in network.named_modules():
            handles.append(module.register_forward_hook(lambda m, args, out, path=path: keep(path, m, out)))
        return ended, run()


@contextlib.contextmanager
def hooks(network: nn.Module) -> Iterator[list[Any]]:
    """Yield a list for handles of hooks, and remove these hooks at the end of the block.

    Inside the block every module's own `forward` runs. Otherwise PyTorch would run a whole encoder layer at once where
    it has no hook, with other last bits.
    """
    handles: list[Any] = []
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield handles
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for handle in handles:
            handle.remove()


def draws(network: nn.Module, images: torch.Tensor) -> list[str]:
    """Return the modules whose own code draws from torch's global generator of the CPU, as "path (class)"."""
    drawing: dict[str, None] = {}  # in their order
    running: list[str] = []  # modules that have begun and not ended, the innermost last
    last = [torch.get_rng_state()]

    def note() -> None:
        """If the generator has moved since the last call, note the innermost running module."""
        now = torch.get_rng_state()
        if running and not torch.equal(now, last[0]):
            drawing[running[-1]] = None
        last[0] = now

    def begins(path: str, module: nn.Module) -> None:
        note()
        running.append(f"{path or 'the network'} ({type(module).__name__})")

    def ends() -> None:
        note()
        running.pop()

    with hooks(network) as handles:
        for path, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(lambda m, args, path=path: begins(path, m)))
            handles.append(module.register_forward_hook(lambda m, args, out: ends()))
        network(images)
    return list(drawing)


def _width(module: nn.Module) -> int | None:
    """Return the number of output channels of a module with weights, or None if it does not set that number."""
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[-1])
    names: Mapping[type[nn.Module], str] = {
        CONVOLUTIONS: "out_channels",
        nn.Linear: "out_features",
        nn.MultiheadAttention: "embed_dim",
        nn.modules.batchnorm._NormBase: "num_features",
        nn.GroupNorm: "num_channels",
    }
    return next((int(getattr(module, name)) for kind, name in names.items() if isinstance(module, kind)), None)


def _side(module: nn.Module, output: Any) -> str:
    if isinstance(module, nn.LayerNorm):
        return "last" if type(module).forward is nn.LayerNorm.forward else "either"
    if isinstance(module, LINEAR):
        return "last"
    if isinstance(module, CHANNELS_FIRST) and isinstance(output, torch.Tensor) and output.ndim == 3:
        return "first of three"
    return "first of three" if isinstance(module, ONE_DIMENSIONAL) else "first"
