"""Writes and reads what a sweep's layers and its own metrics are, in its store (the objects: `store.described`)."""

import dataclasses
from collections.abc import Iterable

from distsim.metrics.registry import BUILT_IN, METRICS
from distsim.specs import Identity, differences
from distsim.store.commits import DamagedStore
from distsim.store.described import (
    LAYERS,
    StoredLayer,
    StoredMetric,
    decode_layers,
    decode_metric,
    encode_layers,
    encode_metric,
    metric_path,
)
from distsim.store.sweep_store import IdentityMismatch, SweepStore


def layers_of(store: SweepStore) -> tuple[StoredLayer, ...]:
    """Return what is compared, from input to output.

    Sweeps that were started before there was a layers.json have none: then the model says it, if it is known here.
    DamagedStore: layers.json is not what was written. ValueError: there is none, and the model is not known here.
    """
    content = store.storage.get(LAYERS)
    if content is not None:
        try:
            return decode_layers(content)[0]
        except ValueError as error:
            raise DamagedStore(
                f"{LAYERS} of {store.storage.url} is damaged: {error}. distsim repair drops it, and the next start "
                "writes it anew"
            ) from None
    return _layers_of_model(store)


def _layers_of_model(store: SweepStore) -> tuple[StoredLayer, ...]:
    from distsim.activations.probe import layer_shapes
    from distsim.models import MODELS, build

    problem = store.identity().problem
    if problem.model not in MODELS:
        raise ValueError(
            f"{store.storage.url} does not say what the layers of its model {problem.model!r} are, which does not "
            f"come with distsim: start the sweep script once, it writes {LAYERS}"
        )
    network = build(problem)
    shapes = layer_shapes(network, problem)
    return tuple(StoredLayer(x.name, x.kind, x.module, shapes[x.name]) for x in network.layers)


def metrics_of(store: SweepStore, names: Iterable[str]) -> dict[str, StoredMetric]:
    """Return what these metrics are, by name, as the store or distsim says it; what neither knows is left out."""
    found = {}
    for name in dict.fromkeys(names):
        stored = None if name in BUILT_IN or not name.isidentifier() else _metric(store, name)
        if stored is not None:
            found[name] = stored
        elif name in METRICS:
            found[name] = StoredMetric.of(METRICS[name])
    return found


def _metric(store: SweepStore, name: str) -> StoredMetric | None:
    content = store.storage.get(metric_path(name))
    try:
        return None if content is None else decode_metric(content, name)
    except ValueError as error:
        raise DamagedStore(
            f"{metric_path(name)} of {store.storage.url} is damaged: {error}. distsim repair drops it, and the next "
            "start writes it anew"
        ) from None


def describe_layers(store: SweepStore, layers: tuple[StoredLayer, ...], identity: Identity) -> None:
    """Write layers.json, unless it is there. IdentityMismatch: what is committed is of other layers."""
    encoded = encode_layers(layers, identity.hash)
    decode_layers(encoded)  # so that nothing is written that cannot be read
    if store.storage.create(LAYERS, encoded):
        return
    try:
        theirs, _ = decode_layers(store.storage.get(LAYERS) or b"")
    except ValueError:
        theirs = layers  # damaged: what is derived is made again
    if theirs != layers and any(store.contents().__dict__.values()):
        here, there = ({x.name: dataclasses.asdict(x) for x in found} for found in (layers, theirs))
        differing = "; ".join(differences(here, there)) or "their order"
        raise IdentityMismatch(
            f"the store {store.root.url} holds networks of {store.problem} with other layers. The model "
            f"{identity.problem.model!r} differs in {differing}. Use another --storage, or the model of before"
        )
    store.storage.put(LAYERS, encoded)


def describe_metrics(store: SweepStore, names: Iterable[str]) -> None:
    """Write what these metrics are that do not come with distsim, where the store does not say it yet.

    IdentityMismatch: the store has another metric of this name, of another view.
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
            store.storage.put(metric_path(name), encode_metric(ours))
            continue
        if theirs.view != ours.view:
            raise IdentityMismatch(
                f"the store {store.root.url} holds another metric {name}: its view is {theirs.view}, here it is "
                f"{ours.view}. Give it another name, or use another --storage"
            )
