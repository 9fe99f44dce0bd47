"""The parts that all networks share: layers to compare, dropout with its own random stream, initialisation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

KINDS = ("conv", "conv_res", "pool", "add", "fc", "out", "other")


@dataclass(frozen=True)
class Layer:
    """A layer that is compared: its name in tables and figures, its kind, and the module whose output it is."""

    name: str
    kind: str  # conv (after batch norm and ReLU) | conv_res (in a residual block) | pool | add | fc | out | other
    module: str  # path within the network, as in `named_modules`; "": the network itself
    call: int = 0  # which call of the module in a forward pass: 1, 2, ...; 0: the last
    axis: int | None = None  # dimension of the output that holds the channels; None: 1 of (n, c, h, w), else the last


class Network(nn.Module):
    """A network that names the modules whose outputs are compared, from input to output."""

    layers: tuple[Layer, ...]
    output: str  # path of the last module with weights, which some recipes leave unpruned
    draws: tuple[str, ...] = ()  # modules that draw from torch's global generator in training; `build` finds them


class Adopted(Network):
    """Any `nn.Module` as a Network, with the same modules, parameters, buffers and names."""

    def __init__(self, module: nn.Module, layers: tuple[Layer, ...], output: str) -> None:
        super().__init__()
        for shared in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[shared] = module.__dict__[shared]
        # not by setattr: nn.Module would make `module` a submodule, and refuse these names if a child has them
        self.__dict__.update(_adopted=module, layers=layers, output=output)

    def forward(self, x: torch.Tensor) -> Any:
        return self.__dict__["_adopted"](x)

    def train(self, mode: bool = True) -> "Adopted":
        self.__dict__["_adopted"].train(mode)
        self.training = mode
        return self

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return self.__dict__["_adopted"].state_dict(*args, **options)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        return self.__dict__["_adopted"].load_state_dict(*args, **options)

    def get_submodule(self, target: str) -> nn.Module:
        module: nn.Module = self.__dict__["_adopted"].get_submodule(target)
        return module if target else self


class Dropout(nn.Dropout):
    """Dropout whose mask comes from its own generator, where torch's draws from the global one.

    `reseed` sets its stream at the start of every epoch. In training mode it does not run without one (RuntimeError).

    The mask is drawn in `forward`. A compiled network cannot use a generator: there `hold` makes room for the masks of
    a step, `draw` fills it before each forward pass, and `forward` takes them from there. The bits are the same.
    """

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.generator: torch.Generator | None = None
        self.masks: tuple[torch.Tensor, ...] = ()  # of the calls in a forward pass; (): `forward` draws its own
        self.used = 0  # number of them that this pass has used

    def reseed(self, seed: int, device: torch.device) -> None:
        """Begin the stream of this seed, on the device of the inputs."""
        if self.generator is None or self.generator.device.type != device.type:
            self.generator = torch.Generator(device=device)
        self.generator.manual_seed(seed)  # no new one: a CUDA graph draws from that of its capture

    def hold(self, shapes: Sequence[torch.Size], device: torch.device) -> None:
        """Make room for the masks of each forward pass, on the device of the inputs. shapes : of the inputs, by call"""
        self.masks = tuple(torch.ones(shape, dtype=torch.bool, device=device) for shape in shapes)

    def draw(self) -> None:
        """Draw the masks of the next forward pass."""
        for mask in self.masks:
            mask.copy_(self._drawn(mask))
        self.used = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        if self.masks:
            keep = self.masks[self.used]
            self.used += 1
        else:
            keep = self._drawn(x)
        return x * keep / (1 - self.p)

    def _drawn(self, like: torch.Tensor) -> torch.Tensor:
        if self.generator is None:
            raise RuntimeError("Dropout.reseed must be called before training")
        return torch.rand(like.shape, generator=self.generator, device=like.device) >= self.p

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Scale(nn.Module):
    """Multiplication by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Initialise convolutions, linear layers and batch norm as PyTorch does by default, but from one generator.

    Weights and biases are uniform within ±1/√fan_in. They are drawn in the order of `modules()`.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.reset_parameters()
