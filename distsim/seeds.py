"""Random streams: every one is derived from (seed, names...), none is carried along, none is global.

A stream's name says what it is for and where in the sweep it is used, e.g. ("order", run, iteration, epoch). An epoch
that is redone after an interruption therefore draws the same numbers, and no chain can disturb another.
"""

import hashlib
import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # tables draw NumPy streams only, and need not wait for PyTorch
    import torch


# Held by whoever seeds torch's global generator for a while: another thread may be writing activations meanwhile.
GLOBAL_GENERATOR = threading.RLock()


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and on each name, in order. Equal on every machine."""
    text = "\x1f".join([str(int(seed)), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_stream(seed: int, *names: str | int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """A torch generator of its own for the stream named."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator of its own for the stream named."""
    return np.random.default_rng(derive(seed, *names))
