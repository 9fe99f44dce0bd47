"""What a sweep does about instructions that somebody gives through its store (`distsim.store.control`).

Its driver and its workers each look for them between steps, and stop where nothing is lost. Then the driver waits while
the sweep is paused. An instruction concerns the drivers that were running when it was given. A pause also concerns the
drivers that begin while it is in force.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from distsim import stopping
from distsim.stopping import Border, Stopped
from distsim.store import Storage, StorageError, StoreGone, StoreInUse, control

T = TypeVar("T")

LOOK = 2.0  # seconds between two looks into a folder
LOOK_REMOTE = 10.0  # and into an object store, where each look is a request
SHARE = 0.02  # share of the time that looks may take: of an object store that does not answer there are fewer


class Heeded:
    """The instructions that concern one driver and its workers.

    A pickle of it says which these are, so that workers in other processes look for themselves. Once it has said that
    work stops, it goes on saying so: all runs that share a process stop. `wait` ends that.
    """

    def __init__(self, root: Storage, since: int | None = None) -> None:
        """Look at nothing yet. since : number of the last instruction before the driver began, by default the newest"""
        self.root, self.since = root, since
        self._stop: Border | None = None
        self._next = 0.0  # when to look again
        self._seen: control.Instruction | None = None  # the newest one, at the last look
        if since is None:
            with contextlib.suppress(StorageError):
                self._newest()

    def __reduce__(self) -> tuple[type["Heeded"], tuple[Storage, int | None]]:
        return Heeded, (self.root, self.since)

    def stops(self, border: Border) -> bool:
        """Return whether work is to stop at this border. It looks into the store, unless it did so a moment ago."""
        if self._stop != "epoch" and time.monotonic() >= self._next:
            began = time.monotonic()
            with contextlib.suppress(StorageError):  # what the work itself reads and writes says what is wrong
                found = self._newest()
                if found is not None:
                    self._stop = "epoch" if found.verb == control.PAUSE else "network"
            now = time.monotonic()
            self._next = now + max(self._pause, (now - began) / SHARE)
        return self._stop is not None and self._stop in ("epoch", border)

    def wait(self, say: Callable[[str], object], check: Callable[[], None]) -> None:
        """Return once the sweep may go on: at once, unless it is paused.

        say : gets a sentence when waiting begins, and one when it ends
        check : raises if another driver has taken over, or the store has gone

        Stopped: it is to end instead.
        """
        last: control.Instruction | None = None
        with contextlib.ExitStack() as shown:
            while (found := self._found(last, check)) is not None:
                if found.verb == control.STOP:
                    raise Stopped(f"stopped by {found.who}")
                if found != last:
                    sentence, last = control.paused_by(self.root, found), found
                    say(sentence)
                    shown.enter_context(stopping.paused(sentence))
                if stopping.asked(self._pause):
                    raise Stopped
        if last is not None:
            say(f"goes on: resumed by {self._seen.who}" if self._seen is not None else "goes on")
        self._stop, self._next = None, 0.0

    def _found(self, last: control.Instruction | None, check: Callable[[], None]) -> control.Instruction | None:
        """Look once more while the sweep is paused by `last`. A store that cannot be read for a while changes nothing.

        Return the instruction that keeps the sweep from going on, None if there is none.
        """
        try:
            if last is not None:
                check()
            return self._newest()
        except (StoreInUse, StoreGone):
            raise
        except StorageError:
            if last is None:
                raise
            return last

    def _newest(self) -> control.Instruction | None:
        """Return the newest instruction, if it concerns this driver and keeps it from going on."""
        found = self._seen = control.newest(self.root)
        if self.since is None:
            self.since = found.number if found is not None else 0
        if found is None or found.verb == control.RESUME:
            return None
        return found if found.verb == control.PAUSE or found.number > self.since else None

    @property
    def _pause(self) -> float:
        return LOOK if self.root.folder is not None else LOOK_REMOTE


@contextlib.contextmanager
def heeding(root: Storage) -> Iterator[None]:
    """In a `with` block, which holds the store's lease, heed the instructions that are given from now on.

    A store without conditional puts has none.
    """
    with stopping.heeding(Heeded(root) if root.conditional else None):
        yield


def wait_if_paused(say: Callable[[str], object], check: Callable[[], None]) -> None:
    """Return once the sweep may go on. Arguments and errors are those of `Heeded.wait`."""
    heeded = stopping.heeded()
    if isinstance(heeded, Heeded):
        heeded.wait(say, check)


def through_pauses(work: Callable[[bool], T], say: Callable[[str], object], check: Callable[[], None]) -> T:
    """Return what the work returns. Where somebody pauses it, wait, and then begin it again: it does what is left.

    work : gets whether it begins again
    say, check : those of `Heeded.wait`

    Stopped: it is to end, as its user or an instruction asks.
    """
    again = False
    while True:
        try:
            return work(again)
        except Stopped:
            if stopping.asked() or stopping.heeded() is None:
                raise
            again = True
            wait_if_paused(say, check)
