"""The small residual network of P2 (Ansuini et al. 2021), after David Page's DAWNBench entry."""

import torch
from torch import nn

from distsim.models.layers import Layer, Network, Scale


class ResNetFast(Network):
    """prep 64; 128, pool, residual; 256, pool; 512, pool, residual; 4x4 max-pool; linear without bias, times 0.125.

    Input (n, channels, 32, 32), output (n, classes). Any size 8·s with s >= 1 works: the last pooling covers all that
    is left. Convolutions are 3x3 with padding 1 and no bias, each followed by batch norm and ReLU.
    """

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.prep = ConvNormReLU(channels, 64)
        self.l1 = Stage(64, 128, residual=True)
        self.l2 = Stage(128, 256, residual=False)
        self.l3 = Stage(256, 512, residual=True)
        self.pool = nn.MaxPool2d(size // 8)
        self.linear = nn.Linear(512, classes, bias=False)
        self.out = Scale(0.125)
        self.layers = (
            Layer("prep", "conv", "prep.relu"),
            *_stage_layers("l1", residual=True),
            *_stage_layers("l2", residual=False),
            *_stage_layers("l3", residual=True),
            Layer("pool", "pool", "pool"),
            Layer("out", "out", "out"),
        )
        self.output = "linear"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.l3(self.l2(self.l1(self.prep(x)))))
        return self.out(self.linear(x.flatten(1)))


class ConvNormReLU(nn.Sequential):
    """3x3 convolution with padding 1 and no bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()


class Residual(nn.Module):
    """x + relu(bn(conv(relu(bn(conv x))))), without a ReLU after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.res1 = ConvNormReLU(width, width)
        self.res2 = ConvNormReLU(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.res2(self.res1(x))


class Stage(nn.Module):
    """Convolution, 2x2 max-pooling and, in some stages, a residual block."""

    def __init__(self, inputs: int, outputs: int, residual: bool) -> None:
        super().__init__()
        self.conv = ConvNormReLU(inputs, outputs)
        self.pool = nn.MaxPool2d(2)
        self.residual = Residual(outputs) if residual else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.residual(self.pool(self.conv(x)))


def _stage_layers(stage: str, residual: bool) -> tuple[Layer, ...]:
    plain = (
        Layer(f"{stage}_conv", "conv", f"{stage}.conv.relu"),
        Layer(f"{stage}_pool", "pool", f"{stage}.pool"),
    )
    if not residual:
        return plain
    return (
        *plain,
        Layer(f"{stage}_res1", "conv_res", f"{stage}.residual.res1.relu"),
        Layer(f"{stage}_res2", "conv_res", f"{stage}.residual.res2.relu"),
        Layer(f"{stage}_add", "add", f"{stage}.residual"),
    )
