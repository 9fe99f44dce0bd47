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
    chance: bool = False  # compare with permuted examples


@dataclass(frozen=True)
class PairJob:
    """One layer of a tile of networks, and the pairs of these networks to compare."""

    problem: str
    layer: str
    pairs: tuple[Pair, ...]
    metrics: tuple[str, ...]

    @property
    def networks(self) -> tuple[NetworkId, ...]:
        """Return the networks of all pairs, each once."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(self.pairs)))


def comparisons(
    lacking: dict[NetworkId, dict[str, tuple[str, ...]]], sweep: Sweep, slots: int, chance: bool = False
) -> list[Comparison]:
    """Return the missing comparisons as jobs, layer by layer.

    slots : comparisons at once; a layer's networks are divided among jobs if slots would idle
    chance : compare with permuted examples
    """
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
