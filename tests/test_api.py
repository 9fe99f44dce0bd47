"""The face: `distsim.run` makes a whole tiny study, `distsim.open` looks at it, wrong arguments become a sentence."""

import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import distsim
from distsim import models, specs
from distsim.cli.main import main
from distsim.data.arrays import dataset_of
from distsim.models import Layer, Network
from distsim.results.reduce import TABLES
from distsim.specs import COMPLETE, NetworkId, RunId
from distsim.store import IdentityMismatch, SweepStore
from distsim.sweep.failures import SweepFailed

pytestmark = pytest.mark.usefixtures("blank_figures")

RNG = np.random.default_rng(0)
Y = np.arange(150) % 3
X = (Y[:, None, None] * 40 + RNG.integers(0, 160, (150, 8, 8))).astype(np.uint8)
DATA = {"train": (X[:120], Y[:120]), "test": (X[120:], Y[120:])}


class Tiny(Network):
    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.out = nn.Linear(6 * (size // 2) ** 2, classes)
        self.layers = (Layer("conv1", "conv", "relu"), Layer("pool1", "pool", "pool"), Layer("out", "out", "out"))
        self.output = "out"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.pool(self.relu(self.conv(x))).flatten(1))


@pytest.fixture(autouse=True, scope="module")
def _models() -> Iterator[None]:
    before = dict(models.MODELS)
    yield
    models.MODELS.clear()
    models.MODELS.update(before)


def problem(**fields: Any) -> specs.Problem:
    recipe = distsim.Recipe(epochs=1, batch_size=32, lr=0.01, augment=["flip"])
    return distsim.Problem(Tiny, **{"recipe": recipe, "probe": 60, "runs": 2, "iterations": 2} | fields)


def run(storage: Path, **options: Any) -> distsim.Study:
    return distsim.run(problem(), **{"data": DATA, "storage": storage, "progress": False, "control": "none"} | options)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two runs of two iterations, the activations of all networks kept. Not to be changed."""
    folder = tmp_path_factory.mktemp("study") / "tiny"
    run(folder, retention="all")
    return folder


@pytest.fixture
def store(kept: Path, tmp_path: Path) -> Path:
    """The same, to change."""
    return Path(shutil.copytree(kept, tmp_path / "store"))


def files(folder: Path) -> dict[str, tuple[int, float]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime) for path in sorted(folder.rglob("*"))}


def rows(frame: pd.DataFrame) -> int:
    return len(frame)


# --- run -------------------------------------------------------------------------------------------------------------


def test_run_gives_the_study_that_open_gives(kept: Path):
    before = files(kept)
    study = distsim.open(kept)
    assert study.problems == ["Tiny"]
    assert study.storage == str(kept)
    each = 6 + 6 + 7  # two layers, and the output with the cosine
    names = {"results": 2 * 2 * each, "networks": 5, "accuracy": 3, "summary": 2 * each}
    names["chance"] = each * 5 + (each - 2 * 3) * 2  # of iteration 2 CKA's is known in closed form
    assert {name: rows(getattr(study, name)) for name in names} == names
    assert files(kept) == before, "looking at a store writes nothing"
    again = run(kept, retention="all")
    for name in names:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(study, name))
    assert {name for name in files(kept).keys() ^ before.keys() if "/lease/" not in name} == set()


def test_the_problem_is_filled_from_the_data(kept: Path):
    spec = distsim.open(kept).network().problem
    assert (spec.size, spec.channels, spec.classes, spec.source) == (8, 1, ("0", "1", "2"), "arrays")
    assert type(spec) is specs.Problem
    assert dataclasses.replace(spec, recipe=problem().recipe, classes=()).name == "Tiny"


def test_it_extends_and_the_numbers_stay(store: Path):
    before = distsim.open(store).results
    events: list[dict[str, Any]] = []
    study = run(store, runs=3, iterations=2, retention="all", progress=events.append)
    assert [(event["run"], event["iteration"]) for event in events] == [(2, 1), (2, 2)]
    assert all(event["problem"] == "Tiny" and 0 < event["accuracy"] <= 1 for event in events)
    after = study.results
    pd.testing.assert_frame_equal(after[after["run"] < 2].reset_index(drop=True), before)
    assert set(after["run"]) == {0, 1, 2}


def test_other_data_are_refused(store: Path):
    other = dict(DATA, train=(X[:120], np.roll(Y[:120], 1)))
    with pytest.raises(IdentityMismatch, match="data_digest"):
        run(store, data=other)


def test_forms_of_data_are_one_sweep(store: Path):
    floats = {name: (torch.tensor(x)[:, None] / 255, y.tolist()) for name, (x, y) in DATA.items()}
    assert run(store, data=floats, retention="all").problems == ["Tiny"]
    assert run(store, data=dataset_of(DATA), retention="all").problems == ["Tiny"]


def test_a_line_for_each_network_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    few: dict[str, Any] = {"runs": 1, "iterations": 1, "metrics": ["cka"], "chance": False, "control": []}
    run(tmp_path / "a", **few, progress=False)
    assert capsys.readouterr().out == ""
    run(tmp_path / "b", **few, progress=True)
    out = capsys.readouterr().out
    assert "Tiny complete network: accuracy" in out
    assert "Tiny run 0 iteration 1: accuracy" in out


def test_several_problems_in_one_store(tmp_path: Path):
    both = [problem(name="one"), problem(name="two", pruning=distsim.Pruning(conv_rate=0.5))]
    study = distsim.run(
        both, data=DATA, storage=tmp_path, runs=1, iterations=1, metrics="cka", progress=False, control="none"
    )
    assert study.problems == ["one", "two"]
    assert set(study.results["problem"]) == set(study.provenance["problem"]) == {"one", "two"}
    assert [status.problem for status in study.status()] == ["one", "two"]
    assert study.network(0, 1, problem="two").record["remaining"] < study.network(0, 1, "one").record["remaining"]
    assert len(study.figure("fig2", metric="cka", problem="two").axes) < len(study.figure("fig2", metric="cka").axes)
    for wrong in (lambda: study.network(0, 1), lambda: study.figure("fig5")):
        with pytest.raises(ValueError, match=r"problem: .* choose from one, two"):
            wrong()


def test_a_problem_of_the_papers_on_own_images(tmp_path: Path):
    few: dict[str, Any] = {
        "runs": 1,
        "iterations": 1,
        "epochs": 2,
        "probe": 40,
        "metrics": ["cka"],
        "chance": False,
        "control": [],
    }
    labels = np.arange(150) % 10
    study = distsim.run("digits", data=(X, labels), storage=tmp_path, progress=False, **few)
    spec = study.network().problem
    assert (spec.source, spec.reduced, spec.model) == ("arrays", True, "vgg_digits")
    with pytest.raises(ValueError, match="data: images are 6 x 8 pixels, and networks take square ones"):
        distsim.run(problem(), data=(X[:, 1:7], Y), storage=tmp_path, progress=False)


def test_a_folder_of_images(tmp_path: Path):
    from tests.sweep_scripts import write_images

    write_images(tmp_path / "images", ("cat", "dog"), train=8, test=2)
    few: dict[str, Any] = {
        "runs": 1,
        "iterations": 1,
        "metrics": ["cka"],
        "chance": False,
        "control": (),
        "progress": False,
    }
    made = distsim.Problem(Tiny, size=8, recipe=distsim.Recipe(epochs=1))
    study = distsim.run(made, data=tmp_path / "images", storage=tmp_path / "s", **few)
    spec = study.network().problem
    assert (spec.source, spec.channels, spec.size, spec.probe, spec.classes) == ("folder", 3, 8, 16, ("cat", "dog"))
    assert SweepStore(str(tmp_path / "s"), "Tiny").request().data == f"folder:{tmp_path / 'images'}"
    with pytest.raises(ValueError, match=r"size: images in a folder .* Problem\(size=32\)"):
        distsim.run(distsim.Problem(Tiny), data=str(tmp_path / "images"), storage=tmp_path / "t", **few)


@pytest.mark.ray
def test_on_ray(tmp_path: Path, kept: Path, ray_cluster: Path):
    run(tmp_path / "ray", retention="all", local=False)
    ours, theirs = (SweepStore(str(folder), "Tiny").digests() for folder in (tmp_path / "ray", kept))
    assert ours == theirs


def test_the_command_cannot_resume_it_and_says_why(store: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["status", str(store)]) == 0
    capsys.readouterr()
    assert main(["run", str(store), "--local"]) == 1
    assert capsys.readouterr().err == (
        "distsim: the images of Tiny came from Python, and nothing says where they are now: pass the same ones, "
        "as data, to distsim.run\n"
    )


# --- open ------------------------------------------------------------------------------------------------------------


def test_status_is_what_the_command_prints(store: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(store / "Tiny" / "runs" / "0001" / "iter_02")
    (status,) = distsim.open(store).status()
    assert (status.pruned, status.in_store, status.done) == (3, 3, False)
    assert status.missing_networks == {RunId.of(1): (2,)}
    assert main(["status", str(store)]) == 0
    assert capsys.readouterr().out == f"{status}\n"
    assert "run 1: iterations 2 missing" in str(status)


@pytest.mark.parametrize("state", ["never reduced", "reduced before the last network", "a damaged table"])
def test_tables_that_are_not_there_are_collected(kept: Path, store: Path, state: str):
    wanted = distsim.open(kept)
    results = store / "Tiny" / "results"
    if state == "never reduced":
        shutil.rmtree(results)
    elif state == "a damaged table":
        (results / "summary.parquet").write_bytes(b"PAR1")
    else:
        shutil.rmtree(store / "Tiny" / "runs" / "0001" / "iter_02")
        assert main(["report", str(store)]) == 0
        shutil.copytree(kept / "Tiny" / "runs", store / "Tiny" / "runs", dirs_exist_ok=True)
    before, study = files(store), distsim.open(store)
    for name in ("results", "networks", "summary", "accuracy", "chance", "provenance"):
        assert rows(getattr(study, name)) == rows(getattr(wanted, name)), name
    pd.testing.assert_frame_equal(study.summary, wanted.summary)
    assert files(store) == before


def test_provenance_has_a_row_for_each_row(kept: Path):
    study = distsim.open(kept)
    count = study.provenance["table"].value_counts().to_dict()
    permuted = 19 + 13  # of iteration 1 and 2: CKA's is known in closed form
    measured = rows(study.results) - 4 * 3  # NBS has no standard error unless it is asked for
    expected = {"networks": 5, "results": rows(study.results), "chance": permuted, "se": measured, "functional": 5}
    assert count == expected
    assert {*TABLES, "se"} >= set(count), "a standard error is a column of the results, made beside them"


def test_claims_are_those_of_the_report(kept: Path):
    claims = distsim.open(kept).claims()
    assert list(claims.columns) == [
        "claim",
        "problem",
        "metric",
        "verdict",
        "numbers",
        "text",
        "where",
        "data",
        "controlled",
    ]
    assert set(claims["claim"]) <= {f"C{number}" for number in range(1, 19)}
    assert len(claims[claims["problem"] == "Tiny"])


@pytest.mark.parametrize("name", ["fig1", "fig2", "fig4", "fig5", "fig8", "similarity"])
def test_figures(kept: Path, name: str):
    figure = distsim.open(kept).figure(name)
    assert figure.axes
    assert "Tiny" in "".join(text.get_text() for text in figure.findobj(lambda one: hasattr(one, "get_text")))


def test_all_figures_and_some_of_them(kept: Path):
    study = distsim.open(kept)
    assert list(study.figures(["fig2", "similarity"], metric=["cka", "nbs"], layers="conv*")) == [
        "fig2_cka_by_layer_conv",
        "fig2_nbs_by_layer_conv",
        "similarity_Tiny_cka_nbs_conv",
    ]
    assert {"fig1_accuracy_median", "fig2_svcca_by_layer", "fig8_output_Tiny"} <= study.figures().keys()


def test_the_metric_of_a_figure(kept: Path):
    study = distsim.open(kept)
    assert study.figure("fig2", metric="nbs").axes[0].get_ylabel().startswith("NBS (")
    labels = [panel.get_ylabel() for panel in study.figure("fig5", metric=["cka", "mean_cca"]).axes]
    assert labels[:2] == ["CKA", "mean CCA"]


def test_a_notebook_shows_a_row_for_each_problem(kept: Path, tmp_path: Path):
    odd = Path(shutil.copytree(kept, tmp_path / "<b> & co"))
    shown = distsim.open(odd)._repr_html_()
    assert "&lt;b&gt; &amp; co" in shown
    assert "<b>" not in shown
    study = distsim.open(kept)
    cells = re.findall("<td>(.*?)</td>", study._repr_html_())
    accuracy = study.accuracy.set_index("iteration")
    last = accuracy.loc[2]
    assert cells[1:4] == ["1", "2", "2"]
    assert cells[4:] == [f"{accuracy.loc[0, 'median']:.4f}", f"{last['median']:.4f}", f"{last['remaining']:.1%}"]


def test_a_study_that_has_just_begun(store: Path):
    for piece in ("complete", "runs", "results"):
        shutil.rmtree(store / "Tiny" / piece)
    study = distsim.open(store)
    tables = ("results", "networks", "summary", "accuracy", "chance", "provenance")
    assert [rows(getattr(study, name)) for name in tables] == [0] * 6
    (status,) = study.status()
    assert (status.complete, status.pruned, status.done) == (False, 0, False)
    for name in ("fig1", "fig2", "fig5", "fig8"):
        with pytest.raises(ValueError, match=f"{name}: the store has nothing of Tiny yet that it shows"):
            study.figure(name)
    with pytest.raises(
        FileNotFoundError, match=r"complete network of Tiny is not in .*, which holds no pruned network"
    ):
        study.network()


# --- one network -----------------------------------------------------------------------------------------------------


def test_a_network_is_ready_to_use(kept: Path):
    network = distsim.open(kept).network(run=1, iteration=2)
    x, y = DATA["test"]
    with torch.no_grad():
        answers = network.model(network.inputs(x)).argmax(1).numpy()
    assert not network.model.training
    assert float((answers == y).mean()) == pytest.approx(network.record["accuracy"])
    alive = network.masks["conv.weight"]
    assert alive.dtype == torch.bool
    assert not network.model.conv.weight[~alive].any()
    assert float(alive.float().mean()) < 1
    assert repr(network).startswith("<run 1, iteration 2 of Tiny: accuracy ")


def test_the_complete_network_has_three_names(kept: Path):
    study = distsim.open(kept)
    for network in (study.network(), study.network(iteration=0), study.network(run=1, iteration=0)):
        assert network.which == COMPLETE
        assert network.record["iteration"] == 0


def test_numbers_of_numpy_name_networks(kept: Path):
    study, (run, iteration, none) = distsim.open(kept), np.array([1, 2, 0])
    assert study.network(run, iteration, complete=none).which == study.network(1, 2).which
    assert study.network(np.int32(1), np.uint8(2)).which == study.network(1, 2).which


@pytest.mark.parametrize("which", [(None, None), (1, 2)])
def test_activations_recomputed_are_those_kept(kept: Path, store: Path, which: tuple[Any, Any]):
    study = distsim.open(store)
    SweepStore(str(store), "Tiny").drop_activations(COMPLETE if which[0] is None else NetworkId(*which))
    for layer in ("conv1", "pool1", "out"):
        stored = distsim.open(kept).network(*which).activations(layer)
        fresh = study.network(*which).activations(layer, data=DATA)
        assert (stored.origin, fresh.origin) == ("store", "recomputed")
        assert stored.dtype == fresh.dtype
        assert stored.dims == fresh.dims
        np.testing.assert_array_equal(stored.values, fresh.values)
        np.testing.assert_array_equal(stored.example, fresh.example)
    assert stored.dims == ("example", "feature")


def test_activations_are_of_the_probe(kept: Path):
    network = distsim.open(kept).network(run=0, iteration=1)
    activations = network.activations("conv1")
    assert activations.dims == ("example", "row", "column", "channel")
    assert activations.attrs == {"problem": "Tiny", "run": 0, "iteration": 1, "kind": "conv", "origin": "store"}
    x = DATA["train"][0][activations.example.values]
    with torch.no_grad():
        wanted = torch.relu(network.model.conv(network.inputs(x))).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(activations.values, wanted, rtol=1e-3, atol=1e-3)


def test_activations_are_read_when_they_are_asked_for(kept: Path, monkeypatch: pytest.MonkeyPatch):
    from distsim.store.activations import LayerArray

    asked: list[Any] = []
    read = LayerArray.read
    monkeypatch.setattr(LayerArray, "read", lambda self, key: (asked.append(key), read(self, key))[1])
    activations = distsim.open(kept).network(run=0, iteration=1).activations("conv1")
    some = activations.isel(example=slice(2, 5), channel=0)
    assert asked == []
    assert some.values.shape == (3, 8, 8)
    (key,) = asked
    assert key[0] == slice(2, 5, 1)
    whole = activations.values
    np.testing.assert_array_equal(some.values, whole[2:5, :, :, 0])
    np.testing.assert_array_equal(activations[[5, 0, 3], :, ::2].values, whole[[5, 0, 3], :, ::2])
    np.testing.assert_array_equal(activations.sel(example=some.example[1]).values, whole[3])


def test_a_run_has_its_data_at_hand(tmp_path: Path):
    few: dict[str, Any] = {"runs": 1, "iterations": 1, "metrics": ["cka"], "chance": False, "control": []}
    study = run(tmp_path, **few)
    assert study.network(0, 1).activations("out").origin == "recomputed"
    with pytest.raises(ValueError, match="images of Tiny came from Python"):
        distsim.open(tmp_path).network(0, 1).activations("out")
    with pytest.raises(ValueError, match="data: these are not the data that Tiny was trained on"):
        distsim.open(tmp_path).network(0, 1).activations("out", data=(X, Y))


def test_without_xarray_there_is_a_sentence(kept: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"needs xarray, .*: pip install 'distsim-imp\[xarray\]'$"):
        distsim.open(kept).network().activations("out")


def test_a_model_that_is_not_known_here(kept: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(models.MODELS, "Tiny")
    network = distsim.open(kept).network(0, 1)
    assert network.record["iteration"] == 1
    assert network.masks["out.weight"].any()
    assert network.activations("conv1").shape == (60, 8, 8, 6)
    with pytest.raises(ValueError, match=r"unknown model 'Tiny'.*add your own with distsim.Problem\(model=...\)"):
        _ = network.model


# --- problems --------------------------------------------------------------------------------------------------------


def test_a_model_is_a_class_a_function_or_a_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))

    def narrow(channels: int, size: int, classes: int) -> Network:
        return Tiny(channels, size, classes)

    assert distsim.Problem(narrow).model == "narrow"
    assert models.MODELS["narrow"] is narrow
    assert distsim.Problem("lenet5", source="mnist").size == 28
    assert type(distsim.Problem("lenet5", source="mnist", probe=10)) is specs.Problem


class LogProbabilities(nn.Module):
    """A network whose output is no module's: the last thing it does is a function."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(channels * size * size, 8), nn.ReLU())
        self.last = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.log_softmax(self.last(self.hidden(x.flatten(1))) / 2, dim=1)


def test_an_output_that_is_no_modules_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    recipe = distsim.Recipe(epochs=1, batch_size=32, lr=0.01, augment=())
    asked = distsim.Problem(LogProbabilities, recipe=recipe, probe=60, runs=1, iterations=1)
    study = distsim.run(asked, data=DATA, storage=tmp_path, progress=False, control="none", measure="none")
    assert set(study.results["layer"]) == {"hidden.1", "out"}
    probabilities = np.exp(study.network(run=0, iteration=1).activations("out").astype(float))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-3)
    assert distsim.open(tmp_path).status()


