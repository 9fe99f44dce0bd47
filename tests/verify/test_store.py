"""What `distsim verify` says of a store: nothing of a whole one, and of a damaged one what is damaged."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import changed, contents, one
from faults import flips
from sweep_scripts import outcome

from distsim.cli import main as cli
from distsim.store import Storage, StorageError, SweepStore
from distsim.store.commits import MARK, read_mark
from distsim.verify import networks, walk
from distsim.verify.report import DAMAGED, FOREIGN, LEFTOVER, NOTE, UNREAD, Finding, Report
from distsim.verify.store import verify_store

# --- a whole store ---------------------------------------------------------------------------------------------------


def test_a_whole_store(kept: Path, healthy: Report) -> None:
    assert healthy.whole
    assert {finding.severity for finding in healthy.findings} == {LEFTOVER}
    assert {finding.piece for finding in healthy.findings} == {
        "runs/0000/iter_01",
        "runs/0000/iter_01/activations",
    }, "what the store was made with"
    assert len(healthy.findings) == 3
    assert healthy.pieces == {
        "network": 5,
        "network's activations": 5,
        "network's test logits": 5,
        "comparison": 4 * 8,
        "chance level": 8,
        "null": 8,
        "standard error": 4 * 8,
        "tile of pairs": 16,
        "set of tables": 2,
        "set of figures": 1,
    }


def test_everything_is_read(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what no mark names, and the inside of the ends of generations."""
    get, read = Storage.get, set()

    def reading(self: Storage, path: str, most: int | None = None) -> bytes | None:
        read.add(f"{self.url}/{path}")
        return get(self, path, most)

    monkeypatch.setattr(Storage, "get", reading)
    report = verify_store(Storage(kept))
    unnamed = {f"{finding.problem}/{finding.object}" for finding in report.of(LEFTOVER)}
    named = {path for path in contents(kept) if not path.startswith(("lease/", "tune/"))} - unnamed
    assert {path for path in named if f"{kept}/{path}" not in read and "DROPPED" not in path} == set()
    assert report.sizes == flips.files(kept)


def test_nothing_is_written(root: Path) -> None:
    before = contents(root)
    verify_store(Storage(root))
    changed(one(root, "digits/complete/attempt-*/weights.safetensors"))
    damaged = contents(root)
    verify_store(Storage(root))
    assert contents(root) == damaged != before


def test_the_command(root: Path) -> None:
    status, out, err = outcome(lambda: cli.main(["verify", str(root)]))
    assert (status, err) == (0, "")
    left, said = out.splitlines()
    assert left.startswith("left over, harmless: 3 objects, ")
    assert said.startswith("5 networks, 5 networks' activations, 5 networks' test logits, 32 comparisons, 8 chance ")
    assert said.endswith(" bytes: nothing damaged")
    file = one(root, "digits/runs/0001/iter_02/attempt-*/masks.safetensors")
    changed(file)
    status, out, err = outcome(lambda: cli.main(["verify", str(root), "--problem", "digits"]))
    assert (status, err) == (1, "")
    first, *_, last = out.splitlines()
    assert first == f"{file.relative_to(root).as_posix()}: is damaged: its digest is not the one in its mark"
    assert last.endswith("1 damaged")
    for arguments, said in {
        (root / "nowhere",): f"there is no store in {root / 'nowhere'}",
        (root / "digits" / "runs",): f"no sweep in {root / 'digits' / 'runs'}",
        (root, "--problem", "cifar2"): f"no sweep of cifar2 in {root}; there are digits",
    }.items():
        status, out, err = outcome(lambda arguments=arguments: cli.main(["verify", *map(str, arguments)]))
        assert (status, out, err) == (1, "", f"distsim: {said}\n")


# --- damage ----------------------------------------------------------------------------------------------------------


