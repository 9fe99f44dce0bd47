"""A finished sweep is found finished by listings: what that takes in requests does not grow with the networks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import s3_server
from multiplied import multiply
from sweep_scripts import run_script

from distsim.cli.main import main
from distsim.results import reduce
from distsim.store import Storage, SweepStore
from distsim.store.descriptions import layers_of
from distsim.verify.store import verify_store

FLAGS = ("--iterations", "4", "--epochs", "1", "--train-limit", "100", "--probe", "50", "--local", "--quiet")
FLAGS = (*FLAGS, "--activations", "memory", "--metrics", "cka_unbiased", "svcca", "--device", "cpu")
FEW, MANY = 1, 6  # runs of four networks each
BESIDE = 2  # requests that may be more for another reason, such as a table that an answer does not hold whole
ON_A_PAGE = 1000  # objects in an answer to a request


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server.serving() as url, s3_server.exported(url):
        yield url


@pytest.fixture(scope="module")
def finished(server: str, tmp_path_factory: pytest.TempPathFactory, blank_figures: None) -> dict[int, Storage]:
    """Runs -> a finished store with as many, on S3; tables, figures and report are there."""
    folder = tmp_path_factory.mktemp("one") / "store"
    run_script("digits", *FLAGS, "--runs", 1, "--storage", folder)
    stores = {}
    for runs in (FEW, MANY):
        stores[runs] = Storage(f"s3://{s3_server.BUCKET}/{runs}")
        multiply(Storage(folder), stores[runs], "digits", runs)
        assert "nothing is missing" not in sweep(stores[runs], runs), "the tables are made now"
    return stores


def sweep(root: Storage, runs: int) -> str:
    """What the sweep's command says."""
    said = run_script("digits", *FLAGS, "--runs", runs, "--storage", root.url)
    assert said.status == 0, said.err
    return said.out


def reads(server: str) -> int:
    """How often the server was read from. Signs of life are puts, more of them on a slow machine."""
    counted = s3_server.requests_of(server)
    return sum(counted.get(method, 0) for method in ("GET", "HEAD", "LIST"))


def most(finished: dict[int, Storage]) -> int:
    """By how many requests the larger store may take more: two for each thousand of its objects."""
    objects = {runs: len(root.sizes()) for runs, root in finished.items()}
    assert objects[MANY] > 3 * objects[FEW]
    return BESIDE + 2 * -(-(objects[MANY] - objects[FEW]) // ON_A_PAGE)


def test_the_command_makes_no_request_for_each_piece(finished: dict[int, Storage], server: str) -> None:
    taken = {}
    for runs, root in finished.items():
        before = reads(server)
        assert "nothing is missing" in sweep(root, runs)
        taken[runs] = reads(server) - before
    assert taken[MANY] - taken[FEW] <= most(finished), taken


def test_the_command_lists_the_sweep_once(finished: dict[int, Storage], monkeypatch: pytest.MonkeyPatch) -> None:
    """So it makes one request for each thousand objects."""
    listed, of = list[str](), Storage.listed
    monkeypatch.setattr(Storage, "listed", lambda self, prefix="": listed.append(self.url) or of(self, prefix))
    assert "nothing is missing" in sweep(finished[FEW], FEW)
    assert listed.count(f"{finished[FEW].url}/digits") == 1, listed


def test_status_makes_no_request_for_each_piece(
    finished: dict[int, Storage], server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = {}
    for runs, root in finished.items():
        before = reads(server)
        assert main(["status", root.url]) == 0
        assert f"{4 * runs} of {4 * runs}" in capsys.readouterr().out
        taken[runs] = reads(server) - before
    assert taken[MANY] - taken[FEW] <= most(finished), taken


def test_the_multiplied_store_is_whole(finished: dict[int, Storage]) -> None:
    report = verify_store(finished[MANY])
    assert not report.findings
    assert report.pieces["network"] == 4 * MANY + 1


def test_a_mark_that_was_replaced_is_read(finished: dict[int, Storage]) -> None:
    """Also one as long as before: the listing has another ETag."""
    store = SweepStore(finished[FEW], "digits")
    path = min(path for path in store.storage.sizes() if "/comparison/" in path)
    content = store.storage.get(path) or b""
    store.storage.put(path, content[:-1] + b" ")
    said = run_script("digits", *FLAGS, "--runs", FEW, "--storage", store.root.url)
    assert said.status == 1
    assert f"{path} in {store.storage.url} is damaged" in said.err
    store.storage.put(path, content)
    assert "nothing is missing" in sweep(finished[FEW], FEW)


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_a_listing_tells_an_object_from_one_of_the_same_size(where: str, tmp_path: Path, server: str) -> None:
    root = Storage(tmp_path if where == "folder" else f"s3://{s3_server.BUCKET}/same")
    root.put("mark", b"one")
    before = root.listed()
    assert root.listed() == before
    root.put("mark", b"two")
    assert root.sizes() == {"mark": 3}
    assert root.listed() != before


def test_tables_keep_what_the_listing_said_of_a_copied_store(
    tmp_path: Path, finished: dict[int, Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose files are younger than the tables say: marks are read once more, and then no more."""
    copy, one = SweepStore(Storage(tmp_path), "digits"), SweepStore(finished[FEW], "digits")
    for path in one.storage.sizes():
        copy.storage.put(path, one.storage.get(path) or b"")
    read = list[object]()
    of = reduce.Committed.of
    monkeypatch.setattr(reduce.Committed, "of", lambda *args: read.append(args) or of(*args))
    before = copy.digests()
    assert reduce.reduce(copy, layers_of(copy), 0) is False
    assert len(read) == 1
    assert reduce.reduce(copy, layers_of(copy), 0) is False
    assert len(read) == 1
    assert copy.digests() == before
