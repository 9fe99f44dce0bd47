"""What `distsim.compare` found: a table, matrices, heat maps."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from distsim.comparison.pair import Result
from distsim.metrics.registry import METRICS


class Row(Result):
    """A result, and which layers it is of."""

    layer_x: str
    layer_y: str
    metric: str


@dataclass(frozen=True)
class Similarities:
    """What `compare` found; x is its first model, y its second.

    `rows` are plain dicts, with None for a value that is undefined. Tables need pandas and heat maps matplotlib.
    """

    layers_x: tuple[str, ...]
    layers_y: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...] = field(repr=False)

    @property
    def layers_a(self) -> tuple[str, ...]:
        """The old name of `layers_x`, for one release."""
        return _renamed("layers_a", "layers_x", self.layers_x)

    @property
    def layers_b(self) -> tuple[str, ...]:
        """The old name of `layers_y`, for one release."""
        return _renamed("layers_b", "layers_y", self.layers_y)

    @cached_property
    def table(self) -> Any:
        """A DataFrame with a row for each layer of x, layer of y and metric; columns as in a sweep's table.

        value           NaN where it is undefined, and the reason
        n, columns_x, columns_y   rows and columns that the metric saw; n_per_p: rows for each column of the wider side
        warning         what to keep in mind of the value
        rank_x, rank_y  independent channels among the columns; of metrics over channels, else missing
        dead_x, dead_y  channels of the layer that are constant
        """
        import pandas as pd

        return pd.DataFrame(self.rows).astype({"value": "float64", "rank_x": "Int64", "rank_y": "Int64"})

    def matrix(self, metric: str | None = None) -> Any:
        """A DataFrame, layers of x x layers of y. The metric may be left out where there is one only."""
        import pandas as pd

        if metric is None and len(self.metrics) == 1:
            (metric,) = self.metrics
        if metric not in self.metrics:
            raise ValueError(f"metric must be one of {self.metrics}, got {metric!r}")
        values = np.array([row["value"] for row in self.rows if row["metric"] == metric], np.float64)  # None is NaN
        return pd.DataFrame(
            values.reshape(len(self.layers_x), len(self.layers_y)),
            pd.Index(self.layers_x, name="layer_x"),
            pd.Index(self.layers_y, name="layer_y"),
        )

    def heatmap(self, metric: str | None = None) -> Any:
        """A matplotlib Figure of the matrix, first layers at the lower left; of every metric, if none is named.

        `figure.savefig(path)` writes it, or `distsim.plotting.render`, which gives the same bytes every time.
        """
        return heatmap_figure({name: self.matrix(name) for name in ([metric] if metric else self.metrics)})


def _renamed(old: str, new: str, value: tuple[str, ...]) -> tuple[str, ...]:
    warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=3)
    return value


# --- the figure ------------------------------------------------------------------------------------------------------

CELL = 0.19  # inches, as much as a tick label needs
ANNOTATED = 12  # layers of a model up to which values are written into the cells


def heatmap_figure(matrices: Mapping[str, Any]) -> Any:
    """One panel for each metric's matrix, side by side; cells without a value are grey and crossed."""
    import matplotlib.style
    from matplotlib.figure import Figure

    from distsim.plotting import STYLE

    some = next(iter(matrices.values()))
    few = max(some.shape) <= ANNOTATED
    cell = 2 * CELL if few else CELL
    names = [0.065 * max(map(len, names)) for names in (some.index, some.columns)]  # inches, at 8 points
    width = max(2.0, cell * some.shape[1]) + names[0] + 1.3
    height = max(2.0, cell * some.shape[0]) + names[1] + 0.8
    with matplotlib.style.context(["default", STYLE, {"axes.grid": False}]):
        figure = Figure(figsize=(width * len(matrices), height), layout="constrained")
        panels = figure.subplots(1, len(matrices), squeeze=False)[0]
        for panel, (metric, matrix) in zip(panels, matrices.items(), strict=True):
            _cells(figure, panel, metric, matrix, few)
        figure.draw_without_rendering()  # laid out once, as in distsim.results.figures
        figure.set_layout_engine("none")
    return figure


def _cells(figure: Any, panel: Any, metric: str, matrix: Any, few: bool) -> None:
    from distsim.plotting import SHADES

    values = matrix.to_numpy()
    there = values[np.isfinite(values)]
    low, high = there.min(initial=0.0), there.max(initial=1.0)
    panel.set_facecolor("0.88")
    image = panel.imshow(values, cmap=SHADES, vmin=low, vmax=high, origin="lower", aspect="equal")
    panel.set_xticks(range(len(matrix.columns)), matrix.columns, rotation=90)
    panel.set_yticks(range(len(matrix.index)), matrix.index)
    panel.tick_params(length=0)
    panel.set(xlabel="model y", ylabel="model x")
    for (i, j), value in np.ndenumerate(values):
        if not np.isfinite(value):
            panel.text(j, i, "×", ha="center", va="center", fontsize=7, color="0.4")
        elif few:
            dark = (value - low) / (high - low) > 0.55
            panel.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "0.1")
    label = METRICS[metric].label if metric in METRICS else ""
    figure.colorbar(image, ax=panel, label=label or metric, fraction=0.05, pad=0.02)
