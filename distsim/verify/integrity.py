"""Whether a store holds what its marks say. Everything is read, nothing is written.

A mark vouches for its objects by size and digest, and for itself. What has the right digest is then looked at: whether
it can be what a sweep computes (verify.invariants). What the marks cannot show, that a whole piece is gone or took
another's place, is seen from the tables, which say from which pieces they were made.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import safetensors.torch
import zarr
import zarr.storage
from numpy.typing import NDArray
from zarr.core.buffer.cpu import Buffer

from distsim.activations.probe import layer_shapes
from distsim.models import Layer, Network, build
from distsim.results.reduce import Committed, drawn_from
from distsim.results.tables import read_parquet_bytes
from distsim.specs import Identity, Request, Sweep, UnknownField, canonical_json, shown
from distsim.store import (
    Contents,
    DamagedStore,
    Mark,
    NetworkId,
    Storage,
    StorageError,
    SweepStore,
    network_label,
    network_path,
)
from distsim.store.commits import MARK, attempt_generation, dropped_path, read_mark
from distsim.store.described import LAYERS, StoredLayer, decode_layers, decode_metric
from distsim.store.storage import first_line
from distsim.sweep.plan import missing
from distsim.training.pruning import Masks
from distsim.verify import invariants

DAMAGED = "damaged"  # not what was written, or gone
UNREAD = "unread"  # it could not be read or judged, which says nothing of what is there
NOTE = "note"  # not damaged, and worth knowing
LEFTOVER = "leftover"  # of interrupted writers; harmless
FOREIGN = "foreign"  # nothing here writes such a thing
SAME = "its text was changed, and says the same"
TABLES, PAIR_TABLES, FIGURES = "results", "pair_results", "figures"
NO_PROBLEMS = (FIGURES, "tune", "lease")  # folders of a store that are no sweep's
ASIDE = ".damaged"  # what repair sets a spec or a request aside as: somebody may want to read its flags


@dataclass(frozen=True)
class Finding:
    """What is the matter with an object, or with a piece as a whole."""

    problem: str  # "" where it belongs to all of a store: the figures
    piece: str  # path within the problem: of a network or its activations, of a comparison's file, `results`, ...
    object: str | None  # path within the problem
    sentence: str
    severity: str = DAMAGED

    def __str__(self) -> str:
        where = "/".join(part for part in (self.problem, self.object or self.piece) if part)
        return f"{where}: {self.sentence}"


@dataclass(frozen=True)
class Report:
    """What a store's or a sweep's objects are."""

    findings: tuple[Finding, ...] = ()
    pieces: Counter[str] = field(default_factory=Counter)  # of KINDS, how many were checked
    size: int = 0  # bytes read
    sizes: Mapping[str, int] = field(default_factory=dict)  # path in the store -> bytes, of what is there

    def of(self, *severities: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity in severities)

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged, as far as it could be read."""
        return not self.of(DAMAGED, UNREAD)

    def __add__(self, other: "Report") -> "Report":
        return Report(
            self.findings + other.findings,
            self.pieces + other.pieces,
            self.size + other.size,
            {**self.sizes, **other.sizes},
        )


def verify_store(root: Storage, problems: Sequence[str] | None = None) -> Report:
    """Read and check all sweeps of a store and its figures, or some of its sweeps. FileNotFoundError: there is none."""
    sizes = root.sizes()
    folders = sorted({path.split("/")[0] for path in sizes if "/" in path})
    names = [name for name in folders if name not in NO_PROBLEMS and _is_sweep(name, sizes)]
    if not names:
        raise FileNotFoundError(f"no sweep in {root.url}")
    if unknown := set(problems or ()) - set(names):
        raise FileNotFoundError(f"no sweep of {sorted(unknown)[0]} in {root.url}; there are {', '.join(names)}")
    total = Report()
    for name in problems or names:
        start = f"{name}/"
        of_sweep = {path.removeprefix(start): size for path, size in sizes.items() if path.startswith(start)}
        total += verify(SweepStore(root, name), of_sweep)
    return total if problems else total + _verify_root(root, names, sizes)


def verify(store: SweepStore, sizes: Mapping[str, int] | None = None) -> Report:
    """Read and check everything of one sweep. sizes : of its objects, where they are listed already."""
    look = _Look(store, store.storage.sizes() if sizes is None else sizes)
    look.at_everything()
    from_root = {f"{store.problem}/{path}": size for path, size in look.sizes.items()}
    return Report(tuple(dict.fromkeys(look.findings)), look.pieces, look.storage.read, from_root)


