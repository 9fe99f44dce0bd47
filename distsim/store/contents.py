"""Which parts of a sweep a store holds, told from the names of its objects alone."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from distsim.specs import NetworkId
from distsim.store.commits import mark_path
from distsim.store.paths import Kind, Place, place_of


@dataclass(frozen=True)
class Contents:
    """The committed parts of a sweep."""

    networks: frozenset[NetworkId]
    activations: frozenset[NetworkId]
    # (network, layer) -> metrics
    comparisons: dict[tuple[NetworkId, str], frozenset[str]] = field(default_factory=dict)
    chance: dict[tuple[NetworkId, str], frozenset[str]] = field(default_factory=dict)
    logits: frozenset[NetworkId] = frozenset()
    se: dict[tuple[NetworkId, str], frozenset[str]] = field(default_factory=dict)
    # (network, layer) -> metric -> numbers of permutations
    null: dict[tuple[NetworkId, str], dict[str, frozenset[int]]] = field(default_factory=dict)

    @property
    def permuted(self) -> set[tuple[NetworkId, str]]:
        """Return the networks and layers that were compared with permuted examples."""
        return self.chance.keys() | self.null.keys()


def contents_of(paths: Iterable[str]) -> Contents:
    """Return what is committed according to a listing of a sweep's objects. paths : from the sweep's folder"""
    pieces = list[Place]()
    compared: dict[str, dict[tuple[NetworkId, str], set[str]]] = {"comparison": {}, "chance": {}, "se": {}}
    nulls: dict[tuple[NetworkId, str], dict[str, frozenset[int]]] = {}
    for place in filter(None, map(place_of, paths)):
        if place.network is None:
            continue
        if place.kind in compared:
            compared[place.kind].setdefault((place.network, place.layer), set()).update(place.metrics)
        elif place.kind == "null":
            numbers = nulls.setdefault((place.network, place.layer), {})
            numbers |= {name: numbers.get(name, frozenset()) | {*place.permutations} for name in place.metrics}
        else:
            pieces.append(place)
    committed = _current(pieces)
    networks, activations, logits = (
        {network for network, kind in committed if kind == wanted} for wanted in ("network", "activations", "logits")
    )
    # what is derived from a network counts only while the network is committed
    comparisons, chance, se = (
        {key: frozenset(names) for key, names in compared[what].items() if key[0] in networks}
        for what in ("comparison", "chance", "se")
    )
    null = dict(filter(lambda of_layer: of_layer[0][0] in networks, nulls.items()))
    made = frozenset(activations & networks), comparisons, chance, frozenset(logits & networks)
    return Contents(frozenset(networks), *made, se, null)


def current_marks(paths: Iterable[str], *kinds: Kind) -> dict[tuple[NetworkId, str], str]:
    """Return (network, kind) -> the path of the mark that counts, of the pieces of these kinds that are committed.

    paths : a listing, from the sweep's folder
    kinds : among network, activations and logits
    """
    pieces = [place for place in map(place_of, paths) if place is not None and place.kind in kinds]
    return {key: mark_path(place.piece, place.generation) for key, place in _current(pieces).items()}


def _current(places: Iterable[Place]) -> dict[tuple[NetworkId, str], Place]:
    """Return (network, kind) -> the mark that counts."""
    marks, dropped = list[tuple[_Generation, Place]](), set[_Generation]()
    for place in places:
        if place.network is None:
            continue
        of = place.network, place.kind, place.generation
        if place.dropped:
            dropped.add(of)
        else:
            marks.append((of, place))
    return {(of[0], of[1]): place for of, place in marks if _counts(of, dropped)}


_Generation = tuple[NetworkId, str, int]


def _counts(mark: _Generation, dropped: set[_Generation]) -> bool:
    """Return whether the mark counts: all earlier generations of its piece were dropped, and its own was not."""
    *piece, generation = mark
    return mark not in dropped and all((*piece, number) in dropped for number in range(1, generation))
