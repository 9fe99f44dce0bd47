"""LeNet-5 as in the authors' demonstration notebook."""

import torch
from torch import nn

from distsim.models.layers import Layer, Network


class LeNet5(Network):
    """6@5x5, ReLU, 2x2 average-pool; 16@5x5, ReLU, average-pool; fc 120; fc 84; output. No padding.

    Input (n, channels, 28, 28) or any size of at least 16, output (n, classes).
    """

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        left = ((size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.AvgPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AvgPool2d(2)
        self.fc1 = nn.Linear(16 * left * left, 120)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(120, 84)
        self.relu4 = nn.ReLU()
        self.out = nn.Linear(84, classes)
        self.layers = (
            Layer("conv1", "conv", "relu1"),
            Layer("pool1", "pool", "pool1"),
            Layer("conv2", "conv", "relu2"),
            Layer("pool2", "pool", "pool2"),
            Layer("fc1", "fc", "relu3"),
            Layer("fc2", "fc", "relu4"),
            Layer("out", "out", "out"),
        )
        self.output = "out"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.relu3(self.fc1(x.flatten(1)))
        return self.out(self.relu4(self.fc2(x)))