OBJECTS = {  # what is damaged -> the piece that is said to be
    "digits/spec.json": "spec.json",
    "digits/request.json": "request.json",
    "digits/complete/COMMIT.json": "complete",
    "digits/complete/attempt-*/probe.json": "complete",
    "digits/complete/attempt-*/rewind.safetensors": "complete",
    "digits/runs/0001/iter_01/attempt-*/masks.safetensors": "runs/0001/iter_01",
    "digits/runs/0001/iter_01/activations/COMMIT-2.json": "runs/0001/iter_01/activations",
    "digits/runs/0001/iter_01/activations/attempt-2-*/zarr.json": "runs/0001/iter_01/activations",
    "digits/runs/0001/iter_01/activations/attempt-2-*/out/zarr.json": "runs/0001/iter_01/activations",
    "digits/runs/0001/iter_01/activations/attempt-2-*/out/c/0/0": "runs/0001/iter_01/activations",
    "digits/runs/0001/iter_01/comparison/out/*.json": "runs/0001/iter_01/comparison/out/",
    "digits/runs/0000/iter_01/chance/out/*.json": "runs/0000/iter_01/chance/out/",
    "digits/pairs/out/*.json": "pairs/out/",
    "digits/results/COMMIT.json": "results",
    "digits/results/summary.csv": "results",
    "digits/results/provenance.parquet": "results",
    "digits/pair_results/COMMIT.json": "pair_results",
    "digits/pair_results/runs/pairs.parquet": "pair_results",
    "figures/COMMIT.json": "figures",
    "figures/fig1.png": "figures",
}


@pytest.mark.parametrize("pattern", OBJECTS)
def test_a_damaged_object_is_named(root: Path, pattern: str, new: Callable[[], list[Finding]]) -> None:
    """More of this: tests/faults/flips.py."""
    file = one(root, pattern)
    changed(file)
    found = [finding for finding in new() if finding.severity == DAMAGED]
    assert len(found) == 1, "and nothing else"
    assert found[0].piece.startswith(OBJECTS[pattern])
    assert str(found[0]).startswith(f"{file.relative_to(root).as_posix()}: ")


# a mark that is gone leaves no piece: that it was there, the tables know
GONE = {
    "digits/runs/0001/iter_01/COMMIT.json": "digits/runs/0001/iter_01: is gone: the tables were made from it",
    "digits/complete/COMMIT.json": "digits/complete: is gone: the tables were made from it",
    "digits/runs/0001/iter_02/comparison/out/cka*.json": "the tables were made from it",
    "digits/runs/0000/iter_01/chance/out/cka*.json": "the tables were made from it",
    "digits/pairs/out/*.json": "the tables of pairs were made from it",
    "digits/spec.json": "digits/spec.json: is missing: run the sweep script, which writes it",
    "digits/runs/0001/iter_01/activations/DROPPED.json": "DROPPED.json: is gone, so COMMIT-2.json does not count",
}


@pytest.mark.parametrize("pattern", GONE)
def test_what_is_gone_is_missed(root: Path, pattern: str, new: Callable[[], list[Finding]]) -> None:
    one(root, pattern).unlink()
    (found,) = [finding for finding in new() if finding.severity == DAMAGED]
    assert str(found).endswith(GONE[pattern])


NOTED = {
    "digits/request.json": "digits/request.json: is missing: run the sweep script, which writes it",
    "digits/results/COMMIT.json": "digits/results: these files have no mark: distsim run or",
    "digits/pair_results/COMMIT.json": "digits/pair_results: these files have no mark: distsim pairs",
    "figures/COMMIT.json": "figures: these files have no mark: distsim run or distsim report draws",
}


@pytest.mark.parametrize("pattern", NOTED)
def test_what_the_next_run_puts_there_is_noted(root: Path, pattern: str, new: Callable[[], list[Finding]]) -> None:
    one(root, pattern).unlink()
    found = new()
    assert not [finding for finding in found if finding.severity == DAMAGED]
    assert any(str(f).startswith(NOTED[pattern]) for f in found if f.severity == NOTE), found


