"""What becomes of a piece of work whose worker died: done again, or given up."""

import re
from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

from distsim.sweep.failures import last_line_of
from distsim.sweep.on_ray.hosts import Hosts

RETRIES = 3  # of a trial or a comparison whose worker died; EXPECTED failures are not retried
UNKNOWN = "its worker died, or an error ended it"
SHORT = re.compile(r"low on memory.*?was ([\d.]+)GB used / ([\d.]+)GB", re.DOTALL)  # in the words of Ray

W = TypeVar("W")


class Deaths(Generic[W]):
    """Pieces of work whose workers died, until it is decided what becomes of them.

    After a death all machines are asked again whether they are fit. A death counts against a piece unless a machine
    that it could be on turns out to be unfit.

    hosts : the machines; None: nobody asks them
    retries : deaths after which a piece is done again
    """

    def __init__(self, hosts: Hosts | None, retries: int) -> None:
        self._hosts, self._retries = hosts, retries
        self._counted: Counter[Hashable] = Counter()
        self._waiting: list[tuple[W, Hashable, frozenset[str], str, int]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def forgive(self, key: Hashable) -> None:
        """Count a piece's deaths anew after the next one: it has come further."""
        self._counted[key] = -1

    def note(self, work: W, key: Hashable, avoided: frozenset[str], cause: str) -> None:
        """Take note of a death. key : of the piece; avoided : machines that were kept from it; cause : the error"""
        number = 0
        if self._hosts is not None:
            if "its creation task" in cause or "__init__()" in cause:
                self._hosts.could_not_start(cause)
            number = self._hosts.ask_again()
        self._waiting.append((work, key, avoided, cause, number))

    def decided(self) -> tuple[list[W], list[tuple[W, str]]]:
        """Return what is to be done again, and what is given up, with a sentence that says why."""
        again, given_up, waiting = [], [], []
        for entry in self._waiting:
            work, key, avoided, cause, number = entry
            if self._hosts is not None and not self._hosts.heard(number):
                waiting.append(entry)
            elif self._hosts is not None and not self._hosts.avoid <= avoided:
                again.append(work)  # it may have died on a machine that is unfit
            elif self._counted[key] < self._retries:
                self._counted[key] += 1
                again.append(work)
            else:
                self._counted.pop(key, None)
                given_up.append((work, f"given up after {self._retries} retries: {why(cause)}"))
        self._waiting = waiting
        return again, given_up


def why(cause: str) -> str:
    """Return why a worker died, in a sentence. cause : the text of Ray's error, "" if there is none"""
    if short := short_of_memory(cause):
        return f"{short}; a larger --cpus lets fewer workers run there at once"
    return last_line_of(cause) or UNKNOWN


def short_of_memory(cause: str) -> str:
    """Return a sentence if Ray ended a worker because its machine had little memory left, else ""."""
    if not (found := SHORT.search(cause)):
        return ""
    used, limit = map(float, found.groups())
    return f"Ray ended its worker, because the machine was short of memory ({used:.1f} of {limit:.1f} GB in use)"
