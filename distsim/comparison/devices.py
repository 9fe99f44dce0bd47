"""Where comparisons are computed: by NumPy on the CPU, by PyTorch on a GPU."""

from typing import Any

import numpy as np

from distsim.metrics.arrays import Array

ON_CPU = "torch-cpu"  # in place of a device: all that a GPU does, on the CPU; for tests


def on_device(panel: Any, device: str) -> Array:
    """Move a panel to where it is computed with: to a NumPy array for "cpu", otherwise to a torch tensor.

    A tensor that is on the device already stays where it is.
    """
    if device == "cpu":
        return np.asarray(panel)
    import torch

    if isinstance(panel, np.ndarray) and not panel.flags.writeable:  # PyTorch has no such tensors, and warns
        panel = panel.copy()
    return torch.as_tensor(panel, device="cpu" if device == ON_CPU else device)


def is_deferred(device: str) -> bool:
    """Return whether comparisons on this device read their numbers together, at the end."""
    return device != "cpu"


def capability(device: str) -> tuple[int, int]:
    """Return the compute capability of the GPU that computes, (major, minor); (0, 0) for a CPU."""
    if device in ("cpu", ON_CPU):
        return 0, 0
    import torch

    return torch.cuda.get_device_capability(device)
