"""Activations of one network: a Zarr v3 group with one array per compared layer, channels last.

Arrays are (n, h, w, c) or (n, p). With channels last both matrix views are free: n·h·w rows of c columns for the CCA
family, n rows of h·w·c columns for the kernels. Chunks cut examples and image rows, (n_b, h_b, w, c), because a
covariance can be built from any block but a Gram matrix needs all examples of some columns at once.

In a local folder each chunk is a file. On an object store the chunks of n_b examples and all image rows form a shard:
one object, which is written whole and of which chunks are read by byte ranges. The values are the same, and so is their
digest (`Writer.layers`).
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import obstore
import zarr
import zarr.storage
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer

from distsim.activations.layout import CHUNK_BYTES, chunk_shape
from distsim.specs.layer_names import in_path
from distsim.store.arrays import ZARR, arrays_in, bounded, decoded
from distsim.store.commits import Attempt, DamagedStore, Mark
from distsim.store.storage import Storage, StorageError, explaining, first_line


class _Digesting(zarr.storage.WrapperStore[Any]):
    """A Zarr store that passes writes on and records each object's size and digest for the attempt's mark."""

    def __init__(self, store: Any, attempt: Attempt) -> None:
        super().__init__(store)
        self._attempt = attempt
        self._storage = attempt.storage.within(attempt.prefix)

    async def set(self, key: str, value: Buffer) -> None:
        content = value.as_buffer_like()
        with explaining(f"cannot write {key} in {self._attempt.prefix}"):
            # one request can be repeated safely; an upload in parts cannot
            await obstore.put_async(self._storage.backend_for(len(content)), key, content, use_multipart=False)
        self._attempt.wrote(key, content)  # type: ignore[arg-type]  # no copy: shards are large

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write the group's metadata once. Zarr asks for it with each new array. There is no other writer here."""
        if key not in self._attempt.objects:
            await self.set(key, value)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Buffer | None:
        """Return None for what this attempt has not written. Zarr reads a shard before it writes it, to add to it."""
        return await super().get(key, prototype, byte_range) if key in self._attempt.objects else None


class _Vouched(zarr.storage.WrapperStore[Any]):
    """A Zarr store that checks what it reads against a mark.

    Without the check a missing chunk would read as zeros, and changed metadata as anything.
    """

    def __init__(self, store: Any, mark: Mark, where: str) -> None:
        super().__init__(store)
        self._mark, self._where = mark, where
        self._indices: dict[str, Buffer] = {}  # of shards; Zarr reads them again for each panel

    def _with_store(self, store: Any) -> "_Vouched":
        return _Vouched(store, self._mark, self._where)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Buffer | None:
        if key not in self._mark.objects:
            return None
        is_index = isinstance(byte_range, SuffixByteRequest)
        if is_index and key in self._indices:
            return self._indices[key]
        with explaining(f"cannot read {key} of {self._where}"):
            content = await super().get(key, prototype, byte_range)
        if content is None:
            raise DamagedStore(f"activations: {key} of {self._where} is missing")
        if len(content) != self._wanted(key, byte_range):  # Zarr would read an empty object as zeros
            raise DamagedStore(f"activations: {key} of {self._where} does not have the size in its mark")
        if key.endswith(ZARR):
            self._require_own(key, content.to_bytes())
        if is_index:
            self._indices[key] = content
        return content

    def _require_own(self, key: str, content: bytes) -> None:
        """Check metadata before Zarr reads them. DamagedStore: they are not what was written, or not by distsim."""
        if _sha256(content) != self._mark.objects[key][1]:
            raise DamagedStore(f"activations: {key} of {self._where} is damaged: its digest is not the one in its mark")
        try:
            decoded(content, "group" if key == ZARR else "array")
        except ValueError as error:
            raise DamagedStore(f"activations: {key} of {self._where} is damaged: {error}") from None

    def _wanted(self, key: str, byte_range: ByteRequest | None) -> int:
        """Return how many bytes this request must return."""
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
    """An array that is being written, and how much of it has been."""

    array: Any
    rows: int  # examples per chunk
    examples: int = 0
    values: Any = field(default_factory=hashlib.sha256)  # of the array's bytes, in C order


