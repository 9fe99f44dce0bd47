"""Checks of a network and of its activations whose objects all have the right digests.

They check what a reader relies on: that it can be loaded into the model, that it can be decoded within bounds. They do
not check whether the values are those that a sweep computes; tests do that for the writers (tests/invariants.py).
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
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
from distsim.models import Layer, Network
from distsim.specs import Identity, NetworkId, shown
from distsim.store import Mark, logits
from distsim.store.arrays import ZARR, arrays_in, bounded, chunk_counts, chunk_names, decoded
from distsim.store.described import StoredLayer
from distsim.store.descriptions import stored_layers
from distsim.store.storage import first_line
from distsim.training.pruning import full_masks

OBJECTS = {"weights.safetensors", "masks.safetensors"}
OF_COMPLETE = {"rewind.safetensors", "probe.json"}
LARGEST_IMAGE = 512  # pixels of its side; a network is run on one image of the store's size, to learn its shapes
LARGEST_CHUNK = 2**30  # bytes of an object of an array whose shape is not known
ROOM = 2**20  # bytes that an object may have besides its values: names, shapes, what compression adds


@dataclass
class Model:
    """What the pieces of a sweep must fit. None: unknown, and not checked."""

    identity: Identity | None = None
    network: Network | None = None
    described: tuple[StoredLayer, ...] = ()  # from layers.json, if that is whole

    @cached_property
    def of_network(self) -> tuple[StoredLayer, ...]:
        """Return the layers of the network, none if it is unknown."""
        if self.network is None or self.identity is None:
            return ()
        return stored_layers(self.network, self.identity.problem)

    @cached_property
    def layers(self) -> dict[str, StoredLayer]:
        """Return name -> layer, from the network, else from layers.json."""
        return {layer.name: layer for layer in self.of_network or self.described}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return layer -> its shape for the whole probe, (n, ...)."""
        if self.identity is None:
            return {}
        return {name: (self.identity.problem.probe, *layer.shape) for name, layer in self.layers.items()}


# --- networks --------------------------------------------------------------------------------------------------------


def object_faults(model: Model, which: NetworkId, mark: Mark) -> Iterator[str]:
    """Yield what is wrong with the list of a network's objects, before any is read."""
    expected = OBJECTS | (OF_COMPLETE if which.is_complete else set())
    if lacking := sorted(expected - mark.objects.keys()):
        yield f"its mark does not name {', '.join(lacking)}"
    if more := sorted(mark.objects.keys() - expected):
        yield f"its mark names {shown(more[0])}, which a network does not have"
    if model.network is None:
        return
    tensors = sum(tensor.nbytes for tensor in model.network.state_dict().values())
    for name, (size, _) in sorted(mark.objects.items()):
        if size > tensors + ROOM:
            yield f"{name} has {size:,} bytes, more than the model's tensors"


def network_faults(model: Model, contents: Mapping[str, bytes]) -> Iterator[str]:
    """Yield the tensors of a network that do not fit the model. contents : name -> content of its objects"""
    if model.identity is None or model.network is None:
        return
    state = model.network.state_dict()
    masks = full_masks(model.network, model.identity.problem.pruning)
    for name, expected in {"weights": state, "masks": masks, "rewind": state}.items():
        if f"{name}.safetensors" in contents:
            tensors = safetensors.torch.load(contents[f"{name}.safetensors"])
            yield from (f"{name}: {fault}" for fault in tensor_faults(tensors, expected))


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


def logits_faults(
    model: Model, which: NetworkId, mark: Mark, complete: Mark | None, read: Callable[[str], bytes | None]
) -> Iterator[str]:
    """Yield what is wrong with a network's logits of the test images.

    complete : the mark of the complete network's logits, if there are any
    read : returns an object that the mark names, or reports that it is damaged and returns None
    """
    record = mark.values
    classes = 0 if model.identity is None else len(model.identity.problem.classes)
    if classes and record["classes"] != classes:
        yield f"it holds logits of {record['classes']:,} classes, the problem has {classes:,}"
    elif complete is not None and record["examples"] != (there := complete.values["examples"]):
        yield f"it holds logits of {record['examples']:,} images, the complete network's are of {there:,}"
    else:
        try:
            logits.require_object(which, mark)
            if (content := read(logits.OBJECT)) is not None:
                logits.decode(which, record, content)
        except ValueError as error:
            yield first_line(error)