def test_a_class_defined_again_takes_the_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    cell = "class Net: pass"
    first: dict[str, Any] = {"__name__": "__main__"}
    second, elsewhere = dict(first), {"__name__": "other"}
    for names in (first, second, elsewhere):
        exec(cell, names)
    distsim.Problem(first["Net"])
    distsim.Problem(second["Net"])
    assert models.MODELS["Net"] is second["Net"]
    with pytest.raises(
        ValueError, match=r"model Net of other.Net: __main__.Net has the same name; give one of them another"
    ):
        distsim.Problem(elsewhere["Net"])


def test_lists_and_numpys_numbers_are_plain():
    made = distsim.Problem(
        "lenet5",
        classes=["a", "b"],
        runs=np.int64(3),
        recipe=distsim.Recipe(normalise=[[0.5], [0.25]], augment=["flip"], milestones=[1, 2]),
    )
    assert (made.classes, made.runs, made.channels) == (("a", "b"), 3, 1)
    assert made.recipe == specs.Recipe(
        15, 64, "adam", 1e-3, normalise=((0.5,), (0.25,)), augment=("flip",), milestones=(1, 2)
    )
    assert distsim.Recipe(optimizer="sgd").lr == 0.1
    assert distsim.Pruning(conv_rate=0.5) == specs.Pruning(conv_rate=0.5, fc_rate=0.5)


