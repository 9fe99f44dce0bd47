"""The ladder: which metric finds what is known about the networks of a study.

The networks of a study have a known order (iterations), a known ancestry (runs), known accuracies, and measured loss
barriers between them. A metric that says something about networks should find these:

    order     within a run, networks of nearby iterations are more similar: Spearman's correlation of similarity and
              -|i - j|
    ancestry  two networks of one run are more similar than two of different runs at the same iterations: how often, 0.5
              by chance
    barrier   networks with a low loss barrier between them are more similar: Spearman's correlation of similarity and
              -barrier; barrier_aligned: after their channels were aligned
    accuracy  networks of like accuracy are more similar: Spearman's correlation of similarity and -|difference|

Each test is computed run by run. The value is the mean over runs.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from distsim.metrics.registry import BUILT_IN, DISTANCES, in_order
from distsim.metrics.repository import repository_name
from distsim.results.tables import CONFIDENCE, ENOUGH, RESAMPLES
from distsim.seeds import numpy_stream

TESTS = ("order", "ancestry", "barrier", "barrier_aligned", "accuracy")
CHANCE = {"ancestry": 0.5}  # by chance; of the others 0
SCALES = {  # what the horizontal axis of the figure shows
    "order": "rank correlation",
    "ancestry": "share of pairs in the right order",
    "barrier": "rank correlation",
    "barrier_aligned": "rank correlation",
    "accuracy": "rank correlation",
}
RUNGS = {  # columns of the table
    "problem": "str",
    "metric": "str",
    "layer": "str",
    "position": "int64",
    "test": "str",
    "value": "float64",
    "low": "float64",  # 95 % bootstrap interval over runs; below ENOUGH runs their range
    "high": "float64",
    "runs": "int64",
    "pairs": "int64",  # that the test looked at, all runs together
}
BARRIERS = {
    "run_x": "int64",
    "iteration_x": "int64",
    "run_y": "int64",
    "iteration_y": "int64",
    "aligned": "bool",
    "barrier": "float64",
    "loss_x": "float64",  # of the ends, with statistics of batch normalisation from the probe
    "loss_y": "float64",
}
FEWEST = 3  # pairs of networks from which on a rank correlation is given


def ladder(pairs: pd.DataFrame, networks: pd.DataFrame, barriers: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return how well each metric does each test in each layer, one row for each (metric, layer, test) with a value.

    pairs : as `distsim pairs` writes it, of every network with every other; rows with the complete network are not used
    networks : the study's table of networks; barriers : with the columns of `BARRIERS`; seed : of the bootstrap
    """
    pruned = pairs[pairs["run_x"].notna() & pairs["run_y"].notna() & pairs["value"].notna()]
    pruned = pruned.astype({"run_x": "int64", "run_y": "int64"})
    known = _with_known(pruned, networks, barriers)
    rows = []
    for (problem, metric, layer), of_layer in known.groupby(["problem", "metric", "layer"], sort=False):
        for test, measure in _MEASURES.items():
            found = list(measure(of_layer))
            if not found:
                continue
            values = np.array([value for value, _ in found])
            rng = numpy_stream(seed, "ladder", problem, metric, layer, test)
            low, high = _interval(values, rng)
            rows.append(
                {
                    "problem": problem,
                    "metric": metric,
                    "layer": layer,
                    "position": of_layer["position"].iloc[0],
                    "test": test,
                    "value": values.mean(),
                    "low": low,
                    "high": high,
                    "runs": len(found),
                    "pairs": sum(count for _, count in found),
                }
            )
    table = pd.DataFrame.from_records(rows, columns=list(RUNGS)).astype(RUNGS)
    places = {name: place for place, name in enumerate(in_order(table["metric"]))}
    order = table.assign(metric=table["metric"].map(places), test=table["test"].map(TESTS.index))
    return table.loc[order.sort_values(["problem", "metric", "position", "test"]).index].reset_index(drop=True)


def ranking(table: pd.DataFrame) -> pd.DataFrame:
    """Return the median over layers of each metric and test, metrics as rows, the best in the mean of its ranks first.

    The column `rank` is the mean of a metric's ranks over the tests, 1 the best.
    """
    medians = table.pivot_table("value", "metric", "test", "median")
    medians = medians[[test for test in TESTS if test in medians]]
    ranks = medians.rank(ascending=False).mean(axis=1)
    return medians.assign(rank=ranks).sort_values("rank", kind="stable")


