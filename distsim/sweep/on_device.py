"""Comparison of whole networks on a GPU: activations, statistics and metrics stay there, only numbers leave it.

A network runs over the probe once, for all its layers. Everything that follows from its activations is queued behind
that, and the host waits once for each network, for its numbers. The complete network's sides stay on the device for all
networks.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from distsim.activations.layout import Float16Check, chunk_shape, storage_dtype
from distsim.activations.probe import Probe, held_together, layer_shapes
from distsim.comparison.layer import Reference, Result
from distsim.comparison.pair import Draft, read_together
from distsim.comparison.sides import InMemory, LayerSource
from distsim.metrics.reads import Reads
from distsim.models import Layer, build
from distsim.specs import COMPLETE, NetworkId, Sweep
from distsim.sweep.cost import memory_on_device

FREE = 0.9  # of a device's free memory that comparisons may be forecast to take
Wanted = Mapping[str, tuple[str, ...]]  # layer -> metrics


class Compared(NamedTuple):
    """A layer's comparison. `results` returns its values, or raises what is wrong with the layer."""

    layer: str
    results: Callable[[], Any]  # metric -> value, or several pieces of such values
    dtype: str  # of the activations


class OnDevice:
    """The complete network's sides of all layers on a device, and the comparison of other networks with them.

    weights : returns a network's weights
    again : returns a layer's activations from a forward pass of its own, where float16 could not hold them
    compute_on : the device, as `distsim.comparison.devices` names it
    """

    def __init__(
        self,
        sweep: Sweep,
        probe: Probe,
        weights: Callable[[NetworkId], Mapping[str, Any]],
        again: Callable[[NetworkId, str], LayerSource],
        compute_on: str,
    ) -> None:
        self.sweep, self.probe, self._weights, self._again, self._compute_on = sweep, probe, weights, again, compute_on
        self._references: dict[str, Reference] = {}
        self._origin = COMPLETE  # whose sides they are

    @cached_property
    def _layers(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in build(self.sweep.problem).layers}

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return layer_shapes(build(self.sweep.problem), self.sweep.problem)

    def fits(self, wanted: Wanted, free: float | None) -> bool:
        """Return whether these comparisons are forecast to fit into a device's free bytes. None: no limit is known."""
        rule, n = self.sweep.identity.storage, len(self.probe.images)
        half = {name for name in wanted if storage_dtype(self._layers[name], rule) == "float16"}
        shapes = {name: (n, *self._shapes[name]) for name in wanted}
        return free is None or memory_on_device(shapes, half) <= FREE * free

    def prepare(self, wanted: Wanted, origin: NetworkId = COMPLETE) -> None:
        """Make the complete network's sides of these layers, unless they are there.

        origin : the complete network
        FloatingPointError: an activation is not finite.
        """
        if origin != self._origin:
            self._references, self._origin = {}, origin
        lacking = [name for name, metrics in wanted.items() if not set(metrics) <= self._known(name)]
        for name in lacking:
            self._references.pop(name, None)  # frees the old sides before new ones are made
        sources = self.sources(origin, lacking) if lacking else {}
        for name in lacking:
            source = sources.pop(name)
            self._references[name] = Reference(source, wanted[name], self._compute_on, self.sweep.identity.comparison)

    def _known(self, layer: str) -> set[str]:
        there = self._references.get(layer)
        return set() if there is None else set(there.asked_for)

    def reference(self, layer: str) -> Reference:
        """Return the complete network's side of a layer that is prepared."""
        return self._references[layer]

    def sources(self, which: NetworkId, layers: list[str]) -> dict[str, LayerSource]:
        """Return the activations of a network's layers, in the dtype in which they would be stored.

        FloatingPointError: an activation is not finite.
        """
        sources, checks = self._held(which, layers)
        unsafe = [name for name, check in checks.items() if not check]
        return sources | {name: self._again(which, name) for name in unsafe}

    def _held(
        self, which: NetworkId, layers: list[str], reads: Mapping[str, Reads] | None = None
    ) -> tuple[dict[str, LayerSource], dict[str, Float16Check]]:
        network = build(self.sweep.problem)
        network.load_state_dict(self._weights(which))
        network.to(self.probe.images.device)
        chosen = [layer for layer in network.layers if layer.name in layers]
        label, rule = f"{self.sweep.name}, {which.label}", self.sweep.identity.storage
        held, checks = held_together(network, self.probe, chosen, self._shapes, rule, label, reads)
        sources = {
            layer.name: InMemory(
                held[layer.name], layer.name, layer.kind, rows=chunk_shape(tuple(held[layer.name].shape))[1]
            )
            for layer in chosen
        }
        return dict(sources), checks

    def compare(self, which: NetworkId, wanted: Wanted) -> Iterator[Compared]:
        """Compare a network's layers with the complete network's, which are prepared.

        All numbers are read together, before the first layer is yielded.
        """
        reads = {name: Reads(deferred=True) for name in wanted}
        sources, checks = self._held(which, list(wanted), reads)
        drafts = {name: self._references[name].draft(sources[name], reads[name], of) for name, of in wanted.items()}
        safe = read_together(list(drafts.values()), {name: check.safe for name, check in checks.items()})
        for name, metrics in wanted.items():
            source, draft = sources.pop(name), drafts.pop(name)
            if safe.get(name, True):
                yield Compared(name, self._reading(name, draft), source.dtype)
            else:
                source = self._again(which, name)
                draft = self._references[name].draft(source, metrics=metrics)
                yield Compared(name, self._reading(name, draft), source.dtype)

    def _reading(self, layer: str, draft: Draft) -> Callable[[], dict[str, Result]]:
        def results() -> dict[str, Result]:
            found = draft.results()
            self._references[layer].learn(draft)
            return found

        return results
