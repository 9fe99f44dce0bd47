"""Marks in figures: values to be read with care, and points that rest on fewer runs than the study has."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distsim.plotting import fitted
from distsim.results.tables import few

HOLLOW = "hollow: in some run a value to be read with care (column warning of results.csv)"
CROSSED = "crossed: on fewer runs than the study has"
SMALL = 6.5  # points, of what is said under a figure


def marked(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a summary, or of accuracies, with two more columns, True where a point is to be marked.

    care  a value of some run carries a warning
    few   the statistics rest on fewer runs than the problem has
    """
    return rows.assign(care=rows["warned"] > 0 if "warned" in rows else False, few=few(rows))


def mark(
    panel: Axes, places: npt.ArrayLike, rows: pd.DataFrame, statistic: str, colour: Any, marker: str, size: float
) -> None:
    """Draw hollow markers over the points to be read with care, and crosses over those that lack runs.

    places : the points' places on the axis, one for each of the `marked` rows. Rows may be empty (NaN throughout)
    """
    for name, face, shape, times in (("care", "white", marker, 1.0), ("few", colour, "x", 2.0)):
        here = rows[name].eq(True).to_numpy() & rows[statistic].notna().to_numpy()
        if here.any():
            points = np.asarray(places)[here], rows[statistic].to_numpy()[here]
            (drawn,) = panel.plot(*points, linestyle="none", color=colour, zorder=2.5, gid=name)
            drawn.set(marker=shape, markersize=times * size, markerfacecolor=face, markeredgewidth=0.8)


def mark_cells(panel: Axes, shown: Sequence[int], rows: pd.DataFrame) -> None:
    """Draw a circle into the cells of a map in which a value carries a warning.

    shown : the iterations of the map's rows and columns
    rows : of one layer, with iteration_x, iteration_y and warning
    """
    doubtful = rows[rows["warning"] != ""]
    pairs = {(int(x), int(y)) for x, y in zip(doubtful["iteration_x"], doubtful["iteration_y"], strict=True)}
    cells = [(shown.index(a), shown.index(b)) for x, y in sorted(pairs) for a, b in {(x, y), (y, x)}]
    if cells:
        (drawn,) = panel.plot(*zip(*sorted(cells), strict=True), linestyle="none", color="0.4", gid="care")
        drawn.set(marker="o", markersize=3, markerfacecolor="none", markeredgewidth=0.7)


def meanings(rows: pd.DataFrame) -> str:
    """Return what the marks of these rows mean, "" if there are none."""
    return "; ".join(text for text, name in ((HOLLOW, "care"), (CROSSED, "few")) if rows[name].any())


def note(figure: Figure, rows: pd.DataFrame, above: str = "") -> None:
    """Say under the figure what the marks of its rows mean, if there are any. above : what stands there anyway."""
    said = meanings(rows)
    lines = [above] * bool(above) + [fitted(said, figure.get_size_inches()[0], SMALL)] * bool(said)
    if lines:
        figure.supxlabel("\n".join(lines), fontsize=SMALL if said else None, color="0.3" if said else "black")
