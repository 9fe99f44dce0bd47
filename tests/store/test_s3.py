"""A store on an S3 server: moto's, on loopback. What must hold in a folder holds there, also when connections drop.

tests/faults/s3.py is the long form of the last test.
"""

import itertools
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import s3_server
from faults import s3
from faults.kills import Sweep, Watch, differing
from faults.proxy import CONFLICT, KINDS, REQUESTS, Proxy
from sweep_scripts import run_script
from test_activations_stored import PIECE, drawn, written

from distsim.activations import layout as module
from distsim.specs import COMPLETE, NetworkId
from distsim.store import DamagedStore, Storage, StorageError, SweepStore
from distsim.store.activations import Reader
from distsim.store.storage import NoSpace

pytestmark = pytest.mark.usefixtures("blank_figures")

FLAGS = s3.SHORT  # two runs of two iterations


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server.serving() as url, s3_server.exported(url):
        yield url


@pytest.fixture
def root(server: str) -> Storage:
    return Storage(f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}")


# --- objects ---------------------------------------------------------------------------------------------------------


def test_put_get_and_replace(root: Storage) -> None:
    assert root.get("a/b") is None
    root.put("a/b", b"first, and longer")
    root.put("a/b", b"\x00second")
    assert root.get("a/b") == b"\x00second"
    root.put("a/empty", b"")
    assert root.get("a/empty") == b""
    assert root.get("a") is None, "a folder is no object"
    assert root.folder is None


def test_a_large_object_is_one_request(server: str, root: Storage) -> None:
    """Which can be made again. An upload in parts leaves its parts behind, or loses its end, where it breaks off."""
    content = os.urandom(12_000_000)
    with Proxy(server, {"put": ["lost"]}) as proxy, s3_server.exported(proxy.url):
        Storage(root.url).put("large", content)
    assert root.get("large") == content
    assert dict(proxy.requests) == {("obstore", "put"): 2}


def test_create_leaves_what_is_there(root: Storage) -> None:
    assert root.create("mark", b"first") is True
    assert root.create("mark", b"second") is False
    assert root.get("mark") == b"first"
    root.put("other", b"put")
    assert root.create("other", b"created") is False
    root.delete(["mark"])
    assert root.create("mark", b"third") is True
    assert root.get("mark") == b"third"


def test_one_of_many_threads_creates(root: Storage) -> None:
    contents = [bytes([i]) * (1000 + i) for i in range(8)]
    with ThreadPoolExecutor(len(contents)) as pool:
        for name in range(4):
            start = threading.Barrier(len(contents))

            def create(content: bytes, start: threading.Barrier = start, path: str = f"mark/{name}") -> bool:
                start.wait()
                return root.create(path, content)

            won = list(pool.map(create, contents))
            assert sum(won) == 1
            assert root.get(f"mark/{name}") == contents[won.index(True)]


def test_sizes_and_folders(root: Storage) -> None:
    for path, content in {"top": b"1", "a/x": b"22", "a/b/y": b"333", "ab/z": b""}.items():
        root.put(path, content)
    assert root.sizes() == {"top": 1, "a/x": 2, "a/b/y": 3, "ab/z": 0}
    assert root.sizes("a") == {"a/x": 2, "a/b/y": 3}, "a prefix is whole segments: ab is not under a"
    assert root.folders() == ["a", "ab"]
    assert root.folders("a") == ["b"]
    assert root.sizes("none") == {}
    assert root.folders("none") == []


def test_more_objects_than_an_answer_holds_are_listed_and_deleted(root: Storage) -> None:
    names = [f"many/{number:04d}" for number in range(1100)]  # an answer holds 1,000
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: root.put(name, b""), names))
    root.put("other", b"")
    assert sorted(root.sizes("many")) == names
    root.delete_prefix("many")
    assert root.sizes() == {"other": 0}


def test_delete_prefix_takes_whole_segments_and_twice_is_no_error(root: Storage) -> None:
    for path in ("a/x", "a/b/y", "ab/z"):
        root.put(path, b"1")
    root.delete_prefix("a")
    root.delete_prefix("a")
    root.delete(["a/x", "never/was"])
    assert root.sizes() == {"ab/z": 1}


