"""The papers' figures of similarity by layer: P1's Figure 2, and P2's Figures 5 to 7."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distsim.plotting import SHADES, drawn, fitted
from distsim.results import beside, keys
from distsim.results.looks import PANEL_METRICS, Labels, bounds, label, over_runs, runs
from distsim.results.marks import mark, marked, meanings
from distsim.results.panels import (
    Range,
    grid,
    iteration_bar,
    kind_keys,
    label_rows,
    layer_axis,
    layer_width,
    say_outside,
    similarity_limits,
)
from distsim.results.titles import Titles, in_order, title


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

    The panels share an axis, so that problems can be compared. It ends where the values do. Controls are drawn beside
    them, where the summary has any.

    chance : distsim.results.tables.chance_level, drawn as a grey band, or where it is far off said in words
    errors : draw bars of one standard error over examples to each side, where it was measured
    reference : distsim.results.tables.reference_level, how similar two complete networks are
    """
    of_metric = summary[(summary["metric"] == metric) & (include_output | (summary["kind"] != "out"))]
    problems = in_order(beside.pruned(of_metric)["problem"])
    layers = max(of_metric.groupby("problem")["layer"].nunique(), default=0)
    figure, panels = grid(len(problems), width := layer_width(layers), height=2.3, sharey=True)
    lines = _Lines(figure, statistic, _last(of_metric), bands, errors, chance, reference)
    shown = [
        lines.draw(panel, of_metric[of_metric["problem"] == one]) for panel, one in zip(panels, problems, strict=True)
    ]
    for panel, problem in zip(panels, problems, strict=True):
        panel.set_title(fitted(title(problem, titles), width, 9))
    _one_axis(panels, shown, metric)
    label_rows(panels, label(metric, labels), over_runs(beside.pruned(of_metric), statistic), 2.2)
    _key(figure, panels, of_metric, lines)
    iteration_bar(figure, panels, lines.last)
    return figure


@drawn
def similarity_panels(
    summary: pd.DataFrame,
    problem: str,
    metrics: Sequence[str] = PANEL_METRICS,
    bands: bool = False,
    chance: pd.DataFrame | None = None,
    said: str = "",
    each: str = "runs",
    labels: Labels | None = None,
    titles: Titles | None = None,
    errors: bool = False,
    reference: pd.DataFrame | None = None,
) -> Figure:
    """Draw P2 Fig. 5–7: mean similarity per layer, output included, one line per IMP iteration, one panel per metric.

    The axis of each panel ends where its own values do. Controls are drawn beside them, where the summary has any.

    said : what the lines are, in place of the mean of the runs; each : what they and the bands are over
    chance, errors, reference : as in `similarity_by_layer`
    """
    of_metrics = summary[(summary["problem"] == problem) & summary["metric"].isin(metrics)]
    width = layer_width(of_metrics["layer"].nunique())
    figure, panels = grid(len(metrics), width, height=1.95, columns=2, sharex=True)
    lines = _Lines(figure, "mean", _last(of_metrics), bands, errors, chance, reference)
    for panel, metric in zip(panels, metrics, strict=True):
        _one_axis([panel], [lines.draw(panel, of_metrics[of_metrics["metric"] == metric])], metric)
        panel.set_ylabel(fitted(label(metric, labels), 1.9, 8))
    _key(figure, panels, of_metrics, lines, each)
    iteration_bar(figure, panels, lines.last)
    what = said or over_runs(beside.pruned(of_metrics), "mean")
    figure.suptitle(fitted(f"{title(problem, titles)}: {what}", figure.get_figwidth(), 9))
    return figure


