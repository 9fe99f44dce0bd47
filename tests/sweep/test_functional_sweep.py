"""Test logits in a sweep: the same bits whenever and however they are made, and tables that say what they show."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from sweep_scripts import outcome

import distsim
from distsim.activations.probe import make_probe
from distsim.cli import main as cli
from distsim.data import augment
from distsim.environment import threads
from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.results import functional_figures, published
from distsim.results import reduce as results
from distsim.results.columns import OF_OLDER
from distsim.results.merging import merge, of_store, publish
from distsim.results.reduce import Committed, collect, read_tables
from distsim.results.text import as_text
from distsim.specs import COMPLETE, Extent, NetworkId
from distsim.store import DamagedStore, Storage, SweepStore, logits
from distsim.store.descriptions import layers_of
from distsim.sweep.engine import LocalEngine
from distsim.sweep.order import Prepared, prepare, take, with_kept
from distsim.sweep.plan import missing
from distsim.sweep.run import run
from distsim.sweep.status import status
from distsim.verify.store import verify_store

SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=40, train_limit=200)
NETWORKS = {COMPLETE, *Extent(2, 2).networks}
ONE = NetworkId(1, 2)


def ordered(**choices: Any) -> Prepared:
    usual: dict[str, Any] = {"runs": 2, "iterations": 2, "metrics": ("cka",), "chance": False, "activations": "memory"}
    usual["measure"] = ("functional",)
    return prepare(SMALL, **usual | choices)


def computed(folder: Path, order: Prepared) -> SweepStore:
    root = Storage(folder)
    take([order], root, say=lambda text: None)
    run([order], root, LocalEngine(root), lambda text: None)
    return SweepStore(root, "digits")


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    with threads(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw", lambda root, again=False: [])  # figures take longer than the sweep
        yield


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep. Not to be changed."""
    folder = tmp_path_factory.mktemp("functional")
    computed(folder, ordered())
    return folder


@pytest.fixture
def copy(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "store"))


def store_in(folder: Path) -> SweepStore:
    return SweepStore(Storage(folder), "digits")


def read(store: SweepStore, network: NetworkId) -> logits.Logits:
    mark = store.piece_mark(network, "logits")
    assert mark is not None
    return logits.read(store, network, mark)


def of_logits(folder: Path) -> dict[str, str]:
    return {piece: sha256 for piece, sha256 in store_in(folder).digests().items() if "logits" in piece}


# --- made once, the same however --------------------------------------------------------------------------------------


def test_each_network_has_logits_that_are_as_accurate_as_it_is(kept: Path) -> None:
    store = store_in(kept)
    assert store.contents().logits == NETWORKS
    labels = read(store, COMPLETE).labels
    np.testing.assert_array_equal(labels, ordered().dataset.test_labels)
    for network in NETWORKS:
        right = read(store, network).margins.argmax(axis=1) == labels
        assert right.mean() == store.committed(network).values["accuracy"], network


def test_an_older_store_is_extended_by_pieces_beside_what_is_committed(kept: Path, tmp_path: Path) -> None:
    store = computed(tmp_path, ordered(measure=()))
    assert store.contents().logits == frozenset()
    assert read_tables(store.root).functional.empty
    before = {path: store.storage.get(path) for path in store.storage.sizes() if path.startswith(("complete", "runs"))}
    extended = computed(tmp_path, ordered())
    assert of_logits(tmp_path) == of_logits(kept), "recomputed from the weights, to the bit"
    assert {path: extended.storage.get(path) for path in before} == before
    assert not missing(ordered().sweep, extended.contents(), ordered().layers)


def test_in_turns_and_beside_they_are_the_same(kept: Path, tmp_path: Path) -> None:
    order = ordered()
    together = dataclasses.replace(order, sweep=dataclasses.replace(order.sweep, pack=2))
    computed(tmp_path, together)
    assert of_logits(tmp_path) == of_logits(kept)


