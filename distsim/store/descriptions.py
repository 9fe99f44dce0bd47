"""Read and write the descriptions of layers and metrics in a sweep's store. Their format: `store.described`."""

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from distsim.metrics.registry import BUILT_IN, METRICS
from distsim.specs import Identity, Problem, differences
from distsim.store.commits import WRITTEN_AGAIN, DamagedStore, read_decoded
from distsim.store.described import (
    LARGEST,
    LAYERS,
    StoredLayer,
    StoredMetric,
    decode_layers,
    decode_metric,
    encode_layers,
    encode_metric,
    metric_path,
)
from distsim.store.fenced import replace_one
from distsim.store.sweep_store import IdentityMismatch, SweepStore

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from distsim.models import Network


def layers_of(store: SweepStore) -> tuple[StoredLayer, ...]:
    """Return the compared layers, from input to output.

    Sweeps of older versions have no layers.json. Then the layers come from the model, if it is registered here.
    DamagedStore: layers.json is not what was written. ValueError: there is none, and the model is unknown.
    """
    described = read_decoded(store.storage, LAYERS, LARGEST, decode_layers, WRITTEN_AGAIN)
    return _layers_of_model(store) if described is None else described[0]


def _layers_of_model(store: SweepStore) -> tuple[StoredLayer, ...]:
    from distsim.models import MODELS, build

    problem = store.identity().problem
    if problem.model not in MODELS:
        raise ValueError(
            f"{store.storage.url} does not say which layers its model {problem.model!r} has, and the model does not "
            f"come with distsim: run the sweep script once, which writes {LAYERS}"
        )
    return stored_layers(build(problem), problem)


def stored_layers(network: "Network", problem: Problem) -> tuple[StoredLayer, ...]:
    """Return the compared layers of a problem's network as the store describes them."""
    from distsim.activations.probe import layer_shapes

    shapes = layer_shapes(network, problem)
    return tuple(StoredLayer(x.name, x.kind, x.module, shapes[x.name]) for x in network.layers)


def metrics_of(store: SweepStore, names: Iterable[str]) -> dict[str, StoredMetric]:
    """Return name -> metric, from the store or from distsim. Metrics that neither knows are left out."""
    metrics = {}
    for name in dict.fromkeys(names):
        stored = None if name in BUILT_IN or not name.isidentifier() else _metric(store, name)
        if stored is not None:
            metrics[name] = stored
        elif name in METRICS:
            metrics[name] = StoredMetric.of(METRICS[name])
    return metrics


def labels_of(store: SweepStore, names: Iterable[str]) -> dict[str, str]:
    """Return name -> label of each of these metrics that the store or distsim knows."""
    return {name: metric.label for name, metric in metrics_of(store, names).items()}


def _metric(store: SweepStore, name: str) -> StoredMetric | None:
    decode = partial(decode_metric, name=name)
    return read_decoded(store.storage, metric_path(name), LARGEST, decode, WRITTEN_AGAIN)


def describe_layers(store: SweepStore, layers: tuple[StoredLayer, ...], identity: Identity) -> None:
    """Write layers.json unless it exists. IdentityMismatch: the committed networks have other layers."""
    encoded = encode_layers(layers, identity.hash)
    decode_layers(encoded)  # never write what could not be read
    if store.storage.create(LAYERS, encoded) or (stored := store.storage.get(LAYERS)) == encoded:
        return
    try:
        theirs, _ = decode_layers(stored or b"")
    except ValueError:
        theirs = layers  # damaged: write it again
    if theirs != layers and any(store.contents().__dict__.values()):
        here, there = ({x.name: dataclasses.asdict(x) for x in described} for described in (layers, theirs))
        differing = "; ".join(differences(here, there)) or "their order"
        raise IdentityMismatch(
            f"the store {store.root.url} holds networks of {store.problem} with other layers. The model "
            f"{identity.problem.model!r} differs in {differing}. Use another --storage, or the earlier model"
        )
    replace_one(store.root, f"{store.problem}/{LAYERS}", encoded)


def describe_metrics(store: SweepStore, names: Iterable[str]) -> None:
    """Write a description of each of these metrics that does not come with distsim, unless it exists.

    IdentityMismatch: the store has a metric of this name with another view.
    """
    for name in names:
        if name in BUILT_IN:
            continue
        ours = StoredMetric.of(METRICS[name])
        if store.storage.create(metric_path(name), encode_metric(ours)):
            continue
        try:
            theirs = _metric(store, name) or ours
        except DamagedStore:
            replace_one(store.root, f"{store.problem}/{metric_path(name)}", encode_metric(ours))
            continue
        if theirs.view != ours.view:
            raise IdentityMismatch(
                f"the store {store.root.url} holds another metric {name}: its view is {theirs.view}, here it is "
                f"{ours.view}. Give it another name, or use another --storage"
            )
