"""Networks of a store against each other: plans, tiles, what they cost, and what comes out."""

import dataclasses
import hashlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distsim import metrics
from distsim.cli import main as cli
from distsim.environment import threads
from distsim.problems import PROBLEMS
from distsim.results import reduce as results
from distsim.results.pairs import Asked, found_in, jaccard, write_results
from distsim.specs import COMPLETE, Extent, NetworkId
from distsim.store import Mark, Storage, SweepStore
from distsim.store.activations import Reader
from distsim.store.commits import MARK
from distsim.sweep import pairs
from distsim.sweep.cost import Cost, duration, layer_cost
from distsim.sweep.engine import LocalEngine
from distsim.sweep.order import Prepared, prepare, take
from distsim.sweep.run import run
from distsim.sweep.stored_models import Stored, layer_by_layer
from distsim.verify.store import verify_store

SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=60, train_limit=100)
NETWORKS = [COMPLETE, *Extent(runs=3, iterations=4).networks]
CHOSEN = ("svcca", "pwcca", "cka", "nbs", "cosine")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def ordered(**choices: object) -> Prepared:
    return prepare(SMALL, **{"runs": 2, "iterations": 2, "metrics": CHOSEN, "chance": False} | choices)  # type: ignore


def trained(folder: Path, one: Prepared) -> SweepStore:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw", lambda root, again=False: [])
        take([one], Storage(folder))
        run([one], Storage(folder), LocalEngine(Storage(folder)), lambda line: None)
    return SweepStore(Storage(folder), one.name)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """With all activations."""
    return trained(tmp_path_factory.mktemp("kept"), ordered(retention="all"))


@pytest.fixture(scope="module")
def compared(kept: SweepStore) -> pd.DataFrame:
    """Every pair."""
    assert pairs.compare(ordered(), kept, LocalEngine(kept.root), every(kept), CHOSEN, say=lambda line: None) == []
    return written(kept)[0]


def written(store: SweepStore, metrics: tuple[str, ...] = CHOSEN) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """The tables of every pair."""
    return write_results(store, ordered().layers, Asked("all", every(store), metrics))


def every(store: SweepStore) -> list[tuple[NetworkId, NetworkId]]:
    return pairs.planned("all", store.contents().networks)


# --- plans and tiles -------------------------------------------------------------------------------------------------


def test_plans() -> None:
    assert pairs.planned("complete", NETWORKS) == [(COMPLETE, network) for network in NETWORKS[1:]]
    runs = pairs.planned("runs", reversed(NETWORKS))
    first = [((0, 1), (1, 1)), ((0, 1), (2, 1)), ((0, 2), (1, 2))]
    assert runs[:3] == [(NetworkId(*a), NetworkId(*b)) for a, b in first]
    assert len(runs) == 3 * 4, "three pairs of runs at each of four iterations"
    iterations = pairs.planned("iterations", NETWORKS)
    assert len(iterations) == 3 * (4 + 3 + 2 + 1), "the complete network is the runs' iteration 0"
    assert (COMPLETE, NetworkId(2, 4)) in iterations
    assert all(a.is_complete or a.run == b.run for a, b in iterations)
    assert len(pairs.planned("all", NETWORKS)) == 13 * 12 / 2
    with pytest.raises(
        ValueError, match="there is no plan 'some'; there are complete, references, runs, iterations, all"
    ):
        pairs.planned("some", NETWORKS)


def test_a_run_goes_on_from_its_own_complete_network() -> None:
    here, there = ([NetworkId(complete=number), NetworkId(0, 1, number), NetworkId(0, 2, number)] for number in (0, 1))
    expected = [*itertools.combinations(here, 2), *itertools.combinations(there, 2)]
    assert pairs.planned("iterations", [*here, *there]) == expected


