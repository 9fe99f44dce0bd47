"""What similarity comes by chance, and comparisons without activations on disk."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from invariants import store_faults
from matplotlib.text import Text

from distsim.comparison.layer import Reference
from distsim.comparison.sides import InMemory
from distsim.comparison.spread import Taken
from distsim.environment import threads
from distsim.metrics import cka
from distsim.metrics.registry import METRICS, Metric
from distsim.problems import PROBLEMS
from distsim.results import reduce as results
from distsim.results.layer_figures import similarity_panels
from distsim.results.reduce import read_tables
from distsim.results.tables import Tables, chance_level
from distsim.seeds import numpy_stream
from distsim.specs import COMPLETE, NetworkId
from distsim.store import Storage, SweepStore
from distsim.store.activations import Reader
from distsim.store.lease import StoreInUse
from distsim.sweep.comparison_worker import ComparisonWorker
from distsim.sweep.engine import LocalEngine
from distsim.sweep.failures import SweepFailed
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


def ordered(**choices: Any) -> Prepared:
    return prepare(SMALL, **{"runs": 2, "iterations": 1} | choices)


def computed(folder: Path, one: Prepared) -> bool:
    take([one], Storage(folder))
    return run([one], Storage(folder), LocalEngine(Storage(folder)), lambda line: None)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw", lambda root, again=False: [])
        assert computed(folder, ordered(retention="all"))
    return folder


@pytest.fixture(scope="module")
def tables(kept: Path) -> Tables:
    return read_tables(Storage(kept))


def test_what_is_written_has_no_fault(kept: Path) -> None:
    """Networks, their masks and records, the probe, activations and comparisons."""
    store = SweepStore(Storage(kept), "digits")
    assert len(store.contents().activations) == 3
    assert store_faults(store) == []


def test_comparisons_record_how_nbs_was_computed_and_networks_do_not(kept: Path) -> None:
    """So that no network of an earlier version counts as trained in another environment."""
    store, network = SweepStore(Storage(kept), "digits"), NetworkId(0, 1)
    compared = [mark for marks in store.comparisons(of=network).values() for mark in marks]
    assert {mark.environment["nuclear_norm"] for mark in compared} == {"eigenvalues"}
    for which in (COMPLETE, network):
        mark = store.mark(which)
        assert mark is not None
        assert "nuclear_norm" not in mark.environment
        (other,) = {frozenset(each.environment.items()) for each in compared}
        assert dict(other) == mark.environment | {"nuclear_norm": "eigenvalues"}


# --- in memory -------------------------------------------------------------------------------------------------------


def test_in_memory_the_bits_are_those_from_disk(kept: Path, tmp_path: Path) -> None:
    assert computed(tmp_path, ordered(activations="memory"))
    store = SweepStore(Storage(tmp_path), "digits")
    from_disk = SweepStore(Storage(kept), "digits").digests()
    assert store.digests() == {piece: digest for piece, digest in from_disk.items() if "activations" not in piece}
    assert not [path for path in store.storage.sizes() if "activations" in path], "nothing was written"
    assert not computed(tmp_path, ordered(activations="memory")), "nothing is missing"


def test_a_gpu_that_only_compares_computes_activations_in_float32(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's default is TF32 for convolutions. Needs no GPU: it is set before the network goes there."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    one = ordered(activations="memory")
    worker = ComparisonWorker(
        SweepStore(Storage(kept), "digits"), dataclasses.replace(one.sweep, device="cuda"), one.dataset, True
    )
    with contextlib.suppress(AssertionError, RuntimeError):  # there may be no GPU
        worker.measure(COMPLETE, "fc1", ("cka",))
    assert not torch.backends.cudnn.allow_tf32


def test_what_float16_cannot_hold_is_held_in_float32_as_on_disk(monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    monkeypatch.setattr("distsim.activations.layout.FLOAT16_LARGEST", 0.5)
    one = ordered(activations="memory")
    comparer = ComparisonWorker(SweepStore(Storage(kept), "digits"), one.sweep, one.dataset)
    held = comparer._source(NetworkId(0, 1), "conv1_1")
    (panel,) = held.panels(10**6)
    assert panel.dtype == np.float32
    monkeypatch.undo()
    (rounded,) = comparer._source(NetworkId(0, 1), "conv1_1").panels(10**6)
    np.testing.assert_array_equal(panel.astype(np.float16), rounded)


def test_a_network_that_cannot_be_loaded_does_not_hold_up_the_others(tmp_path: Path) -> None:
    one = ordered(activations="memory", chance=False)
    computed(tmp_path, one)
    store = SweepStore(Storage(tmp_path), "digits")
    for path in [path for path in store.storage.sizes() if "/comparison/" in path]:
        store.storage.delete([path])
    mark = store.mark(NetworkId(0, 1))
    assert mark is not None
    path = f"runs/0000/iter_01/attempt-{mark.attempt}/weights.safetensors"
    store.storage.put(path, b"x" + (store.storage.get(path) or b"")[1:])
    with pytest.raises(SweepFailed, match=r"runs/0000/iter_01.* is damaged"):
        computed(tmp_path, one)
    assert {network for network, _ in store.contents().comparisons} == {NetworkId(1, 1)}


# --- by chance -------------------------------------------------------------------------------------------------------


def test_each_layer_and_metric_has_five_values_by_chance(tables: Tables) -> None:
    chance = tables.chance
    assert set(zip(chance["run"], chance["iteration"], strict=True)) == {(0, 1)}
    expected = set(map(tuple, tables.similarities[["layer", "metric"]].drop_duplicates().to_numpy()))
    assert set(zip(chance["layer"], chance["metric"], strict=True)) == expected
    assert (chance.groupby(["layer", "metric"])["permutation"].apply(list).apply(tuple) == (0, 1, 2, 3, 4)).all()
    assert chance["value"].notna().all()
    assert chance.groupby(["layer", "metric"])["value"].nunique().min() > 1, "the permutations differ"


def test_what_comes_by_chance_is_less(tables: Tables) -> None:
    real = tables.similarities.set_index(["layer", "metric"])["value"].groupby(level=[0, 1]).min()
    levels = chance_level(tables.chance).set_index(["layer", "metric"])
    assert (levels["low"] <= levels["median"]).all()
    assert (levels["median"] <= levels["high"]).all()
    kernels = levels.query("metric in ('cka', 'nbs')")
    assert (kernels["high"] < real.loc[kernels.index]).all()


def test_a_value_is_that_of_the_permuted_examples(kept: Path, tables: Tables) -> None:
    """The same permutation in every network; the complete network's examples stay in order."""
    store, sides = SweepStore(Storage(kept), "digits"), []
    for network in (COMPLETE, NetworkId(0, 1)):
        mark = store.activations_mark(network)
        assert mark is not None
        sides.append(Reader(store.storage, store.activations_path(network), mark).layer("pool2").read())
    chance = tables.chance.set_index(["layer", "metric", "permutation"])["value"]
    for number in (0, 4):
        permutation = numpy_stream(0, "chance", "pool2", number).permutation(len(sides[1]))
        expected = cka(sides[0], sides[1][permutation], channels_last=True)
        assert chance["pool2", "cka", number] == pytest.approx(expected, abs=1e-10)


