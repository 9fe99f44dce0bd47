"""A training between two epochs: what the rest of it depends on."""

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
    """Where a training is kept after each epoch, so that an interruption costs no more than what came after."""

    def load(self) -> Checkpoint | None: ...

    def offer(self, make: Callable[[], Checkpoint]) -> None:
        """Take it, or decline where that would cost too much beside the training."""
        ...


class Checkpointed(Protocol):
    """A function of `after_epoch` that a training's continuation depends on."""

    def state(self) -> Checkpoint: ...
    def load(self, checkpoint: Checkpoint) -> None: ...


def part_of(checkpoint: Checkpoint, name: str) -> Checkpoint:
    prefix = f"memory/{name}/"
    tensors = {key.removeprefix(prefix): value for key, value in checkpoint.tensors.items() if key.startswith(prefix)}
    return Checkpoint(tensors, checkpoint.values["memories"][name])