def test_pairs_are_stored_as_format_4_wrote_them(tmp_path: Path) -> None:
    store = SweepStore(Storage(tmp_path), "digits")
    counts = {"n": 60, "columns_x": 84, "columns_y": 84, "n_per_p": 60 / 84, "rank_x": 60, "rank_y": 60}
    values = {"cka": {"value": 0.5, "reason": "", "warning": "", "dead_x": 0, "dead_y": 0} | counts}
    store.commit_pairs("fc1", {(COMPLETE, NetworkId(0, 1)): values, (NetworkId(0, 10), NetworkId(2, 10)): values})
    ((path, mark),) = store.pair_marks().items()
    named = b'[["((0, 10), (2, 10))","(None, (0, 1))"],["cka"]]'
    assert path == f"pairs/fc1/{hashlib.sha256(named).hexdigest()[:16]}.json"
    assert mark.values["pairs"] == [[None, [0, 1], values], [[0, 10], [2, 10], values]]
    assert found_in(store) == {
        (COMPLETE, NetworkId(0, 1), "fc1"): values,
        (NetworkId(0, 10), NetworkId(2, 10), "fc1"): values,
    }


@pytest.mark.parametrize("plan", pairs.PLANS)
@pytest.mark.parametrize("limit", [2, 3, 4, 7, 100])
def test_tiles_hold_each_pair_once_and_few_networks(plan: str, limit: int) -> None:
    wanted = pairs.planned(plan, NETWORKS)
    tiles = list(pairs.tiles(wanted, limit))
    assert sorted(itertools.chain.from_iterable(tiles)) == sorted(wanted)
    assert all(len(set(itertools.chain.from_iterable(tile))) <= limit for tile in tiles)


def test_reads_grow_with_networks_where_they_fit() -> None:
    for plan, reads in {"complete": 13, "runs": 12, "iterations": 13, "all": 13}.items():
        tiles = pairs.tiles(pairs.planned(plan, NETWORKS), 13)
        assert sum(len(set(itertools.chain.from_iterable(tile))) for tile in tiles) == reads, plan


def test_a_tile_fits_into_memory() -> None:
    gib = 2.0**30
    assert pairs.tile_limit((5000, 32, 32, 16), 16 * gib) == 15
    assert pairs.tile_limit((5000, 32, 32, 16), 1 * gib) == 2, "fewer than two make no pair"
    assert pairs.tile_limit((5000, 256), 16 * gib) > 500


def test_cost() -> None:
    wide = layer_cost((100, 8, 8, 4), 2, 3, 2, ["cka"])
    assert wide.bytes == 3 * 100 * 256 * 2
    assert wide.flops == pytest.approx(3 * (100**2 * 256 + 100**3 / 3) + 2 * (4 / 3 * 100**3 + 2 * 100**2))
    assert layer_cost((100, 10), 4, 1, 0, ["svcca"]).flops == 2 * 100 * 10 * 10
    assert Cost(1e9, 1e9, 1e9).seconds(1e9) == pytest.approx(2 + 1 + 4)
    assert Cost(1e9, 1e9, 1e9).seconds(1e9, at_once=7) == pytest.approx(1)
    assert [duration(seconds) for seconds in (0.1, 89, 600, 9000)] == ["1 s", "89 s", "10 min", "2.5 h"]


# --- what comes out --------------------------------------------------------------------------------------------------


def test_values_are_those_of_the_arrays(kept: SweepStore, compared: pd.DataFrame) -> None:
    def layer(run: object, iteration: int, name: str) -> np.ndarray:
        network = COMPLETE if pd.isna(run) else NetworkId(int(run), int(iteration))  # type: ignore[call-overload]
        mark = kept.activations_mark(network)
        assert mark is not None
        return Reader(kept.storage, kept.activations_path(network), mark).layer(name).read()

    assert len(compared) == 10 * (8 * 4 + 1), "ten pairs of five networks; the cosine is of the output's"
    unique = compared[(compared["metric"] != "pwcca") | (compared["n_per_p"] >= 1)]  # the weights of others are not
    for row in unique.sample(40, random_state=0).itertuples():
        X = layer(row.run_x, row.iteration_x, row.layer)
        Y = layer(row.run_y, row.iteration_y, row.layer)
        options = {"side": "first"} if row.metric == "pwcca" else {}
        found = getattr(metrics, row.metric)(X, Y, channels_last=True, **options)
        assert row.value == pytest.approx(found, rel=0, abs=1e-9), row
        assert (row.n, row.columns_x) == (
            (60, X[0].size) if row.metric in ("cka", "nbs", "cosine") else (X[..., 0].size, X.shape[-1])
        )


