"""A sweep from end to end: from a problem and flags to a spec, and from a spec to a finished store."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from distsim import comparison, results
from distsim.activations import chunk_shape, layer_shapes
from distsim.cost import (
    Cost,
    comparison_memory,
    duration,
    images_to_train,
    layer_cost,
    product_rate,
    training_rate,
)
from distsim.data import Dataset, load, pixel_statistics, probe_indices
from distsim.environment import require_device
from distsim.extraction import bytes_per_network, readable
from distsim.models import Layer, build
from distsim.plan import Chain, Missing, finished_with, missing, packed, room_for_activations, runs_of, wave
from distsim.problems import CIFAR_CLASSES
from distsim.specs import METRICS, PERMUTATIONS, Extent, Identity, Problem, Sweep
from distsim.statistics import free_memory
from distsim.store import NetworkId, NoSpace, Storage, SweepStore
from distsim.store.storage import no_space
from distsim.training import threads
from distsim.work import Bench, Comparer, Comparison, Event, PairJob, attempt, comparisons

Say = Callable[[str], None]

WORTH_MEASURING = 200_000  # images to train, from which on a sweep says how long that takes


class SweepFailed(RuntimeError):
    """Some pieces failed for good; the rest is committed. `failures` has one sentence for each."""

    def __init__(self, failures: list[str]) -> None:
        super().__init__("\n".join(failures))
        self.failures = failures


@dataclass(frozen=True)
class Order:
    """A sweep with its data in memory: what an engine needs to do the work."""

    sweep: Sweep
    dataset: Dataset
    layers: tuple[Layer, ...] = field(default=())
    per_network: int = 0  # bytes of one network's activations

    @property
    def name(self) -> str:
        return self.sweep.name


def identify(problem: Problem, dataset: Dataset, **choices: Any) -> Identity:
    """The identity of a problem on these data; `choices` are further fields of Identity (seed, threads, ...).

    A recipe without a normalisation of its own gets the training set's. ValueError: the probe is larger than the data.
    """
    if problem.recipe.normalise is None:
        recipe = dataclasses.replace(problem.recipe, normalise=pixel_statistics(dataset.train_images))
        problem = dataclasses.replace(problem, recipe=recipe)
    foreign = problem.source == "cifar10" and not set(dataset.classes) <= set(CIFAR_CLASSES)
    foreign |= problem.source == "svhn" and not set(dataset.classes) <= set("0123456789")
    # the papers' claims are not about these images
    problem = dataclasses.replace(problem, classes=dataset.classes, reduced=problem.reduced or foreign)
    identity = Identity(problem=problem, data_digest=dataset.digest, **choices)
    probe_indices(dataset, problem.probe, problem.probe_rule, identity.seed)  # refuses a probe that is too large
    return identity


def order(
    problem: Problem,
    *,
    data: str = "",
    download: bool = False,
    runs: int | None = None,
    iterations: int | None = None,
    metrics: tuple[str, ...] = METRICS,
    retention: str = "reference",
    activations: str = "store",
    chance: bool = True,
    device: str = "cpu",
    resources: tuple[tuple[str, float], ...] = (),
    pack: int = 1,
    **choices: Any,
) -> Order:
    """Load the data and settle the spec. Errors are those of loading and of the specs' fields."""
    dataset = load(problem, data, download=download)
    identity = identify(problem, dataset, **choices)
    extent = Extent(
        problem.runs if runs is None else runs,
        problem.iterations if iterations is None else iterations,
        metrics,
        retention,
        activations,
        chance,
    )
    sweep = Sweep(identity, extent, _absolute(data), device, resources, pack)
    network = build(identity.problem, len(dataset.classes))
    per_network = bytes_per_network(identity.problem, len(dataset.classes), identity.storage)
    return Order(sweep, dataset, network.layers, per_network)


def _absolute(data: str) -> str:
    """The location as another process, started in another folder, finds it."""
    scheme, colon, path = data.partition(":")
    if colon and scheme in ("folder", "files"):
        return f"{scheme}:{Path(path).expanduser().resolve()}"
    return str(Path(data).expanduser().resolve()) if data else ""


