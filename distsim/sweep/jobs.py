"""Comparisons as jobs for workers."""

import itertools
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from distsim.specs import NetworkId, Sweep
from distsim.store import Pair
from distsim.sweep.plan import Beside

T = TypeVar("T")

NOTHING = Beside()
MOST = 20  # networks that a job compares one after the other: a job whose worker dies begins anew


@dataclass(frozen=True)
class Comparison:
    """One layer of several networks, each with the metrics it lacks. All come from one complete network."""

    problem: str
    layer: str
    networks: tuple[tuple[NetworkId, tuple[str, ...]], ...]
    chance: bool = False  # compare with permuted examples
    beside: tuple[tuple[NetworkId, Beside], ...] = ()  # what some of the networks lack beside these values

    @property
    def label(self) -> str:
        """Return what is compared, in words."""
        return f"layer {self.layer}"

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """Return the metrics of all networks, each once."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(map(self.metrics_of, dict(self.networks)))))

    def beside_of(self, network: NetworkId) -> Beside:
        """Return what a network lacks beside its values."""
        return dict(self.beside).get(network, NOTHING)

    def metrics_of(self, network: NetworkId) -> tuple[str, ...]:
        """Return all metrics of a network: of values, and of what is measured beside them."""
        return tuple(dict.fromkeys((*dict(self.networks)[network], *self.beside_of(network).metrics)))

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
    beside: tuple[tuple[NetworkId, tuple[tuple[str, Beside], ...]], ...] = ()

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
        beside: dict[str, list[tuple[NetworkId, Beside]]] = {}
        for network, of_layers in self.beside:
            for layer, lacking in of_layers:
                beside.setdefault(layer, []).append((network, lacking))
                of = by_layer.setdefault(layer, [])
                if network not in dict(of):
                    of.append((network, ()))
        return tuple(
            Comparison(self.problem, layer, tuple(of), self.chance, tuple(beside.get(layer, ())))
            for layer, of in by_layer.items()
        )


@dataclass(frozen=True)
class PairJob:
    """One layer of a tile of networks, and the pairs of these networks to compare."""

    problem: str
    layer: str
    pairs: tuple[Pair, ...]
    metrics: tuple[str, ...]
    se: tuple[str, ...] = ()  # the metrics whose standard error over examples is asked for

    @property
    def label(self) -> str:
        """Return what is compared, in words."""
        return f"layer {self.layer}"

    @property
    def networks(self) -> tuple[NetworkId, ...]:
        """Return the networks of all pairs, each once."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(self.pairs)))


Job = Comparison | NetworkComparison | PairJob


def without(jobs: Iterable[Job], others: Iterable[Job]) -> list[Job]:
    """Return the jobs without what the others do: layers of networks, with their examples permuted or not."""
    done: dict[tuple[str, bool, NetworkId], set[str]] = {}
    for other in others:
        for layer in () if isinstance(other, PairJob) else other.layers:
            for network, _ in layer.networks:
                done.setdefault((other.problem, layer.chance, network), set()).add(layer.layer)
    kept: list[Job] = []
    for job in jobs:
        if not isinstance(job, PairJob):
            job = _without(
                job, {network: done.get((job.problem, job.chance, network), set()) for network, _ in job.networks}
            )
        kept += [job] if pieces(job) else []
    return kept


def _without(job: Comparison | NetworkComparison, done: Mapping[NetworkId, Set[str]]) -> Comparison | NetworkComparison:
    """Return a job without these layers of its networks."""
    if isinstance(job, Comparison):
        return replace(job, networks=tuple(asked for asked in job.networks if job.layer not in done[asked[0]]))
    beside = _layers_without(job.beside, done)
    networks = _layers_without(job.networks, done)
    return replace(
        job, networks=tuple(asked for asked in networks if asked[1] or dict(beside).get(asked[0])), beside=beside
    )


def _layers_without(
    networks: Iterable[tuple[NetworkId, tuple[tuple[str, T], ...]]], done: Mapping[NetworkId, Set[str]]
) -> tuple[tuple[NetworkId, tuple[tuple[str, T], ...]], ...]:
    return tuple((network, tuple(of for of in layers if of[0] not in done[network])) for network, layers in networks)


def pieces(job: Job) -> int:
    """Return how many layers of networks, or pairs of them, a job compares."""
    return len(job.pairs) if isinstance(job, PairJob) else sum(len(layer.networks) for layer in job.layers)


def by_network(sweep: Sweep) -> bool:
    """Return whether networks are compared one after the other with all their layers, and not layer by layer.

    A GPU computes the activations of all layers in one forward pass and keeps them.
    """
    return sweep.device != "cpu" and sweep.extent.activations == "memory"


def comparisons(
    lacking: Mapping[NetworkId, dict[str, tuple[str, ...]]],
    sweep: Sweep,
    slots: int,
    chance: bool = False,
    beside: Mapping[NetworkId, dict[str, Beside]] = MappingProxyType({}),
) -> list[Comparison | NetworkComparison]:
    """Return the missing comparisons as jobs, layer by layer or network by network.

    slots : comparisons at once; a layer's networks are divided among jobs if slots would idle, and so are all networks
    chance : compare with permuted examples
    beside : what is to be measured beside, from the same pass over the activations
    """
    networks = sorted({*lacking, *beside})
    numbers = sorted({network.complete for network in networks})
    if len(numbers) > 1:
        jobs_of_each = (
            comparisons(_of(lacking, number), sweep, slots, chance, _of(beside, number)) for number in numbers
        )
        return list(itertools.chain.from_iterable(jobs_of_each))
    if by_network(sweep):
        wanted = [(network, tuple(lacking.get(network, {}).items())) for network in networks]
        size = max(1, min(-(-len(wanted) // slots), MOST))
        parts = [tuple(wanted[start : start + size]) for start in range(0, len(wanted), size)]
        return [
            NetworkComparison(
                sweep.name,
                part,
                chance,
                tuple((network, tuple(beside[network].items())) for network, _ in part if network in beside),
            )
            for part in parts
        ]
    by_layer: dict[str, list[tuple[NetworkId, tuple[str, ...]]]] = {}
    for network in networks:
        values, more = lacking.get(network, {}), beside.get(network, {})
        for layer in [*values, *(name for name in more if name not in values)]:
            by_layer.setdefault(layer, []).append((network, values.get(layer, ())))
    jobs: list[Comparison | NetworkComparison] = []
    for layer, of_layer in by_layer.items():
        blocks = max(1, min(len(of_layer), -(-slots // max(len(by_layer), 1))))
        size = -(-len(of_layer) // blocks)
        for start in range(0, len(of_layer), size):
            some = tuple(of_layer[start : start + size])
            also = tuple((one, beside[one][layer]) for one, _ in some if layer in beside.get(one, {}))
            jobs.append(Comparison(sweep.name, layer, some, chance, also))
    return jobs


def _of(lacking: Mapping[NetworkId, T], complete: int) -> dict[NetworkId, T]:
    """Return what networks from this complete network lack."""
    return {network: of for network, of in lacking.items() if network.complete == complete}
