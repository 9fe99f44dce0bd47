"""The figure of functional similarity: how predictions for the test images leave the complete network's."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distsim.plotting import SHADES, drawn
from distsim.results import beside
from distsim.results.columns import ALL_CLASSES
from distsim.results.figures import ACCURACY_COLOUR
from distsim.results.marks import mark, marked, note
from distsim.results.panels import grid, remaining_axis
from distsim.results.tables import Tables

NAMED = 10  # classes with a name in the legend: those with the highest churn at the end
PANELS = {"agreement": "agreement of predictions", "jsd": "Jensen–Shannon divergence (bits)"}


@drawn
def functional_similarity(summary: pd.DataFrame, problem: str) -> Figure:
    """Draw agreement, divergence and the churn of each class against remaining parameters, one problem.

    Lines are medians of runs, bands 25–75 % of runs. Controls are left out. summary : the table functional_summary
    """
    rows = marked(beside.pruned(summary[summary["problem"] == problem]))
    of_all = rows[rows["class"] == ALL_CLASSES]
    figure, panels = grid(3, width=3.4, height=2.9)
    for panel, (measure, label) in zip(panels, PANELS.items(), strict=False):
        of_measure = of_all[of_all["measure"] == measure]
        x = of_measure["remaining"]
        panel.fill_between(x, of_measure["q25"], of_measure["q75"], color=ACCURACY_COLOUR, alpha=0.2, linewidth=0)
        panel.plot(x, of_measure["median"], "o-", color=ACCURACY_COLOUR)
        mark(panel, x, of_measure, "median", ACCURACY_COLOUR, "o", size=4)
        panel.set_ylabel(label)
    _classes(panels[2], rows[rows["measure"] == "churn"])
    for panel in panels:
        panel.set_xlabel("remaining parameters")
        remaining_axis(panel, rows["remaining"])
    for panel in panels[1:]:
        panel.set_ylim(bottom=0)
    title = f"{problem}: predictions for the test images and the complete network's, median of runs (25–75 %)"
    figure.suptitle(title, fontsize=10)
    figure.legend(loc="outside right center", title="class")
    note(figure, of_all)
    return figure


def _classes(panel: Axes, churn: pd.DataFrame) -> None:
    """Draw the churn of each class, shaded by its rank at the last iteration, and that of all images in grey."""
    of_classes = churn[churn["class"] != ALL_CLASSES]
    last = of_classes[of_classes["iteration"] == of_classes["iteration"].max()].sort_values("median", ascending=False)
    for place, name in enumerate(last["class"]):
        rows = of_classes[of_classes["class"] == name]
        colour = SHADES(1 - place / max(len(last) - 1, 1))
        named = name if place < NAMED else None
        panel.plot(
            rows["remaining"], rows["median"], color=colour, marker="o", markersize=2.5, linewidth=1.1, label=named
        )
    whole = churn[churn["class"] == ALL_CLASSES]
    panel.plot(whole["remaining"], whole["median"], color="0.3", linestyle="--", linewidth=1.6, label="all")
    panel.set_ylabel("churn: predictions that differ")


def draw_all(tables: Tables) -> dict[str, Figure]:
    """Draw the figure of each problem that has functional similarities, and return the figures by file name."""
    summary = beside.pruned(tables.functional_summary)
    return {f"functional_{name}": functional_similarity(summary, name) for name in sorted(set(summary["problem"]))}