def test_with_the_complete_network_they_are_the_sweeps_own(kept: SweepStore, compared: pd.DataFrame) -> None:
    own = results.read_tables(kept.root).similarities.set_index(["run", "iteration", "layer", "metric"])["value"]
    mine = compared[compared["run_x"].isna()].set_index(["run_y", "iteration_y", "layer", "metric"])["value"]
    assert len(mine) == len(own) > 0
    assert {key: mine[key] for key in own.index} == own.to_dict(), "to the bit"


def test_they_say_what_cka_is_by_chance(kept: SweepStore, compared: pd.DataFrame) -> None:
    own = results.read_tables(kept.root).similarities.set_index(["run", "iteration", "layer", "metric"])
    mine = compared[compared["run_x"].isna()].set_index(["run_y", "iteration_y", "layer", "metric"])
    for name in ("null", "null_sd", "z", "calibrated"):
        cka = mine[name].xs("cka", level="metric")
        assert cka.to_dict() == own[name].xs("cka", level="metric").to_dict(), name
        assert cka.notna().all()
        assert mine[name].xs("svcca", level="metric").isna().all(), "not known without permutations"


def test_what_is_not_kept_is_computed_again_to_the_same_bits(
    kept: SweepStore, compared: pd.DataFrame, tmp_path: Path
) -> None:
    shutil.copytree(kept.root.folder, tmp_path, dirs_exist_ok=True)  # type: ignore[arg-type]
    bare = SweepStore(Storage(tmp_path), kept.problem)
    bare.storage.delete_prefix("pairs")
    for network in bare.contents().networks:
        bare.drop_activations(network)
    said: list[str] = []
    assert (
        pairs.compare(ordered(), bare, LocalEngine(bare.root), every(bare), CHOSEN, memory=1.0, say=said.append) == []
    )
    assert "in 80 tiles" in said[0], "ten pairs of each of eight layers, since hardly any memory may be used"
    again = written(bare)[0]
    pd.testing.assert_frame_equal(again, compared, check_exact=True)


@pytest.mark.ray
def test_on_ray(kept: SweepStore, compared: pd.DataFrame, tmp_path: Path, ray_cluster: Path) -> None:
    from distsim.sweep.on_ray.engine import RayEngine

    shutil.copytree(kept.root.folder, tmp_path, dirs_exist_ok=True)  # type: ignore[arg-type]
    store = SweepStore(Storage(tmp_path), kept.problem)
    store.storage.delete_prefix("pairs")
    store.drop_activations(COMPLETE)  # so that workers need the images
    with RayEngine(store.root, None, False) as engine:
        assert pairs.compare(ordered(), store, engine, every(store), CHOSEN, say=lambda line: None) == []
    pd.testing.assert_frame_equal(written(store)[0], compared, check_exact=True)


def test_only_what_is_missing_is_compared(kept: SweepStore, compared: pd.DataFrame, tmp_path: Path) -> None:
    shutil.copytree(kept.root.folder, tmp_path, dirs_exist_ok=True)  # type: ignore[arg-type]
    store, said = SweepStore(Storage(tmp_path), kept.problem), list[str]()
    engine = LocalEngine(store.root)
    assert pairs.compare(ordered(), store, engine, every(store), CHOSEN, say=said.append) == []
    assert said == ["digits: nothing is missing"]
    lost = sorted(path for path in store.pair_marks() if path.startswith("pairs/fc1/"))
    store.storage.delete(lost)
    pairs.compare(ordered(), store, engine, every(store), CHOSEN, say=said.append)
    assert said[1].startswith("digits: 10 pairs of layers in 1 tiles: ")
    pairs.compare(ordered(), store, engine, every(store)[:3], ("cka", "mean_cca"), ["pool1"], say=said.append)
    assert said[2].startswith("digits: 3 pairs of layers in 1 tiles: "), "a further metric"
    table = written(store, (*CHOSEN, "mean_cca"))[0]
    pd.testing.assert_frame_equal(table[table["metric"] != "mean_cca"].reset_index(drop=True), compared)
    assert set(table[table["metric"] == "mean_cca"]["layer"]) == {"pool1"}
    assert set(store.digests()) > set(store.pair_marks())


