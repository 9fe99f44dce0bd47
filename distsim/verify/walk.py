"""Verification of one sweep: its listing, its spec, its marks, and everything that the marks name.

A mark holds its own digest, and the size and digest of its objects. Marks cannot show that a whole piece is gone or has
taken another's place. The tables can, because they name the pieces that they were made from.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from distsim.models import build
from distsim.results.committed import Committed
from distsim.results.table_files import read_parquet_bytes
from distsim.specs import COMPLETE, Identity, digest, shown
from distsim.specs.fields import expect
from distsim.store import DamagedStore, Mark, StorageError, SweepStore
from distsim.store.arrays import ZARR, arrays_in
from distsim.store.commits import MARK, WrittenByAnother, attempt_generation, dropped_path, read_mark
from distsim.store.described import LAYERS
from distsim.store.epochs import CHECKPOINT
from distsim.store.paths import Place, place_of
from distsim.store.records import LARGEST_SPEC, SpecRecord, decode_spec
from distsim.store.storage import first_line
from distsim.sweep import kept_behaviour
from distsim.verify import descriptions, lineage, networks
from distsim.verify.derived import PAIR_TABLES, SAME, TABLES, canonical, decoded, files_faults, mark_at, size_faults
from distsim.verify.listing import ASIDE, CHECKED, VALUES, Piece, folder_of, listed
from distsim.verify.networks import Model
from distsim.verify.report import DAMAGED, FOREIGN, LEFTOVER, NOTE, UNREAD, Finding, Report
from distsim.verify.unfinished import unlisted

ABSENT = "is missing: run the sweep script, which writes it"


def verify(store: SweepStore, sizes: Mapping[str, int] | None = None) -> Report:
    """Read and check everything of one sweep. sizes : path -> bytes of its objects, if already listed."""
    walk = _Walk(store, store.storage.sizes() if sizes is None else sizes)
    walk.through_everything()
    from_root = {f"{store.problem}/{path}": size for path, size in walk.sizes.items()}
    return Report(tuple(dict.fromkeys(walk.findings)), walk.pieces, from_root)


class _Walk:
    """One verification of a sweep, and what it found."""

    def __init__(self, store: SweepStore, sizes: Mapping[str, int]) -> None:
        self.store, self.problem, self.sizes = store, store.problem, sizes
        self.storage = store.storage
        self.findings: list[Finding] = []
        self.pieces: Counter[str] = Counter()
        self.hash: str | None = None  # identity that all marks must have
        self.model = Model()
        self.marks: dict[str, Mark] = {}  # piece -> its mark, if it is whole
        self.networks: dict[str, Piece] = {}  # path -> piece, run by run
        self.values: list[Place] = []
        self.others: list[str] = []  # paths of objects that a mark must name, or that are unknown

    def through_everything(self) -> None:
        self.networks, self.values, self.others = listed(self.sizes)
        self._within("spec.json", self._spec)
        self._within("request.json", self._request)
        behaviour = kept_behaviour.NETWORK
        if self.model.identity is not None and behaviour not in self.sizes:
            self._found(behaviour, "is missing: the next start writes it", behaviour, NOTE)
        for path in sorted(filter(descriptions.PATH.fullmatch, self.sizes)):
            self._within(path, descriptions.faults, self.storage, path, self.problem, partial(self._found, path))
        for piece in self.networks.values():
            self._within(piece.path, self._mark, piece)
        self._settle_identity()
        found = partial(self._found, LAYERS)
        self._within(LAYERS, descriptions.read_layers, self.storage, self.hash, self.model, found)
        for piece in self.networks.values():
            if piece.path in self.marks:
                self._within(piece.path, self._content, piece)
        for file in self.values:
            self._within(file.piece, self._of_values, file)
        self._weights()
        self._unnamed()
        self._within(TABLES, self._tables)
        self._within(PAIR_TABLES, self._pair_tables)
        self.findings += unlisted(self.storage, self.problem)

    def _found(self, piece: str, sentence: str, path: str | None = None, severity: str = DAMAGED) -> None:
        self.findings.append(Finding(self.problem, piece, path, sentence, severity))

    def _within(self, piece: str, work: Callable[..., None], *args: Any) -> None:
        """Call work(*args). Any error becomes a finding of the piece."""
        try:
            work(*args)
        except StorageError as error:
            self._found(piece, f"cannot be read: {first_line(error)}", severity=UNREAD)
        except DamagedStore as error:
            self._found(piece, first_line(error))
        except Exception as error:  # the digests are right: a fault of the writer or of this machine
            sentence = f"could not be checked: {type(error).__name__}: {first_line(error)}"
            self._found(piece, sentence, severity=UNREAD)

    # --- the listing -------------------------------------------------------------------------------------------------

    def _mark(self, piece: Piece) -> None:
        piece.generation = self._generation(piece)
        for generation, path in piece.marks.items():
            if generation != piece.generation:
                self._found(piece.path, "belongs to a generation that does not count", path, LEFTOVER)
            elif (mark := mark_at(self.storage, path, partial(self._found, piece.path))) is not None:
                self.marks[piece.path] = mark

    def _generation(self, piece: Piece) -> int:
        """Return the generation that counts. Report a missing DROPPED.json, without which its mark does not count."""
        present, last = 1, max(piece.marks, default=0)
        while dropped_path(piece.path, present) in self.sizes:
            present += 1
        if present in piece.marks or last < present:
            return present
        for number in range(present, last):
            if (path := dropped_path(piece.path, number)) not in self.sizes:
                self._found(piece.path, f"is gone, so {os.path.basename(piece.marks[last])} does not count", path)
        return last

    def _unnamed(self) -> None:
        """Report what no mark names: from interrupted writers, of finished trainings, or not written by distsim."""
        named = {f"{path}/attempt-{mark.attempt}/{name}" for path, mark in self.marks.items() for name in mark.objects}
        files = ("spec.json", "request.json", LAYERS, TABLES, PAIR_TABLES)
        for path in self.others:
            where, inside = folder_of(path)
            folder, _, rest = inside.partition("/")
            place = place_of(path)
            if path in named or path.split("/")[0] in files or descriptions.PATH.fullmatch(path):
                continue
            if place is not None and place.dropped:
                continue
            if where and rest and attempt_generation(folder) is not None:
                of_where, mark = self.networks.get(where), self.marks.get(where)
                if mark is not None and folder == f"attempt-{mark.attempt}":  # its writer has listed all of its own
                    self._found(path, "is not written by distsim", path, FOREIGN)
                    continue
                # a damaged mark may name it or not
                if where in self.marks or of_where is None or of_where.generation not in of_where.marks:
                    self._found(where, "no mark names it", path, LEFTOVER)
            elif CHECKPOINT.fullmatch(path) is not None:
                if where in self.marks:
                    self._found(where, "is a checkpoint of a finished training", path, LEFTOVER)
            elif path.removesuffix(ASIDE) in files:
                if path.removesuffix(ASIDE) in self.sizes:
                    self._found(path, "was set aside by repair", path, LEFTOVER)
            else:
                self._found(where or path, "is not written by distsim", path, FOREIGN)

    # --- identity and extent -----------------------------------------------------------------------------------------

    def _spec(self) -> None:
        found = partial(self._found, "spec.json")
        spec = decoded(self.storage, "spec.json", LARGEST_SPEC, self._own_spec, found)
        if spec is None:
            if "spec.json" not in self.sizes:
                found(ABSENT, "spec.json", NOTE if f"spec.json{ASIDE}" in self.sizes else DAMAGED)
            return
        self.hash = spec["hash"]
        try:
            self.model.identity = Identity.from_dict(spec["identity"])
        except (ValueError, TypeError) as error:
            why = f"was written by another distsim: {first_line(error)}"
            found(f"{why}; pieces are checked by their digests only", "spec.json", UNREAD)
            return
        try:
            size = self.model.identity.problem.size
            if size > networks.LARGEST_IMAGE:
                raise ValueError(f"its images have {size:,} x {size:,} pixels")
            self.model.network = build(self.model.identity.problem)
        except ValueError as error:
            found(f"{error}: shapes and masks are not checked", "spec.json", NOTE)

    def _own_spec(self, content: bytes) -> dict[str, Any]:
        """Return the content of spec.json. ValueError: it is damaged, or of another sweep."""
        spec = decode_spec(content)
        expect(digest(spec["identity"]) == spec["hash"], "its identity does not match its hash")
        problem = spec["identity"].get("problem")
        own = isinstance(problem, dict) and problem.get("name") == self.problem
        expect(own and spec.keys() == SpecRecord.__annotations__.keys(), "it belongs to another sweep")
        return spec

    def _request(self) -> None:
        content, found = self.storage.get("request.json", most=LARGEST_SPEC), partial(self._found, "request.json")
        if content is None:
            found(ABSENT, "request.json", NOTE)
            return
        try:
            self.store.request()
        except WrittenByAnother as error:  # it is whole, but not understood here
            found(first_line(error), "request.json", UNREAD)
            return
        except DamagedStore as error:
            found(f"is damaged: {first_line(error)}", "request.json")
            return
        if not canonical(content):
            found(SAME, "request.json", NOTE)

    def _settle_identity(self) -> None:
        """Set the identity that all marks must have: the spec's, or the most frequent one if no mark has that."""
        hashes = Counter(str(mark.identity) for mark in self.marks.values())
        if not hashes or self.hash in hashes:
            return
        if self.hash is not None:
            self._found("spec.json", "belongs to another sweep: no mark has its hash", "spec.json")
            self.model = Model()
        self.hash = hashes.most_common(1)[0][0]

    def _require_own(self, piece: str, path: str, mark: Mark) -> None:
        """Report a mark of another sweep."""
        if self.hash is not None and mark.identity != self.hash:
            self._found(piece, f"belongs to another sweep: its identity is {shown(str(mark.identity)[:12])}", path)

    # --- what the marks name -----------------------------------------------------------------------------------------

    def _content(self, piece: Piece) -> None:
        """Check everything that the piece's mark names."""
        mark, path, before = self.marks[piece.path], piece.marks[piece.generation], len(self.findings)
        self._require_own(piece.path, path, mark)
        self.pieces[CHECKED[piece.kind]] += 1
        {"network": self._network, "activations": self._activations, "logits": self._logits}[piece.kind](piece, mark)
        if len(self.findings) > before and read_mark(self.storage, path) != mark:
            del self.findings[before:]  # a driver dropped it while it was read

    def _network(self, piece: Piece, mark: Mark) -> None:
        faults = list(networks.object_faults(self.model, piece.network, mark))
        for fault in faults:
            self._found(piece.path, fault)
        if faults:
            return
        contents = {name: self._read(piece, mark, name) for name in mark.objects}
        whole = {name: content for name, content in contents.items() if content is not None}
        if whole.keys() == contents.keys():
            for fault in networks.network_faults(self.model, whole):
                self._found(piece.path, fault)

    def _activations(self, piece: Piece, mark: Mark) -> None:
        layers = arrays_in(mark.objects)
        if set(layers) != set(self.model.layers or layers) or ZARR not in mark.objects:
            self._found(piece.path, f"its mark names the layers {shown(', '.join(sorted(layers)))}")
            return
        if strange := networks.strange_objects(mark):
            self._found(piece.path, f"its mark names {shown(strange[0])}, which belongs to no array")
            return

        def read(name: str, most: int) -> bytes | None:
            return self._read(piece, mark, name, most)

        def check(layer: str) -> None:
            for fault in networks.layer_faults(self.model, mark, layer, read):
                self._found(piece.path, fault, f"{piece.path}/attempt-{mark.attempt}/{layers[layer]}")

        for layer in layers:
            self._within(piece.path, check, layer)
        self._read(piece, mark, ZARR, networks.ROOM)

    def _logits(self, piece: Piece, mark: Mark) -> None:
        complete = self.marks.get(f"{piece.network.origin.path}/logits")
        for fault in networks.logits_faults(
            self.model, piece.network, mark, complete, partial(self._read, piece, mark)
        ):
            self._found(piece.path, fault)

    def _read(self, piece: Piece, mark: Mark, name: str, most: int | None = None) -> bytes | None:
        """Return an object that the mark names, or report that it is damaged and return None.

        most : bytes that it can have
        """
        path = f"{piece.path}/attempt-{mark.attempt}/{name}"
        size, sha256 = mark.objects[name]
        if most is not None and size > most:
            self._found(piece.path, f"has {size:,} bytes, at most {most:,} belong there", path)
            return None
        content = self.storage.get(path, most=size)
        if content is None:
            self._found(piece.path, "is missing", path)
        elif len(content) != size:
            self._found(piece.path, f"has {self.sizes.get(path, len(content)):,} bytes instead of {size:,}", path)
        elif hashlib.sha256(content).hexdigest() != sha256:
            self._found(piece.path, "is damaged: its digest is not the one in its mark", path)
        else:
            return content
        return None

    def _of_values(self, file: Place) -> None:
        self.pieces[VALUES[file.kind]] += 1
        path = file.piece
        mark = mark_at(self.storage, path, partial(self._found, path))
        if mark is None:
            return
        self.marks[path] = mark
        self._require_own(path, path, mark)
        if self.model.layers and file.layer not in self.model.layers:
            self._found(path, "the model has no such layer", path)
        elif file.kind == "comparison" and file.layer in self.model.shapes:
            for fault in size_faults(mark.values, self.model.shapes[file.layer]):
                self._found(path, fault, path)

    def _weights(self) -> None:
        """Report what comes from other weights than those of its network, or a network to which nothing belongs."""
        faults = lineage.faults(self.marks, self.values)
        for piece, fault in faults.items():
            self._found(piece, fault)
        if any(file.piece in self.marks for file in self.values) and not lineage.named(self.marks, self.values):
            self._found(
                COMPLETE.path, "an older distsim wrote this sweep: values do not name their weights", None, NOTE
            )

    # --- tables ------------------------------------------------------------------------------------------------------

    def _files(self, folder: str, again: str) -> Mark | None:
        paths = [path for path in self.sizes if path.startswith(f"{folder}/")]
        self.pieces["set of tables"] += f"{folder}/{MARK}" in paths
        return files_faults(self.storage, folder, paths, again, partial(self._found, folder)) if paths else None

    def _tables(self) -> None:
        again = "distsim run or distsim report makes them again"
        mark = self._files(TABLES, again)
        if mark is None:
            return
        if "provenance.parquet" in mark.objects:
            try:
                rows = read_parquet_bytes(self.storage.get(f"{TABLES}/provenance.parquet") or b"")
                of_tables = rows[["table", "piece", "digest"]].drop_duplicates() if len(rows) else rows
            except (ValueError, KeyError) as error:
                self._found(TABLES, f"is damaged: {first_line(error)}", f"{TABLES}/provenance.parquet")
                return
            for table, piece, sha256 in of_tables.itertuples(index=False, name=None):
                path = piece if table in ("networks", "functional") else f"{piece}.json"
                self._compare_with_tables(path, sha256, "the tables were made from", table != "networks")
        damaged = any(finding.severity == DAMAGED for finding in self.findings)
        if not damaged and mark.values.get("inputs") != Committed.of(self.store).digest:
            self._found(TABLES, f"out of date: {again}", severity=NOTE)

    def _pair_tables(self) -> None:
        again = "distsim pairs makes them again"
        mark = self._files(PAIR_TABLES, again)
        if mark is None:
            return
        inputs = mark.values["inputs"]
        for path, sha256 in inputs.items():
            self._compare_with_tables(path, sha256, "the tables of pairs were made from")
        if {path for path in self.marks if path.startswith("pairs/")} - inputs.keys():
            self._found(PAIR_TABLES, f"out of date: {again}", severity=NOTE)

    def _compare_with_tables(self, piece: str, sha256: str, made: str, of_values: bool = True) -> None:
        """Report a piece that is gone or, if it is a file of values, holds other values than the tables."""
        mark = self.marks.get(piece)
        if mark is None:
            if not any(finding.piece == piece and finding.severity in (DAMAGED, UNREAD) for finding in self.findings):
                self._found(piece, f"is gone: {made} it")
        elif of_values and mark.digest != sha256:
            self._found(piece, f"holds other values than those that {made}", piece)
