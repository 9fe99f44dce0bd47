"""Descriptions of a sweep's layers and of the user's own metrics, readable without the code that defines them.

layers.json of a sweep lists the compared layers. metrics/<name>.json describes a metric that does not come with
distsim. Both are written when a sweep is started, and neither is a result. Code that reads tables, draws figures or
counts what is missing uses them instead of the model. They may come from a stranger, so everything in them is checked.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from distsim.metrics.registry import VIEWS, Metric
from distsim.specs import MOST, canonical_json, digest, layer_names, shown

LAYERS = "layers.json"
METRICS_FOLDER = "metrics"
LARGEST = 2**20  # bytes of one of these objects
MOST_LAYERS = 10_000
LONGEST = 200  # characters of a name or a label


class ComparedLayer(Protocol):
    """What tables and plans need to know of a layer. `distsim.models.Layer` and `StoredLayer` have it."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...


@dataclass(frozen=True)
class StoredLayer:
    """A compared layer, as layers.json describes it."""

    name: str
    kind: str
    module: str  # path within the network
    shape: tuple[int, ...]  # for one image: (h, w, c) or (p,)


@dataclass(frozen=True)
class StoredMetric:
    """A metric that can be named and drawn. `distsim.metrics.registry.Metric` can also be computed."""

    name: str
    view: str
    label: str

    @classmethod
    def of(cls, metric: Metric) -> "StoredMetric":
        label = "".join(filter(str.isprintable, metric.label))[:LONGEST]
        return cls(metric.name, metric.view, label or metric.name)

    def applies_to(self, kind: str) -> bool:
        """Return whether layers of this kind are measured by it, as `Metric.applies_to` does."""
        return self.view != "output" or kind == "out"


def metric_path(name: str) -> str:
    return f"{METRICS_FOLDER}/{name}.json"


def encode_layers(layers: Iterable[StoredLayer], identity: str) -> bytes:
    """Return the content of layers.json. identity : hash of the sweep's identity."""
    return _signed({"layers": [asdict(layer) for layer in layers], "identity": identity})


def decode_layers(content: bytes) -> tuple[tuple[StoredLayer, ...], str]:
    """Return the layers in layers.json and the hash of the sweep's identity. ValueError says what is wrong with it."""
    tree = _checked(content, {"layers", "identity"})
    entries, identity = tree["layers"], tree["identity"]
    if not isinstance(identity, str) or not isinstance(entries, list) or not 1 <= len(entries) <= MOST_LAYERS:
        raise ValueError(f"it must hold an identity and 1 to {MOST_LAYERS:,} layers")
    layers = tuple(map(_layer, entries))
    if len({layer.name for layer in layers}) < len(layers):
        raise ValueError("two of its layers have the same name")
    return layers, identity


def encode_metric(metric: StoredMetric) -> bytes:
    """Return the content of metrics/<name>.json."""
    return _signed(asdict(metric))


def decode_metric(content: bytes, name: str) -> StoredMetric:
    """Return the metric in metrics/<name>.json. ValueError says what is wrong with it."""
    tree = _checked(content, {"name", "view", "label"})
    if tree["name"] != name:
        raise ValueError(f"it describes another metric, {shown(tree['name'])}")
    if tree["view"] not in VIEWS:
        raise ValueError(f"view must be one of {VIEWS}, got {shown(tree['view'])}")
    return StoredMetric(name, tree["view"], _text(tree["label"], "label"))


def _layer(entry: Any) -> StoredLayer:
    if not isinstance(entry, dict) or entry.keys() != {"name", "kind", "module", "shape"}:
        raise ValueError(f"a layer must have a name, a kind, a module and a shape, got {shown(entry)}")
    name, shape = _text(entry["name"], "name"), entry["shape"]
    if fault := layer_names.fault(name):
        raise ValueError(fault)
    are_sizes = isinstance(shape, list) and all(type(size) is int and 1 <= size <= MOST for size in shape)
    if not are_sizes or not 1 <= len(shape) <= 8:
        raise ValueError(f"layer {name}: its shape must be 1 to 8 sizes, got {shown(shape)}")
    return StoredLayer(name, _text(entry["kind"], "kind"), _text(entry["module"], "module"), tuple(shape))


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST or not value.isprintable():
        raise ValueError(f"{field} must be 1 to {LONGEST} characters of text, got {shown(value)}")
    return value


def _signed(tree: dict[str, Any]) -> bytes:
    return canonical_json(tree | {"sha256": digest(tree)}).encode()


def _checked(content: bytes, keys: set[str]) -> dict[str, Any]:
    """Return the object without its digest.

    ValueError: it is too large, is not a JSON object with these keys, or does not match its digest.
    """
    if len(content) > LARGEST:
        raise ValueError(f"it has {len(content):,} bytes, at most {LARGEST:,} are expected")
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(tree, dict) or tree.keys() != keys | {"sha256"}:
        raise ValueError(f"it must have the fields {', '.join(sorted(keys))} and sha256")
    if tree.pop("sha256") != digest(tree):
        raise ValueError("its content does not match the digest in it")
    return tree
