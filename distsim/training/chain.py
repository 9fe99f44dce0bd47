"""Training of the complete network, and of chains of prunings and retrainings that start from it."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch

from distsim.data import Dataset
from distsim.models import Network, build
from distsim.seeds import torch_stream
from distsim.specs import MAGNITUDE, Identity, OfControl
from distsim.training import optimizers as optim
from distsim.training.checkpoint import Checkpoint, Checkpointed, CheckpointStore
from distsim.training.criteria import Calibration, criterion_of, scores
from distsim.training.early_stopping import EarlyStopping
from distsim.training.loop import (
    AfterEpoch,
    EpochStreams,
    Heard,
    TrainingData,
    evaluate,
    finish,
    outputs,
    stepper_for,
    train_steps,
    training_data,
)
from distsim.training.pruning import Masks, apply_masks, full_masks, prune, remaining
from distsim.training.stepper import Arithmetic, State, Stepper, on_cpu, settle


@dataclass(frozen=True)
class TrainedNetwork:
    """A finished network: the complete one (iteration 0), or a run's after an IMP iteration. Tensors are on the CPU."""

    iteration: int
    weights: State  # parameters and buffers, dead parameters exactly zero
    masks: Masks
    record: dict[str, Any] = field(default_factory=dict)  # JSON values that depend only on the identity and the run
    rewind: State | None = None  # the complete network's state after `rewind_epoch` epochs; None in a pruned network


Steps = Generator[None, None, TrainedNetwork]  # yields after each step of training, and returns the finished network


