"""The output of a command: its results, and one sentence if it fails."""

import argparse
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from distsim import extras
from distsim.cli.ending import NO_MEMORY, early_ends, in_a_terminal, lacks_memory, reason, say

UNUSABLE = 2  # exit status: the command line cannot be read, or a library is not installed


class Help(argparse.HelpFormatter):
    """The help of a command. Its example stays on one line however narrow the terminal is, so that it can be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("Example: ") else super()._fill_text(text, width, indent)


def reported(work: Any, typed: bool = True) -> int:
    """Do the work and return the exit status. typed : the work is what sys.argv says

    An error that a user can act on becomes one sentence on stderr and status 1. `distsim.cli.ending` says how signals,
    and output without a reader, end it.
    """
    with early_ends(typed):
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _one_sentence
                try:
                    return int(work() or 0)
                finally:
                    sys.stdout.flush()
        except KeyboardInterrupt as error:
            return _ended(error)
        except Exception as error:
            # under a library's own error there may be our interruption, which it took for a failure
            return _ended() if reason() else _failed(error)


def _ended(error: KeyboardInterrupt | None = None) -> int:
    ended = reason(error)
    assert ended is not None
    if ended.said:
        say(ended.said)
    return ended.status


def _failed(error: Exception) -> int:
    """Print the error in a sentence and return the status. It is raised again if it is no error of the user's."""
    if lacks_memory(error):  # first: what is imported below may be what could not be imported
        say(NO_MEMORY)
        return 1
    if missing := extras.missing_in(error):
        say(missing)
        return UNUSABLE
    try:
        return _understood(error)
    except ModuleNotFoundError as lacking:  # without the extras there are fewer kinds of errors
        if extras.missing_in(lacking) is None or not isinstance(error, (ValueError, OSError)):
            raise error from None
        say(one_line(error))
        return 1


def _understood(error: Exception) -> int:
    """Print an error that a user can act on, and return the status. Another is raised again."""
    from distsim.store import NoSpace
    from distsim.sweep.cluster import ClusterLost
    from distsim.sweep.failures import EXPECTED, SweepFailed

    if isinstance(error, SweepFailed):
        say(f"{len(error.failures)} failed, the rest is done:")
        for line in _together(error.failures):
            print(f"  {line}", file=sys.stderr)
    elif isinstance(error, NoSpace):
        say(f"{one_line(error)}. What is committed is kept. Make room, then run the same command again")
    elif isinstance(error, FileNotFoundError) and _started_nowhere():
        say("the folder in which this command was started is gone: start it in another")
    elif isinstance(error, (*EXPECTED, OSError)):
        say(one_line(error))
    else:
        raise error
    if isinstance(error, ClusterLost):
        sys.stdout.flush()
        os._exit(1)  # on its way out Ray would wait for what has died, for a minute
    return 1


def _started_nowhere() -> bool:
    """Return whether the current folder has been removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _together(failures: list[str]) -> Iterator[str]:
    """Yield a line for each reason. Pieces that failed for the same reason share a line, which names the first."""
    pieces: dict[str, list[str]] = {}
    for failure in failures:
        piece, colon, reason = one_line(failure).partition(": ")
        problem = piece.split(", ")[0]
        pieces.setdefault(colon + reason.removeprefix(f"{problem}: "), []).append(piece)
    for reason, named in pieces.items():
        others = f" and {len(named) - 1} more" if len(named) > 1 else ""
        yield f"{named[0]}{others}{reason}"


_usual = warnings.showwarning


def _one_sentence(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Print what distsim warns of as a sentence on stderr. Other warnings keep the line of code that they are about."""
    if is_own(category):
        say(one_line(message))
    else:
        _usual(message, category, *where, **more)


def is_own(category: type[Warning]) -> bool:
    """Return whether distsim warns of this, and not a library."""
    return category is UserWarning or category.__module__.startswith("distsim.")


def one_line(said: object) -> str:
    """Return the text on one line, without the control characters that library messages and file names may contain."""
    text = re.sub(r"\s*\n\s*", " ", str(said).strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say_loading(quiet: bool = False) -> None:
    """Say that PyTorch is being imported, which takes seconds, to somebody who waits for it at a terminal."""
    if not quiet and "torch" not in sys.modules and in_a_terminal():
        say("loading PyTorch ...")


def print_line(line: str) -> None:
    """Print a line at once, also into a pipe or a file."""
    print(line, flush=True)
