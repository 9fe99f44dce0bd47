"""The sweep that grows in bench/growth.py and bench/growth_engine.py: so small that only the sweep itself takes time.

    python bench/growth_problem.py --runs 20 --iterations 20 --storage STORE

It is a sweep script as those in sweeps/, of a network of one convolution on 100 images, compared by CKA alone.
"""

import dataclasses
import sys

import torch
from torch import nn

from distsim.cli.sweeps import main
from distsim.models import MODELS, Layer, Network
from distsim.problems import PROBLEMS

NAME = "growth"


class Small(Network):
    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(4)
        self.out = nn.Linear(4 * (size // 4) ** 2, classes)
        self.layers = (Layer("conv", "conv", "relu"), Layer("pool", "pool", "pool"), Layer("out", "out", "out"))
        self.output = "out"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.pool(self.relu(self.conv(x))).flatten(1))


MODELS["growth"] = Small
PROBLEM = dataclasses.replace(
    PROBLEMS["digits"].reduced_to(epochs=1, probe=50, train_limit=100), name=NAME, model="growth", iterations=20
)
DEFAULTS = {"metrics": ("cka_unbiased",), "activations": "memory", "control": (), "measure": ["none"], "device": "cpu"}

if __name__ == "__main__":
    sys.exit(main(PROBLEM, **DEFAULTS))
