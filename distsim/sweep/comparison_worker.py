"""The worker that compares networks."""

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from distsim import trace
from distsim.activations.layout import chunk_shape
from distsim.activations.probe import Probe, held, layer_shapes, make_probe
from distsim.comparison.layer import Reference, Result, compare_pairs
from distsim.comparison.sides import InMemory, LayerSource
from distsim.data import Dataset
from distsim.environment import check_environment, comparison_environment, free_on, provenance, threads
from distsim.models import build
from distsim.seeds import numpy_stream
from distsim.specs import COMPLETE, PERMUTATIONS, NetworkId, Sweep
from distsim.store import SweepStore
from distsim.store.activations import Reader
from distsim.store.records import WEIGHTS, WEIGHTS_X, WEIGHTS_Y, weights_of
from distsim.sweep.failures import attempt
from distsim.sweep.jobs import Comparison, Job, NetworkComparison, PairJob
from distsim.sweep.on_device import Compared, OnDevice, Wanted
from distsim.tf32 import SWITCH
from distsim.training.stepper import settle


class ComparisonWorker:
    """A worker that compares networks with the complete one. It holds one layer of the complete network at a time.

    dataset : needed only if activations are recomputed and not stored (`Extent.activations` is "memory")
    allow_drift : compare also in another environment than the one in which the complete network was trained
    """

    def __init__(
        self, store: SweepStore, sweep: Sweep, dataset: Dataset | None = None, allow_drift: bool = False
    ) -> None:
        self.store, self.sweep, self.dataset, self.allow_drift = store, sweep, dataset, allow_drift
        self._held: tuple[NetworkId, str, tuple[str, ...]] | None = None
        self._reference: Reference | None = None
        self._reference_dtype = ""
        self._readers: dict[NetworkId, Reader] = {}
        self._checked = allow_drift
        self._on_device: OnDevice | None = None
        self._device: str = sweep.device  # as distsim.comparison names it

    @SWITCH.float32()
    def compare(self, job: Job) -> list[str]:
        """Compute and commit what the job asks for. Return a sentence for each network that cannot be compared."""
        if isinstance(job, PairJob):
            with threads(self.sweep.identity.threads):
                return attempt(f"{job.problem}, layer {job.layer}", self._compare_pairs, job)
        if isinstance(job, NetworkComparison):
            with threads(self.sweep.identity.threads):
                return self._compare_networks(job)
        failures: list[str] = []
        with threads(self.sweep.identity.threads):
            for network, metrics in job.networks:
                of_complete = f"{job.problem}, {network.origin.label}, layer {job.layer}"
                if unusable := attempt(of_complete, self._reference_for, network.origin, job.layer, metrics):
                    return failures + unusable
                label = f"{job.problem}, {network.label}, layer {job.layer}"
                failures += attempt(label, self._compare, job, network, metrics)
        return failures

    @SWITCH.float32()
    def measure(self, network: NetworkId, layer: str, metrics: tuple[str, ...]) -> dict[str, Result]:
        """Compute a layer's values of one network, by metric, as `compare` does. Commit nothing."""
        with threads(self.sweep.identity.threads):
            return self._reference_for(network.origin, layer, metrics).compare(self._source(network, layer))

    def _compare(self, job: Comparison, network: NetworkId, metrics: tuple[str, ...]) -> None:
        started = time.time()
        with trace.stage("comparison", self.sweep.name, network.label, job.layer):
            reference = self._reference_for(network.origin, job.layer, metrics)
            source = self._source(network, job.layer)
            values = self._by_chance(reference, source) if job.chance else reference.compare(source)
            dtypes = self._reference_dtype, source.dtype
            self._commit(network, job.layer, values, job.chance, provenance(started, time.time()), dtypes)

    def _commit(
        self,
        network: NetworkId,
        layer: str,
        values: dict[str, Any],
        chance: bool,
        made: dict[str, Any],
        dtypes: tuple[str, str],
    ) -> None:
        """Commit a layer's values. made : provenance; dtypes : of both networks' activations"""
        self.store.commit_comparison(
            network,
            layer,
            values,
            "chance" if chance else "comparison",
            identity=self.sweep.identity.hash,
            environment=comparison_environment(self.sweep),
            provenance=made
            | dict(zip(("dtype_x", "dtype_y"), dtypes, strict=True))
            | self._weights({WEIGHTS_X: network.origin, WEIGHTS_Y: network}),
        )

    # --- all layers of a network at once -----------------------------------------------------------------------------

    def _compare_networks(self, job: NetworkComparison) -> list[str]:
        """Compare networks one by one, or layer by layer where the device's memory is too small for all layers."""
        wanted = {layer.layer: layer.all_metrics for layer in job.layers}
        failures: list[str] = []
        origin = job.networks[0][0].origin
        if not self._fit(wanted) or attempt("", self._prepare, origin, wanted):
            self._on_device = None  # frees its memory
            for layer in job.layers:
                failures += self.compare(layer)
            return failures
        with ThreadPoolExecutor(1) as pool:  # commits while the next network is computed
            commits: list[Future[list[str]]] = []
            for network, layers in job.networks:
                label = f"{job.problem}, {network.label}"
                work = self._chances if job.chance else self._similarities
                failures += attempt(label, self._compare_network, work, network, dict(layers), pool, commits, failures)
            return failures + [failure for commit in commits for failure in commit.result()]

    def _fit(self, wanted: Wanted) -> bool:
        """Return whether all of these layers fit into the device's memory, with the other network's."""
        self._reference = None  # frees its memory
        return self._whole.fits(wanted, free_on(self.sweep.device))

    def _prepare(self, origin: NetworkId, wanted: Wanted) -> None:
        self._check_environment()
        settle(torch.device(self.sweep.device), self.sweep.identity.deterministic)
        self._whole.prepare(wanted, origin)

    @property
    def _whole(self) -> OnDevice:
        if self._on_device is None:
            self._on_device = OnDevice(
                self.sweep,
                self._probe,
                lambda which: self.store.load_network(which).weights,
                self._forwarded,
                self._device,
            )
        return self._on_device

    def _compare_network(
        self,
        work: Callable[[NetworkId, Wanted], Iterator[Compared]],
        network: NetworkId,
        wanted: Wanted,
        pool: ThreadPoolExecutor,
        commits: list[Future[list[str]]],
        failures: list[str],
    ) -> None:
        """Compare a network's layers, and let the pool commit their values. Layers that cannot be are in `failures`."""
        started, chance = time.time(), work == self._chances
        with trace.stage("comparison", self.sweep.name, network.label, f"{len(wanted)} layers"):
            for compared in work(network, wanted):
                label = f"{self.sweep.name}, {network.label}, layer {compared.layer}"

                def finish(compared: Compared = compared, label: str = label) -> None:
                    values, made = compared.results(), provenance(started, time.time())
                    dtypes = self._whole.reference(compared.layer).layer.dtype, compared.dtype
                    of_layer = network, compared.layer, values, chance, made, dtypes
                    commits.append(pool.submit(attempt, label, self._commit, *of_layer))

                failures += attempt(label, finish)

    def _similarities(self, network: NetworkId, wanted: Wanted) -> Iterator[Compared]:
        return self._whole.compare(network, wanted)

    def _chances(self, network: NetworkId, wanted: Wanted) -> Iterator[Compared]:
        """Compare a network's layers as they are permuted. Only the metrics asked for are kept."""
        sources = self._whole.sources(network, list(wanted))
        for layer, metrics in wanted.items():
            source, reference = sources.pop(layer), self._whole.reference(layer)
            yield Compared(layer, partial(self._by_chance, reference, source, metrics), source.dtype)

    def _compare_pairs(self, job: PairJob) -> None:
        started = time.time()
        self._check_environment()
        self._reference = None  # frees its memory
        with trace.stage("comparison", self.sweep.name, f"{len(job.pairs)} pairs", job.layer):
            places = {network: place for place, network in enumerate(job.networks)}
            values = compare_pairs(
                [self._kept_or_forwarded(network, job.layer) for network in job.networks],
                [(places[a], places[b]) for a, b in job.pairs],
                job.metrics,
                self._device,
                self.sweep.identity.comparison,
            )
            self.store.commit_pairs(
                job.layer,
                {(a, b): values[places[a], places[b]] for a, b in job.pairs},
                identity=self.sweep.identity.hash,
                environment=comparison_environment(self.sweep),
                provenance=provenance(started, time.time())
                | self._weights({f"{WEIGHTS} {network.path}": network for network in job.networks}),
            )

    def _weights(self, networks: dict[str, NetworkId]) -> dict[str, str]:
        """Return name -> SHA-256 of the network's weights, for provenance."""
        marks = {name: self.store.mark(network) for name, network in networks.items()}
        return {name: weights_of(mark) for name, mark in marks.items() if mark is not None}

    def _kept_or_forwarded(self, network: NetworkId, layer: str) -> LayerSource:
        """Return a layer's activations, from the store if it has them, else by a forward pass. The bits are equal."""
        mark = self.store.activations_mark(network)
        if mark is None:
            return self._forwarded(network, layer)
        return Reader(self.store.storage, self.store.activations_path(network), mark).layer(layer)

    def _check_environment(self) -> None:
        if not self._checked:
            mark = self.store.mark(COMPLETE)
            if mark is not None:
                check_environment(self.sweep, mark.environment)
            self._checked = True

    def _by_chance(
        self, reference: Reference, source: LayerSource, metrics: Collection[str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return metric -> its values with permuted examples. The permutations are the same for all networks.

        metrics : None for all of the reference's
        """
        permuted = []
        for number in range(PERMUTATIONS):
            stream = numpy_stream(self.sweep.identity.seed, "chance", source.name, number)
            order = stream.permutation(source.shape[0])
            permuted.append(reference.compare(Permuted(source, order), metrics))
        return {
            name: {
                "values": [values[name]["value"] for values in permuted],
                "reasons": [values[name]["reason"] for values in permuted],
            }
            for name in permuted[0]
        }

    def _reference_for(self, origin: NetworkId, layer: str, metrics: tuple[str, ...]) -> Reference:
        if self._held != (origin, layer, metrics) or self._reference is None:
            self._reference = None  # frees the old side before the new one is made
            self._check_environment()
            source = self._source(origin, layer)
            self._reference = Reference(source, metrics, self._device, self.sweep.identity.comparison)
            self._held, self._reference_dtype = (origin, layer, metrics), source.dtype
        return self._reference

    def _source(self, network: NetworkId, layer: str) -> LayerSource:
        """Return a layer's activations, from the store or by a forward pass. FileNotFoundError: not in the store."""
        if self.sweep.extent.activations == "memory":
            return self._forwarded(network, layer)
        if not network.is_complete or network not in self._readers:
            mark = self.store.activations_mark(network)
            if mark is None:
                raise FileNotFoundError(f"{self.sweep.name}: the store has no activations of {network.label}")
            self._readers = {of: reader for of, reader in self._readers.items() if of.is_complete}
            self._readers[network] = Reader(self.store.storage, self.store.activations_path(network), mark)
        return self._readers[network].layer(layer)

    def _forwarded(self, which: NetworkId, name: str) -> LayerSource:
        identity = self.sweep.identity
        settle(torch.device(self.sweep.device), identity.deterministic)  # nothing may have been trained in this process
        network = build(identity.problem)
        network.load_state_dict(self.store.load_network(which).weights)
        network.to(self.sweep.device)
        layer = next(layer for layer in network.layers if layer.name == name)
        shape = layer_shapes(network, identity.problem)[name]
        label = f"{self.sweep.name}, {which.label}"
        activations = held(network, self._probe, layer, shape, identity.storage, label)
        panel_rows = chunk_shape(tuple(activations.shape))[1]
        array = activations.numpy() if self._device == "cpu" else activations
        return InMemory(array, name, layer.kind, rows=panel_rows)

    @cached_property
    def _probe(self) -> Probe:
        if self.dataset is None:
            raise ValueError(f"{self.sweep.name}: activations in memory need a data set, got none")
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
            tensor = isinstance(panel, torch.Tensor)
            yield panel[torch.as_tensor(self.order, device=panel.device) if tensor else self.order]
