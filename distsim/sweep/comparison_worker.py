"""The worker that compares networks."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from distsim import trace
from distsim.activations.layout import chunk_shape
from distsim.activations.probe import Probe, held, layer_shapes, make_probe
from distsim.comparison.layer import Reference, Result, compare_pairs
from distsim.comparison.sides import InMemory, LayerSource
from distsim.data import Dataset
from distsim.environment import check_environment, comparison_environment, provenance, threads
from distsim.models import build
from distsim.seeds import numpy_stream
from distsim.specs import COMPLETE, PERMUTATIONS, NetworkId, Sweep
from distsim.store import SweepStore
from distsim.store.activations import Reader
from distsim.store.records import WEIGHTS, WEIGHTS_X, WEIGHTS_Y, weights_of
from distsim.sweep.failures import attempt
from distsim.sweep.jobs import Comparison, PairJob
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
        self._held: tuple[str, tuple[str, ...]] | None = None
        self._reference: Reference | None = None
        self._reference_dtype = ""
        self._readers: dict[NetworkId, Reader] = {}
        self._checked = allow_drift

    @SWITCH.float32()
    def compare(self, job: Comparison | PairJob) -> list[str]:
        """Compute and commit what the job asks for. Return a sentence for each network that cannot be compared."""
        if isinstance(job, PairJob):
            with threads(self.sweep.identity.threads):
                return attempt(f"{job.problem}, layer {job.layer}", self._compare_pairs, job)
        failures: list[str] = []
        with threads(self.sweep.identity.threads):
            for network, metrics in job.networks:
                of_complete = f"{job.problem}, {COMPLETE.label}, layer {job.layer}"
                if unusable := attempt(of_complete, self._reference_for, job.layer, metrics):
                    return failures + unusable
                label = f"{job.problem}, {network.label}, layer {job.layer}"
                failures += attempt(label, self._compare, job, network, metrics)
        return failures

    @SWITCH.float32()
    def measure(self, network: NetworkId, layer: str, metrics: tuple[str, ...]) -> dict[str, Result]:
        """Compute a layer's values of one network, by metric, as `compare` does. Commit nothing."""
        with threads(self.sweep.identity.threads):
            return self._reference_for(layer, metrics).compare(self._source(network, layer))

    def _compare(self, job: Comparison, network: NetworkId, metrics: tuple[str, ...]) -> None:
        started = time.time()
        with trace.stage("comparison", self.sweep.name, network.label, job.layer):
            reference = self._reference_for(job.layer, metrics)
            source = self._source(network, job.layer)
            values = self._by_chance(reference, source) if job.chance else reference.compare(source)
            self.store.commit_comparison(
                network,
                job.layer,
                values,
                "chance" if job.chance else "comparison",
                identity=self.sweep.identity.hash,
                environment=comparison_environment(self.sweep),
                provenance=provenance(started, time.time())
                | {"dtype_x": self._reference_dtype, "dtype_y": source.dtype}
                | self._weights({WEIGHTS_X: COMPLETE, WEIGHTS_Y: network}),
            )

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
                self.sweep.device,
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

    def _by_chance(self, reference: Reference, source: LayerSource) -> dict[str, dict[str, Any]]:
        """Return metric -> its values with permuted examples. The permutations are the same for all networks."""
        permuted = []
        for number in range(PERMUTATIONS):
            stream = numpy_stream(self.sweep.identity.seed, "chance", source.name, number)
            permuted.append(reference.compare(Permuted(source, stream.permutation(source.shape[0]))))
        return {
            name: {
                "values": [values[name]["value"] for values in permuted],
                "reasons": [values[name]["reason"] for values in permuted],
            }
            for name in permuted[0]
        }

    def _reference_for(self, layer: str, metrics: tuple[str, ...]) -> Reference:
        if self._held != (layer, metrics) or self._reference is None:
            self._reference = None  # frees the old side before the new one is made
            self._check_environment()
            source = self._source(COMPLETE, layer)
            self._reference = Reference(source, metrics, self.sweep.device, self.sweep.identity.comparison)
            self._held, self._reference_dtype = (layer, metrics), source.dtype
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
        array = activations.numpy() if self.sweep.device == "cpu" else activations
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
            yield panel[self.order]
