"""Activations of one network: a Zarr v3 group with one array per compared layer, channels last.

Arrays are (n, h, w, c) or (n, p). Channels last makes both matrix views free: rows n·h·w of c columns for the CCA
family, rows n of h·w·c columns for the kernels. Chunks cut examples and image rows, (n_b, h_b, w, c), because a
covariance can be built from any block but a Gram matrix needs all examples of some columns at once.

In a local folder each chunk is a file. An object store gets shards: what the writer writes at once, the chunks of n_b
examples and all image rows, is one object, written whole, and chunks are read out of it by byte ranges. The values are
the same, and so is their digest (`Writer.layers`).
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import obstore
import zarr
import zarr.storage
from numpy.typing import NDArray
from obstore.exceptions import BaseError
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer

from distsim.activations.layout import chunk_shape
from distsim.store.commits import Attempt, DamagedStore, Mark
from distsim.store.storage import Storage, StorageError, first_line, storage_error


class _Digesting(zarr.storage.WrapperStore[Any]):
    """Passes writes on and notes size and digest of each object for the attempt's mark."""

    def __init__(self, store: Any, attempt: Attempt) -> None:
        super().__init__(store)
        self._attempt = attempt

    async def set(self, key: str, value: Buffer) -> None:
        content = value.as_buffer_like()
        try:
            # in one request, which can be made again whatever became of it; an upload in parts cannot
            await obstore.put_async(self._store.store, key, content, use_multipart=False)
        except (BaseError, OSError) as error:
            raise storage_error(f"cannot write {key} in {self._attempt.prefix}", error) from None
        self._attempt.wrote(key, content)  # type: ignore[arg-type]  # no copy: shards are large

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """The group's metadata, each time that an array is made in it. Nobody else writes here."""
        if key not in self._attempt.objects:
            await self.set(key, value)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Buffer | None:
        """Nothing where nothing was written: Zarr looks for a shard before it writes it, in case it is to add to it."""
        return await super().get(key, prototype, byte_range) if key in self._attempt.objects else None


class _Vouched(zarr.storage.WrapperStore[Any]):
    """Gives the objects that a mark names: a chunk that is gone would read as zeros, changed metadata as anything."""

    def __init__(self, store: Any, mark: Mark, where: str) -> None:
        super().__init__(store)
        self._mark, self._where = mark, where
        self._indices: dict[str, Buffer] = {}  # of shards, which Zarr reads again for each panel

    def _with_store(self, store: Any) -> "_Vouched":
        return _Vouched(store, self._mark, self._where)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Buffer | None:
        if key not in self._mark.objects:
            return None
        of_index = isinstance(byte_range, SuffixByteRequest)
        if of_index and key in self._indices:
            return self._indices[key]
        try:
            content = await super().get(key, prototype, byte_range)
        except (BaseError, OSError) as error:
            raise storage_error(f"cannot read {key} of {self._where}", error) from None
        if content is None:
            raise DamagedStore(f"activations: {key} of {self._where} is missing")
        if len(content) != self._wanted(key, byte_range):  # Zarr takes nothing for zeros
            raise DamagedStore(f"activations: {key} of {self._where} is shorter or longer than its mark says")
        if key.endswith("zarr.json") and _sha256(content.to_bytes()) != self._mark.objects[key][1]:
            raise DamagedStore(f"activations: {key} of {self._where} is damaged: its digest is not its mark's")
        if of_index:
            self._indices[key] = content
        return content

    def _wanted(self, key: str, byte_range: ByteRequest | None) -> int:
        """Bytes that an answer to this has."""
        match byte_range:
            case RangeByteRequest(start, end):
                return end - start
            case SuffixByteRequest(suffix):
                return suffix
        return self._mark.objects[key][0]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class _Growing:
    """An array that is being written, and what was written of it."""

    array: Any
    rows: int  # examples per chunk
    examples: int = 0
    values: Any = field(default_factory=hashlib.sha256)  # of the array's bytes, in C order


