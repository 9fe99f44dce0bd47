"""A small sweep from end to end in this process: what its store holds, and what running it again does."""

import contextlib
import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from distsim import metrics
from distsim.data import Dataset
from distsim.environment import threads
from distsim.problems import PROBLEMS
from distsim.results import reduce as results
from distsim.results.reduce import draw, read_tables, reduce
from distsim.results.tables import Tables
from distsim.specs import COMPLETE, PAPER_METRICS, Extent, NetworkId
from distsim.store import (
    DamagedStore,
    IdentityMismatch,
    Storage,
    StorageError,
    SweepStore,
    problems_in,
)
from distsim.sweep import order
from distsim.sweep import run as sweep
from distsim.sweep.engine import LocalEngine
from distsim.sweep.failures import SweepFailed
from distsim.sweep.order import Prepared, compare_only, prepare, take
from distsim.sweep.run import run

SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=100, train_limit=200)
RUNS, ITERATIONS = 2, 2
PUBLIC: dict[str, Callable[[Any, Any], float]] = {
    "mean_cca": lambda X, Y: metrics.mean_cca(X, Y, channels_last=True),
    "svcca": lambda X, Y: metrics.svcca(X, Y, channels_last=True),
    "pwcca": lambda X, Y: metrics.pwcca(X, Y, side="first", channels_last=True),
    "cka": lambda X, Y: metrics.cka(X, Y, channels_last=True),
    "nbs": lambda X, Y: metrics.nbs(X, Y, channels_last=True),
    "cosine": metrics.cosine,
}


def ordered(**choices: Any) -> Prepared:
    return prepare(SMALL, **{"runs": RUNS, "iterations": ITERATIONS, "metrics": PAPER_METRICS, "measure": ()} | choices)


def silent(text: str) -> None:
    pass


def computed(folder: Path, *orders: Prepared) -> bool:
    root = Storage(folder)
    take(orders, root)
    return run(orders, root, LocalEngine(root), silent)


