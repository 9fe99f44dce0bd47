"""Statistics against numbers worked out by hand; tables that come back as they were written."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from distsim.results.columns import (
    ACCURACY_COLUMNS,
    ADDED,
    NETWORK_COLUMNS,
    SIMILARITY_COLUMNS,
    SUMMARY_COLUMNS,
    completed,
)
from distsim.results.table_files import read_parquet_bytes, to_csv_bytes, to_parquet_bytes
from distsim.results.tables import (
    Tables,
    chance_level,
    chance_table,
    few,
    functional_table,
    long_table,
    network_table,
    summarise,
    summarise_accuracy,
    summarise_functional,
)
from distsim.specs import PAPER_METRICS

Row = dict[str, Any]


def similarity(value: float, run: int = 0, **changes: Any) -> Row:
    row = dict.fromkeys(("n", "columns_x", "columns_y", "rank_x", "rank_y", "dead_x", "dead_y"), 8) | {
        "n_per_p": 1.0,
        "warning": "",
    }
    row |= {"problem": "digits", "run": run, "iteration": 1, "remaining": 0.8, "remaining_pool": 0.75, "position": 0}
    row |= {"layer": "conv1_1", "kind": "conv", "metric": "svcca", "value": value}
    return row | {"reason": "dead" if np.isnan(value) else ""} | changes


def network(accuracy: float, run: int | None = 0, iteration: int = 1, **changes: Any) -> Row:
    left = {"remaining": 0.8**iteration, "remaining_pool": 0.75**iteration}
    row = {"problem": "digits", "run": run, "iteration": iteration} | left
    return row | {"accuracy": accuracy, "loss": 0.1 + 0.2, "epochs": 3, "reduced": False} | changes


def sweep(values: np.ndarray, **changes: Any) -> list[Row]:
    return [similarity(float(value), run, **changes) for run, value in enumerate(values)]


def test_statistics_are_those_worked_out_by_hand() -> None:
    rows = sweep(np.array([0.5, 0.1, np.nan, 0.3, 0.4, 0.2]))  # present: 0.1 0.2 0.3 0.4 0.5
    rows[0]["remaining"] = 0.9
    (found,) = summarise(long_table(rows)).to_dict("records")
    assert (found["count"], found["missing"], found["remaining"]) == (5, 1, 0.8)
    assert (found["kind"], found["position"]) == ("conv", 0)
    assert found["mean"] == pytest.approx(0.3)
    assert found["median"] == pytest.approx(0.3)
    assert found["sd"] == pytest.approx(np.sqrt(0.025))  # (0.04 + 0.01 + 0 + 0.01 + 0.04) / 4
    quantiles = [found[name] for name in ("q05", "q25", "q75", "q95")]
    np.testing.assert_allclose(quantiles, [0.12, 0.2, 0.4, 0.48])  # linear between the five: 0.1 + 0.4 q
    assert (found["ci_low"], found["ci_high"]) == (0.1, 0.5), "the range of five"
    assert found["warned"] == 0


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_of_fewer_than_six_values_the_range_is_given(count: int) -> None:
    """No interval within the range of five covers the median with 95 %, and the bootstrap's of so few is that range."""
    values = np.array([0.31, 0.1, 0.12, 0.3, 0.9])[:count]
    (found,) = summarise(long_table(sweep(values))).to_dict("records")
    assert (found["ci_low"], found["ci_high"]) == (values.min(), values.max())


def test_from_six_values_on_the_interval_of_the_bootstrap_is_given() -> None:
    values = np.linspace(0.1, 0.9, 12)
    (found,) = summarise(long_table(sweep(values))).to_dict("records")
    assert 0.1 < found["ci_low"] < found["median"] < found["ci_high"] < 0.9


def test_the_summary_counts_the_values_that_carry_a_warning() -> None:
    rows = sweep(np.array([0.5, 0.6, 0.7, np.nan]), warning="high by chance")
    rows[1]["warning"] = ""
    clean = sweep(np.array([0.5, 0.6]), layer="conv1_2", position=1)
    found = summarise(long_table(rows + clean))
    assert found["warned"].tolist() == [2, 0], "a missing value carries none"
    assert list(found.columns)[-2:] == ["warned", "se"]
    assert found["se"].isna().all(), "nothing measured it"


def test_the_summary_has_the_median_standard_error() -> None:
    rows = sweep(np.array([0.5, 0.6, 0.7]))
    for row, se in zip(rows, (0.01, 0.03, 0.02), strict=True):
        row["se"] = se
    assert summarise(long_table(rows))["se"].tolist() == [0.02]


