"""The state of a training between two epochs, and the interfaces that keep it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from distsim.specs.json_shape import require_json
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
    """A function of `after_epoch` whose state belongs to the training's checkpoint.

    The state's tensors are those of a network, or none.
    """

    values: Any  # a TypedDict: the values of its state

    def state(self) -> Checkpoint:
        """Return its state after the last epoch."""
        ...

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from what `state` returned."""
        ...


def fits(
    checkpoint: Checkpoint, network: Mapping[str, torch.Tensor], memories: Mapping[str, Checkpointed], epochs: int
) -> bool:
    """Return whether a training can go on from a checkpoint. A stranger may have written it.

    network : its parameters and buffers, of which names, shapes and types are looked at
    epochs : of the whole training
    """
    if set(checkpoint.values["memories"]) != set(memories) or len(checkpoint.values["losses"]) > epochs:
        return False
    for name, memory in memories.items():
        part = part_of(checkpoint, name)
        try:
            require_json("", part.values, memory.values)
        except ValueError:
            return False
        if part.tensors and not _alike(part.tensors, network):
            return False
    parts: dict[str, dict[str, torch.Tensor]] = {"network": {}, "optimizer": {}, "memory": {}}
    for name, tensor in checkpoint.tensors.items():
        kind, _, rest = name.partition("/")
        parts.setdefault(kind, {})[rest] = tensor
    return (
        len(parts) == 3
        and _alike(parts["network"], network)
        and all(_of_optimizer(name, tensor, network) for name, tensor in parts["optimizer"].items())
        and all(name.partition("/")[0] in memories for name in parts["memory"])
    )


def _alike(tensors: Mapping[str, torch.Tensor], network: Mapping[str, torch.Tensor]) -> bool:
    return tensors.keys() == network.keys() and all(
        (tensor.shape, tensor.dtype) == (network[name].shape, network[name].dtype) for name, tensor in tensors.items()
    )


def _of_optimizer(name: str, tensor: torch.Tensor, network: Mapping[str, torch.Tensor]) -> bool:
    """Return whether this can be an optimizer's buffer for a parameter, or its count of steps."""
    of = network.get(name.partition("/")[2])
    return of is not None and tensor.shape in ((), of.shape)


def part_of(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Return the part of a training's checkpoint that belongs to the `Checkpointed` of this name."""
    prefix = f"memory/{name}/"
    tensors = {key.removeprefix(prefix): value for key, value in checkpoint.tensors.items() if key.startswith(prefix)}
    return Checkpoint(tensors, checkpoint.values["memories"][name])