def summary(report: Report) -> list[str]:
    """For a terminal: a line for each finding but for what is harmless, which is summed up, and what was read."""
    lines = [str(finding) for finding in report.of(DAMAGED, UNREAD, NOTE)]
    for severity, said in ((LEFTOVER, "left over, harmless"), (FOREIGN, "not distsim's, left alone")):
        if found := report.of(severity):
            size = sum(report.sizes.get(f"{f.problem}/{f.object}".lstrip("/"), 0) for f in found)
            first = ", ".join(str(f).split(": ")[0] for f in found[:3]) + ", ..." * (len(found) > 3)
            lines.append(f"{said}: {len(found)} objects, {size:,} bytes: {first}")
    pieces = ", ".join(f"{n} {KINDS[kind] if n > 1 else kind}" for kind in KINDS if (n := report.pieces[kind]))
    damaged = {(finding.problem, finding.piece) for finding in report.of(DAMAGED)}
    unread = {(finding.problem, finding.piece) for finding in report.of(UNREAD)}
    said = f"{len(damaged) or 'nothing'} damaged" + f", {len(unread)} not to be read or judged" * bool(unread)
    return [*lines, f"{pieces}; {report.size:,} bytes read: {said}"]


KINDS = {  # of pieces, one and several
    "network": "networks",
    "network's activations": "networks' activations",
    "comparison": "comparisons",
    "chance level": "chance levels",
    "tile of pairs": "tiles of pairs",
    "set of tables": "sets of tables",
    "set of figures": "sets of figures",
}


# --- the walk through one sweep --------------------------------------------------------------------------------------

_NETWORK = r"(?:complete|runs/(?P<run>\d{1,9})/iter_(?P<iteration>\d{1,9}))"
_OF_PIECE = re.compile(rf"(?P<piece>{_NETWORK}(?P<activations>/activations)?)/(?P<rest>.+)")
_COMPARISON = re.compile(rf"{_NETWORK}/(?P<what>comparison|chance)/(?P<layer>[^/]+)/(?P<metrics>[^/]+)\.json")
_PAIRS = re.compile(r"pairs/(?P<layer>[^/]+)/(?P<key>[0-9a-f]{16})\.json")
_METRIC = re.compile(r"metrics/(?P<name>[^/]+)\.json")
_MARK = re.compile(r"(?P<kind>COMMIT|DROPPED)(?:-(?P<generation>[1-9]\d{0,8}))?\.json")
_STAGED = re.compile(r".*#\d+")  # a file that was being written and has not got its name
_PROBED = re.compile(r"probe-[0-9a-f]{32}")  # Storage.exclusive


@dataclass
class _Piece:
    """What lies in the folder of a network, or of its activations."""

    path: str
    network: NetworkId
    of_activations: bool
    marks: dict[int, str] = field(default_factory=dict)  # generation -> path
    attempts: dict[str, list[str]] = field(default_factory=dict)  # folder -> paths
    epochs: list[str] = field(default_factory=list)  # of a training between two epochs
    generation: int = 1  # that counts

    @property
    def label(self) -> str:
        return f"{'the activations of ' if self.of_activations else ''}{network_label(self.network)}"


class _Reading(Storage):
    """Counts what is read. The last object is kept: of a mark both the values and the text are looked at."""

    read = 0
    _last: tuple[str, bytes | None] = "", None

    def get(self, path: str) -> bytes | None:
        if path != self._last[0]:
            content = super().get(path)
            self.read += len(content or b"")
            self._last = path, content
        return self._last[1]

    def forget(self) -> None:
        self._last = "", None


