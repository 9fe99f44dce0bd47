"""Maps of the similarity of a run's iterations to each other, one for each layer (`distsim pairs`)."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from distsim.plotting import SHADES, drawn, fitted
from distsim.results.looks import Labels, label
from distsim.results.marks import mark_cells, note
from distsim.results.panels import grid
from distsim.results.titles import Titles, title

ONE = 1 + 1e-6  # a similarity may be above 1 by rounding


@drawn
def iteration_maps(
    pairs: pd.DataFrame, problem: str, metric: str, labels: Labels | None = None, titles: Titles | None = None
) -> Figure:
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
    figure, panels = grid(len(layers), width=1.6, height=1.65, columns=4, sharex=True, sharey=True)
    figure.set_layout_engine("constrained", hspace=0.08)  # titles stay clear of the ticks above
    for panel, layer in zip(panels, layers, strict=True):
        matrix = np.full((len(shown), len(shown)), np.nan)
        for (a, b), value in medians[layer].items():
            i, j = shown.index(int(a)), shown.index(int(b))
            matrix[i, j] = matrix[j, i] = value
        panel.set_facecolor("0.88")
        image = panel.imshow(matrix, cmap=SHADES, vmin=low, vmax=high, origin="lower")
        mark_cells(panel, shown, rows[rows["layer"] == layer])
        panel.grid(visible=False)
        panel.set_title(fitted(layer, 1.5, 8), fontsize=8)
        ticks = [at for at, iteration in enumerate(shown) if len(shown) <= 8 or iteration % 5 == 0]
        panel.set_xticks(ticks, [str(shown[at]) for at in ticks])
        panel.set_yticks(ticks, [str(shown[at]) for at in ticks])
    note(figure, rows.assign(care=rows["warning"] != "", few=False), above="IMP iteration")
    figure.supylabel("IMP iteration")
    said = f"{title(problem, titles)}: iteration to iteration, median of runs"
    figure.suptitle(fitted(said, figure.get_figwidth(), 9))
    figure.colorbar(image, ax=panels, label=label(metric, labels), pad=0.02)
    return figure
