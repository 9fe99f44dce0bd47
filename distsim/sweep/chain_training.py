"""Train the chains of several runs with one worker: in turns, or fused into one step."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from distsim import stopping, trace
from distsim.callbacks import Event
from distsim.environment import threads
from distsim.specs import NetworkId, RunId
from distsim.store.checkpoints import StoredGroupCheckpoints
from distsim.sweep.beside import Beside
from distsim.sweep.failures import EXPECTED, sentence
from distsim.sweep.plan import Chain
from distsim.sweep.training_memory import require_training_memory
from distsim.sweep.training_worker import TrainingWorker
from distsim.training.chain import TrainedNetwork


def train_chains(worker: TrainingWorker, chains: Sequence[Chain], failed: Callable[[str], None]) -> Iterator[Event]:
    """Train the missing iterations of several runs and write their activations. Yield an event for each network.

    Each network is committed before its run's next iteration begins. The runs take turns after each training step.
    On a GPU each run has a stream of its own, so that small networks fill the device together. Every run comes out
    as it would alone. Fused runs (`Identity.fuse`) are trained in one step; they must be of one group. All chains
    start from one complete network.

    failed : gets a sentence if a run fails; the other runs go on

    TooSlow: this machine has no instructions for the sweep's precision. ValueError: a step of fused runs needs more
    memory than there is.
    """
    if any(chain.train for chain in chains):
        worker.require_speed()
        require_training_memory(worker.sweep, len(worker.dataset.train_labels))
    with threads(worker.sweep.identity.threads):
        complete = worker.load_complete(chains[0].complete if chains else 0)
        if worker.sweep.identity.fuse > 1 and not any(chain.control for chain in chains):
            yield from _group(worker, chains, complete, failed)
            return
        lanes = [(chain, _turns(worker, chain, complete)) for chain in chains]
        try:
            while lanes:
                for lane in tuple(lanes):
                    chain, turns = lane
                    try:
                        event = next(turns)
                    except (StopIteration, stopping.Stopped):
                        lanes.remove(lane)
                    except EXPECTED as error:
                        lanes.remove(lane)
                        failed(sentence(f"{worker.sweep.name}, {chain.of_run.label}", error))
                    else:
                        if event is not None:
                            yield event
            stopping.here()
        finally:
            for _, turns in lanes:
                turns.close()


def _turns(worker: TrainingWorker, chain: Chain, complete: TrainedNetwork) -> Generator[Event | None, None, None]:
    """Train a run. Yield None after each training step, and an event after each iteration."""
    before: TrainedNetwork | None = complete
    with Beside(worker.beside) as beside:
        for iteration in chain.iterations:
            started, network = time.time(), chain.of_run.network(iteration)
            trained = None
            if iteration in chain.train and worker.store.mark(network) is None:
                before = before or worker.store.load_network(network.before or network.origin)
                training = worker.trainer.iterating(
                    chain.run,
                    iteration,
                    before,
                    complete,
                    worker.checkpoints(network),
                    chain.control,
                    chain.complete,
                )
                worker.begins(network, chain.iterations[-1])
                with trace.stage("training", worker.sweep.name, network.label):
                    trained = yield from training
                trained = worker.commit(network, trained, started)
            if worker.lacks(network, chain):
                trained = trained or worker.store.load_network(network)
                beside.do(worker.derive, network, trained, chain)
            if trained is not None:
                yield worker.event(network, started, trained)
            before = trained
            stopping.here()


def _group(
    worker: TrainingWorker, chains: Sequence[Chain], complete: TrainedNetwork, failed: Callable[[str], None]
) -> Iterator[Event]:
    """Train the runs of a group together, iteration by iteration. Yield an event for each network."""
    going, number = {chain.run: chain for chain in chains}, chains[0].complete if chains else 0
    before = dict.fromkeys(going, complete)  # the networks of the iteration before that are in memory

    def give_up(run: int, error: Exception) -> None:
        going.pop(run, None)
        failed(sentence(f"{worker.sweep.name}, {RunId.of(run, number).label}", error))

    def derive(network: NetworkId, trained: TrainedNetwork, chain: Chain) -> None:
        try:
            worker.derive(network, trained, chain)
        except EXPECTED as error:
            give_up(network.run or 0, error)

    last = max((len(chain.iterations) for chain in chains), default=0)
    with Beside(worker.beside, len(chains)) as beside:
        for iteration in range(1, last + 1):
            started = time.time()
            for network, trained in _iteration(worker, iteration, going, before, complete, give_up):
                chain = going.get(network.run or 0)  # None: an earlier extraction has failed meanwhile
                if chain is not None and worker.lacks(network, chain):
                    beside.do(derive, network, trained, chain)
                yield worker.event(network, started, trained)
            stopping.here()


def _iteration(
    worker: TrainingWorker,
    iteration: int,
    going: dict[int, Chain],
    before: dict[int, TrainedNetwork],
    complete: TrainedNetwork,
    give_up: Callable[[int, Exception], None],
) -> Iterator[tuple[NetworkId, TrainedNetwork]]:
    """Do an iteration of a group. Yield its networks that are new, once they are committed, or lack something."""
    training: dict[int, TrainedNetwork] = {}
    for run, chain in tuple(going.items()):
        network, last = chain.of_run.network(iteration), before.pop(run, None)
        try:
            if iteration in chain.train and worker.store.mark(network) is None:
                training[run] = last or worker.store.load_network(network.before or network.origin)
            elif worker.lacks(network, chain):
                before[run] = worker.store.load_network(network)
                yield network, before[run]
        except EXPECTED as error:
            give_up(run, error)
    networks = {run: going[run].of_run.network(iteration) for run in training}
    for run, network in networks.items():
        worker.begins(network, going[run].iterations[-1])
    for run, committing in _trained(worker, networks, training, complete, give_up):
        try:
            before[run] = committing.result()
        except EXPECTED as error:
            give_up(run, error)
        else:
            yield networks[run], before[run]


def _trained(
    worker: TrainingWorker,
    networks: dict[int, NetworkId],
    before: dict[int, TrainedNetwork],
    complete: TrainedNetwork,
    give_up: Callable[[int, Exception], None],
) -> Iterator[tuple[int, "Future[TrainedNetwork]"]]:
    """Train an iteration of a group, and commit in threads. Yield each run with its commit, done or under way."""
    if not before:
        return
    started, waiting = time.time(), dict[int, Future[TrainedNetwork]]()
    iteration, number = next((of.iteration, of.complete) for of in networks.values())
    checkpoints = StoredGroupCheckpoints({run: worker.checkpoints(which) for run, which in networks.items()})
    with (
        trace.stage("training", worker.sweep.name, f"runs {', '.join(map(str, before))}, iteration {iteration}"),
        ThreadPoolExecutor(max(1, int(dict(worker.sweep.resources).get("cpu", 1)))) as pool,
    ):
        for ended in worker.groups.iterating(iteration, before, complete, checkpoints, number):
            if ended is not None:
                try:
                    trained = ended.network()
                except EXPECTED as error:
                    give_up(ended.run, error)
                else:
                    network, together = networks[ended.run], len(before)
                    waiting[ended.run] = pool.submit(worker.commit, network, trained, started, together=together)
            for run in [run for run, committing in waiting.items() if committing.done()]:
                yield run, waiting.pop(run)
    yield from waiting.items()
