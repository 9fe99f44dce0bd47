"""Descriptions of a sweep's layers and of the user's own metrics, readable without the code that defines them.

layers.json of a sweep lists the compared layers. metrics/<name>.json describes a metric that does not come with
distsim. Both are written when a sweep is started, and neither is a result. Code that reads tables, draws figures or
counts what is missing uses them instead of the model. They may come from a stranger, so everything in them is checked.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Protocol, TypedDict

from distsim.metrics.registry import VIEWS, Metric
from distsim.specs import layer_names, shown
from distsim.specs.canonical import signed, unsigned
from distsim.specs.fields import Bound, Count, expect
from distsim.specs.json_shape import require_record

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
    module: str  # path within the network; "": the network itself
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


_Text = Annotated[
    str,
    Bound(f"be 1 to {LONGEST} printable characters", lambda text: 1 <= len(text) <= LONGEST and text.isprintable()),
]


_Path = Annotated[
    str, Bound(f"be at most {LONGEST} printable characters", lambda text: len(text) <= LONGEST and text.isprintable())
]


class _LayerRecord(TypedDict):
    name: _Text
    kind: _Text
    module: _Path  # "": the network itself, where it computes its output outside its modules
    shape: list[Count]


class _LayersRecord(TypedDict):
    layers: list[Any]  # each a _LayerRecord
    identity: str


class _MetricRecord(TypedDict):
    name: str
    view: Annotated[str, Bound(f"be one of {VIEWS}", VIEWS.__contains__)]
    label: _Text


def metric_path(name: str) -> str:
    return f"{METRICS_FOLDER}/{name}.json"


def encode_layers(layers: Iterable[StoredLayer], identity: str) -> bytes:
    """Return the content of layers.json. identity : hash of the sweep's identity."""
    return signed({"layers": [asdict(layer) for layer in layers], "identity": identity})


def decode_layers(content: bytes) -> tuple[tuple[StoredLayer, ...], str]:
    """Return the layers in layers.json and the hash of the sweep's identity. ValueError says what is wrong with it."""
    tree = unsigned(content, LARGEST)
    require_record("", tree, _LayersRecord)
    entries = tree["layers"]
    expect(1 <= len(entries) <= MOST_LAYERS, f"it must hold 1 to {MOST_LAYERS:,} layers, got {len(entries):,}")
    layers = tuple(_layer(f"layers[{place}]", entry) for place, entry in enumerate(entries))
    expect(len({layer.name for layer in layers}) == len(layers), "two of its layers have the same name")
    return layers, tree["identity"]


def _layer(field: str, entry: Any) -> StoredLayer:
    require_record(field, entry, _LayerRecord)
    sizes = len(entry["shape"])
    expect(1 <= sizes <= 8, f"field {field}.shape must have 1 to 8 sizes, got {sizes}")
    if fault := layer_names.fault(entry["name"]):
        raise ValueError(fault)
    return StoredLayer(**entry | {"shape": tuple(entry["shape"])})


def encode_metric(metric: StoredMetric) -> bytes:
    """Return the content of metrics/<name>.json."""
    return signed(asdict(metric))


def decode_metric(content: bytes, name: str) -> StoredMetric:
    """Return the metric in metrics/<name>.json. ValueError says what is wrong with it."""
    tree = unsigned(content, LARGEST)
    require_record("", tree, _MetricRecord)
    expect(tree["name"] == name, f"it describes another metric, {shown(tree['name'])}")
    return StoredMetric(**tree)
