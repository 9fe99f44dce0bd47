"""Checks of the objects that describe a sweep's network, its layers and the user's own metrics."""

import re
from collections.abc import Callable
from functools import partial

from distsim.store import Storage
from distsim.store.described import LARGEST, LAYERS, decode_layers, decode_metric
from distsim.sweep import kept_behaviour
from distsim.verify.derived import decoded
from distsim.verify.networks import Model

METRIC = re.compile(r"metrics/(?P<name>[^/]+)\.json")
PATH = re.compile(f"{kept_behaviour.PATH.pattern}|metrics/[^/]+\\.json")


def read_layers(storage: Storage, identity: str | None, model: Model, found: Callable[..., None]) -> None:
    """Read layers.json into the model, or report what is wrong with it. Sweeps of older versions have none.

    identity : hash of the sweep's identity, if known
    found : gets each problem
    """
    described = decoded(storage, LAYERS, LARGEST, decode_layers, found)
    if described is None:
        return
    layers, theirs = described
    if identity is not None and theirs != identity:
        found("belongs to another sweep", LAYERS)
    elif model.of_network and layers != model.of_network:
        found("names other layers than the model has", LAYERS)
    else:
        model.described = layers


def faults(storage: Storage, path: str, problem: str, found: Callable[..., None]) -> None:
    """Report what is wrong with the object at a path that matches PATH: of a user's own metric, or of a behaviour."""
    if match := METRIC.fullmatch(path):
        decoded(storage, path, LARGEST, partial(decode_metric, name=match["name"]), found)
    else:
        decode = partial(kept_behaviour.decode_behaviour, path=path, problem=problem)
        decoded(storage, path, kept_behaviour.LARGEST, decode, found)