class Writer:
    """Creates the arrays of one attempt and fills them, a block of examples at a time, in their order.

    sharded : one object for each block of examples, as an object store is best written; by default where it is one.
    """

    def __init__(self, attempt: Attempt, sharded: bool | None = None) -> None:
        self._attempt = attempt
        self._sharded = attempt.storage.folder is None if sharded is None else sharded
        backend = _object_store(attempt.storage, attempt.prefix)
        self._store = _Digesting(backend, attempt)
        zarr.create_group(self._store)
        self._layers: dict[str, _Growing] = {}

    def create(self, layer: str, shape: tuple[int, ...], dtype: str, attributes: dict[str, Any]) -> int:
        """Make the layer's array, replacing an earlier one of this attempt; examples per chunk."""
        if layer in self._layers:
            self._remove(layer)
        chunks = chunk_shape(shape)
        array = zarr.create_array(
            self._store,
            name=layer,
            shape=shape,
            dtype=dtype,
            chunks=chunks,
            shards=_shard_shape(shape, chunks) if self._sharded else None,
            # without shuffle: it costs time and gains nothing on half-empty ReLU activations
            compressors=[ZstdCodec(level=0), Crc32cCodec()],
            dimension_names=("example", "row", "column", "channel") if len(shape) == 4 else ("example", "feature"),
            attributes=attributes,
            config={"write_empty_chunks": True},  # a chunk that is not there would read as zeros
        )
        self._layers[layer] = _Growing(array, chunks[0])
        return chunks[0]

    def write(self, layer: str, start: int, block: NDArray[Any]) -> None:
        """Store examples start ... start + len(block): the next ones, in whole chunks.

        ValueError: others than the next, or a part of a chunk, which would have to be read and written again.
        """
        growing = self._layers[layer]
        end, n = start + len(block), growing.array.shape[0]
        if start != growing.examples or (end % growing.rows and end != n):
            raise ValueError(
                f"activations: layer {layer}: examples {start} to {end} of {n} came, expected were those from "
                f"{growing.examples} on in multiples of {growing.rows}"
            )
        block = np.ascontiguousarray(block, dtype=growing.array.dtype)
        growing.array[start:end] = block
        growing.values.update(block)
        growing.examples = end

    @property
    def layers(self) -> dict[str, dict[str, Any]]:
        """Layer -> SHA-256 of its values as they are stored, in C order, and their dtype and shape.

        For the mark: it is the same however the values are cut into objects. ValueError: a layer is not written yet.
        """
        for name, growing in self._layers.items():
            if growing.examples != growing.array.shape[0]:
                raise ValueError(
                    f"activations: layer {name} has {growing.examples} of {growing.array.shape[0]} examples"
                )
        return {
            name: {
                "dtype": str(growing.array.dtype),
                "shape": list(growing.array.shape),
                "sha256": growing.values.hexdigest(),
            }
            for name, growing in self._layers.items()
        }

    def _remove(self, layer: str) -> None:
        names = [name for name in self._attempt.objects if name.startswith(f"{layer}/")]
        self._attempt.storage.delete([f"{self._attempt.prefix}/{name}" for name in names])
        for name in names:
            del self._attempt.objects[name]


def _shard_shape(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """The examples of a chunk and all image rows, in whole chunks."""
    return (chunks[0], -(-shape[1] // chunks[1]) * chunks[1], *chunks[2:])


class Reader:
    """The committed activations of one network."""

    def __init__(self, storage: Storage, piece: str, mark: Mark) -> None:
        prefix = f"{piece}/attempt-{mark.attempt}"
        self._storage, self._mark, self._prefix = storage, mark, prefix
        self._where = f"{prefix} in {storage.url}"
        there = {path.removeprefix(f"{prefix}/"): size for path, size in storage.sizes(prefix).items()}
        for name, (size, _) in mark.objects.items():
            if there.get(name) != size:
                state = "is missing" if name not in there else f"has {there[name]} bytes instead of {size}"
                raise DamagedStore(f"activations: {name} of {self._where} {state}")
        backend = _object_store(storage, prefix, read_only=True)
        # a group of format 2 may hold pickles, which are programs
        self._group = zarr.open_group(_Vouched(backend, mark, self._where), mode="r", zarr_format=3)

    @property
    def layers(self) -> list[str]:
        """Layer names from input to output."""
        names = [name.removesuffix("/zarr.json") for name in self._mark.objects if name.endswith("/zarr.json")]
        return sorted(names, key=lambda name: int(self._group[name].attrs["position"]))  # type: ignore

    def layer(self, name: str) -> "LayerArray":
        return LayerArray(self._group[name], name, self._where, self._damaged)

    def _damaged(self, layer: str) -> list[str]:
        """The layer's objects that are not what the mark says."""
        found = []
        for name in (name for name in self._mark.objects if name.startswith(f"{layer}/")):
            content = self._storage.get(f"{self._prefix}/{name}")
            if content is None or _sha256(content) != self._mark.objects[name][1]:
                found.append(name)
        return found


class LayerArray:
    """One layer's activations on disk, read in panels."""

    def __init__(
        self, array: Any, name: str, where: str, damaged: Callable[[str], list[str]] = lambda name: []
    ) -> None:
        self._array, self.name, self._where, self._damaged = array, name, where, damaged
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.kind = str(array.attrs["kind"])

    @property
    def label(self) -> str:
        return f"array {self.name} of {self._where}"

    @property
    def dtype(self) -> str:
        return str(self._array.dtype)

    @property
    def panel_rows(self) -> int:
        """Image rows in a chunk."""
        return int(self._array.chunks[1]) if len(self.shape) == 4 else 1

    def panels(self, rows: int) -> Iterator[NDArray[Any]]:
        """All examples of `rows` image rows at a time, (n, rows, w, c), or the whole of an (n, p) layer."""
        if len(self.shape) == 2:
            yield self._read(slice(None))
            return
        for start in range(0, self.shape[1], rows):
            yield self._read((slice(None), slice(start, start + rows)))

    def read(self, selection: Any = slice(None)) -> NDArray[Any]:
        """The whole array, or what a tuple of slices selects of it."""
        return self._read(selection)

    def _read(self, selection: Any) -> NDArray[Any]:
        try:
            return np.asarray(self._array[selection])
        except (ValueError, RuntimeError, OSError) as error:
            damaged = ", ".join(self._damaged(self.name))
            if isinstance(error, StorageError) and not damaged:
                raise  # the way to it failed; what is there is as it was written
            raise DamagedStore(
                f"activations: {self.label}: {damaged or 'no chunk is damaged'}: {first_line(error)}"
            ) from None


def _object_store(storage: Storage, prefix: str, read_only: bool = False) -> Any:
    return zarr.storage.ObjectStore(storage.within(prefix).backend, read_only=read_only)