class Engine(Protocol):
    """Where the work is done: in this process, or by Ray. Each method returns what failed for good, a sentence each."""

    @property
    def here(self) -> bool:
        """Whether the work is done on this machine."""
        ...

    def slots(self, orders: list[Order]) -> int:
        """Comparisons of these sweeps at once."""
        ...

    def trials(self, orders: list[Order], one: Order) -> int:
        """Trials of this one of the sweeps at once."""
        ...

    def train(self, orders: list[Order], chains: dict[str, list[Chain]], complete: set[str]) -> list[str]:
        """Train the complete networks named and extract their activations, then run the chains that need them."""
        ...

    def compare(self, orders: list[Order], jobs: Sequence[Comparison | PairJob]) -> list[str]: ...


def run(
    orders: Iterable[Order], root: Storage, engine: Engine, say: Say = print, check: Callable[[], None] = lambda: None
) -> bool:
    """Bring the store to what is asked for; False where nothing was missing.

    Running, resuming and extending are this one function: the store says what is done, what is missing is done. Each
    wave trains, extracts as many activations as the disk holds, compares, and drops what has served. SweepFailed lists
    what failed for good, after everything else is finished. NoSpace: the disk is full; what is committed stays.

    check : asked before each wave and before anything is dropped or replaced, it raises where another driver has taken
        over (`distsim.store.Lease.check`)
    """
    orders = list(orders)
    stores = {one.name: SweepStore(root, one.name) for one in orders}
    failures: list[str] = []
    given_up: dict[str, set[NetworkId]] = {one.name: set() for one in orders}
    worked = False
    while lacking := {one.name: lack for one in orders if (lack := _left(one, stores[one.name], given_up[one.name]))}:
        busy = [one for one in orders if one.name in lacking]
        if not worked:
            for one in busy:
                say(_sentence(one, lacking[one.name]))
                if lacking[one.name].networks:
                    say(_training_forecast(busy, one, lacking[one.name], engine))
        worked = True
        check()
        chains = _chains(busy, stores, lacking)
        complete = {name for name, lack in lacking.items() if lack.reference}
        failures += _unless_full(engine.train(busy, chains, complete))
        failures += _unless_full(_compare(busy, stores, given_up, engine, say))
        check()
        _drop_what_has_served(busy, stores)
        for one in busy:
            given_up[one.name] |= _failed(one, stores[one.name], chains[one.name])
    check()
    written, unwritten = _results(orders, stores, root)
    if failures or _unless_full(unwritten):
        raise SweepFailed(sorted({*failures, *unwritten}))
    return worked or written


def _compare(
    busy: list[Order], stores: dict[str, SweepStore], given_up: dict[str, set[NetworkId]], engine: Engine, say: Say
) -> list[str]:
    """Compare every network whose activations are there."""
    jobs = []
    for one in busy:
        contents = stores[one.name].contents()
        there = contents.networks if one.sweep.extent.activations == "memory" else contents.activations
        if None in there:
            left = _left(one, stores[one.name], given_up[one.name])
            for wanted, chance in ((left.comparisons, False), (left.chance, True)):
                ready = {network: layers for network, layers in wanted.items() if network in there}
                jobs += comparisons(ready, one.sweep, engine.slots(busy), chance)
    if not jobs:
        return []
    say(f"comparing {sum(len(job.networks) for job in jobs)} pairs of layers: {_forecast(busy, jobs, engine)}")
    return engine.compare(busy, jobs)


def _drop_what_has_served(busy: list[Order], stores: dict[str, SweepStore]) -> None:
    for one in busy:
        contents = stores[one.name].contents()
        for network in finished_with(one.sweep, contents, missing(one.sweep, contents, one.layers)):
            stores[one.name].drop_activations(network)


def _unless_full(failures: list[str]) -> list[str]:
    """The failures. NoSpace: one of them is that the disk is full, so that everything else would fail as well."""
    for failure in failures:
        if no_space(failure):
            raise NoSpace(failure)
    return failures


