"""The figure of functional similarity: how predictions for the test images leave the complete network's."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distsim.plotting import SHADES, drawn, fitted
from distsim.results import beside, keys
from distsim.results.columns import ALL_CLASSES
from distsim.results.looks import MAIN_COLOUR, over_runs, runs
from distsim.results.marks import mark, marked, meanings
from distsim.results.panels import grid, remaining_axis
from distsim.results.titles import Titles, title

NAMED = 10  # classes with a name in the legend: those with the highest churn at the end
PANELS = {  # label of the axis -> measures, each with what the legend calls it, its colour and its marker
    "agreement of predictions": {"agreement": ("", MAIN_COLOUR, "o")},
    "Jensen–Shannon divergence (bits)": {"jsd": ("", MAIN_COLOUR, "o")},
    "share of test images": {
        "lost": ("lost: only the complete network is right", "#D55E00", "v"),
        "won": ("won: only the pruned network is right", "#009E73", "^"),
    },
}


@drawn
def functional_similarity(summary: pd.DataFrame, problem: str, titles: Titles | None = None) -> Figure:
    """Draw agreement, divergence, what is lost and won, and the churn of each class against remaining parameters.

    Lines are medians of runs, bands 25–75 % of runs. Controls are left out. summary : the table functional_summary
    """
    rows = marked(beside.pruned(summary[summary["problem"] == problem]))
    of_all = rows[rows["class"] == ALL_CLASSES]
    figure, panels = grid(4, width=2.75, height=2.0)
    several = max(runs(of_all), default=0) > 1
    for panel, (name, measures) in zip(panels, PANELS.items(), strict=False):
        for measure, look in measures.items():
            _line(panel, of_all[of_all["measure"] == measure], *look, band=several)
        panel.set_ylabel(fitted(name, 1.8, 8))
    _classes(panels[3], rows[rows["measure"] == "churn"])
    for panel in panels:
        panel.set_xlabel("remaining parameters")
        remaining_axis(panel, rows["remaining"])
    for panel in panels[1:]:
        panel.set_ylim(bottom=0)
    said = f"predictions beside the complete network's, {over_runs(of_all, 'median')}"
    figure.suptitle(fitted(f"{title(problem, titles)}: {said}", figure.get_figwidth(), 9))
    churn, names = panels[3].get_legend_handles_labels()
    figure.legend(churn, names, loc="outside right lower", title="churn by class")
    entries = [*panels[2].get_legend_handles_labels()[0], *([keys.of_band()] if several else [])]
    keys.key(figure, entries, [meanings(of_all)])
    return figure


def _line(panel: Axes, rows: pd.DataFrame, name: str, colour: str, marker: str, band: bool) -> None:
    x = rows["remaining"]
    if band:
        panel.fill_between(x, rows["q25"], rows["q75"], color=colour, alpha=0.2, linewidth=0, zorder=0.8)
    panel.plot(x, rows["median"], color=colour, marker=marker, label=name or None)
    mark(panel, x, rows, "median", colour, marker, size=3.5)


def _classes(panel: Axes, churn: pd.DataFrame) -> None:
    """Draw the churn of each class, shaded by its rank at the last iteration, and that of all images in grey."""
    of_classes = churn[churn["class"] != ALL_CLASSES]
    last = of_classes[of_classes["iteration"] == of_classes["iteration"].max()].sort_values("median", ascending=False)
    for place, name in enumerate(last["class"]):
        rows = of_classes[of_classes["class"] == name]
        colour = SHADES(1 - place / max(len(last) - 1, 1))
        named = name if place < NAMED else None
        panel.plot(
            rows["remaining"], rows["median"], color=colour, marker="o", markersize=2, linewidth=0.9, label=named
        )
    whole = churn[churn["class"] == ALL_CLASSES]
    panel.plot(whole["remaining"], whole["median"], color="0.3", linestyle="--", linewidth=1.4, label="all")
    panel.set_ylabel(fitted("churn: predictions that differ", 1.8, 8))
