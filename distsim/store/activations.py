"""Activations of one network: a Zarr v3 group with one array per compared layer, channels last.

Arrays are (n, h, w, c) or (n, p). Channels last makes both matrix views free: rows n·h·w of c columns for the CCA
family, rows n of h·w·c columns for the kernels. Chunks cut examples and image rows, (n_b, h_b, w, c), because a
covariance can be built from any block but a Gram matrix needs all examples of some columns at once.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import zarr
import zarr.storage
from numpy.typing import NDArray
from obstore.exceptions import BaseError
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer

from distsim.activations import chunk_shape
from distsim.store.commits import Attempt, DamagedStore, Mark
from distsim.store.storage import Storage, StorageError, first_line


class _Digesting(zarr.storage.WrapperStore[Any]):
    """Passes writes on and notes size and digest of each object for the attempt's mark."""

    def __init__(self, store: Any, attempt: Attempt) -> None:
        super().__init__(store)
        self._attempt = attempt

    async def set(self, key: str, value: Buffer) -> None:
        try:
            await super().set(key, value)
        except (BaseError, OSError) as error:
            raise StorageError(f"cannot write {key} in {self._attempt.prefix}: {first_line(error)}") from None
        self._attempt.wrote(key, value.to_bytes())


class _Vouched(zarr.storage.WrapperStore[Any]):
    """Gives the objects that a mark names: a chunk that is gone would read as zeros, changed metadata as anything."""

    def __init__(self, store: Any, mark: Mark, where: str) -> None:
        super().__init__(store)
        self._mark, self._where = mark, where

    def _with_store(self, store: Any) -> "_Vouched":
        return _Vouched(store, self._mark, self._where)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Buffer | None:
        if key not in self._mark.objects:
            return None
        content = await super().get(key, prototype, byte_range)
        if content is None:
            raise DamagedStore(f"activations: {key} of {self._where} is missing")
        if key.endswith("zarr.json") and _sha256(content.to_bytes()) != self._mark.objects[key][1]:
            raise DamagedStore(f"activations: {key} of {self._where} is damaged: its digest is not its mark's")
        return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Writer:
    """Creates the arrays of one attempt and fills them, a block of examples at a time."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        backend = _object_store(attempt.storage, attempt.prefix)
        self._store = _Digesting(backend, attempt)
        zarr.create_group(self._store)
        self._arrays: dict[str, Any] = {}

    def create(self, layer: str, shape: tuple[int, ...], dtype: str, attributes: dict[str, Any]) -> int:
        """Make the layer's array, replacing an earlier one of this attempt; examples per chunk."""
        self._forget(layer)
        self._arrays[layer] = zarr.create_array(
            self._store,
            name=layer,
            shape=shape,
            dtype=dtype,
            chunks=chunk_shape(shape),
            # without shuffle: it costs time and gains nothing on half-empty ReLU activations
            compressors=[ZstdCodec(level=0), Crc32cCodec()],
            dimension_names=("example", "row", "column", "channel") if len(shape) == 4 else ("example", "feature"),
            attributes=attributes,
            overwrite=True,
            config={"write_empty_chunks": True},  # a chunk that is not there would read as zeros
        )
        return int(self._arrays[layer].chunks[0])

    def write(self, layer: str, start: int, block: NDArray[Any]) -> None:
        """Store examples start ... start + len(block); start is a multiple of the chunk: whole chunks are written."""
        self._arrays[layer][start : start + len(block)] = block

    def _forget(self, layer: str) -> None:
        for name in [name for name in self._attempt.objects if name.startswith(f"{layer}/")]:
            del self._attempt.objects[name]


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
        self._group = zarr.open_group(_Vouched(backend, mark, self._where), mode="r")

    @property
    def layers(self) -> list[str]:
        """Layer names from input to output."""
        positions = {name: int(array.attrs["position"]) for name, array in self._group.arrays()}  # type: ignore
        return sorted(positions, key=positions.__getitem__)

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

    def read(self) -> NDArray[Any]:
        """The whole array."""
        return self._read(slice(None))

    def _read(self, selection: Any) -> NDArray[Any]:
        try:
            return np.asarray(self._array[selection])
        except (ValueError, RuntimeError, OSError) as error:
            damaged = ", ".join(self._damaged(self.name)) or "no chunk is damaged"
            raise DamagedStore(f"activations: {self.label}: {damaged}: {first_line(error)}") from None


def _object_store(storage: Storage, prefix: str, read_only: bool = False) -> Any:
    return zarr.storage.ObjectStore(storage.within(prefix).backend, read_only=read_only)
