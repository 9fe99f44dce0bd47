"""The lease: one driver at a time works on a store.

`lease/000007.json` is created exclusively and names its holder. Its number is the fencing number: holder 7 has lost the
lease once 8 exists. `lease/000007.beat` is rewritten all the time while the holder lives. Whether a holder on this
machine lives is seen from its process, whether one elsewhere does from its beat.

A process of another user may be hidden (`hidepid` of /proc, usual on login nodes). So that one is not to be seen is no
proof that it has ended: unless the system says that no process has its number, its beat is waited for.

Commits need no lease: they are safe beside any writer. Dropping activations and replacing tables are not, so a driver
calls `check` before these, and `store.fenced` sees to what is replaced. A store may also go while a driver is at work,
as when its disk is unmounted: so each write into a folder first looks for the driver's own lease (`check_there`).
"""

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from distsim.specs import canonical_json
from distsim.store.storage import Storage, StorageError

FOLDER = "lease"
BEAT = 5.0  # seconds between two signs of life
SILENCE = 30.0  # seconds without one, after which a driver that cannot be seen is taken for dead
_FILE = re.compile(rf"{FOLDER}/(?P<number>\d{{6,18}})\.(?P<kind>json|beat)", re.ASCII)
_ANY = re.compile(rf"{FOLDER}/(?P<number>\d{{6,18}})[.-].+", re.ASCII)  # `store.fenced` writes such names too
_SIGN = re.compile(rb"over|[0-9a-f]{32}")


class StoreInUse(StorageError):
    """Another driver is at work in the store."""


class StoreGone(StorageError):
    """The store in which this driver works is not there any more."""


class Lease:
    """The lease of a store, held for the length of a `with` block.

    say : gets a sentence if entering has to wait
    beat, silence : see BEAT and SILENCE, in seconds

    Entering the block raises StoreInUse if another driver is at work.
    """

    def __init__(
        self, root: Storage, say: Callable[[str], None] = print, beat: float = BEAT, silence: float = SILENCE
    ) -> None:
        self._root, self._say, self._beat, self._silence = root, say, beat, silence
        self.number = 0
        self.interrupted = 0  # number of the driver before, if it did not end by itself
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._go_on_beating, daemon=True)

    def __enter__(self) -> "Lease":
        while not self.number:
            names = list(self._root.sizes(FOLDER))  # one listing: who comes between takes a number that is seen below
            last = _highest(_FILE, names)
            self.interrupted = last if last and not self._require_over(last) else 0
            number = 1 + _highest(_ANY, names)
            if self._root.create(_path(number), canonical_json(_holder()).encode()):
                self.number = number
                if self._last() > self.number:  # others took and released the lease meanwhile, and deleted older files
                    self._root.delete([_path(self.number)])
                    self.number = 0
        self._remove_earlier()
        self._beating.start()
        self._root.lease = self
        _held.add(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self._root.lease = None
        _held.discard(self)
        self._over.set()
        self._beating.join()
        with contextlib.suppress(StorageError):  # e.g. a full disk; the next driver sees that this process is gone
            if self._gone():
                self._root.lease = self  # so that nothing is written by what ends after this, either
            elif not self.lost:
                self._root.put(_path(self.number, "beat"), b"over")

    @property
    def sign(self) -> tuple[str, bytes]:
        """Return the path and the content of an object that only this store has, while this process holds the lease."""
        return _path(self.number), self._root.get(_path(self.number)) or b""

    @property
    def lost(self) -> bool:
        """Return whether another driver took over after a long silence."""
        return self._last() != self.number

    def check(self) -> None:
        """Check that this driver still holds the lease.

        StoreInUse: another driver took over. StoreGone: the store is not there any more.
        """
        self.check_there()
        if self.lost:
            raise StoreInUse(
                f"another driver took over {self._root.url} because this one gave no sign of life: this one stops"
            )

    def check_there(self) -> None:
        """Check that the store is still there, and with it what says that this driver, or a later one, holds it.

        StoreGone: it is not, so that whatever is written would begin another store in its place, such as in the folder
        on which its disk was mounted.
        """
        if self._gone():
            raise StoreGone(
                f"the store {self._root.url} has gone (unmounted or removed?): {_path(self.number)}, which this driver "
                "wrote there, is not there any more. This driver stops"
            )

    def _gone(self) -> bool:
        return self._vanished() and self._last() <= self.number

    def _vanished(self) -> bool:
        """Return whether the file of this driver's lease is not there. It is asked before every write."""
        if self._root.folder is None:
            return self._root.get(_path(self.number)) is None
        try:
            os.stat(self._root.folder / _path(self.number))
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # such as a file server that does not answer: what is written next says so
            pass
        return False

    def _last(self) -> int:
        return _highest(_FILE, self._root.sizes(FOLDER))

    def _remove_earlier(self) -> None:
        """Remove what earlier holders have left, and no file of somebody else's with such a name."""
        for path in self._root.sizes(FOLDER):
            match = _FILE.fullmatch(path)
            if match and int(match["number"]) < self.number:
                content = self._root.get(path, most=2**16) or b""
                if _SIGN.fullmatch(content) if match["kind"] == "beat" else {"id", "pid"} <= _read(content).keys():
                    self._root.delete([path])

    def _require_over(self, number: int) -> bool:
        """Check that holder `number` has ended, and wait for its beat if that cannot be seen. StoreInUse: it lives.

        Return whether it has ended by itself.
        """
        beat, holder = self._root.get(_path(number, "beat")), _read(self._root.get(_path(number)))
        if beat == b"over":
            return True
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}, since {holder.get('since', '?')}"
        alive = _lives(holder)
        if alive is None:
            self._say(f"{who} was at work in {self._root.url}: waiting {self._silence:.0f} s for a sign of life")
            alive = self._heard(number, beat)
        if alive:
            raise StoreInUse(f"another driver is at work in {self._root.url}: {who}. Wait until it ends, or stop it")
        return False

    def _heard(self, number: int, beat: bytes | None) -> bool:
        """Return whether the holder gives a sign of life within the silence, by our own clock."""
        until = time.monotonic() + self._silence
        while time.monotonic() < until:
            time.sleep(min(self._beat, self._silence) / 4)
            now = self._root.get(_path(number, "beat"))
            if now == b"over" or self._last() != number:
                return now != b"over"
            if now != beat:
                return True
        return False

    def _go_on_beating(self) -> None:
        while True:
            with contextlib.suppress(StorageError):  # if this lasts, another driver takes over and `check` says so
                if self._vanished():  # a beat would bring back a store that has gone
                    return
                self._root.put(_path(self.number, "beat"), uuid.uuid4().hex.encode())
            if self._over.wait(self._beat):
                return


