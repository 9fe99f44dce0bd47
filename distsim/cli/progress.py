"""How a command shows a running sweep: a live display on a terminal, else lines, and a log file if it is asked for.

While there is a display, and with --quiet, what libraries print below Python goes to the log file, and so do the
records of their loggers and their warnings. What Python code prints is still shown, and so is what distsim itself says.
"""

import argparse
import contextlib
import errno
import io
import logging
import os
import shlex
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from distsim import stopping, trace
from distsim.cli import ending
from distsim.cli.output import is_own, print_line
from distsim.named_files import place


def flags(parser: Any) -> None:
    """Add --quiet and --log to a parser or a group."""
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="show nothing while it works, only results and what goes wrong (default: a live display on a terminal, "
        "else a line for each network)",
    )
    parser.add_argument(
        "--log",
        metavar="FILE",
        help="also write the lines that are shown without a terminal to this file, after what it holds",
    )


class Reporter:
    """Where a command's sentences and events go while a sweep runs. watcher : a `distsim.callbacks.Callback`"""

    def __init__(self, says: list[Callable[[str], None]], watcher: Any) -> None:
        self._says, self.watcher = says, watcher

    def say(self, sentence: str) -> None:
        """Say a sentence wherever it is to be seen."""
        for say in self._says:
            say(sentence)


@contextlib.contextmanager
def reporting(root: Any, flags: argparse.Namespace) -> Iterator[Reporter]:
    """Show a sweep while the block lasts. Yield where its sentences and events go.

    On a terminal, the first Ctrl-C asks work in this process to stop where nothing is lost.

    ValueError: the file of --log cannot be written.
    """
    from distsim.callbacks import Several
    from distsim.sweep.engine import Lines
    from distsim.sweep.live import Display, shows

    live = not flags.quiet and shows(sys.stdout, sys.stderr)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(_log(flags.log)) if live or flags.quiet or flags.log is not None else None
        if log is not None and (live or flags.quiet):
            print_line(f"log: {log.name}")
            stack.enter_context(_diverted(log))
        if flags.local:  # before the display, whose last frame says that it was asked to stop
            stack.enter_context(ending.gently(shown=live))
        says: list[Callable[[str], None]] = []
        watchers: list[Any] = []
        if live:
            display = stack.enter_context(Display(root, from_store=not flags.local))
            says.append(display.say)
            watchers.append(display)
        elif not flags.quiet:
            says.append(print_line)
            watchers.append(Lines(print_line))
        if log is not None:
            write = _writer(log)
            says.append(write)
            watchers.append(Lines(write))
        yield Reporter(says, Several(watchers))


def again() -> str:
    """Return the command that runs, as it may be typed again; "" if it was not typed."""
    if not ending.was_typed():
        return ""
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    if module is not None:
        program = ["python", "-m", module.name.removesuffix(".__main__")]
    else:
        program = ["python", sys.argv[0]] if sys.argv[0].endswith(".py") else [os.path.basename(sys.argv[0])]
    return shlex.join([*program, *sys.argv[1:]])


@contextlib.contextmanager
def saying_what_is_kept(orders: list[Any], root: Any, kept: str = "") -> Iterator[None]:
    """Let Ctrl-C in a terminal end the block with what the store keeps, and with the command that goes on.

    So does somebody's instruction to stop (`distsim.sweep.heeding`), whatever reads the output.

    kept : what it keeps, in words; by default what it holds of these orders
    """
    try:
        yield
    except KeyboardInterrupt as error:
        ended = ending.reason(error)
        why = str(error) if isinstance(error, stopping.Stopped) else ""
        if ended is None or ended.status != 128 + signal.SIGINT or not (why or ending.in_a_terminal()):
            raise
        ended.said = _kept(orders, root, why or "stopped", kept)
        raise ended from None


def _kept(orders: list[Any], root: Any, why: str, kept: str) -> str:
    from distsim.store import StorageError, SweepStore
    from distsim.sweep.kept import kept_sentence

    if not kept:
        kept = "what is committed"
        with contextlib.suppress(StorageError):
            kept = "; ".join(kept_sentence(SweepStore(root, order.name), order.sweep.extent) for order in orders)
    command = again()
    return f"{why}. {root.url} keeps {kept}. " + (
        f"To go on: {command}" if command else "Run the same command again to go on from here"
    )


# --- the log ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _log(path: str | None) -> Iterator[Any]:
    """Open the log file, a new temporary one if none is named. ValueError: it cannot be written."""
    where = place(path, "--log") if path is not None else None
    try:
        if where is not None:
            file: Any = open(where, "ab", buffering=0, opener=_without_waiting)  # noqa: SIM115  closed below
        else:
            stamp = time.strftime("distsim-%Y%m%d-%H%M%S-")
            file = tempfile.NamedTemporaryFile(prefix=stamp, suffix=".log", buffering=0, delete=False)  # noqa: SIM115
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        pipe = getattr(error, "errno", None) == errno.ENXIO
        reason = "it is a pipe that nobody reads" if pipe else getattr(error, "strerror", error)
        raise ValueError(f"--log {path}: cannot write this file: {reason}") from None
    with file:
        yield file


def _without_waiting(path: str, flags: int) -> int:
    """Open a file as `open` does, but do not wait for the reader of a pipe. OSError (ENXIO): it has none."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    os.set_blocking(handle, True)
    return handle


def _writer(log: Any) -> Callable[[str], None]:
    """Return what writes a line to the log. A full disk loses the line, and does not end the sweep."""

    def write(line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: a library's thread comes after the end
            log.write(f"{line}\n".encode(errors="backslashreplace"))

    return write


class _Records(logging.Handler):
    """Writes the records of libraries' loggers to the log. Those of distsim's stages would be too many."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write
        self.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
        self.addFilter(lambda record: record.name != trace.logger.name)

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self.format(record))


@contextlib.contextmanager
def _diverted(log: Any) -> Iterator[None]:
    """Send to the log what libraries print, log and warn of in the block.

    sys.stdout and sys.stderr still reach the user. Their files are not closed, since loggers may keep them.
    """
    write, usual = _writer(log), warnings.showwarning
    records = _Records(write)

    def of_a_library(message: Any, category: Any, *where: Any, **more: Any) -> None:
        if is_own(category):
            usual(message, category, *where, **more)
        else:
            write(warnings.formatwarning(message, category, *where[:2]).rstrip())

    logging.getLogger().addHandler(records)
    warnings.showwarning = of_a_library
    try:
        with _descriptor_diverted(log, "stdout", 1), _descriptor_diverted(log, "stderr", 2):
            yield
    finally:
        warnings.showwarning = usual
        logging.getLogger().removeHandler(records)


@contextlib.contextmanager
def _descriptor_diverted(log: Any, name: str, number: int) -> Iterator[None]:
    """Let a file descriptor lead to the log, and Python's stream to where it led before."""
    stream = getattr(sys, name)
    if not isinstance(stream, io.TextIOWrapper) or stream.fileno() != number:  # a test's, or a notebook's
        yield
        return
    stream.flush()
    kept = os.dup(number)
    os.set_inheritable(kept, False)
    shown = type(stream)(os.fdopen(kept, "wb"), encoding=stream.encoding, errors=stream.errors, line_buffering=True)
    os.dup2(log.fileno(), number)
    setattr(sys, name, shown)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            shown.flush()
        os.dup2(kept, number)
        setattr(sys, name, stream)
