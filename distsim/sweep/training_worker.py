"""What one worker does: train the complete network, run a chain, compare. The same functions, with and without Ray.

Each takes the store, asks it what is already there, and commits what it makes; each can be called again at any time.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from distsim import trace
from distsim.activations.probe import Probe, blocks, make_probe
from distsim.data import Dataset
from distsim.environment import check_environment, environment, provenance, require_device, threads
from distsim.models import Network, build
from distsim.specs import COMPLETE, NetworkId, Sweep
from distsim.store import SweepStore
from distsim.store.checkpoints import StoredCheckpoints
from distsim.sweep.extraction import extract
from distsim.sweep.failures import EXPECTED, sentence
from distsim.sweep.plan import Chain
from distsim.training.chain import TrainedNetwork, Trainer

Event = dict[str, Any]


class TrainingWorker:
    """A worker's own copy of a problem: its data on the device, ready to train and to extract."""

    def __init__(
        self, store: SweepStore, sweep: Sweep, dataset: Dataset, allow_drift: bool = False, beside: bool = False
    ) -> None:
        """beside : write activations in a thread of its own, while the next network is trained."""
        self.store, self.sweep, self.dataset, self.allow_drift = store, sweep, dataset, allow_drift
        self.beside = beside
        require_device(sweep.device)
        self.device = torch.device(sweep.device)
        self._trainer: Trainer | None = None
        self._probe: Probe | None = None
        self._extraction = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @property
    def trainer(self) -> Trainer:
        if self._trainer is None:
            self._trainer = Trainer(self.sweep.identity, self.dataset, self.device, after_epoch=[_announce_epoch])
        return self._trainer

    @property
    def probe(self) -> Probe:
        if self._probe is None:
            self._probe = make_probe(self.sweep.identity, self.dataset, self.device)
        return self._probe

    def complete(self) -> Event:
        """Train and commit the complete network, unless it is there; then its activations."""
        started = time.time()
        with threads(self.sweep.identity.threads):
            if self.store.mark(COMPLETE) is None:
                self._check_what_is_left()
                with trace.stage("complete", self.sweep.name):
                    step = self.trainer.complete(self._checkpoints(COMPLETE))
                files = {"probe.json": self._probe_file()}
                self._commit(COMPLETE, step, started, files)
            complete = self._load_complete()
            if self.sweep.extent.activations == "store":
                self.extract(COMPLETE, complete)
            return self._event(COMPLETE, started, complete)

    def _check_what_is_left(self) -> None:
        """EnvironmentDrift: the complete network is gone, and here it would not come out as what was pruned from it."""
        for network in () if self.allow_drift else sorted(self.store.contents().networks)[:1]:
            mark = self.store.mark(network)
            if mark is not None:
                check_environment(self.sweep, mark.environment)

    def chains(self, works: Sequence[Chain], failed: Callable[[str], None]) -> Iterator[Event]:
        """Train the runs' missing iterations, each committed before its run's next, and write activations.

        The runs take turns, a step of training each: on a GPU each step has a stream of its own, so that networks that
        are too small to fill the device fill it together. Every run comes out as it would alone. What ends one run, a
        sentence for `failed`, does not end the others.
        """
        with threads(self.sweep.identity.threads):
            complete = self._load_complete()
            lanes = [(work, self._turns(work, complete)) for work in works]
            try:
                while lanes:
                    for lane in tuple(lanes):
                        work, turns = lane
                        try:
                            event = next(turns)
                        except StopIteration:
                            lanes.remove(lane)
                        except EXPECTED as error:
                            lanes.remove(lane)
                            failed(sentence(f"{self.sweep.name}, run {work.run}", error))
                        else:
                            if event is not None:
                                yield event
            finally:
                for _, turns in lanes:
                    turns.close()

    def _turns(self, work: Chain, complete: TrainedNetwork) -> Generator[Event | None, None, None]:
        """A run, giving way after each step of training; an event after each iteration."""
        before: TrainedNetwork | None = complete
        with _Beside(self.beside) as beside:
            for iteration in range(1, max((*work.train, *work.extract), default=0) + 1):
                started, network = time.time(), NetworkId(work.run, iteration)
                step = None
                if iteration in work.train and self.store.mark(network) is None:
                    before = before or self.store.load_network(NetworkId(work.run, iteration - 1))
                    checkpoints = self._checkpoints(network)
                    with trace.stage("training", self.sweep.name, network.label):
                        step = yield from self.trainer.iterating(work.run, iteration, before, complete, checkpoints)
                    self._commit(network, step, started)
                if iteration in work.extract and self.store.activations_mark(network) is None:
                    step = step or self.store.load_network(network)
                    beside.do(self.extract, network, step)
                if step is not None:
                    yield self._event(network, started, step)
                before = step

    def extract(self, network: NetworkId, step: TrainedNetwork | None = None) -> None:
        """Write and commit a network's activations, unless they are there."""
        if self.store.activations_mark(network) is None:
            step = step or self.store.load_network(network)
            with threads(self.sweep.identity.threads), torch.cuda.stream(self._extraction):
                extract(self.store, self.sweep, self.probe, self.trainer.classes, network, step)

    def _checkpoints(self, network: NetworkId) -> StoredCheckpoints:
        sweep = self.sweep
        return StoredCheckpoints(self.store.storage, network.path, sweep.identity.hash, environment(sweep))

    def redo(self, network: NetworkId) -> str:
        """Compute one network again; commit it if it is missing, else say whether it equals what is committed.

        Its predecessor must be committed. What is committed stays as it is. ValueError: it is none of this sweep's.
        """
        if network.complete:
            raise ValueError(f"{self.sweep.name} has one complete network, run=complete: got {network.argument}")
        started, label = time.time(), f"{self.sweep.name}, {network.label}"
        with threads(self.sweep.identity.threads):
            if network.run is None:
                step, files = self.trainer.complete(), {"probe.json": self._probe_file()}
            else:
                complete = self._load_complete()
                before = self.store.load_network(network.before or COMPLETE)
                step, files = self.trainer.iterate(network.run, network.iteration, before, complete), None
        if self.store.mark(network) is None:
            self._commit(network, step, started, files)
            return f"{label}: computed and committed, accuracy {step.record['accuracy']:.4f}"
        committed = self.store.load_network(network)
        changed = [name for name, tensor in step.weights.items() if not torch.equal(tensor, committed.weights[name])]
        if changed or step.record != committed.record:
            raise ValueError(
                f"{label}: comes out different from what is committed, in {', '.join(changed) or 'its record'}"
            )
        return f"{label}: computed again, bit by bit as committed, accuracy {step.record['accuracy']:.4f}"

    def _load_complete(self) -> TrainedNetwork:
        mark = self.store.mark(COMPLETE)
        if mark is None:
            raise FileNotFoundError(f"{self.sweep.name}: the complete network is not in {self.store.root.url}")
        if not self.allow_drift:
            check_environment(self.sweep, mark.environment)
        return self.store.load_network(COMPLETE)

    def _require_finite(self, network: NetworkId, step: TrainedNetwork) -> None:
        """FloatingPointError names the network and its first layer that puts out something else than numbers."""
        if math.isfinite(step.record["loss"]):
            return
        label = f"{self.sweep.name}, {network.label}"
        trained = build(self.sweep.problem, self.trainer.classes)
        trained.load_state_dict(step.weights)
        for _ in blocks(trained.to(self.device), self.probe, label=label):
            pass
        raise FloatingPointError(f"{label}: the test loss is {step.record['loss']}, which is not finite")

    def _commit(
        self, network: NetworkId, step: TrainedNetwork, started: float, files: dict[str, bytes] | None = None
    ) -> None:
        self._require_finite(network, step)
        self.store.commit_network(
            network,
            step,
            files,
            identity=self.sweep.identity.hash,
            environment=environment(self.sweep),
            provenance=provenance(started, time.time()),
        )

    def _probe_file(self) -> bytes:
        from distsim.specs import canonical_json

        return canonical_json({"indices": self.probe.indices.tolist()}).encode()

    def _event(self, network: NetworkId, started: float, step: TrainedNetwork) -> Event:
        return {
            "problem": self.sweep.name,
            "run": network.run,
            "iteration": step.iteration,
            "accuracy": step.record["accuracy"],
            "remaining": step.record["remaining"],
            "epochs": step.record["epochs"],
            "seconds": time.time() - started,
        }


class _Beside:
    """Does one thing at a time beside what goes on, or at once; the block ends when all is done.

    An error comes out at the next call, or at the end.
    """

    def __init__(self, beside: bool) -> None:
        self._pool = ThreadPoolExecutor(1) if beside else None
        self._doing: Future[None] | None = None

    def __enter__(self) -> "_Beside":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            if kind is None:
                self._settled()

    def do(self, work: Callable[..., None], *args: Any) -> None:
        if self._pool is None:
            work(*args)
            return
        self._settled()
        self._doing = self._pool.submit(work, *args)

    def _settled(self) -> None:
        if self._doing is not None:
            done, self._doing = self._doing, None
            done.result()


def _announce_epoch(epoch: int, network: Network) -> bool:
    trace.announce("epoch", epoch + 1)
    return False