def test_within_sees_the_same_objects(root: Storage) -> None:
    root.put("a/b/c", b"1")
    inner = root.within("a/b")
    assert inner.get("c") == b"1"
    inner.put("d", b"22")
    assert root.sizes("a") == {"a/b/c": 1, "a/b/d": 2}


@pytest.mark.parametrize("name", ["with space", "ünï", "a[1]*"])
def test_odd_names(root: Storage, name: str) -> None:
    root.put(f"{name}/x", b"1")
    assert root.sizes() == {f"{name}/x": 1}
    assert root.within(name).get("x") == b"1"


def test_it_travels_as_its_url_and_takes_no_key_along(root: Storage) -> None:
    root.put("x", b"1")
    data = pickle.dumps(root)
    assert root.url.encode() in data
    assert len(data) < len(root.url) + 100, "nothing but the URL"
    assert s3_server.revealing([("pickle", data), ("repr", repr(root).encode())]) == []
    assert pickle.loads(data).get("x") == b"1"


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, CONFLICT])
def test_a_request_that_fails_once_is_done_again(server: str, root: Storage, kind: str) -> None:
    """Every other request fails, whatever it is. A conditional put that was done before it failed finds itself."""
    large = os.urandom(6_000_000)
    plans = {request: itertools.cycle([kind, None]) for request in REQUESTS}
    if kind == CONFLICT:
        plans = {"conditional put": plans["conditional put"]}
    with Proxy(server, plans) as proxy, s3_server.exported(proxy.url):
        storage = Storage(root.url)
        storage.put("a/x", b"1")
        storage.put("a/large", large)
        assert storage.create("mark", b"first") is True
        assert storage.create("mark", b"second") is False
        assert storage.create("mark-2", b"first") is True
        assert storage.get("mark") == b"first"
        assert storage.get("a/large") == large
        assert storage.get("nothing") is None
        assert storage.exclusive()
        assert storage.sizes() == {"a/x": 1, "a/large": len(large), "mark": 5, "mark-2": 5}
        assert storage.folders() == ["a"]
        storage.delete(["a/x", "mark-2"])
        storage.delete_prefix("a")
        assert storage.sizes() == {"mark": 5}
    failed = {request for _, request, of_kind in proxy.faults if of_kind == kind}
    no_body = {"put"} if kind == "cut" else set()
    assert failed >= plans.keys() - no_body - {"multipart"}, proxy.table()


@pytest.mark.parametrize("kind", ["reset", "503 SlowDown"])
def test_several_failures_in_a_row_are_waited_for(server: str, root: Storage, kind: str) -> None:
    plans = {request: iter([kind] * 3) for request in REQUESTS}
    with Proxy(server, plans) as proxy, s3_server.exported(proxy.url):
        storage = Storage(root.url)
        assert storage.create("mark", b"first") is True
        storage.put("x", b"1")
        assert storage.sizes() == {"mark": 5, "x": 1}
        assert storage.get("x") == b"1"
        storage.delete(["x"])
        assert storage.get("x") is None
    assert proxy.faults.total() == 3 * (len(REQUESTS) - 1), proxy.table()  # all but uploads in parts


@pytest.mark.parametrize("what", [{"strip": True}, {"refuse": {"conditional put": "501 NotImplemented"}}])
def test_a_store_without_conditional_puts_is_refused_for_more_than_one_writer(
    server: str, root: Storage, what: dict[str, object]
) -> None:
    assert root.exclusive()
    assert root.sizes() == {}, "nothing is left of the question"
    with Proxy(server, **what) as proxy, s3_server.exported(proxy.url):  # type: ignore[arg-type]
        assert not Storage(root.url).exclusive()
        status, _, err = run_script("digits", *FLAGS, "--storage", root.url)
    assert status == 1
    assert "no conditional puts" in err
    assert root.sizes() == {}


def test_one_writer_needs_no_conditional_puts(server: str, root: Storage) -> None:
    flags = (*FLAGS, "--local", "--runs", "1", "--iterations", "1")
    with (
        Proxy(server, refuse={"conditional put": "501 NotImplemented"}) as proxy,
        s3_server.exported(proxy.url),
    ):
        status, _, err = run_script("digits", *flags, "--storage", root.url)
        assert (status, err) == (0, "")
        status, out, _ = run_script("digits", *flags, "--storage", root.url)
        assert (status, "nothing is missing" in out) == (0, True)
        status, _, err = run_script("digits", *flags, "--seed", "1", "--storage", root.url)
        assert status == 1
        assert "holds another sweep" in err


