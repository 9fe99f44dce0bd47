"""What runs when a network is shown images: its modules' calls, in their order."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

CONVOLUTIONS = nn.modules.conv._ConvNd
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
LINEAR = (nn.Linear, nn.MultiheadAttention)
ONE_DIMENSIONAL = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d)
POOLINGS = tuple(kind for name, kind in vars(nn.modules.pooling).items() if "Pool" in name and "Unpool" not in name)
_OF_ATTENTION = (nn.MultiheadAttention, nn.Softmax, nn.Softmin, nn.Softmax2d, nn.LogSoftmax)
ACTIVATIONS = tuple(
    kind
    for name, kind in vars(nn.modules.activation).items()
    if name in nn.modules.activation.__all__ and kind not in _OF_ATTENTION
)


# Where the channels of a tensor may be, the likeliest first, by its number of dimensions and by the module before it.
SIDES: dict[str, dict[int, tuple[int, ...]]] = {
    "first": {3: (2, 1), 4: (1,)},  # 2-d convolutions; (n, t, d) is what becomes of their (n, c, h, w)
    "first of three": {3: (1, 2), 4: (1,)},  # (n, c, t)
    "last": {3: (2, 1), 4: (3, 1)},
    "either": {3: (2, 1), 4: (1, 3)},  # a layer norm with a `forward` of its own, which may permute
}


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module in a forward pass."""

    path: str  # of the module, as in `named_modules`; "": the network itself
    module: nn.Module
    call: int  # of this module, from 1
    after: str  # conv | fc | "": the last module with weights that ran, this one included
    channels: int  # that the last module with weights put out
    side: str  # where that module has its channels: a key of SIDES
    output: torch.Tensor | None  # a copy; None: no tensor

    @property
    def leaf(self) -> bool:
        return next(self.module.children(), None) is None

    @property
    def axis(self) -> int:
        """Dimension of the output that holds its channels: that which has as many as were put out, or the likeliest."""
        assert self.output is not None
        if self.output.ndim not in SIDES["last"]:
            return 1
        places = SIDES[self.side][self.output.ndim]
        return next((place for place in places if self.output.shape[place] == self.channels), places[0])


def calls(network: nn.Module, images: torch.Tensor) -> tuple[list[Call], Any]:
    """Return the calls of one forward pass in the order in which they ended, and what the network puts out."""
    found: list[Call] = []
    times: Counter[str] = Counter()
    after, channels, side = "", images.shape[1], "first"

    def keep(path: str, module: nn.Module, output: Any) -> None:
        nonlocal after, channels, side
        if isinstance(module, CONVOLUTIONS):
            after = "conv"
        elif isinstance(module, LINEAR):
            after = "fc"
        if (width := _width(module)) is not None:
            channels, side = width, _side(module)
        times[path] += 1
        copy = output.detach().clone() if isinstance(output, torch.Tensor) else None
        found.append(Call(path, module, times[path], after, channels, side, copy))

    with hooks(network) as handles:
        for path, module in network.named_modules():
            handles.append(module.register_forward_hook(lambda m, args, out, path=path: keep(path, m, out)))
        return found, network(images)


@contextlib.contextmanager
def hooks(network: nn.Module) -> Iterator[list[Any]]:
    """Inside the block every module's own `forward` runs; the hooks that are put into the yielded list are taken off.

    PyTorch would run a whole encoder layer at once where it has no hook, with other last bits.
    """
    handles: list[Any] = []
    at_once = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield handles
    finally:
        torch.backends.mha.set_fastpath_enabled(at_once)
        for handle in handles:
            handle.remove()


def draws(network: nn.Module, images: torch.Tensor) -> list[str]:
    """Return the modules in whose own code torch's global generator of the CPU moves, as "path (class)"."""
    found: dict[str, None] = {}
    running: list[str] = []  # modules that have begun and not ended, the innermost last
    last = [torch.get_rng_state()]

    def note() -> None:
        """Whatever moved since was moved by the innermost module that runs."""
        now = torch.get_rng_state()
        if running and not torch.equal(now, last[0]):
            found[running[-1]] = None
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
    return list(found)


def _width(module: nn.Module) -> int | None:
    """Channels that a module with weights puts out; None: it changes nothing about them."""
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


def _side(module: nn.Module) -> str:
    if isinstance(module, nn.LayerNorm):
        return "last" if type(module).forward is nn.LayerNorm.forward else "either"
    if isinstance(module, LINEAR):
        return "last"
    return "first of three" if isinstance(module, ONE_DIMENSIONAL) else "first"
