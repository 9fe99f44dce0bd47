"""The tables of a study as typed arrays: what the report's page draws.

Arrays are written as base64 of their bytes, little-endian, in C order, beside their dtype and shape. Statistics and
values are float32, so they keep seven digits. Counts are uint16.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from distsim.metrics.registry import METRICS, in_order
from distsim.problems import PROBLEMS
from distsim.results.columns import ALL_CLASSES
from distsim.results.looks import PANEL_METRICS, label
from distsim.results.published import Published
from distsim.results.report.words import title
from distsim.results.tables import chance_level

STATISTICS = ("mean", "median", "sd", "q05", "q25", "q75", "q95", "ci_low", "ci_high")
COUNTS = ("count", "missing", "warned")
BESIDE = (
    "null",
    "calibrated",
    "z",
    "se",
)  # columns of similarities that are shown beside a value, where they are known
PREDICTIONS = ("agreement", "churn", "jsd")  # measures of predictions that are drawn
OF_PREDICTIONS = ("mean", "median", "sd", "q25", "q75", "count")
PREFERRED = ("svcca", "cka", "nbs", "pwcca", "mean_cca")  # the metric that is shown first
MOST = 2**16 - 1


def payload(study: Published) -> dict[str, Any]:
    """Return everything that the page draws of a study, ready for JSON."""
    problem, tables = study.problem, study.tables
    summary, similarities = _plain(tables.summary, problem), _plain(tables.similarities, problem)
    accuracy, networks = _plain(tables.accuracy, problem), _plain(tables.networks, problem)
    layers = summary.drop_duplicates("layer").sort_values("position")
    metrics = in_order(summary["metric"])
    iterations = sorted({*summary["iteration"], *accuracy.loc[accuracy["iteration"] > 0, "iteration"]})
    runs = _runs(networks)
    cube = {"metric": metrics, "layer": list(layers["layer"]), "iteration": iterations}
    paper = PROBLEMS[problem].paper if problem in PROBLEMS else ""
    return {
        "problem": problem,
        "title": title(study.identity.problem),
        "statistic": "median" if paper == "P1" else "mean",
        "metrics": [_metric(name, study.labels) for name in metrics],
        "first": first_metric(metrics),
        "layers": [{"name": name, "kind": kind} for name, kind in zip(layers["layer"], layers["kind"], strict=True)],
        "iterations": [int(iteration) for iteration in iterations],
        "runs": [{"complete": complete, "run": run} for complete, run in runs],
        "summary": {name: packed(_filled(summary, cube, name)) for name in (*STATISTICS, *COUNTS)},
        "beside": _beside(similarities, cube),
        "references": _references(tables.similarities, problem, cube),
        "values": packed(_values(similarities, cube, runs)),
        "chance": _chance(tables.chance, problem, cube),
        "accuracy": _accuracy(accuracy, networks, iterations, runs),
        "predictions": _predictions(tables.functional_summary, problem, iterations),
    }


def first_metric(metrics: Iterable[str]) -> str:
    """Return the metric that is shown first, "" if there is none."""
    there = list(dict.fromkeys(metrics))
    return next((name for name in (*PREFERRED, *there) if name in there), "")


def packed(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Return an array as its dtype, shape and bytes in base64. Whole numbers become uint16, others float32."""
    whole = np.issubdtype(array.dtype, np.integer)
    plain = np.minimum(array, MOST).astype("<u2") if whole else array.astype("<f4")
    data = base64.b64encode(np.ascontiguousarray(plain).tobytes()).decode()
    return {"dtype": "uint16" if whole else "float32", "shape": list(array.shape), "data": data}


def _plain(table: pd.DataFrame, problem: str) -> pd.DataFrame:
    """Return a problem's rows without those of controls."""
    return table[(table["problem"] == problem) & (table["control"] == "")]


