"""What the path of an object says: whose it is, and which record it holds."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from distsim.specs import PATTERN, NetworkId, digest
from distsim.specs.layer_names import from_path, in_path

Pair = tuple[NetworkId, NetworkId]
Kind = (
    Literal["network", "activations", "logits", "comparison", "chance", "null", "se"]
    | Literal["pairs", "pairs_se", "tables", "pair_tables", "figures"]
)

DERIVED = ("activations", "logits")  # pieces beside a network, computed from its weights

_MARK = re.compile(
    rf"(?P<piece>{PATTERN}(?:/(?P<derived>{'|'.join(DERIVED)}))?)/(?P<word>COMMIT|DROPPED)(?:-(?P<generation>[1-9]\d{{0,8}}))?\.json"
)
# Values of one network's layer: similarities, those of permuted examples, and those without a block of the examples
Values = Literal["comparison", "chance", "null", "se"]
VALUES: tuple[Values, ...] = get_args(Values)
_VALUES = re.compile(rf"{PATTERN}/(?P<what>{'|'.join(VALUES)})/(?P<layer>[^/]+)/(?P<named>[^/]+)\.json")
_NUMBERS = re.compile(r"(?P<first>0|[1-9]\d{0,3})-(?P<last>0|[1-9]\d{0,3})")
_PAIRS = re.compile(r"pairs/(?P<layer>[^/]+)/(?P<se>se/)?(?P<named>[^/]+)\.json")
OfPairs = Literal["pairs", "pairs_se"]  # values of pairs of networks, and those without a block of the examples
PAIRS: tuple[OfPairs, ...] = get_args(OfPairs)
_TABLES: dict[str, Kind] = {
    "results/COMMIT.json": "tables",
    "pair_results/COMMIT.json": "pair_tables",
    "figures/COMMIT.json": "figures",
}


@dataclass(frozen=True)
class Place:
    """A mark, or the end of a generation, by its path in the folder of its sweep."""

    kind: Kind
    piece: str  # the folder of a network, of its activations or logits, else the path itself
    network: NetworkId | None = None
    layer: str = ""
    named: str = ""  # of values: the file's name without .json, their metrics or a digest
    generation: int = 1
    dropped: bool = False  # DROPPED.json, which ends the generation

    @property
    def metrics(self) -> list[str]:
        """Return the metrics that the name of a file of values lists, sorted."""
        return (self.named.partition(".")[0] if self.kind == "null" else self.named).split("+")

    @property
    def permutations(self) -> range:
        """Return the numbers of the permutations in the name of a null, as in `cka+nbs.0-1`; no others have any."""
        match = _NUMBERS.fullmatch(self.named.partition(".")[2])
        return range(int(match["first"]), int(match["last"]) + 1) if match else range(0)


def place_of(path: str) -> Place | None:
    """Return what a path says, or None if it is not that of a mark."""
    if match := _MARK.fullmatch(path):
        kind: Any = match["derived"] or "network"
        generation, dropped = int(match["generation"] or 1), match["word"] == "DROPPED"
        return Place(kind, match["piece"], NetworkId.of_match(match), generation=generation, dropped=dropped)
    if match := _VALUES.fullmatch(path):
        what: Any = match["what"]
        place = Place(what, path, NetworkId.of_match(match), from_path(match["layer"]), match["named"])
        return place if bool(place.permutations) == (what == "null") else None
    if match := _PAIRS.fullmatch(path):
        of_pairs: OfPairs = "pairs_se" if match["se"] else "pairs"
        return Place(of_pairs, path, None, from_path(match["layer"]), match["named"])
    derived = _TABLES.get(path)
    return None if derived is None else Place(derived, path)


def values_path(
    network: NetworkId, what: str, layer: str, metrics: Iterable[str], permutations: range = range(0)
) -> str:
    """Return the path of one layer's values.

    what : one of VALUES; permutations : the numbers of those in a null
    """
    numbers = f".{permutations[0]}-{permutations[-1]}" if permutations else ""
    return f"{network.path}/{what}/{in_path(layer)}/{'+'.join(sorted(metrics))}{numbers}.json"


def pairs_path(layer: str, pairs: Iterable[Pair], metrics: Iterable[str], what: OfPairs = "pairs") -> str:
    """Return the path of a tile: one layer's values of pairs of networks, or those without a block of the examples."""
    return f"pairs/{in_path(layer)}/{'se/' * (what == 'pairs_se')}{pairs_key(pairs, metrics)}.json"


def pairs_key(pairs: Iterable[Pair], metrics: Iterable[str]) -> str:
    """Return the name, without .json, of the file that holds these pairs' values."""
    return digest([sorted(f"({a.key}, {b.key})" for a, b in pairs), sorted(metrics)])[:16]
