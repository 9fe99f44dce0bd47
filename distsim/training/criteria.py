"""Pruning criteria, by name: which weights go first. "magnitude" comes with distsim, others are registered by scripts.

What a criterion needs beside weights is measured on the CPU, in float32, on fixed images. So an interrupted training
gets the same masks again, on a GPU too, where gradients need not repeat their bits.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distsim.data import augment
from distsim.models import Network, logits_of
from distsim.specs import MAGNITUDE

NEEDS = ("gradients", "activations")
BATCH = 100  # images in a pass; fixed, because the batch size may change the last bits


@dataclass(frozen=True)
class Criterion:
    """A function that scores the weights of one parameter. Of each pool those with the lowest scores are pruned.

    score     gets a parameter, a float32 tensor on the CPU in which pruned weights are zero, and by name what it needs.
              It returns a tensor of the same shape. The same weights must get the same scores every time
    needs     of these any
              gradients: the gradient of the mean cross-entropy, of the parameter's shape
              activations: the root mean square of what each weight is multiplied by, a tensor that broadcasts to the
              parameter's shape; 1 for a bias
    examples  training images on which these are measured, evenly spread over all, without augmentation; the network
              is in evaluation mode

    ValueError: another need, a name that is not an identifier, or no example.
    """

    name: str
    score: Callable[..., Tensor]
    needs: tuple[str, ...] = ()
    examples: int = 1000

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"a criterion's name must be an identifier, got {self.name!r}")
        if isinstance(self.needs, str) or not set(self.needs) <= set(NEEDS):
            raise ValueError(f"criterion {self.name}: needs must be some of {NEEDS} in a tuple, got {self.needs!r}")
        if self.examples < 1:
            raise ValueError(f"criterion {self.name}: examples must be at least 1, got {self.examples}")


CRITERIA: dict[str, Criterion] = {MAGNITUDE: Criterion(MAGNITUDE, torch.abs)}
BUILT_IN = dict(CRITERIA)


def register(criterion: Criterion) -> Criterion:
    """Add a criterion to CRITERIA and return it. ValueError: another criterion has its name."""
    if CRITERIA.setdefault(criterion.name, criterion) != criterion:
        raise ValueError(f"there is already another criterion named {criterion.name}")
    return criterion


def criterion_of(name: str) -> Criterion:
    """Return the criterion of this name. ValueError: it is unknown; the message lists what there is."""
    if name not in CRITERIA:
        raise ValueError(f"unknown criterion {name!r}; there are {', '.join(sorted(CRITERIA))}")
    return CRITERIA[name]


@dataclass(frozen=True)
class Calibration:
    """Training images, uint8 (n, c, h, w), and labels, int64 (n,), with the statistics that normalise them."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    sd: Tensor

    def spread(self, count: int) -> "Calibration":
        """Return so many of the images, evenly spread, or all if there are fewer, on the CPU."""
        n = len(self.images)
        which = torch.arange(n) if count >= n else torch.arange(count) * n // count
        which = which.to(self.images.device)
        return Calibration(self.images[which].cpu(), self.labels[which].cpu(), self.mean.cpu(), self.sd.cpu())


def scores(network: Network, names: list[str], criterion: Criterion, data: Calibration) -> dict[str, Tensor]:
    """Return the score of each weight of these parameters, in which the lowest are pruned first.

    network : on the CPU; its parameters and buffers are left as they are
    ValueError: the criterion fails, or returns something else than a finite score for each weight.
    """
    parameters = dict(network.named_parameters())
    measured: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    if criterion.needs:
        gradients, activations = _measured(network, data.spread(criterion.examples), "gradients" in criterion.needs)
        for name in names:
            every = {"gradients": gradients.get(name), "activations": activations[name]}
            measured[name] = {need: value for need in criterion.needs if (value := every[need]) is not None}
    return {name: score_of(criterion, name, parameters[name].detach(), measured[name]) for name in names}


def score_of(criterion: Criterion, name: str, weights: Tensor, measured: Mapping[str, Tensor]) -> Tensor:
    """Return the criterion's score of each weight of a parameter. ValueError: as `scores`."""
    who = f"criterion {criterion.name}: parameter {name!r}"
    given = {need: value.clone() for need, value in measured.items()}
    try:
        score: Any = criterion.score(weights.clone(), **given)
    except Exception as error:  # a user's code may raise anything
        raise ValueError(f"{who}: {type(error).__name__}: {error}") from error
    if not isinstance(score, Tensor) or score.shape != weights.shape:
        got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise ValueError(f"{who}: it must return a tensor of shape {tuple(weights.shape)}, got {got}")
    return score.detach().to("cpu", torch.float64)


def _measured(network: Network, data: Calibration, backward: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return of each parameter of convolutions and linear layers the gradient, and what its weights multiply."""
    before = network.training, {name: value.clone() for name, value in network.named_buffers()}
    inputs = _Inputs(network)
    network.eval().zero_grad()
    try:
        with inputs.watched(), torch.set_grad_enabled(backward):
            for which in torch.arange(len(data.images)).split(BATCH):
                output = logits_of(network, augment.normalise(data.images[which], data.mean, data.sd))
                loss = nn.functional.cross_entropy(output, data.labels[which], reduction="sum") / len(data.images)
                if backward:
                    loss.backward()  # type: ignore[no-untyped-call]
    finally:
        network.train(before[0])
        for name, value in network.named_buffers():
            value.copy_(before[1][name])
    parameters = dict(network.named_parameters())
    gradients = {
        name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
        for name, value in parameters.items()
    }
    network.zero_grad()
    return gradients, inputs.of_parameters()


class _Inputs:
    """Adds up the squares of what convolutions and linear layers get, of each of their input channels or features."""

    def __init__(self, network: Network) -> None:
        names: dict[Tensor | None, str] = {parameter: name for name, parameter in network.named_parameters()}
        self._layers = [
            (module, names[module.weight], names.get(module.bias))
            for module in network.modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        ]
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Add up what the layers get inside the block."""
        handles = [
            module.register_forward_pre_hook(lambda module, given, name=name: self._add(name, module, given[0]))
            for module, name, _ in self._layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, name: str, module: nn.Module, given: Tensor) -> None:
        axis = 1 if isinstance(module, nn.Conv2d) and given.ndim == 4 else given.ndim - 1
        squares = given.detach().double().square().movedim(axis, -1).flatten(0, -2)
        self._sums[name] = self._sums.get(name, torch.zeros(squares.shape[1], dtype=torch.float64)) + squares.sum(0)
        self._counts[name] = self._counts.get(name, 0) + len(squares)

    def of_parameters(self) -> dict[str, Tensor]:
        """Return for each parameter the root mean square of what its weights multiply; 0 where a layer did not run."""
        found: dict[str, Tensor] = {}
        for module, name, bias in self._layers:
            if name not in found:
                mean = self._sums[name] / self._counts[name] if name in self._sums else torch.zeros(1)
                found[name] = _laid_out(mean.sqrt().float(), module)
            if bias is not None:
                found.setdefault(bias, torch.ones(1))
        return found


def _laid_out(level: Tensor, module: nn.Conv2d | nn.Linear) -> Tensor:
    """Return the levels of a layer's inputs with a shape that broadcasts to its weight's."""
    if isinstance(module, nn.Linear):
        return level.reshape(1, -1)
    outputs, inputs = module.weight.shape[:2]
    by_group = level.expand(module.groups * inputs).reshape(module.groups, 1, inputs)
    return by_group.expand(-1, outputs // module.groups, -1).reshape(outputs, inputs, 1, 1)