@pytest.mark.parametrize("code", ["403 SignatureDoesNotMatch", "400 ExpiredToken"])
def test_a_refusal_is_one_sentence_without_keys(server: str, root: Storage, code: str) -> None:
    """S3 repeats the access key where it does not like it."""
    with Proxy(server, refuse=dict.fromkeys(REQUESTS, code)) as proxy, s3_server.exported(proxy.url):
        storage = Storage(root.url)
        for operation in ("get", "put", "create", "sizes", "folders", "delete"):
            arguments = {"put": ("x", b""), "create": ("x", b""), "delete": (["x"],)}.get(operation, ("x",))
            with pytest.raises(StorageError, match=r"^cannot \w+ x in ") as caught:
                getattr(storage, operation)(*arguments)
            assert "\n" not in str(caught.value)
            assert s3_server.revealing([(operation, str(caught.value).encode())]) == []
        status, out, err = run_script("digits", *FLAGS, "--storage", root.url)
    assert status == 1
    assert s3_server.revealing([("out", out.encode()), ("err", err.encode())]) == []


def test_a_full_bucket_is_told_from_other_failures(server: str, root: Storage) -> None:
    with Proxy(server, refuse={"put": "403 QuotaExceeded"}) as proxy, s3_server.exported(proxy.url):
        with pytest.raises(NoSpace, match="cannot write x in "):
            Storage(root.url).put("x", b"1")
        with pytest.raises(NoSpace, match=r"cannot write .*zarr\.json in "):
            written(Storage(root.url), ARRAYS, sharded=None)


# --- activations -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 8 examples and 512 bytes, so that a few kilobytes have many."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 512)
    monkeypatch.setattr(module, "ROWS", 8)


ARRAYS = {"conv": drawn((20, 6, 4, 3), "float16"), "dead": np.zeros((20, 6, 4, 3), "float16")} | {
    "fc": drawn((20, 40), "float32")
}


@pytest.mark.usefixtures("small_chunks")
def test_activations_are_in_shards_with_the_values_of_a_folder(root: Storage, tmp_path: Path) -> None:
    mark, local = written(root, ARRAYS, sharded=None), written(Storage(tmp_path), ARRAYS, sharded=None)
    assert mark.values == local.values
    assert sum("/c/" in name for name in local.objects) == 3 * 2 + 3 * 2 + 3
    assert sum("/c/" in name for name in mark.objects) == 3 + 3 + 3, "examples of a chunk are one object"
    assert len(root.sizes(PIECE)) == len(mark.objects) + 1, "and the mark"
    reader = Reader(root, PIECE, mark)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(reader.layer(name).read(), array, strict=True)
        panels = list(reader.layer(name).panels(3))
        np.testing.assert_array_equal(np.concatenate(panels, axis=1), array, strict=True)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["reset", "lost", "cut", "503 SlowDown"])
def test_activations_over_a_bad_line(server: str, root: Storage, kind: str) -> None:
    plans = {request: itertools.cycle([None, kind]) for request in REQUESTS}
    with Proxy(server, plans) as proxy, s3_server.exported(proxy.url):
        storage = Storage(root.url)
        mark = written(storage, ARRAYS, sharded=None)
        reader = Reader(storage, PIECE, mark)
        for name, array in ARRAYS.items():
            panels = list(reader.layer(name).panels(3))
            np.testing.assert_array_equal(np.concatenate(panels, axis=1), array, strict=True)
    assert {request for _, request, _ in proxy.faults} >= {"get"} | ({"put"} if kind != "cut" else set())


@pytest.mark.usefixtures("small_chunks")
def test_a_damaged_shard_is_found(root: Storage) -> None:
    mark = written(root, ARRAYS, sharded=None)
    path = f"{PIECE}/attempt-{mark.attempt}/dead/c/1/0/0/0"
    content = root.get(path)
    assert content is not None
    reader = Reader(root, PIECE, mark)
    for position in (20, -30):  # in a chunk, in the index
        flipped = bytearray(content)
        flipped[position] ^= 4
        root.put(path, bytes(flipped))
        with pytest.raises(DamagedStore, match=r"array dead of .*: dead/c/1/0/0/0: "):
            Reader(root, PIECE, mark).layer("dead").read()
    root.delete([path])
    with pytest.raises(DamagedStore, match=r"dead/c/1/0/0/0 of .* is missing"):
        reader.layer("dead").read()
    with pytest.raises(DamagedStore, match=r"dead/c/1/0/0/0 of .* is missing"):
        Reader(root, PIECE, mark)


