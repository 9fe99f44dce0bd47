"""VGG-like networks, written like their rows in the papers' tables.

A plan is a string such as "16* 16 M 32* 32 M | fc 256§". A number is a 3x3 convolution with padding 1 and that many
filters, M is 2x2 max-pooling. After the bar comes "fc" and the hidden layers' widths, or "gap" for global average
pooling. `*` adds batch normalisation before the ReLU, `§` adds dropout after it.
"""

import torch
from torch import nn

from distsim.models.layers import Dropout, Layer, Network


class VGG(Network):
    """Blocks of convolutions and poolings, then hidden layers or global average pooling, then the output.

    Input (n, channels, size, size), output (n, classes). Compared: conv1_1, conv1_2, pool1, ..., fc1, ..., out.
    """

    def __init__(self, plan: str, channels: int, size: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        convolutional, head = (part.split() for part in plan.split("|"))
        compared: list[Layer] = []
        self.blocks = nn.Sequential()
        block, position, width = 1, 1, channels
        for token in convolutional:
            if token == "M":
                name = f"pool{block}"
                module: nn.Module = nn.MaxPool2d(2)
                block, position, size = block + 1, 1, size // 2
                compared.append(Layer(name, "pool", f"blocks.{name}"))
            else:
                name, out = f"conv{block}_{position}", int(token.rstrip("*"))
                module = _conv(width, out, batch_norm=token.endswith("*"))
                position, width = position + 1, out
                compared.append(Layer(name, "conv", f"blocks.{name}.relu"))
            self.blocks.add_module(name, module)
        self.head = nn.Sequential()
        if head == ["gap"]:
            self.head.add_module("gap", nn.AdaptiveAvgPool2d(1))
        features = width if head == ["gap"] else width * size * size
        self.head.add_module("flatten", nn.Flatten())
        for i, token in enumerate(head[1:], start=1):
            out = int(token.rstrip("*§"))
            self.head.add_module(f"fc{i}", _hidden(features, out, "*" in token, dropout if "§" in token else 0.0))
            compared.append(Layer(f"fc{i}", "fc", f"head.fc{i}.relu"))
            features = out
        self.out = nn.Linear(features, classes)
        self.layers = (*compared, Layer("out", "out", "out"))
        self.output = "out"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.head(self.blocks(x)))


def _conv(inputs: int, outputs: int, batch_norm: bool) -> nn.Sequential:
    layer = nn.Sequential()
    layer.add_module("conv", nn.Conv2d(inputs, outputs, 3, padding=1))
    if batch_norm:
        layer.add_module("norm", nn.BatchNorm2d(outputs))
    layer.add_module("relu", nn.ReLU())
    return layer


def _hidden(inputs: int, outputs: int, batch_norm: bool, dropout: float) -> nn.Sequential:
    layer = nn.Sequential()
    layer.add_module("linear", nn.Linear(inputs, outputs))
    if batch_norm:
        layer.add_module("norm", nn.BatchNorm1d(outputs))
    layer.add_module("relu", nn.ReLU())
    if dropout:
        layer.add_module("dropout", Dropout(dropout))
    return layer