def _forecast(busy: list[Order], jobs: Sequence[Comparison], engine: Engine) -> str:
    """Bytes, FLOPs and about how long."""
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    for one in busy:
        problem = one.sweep.problem
        of_layer = layer_shapes(build(problem, len(problem.classes)), problem.channels, problem.size)
        shapes |= {(one.name, name): (problem.probe, *shape) for name, shape in of_layer.items()}
    total = Cost()
    for job in jobs:
        metrics = {name for _, wanted in job.networks for name in wanted}
        times = PERMUTATIONS if job.chance else 1
        read = 1 + times * len(job.networks)
        total += layer_cost(shapes[job.problem, job.layer], 2, read, read - 1, metrics)
    with threads(busy[0].sweep.identity.threads):
        return total.sentence(product_rate(), engine.slots(busy))


def _training_forecast(busy: list[Order], one: Order, lack: Missing, engine: Engine) -> str:
    """Images, and about how long, if that is worth measuring and can be measured here."""
    identity, problem = one.sweep.identity, one.sweep.problem
    pruned = sum(map(len, lack.chains.values()))
    images = images_to_train(problem, len(one.dataset.train_labels), lack.complete, pruned)
    most = "at most " if problem.recipe.patience is not None else ""
    text = f"{one.name}: training on {most}{images:,} images"
    if not engine.here or images < WORTH_MEASURING:
        return text
    at_once = max(1, min(engine.trials(busy, one), -(-len(lack.chains) // one.sweep.pack)))
    with threads(identity.threads):
        rate = training_rate(
            problem, len(one.dataset.classes), one.sweep.device, identity.precision, pack=one.sweep.pack
        )
    return f"{text}, about {duration(images / (rate * at_once))} with {at_once} trial{'s' * (at_once > 1)} at once"


def _results(orders: list[Order], stores: dict[str, SweepStore], root: Storage) -> tuple[bool, list[str]]:
    """Tables and figures of what is committed: whether anything was written, and what failed."""
    written, failures = [], []
    for one in orders:
        work = partial(results.reduce, stores[one.name], one.layers, one.sweep.identity.seed)
        failures += attempt(f"{one.name}, tables", lambda work=work: written.append(work()))
    failures += attempt("figures", lambda: written.append(bool(results.draw(root))))
    return any(written), failures


def _left(one: Order, store: SweepStore, given_up: Set[NetworkId]) -> Missing:
    return missing(one.sweep, store.contents(), one.layers).without(given_up)


def _chains(busy: list[Order], stores: dict[str, SweepStore], lacking: dict[str, Missing]) -> dict[str, list[Chain]]:
    chains, promised = {}, 0
    for one in busy:
        lack = lacking[one.name]
        room = room_for_activations(stores[one.name])
        chains[one.name] = wave(one.sweep, lack, room, one.per_network, promised)
        promised += one.per_network * (lack.reference + sum(len(chain.extract) for chain in chains[one.name]))
    return chains


def _failed(one: Order, store: SweepStore, chains: list[Chain]) -> set[NetworkId]:
    """Networks that a wave was to finish and has not."""
    contents = store.contents()
    lack = missing(one.sweep, contents, one.layers)
    trained: set[NetworkId] = {(chain.run, i) for chain in chains for i in chain.train}
    extracted: set[NetworkId] = {(chain.run, i) for chain in chains for i in chain.extract}
    failed = trained - contents.networks
    compared = contents.networks if one.sweep.extent.activations == "memory" else extracted | contents.activations
    failed |= (compared - {None}) & (lack.to_compare | set(lack.activations))
    return failed | {None} if lack.reference else failed


def claim(orders: Iterable[Order], root: Storage, here: bool = True) -> None:
    """Write what is asked for into the store. IdentityMismatch: it holds other sweeps of these problems.

    here : the work is done on this machine, which must have the device; a cluster's head need not.
    """
    orders = list(orders)
    check_workplace(orders, here)
    for one in orders:
        store = SweepStore(root, one.name)
        store.claim(one.sweep.identity)
        extent = dataclasses.asdict(one.sweep.extent)
        store.write_request(extent | {"data": one.sweep.data, "device": one.sweep.device})


def check_workplace(orders: Iterable[Order], here: bool) -> None:
    """ValueError: the work is done here, and the device asked for, or a library that a metric needs, is not.

    ValueError too where a single comparison needs more memory than there is.
    """
    for one in orders if here else ():
        require_device(one.sweep.device)
        comparison.require_device(one.sweep.device)
        comparison.require_libraries(one.sweep.extent.metrics)
        _require_memory(one)


def _require_memory(one: Order) -> None:
    problem, free = one.sweep.problem, free_memory()
    if free is None or one.sweep.device != "cpu":
        return
    shapes = layer_shapes(build(problem, len(problem.classes)), problem.channels, problem.size)
    for name, shape in shapes.items():
        whole = (problem.probe, *shape)
        needed = comparison_memory(whole, chunk_shape(whole)[1])
        if needed > free:
            raise ValueError(
                f"{one.name}: comparing layer {name} on {problem.probe:,} images takes {readable(needed)} of memory, "
                f"and {readable(free)} are free: use a smaller --probe"
            )


def compare_only(one: Order, store: SweepStore) -> Order | None:
    """The order cut down to what needs no training: complete runs of iterations that every run has. None: nothing."""
    have = {network for network in store.contents().networks if network is not None}
    runs = 0
    while runs < one.sweep.extent.runs and (runs, 1) in have:
        runs += 1
    iterations = 0
    while iterations < one.sweep.extent.iterations and all((run, iterations + 1) in have for run in range(runs)):
        iterations += 1
    if not runs or not iterations:
        return None
    extent = dataclasses.replace(one.sweep.extent, runs=runs, iterations=iterations)
    return dataclasses.replace(one, sweep=dataclasses.replace(one.sweep, extent=extent))


class LocalEngine:
    """Everything in this process, in order: breakpoints work, and the bytes are those that Ray's workers write."""

    here = True

    def __init__(self, root: Storage, allow_drift: bool = False, tell: Callable[[Event], None] | None = None) -> None:
        self.root, self.allow_drift = root, allow_drift
        self.tell = tell or (lambda event: None)

    def slots(self, orders: list[Order]) -> int:
        return 1

    def trials(self, orders: list[Order], one: Order) -> int:
        return 1

    def train(self, orders: list[Order], chains: dict[str, list[Chain]], complete: set[str]) -> list[str]:
        failures = []
        for one in orders:
            bench = Bench(SweepStore(self.root, one.name), one.sweep, one.dataset, self.allow_drift)
            failed = attempt(f"{one.name}, complete network", self._complete, bench) if one.name in complete else []
            if not failed:
                for pack in packed(chains[one.name], one.sweep.pack):
                    failed += attempt(f"{one.name}, {runs_of(pack)}", self._chains, bench, pack, failed.append)
            failures += failed
        return failures

    def _complete(self, bench: Bench) -> None:
        self.tell(bench.complete())

    def _chains(self, bench: Bench, pack: Sequence[Chain], failed: Callable[[str], None]) -> None:
        for event in bench.chains(pack, failed):
            self.tell(event)

    def compare(self, orders: list[Order], jobs: Sequence[Comparison | PairJob]) -> list[str]:
        comparers = {
            one.name: Comparer(SweepStore(self.root, one.name), one.sweep, one.dataset, self.allow_drift)
            for one in orders
        }
        failures = []
        for job in jobs:
            failures += comparers[job.problem].compare(job)
        return failures


def describe(event: Event) -> str:
    """An event as a line of a log."""
    if "died" in event:
        return f"{time.strftime('%H:%M:%S')} {event['problem']} {event['piece']}: its worker died"
    which = "complete network" if event["run"] is None else f"run {event['run']} iteration {event['iteration']}"
    return (
        f"{time.strftime('%H:%M:%S')} {event['problem']} {which}: accuracy {event['accuracy']:.4f}, "
        f"remaining {event['remaining']:.3f}, {event['epochs']} epochs, {event['seconds']:.1f} s"
    )


def _sentence(one: Order, lacking: Missing) -> str:
    parts = []
    if lacking.networks:
        parts.append(
            f"{lacking.networks} of {one.sweep.extent.runs * one.sweep.extent.iterations + 1} networks to train"
        )
    if lacking.activations:
        size = readable(one.per_network * len(lacking.activations))
        parts.append(f"activations of {len(lacking.activations)} to write (up to {size})")
    if lacking.values:
        parts.append(f"{lacking.values} similarities to compute")
    return f"{one.name}: {', '.join(parts)}"
