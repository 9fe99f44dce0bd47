"""The worker that trains networks and extracts their activations, with and without Ray.

Each of its methods asks the store what is committed, and commits what it makes. Each can be called again at any time.
"""

import math
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch

from distsim import trace
from distsim.activations.probe import Probe, blocks, make_probe
from distsim.callbacks import Callback, Event
from distsim.data import Dataset
from distsim.environment import check_environment, environment, provenance, require_device, threads
from distsim.models import Network, build
from distsim.processor import require_speed
from distsim.specs import NetworkId, Sweep, canonical_json
from distsim.store import SweepStore
from distsim.store.checkpoints import StoredCheckpoints
from distsim.sweep import events
from distsim.sweep.extraction import evaluate, extract
from distsim.sweep.plan import Chain, require_before
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
                self.require_speed()
                self._check_pruned_networks()
                self.begins(network, 0)
                with trace.stage("complete", self.sweep.name, *([network.label] if number else [])):
                    trained = self.trainer.complete(self.checkpoints(network), number)
                self.commit(network, trained, started, {"probe.json": self._probe_file()})
            complete = self.load_complete(number)
            if "functional" in self.sweep.extent.measure:
                self.keep_logits(network, complete)
            if self.sweep.extent.activations == "store":
                self.extract(network, complete)
            return self.event(network, started, complete)

    def begins(self, network: NetworkId, last: int) -> None:
        """Tell the watcher that a training begins. last : the last iteration that its chain trains"""
        self.watcher.on_training(events.training(self.sweep, len(self.dataset.train_labels), network, last))

    def _heard(self, streams: EpochStreams, epochs: int, loss: float) -> None:
        self.watcher.on_epoch(events.whose(self.sweep.name, streams.network) | {"epoch": epochs, "loss": loss})

    def require_speed(self) -> None:
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

    @cached_property
    def groups(self) -> GroupTrainer:
        """Return the trainer of fused runs, made on first use."""
        return GroupTrainer(self.trainer, self.sweep.identity.fuse, announce=_announce_epoch)

    def lacks(self, network: NetworkId, chain: Chain) -> bool:
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

    def checkpoints(self, network: NetworkId) -> StoredCheckpoints:
        """Return the place of a network's checkpoints in the store."""
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
        self.require_speed()
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
            self.commit(network, trained, started, files)
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
        complete, number = self.load_complete(network.complete), network.complete
        before = self.store.load_network(network.before or network.origin)
        if self.sweep.identity.fuse > 1 and not network.control:
            return self.groups.iterate(run, network.iteration, before, complete, number)
        of_run = network.control, number
        return self.trainer.iterate(run, network.iteration, before, complete, None, *of_run)

    def load_complete(self, number: int) -> TrainedNetwork:
        """Return a committed complete network. FileNotFoundError: there is none. EnvironmentDrift: made elsewhere."""
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
        try:
            for _ in blocks(module.to(self.device), self.probe, label=label):  # raises at the first such layer
                pass
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}: the training diverged. A smaller learning rate may help") from None
        raise FloatingPointError(f"{label}: the test loss is {trained.record['loss']}, which is not finite")

    def commit(
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

    def event(self, network: NetworkId, started: float, trained: TrainedNetwork) -> Event:
        """Return the event that says that a network is there. started : when its training began, in seconds"""
        return events.whose(self.sweep.name, network) | {
            "accuracy": trained.record["accuracy"],
            "remaining": trained.record["remaining"],
            "epochs": trained.record["epochs"],
            "seconds": time.time() - started,
        }


def _announce_epoch(epoch: int, network: Network | None = None) -> bool:
    trace.announce("epoch", epoch + 1)
    return False
