"""Commits: a piece of a sweep is done when its mark exists, and the mark is created once.

A writer puts its objects under a fresh `attempt-<id>/`, then creates `COMMIT.json`, which names the attempt and every
object in it with size and SHA-256. The first mark wins; whatever it does not name is garbage and is removed only after
a mark exists, so that no late writer can end up naming objects that are gone.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from distsim.specs import canonical_json
from distsim.store.storage import Storage

MARK = "COMMIT.json"


class DamagedStore(Exception):
    """Something a mark vouches for is missing or changed; the text names the object."""


@dataclass(frozen=True)
class Mark:
    """What a `COMMIT.json` says."""

    attempt: str
    objects: dict[str, tuple[int, str]]  # name within the attempt -> (bytes, SHA-256)
    values: dict[str, Any] = field(default_factory=dict)  # results small enough to live in the mark itself
    identity: str = ""  # hash of the sweep's identity
    environment: dict[str, Any] = field(default_factory=dict)  # versions, threads, instruction set, device
    provenance: dict[str, Any] = field(default_factory=dict)  # host, seconds: true, but not part of any result

    @property
    def digest(self) -> str:
        """SHA-256 over objects and values: equal for equal results, whoever computed them."""
        content = {"objects": {name: entry[1] for name, entry in self.objects.items()}, "values": self.values}
        return _sha256(canonical_json(content))

    def encode(self) -> bytes:
        return canonical_json(self.__dict__ | {"sha256": _sha256(canonical_json(self.__dict__))}).encode()


class Attempt:
    """One writer's objects for a piece, invisible until `commit`."""

    def __init__(self, storage: Storage, piece: str) -> None:
        self.storage, self.piece = storage, piece
        self.id = uuid.uuid4().hex[:12]
        self.objects: dict[str, tuple[int, str]] = {}

    @property
    def prefix(self) -> str:
        return f"{self.piece}/attempt-{self.id}"

    def put(self, name: str, content: bytes) -> None:
        self.storage.put(f"{self.prefix}/{name}", content)
        self.wrote(name, content)

    def wrote(self, name: str, content: bytes) -> None:
        """Take note of an object that was written under the prefix by other means."""
        self.objects[name] = (len(content), hashlib.sha256(content).hexdigest())

    def commit(self, **fields: Any) -> Mark:
        """Create the mark; the piece's mark, which is another writer's if that one was first.

        DamagedStore: the objects are gone, because another writer's commit, dropped since, had removed them.
        """
        mark = Mark(attempt=self.id, objects=dict(sorted(self.objects.items())), **fields)
        self.storage.create(f"{self.piece}/{MARK}", mark.encode())
        winner = read_mark(self.storage, f"{self.piece}/{MARK}")
        if winner is None:
            raise DamagedStore(f"{self.piece}/{MARK} vanished while it was being written")
        if winner.attempt == self.id and not self._whole():
            self.storage.delete([f"{self.piece}/{MARK}"])
            raise DamagedStore(f"{self.prefix} in {self.storage.url} was removed while it was being written")
        sweep_attempts(self.storage, self.piece, winner)
        return winner

    def _whole(self) -> bool:
        sizes = self.storage.sizes(self.prefix)
        return all(sizes.get(f"{self.prefix}/{name}") == size for name, (size, _) in self.objects.items())


def read_mark(storage: Storage, path: str) -> Mark | None:
    """The mark at this path, None if there is none. DamagedStore: it is not a mark."""
    content = storage.get(path)
    if content is None:
        return None
    try:
        tree = json.loads(content)
        if not isinstance(tree, dict) or tree.pop("sha256", None) != _sha256(canonical_json(tree)):
            raise ValueError("it does not hash to the digest in it")
        objects = {name: (int(size), str(digest)) for name, (size, digest) in tree.pop("objects").items()}
        return Mark(objects=objects, **tree)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedStore(f"{path} in {storage.url} is damaged: {error}") from None


def read_object(storage: Storage, piece: str, mark: Mark, name: str) -> bytes:
    """An object that the mark names, checked against it. DamagedStore: missing or changed."""
    path = f"{piece}/attempt-{mark.attempt}/{name}"
    content = storage.get(path)
    if content is None:
        raise DamagedStore(f"{path} is missing from {storage.url}, though {piece}/{MARK} names it")
    if (len(content), hashlib.sha256(content).hexdigest()) != mark.objects[name]:
        raise DamagedStore(f"{path} in {storage.url} is damaged: its digest is not the one in {piece}/{MARK}")
    return content


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sweep_attempts(storage: Storage, piece: str, mark: Mark) -> None:
    """Remove the attempts of a committed piece that its mark does not name."""
    for folder in storage.folders(piece):
        if folder.startswith("attempt-") and folder != f"attempt-{mark.attempt}":
            storage.delete_prefix(f"{piece}/{folder}")