def _metric(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    least, most = METRICS[name].bounds if name in METRICS else (-np.inf, np.inf)
    return {
        "name": name,
        "label": label(name, labels),
        "bounds": [bound if np.isfinite(bound) else None for bound in (least, most)],
        "panel": name in PANEL_METRICS,
    }


def _runs(networks: pd.DataFrame) -> list[tuple[int, int]]:
    """Return the runs as (number of the complete network, number of the run)."""
    pruned = networks[networks["iteration"] > 0]
    return sorted({(int(one), int(run)) for one, run in zip(pruned["complete"], pruned["run"], strict=True)})


def _filled(rows: pd.DataFrame, axes: Mapping[str, Sequence[Any]], column: str) -> npt.NDArray[Any]:
    """Return a column as an array with these axes. Where no row is, it is NaN, or 0 in a column of whole numbers."""
    places = [pd.Index(values).get_indexer(pd.Index(rows[name])) for name, values in axes.items()]
    shape = tuple(len(values) for values in axes.values())
    whole = column in COUNTS
    array: npt.NDArray[Any] = np.zeros(shape, np.int64) if whole else np.full(shape, np.nan)
    array[tuple(places)] = rows[column].to_numpy(
        "int64" if whole else "float64", **({} if whole else {"na_value": np.nan})
    )
    return array


def _beside(similarities: pd.DataFrame, cube: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the medians over runs of what stands beside a value: its chance level, and so on."""
    found = {}
    for name in BESIDE:
        if name in similarities and similarities[name].notna().any():
            medians = similarities.groupby(list(cube), sort=False)[name].median().reset_index()
            found[name] = packed(_filled(medians, cube, name))
    return found


def _references(similarities: pd.DataFrame, problem: str, cube: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the medians over the runs of each control, such as networks that were trained again without pruning."""
    controls = similarities[(similarities["problem"] == problem) & (similarities["control"] != "")]
    if controls.empty:
        return {}
    inside = controls["iteration"].isin(cube["iteration"]) & controls["metric"].isin(cube["metric"])
    medians = controls[inside].groupby(["control", *cube], sort=False)["value"].median().reset_index()
    return {str(name): packed(_filled(of_one, cube, "value")) for name, of_one in medians.groupby("control")}


def _values(
    similarities: pd.DataFrame, cube: Mapping[str, Sequence[Any]], runs: Sequence[tuple[int, int]]
) -> npt.NDArray[Any]:
    """Return the value of each metric, layer, iteration and run."""
    numbered = similarities.assign(at=_numbers(similarities, runs))
    return _filled(numbered, {**cube, "at": range(len(runs))}, "value")


def _numbers(rows: pd.DataFrame, runs: Sequence[tuple[int, int]]) -> list[int]:
    """Return each row's place among the runs."""
    named = zip(rows["complete"], rows["run"], strict=True)
    return [runs.index((int(complete), int(run))) for complete, run in named]


def _chance(chance: pd.DataFrame, problem: str, cube: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the lowest, median and highest similarity by chance of each metric and layer; {} if none was measured."""
    rows = _plain(chance, problem)
    rows = rows[rows["layer"].isin(cube["layer"])]
    if rows.empty:
        return {}
    axes = {name: cube[name] for name in ("metric", "layer")}
    levels = chance_level(rows[rows["metric"].isin(cube["metric"])])
    return {name: packed(_filled(levels, axes, name)) for name in ("low", "median", "high")}


def _accuracy(
    accuracy: pd.DataFrame, networks: pd.DataFrame, iterations: Sequence[int], runs: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Return statistics of the accuracy at iteration 0 and after, and each run's accuracy. Iteration 0 comes first."""
    axes = {"iteration": [0, *iterations]}
    found = {name: packed(_filled(accuracy, axes, name)) for name in (*STATISTICS, "remaining", "count")}
    pruned = networks[networks["iteration"] > 0]
    numbered = pruned.assign(at=_numbers(pruned, runs))
    by_run = _filled(numbered, {"at": range(len(runs)), "iteration": list(iterations)}, "accuracy")
    return found | {"runs": packed(by_run)}


def _predictions(summary: pd.DataFrame, problem: str, iterations: Sequence[int]) -> dict[str, Any]:
    """Return how predictions for the test images differ from the complete network's; {} if that was not measured.

    Statistics have the axes measure, class and iteration. The first class, "", is all images. Of controls there are the
    medians over runs, of all images.
    """
    rows = summary[(summary["problem"] == problem) & summary["measure"].isin(PREDICTIONS)]
    rows = rows[rows["iteration"].isin(iterations)]
    plain = rows[rows["control"] == ""]
    if plain.empty:
        return {}
    classes = [ALL_CLASSES, *(name for name in dict.fromkeys(plain["class"]) if name != ALL_CLASSES)]
    axes = {"measure": PREDICTIONS, "class": classes, "iteration": list(iterations)}
    of_controls = rows[(rows["control"] != "") & (rows["class"] == ALL_CLASSES)]
    along = {name: axes[name] for name in ("measure", "iteration")}
    return {
        "measures": list(PREDICTIONS),
        "classes": classes,
        "summary": {name: packed(_filled(plain, axes, name)) for name in OF_PREDICTIONS},
        "references": {
            str(name): packed(_filled(of_one, along, "median")) for name, of_one in of_controls.groupby("control")
        },
    }
