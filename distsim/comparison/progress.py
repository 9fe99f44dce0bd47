"""The progress bar of a comparison, on stderr."""

import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from typing import Any

AFTER = 3.0  # seconds after which a bar appears by itself


class Bar:
    """Says how far a comparison is. It appears at once, after `AFTER` seconds, or never."""

    def __init__(self, at: float | None) -> None:
        """Start the clock. at : seconds until it appears; None: it never does"""
        self._at, self._begun = at, time.monotonic()
        self._what, self._done = "", 0
        self._total: int | None = None
        self._shown: Any = None  # a rich.progress.Progress
        self._task: Any = None

    def begin(self, what: str, total: int | None) -> None:
        """Begin a part of the work. total : how many steps it has; None: nobody knows"""
        self._what, self._total, self._done = what, total, 0
        self._show()

    def step(self) -> None:
        """Note that a step is done."""
        self._done += 1
        self._show()

    def _show(self) -> None:
        if self._at is None or time.monotonic() - self._begun < self._at:
            return
        if self._shown is None:
            self._shown = _progress()
            self._task = self._shown.add_task(self._what, total=self._total)
            self._shown.start()
        self._shown.update(self._task, description=self._what, total=self._total, completed=self._done)

    def close(self) -> None:
        """Take the bar away."""
        if self._shown is not None:
            self._shown.stop()


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)


@contextlib.contextmanager
def progress_bar(asked: bool | None) -> Iterator[Bar]:
    """Yield a bar, and take it away at the end of the block.

    asked : True: it appears at once, if stderr is a terminal or a notebook; False: never; None: after `AFTER` seconds
    """
    bar = Bar(None if asked is False or not _can_show() else 0.0 if asked else AFTER)
    try:
        yield bar
    finally:
        bar.close()


def _can_show() -> bool:
    if _in_notebook():
        return importlib.util.find_spec("ipywidgets") is not None  # without it rich warns, and shows nothing
    return sys.stderr is not None and sys.stderr.isatty()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
