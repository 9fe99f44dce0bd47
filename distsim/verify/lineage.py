"""Checks of where values come from: activations and comparisons name the weights that they were computed from."""

from collections.abc import Iterable, Iterator, Mapping

from distsim.specs import NetworkId
from distsim.store import Mark
from distsim.store.paths import DERIVED, Place
from distsim.store.records import WEIGHTS, WEIGHTS_X, WEIGHTS_Y, weights_of


def faults(marks: Mapping[str, Mark], values: Iterable[Place]) -> dict[str, str]:
    """Return piece -> what is wrong with it.

    marks : piece -> its mark, of networks, of activations and logits beside them, and of files of values

    Where several pieces agree on other weights than a network's, the network is the one that was replaced.
    """
    claims: dict[str, dict[str, str]] = {}  # network -> piece that came from it -> SHA-256 of its weights
    for piece, network, sha256 in _origins(marks, values):
        if network in marks:
            claims.setdefault(network, {})[piece] = sha256
    found = {}
    for network, named in claims.items():
        ours = weights_of(marks[network])
        others = {piece: sha256 for piece, sha256 in named.items() if sha256 != ours}
        if len(others) == len(named) > 1 and len(set(others.values())) == 1:
            found[network] = f"its weights are not those that {len(named)} pieces, as {min(named)}, come from"
        else:
            found |= dict.fromkeys(others, f"comes from other weights than those of {network}")
    return found


def named(marks: Mapping[str, Mark], values: Iterable[Place]) -> bool:
    """Return whether any piece names the weights that it comes from. Those of 0.1 do not."""
    return any(True for _ in _origins(marks, values))


def _origins(marks: Mapping[str, Mark], values: Iterable[Place]) -> Iterator[tuple[str, str, str]]:
    """Yield a piece, the path of a network that it comes from, and the SHA-256 of the weights, if its mark has them."""
    for piece, mark in marks.items():
        origin, _, what = piece.rpartition("/")
        if what in DERIVED and WEIGHTS in mark.provenance:
            yield piece, origin, str(mark.provenance[WEIGHTS])
    for place in values:
        mark = marks.get(place.piece, _NONE)
        for name, sha256 in mark.provenance.items():
            if place.network is not None and name in (WEIGHTS_X, WEIGHTS_Y):
                network = NetworkId(complete=place.network.complete) if name == WEIGHTS_X else place.network
                yield place.piece, network.path, str(sha256)
            elif name.startswith(f"{WEIGHTS} "):  # of a tile of pairs
                yield place.piece, name.removeprefix(f"{WEIGHTS} "), str(sha256)


_NONE = Mark("", {})
