"""Training one network, from a fresh optimizer to the last epoch."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

import torch
from torch import nn

from distsim.data import Dataset, augment, validation_split
from distsim.models import Network, logits_of
from distsim.seeds import derive, torch_stream
from distsim.specs import NetworkId, OfControl, Recipe
from distsim.tf32 import SWITCH
from distsim.training import optimizers as optim
from distsim.training.checkpoint import Checkpoint, Checkpointed, CheckpointStore, fits, part_of
from distsim.training.stepper import Arithmetic, State, Stepper, on_cpu

EVALUATED = 500  # images per forward pass; fixed, because the batch size may change the last bits
AfterEpoch = Callable[[int, Network], bool]  # (index of the finished epoch, from 0; the network) -> whether to stop


@dataclass(frozen=True)
class TrainingData:
    """A problem's images, uint8 (n, c, h, w), and labels, int64 (n,), on the training device, and their statistics."""

    images: torch.Tensor
    labels: torch.Tensor
    validation: tuple[torch.Tensor, torch.Tensor] | None  # held out if the recipe stops early
    test: tuple[torch.Tensor, torch.Tensor]
    mean: torch.Tensor
    sd: torch.Tensor

    @cached_property
    def pictures(self) -> augment.Pictures:
        """Return the training images, ready to be augmented."""
        return augment.Pictures(self.images, self.mean, self.sd)


def training_data(dataset: Dataset, recipe: Recipe, seed: int, device: torch.device) -> TrainingData:
    """Put the dataset on the device, and split off validation images if the recipe stops early.

    The split is the same for all runs. ValueError: the recipe has no normalisation.
    """
    mean, sd = augment.normalisation(recipe, device)
    images, labels = (torch.tensor(a, device=device) for a in (dataset.train_images, dataset.train_labels))
    test = (torch.tensor(dataset.test_images, device=device), torch.tensor(dataset.test_labels, device=device))
    validation = None
    if recipe.patience is not None:
        training, held_out = (
            torch.tensor(i, device=device) for i in validation_split(dataset.train_labels, recipe.validation, seed)
        )
        validation = (images[held_out], labels[held_out])
        images, labels = images[training], labels[training]
    return TrainingData(images, labels, validation, test, mean, sd)


@dataclass(frozen=True)
class EpochStreams:
    """The random streams of one training. Those of an epoch depend only on (seed, run, iteration, epoch).

    Those of another complete network, and of a control, have its number and its name before the run.
    """

    seed: int
    run: int | str  # "complete" for the network from which every run starts
    iteration: int
    complete: int = 0  # number of the complete network
    control: OfControl = ""

    @property
    def _names(self) -> tuple[str | int, ...]:
        complete = ("complete", self.complete) if self.complete else ()
        control = ("control", self.control) if self.control else ()
        return *complete, *control, self.run, self.iteration

    def seed_for(self, purpose: str, epoch: int, *more: int) -> int:
        """Return the seed of an epoch's stream; `more` are further parts of its name, such as the step."""
        return derive(self.seed, purpose, *self._names, epoch, *more)

    def generator(self, purpose: str, epoch: int) -> torch.Generator:
        """Return a generator at the start of an epoch's stream."""
        return torch_stream(self.seed, purpose, *self._names, epoch)

    def once(self, purpose: str) -> torch.Generator:
        """Return a generator at the start of a stream that the training has once."""
        return torch_stream(self.seed, purpose, *self._names)

    @property
    def network(self) -> NetworkId:
        """Return the network whose training they serve."""
        if not isinstance(self.run, int):
            return NetworkId(complete=self.complete)
        return NetworkId(self.run, self.iteration, self.complete, self.control)

    @property
    def label(self) -> str:
        """Return whose streams they are, in words."""
        return self.network.label