# --- activations -----------------------------------------------------------------------------------------------------


def layer_faults(model: Model, mark: Mark, layer: str, read: Callable[[str, int], bytes | None]) -> Iterator[str]:
    """Yield what is wrong with a layer's array: its metadata, or else its values.

    The values are decoded a block of examples at a time.

    read : returns an object that the mark names, or reports that it is damaged or has more bytes than the second
        argument, and returns None
    """
    folder = arrays_in(mark.objects)[layer]
    encoded = read(f"{folder}/{ZARR}", ROOM)
    if encoded is None:
        return
    metadata = decoded(encoded)
    chunks = sorted(name for name in mark.objects if name.startswith(f"{folder}/c/"))
    if layer not in model.shapes:  # the spec is damaged, or of another version: there are the digests
        for name in chunks:
            read(name, LARGEST_CHUNK)
        return
    named = {name.removeprefix(f"{folder}/") for name in chunks}
    faults = list(array_faults(model, layer, metadata, named))
    yield from faults
    if faults:  # decoding it could fail
        return
    values, whole = hashlib.sha256(), True
    for block in _blocks(folder, encoded, metadata, read):
        if block is None:
            whole = False
        else:
            values.update(block.tobytes())
    ours = {"dtype": metadata["data_type"], "shape": metadata["shape"], "sha256": values.hexdigest()}
    if whole and mark.values and mark.values.get("layers", {}).get(layer) != ours:  # older marks have no values
        yield "its values do not match the digest in its mark"


def strange_objects(mark: Mark) -> list[str]:
    """Return the names in the mark of activations that are neither metadata nor chunks of its arrays, sorted."""
    arrays = set(arrays_in(mark.objects).values())
    expected = {ZARR, *(f"{folder}/{ZARR}" for folder in arrays)}
    names = (name for name in mark.objects if name not in expected)
    return sorted(name for name in names if name.split("/")[0] not in arrays or name.split("/")[1] != "c")


def array_faults(model: Model, layer: str, metadata: Any, named: set[str]) -> Iterator[str]:
    """Yield in what an array is not the layer's. named : the names of its chunks in the mark"""
    assert model.identity is not None
    expected, position, shape = model.layers[layer], list(model.layers).index(layer), list(model.shapes[layer])
    if metadata["shape"] != shape:
        yield f"the array's shape is {shown(metadata['shape'])}, expected {shape}"
    of_kind = Layer(expected.name, expected.kind, expected.module)
    dtypes = {"float32", storage_dtype(of_kind, model.identity.storage)}
    if metadata["data_type"] not in dtypes:
        yield f"its dtype is {shown(metadata['data_type'])}, expected {' or '.join(sorted(dtypes))}"
    attributes = metadata["attributes"]
    if (attributes["position"], attributes["kind"]) != (position, expected.kind):
        place = f"position {shown(attributes['position'])}, kind {shown(attributes['kind'])}"
        yield f"it is of a layer at {place}, expected position {position}, kind {expected.kind!r}"
    count = math.prod(chunk_counts(metadata))
    if metadata["shape"] == shape and (count != len(named) or set(chunk_names(metadata)) != named):
        yield f"its mark names {len(named)} chunks, {count} belong to the array"  # missing ones would read as zeros


def _blocks(
    folder: str, encoded: bytes, metadata: Any, read: Callable[[str, int], bytes | None]
) -> Iterator[NDArray[Any] | None]:
    """Yield the array's examples, one row of chunks at a time, or None if an object of the row is damaged."""
    chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    most = 4 * math.prod(chunks) + ROOM
    for row, names in itertools.groupby(chunk_names(metadata), key=lambda name: int(name.split("/")[1])):
        contents = {f"{folder}/{name}": read(f"{folder}/{name}", most) for name in names}
        if None in contents.values():
            yield None
            continue
        contents[f"{folder}/{ZARR}"] = encoded
        objects: dict[str, Any] = {name: Buffer.from_bytes(content or b"") for name, content in contents.items()}
        with bounded():
            array = zarr.open_array(zarr.storage.MemoryStore(objects), path=folder, mode="r", zarr_format=3)
        yield np.asarray(array[row * chunks[0] : (row + 1) * chunks[0]])
