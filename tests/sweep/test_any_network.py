"""Whole sweeps of networks that know nothing of distsim."""

import dataclasses
import itertools
from pathlib import Path

import pandas as pd
import pytest
import torch
from networks import Functional, Transformer, small_resnet18
from sweep_scripts import Outcome, outcome
from torch import nn

import distsim
from distsim.cli import main as cli
from distsim.cli import sweeps
from distsim.models import MODELS, Layer, Network
from distsim.problems import PROBLEMS
from distsim.results import figures
from distsim.specs import Problem

TINY = ("--local", "--runs", 1, "--iterations", 1, "--epochs", 1, "--train-limit", 60, "--probe", 50)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw_all", lambda *tables: {})


def swept(problem: Problem, storage: Path, *arguments: object) -> Outcome:
    given = [str(argument) for argument in (*TINY, "--storage", storage, *arguments)]
    return outcome(lambda: sweeps.main(problem, arguments=[*given, "--control", "none"]))


def problem_of(monkeypatch: pytest.MonkeyPatch, model: object, **change: object) -> Problem:
    monkeypatch.setitem(MODELS, "mine", model)  # type: ignore[arg-type]
    return dataclasses.replace(PROBLEMS["digits"], name="mine", model="mine", **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "layers", "compared"),
    [
        (
            small_resnet18,
            ("layer[14].1.relu", "fc"),
            ["layer1.1.relu@1", "layer1.1.relu@2", "layer4.1.relu@1", "layer4.1.relu@2", "fc"],
        ),
        (Transformer, (), ["patch", "layers.0.act", "layers.1.act", "head"]),
    ],
    ids=["resnet18", "transformer"],
)
@pytest.mark.filterwarnings("ignore::distsim.metrics.UnreliableSimilarity")
def test_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: object, layers: tuple[str, ...], compared: list[str]
) -> None:
    problem = problem_of(monkeypatch, model, layers=layers)
    result = swept(problem, tmp_path / "store")
    assert result.status == 0, result.err
    (file,) = (tmp_path / "store").rglob("results.parquet")
    table = pd.read_parquet(file)
    assert list(dict.fromkeys(table["layer"])) == compared
    verified = outcome(lambda: cli.main(["verify", str(tmp_path / "store")]))
    assert verified.status == 0
    assert "nothing damaged" in verified.out
    out = ["--metrics", "cka", "--out", str(tmp_path)]
    crossed = outcome(lambda: cli.main(["layers", str(tmp_path / "store"), *out]))
    assert crossed.status == 0, crossed.err
    other = swept(dataclasses.replace(problem, layers=(compared[-1],)), tmp_path / "store")
    assert other.status != 0
    assert "layers" in other.err


ODD = ("block/conv1", "..", "zarr.json", "=1+1", "$\\frac$", "<b>,100%", "__init__")


class OddNames(Network):
    """A perceptron whose layers have names that are code to a file system, a spreadsheet or mathtext."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        widths = [channels * size * size, *(8 for _ in ODD[:-1]), classes]
        self.fc = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.layers = tuple(Layer(name, "fc", f"fc.{place}") for place, name in enumerate(ODD[:-1]))
        self.layers += (Layer(ODD[-1], "out", f"fc.{len(ODD) - 1}"),)
        self.output = f"fc.{len(ODD) - 1}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for linear in self.fc:
            x = linear(x)
        return x


@pytest.mark.filterwarnings("ignore::distsim.metrics.UnreliableSimilarity")
def test_layers_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, store = problem_of(monkeypatch, OddNames), tmp_path / "store"
    result = swept(problem, store, "--retention", "all")
    assert result.status == 0, result.err
    (file,) = store.rglob("results.parquet")
    assert list(dict.fromkeys(pd.read_parquet(file)["layer"])) == list(ODD)
    cells = pd.read_csv(file.with_suffix(".csv"))["layer"]
    assert set(cells) == {"'=1+1" if name == "=1+1" else name for name in ODD}, "no cell is a formula"
    commands = (["verify"], ["status"], ["report"], ["pairs", "--plan", "complete", "--local"], ["digest"])
    for command, *flags in commands:
        said = outcome(lambda command=command, flags=flags: cli.main([command, str(store), *flags]))  # type: ignore[misc]
        assert said.status == 0, (command, said.err)
    assert set(ODD) <= set(said_layers(store))
    again = swept(problem, store, "--retention", "all")
    assert "nothing to do" in again.out or again.status == 0
    activations = distsim.open(store).network(run=0, iteration=1).activations("block/conv1")
    assert activations.shape[-1] == 8


def said_layers(store: Path) -> list[str]:
    (file,) = store.rglob("pairs.parquet")
    return list(pd.read_parquet(file)["layer"])


def test_memory_and_store_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons from activations in memory look at one layer at a time, those from the store at all."""
    problem = problem_of(monkeypatch, Transformer)
    tables = []
    for where in ("store", "memory"):
        assert swept(problem, tmp_path / where, "--activations", where).status == 0
        (file,) = (tmp_path / where).rglob("results.parquet")
        tables.append(pd.read_parquet(file))
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_a_network_that_breaks_the_contract_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Two(Functional):
        def forward(self, x):  # type: ignore[no-untyped-def]
            return super().forward(x), x

    result = swept(problem_of(monkeypatch, Two), tmp_path / "store")
    assert result.status != 0
    assert "model mine: in evaluation mode it returns tuple; expected a tensor of logits" in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "store" / "mine").exists()


def test_a_network_without_convolutions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A perceptron: its layers are all (n, p)."""

    def perceptron(channels: int, size: int, classes: int) -> nn.Module:
        hidden = nn.Linear(channels * size * size, 16)
        return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, classes))

    result = swept(problem_of(monkeypatch, perceptron), tmp_path / "store")
    assert result.status == 0, result.err
