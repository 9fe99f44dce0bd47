"""Checks of the objects that describe a sweep's network, its layers and the user's own metrics."""

import re
from collections.abc import Callable

from distsim.activations.probe import layer_shapes
from distsim.store import DamagedStore, Storage
from distsim.store.described import LARGEST, LAYERS, StoredLayer, decode_layers, decode_metric
from distsim.store.storage import first_line
from distsim.sweep import kept_behaviour
from distsim.sweep.kept_behaviour import read_behaviour
from distsim.verify.derived import SAME, canonical
from distsim.verify.networks import Model
from distsim.verify.report import NOTE

METRIC = re.compile(r"metrics/(?P<name>[^/]+)\.json")
PATH = re.compile(f"{kept_behaviour.PATH.pattern}|metrics/[^/]+\\.json")


def read_layers(storage: Storage, identity: str | None, model: Model, found: Callable[..., None]) -> None:
    """Read layers.json into the model, or report what is wrong with it.

    identity : hash of the sweep's identity, if known
    found : gets each problem
    """
    content = storage.get(LAYERS, most=LARGEST)
    if content is None:  # sweeps of older versions have none
        return
    try:
        layers, theirs = decode_layers(content)
    except ValueError as error:
        found(f"is damaged: {first_line(error)}", LAYERS)
        return
    if not canonical(content):
        found(SAME, LAYERS, NOTE)
    if identity is not None and theirs != identity:
        found("belongs to another sweep", LAYERS)
    elif model.network is not None and model.identity is not None and layers != _of_network(model):
        found("names other layers than the model has", LAYERS)
    else:
        model.described = layers


def _of_network(model: Model) -> tuple[StoredLayer, ...]:
    assert model.network is not None
    assert model.identity is not None
    shapes = layer_shapes(model.network, model.identity.problem)
    return tuple(StoredLayer(x.name, x.kind, x.module, shapes[x.name]) for x in model.network.layers)


def faults(storage: Storage, path: str, problem: str, found: Callable[..., None]) -> None:
    """Report what is wrong with the object at a path that matches PATH."""
    if METRIC.fullmatch(path):
        metric_faults(storage, path, found)
    else:
        behaviour_faults(storage, path, problem, found)


def metric_faults(storage: Storage, path: str, found: Callable[..., None]) -> None:
    """Report what is wrong with the description of a user's own metric."""
    content, match = storage.get(path, most=LARGEST) or b"", METRIC.fullmatch(path)
    try:
        decode_metric(content, match["name"] if match else "")
    except ValueError as error:
        found(f"is damaged: {first_line(error)}", path)
        return
    if not canonical(content):
        found(SAME, path, NOTE)


def behaviour_faults(storage: Storage, path: str, problem: str, found: Callable[..., None]) -> None:
    """Report what is wrong with the record of how a network or a metric behaved at the sweep's first start."""
    content = storage.get(path, most=kept_behaviour.LARGEST)
    if content is None:
        found("is missing: the next start writes it", path, NOTE)
        return
    try:
        read_behaviour(storage, path, problem)
    except DamagedStore as error:
        found(f"is damaged: {first_line(error).rsplit('is damaged: ', 1)[-1]}", path)
        return
    if not canonical(content):
        found(SAME, path, NOTE)
