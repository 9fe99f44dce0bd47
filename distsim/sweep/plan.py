"""The plan: what a sweep still lacks, which is the difference between what is asked for and what the store holds."""

import itertools
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from distsim.metrics.registry import BUILT_IN, METRICS, ONE_SIDED, Metric, se_belongs_to
from distsim.specs import PERMUTATIONS, Extent, NetworkId, OfControl, RunId, Sweep
from distsim.store import Contents, NoSpace, SweepStore
from distsim.store.described import ComparedLayer, StoredMetric

DISK_SHARE = 0.8  # share of the free space that activations may use


@dataclass(frozen=True)
class Beside:
    """What one layer of a network lacks beside its similarities.

    nulls  numbers of permutations, and the metrics that lack them
    se     the metrics that lack a standard error over examples
    """

    nulls: tuple[tuple[range, tuple[str, ...]], ...] = ()
    se: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.nulls or self.se)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return all metrics, each once."""
        of_nulls = itertools.chain.from_iterable(metrics for _, metrics in self.nulls)
        return tuple(dict.fromkeys((*of_nulls, *self.se)))

    @property
    def by_chance(self) -> int:
        """Return the number of values of permuted examples to compute."""
        return sum(len(numbers) * len(metrics) for numbers, metrics in self.nulls)


@dataclass(frozen=True)
class Missing:
    """What is not in the store yet."""

    complete: tuple[int, ...]  # numbers of complete networks that are not committed
    chains: dict[RunId, tuple[int, ...]]  # run -> iterations whose networks are not committed
    activations: tuple[NetworkId, ...]  # networks whose activations are needed and missing, complete ones first
    comparisons: dict[NetworkId, dict[str, tuple[str, ...]]]  # network -> layer -> metrics
    chance: dict[NetworkId, dict[str, tuple[str, ...]]] = field(default_factory=dict)  # the same, examples permuted
    logits: tuple[NetworkId, ...] = ()  # networks whose logits of the test images are missing
    beside: dict[NetworkId, dict[str, Beside]] = field(default_factory=dict)  # network -> layer -> what else

    def __bool__(self) -> bool:
        return any(self.__dict__.values())

    @property
    def to_compare(self) -> set[NetworkId]:
        """Return the networks that lack similarities, chance levels, or what is measured beside them."""
        return self.comparisons.keys() | self.chance.keys() | self.beside.keys()

    @property
    def references(self) -> tuple[NetworkId, ...]:
        """Return the complete networks that are missing, or whose activations or logits are."""
        derived = {network for network in (*self.activations, *self.logits) if network.is_complete}
        return tuple(sorted(derived | {NetworkId(complete=number) for number in self.complete}))

    @property
    def networks(self) -> int:
        """Return the number of networks to train."""
        return len(self.complete) + sum(map(len, self.chains.values()))

    @property
    def similarities(self) -> int:
        """Return the number of similarities to compute."""
        return _count(self.comparisons)

    @property
    def by_chance(self) -> int:
        """Return the number of values of permuted examples to compute."""
        beside = sum(layer.by_chance for layers in self.beside.values() for layer in layers.values())
        return PERMUTATIONS * _count(self.chance) + beside

    @property
    def errors(self) -> int:
        """Return the number of standard errors to compute."""
        return sum(len(layer.se) for layers in self.beside.values() for layer in layers.values())

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
            tuple(filter(left, self.logits)),
            {network: layers for network, layers in self.beside.items() if left(network)},
        )


def _count(lacking: dict[NetworkId, dict[str, tuple[str, ...]]]) -> int:
    return sum(len(metrics) for layers in lacking.values() for metrics in layers.values())


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
    beside = _beside(sweep.extent, contents, asked_for, layers)
    to_compare = comparisons.keys() | chance.keys() | beside.keys()
    activations: list[NetworkId] = []
    if extent.activations == "store":
        keep_all = extent.retention == "all"
        origins = {network.origin for network in to_compare}
        activations += [network for network in extent.complete_networks if keep_all or network in origins]
        activations += [network for network in wanted if keep_all or network in to_compare]
    functional = (*extent.complete_networks, *wanted) if "functional" in extent.measure else ()
    return Missing(
        complete=tuple(n.complete for n in extent.complete_networks if n not in contents.networks),
        chains=_by_run(network for network in wanted if network not in contents.networks),
        activations=tuple(network for network in activations if network not in contents.activations),
        comparisons=comparisons,
        chance=chance,
        logits=tuple(network for network in functional if network not in contents.logits),
        beside=beside,
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


def _beside(
    extent: Extent, contents: Contents, metrics: Sequence[Metric | StoredMetric], layers: Sequence[ComparedLayer]
) -> dict[NetworkId, dict[str, Beside]]:
    """Return network -> layer -> what it lacks beside its similarities and the chance levels."""
    wanted = [metric for metric in metrics if se_belongs_to(metric) in extent.measure]
    errors = _lacking(extent.networks, contents.se, wanted, layers)
    permuted = [metric for metric in metrics if _is_permuted(metric.name)]
    lacking: dict[NetworkId, dict[str, Beside]] = {}
    with_null = set(extent.null_networks)
    for network in extent.networks:
        for layer in layers:
            nulls: tuple[tuple[range, tuple[str, ...]], ...] = ()
            if network in with_null:
                names = [metric.name for metric in permuted if metric.applies_to(layer.kind)]
                nulls = tuple(_nulls(extent, contents, network, layer.name, names))
            if beside := Beside(nulls, errors.get(network, {}).get(layer.name, ())):
                lacking.setdefault(network, {})[layer.name] = beside
    return lacking


def _is_permuted(metric: str) -> bool:
    """Return whether permutations say what a metric is by chance: no formula does, and it looks at both sides."""
    return metric not in ONE_SIDED and not (metric in BUILT_IN and BUILT_IN[metric].null)


def _nulls(
    extent: Extent, contents: Contents, network: NetworkId, layer: str, metrics: Sequence[str]
) -> Iterator[tuple[range, tuple[str, ...]]]:
    """Yield numbers of permutations that follow each other, and the metrics that lack just these."""
    done, by_chance = contents.null.get((network, layer), {}), contents.chance.get((network, layer), frozenset())
    lacking: dict[range, list[str]] = {}
    for metric in metrics:
        numbers = set(range(extent.permutations)) - done.get(metric, frozenset())
        if network in extent.chance_networks or metric in by_chance:
            numbers -= set(range(PERMUTATIONS))
        for run in _ranges(numbers):
            lacking.setdefault(run, []).append(metric)
    yield from ((numbers, tuple(names)) for numbers, names in lacking.items())


def _ranges(numbers: Collection[int]) -> list[range]:
    """Return numbers as ranges: 1, 2, 5 -> 1 to 2, 5 to 5."""
    found: list[range] = []
    for number in sorted(numbers):
        if found and found[-1].stop == number:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return found


@dataclass(frozen=True)
class Chain:
    """What one trial does: train some iterations of a run, and make activations and test logits of some."""

    run: int
    train: tuple[int, ...]
    extract: tuple[int, ...]
    evaluate: tuple[int, ...] = ()
    complete: int = 0
    control: OfControl = ""

    @classmethod
    def of(
        cls, run: RunId, train: tuple[int, ...], extract: tuple[int, ...] = (), evaluate: tuple[int, ...] = ()
    ) -> "Chain":
        """Return the chain of this run."""
        return cls(run.run, train, extract, evaluate, run.complete, run.control)

    @property
    def of_run(self) -> RunId:
        """Return the run that the chain belongs to."""
        return RunId.of(self.run, self.complete, self.control)

    @property
    def iterations(self) -> range:
        """Return the iterations to go through, from 1 to the last at which there is something to do."""
        return range(1, max((*self.train, *self.extract, *self.evaluate), default=0) + 1)

    def derived(self, iteration: int) -> list[str]:
        """Return what to make of an iteration's network: logits, activations (distsim.store.paths.DERIVED)."""
        wanted = {"logits": self.evaluate, "activations": self.extract}
        return [what for what, iterations in wanted.items() if iteration in iterations]


def wave(sweep: Sweep, lacking: Missing, room: int | None, per_network: int, promised: int = 0) -> list[Chain]:
    """Return the chains to run before the next comparisons: all training and logits, and as many activations as fit.

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
    evaluate = _by_run(lacking.logits)
    parts = lacking.chains, extract, evaluate
    return [Chain.of(run, *(part.get(run, ()) for part in parts)) for run in sorted(set().union(*parts))]


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


def require_before(store: SweepStore, network: NetworkId) -> None:
    """Check that the network before this one in its run is committed. FileNotFoundError names both."""
    if network.before is not None and store.mark(network.before) is None:
        made = "retrained" if network.control == "retrain" else "pruned"
        raise FileNotFoundError(
            f"{network.label} of {store.problem} is {made} from {_article(network.before)}, which is not in "
            f"{store.root.url}"
        )


def _article(network: NetworkId) -> str:
    return f"the {network.label}" if network.is_complete else network.label
