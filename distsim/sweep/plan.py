"""The plan: what a sweep still lacks, which is the difference between what is asked for and what the store holds."""

import itertools
import shutil
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from distsim.metrics.registry import METRICS, Metric
from distsim.specs import PERMUTATIONS, NetworkId, OfControl, RunId, Sweep
from distsim.store import Contents, NoSpace, SweepStore
from distsim.store.described import ComparedLayer, StoredMetric

DISK_SHARE = 0.8  # share of the free space that activations may use


@dataclass(frozen=True)
class Missing:
    """What is not in the store yet."""

    complete: tuple[int, ...]  # numbers of complete networks that are not committed
    chains: dict[RunId, tuple[int, ...]]  # run -> iterations whose networks are not committed
    activations: tuple[NetworkId, ...]  # networks whose activations are needed and missing, complete ones first
    comparisons: dict[NetworkId, dict[str, tuple[str, ...]]]  # network -> layer -> metrics
    chance: dict[NetworkId, dict[str, tuple[str, ...]]] = field(default_factory=dict)  # the same, examples permuted

    def __bool__(self) -> bool:
        return bool(self.complete or self.chains or self.activations or self.comparisons or self.chance)

    @property
    def to_compare(self) -> set[NetworkId]:
        """Return the networks that lack similarities or chance levels."""
        return self.comparisons.keys() | self.chance.keys()

    @property
    def references(self) -> tuple[NetworkId, ...]:
        """Return the complete networks that are missing, or whose activations are."""
        of_activations = {network for network in self.activations if network.is_complete}
        return tuple(sorted(of_activations | {NetworkId(complete=number) for number in self.complete}))

    @property
    def networks(self) -> int:
        """Return the number of networks to train."""
        return len(self.complete) + sum(map(len, self.chains.values()))

    @property
    def values(self) -> int:
        """Return the number of similarities to compute, each permutation of a chance level counted."""
        similarities, chance = (
            sum(len(metrics) for layers in lacking.values() for metrics in layers.values())
            for lacking in (self.comparisons, self.chance)
        )
        return similarities + PERMUTATIONS * chance

    def without(self, given_up: Set[NetworkId]) -> "Missing":
        """Return what is left to try when these networks have failed: nothing of a complete network that has."""

        def left(network: NetworkId) -> bool:
            return network not in given_up and network.origin not in given_up

        trained = {run.network(i) for run, iterations in self.chains.items() for i in iterations}
        return Missing(
            tuple(number for number in self.complete if left(NetworkId(complete=number))),
            _by_run(filter(left, trained)),
            tuple(filter(left, self.activations)),
            {network: layers for network, layers in self.comparisons.items() if left(network)},
            {network: layers for network, layers in self.chance.items() if left(network)},
        )


def missing(
    sweep: Sweep,
    contents: Contents,
    layers: Sequence[ComparedLayer],
    metrics: Mapping[str, Metric | StoredMetric] = METRICS,
) -> Missing:
    """Return what a store with these contents lacks of the sweep.

    metrics : name -> metric, for those asked for
    """
    extent = sweep.extent
    wanted = extent.networks
    asked_for = [metrics[name] for name in extent.metrics]
    comparisons = _lacking(wanted, contents.comparisons, asked_for, layers)
    chance = _lacking(extent.chance_networks, contents.chance, asked_for, layers)
    activations: list[NetworkId] = []
    if extent.activations == "store":
        keep_all = extent.retention == "all"
        compared = comparisons.keys() | chance.keys()
        origins = {network.origin for network in compared}
        activations += [network for network in extent.complete_networks if keep_all or network in origins]
        activations += [network for network in wanted if keep_all or network in compared]
    return Missing(
        complete=tuple(n.complete for n in extent.complete_networks if n not in contents.networks),
        chains=_by_run(network for network in wanted if network not in contents.networks),
        activations=tuple(network for network in activations if network not in contents.activations),
        comparisons=comparisons,
        chance=chance,
    )


def _lacking(
    wanted: Iterable[NetworkId],
    committed: Mapping[tuple[NetworkId, str], frozenset[str]],
    metrics: Sequence[Metric | StoredMetric],
    layers: Sequence[ComparedLayer],
) -> dict[NetworkId, dict[str, tuple[str, ...]]]:
    """Return network -> layer -> the metrics that apply to it and are not committed."""
    lacking: dict[NetworkId, dict[str, tuple[str, ...]]] = {}
    for network in wanted:
        for layer in layers:
            done = committed.get((network, layer.name), frozenset())
            applicable = (metric.name for metric in metrics if metric.applies_to(layer.kind))
            if names := tuple(name for name in applicable if name not in done):
                lacking.setdefault(network, {})[layer.name] = names
    return lacking


