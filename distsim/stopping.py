"""Whether the work of this process is to stop where nothing is lost.

A training stops after an epoch, once its checkpoint is written. Other work stops after a network or a layer, once that
is committed. These places are borders. A command asks on the first Ctrl-C in a terminal (`distsim.cli.ending`). A
person on another machine asks through the store (`distsim.sweep.heeding`).
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Literal, Protocol

SAID = "stopping after this step; again to stop at once"
Border = Literal["epoch", "network"]  # work that stops after an epoch stops after a network or a layer, too
_asked = threading.Event()


class Stopped(KeyboardInterrupt):
    """The work has stopped because somebody asked. It is a KeyboardInterrupt, so that no library keeps it.

    Its text says who asked, "" for the user of this process.
    """


class Heeded(Protocol):
    """What else may ask the work to stop."""

    def stops(self, border: Border) -> bool:
        """Return whether the work is to stop at this border."""
        ...


class _State:
    heeded: Heeded | None = None
    paused = ""  # the sentence that says so


def ask() -> None:
    """Ask the work of this process to stop."""
    _asked.set()


def asked(seconds: float = 0.0) -> bool:
    """Return whether the user asked the work of this process to stop. seconds : wait this long for it"""
    return _asked.wait(seconds) if seconds else _asked.is_set()


def forget() -> None:
    """Begin as if nobody had asked."""
    _asked.clear()


@contextlib.contextmanager
def heeding(heeded: Heeded | None) -> Iterator[None]:
    """In a `with` block, let this ask the work of this process to stop, too."""
    before, _State.heeded = _State.heeded, heeded
    try:
        yield
    finally:
        _State.heeded = before


def heeded() -> Heeded | None:
    """Return what else may ask the work to stop. A worker in another process is to heed it, too."""
    return _State.heeded


def wanted(border: Border = "network") -> bool:
    """Return whether the work is to stop at this border."""
    return _asked.is_set() or (_State.heeded is not None and _State.heeded.stops(border))


def here(border: Border = "network") -> None:
    """Raise Stopped if the work is to stop at this border. It is called where everything before is kept."""
    if wanted(border):
        raise Stopped


@contextlib.contextmanager
def paused(sentence: str) -> Iterator[None]:
    """In a `with` block, nothing is done, and displays show this sentence."""
    before, _State.paused = _State.paused, sentence
    try:
        yield
    finally:
        _State.paused = before


def said() -> str:
    """Return the sentence for displays that says why the work stops, "" if it does not."""
    return SAID if _asked.is_set() else _State.paused
