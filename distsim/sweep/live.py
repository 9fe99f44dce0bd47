"""The live display of a sweep on a terminal, by rich."""

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distsim import stopping
from distsim.callbacks import Event
from distsim.store import Storage, StorageError
from distsim.store.epochs import EPOCHS, epochs_kept
from distsim.sweep.board import COLUMNS, Board, View, disk_used

REFRESHED = 4.0  # times a second
LOOK = 3.0  # seconds between two looks into the store, or more: they take at most `SHARE` of the time
SHARE = 0.02
FAILURES = 3  # the last ones are shown


def shows(*streams: TextIO) -> bool:
    """Return whether these streams are a terminal that can show a display."""
    try:
        return all(stream.isatty() for stream in streams) and not Console().is_dumb_terminal
    except (AttributeError, ValueError):  # a closed stream, or one that only looks like a file
        return False


def rendered(view: View, height: int) -> RenderableType:
    """Return what a terminal of this height shows. Rows that do not fit are counted."""
    last = view.failures[-FAILURES:]
    others = 2 + len(view.lines) + len(last) + bool(stopping.said())
    room = max(1, height - others - 1)
    shown = view.rows if len(view.rows) <= room else view.rows[: max(1, room - 1)]
    parts: list[RenderableType] = []
    if shown:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in COLUMNS:
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        for row in shown:
            table.add_row(*map(Text, row))
        parts.append(table)
    if len(shown) < len(view.rows):
        parts.append(Text(view.more.format(count=len(view.rows) - len(shown)), style="dim"))
    lines = Table(box=None, pad_edge=False, show_header=False)
    for name, said in view.lines:
        lines.add_row(Text(name, style="bold"), Text(said))
    parts.append(lines)
    parts += [Text(failure, style="red", no_wrap=True, overflow="ellipsis") for failure in last]
    if said := stopping.said():
        parts.append(Text(said, style="bold"))
    return Group(*parts)


class Display(Board):
    """A board that is shown while a `with` block lasts. Sentences, and what else the process prints, stand above it.

    root : the store, whose size is shown; file : the terminal, stdout by default
    from_store : read epochs from checkpoints, since trainings run in other processes
    """

    def __init__(self, root: Storage, from_store: bool = False, file: TextIO | None = None) -> None:
        super().__init__()
        self._root, self._from_store = root, from_store
        self._console = Console(file=file, highlight=False)
        self._live = Live(console=self._console, get_renderable=self._rendered, refresh_per_second=REFRESHED)
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True, name="distsim-display")

    def __enter__(self) -> "Display":
        self._live.start()
        self._console.show_cursor(True)  # a process that is killed cannot show it again
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._live.stop()

    def on_training(self, event: Event) -> None:
        super().on_training(event)
        self._live.refresh()  # so that each training is seen, however short it is

    def say(self, sentence: str) -> None:
        """Print a sentence above the display."""
        self._console.print(Text(sentence))

    def _rendered(self) -> RenderableType:
        return rendered(self.view(), self._console.size.height)

    def _look(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            began = time.monotonic()
            with contextlib.suppress(StorageError, OSError):  # the sweep itself says what is wrong with its store
                self._look_once()
            pause = max(LOOK, (time.monotonic() - began) / SHARE)

    def _look_once(self) -> None:
        sizes = self._root.sizes()
        self.disk = disk_used(self._root, sizes)
        if self._from_store:
            for problem, network in self.at_work:
                folder = f"{problem}/{network.path}/{EPOCHS}/"
                of_network = [path.removeprefix(f"{problem}/") for path in sizes if path.startswith(folder)]
                for epochs in epochs_kept(self._root.within(problem), of_network).values():
                    self.seen(problem, network, epochs)


def watched(look: Callable[[], View], over: Callable[[], bool]) -> None:
    """Show what `look` returns, again and again until `over` is true."""
    console = Console(highlight=False)
    began = time.monotonic()
    view = look()
    with Live(console=console, get_renderable=lambda: rendered(view, console.size.height), auto_refresh=False) as live:
        console.show_cursor(True)
        live.refresh()
        while not over():
            time.sleep(max(LOOK, (time.monotonic() - began) / SHARE))
            began = time.monotonic()
            view = look()
            live.refresh()
