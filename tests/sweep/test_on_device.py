"""Comparison of whole networks as on a GPU, one forward pass each: on the CPU, with torch's tensors."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distsim.activations.layout import Float16Check
from distsim.comparison.devices import ON_CPU
from distsim.environment import threads
from distsim.metrics import reads
from distsim.problems import PROBLEMS
from distsim.results import reduce as results
from distsim.results.reduce import read_tables
from distsim.specs import COMPLETE, NetworkId
from distsim.store import Storage, SweepStore
from distsim.sweep import comparison_worker, cost, jobs, on_device
from distsim.sweep.comparison_worker import ComparisonWorker
from distsim.sweep.engine import LocalEngine
from distsim.sweep.failures import SweepFailed
from distsim.sweep.jobs import Comparison, NetworkComparison
from distsim.sweep.order import Prepared, prepare, take
from distsim.sweep.run import run

SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=100, train_limit=200)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "draw", lambda root, again=False: [])


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons go the way of `--activations memory` on a GPU."""
    in_memory = jobs.by_network
    monkeypatch.setattr(jobs, "by_network", lambda sweep: in_memory(dataclasses.replace(sweep, device="cuda")))
    before = ComparisonWorker.__init__

    def init(self: ComparisonWorker, *args: Any, **options: Any) -> None:
        before(self, *args, **options)
        self._device = ON_CPU

    monkeypatch.setattr(ComparisonWorker, "__init__", init)


def ordered(**choices: Any) -> Prepared:
    return prepare(SMALL, **{"runs": 2, "iterations": 2, "activations": "memory"} | choices)


def computed(folder: Path, one: Prepared) -> bool:
    take([one], Storage(folder))
    return run([one], Storage(folder), LocalEngine(Storage(folder)), lambda line: None)


@pytest.fixture(scope="module")
def layer_by_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw", lambda root, again=False: [])
        assert computed(folder, ordered())
    return folder


def test_values_are_those_of_the_cpu(as_on_a_gpu: None, layer_by_layer: Path, tmp_path: Path) -> None:
    assert computed(tmp_path, ordered())
    assert not computed(tmp_path, ordered()), "nothing is missing"
    found, expected = read_tables(Storage(tmp_path)), read_tables(Storage(layer_by_layer))
    for table in ("similarities", "chance"):
        ours, theirs = getattr(found, table), getattr(expected, table)
        assert len(ours) == len(theirs) > 0
        for column in ours:
            if ours[column].dtype.kind == "f":
                np.testing.assert_allclose(ours[column], theirs[column], rtol=0, atol=1e-12, err_msg=column)
            else:
                assert (ours[column].fillna("") == theirs[column].fillna("")).all(), column


def test_dbg(as_on_a_gpu: None, layer_by_layer: Path, tmp_path: Path) -> None:
    assert computed(tmp_path, ordered())
    found, expected = read_tables(Storage(tmp_path)).similarities, read_tables(Storage(layer_by_layer)).similarities
    bad = abs(found["value"] - expected["value"]) > 1e-12
    print(found[bad].to_string())
    print(expected[bad].to_string())
    assert 0
