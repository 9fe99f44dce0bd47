"""What an older driver replaces never stays in place of what a newer one wrote, wherever the older one was paused."""

import contextlib
import io
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3_server

from distsim.store import DamagedStore, Lease, Storage, StoreInUse, SweepStore
from distsim.store.fenced import finish, replace_one
from distsim.store.fenced import replace as replace_all

FOLDER = "digits/results"
OLD = {"results.csv": b"cka", "results.parquet": b"cka, too", "old.csv": b"only the older one has it"}
NEW = {"results.csv": b"cka and nbs", "results.parquet": b"cka and nbs, too", "new.csv": b"new"}
Work = Callable[[Storage], object]


def replace(root: Storage, folder: str, files: dict[str, bytes]) -> None:
    replace_all(root, folder, files, values={"inputs": "0" * 64})


class Killed(BaseException):
    """Stands for SIGKILL."""


class Paused(Storage):
    """A storage whose user is paused before its n-th operation: something else happens meanwhile."""

    def __init__(self, url: str, at: int, meanwhile: Callable[[], object], dies: int | None = None) -> None:
        super().__init__(url)
        self.count, self.at, self.meanwhile, self.dies = 0, at, meanwhile, dies

    def _operation(self) -> None:
        count, self.count = self.count, self.count + 1
        if count == self.at:
            self.meanwhile()
        if self.dies is not None and self.at >= 0 and count >= self.at + self.dies:
            raise Killed

    def get(self, path: str, *more: Any, **limits: Any) -> bytes | None:
        self._operation()
        return super().get(path, *more, **limits)

    def _put(self, path: str, content: bytes, mode: Any) -> None:
        self._operation()
        super()._put(path, content, mode)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        self._operation()
        return super().sizes(prefix)

    def delete(self, paths: list[str]) -> None:
        self._operation()
        super().delete(paths)


class Still(Lease):
    """A lease whose holder was paused: it gives no sign of life, and another driver takes it after a long silence."""

    def __enter__(self) -> "Still":
        super().__enter__()
        super().__exit__()  # others take it for over
        self._root.lease = self  # but it does not know
        return self

    def __exit__(self, *exception: object) -> None:
        self._root.lease = None


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server.serving() as url, s3_server.exported(url):
        yield url


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.long)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path)
    request.getfixturevalue("server")
    return f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}"


def there(url: str) -> dict[str, bytes | None]:
    """Everything in the store but what belongs to the lease."""
    root = Storage(url)
    return {path: root.get(path) for path in root.sizes() if not path.startswith("lease/")}


def whole(url: str) -> bool:
    """Whether the tables are there and are what their mark says."""
    store = SweepStore(Storage(url), "digits")
    mark = store.results_mark()
    return mark is not None and all(store.read_result(name) for name in mark.objects)


def paused_everywhere(make: Callable[[], str], old: Work, new: Work, dies: int | None = None) -> Iterator[str]:
    """Pause the older driver before each of its operations, one after the other. Yield the store after each."""
    at = 0
    while True:
        url, happened = make(), []

        def newer(url: str = url, happened: list[bool] = happened) -> None:
            happened.append(True)
            root = Storage(url)
            with Lease(root) as lease:
                finish(root, lease.number - 1)
                new(root)

        root = Paused(url, -1, newer, dies)
        with Still(root):
            root.count, root.at = 0, at
            with contextlib.suppress(StoreInUse, Killed):
                old(root)
        if not happened:
            assert at > 5, "it was paused at some points"
            return
        yield url
        at += 1


@pytest.fixture
def make(url: str, tmp_path: Path) -> Callable[[], str]:
    """Give a fresh store in which there are tables, made by an even older driver."""
    numbers = iter(range(10_000))

    def fresh() -> str:
        where = f"{url}/{next(numbers)}"
        root = Storage(where)
        with Lease(root):
            replace(root, FOLDER, {"results.csv": b"nothing", "results.parquet": b"nothing"})
            replace_one(root, "digits/request.json", b"first")
        return where

    return fresh


def test_tables_of_a_newer_driver_stay(make: Callable[[], str]) -> None:
    gone = 0
    for url in paused_everywhere(make, lambda root: replace(root, FOLDER, OLD), lambda r: replace(r, FOLDER, NEW)):
        assert whole(url)
        found = there(url)
        gone += found.pop(f"{FOLDER}/old.csv", None) is None  # if it is there, no mark names it
        mark = found.pop(f"{FOLDER}/COMMIT.json")
        assert b"new.csv" in (mark or b"")
        assert found == {f"{FOLDER}/{name}": content for name, content in NEW.items()} | {
            "digits/request.json": b"first"
        }
    assert gone > 0


def test_tables_are_whole_if_the_newer_driver_had_nothing_to_write(make: Callable[[], str]) -> None:
    found = set()
    for url in paused_everywhere(make, lambda root: replace(root, FOLDER, OLD), lambda root: None):
        assert whole(url)
        found.add(Storage(url).get(f"{FOLDER}/results.csv"))
    assert found == {b"nothing", b"cka"}


def test_an_older_driver_that_is_killed_leaves_nothing_that_is_believed(make: Callable[[], str]) -> None:
    """It is paused, woken, does one operation and is killed."""
    old, new = (lambda root: replace(root, FOLDER, OLD)), (lambda root: replace(root, FOLDER, NEW))
    read, refused = set(), 0
    for url in paused_everywhere(make, old, new, dies=1):
        store = SweepStore(Storage(url), "digits")
        try:
            read.add(store.read_result("results.csv"))
        except (DamagedStore, FileNotFoundError):
            refused += 1
        with Lease(store.root):  # and the next driver's are there again
            replace(store.root, FOLDER, NEW)
        assert whole(url)
        assert store.read_result("results.csv") == b"cka and nbs"
    assert read == {b"cka and nbs"}
    assert refused > 0