def store_in(folder: Path) -> SweepStore:
    return SweepStore(Storage(folder), "digits")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """More would not be faster on arrays of this size, and far slower where other processes are busy."""
    with threads(1):
        yield


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the sweep; one test draws them by the real function."""
    monkeypatch.setattr(results, "draw", lambda root, again=False: [])


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw", lambda root, again=False: [])
        yield


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep whose activations are all there. Not to be changed."""
    folder = tmp_path_factory.mktemp("kept")
    with undrawn():
        assert computed(folder, ordered(retention="all"))
    return folder


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep once more, with the default retention. Not to be changed."""
    folder = tmp_path_factory.mktemp("lean")
    with undrawn():
        assert computed(folder, ordered())
    return folder


@pytest.fixture
def copy(lean: Path, tmp_path: Path) -> Path:
    """A finished sweep to change."""
    return Path(shutil.copytree(lean, tmp_path / "copy"))


@pytest.fixture(scope="module")
def tables(kept: Path) -> Tables:
    return read_tables(Storage(kept))


def files_of(store: SweepStore, network: NetworkId) -> Path:
    mark = store.mark(network)
    assert mark is not None
    assert store.storage.folder is not None
    return store.storage.folder / network.path / f"attempt-{mark.attempt}"


def pieces(folder: Path, *without: str) -> dict[str, str]:
    digests = store_in(folder).digests()
    return {piece: digest for piece, digest in digests.items() if not any(part in piece for part in without)}


def byte_by_byte(folder: Path) -> dict[str, bytes]:
    """The tables, without those that say who computed them."""
    files = (folder / "digits" / "results").iterdir()
    return {file.name: file.read_bytes() for file in files if file.suffix != ".json" and "provenance" not in file.name}


# --- what the tables say ---------------------------------------------------------------------------------------------


def test_every_layer_has_every_metric(kept: Path, tables: Tables) -> None:
    layers = ordered().layers
    expected = {
        ("digits", run, iteration, position, layer.name, layer.kind, metric)
        for run in range(RUNS)
        for iteration in range(1, ITERATIONS + 1)
        for position, layer in enumerate(layers)
        for metric in PAPER_METRICS
        if metric != "cosine" or layer.kind == "out"
    }
    keys = ["problem", "run", "iteration", "position", "layer", "kind", "metric"]
    found = list(tables.similarities[keys].itertuples(index=False, name=None))
    assert len(found) == len(expected) == RUNS * ITERATIONS * (len(layers) * 5 + 1)
    assert set(found) == expected
    assert len(tables.summary) == len(expected) // RUNS
    assert (tables.summary["count"] + tables.summary["missing"] == RUNS).all()
    assert len(tables.networks) == 1 + RUNS * ITERATIONS
    assert list(tables.accuracy["iteration"]) == [0, 1, 2]
    assert problems_in(Storage(kept)) == ["digits"]


def test_values_are_those_of_the_public_metrics(kept: Path, tables: Tables) -> None:
    """Recomputed from the stored activations, read back by zarr alone."""
    store = store_in(kept)

    def activations(network: NetworkId) -> zarr.Group:
        mark = store.activations_mark(network)
        assert mark is not None
        return zarr.open_group(kept / "digits" / network.path / f"activations/attempt-{mark.attempt}", mode="r")

    groups = {(run, i): activations(NetworkId(run, i)) for run in range(RUNS) for i in (1, 2)}
    complete = activations(COMPLETE)
    checked = 0
    for row in tables.similarities.itertuples():
        X, Y = complete[row.layer][:], groups[row.run, row.iteration][row.layer][:]
        if np.isnan(row.value):
            assert row.reason
            continue
        assert row.reason == ""
        if row.metric == "pwcca" and row.rank_x + row.rank_y > row.n - 1:
            assert 0 <= row.value <= 1
            continue  # correlations of 1 repeat, so that their vectors, hence the weights, are not unique
        np.testing.assert_allclose(row.value, PUBLIC[row.metric](X, Y), rtol=0, atol=1e-10, err_msg=str(row))
        channels = row.metric in ("mean_cca", "svcca", "pwcca") and X.ndim == 4
        assert row.n == (np.prod(X.shape[:3]) if channels else X.shape[0])
        assert row.columns_x == row.columns_y == (X.shape[-1] if channels else np.prod(X.shape[1:]))
        checked += 1
    assert checked > 0.95 * len(tables.similarities)


def test_accuracy_and_remaining_are_those_of_the_networks(kept: Path, tables: Tables) -> None:
    store = store_in(kept)
    for row in tables.networks.itertuples():
        network = COMPLETE if row.run is pd.NA else NetworkId(int(row.run), int(row.iteration))
        step = store.load_network(network)
        assert (row.accuracy, row.remaining, row.loss) == (
            step.record["accuracy"],
            step.record["remaining"],
            step.record["loss"],
        )
        alive = {name: int(mask.sum()) for name, mask in step.masks.items()}
        total = sum(mask.numel() for mask in step.masks.values())
        assert row.remaining_pool == pytest.approx(sum(alive.values()) / total, abs=1e-12)
        for name, mask in step.masks.items():
            assert not step.weights[name][~mask].any()
        assert bool(row.reduced), "a reduced problem says so in each row"
    assert list(tables.networks["iteration"]) == [0, 1, 2, 1, 2]
    assert tables.networks["remaining"].iloc[0] == 1.0


def test_csv_and_parquet_say_the_same(kept: Path) -> None:
    store = store_in(kept)
    for name in results.TABLES:
        csv = pd.read_csv(io.BytesIO(store.read_result(f"{name}.csv")), keep_default_na=False, na_values=[""])
        parquet = pd.read_parquet(io.BytesIO(store.read_result(f"{name}.parquet")))
        assert list(csv.columns) == list(parquet.columns)
        for column in parquet.select_dtypes("number"):
            np.testing.assert_array_equal(csv[column].astype(float), parquet[column].astype(float), err_msg=column)


def test_provenance_leads_to_the_identity_and_the_versions(kept: Path) -> None:
    store = store_in(kept)
    rows = pd.read_csv(io.BytesIO(store.read_result("provenance.csv")))
    spec = json.loads((kept / "digits" / "spec.json").read_text())
    assert set(rows["identity"]) == {spec["hash"]} == {store.identity().hash}
    assert set(rows["torch"]) == {torch.__version__}
    assert set(rows["numpy"]) == {np.__version__}
    assert set(rows["threads"]) == {1}
    always = ["host", "pid", "started", "seconds", "instruction_set", "distsim", "code", "python", "device"]
    assert rows[always].notna().all().all()
    compared = rows[rows["table"] != "networks"]
    for side in ("dtype_x", "dtype_y"):
        assert set(compared.loc[compared["layer"] == "out", side]) == {"float32"}
        assert "float16" in set(compared[side])
    digests = store.digests()
    for piece, digest in zip(rows["piece"], rows["digest"], strict=True):
        assert digests.get(piece, digests.get(f"{piece}.json")) == digest, piece


def test_fields_of_other_versions_need_not_agree_on_their_type(kept: Path, tmp_path: Path) -> None:
    """A mark may have fields in environment and provenance that this version does not know."""
    store = store_in(Path(shutil.copytree(kept, tmp_path / "store")))
    for network, value in ((COMPLETE, True), (NetworkId(0, 1), "yes"), (NetworkId(0, 2), 2)):
        mark = store.mark(network)
        assert mark is not None
        other = dataclasses.replace(mark, environment=mark.environment | {"boost": value})
        store.storage.put(f"{network.path}/COMMIT.json", other.encode())
    assert reduce(store, ordered().layers, seed=0, again=True)
    rows = pd.read_parquet(io.BytesIO(store.read_result("provenance.parquet")))
    assert set(rows.loc[rows["table"] == "networks", "boost"].dropna()) == {"True", "yes", "2"}


def test_each_row_of_a_table_has_one_row_of_provenance(kept: Path) -> None:
    tables = {
        name: pd.read_parquet(io.BytesIO(store_in(kept).read_result(f"{name}.parquet"))) for name in results.TABLES
    }
    rows = pd.read_parquet(io.BytesIO(store_in(kept).read_result("provenance.parquet")))
    for name, keys in {
        "networks": ["run", "iteration"],
        "results": ["run", "iteration", "layer", "metric"],
        "chance": ["run", "iteration", "layer", "metric"],
    }.items():
        of_table = rows[rows["table"] == name]
        wanted, found = (
            sorted(table[keys].astype({"run": float}).to_csv(index=False).splitlines())
            for table in (tables[name], of_table)
        )
        assert len(wanted) > 1
        assert found == (wanted if name != "chance" else sorted(set(wanted))), "one each; permutations share theirs"


def test_the_store_knows_its_identity(kept: Path) -> None:
    assert store_in(kept).identity() == dataclasses.replace(
        ordered().sweep.identity, problem=store_in(kept).identity().problem
    )
    assert store_in(kept).identity().hash == ordered().sweep.identity.hash


# --- again, equal, extended ------------------------------------------------------------------------------------------


def test_reducing_again_does_nothing(copy: Path) -> None:
    one, before = ordered(), store_in(copy).results_mark()
    assert reduce(store_in(copy), one.layers, 0) is False
    assert store_in(copy).results_mark() == before
    tables = byte_by_byte(copy)
    assert reduce(store_in(copy), one.layers, 0, again=True) is True
    assert byte_by_byte(copy) == tables


@pytest.mark.parametrize("name", ["results.csv", "summary.parquet", "COMMIT.json"])
def test_a_deleted_table_is_made_again(copy: Path, name: str) -> None:
    before, file = byte_by_byte(copy), copy / "digits" / "results" / name
    file.unlink()
    assert reduce(store_in(copy), ordered().layers, 0) is True
    assert file.exists()
    assert byte_by_byte(copy) == before
    assert reduce(store_in(copy), ordered().layers, 0) is False


def test_a_changed_table_is_not_believed(copy: Path) -> None:
    file = copy / "digits" / "results" / "results.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedStore, match=r"results/results\.parquet"):
        read_tables(Storage(copy))


def test_two_stores_are_equal_byte_by_byte(kept: Path, lean: Path) -> None:
    assert byte_by_byte(kept) == byte_by_byte(lean)
    assert len(byte_by_byte(kept)) == 2 * len(results.TABLES)
    assert pieces(kept, "runs/0000/iter_01/activations", "iter_02/activations", "runs/0001/iter_01/activations") == (
        pieces(lean)
    )


def test_retention_decides_which_activations_stay(kept: Path, lean: Path) -> None:
    pruned = {NetworkId(run, iteration) for run in range(RUNS) for iteration in range(1, ITERATIONS + 1)}
    assert store_in(kept).contents().activations == {COMPLETE, *pruned}
    assert store_in(lean).contents().activations == {COMPLETE}
    assert store_in(lean).contents().networks == {COMPLETE, *pruned}
    left = {path for path in store_in(lean).storage.sizes("runs") if "activations" in path}
    assert {path.rsplit("/", 1)[-1] for path in left} == {"DROPPED.json"}, "what was dropped leaves nothing behind"


def test_running_again_does_nothing(copy: Path) -> None:
    def everything() -> dict[str, tuple[int, float]]:
        return {str(p): (p.stat().st_size, p.stat().st_mtime) for p in (copy / "digits").rglob("*") if p.is_file()}

    before = everything()
    said: list[str] = []
    root = Storage(copy)
    assert run([ordered()], root, LocalEngine(root), said.append) is False
    assert said == []
    assert everything() == before


@pytest.mark.parametrize("change", [{"runs": 3}, {"iterations": 3}, {"runs": 3, "iterations": 3}])
def test_extending_equals_asking_at_once(copy: Path, tmp_path: Path, change: dict[str, int]) -> None:
    before = pieces(copy, "results/")
    assert computed(copy, ordered(**change))
    after = pieces(copy)
    assert {piece: after[piece] for piece in before} == before, "what was there is as it was"
    assert len(after) > len(before)
    computed(tmp_path / "at once", ordered(**change))
    assert pieces(tmp_path / "at once") == after
    assert byte_by_byte(tmp_path / "at once") == byte_by_byte(copy)


def test_metrics_added_later_give_the_same_tables(lean: Path, tmp_path: Path) -> None:
    computed(tmp_path, ordered(metrics=("cka", "cosine")))
    computed(tmp_path, ordered(metrics=("svcca", "nbs", "cka")))
    assert set(read_tables(Storage(tmp_path)).similarities["metric"]) == {"cka", "cosine", "svcca", "nbs"}
    compared = "comparison", "chance", "null", "/se/", "results/"
    trained = pieces(tmp_path, *compared)
    computed(tmp_path, ordered())
    assert pieces(tmp_path, *compared) == trained, "nothing was trained again"
    assert byte_by_byte(tmp_path) == byte_by_byte(lean)


def test_asking_for_less_keeps_what_is_there(copy: Path) -> None:
    before = byte_by_byte(copy)
    assert computed(copy, ordered(runs=1, iterations=1, metrics=("cka",))) is False
    assert byte_by_byte(copy) == before


@pytest.mark.parametrize(
    "lost",
    [
        "runs/0000/iter_01/COMMIT.json",  # in the middle: what follows it counts again once it is there
        "runs/0001/iter_02",
        "runs/0001",
        "complete/activations",
        "runs/0001/iter_01/comparison/pool1",
        "complete/activations/COMMIT.json",
    ],
)
def test_what_was_lost_is_computed_again_to_the_same_bits(copy: Path, lost: str) -> None:
    before, path = pieces(copy, "activations"), copy / "digits" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    computed(copy, ordered())
    assert pieces(copy, "activations") == before
    assert computed(copy, ordered()) is False


def test_a_small_disk_gives_the_same_in_more_waves(lean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, most = ordered(), [0]
    store = store_in(tmp_path)
    comparing = LocalEngine.compare

    def room(store: SweepStore) -> int:
        there = len(store.contents().activations)
        return int(2.5 * one.per_network) - there * one.per_network  # the complete network's and one more

    def compare(engine: LocalEngine, *args: Any) -> list[str]:
        most.append(len(store.contents().activations))
        return comparing(engine, *args)

    monkeypatch.setattr(sweep, "room_for_activations", room)
    monkeypatch.setattr(LocalEngine, "compare", compare)
    computed(tmp_path, one)
    assert len(most) == 1 + RUNS * ITERATIONS
    assert max(most) == 2
    assert pieces(tmp_path) == pieces(lean)


# --- failures --------------------------------------------------------------------------------------------------------


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def test_damaged_weights_fail_their_run_only(copy: Path, tmp_path: Path) -> None:
    file = files_of(store_in(copy), NetworkId(0, 2)) / "weights.safetensors"
    before = pieces(copy, "results/")
    good = file.read_bytes()
    damage(file)
    with pytest.raises(
        SweepFailed, match=r"runs/0000/iter_02/attempt-\w+/weights\.safetensors .* is damaged"
    ) as caught:
        computed(copy, ordered(iterations=3))
    assert len(caught.value.failures) == 1
    assert caught.value.failures[0].startswith("digits, run 0: ")
    assert store_in(copy).mark(NetworkId(1, 3)) is not None, "the other run went on"
    assert store_in(copy).mark(NetworkId(0, 3)) is None
    with pytest.raises(DamagedStore, match=r"runs/0000/iter_02/attempt-\w+/weights\.safetensors"):
        store_in(copy).digests()
    file.write_bytes(good)
    now = pieces(copy)
    assert {piece: now[piece] for piece in before} == before, "nothing committed was harmed"
    assert computed(copy, ordered(iterations=3))
    computed(tmp_path / "at once", ordered(iterations=3))
    assert pieces(copy) == pieces(tmp_path / "at once")


def test_a_damaged_complete_network_stops_every_run(copy: Path) -> None:
    damage(files_of(store_in(copy), COMPLETE) / "rewind.safetensors")
    with pytest.raises(SweepFailed, match=r"complete/attempt-\w+/rewind\.safetensors") as caught:
        computed(copy, ordered(runs=3))
    assert len(caught.value.failures) <= 2
    assert store_in(copy).contents().networks == {COMPLETE, *Extent(runs=2, iterations=2).networks}


def test_damaged_activations_are_named(copy: Path) -> None:
    mark = store_in(copy).activations_mark(COMPLETE)
    assert mark is not None
    folder = copy / "digits" / "complete" / "activations" / f"attempt-{mark.attempt}"
    damage(folder / "pool1" / "c" / "0" / "0" / "0" / "0")
    with pytest.raises(SweepFailed, match="pool1") as caught:
        computed(copy, ordered(runs=3))
    assert len(caught.value.failures) == 1
    there = store_in(copy).contents().comparisons
    assert (NetworkId(2, 1), "pool2") in there, "the other layers were compared"
    assert (NetworkId(2, 1), "pool1") not in there


def test_a_failing_network_does_not_hold_up_the_rest_on_a_small_disk(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for one network's activations at a time, and the first can never be extracted."""
    one = ordered(runs=3)
    computed(copy, one)
    store = store_in(copy)
    for run_ in range(3):
        for iteration in (1, 2):
            shutil.rmtree(copy / "digits" / NetworkId(run_, iteration).path / "comparison")
    damage(files_of(store, NetworkId(0, 1)) / "weights.safetensors")
    monkeypatch.setattr(sweep, "room_for_activations", lambda store: int(1.5 * one.per_network))
    with pytest.raises(SweepFailed, match="runs/0000/iter_01"):
        computed(copy, one)
    compared = {network for network, _ in store.contents().comparisons}
    assert compared >= {NetworkId(1, 1), NetworkId(1, 2), NetworkId(2, 1), NetworkId(2, 2)}


