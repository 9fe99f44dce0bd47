"""Linear connectivity of two trained networks: the loss along the straight line between their weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distsim.activations.probe import BATCH, Probe
from distsim.data import augment
from distsim.models import Network, logits_of
from distsim.training.loop import evaluate
from distsim.training.stepper import State

STEPS = 11  # points on the line, both ends included


@dataclass(frozen=True)
class Line:
    """The test losses at equal steps from one network to another."""

    losses: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """Return the largest height above the straight line between the losses of both ends, at least 0.

            max over α of L(α) − ((1 − α) L(0) + α L(1))

        Frankle et al. 2020. It is 0 where the loss falls, or rises evenly, all the way.
        """
        first, last, steps = self.losses[0], self.losses[-1], len(self.losses) - 1
        straight = [((steps - i) * first + i * last) / steps for i in range(steps + 1)]
        return max(0.0, *(loss - on_line for loss, on_line in zip(self.losses, straight, strict=True)))


def line(
    build: Callable[[], Network],
    first: State,
    last: State,
    probe: Probe,
    test: tuple[Tensor, Tensor],
    steps: int = STEPS,
) -> Line:
    """Return the test losses on the way from one network to another.

    At each point, both ends included, batch normalisation gets its statistics from the probe. Those of the two ends do
    not fit the weights between them.

    build : makes a network on the probe's device; first, last : parameters and buffers, dead parameters zero
    test : images, uint8 (n, c, h, w), and labels, on the probe's device
    """
    network, losses = build(), []
    for step in range(steps):
        network.load_state_dict(between(first, last, step / (steps - 1)))
        measure_statistics(network, probe)
        losses.append(evaluate(network, *test, probe.mean, probe.sd)[1])
    return Line(tuple(losses))


def between(first: State, last: State, share: float) -> State:
    """Return (1 - share) first + share last for tensors of floats, and the first's other tensors."""
    return {
        name: (1 - share) * tensor + share * last[name] if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }


@torch.no_grad()
def measure_statistics(network: Network, probe: Probe) -> None:
    """Set the statistics of every batch normalisation to the mean over the probe's batches. The rest is not changed."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    norms = [module for module in norms if module.track_running_stats]
    if not norms:
        return
    momenta = [module.momentum for module in norms]
    network.eval()
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # a plain mean over batches
        module.train()
    for images in _full_batches(probe.images):
        logits_of(network, augment.normalise(images, probe.mean, probe.sd))
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    network.eval()


def _full_batches(images: Tensor) -> Sequence[Tensor]:
    """Return batches of one size, so that each counts the same. A smaller last one is left out."""
    batches = images.split(BATCH)
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < BATCH else batches
