"""Panels of figures and their axes."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from distsim.plotting import SHADES

ONE = 1 + 1e-6  # a similarity may be above 1 by rounding


def grid(
    count: int, width: float, height: float, columns: int = 3, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels of `width` × `height` inches, ordered left to right, top to bottom."""
    columns = min(columns, count) if count != 4 else 2
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(columns * width + 0.6, rows * height + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    for lowest in axes[count - columns : count]:  # of its column; with a shared axis only the last row would have ticks
        lowest.tick_params(labelbottom=True)
    return figure, list(axes[:count])


def layer_width(layers: int) -> float:
    """Return the width in inches of a panel whose ticks are layer names."""
    return max(3.4, 1.0 + 0.19 * layers)


def iteration_bar(figure: Figure, panels: Sequence[Axes], last: int) -> None:
    """Draw the colour bar of the lines, with one step per iteration."""
    colours = ListedColormap([SHADES(at / max(last - 1, 1)) for at in range(last)])
    steps = ScalarMappable(BoundaryNorm(np.arange(0.5, last + 1), last), colours)
    rows = len({round(panel.get_position().y0, 6) for panel in panels})
    ticks = iteration_ticks(last)
    bar = figure.colorbar(steps, ax=list(panels), ticks=ticks, label="IMP iteration", aspect=25 * rows, pad=0.02)
    bar.ax.minorticks_off()
    bar.ax.grid(visible=False)


def iteration_ticks(last: int) -> list[int]:
    """Return every iteration if there are at most 8, else 1, 5, 10, ... (in larger steps above 40)."""
    return list(range(1, last + 1)) if last <= 8 else [1, *range(5, last + 1, 5 * math.ceil(last / 40))]


def similarity_limits(panel: Axes, values: pd.DataFrame, zoom: bool = False) -> None:
    """Set the limits of the axis to 0 and 1.

    The lower limit is the tenth below the smallest value if that value is negative, or if it is at least 0.5 and `zoom`
    is set. Values above 1 are not similarities: the axis then goes from 0, or from below the smallest value if that is
    negative, to above the largest.
    """
    smallest, largest = values.min(axis=None), values.max(axis=None)  # NaN if all are missing
    if largest > ONE:
        low = min(0.0, smallest)
        margin = 0.05 * (largest - low)
        panel.set_ylim(low - margin, largest + margin)
        return
    low = math.floor(smallest * 10) / 10 if smallest < 0 or (zoom and smallest >= 0.5) else 0.0
    margin = 0.02 * (1 - low)  # so that a line at 1 is not cut off
    panel.set_ylim(low - margin if low == 0 else low, 1 + margin)


def remaining_axis(panel: Axes, remaining: pd.Series) -> None:
    """Make the axis logarithmic, from the complete network (left) to the sparsest one (right), with plain ticks."""
    panel.set_xscale("log")
    sparsest = min(remaining.min(), 0.9)
    panel.set_xlim(1.12, sparsest / 1.12)
    decades = range(math.floor(math.log10(sparsest)), 1)
    steps = (1, 2, 5) if sparsest < 0.08 else (1, 2, 3, 5, 7) if sparsest < 0.3 else range(1, 10)
    ticks = [step * 10.0**decade for decade in decades for step in steps if sparsest / 1.1 <= step * 10.0**decade <= 1]
    panel.xaxis.set_major_locator(FixedLocator(ticks))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