class Trainer:
    """A problem's data on a device, and the training of any of its networks."""

    def __init__(
        self,
        identity: Identity,
        dataset: Dataset,
        device: torch.device | str = "cpu",
        after_epoch: Sequence[AfterEpoch] = (),
        heard: Heard | None = None,
    ) -> None:
        """Put the data on the device.

        after_epoch : functions to call after each epoch with its index, from 0, and the network; return True to stop
        heard : called after each epoch of any training, also of a group's
        """
        self.identity = identity
        self.problem = identity.problem
        self.device = torch.device(device)
        self.after_epoch, self.heard = tuple(after_epoch), heard
        self.classes = len(dataset.classes)
        settle(self.device, identity.deterministic)
        self.data: TrainingData = training_data(dataset, self.problem.recipe, identity.seed, self.device)
        self._idle: list[Stepper] = []  # reused, since capturing a step costs more than some trainings

    def complete(self, checkpoints: CheckpointStore | None = None, number: int = 0) -> TrainedNetwork:
        """Train the network from which every run starts. number : another complete network, with streams of its own"""
        return finish(self.completing(checkpoints, number))

    def completing(self, checkpoints: CheckpointStore | None = None, number: int = 0) -> Steps:
        """Do what `complete` does, and yield after each step of training."""
        streams = EpochStreams(self.identity.seed, "complete", 0, number)
        generator = torch_stream(self.identity.seed, "initialisation", *([number] if number else []))
        network = build(self.problem, self.classes, generator)
        pruning = self.problem.pruning
        masks = full_masks(network, pruning)
        rewind_epoch = pruning.rewind_epoch if pruning.rewind == "WR" else 0
        rewind = _RewindState(rewind_epoch, network)
        return self._training(weights_of(network), masks, streams, checkpoints, rewind)

    def chain(
        self,
        run: int,
        complete: TrainedNetwork,
        resume: TrainedNetwork | None = None,
        iterations: int = 20,
        control: OfControl = "",
        number: int = 0,
    ) -> Iterator[TrainedNetwork]:
        """Yield the run's network after each IMP iteration; start after `resume`, one of these networks, if given."""
        network = resume or complete
        for iteration in range(network.iteration + 1, iterations + 1):
            network = self.iterate(run, iteration, network, complete, control=control, number=number)
            yield network

    def iterate(
        self,
        run: int,
        iteration: int,
        before: TrainedNetwork,
        complete: TrainedNetwork,
        checkpoints: CheckpointStore | None = None,
        control: OfControl = "",
        number: int = 0,
    ) -> TrainedNetwork:
        """Do one IMP iteration: prune `before`, rewind the survivors as the recipe says, retrain.

        control : "retrain" prunes nothing, "random" as many parameters, drawn at random
        number : of the complete network
        ValueError: `complete` has no rewind state.
        """
        return finish(self.iterating(run, iteration, before, complete, checkpoints, control, number))

    def iterating(
        self,
        run: int,
        iteration: int,
        before: TrainedNetwork,
        complete: TrainedNetwork,
        checkpoints: CheckpointStore | None = None,
        control: OfControl = "",
        number: int = 0,
    ) -> Steps:
        """Do what `iterate` does, and yield after each step of training."""
        streams = EpochStreams(self.identity.seed, run, iteration, number, control)
        start = self.pruned(build(self.problem, self.classes), before, complete, streams)
        return self._training(*start, streams, checkpoints)

    def pruned(
        self, network: Network, before: TrainedNetwork, complete: TrainedNetwork, streams: EpochStreams | None = None
    ) -> tuple[State, Masks]:
        """Prune `before` once more, and return the state from which its retraining starts, and its masks.

        network : of this problem, with any weights, which are lost; pruning is done on its device
        streams : of the retraining, which say whether it is a control's; None: it is not

        ValueError: `complete` has no rewind state, a surviving parameter is not finite, or the problem's own criterion
        fails.
        """
        pruning = self.problem.pruning
        if complete.rewind is None:
            raise ValueError("chain: the complete network has no rewind state")
        network.load_state_dict(before.weights)
        control = "" if streams is None else streams.control
        if control == "retrain":
            masks = dict(before.masks)
        else:
            at_random = streams.once("pruning") if streams is not None and control == "random" else None
            scored = None if at_random is not None else self._scores(before)
            masks = prune(network, before.masks, pruning, at_random, scored)
        if pruning.rewind == "WR":
            network.load_state_dict(complete.rewind)
        apply_masks(network, masks)
        return weights_of(network), masks

    def _scores(self, before: TrainedNetwork) -> dict[str, torch.Tensor] | None:
        """Return the scores of the weights by the criterion, on the CPU. None: magnitudes decide."""
        pruning = self.problem.pruning
        if pruning.criterion == MAGNITUDE:
            return None
        network = build(self.problem, self.classes)
        network.load_state_dict(before.weights)
        data = Calibration(self.data.images, self.data.labels, self.data.mean, self.data.sd)
        return scores(network, list(before.masks), criterion_of(pruning.criterion), data)

    def epochs(self, iteration: int) -> tuple[range, optim.Schedule]:
        """Return the epochs of a training and their learning rates. iteration : 0 for the complete network"""
        recipe, pruning = self.problem.recipe, self.problem.pruning
        if not iteration:
            return range(recipe.epochs), optim.schedule(recipe)
        if pruning.rewind == "FT":
            constant = optim.last_rate(recipe, max(len(self.data.images) // recipe.batch_size, 1))
            return range(pruning.finetune_epochs), lambda epoch, step, steps: constant
        first_epoch = pruning.rewind_epoch if pruning.rewind == "WR" else 0
        return range(first_epoch, recipe.epochs), optim.schedule(recipe)

    def stopping(self, iteration: int) -> EarlyStopping | None:
        """Return the early stopping of a training, None if it has none. iteration : 0 for the complete network"""
        recipe, pruning = self.problem.recipe, self.problem.pruning
        if recipe.patience is None or (iteration and pruning.rewind == "FT"):
            return None
        earliest = pruning.rewind_epoch if pruning.rewind == "WR" else 0
        return EarlyStopping(self.data, recipe.patience, earliest)

    def evaluated(self, trained: TrainedNetwork) -> dict[str, Any]:
        """Return what the record of a finished network says of its quality and size, computed from its tensors."""
        return self._measured(self._loaded(trained), trained.masks)

    def outputs(self, trained: TrainedNetwork) -> torch.Tensor:
        """Return a finished network's logits of the test images, computed from its tensors: float32 (n, classes)."""
        data = self.data
        return torch.cat(list(outputs(self._loaded(trained), data.test[0], data.mean, data.sd))).float()

    def _loaded(self, trained: TrainedNetwork) -> Network:
        """Return a finished network on the device."""
        network = build(self.problem, self.classes).to(self.device)
        network.to(memory_format=torch.channels_last)  # as it was trained: layouts may round differently
        network.load_state_dict(trained.weights)
        return network

    def _measured(self, network: Network, masks: Masks) -> dict[str, Any]:
        accuracy, loss = evaluate(network, *self.data.test, self.data.mean, self.data.sd)
        share, share_of_pool = remaining(network, masks)
        return {"accuracy": accuracy, "loss": loss, "remaining": share, "remaining_pool": share_of_pool}

    def _training(
        self,
        weights: State,
        masks: Masks,
        streams: EpochStreams,
        checkpoints: CheckpointStore | None = None,
        rewind: "_RewindState | None" = None,
    ) -> Steps:
        """Train as the recipe says, keep the best epoch if it stops early, and record how it went.

        rewind : keeps the state for rewinding
        """
        iteration = streams.iteration
        after_epoch: list[AfterEpoch] = [*self.after_epoch]
        checkpointed: dict[str, Checkpointed] = {}
        if rewind is not None:
            after_epoch.append(rewind)
            checkpointed["rewind"] = rewind
        if (stopping := self.stopping(iteration)) is not None:
            after_epoch.append(stopping)
            checkpointed["stopping"] = stopping
        epochs, rate = self.epochs(iteration)
        with self._stepper() as stepper:
            stepper.reset(weights, masks)
            losses = yield from train_steps(
                stepper,
                self.problem.recipe,
                streams,
                epochs,
                rate,
                after_epoch,
                checkpoints,
                checkpointed,
                self.heard,
            )
            rewound = None if rewind is None else rewind.weights
            return self.finished(stepper.network, masks, streams, losses, stopping, rewound)

    @contextmanager
    def _stepper(self) -> Iterator[Stepper]:
        """Lend a stepper. It is kept afterwards, also if the training failed.

        A GPU must not free the memory of a graph while the steps of other runs are replayed.
        """
        if self._idle:
            stepper = self._idle.pop()
        else:
            network = build(self.problem, self.classes).to(self.device)
            stepper = stepper_for(network, self.data, self.problem.recipe, Arithmetic.of(self.identity))
        try:
            yield stepper
        finally:
            self._idle.append(stepper)

    def finished(
        self,
        network: Network,
        masks: Masks,
        streams: EpochStreams,
        losses: list[float],
        stopping: EarlyStopping | None = None,
        rewind: State | None = None,
    ) -> TrainedNetwork:
        """Return what a training gives: the network, of the best epoch if it could stop early, and its record.

        network : with the weights after the last epoch; streams : of the training; losses : of each epoch
        rewind : of the complete network
        """
        iteration = streams.iteration
        record: dict[str, Any] = {"run": streams.run, "train_loss": losses, "epochs": len(losses), "best_epoch": None}
        record |= {"complete": streams.complete} if streams.complete else {}  # records of 0.2 have neither of these
        record |= {"control": streams.control} if streams.control else {}
        if stopping is not None and stopping.best_state is not None:
            network.load_state_dict(stopping.best_state)
            record |= {"best_epoch": stopping.best_epoch + 1, "validation_loss": stopping.losses}
        record |= {"iteration": iteration, **self._measured(network, masks), "reduced": self.problem.reduced}
        weights = weights_of(network)
        for name, mask in masks.items():
            if weights[name][~mask].any():
                raise AssertionError(f"a dead parameter of {name} is not zero after iteration {iteration}")
        return TrainedNetwork(iteration, weights, masks, record, rewind)


class _NoValues(TypedDict):
    pass


class _RewindState:
    """The complete network's state after `epoch` epochs, to which pruned networks return.

    An `after_epoch` function that never stops the training.
    """

    values = _NoValues

    def __init__(self, epoch: int, network: Network) -> None:
        self._epoch = epoch
        self.weights: State | None = None if epoch else weights_of(network)

    def __call__(self, epoch: int, network: Network) -> bool:
        if epoch + 1 == self._epoch:
            self.weights = weights_of(network)
        return False

    def state(self) -> Checkpoint:
        return Checkpoint(self.weights or {}, {})

    def load(self, checkpoint: Checkpoint) -> None:
        self.weights = checkpoint.tensors or None


def weights_of(network: Network) -> State:
    """Return CPU copies of a network's parameters and buffers."""
    return {name: on_cpu(tensor) for name, tensor in network.state_dict().items()}
