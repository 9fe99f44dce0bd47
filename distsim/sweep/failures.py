"""Lasting failures, and how they are reported."""

from collections.abc import Callable
from typing import Any

from distsim.store import DamagedStore, NoSpace
from distsim.store.reasons import no_space


class SweepFailed(RuntimeError):
    """Some pieces failed and would fail again. The rest is committed. `failures` has one sentence for each."""

    def __init__(self, failures: list[str]) -> None:
        super().__init__("\n".join(failures))
        self.failures = failures


def unless_full(failures: list[str]) -> list[str]:
    """Return the failures. NoSpace: the disk is full, so everything else would fail too."""
    for failure in failures:
        if no_space(failure):
            raise NoSpace(failure)
    return failures


# A person can act on these, and repeating the work would not change them: reported, never retried.
EXPECTED = (FloatingPointError, ValueError, FileNotFoundError, DamagedStore, NoSpace)


def attempt(label: str, work: Callable[..., Any], *args: Any) -> list[str]:
    """Call work(*args). Return [], or one sentence if it failed with one of EXPECTED."""
    try:
        work(*args)
    except EXPECTED as error:
        return [sentence(label, error)]
    return []


def sentence(label: str, error: BaseException) -> str:
    """Return the error's text, with the label before it unless it is in the text."""
    return f"{label}: {error}" if label not in str(error) else str(error)


def last_line(error: BaseException) -> str:
    """Return the last line of an error's text, which in a traceback of another process is the error itself."""
    return last_line_of(str(error)) or type(error).__name__


def last_line_of(text: str) -> str:
    """Return the last line of a text that is not empty, "" if there is none."""
    return next((line.strip() for line in reversed(text.strip().splitlines()) if line.strip()), "")
