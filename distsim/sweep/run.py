"""A sweep from start to end: what the store lacks is done, until nothing is lacking."""

from collections.abc import Callable, Iterable, Set
from functools import partial

from distsim.results import reduce
from distsim.specs import COMPLETE, NetworkId
from distsim.store import Storage, SweepStore
from distsim.sweep.engine import Engine
from distsim.sweep.failures import SweepFailed, attempt, unless_full
from distsim.sweep.forecast import comparison_forecast, training_forecast, work_sentence
from distsim.sweep.jobs import comparisons
from distsim.sweep.order import Prepared
from distsim.sweep.plan import Chain, Missing, finished_with, missing, room_for_activations, wave

Say = Callable[[str], None]


def run(
    orders: Iterable[Prepared],
    root: Storage,
    engine: Engine,
    say: Say = print,
    check: Callable[[], None] = lambda: None,
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
                say(work_sentence(one, lacking[one.name]))
                if lacking[one.name].networks:
                    say(training_forecast(busy, one, lacking[one.name], engine))
        worked = True
        check()
        chains = _chains(busy, stores, lacking)
        complete = {name for name, lack in lacking.items() if lack.reference}
        failures += unless_full(engine.train(busy, chains, complete))
        failures += unless_full(_compare(busy, stores, given_up, engine, say))
        check()
        _drop_what_has_served(busy, stores)
        for one in busy:
            given_up[one.name] |= _failed(one, stores[one.name], chains[one.name])
    check()
    written, unwritten = _results(orders, stores, root)
    if failures or unless_full(unwritten):
        raise SweepFailed(sorted({*failures, *unwritten}))
    return worked or written


def _compare(
    busy: list[Prepared], stores: dict[str, SweepStore], given_up: dict[str, set[NetworkId]], engine: Engine, say: Say
) -> list[str]:
    """Compare every network whose activations are there."""
    jobs = []
    for one in busy:
        contents = stores[one.name].contents()
        there = contents.networks if one.sweep.extent.activations == "memory" else contents.activations
        if COMPLETE in there:
            left = _left(one, stores[one.name], given_up[one.name])
            for wanted, chance in ((left.comparisons, False), (left.chance, True)):
                ready = {network: layers for network, layers in wanted.items() if network in there}
                jobs += comparisons(ready, one.sweep, engine.slots(busy), chance)
    if not jobs:
        return []
    say(
        f"comparing {sum(len(job.networks) for job in jobs)} pairs of layers: {comparison_forecast(busy, jobs, engine)}"
    )
    return engine.compare(busy, jobs)


def _drop_what_has_served(busy: list[Prepared], stores: dict[str, SweepStore]) -> None:
    for one in busy:
        contents = stores[one.name].contents()
        for network in finished_with(one.sweep, contents, missing(one.sweep, contents, one.layers)):
            stores[one.name].drop_activations(network)


def _results(orders: list[Prepared], stores: dict[str, SweepStore], root: Storage) -> tuple[bool, list[str]]:
    """Tables and figures of what is committed: whether anything was written, and what failed."""
    written, failures = [], []
    for one in orders:
        work = partial(reduce.reduce, stores[one.name], one.layers, one.sweep.identity.seed)
        failures += attempt(f"{one.name}, tables", lambda work=work: written.append(work()))
    failures += attempt("figures", lambda: written.append(bool(reduce.draw(root))))
    return any(written), failures


def _left(one: Prepared, store: SweepStore, given_up: Set[NetworkId]) -> Missing:
    return missing(one.sweep, store.contents(), one.layers).without(given_up)


def _chains(busy: list[Prepared], stores: dict[str, SweepStore], lacking: dict[str, Missing]) -> dict[str, list[Chain]]:
    chains, promised = {}, 0
    for one in busy:
        lack = lacking[one.name]
        room = room_for_activations(stores[one.name])
        chains[one.name] = wave(one.sweep, lack, room, one.per_network, promised)
        promised += one.per_network * (lack.reference + sum(len(chain.extract) for chain in chains[one.name]))
    return chains


def _failed(one: Prepared, store: SweepStore, chains: list[Chain]) -> set[NetworkId]:
    """Networks that a wave was to finish and has not."""
    contents = store.contents()
    lack = missing(one.sweep, contents, one.layers)
    trained = {NetworkId(chain.run, i) for chain in chains for i in chain.train}
    extracted = {NetworkId(chain.run, i) for chain in chains for i in chain.extract}
    failed = trained - contents.networks
    compared = contents.networks if one.sweep.extent.activations == "memory" else extracted | contents.activations
    failed |= (compared - {COMPLETE}) & (lack.to_compare | set(lack.activations))
    return failed | {COMPLETE} if lack.reference else failed
