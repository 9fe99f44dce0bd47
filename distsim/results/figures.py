"""The papers' figures. Each function takes a table of `distsim.results.tables` and returns a Figure.

Nothing is computed here.

"P1" is the ICPRAM 2020 paper, "P2" its 2021 extension. Figures are built with matplotlib's object interface, without
pyplot or a window, and look the same whatever the user's matplotlibrc says.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from distsim.metrics.registry import METRICS, in_order
from distsim.plotting import SHADES, drawn
from distsim.problems import PROBLEMS
from distsim.results import beside
from distsim.results.marks import mark, mark_cells, marked, note
from distsim.results.panels import (
    ONE,
    grid,
    iteration_bar,
    iteration_ticks,
    layer_width,
    remaining_axis,
    similarity_limits,
)
from distsim.results.tables import Tables, chance_level, reference_level
from distsim.specs import Problem

PANEL_METRICS = ("svcca", "pwcca", "cka", "nbs")  # in P2's figures; all other metrics are drawn separately
# Okabe & Ito's palette, which people with colour blindness can tell apart; the markers differ too
METRIC_LOOKS = {
    "svcca": ("#0072B2", "o"),
    "pwcca": ("#56B4E9", "s"),
    "cka": ("#D55E00", "^"),
    "nbs": ("#E69F00", "D"),
    "cosine": ("#009E73", "v"),
}
OTHER_LOOKS = (("#CC79A7", "P"), ("#000000", "X"), ("#808080", "*"), ("#F0E442", "p"))
Titles = Mapping[str, str]  # problem -> its title, where that is not its name
Labels = Mapping[str, str]  # metric -> label; the registry has the labels of metrics that are left out
ACCURACY_COLOUR = "#0072B2"


@drawn
def accuracy_median(accuracy: pd.DataFrame) -> Figure:
    """Draw P1 Fig. 1: median test accuracy against remaining parameters, a panel per problem; band: 25–75 % of runs."""
    return _accuracy_figure(accuracy, "median", lambda rows: (rows["q25"], rows["q75"]), "25–75 %")


@drawn
def accuracy_mean(accuracy: pd.DataFrame) -> Figure:
    """Draw P2 Fig. 4: mean test accuracy ± 2 sd against remaining parameters; dotted: the complete network."""

    def two_sd(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
        return (rows["mean"] - 2 * rows["sd"]).clip(0, 1), (rows["mean"] + 2 * rows["sd"]).clip(0, 1)

    return _accuracy_figure(accuracy, "mean", two_sd, "± 2 sd", dotted=True)


@drawn
def similarity_by_layer(
    summary: pd.DataFrame,
    metric: str = "svcca",
    statistic: str = "median",
    include_output: bool = False,
    bands: bool = False,
    chance: pd.DataFrame | None = None,
    labels: Labels | None = None,
    titles: Titles | None = None,
    errors: bool = False,
    reference: pd.DataFrame | None = None,
) -> Figure:
    """Draw P1 Fig. 2: similarity per layer, input to output, one line per IMP iteration, one panel per problem.

    Controls are drawn beside it, where the summary has any.
    chance : distsim.results.tables.chance_level, drawn as a grey band if the axis reaches down to it
    errors : draw bars of one standard error over examples to each side, where it was measured
    reference : distsim.results.tables.reference_level, how similar two complete networks are
    """
    of_metric = summary[(summary["metric"] == metric) & (include_output | (summary["kind"] != "out"))]
    rows = marked(beside.pruned(of_metric))
    problems = _in_order(rows["problem"])
    layers = max(rows.groupby("problem")["layer"].nunique(), default=0)
    figure, panels = grid(len(problems), width=layer_width(layers), height=3.0, sharey=True)
    last = int(rows["iteration"].max())
    for panel, problem in zip(panels, problems, strict=True):
        of_problem = rows[rows["problem"] == problem]
        _chance_band(panel, of_problem, chance, metric)
        _layer_lines(panel, of_problem, statistic, bands, last, errors)
        of_all = of_metric[of_metric["problem"] == problem]
        beside.over_layers(panel, of_all, reference, _layers_of(of_problem), statistic)
        panel.set_title((titles or {}).get(problem, problem))
    note(figure, rows)
    beside.legend(figure, of_metric, reference)
    figure.supylabel(f"{label(metric, labels)} ({statistic} of runs)")
    seen = of_metric[["q25", statistic] if bands else [statistic]]
    low = pd.DataFrame({statistic: beside.values(of_metric, reference)})
    similarity_limits(panels[0], pd.concat([seen, low]) if len(low) else seen, zoom=True)
    iteration_bar(figure, panels, last)
    return figure


@drawn
def similarity_panels(
    summary: pd.DataFrame,
    problem: str,
    metrics: Sequence[str] = PANEL_METRICS,
    bands: bool = False,
    chance: pd.DataFrame | None = None,
    title: str = "",
    labels: Labels | None = None,
    titles: Titles | None = None,
    errors: bool = False,
    reference: pd.DataFrame | None = None,
) -> Figure:
    """Draw P2 Fig. 5–7: mean similarity per layer, output included, one line per IMP iteration, one panel per metric.

    The axis of a panel goes from 0 to 1; metrics with values above 1 have an axis of their own. Controls are drawn
    beside it, where the summary has any.
    chance : distsim.results.tables.chance_level, drawn as a grey band
    errors : as in `similarity_by_layer`
    reference : distsim.results.tables.reference_level, how similar two complete networks are
    """
    of_metrics = summary[(summary["problem"] == problem) & summary["metric"].isin(metrics)]
    rows = marked(beside.pruned(of_metrics))
    seen = [of_metrics[["metric", "mean"]]]  # all values that the axes must cover
    if chance is not None:
        of_chance = chance[(chance["problem"] == problem) & chance["metric"].isin(metrics)]
        seen += [of_chance[["metric", bound]].rename(columns={bound: "mean"}) for bound in ("low", "high")]
    values = pd.concat(seen)
    beyond = {metric for metric, of_metric in values.groupby("metric")["mean"] if of_metric.max() > ONE}
    width = layer_width(rows["layer"].nunique())
    figure, panels = grid(len(metrics), width, height=2.5, columns=2, sharex=True, sharey=not beyond)
    last = int(rows["iteration"].max())
    for panel, metric in zip(panels, metrics, strict=True):
        of_metric = rows[rows["metric"] == metric]
        _chance_band(panel, of_metric, chance, metric)
        _layer_lines(panel, of_metric, "mean", bands, last, errors)
        of_all = of_metrics[of_metrics["metric"] == metric]
        beside.over_layers(panel, of_all, reference, _layers_of(of_metric), "mean")
        panel.set_ylabel(textwrap.fill(label(metric, labels), 30))
    note(figure, rows)
    beside.legend(figure, of_metrics, reference)
    for panel, metric in zip(panels, metrics, strict=True):
        of_axis = values["metric"] == metric if metric in beyond else ~values["metric"].isin(beyond)
        similarity_limits(panel, values.loc[of_axis, ["mean"]])
    iteration_bar(figure, panels, last)
    by_chance = "; grey: by chance" if chance is not None and problem in set(chance["problem"]) else ""
    title = title or f"{(titles or {}).get(problem, problem)}: mean of runs{by_chance}"
    figure.suptitle(title, fontsize=10)
    return figure


@drawn
def iteration_maps(pairs: pd.DataFrame, problem: str, metric: str, labels: Labels | None = None) -> Figure:
    """Draw the similarity of iteration to iteration, median of runs, as one map per layer.

    Iteration 0 is the complete network.
    pairs : rows with iteration_x, iteration_y, layer, position, metric and value, each of networks of one run
    """
    rows = pairs[pairs["metric"] == metric]
    layers = rows.drop_duplicates("layer").sort_values("position")["layer"]
    medians = rows.groupby(["layer", "iteration_x", "iteration_y"])["value"].median()
    shown = sorted({int(iteration) for name in ("iteration_x", "iteration_y") for iteration in rows[name]})
    low, high = min(medians.min(), 1.0), max(medians.max(), 1.0)
    if high > ONE:  # the metric is not a similarity, so 1 has no meaning
        low = medians.min()
    figure, panels = grid(len(layers), width=2.2, height=2.3, columns=4, sharex=True, sharey=True)
    for panel, layer in zip(panels, layers, strict=True):
        matrix = np.full((len(shown), len(shown)), np.nan)
        for (a, b), value in medians[layer].items():
            i, j = shown.index(int(a)), shown.index(int(b))
            matrix[i, j] = matrix[j, i] = value
        panel.set_facecolor("0.88")
        image = panel.imshow(matrix, cmap=SHADES, vmin=low, vmax=high, origin="lower")
        mark_cells(panel, shown, rows[rows["layer"] == layer])
        panel.grid(visible=False)
        panel.set_title(layer)
        ticks = [at for at, iteration in enumerate(shown) if len(shown) <= 8 or iteration % 5 == 0]
        panel.set_xticks(ticks, [str(shown[at]) for at in ticks])
        panel.set_yticks(ticks, [str(shown[at]) for at in ticks])
    note(figure, rows.assign(care=rows["warning"] != "", few=False), above="IMP iteration")
    figure.supylabel("IMP iteration")
    figure.suptitle(f"{problem}: iteration to iteration, median of runs", fontsize=10)
    figure.colorbar(image, ax=panels, label=label(metric, labels), pad=0.02)
    return figure


@drawn
def output_layer(
    summary: pd.DataFrame,
    problem: str,
    labels: Labels | None = None,
    titles: Titles | None = None,
    reference: pd.DataFrame | None = None,
) -> Figure:
    """Draw P2 Fig. 8: similarity of the output layer against IMP iteration, one line per metric; band: mean ± sd.

    The metrics are the paper's and those that only the output layer has. Controls, and the reference level
    (distsim.results.tables.reference_level), are other lines in the metrics' colours.
    """
    of_output = _of_output(summary[summary["problem"] == problem])
    rows = marked(beside.pruned(of_output))
    figure, (panel,) = grid(1, width=5.2, height=3.4)
    others = [metric for metric in in_order(rows["metric"]) if metric not in METRIC_LOOKS]
    for metric, (colour, marker) in (METRIC_LOOKS | dict(zip(others, cycle(OTHER_LOOKS)))).items():
        of_metric = rows[rows["metric"] == metric].set_index("iteration")
        if of_metric.empty:
            continue
        # a missing iteration interrupts the line
        of_metric = of_metric.reindex(range(of_metric.index.min(), of_metric.index.max() + 1))
        mean, sd = of_metric["mean"], of_metric["sd"]
        least, most = METRICS[metric].bounds if metric in METRICS else (None, None)
        low, high = (mean - sd).clip(least, most), (mean + sd).clip(least, most)
        panel.fill_between(mean.index, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.plot(mean.index, mean, color=colour, marker=marker, label=label(metric, labels))
        mark(panel, mean.index, of_metric, "mean", colour, marker, size=4)
        beside.over_iterations(panel, of_output[of_output["metric"] == metric], reference, "mean", colour)
    title = (titles or {}).get(problem, problem)
    panel.set(title=f"{title}: output layer", xlabel="IMP iteration", ylabel="similarity (mean ± sd of runs)")
    panel.xaxis.set_major_locator(FixedLocator(iteration_ticks(int(rows["iteration"].max()))))
    limits = pd.DataFrame({"low": of_output["mean"] - of_output["sd"].fillna(0), "mean": of_output["mean"]})
    similarity_limits(panel, limits, zoom=True)
    metrics, _ = panel.get_legend_handles_labels()
    figure.legend(handles=[*metrics, *beside.names(of_output, reference, in_grey=True)], loc="outside right center")
    note(figure, rows)
    return figure


def draw_all(tables: Tables, labels: Labels | None = None, titles: Titles | None = None) -> dict[str, Figure]:
    """Draw every figure for which the tables hold values, and return the figures by file name.

    The papers' metrics are in the papers' figures, all other metrics in `more_similarities_*`.
    """
    figures: dict[str, Figure] = {}
    if len(tables.accuracy):
        figures["fig1_accuracy_median"] = accuracy_median(tables.accuracy)
        figures["fig4_accuracy_mean"] = accuracy_mean(tables.accuracy)
    summary, reference = tables.summary, reference_level(tables.reference)
    shared: dict[str, Any] = {"chance": chance_level(tables.chance), "labels": labels, "titles": titles}
    if "svcca" in set(summary["metric"]):
        figures["fig2_svcca_by_layer"] = similarity_by_layer(summary, reference=reference, **shared)
    for problem in _in_order(summary["problem"]):
        present = summary[summary["problem"] == problem]
        panels = {
            f"fig5_similarity_{problem}": [metric for metric in PANEL_METRICS if metric in set(present["metric"])],
            f"more_similarities_{problem}": further_metrics(present),
        }
        for name, metrics in panels.items():
            if metrics:
                figures[name] = similarity_panels(summary, problem, metrics, reference=reference, **shared)
        if len(_of_output(present)):
            figures[f"fig8_output_{problem}"] = output_layer(summary, problem, labels, titles, reference)
    return dict(sorted(figures.items()))


def titles_of(problems: Iterable[Problem]) -> dict[str, str]:
    """Return the titles of problems that are compared on test images. The papers compare on training images."""
    return {one.name: f"{one.name}, test images" for one in problems if one.probe_from == "test"}


def label(metric: str, labels: Labels | None = None) -> str:
    """Return a metric's label: from `labels`, else from the registry, else its name."""
    return (labels or {}).get(metric) or (metric in METRICS and METRICS[metric].label) or metric


