"""Objects under a local folder: whole or absent, and made exactly once."""

import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest

import distsim.store.storage
from distsim.store import NoSpace, NotWritable, Storage, StorageError
from distsim.store.storage import storage_error


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "store")


def test_put_get_and_replace(storage: Storage) -> None:
    assert storage.get("a/b") is None
    storage.put("a/b", b"first, and longer")
    storage.put("a/b", b"\x00second")
    assert storage.get("a/b") == b"\x00second"
    storage.put("a/empty", b"")
    assert storage.get("a/empty") == b""
    assert storage.get("a") is None, "a folder is no object"


def test_create_leaves_what_is_there(storage: Storage) -> None:
    assert storage.create("mark", b"first") is True
    assert storage.create("mark", b"second") is False
    assert storage.get("mark") == b"first"
    storage.put("other", b"put")
    assert storage.create("other", b"created") is False
    assert storage.get("other") == b"put"
    storage.delete(["mark"])
    assert storage.create("mark", b"third") is True
    assert storage.get("mark") == b"third"


def test_objects_are_plain_files_of_the_folder(storage: Storage, tmp_path: Path) -> None:
    storage.put("a/b/c.txt", b"x")
    assert storage.folder == tmp_path / "store"
    assert (tmp_path / "store" / "a" / "b" / "c.txt").read_bytes() == b"x"


def test_sizes_and_folders(storage: Storage) -> None:
    for path, content in {"top": b"1", "a/x": b"22", "a/b/y": b"333", "ab/z": b""}.items():
        storage.put(path, content)
    assert storage.sizes() == {"top": 1, "a/x": 2, "a/b/y": 3, "ab/z": 0}
    assert storage.sizes("a") == {"a/x": 2, "a/b/y": 3}, "a prefix is whole segments: ab is not under a"
    assert storage.folders() == ["a", "ab"]
    assert storage.folders("a") == ["b"]
    assert storage.sizes("none") == {}
    assert storage.folders("none") == []


def test_more_objects_than_a_page_are_all_listed(storage: Storage) -> None:
    for number in range(60):  # a listing comes in pages of 50
        storage.put(f"many/{number:02d}", b"")
    assert sorted(storage.sizes("many")) == [f"many/{number:02d}" for number in range(60)]
    storage.delete_prefix("many")
    assert storage.sizes() == {}


def test_delete_prefix_takes_whole_segments_and_twice_is_no_error(storage: Storage) -> None:
    for path in ("a/x", "a/b/y", "ab/z"):
        storage.put(path, b"1")
    storage.delete_prefix("a")
    storage.delete_prefix("a")
    storage.delete(["a/x", "never/was"])
    assert storage.sizes() == {"ab/z": 1}


def test_within_sees_the_same_objects(storage: Storage) -> None:
    storage.put("a/b/c", b"1")
    inner = storage.within("a/b")
    assert inner.get("c") == b"1"
    inner.put("d", b"22")
    assert storage.sizes("a") == {"a/b/c": 1, "a/b/d": 2}


@pytest.mark.parametrize("name", ["with space", "ünï", "50%20", "a#1", "a[1]*"])
def test_folders_with_odd_names(tmp_path: Path, name: str) -> None:
    storage = Storage(tmp_path / name)
    storage.put("key ü%20/x", b"1")
    assert storage.sizes() == {"key ü%20/x": 1}
    assert storage.within("key ü%20").get("x") == b"1"
    assert (tmp_path / name / "key ü%20" / "x").read_bytes() == b"1"


def test_it_travels_as_its_url(storage: Storage) -> None:
    storage.put("x", b"1")
    data = pickle.dumps(storage)
    assert storage.url.encode() in data
    assert len(data) < len(storage.url) + 100, "nothing but the URL"
    copy = pickle.loads(data)
    assert copy.url == storage.url
    assert copy.get("x") == b"1"


def test_a_relative_path_is_settled_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage("here").url == str(tmp_path / "here")


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/x", "foo://x", "s3://"])
def test_unusable_storage_is_one_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    url = place if "://" in place else tmp_path / place  # an absolute place stays as it is
    with pytest.raises(StorageError, match=r"^cannot use .* as storage: ") as caught:
        Storage(url)
    assert str(url) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("operation", ["get", "put", "create", "sizes", "folders", "delete"])
def test_a_failing_operation_is_one_sentence(storage: Storage, operation: str) -> None:
    storage.put("object", b"not a folder")
    arguments = {"put": ("object/x", b""), "create": ("object/x", b""), "delete": (["object/x"],)}
    with pytest.raises(StorageError, match=r"^cannot \w+ object/x in ") as caught:
        getattr(storage, operation)(*arguments.get(operation, ("object/x",)))
    assert "\n" not in str(caught.value)
    assert storage.url in str(caught.value)


# --- many at once ----------------------------------------------------------------------------------------------------