def test_what_an_older_driver_deletes_is_there_again(make: Callable[[], str]) -> None:
    """As the tables of a plan of pairs, which the newer driver has made."""

    def write(root: Storage, files: dict[str, bytes], gone: tuple[str, ...] = ()) -> None:
        replace_all(root, "digits/pair_results", files, gone, values={"inputs": {}})

    gone = "complete/pairs.csv"
    old, new = (
        (lambda root: write(root, {"across/pairs.csv": b"old"}, (gone,))),
        (lambda root: write(root, {gone: b"new"})),
    )
    for url in paused_everywhere(make, old, new):
        assert Storage(url).get(f"digits/pair_results/{gone}") == b"new"
        assert Storage(url).get("digits/pair_results/across/pairs.csv") in (None, b"old"), "no mark names it"
    with Lease(Storage(url)) as lease:
        root = Storage(url)
        root.lease = lease
        write(root, {"across/pairs.csv": b"newest"}, (gone,))
        assert root.get(f"digits/pair_results/{gone}") is None


def test_the_request_of_a_newer_driver_stays(make: Callable[[], str]) -> None:
    for url in paused_everywhere(
        make,
        lambda root: replace_one(root, "digits/request.json", b"older"),
        lambda root: replace_one(root, "digits/request.json", b"newer"),
    ):
        assert Storage(url).get("digits/request.json") == b"newer"


def test_what_a_newer_driver_has_found_and_left_is_there_again(make: Callable[[], str]) -> None:
    """So it is with spec.json: the newer driver's networks belong to the identity that it has found there."""
    seen: list[bytes | None] = []
    for url in paused_everywhere(
        make,
        lambda root: replace_one(root, "digits/request.json", b"older"),
        lambda root: seen.append(root.get("digits/request.json")),
    ):
        assert Storage(url).get("digits/request.json") == seen[-1]
    assert set(seen) == {b"first", b"older"}


def test_one_set_of_each_kind_is_kept(tmp_path: Path) -> None:
    root = Storage(tmp_path)
    for content in (b"1", b"2", b"3"):
        with Lease(root):
            replace(root, FOLDER, {"results.csv": content})
            replace(root, FOLDER, {"results.csv": content + b"again"})
            replace_one(root, "digits/request.json", content)
    kept = [path for path in root.sizes("lease") if path.endswith(".zip")]
    assert sorted(kept) == ["lease/000003-1.digits.request.json.zip", "lease/000003-2.digits.results.zip"]
    with zipfile.ZipFile(tmp_path / sorted(kept)[1]) as archive:
        assert archive.read(f"{FOLDER}/results.csv") == b"3again"


def test_an_archive_of_somebody_else_stays(tmp_path: Path) -> None:
    """It has the name of an older set, and is none: distsim's have a comment in them."""
    root, content = Storage(tmp_path), io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("mine.txt", b"mine")
    path = "lease/000000-1.digits.results.zip"
    root.put(path, content.getvalue())
    for files in (OLD, NEW):
        with Lease(root):
            replace(root, FOLDER, files)
    assert root.get(path) == content.getvalue()


def test_a_store_whose_lease_files_were_deleted_goes_on(tmp_path: Path) -> None:
    root = Storage(tmp_path)
    for _ in range(3):
        with Lease(root):
            replace(root, FOLDER, OLD)
    root.delete([path for path in root.sizes("lease") if not path.endswith(".zip")])
    with Lease(root) as lease:
        assert lease.number == 4, "a set of number 3 is there"
        replace(root, FOLDER, NEW)
    assert root.get(f"{FOLDER}/results.csv") == b"cka and nbs"


def test_without_a_lease_files_are_replaced(tmp_path: Path) -> None:
    root = Storage(tmp_path)
    replace(root, FOLDER, OLD)
    replace(root, FOLDER, {"results.csv": b"x"})
    assert root.get(f"{FOLDER}/results.csv") == b"x"
    assert root.get(f"{FOLDER}/old.csv") is not None, "what no mark names is left alone"
    assert root.sizes("lease") == {}


@pytest.mark.parametrize("kind", ["no archive", "a path", "compressed", "folder", "another's file"])
def test_a_forged_set_writes_nowhere_else(tmp_path: Path, kind: str) -> None:
    """A store may come from a stranger. The late driver ends in a sentence."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED) as archive:
        name = {
            "a path": "../../../outside",
            "folder": f"{FOLDER}/deep/inside",
            "another's file": "digits/notes.txt",
        }.get(kind, f"{FOLDER}/results.csv")
        archive.writestr(name, b"0" * 10_000)
    forged = b"no archive" if kind == "no archive" else content.getvalue()
    (tmp_path / "a" / "b").mkdir(parents=True)
    url = str(tmp_path / "a" / "b")
    root = Paused(url, -1, lambda: Storage(url).put("lease/000009-1.digits.results.zip", forged))
    with Still(root):
        root.count, root.at = 0, 12
        with pytest.raises(DamagedStore, match=r"lease/000009-1\.digits\.results\.zip in .* is damaged"):
            replace(root, FOLDER, OLD)
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "a" / "b" / FOLDER / "deep").exists()
    assert not (tmp_path / "a" / "b" / "digits" / "notes.txt").exists()
    with Lease(Storage(url)):  # which nobody else is kept from the store by
        finish(Storage(url), 9)