class _Look:
    """One look at one sweep."""

    def __init__(self, store: SweepStore, sizes: Mapping[str, int]) -> None:
        self.store, self.problem, self.sizes = store, store.problem, sizes
        self.storage = _Reading(store.storage.url)
        self.findings: list[Finding] = []
        self.pieces: Counter[str] = Counter()
        self.identity: Identity | None = None
        self.hash: str | None = None  # that all marks are to have
        self.network: Network | None = None  # to compare with; None: its model is not known here
        self.described: tuple[StoredLayer, ...] = ()  # by layers.json, where that is whole
        self.marks: dict[str, Mark] = {}  # piece -> its mark, where that is whole
        self.of_networks: list[_Piece] = []
        # comparison or chance -> (network, layer) -> marks
        self.of_layers: dict[str, dict[tuple[NetworkId, str], list[Mark]]] = {"comparison": {}, "chance": {}}

    def at_everything(self) -> None:
        comparisons, pairs = self._sorted()
        self._within("spec.json", self._spec)
        self._within("request.json", self._request)
        for piece in self.of_networks:
            self._within(piece.path, self._piece_mark, piece)
        self._settle_identity()
        self._within(LAYERS, self._described)
        before: dict[int | None, Masks] = {}  # of each run, the last that are whole
        for piece in self.of_networks:
            self._leftovers(piece)
            if piece.path in self.marks:
                self._within(piece.path, self._content, piece, before)
        for path, match in comparisons:
            self._within(path, self._comparison, path, match)
        for path, match in pairs:
            self._within(path, self._pairs, path, match)
        for path in self.sizes:
            if of_metric := _METRIC.fullmatch(path):
                self._within(path, self._metric, path, of_metric["name"])
        self._within(TABLES, self._tables)
        self._within(PAIR_TABLES, self._pair_tables)
        self._within("request.json", self._extent)
        self.findings += _unlisted(self.storage, self.problem)

    def _found(self, piece: str, said: str, path: str | None = None, severity: str = DAMAGED) -> None:
        self.findings.append(Finding(self.problem, piece, path, said, severity))

    def _within(self, piece: str, work: Callable[..., None], *args: Any) -> None:
        """Do the work; whatever it stumbles over is said of the piece."""
        try:
            work(*args)
        except StorageError as error:
            self._found(piece, f"cannot be read: {first_line(error)}", severity=UNREAD)
        except DamagedStore as error:
            self._found(piece, first_line(error))
        except Exception as error:  # of what has the right digest: a writer's fault, or this machine's
            said = f"could not be judged: {type(error).__name__}: {first_line(error)}"
            self._found(piece, said, severity=UNREAD)

    def _sorted(self) -> tuple[list[tuple[str, re.Match[str]]], list[tuple[str, re.Match[str]]]]:
        """The listing's networks, run by run; comparisons and pairs by path. What nobody knows is said at once."""
        pieces: dict[str, _Piece] = {}
        comparisons, pairs = [], []
        others = ("spec.json", "request.json", TABLES, PAIR_TABLES)
        for path in sorted(self.sizes):
            if (match := _COMPARISON.fullmatch(path)) and path.startswith(network_path(_id(match))):
                comparisons.append((path, match))
            elif match := _PAIRS.fullmatch(path):
                pairs.append((path, match))
            elif (match := _OF_PIECE.fullmatch(path)) and self._of_piece(path, match, pieces):
                continue
            elif path.endswith(ASIDE) and path.removesuffix(ASIDE) in others:
                if path.removesuffix(ASIDE) in self.sizes:
                    self._found(path, "was set aside by repair", path, LEFTOVER)
            elif path != LAYERS and not _METRIC.fullmatch(path) and path.split("/")[0] not in others:
                self._found(path, "nothing here writes this", path, FOREIGN)
        self.of_networks = sorted(pieces.values(), key=lambda piece: (piece.network or (-1, 0), piece.of_activations))
        return comparisons, pairs

    def _of_piece(self, path: str, match: re.Match[str], pieces: dict[str, _Piece]) -> bool:
        """Whether the path is of a piece, which then knows it."""
        network, of_activations = _id(match), match["activations"] is not None
        folder, _, inside = match["rest"].partition("/")
        if not match["piece"].startswith(network_path(network)):
            return False
        piece = pieces.get(match["piece"]) or _Piece(match["piece"], network, of_activations)
        if mark := _MARK.fullmatch(match["rest"]):
            if mark["kind"] == "COMMIT":
                piece.marks[int(mark["generation"] or 1)] = path
        elif inside and attempt_generation(folder) is not None:
            piece.attempts.setdefault(folder, []).append(path)
        elif inside and folder == "epoch" and not of_activations:
            piece.epochs.append(path)
        else:
            return False
        pieces[piece.path] = piece
        return True

    # --- identity and extent -----------------------------------------------------------------------------------------

    def _spec(self) -> None:
        content = self.storage.get("spec.json")
        if content is None:
            severity = NOTE if f"spec.json{ASIDE}" in self.sizes else DAMAGED
            self._found("spec.json", "is missing: run the sweep script, which writes it", "spec.json", severity)
            return
        try:
            spec = json.loads(content)
            identity, hash_ = spec["identity"], spec["hash"]
            if hashlib.sha256(canonical_json(identity).encode()).hexdigest() != hash_:
                raise ValueError("its identity does not hash to its hash")
            if spec.keys() != {"identity", "hash", "distsim"} or identity["problem"]["name"] != self.problem:
                raise ValueError("it is not that of this sweep")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self._found("spec.json", f"is damaged: {first_line(error)}", "spec.json")
            return
        self.hash = hash_
        try:
            self.identity = Identity.from_dict(identity)
        except (ValueError, TypeError) as error:
            by = f"was written by another distsim: {first_line(error)}"
            self._found("spec.json", f"{by}; pieces are checked by their digests only", "spec.json", UNREAD)
            return
        self._same_text("spec.json", "spec.json")
        problem = self.identity.problem
        try:
            self.network = build(problem)
        except ValueError as error:
            self._found("spec.json", f"{error}: shapes and masks are not checked", "spec.json", NOTE)

    def _request(self) -> None:
        content = self.storage.get("request.json")
        if content is None:
            self._found("request.json", "is missing: run the sweep script, which writes it", "request.json", NOTE)
            return
        try:
            tree = json.loads(content)
            sha256 = tree.pop("sha256", None)  # older ones have none
            if sha256 not in (None, hashlib.sha256(canonical_json(tree).encode()).hexdigest()):
                raise DamagedStore("it does not hash to the digest in it")
            Request.from_dict(tree)
        except (DamagedStore, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, UnknownField) and sha256 is not None:  # a newer one's, and whole
                self._found("request.json", f"was written by another distsim: {error}", "request.json", UNREAD)
            else:
                self._found("request.json", f"is damaged: {first_line(error)}", "request.json")
            return
        self._same_text("request.json", "request.json")

    def _described(self) -> None:
        """What layers.json says: it hashes to its digest, is this sweep's, and the model's where that is known."""
        if LAYERS not in self.sizes:  # a sweep that was started before there was one
            return
        try:
            layers, identity = decode_layers(self.storage.get(LAYERS) or b"")
        except ValueError as error:
            self._found(LAYERS, f"is damaged: {first_line(error)}", LAYERS)
            return
        self._same_text(LAYERS, LAYERS)
        if self.hash is not None and identity != self.hash:
            self._found(LAYERS, "is of another sweep", LAYERS)
        elif self.network is not None and layers != self._of_model():
            self._found(LAYERS, "names other layers than the model has", LAYERS)
        else:
            self.described = layers

    def _of_model(self) -> tuple[StoredLayer, ...]:
        assert self.network is not None
        assert self.identity is not None
        shapes = layer_shapes(self.network, self.identity.problem)
        return tuple(StoredLayer(x.name, x.kind, x.module, shapes[x.name]) for x in self.network.layers)

    def _metric(self, path: str, name: str) -> None:
        try:
            decode_metric(self.storage.get(path) or b"", name)
        except ValueError as error:
            self._found(path, f"is damaged: {first_line(error)}", path)
            return
        self._same_text(path, path)

    def _extent(self) -> None:
        """Say so where less or more is there than was asked for: it may be, and then nothing is damaged."""
        bad = any(finding.severity in (DAMAGED, UNREAD) for finding in self.findings)
        if bad or self.identity is None or not self._layers or "request.json" not in self.sizes:
            return
        contents, extent = self._contents(), self.store.request().extent
        metrics = self.store.metrics(extent.metrics)
        extent = replace(extent, metrics=tuple(metrics))
        lacking = missing(Sweep(self.identity, extent), contents, tuple(self._layers.values()), metrics)
        if lacking:
            parts = (
                (lacking.networks, "networks"),
                (len(lacking.activations), "activations"),
                (lacking.values, "similarities"),
            )
            said = ", ".join(f"{what}: {count:,}" for count, what in parts if count)
            self._found("request.json", f"asks for more than is there ({said}): distsim run", "request.json", NOTE)
        pruned = [network for network in contents.networks if network is not None]
        beyond = sum(run >= extent.runs or iteration > extent.iterations for run, iteration in pruned)
        if beyond:
            self._found("request.json", f"asks for less than is there (networks: {beyond:,})", "request.json", NOTE)

    def _committed(self) -> Committed:
        """What tables are made from."""
        networks = {one.network: one.path for one in self.of_networks if not one.of_activations}
        marks = {network: self.marks[path] for network, path in networks.items() if path in self.marks}
        comparisons, chance = (
            {key: found for key, found in self.of_layers[what].items() if key[0] in marks}
            for what in ("comparison", "chance")
        )
        return Committed(marks, comparisons, chance)

    def _contents(self) -> Contents:
        have = self._committed()
        activations = {one.network for one in self.of_networks if one.of_activations and one.path in self.marks}
        comparisons, chance = (
            {key: frozenset(name for mark in found for name in mark.values) for key, found in part.items()}
            for part in (have.comparisons, have.chance)
        )
        return Contents(frozenset(have.marks), frozenset(activations & have.marks.keys()), comparisons, chance)

    def _settle_identity(self) -> None:
        """Which identity the marks are to have: the spec's, unless none has it; without a spec, what most have."""
        hashes = Counter(str(mark.identity) for mark in self.marks.values())
        if not hashes:
            return
        if self.hash is not None and self.hash not in hashes:
            said = f"is that of another sweep: of {len(self.marks)} marks none has its hash"
            self._found("spec.json", said, "spec.json")
            self.identity = self.network = None
        if self.hash not in hashes:
            self.hash = hashes.most_common(1)[0][0]

    def _require_identity(self, piece: str, path: str, mark: Mark) -> None:
        if self.hash is not None and mark.identity != self.hash:
            self._found(piece, f"is of another sweep: its identity is {shown(str(mark.identity)[:12])}", path)

    def _same_text(self, path: str, piece: str) -> None:
        """Of what hashes to the digest in it: it is also written as it was."""
        if not _canonical(self.storage.get(path) or b""):
            self._found(piece, SAME, path, NOTE)

    def _mark_at(self, path: str, piece: str) -> Mark | None:
        """A mark; None, and said so, where there is none or where it is damaged."""
        try:
            mark = read_mark(self.storage, path)
        except DamagedStore as error:
            self._found(piece, f"is damaged: {first_line(error).rsplit('is damaged: ', 1)[-1]}", path)
            return None
        if mark is not None:
            self._same_text(path, piece)
        return mark

    # --- networks and activations ------------------------------------------------------------------------------------

    def _piece_mark(self, piece: _Piece) -> None:
        piece.generation = self._generation(piece)
        if piece.generation in piece.marks:
            mark = self._mark_at(piece.marks[piece.generation], piece.path)
            if mark is not None:
                self.marks[piece.path] = mark

    def _generation(self, piece: _Piece) -> int:
        """The one that counts. Said, where what ended an earlier one is gone: the mark of this one would not count."""
        now, last = 1, max(piece.marks, default=0)
        while dropped_path(piece.path, now) in self.sizes:
            now += 1
        if now in piece.marks or last < now:
            return now
        for number in range(now, last):
            if (path := dropped_path(piece.path, number)) not in self.sizes:
                self._found(piece.path, f"is gone, so that {os.path.basename(piece.marks[last])} does not count", path)
        return last

    def _leftovers(self, piece: _Piece) -> None:
        """What no mark names: of other attempts, other generations, and of a training that is over."""

        def left(paths: Iterable[str], said: str) -> None:
            for path in paths:
                self._found(piece.path, said, path, LEFTOVER)

        mark, number = self.marks.get(piece.path), piece.generation
        left((path for g, path in piece.marks.items() if g != number), "is of a generation that does not count")
        for folder, paths in piece.attempts.items():
            own = f"{piece.path}/{folder}/"
            if mark is not None and folder == f"attempt-{mark.attempt}":
                left((path for path in paths if path.removeprefix(own) not in mark.objects), "no mark names it")
            elif mark is not None or number not in piece.marks:  # of a damaged mark's objects nothing can be said
                left(paths, f"no mark names it: an interrupted writer's of {piece.label}")
        if piece.path in self.marks:
            left(piece.epochs, "is of a training that is over")

    def _content(self, piece: _Piece, before: dict[int | None, Masks]) -> None:
        """Everything that the piece's mark names."""
        mark = self.marks[piece.path]
        path = piece.marks[piece.generation]
        said = len(self.findings)
        self._require_identity(piece.path, path, mark)
        if piece.of_activations:
            self.pieces["network's activations"] += 1
            self._activations(piece, mark)
        else:
            self.pieces["network"] += 1
            self._network(piece, mark, before)
        self.storage.forget()
        if len(self.findings) > said and read_mark(self.storage, path) != mark:
            del self.findings[said:]  # a driver at work dropped it while it was read

    def _read(self, piece: _Piece, mark: Mark, name: str) -> bytes | None:
        """An object that the mark names; None, and said so, where it is not what was written."""
        path = f"{piece.path}/attempt-{mark.attempt}/{name}"
        size, digest = mark.objects[name]
        content = self.storage.get(path)
        if content is None:
            self._found(piece.path, "is missing", path)
        elif len(content) != size:
            self._found(piece.path, f"has {len(content):,} bytes instead of {size:,}", path)
        elif hashlib.sha256(content).hexdigest() != digest:
            self._found(piece.path, "is damaged: its digest is not its mark's", path)
        else:
            return content
        return None

    def _network(self, piece: _Piece, mark: Mark, before: dict[int | None, Masks]) -> None:
        contents = {name: self._read(piece, mark, name) for name in mark.objects}
        if self.identity is None or None in contents.values():
            return
        whole = {name: content for name, content in contents.items() if content is not None}
        for fault in self._network_faults(piece, mark, whole, before):
            self._found(piece.path, fault)

    def _network_faults(
        self, piece: _Piece, mark: Mark, contents: dict[str, bytes], before: dict[int | None, Masks]
    ) -> Iterator[str]:
        assert self.identity is not None
        which, problem, pruning = piece.network, self.identity.problem, self.identity.problem.pruning
        needed = {"weights.safetensors", "masks.safetensors"}
        if which is None:
            needed |= {"probe.json", *(("rewind.safetensors",) if pruning.rewind == "WR" else ())}
        if lacking := sorted(needed - contents.keys()):
            yield f"its mark does not name {', '.join(lacking)}"
            return
        yield from invariants.record_faults(mark.values, problem, which)
        if which is None:
            same_numpy = mark.environment.get("numpy") == np.__version__
            yield from invariants.probe_faults(json.loads(contents["probe.json"]), self.identity, same_numpy)
        if self.network is None:
            return
        tensors = {
            name.removesuffix(".safetensors"): safetensors.torch.load(content)
            for name, content in contents.items()
            if name.endswith(".safetensors")
        }
        weights, masks = tensors["weights"], tensors["masks"]
        faults = list(invariants.state_faults(weights, self.network))
        faults += invariants.mask_faults(masks, self.network, pruning, 0 if which is None else which[1])
        if "rewind" in tensors:
            faults += [f"rewind: {fault}" for fault in invariants.state_faults(tensors["rewind"], self.network)]
        yield from faults
        if faults:
            return
        run = None if which is None else which[0]
        yield from invariants.zero_faults(weights, masks)
        yield from invariants.nesting_faults(before.get(run, {}), masks)
        yield from invariants.remaining_faults(mark.values, self.network, masks)
        before.clear()  # pieces come run by run
        before[run] = masks

    def _activations(self, piece: _Piece, mark: Mark) -> None:
        names = [name.removesuffix("/zarr.json") for name in mark.objects if name.endswith("/zarr.json")]
        expected = list(self._layers) or names
        if set(names) != set(expected) or "zarr.json" not in mark.objects:
            self._found(piece.path, f"its mark names the layers {shown(', '.join(sorted(names)))}")
        of_layers = {name for name in mark.objects if name.rsplit("/c/", 1)[0].removesuffix("/zarr.json") in names}
        for name in mark.objects.keys() - of_layers:
            self._read(piece, mark, name)
        for name in names:
            self._within(piece.path, self._layer, piece, mark, name)

    def _layer(self, piece: _Piece, mark: Mark, name: str) -> None:
        """A layer's metadata, then its chunks, each read once; values are decoded a block of examples at a time."""
        where = f"{piece.path}/attempt-{mark.attempt}/{name}"
        encoded = self._read(piece, mark, f"{name}/zarr.json")
        theirs = {other for other in mark.objects if other.startswith(f"{name}/c/")}
        metadata, faults = json.loads(encoded or b"{}"), []
        layer = self._layers.get(name)
        if encoded is not None and self.identity is not None and layer is not None:
            position, shape = list(self._layers).index(name), self._shapes[name]
            faults = invariants.array_faults(metadata, self.identity, shape, position, layer)
        for fault in faults:
            self._found(piece.path, fault, where)
        if encoded is None or faults:  # not to be decoded
            for other in sorted(theirs):
                self._read(piece, mark, other)
            return
        chunks = [f"{name}/{chunk}" for chunk in invariants.chunk_names(metadata)]
        if set(chunks) != theirs:
            self._found(piece.path, f"its mark names {len(theirs)} chunks, {len(chunks)} belong to the array", where)
        values: Any = hashlib.sha256()
        whole, finite = set(chunks) == theirs, True
        for block in self._blocks(piece, mark, name, encoded, metadata, sorted(theirs)):
            whole &= block is not None
            if block is not None:
                finite &= bool(np.isfinite(block).all())
                values.update(np.ascontiguousarray(block))
        if not finite:
            self._found(piece.path, "has values that are not finite", where)
        claimed = mark.values.get("layers", {}).get(name) if mark.values else None  # older marks have none
        ours = {"dtype": metadata["data_type"], "shape": metadata["shape"], "sha256": values.hexdigest()}
        if whole and mark.values and claimed != ours:
            self._found(piece.path, "its values do not hash to the digest in its mark", where)

    def _blocks(
        self, piece: _Piece, mark: Mark, name: str, encoded: bytes, metadata: Any, chunks: list[str]
    ) -> Iterator[NDArray[Any] | None]:
        """The array's examples, one row of chunks at a time; None where an object of them is damaged."""
        rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        by_row: dict[int, list[str]] = {}
        for chunk in chunks:
            by_row.setdefault(int(chunk.removeprefix(f"{name}/c/").split("/")[0]), []).append(chunk)
        for row, of_row in sorted(by_row.items()):
            read = {chunk: self._read(piece, mark, chunk) for chunk in of_row}
            there: dict[str, Any] = {
                chunk: Buffer.from_bytes(content) for chunk, content in read.items() if content is not None
            }
            if len(there) < len(read):
                yield None
                continue
            there[f"{name}/zarr.json"] = Buffer.from_bytes(encoded)
            array = zarr.open_array(zarr.storage.MemoryStore(there), path=name, mode="r")
            yield np.asarray(array[row * rows : (row + 1) * rows])

    @cached_property
    def _layers(self) -> dict[str, Layer]:
        """By the model, else by layers.json."""
        if self.network is not None:
            return {layer.name: layer for layer in self.network.layers}
        return {layer.name: Layer(layer.name, layer.kind, layer.module) for layer in self.described}

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Layer -> its shape for one image."""
        if self.identity is None or self.network is None:
            return {layer.name: layer.shape for layer in self.described}
        return layer_shapes(self.network, self.identity.problem)

    def _rows(self, layer: str) -> tuple[int, ...]:
        """A layer's shape for the whole probe; () where it is not known."""
        if self.identity is None or layer not in self._shapes:
            return ()
        return (self.identity.problem.probe, *self._shapes[layer])

    # --- comparisons -------------------------------------------------------------------------------------------------

    def _comparison(self, path: str, match: re.Match[str]) -> None:
        self.pieces[{"comparison": "comparison", "chance": "chance level"}[match["what"]]] += 1
        mark = self._mark_at(path, path)
        if mark is None:
            return
        self.marks[path] = mark
        if mark.provenance.get("piece", path) != path:
            self._found(path, f"it belongs to {shown(mark.provenance['piece'])}", path)
            return
        self.of_layers[match["what"]].setdefault((_id(match), match["layer"]), []).append(mark)
        self._require_identity(path, path, mark)
        layer, named = self._layers.get(match["layer"]), match["metrics"].split("+")
        if self._layers and layer is None:
            self._found(path, "the model has no such layer", path)
        elif match["what"] == "chance":
            faults = invariants.chance_faults(mark.values, named, layer)
        else:
            faults = invariants.comparison_faults(mark.values, named, layer, self._rows(match["layer"]))
        for fault in faults if layer is not None or not self._layers else ():
            self._found(path, fault, path)

    def _pairs(self, path: str, match: re.Match[str]) -> None:
        self.pieces["tile of pairs"] += 1
        mark = self._mark_at(path, path)
        if mark is None:
            return
        self.marks[path] = mark
        self._require_identity(path, path, mark)
        layer = self._layers.get(match["layer"])
        if self._layers and layer is None:
            self._found(path, "the model has no such layer", path)
        if layer is not None:
            for fault in invariants.pairs_faults(mark.values, match["key"], layer, self._rows(layer.name)):
                self._found(path, fault, path)

    # --- tables ------------------------------------------------------------------------------------------------------

    def _derived(self, folder: str, again: str) -> Mark | None:
        """The mark of tables or figures, when all that it names is as it was written."""
        there = [path for path in self.sizes if path.startswith(f"{folder}/")]
        if not there:
            return None
        if f"{folder}/{MARK}" not in self.sizes:
            self._found(folder, f"nothing vouches for what is there: {again} writes it again", severity=NOTE)
            return None
        self.pieces["set of tables"] += 1
        mark = self._mark_at(f"{folder}/{MARK}", folder)
        if mark is None:
            return None
        damaged = list(_damaged_files(self.storage, folder, mark))
        self.storage.forget()
        if damaged and read_mark(self.storage, f"{folder}/{MARK}") != mark:
            return None  # a driver at work replaced them while they were read
        for path, said in damaged:
            self._found(folder, said, path)
        for path in there:
            if path.removeprefix(f"{folder}/") not in {*mark.objects, MARK}:
                self._found(path, "no mark names it", path, FOREIGN)
        return None if damaged else mark

    def _tables(self) -> None:
        mark = self._derived(TABLES, "distsim run or distsim report")
        if mark is None:
            return
        if "provenance.parquet" in mark.objects:
            rows = read_parquet_bytes(self.storage.get(f"{TABLES}/provenance.parquet") or b"")
            of_tables = rows[["table", "piece", "digest"]].drop_duplicates() if len(rows) else rows
            for table, piece, digest in of_tables.itertuples(index=False, name=None):
                path = piece if table == "networks" else f"{piece}.json"
                self._as_then(path, digest, "the tables were made from", table != "networks")
        damaged = any(finding.severity == DAMAGED for finding in self.findings)
        if not damaged and mark.values.get("inputs") != self._committed().digest:
            self._found(TABLES, "out of date: distsim run or distsim report makes them again", severity=NOTE)

    def _pair_tables(self) -> None:
        mark = self._derived(PAIR_TABLES, "distsim pairs")
        if mark is None:
            return
        inputs = mark.values["inputs"]
        for path, digest in inputs.items():
            self._as_then(path, digest, "the tables of pairs were made from")
        if {path for path in self.marks if path.startswith("pairs/")} - inputs.keys():
            self._found(PAIR_TABLES, "out of date: distsim pairs makes them again", severity=NOTE)

    def _as_then(self, piece: str, digest: str, made: str, by_values: bool = True) -> None:
        """Said, where a piece is gone, or holds other values than when tables were made.

        by_values : the piece is a file of values, which does not say where it belongs.
        """
        mark = self.marks.get(piece)
        if mark is None:
            if not any(finding.piece == piece and finding.severity in (DAMAGED, UNREAD) for finding in self.findings):
                self._found(piece, f"is gone: {made} it")
        elif by_values and mark.digest != digest:
            self._found(piece, f"holds other values than those that {made}", piece)


