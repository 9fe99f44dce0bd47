"""The names of a sweep's networks: complete networks, and those pruned from them.

NetworkId()                        complete                        the network that every run starts from
NetworkId(run=3, iteration=7)      runs/0003/iter_07               run 3 after its seventh pruning
NetworkId(complete=1)              complete-1                      another complete network
NetworkId(3, 7, complete=1)        complete-1/runs/0003/iter_07    the same run, from that one
NetworkId(0, 3, control="retrain") controls/retrain/runs/0000/iter_03    run 0 of the control that is never pruned

A control is a run beside the pruned ones, to tell what pruning does from what else happens in a run:

retrain    rewound and trained again as often, with other orders of images, and never pruned
random     pruned of as many parameters, chosen at random
"""

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Any, Literal, get_args

from distsim.specs.fields import shown

Control = Literal["retrain", "random"]
CONTROLS: tuple[Control, ...] = get_args(Control)
OfControl = Literal["", "retrain", "random"]  # "": a pruned run, or a complete network
_KINDS: tuple[OfControl, ...] = ("", *CONTROLS)

_MOST = 10**9 - 1  # paths are read with up to nine digits
_COMPLETE = r"[1-9][0-9]{0,8}"
# Matches a network's path as `NetworkId.path` writes it; it may be part of a larger expression, whose match
# `NetworkId.of_match` takes. Its groups are from, control, run, iteration, complete. The longer alternative comes
# first, since complete-1/ has runs below it.
PATTERN = (
    rf"(?:(?:complete-(?P<from>{_COMPLETE})/)?(?:controls/(?P<control>{'|'.join(CONTROLS)})/)?"
    r"runs/(?P<run>[0-9]{4}|[1-9][0-9]{4,8})/iter_(?P<iteration>0[1-9]|[1-9][0-9]{1,8})"
    rf"|complete(?:-(?P<complete>{_COMPLETE}))?)"
)
_NUMBER = "[0-9]{1,9}"
_ARGUMENT = re.compile(  # for an argument whose parts are sorted
    rf"(?:complete=(?P<complete>{_NUMBER}),)?(?:control=(?P<control>{'|'.join(CONTROLS)}),)?(?:iteration=(?P<iteration>{_NUMBER}),)?run=(?P<run>{_NUMBER}|complete)"
)


@dataclass(frozen=True, slots=True, order=True)
class RunId:
    """One run of a sweep: the networks that follow from a complete network by pruning, or as a control.

    Runs sort by complete network; the pruned ones come before the controls.
    """

    complete: int = 0
    kind: int = 0  # place of `control` among "", retrain, random
    run: int = 0

    @classmethod
    def of(cls, run: int, complete: int = 0, control: OfControl = "") -> "RunId":
        """Return the run of this number."""
        return cls(complete, _KINDS.index(control), run)

    @property
    def control(self) -> OfControl:
        return _KINDS[self.kind]

    def network(self, iteration: int) -> "NetworkId":
        """Return the run's network after so many iterations; the complete network for 0."""
        if not iteration:
            return NetworkId(complete=self.complete)
        return NetworkId(self.run, iteration, self.complete, self.control)

    @property
    def label(self) -> str:
        """Return the run's name for a sentence, such as `run 3` or `control retrain, run 0`."""
        return self.network(1).label.removesuffix(", iteration 1")