def as_resi(table: pd.DataFrame, architecture: str, dataset: str) -> pd.DataFrame:
    """Return the table in the columns of the ReSi benchmark's results (Klabunde et al. 2024).

    Ancestry is there as its violation rate: how often networks of different runs are the more similar ones. A further
    column, `repository_name`, has the metric's name in the similarity repository, "" if it has none.
    """
    ancestry = table["test"] == "ancestry"
    return pd.DataFrame(
        {
            "similarity_measure": table["metric"],
            "quality_measure": np.where(ancestry, "violation_rate", "spearmanr"),
            "value": table["value"].where(~ancestry, 1 - table["value"]),
            "domain": "VISION",
            "architecture": architecture,
            "representation_dataset": dataset,
            "identifier": table["problem"] + "/" + table["layer"] + "/" + table["test"],
            "repository_name": table["metric"].map(lambda name: repository_name(name) or "").astype("str"),
        }
    )


# --- what is known of a pair of networks -----------------------------------------------------------------------------


def _with_known(pairs: pd.DataFrame, networks: pd.DataFrame, barriers: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs with `alike` (large for similar networks), `apart`, `gap` of accuracy, and both barriers."""
    absent = {"control": "", "complete": 0}  # tables of earlier versions have no such columns
    known = networks.assign(**{name: value for name, value in absent.items() if name not in networks})
    of_ladder = known[known["run"].notna() & (known["control"] == "") & (known["complete"] == 0)]
    accuracy = of_ladder.set_index(["run", "iteration"])["accuracy"]
    of_x, of_y = (
        accuracy.reindex(pd.MultiIndex.from_frame(pairs[[f"run_{side}", f"iteration_{side}"]])).to_numpy(np.float64)
        for side in "xy"
    )
    keys = ["run_x", "iteration_x", "run_y", "iteration_y"]
    table = pairs.assign(
        alike=pairs["value"].where(~pairs["metric"].isin(DISTANCES), -pairs["value"]),
        apart=(pairs["iteration_x"] - pairs["iteration_y"]).abs().astype("int64"),
        gap=np.abs(of_x - of_y),
    )
    for aligned, name in ((False, "barrier"), (True, "barrier_aligned")):
        of_kind = barriers[barriers["aligned"] == aligned].set_index(keys)["barrier"]
        table[name] = of_kind.reindex(pd.MultiIndex.from_frame(table[keys].astype("int64"))).to_numpy()
    return table


Found = Iterator[tuple[float, int]]  # each run's value, and how many pairs it rests on


def _order(pairs: pd.DataFrame) -> Found:
    same = pairs[pairs["run_x"] == pairs["run_y"]]
    for _, of_run in same.groupby("run_x"):
        yield from _correlated(of_run["alike"], -of_run["apart"])


def _ancestry(pairs: pd.DataFrame) -> Found:
    """Yield for each run how often two of its networks are more similar than one of them and another run's."""
    steps = ["iteration_x", "iteration_y"]
    same, other = pairs[pairs["run_x"] == pairs["run_y"]], pairs[pairs["run_x"] != pairs["run_y"]]
    swapped = other.rename(columns={"iteration_x": "iteration_y", "iteration_y": "iteration_x"})
    for run, own in same.groupby("run_x"):
        theirs = pd.concat([frame[(frame["run_x"] == run) | (frame["run_y"] == run)] for frame in (other, swapped)])
        both = own[[*steps, "alike"]].merge(theirs[[*steps, "alike"]], on=steps, suffixes=("", "_other"))
        if len(both):
            wins = (both["alike"] > both["alike_other"]) + 0.5 * (both["alike"] == both["alike_other"])
            yield float(wins.mean()), len(both)


def _against(column: str) -> Callable[[pd.DataFrame], Found]:
    """Return a test of whether similarity falls as this column rises, over each run's pairs with any run."""

    def measure(pairs: pd.DataFrame) -> Found:
        known = pairs.dropna(subset=column)
        for run in sorted({*known["run_x"], *known["run_y"]}):
            of_run = known[(known["run_x"] == run) | (known["run_y"] == run)]
            yield from _correlated(of_run["alike"], -of_run[column])

    return measure


_MEASURES: dict[str, Callable[[pd.DataFrame], Found]] = {
    "order": _order,
    "ancestry": _ancestry,
    "barrier": _against("barrier"),
    "barrier_aligned": _against("barrier_aligned"),
    "accuracy": _against("gap"),
}


def _correlated(a: pd.Series, b: pd.Series) -> Found:
    """Yield Spearman's correlation, or nothing if there are too few pairs or all are equal."""
    if len(a) >= FEWEST and a.nunique() > 1 and b.nunique() > 1:
        yield float(a.corr(b, method="spearman")), len(a)


def _interval(values: Any, rng: np.random.Generator) -> tuple[float, float]:
    """Return the bootstrap interval of the mean over runs; of fewer than `ENOUGH` runs their range."""
    if len(values) < ENOUGH:
        return float(values.min()), float(values.max())
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


# --- showing it ------------------------------------------------------------------------------------------------------


def as_text(table: pd.DataFrame) -> str:
    """Return the ranking as a table of text, the best metric first."""
    ranks = ranking(table)
    tests = [name for name in ranks if name != "rank"]
    lines = [f"{'metric':20}" + "".join(f"{test:>17}" for test in tests) + f"{'mean rank':>12}"]
    for metric, row in ranks.iterrows():
        cells = "".join(f"{row[test]:17.3f}" if np.isfinite(row[test]) else f"{'':>17}" for test in tests)
        lines.append(f"{metric:20}{cells}{row['rank']:12.2f}")
    return "\n".join(lines)


def figure(table: pd.DataFrame) -> Any:
    """Draw each metric's value in each test and layer, with its interval. Returns a matplotlib Figure."""
    import matplotlib.style
    from matplotlib.lines import Line2D

    from distsim import plotting

    metrics, tests = in_order(table["metric"]), [test for test in TESTS if test in set(table["test"])]
    layers = list(table.sort_values("position")["layer"].unique())
    colours = {layer: plotting.SHADES(at / max(len(layers) - 1, 1)) for at, layer in enumerate(layers)}
    with matplotlib.style.context(["default", plotting.STYLE]):
        height = max(0.32 * len(metrics) + 1.4, 0.17 * len(layers) + 0.6)
        drawn = plotting.Picture(figsize=(1.4 * len(tests) + 1.6, height), layout="constrained")
        panels = drawn.subplots(1, len(tests), sharey=True, squeeze=False)[0]
        for panel, test in zip(panels, tests, strict=True):
            _draw_test(panel, table[table["test"] == test], metrics, colours)
            panel.axvline(CHANCE.get(test, 0.0), color="0.4", linewidth=0.8, linestyle=":")
            panel.set_title(test.replace("_", ", "))
            panel.set_xlabel(plotting.fitted(SCALES[test], 1.3, 8))
        panels[0].set_yticks(range(len(metrics)), [BUILT_IN[m].label if m in BUILT_IN else m for m in metrics])
        panels[0].invert_yaxis()
        dots = [Line2D([], [], marker="o", linestyle="", markersize=4, color=colours[layer]) for layer in layers]
        drawn.legend(dots, layers, loc="outside right center", title="layer")
        spread = "95 % interval" if table["runs"].min() >= ENOUGH else "range"
        drawn.supxlabel(f"dotted line: chance; grey lines: {spread} over runs", fontsize=7)
        drawn.draw_without_rendering()
        drawn.set_layout_engine("none")
    return drawn


def _draw_test(panel: Any, rows: pd.DataFrame, metrics: list[str], colours: dict[str, Any]) -> None:
    """Draw one test: a row for each metric, in it a dot for each layer."""
    offsets = dict(zip(colours, np.linspace(-0.3, 0.3, len(colours)) if len(colours) > 1 else [0.0], strict=True))
    for row in rows.to_dict("records"):
        height = metrics.index(row["metric"]) + offsets[row["layer"]]
        panel.hlines(height, row["low"], row["high"], color="0.7", linewidth=0.8)
        panel.plot(row["value"], height, "o", markersize=3.5, color=colours[row["layer"]], zorder=3)
