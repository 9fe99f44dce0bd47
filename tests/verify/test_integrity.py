"""What `distsim verify` says of a store: nothing of a whole one, and of a damaged one what is damaged."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from faults import flips
from sweep_scripts import outcome

from distsim.cli import main as cli
from distsim.specs import canonical_json
from distsim.store import NetworkId, Storage, StorageError, SweepStore, network_path
from distsim.store.activations import Reader, Writer
from distsim.store.commits import MARK, Attempt, drop, read_mark
from distsim.training.chain import TrainedNetwork
from distsim.verify import integrity, invariants
from distsim.verify.integrity import DAMAGED, FOREIGN, LEFTOVER, NOTE, UNREAD, Finding, Report, verify, verify_store


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store, with what interrupted writers left behind. Not to be changed."""
    folder = tmp_path_factory.mktemp("kept") / "store"
    with flips.undrawn():
        flips.make(folder)
    return folder


@pytest.fixture
def root(kept: Path, tmp_path: Path) -> Path:
    """The same to change."""
    return Path(shutil.copytree(kept, tmp_path / "store"))


@pytest.fixture
def store(root: Path) -> SweepStore:
    return SweepStore(Storage(root), "digits")


@pytest.fixture(scope="module")
def healthy(kept: Path) -> Report:
    return verify_store(Storage(kept))


@pytest.fixture
def new(root: Path, healthy: Report) -> Callable[[], list[Finding]]:
    """What verify says of the changed store, and did not say before."""

    def found() -> list[Finding]:
        said = set(healthy.findings)
        return [finding for finding in verify_store(Storage(root)).findings if finding not in said]

    return found


def contents(folder: Path) -> dict[str, str]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def changed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def one(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[0]


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
        "comparison": 4 * 8,
        "chance level": 8,
        "tile of pairs": 16,
        "set of tables": 2,
        "set of figures": 1,
    }
    left = (
        "lease/",
        "tune/",
        f"digits/runs/0000/iter_01/{flips.LEFT}",
        f"digits/runs/0000/iter_01/activations/{flips.LEFT}",
    )
    left = (*left, "digits/runs/0000/iter_01/epoch/")
    sizes = {path: size for path, size in flips.files(kept).items() if not path.startswith(left)}
    unread = sum(size for path, size in sizes.items() if "DROPPED" in path)
    assert healthy.size >= sum(sizes.values()) - unread, "everything is read"


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
    assert said.startswith("5 networks, 5 networks' activations, 32 comparisons, 8 chance levels, 16 tiles of pairs, ")
    assert said.endswith(" bytes read: nothing damaged")
    file = one(root, "digits/runs/0001/iter_02/attempt-*/masks.safetensors")
    changed(file)
    status, out, err = outcome(lambda: cli.main(["verify", str(root), "--problem", "digits"]))
    assert (status, err) == (1, "")
    first, *_, last = out.splitlines()
    assert first == f"{file.relative_to(root).as_posix()}: is damaged: its digest is not its mark's"
    assert last.endswith("1 damaged")
    for arguments, said in {
        (root / "nowhere",): f"no store in {root / 'nowhere'}",
        (root / "digits" / "runs",): f"no sweep in {root / 'digits' / 'runs'}",
        (root, "--problem", "cifar2"): f"no sweep of cifar2 in {root}; there are digits",
    }.items():
        status, out, err = outcome(lambda arguments=arguments: cli.main(["verify", *map(str, arguments)]))
        assert (status, out, err) == (1, "", f"distsim: {said}\n")


def test_sharded_activations(store: SweepStore, root: Path, new: Callable[[], list[Finding]]) -> None:
    """As an object store gets them: one object for a block of examples."""
    mark = store.activations_mark((1, 2))
    piece = store.activations_path((1, 2))
    assert mark is not None
    reader = Reader(store.storage, piece, mark)
    with_values = {name: (reader.layer(name).read(), reader.layer(name).kind) for name in reader.layers}
    drop(store.storage, piece)
    attempt = Attempt(store.storage, piece)
    writer = Writer(attempt, sharded=True)
    for position, (name, (values, kind)) in enumerate(with_values.items()):
        writer.create(name, values.shape, str(values.dtype), {"position": position, "kind": kind})
        writer.write(name, 0, values)
    attempt.commit(values={"layers": writer.layers}, identity=mark.identity, environment=mark.environment)
    assert new() == []
    file = one(root, f"digits/{piece}/attempt-*/conv1_1/c/*/*/*/*")
    changed(file)
    assert [finding.object for finding in new()] == [file.relative_to(root / "digits").as_posix()]


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
    "digits/pair_results/pairs.parquet": "pair_results",
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
    "digits/runs/0001/iter_01/activations/DROPPED.json": "DROPPED.json: is gone, so that COMMIT-2.json does not count",
}


