"""What stands beside the pruned networks in figures: controls, and how similar two complete networks are."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

CONTROL_NAMES = {"retrain": "retrained without pruning", "random": "pruned at random"}
REFERENCE = "two complete networks"
SAID = "controls: the line is the last iteration, the shade is all iterations"
# Colours that are in no iteration's shade, and other lines
LOOKS: dict[str, tuple[str, Any]] = {"retrain": ("#D55E00", (0, (4, 1.5))), "random": ("#CC79A7", (0, (1, 1)))}
REFERENCE_LOOK: tuple[str, Any] = ("#000000", (0, (6, 1.5, 1, 1.5)))
LINES = {"retrain": "--", "random": ":"}  # where colours stand for metrics


def pruned(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a summary, or of accuracies, that are of pruned networks and not of a control."""
    return rows[rows["control"] == ""]


def over_layers(
    panel: Axes, rows: pd.DataFrame, levels: pd.DataFrame | None, layers: pd.Series, statistic: str, bands: bool = True
) -> None:
    """Draw controls and the reference level over the layers: a line for the last iteration, a band over all of them.

    rows : of a summary, of one problem and metric, controls among them
    levels : distsim.results.tables.reference_level, whose line is the median and whose band goes from low to high
    layers : in their order
    """
    places = range(len(layers))
    for control, (colour, dashes) in LOOKS.items():
        of_control = rows[rows["control"] == control]
        if of_control.empty:
            continue
        by_layer = of_control.pivot(index="iteration", columns="layer", values=statistic).reindex(columns=layers)
        if bands:
            panel.fill_between(places, by_layer.min(), by_layer.max(), color=colour, alpha=0.15, linewidth=0)
        _line(panel, places, by_layer.iloc[-1], colour, dashes, control)
    at_layer = _levels_of(levels, rows)
    if at_layer is not None:
        at_layer, (colour, dashes) = at_layer.set_index("layer").reindex(layers), REFERENCE_LOOK
        panel.fill_between(places, at_layer["low"], at_layer["high"], color=colour, alpha=0.1, linewidth=0)
        _line(panel, places, at_layer["median"], colour, dashes, "reference")


def _line(panel: Axes, places: Sequence[int], values: pd.Series, colour: str, dashes: Any, name: str) -> None:
    """Draw a line that can be seen on the lines of twenty iterations, in print too: with a white edge."""
    (line,) = panel.plot(places, values, color=colour, linestyle=dashes, linewidth=1.4, zorder=2.2, gid=name)
    line.set_path_effects([Stroke(linewidth=2.8, foreground="white"), Normal()])


def over_iterations(panel: Axes, rows: pd.DataFrame, levels: pd.DataFrame | None, statistic: str, colour: str) -> None:
    """Draw controls over iterations, and the reference level across, in a metric's colour.

    rows : of a summary, of one problem, metric and layer; levels : as for `over_layers`
    """
    for control, line in LINES.items():
        of_control = rows[rows["control"] == control].sort_values("iteration")
        if len(of_control):
            iterations, values = of_control["iteration"], of_control[statistic]
            panel.plot(iterations, values, color=colour, linestyle=line, linewidth=1.1, gid=control)
    at_layer = _levels_of(levels, rows)
    if at_layer is not None:
        level = at_layer[at_layer["layer"].isin(rows["layer"])]["median"]
        for value in level:
            panel.axhline(value, color=colour, linestyle=REFERENCE_LOOK[1], linewidth=0.9, gid="reference")


def names(rows: pd.DataFrame, levels: pd.DataFrame | None, in_grey: bool = False) -> list[Line2D]:
    """Return the lines of a legend for what these rows and levels show beside the pruned networks.

    in_grey : colours stand for metrics, so that only the kinds of lines count
    """
    there = [name for name in CONTROL_NAMES if (rows["control"] == name).any()]
    lines = [
        Line2D(
            [],
            [],
            color="0.3" if in_grey else LOOKS[name][0],
            linestyle=LINES[name] if in_grey else LOOKS[name][1],
            label=CONTROL_NAMES[name],
        )
        for name in there
    ]
    if _levels_of(levels, rows) is not None:
        colour, dashes = REFERENCE_LOOK
        lines.append(Line2D([], [], color="0.3" if in_grey else colour, linestyle=dashes, label=REFERENCE))
    return lines


def ranges(rows: pd.DataFrame, levels: pd.DataFrame | None, statistic: str) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest value of each control and of the reference level, by their names in legends."""
    values = {CONTROL_NAMES[name]: rows.loc[rows["control"] == name, statistic] for name in CONTROL_NAMES}
    if (at_layer := _levels_of(levels, rows)) is not None:
        of_rows = at_layer[at_layer["layer"].isin(rows["layer"])]
        values[REFERENCE] = pd.concat([of_rows["low"], of_rows["high"]])
    return {name: (float(of.min()), float(of.max())) for name, of in values.items() if of.notna().any()}


def _levels_of(levels: pd.DataFrame | None, rows: pd.DataFrame) -> pd.DataFrame | None:
    """Return the levels of the problems and metrics of these rows, None if there are none."""
    if levels is None:
        return None
    own = levels[levels["problem"].isin(rows["problem"]) & levels["metric"].isin(rows["metric"])]
    return own if len(own) else None
