"""Heat maps of similarities: layers of one model against layers of another."""

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distsim import extras
from distsim.metrics.registry import DISTANCES, METRICS

CELL = 0.19  # inches: the space of a tick label
ANNOTATED = 12  # layers of a model up to which values are written into the cells
STAR = "* to be read with care: column warning"


@dataclass(frozen=True)
class Panel:
    """A matrix to draw, a DataFrame, with the names of its models. warned : of the same shape, True: gets a star"""

    metric: str
    matrix: Any
    warned: Any
    x: str = "model x"
    y: str = "model y"

    @property
    def few(self) -> bool:
        """Return whether there is room for values in the cells."""
        return max(self.matrix.shape) <= ANNOTATED

    @property
    def cells(self) -> tuple[float, float]:
        """Return width and height of the cells together, in inches."""
        cell = 2 * CELL if self.few else CELL
        return max(2.0, cell * self.matrix.shape[1]), max(2.0, cell * self.matrix.shape[0])

    @property
    def size(self) -> tuple[float, float]:
        """Return width and height with labels and colour bar, in inches."""
        labels = [0.065 * max(map(len, names)) for names in (self.matrix.index, self.matrix.columns)]  # at 8 points
        return self.cells[0] + labels[0] + 1.3, self.cells[1] + labels[1] + 0.8


def heatmap_figure(panels: Sequence[Panel], columns: int | None = None) -> Any:
    """Draw the panels side by side, or in rows of this many. Cells without a value are grey and crossed.

    Similar layers are dark. Of a distance these are those with a small value, as its colour bar says. A line below says
    what a star is.
    """
    extras.require_modules("a heat map", "matplotlib")
    import matplotlib.style

    from distsim.plotting import STYLE, Picture

    columns = min(columns or len(panels), len(panels))
    rows = math.ceil(len(panels) / columns)
    widths = [max(panel.size[0] for panel in panels[place::columns]) for place in range(columns)]
    heights = [max(panel.size[1] for panel in panels[row * columns : (row + 1) * columns]) for row in range(rows)]
    with matplotlib.style.context(["default", STYLE, {"axes.grid": False}]):
        figure = Picture(figsize=(sum(widths), sum(heights)), layout="compressed")
        ratios = {"width_ratios": widths, "height_ratios": heights}
        axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=ratios).ravel()
        for place, panel in zip(axes, panels, strict=False):
            _cells(figure, place, panel)
        for place in axes[len(panels) :]:
            place.set_axis_off()
        if any(panel.warned.any() for panel in panels):
            figure.supxlabel(STAR, fontsize=7, color="0.3")
        figure.draw_without_rendering()  # laid out once, as in distsim.plotting.drawn
        figure.set_layout_engine("none")
    return figure


def _cells(figure: Any, axes: Any, panel: Panel) -> None:
    from distsim.plotting import SHADES, fitted

    matrix, metric = panel.matrix, panel.metric
    values = matrix.to_numpy()
    defined = values[np.isfinite(values)]
    low, high = defined.min(initial=0.0), defined.max(initial=1.0)
    axes.set_facecolor("0.88")
    distance = metric in DISTANCES
    shades = SHADES.reversed() if distance else SHADES
    image = axes.imshow(values, cmap=shades, vmin=low, vmax=high, origin="lower", aspect="equal")
    axes.set_xticks(range(len(matrix.columns)), matrix.columns, rotation=90)
    axes.set_yticks(range(len(matrix.index)), matrix.index)
    axes.tick_params(length=0)
    width, height = panel.cells
    axes.set_xlabel(fitted(panel.y, width, 8))
    axes.set_ylabel(fitted(panel.x, height, 8))
    for (i, j), value in np.ndenumerate(values):
        if not np.isfinite(value):
            axes.text(j, i, "×", ha="center", va="center", fontsize=7, color="0.4")
        elif panel.few or panel.warned[i, j]:
            share = (value - low) / (high - low)
            dark = (1 - share if distance else share) > 0.45
            text = f"{value:.2f}" * panel.few + "*" * bool(panel.warned[i, j])
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else "0.1")
    label = METRICS[metric].label if metric in METRICS else ""
    title = f"{label or metric}{', 0 for equal layers' * distance}"
    figure.colorbar(image, ax=axes, label=title, fraction=0.05, pad=0.02)


def as_html(title: str, figure: Any, notes: Sequence[str]) -> str:
    """Return what a notebook shows: a title, the figure as a picture, and sentences below it."""
    from distsim.plotting import render

    picture = base64.b64encode(render(figure, "png")).decode()
    width = round(figure.get_figwidth() * 90)
    below = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in notes if note)
    return (
        f'<div><p>{html.escape(title)}</p><img alt="heat map of similarities" style="max-width:100%" width="{width}" '
        f'src="data:image/png;base64,{picture}">{below}</div>'
    )