@dataclass(frozen=True)
class Chain:
    """What one trial does: train some iterations of a run, and extract activations of some."""

    run: int
    train: tuple[int, ...]
    extract: tuple[int, ...]
    complete: int = 0
    control: OfControl = ""

    @classmethod
    def of(cls, run: RunId, train: tuple[int, ...], extract: tuple[int, ...] = ()) -> "Chain":
        """Return the chain of this run."""
        return cls(run.run, train, extract, run.complete, run.control)

    @property
    def of_run(self) -> RunId:
        """Return the run that the chain belongs to."""
        return RunId.of(self.run, self.complete, self.control)


def wave(sweep: Sweep, lacking: Missing, room: int | None, per_network: int, promised: int = 0) -> list[Chain]:
    """Return the chains to run before the next comparisons: all training, and as many activations as fit.

    If they do not all fit, a wave extracts some. Its comparisons make room (retention `reference`), and the next wave
    extracts more.

    room : bytes that activations may take; None: no limit
    per_network : bytes of one network's activations
    promised : bytes of `room` that other problems take in this wave

    NoSpace: not even one network's activations fit, or all are to be kept and do not fit.
    """
    networks = [network for network in lacking.activations if not network.is_complete]
    fits = len(networks)
    if room is not None and per_network and networks:
        reference = per_network * sum(network.is_complete for network in lacking.activations)
        keeps = sweep.extent.retention == "all"
        needed = reference + per_network * (len(networks) if keeps else 1)
        if needed > room - (promised if keeps else 0):
            raise NoSpace(f"{sweep.name}: activations need {needed:,} bytes of disk, there is room for {room:,}")
        fits = max(0, (room - promised - reference) // per_network)
    extract = _by_run(networks[:fits])
    runs = sorted(lacking.chains.keys() | extract.keys())
    return [Chain.of(run, lacking.chains.get(run, ()), extract.get(run, ())) for run in runs]


def _by_run(networks: Iterable[NetworkId]) -> dict[RunId, tuple[int, ...]]:
    """Return run -> its iterations among these networks, both in order. A complete network has no run."""
    runs: dict[RunId, list[int]] = {}
    for network in sorted(networks):
        if network.of_run is not None:
            runs.setdefault(network.of_run, []).append(network.iteration)
    return {run: tuple(iterations) for run, iterations in runs.items()}


def trials_of(sweep: Sweep, chains: Sequence[Chain]) -> list[tuple[Chain, ...]]:
    """Return the chains of each trial: a pack, the last of which may have fewer, or a group of fused runs.

    A trial's chains start from one complete network. Runs r with the same r div `fuse` are a group, whichever of them
    are left to train. Controls are never fused: they are few, and a group costs nearly as much as if it were full.
    """
    size, pack, trials = sweep.identity.fuse, sweep.pack, list[tuple[Chain, ...]]()
    ordered = sorted(chains, key=lambda chain: chain.of_run)
    for _, of_complete in itertools.groupby(ordered, lambda chain: chain.complete):
        if size > 1:
            groups = itertools.groupby(of_complete, lambda chain: (chain.run // size, chain.control and chain.of_run))
            trials += [tuple(group) for _, group in groups]
        else:
            of_one = list(of_complete)
            trials += [tuple(of_one[start : start + pack]) for start in range(0, len(of_one), pack)]
    return trials


def runs_of(pack: Sequence[Chain]) -> str:
    """Return the runs of a trial in words, such as "runs 0, 1"."""
    if len(pack) == 1 or any(chain.control or chain.complete for chain in pack):
        return ", ".join(chain.of_run.label for chain in pack)
    return f"runs {', '.join(str(chain.run) for chain in pack)}"


def room_for_activations(store: SweepStore) -> int | None:
    """Return the bytes that activations may still take in the store; None for an object store."""
    folder = store.root.folder
    return None if folder is None else int(shutil.disk_usage(folder).free * DISK_SHARE)


def finished_with(sweep: Sweep, contents: Contents, lacking: Missing) -> list[NetworkId]:
    """Return the networks whose activations are no longer needed and may be dropped."""
    if sweep.extent.retention == "all":
        return []
    return sorted((contents.activations & set(sweep.extent.networks)) - lacking.to_compare)
