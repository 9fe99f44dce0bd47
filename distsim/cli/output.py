"""The output of a command: its results, and one sentence if it fails."""

import io
import re
import sys
import warnings
from typing import Any


def reported(work: Any) -> int:
    """Do the work and return the exit status.

    An error that a user can act on becomes one sentence on stderr and status 1; an interruption gives status 130.
    """
    from distsim.store import NoSpace
    from distsim.sweep.failures import EXPECTED, SweepFailed

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be valid text, nor terminals show it all
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_sentence
            return int(work() or 0)
    except SweepFailed as error:
        print(f"distsim: {len(error.failures)} failed, the rest is done:", file=sys.stderr)
        for failure in error.failures:
            print(f"  {one_line(failure)}", file=sys.stderr)
        return 1
    except NoSpace as error:
        print(
            f"distsim: {one_line(error)}. What is committed is kept. Make room, then run the same command again",
            file=sys.stderr,
        )
        return 1
    except (*EXPECTED, OSError) as error:
        print(f"distsim: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("distsim: interrupted; run the same command again to go on from here", file=sys.stderr)
        return 130


_usual = warnings.showwarning


def _one_sentence(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Print what distsim warns of as a sentence on stderr. Other warnings keep the line of code that they are about."""
    if category is UserWarning or category.__module__.startswith("distsim."):
        print(f"distsim: {one_line(message)}", file=sys.stderr)
    else:
        _usual(message, category, *where, **more)


def one_line(said: object) -> str:
    """Return the text on one line, without the control characters that library messages and file names may contain."""
    text = re.sub(r"\s*\n\s*", " ", str(said).strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_line(line: str) -> None:
    """Print a line at once, also into a pipe or a file."""
    print(line, flush=True)