def test_one_of_many_threads_creates(storage: Storage) -> None:
    contents = [bytes([i]) * (1000 + i) for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        for name in range(8):
            start = threading.Barrier(16)

            def create(content: bytes, start: threading.Barrier = start, path: str = f"mark/{name}") -> bool:
                start.wait()
                return storage.create(path, content)

            won = list(pool.map(create, contents))
            assert sum(won) == 1
            assert storage.get(f"mark/{name}") == contents[won.index(True)]
    assert len(storage.sizes()) == 8, "nothing temporary is left"


CREATES = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("storage", sys.argv[1])  # without torch, which takes seconds to import
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
storage, me = module.Storage(sys.argv[2]), sys.argv[3]
storage.put(f"ready/{me}", b"")
while storage.get("go") is None:
    time.sleep(0.001)
print(*(int(storage.create(f"mark/{i}", me.encode() * 1000)) for i in range(20)))
"""


def test_one_of_many_processes_creates(storage: Storage) -> None:
    source = distsim.store.storage.__file__
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CREATES, source, storage.url, str(me)], stdout=subprocess.PIPE, text=True
        )
        for me in range(4)
    ]
    deadline = time.monotonic() + 60
    while len(storage.sizes("ready")) < len(workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    storage.put("go", b"")
    won = [list(map(int, worker.communicate(timeout=60)[0].split())) for worker in workers]
    for i, results in enumerate(zip(*won, strict=True)):
        assert sum(results) == 1
        assert storage.get(f"mark/{i}") == str(results.index(1)).encode() * 1000


@pytest.mark.parametrize("operation", ["put", "create"])
def test_an_object_is_never_seen_half_written(storage: Storage, operation: str) -> None:
    versions = {bytes([i]) * 300_000 * (1 + i % 2) for i in range(8)}
    seen: set[bytes | None] = set()
    sizes: set[int] = set()
    done = threading.Event()
    rounds = 0

    def poll() -> None:
        nonlocal rounds
        while not done.is_set():
            seen.add(storage.get("object"))
            sizes.update(storage.sizes().values())
            rounds += 1

    storage.put("object", min(versions))
    reader = threading.Thread(target=poll)
    reader.start()
    deadline = time.monotonic() + 20
    while rounds < 50 and time.monotonic() < deadline:
        for version in versions:
            if operation == "create":
                storage.delete(["object"])
            assert getattr(storage, operation)("object", version) in (None, True)
    done.set()
    reader.join()
    assert rounds >= 50
    assert seen <= (versions | {None} if operation == "create" else versions)
    assert sizes <= {300_000, 600_000}


# --- what a store must not do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["s3://KEYKEYKEY:hidden-secret@bucket/x", "s3://bucket/x?secret=hidden-secret", "s3://bucket/x#hidden-secret"],
)
def test_a_url_with_credentials_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StorageError, match=r"s3://bucket/prefix and nothing else.* environment") as caught:
        Storage(url)
    assert "hidden-secret" not in str(caught.value)


def test_credentials_that_an_answer_repeats_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hidden-key-id")
    error = storage_error("cannot read x", ValueError("hidden-key-id is unknown, signature of hidden-secret"))
    assert str(error) == "cannot read x: ... is unknown, signature of ..."


def test_nothing_is_read_written_or_deleted_through_a_link_out_of_the_store(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "file").write_bytes(b"not yours")
    (outside / "file").write_bytes(b"not yours")
    storage = Storage(tmp_path / "store")
    storage.put("inside/x", b"1")
    (tmp_path / "store" / "link").symlink_to(outside)
    (tmp_path / "store" / "inside" / "file").symlink_to(outside / "file")
    for work in (
        lambda: storage.get("link/file"),
        lambda: storage.get("inside/file"),
        lambda: storage.put("link/new", b""),
        lambda: storage.create("link/new", b""),
        lambda: storage.delete(["link/file"]),
        lambda: storage.delete_prefix("link"),
        lambda: storage.sizes("link"),
        lambda: storage.folders("link"),
        lambda: storage.within("link"),
    ):
        with pytest.raises(StorageError, match=r"leads out of the store"):
            work()
    assert sorted(path.name for path in outside.rglob("*")) == ["deep", "file", "file"]
    assert storage.sizes() == {"inside/x": 1}, "links of the user's are left alone"
    assert storage.folders() == ["inside"]
    (tmp_path / "store" / "runs").symlink_to(outside)  # where distsim looks for something
    with pytest.raises(StorageError, match=r"runs leads out of the store"):
        storage.sizes()
    (tmp_path / "store" / "runs").unlink()
    storage.delete_prefix("inside")
    assert (outside / "file").read_bytes() == b"not yours"


def test_no_room_is_an_error_of_its_own() -> None:
    for text in ("No space left on device (os error 28)", "Disk quota exceeded (os error 122)", "XMinioStorageFull"):
        assert isinstance(storage_error("cannot write x", OSError(text)), NoSpace)
    assert not isinstance(storage_error("cannot write x", OSError("Permission denied (os error 13)")), NoSpace)


STRANGE = ("Icon\r", "r\udce9sum\udce9.txt", ".DS_Store", "a\nb", "Homework #2", "con", "ünï", " ")


def test_files_of_others_never_block_a_listing(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for path in ("spec.json", "digits/spec.json", "digits/runs/0000/iter_01/COMMIT.json"):
        storage.put(path, b"1")
    for folder in (tmp_path, tmp_path / "digits", tmp_path / "digits/runs/0000"):
        for name in STRANGE:
            (folder / name).write_bytes(b"")
        (folder / "latest").symlink_to("/tmp")
        (folder / "loop").symlink_to(folder)
        (folder / "gone").symlink_to("/nowhere")
        os.mkfifo(folder / "pipe")
    own = ("spec.json", "digits/spec.json", "digits/runs/0000/iter_01/COMMIT.json")
    listed = storage.sizes()
    assert {path for path in listed if not path.endswith((".DS_Store", "con", "ünï", " "))} == set(own)
    assert storage.folders() == ["digits"]
    assert storage.folders("digits/runs") == ["0000"]
    writer = os.open(tmp_path / "pipe", os.O_RDWR)  # without one, whoever opened the pipe to read would wait for ever
    try:
        with pytest.raises(StorageError, match=r"cannot read pipe in .*: it is not a regular file"):
            storage.get("pipe")
    finally:
        os.close(writer)


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.put("figures", b"mine")
    storage.put("digits/behaviour", b"mine")
    for there, work in (
        ("figures", lambda: storage.get("figures/COMMIT.json")),
        ("figures", lambda: storage.put("figures/COMMIT.json", b"1")),
        ("figures", lambda: storage.create("figures/COMMIT.json", b"1")),
        ("figures", lambda: storage.sizes("figures")),
        ("figures", lambda: storage.folders("figures")),
        ("digits/behaviour", lambda: storage.get("digits/behaviour/network.json")),
        ("digits/behaviour", lambda: storage.put("digits/behaviour/deep/er/x", b"1")),
    ):
        said = rf"cannot .* in .*: {there} is a file where a folder of distsim's belongs: move it$"
        with pytest.raises(StorageError, match=said):
            work()  # type: ignore[no-untyped-call]
    assert storage.sizes() == {"figures": 4, "digits/behaviour": 4}


def test_of_a_larger_object_only_its_beginning_is_read(storage: Storage) -> None:
    """One byte more than may be expected, so that it is seen to be larger."""
    storage.put("x", b"0123456789")
    assert storage.get("x", most=3) == b"0123"
    assert storage.get("x", most=10) == storage.get("x") == b"0123456789"
    with (Path(storage.url) / "huge").open("wb") as file:
        file.truncate(2**40)
    assert storage.get("huge", most=8) == bytes(9)


def test_a_listing_in_a_folder_is_that_of_the_object_store(tmp_path: Path) -> None:
    """obstore's own, whatever the names of objects."""
    storage = Storage(tmp_path)
    for name in ("plain", "with space", "ünï", "50%20", "a[1]*", "x#y", "deep/er/object", ".hidden"):
        storage.put(f"folder/{name}", name.encode())
    (tmp_path / "folder/unfinished#12").write_bytes(b"")
    entries = [entry for page in obstore.list(storage.backend_for(0)) for entry in page]
    assert storage.sizes() == {entry["path"]: entry["size"] for entry in entries}
    assert storage.sizes("folder/deep") == {"folder/deep/er/object": 14}
    assert storage.sizes("nothing") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[Errno 30] Read-only file system: '/a/b/probe-59#1'", "Read-only file system"),
        ("[Errno 28] No space left on device", "No space left on device"),
        (
            "Generic LocalFileSystem error: Unable to open file /b#1: Permission denied (os error 13)",
            "Permission denied",
        ),
        ("the bucket is full", "the bucket is full"),
    ],
)
def test_of_a_local_file_system_the_reason_is_said_alone(text: str, said: str) -> None:
    """Its number, and the names that a file has while it is written, help nobody."""
    assert str(storage_error("cannot write x in /a", OSError(text))) == f"cannot write x in /a: {said}"


def test_what_may_not_be_written_is_an_error_of_its_own() -> None:
    for text in (
        "Read-only file system (os error 30)",
        "Permission denied (os error 13)",
        "AccessDenied: no",
        "status code: 403",
    ):
        assert isinstance(storage_error("cannot write x", OSError(text)), NotWritable)
        assert not isinstance(storage_error("cannot read x", OSError(text)), NotWritable)
    assert not isinstance(storage_error("cannot write x", OSError("Input/output error")), NotWritable)
