"""The walk through one sweep: its listing, its spec, its marks, and then everything that these vouch for.

A mark vouches for its objects by size and digest, and for itself. What the marks cannot show, that a whole piece is
gone or took another's place, is seen from the tables, which say from which pieces they were made.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from distsim.models import build
from distsim.results.reduce import Committed
from distsim.results.tables import read_parquet_bytes
from distsim.specs import PATTERN, Identity, NetworkId, canonical_json, shown
from distsim.store import DamagedStore, Mark, Storage, StorageError, SweepStore
from distsim.store.commits import MARK, WrittenByAnother, attempt_generation, dropped_path, read_mark
from distsim.store.described import LAYERS
from distsim.store.storage import first_line
from distsim.store.sweep_store import EPOCHS
from distsim.sweep import kept_behaviour
from distsim.verify import derived, descriptions, networks
from distsim.verify.derived import PAIR_TABLES, SAME, TABLES, canonical, files_faults, mark_at
from distsim.verify.networks import Model
from distsim.verify.report import DAMAGED, FOREIGN, LEFTOVER, NOTE, UNREAD, Finding, Report

ASIDE = ".damaged"  # what repair sets a spec or a request aside as: somebody may want to read its flags
VALUES = {"comparison": "comparison", "chance": "chance level", "pairs": "tile of pairs"}
ABSENT = "is missing: run the sweep script, which writes it"


def verify(store: SweepStore, sizes: Mapping[str, int] | None = None) -> Report:
    """Read and check everything of one sweep. sizes : of its objects, where they are listed already."""
    walk = _Walk(store, store.storage.sizes() if sizes is None else sizes)
    walk.through_everything()
    from_root = {f"{store.problem}/{path}": size for path, size in walk.sizes.items()}
    return Report(tuple(dict.fromkeys(walk.findings)), walk.pieces, from_root)


def of_network(path: str) -> tuple[NetworkId, str] | None:
    """The network in whose folder a path lies, and the path within; None: in none's."""
    match = _FOLDER.match(path)
    return None if match is None else (NetworkId.of_match(match), path[match.end() :])


_FOLDER = re.compile(f"{PATTERN}/")
_MARK = re.compile(r"COMMIT(?:-(?P<generation>[1-9]\d{0,8}))?\.json")
_DROPPED = re.compile(r"DROPPED(?:-[1-9]\d{0,8})?\.json")
_STAGED = re.compile(r".*#\d+")  # a file that was being written and has not got its name


def unlisted(storage: Storage, problem: str, but: Iterable[str] = ()) -> list[Finding]:
    """Files of a folder that were being written and have not got their names: no listing shows them."""
    found = []
    for folder, folders, files in os.walk(storage.folder) if storage.folder is not None else ():
        if folder == str(storage.folder):
            folders[:] = [name for name in folders if name not in but]
        for name in filter(_STAGED.fullmatch, files):
            path = os.path.relpath(os.path.join(folder, name), storage.folder)
            found.append(Finding(problem, path, path, "was being written", LEFTOVER))
    return found


@dataclass
class _Piece:
    """A network, or its activations."""

    path: str
    network: NetworkId
    of_activations: bool
    marks: dict[int, str] = field(default_factory=dict)  # generation -> path
    generation: int = 1  # that counts


@dataclass(frozen=True)
class _Values:
    """A file of values."""

    path: str
    what: str  # of VALUES
    layer: str
    named: str  # by its metrics, or by the digest of a tile


def _split(path: str) -> tuple[_Piece | None, str]:
    """The piece in whose folder a path lies, without its marks, and the path within; None, all of it: in none's."""
    found = of_network(path)
    if found is None:
        return None, path
    network, inside = found
    of_activations = inside.startswith("activations/")
    where = network.path + "/activations" * of_activations
    return _Piece(where, network, of_activations), inside.removeprefix("activations/")