# --- what belongs to all sweeps of a store ---------------------------------------------------------------------------


def _verify_root(root: Storage, problems: list[str], sizes: Mapping[str, int]) -> Report:
    """Figures, and what lies beside the sweeps."""
    storage = _Reading(root.url)
    findings = _unlisted(root, "", but=problems)
    figures = {path: size for path, size in sizes.items() if path.startswith("figures/")}
    pieces = Counter({"set of figures": int(bool(figures))})
    try:
        findings += _figures(storage, figures)
    except Exception as error:
        findings.append(Finding("", FIGURES, None, f"could not be judged: {first_line(error)}", UNREAD))
    for path in sizes:
        folder = path.split("/")[0]
        if _PROBED.fullmatch(path):
            findings.append(Finding("", path, path, "asked whether the store has conditional puts", LEFTOVER))
        elif folder == path or folder not in {*problems, *NO_PROBLEMS}:
            findings.append(Finding("", path, path, "nothing here writes this", FOREIGN))
    others = {path: size for path, size in sizes.items() if path.split("/")[0] not in problems}
    return Report(tuple(findings), pieces, storage.read, others)


def _figures(storage: Storage, there: Mapping[str, int]) -> list[Finding]:
    path, again = f"{FIGURES}/{MARK}", "distsim run or distsim report draws them again"
    if not there:
        return []
    try:
        mark = read_mark(storage, path)
    except DamagedStore as error:
        return [Finding("", FIGURES, path, first_line(error))]
    if mark is None:
        return [Finding("", FIGURES, None, f"nothing vouches for what is there: {again}", NOTE)]
    found = [Finding("", FIGURES, name, said) for name, said in _damaged_files(storage, FIGURES, mark)]
    if not _canonical(storage.get(path) or b""):
        found.append(Finding("", FIGURES, path, SAME, NOTE))
    for name in sorted(there.keys() - {f"{FIGURES}/{name}" for name in mark.objects} - {path}):
        found.append(Finding("", name, name, "no mark names it", FOREIGN))
    try:
        if mark.values.get("inputs") != drawn_from(storage):
            found.append(Finding("", FIGURES, None, f"out of date: {again}", NOTE))
    except DamagedStore:
        pass  # of tables, which is said of them
    return found


