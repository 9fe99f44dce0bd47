"""Arrays of a stranger's store: what distsim could not have written is refused before it is unpacked."""

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from numcodecs.zstd import compress

from distsim.specs import NetworkId
from distsim.store import DamagedStore, Storage
from distsim.store.activations import Reader, Writer
from distsim.store.arrays import LARGEST, arrays_in, decoded, unpacked_size
from distsim.store.commits import Attempt

PIECE = f"{NetworkId(0, 1).path}/activations"
VALUES = np.arange(20 * 6, dtype="float16").reshape(20, 6)


def zeros(count: int) -> bytes:
    """Return a Zstandard frame of a few bytes for each 128 KiB of zeros that it unpacks to."""
    frame, left = bytearray(b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", count)), count
    while left:
        block = min(131072, left)
        left -= block
        frame += struct.pack("<I", (0 if left else 1) | 2 | (block << 3))[:3] + b"\0"
    return bytes(frame)


def checked(frame: bytes) -> bytes:
    return frame + struct.pack("<I", google_crc32c.value(frame))


def stored(storage: Storage, name: str = "fc", chunk: bytes | None = None, **changes: Any) -> Reader:
    """Write an array; replace its chunk, or fields of its metadata, by others with right digests; open it."""
    attempt = Attempt(storage, PIECE)
    writer = Writer(attempt, sharded=False)
    writer.create(name, VALUES.shape, "float16", {"position": 0, "kind": "fc"})
    writer.write(name, 0, VALUES)
    for path in list(attempt.objects):
        if path.endswith("/c/0/0") and chunk is not None:
            attempt.put(path, chunk)
        if path.endswith("/zarr.json") and changes:
            metadata = json.loads(storage.get(f"{attempt.prefix}/{path}") or b"")
            attempt.put(path, json.dumps(metadata | changes).encode())
    return Reader(storage, PIECE, attempt.commit())


def test_sizes_of_frames() -> None:
    for size in (0, 1, 255, 256, 65_000, 70_000, 10**6):
        assert unpacked_size(compress(b"x" * size)[:18]) == size
    assert unpacked_size(zeros(3 * 10**9)[:18]) == 3 * 10**9
    assert unpacked_size(b"") == unpacked_size(b"junk that is long enough") == -1
    assert unpacked_size(b"\x28\xb5\x2f\xfd\x00" + b"\0" * 10) == -1, "a frame that announces no size"


@pytest.mark.parametrize("size", [10**8, VALUES.nbytes - 2, VALUES.nbytes + 2])
def test_a_chunk_that_unpacks_to_another_size(tmp_path: Path, size: int) -> None:
    reader = stored(Storage(tmp_path), chunk=checked(zeros(size)))
    tracemalloc.start()
    with pytest.raises(DamagedStore, match=f"unpacks to {size:,}"):
        reader.layer("fc").read()
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    whole = stored(Storage(tmp_path / "whole"), chunk=checked(zeros(VALUES.nbytes))).layer("fc").read()
    assert (whole == 0).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"codecs": [{"name": "bytes"}] * 100_000}, f"more than {LARGEST:,} bytes"),
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "encoded by numcodecs.pickle"),
        ({"codecs": [{"name": "sharding_indexed", "configuration": {"codecs": 3}}]}, "field codecs must be a list"),
        ({"shape": [20, 10**10]}, "field shape"),
        ({"shape": [20]}, "its chunks are"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**9, 6]}}}, "its chunks are"),
        ({"chunk_grid": {"name": "regular", "configuration": {}}}, "chunk_shape is missing"),
        ({"chunk_key_encoding": {"name": "v2"}}, "field chunk_key_encoding.name must be default"),
        ({"attributes": {}}, "field attributes"),
        ({"attributes": {"position": 10**400, "kind": "fc"}}, "field attributes.position"),
        ({"node_type": "group"}, "it is a 'group', expected a array"),
    ],
)
def test_metadata_that_distsim_does_not_write(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    reader = stored(Storage(tmp_path), **changes)
    with pytest.raises(DamagedStore, match="metadata") as caught:
        reader.layer("fc").read()
    assert said in str(caught.value)


def test_nonsense() -> None:
    for content in (b"", b"3", b"[" * 10**4, b"{}", b'{"node_type": "array"}'):
        with pytest.raises(ValueError, match="metadata"):
            decoded(content)


@pytest.mark.parametrize("name", ["block/conv1", "..", "zarr.json", "a%b", "größe"])
def test_a_layer_of_any_name(tmp_path: Path, name: str) -> None:
    reader = stored(Storage(tmp_path), name)
    assert reader.layers == [name]
    np.testing.assert_array_equal(reader.layer(name).read(), VALUES)


def test_names_of_earlier_versions() -> None:
    """They stood as they were in paths; a name with a percent sign is still found."""
    names = ["zarr.json", "fc 1/zarr.json", "50%/zarr.json", "50%/c/0/0", "block%2Fconv1/zarr.json"]
    assert arrays_in(names) == {"fc 1": "fc 1", "50%": "50%", "block/conv1": "block%2Fconv1"}
