"""The state of a training between two epochs, and the interfaces that keep it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from distsim.training.stepper import State


@dataclass(frozen=True)
class Checkpoint:
    """A training between two epochs: all that the rest of it depends on, besides its spec. Tensors are on the CPU."""

    tensors: State
    values: dict[str, Any]  # JSON


class CheckpointStore(Protocol):
    """Keeps a training after each epoch, so that an interruption costs no more than what came after."""

    def load(self) -> Checkpoint | None:
        """Return the last checkpoint, or None if there is none."""
        ...

    def offer(self, make: Callable[[], Checkpoint]) -> None:
        """Make and keep the checkpoint, or decline if that would cost too much compared with the training."""
        ...


class Checkpointed(Protocol):
    """A function of `after_epoch` whose state belongs to the training's checkpoint."""

    def state(self) -> Checkpoint:
        """Return its state after the last epoch."""
        ...

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from what `state` returned."""
        ...


def part_of(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Return the part of a training's checkpoint that belongs to the `Checkpointed` of this name."""
    prefix = f"memory/{name}/"
    tensors = {key.removeprefix(prefix): value for key, value in checkpoint.tensors.items() if key.startswith(prefix)}
    return Checkpoint(tensors, checkpoint.values["memories"][name])
