"""The switch that lets a GPU compute float32 products in TF32. It is one of the whole process.

Training in the precision tf32 turns it on while a step is rehearsed and captured, and off again: a replayed step has
the kernels of its capture. What computes in float32 meanwhile, in any thread, holds the switch: an evaluation, an
extraction, a comparison. Many may hold it at a time. It is turned on only while nobody holds it.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


class Switch:
    """Whether float32 products are computed in TF32, and who relies on it that they are not."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders = 0  # threads that rely on float32
        self._waiting = 0  # threads that want to turn it on: no other thread takes hold before them
        self._on = False
        self._own = threading.local()  # how often this thread holds the switch, and whether it turned it on

    @contextmanager
    def float32(self) -> Iterator[None]:
        """Keep TF32 off in a `with` block, or in a function that this decorates. Blocks may be nested.

        It waits while another thread has turned TF32 on. RuntimeError: this thread has turned it on.
        """
        if getattr(self._own, "on", False):
            raise RuntimeError("float32 was asked for inside a block of tf32")
        depth = getattr(self._own, "depth", 0)
        if not depth:
            with self._changed:
                self._changed.wait_for(lambda: not self._on and not self._waiting)
                self._holders += 1
        self._own.depth = depth + 1
        try:
            yield
        finally:
            self._own.depth = depth
            if not depth:
                with self._changed:
                    self._holders -= 1
                    self._changed.notify_all()

    @contextmanager
    def tf32(self) -> Iterator[None]:
        """Turn TF32 on in a `with` block, alone. It waits for those who rely on float32.

        RuntimeError: this thread relies on float32.
        """
        if getattr(self._own, "depth", 0) or getattr(self._own, "on", False):
            raise RuntimeError("tf32 was asked for inside a block of float32 or tf32")
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._on and not self._holders)
            finally:
                self._waiting -= 1
                self._changed.notify_all()
            self._on = self._own.on = True
        set_tf32(True)
        try:
            yield
        finally:
            set_tf32(False)
            with self._changed:
                self._on = self._own.on = False
                self._changed.notify_all()

    def products(self, precision: str) -> AbstractContextManager[None]:
        """Return the block for training in this precision."""
        return self.tf32() if precision == "tf32" else self.float32()


def set_tf32(on: bool) -> None:
    """Set what convolutions and products of float32 arrays use on a GPU. Call it inside a block of the switch."""
    torch.backends.cudnn.allow_tf32 = on
    torch.backends.cuda.matmul.allow_tf32 = on


SWITCH = Switch()
