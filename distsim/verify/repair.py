"""Repair of a store: drop what is damaged, and nothing else, so that the next run does it again.

On the CPU, or on a GPU with --deterministic, a network that is trained again is the same bit by bit. What was derived
from it stays and counts again once the network is back. Otherwise what was derived from it is dropped too: its
activations and comparisons and the later iterations of its run, or everything if it is the complete network.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distsim.environment import EnvironmentDrift, environment, require_device
from distsim.specs import Extent, NetworkId, Sweep, canonical_json, differences
from distsim.store import DamagedStore, Mark, Storage, SweepStore
from distsim.store.commits import MARK, drop, read_piece, undamaged
from distsim.store.paths import DERIVED, VALUES, Place, place_of
from distsim.store.records import pairs_in, read_record
from distsim.verify.derived import FIGURES, PAIR_TABLES, TABLES
from distsim.verify.listing import ASIDE, of_network
from distsim.verify.report import DAMAGED, LEFTOVER, UNREAD, Finding, Report
from distsim.words import counted


@dataclass(frozen=True)
class Action:
    """One change of a store."""

    what: str  # of ACTIONS
    problem: str  # "" if the path is from the root of the store
    path: str
    because: str

    def __str__(self) -> str:
        return f"{ACTIONS[self.what]} {_from_root(self.problem, self.path)}: {self.because}"


ACTIONS = {  # in the order in which they are done: derived pieces first, so that no mark names what is gone
    "delete": "delete",
    "restore": "write again",
    "drop": "drop",
    "set aside": "set aside",
    "end": "end the interrupted writing of",
    "remove": "remove",
}


def planned(root: Storage, report: Report, allow_drift: bool = False) -> list[Action]:
    """Return the actions that repair the store of this report, in order.

    allow_drift : drop everything that was derived from the complete network, if it must be trained again and would not
        be the same bit by bit here. Otherwise this is an EnvironmentDrift.
    """
    actions: list[Action] = []
    for problem in dict.fromkeys(finding.problem for finding in report.findings):
        of_problem = [finding for finding in report.findings if finding.problem == problem]
        if any(finding.severity == UNREAD and finding.piece == "spec.json" for finding in of_problem):
            continue  # another version wrote it, and its pieces are not understood here
        store = SweepStore(root, problem) if problem else None
        actions += _Plan(problem, store, of_problem, report, allow_drift).actions()
    order = list(ACTIONS)
    return sorted(dict.fromkeys(actions), key=lambda action: order.index(action.what))


def carry_out(root: Storage, actions: Iterable[Action], check: Callable[[], None] = lambda: None) -> None:
    """Do the actions. check : raises if another driver has taken over (`distsim.store.Lease.check`)."""
    for action in actions:
        check()
        storage = root.within(action.problem) if action.problem else root
        match action.what:
            case "drop":
                drop(storage, action.path)
            case "end":
                if read_piece(storage, action.path) is None:  # a late writer may have committed it
                    drop(storage, action.path)
            case "restore" if (place := _dropped(action.path)) is not None:
                storage.create(action.path, canonical_json({"generation": place.generation}).encode())
            case "set aside":
                storage.put(f"{action.path}{ASIDE}", storage.get(action.path) or b"")
                storage.delete([action.path])
            case "remove" if storage.folder is not None and "#" in action.path:
                Path(storage.folder, action.path).unlink(missing_ok=True)  # obstore does not see unfinished files
            case _:
                storage.delete([action.path])


def summary(report: Report, actions: Sequence[Action]) -> list[str]:
    """Return the lines to print: one for each action, one for all leftovers, and what to do next."""
    repairs = [action for action in actions if action.what not in ("remove", "end")]
    lines = [str(action) for action in repairs]
    leftovers = report.of(LEFTOVER)
    if leftovers:
        size = sum(report.sizes.get(_from_root(f.problem, f.object or ""), 0) for f in leftovers)
        lines.append(f"remove what is left over: {counted(len(leftovers), 'object')}, {size:,} bytes")
    for finding in report.of(UNREAD):
        lines.append(f"left alone: {finding}")
    paths = {action.path for action in repairs}
    if paths & {"spec.json", "request.json"} or any(finding.piece == "spec.json" for finding in report.of(DAMAGED)):
        lines.append("then run the sweep script with the same flags as before, which writes spec.json and request.json")
    elif any(action.what in ("drop", "delete") for action in repairs):
        lines.append("then distsim run does what is missing")
    if any(path.startswith(("pairs/", PAIR_TABLES)) for path in paths):
        lines.append(
            "then distsim pairs, with the same plan as before, compares pairs of networks again and writes their tables"
        )
    return lines or ["nothing to repair"]


class _Plan:
    """The actions that repair one sweep, or the figures (problem "")."""

    def __init__(
        self, problem: str, store: SweepStore | None, findings: list[Finding], report: Report, allow_drift: bool
    ) -> None:
        self.problem, self.store, self.allow_drift = problem, store, allow_drift
        self.damaged = [finding for finding in findings if finding.severity == DAMAGED]
        self.leftovers = [finding for finding in findings if finding.severity == LEFTOVER]
        start = f"{problem}/" if problem else ""
        self.paths = [path.removeprefix(start) for path in report.sizes if path.startswith(start)]
        pieces = [f"{finding.piece}/" for finding in self.damaged]
        of_networks = filter(None, map(of_network, (*self.paths, *pieces)))
        self.networks = {network.path: network for network, _ in of_networks}

    def actions(self) -> Iterator[Action]:
        """Yield the actions, in no particular order."""
        restored = [finding for finding in self.damaged if _dropped(finding.object)]
        yield from (Action("restore", self.problem, str(f.object), f.sentence) for f in restored)
        reasons: dict[str, str] = {}  # piece -> the first thing that is wrong with it
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
        elif piece in self.networks or _network_beside(piece) in self.networks:
            yield Action("drop", self.problem, piece, why)
        elif piece in self.paths:  # else it is gone, and only what was made from it must go
            yield Action("delete", self.problem, piece, why)

    def _tables(self, reasons: dict[str, str]) -> Iterator[Action]:
        """Delete the marks of tables that were made from what is dropped: they hold its values and provenance."""
        of_values = tuple(f"/{what}/" for what in VALUES)
        changed = [
            path
            for path in reasons
            if path in self.networks or path.endswith("/logits") or any(each in path for each in of_values)
        ]
        pairs = [path for path in reasons if path.startswith("pairs/")]
        for folder, because in ((TABLES, changed), (PAIR_TABLES, pairs)):
            if because and f"{folder}/{MARK}" in self.paths and folder not in reasons:
                yield Action("delete", self.problem, f"{folder}/{MARK}", f"made from {because[0]}, among others")

    def _of_leftovers(self, reasons: dict[str, str]) -> Iterator[Action]:
        for finding in self.leftovers:
            path = finding.object or ""
            inside = path.removeprefix(f"{finding.piece}/").split("/")[0]
            if finding.piece in reasons and inside.startswith("attempt-"):
                continue  # deleted with the piece
            if inside.startswith("attempt-") and not self._is_committed(finding.piece):
                yield Action("end", self.problem, finding.piece, "no mark names what is there")
            else:
                yield Action("remove", self.problem, path, finding.sentence)

    def _is_committed(self, piece: str) -> bool:
        return self.store is not None and _mark(self.store, piece) is not None

    # --- what was derived from a network that cannot be trained again bit by bit --------------------------------------

    def _derived(self, reasons: dict[str, str]) -> dict[str, str]:
        """Return path -> why, for what must go because its network goes and will come out different."""
        gone = [network for path, network in self.networks.items() if path in reasons]
        if not gone or self.store is None or self._comes_out_again(gone):
            return {}
        derived: dict[str, str] = {}
        for network in sorted(self.networks.values()):
            origin = next(filter(network.comes_from, gone), None)
            if origin is None:
                continue
            why = f"derived from the {origin.label}, which will not come out the same bit by bit"
            start = network.path
            inside = [path.removeprefix(f"{start}/") for path in self.paths if path.startswith(f"{start}/")]
            derived[start] = why
            derived |= {
                f"{start}/{kind}": why for kind in DERIVED if any(path.startswith(f"{kind}/") for path in inside)
            }
            derived |= {f"{start}/{path}": why for path in inside if path.split("/")[0] in VALUES}
        dropped = {path for path in (*derived, *reasons) if path in self.networks}
        for path in self.paths:
            if path.startswith("pairs/") and dropped & self._compared(path):
                derived[path] = "derived from a network that will not come out the same bit by bit"
        return derived

    def _compared(self, path: str) -> set[str]:
        """Return the paths of the networks in a tile of pairs, or of all networks if it cannot be read."""
        try:
            assert self.store is not None
            mark = read_record(self.store.storage, path)
            return set() if mark is None else {of.path for x, y, _ in pairs_in(mark.values) for of in (x, y)}
        except DamagedStore:
            return set(self.networks)

    def _comes_out_again(self, networks: list[NetworkId]) -> bool:
        """Return whether the next run will train these networks to the same bits.

        EnvironmentDrift: the complete network would differ here, and `allow_drift` is False.
        """
        assert self.store is not None
        recorded = self._recorded(networks)
        if recorded is None:
            return True  # no network that could come from them can be read
        try:
            identity = self.store.identity()
        except (DamagedStore, FileNotFoundError):
            return bool(recorded.get("device") == "cpu")
        on_gpu = recorded.get("device") != "cpu"
        if on_gpu and not identity.deterministic:
            return False
        if not any(network.is_complete for network in networks) or len(self.networks) == 1:
            return True  # where it would differ, the next run refuses to start, because of the complete network
        here = Sweep(identity, Extent(1, 1), device="cuda" if on_gpu else "cpu")
        differing = _drift(here, recorded)
        if differing and not self.allow_drift:
            raise EnvironmentDrift(
                f"{self.problem}: the complete network must be trained again, and here it would not come out the same "
                f"bit by bit: {differing}. Repair and run where this is the same, or use --allow-drift, which drops "
                "everything that was derived from it"
            )
        return not differing

    def _recorded(self, networks: list[NetworkId]) -> dict[str, Any] | None:
        """Return the environment in which they were trained, from their marks or from another mark of the sweep."""
        assert self.store is not None
        for network in (*networks, *sorted(self.networks.values())):
            mark = _mark(self.store, network.path)
            if mark is not None and isinstance(mark.environment, dict) and mark.environment:
                return mark.environment
        return None


def _network_beside(piece: str) -> str | None:
    """Return the path of the network whose activations or logits this piece is, None if it is neither."""
    network, _, what = piece.rpartition("/")
    return network if what in DERIVED else None


def _drift(here: Sweep, recorded: dict[str, Any]) -> str:
    try:
        require_device(here.device)
    except ValueError as error:
        return str(error)
    return "; ".join(differences(environment(here), recorded)).replace("asked for", "here")


def _mark(store: SweepStore, piece: str) -> Mark | None:
    return undamaged(partial(read_piece, store.storage, piece))


def _dropped(path: str | None) -> Place | None:
    """Return the place of a DROPPED.json, None for any other path."""
    place = place_of(path or "")
    return place if place is not None and place.dropped else None


def _from_root(problem: str, path: str) -> str:
    return f"{problem}/{path}" if problem else path