def test_rows_of_fewer_runs_than_the_problem_has_are_known() -> None:
    rows = sweep(np.array([0.5, 0.6, 0.7])) + sweep(np.array([0.5, np.nan, 0.7]), layer="conv1_2", position=1)
    rows += sweep(np.array([0.5, 0.6]), iteration=2)  # the third run has not come so far
    rows += sweep(np.array([0.5, 0.6]), problem="another")
    found = summarise(long_table(rows))
    thin = found[few(found)]
    assert set(zip(thin["problem"], thin["layer"], thin["iteration"], strict=True)) == {
        ("digits", "conv1_2", 1),
        ("digits", "conv1_1", 2),
    }
    accuracy = summarise_accuracy(network_table([network(0.9, None, 0), network(0.9, 0), network(0.8, 1)]))
    assert not few(accuracy).any(), "the complete network is one network by design"


def test_values_without_the_columns_of_today_are_missing_there() -> None:
    table = long_table([similarity(0.5), similarity(0.5, 1, k_x=3, k_y=4, effective_rank_x=2.5, effective_rank_y=1.0)])
    assert table["k_x"].tolist() == [pd.NA, 3]
    assert np.isnan(table["effective_rank_y"][0])
    pd.testing.assert_frame_equal(read_parquet_bytes(to_parquet_bytes(table)), table, check_exact=True)
    bounded = long_table([similarity(0.5, lower=0.5, upper=0.5000001), similarity(0.5, 1)])
    np.testing.assert_array_equal(bounded["upper"], [0.5000001, np.nan])
    pd.testing.assert_frame_equal(read_parquet_bytes(to_parquet_bytes(bounded)), bounded, check_exact=True)
    older = table.drop(columns=list(ADDED))
    pd.testing.assert_frame_equal(completed(older)[list(older.columns)], older)
    assert {name: str(dtype) for name, dtype in completed(older).dtypes.items()} == SIMILARITY_COLUMNS


def test_tables_of_before_are_of_one_complete_network_and_of_no_control() -> None:
    table = long_table([similarity(0.5), similarity(0.6, 1)])
    summary, networks = summarise(table), network_table([network(0.9, None, 0), network(0.8, 0)])
    for name, frame in (("results", table), ("networks", networks), ("summary", summary)):
        older = completed(frame.drop(columns=["complete", "control"]), name)
        pd.testing.assert_frame_equal(older, frame)


def predicted(churn: float, run: int, **changes: Any) -> Row:
    row = {"problem": "digits", "run": run, "iteration": 1, "remaining": 0.8, "remaining_pool": 0.75, "class": ""}
    return row | {"n": 10, "agreement": 1 - churn, "churn": churn, "jsd": 0.1, "lost": 0.0, "won": churn} | changes


def test_predictions_of_controls_are_never_mixed_with_those_of_pruned_networks() -> None:
    pruned = [predicted(0.25, 0), predicted(0.5, 1), predicted(0.75, 0, complete=1)]
    control = [predicted(0.125, 0, control="retrain")]
    table = functional_table([*control, *pruned])
    assert table["control"].tolist() == ["", "", "retrain", ""], "in the order of complete networks"
    churn = summarise_functional(table).query("measure == 'churn'").set_index("control")
    assert churn["median"].to_dict() == {"": 0.5, "retrain": 0.125}
    assert churn["complete"].to_dict() == {"": 2, "retrain": 1}
    alone = summarise_functional(functional_table(pruned))
    both = summarise_functional(table).query("control == ''").reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, both)


def test_tables_of_predictions_of_before_are_of_one_complete_network_and_of_no_control() -> None:
    table = functional_table([predicted(0.25, 0), predicted(0.5, 1)])
    for name, frame in (("functional", table), ("functional_summary", summarise_functional(table))):
        pd.testing.assert_frame_equal(completed(frame.drop(columns=["complete", "control"]), name), frame)


def test_a_set_of_tables_has_its_pruned_networks_and_each_control() -> None:
    rows = [similarity(0.5), similarity(0.9, control="retrain")]
    functional = functional_table([predicted(0.25, 0), predicted(0.125, 0, control="retrain")])
    tables = Tables.of(long_table(rows), network_table([network(0.9, None, 0)]), functional=functional)
    assert tables.pruned.similarities["value"].tolist() == [0.5]
    assert tables.retrained.similarities["value"].tolist() == [0.9]
    assert set(tables.pruned.functional_summary["control"]) == {""}
    assert tables.retrained.functional["churn"].tolist() == [0.125]
    again = Tables.named(tables.by_name)
    for name, frame in tables.by_name.items():
        pd.testing.assert_frame_equal(again.by_name[name], frame)


def test_mean_and_median_of_lopsided_values() -> None:
    (found,) = summarise(long_table(sweep(np.array([0.1, 0.2, 0.9])))).to_dict("records")
    assert (found["mean"], found["median"]) == pytest.approx((0.4, 0.2))


