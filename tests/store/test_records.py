"""The records of a store: each field has its type, and a record is what its path says."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from distsim.specs import NetworkId, canonical_json, digest
from distsim.store import DamagedStore, Mark, Storage
from distsim.store.paths import place_of
from distsim.store.records import decode_record, decode_spec, read_record, require_values

PCA = {"rank_x": 16, "rank_y": 15, "dead_x": 0, "dead_y": 1, "warning": "", "reason": ""}
CHANNELS = {"value": 0.5, "n": 2560, "columns_x": 16, "columns_y": 16, "n_per_p": 160.0} | PCA
KERNEL = {"value": 0.5, "n": 40, "columns_x": 1024, "columns_y": 1024, "n_per_p": 0.04} | PCA
VALUES = {"cka": KERNEL, "svcca": CHANNELS}
RECORD = {
    "run": 3,
    "iteration": 7,
    "epochs": 2,
    "accuracy": 0.5,
    "loss": 1.25,
    "remaining": 0.2,
    "remaining_pool": 0.1,
    "reduced": True,
    "train_loss": [0.5, 0.25],
    "best_epoch": None,
}
RUN = "runs/0003/iter_07"
COMPARISON = f"{RUN}/comparison/fc1/cka+svcca.json"


def fault(path: str, values: Any) -> str:
    """Return what is wrong with the values at this path, or ""."""
    place = place_of(path)
    assert place is not None
    try:
        require_values(place, values)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"run": 4}, "it is the record of run 4, iteration 7"),
        ({"run": "complete"}, "it is the record of run complete, iteration 7"),
        ({"accuracy": "0.5"}, "field values.accuracy must be a finite number, got '0.5'"),
        ({"accuracy": None}, "field values.accuracy must be a finite number, got None"),
        ({"loss": 10**400}, "field values.loss must be a finite number, got 1000"),
        ({"epochs": -1}, "field values.epochs must not be negative, got -1"),
        ({"epochs": 1.5}, "field values.epochs must be a whole number (64 bits), got 1.5"),
        ({"reduced": 1}, "field values.reduced must be True or False, got 1"),
        ({"train_loss": [0.5, []]}, "field values.train_loss[1] must be a finite number, got []"),
        ({"train_loss": 3}, "field values.train_loss must be a list, got 3"),
        ({"later": "a field of a newer version"}, ""),
        ({"accuracy": 7}, "field values.accuracy must be in [0, 1], got 7"),
        ({"remaining": -0.1}, "field values.remaining must be in [0, 1], got -0.1"),
        ({"remaining_pool": 1.5}, "field values.remaining_pool must be in [0, 1], got 1.5"),
        ({"accuracy": 1.0, "remaining": 1, "remaining_pool": 0.0}, ""),
        ({"loss": 3e38, "train_loss": [3e38, -1.0]}, ""),
        ({"loss": 1.7e308}, "field values.loss must be between -1e+100 and 1e+100, got 1.7e+308"),
    ],
)
def test_the_record_of_a_network(change: dict[str, Any], said: str) -> None:
    assert fault(f"{RUN}/COMMIT.json", RECORD | change).startswith(said)
    assert bool(fault(f"{RUN}/COMMIT.json", RECORD | change)) == bool(said)


def test_a_record_that_lacks_a_field() -> None:
    for name in set(RECORD) - {"train_loss", "best_epoch"}:
        lacking = {key: value for key, value in RECORD.items() if key != name}
        assert fault(f"{RUN}/COMMIT.json", lacking) == f"field values.{name} is missing"
    complete = RECORD | {"run": "complete", "iteration": 0}
    assert fault("complete/COMMIT-2.json", complete) == ""
    assert fault(f"{RUN}/COMMIT.json", [RECORD]).startswith("field values must be an object, got [")


def test_a_comparison() -> None:
    assert fault(COMPARISON, VALUES) == ""
    assert fault(COMPARISON, VALUES | {"cka": KERNEL | {"value": None, "reason": "no variance"}}) == ""
    assert fault(f"{RUN}/comparison/fc1/cka.json", VALUES) == "it holds 'cka, svcca', but its name says otherwise"
    for change in (
        {"value": None},
        {"value": float("inf")},
        {"value": True},
        {"reason": "why"},
        {"n": -40},
        {"n": 10**400},
        {"rank_x": 1.0},
        {"dead_y": None},
        {"n_per_p": "1"},
        {"n_per_p": None},
        {"warning": None},
    ):
        assert fault(COMPARISON, VALUES | {"cka": KERNEL | change}), change
    no_ranks = {"rank_x": None, "rank_y": None}
    assert fault(COMPARISON, VALUES | {"cka": KERNEL | no_ranks}) == ""
    assert fault(COMPARISON, VALUES | {"svcca": CHANNELS | no_ranks}) == "field values.svcca has no ranks"
    assert fault(COMPARISON, VALUES | {"cka": {}}) == "field values.cka.columns_x is missing"
    assert fault(COMPARISON, VALUES | {"cka": 3}) == "field values.cka must be an object, got 3"
    assert fault(f"{RUN}/comparison/fc1/mine.json", {"mine": KERNEL}) == "", "a metric that only a script knows"


def test_values_lie_within_their_metrics_bounds() -> None:
    def said(metric: str, value: float, what: str = "comparison") -> str:
        if what == "comparison":
            return fault(f"{RUN}/comparison/fc1/{metric}.json", {metric: CHANNELS | {"value": value}})
        values = {"values": [value] * 5, "reasons": [""] * 5}
        return fault(f"{RUN}/chance/fc1/{metric}.json", {metric: values})

    for what in ("comparison", "chance"):
        assert said("cka", 5.0, what) == "field values.cka has the value 5.0, and cka lies between 0 and 1"
        assert said("rsa", -1.5, what) == "field values.rsa has the value -1.5, and rsa lies between -1 and 1"
        assert said("linear_predictivity", 1.1, what)
        assert said("cka", 1.7e308, what), what
        for metric, value in (
            *(("cka", 1.0000001), ("nbs", -1e-9), ("rsa", -1.0), ("procrustes", 1.5), ("dimension", 400.0)),
            *(("cka_unbiased", -0.3), ("linear_predictivity", -1e6), ("mine", 5e9)),
        ):
            assert said(metric, value, what) == "", (metric, what)
    tile = {"layer": "fc1", "pairs": [[[0, 1], [1, 1], {"cka": KERNEL | {"value": -3.0}}]]}
    named = canonical_json([["((0, 1), (1, 1))"], ["cka"]]).encode()
    path = f"pairs/fc1/{hashlib.sha256(named).hexdigest()[:16]}.json"
    assert fault(path, tile).endswith("has the value -3.0, and cka lies between 0 and 1")
    for change in ({"n_per_p": 1.7e308}, {"null": -1.7e308}, {"effective_rank_x": 1e101}, {"upper": 1e101}):
        assert fault(COMPARISON, VALUES | {"cka": KERNEL | change}), change


def test_values_of_permuted_examples() -> None:
    def said(result: Any) -> str:
        return fault(f"{RUN}/chance/fc1/cka.json", {"cka": result})

    assert said({"values": [0.1, None, 0.2, 0.3, 0.4], "reasons": ["", "no variance", "", "", ""]}) == ""
    assert said({"values": [0.1] * 4, "reasons": [""] * 4}) == "field values.cka must have 5 values, got 4"
    assert said({"values": [0.1] * 5, "reasons": [""] * 4})
    assert (
        said({"values": [0.1] * 4 + [None], "reasons": [""] * 5}) == "field values.cka has neither a value nor a reason"
    )
    assert said({"values": 3, "reasons": 4}) == "field values.cka.values must be a list, got 3"
    assert said(None)


def test_a_tile_of_pairs() -> None:
    values = {"layer": "conv1_1", "pairs": [[[0, 1], [1, 1], VALUES], [None, [0, 2], VALUES]]}
    named = canonical_json([["((0, 1), (1, 1))", "(None, (0, 2))"], ["cka", "svcca"]]).encode()  # since format 4
    key = hashlib.sha256(named).hexdigest()[:16]
    path = f"pairs/conv1_1/{key}.json"
    assert fault(path, values) == ""
    assert fault(f"pairs/conv1_1/{key[::-1]}.json", values) == "it holds other pairs than its name says"
    assert fault(f"pairs/out/{key}.json", values) == "it holds values of layer 'conv1_1'"
    wrong = json.loads(json.dumps(values))
    wrong["pairs"][1][2]["cka"]["value"] = None
    said = "field cka of complete network and run 0, iteration 2 has neither a value nor a reason"
    assert fault(path, wrong) == said
    for nonsense in (None, {}, {"layer": "conv1_1", "pairs": [1]}, {"layer": "conv1_1", "pairs": [[1, 2, {}]]}):
        assert fault(path, nonsense)


def test_activations_and_tables() -> None:
    array = {"dtype": "float16", "shape": [40, 8], "sha256": "0" * 64}
    path = f"{RUN}/activations/COMMIT-2.json"
    assert fault(path, {"layers": {"fc1": array}}) == fault(path, {}) == "", "older marks have no layers"
    for change in ({"dtype": "object"}, {"shape": [10**9 + 1]}, {"shape": "8"}, {"sha256": "xyz"}):
        said = fault(path, {"layers": {"fc1": array | change}})
        assert said.startswith(f"field values.layers.fc1.{next(iter(change))}")
    assert fault("results/COMMIT.json", {"inputs": "abc"}) == fault("figures/COMMIT.json", {"inputs": "abc"}) == ""
    assert fault("results/COMMIT.json", {"inputs": 3}) == "field values.inputs must be text, got 3"
    assert fault("pair_results/COMMIT.json", {"inputs": {"a": 3}}) == "field values.inputs.a must be text, got 3"
    tiles = {"pairs/fc1/a.json": "0", "pairs/fc1/b.json": "1"}
    assert fault("pair_results/COMMIT.json", {"inputs": tiles, "plans": {"runs": {"pairs/fc1/b.json": "1"}}}) == ""
    for of_plan in ({"pairs/fc1/b.json": "0"}, {"pairs/fc1/c.json": "1"}):
        said = fault("pair_results/COMMIT.json", {"inputs": tiles, "plans": {"runs": of_plan}})
        assert said == "field values.plans.runs has tiles that inputs has not"


def signed(tree: dict[str, Any]) -> bytes:
    return canonical_json(tree | {"sha256": digest(tree)}).encode()


WHOLE: dict[str, Any] = {
    "attempt": "0" * 12,
    "objects": {"weights.safetensors": [3, "0" * 64]},
    "values": RECORD,
    "identity": "1" * 64,
    "environment": {"torch": "2.11", "threads": 1},
    "provenance": {"seconds": 1.5, "piece": RUN},
}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        *(
            (name, value, f"field {name}")
            for name in ("values", "environment", "provenance")
            for value in (None, [1], "x")
        ),
        ("identity", 3, "field identity must be text, got 3"),
        ("attempt", None, "field attempt must be text, got None"),
        ("objects", [], "field objects must be an object, got []"),
        ("objects", {"x": [1]}, "field objects.x must be a list of 2, got [1]"),
        ("objects", {"x": [-1, "0" * 64]}, "field objects.x[0] must not be negative, got -1"),
        ("objects", {"x": [1, "0" * 63]}, "field objects.x[1] must be a SHA-256 in hexadecimal, got '000"),
        ("objects", {"x": [10**400, "0" * 64]}, "field objects.x[0] must be a whole number (64 bits), got 1000"),
        ("environment", {"torch": {"a": 1}}, "field environment.torch must be text or "),
        ("provenance", {"seconds": 10**400}, "field provenance.seconds must be text or "),
        ("environment", {"instruction_set": True}, "field environment.instruction_set must be text, got True"),
        ("environment", {"threads": "1"}, "field environment.threads must be a whole number"),
        ("provenance", {"started": 3}, "field provenance.started must be text, got 3"),
        ("provenance", {"seconds": None}, "field provenance.seconds must be a finite number, got None"),
        ("provenance", {"piece": "runs/0003/iter_08"}, "it belongs to 'runs/0003/iter_08'"),
        ("later", 1, "it has the field 'later', which this distsim does not know"),
        (
            "environment",
            {"machine": "\ud800"},
            "field environment.machine must be text that can be encoded, got '\\ud800'",
        ),
        ("environment", {"\udce9": 1}, "field environment must be text that can be encoded, got '\\udce9'"),
        ("provenance", {"host": "a\ud800"}, "field provenance.host must be text that can be encoded, got "),
        ("values", RECORD | {"later": ["\ud800"]}, "field values.later must be text that can be encoded, got "),
        ("provenance", {"seconds": 1.7e308}, "field provenance.seconds must be between "),
    ],
)
def test_a_mark_whose_digest_is_right(tmp_path: Path, field: str, value: Any, said: str) -> None:
    decode_record(signed(WHOLE), f"{RUN}/COMMIT.json")
    storage, path = Storage(tmp_path), f"{RUN}/COMMIT.json"
    storage.put(path, signed(WHOLE | {field: value}))
    with pytest.raises(DamagedStore, match="is damaged: ") as caught:
        read_record(storage, path)
    assert str(caught.value).split("is damaged: ")[1].startswith(said)


def test_a_mark_in_the_place_of_another() -> None:
    """Activations of another network are refused, also where the older mark does not name its piece."""
    unnamed = {**WHOLE, "provenance": {}}
    assert decode_record(signed(unnamed), f"{RUN}/COMMIT.json").values == RECORD
    with pytest.raises(ValueError, match="it is the record of run 3, iteration 7"):
        decode_record(signed(unnamed), "runs/0003/iter_06/COMMIT.json")
    activations = WHOLE | {"values": {}, "provenance": {"piece": f"{RUN}/activations"}}
    decode_record(signed(activations), f"{RUN}/activations/COMMIT.json")
    with pytest.raises(ValueError, match=f"it belongs to '{RUN}/activations'"):
        decode_record(signed(activations), "runs/0001/iter_07/activations/COMMIT.json")


def test_a_mark_too_large_or_too_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, path = Storage(tmp_path), f"{RUN}/COMMIT.json"
    storage.put(path, signed(WHOLE) + b" " * 2**25)
    with pytest.raises(DamagedStore, match="it has more than 33,554,432 bytes"):
        read_record(storage, path)
    storage.put(path, b'{"a":' * 100_000)
    with pytest.raises(DamagedStore, match="is damaged"):
        read_record(storage, path)


def test_what_spec_json_must_hold() -> None:
    spec = {"identity": {}, "hash": "0" * 64, "distsim": "0.2"}
    assert decode_spec(json.dumps(spec).encode()) == spec
    for change in ({"identity": []}, {"hash": "x"}, {"hash": None}, {"distsim": 3}):
        with pytest.raises(ValueError, match=f"field {next(iter(change))}"):
            decode_spec(json.dumps(spec | change).encode())
    with pytest.raises(ValueError, match="it must be an object, got 3"):
        decode_spec(b"3")
    with pytest.raises(ValueError, match="more than 1,048,576 bytes"):
        decode_spec(b" " * (2**20 + 1))
    with pytest.raises(ValueError, match="nested too deeply"):
        decode_spec(b"[" * 10**5)


def test_places() -> None:
    place = place_of("complete-1/runs/0003/iter_07/activations/DROPPED-4.json")
    assert place is not None
    assert (place.kind, place.network, place.generation) == ("activations", NetworkId(3, 7, 1), 4)
    assert place.dropped
    assert place.piece == "complete-1/runs/0003/iter_07/activations"
    values = place_of(f"{RUN}/chance/block%2Fconv1/cka+nbs.json")
    assert values is not None
    assert (values.kind, values.layer, values.metrics) == ("chance", "block/conv1", ["cka", "nbs"])
    for path in (
        "spec.json",
        "runs/3/iter_07/COMMIT.json",
        f"{RUN}/COMMIT-0.json",
        "pairs/x.json",
        f"{RUN}/x/fc/cka.json",
    ):
        assert place_of(path) is None, path


def test_a_mark_is_read_as_it_was_written() -> None:
    mark = Mark("0" * 12, {"x": (3, "0" * 64)}, RECORD, "1" * 64, {"torch": "2"}, {"piece": RUN})
    assert decode_record(mark.encode(), f"{RUN}/COMMIT.json") == mark
    with pytest.raises(ValueError, match="does not match"):
        decode_record(mark.encode().replace(b"111", b"222"), f"{RUN}/COMMIT.json")
