"""The walk through one sweep: each mark, spec and request, what took another's place, and what no mark names."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import changed, one

from distsim.specs import COMPLETE, NetworkId, canonical_json
from distsim.store import DamagedStore, Storage, SweepStore
from distsim.store.commits import MARK, drop, read_mark
from distsim.verify import walk
from distsim.verify.listing import of_network
from distsim.verify.report import DAMAGED, FOREIGN, LEFTOVER, NOTE, UNREAD, Finding
from distsim.verify.walk import verify

# --- marks -----------------------------------------------------------------------------------------------------------


def test_the_folder_of_a_network() -> None:
    assert of_network("complete/COMMIT.json") == (COMPLETE, "COMMIT.json")
    assert of_network("runs/0010/iter_02/comparison/fc1/cka.json") == (NetworkId(10, 2), "comparison/fc1/cka.json")
    assert of_network("complete-1/runs/0000/iter_100/x") == (NetworkId(0, 100, complete=1), "x")
    for path in (
        "runs/10/iter_02/x",
        "runs/0010/iter_2/x",
        "runs/0010/iter_00/x",
        "complete-0/x",
        "complete",
        "pairs/x",
    ):
        assert of_network(path) is None


@pytest.mark.parametrize("what", ["runs/0001/iter_01/comparison", "runs/0000/iter_01/chance", "pairs"])
def test_values_in_anothers_place(root: Path, what: str, new: Callable[[], list[Finding]]) -> None:
    """Its mark says of which network and layer they are."""
    here, there = (one(root, f"digits/{what}/{layer}/*.json") for layer in ("conv1_1", "pool1"))
    shutil.copy(there, here)
    found = new()
    assert [finding.severity for finding in found] == [DAMAGED] * len(found)
    assert {finding.piece for finding in found} == {here.relative_to(root / "digits").as_posix()}
    if what != "pairs":
        twin = one(root, f"digits/{what.replace('iter_01', 'iter_02')}/conv1_1/*.json") if "0001" in what else there
        shutil.copy(twin, here)  # of the same layer, so that rows and columns fit
        assert {f.sentence for f in new()} == {
            f"is damaged: it belongs to {twin.relative_to(root / 'digits').as_posix()!r}"
        }


@pytest.mark.parametrize("what", ["", "/activations"])
def test_a_piece_in_anothers_place(root: Path, store: SweepStore, what: str, new: Callable[[], list[Finding]]) -> None:
    """With its own mark, whose objects are all there; no reader believes it."""
    here, there = (root / f"digits/runs/000{run}/iter_02{what}" for run in (0, 1))
    shutil.rmtree(here)
    shutil.copytree(there, here)
    piece = f"runs/0000/iter_02{what}"
    found = [finding for finding in new() if finding.severity == DAMAGED]
    said = f"is damaged: it belongs to {piece.replace('0000', '0001')!r}"
    assert said in [f.sentence for f in found if f.piece == piece]
    for read in (store.digests, store.mark if not what else store.activations_mark):
        with pytest.raises(DamagedStore, match=f"{piece}/COMMIT.* is damaged: it belongs to 'runs/0001/iter_02{what}'"):
            read(*() if read == store.digests else (NetworkId(0, 2),))


def test_a_mark_of_another_sweep(root: Path, store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    path = "runs/0001/iter_01/comparison/out/cka+cka_unbiased+cosine+mean_cca+nbs+pwcca+svcca.json"
    mark = read_mark(store.storage, path)
    assert mark is not None
    store.storage.put(path, dataclasses.replace(mark, identity="0" * 64).encode())
    (found,) = new()
    assert (found.piece, found.severity) == (path, DAMAGED)
    assert found.sentence == "belongs to another sweep: its identity is '000000000000'"


def test_a_mark_whose_text_was_changed_and_says_the_same(root: Path, new: Callable[[], list[Finding]]) -> None:
    marks = ("complete/COMMIT", "runs/0001/iter_01/activations/COMMIT-2", "results/COMMIT", "pair_results/COMMIT")
    values = ("runs/0001/iter_01/comparison/out/*", "runs/0000/iter_01/chance/out/*", "pairs/out/*")
    files = [one(root, f"digits/{name}.json") for name in ("spec", "request", *marks, *values)]
    files.append(one(root, "figures/COMMIT.json"))
    for file in files:
        file.write_bytes(b" " + file.read_bytes())
    found = new()
    assert {str(finding) for finding in found} == {
        f"{file.relative_to(root).as_posix()}: its text was changed, but not its meaning" for file in files
    }
    assert {finding.severity for finding in found} == {NOTE}


def test_a_piece_that_is_dropped_while_it_is_read(store: SweepStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a driver at work, which is no damage."""
    get, piece = Storage.get, "runs/0001/iter_01/activations"

    def reading(self: Storage, path: str, most: int | None = None) -> bytes | None:
        content = get(self, path, most)
        if path.endswith(f"{piece}/COMMIT-2.json"):
            monkeypatch.undo()
            drop(store.storage, piece)
        return content

    monkeypatch.setattr(Storage, "get", reading)
    report = verify(store)
    assert store.activations_mark(NetworkId(1, 1)) is None
    assert not report.of(DAMAGED, UNREAD)


