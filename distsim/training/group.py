"""Training of a group: runs of one problem whose networks are trained in one step.

Run r has slot r mod G. All runs of a group begin a training together. A run that ends earlier, because it stops early
or diverges, is handed out at once. Its slot goes on with numbers that nobody reads.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch

from distsim.data import augment
from distsim.models import Network, build
from distsim.training.chain import TrainedNetwork, Trainer
from distsim.training.checkpoint import Checkpoint, Checkpointed, fits, part_of
from distsim.training.early_stopping import EarlyStopping
from distsim.training.fused_stepper import Epoch, FusedStepper
from distsim.training.loop import AfterEpoch, EpochStreams, checkpoint_of, choices, require_finite, stops
from distsim.training.optimizers import Schedule
from distsim.training.pruning import Masks
from distsim.training.stepper import Arithmetic, State


class GroupCheckpoints(Protocol):
    """Keeps the trainings of a group after an epoch."""

    def load(self, runs: Sequence[int]) -> dict[int, Checkpoint]:
        """Return run -> its checkpoint of the last epoch that all these runs share. It is empty if there is none."""
        ...

    def offer(self, make: Callable[[], Iterable[tuple[int, Checkpoint]]]) -> None:
        """Make and keep each run's checkpoint, or decline if that would cost too much compared with the training."""
        ...


@dataclass(frozen=True)
class Ended:
    """The end of a run's training: its network, or the error that ended it."""

    run: int
    trained: TrainedNetwork | None = None
    error: Exception | None = None

    def network(self) -> TrainedNetwork:
        """Return the network. It raises the error if there is none."""
        if self.trained is None:
            raise self.error or RuntimeError(f"run {self.run} has no network")
        return self.trained


GroupSteps = Generator[Ended | None, None, None]  # None after each step of training


@dataclass
class _Member:
    """A run of the group whose training is not over."""

    streams: EpochStreams
    slot: int
    start: tuple[State, Masks]
    stopping: EarlyStopping | None
    losses: list[float] = field(default_factory=list)

    @property
    def memories(self) -> dict[str, Checkpointed]:
        return {} if self.stopping is None else {"stopping": self.stopping}


