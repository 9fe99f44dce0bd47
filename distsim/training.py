"""Training one network, from a fresh optimizer to the last epoch."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from distsim import optim
from distsim.data import Dataset, augment, validation_split
from distsim.models import Dropout, Network
from distsim.seeds import derive, torch_stream
from distsim.specs import Recipe

State = dict[str, torch.Tensor]
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
) -> list[float]:
    """Train in place through `epochs`, from an empty optimizer; the mean loss of each epoch trained.

    Dead parameters get no gradient. They start at zero and have no momentum, so that weight decay, momentum and Adam
    leave them at exactly zero. After each epoch every function of `after_epoch` is called; one that returns True stops.
    The last partial batch is dropped, unless it is the only one. FloatingPointError: the loss is not finite.
    """
    rate = rate or optim.schedule(recipe)
    parameters = dict(network.named_parameters())
    alive = [(parameters[name], mask.to(data.images.device)) for name, mask in masks.items()]
    optimizer = optim.optimizer(recipe, network.parameters())
    batch = min(recipe.batch_size, len(data.images))
    steps = len(data.images) // batch
    losses = []
    for epoch in epochs:
        network.train()
        batches = _batches(network, data, recipe, streams, epoch, batch, steps)
        total = torch.zeros((), device=data.images.device)
        for step, (images, labels) in enumerate(batches):
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for parameter, mask in alive:
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)
            for group in optimizer.param_groups:
                group["lr"] = rate(epoch, step, steps)
            optimizer.step()
            total += loss.detach()
        losses.append(float(total) / steps)
        if not math.isfinite(losses[-1]):
            where = (
                "complete network" if streams.run == "complete" else f"run {streams.run}, iteration {streams.iteration}"
            )
            raise FloatingPointError(f"training diverged: {where}: the loss of epoch {epoch + 1} is {losses[-1]}")
        stops = [stop(epoch, network) for stop in after_epoch]
        if any(stops):
            break
    return losses


def _batches(
    network: Network, data: TrainingData, recipe: Recipe, streams: EpochStreams, epoch: int, batch: int, steps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch's augmented, normalised batches; the order, the augmentation and dropout get this epoch's streams."""
    device, n, size = data.images.device, len(data.images), data.images.shape[-1]
    order = torch.randperm(n, generator=streams.generator("order", epoch)).to(device)
    draws = augment.draw(recipe.augment, n, size, streams.generator("augment", epoch))
    draws = {name: values.to(device) for name, values in draws.items()}
    dropouts = [module for module in network.modules() if isinstance(module, Dropout)]
    for index, module in enumerate(dropouts):
        module.reseed(streams.seed_for("dropout", epoch, index), device)
    for step in range(steps):
        rows = slice(step * batch, (step + 1) * batch)
        chosen = order[rows]
        drawn = {name: values[rows] for name, values in draws.items()}
        yield augment.apply(data.images[chosen], drawn, data.mean, data.sd), data.labels[chosen]


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
