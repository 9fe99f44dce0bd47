"""What is measured beside each value: its null, and its standard error over examples."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invariants import store_faults

from distsim.comparison.layer import InMemory, Reference
from distsim.environment import threads
from distsim.metrics.jackknife import kept, split, standard_error
from distsim.problems import PROBLEMS
from distsim.results import reduce as results
from distsim.results.reduce import read_tables
from distsim.specs import COMPLETE, NetworkId
from distsim.store import Storage, SweepStore
from distsim.store.activations import Reader
from distsim.store.paths import VALUES
from distsim.sweep.engine import LocalEngine
from distsim.sweep.order import Prepared, prepare, take
from distsim.sweep.run import run

SMALL = PROBLEMS["digits"].reduced_to(epochs=1, probe=60, train_limit=100)
METRICS = ("svcca", "cka", "nbs", "cosine")
FIRST = NetworkId(0, 1)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "draw", lambda root, again=False: [])


def ordered(**choices: Any) -> Prepared:
    return prepare(SMALL, **{"runs": 1, "iterations": 2, "metrics": METRICS, "retention": "all"} | choices)


def computed(folder: Path, one: Prepared) -> SweepStore:
    root = Storage(folder)
    take([one], root)
    run([one], root, LocalEngine(root), lambda line: None)
    return SweepStore(root, "digits")


def of_values(store: SweepStore) -> dict[str, str]:
    """Digest of each piece of values, by path."""
    return {path: mark.digest for what in VALUES for path, mark in store.value_marks(what).items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """A study with all measures. Not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw", lambda root, again=False: [])
        return computed(tmp_path_factory.mktemp("whole"), ordered(measure=("null", "se", "se_nbs"), permutations=3))


def test_the_pieces_lie_beside_the_comparisons(whole: SweepStore) -> None:
    assert store_faults(whole) == []
    contents = whole.contents()
    assert {key[0] for key in contents.null} == {NetworkId(0, 2)}, "iteration 1 has a chance level"
    assert contents.null[NetworkId(0, 2), "fc1"] == dict.fromkeys(("svcca", "nbs"), frozenset(range(3)))
    assert contents.se[FIRST, "out"] == set(METRICS)


def test_a_standard_error_is_that_of_layers_without_a_tenth_of_the_images(whole: SweepStore) -> None:
    table = read_tables(whole.root).similarities.set_index(["iteration", "layer", "metric"])
    assert table["se"].gt(0).all()
    sides = []
    for network in (COMPLETE, FIRST):
        mark = whole.activations_mark(network)
        assert mark is not None
        sides.append(Reader(whole.storage, whole.activations_path(network), mark).layer("conv1_1").read())
    without = [
        Reference(InMemory(sides[0][keep]), ("cka", "nbs")).compare(InMemory(sides[1][keep]))
        for keep in (kept(60, block) for block in split(60, 0))
    ]
    for metric in ("cka", "nbs"):
        expected = standard_error([values[metric]["value"] for values in without])
        assert table["se"][1, "conv1_1", metric] == pytest.approx(expected, rel=1e-5)


def test_nulls_are_rows_of_chance_and_fill_the_columns(whole: SweepStore) -> None:
    tables = read_tables(whole.root)
    chance = tables.chance.set_index(["iteration", "layer", "metric"])["permutation"]
    assert chance.loc[2, "fc1", "nbs"].tolist() == [0, 1, 2]
    assert chance.loc[1, "fc1", "nbs"].tolist() == [0, 1, 2, 3, 4]
    assert tables.similarities["null"].notna().all()
    rows = tables.similarities.set_index(["iteration", "metric"])
    assert set(rows.loc[2, "nbs"]["null_of"]) == {"run=0,iteration=2"}


def test_measured_later_the_bits_are_the_same_and_nothing_is_rewritten(whole: SweepStore, tmp_path: Path) -> None:
    """First the values alone, then everything, in two steps, from memory."""
    store = computed(tmp_path, ordered(measure=(), activations="memory"))
    before = {path: store.storage.get(path) for path in of_values(store)}
    computed(tmp_path, ordered(measure=("null",), permutations=2, activations="memory"))
    everything = {"measure": ("null", "se", "se_nbs"), "permutations": 3, "activations": "memory"}
    computed(tmp_path, ordered(**everything))
    assert {path: store.storage.get(path) for path in before} == before
    ours, theirs = of_values(store), of_values(whole)
    assert set(ours.keys() ^ theirs.keys()) == {path for path in ours.keys() | theirs.keys() if "/null/" in path}, (
        "permutations that were added have files of their own"
    )
    assert {path: ours[path] for path in ours.keys() & theirs.keys()} == {
        path: theirs[path] for path in ours.keys() & theirs.keys()
    }
    for name, table in read_tables(store.root).by_name.items():
        assert table.equals(read_tables(whole.root).by_name[name]), name
    assert run([ordered(**everything)], store.root, LocalEngine(store.root), lambda line: None) is False


def test_what_an_interruption_left_out_is_measured_again(whole: SweepStore, tmp_path: Path) -> None:
    """A kill between the commits of a layer leaves its values without what is beside them."""
    asked = {"measure": ("null", "se", "se_nbs"), "permutations": 3}
    store = computed(tmp_path, ordered(**asked))
    lost = [path for path in store.storage.sizes() if "/se/conv2_1/" in path or "/null/" in path]
    assert len(lost) > 2
    store.storage.delete(lost)
    computed(tmp_path, ordered(**asked))
    assert of_values(store) == of_values(whole)
    assert store.contents() == whole.contents()


def test_fewer_examples_than_blocks_have_no_standard_error(tmp_path: Path) -> None:
    few = prepare(SMALL.reduced_to(probe=9), runs=1, iterations=1, metrics=("cka",), chance=False)
    store = computed(tmp_path, few)
    assert read_tables(store.root).similarities["se"].isna().all()
    (record,) = {str(mark.values["cka"]["reasons"]) for marks in store.comparisons("se").values() for mark in marks}
    assert "10 blocks need at least 10 examples, there are 9" in record