def further_metrics(rows: pd.DataFrame) -> list[str]:
    """Return the metrics of hidden layers that the papers' panels do not show, in the order of the registry."""
    return [metric for metric in in_order(rows[rows["kind"] != "out"]["metric"]) if metric not in PANEL_METRICS]


def _of_output(of_problem: pd.DataFrame) -> pd.DataFrame:
    """Return the output layer's rows for the metrics that its figure shows."""
    only = set(of_problem["metric"]) - set(of_problem[of_problem["kind"] != "out"]["metric"])
    return of_problem[(of_problem["kind"] == "out") & of_problem["metric"].isin({*METRIC_LOOKS, *only})]


def _accuracy_figure(
    accuracy: pd.DataFrame,
    statistic: str,
    band: Callable[[pd.DataFrame], tuple[pd.Series, pd.Series]],
    band_name: str,
    dotted: bool = False,
) -> Figure:
    every, accuracy = accuracy, marked(beside.pruned(accuracy))
    problems = _in_order(accuracy["problem"])
    figure, panels = grid(len(problems), width=3.6 if len(problems) > 1 else 5.0, height=2.8)
    for panel, problem in zip(panels, problems, strict=True):
        rows = accuracy[accuracy["problem"] == problem]
        low, high = band(rows)
        panel.fill_between(rows["remaining"], low, high, color=ACCURACY_COLOUR, alpha=0.2, linewidth=0, label=band_name)
        panel.plot(rows["remaining"], rows[statistic], "o-", color=ACCURACY_COLOUR, label=f"{statistic} of runs")
        mark(panel, rows["remaining"], rows, statistic, ACCURACY_COLOUR, "o", size=4)
        of_random = every[(every["problem"] == problem) & (every["control"] == "random")]
        if len(of_random):  # what is retrained without pruning stays at 1
            colour, dashes = beside.LOOKS["random"]
            random = of_random.sort_values("iteration")
            name = f"{beside.CONTROL_NAMES['random']}, {statistic}"
            panel.plot(random["remaining"], random[statistic], color=colour, linestyle=dashes, label=name, gid="random")
        complete = rows[rows["iteration"] == 0]
        if dotted and len(complete):
            panel.axhline(complete[statistic].iloc[0], color="0.3", linestyle=":", linewidth=1.2, zorder=1.5)
        (diamond,) = panel.plot(complete["remaining"], complete[statistic], "D", color="0.3", label="complete network")
        diamond.set(markersize=6, markerfacecolor="white", markeredgewidth=1.4, zorder=4)
        diamond.set_linestyle(":" if dotted else "none")
        panel.set(title=problem, xlabel="remaining parameters")
        panel.yaxis.set_major_locator(MaxNLocator(6))
        remaining_axis(panel, rows["remaining"])
    figure.supylabel(f"test accuracy ({statistic} of runs)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    note(figure, accuracy)
    return figure


def _layer_lines(panel: Axes, rows: pd.DataFrame, statistic: str, bands: bool, last: int, errors: bool = False) -> None:
    """Draw one line per iteration over the layers in their order. A missing value interrupts its line."""
    layers = _layers_of(rows)
    for iteration, of_iteration in rows.groupby("iteration"):
        colour = SHADES((iteration - 1) / max(last - 1, 1))
        at_layer = of_iteration.set_index("layer").reindex(layers)
        if bands:
            panel.fill_between(
                range(len(layers)), at_layer["q25"], at_layer["q75"], color=colour, alpha=0.2, linewidth=0
            )
        if errors:
            value, se = at_layer[statistic], at_layer["se"]
            panel.vlines(range(len(layers)), value - se, value + se, color=colour, linewidth=0.8)
        panel.plot(range(len(layers)), at_layer[statistic], color=colour, marker="o", markersize=2.2, linewidth=1.1)
        mark(panel, range(len(layers)), at_layer, statistic, colour, "o", size=2.8)
    panel.set_xticks(range(len(layers)), layers, rotation=90)
    panel.grid(visible=False, axis="x")


def _layers_of(rows: pd.DataFrame) -> pd.Series:
    """Return the layers of these rows, input to output."""
    return rows.drop_duplicates("layer").sort_values("position")["layer"]


def _chance_band(panel: Axes, rows: pd.DataFrame, chance: pd.DataFrame | None, metric: str) -> None:
    """Draw a grey band from the smallest to the largest similarity with permuted examples."""
    if chance is None or rows.empty:
        return
    layers = _layers_of(rows)
    of_metric = chance[(chance["metric"] == metric) & (chance["problem"] == rows["problem"].iloc[0])]
    levels = of_metric.set_index("layer").reindex(layers)
    panel.fill_between(range(len(layers)), levels["low"], levels["high"], color="0.75", linewidth=2.0, zorder=0.5)


def _in_order(problems: Iterable[str]) -> list[str]:
    """Return each problem once: the papers' problems in the papers' order, then the others by name."""
    present = set(problems)
    return [name for name in PROBLEMS if name in present] + sorted(present - PROBLEMS.keys())
