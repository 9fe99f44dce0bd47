"""Comparisons as jobs for workers."""

import itertools
from dataclasses import dataclass

from distsim.specs import NetworkId, Sweep
from distsim.store import Pair


@dataclass(frozen=True)
class Comparison:
    """One layer of several networks, each with the metrics it lacks."""

    problem: str
    layer: str
    networks: tuple[tuple[NetworkId, tuple[str, ...]], ...]
    chance: bool = False  # with the networks' examples permuted


@dataclass(frozen=True)
class PairJob:
    """One layer of a tile of networks, and the pairs of them that are to be compared."""

    problem: str
    layer: str
    pairs: tuple[Pair, ...]
    metrics: tuple[str, ...]

    @property
    def networks(self) -> tuple[NetworkId, ...]:
        return tuple(dict.fromkeys(itertools.chain.from_iterable(self.pairs)))


def comparisons(
    lacking: dict[NetworkId, dict[str, tuple[str, ...]]], sweep: Sweep, slots: int, chance: bool = False
) -> list[Comparison]:
    """The missing comparisons as jobs, layer by layer; a layer's networks are divided where slots would idle."""
    by_layer: dict[str, list[tuple[NetworkId, tuple[str, ...]]]] = {}
    for network in sorted(lacking):
        for layer, metrics in lacking[network].items():
            by_layer.setdefault(layer, []).append((network, metrics))
    jobs = []
    for layer, networks in by_layer.items():
        blocks = max(1, min(len(networks), -(-slots // max(len(by_layer), 1))))
        size = -(-len(networks) // blocks)
        for start in range(0, len(networks), size):
            jobs.append(Comparison(sweep.name, layer, tuple(networks[start : start + size]), chance))
    return jobs