# --- specs and requests ----------------------------------------------------------------------------------------------


def respecified(store: SweepStore, **changes: Any) -> None:
    """Another spec.json, whole in itself."""
    spec = json.loads(store.storage.get("spec.json") or b"")
    identity = spec["identity"] | changes
    hashed = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
    store.storage.put("spec.json", canonical_json(spec | {"identity": identity, "hash": hashed}).encode())


def test_a_spec_of_another_sweep(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    """The pieces agree with each other, so it is the spec that is wrong."""
    respecified(store, seed=7)
    (found,) = new()
    assert (found.piece, found.severity) == ("spec.json", DAMAGED)
    assert found.sentence.startswith("belongs to another sweep: no mark has its hash")


def test_a_spec_of_another_distsim(store: SweepStore, root: Path, new: Callable[[], list[Finding]]) -> None:
    """It is not damaged, and what is not understood is not repaired."""
    spec = json.loads(store.storage.get("spec.json") or b"")
    respecified(store, format=spec["identity"]["format"] - 1)
    changed(one(root, "digits/complete/attempt-*/weights.safetensors"))
    found = {finding.piece: finding.severity for finding in new()}
    assert found["spec.json"] in (UNREAD, DAMAGED)
    assert found["complete"] == DAMAGED, "digests are checked all the same"


def test_a_model_that_is_not_known_here(
    store: SweepStore, new: Callable[[], list[Finding]], monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """A script's own, say: everything but shapes and masks is checked."""

    def unknown(*_: Any) -> None:
        raise ValueError("unknown model 'mine'")

    monkeypatch.setattr(walk, "build", unknown)
    (found,) = new()
    assert (found.severity, found.sentence) == (NOTE, "unknown model 'mine': shapes and masks are not checked")
    changed(one(root, "digits/runs/0001/iter_01/activations/attempt-2-*/fc1/c/0/0"))
    assert [finding.piece for finding in new() if finding.severity == DAMAGED] == ["runs/0001/iter_01/activations"]


def test_where_the_spec_is_damaged_the_digests_are_still_checked(root: Path, new: Callable[[], list[Finding]]) -> None:
    changed(root / "digits/spec.json")
    pieces = {
        "runs/0001/iter_01/activations": "runs/0001/iter_01/activations/attempt-2-*/conv1_1/c/0/0/0/0",
        "runs/0001/iter_02": "runs/0001/iter_02/attempt-*/masks.safetensors",
    }
    for pattern in pieces.values():
        changed(one(root, f"digits/{pattern}"))
    damaged = {finding.piece for finding in new() if finding.severity == DAMAGED}
    assert damaged == {"spec.json", *pieces}


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cqu"},
        {"retention": "some"},
        {"metrics": ["c k"]},
        {"runs": -2},
        {"more": 1},
        {"sha256": "0"},
        {"chance": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_request_that_nobody_wrote(store: SweepStore, change: Any, new: Callable[[], list[Finding]]) -> None:
    request = store.request().as_dict()
    store.storage.put("request.json", canonical_json(request | change).encode())
    (found,) = new()
    assert (found.piece, found.severity) == ("request.json", DAMAGED)
    hashed = hashlib.sha256(canonical_json(request).encode()).hexdigest()
    store.storage.put("request.json", canonical_json(request | {"sha256": hashed}).encode())
    assert new() == [], "a request may have a digest in it"


def test_a_request_of_a_newer_distsim(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    """It is whole, so it is not damaged, and what is not understood is not repaired."""
    request = store.request().as_dict() | {"more": 1}
    hashed = hashlib.sha256(canonical_json(request).encode()).hexdigest()
    store.storage.put("request.json", canonical_json(request | {"sha256": hashed}).encode())
    (found,) = new()
    assert (found.piece, found.severity) == ("request.json", UNREAD)
    assert "was written by another distsim" in found.sentence
    assert "'more', which this distsim does not know" in found.sentence


# --- what no mark names ----------------------------------------------------------------------------------------------


def test_pairs_that_are_in_no_table_yet(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    mark = read_mark(store.storage, f"pair_results/{MARK}")
    assert mark is not None
    first, *_ = inputs = mark.values["inputs"]
    fewer = {path: digest for path, digest in inputs.items() if path != first}
    store.storage.put(f"pair_results/{MARK}", dataclasses.replace(mark, values={"inputs": fewer}).encode())
    (found,) = new()
    assert (str(found), found.severity) == ("digits/pair_results: out of date: distsim pairs makes them again", NOTE)


USERS_OWN = (  # names that end in # and digits
    "Homework #2",
    "notes/Homework #2",
    "tune/x#3",
    "digits/Homework #2",
    "digits/spec.json.bak#2",
    "digits/runs/0001/iter_02/weights.safetensors#12",
    "digits/runs/0001/Homework #2",
    "digits/complete/COMMIT.json.#1",
    "digits/complete/COMMIT.json#0",
    "lease/mine.json#1",
    "figures/Homework #2",
)


def test_leftovers_and_what_nobody_knows(store: SweepStore, root: Path, new: Callable[[], list[Finding]]) -> None:
    planted = {
        "digits/complete/attempt-0123456789ac/masks.safetensors": LEFTOVER,  # another attempt
        "digits/runs/0001/iter_01/activations/COMMIT.json": LEFTOVER,  # of a generation that was dropped
        "digits/runs/0009/iter_01/attempt-0123456789ac/x": LEFTOVER,  # of a network that is not committed
        "digits/runs/0001/iter_02/COMMIT.json#12": LEFTOVER,  # staged: no listing has it
        "digits/runs/0001/iter_02/attempt-0123456789ac/weights.safetensors#1": LEFTOVER,
        "digits/complete/comparison/fc1/cka.json#140737488355328": LEFTOVER,
        "digits/spec.json#7": LEFTOVER,
        "lease/000009.json#7": LEFTOVER,
        f"probe-{'0' * 32}": LEFTOVER,
        "digits/notes.txt": FOREIGN,
        "digits/runs/notes.txt": FOREIGN,
        "digits/runs/1/iter_1/COMMIT.json": FOREIGN,  # would be read elsewhere
        "digits/complete/attempt-1/x": FOREIGN,
        "digits/results/own.csv": FOREIGN,
        "figures/own.png": FOREIGN,
        "elsewhere/x": FOREIGN,
        "readme": FOREIGN,
    }
    own = one(root, "digits/complete/attempt-*")
    planted[f"{own.relative_to(root).as_posix()}/more"] = FOREIGN  # its writer has named all of its own
    for path in planted:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"{}")
    for path in USERS_OWN:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    found = {f"{f.problem}/{f.object}".lstrip("/"): f.severity for f in new() if f.severity in (LEFTOVER, FOREIGN)}
    assert found == planted, "no listing has the user's own, and they are none of ours"
    assert not [finding for finding in new() if finding.severity == DAMAGED]


def test_a_training_between_two_epochs_is_no_leftover(root: Path, new: Callable[[], list[Finding]]) -> None:
    """Not before its network is committed: the next run goes on from it."""
    folder = root / "digits/runs/0005/iter_01/epoch"
    folder.mkdir(parents=True)
    (folder / f"{'0' * 64}.safetensors").write_bytes(b"x")
    assert new() == []