def _damaged_files(storage: Storage, folder: str, mark: Mark) -> Iterator[tuple[str, str]]:
    """Of tables and figures, which lie beside their mark."""
    for name, (size, digest) in mark.objects.items():
        content = storage.get(f"{folder}/{name}")
        if content is None:
            yield f"{folder}/{name}", "is missing"
        elif (len(content), hashlib.sha256(content).hexdigest()) != (size, digest):
            yield f"{folder}/{name}", "is damaged: it is not what its mark says"


def _unlisted(storage: Storage, problem: str, but: Sequence[str] = ()) -> list[Finding]:
    """Files of a folder that were being written and have not got their names: no listing shows them."""
    found = []
    for folder, folders, files in os.walk(storage.folder) if storage.folder is not None else ():
        if storage.folder is not None and folder == str(storage.folder):
            folders[:] = [name for name in folders if name not in but]
        for name in files:
            if _STAGED.fullmatch(name):
                path = os.path.relpath(os.path.join(folder, name), storage.folder)
                found.append(Finding(problem, path, path, "was being written", LEFTOVER))
    return found


def _canonical(content: bytes) -> bool:
    return content == canonical_json(json.loads(content)).encode()


def _is_sweep(name: str, sizes: Iterable[str]) -> bool:
    """Whether a folder is a sweep's, though its spec may be gone."""
    known = tuple(f"{name}/{part}" for part in ("spec.json", "complete/", "runs/", "pairs/", f"{TABLES}/"))
    return any(path.startswith(known) for path in sizes)


def _id(match: re.Match[str]) -> NetworkId:
    return None if match["run"] is None else (int(match["run"]), int(match["iteration"]))
