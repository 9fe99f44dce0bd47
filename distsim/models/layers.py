"""What all networks share: the list of layers to compare, dropout with a stream of its own, initialisation."""

import math
from dataclasses import dataclass

import torch
from torch import nn

KINDS = ("conv", "conv_res", "pool", "add", "fc", "out")


@dataclass(frozen=True)
class Layer:
    """A layer that is compared: its name in tables and figures, its kind, and the module whose output it is."""

    name: str
    kind: str  # conv (after batch norm and ReLU) | conv_res (inside a residual block) | pool | add | fc | out
    module: str  # path within the network, as in `named_modules`


class Network(nn.Module):
    """A network that says which of its modules' outputs are compared, from input to output."""

    layers: tuple[Layer, ...]
    output: str  # path of the last linear module, which some recipes leave unpruned


class Dropout(nn.Module):
    """Dropout whose mask comes from a generator of its own; torch's draws from the global one.

    `reseed` gives it its stream, at the start of every epoch; in training mode it refuses to run without.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def reseed(self, seed: int, device: torch.device) -> None:
        if self.generator is None or self.generator.device.type != device.type:
            self.generator = torch.Generator(device=device)
        self.generator.manual_seed(seed)  # of the same one: a CUDA graph draws from the one it was captured with

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        if self.generator is None:
            raise RuntimeError("Dropout.reseed must be called before training")
        keep = torch.rand(x.shape, generator=self.generator, device=x.device) >= self.p
        return x * keep / (1 - self.p)

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
    """PyTorch's default initialisation of convolutions, linear layers and batch norm, from one generator.

    Weights and biases are uniform within ±1/√fan_in; the order is that of `modules()`.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.reset_parameters()
