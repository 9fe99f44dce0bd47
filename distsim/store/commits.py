"""Commits: a piece of a sweep is done when its mark exists, and the mark is created once.

A writer puts its objects under a fresh `attempt-<id>/`. Then it creates `COMMIT.json`, which names the attempt and
every object in it with size and SHA-256. The first mark wins. Whatever it does not name is garbage. Garbage is removed
only after a mark exists, so that no late writer can create a mark that names objects that are gone.

A piece is dropped when it is no longer needed or is damaged. `DROPPED.json` ends its generation for good. Whoever
begins later writes `attempt-2-<id>/` and `COMMIT-2.json`. If a writer of the first generation ends after that, its mark
does not count, and it does not touch attempts of the second generation.
"""

import contextlib
import hashlib
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

from distsim.specs import canonical_json, digest
from distsim.specs.canonical import signed, unsigned
from distsim.specs.fields import Bound, Natural, Real
from distsim.specs.json_shape import require_json, require_record
from distsim.store.storage import Storage, StorageError

T = TypeVar("T")

MARK = "COMMIT.json"
WRITTEN_AGAIN = ". distsim repair removes it, and the next start writes it again"  # of a damaged description
LARGEST_MARK = 2**25  # bytes; one of 250,000 objects has so many


class DamagedStore(Exception):
    """An object that a mark names is missing or changed. The text names the object."""


class WrittenByAnother(DamagedStore):
    """An object is whole, but a newer distsim wrote it and this one does not understand it."""


Sha256 = Annotated[str, Bound("be a SHA-256 in hexadecimal", lambda text: _SHA256.fullmatch(text) is not None)]
Plain = str | int | float | bool | None
_SHA256 = re.compile("[0-9a-f]{64}")


class EnvironmentRecord(TypedDict, total=False):
    """The fields of an environment that this version writes. A mark may have others."""

    distsim: str
    torch: str
    numpy: str
    machine: str
    instruction_set: str
    blas: str
    threads: Natural
    device: str
    compiler: str  # of a sweep with --compile
    nuclear_norm: str  # of comparisons: the route to NBS; marks of earlier versions lack it


class ProvenanceRecord(TypedDict, total=False):
    """The fields of a provenance that this version writes. A mark may have others."""

    code: str
    python: str
    host: str
    pid: Natural
    started: str
    seconds: Real
    piece: str
    dtype_x: str
    dtype_y: str
    weights: str
    weights_x: str
    weights_y: str


class MarkRecord(TypedDict):
    """The JSON of a mark, without the digest of itself."""

    attempt: str
    objects: dict[str, tuple[Natural, Sha256]]
    values: NotRequired[dict[str, Any]]
    identity: NotRequired[str]
    environment: NotRequired[dict[str, Plain]]
    provenance: NotRequired[dict[str, Plain]]


@dataclass(frozen=True)
class Mark:
    """The content of a `COMMIT.json`."""

    attempt: str
    objects: dict[str, tuple[int, str]]  # name within the attempt -> (bytes, SHA-256)
    values: dict[str, Any] = field(default_factory=dict)  # results small enough to live in the mark itself
    identity: str = ""  # hash of the sweep's identity
    environment: dict[str, Any] = field(default_factory=dict)  # versions, threads, instruction set, device
    provenance: dict[str, Any] = field(default_factory=dict)  # host, seconds and so on; not part of any result

    @property
    def digest(self) -> str:
        """Return the SHA-256 over objects and values. Equal results have equal digests, whoever computed them."""
        content = {"objects": {name: entry[1] for name, entry in self.objects.items()}, "values": self.values}
        return digest(content)

    def encode(self) -> bytes:
        """Return the mark as JSON, with its own SHA-256 in it. `decode_mark` reads it."""
        return signed(self.__dict__)


class Attempt:
    """One writer's objects for a piece, invisible until `commit`. In a `with` block, an error removes them."""

    def __init__(self, storage: Storage, piece: str) -> None:
        self.storage, self.piece = storage, piece
        self.generation = generation(storage, piece)
        number = f"{self.generation}-" if self.generation > 1 else ""
        self.id = number + uuid.uuid4().hex[:12]
        self.objects: dict[str, tuple[int, str]] = {}
        self._may_be_marked = False

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not self._may_be_marked:
            with contextlib.suppress(StorageError):  # frees the room on a full disk, if it can be reached
                self.storage.delete_prefix(self.prefix)

    @property
    def prefix(self) -> str:
        return f"{self.piece}/attempt-{self.id}"

    def put(self, name: str, content: bytes) -> None:
        self.storage.put(f"{self.prefix}/{name}", content)
        self.wrote(name, content)

    def wrote(self, name: str, content: bytes) -> None:
        """Record an object that was written under the prefix by other means."""
        self.objects[name] = (len(content), hashlib.sha256(content).hexdigest())

    def commit(self, **fields: Any) -> Mark:
        """Create the mark. Return the piece's mark, which is another writer's if that writer was first.

        fields : identity, environment, values and provenance of the Mark

        DamagedStore: the piece was dropped, or its objects were removed, while it was being written.
        """
        fields["provenance"] = fields.get("provenance", {}) | {"piece": self.piece}
        mark = Mark(attempt=self.id, objects=dict(sorted(self.objects.items())), **fields)
        self.storage.settle([f"{self.prefix}/{name}" for name in self.objects])
        self._may_be_marked = True  # from here on readers may rely on these objects, even if this call fails
        self.storage.create(mark_path(self.piece, self.generation), mark.encode())
        if generation(self.storage, self.piece) != self.generation:
            self.storage.delete_prefix(self.prefix)
            raise DamagedStore(f"{self.piece} in {self.storage.url} was dropped while it was being written")
        winner = read_mark(self.storage, mark_path(self.piece, self.generation))
        if winner is None:
            raise DamagedStore(f"{self.piece}/{MARK} vanished while it was being written")
        if winner.attempt == self.id and not self._whole():
            drop(self.storage, self.piece, self.generation)
            raise DamagedStore(f"{self.prefix} in {self.storage.url} was removed while it was being written")
        _sweep(self.storage, self.piece, self.generation, winner.attempt)
        return winner

    def _whole(self) -> bool:
        sizes = self.storage.sizes(self.prefix)
        return all(sizes.get(f"{self.prefix}/{name}") == size for name, (size, _) in self.objects.items())


