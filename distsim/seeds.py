"""Random streams. Each is derived from a seed and names; none is global or passed from one step to the next.

The names say what the stream is for and where in the sweep it is used, e.g. ("order", run, iteration, epoch). An epoch
that is repeated after an interruption therefore draws the same numbers, and no chain can disturb another.
"""

import hashlib
import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # tables use only NumPy streams and should not have to wait for PyTorch
    import torch


# Hold this lock while torch's global generator is seeded: another thread may be writing activations meanwhile.
GLOBAL_GENERATOR = threading.RLock()


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and on the names in their order. It is the same on every machine."""
    text = "\x1f".join([str(int(seed)), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_stream(seed: int, *names: str | int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a new torch generator for the stream with these names."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return a new NumPy generator for the stream with these names."""
    return np.random.default_rng(derive(seed, *names))
