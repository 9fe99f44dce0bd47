"""Comparisons as jobs for workers."""

import itertools
from dataclasses import dataclass

from distsim.specs import NetworkId, Sweep
from distsim.store import Pair

MOST = 20  # networks that a job compares one after the other: a job whose worker dies begins anew


@dataclass(frozen=True)
class Comparison:
    """One layer of several networks, each with the metrics it lacks. All come from one complete network."""

    problem: str
    layer: str
    networks: tuple[tuple[NetworkId, tuple[str, ...]], ...]
    chance: bool = False  # compare with permuted examples

    @property
    def label(self) -> str:
        """Return what is compared, in words."""
        return f"layer {self.layer}"

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """Return the metrics of all networks, each once."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(metrics for _, metrics in self.networks)))

    @property
    def layers(self) -> tuple["Comparison", ...]:
        """Return the job layer by layer."""
        return (self,)


@dataclass(frozen=True)
class NetworkComparison:
    """All layers of several networks, each with the metrics it lacks: one network after the other, on a GPU.

    All come from one complete network.
    """

    problem: str
    networks: tuple[tuple[NetworkId, tuple[tuple[str, tuple[str, ...]], ...]], ...]
    chance: bool = False

    @property
    def label(self) -> str:
        """Return what is compared, in words."""
        first = self.networks[0][0].label
        return first if len(self.networks) == 1 else f"{first} to {self.networks[-1][0].label}"

    @property
    def layers(self) -> tuple[Comparison, ...]:
        """Return the job layer by layer."""
        by_layer: dict[str, list[tuple[NetworkId, tuple[str, ...]]]] = {}
        for network, layers in self.networks:
            for layer, metrics in layers:
                by_layer.setdefault(layer, []).append((network, metrics))
        return tuple(Comparison(self.problem, layer, tuple(of), self.chance) for layer, of in by_layer.items())


@dataclass(frozen=True)
class PairJob:
    """One layer of a tile of networks, and the pairs of these networks to compare."""

    problem: str
    layer: str
    pairs: tuple[Pair, ...]
    metrics: tuple[str, ...]

    @property
    def label(self) -> str:
        """Return what is compared, in words."""
        return f"layer {self.layer}"

    @property
    def networks(self) -> tuple[NetworkId, ...]:
        """Return the networks of all pairs, each once."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(self.pairs)))


Job = Comparison | NetworkComparison | PairJob


def by_network(sweep: Sweep) -> bool:
    """Return whether networks are compared one after the other with all their layers, and not layer by layer.

    A GPU computes the activations of all layers in one forward pass and keeps them.
    """
    return sweep.device != "cpu" and sweep.extent.activations == "memory"


def comparisons(
    lacking: dict[NetworkId, dict[str, tuple[str, ...]]], sweep: Sweep, slots: int, chance: bool = False
) -> list[Comparison | NetworkComparison]:
    """Return the missing comparisons as jobs, layer by layer or network by network.

    slots : comparisons at once; a layer's networks are divided among jobs if slots would idle, and so are all networks
    chance : compare with permuted examples
    """
    numbers = sorted({network.complete for network in lacking})
    if len(numbers) > 1:
        parts = [{network: of for network, of in lacking.items() if network.complete == number} for number in numbers]
        return list(itertools.chain.from_iterable(comparisons(part, sweep, slots, chance) for part in parts))
    if by_network(sweep):
        wanted = [(network, tuple(lacking[network].items())) for network in sorted(lacking)]
        size = max(1, min(-(-len(wanted) // slots), MOST))
        blocks = [tuple(wanted[start : start + size]) for start in range(0, len(wanted), size)]
        return [NetworkComparison(sweep.name, block, chance) for block in blocks]
    by_layer: dict[str, list[tuple[NetworkId, tuple[str, ...]]]] = {}
    for network in sorted(lacking):
        for layer, metrics in lacking[network].items():
            by_layer.setdefault(layer, []).append((network, metrics))
    jobs: list[Comparison | NetworkComparison] = []
    for layer, networks in by_layer.items():
        parts_of_layer = max(1, min(len(networks), -(-slots // max(len(by_layer), 1))))
        size = -(-len(networks) // parts_of_layer)
        for start in range(0, len(networks), size):
            jobs.append(Comparison(sweep.name, layer, tuple(networks[start : start + size]), chance))
    return jobs
