"""Files of values whose marks are whole, and from which no table can be made all the same."""

import dataclasses
from collections.abc import Callable

from distsim.store import SweepStore
from distsim.store.commits import read_mark
from distsim.verify import derived
from distsim.verify.report import Finding

SHAPE = (40, 8, 8, 16)
PCA = {"rank_x": 16, "rank_y": 15, "dead_x": 0, "dead_y": 1, "warning": "", "reason": ""}
CHANNELS = {"value": 0.5, "n": 40 * 64, "columns_x": 16, "columns_y": 16, "n_per_p": 160.0} | PCA
KERNEL = {"value": 0.5, "n": 40, "columns_x": 1024, "columns_y": 1024, "n_per_p": 40 / 1024} | PCA
VALUES = {"cka": KERNEL, "svcca": CHANNELS}


def test_the_rows_and_columns_of_a_comparison() -> None:
    assert list(derived.size_faults(VALUES, SHAPE)) == []
    for change in ({"n": 41}, {"columns_x": 16}):
        assert len(list(derived.size_faults(VALUES | {"cka": KERNEL | change}, SHAPE))) == 1, change
    assert len(list(derived.size_faults(VALUES | {"svcca": KERNEL}, SHAPE))) == 1, "rows of the other view"
    assert list(derived.size_faults({"mine": KERNEL}, SHAPE)) == [], "a metric that a script registered"


def test_values_that_cannot_be(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    for what, fault in (("comparison", {"value": None}), ("chance", {"values": [0.5]})):
        (path,) = (path for path in store.storage.sizes(f"runs/0000/iter_01/{what}/fc1"))
        mark = read_mark(store.storage, path)
        assert mark is not None
        values = mark.values | {"cka": mark.values["cka"] | fault}
        store.storage.put(path, dataclasses.replace(mark, values=values).encode())
        assert any("field values.cka" in finding.sentence for finding in new() if finding.piece == path)
        store.storage.put(path, mark.encode())
    other = path.replace("fc1", "fc2")
    store.storage.put(other, mark.encode())
    assert [finding.sentence for finding in new() if finding.piece == other] == [f"is damaged: it belongs to {path!r}"]
    store.storage.put(other, dataclasses.replace(mark, provenance={"piece": other}).encode())
    assert [finding.sentence for finding in new() if finding.piece == other] == ["the model has no such layer"]