def test_tables_and_figures_of_other_commits_are_out_of_date(
    store: SweepStore, new: Callable[[], list[Finding]]
) -> None:
    for storage, folder in ((store.storage, "results"), (store.root, "figures")):
        mark = read_mark(storage, f"{folder}/{MARK}")
        assert mark is not None
        storage.put(f"{folder}/{MARK}", dataclasses.replace(mark, values={"inputs": "others"}).encode())
    said = {str(finding): finding.severity for finding in new()}
    assert set(said.values()) == {NOTE}
    assert [text.split(":")[:2] for text in sorted(said)] == [
        ["digits/results", " out of date"],
        ["figures", " out of date"],
    ]


# --- what must never happen ------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_not_taken_for_damaged(
    root: Path, monkeypatch: pytest.MonkeyPatch, new: Callable[[], list[Finding]]
) -> None:
    get = Storage.get

    def failing(self: Storage, path: str, most: int | None = None) -> bytes | None:
        if path.endswith(("rewind.safetensors", "iter_01/COMMIT.json")) or "/pool1/" in path or "figures" in path:
            raise StorageError(f"cannot read {path}: timed out")
        return get(self, path, most)

    monkeypatch.setattr(Storage, "get", failing)
    found = new()
    assert {finding.severity for finding in found} <= {UNREAD, NOTE, LEFTOVER}
    unread = {finding.piece for finding in found if finding.severity == UNREAD}
    assert {"complete", "runs/0000/iter_01", "runs/0001/iter_01", "complete/activations", "figures"} <= unread
    status, out, err = outcome(lambda: cli.main(["verify", str(root)]))
    assert (status, err) == (1, "")
    assert "timed out" in out


def test_no_error_comes_through(root: Path, monkeypatch: pytest.MonkeyPatch, new: Callable[[], list[Finding]]) -> None:
    """What has the right digest and is not understood may be our fault: it is said, and is no damage."""

    def broken(*_: Any) -> Iterator[str]:
        raise MemoryError("no room")

    for module, name in (
        (networks, "object_faults"),
        (networks, "array_faults"),
        (walk, "mark_at"),
    ):
        monkeypatch.setattr(module, name, broken)
    found = new()
    assert {finding.severity for finding in found} == {UNREAD}
    assert {finding.sentence for finding in found} == {"could not be checked: MemoryError: no room"}
    assert len({finding.piece for finding in found}) == 5 + 5 + 5 + 32 + 8 + 8 + 32 + 16


def test_files_in_the_places_of_folders_are_named(tmp_path: Path) -> None:
    """The next command cannot go on, though nothing is damaged."""
    root = Storage(tmp_path)
    root.put("digits/spec.json", b'{"identity": {}}')
    for path in ("lease", "figures", "digits/behaviour", "digits/results", "digits/runs/0000/iter_01/activations"):
        root.put(path, b"mine")
    found = {str(finding) for finding in verify_store(root).of(UNREAD)}
    paths = ("lease", "figures", "digits/behaviour", "digits/results", "digits/runs/0000/iter_01/activations")
    assert found >= {f"{path}: is a file where a folder of distsim's belongs: move it" for path in paths}
    report = verify_store(root)
    assert not [finding for finding in report.of(FOREIGN) if str(finding).startswith(paths)]


def test_a_store_of_nonsense(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for path in ("spec.json", "request.json", "complete/COMMIT.json", "runs/0000/iter_01/activations/COMMIT-3.json"):
        (tmp_path / "digits" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "digits" / path).write_bytes(rng.bytes(100))
    for path in ("results/COMMIT.json", "pairs/out/0123456789abcdef.json", "runs/0000/iter_01/comparison/out/cka.json"):
        (tmp_path / "digits" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "digits" / path).write_bytes(b'{"sha256": null}')
    report = verify_store(Storage(tmp_path))
    assert {finding.severity for finding in report.findings} == {DAMAGED}
    assert len({finding.piece for finding in report.findings}) == 7
