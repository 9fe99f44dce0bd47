"""What one worker does: train the complete network, run a chain, compare. The same functions, with and without Ray.

Each takes the store, asks it what is already there, and commits what it makes; each can be called again at any time.
"""

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from distsim import stages
from distsim.activations import Probe, blocks, chunk_shape, held, layer_shapes, make_probe
from distsim.chain import Step, Trainer
from distsim.comparison import InMemory, LayerSource, Reference, compare_pairs
from distsim.data import Dataset
from distsim.environment import check_environment, environment, provenance, require_device
from distsim.extraction import extract
from distsim.models import Network, build
from distsim.plan import Chain
from distsim.seeds import numpy_stream
from distsim.specs import PERMUTATIONS, Sweep
from distsim.store import DamagedStore, NetworkId, NoSpace, SweepStore, network_label, network_path
from distsim.store.activations import Reader
from distsim.store.epochs import EpochKeeper
from distsim.training import threads

# What a person can act on, and what trying again would not change: reported, never retried.
EXPECTED = (FloatingPointError, ValueError, FileNotFoundError, DamagedStore, NoSpace)

Event = dict[str, Any]


class Bench:
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
            if self.store.mark(None) is None:
                self._check_what_is_left()
                with stages.stage("complete", self.sweep.name):
                    step = self.trainer.complete(self._keeper(None))
                files = {"probe.json": self._probe_file()}
                self._commit(None, step, started, files)
            complete = self._load_complete()
            if self.sweep.extent.activations == "store":
                self.extract(None, complete)
            return self._event(None, started, complete)

    def _check_what_is_left(self) -> None:
        """EnvironmentDrift: the complete network is gone, and here it would not come out as what was pruned from it."""
        for network in () if self.allow_drift else sorted(self.store.contents().networks, key=str)[:1]:
            mark = self.store.mark(network)
            if mark is not None:
                check_environment(self.sweep, mark.environment)

    def chains(self, works: Sequence[Chain], failed: Callable[[str], None]) -> Iterator[Event]:
        """Train the runs' missing iterations, each committed before its run's next, and write activations.

        The runs take turns, a step of training each: on a GPU each has a stream of its own, so that networks that are
        too small to fill the device fill it together. Every run comes out as it would alone. What ends one run, a
        sentence for `failed`, does not end the others.
        """
        with threads(self.sweep.identity.threads):
            complete = self._load_complete()
            lanes = [(work, self._turns(work, complete), self._stream()) for work in works]
            try:
                while lanes:
                    for lane in tuple(lanes):
                        work, turns, stream = lane
                        try:
                            with torch.cuda.stream(stream):
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
                for _, turns, _ in lanes:
                    turns.close()

    def _turns(self, work: Chain, complete: Step) -> Generator[Event | None, None, None]:
        """A run, giving way after each step of training; an event after each iteration."""
        before: Step | None = complete
        with _Beside(self.beside) as beside:
            for iteration in range(1, max((*work.train, *work.extract), default=0) + 1):
                started, network = time.time(), (work.run, iteration)
                step = None
                if iteration in work.train and self.store.mark(network) is None:
                    before = before or self.store.load_network((work.run, iteration - 1))
                    keeper = self._keeper(network)
                    with stages.stage("training", self.sweep.name, network_label(network)):
                        step = yield from self.trainer.iterating(work.run, iteration, before, complete, keeper)
                    self._commit(network, step, started)
                if iteration in work.extract and self.store.activations_mark(network) is None:
                    step = step or self.store.load_network(network)
                    beside.do(self.extract, network, step)
                if step is not None:
                    yield self._event(network, started, step)
                before = step

    def extract(self, network: NetworkId, step: Step | None = None) -> None:
        """Write and commit a network's activations, unless they are there."""
        if self.store.activations_mark(network) is None:
            step = step or self.store.load_network(network)
            with threads(self.sweep.identity.threads), torch.cuda.stream(self._stream()):
                extract(self.store, self.sweep, self.probe, self.trainer.classes, network, step)

    def _stream(self) -> "torch.cuda.Stream | None":
        return torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def _keeper(self, network: NetworkId) -> EpochKeeper:
        sweep = self.sweep
        return EpochKeeper(self.store.storage, network_path(network), sweep.identity.hash, environment(sweep))

    def redo(self, network: NetworkId) -> str:
        """Compute one network again; commit it if it is missing, else say whether it equals what is committed.

        Its predecessor must be committed. What is committed stays as it is.
        """
        started, label = time.time(), f"{self.sweep.name}, {network_label(network)}"
        with threads(self.sweep.identity.threads):
            if network is None:
                step, files = self.trainer.complete(), {"probe.json": self._probe_file()}
            else:
                complete = self._load_complete()
                run, iteration = network
                before = complete if iteration == 1 else self.store.load_network((run, iteration - 1))
                step, files = self.trainer.iterate(run, iteration, before, complete), None
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

    def _load_complete(self) -> Step:
        mark = self.store.mark(None)
        if mark is None:
            raise FileNotFoundError(f"{self.sweep.name}: the complete network is not in {self.store.root.url}")
        if not self.allow_drift:
            check_environment(self.sweep, mark.environment)
        return self.store.load_network(None)

    def _require_finite(self, network: NetworkId, step: Step) -> None:
        """FloatingPointError names the network and its first layer that puts out something else than numbers."""
        if math.isfinite(step.record["loss"]):
            return
        label = f"{self.sweep.name}, {network_label(network)}"
        trained = build(self.sweep.problem, self.trainer.classes)
        trained.load_state_dict(step.weights)
        for _ in blocks(trained.to(self.device), self.probe, label=label):
            pass
        raise FloatingPointError(f"{label}: the test loss is {step.record['loss']}, which is not finite")

    def _commit(self, network: NetworkId, step: Step, started: float, files: dict[str, bytes] | None = None) -> None:
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

    def _event(self, network: NetworkId, started: float, step: Step) -> Event:
        return {
            "problem": self.sweep.name,
            "run": None if network is None else network[0],
            "iteration": step.iteration,
            "accuracy": step.record["accuracy"],
            "remaining": step.record["remaining"],
            "epochs": step.record["epochs"],
            "seconds": time.time() - started,
        }


