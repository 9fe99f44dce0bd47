"""What is checked of a network and of its activations, when all their objects have the right digests.

Not whether the values are those that a sweep computes: tests look at what the writers write (tests/invariants.py). Here
it is what a reader relies on: whose piece it is, that it can be loaded into the model, that it can be decoded.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import safetensors.torch
import zarr
import zarr.storage
from numpy.typing import NDArray
from zarr.core.buffer.cpu import Buffer

from distsim.activations.layout import storage_dtype
from distsim.activations.probe import layer_shapes
from distsim.models import Layer, Network
from distsim.specs import Identity, NetworkId, shown
from distsim.store import Mark
from distsim.store.described import StoredLayer
from distsim.training.pruning import full_masks

OBJECTS = {"weights.safetensors", "masks.safetensors"}
OF_COMPLETE = {"rewind.safetensors", "probe.json"}
NUMBERS = ("accuracy", "loss", "remaining", "remaining_pool", "epochs")  # of a record, that tables are made from
CODECS = frozenset({"bytes", "zstd", "crc32c", "sharding_indexed"})  # that activations are written with


@dataclass
class Model:
    """What the pieces of a sweep are to fit. None: it is not known here, and nothing needs to fit it."""

    identity: Identity | None = None
    network: Network | None = None
    described: tuple[StoredLayer, ...] = ()  # by layers.json, where that is whole

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """By the network, else by layers.json."""
        if self.network is not None:
            return {layer.name: layer for layer in self.network.layers}
        return {layer.name: Layer(layer.name, layer.kind, layer.module) for layer in self.described}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Layer -> its shape for the whole probe, (n, ...)."""
        if self.identity is None:
            return {}
        problem, shapes = self.identity.problem, {layer.name: layer.shape for layer in self.described}
        if self.network is not None:
            shapes = layer_shapes(self.network, problem)
        return {name: (problem.probe, *shape) for name, shape in shapes.items()}


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# --- networks --------------------------------------------------------------------------------------------------------


def network_faults(model: Model, which: NetworkId, mark: Mark, contents: Mapping[str, bytes]) -> Iterator[str]:
    """Its record is its own, and its tensors can be loaded into the model. contents : of all that the mark names."""
    if lacking := sorted((OBJECTS | (OF_COMPLETE if which.is_complete else set())) - contents.keys()):
        yield f"its mark does not name {', '.join(lacking)}"
        return
    yield from record_faults(mark.values, which)
    if model.identity is None or model.network is None:
        return
    state = model.network.state_dict()
    masks = full_masks(model.network, model.identity.problem.pruning)
    for name, expected in {"weights": state, "masks": masks, "rewind": state}.items():
        if f"{name}.safetensors" in contents:
            tensors = safetensors.torch.load(contents[f"{name}.safetensors"])
            yield from (f"{name}: {fault}" for fault in tensor_faults(tensors, expected))


def record_faults(record: Mapping[str, Any], which: NetworkId) -> Iterator[str]:
    """Whose record it is, and that tables can be made from it."""
    if lacking := [name for name in ("run", "iteration", "reduced", *NUMBERS) if name not in record]:
        yield f"its record lacks {', '.join(lacking)}"
        return
    if (record["run"], record["iteration"]) != ("complete" if which.run is None else which.run, which.iteration):
        yield f"its record is that of run {shown(record['run'])}, iteration {shown(record['iteration'])}"
    for name in (*NUMBERS, "reduced"):
        if not (isinstance(record[name], bool) if name == "reduced" else number(record[name])):
            yield f"its {name} is {shown(record[name])}"