def generation(storage: Storage, piece: str) -> int:
    """Return the piece's present generation: 1, and one more for each time it was dropped."""
    number = 1
    while storage.get(dropped_path(piece, number)) is not None:
        number += 1
    return number


def mark_path(piece: str, generation: int = 1) -> str:
    return f"{piece}/{MARK}" if generation == 1 else f"{piece}/COMMIT-{generation}.json"


def dropped_path(piece: str, generation: int = 1) -> str:
    return f"{piece}/DROPPED.json" if generation == 1 else f"{piece}/DROPPED-{generation}.json"


def read_piece(storage: Storage, piece: str) -> Mark | None:
    """Return the mark of a piece, or None if it is not committed. DamagedStore: the object is not a mark."""
    return read_mark(storage, mark_path(piece, generation(storage, piece)))


def drop(storage: Storage, piece: str, number: int | None = None) -> None:
    """End the piece's present generation, or generation `number`. Safe beside any writer.

    DROPPED.json is created first; then the mark and the objects are deleted.
    """
    number = number or generation(storage, piece)
    storage.create(dropped_path(piece, number), canonical_json({"generation": number}).encode())
    storage.delete([mark_path(piece, number)])
    _sweep(storage, piece, number)


def attempt_generation(folder: str) -> int | None:
    """Return the generation of a folder `attempt-<id>`, or None for any other folder."""
    match = _ATTEMPT.fullmatch(folder)
    return None if match is None else int(match["generation"] or 1)


_ATTEMPT = re.compile(r"attempt-(?:(?P<generation>[1-9]\d{0,8})-)?[0-9a-f]{12}")


def read_mark(storage: Storage, path: str) -> Mark | None:
    """Return the mark at this path, or None if nothing is there. DamagedStore: the object is not a mark."""
    return read_decoded(storage, path, LARGEST_MARK, decode_mark)


def read_decoded(storage: Storage, path: str, most: int, decode: Callable[[bytes], T], then: str = "") -> T | None:
    """Return what an object holds, or None if it is not there. DamagedStore: it holds something else.

    most : bytes that it can have
    decode : raises a ValueError that says what is wrong with a content
    then : what to do about it, behind the sentence
    """
    content = storage.get(path, most=most)
    try:
        return None if content is None else decode(content)
    except ValueError as error:
        raise DamagedStore(f"{path} in {storage.url} is damaged: {error}{then}") from None


def undamaged(read: Callable[[], T | None]) -> T | None:
    """Return what `read` returns, or None if that is damaged: for what can be made again, or is only asked about."""
    try:
        return read()
    except DamagedStore:
        return None


def decode_mark(content: bytes) -> Mark:
    """Return the mark that `Mark.encode` encoded. ValueError: the content is not a mark."""
    tree = unsigned(content, LARGEST_MARK)
    require_record("", tree, MarkRecord)
    require_json("environment", tree.get("environment", {}), EnvironmentRecord)
    require_json("provenance", tree.get("provenance", {}), ProvenanceRecord)
    objects = {name: (size, sha256) for name, (size, sha256) in tree.pop("objects").items()}
    if not all(map(_inside, (*objects, tree["attempt"]))):
        raise ValueError("a name in it leads out of its folder")
    return Mark(objects=objects, **tree)


def read_object(storage: Storage, piece: str, mark: Mark, name: str) -> bytes:
    """Return an object that the mark names, checked against the mark. DamagedStore: it is missing or changed."""
    path = f"{piece}/attempt-{mark.attempt}/{name}"
    content = storage.get(path, most=mark.objects[name][0])
    if content is None:
        raise DamagedStore(f"{path} is missing from {storage.url}, though {piece}/{MARK} names it")
    if (len(content), hashlib.sha256(content).hexdigest()) != mark.objects[name]:
        raise DamagedStore(f"{path} in {storage.url} is damaged: its digest is not the one in {piece}/{MARK}")
    return content


def _inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")


def _sweep(storage: Storage, piece: str, generation: int, but: str | None = None) -> None:
    """Remove the attempts of this generation and of earlier ones, except the attempt `but`."""
    for folder in storage.folders(piece):
        written_in = attempt_generation(folder)
        if written_in is not None and written_in <= generation and folder != f"attempt-{but}":
            storage.delete_prefix(f"{piece}/{folder}")