Heard = Callable[[EpochStreams, int, float], object]  # (whose training, epochs that are over, mean loss of the last)


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
    """Train a network in place through `epochs`, from an empty optimizer, and return each epoch's mean loss.

    Dead parameters get no gradient. They start at zero and have no momentum, so that weight decay, momentum and Adam
    leave them at exactly zero. After each epoch every function of `after_epoch` is called; if one returns True,
    training stops. The last partial batch is dropped, unless it is the only one.
    rate : None for the recipe's schedule
    FloatingPointError: the loss is not finite.
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
    heard: Heard | None = None,
) -> Generator[None, None, list[float]]:
    """Train as `train` does, on a stepper that was reset, and yield after each step.

    So several trainings may take turns on a device.
    checkpoints : where an interrupted training goes on from, and where the state is offered after each epoch
    checkpointed : functions of `after_epoch` that belong to that state, by name
    heard : called after each epoch
    """
    rate, checkpointed = rate or optim.schedule(recipe), checkpointed or {}
    losses: list[float] = []
    epochs = list(epochs)
    checkpoint = checkpoints.load() if checkpoints is not None else None
    if checkpoint is not None and fits(checkpoint, stepper.network.state_dict(), checkpointed, len(epochs)):
        losses = list(checkpoint.values["losses"])
        stepper.load(checkpoint.tensors)
        for name, memory in checkpointed.items():
            memory.load(part_of(checkpoint, name))
    for epoch in epochs[len(losses) :]:
        seeds = [streams.seed_for("dropout", epoch, index) for index in range(stepper.dropouts)]
        order, draws = choices(streams, recipe, epoch, stepper.examples, stepper.size)
        rates = [rate(epoch, step, stepper.steps) for step in range(stepper.steps)]
        step_seeds = [streams.seed_for("draws", epoch, step) for step in range(stepper.steps)] if stepper.draws else ()
        stepper.begin(order, draws, rates, seeds, step_seeds)
        for _ in range(stepper.steps):
            stepper.step()
            yield
        losses.append(stepper.loss())
        require_finite(losses[-1], streams, epoch)
        if heard is not None:
            heard(streams, len(losses), losses[-1])
        if stops(after_epoch, epoch, stepper.network, streams):
            break
        if checkpoints is not None:
            checkpoints.offer(lambda: checkpoint_of(stepper.state(), losses, checkpointed))
    return losses


def choices(
    streams: EpochStreams, recipe: Recipe, epoch: int, examples: int, size: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return an epoch's order, (examples,), and the random choices of its augmentation, on the CPU."""
    order = torch.randperm(examples, generator=streams.generator("order", epoch))
    return order, augment.draw(recipe.augment, examples, size, streams.generator("augment", epoch))


def require_finite(loss: float, streams: EpochStreams, epoch: int) -> None:
    """Check the mean loss of an epoch, counted from 0. FloatingPointError: it is not finite."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"training diverged: {streams.label}: the loss of epoch {epoch + 1} is {loss}")


def stops(functions: Sequence[AfterEpoch], epoch: int, network: Network, streams: EpochStreams) -> bool:
    """Call all of these after an epoch, and return whether one stops the training.

    FloatingPointError: the training has diverged, as one of them sees.
    """
    try:
        said = [stop(epoch, network) for stop in functions]
    except FloatingPointError as error:
        raise FloatingPointError(f"training diverged: {streams.label}: {error}") from None
    return any(said)


def checkpoint_of(tensors: State, losses: list[float], checkpointed: Mapping[str, Checkpointed]) -> Checkpoint:
    """Return a training's checkpoint. tensors : of `Stepper.state`"""
    tensors, states = dict(tensors), {name: memory.state() for name, memory in checkpointed.items()}
    for name, state in states.items():
        tensors |= {f"memory/{name}/{key}": value for key, value in state.tensors.items()}
    return Checkpoint(tensors, {"losses": losses, "memories": {name: state.values for name, state in states.items()}})


Result = TypeVar("Result")


def finish(steps: Generator[None, None, Result]) -> Result:
    """Run a generator of training steps to its end, and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast(Result, end.value)


@torch.no_grad()
def outputs(network: nn.Module, images: torch.Tensor, mean: torch.Tensor, sd: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the network's outputs for `EVALUATED` images (uint8) at a time, in evaluation mode, not augmented."""
    network.eval()
    for batch in images.split(EVALUATED):
        with SWITCH.float32():
            logits = logits_of(network, augment.normalise(batch, mean, sd))
        yield logits


@torch.no_grad()
def evaluate(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, mean: torch.Tensor, sd: torch.Tensor
) -> tuple[float, float]:
    """Return the accuracy and the mean cross-entropy over all images (uint8), in evaluation mode, not augmented."""
    correct = torch.zeros((), dtype=torch.int64, device=images.device)
    loss = torch.zeros((), dtype=torch.float64, device=images.device)
    batches = outputs(network, images, mean, sd)
    for logits, targets in zip(batches, labels.split(EVALUATED), strict=True):
        correct += (logits.argmax(dim=1) == targets).sum()
        loss += nn.functional.cross_entropy(logits.double(), targets, reduction="sum")
    return int(correct) / len(images), float(loss) / len(images)
