"""What a sweep's layers and its own metrics are, in words: what can be read where the code that made them is not.

layers.json of a sweep says which layers are compared; metrics/<name>.json says what a metric is that does not come with
distsim. Both are written when a sweep is started and are no results: whoever reads tables, draws figures or counts what
is missing asks them instead of the model. They may come from a stranger, so that everything in them is checked.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from distsim.metrics.registry import VIEWS, Metric
from distsim.specs import MOST, canonical_json, digest, shown

LAYERS = "layers.json"
METRICS_FOLDER = "metrics"
LARGEST = 2**20  # bytes of one of these objects
MOST_LAYERS = 10_000
LONGEST = 200  # characters of a name or a label


class ComparedLayer(Protocol):
    """What tables and plans need to know of a layer: `distsim.models.Layer` and `StoredLayer` are such."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...


@dataclass(frozen=True)
class StoredLayer:
    """A layer that is compared, as layers.json has it."""

    name: str
    kind: str
    module: str  # path within the network
    shape: tuple[int, ...]  # for one image: (h, w, c) or (p,)


@dataclass(frozen=True)
class StoredMetric:
    """A metric that can be named and drawn; `distsim.metrics.registry.Metric` can also be computed."""

    name: str
    view: str
    label: str

    @classmethod
    def of(cls, metric: Metric) -> "StoredMetric":
        label = "".join(filter(str.isprintable, metric.label))[:LONGEST]
        return cls(metric.name, metric.view, label or metric.name)

    def applies_to(self, kind: str) -> bool:
        """Return whether layers of this kind have it, as `Metric.applies_to` does."""
        return self.view != "output" or kind == "out"


def metric_path(name: str) -> str:
    return f"{METRICS_FOLDER}/{name}.json"


def encode_layers(layers: Iterable[StoredLayer], identity: str) -> bytes:
    """Write layers.json. identity : hash of the sweep's."""
    return _signed({"layers": [asdict(layer) for layer in layers], "identity": identity})


def decode_layers(content: bytes) -> tuple[tuple[StoredLayer, ...], str]:
    """Read layers.json: the layers, and the hash of their sweep's identity. ValueError says what is wrong with it."""
    tree = _checked(content, {"layers", "identity"})
    entries, identity = tree["layers"], tree["identity"]
    if not isinstance(identity, str) or not isinstance(entries, list) or not 1 <= len(entries) <= MOST_LAYERS:
        raise ValueError(f"it must hold an identity and 1 to {MOST_LAYERS:,} layers")
    layers = tuple(map(_layer, entries))
    if len({layer.name for layer in layers}) < len(layers):
        raise ValueError("names of its layers are repeated")
    return layers, identity


def encode_metric(metric: StoredMetric) -> bytes:
    """Write metrics/<name>.json."""
    return _signed(asdict(metric))


def decode_metric(content: bytes, name: str) -> StoredMetric:
    """Read metrics/<name>.json. ValueError says what is wrong with it."""
    tree = _checked(content, {"name", "view", "label"})
    if tree["name"] != name:
        raise ValueError(f"it is that of the metric {shown(tree['name'])}")
    if tree["view"] not in VIEWS:
        raise ValueError(f"view must be one of {VIEWS}, got {shown(tree['view'])}")
    return StoredMetric(name, tree["view"], _text(tree["label"], "label"))


def _layer(entry: Any) -> StoredLayer:
    if not isinstance(entry, dict) or entry.keys() != {"name", "kind", "module", "shape"}:
        raise ValueError(f"a layer has a name, a kind, a module and a shape, got {shown(entry)}")
    name, shape = _text(entry["name"], "name"), entry["shape"]
    if "/" in name:
        raise ValueError(f"a layer's name is part of paths and has no slash, got {shown(name)}")
    sizes = isinstance(shape, list) and all(type(size) is int and 1 <= size <= MOST for size in shape)
    if not sizes or not 1 <= len(shape) <= 8:
        raise ValueError(f"layer {name}: its shape must be 1 to 8 sizes, got {shown(shape)}")
    return StoredLayer(name, _text(entry["kind"], "kind"), _text(entry["module"], "module"), tuple(shape))


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST or not value.isprintable():
        raise ValueError(f"{what} must be 1 to {LONGEST} characters of text, got {shown(value)}")
    return value


def _signed(tree: dict[str, Any]) -> bytes:
    return canonical_json(tree | {"sha256": digest(tree)}).encode()


def _checked(content: bytes, keys: set[str]) -> dict[str, Any]:
    """The object without its digest. ValueError: it is too large, is none, or does not hash to the digest in it."""
    if len(content) > LARGEST:
        raise ValueError(f"it has {len(content):,} bytes, at most {LARGEST:,} are expected")
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(tree, dict) or tree.keys() != keys | {"sha256"}:
        raise ValueError(f"it must have the fields {', '.join(sorted(keys))} and sha256")
    if tree.pop("sha256") != digest(tree):
        raise ValueError("it does not hash to the digest in it")
    return tree
