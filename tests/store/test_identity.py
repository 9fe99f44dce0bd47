"""Whose numbers a store holds: what may be asked of it, and what is refused rather than misread."""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import distsim
from distsim.problems import PROBLEMS
from distsim.specs import COMPLETE, FORMAT, PERMUTATIONS, Extent, Identity, NetworkId, Request, canonical_json, digest
from distsim.store import DamagedStore, IdentityMismatch, Mark, Storage, SweepStore
from distsim.store.activations import Reader
from distsim.store.commits import Attempt
from distsim.store.paths import values_path
from distsim.training.chain import TrainedNetwork

OURS = Identity(problem=PROBLEMS["digits"], data_digest="0" * 64)
OTHER = dataclasses.replace(OURS, seed=7)
RECORD = {"accuracy": 0.5, "loss": 1.0, "remaining": 1.0, "remaining_pool": 1.0, "epochs": 2, "reduced": False}
RECORD |= {"run": "complete", "iteration": 0}
STEP = TrainedNetwork(0, {"w": torch.ones(3)}, {"w": torch.ones(3, dtype=torch.bool)}, RECORD)


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    return SweepStore(Storage(tmp_path), "digits")


def spec_of(store: SweepStore) -> dict[str, Any]:
    return dict(json.loads(store.storage.get("spec.json") or b""))


def test_what_failed_before_anything_was_committed_holds_nobody_up(store: SweepStore) -> None:
    assert store.claim(OTHER) is True
    store.storage.put("complete/epoch/unfinished.safetensors", b"of the other")
    assert store.claim(OURS) is True
    assert store.claim(OURS) is False
    assert store.identity().hash == OURS.hash


def test_what_was_committed_is_not_taken_for_another_sweeps(store: SweepStore) -> None:
    store.claim(OTHER)
    store.commit_network(COMPLETE, STEP, identity=OTHER.hash)
    with pytest.raises(IdentityMismatch, match=r"It differs in seed: 0 asked for, 7 in the store\. Ask for the same"):
        store.claim(OURS)
    assert store.identity().hash == OTHER.hash


def test_a_lost_spec_is_written_again_by_its_own_sweep_only(store: SweepStore) -> None:
    store.claim(OURS)
    store.commit_network(COMPLETE, STEP, identity=OURS.hash)
    store.storage.delete(["spec.json"])
    with pytest.raises(
        IdentityMismatch, match=r"holds complete network of another sweep of digits, and its spec\.json is gone"
    ):
        store.claim(OTHER)
    assert store.storage.get("spec.json") is None
    assert store.claim(OURS) is True


@pytest.mark.parametrize("format", [FORMAT - 1, FORMAT + 1])
def test_a_store_of_another_format_is_refused_with_the_version(store: SweepStore, format: int) -> None:
    store.claim(OURS)
    assert spec_of(store)["distsim"] == distsim.__version__
    spec = spec_of(store) | {"distsim": "0.0.9"}
    spec["identity"]["format"] = format
    store.storage.put("spec.json", json.dumps(spec).encode())
    said = rf"another distsim \(0\.0\.9; this is {distsim.__version__}\): its format is {format}, this distsim reads"
    for work in (store.identity, lambda: store.claim(OURS)):
        with pytest.raises(DamagedStore, match=said):
            work()


REQUEST = Request(Extent(runs=2, iterations=3), "folder:/data", "cpu")


def test_a_request_is_what_was_asked_for_last(store: SweepStore) -> None:
    with pytest.raises(FileNotFoundError, match=r"no request\.json in "):
        store.request()
    for request in (REQUEST, dataclasses.replace(REQUEST, device="cuda")):
        store.write_request(request)
        assert store.request() == request
    older = canonical_json(REQUEST.as_dict()).encode()  # without a digest
    store.storage.put("request.json", older)
    assert store.request() == REQUEST


