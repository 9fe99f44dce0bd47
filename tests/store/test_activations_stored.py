"""Activations on disk: what is read back is what was written, or an error that names the array."""

import contextlib
import dataclasses
import hashlib
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from distsim.activations import layout as module
from distsim.activations.layout import bytes_per_network
from distsim.activations.probe import BATCH, Probe
from distsim.environment import threads
from distsim.models import MODELS, Layer, Network, build
from distsim.specs import COMPLETE, Extent, Identity, NetworkId, Problem, Pruning, Recipe, Sweep
from distsim.store import DamagedStore, Mark, Storage, StorageError, SweepStore
from distsim.store.activations import Reader, Writer, chunk_shape
from distsim.store.commits import Attempt
from distsim.sweep.extraction import _Waiting, extract
from distsim.training.chain import TrainedNetwork
from distsim.training.pruning import full_masks

PIECE = "complete/activations"
MIB = 2**20


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """More would not be faster on arrays of this size, and far slower where other processes are busy."""
    with threads(1):
        yield


# --- chunks ----------------------------------------------------------------------------------------------------------


def test_a_large_layer_is_cut_over_examples_and_image_rows() -> None:
    assert chunk_shape((5000, 32, 32, 64)) == (512, 8, 32, 64)  # 16 MiB of float16
    assert chunk_shape((5000, 32, 32, 16)) == (512, 32, 32, 16)


@pytest.mark.parametrize("shape", [(100, 8, 8, 16), (5000, 10), (1797, 4, 4, 32), (100, 32, 32, 64), (1, 1, 1, 1)])
def test_a_small_array_is_one_chunk(shape: tuple[int, ...]) -> None:
    assert math.prod(shape) * 2 < 16 * MIB
    assert chunk_shape(shape) == shape


def test_many_examples_of_a_narrow_layer_fill_a_chunk() -> None:
    examples, width = chunk_shape((10_000_000, 10))
    assert width == 10
    assert 16 * MIB <= examples * 10 * 2 < 16 * MIB + 20


sizes = st.integers(1, 60_000)


@given(
    st.one_of(
        st.tuples(sizes, st.integers(1, 224), st.integers(1, 224), st.integers(1, 2048)),
        st.tuples(sizes, st.integers(1, 48 * 1024)),
    )
)
def test_chunks_are_whole_columns_of_16_to_64_mib(shape: tuple[int, ...]) -> None:
    chunk = chunk_shape(shape)
    assert all(1 <= block <= length for block, length in zip(chunk, shape, strict=True))
    assert chunk[2:] == shape[2:], "pixels of an image row and channels are never cut"
    assert len(shape) == 4 or chunk[1] == shape[1]
    size, total = math.prod(chunk) * 2, math.prod(shape) * 2
    row = math.prod(shape[2:]) * 2 if len(shape) == 4 else shape[1] * 2
    assert size >= min(16 * MIB, total)
    assert size <= 64 * MIB or 512 * row > 48 * MIB, "larger only where 512 examples of one image row are"


# --- writing and reading ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 8 examples and 512 bytes, so that a few kilobytes have many."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 512)
    monkeypatch.setattr(module, "ROWS", 8)


def drawn(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    values = np.random.default_rng(7).normal(size=shape)
    return np.where(values > 0, values, 0).astype(dtype)  # half zeros, as after a ReLU


def written(storage: Storage, arrays: dict[str, NDArray[Any]], block: int = 5, sharded: bool | None = False) -> Mark:
    """Committed activations; `sharded` as on an object store (tests/test_s3.py has a real one)."""
    attempt = Attempt(storage, PIECE)
    writer = Writer(attempt, sharded)
    for position, (name, array) in enumerate(arrays.items()):
        kind = "conv" if array.ndim == 4 else "fc"
        rows = writer.create(name, array.shape, str(array.dtype), {"position": position, "kind": kind})
        waiting = _Waiting(writer, name)
        for start in range(0, len(array), block):
            waiting.add(array[start : start + block], rows)
        waiting.flush()
    return attempt.commit(values={"layers": writer.layers})


def described(array: NDArray[Any]) -> dict[str, Any]:
    """What a mark says of a layer."""
    values = hashlib.sha256(array.tobytes()).hexdigest()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": values}


def folder_of(storage: Storage, mark: Mark) -> Path:
    assert storage.folder is not None
    return storage.folder / PIECE / f"attempt-{mark.attempt}"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(20, 6, 4, 3), (8, 6, 4, 3), (16, 7, 1, 40), (50, 9), (16, 300), (1, 3)])
