"""The ladder: metrics whose answers are known, and copies of an array with growing noise."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from distsim import metrics
from distsim.results.ladder import BARRIERS, RUNGS, as_resi, as_text, figure, ladder, ranking
from distsim.results.table_files import read_parquet_bytes, to_parquet_bytes
from distsim.results.tables import ENOUGH

NETWORKS = [(run, iteration) for run in range(3) for iteration in (1, 2, 3, 4)]


def pair(
    x: tuple[int, int], y: tuple[int, int], value: float, metric: str = "cka", layer: str = "fc1"
) -> dict[str, Any]:
    of_x, of_y = ({f"run_{side}": n[0], f"iteration_{side}": n[1]} for side, n in (("x", x), ("y", y)))
    return {"problem": "p", **of_x, **of_y, "position": 0, "layer": layer, "metric": metric, "value": value}


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return frame.astype({name: "Int64" for name in frame if name.startswith(("run", "iteration"))})


def networks(accuracy: Any = lambda run, iteration: 0.9) -> pd.DataFrame:
    rows = [{"run": run, "iteration": i, "accuracy": accuracy(run, i)} for run, i in NETWORKS]
    rows.append({"run": None, "iteration": 0, "accuracy": 0.95})
    return pd.DataFrame(rows).astype({"run": "Int64"})


def barriers(height: Any = lambda x, y: 0.0, aligned: bool = False) -> pd.DataFrame:
    rows = [
        {"run_x": x[0], "iteration_x": x[1], "run_y": y[0], "iteration_y": y[1], "aligned": aligned}
        | {"barrier": height(x, y), "loss_x": 0.1, "loss_y": 0.1}
        for x, y in itertools.combinations(NETWORKS, 2)
    ]
    return pd.DataFrame(rows).astype(BARRIERS)


def every(value: Any, metric: str = "cka") -> list[dict[str, Any]]:
    return [pair(x, y, value(x, y), metric) for x, y in itertools.combinations(NETWORKS, 2)]


def rungs(rows: list[dict[str, Any]], of: Any = None, between: Any = None) -> dict[str, float]:
    found = ladder(table(rows), networks() if of is None else of, barriers() if between is None else between)
    return dict(zip(found["test"], found["value"], strict=True))


def test_a_metric_of_the_distance_in_iterations_finds_the_order_and_nothing_of_the_run() -> None:
    found = rungs(every(lambda x, y: 1 - abs(x[1] - y[1]) / 10))
    assert found == {"order": 1.0, "ancestry": 0.5}, "equal values count half; there is one accuracy and one barrier"
    assert rungs(every(lambda x, y: abs(x[1] - y[1]) / 10))["order"] == -1


def test_a_metric_of_the_run_finds_the_ancestry() -> None:
    assert rungs(every(lambda x, y: 0.9 if x[0] == y[0] else 0.4)) == {"ancestry": 1.0}
    assert rungs(every(lambda x, y: 0.4 if x[0] == y[0] else 0.9)) == {"ancestry": 0.0}


def test_a_small_distance_is_a_large_similarity() -> None:
    assert rungs(every(lambda x, y: abs(x[1] - y[1]) + (x[0] != y[0]), "procrustes")) == {"order": 1.0, "ancestry": 1.0}


def test_barriers_and_accuracies_are_those_of_the_pair() -> None:
    def height(x: tuple[int, int], y: tuple[int, int]) -> float:
        return (7 * x[0] + x[1] + 3 * y[0] * y[1]) % 11

    assert rungs(every(lambda x, y: -height(x, y)), between=barriers(height))["barrier"] == pytest.approx(1)
    assert rungs(every(height), between=barriers(height))["barrier"] == pytest.approx(-1)
    assert "barrier_aligned" not in rungs(every(height), between=barriers(height))
    assert rungs(every(height), between=barriers(height, aligned=True))["barrier_aligned"] == pytest.approx(-1)

    def accuracy(run: int, iteration: int) -> float:
        return 0.9 - 0.01 * run**2 - 0.03 * iteration

    gap = every(lambda x, y: -abs(accuracy(*x) - accuracy(*y)))
    assert rungs(gap, networks(accuracy))["accuracy"] == pytest.approx(1)


def test_rows_of_the_complete_network_and_missing_values_are_left_out() -> None:
    rows = every(lambda x, y: 1 - abs(x[1] - y[1]) / 10)
    spoilt = [
        *rows,
        pair((0, 1), (0, 2), np.nan, "svcca"),
        pair((0, 1), (0, 4), 0.99) | {"run_x": None, "iteration_x": 0},
    ]
    pd.testing.assert_frame_equal(
        ladder(table(spoilt), networks(), barriers()), ladder(table(rows), networks(), barriers())
    )


def test_the_interval_is_over_runs() -> None:
    def value(x: tuple[int, int], y: tuple[int, int]) -> float:
        return abs(x[1] - y[1]) * (1 if x[0] == 2 else -1)  # run 2 has the order upside down

    found = ladder(table(every(value)), networks(), barriers()).set_index("test").loc["order"]
    assert (found["runs"], found["pairs"]) == (3, 3 * 6)
    assert (found["value"], found["low"], found["high"]) == (pytest.approx(1 / 3), -1, 1), "a range: three runs"
    many = [
        pair((run, i), (run, j), -abs(i - j) * (run > 0)) for run in range(ENOUGH) for i, j in ((1, 2), (1, 3), (2, 3))
    ]
    many = [row | {"value": row["value"] + 0.1 * (row["run_x"] == 1) * row["iteration_y"]} for row in many]
    again = ladder(table(many), networks(), barriers())
    assert again["low"].between(-1, again["value"]).all()


def test_ranks_texts_and_figures() -> None:
    good, bad = (
        every(lambda x, y: 1 - abs(x[1] - y[1]) / 10 + 0.3 * (x[0] == y[0])),
        every(lambda x, y: 0.1 * x[1], "nbs"),
    )
    found = ladder(table([*bad, *good]), networks(), barriers())
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == RUNGS
    assert list(found["metric"].unique()) == ["cka", "nbs"], "in the registry's order"
    ranks = ranking(found)
    assert list(ranks.index) == ["cka", "nbs"]
    assert ranks.loc["cka", "rank"] < ranks.loc["nbs", "rank"]
    lines = as_text(found).splitlines()
    assert lines[0].split() == ["metric", "order", "ancestry", "mean", "rank"]
    assert lines[1].startswith("cka")
    drawn = figure(found)
    assert [panel.get_title() for panel in drawn.axes] == ["order", "ancestry"]
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["CKA", "NBS"]
    (legend,) = drawn.legends
    assert [label.get_text() for label in legend.get_texts()] == list(found["layer"].unique())
    dots = [line.get_color() for line in drawn.axes[0].lines if line.get_marker() == "o"]
    assert dots == [handle.get_color() for handle in legend.legend_handles] * 2, "a layer has its colour in every row"
    assert "range over runs" in drawn.get_supxlabel()
    assert "95 % interval" in figure(found.assign(runs=6)).get_supxlabel()
    resi = as_resi(found, "vgg", "cifar10")
    violations = resi[resi["quality_measure"] == "violation_rate"].set_index("similarity_measure")["value"]
    assert violations["cka"] == 0
    assert resi["identifier"][0] == "p/fc1/order"
    named = dict(zip(resi["similarity_measure"], resi["repository_name"], strict=True))
    assert named == {"cka": "cka-kernel=linear-hsic=gretton-score", "nbs": "nbs-score"}
    pd.testing.assert_frame_equal(
        read_parquet_bytes(to_parquet_bytes(found)), found.astype({"runs": "Int64"}), check_dtype=False
    )


def test_copies_with_growing_noise_are_put_in_order_and_told_apart() -> None:
    """Each run drifts away from one array in a direction of its own. CKA and NBS must see both."""
    rng = np.random.default_rng(0)
    start, sides = rng.standard_normal((200, 30)), {}
    for run in range(3):
        side = start
        for iteration in (1, 2, 3, 4):
            side = side + 0.5 * rng.standard_normal((200, 30))
            sides[run, iteration] = side
    rows = []
    for name in ("cka", "nbs", "mean_cca", "svcca"):
        measure = getattr(metrics, name)
        rows += [pair(x, y, measure(sides[x], sides[y]), name) for x, y in itertools.combinations(NETWORKS, 2)]
    found = ladder(table(rows), networks(), barriers()).set_index(["metric", "test"])["value"]
    for name in ("cka", "nbs"):
        assert found[name, "order"] > 0.8, found
        assert found[name, "ancestry"] > 0.95, found
