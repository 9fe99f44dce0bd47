"""The papers' figures of test accuracy: P1's Figure 1, and P2's Figure 4."""

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distsim.plotting import drawn, fitted
from distsim.results import beside, keys
from distsim.results.looks import MAIN_COLOUR, over_runs, runs
from distsim.results.marks import mark, marked, meanings
from distsim.results.panels import grid, label_rows, remaining_axis
from distsim.results.titles import Titles, in_order, title

Band = Callable[[pd.DataFrame], tuple[pd.Series, pd.Series]]


@drawn
def accuracy_median(accuracy: pd.DataFrame, titles: Titles | None = None) -> Figure:
    """Draw P1 Fig. 1: median test accuracy against remaining parameters, a panel per problem; band: 25–75 % of runs."""
    return _figure(accuracy, titles, "median", lambda rows: (rows["q25"], rows["q75"]), "25–75 % of runs")


@drawn
def accuracy_mean(accuracy: pd.DataFrame, titles: Titles | None = None) -> Figure:
    """Draw P2 Fig. 4: mean test accuracy ± 2 sd against remaining parameters; dotted: the complete network."""

    def two_sd(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
        return (rows["mean"] - 2 * rows["sd"]).clip(0, 1), (rows["mean"] + 2 * rows["sd"]).clip(0, 1)

    return _figure(accuracy, titles, "mean", two_sd, "± 2 sd of runs", dotted=True)


def _figure(
    accuracy: pd.DataFrame, titles: Titles | None, statistic: str, band: Band, band_name: str, dotted: bool = False
) -> Figure:
    own = marked(beside.pruned(accuracy))
    problems = in_order(own["problem"])
    width = 2.2 if len(problems) > 1 else 3.2
    figure, panels = grid(len(problems), width, height=2.1)
    for panel, problem in zip(panels, problems, strict=True):
        rows = own[own["problem"] == problem]
        if max(runs(rows), default=0) > 1:
            filled = panel.fill_between(rows["remaining"], *band(rows), color=MAIN_COLOUR, label=band_name)
            filled.set(alpha=0.2, linewidth=0, zorder=0.8)
        _lines(panel, rows, statistic, dotted)
        _pruned_at_random(panel, accuracy[accuracy["problem"] == problem], statistic)
        panel.set_title(fitted(title(problem, titles), width, 9))
        panel.set_xlabel("remaining parameters")
        panel.yaxis.set_major_locator(MaxNLocator(6))
        remaining_axis(panel, rows["remaining"])
    label_rows(panels, "test accuracy", over_runs(own, statistic), 2.0)
    keys.key(figure, _entries(panels), [meanings(own)])
    return figure


def _lines(panel: Axes, rows: pd.DataFrame, statistic: str, dotted: bool) -> None:
    """Draw the line of the pruned networks and the complete network as a diamond. dotted : and as a line across"""
    panel.plot(rows["remaining"], rows[statistic], "o-", color=MAIN_COLOUR, label=over_runs(rows, statistic))
    mark(panel, rows["remaining"], rows, statistic, MAIN_COLOUR, "o", size=3.5)
    complete = rows[rows["iteration"] == 0]
    if dotted and len(complete):
        panel.axhline(complete[statistic].iloc[0], color="0.3", linestyle=":", linewidth=1.2, zorder=1.5)
    (diamond,) = panel.plot(complete["remaining"], complete[statistic], "D", color="0.3", label="complete network")
    diamond.set(markersize=5, markerfacecolor="white", markeredgewidth=1.2, zorder=4)
    diamond.set_linestyle(":" if dotted else "none")


def _pruned_at_random(panel: Axes, rows: pd.DataFrame, statistic: str) -> None:
    """Draw the control that is pruned at random, if there is one. What is retrained without pruning stays at 1."""
    random = rows[rows["control"] == "random"].sort_values("iteration")
    if len(random):
        colour, dashes = beside.LOOKS["random"]
        name = f"{beside.CONTROL_NAMES['random']}, {statistic}"
        panel.plot(random["remaining"], random[statistic], color=colour, linestyle=dashes, label=name, gid="random")


def _entries(panels: list[Axes]) -> list[Any]:
    """Return the entries of the legend: whatever any panel shows, once."""
    named: dict[str, Any] = {}
    for panel in panels:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    return list(named.values())
