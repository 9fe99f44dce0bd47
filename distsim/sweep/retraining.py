"""Training the networks of some rows again, where only tables are left of a study."""

from collections.abc import Callable, Iterable

from distsim.callbacks import Event
from distsim.data import Dataset
from distsim.models import build
from distsim.specs import Device, Extent, Identity, NetworkId, RunId, Sweep
from distsim.store import Storage, SweepStore
from distsim.sweep.chain_training import train_chains
from distsim.sweep.engine import LocalEngine
from distsim.sweep.failures import SweepFailed
from distsim.sweep.forecast import training_forecast
from distsim.sweep.order import Prepared
from distsim.sweep.plan import Chain, Missing, trials_of
from distsim.sweep.training_worker import TrainingWorker
from distsim.training.stepper import require_streams
from distsim.words import counted


def chains(networks: Iterable[NetworkId]) -> list[Chain]:
    """Return the chains that lead to these networks, by run. A run needs no run before it."""
    last: dict[RunId, int] = {}
    for network in networks:
        if network.of_run is not None:
            last[network.of_run] = max(network.iteration, last.get(network.of_run, 0))
    return [Chain.of(run, tuple(range(1, iteration + 1))) for run, iteration in sorted(last.items())]


def retrain(
    identity: Identity,
    dataset: Dataset,
    device: Device,
    networks: Iterable[NetworkId],
    root: Storage,
    say: Callable[[str], None],
    tell: Callable[[Event], None],
) -> SweepStore:
    """Train the complete networks, and the chains that lead to these networks, into an empty store.

    They come out as in a sweep, which trains every run by itself, or fused runs in the slots of their group. Nothing is
    extracted, compared or drawn.

    say : gets a sentence about what that costs, before it begins
    tell : gets an event for each network

    SweepFailed: a training failed, for instance because it diverged.
    """
    networks = list(networks)
    wanted, numbers = chains(networks), tuple(sorted({network.complete for network in networks}))
    most = max((chain.train[-1] for chain in wanted), default=1)
    extent = Extent(
        max((chain.run for chain in wanted), default=0) + 1, most, (), activations="memory", chance=False, measure=()
    )
    sweep = Sweep(identity, extent, device=device)
    require_streams(build(identity.problem), device)
    store = SweepStore(root, sweep.name)
    lacking = Missing(numbers, {chain.of_run: chain.train for chain in wanted}, (), {})
    order = Prepared(sweep, dataset)
    say(f"{sweep.name}: {counted(lacking.networks, 'network')} to train, not to be kept")
    say(training_forecast([order], order, lacking, LocalEngine(root)))
    store.claim(identity)
    worker, failures = TrainingWorker(store, sweep, dataset), list[str]()
    for number in numbers:
        tell(worker.complete(number))
    for trial in trials_of(sweep, wanted):
        for event in train_chains(worker, trial, failures.append):
            tell(event)
    if failures:
        raise SweepFailed(failures)
    return store