class GroupTrainer:
    """Trains groups of `size` runs, with a trainer's data. The complete network is trained by the trainer itself."""

    def __init__(
        self,
        trainer: Trainer,
        size: int,
        after_epoch: Sequence[AfterEpoch] = (),
        announce: Callable[[int], object] = lambda epoch: None,
    ) -> None:
        """Set up nothing yet.

        after_epoch : functions to call after each epoch of each run, as in `Trainer`, whose own are not called
        announce : called once after each epoch of the group, with its index
        """
        self.trainer, self.size = trainer, size
        self.after_epoch, self.announce = tuple(after_epoch), announce

    @cached_property
    def _stepper(self) -> FusedStepper:
        """Return the step, made on first use and kept: a GPU captures it."""
        trainer, identity = self.trainer, self.trainer.identity
        network = build(trainer.problem, trainer.classes)
        arithmetic = Arithmetic.of(identity)
        data = trainer.data
        return FusedStepper(network, self.size, data.pictures, data.labels, trainer.problem.recipe, arithmetic)

    @cached_property
    def _network(self) -> Network:
        """Return a network on the device, which holds one run's weights at a time, for pruning and evaluation."""
        network = build(self.trainer.problem, self.trainer.classes).to(self.trainer.device)
        return network.to(memory_format=torch.channels_last)

    def iterate(
        self, run: int, iteration: int, before: TrainedNetwork, complete: TrainedNetwork, number: int = 0
    ) -> TrainedNetwork:
        """Do one IMP iteration of one run. It comes out as it does among others. Errors are those of its training."""
        for ended in self.iterating(iteration, {run: before}, complete, number=number):
            if ended is not None:
                return ended.network()
        raise AssertionError(f"the training of run {run} did not end")

    def iterating(
        self,
        iteration: int,
        before: Mapping[int, TrainedNetwork],
        complete: TrainedNetwork,
        checkpoints: GroupCheckpoints | None = None,
        number: int = 0,
    ) -> GroupSteps:
        """Do one IMP iteration of several runs. Yield None after each step, and each run's end as soon as it is there.

        before : run -> its network before this iteration, of runs with different slots
        number : of the complete network
        """
        members: dict[int, _Member] = {}
        for run, network in before.items():
            try:
                start = self.trainer.pruned(self._network, network, complete)
            except ValueError as error:
                yield Ended(run, error=error)
            else:
                streams = EpochStreams(self.trainer.identity.seed, run, iteration, number)
                members[run] = _Member(streams, run % self.size, start, self.trainer.stopping(iteration))
        if members:
            yield from self._training(iteration, members, checkpoints)

    def _training(
        self, iteration: int, members: dict[int, _Member], checkpoints: GroupCheckpoints | None
    ) -> GroupSteps:
        stepper = self._stepper
        stepper.reset_runs({member.slot: member.start for member in members.values()})
        epochs, rate = self.trainer.epochs(iteration)
        kept = checkpoints.load(sorted(members)) if checkpoints is not None else {}
        for run, checkpoint in kept.items():
            member = members[run]
            if not fits(checkpoint, stepper.weights_of(member.slot), member.memories, len(epochs)):
                kept = {}
                break
        stepper.load_runs({members[run].slot: checkpoint.tensors for run, checkpoint in kept.items()})
        for run, checkpoint in kept.items():
            members[run].losses = list(checkpoint.values["losses"])
            for name, memory in members[run].memories.items():
                memory.load(part_of(checkpoint, name))
        done = len(next(iter(members.values())).losses)
        everyone = tuple(members.values())
        with contextlib.closing(_ahead(lambda epoch: self._epoch(epoch, everyone, rate), epochs[done:])) as ahead:
            for epoch, prepared in ahead:
                stepper.begin_epoch(prepared)
                for _ in range(stepper.steps):
                    stepper.step()
                    yield None
                losses = stepper.losses()
                self.announce(epoch)
                for run, member in tuple(members.items()):
                    ended = self._after_epoch(run, member, losses[member.slot], epoch, epoch == epochs[-1])
                    if ended is not None:
                        del members[run]
                        yield ended
                if not members:
                    return
                if checkpoints is not None:
                    checkpoints.offer(lambda: self._checkpoints(members))

    def _epoch(self, epoch: int, members: Sequence[_Member], rate: Schedule) -> Epoch:
        """Return what the epoch needs. It is called in a thread."""
        stepper, recipe = self._stepper, self.trainer.problem.recipe
        n, size = stepper.examples, stepper.size
        order = torch.zeros((self.size, n), dtype=torch.int64)
        like = augment.draw(recipe.augment, 1, size, torch.Generator())
        draws = {name: one.new_zeros((self.size, n, *one.shape[1:])) for name, one in like.items()}
        seeds = [[0] * self.size for _ in range(stepper.modules)]
        for member in members:
            order[member.slot], drawn = choices(member.streams, recipe, epoch, n, size)
            for name, values in drawn.items():
                draws[name][member.slot] = values
            for index, of_module in enumerate(seeds):
                of_module[member.slot] = member.streams.seed_for("dropout", epoch, index)
        rates = [rate(epoch, step, stepper.steps) for step in range(stepper.steps)]
        return Epoch(order, draws, rates, [seed for of_module in seeds for seed in of_module])

    def _after_epoch(self, run: int, member: _Member, loss: float, epoch: int, last: bool) -> Ended | None:
        """Look at a run after an epoch. Return its end if it diverged or stops, or if this was the last epoch."""
        member.losses.append(loss)
        try:
            require_finite(loss, member.streams, epoch)
        except FloatingPointError as error:
            return Ended(run, error=error)
        functions: list[AfterEpoch] = [
            *self.after_epoch,
            *([] if member.stopping is None else [member.stopping]),
        ]
        if self.trainer.heard is not None:
            self.trainer.heard(member.streams, len(member.losses), loss)
        if not functions and not last:
            return None
        self._network.load_state_dict(self._stepper.weights_of(member.slot))
        try:
            ends = stops(functions, epoch, self._network, member.streams) or last
        except FloatingPointError as error:
            return Ended(run, error=error)
        if not ends:
            return None
        _, masks = member.start
        trained = self.trainer.finished(self._network, masks, member.streams, member.losses, member.stopping)
        return Ended(run, trained)

    def _checkpoints(self, members: Mapping[int, _Member]) -> Iterator[tuple[int, Checkpoint]]:
        """Yield each run's checkpoint, one in memory at a time."""
        for run, member in members.items():
            yield run, checkpoint_of(self._stepper.state_of(member.slot), member.losses, member.memories)


def _ahead(make: Callable[[int], Epoch], epochs: Sequence[int]) -> Generator[tuple[int, Epoch], None, None]:
    """Yield each epoch with what `make` makes for it, in a thread, while the epoch before is trained."""
    with ThreadPoolExecutor(1) as pool:
        making = [pool.submit(make, epoch) for epoch in epochs[:1]]
        for place, epoch in enumerate(epochs):
            made = making.pop().result()
            making = [pool.submit(make, following) for following in epochs[place + 1 : place + 2]]
            yield epoch, made
