"""What a network answers to a batch of images. Its code is a user's, and may fail for batches of one size alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from distsim.specs import shown

NAME = "_distsim_model"  # of the attribute of a network that holds its model's name
# What a RuntimeError says that is about the machine, not about the network's code.
_MACHINE = ("CUDA", "cuDNN", "CUDNN", "CUBLAS", "NCCL", "out of memory", "allocate memory", "enough memory")


def logits_of(
    network: nn.Module, images: torch.Tensor, run: Callable[[torch.Tensor], Any] | None = None
) -> torch.Tensor:
    """Return a network's logits (n, classes) for images (n, c, h, w).

    `build` runs a model on a few images only. What it does for a batch of another size comes to light here.
    run : what runs the network, by default itself. Another, a compiled one, has errors of its own: they are raised
    ValueError: its code fails, or does not return a row of logits for each image. The message names the model, the
    mode and the batch. What is about the machine, such as a lack of memory, is raised as it is.
    """
    run = network if run is None else run
    try:
        logits: Any = run(images)
    except Exception as error:  # the user's code may raise anything
        if run is not network or _of_the_machine(error):
            raise
        raise ValueError(f"{_batch(network, images)} fails: {_told(error)}") from error
    if isinstance(logits, torch.Tensor) and logits.ndim == 2 and len(logits) == len(images):
        return logits
    got = f"a tensor {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
    raise ValueError(
        f"{_batch(network, images)} returns {got}; expected a tensor of logits, (images, classes), for a batch of "
        "every size"
    )


def _batch(network: nn.Module, images: torch.Tensor) -> str:
    """Begin a sentence on what a model does for a batch."""
    n, channels, height, width = images.shape
    name = network.__dict__.get(NAME, type(network).__name__)
    mode = "training" if network.training else "evaluation"
    return (
        f"model {name}: in {mode} mode, for a batch of {n} image{'s' * (n != 1)} of {height} x {width} pixels and "
        f"{channels} channel{'s' * (channels != 1)}, it"
    )


def _of_the_machine(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        return any(part in str(error) for part in _MACHINE)
    return isinstance(error, MemoryError | OSError)


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {shown(lines[0])[1:-1]}" if lines else type(error).__name__