class _Walk:
    def __init__(self, store: SweepStore, sizes: Mapping[str, int]) -> None:
        self.store, self.problem, self.sizes = store, store.problem, sizes
        self.storage = store.storage
        self.findings: list[Finding] = []
        self.pieces: Counter[str] = Counter()
        self.hash: str | None = None  # that all marks are to have
        self.model = Model()
        self.marks: dict[str, Mark] = {}  # piece -> its mark, where that is whole
        self.networks: dict[str, _Piece] = {}  # path -> piece, run by run
        self.values: list[_Values] = []
        self.others: list[str] = []  # paths of objects that a mark has to name, or nobody knows

    def through_everything(self) -> None:
        self._listing()
        self._within("spec.json", self._spec)
        self._within("request.json", self._request)
        known = () if self.model.identity is None else (kept_behaviour.NETWORK,)
        for path in sorted({*known, *filter(descriptions.PATH.fullmatch, self.sizes)}):
            self._within(path, descriptions.faults, self.storage, path, self.problem, partial(self._found, path))
        for piece in self.networks.values():
            self._within(piece.path, self._mark, piece)
        self._settle_identity()
        self._within(
            LAYERS, descriptions.read_layers, self.storage, self.hash, self.model, partial(self._found, LAYERS)
        )
        for piece in self.networks.values():
            if piece.path in self.marks:
                self._within(piece.path, self._content, piece)
        for one in self.values:
            self._within(one.path, self._of_values, one)
        self._unnamed()
        self._within(TABLES, self._tables)
        self._within(PAIR_TABLES, self._pair_tables)
        self.findings += unlisted(self.storage, self.problem)

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

    # --- the listing -------------------------------------------------------------------------------------------------

    def _listing(self) -> None:
        pieces: dict[str, _Piece] = {}
        for path in sorted(self.sizes):
            piece, inside = _split(path)
            mark = _MARK.fullmatch(inside) if piece is not None else None
            match inside.removesuffix(".json").split("/") if path.endswith(".json") else ():
                case [_] if piece is not None and mark is not None:
                    pieces.setdefault(piece.path, piece).marks[int(mark["generation"] or 1)] = path
                case ["comparison" | "chance" as what, layer, named] if piece is not None and not piece.of_activations:
                    self.values.append(_Values(path, what, layer, named))
                case ["pairs", *layer, named] if piece is None:
                    self.values.append(_Values(path, "pairs", "/".join(layer), named))
                case _:
                    self.others.append(path)
        ordered = sorted(pieces.values(), key=lambda piece: (piece.network, piece.of_activations))
        self.networks = {piece.path: piece for piece in ordered}

    def _mark(self, piece: _Piece) -> None:
        piece.generation = self._generation(piece)
        for generation, path in piece.marks.items():
            if generation != piece.generation:
                self._found(piece.path, "is of a generation that does not count", path, LEFTOVER)
            elif (mark := mark_at(self.storage, path, partial(self._found, piece.path))) is not None:
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

    def _unnamed(self) -> None:
        """What no mark names: of interrupted writers, of trainings that are over, and what nobody knows."""
        named = {f"{path}/attempt-{mark.attempt}/{name}" for path, mark in self.marks.items() for name in mark.objects}
        files = ("spec.json", "request.json", LAYERS, TABLES, PAIR_TABLES)
        for path in self.others:
            piece, inside = _split(path)
            where = path if piece is None else piece.path
            folder, _, rest = inside.partition("/")
            if path in named or path.split("/")[0] in files or descriptions.PATH.fullmatch(path):
                continue
            if piece is not None and _DROPPED.fullmatch(inside):
                continue
            if piece is not None and rest and attempt_generation(folder) is not None:
                there = self.networks.get(where)
                if where in self.marks or there is None or there.generation not in there.marks:
                    self._found(where, "no mark names it", path, LEFTOVER)  # of a damaged mark's, nothing can be said
            elif piece is not None and rest and folder == EPOCHS and not piece.of_activations:
                if where in self.marks:
                    self._found(where, "is of a training that is over", path, LEFTOVER)
            elif path.removesuffix(ASIDE) in files:
                if path.removesuffix(ASIDE) in self.sizes:
                    self._found(path, "was set aside by repair", path, LEFTOVER)
            else:
                self._found(path, "nothing here writes this", path, FOREIGN)

    # --- identity and extent -----------------------------------------------------------------------------------------

    def _spec(self) -> None:
        content, found = self.storage.get("spec.json"), partial(self._found, "spec.json")
        if content is None:
            found(ABSENT, "spec.json", NOTE if f"spec.json{ASIDE}" in self.sizes else DAMAGED)
            return
        try:
            spec = json.loads(content)
            if hashlib.sha256(canonical_json(spec["identity"]).encode()).hexdigest() != spec["hash"]:
                raise ValueError("its identity does not hash to its hash")
            if spec.keys() != {"identity", "hash", "distsim"} or spec["identity"]["problem"]["name"] != self.problem:
                raise ValueError("it is not that of this sweep")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            found(f"is damaged: {first_line(error)}", "spec.json")
            return
        self.hash = spec["hash"]
        try:
            self.model.identity = Identity.from_dict(spec["identity"])
        except (ValueError, TypeError) as error:
            by = f"was written by another distsim: {first_line(error)}"
            found(f"{by}; pieces are checked by their digests only", "spec.json", UNREAD)
            return
        if not canonical(content):
            found(SAME, "spec.json", NOTE)
        try:
            self.model.network = build(self.model.identity.problem)
        except ValueError as error:
            found(f"{error}: shapes and masks are not checked", "spec.json", NOTE)

    def _request(self) -> None:
        content, found = self.storage.get("request.json"), partial(self._found, "request.json")
        if content is None:
            found(ABSENT, "request.json", NOTE)
            return
        try:
            self.store.request()
        except WrittenByAnother as error:  # whole, and not understood here
            found(first_line(error), "request.json", UNREAD)
            return
        except DamagedStore as error:
            found(f"is damaged: {first_line(error)}", "request.json")
            return
        if not canonical(content):
            found(SAME, "request.json", NOTE)

    def _settle_identity(self) -> None:
        """Which identity the marks are to have: the spec's, unless none has it; without a spec, what most have."""
        hashes = Counter(str(mark.identity) for mark in self.marks.values())
        if not hashes or self.hash in hashes:
            return
        if self.hash is not None:
            said = f"is that of another sweep: of {len(self.marks)} marks none has its hash"
            self._found("spec.json", said, "spec.json")
            self.model = Model()
        self.hash = hashes.most_common(1)[0][0]

    def _require_own(self, piece: str, path: str, mark: Mark) -> bool:
        """Whether the mark is of this sweep and of this piece; else it is said."""
        where = mark.provenance.get("piece", piece)  # older marks do not say
        if where != piece:
            self._found(piece, f"it belongs to {shown(where)}", path)
        if self.hash is not None and mark.identity != self.hash:
            self._found(piece, f"is of another sweep: its identity is {shown(str(mark.identity)[:12])}", path)
        return bool(where == piece)

    # --- what the marks vouch for ------------------------------------------------------------------------------------

    def _content(self, piece: _Piece) -> None:
        """Everything that the piece's mark names."""
        mark, path, said = self.marks[piece.path], piece.marks[piece.generation], len(self.findings)
        self._require_own(piece.path, path, mark)
        self.pieces["network's activations" if piece.of_activations else "network"] += 1
        if piece.of_activations:
            self._activations(piece, mark)
        else:
            contents = {name: self._read(piece, mark, name) for name in mark.objects}
            whole = {name: content for name, content in contents.items() if content is not None}
            if whole.keys() == contents.keys() and self.model.identity is not None:
                for fault in networks.network_faults(self.model, piece.network, mark, whole):
                    self._found(piece.path, fault)
        if len(self.findings) > said and read_mark(self.storage, path) != mark:
            del self.findings[said:]  # a driver at work dropped it while it was read

    def _activations(self, piece: _Piece, mark: Mark) -> None:
        names = networks.layer_names(mark)
        if set(names) != set(self.model.layers or names) or "zarr.json" not in mark.objects:
            self._found(piece.path, f"its mark names the layers {shown(', '.join(sorted(names)))}")
        unread = set(mark.objects)

        def read(name: str) -> bytes | None:
            unread.discard(name)
            return self._read(piece, mark, name)

        def check(layer: str) -> None:
            for fault in networks.layer_faults(self.model, mark, layer, read):
                self._found(piece.path, fault, f"{piece.path}/attempt-{mark.attempt}/{layer}")

        for name in names:
            self._within(piece.path, check, name)
        for name in sorted(unread):
            self._read(piece, mark, name)

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

    def _of_values(self, one: _Values) -> None:
        self.pieces[VALUES[one.what]] += 1
        found = partial(self._found, one.path, path=one.path)
        mark = mark_at(self.storage, one.path, partial(self._found, one.path))
        if mark is None:
            return
        self.marks[one.path] = mark
        if not self._require_own(one.path, one.path, mark):
            return
        if self.model.layers and one.layer not in self.model.layers:
            found("the model has no such layer")
            return
        for fault in self._values_faults(one, mark):
            found(fault)

    def _values_faults(self, one: _Values, mark: Mark) -> list[str]:
        match one.what:
            case "pairs":
                return derived.pairs_faults(mark.values, one.named, one.layer)
            case "chance":
                return derived.chance_faults(mark.values, one.named.split("+"))
        return derived.comparison_faults(mark.values, one.named.split("+"), self.model.shapes.get(one.layer, ()))

    # --- tables ------------------------------------------------------------------------------------------------------

    def _files(self, folder: str, again: str) -> Mark | None:
        there = [path for path in self.sizes if path.startswith(f"{folder}/")]
        self.pieces["set of tables"] += f"{folder}/{MARK}" in there
        return files_faults(self.storage, folder, there, again, partial(self._found, folder)) if there else None

    def _tables(self) -> None:
        again = "distsim run or distsim report makes them again"
        mark = self._files(TABLES, again)
        if mark is None:
            return
        if "provenance.parquet" in mark.objects:
            rows = read_parquet_bytes(self.storage.get(f"{TABLES}/provenance.parquet") or b"")
            of_tables = rows[["table", "piece", "digest"]].drop_duplicates() if len(rows) else rows
            for table, piece, digest in of_tables.itertuples(index=False, name=None):
                path = piece if table == "networks" else f"{piece}.json"
                self._as_then(path, digest, "the tables were made from", table != "networks")
        damaged = any(finding.severity == DAMAGED for finding in self.findings)
        if not damaged and mark.values.get("inputs") != Committed.of(self.store).digest:
            self._found(TABLES, f"out of date: {again}", severity=NOTE)

    def _pair_tables(self) -> None:
        again = "distsim pairs makes them again"
        mark = self._files(PAIR_TABLES, again)
        if mark is None:
            return
        inputs = mark.values["inputs"]
        for path, digest in inputs.items():
            self._as_then(path, digest, "the tables of pairs were made from")
        if {path for path in self.marks if path.startswith("pairs/")} - inputs.keys():
            self._found(PAIR_TABLES, f"out of date: {again}", severity=NOTE)

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