@dataclass(frozen=True)
class Comparison:
    """One layer of several networks, each with the metrics it lacks."""

    problem: str
    layer: str
    networks: tuple[tuple[NetworkId, tuple[str, ...]], ...]
    chance: bool = False  # with the networks' examples permuted


Pair = tuple[NetworkId, NetworkId]


@dataclass(frozen=True)
class PairJob:
    """One layer of a tile of networks, and the pairs of them that are to be compared."""

    problem: str
    layer: str
    pairs: tuple[Pair, ...]
    metrics: tuple[str, ...]

    @property
    def networks(self) -> tuple[NetworkId, ...]:
        return tuple(dict.fromkeys(itertools.chain.from_iterable(self.pairs)))


def comparisons(
    lacking: dict[NetworkId, dict[str, tuple[str, ...]]], sweep: Sweep, slots: int, chance: bool = False
) -> list[Comparison]:
    """The missing comparisons as jobs, layer by layer; a layer's networks are divided where slots would idle."""
    by_layer: dict[str, list[tuple[NetworkId, tuple[str, ...]]]] = {}
    for network in sorted(lacking, key=str):
        for layer, metrics in lacking[network].items():
            by_layer.setdefault(layer, []).append((network, metrics))
    jobs = []
    for layer, networks in by_layer.items():
        blocks = max(1, min(len(networks), -(-slots // max(len(by_layer), 1))))
        size = -(-len(networks) // blocks)
        for start in range(0, len(networks), size):
            jobs.append(Comparison(sweep.name, layer, tuple(networks[start : start + size]), chance))
    return jobs


class Comparer:
    """Compares networks with the complete one, holding the complete network's side of one layer at a time.

    dataset : for activations that are not stored but recomputed (`Extent.activations` is memory)
    """

    def __init__(
        self, store: SweepStore, sweep: Sweep, dataset: Dataset | None = None, allow_drift: bool = False
    ) -> None:
        self.store, self.sweep, self.dataset, self.allow_drift = store, sweep, dataset, allow_drift
        self._held: tuple[str, tuple[str, ...]] | None = None
        self._reference: Reference | None = None
        self._reference_dtype = ""
        self._readers: dict[NetworkId, Reader] = {}
        self._checked = allow_drift

    def compare(self, job: Comparison | PairJob) -> list[str]:
        """Compute and commit what the job asks for; a sentence for each network that cannot be compared."""
        if isinstance(job, PairJob):
            with threads(self.sweep.identity.threads):
                return attempt(f"{job.problem}, layer {job.layer}", self._compare_pairs, job)
        failures: list[str] = []
        with threads(self.sweep.identity.threads):
            for network, metrics in job.networks:
                of_complete = f"{job.problem}, complete network, layer {job.layer}"
                if unusable := attempt(of_complete, self._reference_for, job.layer, metrics):
                    return failures + unusable
                label = f"{job.problem}, {network_label(network)}, layer {job.layer}"
                failures += attempt(label, self._compare, job, network, metrics)
        return failures

    def _compare(self, job: Comparison, network: NetworkId, metrics: tuple[str, ...]) -> None:
        started = time.time()
        with stages.stage("comparison", self.sweep.name, network_label(network), job.layer):
            reference = self._reference_for(job.layer, metrics)
            source = self._source(network, job.layer)
            values = self._by_chance(reference, source) if job.chance else reference.compare(source)
            self.store.commit_comparison(
                network,
                job.layer,
                values,
                "chance" if job.chance else "comparison",
                identity=self.sweep.identity.hash,
                environment=environment(self.sweep),
                provenance=provenance(started, time.time())
                | {"dtype_x": self._reference_dtype, "dtype_y": source.dtype},
            )

    def _compare_pairs(self, job: PairJob) -> None:
        started = time.time()
        self._check_environment()
        self._reference = None  # its memory is needed
        with stages.stage("comparison", self.sweep.name, f"{len(job.pairs)} pairs", job.layer):
            places = {network: place for place, network in enumerate(job.networks)}
            found = compare_pairs(
                [self._kept_or_forwarded(network, job.layer) for network in job.networks],
                [(places[a], places[b]) for a, b in job.pairs],
                job.metrics,
                self.sweep.device,
                self.sweep.identity.comparison,
            )
            self.store.commit_pairs(
                job.layer,
                {(a, b): found[places[a], places[b]] for a, b in job.pairs},
                identity=self.sweep.identity.hash,
                environment=environment(self.sweep),
                provenance=provenance(started, time.time()),
            )

    def _kept_or_forwarded(self, network: NetworkId, layer: str) -> LayerSource:
        """A layer's activations, from the store if they are kept there, else by a forward pass: the same bits."""
        mark = self.store.activations_mark(network)
        if mark is None:
            return self._forwarded(network, layer)
        return Reader(self.store.storage, self.store.activations_path(network), mark).layer(layer)

    def _check_environment(self) -> None:
        if not self._checked:
            mark = self.store.mark(None)
            if mark is not None:
                check_environment(self.sweep, mark.environment)
            self._checked = True

    def _by_chance(self, reference: Reference, source: LayerSource) -> dict[str, dict[str, Any]]:
        """Metric -> the values for examples in another order, which is the same for all networks."""
        found = []
        for number in range(PERMUTATIONS):
            stream = numpy_stream(self.sweep.identity.seed, "chance", source.name, number)
            found.append(reference.compare(Permuted(source, stream.permutation(source.shape[0]))))
        return {
            name: {"values": [one[name]["value"] for one in found], "reasons": [one[name]["reason"] for one in found]}
            for name in found[0]
        }

    def _reference_for(self, layer: str, metrics: tuple[str, ...]) -> Reference:
        if self._held != (layer, metrics) or self._reference is None:
            self._reference = None  # let go of the old side before the new one is made
            self._check_environment()
            source = self._source(None, layer)
            self._reference = Reference(source, metrics, self.sweep.device, self.sweep.identity.comparison)
            self._held, self._reference_dtype = (layer, metrics), source.dtype
        return self._reference

    def _source(self, network: NetworkId, layer: str) -> LayerSource:
        """A layer's activations, from the store or by a forward pass."""
        if self.sweep.extent.activations == "memory":
            return self._forwarded(network, layer)
        if network is not None or None not in self._readers:
            mark = self.store.activations_mark(network)
            if mark is None:
                raise FileNotFoundError(f"{self.sweep.name}: no activations of {network_label(network)}")
            self._readers = {None: self._readers[None]} if None in self._readers else {}
            self._readers[network] = Reader(self.store.storage, self.store.activations_path(network), mark)
        return self._readers[network].layer(layer)

    def _forwarded(self, which: NetworkId, name: str) -> LayerSource:
        identity = self.sweep.identity
        network = build(identity.problem, len(identity.problem.classes))
        network.load_state_dict(self.store.load_network(which).weights)
        network.to(self.sweep.device)
        layer = next(layer for layer in network.layers if layer.name == name)
        shape = layer_shapes(network, identity.problem.channels, identity.problem.size)[name]
        label = f"{self.sweep.name}, {network_label(which)}"
        activations = held(network, self._probe, layer, shape, identity.storage, label)
        panel_rows = chunk_shape(tuple(activations.shape))[1]
        array = activations.numpy() if self.sweep.device == "cpu" else activations
        return InMemory(array, name, layer.kind, rows=panel_rows)

    @cached_property
    def _probe(self) -> Probe:
        if self.dataset is None:
            raise ValueError(f"{self.sweep.name}: activations in memory need the data set")
        return make_probe(self.sweep.identity, self.dataset, self.sweep.device)


@dataclass(frozen=True)
class Permuted:
    """A LayerSource with its examples in another order."""

    source: LayerSource
    order: Any  # (n,) a permutation

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def kind(self) -> str:
        return self.source.kind

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> str:
        return self.source.dtype

    @property
    def panel_rows(self) -> int:
        return self.source.panel_rows

    def panels(self, rows: int) -> Iterator[Any]:
        for panel in self.source.panels(rows):
            yield panel[self.order]


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


def attempt(label: str, work: Callable[..., Any], *args: Any) -> list[str]:
    """Do the work; empty, or one sentence where it failed for a reason that trying again would not change."""
    try:
        work(*args)
    except EXPECTED as error:
        return [sentence(label, error)]
    return []


def sentence(label: str, error: BaseException) -> str:
    return f"{label}: {error}" if label not in str(error) else str(error)


def _announce_epoch(epoch: int, network: Network) -> bool:
    stages.announce("epoch", epoch + 1)
    return False