def test_masks(kept: SweepStore, compared: pd.DataFrame) -> None:
    masks = written(kept)[1]
    a, b = kept.load_network(NetworkId(0, 2)).masks, kept.load_network(NetworkId(1, 2)).masks
    apart = (masks["run_x"] == 0) & (masks["run_y"] == 1) & (masks["iteration_x"] == masks["iteration_y"])
    first = masks[apart & (masks["iteration_x"] == 1)]
    assert (first["jaccard"] == 1).all(), "the first pruning is of the complete network, the same in all runs"
    rows = masks[apart & (masks["iteration_x"] == 2)]
    rows = rows.set_index("parameter")
    assert set(rows.index) == {*a, "all"}
    for name in a:
        both, either = int((a[name] & b[name]).sum()), int((a[name] | b[name]).sum())
        assert (rows["both"][name], rows["either"][name]) == (both, either)
        assert rows["jaccard"][name] == both / either
    assert rows["jaccard"]["all"] == sum(rows["both"][list(a)]) / sum(rows["either"][list(a)]) < 1
    later = masks[masks["run_x"].isna() & (masks["parameter"] == "all") & (masks["run_y"] == 0)]
    assert later["jaccard"].is_monotonic_decreasing, "the complete network's mask holds every other"
    assert np.isnan(jaccard(0, 0))


def test_a_network_that_cannot_be_compared_is_named(kept: SweepStore, tmp_path: Path) -> None:
    shutil.copytree(kept.root.folder, tmp_path, dirs_exist_ok=True)  # type: ignore[arg-type]
    store = SweepStore(Storage(tmp_path), kept.problem)
    store.storage.delete_prefix("pairs")
    chunk = next(path for path in store.storage.sizes(store.activations_path(NetworkId(1, 2))) if "/fc1/c/" in path)
    (tmp_path / "digits" / chunk).write_bytes(b"x" * store.storage.sizes()[chunk])
    failures = pairs.compare(ordered(), store, LocalEngine(store.root), every(store), CHOSEN, say=lambda line: None)
    assert len(failures) == 1
    assert "layer fc1" in failures[0]
    assert "runs/0001/iter_02" in failures[0]
    assert len(pairs.found_in(store)) == 10 * 7, "the other layers are done"


# --- the commands ----------------------------------------------------------------------------------------------------


def test_the_command(
    kept: SweepStore, compared: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(kept.root.folder, tmp_path / "s", dirs_exist_ok=True)  # type: ignore[arg-type]
    where, folder = str(tmp_path / "s"), tmp_path / "s" / "digits" / "pair_results"
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "s" / "digits" / "pairs")
    assert cli.main(["pairs", where, "--dry-run"]) == 0
    assert "16 pairs of layers in 16 tiles" in capsys.readouterr().out
    assert not folder.exists(), "a forecast writes nothing"
    assert cli.main(["pairs", where, "--local", "--plan", "iterations", "--only-runs", "1", "--metrics", "svcca"]) == 0
    out = capsys.readouterr().out
    assert "24 pairs of layers in 8 tiles" in out
    assert "svcca" in out
    assert [file.relative_to(folder).as_posix() for file in folder.rglob("*.png")] == [
        "iterations/iterations_svcca.png"
    ]
    assert cli.main(["pairs", where, "--local", "--layers", "fc1"]) == 0
    assert (folder / "runs/runs.pdf").exists()
    first = (folder / "runs/pairs.csv").read_bytes()
    assert cli.main(["pairs", where, "--local", "--layers", "fc1"]) == 0
    assert (folder / "runs/pairs.csv").read_bytes() == first
    for flags, message in {
        ("--layers", "fc9"): "digits has no layers ['fc9']",
        ("--layers", "fc1", "--metrics", "cosine"): "digits: none of the metrics cosine applies to fc1",
        ("--only-runs", "-1"): "--only-runs takes whole numbers from 0 on, got -1",
        ("--metrics", "ccca"): "unknown metrics ['ccca']",
        ("--iterations", "7"): "no two committed networks make a pair of this plan",
    }.items():
        assert cli.main(["pairs", where, "--local", *flags]) == 1
        assert message in capsys.readouterr().err


