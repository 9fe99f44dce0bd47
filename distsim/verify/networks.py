"""Checks of a network and of its activations whose objects all have the right digests.

They check what a reader relies on: whose piece it is, that it can be loaded into the model, that it can be decoded.
They do not check whether the values are those that a sweep computes; tests do that for the writers
(tests/invariants.py).
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
NUMBERS = ("accuracy", "loss", "remaining", "remaining_pool", "epochs")  # of a record; tables are made from them
CODECS = frozenset({"bytes", "zstd", "crc32c", "sharding_indexed"})  # with which activations are written


@dataclass
class Model:
    """What the pieces of a sweep must fit. None: unknown, and not checked."""

    identity: Identity | None = None
    network: Network | None = None
    described: tuple[StoredLayer, ...] = ()  # from layers.json, if that is whole

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """Return name -> layer, from the network, else from layers.json."""
        if self.network is not None:
            return {layer.name: layer for layer in self.network.layers}
        return {layer.name: Layer(layer.name, layer.kind, layer.module) for layer in self.described}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return layer -> its shape for the whole probe, (n, ...)."""
        if self.identity is None:
            return {}
        problem, shapes = self.identity.problem, {layer.name: layer.shape for layer in self.described}
        if self.network is not None:
            shapes = layer_shapes(self.network, problem)
        return {name: (problem.probe, *shape) for name, shape in shapes.items()}


def number(value: Any) -> bool:
    """Return whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# --- networks --------------------------------------------------------------------------------------------------------


def network_faults(model: Model, which: NetworkId, mark: Mark, contents: Mapping[str, bytes]) -> Iterator[str]:
    """Yield what is wrong with a network: its record is another's, or its tensors do not fit the model.

    contents : name -> content of all objects that the mark names
    """
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
    """Yield what is wrong with a record: it is another network's, or tables cannot be made from it."""
    if lacking := [name for name in ("run", "iteration", "reduced", *NUMBERS) if name not in record]:
        yield f"its record lacks {', '.join(lacking)}"
        return
    if (record["run"], record["iteration"]) != ("complete" if which.run is None else which.run, which.iteration):
        yield f"its record is that of run {shown(record['run'])}, iteration {shown(record['iteration'])}"
    for name in (*NUMBERS, "reduced"):
        if not (isinstance(record[name], bool) if name == "reduced" else number(record[name])):
            yield f"its {name} is {shown(record[name])}"