def test_another_seed_is_another_sweep(copy: Path) -> None:
    before = pieces(copy)
    with pytest.raises(IdentityMismatch, match=r"another sweep of digits.*\bseed: 1 asked for, 0 in the store"):
        take([ordered(seed=1)], Storage(copy))
    assert pieces(copy) == before
    assert json.loads((copy / "digits" / "request.json").read_text())["runs"] == RUNS


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"probe": 90}, "problem.probe: 90 asked for, 100 in the store"),
        ({"epochs": 3}, "problem.recipe.epochs: 3 asked for, 2 in the store"),
        ({"train_limit": 210}, "problem.train_limit: 210 asked for, 200 in the store"),
    ],
)
def test_each_field_that_differs_is_named(copy: Path, changes: dict[str, int], field: str) -> None:
    other = prepare(SMALL.reduced_to(**changes), runs=RUNS, iterations=ITERATIONS)
    with pytest.raises(IdentityMismatch) as caught:
        take([other], Storage(copy))
    assert field in str(caught.value)


def test_other_data_are_another_sweep(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ordered().dataset
    images = dataset.train_images.copy()
    images[0, 0, 0, 0] ^= 1  # one pixel
    changed = Dataset(images, dataset.train_labels, dataset.test_images, dataset.test_labels, dataset.classes)
    monkeypatch.setattr(order, "load", lambda *place, **how: changed)
    with pytest.raises(IdentityMismatch, match=r"\bdata_digest: "):
        take([ordered()], Storage(copy))


def test_threads_are_part_of_the_identity_and_versions_of_the_environment(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(IdentityMismatch, match="threads: 2 asked for, 1 in the store"):
        take([ordered(threads=2)], Storage(copy))
    monkeypatch.setattr(torch, "__version__", "1.0")
    with pytest.raises(SweepFailed, match=r"torch: '1\.0' here"):
        computed(copy, ordered(runs=3))
    assert store_in(copy).mark(NetworkId(2, 1)) is None
    root = Storage(copy)
    assert run([ordered(runs=3)], root, LocalEngine(root, allow_drift=True), silent)
    mark = store_in(copy).mark(NetworkId(2, 1))
    assert mark is not None
    assert mark.environment["torch"] == "1.0", "the drift is recorded"


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"identity": {}, "hash": "0"}'])
def test_a_damaged_spec_is_said_to_be(copy: Path, content: bytes) -> None:
    (copy / "digits" / "spec.json").write_bytes(content)
    with pytest.raises(DamagedStore, match=r"spec\.json in .*digits"):
        store_in(copy).identity()


def test_a_changed_field_of_the_spec_does_not_match_its_hash(copy: Path) -> None:
    file = copy / "digits" / "spec.json"
    file.write_text(file.read_text().replace('"probe":100', '"probe":101'))
    with pytest.raises(DamagedStore, match="its identity does not match its hash"):
        store_in(copy).identity()


def test_a_damaged_comparison_is_named(copy: Path) -> None:
    (file,) = (copy / "digits/runs/0001/iter_02/comparison/pool2").iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(DamagedStore, match="runs/0001/iter_02/comparison/pool2"):
        reduce(store_in(copy), ordered().layers, 0)


# --- odds and ends ---------------------------------------------------------------------------------------------------


def test_reading_where_nothing_is(tmp_path: Path) -> None:
    root = Storage(tmp_path)
    with pytest.raises(FileNotFoundError, match="no results in"):
        read_tables(root)
    with pytest.raises(FileNotFoundError, match="no sweep of digits"):
        store_in(tmp_path).identity()
    with pytest.raises(FileNotFoundError, match="complete network of digits is not in"):
        store_in(tmp_path).load_network(COMPLETE)
    assert store_in(tmp_path).contents().networks == frozenset()


def test_an_unwritable_place_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot use"):
        computed(tmp_path / "file" / "store", ordered())


def test_figures_are_drawn_once(copy: Path) -> None:
    written = draw(Storage(copy))
    assert written
    assert all((copy / path if path.startswith("figures") else copy / "figures" / path).exists() for path in written)
    assert draw(Storage(copy)) == []


def test_compare_only_takes_complete_runs_of_common_iterations(copy: Path) -> None:
    one, store = ordered(runs=4, iterations=5), store_in(copy)
    cut = compare_only(one, store)
    assert cut is not None
    assert (cut.sweep.extent.runs, cut.sweep.extent.iterations) == (2, 2)
    (copy / "digits/runs/0001/iter_02/COMMIT.json").unlink()
    cut = compare_only(one, store)
    assert cut is not None
    assert (cut.sweep.extent.runs, cut.sweep.extent.iterations) == (2, 1)
    (copy / "digits/runs/0000/iter_01/COMMIT.json").unlink()
    assert compare_only(one, store) is None


@pytest.mark.parametrize("name", ["digits", "mine"])
def test_a_problem_that_a_script_changed_is_reduced_whatever_it_says(tmp_path: Path, name: str) -> None:
    changed = dataclasses.replace(SMALL, name=name, reduced=False)
    assert computed(tmp_path, prepare(changed, runs=1, iterations=1, metrics=("cka",), chance=False))
    networks = read_tables(Storage(tmp_path)).networks
    assert networks["reduced"].tolist() == [name == "digits"] * 2  # "mine" is no problem of the papers