class Writer:
    """Writer of one attempt's arrays, a block of examples at a time, in their order.

    Use it in a `with` block, at whose end nothing is being written any more.

    sharded : write one object for each block of examples. The default is to do so on an object store.
    threads : blocks that are compressed and written at a time. The bytes are the same.
    """

    def __init__(self, attempt: Attempt, sharded: bool | None = None, threads: int = 1) -> None:
        self._attempt = attempt
        self._sharded = attempt.storage.folder is None if sharded is None else sharded
        backend = _object_store(attempt.storage, attempt.prefix)
        self._store = _Digesting(backend, attempt)
        zarr.create_group(self._store)
        self._layers: dict[str, _Growing] = {}
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._writing: deque[Future[None]] = deque()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def create(self, layer: str, shape: tuple[int, ...], dtype: str, attributes: dict[str, Any]) -> int:
        """Create the layer's array, in place of an earlier one of this attempt. Return the examples per chunk."""
        if layer in self._layers:
            self._remove(layer)
        chunks = chunk_shape(shape)
        array = zarr.create_array(
            self._store,
            name=in_path(layer),
            shape=shape,
            dtype=dtype,
            chunks=chunks,
            shards=_shard_shape(shape, chunks) if self._sharded else None,
            # no shuffle: it costs time and gains nothing on ReLU activations, half of which are zero
            compressors=[ZstdCodec(level=0), Crc32cCodec()],
            dimension_names=("example", "row", "column", "channel") if len(shape) == 4 else ("example", "feature"),
            attributes=attributes,
            config={"write_empty_chunks": True},  # a missing chunk would read as zeros
        )
        self._layers[layer] = _Growing(array, chunks[0])
        return chunks[0]

    def write(self, layer: str, start: int, block: NDArray[Any]) -> None:
        """Write examples start ... start + len(block), which must be the next ones and fill whole chunks.

        With threads the block must not be changed afterwards, and an error may come with a later call.

        ValueError: they are not the next ones, or end inside a chunk, which would have to be read and written again.
        """
        growing = self._layers[layer]
        end, n = start + len(block), growing.array.shape[0]
        if start != growing.examples or (end % growing.rows and end != n):
            raise ValueError(
                f"activations: layer {layer}: expected examples from {growing.examples} on in multiples of "
                f"{growing.rows}, got {start} to {end} of {n}"
            )
        block = np.ascontiguousarray(block, dtype=growing.array.dtype)
        if self._pool is None:
            growing.array[start:end] = block
        else:
            self._writing.append(self._pool.submit(growing.array.__setitem__, slice(start, end), block))
            self._settle(2 * self._threads)  # no more blocks than these wait in memory
        growing.values.update(block)
        growing.examples = end

    def _settle(self, most: int = 0) -> None:
        """Wait until at most so many blocks are being written. What went wrong with one is raised here."""
        while len(self._writing) > most:
            self._writing.popleft().result()

    @property
    def layers(self) -> dict[str, dict[str, Any]]:
        """Return layer -> SHA-256 of its values as stored, in C order, with their dtype and shape, for the mark.

        It does not depend on how the values are cut into objects. ValueError: a layer is not fully written.
        """
        self._settle()
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
        self._settle()
        names = [name for name in self._attempt.objects if name.startswith(f"{in_path(layer)}/")]
        self._attempt.storage.delete([f"{self._attempt.prefix}/{name}" for name in names])
        for name in names:
            del self._attempt.objects[name]


def _shard_shape(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a shard: the examples of a chunk and all image rows, rounded up to whole chunks."""
    return (chunks[0], -(-shape[1] // chunks[1]) * chunks[1], *chunks[2:])


class Reader:
    """Reader of a network's committed activations. DamagedStore: an object is missing or has another size."""

    def __init__(self, storage: Storage, piece: str, mark: Mark) -> None:
        prefix = f"{piece}/attempt-{mark.attempt}"
        self._storage, self._mark, self._prefix = storage, mark, prefix
        self._where = f"{prefix} in {storage.url}"
        sizes = {path.removeprefix(f"{prefix}/"): size for path, size in storage.sizes(prefix).items()}
        for name, (size, _) in mark.objects.items():
            if sizes.get(name) != size:
                state = "is missing" if name not in sizes else f"has {sizes[name]} bytes instead of {size}"
                raise DamagedStore(f"activations: {name} of {self._where} {state}")
        backend = _object_store(storage, prefix, read_only=True)
        self._folders = arrays_in(mark.objects)
        # format 2 may hold pickles, which can run code
        self._group = zarr.open_group(_Vouched(backend, mark, self._where), mode="r", zarr_format=3)

    @property
    def layers(self) -> list[str]:
        """Return the layers' names from input to output."""
        return sorted(self._folders, key=lambda name: int(self._array(name).attrs["position"]))

    def layer(self, name: str) -> "LayerArray":
        """Return one layer's array, whose values are read later."""
        return LayerArray(self._array(name), name, self._where, self._damaged)

    def _array(self, name: str) -> Any:
        with bounded():
            return self._group[self._folders[name]]

    def _damaged(self, layer: str) -> list[str]:
        """Return the names of the layer's objects that are missing or changed."""
        damaged = []
        for name in (name for name in self._mark.objects if name.startswith(f"{self._folders[layer]}/")):
            content = self._storage.get(f"{self._prefix}/{name}")
            if content is None or _sha256(content) != self._mark.objects[name][1]:
                damaged.append(name)
        return damaged


class LayerArray:
    """One layer's stored activations, read in panels.

    damaged : returns the names of a layer's damaged objects, for the message of a failed read
    """

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
        """Return the number of image rows in a chunk."""
        return int(self._array.chunks[1]) if len(self.shape) == 4 else 1

    def panels(self, rows: int) -> Iterator[NDArray[Any]]:
        """Yield all examples of `rows` image rows at a time, (n, rows, w, c), or an (n, p) layer as a whole."""
        if len(self.shape) == 2:
            yield self.read()
            return
        for start in range(0, self.shape[1], rows):
            yield self.read((slice(None), slice(start, start + rows)))

    def read(self, selection: Any = slice(None)) -> NDArray[Any]:
        """Return the whole array, or the part that a tuple of slices selects. DamagedStore: it cannot be decoded."""
        try:
            return np.asarray(self._array[selection])
        except (ValueError, RuntimeError, OSError) as error:
            damaged = ", ".join(self._damaged(self.name))
            if isinstance(error, StorageError) and not damaged:
                raise  # only the connection failed; the objects are whole
            raise DamagedStore(
                f"activations: {self.label}: {damaged or 'no chunk is damaged'}: {first_line(error)}"
            ) from None


def _object_store(storage: Storage, prefix: str, read_only: bool = False) -> Any:
    """Return Zarr's view of the objects under a prefix. It reads a chunk at once."""
    return zarr.storage.ObjectStore(storage.within(prefix).backend_for(2 * CHUNK_BYTES), read_only=read_only)