class _Lines:
    """How the lines of a figure are drawn over the layers, and what beside them."""

    def __init__(
        self,
        figure: Figure,
        statistic: str,
        last: int,
        bands: bool,
        errors: bool,
        chance: pd.DataFrame | None,
        reference: pd.DataFrame | None,
    ) -> None:
        self.statistic, self.last, self.bands, self.errors = statistic, last, bands, errors
        self.figure, self.chance, self.reference = figure, chance, reference

    def draw(self, panel: Axes, rows: pd.DataFrame) -> tuple[npt.NDArray[np.float64], dict[str, Range]]:
        """Draw the rows of one problem and metric. Return all values with their bands, and ranges beside them.

        rows : of a summary, controls among them
        """
        own = marked(beside.pruned(rows))
        layers = layers_of(own)
        layer_axis(self.figure, panel, layers)
        values = [self._iteration(panel, of_one, layers["layer"]) for _, of_one in own.groupby("iteration")]
        ranges = {}
        levels = self.chance_of(own)
        if levels is not None:
            levels = levels.set_index("layer").reindex(layers["layer"])
            places, ends = range(len(layers)), (levels["low"], levels["high"])
            panel.fill_between(places, *ends, color=keys.CHANCE_COLOUR, linewidth=1.5, zorder=0.8, gid="chance")
            ranges[keys.BY_CHANCE] = float(levels["low"].min()), float(levels["high"].max())
        beside.over_layers(panel, rows, self.reference, layers["layer"], self.statistic)
        seen = np.concatenate(values) if values else np.empty(0)
        return seen, ranges | beside.ranges(rows, self.reference, self.statistic)

    def _iteration(self, panel: Axes, rows: pd.DataFrame, layers: pd.Series) -> npt.NDArray[np.float64]:
        """Draw the line of one iteration, which a missing value interrupts. Return its values and its band's ends."""
        colour = SHADES((int(rows["iteration"].iloc[0]) - 1) / max(self.last - 1, 1))
        least, most = bounds(rows["metric"].iloc[0])
        at_layer, places = rows.set_index("layer").reindex(layers), range(len(layers))
        value = at_layer[self.statistic]
        seen = [value]
        if self.bands and max(runs(rows), default=0) > 1:
            ends = at_layer["q25"], at_layer["q75"]
            panel.fill_between(places, *ends, color=colour, alpha=0.2, linewidth=0, gid="band")
            seen += ends
        if self.errors:
            ends = (value - at_layer["se"]).clip(least, most), (value + at_layer["se"]).clip(least, most)
            panel.vlines(places, *ends, color=colour, linewidth=0.8, gid="error")
            seen += ends
        panel.plot(places, value, color=colour, marker="o", markersize=1.8, linewidth=0.9)
        mark(panel, places, at_layer, self.statistic, colour, "o", size=2.8)
        return np.concatenate([one.to_numpy(dtype=np.float64) for one in seen])

    def chance_of(self, rows: pd.DataFrame) -> pd.DataFrame | None:
        """Return the levels by chance of the problems, metrics and layers of these rows, None if there are none."""
        if self.chance is None:
            return None
        own = np.logical_and.reduce([self.chance[key].isin(rows[key]) for key in ("problem", "metric", "layer")])
        return self.chance[own] if own.any() else None


def layers_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the layers of these rows with their kinds, input to output."""
    return rows.drop_duplicates("layer").sort_values("position")[["layer", "kind"]]


def _last(rows: pd.DataFrame) -> int:
    return int(beside.pruned(rows)["iteration"].max())


def _one_axis(
    panels: Sequence[Axes], shown: Sequence[tuple[npt.NDArray[np.float64], Mapping[str, Range]]], metric: str
) -> None:
    """Set the limits of panels that share an axis, or of one, and say in each what lies outside."""
    ends: dict[str, list[float]] = {}
    for _, ranges in shown:
        for name, ends_of in ranges.items():
            ends.setdefault(name, []).extend(ends_of)
    together = {name: (min(of), max(of)) for name, of in ends.items()}
    least, most = bounds(metric)
    for panel in panels:  # before the text, whose place hangs on the limits
        similarity_limits(panel, np.concatenate([values for values, _ in shown]), together, (least, most))
    for panel, (_, ranges) in zip(panels, shown, strict=True):
        say_outside(panel, ranges)


def _key(figure: Figure, panels: Sequence[Axes], rows: pd.DataFrame, lines: _Lines, each: str = "runs") -> None:
    """Name under the figure what its panels show besides the lines, whose shades the colour bar names."""
    own = beside.pruned(rows)
    entries: list[Any] = [*kind_keys(own), *beside.names(rows, lines.reference)]
    chance = []
    if any(_shows_chance(panel) for panel in panels):
        entries.append(keys.of_chance())
    elif lines.chance_of(own) is not None:
        chance.append(keys.CHANCE_IN_WORDS)
    if lines.bands and max(runs(own), default=0) > 1:
        entries.append(keys.of_band(name=f"25–75 % of {each}"))
    if lines.errors and own["se"].notna().any():
        entries.append(keys.of_errors())
    controls = [beside.SAID] if (rows["control"] != "").any() else []
    keys.key(figure, entries, [*controls, *chance, meanings(marked(own))])


def _shows_chance(panel: Axes) -> bool:
    """Say whether a panel's band of values by chance lies on its axis, at least in part."""
    low, high = panel.get_ylim()
    bands = [band for band in panel.collections if band.get_gid() == "chance"]
    heights = [np.asarray(path.vertices)[:, 1] for band in bands for path in band.get_paths()]
    return any(of.max() > low and of.min() < high for of in heights)
