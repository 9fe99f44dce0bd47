"""What fails for good, and how it is said."""

from collections.abc import Callable
from typing import Any

from distsim.store import DamagedStore, NoSpace
from distsim.store.storage import no_space


class SweepFailed(RuntimeError):
    """Some pieces failed for good; the rest is committed. `failures` has one sentence for each."""

    def __init__(self, failures: list[str]) -> None:
        super().__init__("\n".join(failures))
        self.failures = failures


def unless_full(failures: list[str]) -> list[str]:
    """The failures. NoSpace: one of them is that the disk is full, so that everything else would fail as well."""
    for failure in failures:
        if no_space(failure):
            raise NoSpace(failure)
    return failures


# What a person can act on, and what trying again would not change: reported, never retried.
EXPECTED = (FloatingPointError, ValueError, FileNotFoundError, DamagedStore, NoSpace)


def attempt(label: str, work: Callable[..., Any], *args: Any) -> list[str]:
    """Do the work; empty, or one sentence where it failed for a reason that trying again would not change."""
    try:
        work(*args)
    except EXPECTED as error:
        return [sentence(label, error)]
    return []


def sentence(label: str, error: BaseException) -> str:
    return f"{label}: {error}" if label not in str(error) else str(error)