def test_each_plan_has_tables_of_what_was_asked_for(kept: SweepStore, compared: pd.DataFrame, tmp_path: Path) -> None:
    """Whatever else has been compared. The tables of a plan stay where another one is written."""
    shutil.copytree(kept.root.folder, tmp_path / "s", dirs_exist_ok=True)  # type: ignore[arg-type]
    where, folder = str(tmp_path / "s"), tmp_path / "s" / "digits" / "pair_results"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "pairs.csv").write_bytes(b"as before there were plans")
    old = Mark("", {"pairs.csv": (26, hashlib.sha256(b"as before there were plans").hexdigest())}, {"inputs": {}})
    (folder / MARK).write_bytes(old.encode())
    assert verify_store(Storage(where)).whole
    assert (
        cli.main(["pairs", where, "--local", "--metrics", "svcca", "--only-runs", "0", "1", "--only-iterations", "2"])
        == 0
    )
    runs = pd.read_csv(folder / "runs" / "pairs.csv")
    assert set(zip(runs["run_x"], runs["iteration_x"], runs["run_y"], strict=True)) == {(0, 2, 1)}
    assert set(runs["metric"]) == {"svcca"}
    assert not (folder / "pairs.csv").exists(), "no longer true"
    assert cli.main(["pairs", where, "--local", "--plan", "complete", "--metrics", "cka", "--layers", "fc1"]) == 0
    complete = pd.read_csv(folder / "complete" / "pairs.csv")
    assert (set(complete["layer"]), set(complete["metric"]), len(complete)) == ({"fc1"}, {"cka"}, 4)
    assert complete["run_x"].isna().all()
    pd.testing.assert_frame_equal(pd.read_csv(folder / "runs" / "pairs.csv"), runs)
    report = verify_store(Storage(where))
    assert (report.whole, [str(f) for f in report.findings if "pair_results" in str(f)]) == (True, [])
    # a tile that is gone takes the tables with it that may hold its values
    store = SweepStore(Storage(where), "digits")
    store.storage.delete([path for path in store.pair_marks() if path.startswith("pairs/fc1/")])
    assert not verify_store(Storage(where)).whole
    assert cli.main(["pairs", where, "--local", "--plan", "complete", "--metrics", "cka", "--layers", "fc1"]) == 0
    assert verify_store(Storage(where)).whole
    assert not (folder / "runs" / "pairs.csv").exists()


@pytest.mark.filterwarnings("ignore::distsim.metrics.UnreliableSimilarity")
def test_layers_of_two_networks(kept: SweepStore, compared: pd.DataFrame) -> None:
    found = layer_by_layer(Stored(kept, COMPLETE), Stored(kept, NetworkId(0, 2)), ["cka", "svcca"])
    names = tuple(layer.name for layer in ordered().layers)
    assert found.layers_x == found.layers_y == names
    assert (found.model_x, found.model_y) == ("digits, complete network", "digits, run 0, iteration 2")
    of_pair = compared[compared["run_x"].isna() & (compared["run_y"] == 0) & (compared["iteration_y"] == 2)]
    for metric in ("cka", "svcca"):
        alike = of_pair[of_pair["metric"] == metric].set_index("layer")["value"]
        for name in names:  # stored activations are float16
            assert found.matrix(metric).loc[name, name] == pytest.approx(alike[name], abs=2e-3)


@pytest.mark.filterwarnings("ignore::distsim.metrics.UnreliableSimilarity")
def test_layers_of_two_stores_with_other_networks(
    kept: SweepStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other layers, other spatial sizes, another normalisation."""
    problem = dataclasses.replace(SMALL, model="vgg_cifar2")
    other = trained(tmp_path / "b", prepare(problem, runs=1, iterations=1, metrics=("cka",), chance=False))
    where, out = [str(store.root.folder) for store in (kept, other)], tmp_path / "out"
    flags = ["--networks", "run=complete", "run=0,iteration=1", "--metrics", "svcca", "--out", str(out)]
    assert cli.main(["layers", where[0], "--with", where[1], *flags]) == 0
    table = pd.read_csv(out / "layers_digits-complete_digits-run0-iteration1.csv")
    assert (out / "layers_digits-complete_digits-run0-iteration1.png").stat().st_size > 10_000
    theirs = prepare(problem).layers
    assert len(table) == len(ordered().layers) * len(theirs)
    assert table["value"].notna().all()
    sizes = table.groupby("layer_x")["n"].nunique()
    assert sizes["conv1_1"] > 1, "pooled to the smaller of both sizes"
    capsys.readouterr()
    assert cli.main(["layers", where[0], "--networks", "run=complete", "run=9,iteration=1"]) == 1
    assert "run 9, iteration 1 of digits is not in" in capsys.readouterr().err
