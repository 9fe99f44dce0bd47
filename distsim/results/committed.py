"""What is committed for a problem: the marks that tables are made of."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from distsim.comparison.pair import Result
from distsim.specs import NetworkId, digest
from distsim.store import DamagedStore, Mark, SweepStore
from distsim.store.paths import VALUES
from distsim.store.records import WEIGHTS_X, WEIGHTS_Y, pairs_in, weights_of


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
    def of(cls, store: SweepStore) -> "Committed":
        contents = store.contents()
        networks = {network: store.mark(network) for network in contents.networks}
        marks = {network: mark for network, mark in networks.items() if mark is not None}
        comparison, chance, null, se = (
            {key: of_layer for key, of_layer in store.comparisons(kind).items() if key[0] in marks} for kind in VALUES
        )
        found = {network: store.piece_mark(network, "logits") for network in contents.logits & marks.keys()}
        logits = {network: mark for network, mark in found.items() if mark is not None}
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
