"""What is committed for a problem: the marks that tables are made of."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from distsim.comparison.pair import Result
from distsim.specs import NetworkId, digest
from distsim.store import DamagedStore, Mark, SweepStore
from distsim.store.paths import VALUES, place_of
from distsim.store.records import WEIGHTS_X, WEIGHTS_Y, pairs_in, weights_of

READ = ("network", "logits", *VALUES, "pairs")  # kinds of objects that tables are made of (distsim.store.paths)


@dataclass(frozen=True)
class Committed:
    """The marks of everything committed for a problem."""

    marks: dict[NetworkId, Mark]
    comparisons: dict[tuple[NetworkId, str], list[Mark]]
    chance: dict[tuple[NetworkId, str], list[Mark]]
    null: dict[tuple[NetworkId, str], list[Mark]]
    se: dict[tuple[NetworkId, str], list[Mark]]
    logits: dict[NetworkId, Mark]
    references: dict[str, Mark] = field(default_factory=dict)  # path -> tile that has pairs of complete networks

    @classmethod
    def of(cls, store: SweepStore, paths: Iterable[str] | None = None) -> "Committed":
        """Read the marks, one request each. paths : a listing of the sweep's folder, if there is one"""
        paths = list(store.storage.sizes() if paths is None else paths)
        pieces = store.listed_marks(paths, "logits")
        marks = {network: mark for (network, kind), mark in pieces.items() if kind == "network"}
        comparison, chance, null, se = (
            {key: of_layer for key, of_layer in store.comparisons(kind, paths=paths).items() if key[0] in marks}
            for kind in VALUES
        )
        logits = {network: mark for (network, kind), mark in pieces.items() if kind == "logits" and network in marks}
        several = sum(network.is_complete for network in marks) > 1
        tiles = {path: mark for path, mark in store.pair_marks().items() if any(of_complete(mark))} if several else {}
        return cls(marks, comparison, chance, null, se, logits, tiles)

    @property
    def digest(self) -> str:
        """Return a digest of all marks: equal digests stand for equal tables."""
        entries = [(network.path, mark.digest) for network, mark in self.marks.items()]
        entries += [(f"{network.path}/logits", mark.digest) for network, mark in self.logits.items()]
        named = (self.comparisons, ""), (self.chance, " by chance"), (self.null, " null"), (self.se, " se")
        for compared, by in named:
            entries += [
                (f"{n.path}/{layer}{by}", mark.digest) for (n, layer), marks in compared.items() for mark in marks
            ]
        entries += [(path, mark.digest) for path, mark in self.references.items()]
        return digest(sorted(entries))


def listing(listed: Mapping[str, tuple[int, str]]) -> str:
    """Return a digest of what a listing says of the objects that tables are made of, without reading one.

    Equal digests stand for equal marks: none of them was added, dropped or replaced. listed : see `Storage.listed`
    """
    places = ((path, place_of(path)) for path in listed)
    return digest(sorted((path, *listed[path]) for path, place in places if place is not None and place.kind in READ))


def of_complete(tile: Mark) -> Iterator[tuple[NetworkId, NetworkId, dict[str, Result]]]:
    """Yield the pairs of complete networks in a tile, with their results by metric."""
    for x, y, results in pairs_in(tile.values):
        if x.is_complete and y.is_complete and x != y:
            yield x, y, results


def require_one_sweep(store: SweepStore, committed: Committed, identity: str) -> None:
    """Check that everything is of this identity, and that values come from the weights that are there.

    DamagedStore: a piece is not. Marks of older versions do not name their weights.
    """
    where, weights = store.storage.url, {network: weights_of(mark) for network, mark in committed.marks.items()}
    for network, mark in committed.marks.items():
        _require(mark.identity == identity, f"{network.label} in {where} belongs to another sweep")
    for network, mark in committed.logits.items():
        _require(mark.identity == identity, f"the test logits of {network.label} in {where} belong to another sweep")
    of_values = committed.comparisons, committed.chance, committed.null, committed.se
    for what, compared in zip(VALUES, of_values, strict=True):
        for (network, layer), marks in compared.items():
            expected = {WEIGHTS_X: weights.get(network.origin), WEIGHTS_Y: weights[network]}
            for mark in marks:
                piece = f"the {what} of {network.label}, layer {layer}, in {where}"
                same = all(mark.provenance.get(name, sha256) == sha256 for name, sha256 in expected.items())
                _require(mark.identity == identity, f"{piece} belongs to another sweep")
                _require(same, f"{piece} comes from other weights than the networks'")


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise DamagedStore(f"{fault}: distsim verify says which pieces are damaged, and distsim repair drops them")
