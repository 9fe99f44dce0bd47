"""Run a sweep from start to end: do what the store lacks until nothing is missing."""

from collections.abc import Callable, Iterable, Mapping, Set
from functools import partial

from distsim.processor import Load
from distsim.results import reduce
from distsim.results.report import writing as report
from distsim.specs import NetworkId
from distsim.store import Contents, Storage, SweepStore
from distsim.sweep.engine import Engine
from distsim.sweep.failures import SweepFailed, attempt, unless_full
from distsim.sweep.forecast import comparison_forecast, to_do, training_forecast, training_warnings, work_sentence
from distsim.sweep.heeding import through_pauses, wait_if_paused
from distsim.sweep.jobs import Comparison, NetworkComparison, comparisons
from distsim.sweep.order import Prepared
from distsim.sweep.pairs import references
from distsim.sweep.plan import Chain, Missing, finished_with, missing, room_for_activations, wave

Say = Callable[[str], None]
Listed = Mapping[str, tuple[int, str]]  # what `Storage.listed` says


def run(
    orders: Iterable[Prepared],
    root: Storage,
    engine: Engine,
    say: Say = print,
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Do everything that the store lacks of what is asked for. Return False if nothing was missing.

    Running, resuming and extending are this one function: the store says what is done, and the rest is done now. Each
    wave trains, extracts as many activations as the disk holds, compares, and drops activations that are no longer
    needed.

    check : raises if another driver has taken over (`distsim.store.Lease.check`); it is called before each wave and
        before anything is dropped or replaced

    Where somebody pauses the sweep (`distsim.sweep.heeding`), it waits, and then goes on by what the store says. What
    failed before is tried again.

    Stopped: somebody has asked it to stop. SweepFailed lists lasting failures, after everything else is finished.
    NoSpace: the disk is full; what is committed stays.
    """
    try:
        return through_pauses(partial(_run, list(orders), root, engine, say, check), say, check)
    finally:
        engine.watcher.on_end()


def _run(
    orders: list[Prepared], root: Storage, engine: Engine, say: Say, check: Callable[[], None], worked: bool
) -> bool:
    stores = {order.name: SweepStore(root, order.name) for order in orders}
    failures: list[str] = []
    given_up: dict[str, set[NetworkId]] = {order.name: set() for order in orders}
    listed = _listed(stores)
    while lacking := _lacking(orders, contents := _contents(stores, listed), given_up):
        busy = [order for order in orders if order.name in lacking]
        if not worked:
            wait_if_paused(say, check)
            engine.watcher.on_begin({order.name: to_do(order, lacking[order.name]) for order in busy})
            _announce(busy, lacking, engine, say)
        worked = True
        check()
        chains = _chains(busy, stores, lacking)
        complete = {(name, network.complete) for name, lack in lacking.items() for network in lack.references}
        failures += _heard(engine, engine.train(busy, chains, complete, partial(_early, busy, lacking)))
        failures += _heard(engine, _compare(busy, stores, given_up, engine, say))
        _drop_activations(busy, stores, check)
        for order in busy:
            given_up[order.name] |= _failed(order, stores[order.name], chains[order.name])
        listed = _listed(stores)
    for order in orders:
        check()
        networks = contents[order.name].networks.intersection(order.sweep.extent.complete_networks)
        failed = references(order, stores[order.name], networks, engine, say) if len(networks) > 1 else None
        if failed is not None:
            worked = True
            del listed[order.name]  # it does not say what was compared now
            failures += _heard(engine, failed)
    check()
    if worked:
        say("making tables, figures and the report")
    written, unwritten = _results(orders, stores, listed, root)
    if failures or unless_full(unwritten):
        raise SweepFailed(sorted({*failures, *unwritten}))
    return worked or written


def _heard(engine: Engine, failures: list[str]) -> list[str]:
    """Return the failures, and tell the engine's watcher of each. NoSpace: the disk is full."""
    for failure in failures:
        engine.watcher.on_failure({"sentence": failure})
    return unless_full(failures)


def foretell(orders: list[Prepared], root: Storage, engine: Engine, say: Say = print) -> bool:
    """Say what the store lacks of what is asked for, and what it costs. Return False if nothing is missing."""
    stores = {order.name: SweepStore(root, order.name) for order in orders}
    lacking = _lacking(orders, _contents(stores, _listed(stores)), {order.name: set() for order in orders})
    busy = [order for order in orders if order.name in lacking]
    if not busy:
        return False
    _announce(busy, lacking, engine, say)
    jobs: list[Comparison | NetworkComparison] = []
    for order in busy:
        jobs += _jobs(order, lacking[order.name], engine.slots(busy))
    if jobs:
        say(_comparing(busy, jobs, engine))
    return True


def _jobs(order: Prepared, lacking: Missing, slots: int) -> list[Comparison | NetworkComparison]:
    """Return the jobs of the comparisons that are missing. slots : comparisons at once"""
    jobs: list[Comparison | NetworkComparison] = []
    jobs += comparisons(lacking.comparisons, order.sweep, slots, beside=lacking.beside)
    jobs += comparisons(lacking.chance, order.sweep, slots, chance=True)
    return jobs


def _early(
    busy: list[Prepared], lacking: Mapping[str, Missing], ready: Mapping[str, Set[NetworkId]], slots: int
) -> list[Comparison | NetworkComparison]:
    """Return the jobs of a wave that compare these networks. ready : by problem; slots : comparisons at once"""
    jobs: list[Comparison | NetworkComparison] = []
    for order in busy:
        if some := ready.get(order.name, set()):
            lack = lacking[order.name]
            jobs += _jobs(order, lack.without(lack.to_compare - some), slots)
    return jobs


def _comparing(busy: list[Prepared], jobs: list[Comparison | NetworkComparison], engine: Engine) -> str:
    pairs = sum(len(layer.networks) for job in jobs for layer in job.layers)
    return f"comparing {pairs} pairs of layers: {comparison_forecast(busy, jobs, engine)}"


def _announce(busy: list[Prepared], lacking: dict[str, Missing], engine: Engine, say: Say) -> None:
    """Say what there is to do, about how long training takes, and what makes it slow here."""
    load = Load().others()  # first: the forecast's measuring, and Ray's start, are loads too
    for order in busy:
        say(work_sentence(order, lacking[order.name]))
        if lacking[order.name].networks:
            say(training_forecast(busy, order, lacking[order.name], engine))
    for warning in training_warnings(busy, lacking, engine, load):
        say(warning)


def _compare(
    busy: list[Prepared], stores: dict[str, SweepStore], given_up: dict[str, set[NetworkId]], engine: Engine, say: Say
) -> list[str]:
    """Compare every network whose activations are available. Return the lasting failures."""
    jobs: list[Comparison | NetworkComparison] = []
    for order in busy:
        contents = stores[order.name].contents()
        ready = contents.networks if order.sweep.extent.activations == "memory" else contents.activations
        left = _left(order, contents, given_up[order.name])
        comparable = {network for network in left.to_compare if {network, network.origin} <= ready}
        jobs += _jobs(order, left.without(left.to_compare - comparable), engine.slots(busy))
    if not jobs:
        return []
    say(_comparing(busy, jobs, engine))
    return engine.compare(busy, jobs)


def _drop_activations(busy: list[Prepared], stores: dict[str, SweepStore], check: Callable[[], None]) -> None:
    for order in busy:
        contents = stores[order.name].contents()
        for network in finished_with(order.sweep, contents, missing(order.sweep, contents, order.layers)):
            check()
            stores[order.name].drop_activations(network)


def _results(
    orders: list[Prepared], stores: dict[str, SweepStore], listed: Mapping[str, Listed], root: Storage
) -> tuple[bool, list[str]]:
    """Make tables, figures and the report. Return whether tables or figures were written, and what failed.

    listed : the listings that still hold
    """
    written, failures = [], []
    for order in orders:
        seed, last = order.sweep.identity.seed, listed.get(order.name)
        work = partial(reduce.reduce, stores[order.name], order.layers, seed, listed=last)
        failures += attempt(f"{order.name}, tables", lambda work=work: written.append(work()))
    failures += attempt("figures", lambda: written.append(bool(reduce.draw(root))))
    failures += attempt("report", report.write, root)
    return any(written), failures


def _listed(stores: dict[str, SweepStore]) -> dict[str, Listed]:
    return {name: store.storage.listed() for name, store in stores.items()}


def _contents(stores: dict[str, SweepStore], listed: Mapping[str, Listed]) -> dict[str, Contents]:
    return {name: store.contents(listed[name]) for name, store in stores.items()}


def _lacking(
    orders: list[Prepared], contents: dict[str, Contents], given_up: dict[str, set[NetworkId]]
) -> dict[str, Missing]:
    """Return what is left to do, of the problems of which anything is."""
    left = {order.name: _left(order, contents[order.name], given_up[order.name]) for order in orders}
    return {name: lack for name, lack in left.items() if lack}


def _left(order: Prepared, contents: Contents, given_up: Set[NetworkId]) -> Missing:
    return missing(order.sweep, contents, order.layers).without(given_up)


def _chains(busy: list[Prepared], stores: dict[str, SweepStore], lacking: dict[str, Missing]) -> dict[str, list[Chain]]:
    chains, promised = {}, 0
    for order in busy:
        lack = lacking[order.name]
        room = room_for_activations(stores[order.name])
        chains[order.name] = wave(order.sweep, lack, room, order.per_network, promised)
        promised += order.per_network * (len(lack.references) + sum(len(chain.extract) for chain in chains[order.name]))
    return chains


def _failed(order: Prepared, store: SweepStore, chains: list[Chain]) -> set[NetworkId]:
    """Return the networks that a wave was to finish and did not."""
    contents = store.contents()
    lack = missing(order.sweep, contents, order.layers)
    trained = {chain.of_run.network(i) for chain in chains for i in chain.train}
    extracted = {chain.of_run.network(i) for chain in chains for i in chain.extract}
    evaluated = {chain.of_run.network(i) for chain in chains for i in chain.evaluate}
    failed = (trained - contents.networks) | (evaluated & set(lack.logits))
    compared = contents.networks if order.sweep.extent.activations == "memory" else extracted | contents.activations
    pruned = {network for network in compared if not network.is_complete}
    failed |= pruned & (lack.to_compare | set(lack.activations))
    return failed | set(lack.references)
