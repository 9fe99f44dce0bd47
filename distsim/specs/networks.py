"""Names the networks of a sweep: complete ones, and what was pruned from them.

NetworkId()                        complete                        the network that every run starts from
NetworkId(run=3, iteration=7)      runs/0003/iter_07               run 3 after its seventh pruning
NetworkId(complete=1)              complete-1                      another complete network
NetworkId(3, 7, complete=1)        complete-1/runs/0003/iter_07    the same run, from that one
"""

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Any

from distsim.specs.fields import shown

_MOST = 10**9 - 1  # nine digits, which is what paths are read with
_COMPLETE = r"[1-9][0-9]{0,8}"
# A network's path as `NetworkId.path` writes it, for use in larger expressions; `NetworkId.of_match` takes the match.
# Its groups are from, run, iteration, complete. The longer alternative comes first: complete-1/ has runs below it.
PATTERN = (
    rf"(?:(?:complete-(?P<from>{_COMPLETE})/)?"
    r"runs/(?P<run>[0-9]{4}|[1-9][0-9]{4,8})/iter_(?P<iteration>0[1-9]|[1-9][0-9]{1,8})"
    rf"|complete(?:-(?P<complete>{_COMPLETE}))?)"
)
_PATH = re.compile(PATTERN)
_NUMBER = "[0-9]{1,9}"
_ARGUMENT = re.compile(  # its parts sorted
    rf"(?:complete=(?P<complete>{_NUMBER}),)?(?:iteration=(?P<iteration>{_NUMBER}),)?run=(?P<run>{_NUMBER}|complete)"
)


@total_ordering
@dataclass(frozen=True, slots=True)
class NetworkId:
    """One network of a sweep, in the order of the complete network's number, then itself, its runs, their iterations.

    run        None: the complete network itself
    iteration  prunings since the complete network, which is iteration 0 of every run
    complete   the number of the complete network that it is, or came from
    """

    run: int | None = None
    iteration: int = 0
    complete: int = 0

    def __post_init__(self) -> None:
        for name, least in (("run", 0), ("iteration", 0), ("complete", 0)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and least <= value <= _MOST) and not (name == "run" and value is None):
                raise ValueError(f"{name} of a network must be a whole number in [0, {_MOST:,}], got {shown(value)}")
        if (self.run is None) != (self.iteration == 0):
            raise ValueError(
                "a network has a run and an iteration from 1 on, and the complete network neither, "
                f"got run {self.run} and iteration {self.iteration}"
            )

    def __lt__(self, other: object) -> bool:
        return self._rank < other._rank if isinstance(other, NetworkId) else NotImplemented

    @property
    def _rank(self) -> tuple[int, int, int]:
        return self.complete, -1 if self.run is None else self.run, self.iteration

    # --- what it came from -------------------------------------------------------------------------------------------

    @property
    def is_complete(self) -> bool:
        return self.run is None

    @property
    def before(self) -> "NetworkId | None":
        """The network that it was pruned from; None: it is complete."""
        if self.run is None:
            return None
        return NetworkId(self.run, self.iteration - 1, self.complete) if self.iteration > 1 else self.origin

    @property
    def origin(self) -> "NetworkId":
        """The complete network that it is, or came from."""
        return NetworkId(complete=self.complete)

    def comes_from(self, origin: "NetworkId") -> bool:
        """Say whether it is the origin, or was pruned from it."""
        same_run = origin.run in (None, self.run)
        return self.complete == origin.complete and same_run and self.iteration >= origin.iteration

    # --- how it is written -------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Where it lies in the folder of its sweep."""
        complete = f"complete-{self.complete}" if self.complete else ""
        if self.run is None:
            return complete or "complete"
        return f"{complete}/runs/{self.run:04d}/iter_{self.iteration:02d}".lstrip("/")

    @classmethod
    def of_path(cls, path: str) -> "NetworkId | None":
        """Read a path exactly as `path` writes it; None: it is no network's."""
        match = _PATH.fullmatch(path)
        return cls.of_match(match) if match else None

    @classmethod
    def of_match(cls, match: re.Match[str]) -> "NetworkId":
        """Build it from the match of an expression that has PATTERN in it."""
        complete = int(match["from"] or match["complete"] or 0)
        return (
            cls(complete=complete)
            if match["run"] is None
            else cls(int(match["run"]), int(match["iteration"]), complete)
        )

    @property
    def label(self) -> str:
        """What a sentence calls it."""
        complete = f"complete network {self.complete}" if self.complete else ""
        if self.run is None:
            return complete or "complete network"
        return f"{complete}, run {self.run}, iteration {self.iteration}".removeprefix(", ")

    @property
    def argument(self) -> str:
        """What the command line calls it: run=3,iteration=7 or run=complete, with ,complete=1 if it is of that one."""
        run = "run=complete" if self.run is None else f"run={self.run},iteration={self.iteration}"
        return f"{run},complete={self.complete}" if self.complete else run

    @classmethod
    def parse(cls, text: str) -> "NetworkId":
        """Read what `argument` writes, its parts in any order. ValueError says how a network is named."""
        match = _ARGUMENT.fullmatch(",".join(sorted(text.split(","))))
        if match is None or (match["run"] == "complete") != (match["iteration"] is None):
            raise ValueError(f"a network is named run=3,iteration=7 or run=complete, got {shown(text)}")
        complete = int(match["complete"] or 0)
        if match["iteration"] is None:
            return cls(complete=complete)
        if int(match["iteration"]) < 1:
            raise ValueError("iterations are counted from 1; the complete network is run=complete")
        return cls(int(match["run"]), int(match["iteration"]), complete)

    def as_json(self) -> list[int | None] | None:
        """Write None for the complete network, [3, 7] for a pruned one, [3, 7, 1] or [None, 0, 1] for another one's."""
        if self.complete:
            return [self.run, self.iteration, self.complete]
        return None if self.run is None else [self.run, self.iteration]

    @classmethod
    def from_json(cls, tree: Any) -> "NetworkId":
        """Read exactly what `as_json` writes. ValueError: it is no network's."""
        known = tree is None or (isinstance(tree, list | tuple) and len(tree) in (2, 3))
        network = cls(*(tree or ())) if known else None
        if network is None or network.as_json() != (None if tree is None else list(tree)):
            raise ValueError(f"a network is null, [run, iteration] or [run, iteration, complete], got {shown(tree)}")
        return network

    @property
    def key(self) -> str:
        """The text that names of files of pairs are hashed of: `None`, `(3, 7)`, `(3, 7, 1)`, `(None, 0, 1)`."""
        tree = self.as_json()
        return str(None if tree is None else tuple(tree))


COMPLETE = NetworkId()
