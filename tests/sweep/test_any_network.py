"""Whole sweeps of networks that know nothing of distsim."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from networks import Functional, Transformer, small_resnet18
from sweep_scripts import Outcome, outcome
from torch import nn

from distsim.cli import main as cli
from distsim.cli import sweeps
from distsim.models import MODELS
from distsim.problems import PROBLEMS
from distsim.results import figures
from distsim.specs import Problem

TINY = ("--local", "--runs", 1, "--iterations", 1, "--epochs", 1, "--train-limit", 60, "--probe", 50)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw_all", lambda *tables: {})


def swept(problem: Problem, storage: Path, *arguments: object) -> Outcome:
    given = [str(argument) for argument in (*TINY, "--storage", storage, *arguments)]
    return outcome(lambda: sweeps.main(problem, arguments=given))


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
