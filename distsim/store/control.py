"""Instructions to the drivers of a store, given from anywhere: pause, resume, stop after this network.

`control/000003.json` is created exclusively. So two people's instructions get an order, and none is overwritten. The
newest one is in force. Older ones stay: they say who asked for what, and when. They are no results, and no digest
counts them. An object that is no instruction, such as somebody else's file, is passed over.
"""

import getpass
import json
import os
import re
import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal, TypedDict, get_args

from distsim.specs import canonical_json
from distsim.specs.fields import expect
from distsim.specs.json_shape import require_record
from distsim.store.commits import DamagedStore, read_decoded
from distsim.store.storage import Storage, StorageError

FOLDER = "control"
Verb = Literal["pause", "resume", "stop-after-iteration"]
PAUSE, RESUME, STOP = VERBS = get_args(Verb)
LARGEST = 2**12  # bytes of an instruction
LONGEST = 100  # characters of a name in it
TRIED = 20  # the newest objects that are no instructions; older objects than these are not read
_NAME = re.compile(rf"{FOLDER}/(?P<number>\d{{6}})\.json", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", re.ASCII)


@dataclass(frozen=True)
class Instruction:
    """What somebody asked the drivers of a store to do."""

    number: int
    verb: Verb
    user: str
    host: str
    at: str  # in UTC

    @property
    def who(self) -> str:
        """Return who gave it and when, as it stands behind "by"."""
        return f"{self.user} on {self.host} at {self.at}"


class InstructionRecord(TypedDict):
    """The content of an instruction's object."""

    id: str  # so that no two have the same content (`Storage.create`)
    verb: Verb
    user: str
    host: str
    at: str


def newest(root: Storage) -> Instruction | None:
    """Return the instruction in force, None if there is none. It takes one listing of a small folder, and one object.

    StorageError: the store cannot be read.
    """
    for path in _paths(root)[:TRIED]:
        try:
            if (found := read(root, path)) is not None:
                return found
        except DamagedStore:
            continue
    return None


def log(root: Storage, most: int) -> list[Instruction | str]:
    """Return the last instructions, the newest first, at most this many; a sentence in the place of one that is none.

    StorageError: the store cannot be read.
    """
    found: list[Instruction | str] = []
    for path in _paths(root)[:most]:
        try:
            found += filter(None, [read(root, path)])
        except DamagedStore as error:
            found.append(str(error))
    return found


def read(root: Storage, path: str) -> Instruction | None:
    """Return the instruction at this path, None if nothing is there. DamagedStore: it is no instruction."""
    return read_decoded(root, path, LARGEST, partial(_decoded, path=path))


def give(root: Storage, verb: Verb) -> Instruction:
    """Write the next instruction, and return it.

    StorageError: the store has no conditional puts, or cannot be written.
    """
    if not root.exclusive():
        raise StorageError(
            f"{root.url} has no conditional puts, so that instructions could overwrite each other: stop its driver "
            "where it runs, by Ctrl-C"
        )
    last = newest(root)
    number = last.number + 1 if last is not None else 1
    given = {"verb": verb, "user": _user(), "host": _plain(socket.gethostname())}
    given["at"] = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    content = canonical_json({"id": uuid.uuid4().hex} | given).encode()
    while not root.create(_path(number), content):  # somebody else was first, or has a file of this name
        number += 1
    return _decoded(content, _path(number))


def paused(root: Storage) -> str:
    """Return the sentence that says that the drivers of a store are to be paused, "" if they are not.

    It is also "" if the folder of instructions cannot be read, for what is only told beside something else.
    """
    try:
        found = newest(root)
    except StorageError:
        return ""
    return paused_by(root, found) if found is not None and found.verb == PAUSE else ""


def paused_by(root: Storage, pause: Instruction) -> str:
    """Return the sentence about a pause."""
    return f"paused by {pause.who}; distsim ctl {root.url} {RESUME} goes on"


def is_path(path: str) -> bool:
    """Return whether an instruction may be at this path."""
    return _NAME.fullmatch(path) is not None


def _paths(root: Storage) -> list[str]:
    """Return where instructions may be, the newest first."""
    return sorted(filter(is_path, root.sizes(FOLDER)), reverse=True)


def _path(number: int) -> str:
    path = f"{FOLDER}/{number:06d}.json"
    if not is_path(path):
        raise StorageError(f"no number is left for an instruction: {FOLDER}/999999.json is there")
    return path


def _decoded(content: bytes, path: str) -> Instruction:
    """Return the instruction in an object. ValueError: it is none."""
    expect(len(content) <= LARGEST, f"it has more than {LARGEST:,} bytes")
    try:
        record = json.loads(content)
    except RecursionError:
        raise ValueError("its content is nested too deeply") from None
    require_record("", record, InstructionRecord)
    for name in ("user", "host"):
        expect(record[name] == _plain(record[name]), f"field {name} must be a short name")
    expect(_TIME.fullmatch(record["at"]) is not None, "field at must be a time")
    match = _NAME.fullmatch(path)
    assert match is not None
    return Instruction(int(match["number"]), record["verb"], record["user"], record["host"], record["at"])


def _user() -> str:
    """Return the name of this process's user."""
    try:
        return _plain(getpass.getuser())
    except (OSError, KeyError, ImportError):  # a container may run under a number that has no name
        return f"user {os.getuid()}" if hasattr(os, "getuid") else "somebody"


def _plain(name: str) -> str:
    """Return a name as a terminal can show it."""
    return "".join(filter(str.isprintable, name))[:LONGEST] or "unknown"