@pytest.mark.parametrize("pattern", GONE)
def test_what_is_gone_is_missed(root: Path, pattern: str, new: Callable[[], list[Finding]]) -> None:
    one(root, pattern).unlink()
    (found,) = [finding for finding in new() if finding.severity == DAMAGED]
    assert str(found).endswith(GONE[pattern])


NOTED = {
    "digits/request.json": "digits/request.json: is missing: run the sweep script, which writes it",
    "digits/results/COMMIT.json": "digits/results: nothing vouches for what is there: distsim run or",
    "digits/pair_results/COMMIT.json": "digits/pair_results: nothing vouches for what is there: distsim pairs",
    "figures/COMMIT.json": "figures: nothing vouches for what is there: distsim run or distsim report draws",
    "digits/runs/0001/iter_01/activations/COMMIT-2.json": "digits/request.json: asks for more than is there",
}


@pytest.mark.parametrize("pattern", NOTED)
def test_what_the_next_run_puts_there_is_noted(root: Path, pattern: str, new: Callable[[], list[Finding]]) -> None:
    one(root, pattern).unlink()
    found = new()
    assert not [finding for finding in found if finding.severity == DAMAGED]
    assert any(str(f).startswith(NOTED[pattern]) for f in found if f.severity == NOTE), found


@pytest.mark.parametrize("what", ["runs/0001/iter_01/comparison", "runs/0000/iter_01/chance", "pairs"])
def test_values_in_anothers_place(root: Path, what: str, new: Callable[[], list[Finding]]) -> None:
    """A file of values does not say of which network and layer they are."""
    here, there = (one(root, f"digits/{what}/{layer}/*.json") for layer in ("conv1_1", "pool1"))
    shutil.copy(there, here)
    found = new()
    assert [finding.severity for finding in found] == [DAMAGED] * len(found)
    assert {finding.piece for finding in found} == {here.relative_to(root / "digits").as_posix()}
    if what != "pairs":
        twin = one(root, f"digits/{what.replace('iter_01', 'iter_02')}/conv1_1/*.json") if "0001" in what else there
        shutil.copy(twin, here)  # of the same layer, so that rows and columns fit
        assert any("other values than those that the tables were made from" in finding.sentence for finding in new())


