"""How a command ends before its work is done: by a signal, or because its output cannot be written.

A command that a signal ends has the status that a shell gives it, 128 and the signal's number: 130 after Ctrl-C, 143
after SIGTERM, 129 after the terminal has gone. One whose output has no reader (`| head -1`) has 141 and says nothing,
like a program that SIGPIPE kills. Python ignores that signal, since a connection to a store can send it too.

This module imports hardly more than the standard library: it is there before anything that takes seconds to import.
"""

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from distsim import stopping

NO_READER = 141  # 128 and the number of SIGPIPE, which Windows does not have
INTERRUPTED = "interrupted; run the same command again to go on from here"
SIGNALS = {
    name: said
    for name, said in {
        "SIGINT": INTERRUPTED,
        "SIGTERM": "ended by SIGTERM; run the same command again to go on from here",
        "SIGHUP": "ended because its terminal has gone; run the same command again to go on from here",
    }.items()
    if hasattr(signal, name)  # Windows has no SIGHUP
}


class Ended(KeyboardInterrupt):
    """A command ends early. It is a KeyboardInterrupt because libraries let that through and stop waiting for it.

    said : the sentence on stderr, "" for none
    status : the exit status
    """

    def __init__(self, said: str, status: int) -> None:
        super().__init__(said)
        self.said, self.status = said, status


class _Reason:
    """Why the command ends. Ray raises a KeyboardInterrupt of its own in the place of ours, so it is kept here."""

    ended: Ended | None = None
    typed = False  # whether sys.argv says what the command is
    gentle = False  # whether the first Ctrl-C only asks the work to stop
    shown = False  # whether a display says so


def reason(error: KeyboardInterrupt | None = None) -> Ended | None:
    """Return why the command ends early, None if it does not."""
    if _Reason.ended is None and error is not None:
        return error if isinstance(error, Ended) else Ended(INTERRUPTED, 128 + signal.SIGINT)
    return _Reason.ended


def say(sentence: object) -> None:
    """Print a sentence on stderr, if there is a stderr that takes it."""
    with contextlib.suppress(OSError, ValueError):
        print(f"distsim: {sentence}", file=sys.stderr, flush=True)


def _end(ended: Ended) -> Ended:
    _Reason.ended = _Reason.ended or ended
    return ended


def _on_signal(number: int, frame: FrameType | None) -> None:
    """End the command by raising `Ended`. While a module is imported, end the process instead.

    In the block of `gently`, the first Ctrl-C does neither.

    Libraries print a traceback of what is raised while they are imported, or make another error of it. Nothing is lost
    by ending there: what is committed stays, and the store's lease is over with its process.
    """
    if number == signal.SIGINT and _Reason.gentle and not stopping.asked():
        stopping.ask()
        if not _Reason.shown:
            with contextlib.suppress(OSError, ValueError, AttributeError):  # no print: one may be under way
                os.write(sys.stderr.fileno(), f"distsim: {stopping.SAID}\n".encode())
        return
    ended = _end(Ended(SIGNALS[signal.Signals(number).name], 128 + number))
    if _importing(frame):
        say(ended.said)
        os._exit(ended.status)
    raise ended


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def in_a_terminal() -> bool:
    """Return whether somebody at a terminal reads what is said on stderr."""
    with contextlib.suppress(AttributeError, ValueError):  # it is closed, or only looks like a file
        return sys.stderr.isatty()
    return False


def was_typed() -> bool:
    """Return whether sys.argv says what the command is."""
    return _Reason.typed


@contextlib.contextmanager
def gently(shown: bool) -> Iterator[None]:
    """In a `with` block, let the first Ctrl-C in a terminal ask the work to stop where nothing is lost.

    shown : a display says that it was asked
    """
    stopping.forget()
    _Reason.gentle, _Reason.shown = in_a_terminal(), shown
    try:
        yield
    finally:
        _Reason.gentle = False
        stopping.forget()


