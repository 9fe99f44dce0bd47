"""Extraction beside training with `--local`, as on a GPU: the same bytes, written by as many threads as there are."""

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distsim.environment import threads
from distsim.problems import PROBLEMS
from distsim.processor import cores
from distsim.results import reduce as results
from distsim.store import Storage, SweepStore
from distsim.sweep import engine, extraction, training_worker
from distsim.sweep.engine import LocalEngine
from distsim.sweep.order import prepare, take
from distsim.sweep.run import run

SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=100, train_limit=200)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def computed(folder: Path) -> dict[str, str]:
    one = prepare(SMALL, runs=1, iterations=2, retention="all", chance=False)
    take([one], Storage(folder))
    run([one], Storage(folder), LocalEngine(Storage(folder)), lambda line: None)
    return SweepStore(Storage(folder), "digits").digests()


def test_the_bytes_are_those_of_extraction_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "draw", lambda root, again=False: [])
    in_order = computed(tmp_path / "order")
    monkeypatch.setattr(engine, "beside", lambda sweep: True)
    used, where = [], []
    writer, extract = extraction.Writer, training_worker.extract

    def counted(*args: Any, threads: int) -> Any:
        used.append(threads)
        return writer(*args, threads=threads)

    def located(*args: Any) -> Any:
        where.append(threading.current_thread() is threading.main_thread())
        return extract(*args)

    monkeypatch.setattr(extraction, "Writer", counted)
    monkeypatch.setattr(training_worker, "extract", located)
    assert computed(tmp_path / "beside") == in_order
    assert used == [cores()] * 3
    assert where == [True, False, False], "the complete network's are needed before anything else is"


def test_a_trial_that_was_given_cpus_uses_those() -> None:
    on_cpu = prepare(SMALL, runs=1, iterations=1, threads=1).sweep
    on_gpu = dataclasses.replace(on_cpu, device="cuda")
    given = dataclasses.replace(on_gpu, resources=(("cpu", 4.0),))
    assert [engine.beside(sweep) for sweep in (on_cpu, on_gpu, given)] == [False, True, True]
    assert [engine.writers(sweep) for sweep in (on_cpu, on_gpu, given)] == [None, cores(), None]
