"""A sweep script of a network and of metrics of one's own, as text: tests save it where they like."""

NAME = "digits_wide"
SCRIPT = '''
"""A network and two metrics of one's own."""

import dataclasses
import sys

from torch import nn

from distsim.cli.sweeps import main
from distsim.metrics.registry import Metric, register
from distsim.models import MODELS, Layer, Network
from distsim.problems import PROBLEMS


class Wide(Network):
    def __init__(self, channels, size, classes):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.out = nn.Linear(8 * (size // 2) ** 2, classes)
        self.layers = (
            Layer("wide_conv", "conv", "relu"),
            Layer("wide_pool", "pool", "pool"),
            Layer("out", "out", "out"),
        )
        self.output = "out"

    def forward(self, x):
        return self.out(self.pool(self.relu(self.conv(x))).flatten(1))


def distance(x, y):
    return float(abs(x - y).mean())


def spread(pair):
    return 4.5


MODELS["wide"] = Wide
register(Metric("z_spread", "kernel", spread, "spread of both"))
register(Metric("a_distance", "output", distance, "mean |x - y|"))
PROBLEM = dataclasses.replace(
    PROBLEMS["digits"].reduced_to(epochs=1, probe=50, train_limit=100), name="digits_wide", model="wide"
)

if __name__ == "__main__":
    sys.exit(main(PROBLEM))
'''
METRICS = ("cka", "cosine", "z_spread", "a_distance")
