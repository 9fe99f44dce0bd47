"""A listing of a sweep's objects, sorted into pieces of networks, files of values, and the rest."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from distsim.specs import PATTERN, NetworkId
from distsim.store.paths import DERIVED, Place, place_of

ASIDE = ".damaged"  # suffix of a spec or request that repair sets aside: somebody may want to read its flags
CHECKED = {"network": "network", "activations": "network's activations", "logits": "network's test logits"}
VALUES = {"comparison": "comparison", "chance": "chance level", "null": "null", "se": "standard error"}
VALUES |= {"pairs": "tile of pairs", "pairs_se": "standard errors of a tile of pairs"}


@dataclass
class Piece:
    """A network, its activations or its logits."""

    path: str
    network: NetworkId
    kind: str
    marks: dict[int, str] = field(default_factory=dict)  # generation -> path
    generation: int = 1  # the one that counts


def listed(paths: Iterable[str]) -> tuple[dict[str, Piece], list[Place], list[str]]:
    """Sort a listing. Return path -> piece, run by run; the files of values; the paths of all other objects.

    A mark must name the other objects, or they are unknown.
    """
    pieces: dict[str, Piece] = {}
    values, others = list[Place](), list[str]()
    for path in sorted(paths):
        place = place_of(path)
        if place is not None and place.kind in VALUES:
            values.append(place)
        elif place is not None and place.network is not None and not place.dropped:
            piece = Piece(place.piece, place.network, place.kind)
            pieces.setdefault(place.piece, piece).marks[place.generation] = path
        else:
            others.append(path)
    ordered = sorted(pieces.values(), key=lambda piece: (piece.network, list(CHECKED).index(piece.kind)))
    return {piece.path: piece for piece in ordered}, values, others


def of_network(path: str) -> tuple[NetworkId, str] | None:
    """Return the network in whose folder a path lies, and the path within it; None if it lies elsewhere."""
    match = _FOLDER.match(path)
    return None if match is None else (NetworkId.of_match(match), path[match.end() :])


_FOLDER = re.compile(f"{PATTERN}/")


def folder_of(path: str) -> tuple[str, str]:
    """Return the piece of a network in whose folder a path lies, and the path within it; "" and the path elsewhere."""
    split = of_network(path)
    if split is None:
        return "", path
    network, inside = split
    for derived in (f"{kind}/" for kind in DERIVED):
        if inside.startswith(derived):
            return f"{network.path}/{derived}".rstrip("/"), inside.removeprefix(derived)
    return network.path, inside