def test_the_interval_is_that_of_the_order_statistics() -> None:
    """Of 27 values the median of a resample is at most the ninth with probability Σₖ₌₁₄²⁷ C(27,k)·2²⁷⁻ᵏ/3²⁷ = 3.6 %.

    That is more than 2.5 % and less than 5 %, so an interval of 90 % would begin at the tenth.
    """
    (found,) = summarise(long_table(sweep(np.arange(1, 28) / 100))).to_dict("records")
    assert (found["ci_low"], found["ci_high"]) == (0.09, 0.19)


def test_chance_levels_are_the_lowest_the_median_and_the_highest() -> None:
    place = {"problem": "digits", "run": 0, "iteration": 1, "position": 0, "layer": "conv1_1", "kind": "conv"}
    rows = [
        place | {"metric": "cka", "permutation": number, "value": value, "reason": ""}
        for number, value in enumerate((0.3, 0.1, 0.9, 0.2, 0.25))
    ]
    (found,) = chance_level(chance_table(rows)).to_dict("records")
    assert (found["low"], found["median"], found["high"]) == (0.1, 0.25, 0.9)


def test_one_value_has_no_spread_and_none_has_nothing() -> None:
    rows = [similarity(0.7), similarity(np.nan, layer="conv1_2", position=1)]
    one, none = summarise(long_table(rows)).to_dict("records")
    assert (one["count"], one["missing"], one["mean"], one["median"], one["q05"]) == (1, 0, 0.7, 0.7, 0.7)
    assert np.isnan([one["sd"], one["ci_low"], one["ci_high"]]).all()
    assert (none["count"], none["missing"], none["remaining"]) == (0, 1, 0.8)
    assert np.isnan([none[name] for name in ("mean", "sd", "median", "q05", "q95", "ci_low", "ci_high")]).all()


def test_bootstrap_interval_narrows_as_theory_says() -> None:
    values = np.random.default_rng(5).normal(size=400)
    (found,) = summarise(long_table(sweep(values))).to_dict("records")
    width = found["ci_high"] - found["ci_low"]
    expected = 2 * 1.96 * np.sqrt(np.pi / 2) / np.sqrt(400)  # sd of a normal sample's median: σ √(π/2n)
    assert 0.7 * expected < width < 1.4 * expected
    assert found["ci_low"] < found["median"] < found["ci_high"]


def test_other_groups_and_the_order_of_rows_change_nothing() -> None:
    rng = np.random.default_rng(1)
    alone = sweep(rng.random(20))
    company = [
        *sweep(rng.random(20), metric="cka"),
        *sweep(rng.random(20), layer="pool1", kind="pool", position=1),
        *sweep(rng.random(20), iteration=2),
        *sweep(rng.random(20), problem="another"),
    ]
    expected = summarise(long_table(alone), seed=3)
    shuffled = long_table(company + alone).sample(frac=1, random_state=0)
    found = summarise(shuffled, seed=3)
    own = (found["problem"] == "digits") & (found["metric"] == "svcca") & (found["layer"] == "conv1_1")
    pd.testing.assert_frame_equal(found[own & (found["iteration"] == 1)].reset_index(drop=True), expected)
    pd.testing.assert_frame_equal(found, summarise(shuffled, seed=3))
    other_seed = summarise(long_table(alone), seed=4)
    assert other_seed["ci_low"][0] != expected["ci_low"][0]
    assert other_seed["median"][0] == expected["median"][0]


def test_accuracy_includes_the_complete_network() -> None:
    rows = [network(0.9, run, 1) for run in range(3)] + [network(0.95, None, 0)]
    found = summarise_accuracy(network_table(rows))
    assert list(found.columns) == list(ACCURACY_COLUMNS)
    assert found["iteration"].tolist() == [0, 1]
    assert found["count"].tolist() == [1, 3]
    assert found["remaining"].tolist() == [1.0, 0.8]
    assert found["median"].tolist() == [0.95, 0.9]
    assert found["sd"].isna().tolist() == [True, False]