def tensor_faults(tensors: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    """Names, shapes and dtypes."""
    if lacking := sorted(expected.keys() - tensors.keys()):
        yield f"it lacks {shown(', '.join(lacking))}"
    if more := sorted(tensors.keys() - expected.keys()):
        yield f"it has {shown(', '.join(more))}, which the model has not"
    for name in sorted(tensors.keys() & expected.keys()):
        theirs, ours = ((tuple(tensor.shape), tensor.dtype) for tensor in (tensors[name], expected[name]))
        if theirs != ours:
            yield f"{name} is {theirs[0]} {theirs[1]}, the model's is {ours[0]} {ours[1]}"


# --- activations -----------------------------------------------------------------------------------------------------


def layer_names(mark: Mark) -> list[str]:
    """Of the layers whose arrays the mark names."""
    return [name.removesuffix("/zarr.json") for name in mark.objects if name.endswith("/zarr.json")]


def layer_faults(model: Model, mark: Mark, layer: str, read: Callable[[str], bytes | None]) -> Iterator[str]:
    """Of one layer's array: its metadata, then its values, which are decoded a block of examples at a time.

    read : gives an object that the mark names; None, and says so, where it is not what was written
    """
    encoded = read(f"{layer}/zarr.json")
    if encoded is None or layer not in model.shapes:
        return
    metadata = json.loads(encoded)
    faults = array_faults(model, layer, metadata, {name for name in mark.objects if name.startswith(f"{layer}/c/")})
    yield from faults
    if faults:  # not to be decoded
        return
    values, whole = hashlib.sha256(), True
    for block in _blocks(layer, encoded, metadata, read):
        if block is None:
            whole = False
        else:
            values.update(block.tobytes())
    ours = {"dtype": metadata["data_type"], "shape": metadata["shape"], "sha256": values.hexdigest()}
    if whole and mark.values and mark.values.get("layers", {}).get(layer) != ours:  # older marks have no values
        yield "its values do not hash to the digest in its mark"


def array_faults(model: Model, layer: str, metadata: Any, named: set[str]) -> list[str]:
    """Of a layer's zarr.json: that it is the layer's, and is decoded as it was encoded here. named : its chunks"""
    try:
        return list(_array_faults(model, layer, metadata, named))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        return ["the metadata are not those of an array as it is written here"]


def _array_faults(model: Model, layer: str, metadata: Any, named: set[str]) -> Iterator[str]:
    assert model.identity is not None
    expected, place, shape = model.layers[layer], list(model.layers).index(layer), list(model.shapes[layer])
    if metadata["node_type"] != "array" or metadata["shape"] != shape:
        yield f"the array's shape is {shown(metadata['shape'])}, expected was {shape}"
    dtypes = {"float32", storage_dtype(expected, model.identity.storage)}
    if metadata["data_type"] not in dtypes:
        yield f"its dtype is {shown(metadata['data_type'])}, expected was {' or '.join(sorted(dtypes))}"
    attributes = metadata["attributes"]
    if (attributes["position"], attributes["kind"]) != (place, expected.kind):
        yield f"it says layer {shown(attributes['position'])} of kind {shown(attributes['kind'])}"
    if foreign := set(_codecs(metadata["codecs"])) - CODECS:
        yield f"it is encoded by {', '.join(sorted(foreign))}, which nothing here writes"
    if metadata["chunk_grid"]["name"] != "regular" or metadata["chunk_key_encoding"]["name"] != "default":
        yield "its chunks are named otherwise than here"
    elif metadata["shape"] == shape:
        count = math.prod(_chunk_counts(metadata))
        if count != len(named) or {f"{layer}/{name}" for name in chunk_names(metadata)} != named:
            yield f"its mark names {len(named)} chunks, {count} belong to the array"  # others would read as zeros


def _codecs(codecs: Iterable[Any]) -> Iterator[str]:
    for codec in codecs:
        yield codec["name"]
        inside = codec.get("configuration", {})
        yield from _codecs([*inside.get("codecs", ()), *inside.get("index_codecs", ())])


def _chunk_counts(metadata: Any) -> list[int]:
    chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    return [-(-size // chunk) for size, chunk in zip(metadata["shape"], chunks, strict=True)]


def chunk_names(metadata: Any) -> Iterator[str]:
    """The objects of an array, in the order of its examples: c/0/0/0/0, ..."""
    for place in itertools.product(*map(range, _chunk_counts(metadata))):
        yield "/".join(("c", *map(str, place)))


def _blocks(
    layer: str, encoded: bytes, metadata: Any, read: Callable[[str], bytes | None]
) -> Iterator[NDArray[Any] | None]:
    """The array's examples, one row of chunks at a time; None where an object of them is damaged."""
    rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
    for row, names in itertools.groupby(chunk_names(metadata), key=lambda name: int(name.split("/")[1])):
        found = {f"{layer}/zarr.json": encoded} | {f"{layer}/{name}": read(f"{layer}/{name}") for name in names}
        if None in found.values():
            yield None
            continue
        there: dict[str, Any] = {name: Buffer.from_bytes(content or b"") for name, content in found.items()}
        array = zarr.open_array(zarr.storage.MemoryStore(there), path=layer, mode="r", zarr_format=3)
        yield np.asarray(array[row * rows : (row + 1) * rows])