def test_fused_runs_keep_them_too(tmp_path: Path) -> None:
    store = computed(tmp_path, ordered(fuse=2, iterations=1))
    assert store.contents().logits == {COMPLETE, NetworkId(0, 1), NetworkId(1, 1)}


def test_of_a_gone_piece_only_that_piece_is_made_again(kept: Path, copy: Path) -> None:
    shutil.rmtree(copy / "digits" / ONE.path / "logits")
    assert status(store_in(copy)).missing_logits == 1
    assert not status(store_in(copy)).done
    assert "test logits       1 missing" in str(status(store_in(copy)))
    again = computed(copy, ordered())
    assert again.digests() == store_in(kept).digests()
    assert status(again).done


def test_a_store_keeps_its_request_where_no_flag_says_otherwise(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "older"
    computed(other, ordered(measure=(), runs=1, iterations=1))
    nothing: dict[str, Any] = {"measure": None, "permutations": None}
    assert with_kept(Storage(other), "digits", nothing)["measure"] == ()
    assert with_kept(Storage(copy), "digits", nothing)["measure"] == ("functional",)
    assert with_kept(Storage(tmp_path / "new"), "digits", nothing)["measure"] is None
    assert Extent.of(PROBLEMS["digits"], **nothing).measure == ("null", "se", "functional")
    done = outcome(lambda: cli.main(["run", str(other), "--local", "--measure", "functional"]))
    assert (done.status, done.err) == (0, "")
    assert store_in(other).contents().logits == {COMPLETE, NetworkId(0, 1)}


def test_a_studys_network_has_its_logits(kept: Path, tmp_path: Path) -> None:
    found = distsim.open(kept).network(1, 2).logits
    np.testing.assert_array_equal(found, read(store_in(kept), ONE).margins)
    (line,) = set(found.max(axis=1))
    assert line == 0
    computed(tmp_path, ordered(measure=(), runs=1, iterations=1))
    with pytest.raises(FileNotFoundError, match="no test logits of run 0, iteration 1: distsim run STORE --measure"):
        _ = distsim.open(tmp_path).network(0, 1).logits


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_found_repaired_and_made_again(kept: Path, copy: Path) -> None:
    (file,) = (copy / "digits" / ONE.path / "logits").glob("attempt-*/logits.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (finding,) = verify_store(Storage(copy)).of("damaged")
    assert finding.piece == f"{ONE.path}/logits"
    with pytest.raises(DamagedStore, match=r"logits\.safetensors in .* is damaged"):
        collect(store_in(copy), layers_of(store_in(copy)), seed=0)
    assert outcome(lambda: cli.main(["repair", str(copy)])).status == 0
    assert store_in(copy).contents().logits == NETWORKS - {ONE}
    assert computed(copy, ordered()).digests() == store_in(kept).digests()


def test_logits_of_other_weights_are_refused(copy: Path) -> None:
    store = store_in(copy)
    mark = store.piece_mark(ONE, "logits")
    assert mark is not None
    file = copy / "digits" / ONE.path / "logits" / "COMMIT.json"
    file.write_bytes(dataclasses.replace(mark, provenance=mark.provenance | {"weights": "0" * 64}).encode())
    with pytest.raises(DamagedStore, match=r"logits of run 1, iteration 2 .* come from other weights"):
        Committed.of(store)
    (finding,) = verify_store(Storage(copy)).of("damaged")
    assert finding.piece == f"{ONE.path}/logits"


@pytest.mark.parametrize(("field", "value", "sentence"), [
    ("examples", 10**9, "logits of 1,000,000,000 images, the complete network's are of 359"),
    ("classes", 10**6, "logits of 1,000,000 classes, the problem has 10"),
    ("dtype", "float32", "instead of"),
])  # fmt: skip
def test_a_mark_that_says_something_else_is_refused(copy: Path, field: str, value: Any, sentence: str) -> None:
    mark = store_in(copy).piece_mark(ONE, "logits")
    assert mark is not None
    file = copy / "digits" / ONE.path / "logits" / "COMMIT.json"
    file.write_bytes(dataclasses.replace(mark, values=mark.values | {field: value}).encode())
    assert sentence in " ".join(map(str, verify_store(Storage(copy)).of("damaged")))


# --- tables -----------------------------------------------------------------------------------------------------------


def predictions(store: SweepStore, network: NetworkId) -> torch.Tensor:
    """Logits of the test images by a forward pass of our own."""
    order = ordered()
    model = build(store.identity().problem)
    model.load_state_dict(store.load_network(network).weights)
    model.eval()
    mean, sd = augment.normalisation(store.identity().problem.recipe)
    with torch.no_grad():
        out: torch.Tensor = model(augment.normalise(torch.tensor(order.dataset.test_images), mean, sd))
    return out.double()


def test_the_table_is_what_a_second_derivation_gives(kept: Path) -> None:
    store, labels = store_in(kept), ordered().dataset.test_labels
    table = read_tables(store.root).functional
    assert len(table) == 4 * 11
    complete, pruned = predictions(store, COMPLETE), predictions(store, ONE)
    p, q = complete.softmax(1).numpy(), pruned.softmax(1).numpy()
    before, after = complete.argmax(1).numpy(), pruned.argmax(1).numpy()
    rows = table[(table["run"] == 1) & (table["iteration"] == 2)].set_index("class")
    for name, which in {"": labels >= 0, "3": labels == 3}.items():
        row = rows.loc[name]
        assert row["n"] == which.sum()
        assert row["churn"] == pytest.approx((before != after)[which].mean(), abs=1e-12)
        assert row["agreement"] == pytest.approx((before == after)[which].mean(), abs=1e-12)
        assert row["lost"] == pytest.approx(((before == labels) & (after != labels))[which].mean(), abs=1e-12)
        assert row["won"] == pytest.approx(((before != labels) & (after == labels))[which].mean(), abs=1e-12)
        with np.errstate(invalid="ignore"):  # SciPy takes the root of a rounding below 0
            bits = np.nan_to_num(jensenshannon(p, q, base=2, axis=1))[which] ** 2
        assert row["jsd"] == pytest.approx(bits.mean(), rel=5e-3)  # logits are kept in float16


def test_the_summary_has_the_median_over_runs(kept: Path) -> None:
    study = distsim.open(kept)
    summary = study.functional_summary
    assert set(summary[summary["class"] == ""]["measure"]) == {"agreement", "churn", "jsd", "lost", "won"}
    assert set(summary[summary["class"] == "3"]["measure"]) == {"churn"}
    of_one = study.functional[(study.functional["class"] == "") & (study.functional["iteration"] == 2)]["jsd"]
    row = summary[(summary["measure"] == "jsd") & (summary["iteration"] == 2)].iloc[0]
    assert (row["median"], row["count"]) == (pytest.approx(of_one.median()), 2)


def test_the_terminal_says_it_in_a_line(kept: Path) -> None:
    tables = read_tables(Storage(kept))
    last = tables.functional_summary.query("iteration == 2 and `class` == ''").set_index("measure")["median"]
    (line,) = (line for line in as_text(tables, "digits").splitlines() if line.startswith("Test images"))
    assert line.startswith(f"Test images at iteration 2: {last['agreement']:.1%} of predictions")
    assert "on test images" not in as_text(tables, "digits")
    assert "similarities to the complete network on test images" in as_text(tables, "digits", "test")


def test_the_figure_draws_medians_bands_and_classes(kept: Path) -> None:
    tables = read_tables(Storage(kept))
    figure = functional_figures.functional_similarity(tables.functional_summary, "digits")
    agreement, divergence, _, churn = figure.axes
    drawn = tables.functional_summary.query("measure == 'jsd' and `class` == ''")["median"]
    np.testing.assert_array_equal(divergence.lines[0].get_ydata(), drawn)
    assert len(churn.lines) == 11
    assert agreement.get_ylabel() == "agreement of predictions"
    assert distsim.open(kept).figure("functional").axes[0].get_ylabel() == agreement.get_ylabel()


def test_a_published_study_keeps_the_table_and_an_older_one_has_none(kept: Path, tmp_path: Path) -> None:
    study = of_store(store_in(kept))
    publish(study, tmp_path / "new")
    again = published.read(tmp_path / "new")
    pd.testing.assert_frame_equal(again.tables.functional, study.tables.functional)
    older = dataclasses.replace(study, tables=type(study.tables)(*(study.tables.by_name[name] for name in OF_OLDER)))
    files = published.encoded(older)
    (tmp_path / "old").mkdir()
    for name, content in files.items():
        if not name.startswith("functional"):
            (tmp_path / "old" / name).write_bytes(content)
    record = json.loads((tmp_path / "old" / "study.json").read_text())
    record["tables"] = {name: entry for name, entry in record["tables"].items() if "functional" not in name}
    (tmp_path / "old" / "study.json").write_text(json.dumps(record))
    without = published.read(tmp_path / "old")
    assert without.tables.functional.empty
    both = merge([without, again], ["old", "new"])
    assert len(both.tables.functional) == len(study.tables.functional)
    assert len(both.tables.functional_summary) == len(study.tables.functional_summary)


# --- a probe of test images -------------------------------------------------------------------------------------------


def test_a_probe_of_test_images_is_of_test_images(tmp_path: Path) -> None:
    problem = SMALL.reduced_to(probe_from="test")
    order = prepare(problem, runs=1, iterations=1, metrics=("cka",), chance=False, measure=())
    probe = make_probe(order.sweep.identity, order.dataset)
    np.testing.assert_array_equal(probe.images.numpy(), order.dataset.test_images[probe.indices])
    assert problem.reduced
    store = computed(tmp_path, order)
    assert store.identity().problem.probe_from == "test"
    study = distsim.open(tmp_path)
    values = study.network(0, 1).activations("fc1")
    model = build(store.identity().problem)
    model.load_state_dict(store.load_network(NetworkId(0, 1)).weights)
    assert values.shape[0] == 40
    np.testing.assert_array_equal(values.coords["example"], probe.indices)
    of_both = [network_outputs(store, which, order.dataset.test_images[probe.indices]) for which in (COMPLETE, ONE_ONE)]
    ours = distsim.metrics.cka(*of_both)
    theirs = study.results.query("layer == 'out' and metric == 'cka'")["value"].iloc[0]
    assert theirs == pytest.approx(ours, abs=1e-5)
    assert "test images" in study.figure("fig5").get_suptitle().replace("\n", " ")
    claims = study.claims()
    assert not claims["verdict"].isin(["holds", "fails"]).any()
    assert "python digits.py" not in of_store(store).parts[0]["command"]
    assert "--probe-from test" in of_store(store).parts[0]["command"]


ONE_ONE = NetworkId(0, 1)


def network_outputs(store: SweepStore, network: NetworkId, images: np.ndarray) -> np.ndarray:
    model = build(store.identity().problem)
    model.load_state_dict(store.load_network(network).weights)
    model.eval()
    mean, sd = augment.normalisation(store.identity().problem.recipe)
    with torch.no_grad():
        out: np.ndarray = model(augment.normalise(torch.tensor(images), mean, sd)).numpy()
    return out


def test_too_few_test_images_are_said_before_training() -> None:
    problem = PROBLEMS["digits"].reduced_to(probe_from="test")
    with pytest.raises(ValueError, match=r"^probe of 1000 images asked for, the test set has 359: use --probe 359 or"):
        prepare(problem)


def test_training_images_stay_the_default_and_out_of_the_hash() -> None:
    assert "probe_from" not in ordered().sweep.identity.as_dict()["problem"]