@total_ordering
@dataclass(frozen=True, slots=True)
class NetworkId:
    """One network of a sweep.

    Networks sort by `complete`, then the complete network itself, then pruned runs, then controls, each by its run and
    iteration.

    run        the run; None for the complete network itself
    iteration  prunings since the complete network, which is iteration 0 of every run
    complete   the number of the complete network that this network is or was pruned from
    control    the control that its run is; "" for complete networks and those that were pruned by magnitude
    """

    run: int | None = None
    iteration: int = 0
    complete: int = 0
    control: OfControl = ""

    def __post_init__(self) -> None:
        for name, least in (("run", 0), ("iteration", 0), ("complete", 0)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and least <= value <= _MOST) and not (name == "run" and value is None):
                raise ValueError(f"{name} of a network must be a whole number in [0, {_MOST:,}], got {shown(value)}")
        if (self.run is None) != (self.iteration == 0):
            raise ValueError(
                "a pruned network has a run and an iteration of at least 1, the complete network has neither, "
                f"got run {self.run} and iteration {self.iteration}"
            )
        if self.control not in _KINDS or (self.control and self.run is None):
            raise ValueError(
                f"control of a network must be {' or '.join(CONTROLS)}, or '' as of a complete network, got "
                f"{shown(self.control)}"
            )

    def __lt__(self, other: object) -> bool:
        return self._rank < other._rank if isinstance(other, NetworkId) else NotImplemented

    @property
    def _rank(self) -> tuple[int, int, int, int]:
        return self.complete, _KINDS.index(self.control), -1 if self.run is None else self.run, self.iteration

    # --- what it came from -------------------------------------------------------------------------------------------

    @property
    def is_complete(self) -> bool:
        return self.run is None

    @property
    def before(self) -> "NetworkId | None":
        """Return the network that this one was pruned from, or retrained from; None for a complete network."""
        return None if self.of_run is None else self.of_run.network(self.iteration - 1)

    @property
    def of_run(self) -> RunId | None:
        """Return the run that this network belongs to; None for a complete network."""
        return None if self.run is None else RunId(self.complete, _KINDS.index(self.control), self.run)

    @property
    def origin(self) -> "NetworkId":
        """Return the complete network that this network is or was pruned from."""
        return NetworkId(complete=self.complete)

    def comes_from(self, origin: "NetworkId") -> bool:
        """Say whether this network is `origin` or was pruned from it."""
        same_run = origin.of_run in (None, self.of_run)
        return self.complete == origin.complete and same_run and self.iteration >= origin.iteration

    # --- how it is written -------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Return the network's path in the folder of its sweep."""
        complete = f"complete-{self.complete}" if self.complete else ""
        if self.run is None:
            return complete or "complete"
        if self.control:
            complete += f"/controls/{self.control}"
        return f"{complete}/runs/{self.run:04d}/iter_{self.iteration:02d}".lstrip("/")

    @classmethod
    def of_match(cls, match: re.Match[str]) -> "NetworkId":
        """Make a NetworkId from the match of an expression that contains PATTERN."""
        complete = int(match["from"] or match["complete"] or 0)
        return (
            cls(complete=complete)
            if match["run"] is None
            else cls(int(match["run"]), int(match["iteration"]), complete, _of_control(match))
        )

    @property
    def label(self) -> str:
        """Return the network's name for a sentence, such as `run 3, iteration 7`."""
        complete = f"complete network {self.complete}" if self.complete else ""
        if self.run is None:
            return complete or "complete network"
        control = f"control {self.control}" if self.control else ""
        return ", ".join(filter(None, (complete, control, f"run {self.run}, iteration {self.iteration}")))

    @property
    def argument(self) -> str:
        """Return the name on the command line: run=3,iteration=7 or run=complete.

        Of a control it begins with control=retrain, and where the complete network is another it ends with complete=1.
        """
        run = "run=complete" if self.run is None else f"run={self.run},iteration={self.iteration}"
        control = f"control={self.control}," if self.control else ""
        return control + (f"{run},complete={self.complete}" if self.complete else run)

    @classmethod
    def parse(cls, text: str) -> "NetworkId":
        """Read what `argument` writes, with its parts in any order. ValueError: it is not a network's name."""
        match = _ARGUMENT.fullmatch(",".join(sorted(text.split(","))))
        complete_itself = match is not None and match["run"] == "complete"
        wrong = (
            match is None or complete_itself != (match["iteration"] is None) or (complete_itself and match["control"])
        )
        if match is None or wrong:
            raise ValueError(f"a network is named run=3,iteration=7 or run=complete, got {shown(text)}")
        complete = int(match["complete"] or 0)
        if match["iteration"] is None:
            return cls(complete=complete)
        if int(match["iteration"]) < 1:
            raise ValueError("iterations are counted from 1; the complete network is run=complete")
        return cls(int(match["run"]), int(match["iteration"]), complete, _of_control(match))

    def as_json(self) -> list[int | str | None] | None:
        """Return None for the complete network, [3, 7] for a pruned one, [3, 7, 0, "retrain"] for one of a control.

        With another complete network: [None, 0, 1] for itself and [3, 7, 1] for a network pruned from it.
        """
        if self.control:
            return [self.run, self.iteration, self.complete, self.control]
        if self.complete:
            return [self.run, self.iteration, self.complete]
        return None if self.run is None else [self.run, self.iteration]

    @classmethod
    def from_json(cls, tree: Any) -> "NetworkId":
        """Read exactly what `as_json` writes. ValueError: it is anything else."""
        known = tree is None or (isinstance(tree, list | tuple) and len(tree) in (2, 3, 4))
        network = cls(*(tree or ())) if known else None
        if network is None or network.as_json() != (None if tree is None else list(tree)):
            raise ValueError(
                "a network is null, [run, iteration], [run, iteration, complete] or [run, iteration, complete, "
                f"control], got {shown(tree)}"
            )
        return network

    @property
    def key(self) -> str:
        """Return the text that is hashed for the file names of pairs: `None`, `(3, 7)`, `(3, 7, 1)`, `(None, 0, 1)`."""
        tree = self.as_json()
        return str(None if tree is None else tuple(tree))


def _of_control(match: re.Match[str]) -> OfControl:
    return next(name for name in _KINDS if name == (match["control"] or ""))


COMPLETE = NetworkId()