@pytest.mark.parametrize("block", [1, 5, 8, 50])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_round_trip_is_exact(tmp_path: Path, dtype: str, shape: tuple[int, ...], block: int, sharded: bool) -> None:
    storage, array = Storage(tmp_path), drawn(shape, dtype)
    mark = written(storage, {"layer": array}, block, sharded)
    layer = Reader(storage, PIECE, mark).layer("layer")
    assert layer.shape == shape
    np.testing.assert_array_equal(layer.read(), array, strict=True)
    panels = list(layer.panels(layer.panel_rows))
    np.testing.assert_array_equal(np.concatenate(panels, axis=1), array, strict=True)
    assert len(panels) == (1 if len(shape) == 2 else -(-shape[1] // layer.panel_rows))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("sharded", [False, True])
def test_panels_of_any_height_are_the_array(tmp_path: Path, sharded: bool) -> None:
    storage, array = Storage(tmp_path), drawn((20, 6, 4, 3), "float16")
    layer = Reader(storage, PIECE, written(storage, {"layer": array}, sharded=sharded)).layer("layer")
    assert layer.panel_rows == 3, "one chunk"
    for rows in (1, 2, 3, 4, 6, 100):
        panels = list(layer.panels(rows))
        assert [panel.shape[1] for panel in panels[:-1]] == [rows] * (len(panels) - 1)
        np.testing.assert_array_equal(np.concatenate(panels, axis=1), array, strict=True)


@pytest.mark.usefixtures("small_chunks")
def test_chunks_are_written_whole_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []
    wrote = Attempt.wrote

    def count(attempt: Attempt, name: str, content: bytes) -> None:
        writes.append(name)
        wrote(attempt, name, content)

    monkeypatch.setattr(Attempt, "wrote", count)
    written(Storage(tmp_path), {"layer": drawn((20, 6, 4, 3), "float32")}, block=5)
    chunks = [name for name in writes if "/c/" in name]
    assert sorted(chunks) == [f"layer/c/{n}/{h}/0/0" for n in range(3) for h in range(2)]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("start", [8, 4])
def test_blocks_come_whole_and_in_order(tmp_path: Path, start: int) -> None:
    writer, array = Writer(Attempt(Storage(tmp_path), PIECE)), drawn((20, 6, 4, 3), "float32")
    writer.create("layer", array.shape, "float32", {"position": 0, "kind": "conv"})
    with pytest.raises(ValueError, match=rf"layer layer: expected examples from 0 on .*, got {start} to 20 of 20"):
        writer.write("layer", start, array[start:])
    with pytest.raises(ValueError, match=r"expected examples from 0 on in multiples of 8, got 0 to 12 of 20"):
        writer.write("layer", 0, array[:12])
    writer.write("layer", 0, array[:8])
    with pytest.raises(ValueError, match="layer layer has 8 of 20 examples"):
        _ = writer.layers


@pytest.mark.usefixtures("small_chunks")
def test_metadata_say_what_the_array_is(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    mark = written(storage, {"conv": drawn((20, 6, 4, 3), "float16"), "fc": drawn((20, 9), "float32")})
    group = zarr.open_group(folder_of(storage, mark), mode="r")
    for name, dimensions in (("conv", ("example", "row", "column", "channel")), ("fc", ("example", "feature"))):
        metadata = group[name].metadata.to_dict()
        assert metadata["zarr_format"] == 3
        assert metadata["dimension_names"] == dimensions
        assert [codec["name"] for codec in metadata["codecs"]] == ["bytes", "zstd", "crc32c"]
    assert dict(group["conv"].attrs) == {"position": 0, "kind": "conv"}
    assert (str(group["conv"].dtype), str(group["fc"].dtype)) == ("float16", "float32")


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("sharded", [False, True])
def test_plain_zarr_reads_it(tmp_path: Path, sharded: bool) -> None:
    storage, arrays = Storage(tmp_path), {"a": drawn((20, 6, 4, 3), "float16"), "b": drawn((20, 9), "float32")}
    group = zarr.open(folder_of(storage, written(storage, arrays, sharded=sharded)), mode="r")
    for name, array in arrays.items():
        np.testing.assert_array_equal(group[name][:], array, strict=True)


@pytest.mark.usefixtures("small_chunks")
def test_a_layer_of_zeros_has_all_its_chunks(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    mark = written(storage, {"dead": np.zeros((20, 6, 4, 3), "float16")})
    chunks = [f"dead/c/{n}/{h}/0/0" for n in range(3) for h in range(2)]
    assert files(folder_of(storage, mark)) == [*chunks, "dead/zarr.json", "zarr.json"]
    assert sorted(mark.objects) == files(folder_of(storage, mark))


def test_layers_come_from_input_to_output(tmp_path: Path) -> None:
    storage, names = Storage(tmp_path), ["prep", "conv10", "conv2", "add", "out"]
    mark = written(storage, {name: drawn((3, 2), "float32") for name in names})
    reader = Reader(storage, PIECE, mark)
    assert reader.layers == names
    assert reader.layer("add").kind == "fc"


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("sharded", [False, True])
def test_an_array_that_is_made_again_leaves_nothing_of_the_first(tmp_path: Path, sharded: bool) -> None:
    storage, array = Storage(tmp_path), drawn((8, 3, 4, 3), "float32")
    attempt = Attempt(storage, PIECE)
    writer = Writer(attempt, sharded)
    for content in (drawn((20, 6, 4, 3), "float16"), array):
        writer.create("layer", content.shape, str(content.dtype), {"position": 0, "kind": "conv"})
        writer.write("layer", 0, content)
    mark = attempt.commit(values={"layers": writer.layers})
    assert mark.values == {"layers": {"layer": described(array)}}
    assert (
        sorted(mark.objects) == files(folder_of(storage, mark)) == ["layer/c/0/0/0/0", "layer/zarr.json", "zarr.json"]
    )
    np.testing.assert_array_equal(Reader(storage, PIECE, mark).layer("layer").read(), array, strict=True)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("sharded", [False, True])
def test_two_threads_write_the_same_bytes_two_blocks_at_a_time(
    tmp_path: Path, sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = drawn((64, 6, 4, 3), "float32")
    alone = written(Storage(tmp_path / "alone"), {"layer": array}, sharded=sharded)
    two, write = threading.Barrier(2), zarr.Array.__setitem__

    def together(*args: Any) -> None:
        two.wait(timeout=60)
        write(*args)

    monkeypatch.setattr(zarr.Array, "__setitem__", together)
    with (
        Attempt(Storage(tmp_path / "together"), PIECE) as attempt,
        Writer(attempt, sharded, threads=2) as writer,
    ):
        writer.create("layer", array.shape, "float32", {"position": 0, "kind": "conv"})
        for start in range(0, 64, 8):
            writer.write("layer", start, array[start : start + 8])
        mark = attempt.commit(values={"layers": writer.layers})
    assert mark.digest == alone.digest


@pytest.mark.usefixtures("small_chunks")
def test_an_error_in_a_thread_comes_out_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array, put, blocks = drawn((64, 6, 4, 3), "float32"), obstore.put_async, []

    async def full(backend: Any, key: str, content: Any, **choices: Any) -> Any:
        blocks.append(key)
        if len(blocks) == 6:
            raise OSError("no space left on device")
        return await put(backend, key, content, **choices)

    monkeypatch.setattr(obstore, "put_async", full)

    def write() -> None:
        with Attempt(Storage(tmp_path), PIECE) as attempt, Writer(attempt, False, threads=2) as writer:
            writer.create("layer", array.shape, "float32", {"position": 0, "kind": "conv"})
            for start in range(0, 64, 8):
                writer.write("layer", start, array[start : start + 8])
            attempt.commit(values={"layers": writer.layers})

    with pytest.raises(StorageError, match="no space left on device"):
        write()
    assert files(tmp_path) == []


Damage = Callable[[Path], None]


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(position: int) -> Damage:
    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[position] ^= 0x10
        file.write_bytes(content)

    return flip


# --- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
def test_a_shard_is_what_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []
    wrote = Attempt.wrote

    def count(attempt: Attempt, name: str, content: bytes) -> None:
        writes.append(name)
        wrote(attempt, name, content)

    monkeypatch.setattr(Attempt, "wrote", count)
    arrays = {"conv": drawn((20, 7, 4, 3), "float32"), "fc": drawn((50, 9), "float32")}
    storage = Storage(tmp_path)
    mark = written(storage, arrays, sharded=True)
    assert sorted(name for name in writes if "/c/" in name) == [
        *(f"conv/c/{n}/0/0/0" for n in range(3)),
        *(f"fc/c/{n}/0" for n in range(2)),
    ]
    group = zarr.open_group(folder_of(storage, mark), mode="r")
    assert (group["conv"].shards, group["conv"].chunks) == ((8, 9, 4, 3), (8, 3, 4, 3))
    assert [codec["name"] for codec in group["conv"].metadata.to_dict()["codecs"]] == ["sharding_indexed"]


@pytest.mark.usefixtures("small_chunks")
def test_the_values_digest_is_the_same_however_they_are_cut(tmp_path: Path) -> None:
    arrays = {"conv": drawn((20, 6, 4, 3), "float16"), "fc": drawn((20, 9), "float32")}
    marks = [written(Storage(tmp_path / str(sharded)), arrays, sharded=sharded) for sharded in (False, True)]
    assert marks[0].objects.keys() != marks[1].objects.keys()
    assert marks[0].values == marks[1].values == {"layers": {name: described(array) for name, array in arrays.items()}}


@pytest.mark.usefixtures("small_chunks")
def test_a_panel_reads_its_own_bytes_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, array = Storage(tmp_path), drawn((20, 6, 4, 3), "float32")
    mark = written(storage, {"layer": array}, sharded=True)
    sizes = [size for name, (size, _) in mark.objects.items() if "/c/" in name]
    reads: list[tuple[str, int]] = []
    get = zarr.storage.ObjectStore.get

    async def count(store: Any, key: str, prototype: Any, byte_range: Any = None) -> Any:
        content = await get(store, key, prototype, byte_range)
        if "/c/" in key:
            reads.append((type(byte_range).__name__, len(content)))
        return content

    monkeypatch.setattr(zarr.storage.ObjectStore, "get", count)
    layer = Reader(storage, PIECE, mark).layer("layer")
    np.testing.assert_array_equal(np.concatenate(list(layer.panels(3)), axis=1), array, strict=True)
    index = 2 * 16 + 4  # two chunks' offsets and lengths, and a CRC
    assert sorted(reads)[3 * 2 :] == [("SuffixByteRequest", index)] * 3, "read once, not for each panel"
    assert sum(size for kind, size in reads if kind == "RangeByteRequest") == sum(sizes) - 3 * index
    reads.clear()
    layer.read()
    assert sorted(reads) == [("NoneType", size) for size in sorted(sizes)], "all of a shard is one request"


@pytest.mark.usefixtures("small_chunks")
def test_a_shard_of_zeros_has_all_its_chunks(tmp_path: Path) -> None:
    """Chunks that a shard leaves out would read as zeros, wanted or not."""
    storage, array = Storage(tmp_path), drawn((20, 6, 4, 3), "float16")
    array[8:16] = 0  # a whole shard
    array[16:, :3] = 0  # a chunk
    mark = written(storage, {"layer": array}, sharded=True)
    assert sorted(name for name in mark.objects if "/c/" in name) == [f"layer/c/{n}/0/0/0" for n in range(3)]
    for n in range(3):
        shard = (folder_of(storage, mark) / f"layer/c/{n}/0/0/0").read_bytes()
        index = np.frombuffer(shard[-36:-4], "<u8").reshape(2, 2)
        assert index[:, 1].sum() == len(shard) - 36, "each chunk has its bytes"
        assert (index[:, 1] > 0).all()
    np.testing.assert_array_equal(Reader(storage, PIECE, mark).layer("layer").read(), array, strict=True)


SHARD = "hurt/c/1/0/0/0"


@pytest.fixture
def sharded(tmp_path: Path, small_chunks: None) -> tuple[Storage, Mark]:
    storage = Storage(tmp_path)
    arrays = {"whole": drawn((20, 6, 4, 3), "float32"), "hurt": drawn((20, 6, 4, 3), "float32")}
    arrays["hurt"][8:16, :3] = 0  # the loss of this chunk would not show in the values
    return storage, written(storage, arrays, sharded=True)


@pytest.mark.parametrize("part", ["first chunk", "second chunk", "index", "index's CRC"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_flipped_bit_of_a_shard_is_found(sharded: tuple[Storage, Mark], part: str, whole: bool) -> None:
    storage, mark = sharded
    file = folder_of(storage, mark) / SHARD
    (start, length), (second, _) = np.frombuffer(file.read_bytes()[-36:-4], "<u8").reshape(2, 2).tolist()
    assert (start, second) == (0, length)
    _flip({"first chunk": 0, "second chunk": second + 20, "index": -30, "index's CRC": -2}[part])(file)
    reader = Reader(storage, PIECE, mark)
    reader.layer("whole").read()
    with pytest.raises(DamagedStore, match=rf"array hurt of {PIECE}/attempt-{mark.attempt} in .*: {SHARD}: "):
        _ = reader.layer("hurt").read() if whole else list(reader.layer("hurt").panels(3))


def _halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", [Path.unlink, _halve, lambda file: file.write_bytes(b"")])
def test_a_missing_or_truncated_shard_is_named(sharded: tuple[Storage, Mark], damage: Damage) -> None:
    storage, mark = sharded
    open_before = Reader(storage, PIECE, mark).layer("hurt")
    next(open_before.panels(3))  # it knows the index
    damage(folder_of(storage, mark) / SHARD)
    with pytest.raises(DamagedStore, match=rf"{SHARD} of {PIECE}/attempt-{mark.attempt}"):
        Reader(storage, PIECE, mark)
    with pytest.raises(DamagedStore, match="hurt"):
        list(open_before.panels(3))
    with pytest.raises(DamagedStore, match="hurt"):
        open_before.read()


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def planted(tmp_path: Path, small_chunks: None) -> tuple[Storage, Mark]:
    storage = Storage(tmp_path)
    arrays = {"whole": drawn((20, 6, 4, 3), "float32"), "hurt": drawn((20, 6, 4, 3), "float32")}
    return storage, written(storage, arrays)


CHUNK = "hurt/c/1/0/0/0"


@pytest.mark.parametrize("damage", [Path.unlink, _truncate, lambda file: file.write_bytes(b"")])
def test_a_missing_or_truncated_chunk_is_named(planted: tuple[Storage, Mark], damage: Damage) -> None:
    storage, mark = planted
    damage(folder_of(storage, mark) / CHUNK)
    with pytest.raises(DamagedStore, match=rf"{CHUNK} of {PIECE}/attempt-{mark.attempt}"):
        Reader(storage, PIECE, mark)


@pytest.mark.parametrize("position", [0, 40, -5, -1])
def test_a_flipped_bit_is_found_and_its_array_and_chunk_named(planted: tuple[Storage, Mark], position: int) -> None:
    storage, mark = planted
    _flip(position)(folder_of(storage, mark) / CHUNK)
    reader = Reader(storage, PIECE, mark)
    np.testing.assert_array_equal(reader.layer("whole").read(), drawn((20, 6, 4, 3), "float32"))
    with pytest.raises(DamagedStore, match=rf"array hurt of {PIECE}/attempt-{mark.attempt} in .*: {CHUNK}: "):
        reader.layer("hurt").read()
    with pytest.raises(DamagedStore, match="array hurt"):
        list(reader.layer("hurt").panels(3))


@pytest.mark.parametrize("damage", [Path.unlink, _truncate, _flip(40)])
def test_damage_under_an_open_reader_never_reads_as_zeros(planted: tuple[Storage, Mark], damage: Damage) -> None:
    """A comparer holds its reader of the complete network for as long as the sweep lasts."""
    storage, mark = planted
    layer = Reader(storage, PIECE, mark).layer("hurt")
    damage(folder_of(storage, mark) / CHUNK)
    with pytest.raises(DamagedStore, match="hurt"):
        layer.read()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"shape": [\n    20,', b'"shape": [\n    40,'),  # the further examples would read as zeros
        (b'"float32"', b'"float31"'),
        (b'"position": 0', b'"position": x'),
        (b'"kind": "conv"', b'"kind": "c\xffnv"'),
        (b'"zarr_format": 3', b'"zarr_format": 9'),
    ],
)
def test_damaged_metadata_are_found(planted: tuple[Storage, Mark], old: bytes, new: bytes) -> None:
    """The same size, another content."""
    storage, mark = planted
    file = folder_of(storage, mark) / "whole" / "zarr.json"
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new))
    with pytest.raises(DamagedStore, match="whole"):
        Reader(storage, PIECE, mark).layer("whole").read()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_a_chunk_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    storage = Storage(tmp_path_factory.mktemp("flip"))
    mark = written(storage, {"hurt": drawn((20, 9), "float16")})
    file = folder_of(storage, mark) / "hurt" / "c" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    with pytest.raises(DamagedStore, match="array hurt"):
        Reader(storage, PIECE, mark).layer("hurt").read()


# --- from a network --------------------------------------------------------------------------------------------------


class Shifted(Network):
    """Two small convolutions, the second with a mean that float16 cannot hold, and an output."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(4, 3, 3, padding=1)
        self.out = nn.Linear(3 * size * size, classes)
        self.layers = (
            Layer("conv1", "conv", "conv1"),
            Layer("conv2", "conv", "conv2"),
            Layer("conv3", "conv", "conv3"),
            Layer("out", "out", "out"),
        )
        self.output = "out"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv2(torch.relu(self.conv1(x)))
        return self.out(torch.relu(self.conv3(x * 1e-5)).flatten(1))


N, SIZE, CLASSES = 300, 6, 3


def sweep_of(storage: str = "auto") -> Sweep:
    recipe = Recipe(epochs=1, batch_size=8, normalise=((0.5,), (0.25,)))
    problem = Problem("tiny", "folder", "shifted", SIZE, 1, recipe, Pruning(), ("a", "b", "c"), probe=N)
    return Sweep(Identity(problem, "0", storage=storage), Extent(1, 1))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> tuple[TrainedNetwork, Probe]:
    """A network whose second convolution has means of 1e5, and its probe."""
    monkeypatch.setitem(MODELS, "shifted", Shifted)
    sweep = sweep_of()
    network = build(sweep.problem, CLASSES, torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.conv2.bias.fill_(1e5)
    images = torch.randint(0, 256, (N, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    probe = Probe(np.arange(N), images, torch.tensor([0.5]), torch.tensor([0.25]))
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measured = {"accuracy": 0.5, "loss": 1.0, "remaining": 1.0, "remaining_pool": 1.0}
    record = {"run": "complete", "iteration": 0, "epochs": 1, "reduced": True} | measured
    return TrainedNetwork(0, weights, full_masks(network, sweep.problem.pruning), record), probe


def expected(step: TrainedNetwork, probe: Probe) -> dict[str, NDArray[np.float32]]:
    """What the layers put out, by hand, in the batches that extraction uses."""
    network = build(sweep_of().problem, CLASSES)
    network.load_state_dict(step.weights)
    parts: dict[str, list[NDArray[np.float32]]] = {"conv1": [], "conv2": [], "conv3": [], "out": []}
    with torch.no_grad():
        for start in range(0, N, BATCH):
            x = (probe.images[start : start + BATCH].float() / 255 - 0.5) / 0.25
            one = network.conv1(x)
            two = network.conv2(torch.relu(one))
            three = network.conv3(two * 1e-5)
            for name, value in (("conv1", one), ("conv2", two), ("conv3", three)):
                parts[name].append(value.permute(0, 2, 3, 1).numpy())
            parts["out"].append(network.out(torch.relu(three).flatten(1)).numpy())
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}


@pytest.mark.parametrize(("rows", "mean"), [(512, 1e5), (100, 1e4), (7, 1e5)])  # float16 ends at 65,504
def test_a_layer_that_float16_cannot_hold_is_kept_in_float32(
    tmp_path: Path, tiny: tuple[TrainedNetwork, Probe], monkeypatch: pytest.MonkeyPatch, rows: int, mean: float
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 2 * 6 * 4 * min(rows, N))  # an image row of conv2 in each chunk
    monkeypatch.setattr(module, "ROWS", rows)
    step, probe = tiny
    step.weights["conv2.bias"].fill_(mean)
    store = SweepStore(Storage(tmp_path), "tiny")
    mark = extract(store, sweep_of(), probe, CLASSES, COMPLETE, step)
    assert store.activations_mark(COMPLETE) == mark
    assert mark.identity == sweep_of().identity.hash
    reader = Reader(store.storage, PIECE, mark)
    assert reader.layers == ["conv1", "conv2", "conv3", "out"]
    dtypes = {"conv1": "float16", "conv2": "float32", "conv3": "float16", "out": "float32"}
    for name, array in expected(step, probe).items():
        # the same operations on the same batches, yet without the network's hooks: the last bit may differ
        tolerance = {"rtol": 2**-10, "atol": 1e-4} if dtypes[name] == "float16" else {"rtol": 1e-6, "atol": 1e-6}
        stored = reader.layer(name).read()
        assert stored.dtype == dtypes[name]
        np.testing.assert_allclose(stored, array, **tolerance)
    folder = folder_of(store.storage, mark)
    assert sorted(mark.objects) == files(folder), "only what is there in the end, and all of it"
    assert len([name for name in mark.objects if name.startswith("conv2/c/")]) == -(-N // min(rows, N)) * 6
    for name, (size, _) in mark.objects.items():
        assert (folder / name).stat().st_size == size
    store.digests()  # reads every object and checks its digest


def test_the_rule_float32_keeps_everything_in_float32(tmp_path: Path, tiny: tuple[TrainedNetwork, Probe]) -> None:
    step, probe = tiny
    store = SweepStore(Storage(tmp_path), "tiny")
    mark = extract(store, sweep_of("float32"), probe, CLASSES, COMPLETE, step)
    reader = Reader(store.storage, PIECE, mark)
    assert {str(reader.layer(name).read().dtype) for name in reader.layers} == {"float32"}


def test_extracting_twice_gives_the_same_digest(tmp_path: Path, tiny: tuple[TrainedNetwork, Probe]) -> None:
    step, probe = tiny
    marks = [
        extract(SweepStore(Storage(tmp_path / name), "tiny"), sweep_of(), probe, CLASSES, COMPLETE, step)
        for name in "ab"
    ]
    assert marks[0].attempt != marks[1].attempt
    assert marks[0].digest == marks[1].digest


def test_a_trial_with_several_cpus_extracts_the_same_bytes(
    tmp_path: Path, tiny: tuple[TrainedNetwork, Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 512)
    monkeypatch.setattr(module, "ROWS", 50)
    (step, probe), marks = tiny, []
    for cpus in (1.0, 3.0):
        sweep = dataclasses.replace(sweep_of(), resources=(("cpu", cpus),))
        marks.append(extract(SweepStore(Storage(tmp_path / str(cpus)), "tiny"), sweep, probe, CLASSES, COMPLETE, step))
    assert marks[0].digest == marks[1].digest


def test_an_activation_that_is_not_finite_stops_the_extraction(
    tmp_path: Path, tiny: tuple[TrainedNetwork, Probe]
) -> None:
    step, probe = tiny
    step.weights["conv3.weight"][0, 0, 0, 0] = float("inf")
    store = SweepStore(Storage(tmp_path), "tiny")
    with pytest.raises(FloatingPointError, match=r"tiny, run 2, iteration 3: layer conv3"):
        extract(store, sweep_of(), probe, CLASSES, NetworkId(2, 3), step)
    assert store.activations_mark(NetworkId(2, 3)) is None


@pytest.mark.usefixtures("tiny")
def test_bytes_per_network_counts_what_is_stored_where_float16_is_safe() -> None:
    channels, pixels = {"conv1": 3, "conv2": 4, "pool": 3}, N * SIZE * SIZE
    shapes = {Layer(name, "conv", name): (SIZE, SIZE, c) for name, c in channels.items()}
    shapes[Layer("out", "out", "out")] = (CLASSES,)
    assert bytes_per_network(shapes, N, "auto") == pixels * (3 + 4 + 3) * 2 + N * CLASSES * 4
    assert bytes_per_network(shapes, N, "float32") == pixels * (3 + 4 + 3) * 4 + N * CLASSES * 4


# --- dropping --------------------------------------------------------------------------------------------------------


def test_dropped_activations_are_gone_and_can_be_written_again(
    tmp_path: Path, tiny: tuple[TrainedNetwork, Probe]
) -> None:
    step, probe = tiny
    store = SweepStore(Storage(tmp_path), "tiny")
    store.commit_network(COMPLETE, step)
    first = extract(store, sweep_of(), probe, CLASSES, COMPLETE, step)
    assert store.contents().activations == {COMPLETE}
    store.drop_activations(COMPLETE)
    assert store.activations_mark(COMPLETE) is None
    assert list(store.storage.sizes(PIECE)) == [f"{PIECE}/DROPPED.json"]
    assert store.contents().activations == frozenset()
    assert store.mark(COMPLETE) is not None, "the network stays"
    assert extract(store, sweep_of(), probe, CLASSES, COMPLETE, step).digest == first.digest


def test_a_late_writer_after_a_drop_leaves_no_mark_without_objects(tmp_path: Path) -> None:
    """The first writer's commit removed the late one's objects, and the drop removed the mark that told it so."""
    store = SweepStore(Storage(tmp_path), "tiny")
    first, late = Attempt(store.storage, PIECE), Attempt(store.storage, PIECE)
    for attempt in (first, late):
        attempt.put("conv1/zarr.json", b"{}")
    first.commit()
    store.drop_activations(COMPLETE)
    with contextlib.suppress(DamagedStore):  # to say so is as good as to leave no mark
        late.commit()
    mark = store.activations_mark(COMPLETE)
    if mark is not None:
        assert set(store.storage.sizes(PIECE)) >= {f"{PIECE}/attempt-{mark.attempt}/{name}" for name in mark.objects}
