"""What a sweep still lacks: the difference between what is asked for and what the store holds."""

import shutil
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from distsim.metrics.registry import METRICS, Metric
from distsim.specs import COMPLETE, PERMUTATIONS, NetworkId, Sweep
from distsim.store import Contents, NoSpace, SweepStore
from distsim.store.described import ComparedLayer, StoredMetric

DISK_SHARE = 0.8  # of the free space, that activations may take


@dataclass(frozen=True)
class Missing:
    """What is not in the store yet. Comparisons also say which activations are wanted."""

    complete: bool
    chains: dict[int, tuple[int, ...]]  # run -> iterations whose networks are not committed
    activations: tuple[NetworkId, ...]  # wanted and absent, the complete network's first
    comparisons: dict[NetworkId, dict[str, tuple[str, ...]]]  # network -> layer -> metrics
    chance: dict[NetworkId, dict[str, tuple[str, ...]]] = field(default_factory=dict)  # the same, examples permuted

    def __bool__(self) -> bool:
        return bool(self.complete or self.chains or self.activations or self.comparisons or self.chance)

    @property
    def to_compare(self) -> set[NetworkId]:
        return self.comparisons.keys() | self.chance.keys()

    @property
    def reference(self) -> bool:
        """Whether the complete network or its activations are missing."""
        return self.complete or COMPLETE in self.activations

    @property
    def networks(self) -> int:
        return self.complete + sum(map(len, self.chains.values()))

    @property
    def values(self) -> int:
        """Similarities to compute."""
        whole = sum(len(metrics) for layers in self.comparisons.values() for metrics in layers.values())
        return whole + PERMUTATIONS * sum(len(m) for layers in self.chance.values() for m in layers.values())

    def without(self, given_up: Set[NetworkId]) -> "Missing":
        """What is left to try when these networks have failed; nothing without the complete one."""
        if COMPLETE in given_up:
            return Missing(False, {}, (), {})
        left = {run: tuple(i for i in all_ if NetworkId(run, i) not in given_up) for run, all_ in self.chains.items()}
        return Missing(
            self.complete,
            {run: iterations for run, iterations in left.items() if iterations},
            tuple(network for network in self.activations if network not in given_up),
            {network: layers for network, layers in self.comparisons.items() if network not in given_up},
            {network: layers for network, layers in self.chance.items() if network not in given_up},
        )


def missing(
    sweep: Sweep,
    contents: Contents,
    layers: Sequence[ComparedLayer],
    metrics: Mapping[str, Metric | StoredMetric] = METRICS,
) -> Missing:
    """What of `sweep` the store with these contents lacks. metrics : what those asked for are, by name."""
    extent = sweep.extent
    wanted = extent.networks
    asked = [metrics[name] for name in extent.metrics]
    comparisons = _lacking(wanted, contents.comparisons, asked, layers)
    chance = _lacking(extent.chance_networks, contents.chance, asked, layers)
    activations: list[NetworkId] = []
    if extent.activations == "store":
        keep_all = extent.retention == "all"
        activations += [COMPLETE] if comparisons or chance or keep_all else []
        activations += [network for network in wanted if keep_all or network in comparisons or network in chance]
    return Missing(
        complete=COMPLETE not in contents.networks,
        chains=_by_run(network for network in wanted if network not in contents.networks),
        activations=tuple(network for network in activations if network not in contents.activations),
        comparisons=comparisons,
        chance=chance,
    )


def _lacking(
    wanted: Iterable[NetworkId],
    there: Mapping[tuple[NetworkId, str], frozenset[str]],
    metrics: Sequence[Metric | StoredMetric],
    layers: Sequence[ComparedLayer],
) -> dict[NetworkId, dict[str, tuple[str, ...]]]:
    """Network -> layer -> the metrics that apply to it and are not there."""
    lacking: dict[NetworkId, dict[str, tuple[str, ...]]] = {}
    for network in wanted:
        for layer in layers:
            held = there.get((network, layer.name), frozenset())
            applicable = (metric.name for metric in metrics if metric.applies_to(layer.kind))
            if names := tuple(name for name in applicable if name not in held):
                lacking.setdefault(network, {})[layer.name] = names
    return lacking


@dataclass(frozen=True)
class Chain:
    """What one trial does: train these iterations of a run, write these iterations' activations."""

    run: int
    train: tuple[int, ...]
    extract: tuple[int, ...]


def wave(sweep: Sweep, lacking: Missing, room: int | None, per_network: int, promised: int = 0) -> list[Chain]:
    """The chains to run before the next comparisons: all training, and as many activations as there is room for.

    room : bytes that activations may take, None without limit. promised : of these, to other problems in this wave.
    Where they do not all fit, a wave extracts what does, its comparisons make room (retention `reference`), and the
    next wave extracts more. NoSpace: not even one fits, or all are to be kept.
    """
    networks = [network for network in lacking.activations if not network.is_complete]
    fits = len(networks)
    if room is not None and per_network and networks:
        reference = per_network if COMPLETE in lacking.activations else 0
        keeps = sweep.extent.retention == "all"
        needed = reference + per_network * (len(networks) if keeps else 1)
        if needed > room - (promised if keeps else 0):
            raise NoSpace(f"{sweep.name}: activations need {needed:,} bytes of disk, there is room for {room:,}")
        fits = max(0, (room - promised - reference) // per_network)
    extract = _by_run(networks[:fits])
    runs = sorted(lacking.chains.keys() | extract.keys())
    return [Chain(run, lacking.chains.get(run, ()), extract.get(run, ())) for run in runs]


def _by_run(networks: Iterable[NetworkId]) -> dict[int, tuple[int, ...]]:
    """Run -> its iterations among these networks, both in order; a complete network is of no run."""
    found: dict[int, list[int]] = {}
    for network in sorted(networks):
        if network.run is not None:
            found.setdefault(network.run, []).append(network.iteration)
    return {run: tuple(iterations) for run, iterations in found.items()}


def packed(chains: Sequence[Chain], size: int) -> list[tuple[Chain, ...]]:
    """The chains, `size` to a trial; the last trial may have fewer."""
    return [tuple(chains[start : start + size]) for start in range(0, len(chains), size)]


def runs_of(pack: Sequence[Chain]) -> str:
    """The runs of a trial, for people."""
    runs = [chain.run for chain in pack]
    return f"run {runs[0]}" if len(runs) == 1 else f"runs {', '.join(map(str, runs))}"


def room_for_activations(store: SweepStore) -> int | None:
    """Bytes that activations may still take in the store; None for an object store."""
    folder = store.root.folder
    return None if folder is None else int(shutil.disk_usage(folder).free * DISK_SHARE)


def finished_with(sweep: Sweep, contents: Contents, lacking: Missing) -> list[NetworkId]:
    """Networks whose activations have served: to be dropped under retention `reference`."""
    if sweep.extent.retention == "all":
        return []
    return sorted((contents.activations & set(sweep.extent.networks)) - lacking.to_compare)
