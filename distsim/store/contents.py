"""Which parts of a sweep a store holds, told from the names of its objects alone."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from distsim.specs import NetworkId
from distsim.store.paths import place_of


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
    marks: dict[str, set[tuple[NetworkId, str, int]]] = {"COMMIT": set(), "DROPPED": set()}
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
            word = "DROPPED" if place.dropped else "COMMIT"
            marks[word].add((place.network, place.kind, place.generation))
    committed = {mark[:2] for mark in marks["COMMIT"] if _current(mark, marks["DROPPED"])}
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


def _current(mark: tuple[NetworkId, str, int], dropped: set[tuple[NetworkId, str, int]]) -> bool:
    """Return whether the mark counts: all earlier generations of its piece were dropped, and its own was not."""
    *piece, generation = mark
    return mark not in dropped and all((*piece, number) in dropped for number in range(1, generation))
