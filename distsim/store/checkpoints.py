"""Stored checkpoints, from which an interrupted training goes on. They are not results.

The folder `epoch/` of a piece holds one object, named by its own SHA-256. It is deleted when the piece is committed. A
checkpoint that is damaged, or comes from another identity or environment, is ignored, and the training starts again.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypedDict

import safetensors.torch

from distsim import stopping, trace
from distsim.specs import canonical_json
from distsim.specs.json_shape import require_json
from distsim.store.epochs import CHECKPOINT, EPOCHS
from distsim.store.storage import Storage, StorageError
from distsim.training.checkpoint import Checkpoint

SHARE = 0.02  # share of the training time that writing checkpoints may take


class _Values(TypedDict):
    """What a training keeps beside its tensors, as `distsim.training.loop` writes it."""

    losses: list[float]  # of each epoch
    memories: dict[str, dict[str, Any]]  # of what hears of each epoch, by name


class StoredCheckpoints:
    """Checkpoints of one piece's training, after each epoch or less often: they take at most `SHARE` of the time."""

    def __init__(
        self, storage: Storage, piece: str, identity: str, environment: dict[str, Any], most: int | None = None
    ) -> None:
        """Keep checkpoints of a piece. most : bytes that one can have; a larger one is not read"""
        self._storage, self.folder = storage, f"{piece}/{EPOCHS}"
        self._about = {"identity": identity, "environment": environment}
        self._most = most
        self._pace = _Pace()

    def load(self) -> Checkpoint | None:
        """Return the checkpoint with the most epochs, of this identity and environment, or None."""
        by_epochs = self.by_epochs()
        self._pace.begin()
        return by_epochs[max(by_epochs)] if by_epochs else None

    def by_epochs(self) -> dict[int, Checkpoint]:
        """Return the checkpoints of this identity and environment, by the number of epochs that were trained."""
        read = map(self._read, self._storage.sizes(self.folder))
        return {len(checkpoint.values["losses"]): checkpoint for checkpoint in read if checkpoint is not None}

    def offer(self, make: Callable[[], Checkpoint]) -> None:
        """Make and write a checkpoint, unless it is too early for one. A failed write is ignored.

        Stopped: somebody has asked for it. Then a checkpoint is never too early.
        """
        stop = stopping.wanted("epoch")
        if stop or self._pace.due():
            with _kept(self.folder, self._pace):
                self.delete(self.write(make()))
        if stop:
            raise stopping.Stopped

    def write(self, checkpoint: Checkpoint) -> list[str]:
        """Write a checkpoint, and return the paths of older ones. StorageError: it cannot be written."""
        about = canonical_json(self._about | {"values": checkpoint.values})
        content = safetensors.torch.save(checkpoint.tensors, metadata={"about": about})
        path = f"{self.folder}/{hashlib.sha256(content).hexdigest()}.safetensors"
        others = filter(CHECKPOINT.fullmatch, self._storage.sizes(self.folder))
        older = [other for other in others if other != path]
        self._storage.put(path, content)
        return older

    def delete(self, older: list[str]) -> None:
        """Delete what `write` returned."""
        self._storage.delete(older)

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
            require_json("values", values, _Values)
            return Checkpoint(safetensors.torch.load(content), values)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError):
            return None  # the digest is right, but the content is not a checkpoint


class StoredGroupCheckpoints:
    """Checkpoints of runs that are trained together. They are kept together, and cost at most `SHARE` of the time.

    Each run's is in the folder of its network, so that its commit removes it. Older ones are deleted once all runs have
    their new one. So there is always an epoch that all of them share.
    """

    def __init__(self, parts: Mapping[int, StoredCheckpoints]) -> None:
        """Keep checkpoints of these runs. parts : run -> those of its network"""
        self._parts, self._pace = dict(parts), _Pace()

    def load(self, runs: Iterable[int]) -> dict[int, Checkpoint]:
        """Return run -> its checkpoint of the last epoch that all these runs share. It is empty if there is none."""
        kept = {run: self._parts[run].by_epochs() for run in runs}
        shared = set[int].intersection(*(set(by_epochs) for by_epochs in kept.values())) if kept else set()
        self._pace.begin()
        return {run: by_epochs[max(shared)] for run, by_epochs in kept.items()} if shared else {}

    def offer(self, make: Callable[[], Iterable[tuple[int, Checkpoint]]]) -> None:
        """Make and write each run's checkpoint of one epoch, unless it is too early. A failed write is ignored.

        Stopped: somebody has asked for it. Then a checkpoint is never too early.
        """
        stop = stopping.wanted("epoch")
        if stop or self._pace.due():
            with _kept(", ".join(part.folder for part in self._parts.values()), self._pace):
                written = [(self._parts[run], self._parts[run].write(checkpoint)) for run, checkpoint in make()]
                for part, older in written:
                    part.delete(older)
        if stop:
            raise stopping.Stopped


class _Pace:
    """Decides when a checkpoint is due: the last one must have taken at most `SHARE` of the time since."""

    def __init__(self) -> None:
        self._last, self._cost = time.monotonic(), 0.0

    def begin(self) -> None:
        self._last = time.monotonic()

    def due(self) -> bool:
        return self._cost <= SHARE * (time.monotonic() - self._last)

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._last = time.monotonic()
        self._cost = self._last - started


@contextlib.contextmanager
def _kept(what: str, pace: _Pace) -> Iterator[None]:
    """Announce and measure the block, and ignore a failed write: if the store stays unwritable, the commit says so."""
    with trace.stage("checkpoint", what), pace.measured(), contextlib.suppress(StorageError):
        yield


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file, which begins with eight bytes of length and then JSON."""
    length = int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8 : 8 + length])["__metadata__"])
