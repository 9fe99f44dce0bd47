"""What a command says: results, and one sentence where it fails."""

import io
import re
import sys
from typing import Any


def reported(work: Any) -> int:
    """Do the work; what a person can act on becomes one sentence on stderr and exit status 1."""
    from distsim.store import NoSpace
    from distsim.sweep.failures import EXPECTED, SweepFailed

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text, nor terminals show all of it
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(work() or 0)
    except SweepFailed as error:
        print(f"distsim: {len(error.failures)} failed, the rest is done:", file=sys.stderr)
        for failure in error.failures:
            print(f"  {one_line(failure)}", file=sys.stderr)
        return 1
    except NoSpace as error:
        print(
            f"distsim: {one_line(error)}. What is committed is kept: make room, the same command goes on",
            file=sys.stderr,
        )
        return 1
    except (*EXPECTED, OSError) as error:
        print(f"distsim: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("distsim: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def one_line(said: object) -> str:
    """The sentence without line breaks and other control characters, which libraries and names of files may have."""
    text = re.sub(r"\s*\n\s*", " ", str(said).strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_line(line: str) -> None:
    print(line, flush=True)
