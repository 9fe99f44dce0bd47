"""bench/sensitivity.py: each choice is the public function's, the store stays as it is, interruptions cost nothing."""

import hashlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

import distsim
from distsim import metrics
from distsim.data import load, probe_indices
from distsim.metrics.registry import METRICS

pytestmark = pytest.mark.usefixtures("blank_figures")

BENCH = Path(__file__).parents[1] / "bench"
PROBE = 120
SMALL = ("--sizes", "40", "--draws", "1")
BOTH = ("--iterations", "1", "2")
SAME = {"rtol": 0, "atol": 1e-6}  # values of sweeps are that near to those of the public functions


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, one run of two iterations, with a probe of 120 images."""
    folder = tmp_path_factory.mktemp("sensitivity") / "store"
    extent: dict[str, Any] = {"runs": 1, "iterations": 2, "epochs": 2, "train_limit": 300, "probe": PROBE}
    distsim.run("digits", storage=folder, progress=False, chance=False, control="none", **extent)
    return folder


@pytest.fixture(scope="module")
def sensitivity() -> Iterator[ModuleType]:
    known = set(METRICS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        yield importlib.import_module("sensitivity")
    for name in set(METRICS) - known:
        del METRICS[name]
    for name in ("sensitivity", "sensitivity_summary", "report"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def rows(sensitivity: ModuleType, store: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return measured(sensitivity, store, tmp_path_factory.mktemp("out"), *BOTH)


def measured(sensitivity: ModuleType, store: Path, out: Path, *arguments: str) -> pd.DataFrame:
    assert sensitivity.main([str(store), "--out", str(out), *SMALL, *arguments]) == 0
    return pd.read_parquet(out / "sensitivity.parquet")


def digests(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def value(rows: pd.DataFrame, iteration: int, layer: str, metric: str, choice: str) -> float:
    at = (rows["iteration"] == iteration) & (rows["layer"] == layer)
    (found,) = rows.loc[at & (rows["metric"] == metric) & (rows["choice"] == choice), "value"]
    return float(found)


def test_the_studys_own_choices_give_the_values_in_the_store(rows: pd.DataFrame, store: Path) -> None:
    own = rows[rows["choice"] == "the study"]
    stored = distsim.open(store).results
    key = ["problem", "run", "iteration", "position", "layer", "kind", "metric"]
    both = own.merge(stored, on=key, suffixes=("", "_stored"))
    assert len(both) == len(own) == len(stored) == 2 * (8 * 6 + 1)
    np.testing.assert_array_equal(both["value"], both["value_stored"])
    np.testing.assert_array_equal(both["baseline"], both["value_stored"])
    assert (both["difference"].dropna() == 0).all()


def test_every_choice_of_formula_is_the_public_functions(rows: pd.DataFrame, store: Path) -> None:
    study = distsim.open(store)
    for layer in ("conv1_2", "fc1"):
        X = study.network().activations(layer).values.astype("float64")
        Y = study.network(0, 2).activations(layer).values.astype("float64")
        last = {"channels_last": True}
        for metric, choice, expected in (
            ("mean_cca", "98 % of the sum", metrics.mean_cca(X, Y, mean_rule="mass98", **last)),
            ("mean_cca", "of columns", metrics.mean_cca(X, Y, denominator="columns", **last)),
            ("svcca", "98 % of the sum", metrics.svcca(X, Y, mean_rule="mass98", **last)),
            ("svcca", "95 % of the variance", metrics.svcca(X, Y, 0.95, **last)),
            ("svcca", "99.9 % of the variance", metrics.svcca(X, Y, 0.999, **last)),
            ("pwcca", "weights of the pruned network", metrics.pwcca(X, Y, side="second", **last)),
            ("pwcca", "weights of the smaller side", metrics.pwcca(X, Y, side="smaller", **last)),
            ("cka", "unbiased", metrics.cka_unbiased(X, Y)),
        ):
            np.testing.assert_allclose(value(rows, 2, layer, metric, choice), expected, **SAME)
        over_channels = rows[(rows["layer"] == layer) & (rows["choice"] == "over channels") & (rows["iteration"] == 2)]
        if layer == "fc1":  # it is the same matrix
            assert over_channels.empty
        else:
            expected = [metrics.cka_channels(X, Y, **last), metrics.nbs_channels(X, Y, **last)]
            np.testing.assert_allclose(over_channels["value"], expected, **SAME)


def test_a_smaller_probe_is_every_nth_image(rows: pd.DataFrame, store: Path) -> None:
    study = distsim.open(store)
    X, Y = (study.network(*which).activations("pool1").values[::3].astype("float64") for which in ((), (0, 1)))
    assert len(X) == 40
    for metric, function in (("cka", metrics.cka), ("cka_unbiased", metrics.cka_unbiased)):
        np.testing.assert_allclose(value(rows, 1, "pool1", metric, "probe 40"), function(X, Y), **SAME)


def test_a_draw_is_a_probe_of_another_seed(rows: pd.DataFrame, store: Path) -> None:
    study = distsim.open(store)
    complete, pruned = study.network(), study.network(0, 2)
    dataset = load(complete.problem, "")
    indices = probe_indices(dataset, PROBE, "uniform", seed=1)
    assert set(indices) != set(probe_indices(dataset, PROBE, "uniform", seed=0))
    X, Y = (
        network.model(network.inputs(dataset.train_images[indices])).detach().numpy() for network in (complete, pruned)
    )
    np.testing.assert_allclose(value(rows, 2, "out", "cka", "draw 1"), metrics.cka(X, Y), rtol=0, atol=1e-5)
    np.testing.assert_allclose(value(rows, 2, "out", "cosine", "draw 1"), metrics.cosine(X, Y), rtol=0, atol=1e-5)


def test_each_layer_is_measured_in_the_dtype_that_the_study_does_not_store(rows: pd.DataFrame) -> None:
    kinds = {dtype: set(rows.loc[rows["choice"] == dtype, "kind"]) for dtype in ("float32", "float16")}
    assert kinds == {"float32": {"conv", "pool"}, "float16": {"fc", "out"}}
    cka = rows[rows["choice"].isin(kinds) & (rows["metric"] == "cka")]
    assert cka["difference"].abs().between(0, 1e-3, inclusive="neither").all()


def test_differences_are_from_the_studys_choice(rows: pd.DataFrame) -> None:
    own = rows[rows["choice"] == "the study"].set_index(["iteration", "layer", "metric"])["value"]
    others = rows[rows["choice"] != "the study"].set_index(["iteration", "layer", "metric"])
    np.testing.assert_array_equal(others["baseline"], own.reindex(others.index))
    np.testing.assert_array_equal(others["difference"], others["value"] - others["baseline"])
    assert (rows["problem"] == "digits").all()
    assert (rows["run"] == 0).all()


def test_an_interrupted_study_goes_on_and_the_store_stays_as_it_is(
    sensitivity: ModuleType, rows: pd.DataFrame, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, out = digests(store), tmp_path / "again"
    compare = sensitivity.Reference.compare
    for more in (3, 20):  # comparisons until Ctrl-C
        calls: list[int] = []

        def interrupted(self: Any, layer: Any, calls: list[int] = calls, more: int = more) -> Any:
            calls.append(0)
            if len(calls) > more:
                raise KeyboardInterrupt
            return compare(self, layer)

        monkeypatch.setattr(sensitivity.Reference, "compare", interrupted)
        assert sensitivity.main([str(store), "--out", str(out), *SMALL, *BOTH]) == 130
    so_far = pd.read_parquet(out / "sensitivity.parquet")
    compared = so_far[(so_far["metric"] == "cka") & so_far["choice"].isin(("the study", "probe 40"))]
    assert len(compared) == 3 + 20
    monkeypatch.setattr(sensitivity.Reference, "compare", compare)
    pd.testing.assert_frame_equal(measured(sensitivity, store, out, *BOTH), rows)
    assert digests(store) == before


def test_a_finished_study_measures_nothing_and_more_is_added(
    sensitivity: ModuleType, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measured(sensitivity, store, tmp_path, "--layers", "fc1", "--iterations", "1")
    more = measured(sensitivity, store, tmp_path, "--layers", "fc1", "out", *BOTH)
    pd.testing.assert_frame_equal(more[: len(first)], first)
    assert set(more["layer"]) == {"fc1", "out"}
    assert set(more["iteration"]) == {1, 2}
    monkeypatch.delattr(sensitivity.Reference, "compare")
    pd.testing.assert_frame_equal(measured(sensitivity, store, tmp_path, "--layers", "fc1", "out", *BOTH), more)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "STORE/more"), "is inside the store"),
        (("--layers", "conv9"), "there are no layers ['conv9']; digits has conv1_1, "),
        (("--iterations", "3"), "run 0, iteration 3 of digits is not in "),
        (("--summary",), "run this without --summary first"),
        (("--data", "folder:nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(
    arguments: tuple[str, ...],
    said: str,
    sensitivity: ModuleType,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument.replace("STORE", str(store)) for argument in arguments]
    assert sensitivity.main([str(store), "--out", str(tmp_path), *given]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_table_of_another_sweep_is_not_continued(
    sensitivity: ModuleType, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = measured(sensitivity, store, tmp_path, "--layers", "out", "--iterations", "1")
    rows.assign(identity="f" * 64).to_parquet(tmp_path / "sensitivity.parquet")
    assert sensitivity.main([str(store), "--out", str(tmp_path)]) == 1
    assert "is of another sweep (ffffffffffff): choose another --out" in capsys.readouterr().err


def table(sensitivity: ModuleType, *rows: tuple[int, str, str, float, float]) -> pd.DataFrame:
    """A long table of one metric: iteration, layer, choice, value, the study's."""
    return pd.DataFrame(
        [
            {"run": 0, "iteration": i, "layer": layer, "metric": "cka", "choice": choice}
            | {"value": mine, "baseline": base, "difference": mine - base}
            for i, layer, choice, mine, base in rows
        ]
    )