# --- wrong arguments -------------------------------------------------------------------------------------------------


class Instance(nn.Module):
    pass


WRONG = {
    "problem, a number": ({"problem": 3}, r"problem must be a distsim.Problem, a name \(.*\) or a list .*, got 3"),
    "problem, a name": ({"problem": "cifar3"}, "problem must be one of cifar2, .*, got 'cifar3'"),
    "problem, twice": ({"problem": ["digits", "digits"]}, "problem: names must differ .*, got digits, digits"),
    "problem, none": ({"problem": []}, "problem: names must differ .*, got none"),
    "runs": ({"runs": "two"}, "runs must be a whole number.*, got 'two'"),
    "iterations": ({"iterations": 0}, "iterations must be at least 1, got 0"),
    "metrics, unknown": ({"metrics": ["ccka"]}, r"unknown metrics \['ccka'\]; there are .*'cka'"),
    "metrics, a number": ({"metrics": 3}, "metrics must be a name or a list of names, got 3"),
    "storage": ({"storage": 3}, "storage must be a folder or a URL, got 3"),
    "storage, of no store": ({"storage": "http://x/y"}, "cannot use http://x/y as storage"),
    "local": ({"local": "yes"}, "local must be True or False, got 'yes'"),
    "address": ({"address": "auto"}, "address must be None where local is True, got 'auto'; Ray needs local=False"),
    "progress": ({"progress": "bar"}, "progress must be True, False or a function of one event, got 'bar'"),
    "device": ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
    "threads": ({"threads": "two"}, "threads must be a whole number from 1 on, got 'two'"),
    "cpus": ({"cpus": -1}, "cpus must be positive, got -1"),
    "retention": ({"retention": "some"}, "retention must be reference or all, got 'some'"),
    "precision": ({"precision": "float16"}, "precision must be float32, bfloat16 or tf32, got 'float16'"),
    "data": ({"data": X}, r"data: train is of type ndarray, expected \(x, y\)"),
    "data, no folder": ({"data": "nowhere"}, "nowhere"),
    "data, forgotten": ({"data": None}, "images of Tiny came from Python"),
    "probe": ({"probe": 1000}, "probe of 1000 images asked for, the training set has 120"),
    "classes": ({"classes": "cat"}, "labels go from 0 to 2, expected whole numbers: 0 to 0, as there are 1"),
    "a slip of the keyboard": ({"iteration": 3}, r"run has no argument iteration \(did you mean iterations\?\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_of_run(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    wrong, sentence = WRONG[case]
    options: dict[str, Any] = {"problem": problem(size=8), "data": DATA, "storage": tmp_path / "s", "progress": False}
    with pytest.raises((ValueError, TypeError, OSError), match=sentence) as raised:
        distsim.run(**options | wrong)
    assert "\n" not in str(raised.value)
    assert not isinstance(raised.value, SweepFailed)
    assert list(tmp_path.iterdir()) == [], "nothing is made before the arguments are known to be right"


WRONG_PROBLEMS = {
    "model, an instance": ({"model": Instance()}, "model must be a class or function .*, got Instance"),
    "model, a name": ({"model": "lenet"}, "model must be a class, a function or one of .*lenet5.*, got 'lenet'"),
    "model, no name": ({"model": lambda c, s, k: None}, "model: a function needs a name"),
    "name": ({"name": "a/b"}, "a problem's name must be the name of a folder.* got 'a/b'"),
    "recipe": ({"recipe": {"epochs": 3}}, r"recipe must be a distsim.Recipe, got \{'epochs': 3\}"),
    "pruning": ({"pruning": 0.2}, "pruning must be a distsim.Pruning, got 0.2"),
    "classes": ({"classes": [1, 2]}, "classes must be .*, got .1, 2."),
    "size, of a folder": ({"source": "folder"}, "size must be a whole number where source is folder"),
    "size": ({"size": 0}, "size must be at least 1, got 0"),
    "a slip": (
        {"prunning": None},
        r"Problem has no argument prunning \(did you mean pruning\?\); it has name, source, ",
    ),
}


@pytest.mark.parametrize("case", WRONG_PROBLEMS)
def test_wrong_arguments_of_problem(case: str):
    wrong, sentence = WRONG_PROBLEMS[case]
    with pytest.raises((ValueError, TypeError), match=sentence):
        distsim.Problem(**{"model": Tiny} | wrong)


def test_wrong_fields_of_recipe_and_pruning():
    with pytest.raises(
        TypeError, match=r"Recipe has no field epoch \(did you mean epochs\?\); it has epochs, batch_size"
    ):
        distsim.Recipe(epoch=3)
    with pytest.raises(ValueError, match="optimizer must be adam, sgd or fast_sgd, got 'adamw'"):
        distsim.Recipe(optimizer="adamw")
    with pytest.raises(TypeError, match=r"Pruning has no field rate \(did you mean .*\); it has scope"):
        distsim.Pruning(rate=0.2)
    with pytest.raises(ValueError, match=r"one rate, got 0.2 and 0.5"):
        distsim.Pruning(conv_rate=0.2, fc_rate=0.5)


WRONG_QUESTIONS = {
    "a report to a number": (lambda study: study.report(5), "file must be a path, got 5"),
    "a report to nothing": (lambda study: study.report(None), "file must be a path, got None"),
    "a report without a name": (lambda study: study.report(""), "file must be a path, got ''"),
    "no control": (lambda study: study.network(control=None), "control must be one of '', retrain, random, got None"),
    "run without iteration": (lambda study: study.network(run=1), "iteration must be a whole number, as run is 1"),
    "iteration without run": (
        lambda study: study.network(iteration=1),
        "run must be a whole number, as iteration is 1",
    ),
    "a negative run": (lambda study: study.network(-1, 1), "run must be a whole number from 0 on, got -1"),
    "a run in words": (lambda study: study.network("1", 1), "run must be a whole number from 0 on, got '1'"),
    "no such network": (
        lambda study: study.network(7, 1),
        "run 7, iteration 1 of Tiny is not in .*, which holds iterat",
    ),
    "no such problem": (lambda study: study.network(0, 1, "Big"), "problem must be one of Tiny, got 'Big'"),
    "a slip": (
        lambda study: study.network(0, iterations=1),
        r"network has no argument iterations \(did you mean itera",
    ),
    "no such layer": (
        lambda study: study.network(0, 1).activations("conv2"),
        "layer must be one of conv1, pool1, out, got 'conv2'",
    ),
    "no such figure": (
        lambda study: study.figure("fig3"),
        "name must be one of fig1, fig2, .*, fig8, similarity, more, functional, got 'fig3",
    ),
    "no such metric": (
        lambda study: study.figure("fig2", metric="ccka"),
        "metric must be one of mean_cca.*, got 'ccka'",
    ),
    "a metric too many": (
        lambda study: study.figure("fig2", metric=["cka", "nbs"]),
        "fig2 shows one metric, got cka, n",
    ),
    "a metric for none": (
        lambda study: study.figure("fig1", metric="cka"),
        "fig1 shows accuracy.*, so none can be chosen",
    ),
}


@pytest.mark.parametrize("case", WRONG_QUESTIONS)
def test_wrong_questions(kept: Path, case: str):
    ask, sentence = WRONG_QUESTIONS[case]
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=sentence):
        ask(distsim.open(kept))


def test_open_creates_nothing(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=f"^there is no store in {tmp_path / 'nowhere'}$"):
        distsim.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=f"^no sweep in {tmp_path}$"):
        distsim.open(str(tmp_path))
    with pytest.raises(ValueError, match=r"^store must be a folder or a URL, got 3$"):
        distsim.open(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^store must be a folder or a URL, got ''$"):
        distsim.open("")
    assert list(tmp_path.iterdir()) == []


# --- what is imported ------------------------------------------------------------------------------------------------


def test_the_face_names_what_it_has():
    assert {"open", "run", "compare", "Problem", "Recipe", "Pruning", "metrics", "__version__"} <= set(dir(distsim))
    assert distsim.metrics.cka is sys.modules["distsim.metrics"].cka
    for name in distsim.__all__:
        assert getattr(distsim, name) is not None
    with pytest.raises(AttributeError, match="module 'distsim' has no attribute 'opne'"):
        _ = distsim.opne


LIGHT = """
import sys
import distsim
assert not {"torch", "ray", "pandas", "numpy"} & set(sys.modules), sorted(sys.modules)
distsim.metrics.cka
distsim.Recipe(epochs=3), distsim.Pruning()
found = {"torch", "ray", "pandas", "scipy", "skdim", "sklearn", "matplotlib", "zarr", "pyarrow"} & set(sys.modules)
assert not found, found
print("done")
"""


def test_importing_the_face_is_light():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("done\n", "")
