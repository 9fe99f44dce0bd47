"""What `distsim.compare` found: a table, matrices, heat maps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from distsim.metrics.registry import METRICS

Row = dict[str, Any]


@dataclass(frozen=True)
class Similarities:
    """What `compare` found. `rows` are plain dicts; tables need pandas and heat maps matplotlib."""

    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...] = field(repr=False)

    @cached_property
    def table(self) -> Any:
        """A DataFrame with a row for each layer of a, layer of b and metric.

        value           NaN where it is undefined, and the reason
        n, columns_a, columns_b   rows and columns that the metric saw
        rank_a, rank_b  independent channels among them; of metrics over channels, else missing
        dead_a, dead_b  channels of the layer that are constant
        """
        import pandas as pd

        return pd.DataFrame(self.rows).astype({"rank_a": "Int64", "rank_b": "Int64"})

    def matrix(self, metric: str | None = None) -> Any:
        """A DataFrame, layers of a x layers of b. The metric may be left out where there is one only."""
        import pandas as pd

        if metric is None and len(self.metrics) == 1:
            (metric,) = self.metrics
        if metric not in self.metrics:
            raise ValueError(f"metric must be one of {self.metrics}, got {metric!r}")
        values = np.array([row["value"] for row in self.rows if row["metric"] == metric])
        return pd.DataFrame(
            values.reshape(len(self.layers_a), len(self.layers_b)),
            pd.Index(self.layers_a, name="layer_a"),
            pd.Index(self.layers_b, name="layer_b"),
        )

    def heatmap(self, metric: str | None = None) -> Any:
        """A matplotlib Figure of the matrix, first layers at the lower left; of every metric, if none is named.

        `figure.savefig(path)` writes it, or `distsim.plotting.render`, which gives the same bytes every time.
        """
        return heatmap_figure({name: self.matrix(name) for name in ([metric] if metric else self.metrics)})


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
    panel.set(xlabel="model_b", ylabel="model_a")
    for (i, j), value in np.ndenumerate(values):
        if not np.isfinite(value):
            panel.text(j, i, "×", ha="center", va="center", fontsize=7, color="0.4")
        elif few:
            dark = (value - low) / (high - low) > 0.55
            panel.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "0.1")
    label = METRICS[metric].label if metric in METRICS else ""
    figure.colorbar(image, ax=panel, label=label or metric, fraction=0.05, pad=0.02)