def test_a_request_of_a_newer_distsim_is_refused_and_left_as_it_is(store: SweepStore) -> None:
    tree = REQUEST.as_dict() | {"epochs_between": 3}
    content = canonical_json(tree | {"sha256": digest(tree)}).encode()
    store.storage.put("request.json", content)
    said = r"was written by another distsim \(this is .*\): request has the field 'epochs_between'"
    with pytest.raises(DamagedStore, match=said):
        store.request()
    assert store.storage.get("request.json") == content


@pytest.mark.parametrize("field", ["runs", "chance", "data", "device"])
def test_a_request_that_lacks_what_was_always_there_is_damaged(store: SweepStore, field: str) -> None:
    tree = {name: value for name, value in REQUEST.as_dict().items() if name != field}
    store.storage.put("request.json", canonical_json(tree | {"sha256": digest(tree)}).encode())
    with pytest.raises(DamagedStore, match=r"request\.json of .* is damaged: run its sweep script"):
        store.request()


def test_a_damaged_request_is_not_carried_out(store: SweepStore) -> None:
    store.write_request(REQUEST)
    content = store.storage.get("request.json") or b""
    changed = content.replace(b'"runs":2', b'"runs":3')
    assert changed != content
    store.storage.put("request.json", changed)
    with pytest.raises(DamagedStore, match=r"request\.json of .* is damaged: run its sweep script"):
        store.request()


def test_a_spec_of_a_newer_distsim_is_refused_by_the_field(store: SweepStore) -> None:
    store.claim(OURS)
    spec = spec_of(store)
    spec["identity"]["problem"]["recipe"]["warmup"] = 5
    spec["hash"] = digest(spec["identity"])
    store.storage.put("spec.json", canonical_json(spec).encode())
    with pytest.raises(DamagedStore, match=r"another distsim .*: problem\.recipe has the field 'warmup', which this"):
        store.claim(OURS)


def test_a_spec_in_another_problems_folder_is_refused(store: SweepStore, tmp_path: Path) -> None:
    store.claim(OURS)
    other = SweepStore(Storage(tmp_path), "cifar2")
    other.storage.put("spec.json", store.storage.get("spec.json") or b"")
    with pytest.raises(DamagedStore, match=r"belongs to digits"):
        other.identity()


# --- what counts as committed -----------------------------------------------------------------------------------------

NETWORK, SECOND = NetworkId(0, 1), NetworkId(1, 1)


def similarity(value: float) -> dict[str, Any]:
    """The values of a layer's comparison."""
    counts = dict.fromkeys(("n", "columns_x", "columns_y", "dead_x", "dead_y"), 8)
    said = {"reason": "", "n_per_p": 1.0, "warning": "", "rank_x": None, "rank_y": None}
    return {"cka": {"value": value} | counts | said}


@pytest.mark.parametrize(
    ("there", "counts"),
    [
        (["COMMIT"], True),
        (["COMMIT", "DROPPED"], False),  # whoever dropped it died before the mark was deleted
        (["DROPPED", "COMMIT-2"], True),
        (["DROPPED", "COMMIT", "COMMIT-2"], True),
        (["COMMIT-2"], False),  # the end of the first generation was lost: nobody may write a second
        (["COMMIT-3", "DROPPED-2"], False),
        (["DROPPED", "COMMIT-2", "DROPPED-2"], False),
    ],
)
def test_a_mark_counts_in_its_own_generation_only(store: SweepStore, there: list[str], counts: bool) -> None:
    for name in there:
        store.storage.put(f"{NETWORK.path}/{name}.json", Mark("", {}).encode())
    assert (NETWORK in store.contents().networks) is counts


def test_values_and_activations_count_while_their_network_is_committed(store: SweepStore) -> None:
    by_chance = {"cka": {"values": [0.5] * PERMUTATIONS, "reasons": [""] * PERMUTATIONS}}
    store.commit_comparison(NETWORK, "fc1", similarity(0.5))
    store.commit_comparison(NETWORK, "fc1", by_chance, "chance")
    store.storage.put(f"{store.activations_path(NETWORK)}/COMMIT.json", Mark("", {}).encode())
    assert not any(store.contents().__dict__.values())
    store.commit_network(NETWORK, STEP)
    found = store.contents()
    assert found.networks == found.activations == {NETWORK}
    assert found.comparisons == found.chance == {(NETWORK, "fc1"): {"cka"}}


