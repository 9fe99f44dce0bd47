"""Standard errors over examples of pairs of a store's networks: pieces of their own, a column of the tables."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from distsim.cli import main as cli
from distsim.comparison.layer import InMemory, Reference
from distsim.environment import threads
from distsim.metrics.jackknife import kept, split, standard_error
from distsim.problems import PROBLEMS
from distsim.results import reduce as results
from distsim.results.pairs import Asked, se_in, write_results
from distsim.specs import NetworkId
from distsim.store import Storage, SweepStore
from distsim.store.activations import Reader
from distsim.store.existing import holds_sweep
from distsim.store.paths import place_of
from distsim.store.records import decode_record, require_values
from distsim.sweep import pairs
from distsim.sweep.engine import LocalEngine
from distsim.sweep.order import Prepared, prepare, take
from distsim.sweep.run import run
from distsim.verify.repair import carry_out, planned
from distsim.verify.store import verify_store

SMALL = PROBLEMS["digits"].reduced_to(epochs=1, probe=60, train_limit=100)
METRICS = ("svcca", "cka", "nbs", "cosine")
LAYERS = ("conv1_1", "out")
FIRST, SECOND = NetworkId(0, 1), NetworkId(1, 1)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def ordered(probe: int = 60) -> Prepared:
    return prepare(
        SMALL.reduced_to(probe=probe),
        runs=2,
        iterations=1,
        metrics=METRICS,
        retention="all",
        chance=False,
        measure=(),
        control=(),
    )


def trained(folder: Path, probe: int = 60) -> SweepStore:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw", lambda root, again=False: [])
        root, one = Storage(folder), ordered(probe)
        take([one], root)
        run([one], root, LocalEngine(root), lambda line: None)
    return SweepStore(root, "digits")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """Two runs that nobody has compared with each other. Not to be changed."""
    return trained(tmp_path_factory.mktemp("bare"))


@pytest.fixture
def store(bare: SweepStore, tmp_path: Path) -> SweepStore:
    shutil.copytree(bare.root.folder, tmp_path / "s")  # type: ignore[arg-type]
    return SweepStore(Storage(tmp_path / "s"), "digits")


def compared(
    store: SweepStore, measure: tuple[str, ...], metrics: tuple[str, ...] = METRICS, probe: int = 60
) -> list[str]:
    said: list[str] = []
    engine = LocalEngine(store.root)
    of_pairs = ordered(probe), store, engine, [(FIRST, SECOND)], metrics, LAYERS
    assert pairs.compare(*of_pairs, say=said.append, measure=measure) == []
    return said


def table(store: SweepStore) -> pd.DataFrame:
    written = write_results(store, ordered().layers, Asked("runs", [(FIRST, SECOND)], METRICS))[0]
    return written.set_index(["layer", "metric"])


def test_the_error_is_that_of_layers_without_a_tenth_of_the_images(store: SweepStore) -> None:
    compared(store, ("se", "se_nbs"))
    found = table(store)
    assert found["se"].gt(0).all()
    for layer, names in {"conv1_1": ("svcca", "cka", "nbs"), "out": METRICS}.items():
        sides = []
        for network in (FIRST, SECOND):
            mark = store.activations_mark(network)
            assert mark is not None
            sides.append(Reader(store.storage, store.activations_path(network), mark).layer(layer).read())
        kind = "out" if layer == "out" else "conv"
        without = [
            Reference(InMemory(sides[0][keep], kind=kind), names).compare(InMemory(sides[1][keep], kind=kind))
            for keep in (kept(60, block) for block in split(60, 0))
        ]
        for name in set(names) - {"svcca"}:  # whose cut is that of all images
            expected = standard_error([values[name]["value"] or 0.0 for values in without])
            assert found["se"][layer, name] == pytest.approx(expected, rel=1e-5), (layer, name)


def test_it_is_added_to_what_is_there_and_nothing_is_rewritten(
    bare: SweepStore, store: SweepStore, tmp_path: Path
) -> None:
    compared(store, ())
    assert table(store)["se"].isna().all(), "only where it is asked for"
    before = {path: store.storage.get(path) for path in store.pair_marks()}
    assert "with standard errors of svcca, cka, cosine" in compared(store, ("se",))[0]
    assert {path: store.storage.get(path) for path in store.pair_marks()} == before
    found = table(store)
    assert found["se"].isna().groupby("metric").mean().to_dict() == {"svcca": 0, "cka": 0, "cosine": 0, "nbs": 1}
    assert compared(store, ("se",)) == ["digits: nothing is missing"]
    compared(store, ("se", "se_nbs"))
    shutil.copytree(bare.root.folder, tmp_path / "whole")  # type: ignore[arg-type]
    whole = SweepStore(Storage(tmp_path / "whole"), "digits")
    compared(whole, ("se", "se_nbs"))
    pd.testing.assert_frame_equal(table(store), table(whole), check_exact=True)
    assert compared(whole, ("se", "se_nbs")) == ["digits: nothing is missing"]


def test_it_is_checked_and_repaired_as_other_pieces(store: SweepStore) -> None:
    compared(store, ("se",))
    table(store)
    report = verify_store(store.root)
    assert (report.whole, report.pieces["standard errors of a tile of pairs"]) == (True, 2)
    path = min(store.pair_marks("pairs_se"))
    assert path.startswith("pairs/conv1_1/se/")
    assert holds_sweep("digits", [f"digits/{path}"])
    assert path in store.digests()
    content = store.storage.get(path) or b""
    assert decode_record(content, path).values["layer"] == "conv1_1"
    broken, place = decode_record(content, path).values, place_of(path)
    broken["pairs"][0][2]["cka"]["values"].pop()
    broken["pairs"][0][2]["cka"]["reasons"].pop()
    assert place is not None
    with pytest.raises(ValueError, match="must have 10 values, got 9"):
        require_values(place, broken)
    (Path(str(store.root.folder)) / "digits" / path).write_bytes(content.replace(b"0.9", b"0.8"))
    assert not verify_store(store.root).whole
    carry_out(store.root, planned(store.root, verify_store(store.root)), lambda: None)
    compared(store, ("se",))
    table(store)
    assert store.storage.get(path) is not None
    assert verify_store(store.root).whole


def test_fewer_images_than_blocks_have_none(tmp_path: Path) -> None:
    store = trained(tmp_path, probe=9)
    compared(store, ("se",), probe=9)
    assert set(se_in(store)[FIRST, SECOND, "out"].values()) == {None}
    assert compared(store, ("se",), probe=9) == ["digits: nothing is missing"]


def test_the_command(store: SweepStore, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(store.root.folder)
    flags = ["pairs", where, "--local", "--layers", "out", "--metrics", "cka", "--measure", "se"]
    assert cli.main([*flags, "--dry-run"]) == 0
    assert "with standard errors of cka" in capsys.readouterr().out
    assert not store.pair_marks("pairs_se")
    assert cli.main(flags) == 0
    csv = pd.read_csv(Path(where) / "digits" / "pair_results" / "runs" / "pairs.csv")
    assert csv["se"].gt(0).all()
    out = Path(where) / "out"
    networks = ["--networks", "run=0,iteration=1", "run=1,iteration=1", "--out", str(out)]
    beside = ["--measure", "se", "--permutations", "2"]
    assert cli.main(["layers", where, *networks, "--metrics", "nbs", "cka", *beside]) == 0
    assert "layers of y is, depending on the layer of x, in the mean of 2 permutations nbs" in capsys.readouterr().out
    (file,) = out.glob("*.csv")
    layers = pd.read_csv(file)
    assert layers["null"].notna().all()
    assert layers.groupby("metric")["se"].count().to_dict() == {"cka": 64, "nbs": 0}


def test_with_sums_over_blocks_a_tile_has_fewer_networks() -> None:
    gib = 2.0**30
    assert pairs.tile_limit((5000, 2, 2, 512), 16 * gib) > 3 * pairs.tile_limit((5000, 2, 2, 512), 16 * gib, True) > 30
