"""The worker that trains networks and extracts their activations, with and without Ray.

Each of its methods asks the store what is committed, and commits what it makes. Each can be called again at any time.
"""

import math
import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property

import torch

from distsim import stopping, trace
from distsim.activations.probe import Probe, blocks, make_probe
from distsim.callbacks import Callback, Event
from distsim.data import Dataset
from distsim.environment import check_environment, environment, provenance, require_device, threads
from distsim.models import Network, build
from distsim.processor import require_speed
from distsim.specs import NetworkId, RunId, Sweep, canonical_json
from distsim.store import SweepStore
from distsim.store.checkpoints import StoredCheckpoints, StoredGroupCheckpoints
from distsim.sweep import events
from distsim.sweep.beside import Beside
from distsim.sweep.extraction import evaluate, extract
from distsim.sweep.failures import EXPECTED, sentence
from distsim.sweep.plan import Chain, require_before
from distsim.sweep.training_memory import require_training_memory
from distsim.training.chain import TrainedNetwork, Trainer
from distsim.training.group import GroupTrainer
from distsim.training.loop import EpochStreams
from distsim.training.stepper import Arithmetic, require_arithmetic
from distsim.training.streams import own_stream

CHECKPOINT_COPIES, CHECKPOINT_ROOM = 20, 2**26  # adam's two moments, the best and the rewind state; losses, names


