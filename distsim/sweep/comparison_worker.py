"""The worker that compares networks."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import chain
from typing import Any, NamedTuple

import torch

from distsim import trace
from distsim.activations.layout import chunk_shape
from distsim.activations.probe import Probe, held, layer_shapes, make_probe
from distsim.comparison.layer import Reference, Result, compare_tile
from distsim.comparison.sides import InMemory, LayerSource
from distsim.comparison.spread import Several, missing
from distsim.data import Dataset
from distsim.environment import check_environment, comparison_environment, free_on, provenance, threads
from distsim.metrics.jackknife import BLOCKS, split
from distsim.models import build
from distsim.seeds import numpy_stream
from distsim.specs import COMPLETE, PERMUTATIONS, NetworkId, Sweep
from distsim.store import SweepStore
from distsim.store.activations import Reader
from distsim.store.paths import OfPairs
from distsim.store.records import WEIGHTS, WEIGHTS_X, WEIGHTS_Y, weights_of
from distsim.sweep.failures import attempt
from distsim.sweep.jobs import NOTHING, Comparison, Job, NetworkComparison, PairJob
from distsim.sweep.on_device import Compared, OnDevice, Wanted
from distsim.sweep.plan import Beside
from distsim.tf32 import SWITCH
from distsim.training.stepper import settle


class Piece(NamedTuple):
    """Values of one layer of a network, as they are committed: see `SweepStore.commit_comparison`."""

    values: dict[str, Any]
    what: str = "comparison"
    permutations: range = range(0)


def _by_permutation(permuted: Sequence[Mapping[str, Result]]) -> dict[str, Any]:
    """Return metric -> its values and the reasons why there are none, of several permutations."""
    return {
        name: Several(
            values=[results[name]["value"] for results in permuted],
            reasons=[results[name]["reason"] for results in permuted],
        )
        for name in permuted[0]
    }


def _too_few(n: int) -> Several:
    """Return that there is no value without any block, as there are fewer examples than blocks."""
    return missing(f"{BLOCKS} blocks need at least {BLOCKS} examples, there are {n}")


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
    def compare(self, job: Job, heard: Callable[[], object] = lambda: None) -> list[str]:
        """Compute and commit what the job asks for. Return a sentence for each network that cannot be compared.

        heard : called after each layer of a network that is compared alone
        """
        if isinstance(job, PairJob):
            with threads(self.sweep.identity.threads):
                return attempt(f"{job.problem}, layer {job.layer}", self._compare_pairs, job)
        if isinstance(job, NetworkComparison):
            with threads(self.sweep.identity.threads):
                return self._compare_networks(job)
        failures: list[str] = []
        with threads(self.sweep.identity.threads):
            for network, _ in job.networks:
                metrics = job.metrics_of(network)
                of_complete = f"{job.problem}, {network.origin.label}, layer {job.layer}"
                if unusable := attempt(of_complete, self._reference_for, network.origin, job.layer, metrics):
                    return failures + unusable
                label = f"{job.problem}, {network.label}, layer {job.layer}"
                failures += attempt(label, self._compare, job, network)
                heard()
        return failures

    @SWITCH.float32()
    def measure(self, network: NetworkId, layer: str, metrics: tuple[str, ...]) -> dict[str, Result]:
        """Compute a layer's values of one network, by metric, as `compare` does. Commit nothing."""
        with threads(self.sweep.identity.threads):
            return self._reference_for(network.origin, layer, metrics).compare(self._source(network, layer))

    def _compare(self, job: Comparison, network: NetworkId) -> None:
        with trace.stage("comparison", self.sweep.name, network.label, job.layer):
            reference = self._reference_for(network.origin, job.layer, job.metrics_of(network))
            source = self._source(network, job.layer)
            asked, started = dict(job.networks)[network], time.time()
            for what in self._measured(reference, source, asked, job.chance, job.beside_of(network)):
                made = provenance(started, time.time())
                self._commit(network, job.layer, what, made, (self._reference_dtype, source.dtype))
                started = time.time()

    def _pieces(self, *asked: Any) -> list[Piece]:
        return list(self._measured(*asked))

    def _measured(
        self, reference: Reference, source: LayerSource, metrics: tuple[str, ...], chance: bool, beside: Beside
    ) -> Iterator[Piece]:
        """Compute pieces of values of a layer, one after the other, from one pass over its activations.

        metrics : of the values, which are those by chance if `chance` is true
        """
        n, seed = source.shape[0], self.sweep.identity.seed
        numbers = [*range(PERMUTATIONS)] if chance else sorted({*chain(*(some for some, _ in beside.nulls))})
        orders = [numpy_stream(seed, "chance", source.name, number).permutation(n) for number in numbers]
        blocks = split(n, seed) if beside.se and n >= BLOCKS else None
        read = reference.read(source, orders=orders, blocks=blocks)
        if metrics and not chance:
            yield Piece(read.results(metrics))
        elif metrics:
            yield Piece(_by_permutation([read.by_chance(place, metrics) for place in range(PERMUTATIONS)]), "chance")
        for some, of in beside.nulls:
            permuted = [read.by_chance(numbers.index(number), of) for number in some]
            yield Piece(_by_permutation(permuted), "null", some)
        if beside.se:
            without = dict.fromkeys(beside.se, _too_few(n)) if blocks is None else read.without_blocks(beside.se)
            yield Piece(dict(without), "se")

    def _commit(
        self, network: NetworkId, layer: str, piece: Piece, made: dict[str, Any], dtypes: tuple[str, str]
    ) -> None:
        """Commit a layer's values. made : provenance; dtypes : of both networks' activations"""
        self.store.commit_comparison(
            network,
            layer,
            piece.values,
            piece.what,
            piece.permutations,
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
        beside = {network: dict(layers) for network, layers in job.beside}
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
                for work in self._work(job.chance, dict(layers), beside.get(network, {})):
                    failures += attempt(label, self._compare_network, work, network, pool, commits, failures)
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
        work: Callable[[NetworkId], Iterator[Compared]],
        network: NetworkId,
        pool: ThreadPoolExecutor,
        commits: list[Future[list[str]]],
        failures: list[str],
    ) -> None:
        """Compare a network's layers, and let the pool commit their values. Layers that cannot be are in `failures`."""
        started = time.time()
        with trace.stage("comparison", self.sweep.name, network.label, "all layers"):
            for compared in work(network):
                label = f"{self.sweep.name}, {network.label}, layer {compared.layer}"

                def finish(compared: Compared = compared, label: str = label) -> None:
                    pieces, made = compared.results(), provenance(started, time.time())
                    dtypes = self._whole.reference(compared.layer).layer.dtype, compared.dtype
                    for piece in pieces if isinstance(pieces, list) else [Piece(pieces)]:
                        of_layer = network, compared.layer, piece, made, dtypes
                        commits.append(pool.submit(attempt, label, self._commit, *of_layer))

                failures += attempt(label, finish)

    def _work(
        self, chance: bool, wanted: Wanted, beside: Mapping[str, Beside]
    ) -> Iterator[Callable[[NetworkId], Iterator[Compared]]]:
        """Yield what to do with a network: compare all layers together, and measure layer by layer what else there is.

        chance : the values asked for are those with permuted examples
        """
        if wanted and not chance:
            yield partial(self._whole.compare, wanted=wanted)
        if beside or chance:
            layers = list(dict.fromkeys((*(wanted if chance else ()), *beside)))
            yield partial(self._layer_by_layer, wanted=wanted if chance else {}, beside=beside, layers=layers)

    def _layer_by_layer(
        self, network: NetworkId, wanted: Wanted, beside: Mapping[str, Beside], layers: list[str]
    ) -> Iterator[Compared]:
        """Measure what needs permuted examples or blocks of them. wanted : metrics whose chance level is asked for"""
        sources = self._whole.sources(network, layers)
        for layer in layers:
            source, reference = sources.pop(layer), self._whole.reference(layer)
            asked = reference, source, wanted.get(layer, ()), bool(wanted), beside.get(layer, NOTHING)
            yield Compared(layer, partial(self._pieces, *asked), source.dtype)

    def _compare_pairs(self, job: PairJob) -> None:
        started = time.time()
        self._check_environment()
        self._reference = None  # frees its memory
        with trace.stage("comparison", self.sweep.name, f"{len(job.pairs)} pairs", job.layer):
            sources = [self._kept_or_forwarded(network, job.layer) for network in job.networks]
            places = {network: place for place, network in enumerate(job.networks)}
            n = sources[0].shape[0]
            enough = n >= BLOCKS
            compared = dict(
                compare_tile(
                    sources,
                    [(places[a], places[b]) for a, b in job.pairs],
                    job.metrics,
                    job.se if enough else (),
                    split(n, self.sweep.identity.seed) if job.se and enough else (),
                    device=self._device,
                    precision=self.sweep.identity.comparison,
                )
            )
            found = {(a, b): compared[places[a], places[b]] for a, b in job.pairs}
            too_few = {} if enough else dict.fromkeys(job.se, _too_few(n))
            pieces: tuple[tuple[OfPairs, Any], ...] = (
                ("pairs", {pair: values for pair, (values, _) in found.items() if values}),
                ("pairs_se", {pair: some for pair, (_, without) in found.items() if (some := without | too_few)}),
            )
            made = provenance(started, time.time())
            for what, of_pairs in pieces:
                if of_pairs:
                    self.store.commit_pairs(
                        job.layer,
                        of_pairs,
                        what,
                        identity=self.sweep.identity.hash,
                        environment=comparison_environment(self.sweep),
                        provenance=made
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
