"""CUDA streams with one owner each.

PyTorch hands out `STREAMS` streams a device, in turn, and then the first ones again. Two captured steps on one stream
would only wait for each other. But work that another thread puts on a stream while a step is captured there ends up in
the graph, or breaks it. So a stream that has an owner is passed over until the owner is gone.
"""

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch

STREAMS = 32  # that PyTorch has for each device
MOST_RUNS = STREAMS - 1  # in one process: extraction takes a stream too

_owners: "weakref.WeakValueDictionary[tuple[int, int], object]" = weakref.WeakValueDictionary()
_lock = threading.Lock()


def own_stream(owner: object, device: torch.device, make: Callable[[torch.device], Any] | None = None) -> Any:
    """Return a stream that no other living owner has. None: the device is not a GPU.

    make : returns PyTorch's next stream of the device
    RuntimeError: all streams of the device have an owner.
    """
    if device.type != "cuda":
        return None
    make = make or torch.cuda.Stream
    with _lock:
        for again in (False, True):
            if again:
                gc.collect()  # an owner may be gone but for its references to itself
            for _ in range(STREAMS):
                stream = make(device)
                key = (stream.device.index, stream.cuda_stream)
                if key not in _owners:
                    _owners[key] = owner
                    return stream
    raise RuntimeError(f"all {STREAMS} streams of {device} are in use, by {MOST_RUNS} runs and by extraction")


def require_few_runs(pack: int, device: str) -> None:
    """Raise ValueError if a GPU has not enough streams for a pack of so many runs."""
    if device != "cpu" and pack > MOST_RUNS:
        raise ValueError(
            f"pack must be at most {MOST_RUNS} on a GPU, where each run of a process has its own stream, got {pack}"
        )
