"""Whether the user has asked this process to stop where nothing is lost.

A training stops after an epoch, once its checkpoint is written. Other work stops after a network or a layer, once that
is committed. A command asks on the first Ctrl-C in a terminal (`distsim.cli.ending`).
"""

import threading

SAID = "stopping after this step; again to stop at once"
_asked = threading.Event()


class Stopped(KeyboardInterrupt):
    """The work has stopped because the user asked. It is a KeyboardInterrupt, so that no library keeps it."""


def ask() -> None:
    """Ask the work of this process to stop."""
    _asked.set()


def asked() -> bool:
    """Return whether the work of this process is asked to stop."""
    return _asked.is_set()


def forget() -> None:
    """Begin as if nobody had asked."""
    _asked.clear()


def here() -> None:
    """Raise Stopped if the work is asked to stop. It is called where everything before is kept."""
    if _asked.is_set():
        raise Stopped
