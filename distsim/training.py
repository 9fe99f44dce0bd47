"""Training one network, from a fresh optimizer to the last epoch."""

import contextlib
import copy
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import nn

from distsim import optim
from distsim.data import Dataset, augment, validation_split
from distsim.models import Network
from distsim.seeds import derive, torch_stream
from distsim.specs import Recipe
from distsim.stepping import Arithmetic, State, Stepper, on_cpu

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
        raise ValueError("the recipe has no normalisation; make the spec with distsim.sweep.identify")
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


@dataclass(frozen=True)
class Halfway:
    """A training between two epochs: all that the rest of it depends on, besides its spec. Tensors are on the CPU."""

    tensors: State
    values: dict[str, Any]  # JSON


class Keeper(Protocol):
    """Where a training is kept after each epoch, so that an interruption costs no more than what came after."""

    def load(self) -> Halfway | None: ...

    def offer(self, halfway: Callable[[], Halfway]) -> None:
        """Take it, or decline where that would cost too much beside the training."""
        ...


class Memory(Protocol):
    """A function of `after_epoch` that a training's continuation depends on."""

    def state(self) -> Halfway: ...
    def load(self, halfway: Halfway) -> None: ...


def train_steps(
    stepper: Stepper,
    recipe: Recipe,
    streams: EpochStreams,
    epochs: Iterable[int],
    rate: optim.Schedule | None = None,
    after_epoch: Sequence[AfterEpoch] = (),
    keeper: Keeper | None = None,
    memories: Mapping[str, Memory] | None = None,
) -> Generator[None, None, list[float]]:
    """`train` of a stepper that was reset, giving way after each step: several trainings may take turns on a device.

    keeper : asked at the start for what an interrupted training left, and offered the state after each epoch;
    memories : what else belongs to that state
    """
    rate, memories = rate or optim.schedule(recipe), memories or {}
    losses: list[float] = []
    left = keeper.load() if keeper is not None else None
    if left is not None:
        losses = list(left.values["losses"])
        stepper.load(left.tensors)
        for name, memory in memories.items():
            memory.load(_part(left, name))
    done = len(losses)
    for epoch in list(epochs)[done:]:
        seeds = [streams.seed_for("dropout", epoch, index) for index in range(stepper.dropouts)]
        order = torch.randperm(stepper.examples, generator=streams.generator("order", epoch))
        draws = augment.draw(recipe.augment, stepper.examples, stepper.size, streams.generator("augment", epoch))
        stepper.begin(order, draws, [rate(epoch, step, stepper.steps) for step in range(stepper.steps)], seeds)
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
        if keeper is not None:
            keeper.offer(lambda: _halfway(stepper, losses, memories))
    return losses


def _halfway(stepper: Stepper, losses: list[float], memories: Mapping[str, Memory]) -> Halfway:
    tensors, states = stepper.state(), {name: memory.state() for name, memory in memories.items()}
    for name, state in states.items():
        tensors |= {f"memory/{name}/{key}": value for key, value in state.tensors.items()}
    return Halfway(tensors, {"losses": losses, "memories": {name: state.values for name, state in states.items()}})


def _part(halfway: Halfway, name: str) -> Halfway:
    prefix = f"memory/{name}/"
    tensors = {key.removeprefix(prefix): value for key, value in halfway.tensors.items() if key.startswith(prefix)}
    return Halfway(tensors, halfway.values["memories"][name])


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


class EarlyStopping:
    """Stops after `patience` epochs without a strictly smaller validation loss, and keeps the best epoch's state.

    The best epoch is looked for from epoch index `earliest` on. Used as an `after_epoch` function.
    """

    def __init__(self, data: TrainingData, patience: int, earliest: int = 0) -> None:
        if data.validation is None:
            raise ValueError("early stopping needs a validation split")
        self.data, self.patience, self.earliest = data, patience, earliest
        self.images, self.labels = data.validation
        self.losses: list[float] = []
        self.best_epoch = -1
        self.best_loss = math.inf
        self.best_state: State | None = None
        self.waited = 0

    def __call__(self, epoch: int, network: Network) -> bool:
        _, loss = evaluate(network, self.images, self.labels, self.data.mean, self.data.sd)
        self.losses.append(loss)
        if epoch < self.earliest:
            return False
        if loss < self.best_loss:
            self.best_epoch, self.best_loss, self.waited = epoch, loss, 0
            self.best_state = copy.deepcopy(network.state_dict())
        else:
            self.waited += 1
        return self.waited >= self.patience

    def state(self) -> Halfway:
        best = {name: on_cpu(tensor) for name, tensor in (self.best_state or {}).items()}
        loss = self.best_loss if math.isfinite(self.best_loss) else None
        values = {"losses": self.losses, "best_epoch": self.best_epoch, "best_loss": loss, "waited": self.waited}
        return Halfway(best, values)

    def load(self, halfway: Halfway) -> None:
        values = halfway.values
        self.losses, self.best_epoch, self.waited = list(values["losses"]), values["best_epoch"], values["waited"]
        self.best_loss = math.inf if values["best_loss"] is None else values["best_loss"]
        self.best_state = dict(halfway.tensors) or None


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block with exactly this many threads in torch and in NumPy's BLAS: other counts give other bits."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