def test_permuted_examples_of_the_same_order_are_the_same() -> None:
    X = np.random.default_rng(0).standard_normal((30, 4, 3, 2))
    source = InMemory(X, rows=2)
    same = Taken(source, np.arange(30))
    assert Reference(source, ("cka", "svcca")).compare(same) == Reference(source, ("cka", "svcca")).compare(source)


@pytest.mark.parametrize(("held", "dropped"), [(1, False), (2, True), (3, True)])
def test_a_driver_that_was_taken_over_drops_and_replaces_nothing(tmp_path: Path, held: int, dropped: bool) -> None:
    """It is asked before a wave, before activations are dropped, before references, and before tables are written."""
    one, root, asked = ordered(runs=1, chance=False), Storage(tmp_path), itertools.count()
    take([one], root)

    def check() -> None:
        if next(asked) >= held:
            raise StoreInUse("another driver took over")

    with pytest.raises(StoreInUse):
        run([one], root, LocalEngine(root), lambda line: None, check)
    names = [path.rpartition("/")[2] for path in root.sizes()]
    assert ("DROPPED.json" in names) is dropped
    assert not any(path.startswith("digits/results/") for path in root.sizes())
    assert len(SweepStore(root, "digits").contents().comparisons) > 0


def test_without_chance_there_is_none(tmp_path: Path) -> None:
    computed(tmp_path, ordered(runs=1, chance=False))
    assert read_tables(Storage(tmp_path)).chance.empty
    store = SweepStore(Storage(tmp_path), "digits")
    assert computed(tmp_path, ordered(runs=1)), "asked for later, it is added"
    assert len(read_tables(Storage(tmp_path)).chance)
    assert store.contents().activations == {COMPLETE}


def test_the_band_is_drawn_from_its_lowest_to_its_highest(tables: Tables) -> None:
    levels = chance_level(tables.chance)
    figure = similarity_panels(tables.summary, "digits", ("cka",), chance=levels)
    (drawn,) = (one for one in figure.axes[0].collections if one.get_gid() == "chance")
    band = drawn.get_paths()[0].vertices[:, 1]
    of_metric = levels[levels["metric"] == "cka"]
    assert band.min() == pytest.approx(of_metric["low"].min())
    assert band.max() == pytest.approx(of_metric["high"].max())
    assert "by chance" in "".join(text.get_text() for text in figure.findobj(Text))


# --- one's own metric ------------------------------------------------------------------------------------------------


def test_a_sweep_computes_ones_own_metric(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = Metric("smallest_correlation", "channels", lambda pair: float(pair.correlations[-1]))
    monkeypatch.setitem(METRICS, own.name, own)
    computed(tmp_path, ordered(runs=1, metrics=("cka", own.name)))
    table = read_tables(Storage(tmp_path)).similarities
    assert set(table["metric"]) == {"cka", own.name}
    assert table["value"].between(0, 1).all()