def test_a_mark_of_another_sweep(root: Path, store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    path = "runs/0001/iter_01/comparison/out/cka+cosine+mean_cca+nbs+pwcca+svcca.json"
    mark = read_mark(store.storage, path)
    assert mark is not None
    store.storage.put(path, dataclasses.replace(mark, identity="0" * 64).encode())
    (found,) = new()
    assert (found.piece, found.severity) == (path, DAMAGED)
    assert found.sentence == "is of another sweep: its identity is '000000000000'"


def test_a_mark_whose_text_was_changed_and_says_the_same(root: Path, new: Callable[[], list[Finding]]) -> None:
    files = [one(root, pattern) for pattern in OBJECTS if pattern.endswith(".json") and "zarr" not in pattern]
    files = [file for file in files if file.name != "probe.json"]
    assert len(files) == 10
    for file in files:
        file.write_bytes(b" " + file.read_bytes())
    found = new()
    assert {str(finding) for finding in found} == {
        f"{file.relative_to(root).as_posix()}: its text was changed, and says the same" for file in files
    }
    assert {finding.severity for finding in found} == {NOTE}


# --- what has the right digest and cannot be right -------------------------------------------------------------------


def replaced(store: SweepStore, network: NetworkId, files: dict[str, bytes] | None = None, **changes: Any) -> None:
    """Commit the network again with other tensors, record or files, as a faulty writer would."""
    mark, step = store.mark(network), store.load_network(network)
    assert mark is not None
    probe = {"probe.json": store.storage.get(f"complete/attempt-{mark.attempt}/probe.json") or b""}
    store.storage.delete([f"{network_path(network)}/{MARK}"])
    files = files if files is not None or network is not None else probe
    step = dataclasses.replace(step, **changes)
    store.commit_network(network, step, files, identity=mark.identity, environment=mark.environment)


def first_weight(step: TrainedNetwork) -> str:
    return next(name for name in sorted(step.masks) if name.endswith("weight"))


def dead_weight(step: TrainedNetwork) -> dict[str, Any]:
    name = first_weight(step)
    step.weights[name].view(-1)[(~step.masks[name]).view(-1).nonzero()[0]] = 0.5
    return {"weights": step.weights}


def another_mask(step: TrainedNetwork) -> dict[str, Any]:
    name = first_weight(step)
    step.masks[name].view(-1)[(~step.masks[name]).view(-1).nonzero()[0]] = True
    return {"masks": step.masks}


def mask_moved(step: TrainedNetwork) -> dict[str, Any]:
    """What was dead is alive, and as much else is dead instead."""
    name = first_weight(step)
    mask, weights = step.masks[name].view(-1), step.weights[name].view(-1)
    dead, alive = (~mask).nonzero().view(-1), mask.nonzero().view(-1)[: int((~mask).sum())]
    mask[dead], mask[alive] = True, False
    weights[dead], weights[alive] = 0.5, 0.0
    return {"masks": step.masks, "weights": step.weights}


def not_finite(step: TrainedNetwork) -> dict[str, Any]:
    step.weights[first_weight(step)].view(-1)[0] = torch.inf
    return {"weights": step.weights}


WRONG: dict[str, Callable[[TrainedNetwork], dict[str, Any]]] = {
    "a dead parameter of": dead_weight,
    "parameters of the pool conv are alive, 2 prunings leave": another_mask,
    "are alive that were dead earlier in the run": mask_moved,
    "has values that are not finite": not_finite,
    "its record is that of run 0, iteration 2": lambda step: {"record": step.record | {"run": 0}},
    "its accuracy is 1.5": lambda step: {"record": step.record | {"accuracy": 1.5}},
    "its record says remaining 0.5, its masks": lambda step: {"record": step.record | {"remaining": 0.5}},
    "it lacks": lambda step: {"weights": dict(list(step.weights.items())[1:])},
}


@pytest.mark.parametrize("said", WRONG)
def test_a_network_that_cannot_be(store: SweepStore, said: str, new: Callable[[], list[Finding]]) -> None:
    replaced(store, (1, 2), **WRONG[said](store.load_network((1, 2))))
    found = [finding for finding in new() if finding.piece == "runs/0001/iter_02"]
    assert any(said in finding.sentence and finding.severity == DAMAGED for finding in found), found


def test_the_complete_networks_own_files(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    def said() -> list[str]:
        return [finding.sentence for finding in new() if finding.severity == DAMAGED]

    complete = store.load_network(None)
    drawn = json.dumps({"indices": list(range(60, 120))}).encode()
    replaced(store, None, files={"probe.json": drawn})
    assert said() == ["the probe is not what the seed draws"]
    assert complete.rewind is not None
    replaced(store, None, files={}, rewind=dict(list(complete.rewind.items())[1:]))
    assert said() == ["its mark does not name probe.json"]
    replaced(store, None, files={"probe.json": drawn}, rewind=dict(list(complete.rewind.items())[1:]))
    assert any(sentence.startswith("rewind: it lacks") for sentence in said())
    replaced(store, None, files={"probe.json": drawn}, rewind=None)
    assert said() == ["its mark does not name rewind.safetensors"]


def again(
    store: SweepStore, network: NetworkId, alter: Callable[[Writer, str, Any, str, int], None], **fields: Any
) -> None:
    """Write the network's activations once more, each layer by `alter`."""
    mark = store.activations_mark(network)
    assert mark is not None
    piece = store.activations_path(network)
    reader = Reader(store.storage, piece, mark)
    layers = [(name, reader.layer(name).read(), reader.layer(name).kind) for name in reader.layers]
    drop(store.storage, piece)
    attempt = Attempt(store.storage, piece)
    writer = Writer(attempt)
    for position, (name, values, kind) in enumerate(layers):
        alter(writer, name, values, kind, position)
    values = fields.pop("values", {"layers": writer.layers})
    attempt.commit(**{"identity": mark.identity, "values": values} | fields)


def written(writer: Writer, name: str, values: Any, kind: str, position: int) -> None:
    writer.create(name, values.shape, str(values.dtype), {"position": position, "kind": kind})
    writer.write(name, 0, values)


def test_activations_that_cannot_be(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    def said(alter: Callable[..., None], **fields: Any) -> str:
        again(store, (1, 1), alter, **fields)
        return "; ".join(finding.sentence for finding in new())

    def infinite(writer: Writer, name: str, values: Any, kind: str, position: int) -> None:
        values.flat[0] = np.inf if name == "fc1" else values.flat[0]
        written(writer, name, values, kind, position)

    def finite(writer: Writer, name: str, values: Any, kind: str, position: int) -> None:
        written(writer, name, np.nan_to_num(values, posinf=0), kind, position)

    mark = store.activations_mark((1, 1))
    assert mark is not None
    assert said(written) == "", "as it was"
    assert said(written, values={}) == "", "older marks say nothing of the values"
    assert said(infinite) == "has values that are not finite"
    swapped = mark.values["layers"] | {"pool1": mark.values["layers"]["pool2"]}
    assert said(finite, values={"layers": swapped}) == "its values do not hash to the digest in its mark"
    turned: Callable[..., None] = lambda writer, name, values, kind, position: written(  # noqa: E731
        writer, name, values, kind, 7 - position
    )
    assert said(turned).count("it says layer") == 8
    fewer: Callable[..., None] = lambda writer, name, values, *more: written(writer, name, values[:50], *more)  # noqa: E731
    assert said(fewer).count("the array's shape is [50, ") == 8


def test_activations_whose_mark_names_other_layers(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    def without(writer: Writer, name: str, *more: Any) -> None:
        if name != "pool1":
            written(writer, name, *more)

    again(store, (1, 1), without)
    (found,) = new()
    assert found.sentence.startswith("its mark names the layers")
    assert "pool1" not in found.sentence


def test_activations_whose_mark_lacks_a_chunk(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    """It would read as zeros."""
    piece = store.activations_path((1, 1))
    mark = store.activations_mark((1, 1))
    assert mark is not None
    objects = {name: entry for name, entry in mark.objects.items() if name != "pool1/c/0/0/0/0"}
    store.storage.put(f"{piece}/COMMIT-2.json", dataclasses.replace(mark, objects=objects).encode())
    said = {finding.severity: finding.sentence for finding in new()}
    assert said == {DAMAGED: "its mark names 0 chunks, 1 belong to the array", LEFTOVER: "no mark names it"}


def test_values_that_cannot_be(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    for what, fault in (("comparison", {"value": None}), ("chance", {"values": [0.5]})):
        (path,) = (path for path in store.storage.sizes(f"runs/0000/iter_01/{what}/fc1"))
        mark = read_mark(store.storage, path)
        assert mark is not None
        values = mark.values | {"cka": mark.values["cka"] | fault}
        store.storage.put(path, dataclasses.replace(mark, values=values).encode())
        assert any(finding.sentence.startswith("cka ") for finding in new() if finding.piece == path)
        store.storage.put(path, mark.encode())
    other = path.replace("fc1", "fc2")
    store.storage.put(other, mark.encode())
    assert [finding.sentence for finding in new() if finding.piece == other] == [f"it belongs to {path!r}"]
    store.storage.put(other, dataclasses.replace(mark, provenance={"piece": other}).encode())
    assert [finding.sentence for finding in new() if finding.piece == other] == ["the model has no such layer"]


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
    assert found.sentence.startswith("is that of another sweep: of 10 marks none has its hash")


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

    monkeypatch.setattr(integrity, "build", unknown)
    (found,) = new()
    assert (found.severity, found.sentence) == (NOTE, "unknown model 'mine': shapes and masks are not checked")
    changed(one(root, "digits/runs/0001/iter_01/activations/attempt-2-*/fc1/c/0/0"))
    assert [finding.piece for finding in new() if finding.severity == DAMAGED] == ["runs/0001/iter_01/activations"]


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cqu"},
        {"retention": "some"},
        {"metrics": ["ckb"]},
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
    assert found.sentence == (
        "was written by another distsim: request has the field 'more', which this distsim does not know"
    )


def test_a_request_for_less_than_is_there(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    store.storage.put("request.json", canonical_json(store.request().as_dict() | {"runs": 1, "iterations": 1}).encode())
    (found,) = new()
    assert (found.severity, found.sentence) == (NOTE, "asks for less than is there (networks: 3)")


def test_a_request_for_more_than_is_there(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    store.storage.put("request.json", canonical_json(store.request().as_dict() | {"runs": 3}).encode())
    (found,) = new()
    assert found.severity == NOTE
    assert found.sentence == (
        "asks for more than is there (networks: 2, activations: 2, similarities: 82): distsim run"
    )


# --- tables and what lies beside -------------------------------------------------------------------------------------


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


def test_pairs_that_are_in_no_table_yet(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    mark = read_mark(store.storage, f"pair_results/{MARK}")
    assert mark is not None
    first, *_ = inputs = mark.values["inputs"]
    fewer = {path: digest for path, digest in inputs.items() if path != first}
    store.storage.put(f"pair_results/{MARK}", dataclasses.replace(mark, values={"inputs": fewer}).encode())
    (found,) = new()
    assert (str(found), found.severity) == ("digits/pair_results: out of date: distsim pairs makes them again", NOTE)


def test_leftovers_and_what_nobody_knows(store: SweepStore, root: Path, new: Callable[[], list[Finding]]) -> None:
    planted = {
        "digits/complete/attempt-0123456789ac/masks.safetensors": LEFTOVER,  # another attempt
        "digits/runs/0001/iter_01/activations/COMMIT.json": LEFTOVER,  # of a generation that was dropped
        "digits/runs/0009/iter_01/attempt-0123456789ac/x": LEFTOVER,  # of a network that is not committed
        "digits/runs/0001/iter_02/weights.safetensors#12": LEFTOVER,  # staged: no listing has it
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
    planted[f"{own.relative_to(root).as_posix()}/more"] = LEFTOVER
    for path in planted:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"{}")
    (root / "tune/x#3").write_bytes(b"")
    found = {f"{f.problem}/{f.object}".lstrip("/"): f.severity for f in new() if f.severity in (LEFTOVER, FOREIGN)}
    assert found == planted | {"tune/x#3": LEFTOVER}
    assert not [finding for finding in new() if finding.severity == DAMAGED]


def test_a_training_between_two_epochs_is_no_leftover(root: Path, new: Callable[[], list[Finding]]) -> None:
    """Not before its network is committed: the next run goes on from it."""
    folder = root / "digits/runs/0005/iter_01/epoch"
    folder.mkdir(parents=True)
    (folder / f"{'0' * 64}.safetensors").write_bytes(b"x")
    assert new() == []


# --- what must never happen ------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_not_taken_for_damaged(
    root: Path, monkeypatch: pytest.MonkeyPatch, new: Callable[[], list[Finding]]
) -> None:
    get = Storage.get

    def failing(self: Storage, path: str) -> bytes | None:
        if path.endswith(("rewind.safetensors", "iter_01/COMMIT.json")) or "/pool1/" in path or "figures" in path:
            raise StorageError(f"cannot read {path}: timed out")
        return get(self, path)

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

    for name in ("record_faults", "array_faults", "comparison_faults", "chance_faults", "pairs_faults"):
        monkeypatch.setattr(invariants, name, broken)
    found = new()
    assert {finding.severity for finding in found} == {UNREAD}
    assert {finding.sentence for finding in found} == {"could not be judged: MemoryError: no room"}
    assert len({finding.piece for finding in found}) == 5 + 5 + 32 + 8 + 16


def test_a_piece_that_is_dropped_while_it_is_read(store: SweepStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a driver at work, which is no damage."""
    get, piece = Storage.get, "runs/0001/iter_01/activations"

    def reading(self: Storage, path: str) -> bytes | None:
        content = get(self, path)
        if path.endswith(f"{piece}/COMMIT-2.json"):
            monkeypatch.undo()
            drop(store.storage, piece)
        return content

    monkeypatch.setattr(Storage, "get", reading)
    report = verify(store)
    assert store.activations_mark((1, 1)) is None
    assert not report.of(DAMAGED, UNREAD)


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


def test_weights_that_are_no_safetensors(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    mark = store.mark((1, 2))
    assert mark is not None
    content = safetensors.torch.save({"x": torch.zeros(3)})[:-4]
    store.storage.put(f"runs/0001/iter_02/attempt-{mark.attempt}/weights.safetensors", content)
    entry = (len(content), hashlib.sha256(content).hexdigest())
    objects = mark.objects | {"weights.safetensors": entry}
    store.storage.put(f"runs/0001/iter_02/{MARK}", dataclasses.replace(mark, objects=objects).encode())
    assert ("runs/0001/iter_02", UNREAD) in {(finding.piece, finding.severity) for finding in new()}