@contextlib.contextmanager
def early_ends(typed: bool = True) -> Iterator[None]:
    """In a `with` block, make signals and unwritable output raise `Ended`. A signal that is ignored stays ignored.

    typed : sys.argv says what the command is
    """
    _Reason.ended, _Reason.typed = None, typed
    _open_streams()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in SIGNALS:
            number = int(signal.Signals[name])
            if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL, _on_signal):
                before[number] = signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Output(io.TextIOWrapper):
    """stdout of a command. An error in writing is the end of the command, under whatever code it was written."""

    _of: io.TextIOWrapper  # it would close the file if it were forgotten

    @classmethod
    def of(cls, stream: io.TextIOWrapper) -> "_Output":
        out = cls(stream.buffer, encoding=stream.encoding, errors=stream.errors, line_buffering=stream.line_buffering)
        out._of = stream
        return out

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise self._lost(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise self._lost(error) from None

    def _lost(self, error: OSError) -> Ended:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # what is still buffered goes there, so that no later flush fails
        os.close(nowhere)
        if isinstance(error, BrokenPipeError):
            return _end(Ended("", NO_READER))
        return _end(Ended(f"its output cannot be written: {error.strerror}; what is committed is kept", 1))


def _open_streams() -> None:
    """Give the process three open streams that take any text.

    A file that is opened while stdout is closed would get its number, and what a library prints would go into it.
    """
    opened = None
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):  # it is closed in Python only
                os.fstat(number)
                continue
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
            opened = sys.stdout if number == 1 else opened
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be valid text, nor terminals show it all
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout in (sys.__stdout__, opened):
        sys.stdout.flush()
        sys.stdout = _Output.of(sys.stdout)


def watch_imports(importer: FrameType | None) -> None:
    """From now on end the process by a sentence on Ctrl-C, and if memory is lacking, if a script is what runs.

    It is called on the first import of a command's module, which a script does on its first lines. What is imported
    after that takes seconds. Python sessions and other programs that import a command's module keep their handlers.
    """
    while importer is not None and importer.f_code.co_filename.startswith("<frozen importlib"):
        importer = importer.f_back
    if importer is None or "IPython" in sys.modules or hasattr(sys, "ps1"):
        return
    of_module = importer.f_globals.get("__name__") == "runpy" and sys.argv[:1] == ["-m"]  # python -m distsim
    if not of_module and not (importer.f_globals.get("__name__") == "__main__" and "__file__" in importer.f_globals):
        return
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _on_signal)
        sys.excepthook = _hook
        if _memory_is_limited():
            _stand_by()


def _memory_is_limited() -> bool:
    with contextlib.suppress(ImportError):  # Windows has no such limits
        import resource

        return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return False


def _stand_by() -> None:
    """Go on in a process of its own, and say it if that is aborted. C++ code aborts where it gets no memory."""
    child = os.fork()
    if child == 0:
        return
    for name in SIGNALS:
        if name == "SIGTERM" or not os.isatty(0):  # a terminal sends the others to both processes
            signal.signal(signal.Signals[name], lambda number, frame: os.kill(child, number))
        else:
            signal.signal(signal.Signals[name], signal.SIG_IGN)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS):
        say(NO_MEMORY)
        status = 1
    os._exit(status if status >= 0 else 128 - status)


def lacks_memory(error: BaseException) -> bool:
    """Say whether an error means that the system gave no memory. Libraries have many errors for it."""
    text = str(error)
    return isinstance(error, MemoryError) or any(part in text for part in _LACKS_MEMORY)


_LACKS_MEMORY = ("Cannot allocate memory", "failed to map segment", "can't allocate memory", "can't start new thread")
NO_MEMORY = "there is not enough memory (`ulimit -v` and `free` say how much there may be)"


def _hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print what ends the script: a sentence where one will do, else the traceback."""
    if isinstance(error, KeyboardInterrupt):
        ended = reason(error)
        assert ended is not None
        say(ended.said)
        with contextlib.suppress(OSError, ValueError, KeyboardInterrupt):
            sys.stdout.flush()
        os._exit(ended.status)  # Python would kill itself by SIGINT, which has the same status in a shell only
    elif lacks_memory(error):
        say(NO_MEMORY)
    else:
        sys.__excepthook__(kind, error, trace)
