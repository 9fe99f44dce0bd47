"""Where the report is written: into a store, beside a published study, or where --out says; what it leaves alone."""

import hashlib
import re
import shutil
import socket
from pathlib import Path

import pytest
from planted_study import study
from sweep_scripts import Outcome, outcome, run_script

import distsim
from distsim.cli import main as cli
from distsim.results.merging import publish
from distsim.results.report.page import intact
from distsim.results.report.writing import write, write_file
from distsim.store import Storage
from distsim.verify.store import verify_store

MADE_FROM = re.compile(rb'\n<meta name="made-from" content="[0-9a-f]+">')
SMALL = ("--epochs", 1, "--train-limit", 100, "--probe", 50, "--runs", 2, "--iterations", 2, "--metrics", "cka")


def command(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A store, and what the sweep said. Not to be changed."""
    folder = tmp_path_factory.mktemp("store")
    said = run_script("digits", *SMALL, "--local", "--device", "cpu", "--storage", folder)
    assert said.status == 0
    return folder, said


@pytest.fixture
def store(finished: tuple[Path, Outcome], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "store"))


def digest_of(file: Path) -> str:
    """Return the digest of a file: where two megabytes differ, pytest would take minutes to say how."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def same_page(elsewhere: Path, beside_store: Path) -> bool:
    """Return whether two reports show the same. Only the one beside its store names what it was made from."""
    there, here = elsewhere.read_bytes(), beside_store.read_bytes()
    assert intact(there)
    assert MADE_FROM.search(there) is None
    without, found = MADE_FROM.subn(b"", here)
    assert found == 1
    return there.rpartition(b"<!-- SHA-256")[0] == without.rpartition(b"<!-- SHA-256")[0]


def test_a_sweep_ends_with_its_report(finished: tuple[Path, Outcome]) -> None:
    store, said = finished
    assert said.out.endswith(f"report: {store}/report.html\n")
    content = (store / "report.html").read_bytes()
    assert intact(content)
    assert b"scikit-learn's digits" in content or b"scikit-learn&#x27;s digits" in content
    text = content.decode().partition("<main>")[2].partition("</main>")[0]
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text), "no machine's name"
    assert str(store).encode() not in content, "no path of one machine"


def test_report_writes_it_again_and_says_three_sentences(store: Path) -> None:
    before = digest_of(store / "report.html")
    (store / "report.html").unlink()
    status, out, err = command("report", store)
    assert (status, err) == (0, "")
    assert digest_of(store / "report.html") == before
    lines = out.splitlines()
    assert lines[-1] == f"report: {store}/report.html"
    text = " ".join(lines)
    for said in ("correctly, against", "What the layers represent", "Of the papers’ claims", "This rests on 2 runs"):
        assert said in text
    assert "not enough data" not in out
    assert len(lines) < 32
    full = command("report", store, "--full").out
    assert "claims of the papers" in full
    assert "not enough data for C1 (cifar2)" in full


def test_it_is_replaced_under_the_lease_of_the_driver(store: Path) -> None:
    (store / "report.html").unlink()
    command("report", store)
    sets = sorted(path.name for path in (store / "lease").glob("*.report.html.zip"))
    assert len(sets) == 1
    number = int(sets[0].split("-")[0])
    assert number == max(int(path.name.split(".")[0].split("-")[0]) for path in (store / "lease").iterdir())


def test_verify_knows_it_and_sees_a_changed_byte(store: Path) -> None:
    root, file = Storage(store), store / "report.html"
    assert [str(finding) for finding in verify_store(root).findings] == []
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    report = verify_store(root)
    assert not report.whole
    assert [str(finding) for finding in report.findings] == [
        "report.html: is damaged: its digest is not that of what it holds; distsim report makes it again"
    ]
    assert "delete report.html" in command("repair", store).out
    assert not file.exists()
    assert command("report", store).status == 0
    assert verify_store(root).whole


def test_a_file_of_that_name_that_is_somebody_elses_is_left_alone(store: Path) -> None:
    (store / "report.html").write_text("my own notes")
    status, out, err = command("report", store)
    assert (status, err) == (0, "")
    assert f"no report was written: {store}/report.html was not written by distsim: move it" in out
    assert (store / "report.html").read_text() == "my own notes"
    assert [finding.severity for finding in verify_store(Storage(store)).findings] == ["foreign"]
    with pytest.raises(ValueError, match="is not a report of distsim's, and is left alone"):
        write_file([study()], store / "report.html")


def test_out_writes_there_and_nowhere_else(store: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    file = tmp_path / "new" / "mine.html"
    status, out, err = command("report", store, "--out", file)
    assert (status, err) == (0, "")
    assert out.endswith(f"\nreport: {file}\n")
    assert same_page(file, store / "report.html")
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    (tmp_path / "folder").mkdir()
    status, _, err = command("report", store, "--out", tmp_path / "folder")
    assert status == 1
    assert err.startswith(f"distsim: the report '{tmp_path}/folder' cannot be written: ")


def test_a_published_study_has_one_too(tmp_path: Path) -> None:
    publish(study(), tmp_path / "study")
    assert command("report", tmp_path / "study").out.endswith(f"report: {tmp_path}/study/report.html\n")
    assert distsim.open(tmp_path / "study").problems == ["vgg16_cifar10"], "it is a published study still"
    (tmp_path / "study/report.html").write_text("notes")
    said = command("report", tmp_path / "study").out.splitlines()[-1]
    assert said.startswith("no report was written: ")
    assert said.endswith(". --out FILE.html writes it elsewhere")


def test_python_writes_the_same(store: Path, tmp_path: Path) -> None:
    file = distsim.open(str(store)).report(tmp_path / "mine.html")
    assert same_page(file, store / "report.html")
    publish(study(), tmp_path / "study")
    assert intact(distsim.open(tmp_path / "study").report(str(tmp_path / "other.html")).read_bytes())


def test_what_is_damaged_and_needed_for_it_is_said_once_and_ends_in_status_1(store: Path, tmp_path: Path) -> None:
    (store / "digits/request.json").write_bytes(b"damaged")
    for flags in ((), ("--out", tmp_path / "mine.html")):
        status, out, err = command("report", store, *flags)
        assert status == 1
        assert "no report was written" not in out
        assert err.count("\n") == 1
        assert err.startswith(f"distsim: no report was written: request.json of {store}/digits is damaged: ")
    assert not (tmp_path / "mine.html").exists()


def test_a_store_without_a_network_has_none(store: Path, tmp_path: Path) -> None:
    for name in ("complete", "runs"):
        shutil.rmtree(store / "digits" / name)
    (store / "report.html").unlink()
    assert write(Storage(store)) is None
    assert "no report was written: there is no network yet" in command("report", store).out
    with pytest.raises(FileNotFoundError, match="has no network yet: there is nothing to report"):
        distsim.open(str(store)).report(tmp_path / "mine.html")
