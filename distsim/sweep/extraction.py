"""Extraction: write a network's activations, and its logits of the test images, to a store."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from distsim import trace
from distsim.activations.layout import Float16Check, storage_dtype
from distsim.activations.probe import Probe, as_numpy, blocks, layer_shapes
from distsim.environment import environment, provenance
from distsim.models import Layer, Network, build
from distsim.specs import NetworkId, Sweep
from distsim.store import Mark, SweepStore, logits
from distsim.store.activations import Writer
from distsim.store.commits import Attempt
from distsim.store.records import WEIGHTS, weights_of
from distsim.training.chain import TrainedNetwork, Trainer


def extract(
    store: SweepStore,
    sweep: Sweep,
    probe: Probe,
    classes: int,
    which: NetworkId,
    step: TrainedNetwork,
    writers: int | None = None,
) -> Mark:
    """Write and commit the activations of every compared layer of a network.

    A layer that float16 cannot hold (activations.layout.Float16Check) is written again in float32, from a second
    forward pass.

    which, step : the network's name, and its weights
    writers : threads that compress and write; None: as many as the trial has CPUs. The bytes are the same

    FloatingPointError: an activation is not finite.
    """
    started = time.time()
    network = build(sweep.problem, classes)
    network.load_state_dict(step.weights)
    network.to(torch.device(sweep.device))
    label = f"{sweep.name}, {which.label}"
    shapes = layer_shapes(network, sweep.problem)
    threads = writers or int(dict(sweep.resources).get("cpu", sweep.identity.threads))
    with (
        trace.stage("extraction", label),
        Attempt(store.storage, store.activations_path(which)) as attempt,
        Writer(attempt, threads=threads) as writer,
    ):
        dtypes = {layer.name: storage_dtype(layer, sweep.identity.storage) for layer in network.layers}
        unsafe = _write(writer, network, probe, network.layers, shapes, dtypes, label)
        if unsafe:
            _write(writer, network, probe, unsafe, shapes, {layer.name: "float32" for layer in unsafe}, label)
        return attempt.commit(values={"layers": writer.layers}, **_fields(store, sweep, which, started))


def evaluate(store: SweepStore, sweep: Sweep, trainer: Trainer, which: NetworkId, step: TrainedNetwork) -> Mark:
    """Compute a network's logits of the test images from its weights, and commit them.

    which, step : the network's name, and its weights

    FloatingPointError: a logit is not finite.
    """
    started, label = time.time(), f"{sweep.name}, {which.label}"
    labels = trainer.data.test[1].cpu().numpy() if which.is_complete else None
    kept = logits.of_outputs(trainer.outputs(step).cpu().numpy(), labels, label)
    return logits.commit(store, which, kept, **_fields(store, sweep, which, started))


def _fields(store: SweepStore, sweep: Sweep, which: NetworkId, started: float) -> dict[str, Any]:
    """Return whose, where and when, for the mark of what was computed from a network's weights."""
    of_network = store.mark(which)
    whose = {} if of_network is None else {WEIGHTS: weights_of(of_network)}
    return {
        "identity": sweep.identity.hash,
        "environment": environment(sweep),
        "provenance": provenance(started, time.time()) | whose,
    }


def _write(
    writer: Writer,
    network: Network,
    probe: Probe,
    layers: Sequence[Layer],
    shapes: dict[str, tuple[int, ...]],
    dtypes: dict[str, str],
    label: str,
) -> list[Layer]:
    """Write layers from one pass over the probe. Return those that float16 cannot hold."""
    n, device = len(probe.images), probe.images.device
    positions = {layer.name: position for position, layer in enumerate(network.layers)}
    rows, waiting, checks = {}, {}, {}
    for layer in layers:
        attributes = {"position": positions[layer.name], "kind": layer.kind}
        rows[layer.name] = writer.create(layer.name, (n, *shapes[layer.name]), dtypes[layer.name], attributes)
        waiting[layer.name] = _Waiting(writer, layer.name)
        if dtypes[layer.name] == "float16":
            checks[layer.name] = Float16Check(shapes[layer.name][-1], device)
    for outputs in blocks(network, probe, layers, label):
        for name, block in outputs.items():
            if name in checks:
                checks[name].add(block)
            waiting[name].add(as_numpy(block, dtypes[name]), rows[name])
    for buffer in waiting.values():
        buffer.flush()
    return [layer for layer in layers if layer.name in checks and not checks[layer.name]]


class _Waiting:
    """Blocks of a layer that wait until they fill a row of chunks, so that chunks are always written whole."""

    def __init__(self, writer: Writer, layer: str) -> None:
        self._writer, self._layer = writer, layer
        self._start = 0
        self._blocks: list[Any] = []

    def add(self, block: Any, rows: int) -> None:
        self._blocks.append(block)
        if sum(map(len, self._blocks)) >= rows:
            joined = np.concatenate(self._blocks)
            self._write(joined[:rows])
            self._blocks = [joined[rows:]] if len(joined) > rows else []

    def flush(self) -> None:
        if self._blocks:
            self._write(np.concatenate(self._blocks))
            self._blocks = []

    def _write(self, block: Any) -> None:
        self._writer.write(self._layer, self._start, block)
        self._start += len(block)