def test_values_in_anothers_place_are_refused(store: SweepStore) -> None:
    for network, value in ((NETWORK, 0.1), (SECOND, 0.2)):
        store.commit_comparison(network, "fc1", similarity(value))
    paths = [values_path(network, "comparison", "fc1", ["cka"]) for network in (NETWORK, SECOND)]
    store.storage.put(paths[0], store.storage.get(paths[1]) or b"")
    with pytest.raises(DamagedStore, match=f"{paths[0]} in .* is damaged: it belongs to "):
        store.comparisons()


def test_values_of_the_first_writer_stay(store: SweepStore) -> None:
    for value in (0.1, 0.2):
        store.commit_comparison(NETWORK, "fc1", similarity(value))
    (mark,) = store.comparisons()[NETWORK, "fc1"]
    assert mark.values == similarity(0.1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": None}, "field values.cka has neither a value nor a reason"),
        ({"value": float("nan")}, "Out of range float"),
        ({"warning": None}, "field values.cka.warning must be text, got None"),
        ({"n": -1}, "field values.cka.n must not be negative, got -1"),
    ],
)
def test_values_that_no_reader_takes_are_not_written(store: SweepStore, change: dict[str, Any], said: str) -> None:
    values = {"cka": similarity(0.5)["cka"] | change}
    with pytest.raises(ValueError, match=said):
        store.commit_comparison(NETWORK, "fc1", values)
    with pytest.raises(ValueError, match=said.replace("field values.cka", ".*")):
        store.commit_pairs("fc1", {(COMPLETE, NETWORK): values})
    assert not store.comparisons()
    assert not store.pair_marks()


class Program:
    """What a pickle can be: something that runs when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.file,)


def test_no_pickle_is_read_from_activations(store: SweepStore, tmp_path: Path) -> None:
    """Zarr's format 2 knows arrays of pickled objects; a mark that vouches for one is a stranger's."""
    ran = tmp_path / "ran"
    with Attempt(store.storage, "complete/activations") as attempt:
        folder = Path(attempt.storage.url) / attempt.prefix
        group = zarr.open_group(folder, mode="w", zarr_format=2)
        array = group.create_array("conv1", shape=(1,), dtype="i4", attributes={"position": 0, "kind": "conv"})
        array[:] = np.arange(1)
        metadata = json.loads((folder / "conv1" / ".zarray").read_text())
        metadata |= {
            "dtype": "|O",
            "filters": [{"id": "pickle", "protocol": 5}],
            "compressor": None,
            "fill_value": None,
        }
        (folder / "conv1" / ".zarray").write_text(json.dumps(metadata))
        (folder / "conv1" / "0").write_bytes(pickle.dumps(Program(ran)))
        for file in folder.rglob("*"):
            if file.is_file():
                attempt.wrote(file.relative_to(folder).as_posix(), file.read_bytes())
        mark = attempt.commit()
    with pytest.raises((DamagedStore, FileNotFoundError)):
        Reader(store.storage, "complete/activations", mark).layer("conv1").read()
    assert not ran.exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "masks.safetensors"])
def test_no_pickle_is_read_from_a_network(store: SweepStore, tmp_path: Path, name: str) -> None:
    ran = tmp_path / "ran"
    with Attempt(store.storage, "complete") as attempt:
        for file in ("weights.safetensors", "masks.safetensors"):
            attempt.put(file, pickle.dumps(Program(ran)))
        mark = attempt.commit(values=RECORD)
    assert isinstance(mark, Mark)
    with pytest.raises(DamagedStore, match=r"complete/attempt-.* cannot be read"):
        store.load_network(COMPLETE)
    assert not ran.exists()
