"""What the zarr.json of stored activations may say, and how their chunks are decoded.

A store may come from a stranger. So arrays are opened only if distsim could have written them, and a chunk unpacks to
the size that its shape says, or not at all.
"""

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypedDict

import zarr
import zarr.registry
from zarr.codecs import ZstdCodec

from distsim.specs import shown
from distsim.specs.fields import Count, Natural, expect
from distsim.specs.json_shape import require_json
from distsim.specs.layer_names import from_path

CODECS = frozenset({"bytes", "zstd", "crc32c", "sharding_indexed"})  # with which activations are written
LARGEST = 2**16  # bytes of a zarr.json; distsim writes about one thousand
ZARR = "zarr.json"


class BoundedZstd(ZstdCodec):
    """Zarr's zstd codec, which refuses a chunk that unpacks to another size than its shape has."""

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        size = math.prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize
        announced = unpacked_size(bytes(chunk_bytes.as_numpy_array()[:18]))
        if announced != size:  # numcodecs would reserve what is announced
            raise ValueError(f"a chunk of {size:,} bytes unpacks to {announced:,}")
        return super()._decode_sync(chunk_bytes, chunk_spec)


def unpacked_size(frame: bytes) -> int:
    """Return the size that the header of a Zstandard frame announces, -1 if it announces none (RFC 8878, 3.1.1.1)."""
    if len(frame) < 5 or frame[:4] != b"\x28\xb5\x2f\xfd":
        return -1
    single, length = frame[4] >> 5 & 1, (frame[4] >> 5 & 1, 2, 4, 8)[frame[4] >> 6]
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[frame[4] & 3]
    size = int.from_bytes(frame[start : start + length], "little")
    return size + (256 if length == 2 else 0) if length and len(frame) >= start + length else -1


zarr.registry.register_codec("zstd", BoundedZstd)


def bounded() -> Any:
    """Return a context manager in which Zarr opens arrays that are decoded by `BoundedZstd`."""
    return zarr.config.set({"codecs.zstd": f"{BoundedZstd.__module__}.{BoundedZstd.__qualname__}"})


def arrays_in(names: Iterable[str]) -> dict[str, str]:
    """Return layer -> the folder of its array, for the names of a network's objects."""
    folders = [name.removesuffix(f"/{ZARR}") for name in names if name.endswith(f"/{ZARR}")]
    return {from_path(folder): folder for folder in folders}


def decoded(content: bytes, node: str = "array") -> dict[str, Any]:
    """Return the content of a zarr.json. node : array or group. ValueError: distsim does not write such a one."""
    if len(content) > LARGEST:
        raise ValueError(f"its metadata have more than {LARGEST:,} bytes")
    try:
        metadata = json.loads(content)
        require_json("", metadata, _Node)
        expect(metadata["node_type"] == node, f"it is a {shown(metadata['node_type'])}, expected a {node}")
        if node == "array":
            _require_readable(metadata)
        return dict(metadata)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its metadata are not those of an array that distsim writes: {error}") from None


class _Node(TypedDict):
    node_type: str


class _Named(TypedDict):
    name: str


class _Chunks(TypedDict):
    chunk_shape: list[Count]


class _Grid(TypedDict):
    name: Literal["regular"]
    configuration: _Chunks


class _KeyEncoding(TypedDict):
    name: Literal["default"]


class _Attributes(TypedDict):
    position: Natural
    kind: str


class ArrayMetadata(TypedDict):
    """The part of an array's zarr.json that distsim relies on."""

    shape: list[Count]
    data_type: str
    chunk_grid: _Grid
    chunk_key_encoding: _KeyEncoding
    codecs: list[_Named]
    attributes: _Attributes


def _require_readable(metadata: dict[str, Any]) -> None:
    """Check that the array can be decoded within bounds. ValueError: it cannot."""
    require_json("", metadata, ArrayMetadata)
    if foreign := set(_codecs(metadata["codecs"])) - CODECS:
        raise ValueError(f"it is encoded by {', '.join(sorted(foreign))}, which distsim does not use")
    shape, chunks = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
    if len(shape) != len(chunks) or any(chunk >= 2 * size for chunk, size in zip(chunks, shape, strict=True)):
        raise ValueError(f"its chunks are {shown(chunks)}, its shape is {shown(shape)}")  # a shard is rounded up


def _codecs(codecs: Any) -> Iterator[str]:
    """Yield the names of codecs and of those inside them. ValueError: they are not codecs."""
    require_json("codecs", codecs, list[_Named])
    for codec in codecs:
        yield codec["name"]
        inside = codec.get("configuration", {})
        if isinstance(inside, dict):
            for name in ("codecs", "index_codecs"):
                yield from _codecs(inside.get(name, []))


def chunk_counts(metadata: Any) -> list[int]:
    """Return the number of objects along each dimension."""
    chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    return [-(-size // chunk) for size, chunk in zip(metadata["shape"], chunks, strict=True)]


def chunk_names(metadata: Any) -> Iterator[str]:
    """Yield the names of an array's objects, in the order of its examples: c/0/0/0/0, ..."""
    for place in itertools.product(*map(range, chunk_counts(metadata))):
        yield "/".join(("c", *map(str, place)))