def test_the_summary_by_hand(sensitivity: ModuleType) -> None:
    nan = float("nan")
    study = {1: {"a": 0.9, "b": 0.8, "c": 0.7}, 5: {"a": 0.6, "b": 0.5, "c": 0.4}}
    rows = table(
        sensitivity,
        *((i, layer, "the study", level, level) for i, levels in study.items() for layer, level in levels.items()),
        (1, "a", "other", 0.75, 0.9),  # now below b
        (5, "a", "other", 0.77, 0.6),  # and it rises
        (1, "b", "other", nan, 0.8),
        (5, "b", "other", 0.5, 0.5),
    )
    summary = sensitivity.summarise(rows).set_index("choice")
    own, other = summary.loc["the study"], summary.loc["other"]
    assert (own["values"], own["largest"], own["order"], own["turned"]) == (6, 0, 1, 0)
    assert own["fall"] == pytest.approx(0.3)
    assert (other["values"], other["undefined"], other["where"], other["turned"]) == (3, 1, "a, 5", 1)
    assert (other["fall"], other["fall_study"]) == pytest.approx((-0.02, 0.3)), "of a, the only layer with both ends"
    assert other["median"] == pytest.approx(0.15)
    assert other["largest"] == pytest.approx(0.17)
    assert other["order"] == pytest.approx(1), "iteration 5, c as in the study; two layers of iteration 1 are too few"
    text = sensitivity.as_table(sensitivity.summarise(rows)).markdown()
    assert "| cka    | other     | 3 (1 undefined) | " in text
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_a_reversed_order_is_seen(sensitivity: ModuleType) -> None:
    levels = {"a": 0.9, "b": 0.8, "c": 0.7}
    rows = table(
        sensitivity,
        *((1, layer, "the study", level, level) for layer, level in levels.items()),
        *((1, layer, "other", 1 - level, level) for layer, level in levels.items()),
    )
    assert sensitivity.summarise(rows).set_index("choice").loc["other", "order"] == pytest.approx(-1)


def test_of_the_usual_iterations_those_are_measured_that_the_store_has(
    sensitivity: ModuleType, store: Path, tmp_path: Path
) -> None:
    assert set(measured(sensitivity, store, tmp_path, "--layers", "out")["iteration"]) == {1}