def tensor_faults(tensors: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    """Yield tensors whose names, shapes or dtypes differ from the expected ones."""
    if lacking := sorted(expected.keys() - tensors.keys()):
        yield f"it lacks {shown(', '.join(lacking))}"
    if more := sorted(tensors.keys() - expected.keys()):
        yield f"it has {shown(', '.join(more))}, which the model does not have"
    for name in sorted(tensors.keys() & expected.keys()):
        theirs, ours = ((tuple(tensor.shape), tensor.dtype) for tensor in (tensors[name], expected[name]))
        if theirs != ours:
            yield f"{name} is {theirs[0]} {theirs[1]}, the model's is {ours[0]} {ours[1]}"


# --- activations -----------------------------------------------------------------------------------------------------


def layer_names(mark: Mark) -> list[str]:
    """Return the names of the layers whose arrays the mark names."""
    return [name.removesuffix("/zarr.json") for name in mark.objects if name.endswith("/zarr.json")]


def layer_faults(model: Model, mark: Mark, layer: str, read: Callable[[str], bytes | None]) -> Iterator[str]:
    """Yield what is wrong with a layer's array: its metadata, or else its values.

    The values are decoded a block of examples at a time.

    read : returns an object that the mark names, or reports that it is damaged and returns None
    """
    encoded = read(f"{layer}/zarr.json")
    if encoded is None or layer not in model.shapes:
        return
    metadata = json.loads(encoded)
    faults = array_faults(model, layer, metadata, {name for name in mark.objects if name.startswith(f"{layer}/c/")})
    yield from faults
    if faults:  # decoding it could fail
        return
    values, whole = hashlib.sha256(), True
    for block in _blocks(layer, encoded, metadata, read):
        if block is None:
            whole = False
        else:
            values.update(block.tobytes())
    ours = {"dtype": metadata["data_type"], "shape": metadata["shape"], "sha256": values.hexdigest()}
    if whole and mark.values and mark.values.get("layers", {}).get(layer) != ours:  # older marks have no values
        yield "its values do not match the digest in its mark"


def array_faults(model: Model, layer: str, metadata: Any, named: set[str]) -> list[str]:
    """Return what is wrong with a layer's zarr.json: it is not the layer's, or not as distsim encodes arrays.

    named : names of the chunks in the mark
    """
    try:
        return list(_array_faults(model, layer, metadata, named))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        return ["its metadata are not those of an array that distsim writes"]


def _array_faults(model: Model, layer: str, metadata: Any, named: set[str]) -> Iterator[str]:
    assert model.identity is not None
    expected, position, shape = model.layers[layer], list(model.layers).index(layer), list(model.shapes[layer])
    if metadata["node_type"] != "array" or metadata["shape"] != shape:
        yield f"the array's shape is {shown(metadata['shape'])}, expected {shape}"
    dtypes = {"float32", storage_dtype(expected, model.identity.storage)}
    if metadata["data_type"] not in dtypes:
        yield f"its dtype is {shown(metadata['data_type'])}, expected {' or '.join(sorted(dtypes))}"
    attributes = metadata["attributes"]
    if (attributes["position"], attributes["kind"]) != (position, expected.kind):
        place = f"position {shown(attributes['position'])}, kind {shown(attributes['kind'])}"
        yield f"it is of a layer at {place}, expected position {position}, kind {expected.kind!r}"
    if foreign := set(_codecs(metadata["codecs"])) - CODECS:
        yield f"it is encoded by {', '.join(sorted(foreign))}, which distsim does not use"
    if metadata["chunk_grid"]["name"] != "regular" or metadata["chunk_key_encoding"]["name"] != "default":
        yield "its chunks are not named as distsim names them"
    elif metadata["shape"] == shape:
        count = math.prod(_chunk_counts(metadata))
        if count != len(named) or {f"{layer}/{name}" for name in chunk_names(metadata)} != named:
            yield f"its mark names {len(named)} chunks, {count} belong to the array"  # missing ones would read as zeros


def _codecs(codecs: Iterable[Any]) -> Iterator[str]:
    for codec in codecs:
        yield codec["name"]
        inside = codec.get("configuration", {})
        yield from _codecs([*inside.get("codecs", ()), *inside.get("index_codecs", ())])


def _chunk_counts(metadata: Any) -> list[int]:
    chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    return [-(-size // chunk) for size, chunk in zip(metadata["shape"], chunks, strict=True)]


def chunk_names(metadata: Any) -> Iterator[str]:
    """Yield the names of an array's objects, in the order of its examples: c/0/0/0/0, ..."""
    for place in itertools.product(*map(range, _chunk_counts(metadata))):
        yield "/".join(("c", *map(str, place)))


def _blocks(
    layer: str, encoded: bytes, metadata: Any, read: Callable[[str], bytes | None]
) -> Iterator[NDArray[Any] | None]:
    """Yield the array's examples, one row of chunks at a time, or None if an object of the row is damaged."""
    rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
    for row, names in itertools.groupby(chunk_names(metadata), key=lambda name: int(name.split("/")[1])):
        contents = {f"{layer}/zarr.json": encoded} | {f"{layer}/{name}": read(f"{layer}/{name}") for name in names}
        if None in contents.values():
            yield None
            continue
        objects: dict[str, Any] = {name: Buffer.from_bytes(content or b"") for name, content in contents.items()}
        array = zarr.open_array(zarr.storage.MemoryStore(objects), path=layer, mode="r", zarr_format=3)
        yield np.asarray(array[row * rows : (row + 1) * rows])
