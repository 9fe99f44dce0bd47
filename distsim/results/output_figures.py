"""The papers' figure of the output layer: P2's Figure 8."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from distsim.plotting import drawn, fitted
from distsim.results import beside, keys
from distsim.results.looks import METRIC_LOOKS, Labels, bounds, label, metric_looks, over_runs, runs
from distsim.results.marks import mark, marked, meanings
from distsim.results.panels import Range, grid, iteration_ticks, say_outside, similarity_limits
from distsim.results.titles import Titles, title

WIDTH = 3.9  # inches
WIDEST = 1.9  # points, of the first line


@drawn
def output_layer(
    summary: pd.DataFrame,
    problem: str,
    metrics: Sequence[str] = (),
    labels: Labels | None = None,
    titles: Titles | None = None,
    reference: pd.DataFrame | None = None,
) -> Figure:
    """Draw P2 Fig. 8: similarity of the output layer against IMP iteration, one line per metric; band: mean ± sd.

    Controls, and the reference level (distsim.results.tables.reference_level), are other lines in the metrics' colours.

    metrics : (): the paper's and those that only the output layer has
    """
    of_output = of_output_layer(summary[summary["problem"] == problem], metrics)
    own = marked(beside.pruned(of_output))
    figure, (panel,) = grid(1, width=WIDTH, height=2.6)
    several = max(runs(own), default=0) > 1
    seen: list[pd.Series] = []
    ends: list[Range] = []
    looks = {name: look for name, look in metric_looks(own["metric"]).items() if name in set(own["metric"])}
    for place, (metric, look) in enumerate(looks.items()):
        rows = own[own["metric"] == metric].set_index("iteration")
        rows = rows.reindex(range(rows.index.min(), rows.index.max() + 1))  # a missing iteration interrupts the line
        width = max(WIDEST - 0.2 * place, 1.1)  # a line that lies under another one can still be seen
        seen += _line(panel, rows, look, label(metric, labels), bounds(metric), several, width)
        beside.over_iterations(panel, of_output[of_output["metric"] == metric], reference, "mean", look[0])
        ends.append(bounds(metric))
    panel.set_title(fitted(f"{title(problem, titles)}: output layer", WIDTH, 9))
    panel.set(xlabel="IMP iteration", ylabel=f"similarity ({over_runs(own, 'mean ± sd')})")
    panel.xaxis.set_major_locator(FixedLocator(iteration_ticks(int(own["iteration"].max()))))
    ranges = beside.ranges(of_output, reference, "mean")
    within = min((least for least, _ in ends), default=0.0), max((most for _, most in ends), default=1.0)
    similarity_limits(panel, pd.concat(seen) if seen else [], ranges, within)
    say_outside(panel, ranges)
    keys.key(figure, _entries(panel, of_output, reference, several), [meanings(own)])
    return figure


def of_output_layer(of_problem: pd.DataFrame, metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Return the output layer's rows for the metrics that its figure shows. metrics : as for `output_layer`"""
    only = set(of_problem["metric"]) - set(of_problem[of_problem["kind"] != "out"]["metric"])
    wanted = {*metrics} or {*METRIC_LOOKS, *only}
    return of_problem[(of_problem["kind"] == "out") & of_problem["metric"].isin(wanted)]


def _line(
    panel: Axes, rows: pd.DataFrame, look: tuple[str, str], name: str, bounds: Range, band: bool, width: float
) -> list[pd.Series]:
    """Draw a metric's line and, over several runs, its band. Return what an axis must cover."""
    mean, (least, most), (colour, marker) = rows["mean"], bounds, look
    seen = [mean]
    if band:
        low, high = (mean - rows["sd"]).clip(least, most), (mean + rows["sd"]).clip(least, most)
        panel.fill_between(mean.index, low, high, color=colour, alpha=0.2, linewidth=0, gid="band")
        seen += [low, high]
    size = 1.1 + 2 * width
    panel.plot(mean.index, mean, color=colour, marker=marker, label=name, linewidth=width, markersize=size)
    mark(panel, mean.index, rows, "mean", colour, marker, size)
    return seen


def _entries(panel: Axes, rows: pd.DataFrame, reference: pd.DataFrame | None, several: bool) -> list[Any]:
    metrics, _ = panel.get_legend_handles_labels()
    band = [keys.of_band(name="± 1 sd of runs")] if several else []
    return [*metrics, *band, *beside.names(rows, reference, in_grey=True)]
