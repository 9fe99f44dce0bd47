"""Trainings between two epochs: what an interrupted one goes on from. Nothing here is a result.

A piece's `epoch/` holds one object, named by its own SHA-256, and goes when the piece is committed. An object that is
damaged, or was written by another identity or in another environment, is as good as none: the training starts anew.
"""

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import safetensors.torch

from distsim import trace
from distsim.specs import canonical_json
from distsim.store.storage import Storage, StorageError
from distsim.store.sweep_store import EPOCHS
from distsim.training.checkpoint import Checkpoint

SHARE = 0.02  # of the time that training takes, that keeping it may cost


class StoredCheckpoints:
    """Keeps one piece's training after each epoch, or as often as that costs at most `SHARE` of the time."""

    def __init__(self, storage: Storage, piece: str, identity: str, environment: dict[str, Any]) -> None:
        self._storage, self._folder = storage, f"{piece}/{EPOCHS}"
        self._about = {"identity": identity, "environment": environment}
        self._last, self._cost = time.monotonic(), 0.0

    def load(self) -> Checkpoint | None:
        """The training that went furthest, of this identity and environment; None if there is none."""
        found: list[Checkpoint] = []
        for path in self._storage.sizes(self._folder):
            checkpoint = self._read(path)
            if checkpoint is not None:
                found.append(checkpoint)
        self._last = time.monotonic()
        return max(found, key=lambda checkpoint: len(checkpoint.values["losses"]), default=None)

    def offer(self, make: Callable[[], Checkpoint]) -> None:
        started = time.monotonic()
        if self._cost > SHARE * (started - self._last):
            return
        with trace.stage("checkpoint", self._folder):
            taken = make()
            about = canonical_json(self._about | {"values": taken.values})
            content = safetensors.torch.save(taken.tensors, metadata={"about": about})
            path = f"{self._folder}/{hashlib.sha256(content).hexdigest()}.safetensors"
            try:
                older = [other for other in self._storage.sizes(self._folder) if other != path]
                self._storage.put(path, content)
                self._storage.delete(older)
            except StorageError:  # the commit will say so, if it cannot write either
                pass
        self._last = time.monotonic()
        self._cost = self._last - started

    def _read(self, path: str) -> Checkpoint | None:
        content = self._storage.get(path)
        name = path.rsplit("/", 1)[-1].removesuffix(".safetensors")
        if content is None or hashlib.sha256(content).hexdigest() != name:
            return None
        try:
            about = json.loads(_metadata(content)["about"])
            values = about.pop("values")
            if canonical_json(about) != canonical_json(self._about):
                return None
            return Checkpoint(safetensors.torch.load(content), values)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError):
            return None  # it has its own digest, but nobody here wrote it


def _metadata(content: bytes) -> dict[str, str]:
    """What a safetensors file says of itself: eight bytes of length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8 : 8 + length])["__metadata__"])