def driver(root: Storage) -> tuple[str, bytes] | None:
    """Return who holds the lease, in words, and its last sign of life; None if nobody does. Nothing is written."""
    last = _highest(_FILE, root.sizes(FOLDER))
    beat = root.get(_path(last, "beat"), most=2**16) if last else b"over"
    if beat == b"over":
        return None
    holder = _read(root.get(_path(last), most=2**16))
    if _lives(holder) is False:
        return None
    return (
        f"process {holder.get('pid', '?')} on {holder.get('host', '?')}, since {holder.get('since', '?')}",
        beat or b"",
    )


_held: set[Lease] = set()


def release_all() -> None:
    """Release the leases that this process holds, because it is ended while its main thread cannot do so."""
    for lease in list(_held):
        lease.__exit__()


def _path(number: int, kind: str = "json") -> str:
    return f"{FOLDER}/{number:06d}.{kind}"


def _highest(names: re.Pattern[str], paths: Iterable[str]) -> int:
    return max((int(match["number"]) for match in map(names.fullmatch, paths) if match), default=0)


def _holder() -> dict[str, Any]:
    """Describe this process, so that another one can see whether it lives."""
    return {
        "id": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": began[1] if (began := _state(os.getpid())) else None,
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": os.path.basename(sys.argv[0]),
    }


def _read(content: bytes | None) -> dict[str, Any]:
    try:
        holder = json.loads(content or b"")
    except (ValueError, RecursionError):
        holder = {}
    return holder if isinstance(holder, dict) else {}


def _lives(holder: dict[str, Any]) -> bool | None:
    """Return whether the holder's process lives, or None if it cannot be seen from here."""
    if _machine() is None or holder.get("machine") != _machine():
        return None
    pid, began = holder.get("pid"), holder.get("started")
    if type(pid) is not int or not 0 < pid < 2**31 or not isinstance(began, str):
        return None
    found = _state(pid)
    if found is not None:
        return found[0] not in "ZX" and found[1] == began
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user, perhaps not the holder
        pass
    return None


def _machine() -> str | None:
    """Return this boot of this machine and its process namespace, or None if unknown.

    Process numbers mean the same thing only where this is equal.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _state(pid: int) -> tuple[str, str] | None:
    """Return the state of a process and when it began, in ticks since the boot. None: it is not there, or is hidden."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return state, fields[18]
    except (OSError, ValueError, IndexError):
        return None
