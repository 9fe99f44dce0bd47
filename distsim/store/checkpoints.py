"""Stored checkpoints, from which an interrupted training goes on. They are not results.

The folder `epoch/` of a piece holds one object, named by its own SHA-256. It is deleted when the piece is committed. A
checkpoint that is damaged, or comes from another identity or environment, is ignored, and the training starts again.
"""

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import safetensors.torch

from distsim import trace
from distsim.specs import canonical_json
from distsim.store.epochs import CHECKPOINT, EPOCHS
from distsim.store.storage import Storage, StorageError
from distsim.training.checkpoint import Checkpoint

SHARE = 0.02  # share of the training time that writing checkpoints may take


class StoredCheckpoints:
    """Checkpoints of one piece's training, after each epoch or less often: they take at most `SHARE` of the time."""

    def __init__(
        self, storage: Storage, piece: str, identity: str, environment: dict[str, Any], most: int | None = None
    ) -> None:
        """Keep checkpoints of a piece. most : bytes that one can have; a larger one is not read"""
        self._storage, self._folder = storage, f"{piece}/{EPOCHS}"
        self._about = {"identity": identity, "environment": environment}
        self._most = most
        self._last, self._cost = time.monotonic(), 0.0

    def load(self) -> Checkpoint | None:
        """Return the checkpoint with the most epochs, of this identity and environment, or None."""
        read = map(self._read, self._storage.sizes(self._folder))
        checkpoints = [checkpoint for checkpoint in read if checkpoint is not None]
        self._last = time.monotonic()
        return max(checkpoints, key=lambda checkpoint: len(checkpoint.values["losses"]), default=None)

    def offer(self, make: Callable[[], Checkpoint]) -> None:
        """Make and write a checkpoint, unless it is too early for one. A failed write is ignored."""
        started = time.monotonic()
        if self._cost > SHARE * (started - self._last):
            return
        with trace.stage("checkpoint", self._folder):
            checkpoint = make()
            about = canonical_json(self._about | {"values": checkpoint.values})
            content = safetensors.torch.save(checkpoint.tensors, metadata={"about": about})
            path = f"{self._folder}/{hashlib.sha256(content).hexdigest()}.safetensors"
            try:
                others = filter(CHECKPOINT.fullmatch, self._storage.sizes(self._folder))
                older = [other for other in others if other != path]
                self._storage.put(path, content)
                self._storage.delete(older)
            except StorageError:  # if the store stays unwritable, the commit reports it
                pass
        self._last = time.monotonic()
        self._cost = self._last - started

    def _read(self, path: str) -> Checkpoint | None:
        content = self._storage.get(path, self._most)
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
            return None  # the digest is right, but the content is not a checkpoint


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file, which begins with eight bytes of length and then JSON."""
    length = int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8 : 8 + length])["__metadata__"])
