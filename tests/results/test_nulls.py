"""What values are by chance, beside them in the tables: in closed form, or from permuted examples."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_tables import network, similarity

import distsim
from distsim.metrics.null import FULL
from distsim.problems import PROBLEMS
from distsim.results.nulls import PERMUTED, with_nulls
from distsim.results.table_files import read_parquet_bytes, to_parquet_bytes
from distsim.results.tables import Tables, chance_table, long_table, network_table
from distsim.specs import PERMUTATIONS

pytestmark = pytest.mark.usefixtures("blank_figures")


def by_chance(
    values: list[float | None], metric: str = "svcca", iteration: int = 1, run: int = 0
) -> list[dict[str, Any]]:
    return [
        {
            "problem": "digits",
            "run": run,
            "iteration": iteration,
            "position": 0,
            "layer": "conv1_1",
            "kind": "conv",
            "metric": metric,
            "permutation": number,
            "value": value,
            "reason": "" if value is not None else "dead",
        }
        for number, value in enumerate(values)
    ]


def filled(rows: list[dict[str, Any]], chance: list[dict[str, Any]]) -> pd.DataFrame:
    return with_nulls(long_table(rows), chance_table(chance))


def test_a_null_in_closed_form_is_the_rows_own() -> None:
    (row,) = filled([similarity(0.9, 2, null=0.6, null_sd=0.05)], by_chance([0.1, 0.2])).to_dict("records")
    assert (row["null"], row["null_sd"], row["null_of"]) == (0.6, 0.05, "run=2,iteration=1")
    assert (row["z"], row["calibrated"]) == pytest.approx((6.0, 0.75))


def test_a_control_does_not_borrow_the_null_of_pruned_networks() -> None:
    """Their ranks differ. A control has a null of its own, or none but that in closed form."""
    rows = [
        similarity(0.9) | {"control": control, "run": run} for control, run in (("", 0), ("retrain", 0), ("retrain", 1))
    ]
    pruned, *controls = filled(rows, by_chance([0.3, 0.5])).sort_values("control").to_dict("records")
    assert pruned["null"] == pytest.approx(0.4)
    for row in controls:
        assert (row["null_of"], row["control"]) == ("", "retrain")
        assert np.isnan([row[name] for name in ("null", "z", "calibrated")]).all()
    own = [row | {"control": "retrain"} for row in by_chance([0.2, 0.4])]
    _, *controls = filled(rows, by_chance([0.3, 0.5]) + own).sort_values("control").to_dict("records")
    for row in controls:
        assert (row["null"], row["null_of"]) == (pytest.approx(0.3), "control=retrain,run=0,iteration=1")
    (closed,) = filled([similarity(0.9, null=0.6, null_sd=0.05) | {"control": "retrain"}], []).to_dict("records")
    assert closed["calibrated"] == pytest.approx(0.75)


def test_runs_borrow_the_null_of_permuted_run_0_at_the_same_iteration() -> None:
    rows = [similarity(0.9), similarity(0.8, 3), similarity(0.8, 3, iteration=2)]
    first, other, later = filled(rows, by_chance([0.3, 0.5, None])).to_dict("records")
    for row, value in ((first, 0.9), (other, 0.8)):
        assert (row["null"], row["null_of"]) == (pytest.approx(0.4), "run=0,iteration=1")
        assert np.isnan([row["null_sd"], row["z"]]).all(), "two permutations say nothing about the spread"
        assert row["calibrated"] == pytest.approx((value - 0.4) / 0.6)
    assert later["null_of"] == ""
    assert np.isnan([later[name] for name in ("null", "null_sd", "z", "calibrated")]).all()


def test_twenty_permutations_give_a_z() -> None:
    values = list(np.linspace(0.2, 0.4, PERMUTED))
    row, short = (
        filled([similarity(0.9)], by_chance(values[:k])).to_dict("records")[0] for k in (PERMUTED, PERMUTED - 1)
    )
    assert row["z"] == pytest.approx((0.9 - 0.3) / np.std(values, ddof=1))
    assert np.isnan(short["z"])


def test_what_cannot_be_calibrated_is_missing() -> None:
    rows = [
        similarity(1.0, null=1.0, null_sd=0.0),
        similarity(0.9, 1, metric="procrustes"),
        similarity(np.nan, 2, null=0.5),
    ]
    table = filled(rows, by_chance([1.2, 1.3], "procrustes"))
    assert table["calibrated"].isna().all(), "no room above chance; a distance; no value"
    assert table["null"].tolist() == pytest.approx([1.0, 1.25, 0.5])
    assert table["z"].isna().all()
    (edge,) = filled([similarity(1.0, null=FULL, null_sd=0.0)], []).to_dict("records")
    assert edge["calibrated"] == 1


def test_tables_are_filled_once_and_come_back_from_parquet() -> None:
    rows = [
        similarity(0.9, null=0.6, null_sd=0.05),
        similarity(0.7, 1, metric="nbs"),
        similarity(0.7, 1, iteration=2, metric="nbs"),
    ]
    chance = chance_table(by_chance([0.5, 0.6], "nbs"))
    tables = Tables.of(long_table(rows), network_table([network(0.9, None, 0)]), chance=chance)
    again = Tables.of(tables.similarities, tables.networks, chance=chance_table(by_chance([0.0], "nbs")))
    pd.testing.assert_frame_equal(again.similarities, tables.similarities)
    kept = read_parquet_bytes(to_parquet_bytes(tables.similarities))
    pd.testing.assert_frame_equal(kept, tables.similarities, check_exact=True)


def test_chance_of_another_complete_network_is_not_borrowed() -> None:
    rows = long_table([similarity(0.9, metric="nbs"), similarity(0.8, 1, metric="nbs")]).assign(complete=[0, 1])
    table = with_nulls(rows, chance_table(by_chance([0.5, 0.6], "nbs")).assign(complete=1))
    assert table["null_of"].tolist() == ["", "run=0,iteration=1,complete=1"]


def test_a_sweep_has_both_kinds(tmp_path: Path) -> None:
    problem = PROBLEMS["digits"].reduced_to(epochs=1, probe=60, train_limit=100)
    study = distsim.run(
        problem, storage=tmp_path / "store", runs=2, iterations=1, device="cpu", progress=False, control=()
    )
    results = study.results.set_index(["metric", "run"]).sort_index()
    assert set(results.loc["cka", "null_of"]) == {"run=0,iteration=1", "run=1,iteration=1"}
    assert results.loc["cka", "z"].notna().all()
    assert set(results.loc["nbs", "null_of"]) == {"run=0,iteration=1"}
    assert results.loc["nbs", "null"].between(0, 1).all()
    assert results.loc["nbs", "z"].isna().all()
    chance = study.chance[study.chance["metric"] == "cka"].groupby("layer")["value"].mean()
    own = results.loc[("cka", 0)].set_index("layer").loc[chance.index]
    assert (abs(chance - own["null"]) < 4 * own["null_sd"] / PERMUTATIONS**0.5).all()


def test_compared_models_have_the_null_of_cka() -> None:
    first, second = (
        torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.ReLU(), torch.nn.Linear(40, 5)) for _ in "xy"
    )
    found = distsim.compare(
        first, second, torch.randn(400, 30), layers=["0"], metrics=("cka", "cka_unbiased", "mean_cca")
    )
    biased, unbiased, cca = found.table.to_dict("records")
    assert biased["calibrated"] == pytest.approx((biased["value"] - biased["null"]) / (1 - biased["null"]))
    assert biased["z"] == pytest.approx((biased["value"] - biased["null"]) / biased["null_sd"])
    assert (unbiased["null"], unbiased["null_sd"]) == (0, pytest.approx((2 / (400 * 397)) ** 0.5))
    assert np.isnan([cca[name] for name in ("null", "null_sd", "z", "calibrated")]).all()