class TrainingWorker:
    """A worker for one problem, with the data on its device."""

    def __init__(
        self,
        store: SweepStore,
        sweep: Sweep,
        dataset: Dataset,
        allow_drift: bool = False,
        beside: bool = False,
        allow_slow: bool = False,
        writers: int | None = None,
        watcher: Callback | None = None,
    ) -> None:
        """Make a worker that loads the data on first use.

        allow_drift : go on in another environment than the one in which the complete network was trained
        beside : write activations in a thread while the next network is trained
        allow_slow : train also on a machine that has no instructions for the sweep's precision
        writers : threads that compress and write activations; None: as many as the trial has CPUs
        watcher : hears of trainings, epochs and activations

        ValueError: the device is not available.
        """
        self.store, self.sweep, self.dataset, self.allow_drift = store, sweep, dataset, allow_drift
        self.beside, self.allow_slow, self.writers = beside, allow_slow, writers
        self.watcher = watcher or Callback()
        require_device(sweep.device)
        self.device = torch.device(sweep.device)
        self._trainer: Trainer | None = None
        self._probe: Probe | None = None
        self._extraction = own_stream(self, self.device)

    @property
    def trainer(self) -> Trainer:
        """Return the trainer, made on first use."""
        if self._trainer is None:
            after = [_announce_epoch]
            self._trainer = Trainer(self.sweep.identity, self.dataset, self.device, after, self._heard)
        return self._trainer

    @property
    def probe(self) -> Probe:
        """Return the probe, made on first use."""
        if self._probe is None:
            self._probe = make_probe(self.sweep.identity, self.dataset, self.device)
        return self._probe

    def complete(self, number: int = 0) -> Event:
        """Train and commit a complete network unless it is committed, and its activations. Return its event.

        TooSlow: this machine has no instructions for the sweep's precision.
        """
        started, network = time.time(), NetworkId(complete=number)
        with threads(self.sweep.identity.threads):
            if self.store.mark(network) is None:
                self._require_speed()
                self._check_pruned_networks()
                self._begins(network, 0)
                with trace.stage("complete", self.sweep.name, *([network.label] if number else [])):
                    trained = self.trainer.complete(self._checkpoints(network), number)
                self._commit(network, trained, started, {"probe.json": self._probe_file()})
            complete = self._load_complete(number)
            if "functional" in self.sweep.extent.measure:
                self.keep_logits(network, complete)
            if self.sweep.extent.activations == "store":
                self.extract(network, complete)
            return self._event(network, started, complete)

    def _begins(self, network: NetworkId, last: int) -> None:
        self.watcher.on_training(events.training(self.sweep, len(self.dataset.train_labels), network, last))

    def _heard(self, streams: EpochStreams, epochs: int, loss: float) -> None:
        self.watcher.on_epoch(events.whose(self.sweep.name, streams.network) | {"epoch": epochs, "loss": loss})

    def _require_speed(self) -> None:
        """Check this machine, which need not be the driver's, before it trains."""
        sweep = self.sweep
        require_arithmetic(Arithmetic.of(sweep.identity), sweep.device)
        if not self.allow_slow:
            require_speed(f"on {socket.gethostname()}", sweep.identity.precision, sweep.device)

    def _check_pruned_networks(self) -> None:
        """Check the environment if pruned networks are left of a complete network that is gone.

        EnvironmentDrift: here the complete network would not come out as the one that they were pruned from.
        """
        for network in () if self.allow_drift else sorted(self.store.contents().networks)[:1]:
            mark = self.store.mark(network)
            if mark is not None:
                check_environment(self.sweep, mark.environment)

    def chains(self, chains: Sequence[Chain], failed: Callable[[str], None]) -> Iterator[Event]:
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
            self._require_speed()
            require_training_memory(self.sweep, len(self.dataset.train_labels))
        with threads(self.sweep.identity.threads):
            complete = self._load_complete(chains[0].complete if chains else 0)
            if self.sweep.identity.fuse > 1 and not any(chain.control for chain in chains):
                yield from self._group(chains, complete, failed)
                return
            lanes = [(chain, self._turns(chain, complete)) for chain in chains]
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
                            failed(sentence(f"{self.sweep.name}, {chain.of_run.label}", error))
                        else:
                            if event is not None:
                                yield event
                stopping.here()
            finally:
                for _, turns in lanes:
                    turns.close()

    def _turns(self, chain: Chain, complete: TrainedNetwork) -> Generator[Event | None, None, None]:
        """Train a run. Yield None after each training step, and an event after each iteration."""
        before: TrainedNetwork | None = complete
        with Beside(self.beside) as beside:
            for iteration in chain.iterations:
                started, network = time.time(), chain.of_run.network(iteration)
                trained = None
                if iteration in chain.train and self.store.mark(network) is None:
                    before = before or self.store.load_network(network.before or network.origin)
                    training = self.trainer.iterating(
                        chain.run,
                        iteration,
                        before,
                        complete,
                        self._checkpoints(network),
                        chain.control,
                        chain.complete,
                    )
                    self._begins(network, chain.iterations[-1])
                    with trace.stage("training", self.sweep.name, network.label):
                        trained = yield from training
                    trained = self._commit(network, trained, started)
                if self._lacks(network, chain):
                    trained = trained or self.store.load_network(network)
                    beside.do(self.derive, network, trained, chain)
                if trained is not None:
                    yield self._event(network, started, trained)
                before = trained
                stopping.here()

    def _group(
        self, chains: Sequence[Chain], complete: TrainedNetwork, failed: Callable[[str], None]
    ) -> Iterator[Event]:
        """Train the runs of a group together, iteration by iteration. Yield an event for each network."""
        going, number = {chain.run: chain for chain in chains}, chains[0].complete if chains else 0
        before = dict.fromkeys(going, complete)  # the networks of the iteration before that are in memory

        def give_up(run: int, error: Exception) -> None:
            going.pop(run, None)
            failed(sentence(f"{self.sweep.name}, {RunId.of(run, number).label}", error))

        def derive(network: NetworkId, trained: TrainedNetwork, chain: Chain) -> None:
            try:
                self.derive(network, trained, chain)
            except EXPECTED as error:
                give_up(network.run or 0, error)

        last = max((len(chain.iterations) for chain in chains), default=0)
        with Beside(self.beside, len(chains)) as beside:
            for iteration in range(1, last + 1):
                started = time.time()
                for network, trained in self._iteration(iteration, going, before, complete, give_up):
                    chain = going.get(network.run or 0)  # None: an earlier extraction has failed meanwhile
                    if chain is not None and self._lacks(network, chain):
                        beside.do(derive, network, trained, chain)
                    yield self._event(network, started, trained)
                stopping.here()

    def _iteration(
        self,
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
                if iteration in chain.train and self.store.mark(network) is None:
                    training[run] = last or self.store.load_network(network.before or network.origin)
                elif self._lacks(network, chain):
                    before[run] = self.store.load_network(network)
                    yield network, before[run]
            except EXPECTED as error:
                give_up(run, error)
        networks = {run: going[run].of_run.network(iteration) for run in training}
        for run, network in networks.items():
            self._begins(network, going[run].iterations[-1])
        for run, committing in self._trained(networks, training, complete, give_up):
            try:
                before[run] = committing.result()
            except EXPECTED as error:
                give_up(run, error)
            else:
                yield networks[run], before[run]

    def _trained(
        self,
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
        checkpoints = StoredGroupCheckpoints({run: self._checkpoints(which) for run, which in networks.items()})
        with (
            trace.stage("training", self.sweep.name, f"runs {', '.join(map(str, before))}, iteration {iteration}"),
            ThreadPoolExecutor(max(1, int(dict(self.sweep.resources).get("cpu", 1)))) as pool,
        ):
            for ended in self._groups.iterating(iteration, before, complete, checkpoints, number):
                if ended is not None:
                    try:
                        trained = ended.network()
                    except EXPECTED as error:
                        give_up(ended.run, error)
                    else:
                        network, together = networks[ended.run], len(before)
                        waiting[ended.run] = pool.submit(self._commit, network, trained, started, together=together)
                for run in [run for run, committing in waiting.items() if committing.done()]:
                    yield run, waiting.pop(run)
        yield from waiting.items()

    @cached_property
    def _groups(self) -> GroupTrainer:
        """Return the trainer of fused runs, made on first use."""
        return GroupTrainer(self.trainer, self.sweep.identity.fuse, announce=_announce_epoch)

    def _lacks(self, network: NetworkId, chain: Chain) -> bool:
        """Say whether a pruned network lacks activations or logits that its chain is to make."""
        return any(self.store.piece_mark(network, what) is None for what in chain.derived(network.iteration))

    def derive(self, network: NetworkId, trained: TrainedNetwork, chain: Chain) -> None:
        """Write and commit what a pruned network's chain is to make of it, unless it is committed."""
        work = {"logits": self.keep_logits, "activations": self.extract}
        for what in chain.derived(network.iteration):
            work[what](network, trained)

    def keep_logits(self, network: NetworkId, trained: TrainedNetwork) -> None:
        """Write and commit a network's logits of the test images, unless they are committed."""
        if self.store.piece_mark(network, "logits") is None:
            with self._own_stream():
                evaluate(self.store, self.sweep, self.trainer, network, trained)

    def extract(self, network: NetworkId, trained: TrainedNetwork) -> None:
        """Write and commit a network's activations, unless they are committed."""
        if self.store.activations_mark(network) is None:
            with self._own_stream():
                extract(self.store, self.sweep, self.probe, self.trainer.classes, network, trained, self.writers)
            self.watcher.on_activations(events.whose(self.sweep.name, network))

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Compute on the stream of extraction, with the sweep's threads."""
        if self._extraction is not None:  # the probe may have been made on this thread's stream
            self._extraction.wait_stream(torch.cuda.current_stream(self.device))
        with threads(self.sweep.identity.threads), torch.cuda.stream(self._extraction):
            yield

    def _checkpoints(self, network: NetworkId) -> StoredCheckpoints:
        of = self.store.storage, network.path, self.sweep.identity.hash, environment(self.sweep)
        return StoredCheckpoints(*of, self._largest_checkpoint)

    @cached_property
    def _largest_checkpoint(self) -> int:
        """Return a bound on the bytes of a checkpoint, which holds a network, its optimizer and some copies of it."""
        tensors = build(self.sweep.problem, self.trainer.classes).state_dict().values()
        return CHECKPOINT_COPIES * sum(tensor.nbytes for tensor in tensors) + CHECKPOINT_ROOM

    def redo(self, network: NetworkId) -> str:
        """Train one network again. Commit it if it is missing, else compare it with the committed one.

        Return the outcome in one sentence. A committed network stays as it is. The network before it must be committed.
        ValueError: it differs from the committed one, or there is no such network in this sweep. FileNotFoundError: the
        network before it is missing. TooSlow: this machine has no instructions for the sweep's precision.
        """
        self._require_speed()
        require_before(self.store, network)
        started, label = time.time(), f"{self.sweep.name}, {network.label}"
        with threads(self.sweep.identity.threads):
            if network.run is None:
                trained, files = self.trainer.complete(number=network.complete), {"probe.json": self._probe_file()}
            else:
                require_before(self.store, network)
                trained, files = self._redone(network, network.run), None
        accuracy = f"accuracy {trained.record['accuracy']:.4f}"
        if self.store.mark(network) is None:
            self._commit(network, trained, started, files)
            return f"{label}: trained and committed, {accuracy}"
        committed = self.store.load_network(network)
        changed = [name for name, tensor in trained.weights.items() if not torch.equal(tensor, committed.weights[name])]
        if changed or trained.record != committed.record:
            raise ValueError(
                f"{label}: comes out different from the committed network, in {', '.join(changed) or 'its record'}"
            )
        return f"{label}: trained again, equal to the committed network bit by bit, {accuracy}"

    def _redone(self, network: NetworkId, run: int) -> TrainedNetwork:
        """Train a network of a run again."""
        complete, number = self._load_complete(network.complete), network.complete
        before = self.store.load_network(network.before or network.origin)
        if self.sweep.identity.fuse > 1 and not network.control:
            return self._groups.iterate(run, network.iteration, before, complete, number)
        of_run = network.control, number
        return self.trainer.iterate(run, network.iteration, before, complete, None, *of_run)

    def _load_complete(self, number: int) -> TrainedNetwork:
        network = NetworkId(complete=number)
        mark = self.store.mark(network)
        if mark is None:
            raise FileNotFoundError(f"{self.sweep.name}: the {network.label} is not in {self.store.root.url}")
        if not self.allow_drift:
            check_environment(self.sweep, mark.environment)
        return self.store.load_network(network)

    def _require_finite(self, network: NetworkId, trained: TrainedNetwork) -> None:
        """Check the test loss. FloatingPointError names the network and the first layer that is not finite."""
        if math.isfinite(trained.record["loss"]):
            return
        label = f"{self.sweep.name}, {network.label}"
        module = build(self.sweep.problem, self.trainer.classes)
        module.load_state_dict(trained.weights)
        for _ in blocks(module.to(self.device), self.probe, label=label):  # raises at the first such layer
            pass
        raise FloatingPointError(f"{label}: the test loss is {trained.record['loss']}, which is not finite")

    def _commit(
        self,
        network: NetworkId,
        trained: TrainedNetwork,
        started: float,
        files: dict[str, bytes] | None = None,
        together: int = 1,
    ) -> TrainedNetwork:
        """Commit a network. Return the one that counts, which is another writer's if that writer was first.

        together : number of networks that were trained in this time
        """
        self._require_finite(network, trained)
        return self.store.commit_network(
            network,
            trained,
            files,
            identity=self.sweep.identity.hash,
            environment=environment(self.sweep),
            provenance=provenance(started, time.time(), together),
        )

    def _probe_file(self) -> bytes:
        return canonical_json({"indices": self.probe.indices.tolist()}).encode()

    def _event(self, network: NetworkId, started: float, trained: TrainedNetwork) -> Event:
        return events.whose(self.sweep.name, network) | {
            "accuracy": trained.record["accuracy"],
            "remaining": trained.record["remaining"],
            "epochs": trained.record["epochs"],
            "seconds": time.time() - started,
        }


def _announce_epoch(epoch: int, network: Network | None = None) -> bool:
    trace.announce("epoch", epoch + 1)
    return False