@pytest.mark.usefixtures("small_chunks")
def test_a_store_that_cannot_be_reached_is_not_a_damaged_one(server: str, root: Storage) -> None:
    mark = written(root, ARRAYS, sharded=None)
    with Proxy(server) as proxy, s3_server.exported(proxy.url):
        layer = Reader(Storage(root.url), PIECE, mark).layer("conv")
        proxy.refuse["get"] = "403 AccessDenied"
        with pytest.raises(StorageError, match="cannot read") as caught:
            layer.read()
    assert s3_server.revealing([("", str(caught.value).encode())]) == []


# --- whole sweeps ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Watch]:
    """What a sweep in a folder, without Ray, makes, and how long its stages last."""
    with Sweep(tmp_path_factory.mktemp("local"), "local", [*FLAGS, "--local"]) as sweep:
        sweep.finish()
        return s3.contents(Storage(sweep.store)), sweep.watch


@pytest.mark.ray
@pytest.mark.long
def test_a_sweep_by_ray_is_all_in_the_bucket(
    root: Storage, local: tuple[dict[str, str], Watch], tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as ray:  # a short path, since sockets are in it
        done = subprocess.run(
            [sys.executable, str(s3.ROOT / "sweeps" / "digits.py"), *FLAGS, "--control", "none", "--storage", root.url],
            cwd=tmp_path,
            env=os.environ | {"RAY_TMPDIR": ray, "RAY_worker_niceness": "0"},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
        left = [(str(path), path.read_bytes()) for path in Path(ray).rglob("*") if path.is_file()]
    assert differing(s3.contents(root), local[0]) == []
    assert list(tmp_path.iterdir()) == [], "nothing is in a folder called s3:"
    objects = root.sizes()
    for part in ("digits/results/summary.csv", "digits/results/results.parquet", "figures/COMMIT.json"):
        assert part in objects
    assert any(path.startswith("tune/") for path in objects), "Tune's own files are there too"
    assert any(name.endswith(".log") for name, _ in left), "Ray's logs were looked through, too"
    printed = [("stdout", done.stdout), ("stderr", done.stderr)]
    assert s3_server.revealing([*printed, *left, *s3.everything(root)]) == []


@pytest.mark.long
@pytest.mark.ray
def test_tunes_own_files_never_fail_a_sweep(server: str, root: Storage, tmp_path: Path) -> None:
    """Ray Tune writes through pyarrow, in its own way; nothing reads what it writes."""
    flags = (*FLAGS, "--runs", "1", "--iterations", "1")
    with (
        Proxy(server) as proxy,
        s3_server.exported(proxy.url),
        s3.on_s3(tmp_path, root.url, flags) as sweep,
        ThreadPoolExecutor(1) as pool,
    ):
        finishing = pool.submit(sweep.finish)
        while not finishing.done() and "digits/complete/COMMIT.json" not in root.sizes("digits/complete"):
            time.sleep(0.2)
        proxy.refuse["pyarrow"] = "403 AccessDenied"
        said = finishing.result()
    assert "tables in" in said
    assert "Traceback" not in said
    assert any(client == "pyarrow" for client, _, _ in proxy.faults), "Tune was refused something"
    assert SweepStore(root, "digits").contents().networks == {COMPLETE, NetworkId(0, 1)}


@pytest.mark.long
@pytest.mark.ray
def test_a_sweep_goes_on_over_a_bad_line_and_after_its_drivers_death(
    local: tuple[dict[str, str], Watch], tmp_path: Path
) -> None:
    expected, usual = local
    wrong, proxy = s3.experiment(tmp_path, FLAGS, s3.KILLS[1:2], seed=0, gap=6, expected=expected, usual=usual)
    assert wrong == []
    assert proxy.faults.total() >= s3.FAULTS, proxy.table()
    assert {kind for _, _, kind in proxy.faults} >= set(KINDS)
