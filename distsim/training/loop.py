"""Training one network, from a fresh optimizer to the last epoch."""

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

import torch
from torch import nn

from distsim.data import Dataset, augment, validation_split
from distsim.models import Network
from distsim.seeds import derive, torch_stream
from distsim.specs import Recipe
from distsim.training import optimizers as optim
from distsim.training.checkpoint import Checkpoint, Checkpointed, CheckpointStore, part_of
from distsim.training.stepper import Arithmetic, Stepper, on_cpu

AfterEpoch = Callable[[int, Network], bool]  # (epoch just finished, 0-based; the network) -> stop now?


@dataclass(frozen=True)
class TrainingData:
    """A problem's images on the training device, uint8 (n, c, h, w), labels int64 (n,), and how to normalise them."""

    images: torch.Tensor
    labels: torch.Tensor
    validation: tuple[torch.Tensor, torch.Tensor] | None  # held out where the recipe stops early
    test: tuple[torch.Tensor, torch.Tensor]
    mean: torch.Tensor
    sd: torch.Tensor

    @cached_property
    def pictures(self) -> augment.Pictures:
        """The training images, ready to be augmented."""
        return augment.Pictures(self.images, self.mean, self.sd)


def training_data(dataset: Dataset, recipe: Recipe, seed: int, device: torch.device) -> TrainingData:
    """The dataset on the device, the validation split taken off if the recipe stops early (equal for all runs)."""
    if recipe.normalise is None:
        raise ValueError("the recipe has no normalisation; make the spec with distsim.sweep.order.identify")
    mean, sd = (torch.tensor(values, dtype=torch.float32, device=device) for values in recipe.normalise)
    images, labels = (torch.tensor(a, device=device) for a in (dataset.train_images, dataset.train_labels))
    test = (torch.tensor(dataset.test_images, device=device), torch.tensor(dataset.test_labels, device=device))
    validation = None
    if recipe.patience is not None:
        kept, held = (
            torch.tensor(i, device=device) for i in validation_split(dataset.train_labels, recipe.validation, seed)
        )
        validation = (images[held], labels[held])
        images, labels = images[kept], labels[kept]
    return TrainingData(images, labels, validation, test, mean, sd)


@dataclass(frozen=True)
class EpochStreams:
    """The random streams of one training: those of epoch e depend on (seed, run, iteration, e) and nothing else."""

    seed: int
    run: int | str  # "complete" for the network that every run starts from
    iteration: int

    def seed_for(self, purpose: str, epoch: int, *more: int) -> int:
        return derive(self.seed, purpose, self.run, self.iteration, epoch, *more)

    def generator(self, purpose: str, epoch: int) -> torch.Generator:
        return torch_stream(self.seed, purpose, self.run, self.iteration, epoch)


def train(
    network: Network,
    data: TrainingData,
    recipe: Recipe,
    streams: EpochStreams,
    masks: Mapping[str, torch.Tensor],
    epochs: Iterable[int],
    rate: optim.Schedule | None = None,
    after_epoch: Sequence[AfterEpoch] = (),
    arithmetic: Arithmetic | None = None,
) -> list[float]:
    """Train in place through `epochs`, from an empty optimizer; the mean loss of each epoch trained.

    Dead parameters get no gradient. They start at zero and have no momentum, so that weight decay, momentum and Adam
    leave them at exactly zero. After each epoch every function of `after_epoch` is called; one that returns True stops.
    The last partial batch is dropped, unless it is the only one. FloatingPointError: the loss is not finite.
    """
    weights = {name: on_cpu(tensor) for name, tensor in network.state_dict().items()}
    stepper = stepper_for(network, data, recipe, arithmetic)
    stepper.reset(weights, masks)
    return finish(train_steps(stepper, recipe, streams, epochs, rate, after_epoch))


def stepper_for(network: Network, data: TrainingData, recipe: Recipe, arithmetic: Arithmetic | None = None) -> Stepper:
    return Stepper(network, data.pictures, data.labels, recipe, arithmetic)


def train_steps(
    stepper: Stepper,
    recipe: Recipe,
    streams: EpochStreams,
    epochs: Iterable[int],
    rate: optim.Schedule | None = None,
    after_epoch: Sequence[AfterEpoch] = (),
    checkpoints: CheckpointStore | None = None,
    checkpointed: Mapping[str, Checkpointed] | None = None,
) -> Generator[None, None, list[float]]:
    """`train` of a stepper that was reset, giving way after each step: several trainings may take turns on a device.

    checkpoints : asked at the start for what an interrupted training left, and offered the state after each epoch;
    checkpointed : what else belongs to that state
    """
    rate, checkpointed = rate or optim.schedule(recipe), checkpointed or {}
    losses: list[float] = []
    left = checkpoints.load() if checkpoints is not None else None
    if left is not None:
        losses = list(left.values["losses"])
        stepper.load(left.tensors)
        for name, memory in checkpointed.items():
            memory.load(part_of(left, name))
    done = len(losses)
    for epoch in list(epochs)[done:]:
        seeds = [streams.seed_for("dropout", epoch, index) for index in range(stepper.dropouts)]
        order = torch.randperm(stepper.examples, generator=streams.generator("order", epoch))
        draws = augment.draw(recipe.augment, stepper.examples, stepper.size, streams.generator("augment", epoch))
        rates = [rate(epoch, step, stepper.steps) for step in range(stepper.steps)]
        of_steps = [streams.seed_for("draws", epoch, step) for step in range(stepper.steps)] if stepper.draws else ()
        stepper.begin(order, draws, rates, seeds, of_steps)
        for _ in range(stepper.steps):
            stepper.step()
            yield
        losses.append(stepper.loss())
        if not math.isfinite(losses[-1]):
            where = (
                "complete network" if streams.run == "complete" else f"run {streams.run}, iteration {streams.iteration}"
            )
            raise FloatingPointError(f"training diverged: {where}: the loss of epoch {epoch + 1} is {losses[-1]}")
        stops = [stop(epoch, stepper.network) for stop in after_epoch]
        if any(stops):
            break
        if checkpoints is not None:
            checkpoints.offer(lambda: _checkpoint_of(stepper, losses, checkpointed))
    return losses


def _checkpoint_of(stepper: Stepper, losses: list[float], checkpointed: Mapping[str, Checkpointed]) -> Checkpoint:
    tensors, states = stepper.state(), {name: memory.state() for name, memory in checkpointed.items()}
    for name, state in states.items():
        tensors |= {f"memory/{name}/{key}": value for key, value in state.tensors.items()}
    return Checkpoint(tensors, {"losses": losses, "memories": {name: state.values for name, state in states.items()}})


Result = TypeVar("Result")


def finish(steps: Generator[None, None, Result]) -> Result:
    """What a generator that gives way returns at its end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast(Result, end.value)


@torch.no_grad()
def evaluate(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, mean: torch.Tensor, sd: torch.Tensor
) -> tuple[float, float]:
    """(accuracy, mean cross-entropy) over all images, uint8, without augmentation, in evaluation mode."""
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=images.device)
    loss = torch.zeros((), dtype=torch.float64, device=images.device)
    for part, wanted in zip(images.split(500), labels.split(500), strict=True):
        logits = network(augment.normalise(part, mean, sd))
        correct += (logits.argmax(dim=1) == wanted).sum()
        loss += nn.functional.cross_entropy(logits.double(), wanted, reduction="sum")
    return int(correct) / len(images), float(loss) / len(images)
