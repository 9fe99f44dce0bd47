"""Files of values whose marks are whole, and from which no table can be made all the same."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

from distsim.specs import canonical_json
from distsim.store import SweepStore
from distsim.store.commits import read_mark
from distsim.verify import derived
from distsim.verify.report import Finding

SHAPE = (40, 8, 8, 16)
PCA = {"rank_x": 16, "rank_y": 15, "dead_x": 0, "dead_y": 1, "warning": "", "reason": ""}
CHANNELS = {"value": 0.5, "n": 40 * 64, "columns_x": 16, "columns_y": 16, "n_per_p": 160.0} | PCA
KERNEL = {"value": 0.5, "n": 40, "columns_x": 1024, "columns_y": 1024, "n_per_p": 40 / 1024} | PCA
VALUES = {"cka": KERNEL, "svcca": CHANNELS}


def test_a_comparison() -> None:
    def faults(values: Any, named: tuple[str, ...] = ("cka", "svcca"), shape: tuple[int, ...] = SHAPE) -> list[str]:
        return derived.comparison_faults(values, named, shape)

    assert faults(VALUES) == faults(VALUES, shape=()) == []
    missing = KERNEL | {"value": None, "reason": "no variance"}
    assert faults(VALUES | {"cka": missing}) == []
    assert len(faults(VALUES, named=("cka",))) == 1
    assert len(faults(None)) == len(faults({"cka": KERNEL})) == 1
    for change in (
        {"value": None},
        {"value": float("inf")},
        {"value": True},
        {"reason": "why"},
        {"n": 41},
        {"n": -40},
        {"columns_x": 16},
        {"rank_x": 1.0},
        {"dead_y": None},
        {"n_per_p": "1"},
        {"n_per_p": None},
        {"warning": None},
    ):
        assert len(faults(VALUES | {"cka": KERNEL | change})) == 1, change
    assert len(faults(VALUES | {"svcca": KERNEL})) == 1, "rows of the other view"
    no_ranks = {"rank_x": None, "rank_y": None}
    assert faults(VALUES | {"cka": KERNEL | no_ranks}) == []
    assert len(faults(VALUES | {"svcca": CHANNELS | no_ranks})) == 1
    assert len(faults(VALUES | {"cka": {}})) == len(faults(VALUES | {"cka": 3})) == 1
    assert faults({"mine": KERNEL}, ("mine",)) == [], "a metric that a script registered is not known here"


def test_what_comes_by_chance() -> None:
    def faults(one: Any) -> list[str]:
        return derived.chance_faults({"cka": one}, ("cka",))

    assert faults({"values": [0.1, None, 0.2, 0.3, 0.4], "reasons": ["", "no variance", "", "", ""]}) == []
    assert len(faults({"values": [0.1] * 4, "reasons": [""] * 4})) == 1
    assert len(faults({"values": [0.1] * 5, "reasons": [""] * 4})) == 1
    assert len(faults({"values": [0.1] * 4 + [None], "reasons": [""] * 5})) == 1
    assert len(faults({"values": 3, "reasons": 4})) == len(faults(None)) == 1


def test_a_tile_of_pairs() -> None:
    values = {"layer": "conv1_1", "pairs": [[[0, 1], [1, 1], VALUES], [None, [0, 2], VALUES]]}
    named = canonical_json([["((0, 1), (1, 1))", "(None, (0, 2))"], ["cka", "svcca"]]).encode()  # since format 4
    key = hashlib.sha256(named).hexdigest()[:16]
    assert derived.pairs_faults(values, key, "conv1_1") == []
    assert derived.pairs_faults(values, key[::-1], "conv1_1") == ["it holds other pairs than its name says"]
    assert len(derived.pairs_faults(values, key, "out")) == 1
    wrong = json.loads(json.dumps(values))
    wrong["pairs"][1][2]["cka"]["value"] = None
    assert derived.pairs_faults(wrong, key, "conv1_1") == [
        "complete network and run 0, iteration 2: cka is None, reason ''"
    ]
    for nonsense in (None, {}, {"layer": "conv1_1", "pairs": [1]}, {"layer": "conv1_1", "pairs": [[1, 2, {}]]}):
        assert derived.pairs_faults(nonsense, key, "conv1_1") == ["it does not hold values of pairs"]


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
    assert [finding.sentence for finding in new() if finding.piece == other] == [f"belongs to {path!r}"]
    store.storage.put(other, dataclasses.replace(mark, provenance={"piece": other}).encode())
    assert [finding.sentence for finding in new() if finding.piece == other] == ["the model has no such layer"]
