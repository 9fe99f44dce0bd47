"""Dropping what is damaged, so that the next run does it again, and nothing else.

On the CPU, or on a GPU with --deterministic, a network that is trained again comes out bit by bit, so what was derived
from it stays and counts again once it is back. Elsewhere that goes with it: its activations and comparisons, the later
iterations of its run, and of the complete network everything.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distsim.environment import EnvironmentDrift, environment, require_device
from distsim.specs import Extent, NetworkId, Sweep, canonical_json, differences
from distsim.store import DamagedStore, Mark, Storage, SweepStore
from distsim.store.commits import MARK, drop, dropped_path, read_mark, read_piece
from distsim.verify.derived import FIGURES, PAIR_TABLES, TABLES
from distsim.verify.report import DAMAGED, LEFTOVER, UNREAD, Finding, Report
from distsim.verify.walk import ASIDE, of_network


@dataclass(frozen=True)
class Action:
    """One thing to be done to a store."""

    what: str  # of ACTIONS
    problem: str  # "": the path is from the root of the store
    path: str
    because: str

    def __str__(self) -> str:
        return f"{ACTIONS[self.what]} {_from_root(self.problem, self.path)}: {self.because}"


ACTIONS = {  # in the order in which they are done: what is derived first, so that nothing vouches for what is gone
    "delete": "delete",
    "restore": "write again",
    "drop": "drop",
    "set aside": "set aside",
    "end": "end the interrupted writing of",
    "remove": "remove",
}


def planned(root: Storage, report: Report, allow_drift: bool = False) -> list[Action]:
    """What makes the store of this report whole.

    EnvironmentDrift: the complete network has to be trained again, and here it would not come out bit by bit. With
    allow_drift all that was derived from it goes with it.
    """
    found: list[Action] = []
    for problem in dict.fromkeys(finding.problem for finding in report.findings):
        of_problem = [finding for finding in report.findings if finding.problem == problem]
        if any(finding.severity == UNREAD and finding.piece == "spec.json" for finding in of_problem):
            continue  # another version's: its pieces are not understood
        store = SweepStore(root, problem) if problem else None
        found += _Plan(problem, store, of_problem, report, allow_drift).actions()
    order = list(ACTIONS)
    return sorted(dict.fromkeys(found), key=lambda action: order.index(action.what))


def carry_out(root: Storage, actions: Iterable[Action], check: Callable[[], None] = lambda: None) -> None:
    """Do it. check : raises where another driver has taken over (`distsim.store.Lease.check`)."""
    for action in actions:
        check()
        storage = root.within(action.problem) if action.problem else root
        match action.what:
            case "drop":
                drop(storage, action.path)
            case "end":
                if read_piece(storage, action.path) is None:  # a late writer may have committed it
                    drop(storage, action.path)
            case "restore":
                number = _number(action.path)
                storage.create(action.path, canonical_json({"generation": number}).encode())
            case "set aside":
                storage.put(f"{action.path}{ASIDE}", storage.get(action.path) or b"")
                storage.delete([action.path])
            case "remove" if storage.folder is not None and "#" in action.path:
                Path(storage.folder, action.path).unlink(missing_ok=True)  # what obstore takes for a file being written
            case _:
                storage.delete([action.path])


def summary(report: Report, actions: Sequence[Action]) -> list[str]:
    """For a terminal: each action, leftovers summed up, and what to do then."""
    kept = [action for action in actions if action.what not in ("remove", "end")]
    lines = [str(action) for action in kept]
    leftovers = report.of(LEFTOVER)
    if leftovers:
        size = sum(report.sizes.get(_from_root(f.problem, f.object or ""), 0) for f in leftovers)
        lines.append(f"remove what is left over: {len(leftovers)} objects, {size:,} bytes")
    for finding in report.of(UNREAD):
        lines.append(f"left alone: {finding}")
    paths = {action.path for action in kept}
    scripts = [path for path in ("spec.json", "request.json") if path in paths]
    if scripts or any(finding.piece == "spec.json" for finding in report.of(DAMAGED)):
        lines.append("then run the sweep script with the flags of before: it writes spec.json and request.json")
    elif any(action.what in ("drop", "delete") for action in kept):
        lines.append("then distsim run does again what is missing")
    if any(path.startswith(("pairs/", PAIR_TABLES)) for path in paths):
        lines.append("then distsim pairs, with the plan of before, does pairs of networks and their tables again")
    return lines or ["nothing to repair"]


class _Plan:
    """Of one sweep, or of what belongs to all of a store's."""

    def __init__(
        self, problem: str, store: SweepStore | None, findings: list[Finding], report: Report, allow_drift: bool
    ) -> None:
        self.problem, self.store, self.allow_drift = problem, store, allow_drift
        self.damaged = [finding for finding in findings if finding.severity == DAMAGED]
        self.leftovers = [finding for finding in findings if finding.severity == LEFTOVER]
        start = f"{problem}/" if problem else ""
        self.paths = [path.removeprefix(start) for path in report.sizes if path.startswith(start)]
        found = {one[0] for path in (*self.paths, *self._pieces) if (one := of_network(path)) is not None}
        self.networks = {network.path: network for network in found}

    @property
    def _pieces(self) -> list[str]:
        return [f"{finding.piece}/" for finding in self.damaged]

    def actions(self) -> Iterator[Action]:
        restored = [finding for finding in self.damaged if _is_dropped(finding.object)]
        yield from (Action("restore", self.problem, str(f.object), f.sentence) for f in restored)
        reasons: dict[str, str] = {}  # piece -> the first thing that is the matter with it
        for finding in self.damaged:
            if finding not in restored:
                name = (finding.object or "").removeprefix(finding.piece).lstrip("/")
                reasons.setdefault(finding.piece, f"{name} {finding.sentence}".strip())
        reasons |= {path: why for path, why in self._derived(reasons).items() if path not in reasons}
        for piece, why in reasons.items():
            yield from self._of_piece(piece, why)
        yield from self._tables(reasons)
        yield from self._of_leftovers(reasons)

    def _of_piece(self, piece: str, why: str) -> Iterator[Action]:
        if piece in ("spec.json", "request.json"):
            if piece in self.paths:
                yield Action("set aside", self.problem, piece, why)
        elif piece in (TABLES, PAIR_TABLES, FIGURES):
            yield Action("delete", self.problem, f"{piece}/{MARK}", why)
        elif piece.removesuffix("/activations") in self.networks:
            yield Action("drop", self.problem, piece, why)
        elif piece in self.paths:  # else it is gone, and only what was made from it is to know
            yield Action("delete", self.problem, piece, why)

    def _tables(self, reasons: dict[str, str]) -> Iterator[Action]:
        """Tables vouch for what they were made from, and say who computed it."""
        changed = [path for path in reasons if path in self.networks or "/comparison/" in path or "/chance/" in path]
        pairs = [path for path in reasons if path.startswith("pairs/")]
        for folder, because in ((TABLES, changed), (PAIR_TABLES, pairs)):
            if because and f"{folder}/{MARK}" in self.paths and folder not in reasons:
                yield Action("delete", self.problem, f"{folder}/{MARK}", f"made from {because[0]} among others")

    def _of_leftovers(self, reasons: dict[str, str]) -> Iterator[Action]:
        for finding in self.leftovers:
            path = finding.object or ""
            inside = path.removeprefix(f"{finding.piece}/").split("/")[0]
            if finding.piece in reasons and inside.startswith("attempt-"):
                continue  # goes with the piece
            if inside.startswith("attempt-") and not self._is_committed(finding.piece):
                yield Action("end", self.problem, finding.piece, "no mark names what is there")
            else:
                yield Action("remove", self.problem, path, finding.sentence)

    def _is_committed(self, piece: str) -> bool:
        return self.store is not None and _mark(self.store, piece) is not None

    # --- what was derived from a network that will not come out as it was ---------------------------------------------

    def _derived(self, reasons: dict[str, str]) -> dict[str, str]:
        """Path -> why, of what goes because a network that it came from does and will come out differently."""
        gone = [network for path, network in self.networks.items() if path in reasons]
        if not gone or self.store is None or self._comes_out_again(gone):
            return {}
        found: dict[str, str] = {}
        for network in sorted(self.networks.values()):
            origin = [one for one in gone if network.comes_from(one)]
            if not origin:
                continue
            why = f"derived from the {origin[0].label}, which will not come out bit by bit"
            start = network.path
            inside = [path.removeprefix(f"{start}/") for path in self.paths if path.startswith(f"{start}/")]
            found[start] = why
            if any(path.startswith("activations/") for path in inside):
                found[f"{start}/activations"] = why
            found |= {f"{start}/{path}": why for path in inside if path.split("/")[0] in ("comparison", "chance")}
        dropped = {path for path in (*found, *reasons) if path in self.networks}
        for path in (path for path in self.paths if path.startswith("pairs/")):
            if dropped & self._compared(path):
                found[path] = "derived from a network that will not come out bit by bit"
        return found

    def _compared(self, path: str) -> set[str]:
        """The networks of a tile of pairs; all, where it cannot be read."""
        try:
            assert self.store is not None
            mark = read_mark(self.store.storage, path) or Mark("", {})
            both = [one for a, b, _ in mark.values["pairs"] for one in (a, b)]
            return {NetworkId.from_json(one).path for one in both}
        except (DamagedStore, KeyError, TypeError, ValueError):
            return set(self.networks)

    def _comes_out_again(self, networks: list[NetworkId]) -> bool:
        """Whether they will be as they were, bit by bit, when the next run trains them."""
        assert self.store is not None
        recorded = self._recorded(networks)
        if recorded is None:
            return True  # nothing else can be read that could have come from them
        try:
            identity = self.store.identity()
        except (DamagedStore, FileNotFoundError):
            return bool(recorded.get("device") == "cpu")
        on_gpu = recorded.get("device") != "cpu"
        if on_gpu and not identity.deterministic:
            return False
        if not any(network.is_complete for network in networks) or len(self.networks) == 1:
            return True  # the next run refuses to go on where the complete network says that it would differ
        here = Sweep(identity, Extent(1, 1), device="cuda" if on_gpu else "cpu")
        differing = _drift(here, recorded)
        if differing and not self.allow_drift:
            raise EnvironmentDrift(
                f"{self.problem}: the complete network has to be trained again, and here it would not come out bit by "
                f"bit: {differing}. Repair and run where it is the same; --allow-drift drops all that came from it"
            )
        return not differing

    def _recorded(self, networks: list[NetworkId]) -> dict[str, Any] | None:
        """The environment in which they were trained, by their own marks or another's of the sweep."""
        assert self.store is not None
        others = sorted(self.networks.values())
        for network in (*networks, *others):
            mark = _mark(self.store, network.path)
            if mark is not None and isinstance(mark.environment, dict) and mark.environment:
                return mark.environment
        return None


def _drift(here: Sweep, recorded: dict[str, Any]) -> str:
    try:
        require_device(here.device)
    except ValueError as error:
        return str(error)
    return "; ".join(differences(environment(here), recorded)).replace("asked for", "here")


def _mark(store: SweepStore, piece: str) -> Mark | None:
    try:
        return read_piece(store.storage, piece)
    except DamagedStore:
        return None


def _is_dropped(path: str | None) -> bool:
    return path is not None and path.rsplit("/", 1)[-1].startswith("DROPPED")


def _number(path: str) -> int:
    """The generation that a DROPPED.json ends."""
    piece = path.rsplit("/", 1)[0]
    return next(number for number in range(1, 10**9) if dropped_path(piece, number) == path)


def _from_root(problem: str, path: str) -> str:
    return f"{problem}/{path}" if problem else path