def test_tables_have_fixed_columns_types_and_order() -> None:
    rows = [
        similarity(0.5, run, iteration=iteration, metric=metric, position=position, layer=f"layer{position}")
        for metric in PAPER_METRICS[::-1]
        for position in (2, 10, 1)
        for iteration in (2, 1)
        for run in (1, 0)
    ]
    table = long_table(rows)
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == SIMILARITY_COLUMNS
    assert list(table.columns) == list(SIMILARITY_COLUMNS)
    assert table["metric"].tolist()[:6] == list(PAPER_METRICS)
    assert table["position"].tolist()[:18] == [1] * 6 + [2] * 6 + [10] * 6
    assert table["iteration"].tolist()[::18] == [1, 2, 1, 2]
    pd.testing.assert_frame_equal(table, long_table(rows[::-1]))

    networks = network_table([network(0.9, 1), network(0.9, 0, 2), network(0.9, 0, 1), network(0.95, None, 0)])
    assert {name: str(dtype) for name, dtype in networks.dtypes.items()} == NETWORK_COLUMNS
    assert networks["iteration"].tolist() == [0, 1, 2, 1]
    assert networks["run"].isna().tolist() == [True, False, False, False]

    summary = summarise(table)
    assert {name: str(dtype) for name, dtype in summary.dtypes.items()} == SUMMARY_COLUMNS
    assert summary["metric"].unique().tolist() == list(PAPER_METRICS)
    assert summary["position"].unique().tolist() == [1, 2, 10]


def test_no_rows_make_empty_tables() -> None:
    tables = Tables.of(long_table([]), network_table([]))
    assert [len(table) for table in (tables.similarities, tables.networks, tables.summary, tables.accuracy)] == [0] * 4
    assert {name: str(dtype) for name, dtype in tables.summary.dtypes.items()} == SUMMARY_COLUMNS


def test_ones_own_metrics_come_after_those_that_are_known() -> None:
    table = long_table([similarity(0.5, metric=name) for name in ("b_own", "nbs", "a_own", "svcca")])
    assert table["metric"].tolist() == ["svcca", "nbs", "a_own", "b_own"]


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 rows are duplicates.*layer conv1_1, metric svcca"):
        long_table([similarity(0.5), similarity(0.6)])
    with pytest.raises(ValueError, match="duplicates"):
        network_table([network(0.9, None, 0), network(0.8, None, 0)])
    with pytest.raises(ValueError, match=r"lacks the columns \['value'\] and adds \['valu'\]"):
        long_table([{("valu" if name == "value" else name): entry for name, entry in similarity(0.5).items()}])


def mixed() -> Tables:
    rng = np.random.default_rng(0)
    values = rng.random(7)
    values[3] = np.nan
    networks = [network(0.95, None, 0), *(network(float(value), run) for run, value in enumerate(rng.random(7)))]
    return Tables.of(long_table(sweep(values)), network_table(networks))


@pytest.mark.parametrize("name", ["similarities", "networks", "summary", "accuracy"])
def test_parquet_comes_back_exactly(name: str) -> None:
    table = getattr(mixed(), name)
    for part in (table, table.iloc[:1], table.iloc[:0]):
        data = to_parquet_bytes(part)
        assert data == to_parquet_bytes(part.copy())
        pd.testing.assert_frame_equal(read_parquet_bytes(data), part, check_exact=True)


def test_ranks_may_be_missing_and_are_as_before_where_all_are_there() -> None:
    """Stores written before 0.2 have a rank in every row, whose field was not nullable."""
    whole = long_table([similarity(0.5), similarity(0.5, metric="cka")])
    before = whole.astype({"rank_x": "int64", "rank_y": "int64"})
    assert to_parquet_bytes(whole) == to_parquet_bytes(before)
    assert to_csv_bytes(whole) == to_csv_bytes(before)
    assert not pq.read_schema(io.BytesIO(to_parquet_bytes(whole))).field("rank_x").nullable
    some = long_table([similarity(0.5), similarity(0.5, metric="cka", rank_x=None, rank_y=None)])
    data = to_parquet_bytes(some)
    assert pq.read_schema(io.BytesIO(data)).field("rank_x").nullable
    pd.testing.assert_frame_equal(read_parquet_bytes(data), some, check_exact=True)
    assert some["rank_x"].tolist() == [8, pd.NA]
    assert ",8,8,1.0,,,,8,8," in to_csv_bytes(some).decode().splitlines()[2]


def test_parquet_holds_values_only() -> None:
    data = to_parquet_bytes(mixed().networks)
    assert pd.__version__.encode() not in data
    assert b"pandas" not in data


def test_csv_is_exact_and_leaves_missing_values_empty() -> None:
    table = network_table([network(1 / 3, 0), network(float("nan"), None, 0)])
    assert to_csv_bytes(table).decode() == (
        "problem,complete,control,run,iteration,remaining,remaining_pool,accuracy,loss,epochs,reduced\n"
        "digits,0,,,0,1.0,1.0,,0.30000000000000004,3,False\n"
        "digits,0,,0,1,0.8,0.75,0.3333333333333333,0.30000000000000004,3,False\n"
    )


def test_another_process_writes_the_same_bytes() -> None:
    """With another hash seed, so that no set or dict order leaks into a table."""
    code = "import sys; from test_tables import *; sys.stdout.buffer.write(to_parquet_bytes(mixed().summary))"
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parent)}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert there.stdout == to_parquet_bytes(mixed().summary)
