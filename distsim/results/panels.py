"""Panels of figures and their axes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from distsim.plotting import SHADES, Picture, fitted
from distsim.results.looks import KINDS

FACTOR = 2  # how much longer an axis may get for what stands beside the pruned networks
SHORTEST = 0.05  # length of an axis of similarities
MARGIN = 0.06  # of an axis beyond its values
LINE = 0.1  # share of an axis that a line of text takes
ROUNDING = 1e-9  # what ends where the axis ends is on it
ARROWS = {"under": "↓", "over": "↑"}


def grid(
    count: int, width: float, height: float, columns: int = 3, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels of `width` × `height` inches, ordered left to right, top to bottom."""
    columns = min(columns, count) if count != 4 else 2
    rows = math.ceil(count / columns)
    figure = Picture(figsize=(columns * width + 0.6, rows * height + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    for lowest in axes[count - columns : count]:  # of its column; with a shared axis only the last row would have ticks
        lowest.tick_params(labelbottom=True)
    return figure, list(axes[:count])


def label_rows(panels: Sequence[Axes], name: str, statistic: str, inches: float) -> None:
    """Label the vertical axis of the first panel of each row. inches : the height of a panel"""
    text = f"{name} ({statistic})"
    if "\n" in fitted(text, inches, 8):
        text = f"{fitted(name, inches, 8)}\n({statistic})"
    for panel in panels:
        if panel.get_subplotspec().is_first_col():  # type: ignore[union-attr]  # all come from a grid
            panel.set_ylabel(text)


def layer_width(layers: int) -> float:
    """Return the width in inches of a panel whose ticks are layer names. Two panels of 19 layers are a page wide."""
    return max(2.3, 0.75 + 0.124 * layers)


def layer_axis(figure: Figure, panel: Axes, layers: pd.DataFrame) -> None:
    """Name the layers along the axis, with a symbol of each one's kind, and a thin line where it is no convolution.

    layers : with the columns layer and kind, input to output
    """
    places = np.arange(len(layers))
    panel.set_xticks(places, list(layers["layer"]), rotation=90)
    panel.tick_params(axis="x", length=0, pad=10.5)
    panel.grid(visible=False, axis="x")
    kinds = known_kinds(layers)
    below = panel.get_xaxis_transform() + ScaledTranslation(0, -6 / 72, figure.dpi_scale_trans)
    for kind in dict.fromkeys(kinds):
        at = places[kinds == kind]
        marker, _ = KINDS[kind]
        if not kind.startswith("conv"):
            for place in at:
                panel.axvline(place, color="0.9", linewidth=0.6, zorder=0.4, gid="guide")
        (symbols,) = panel.plot(at, np.zeros(len(at)), marker, color="0.25", markersize=3, transform=below, gid="kind")
        symbols.set(clip_on=False, markersize=4.5 if marker == "*" else 3, markeredgewidth=0)


def known_kinds(layers: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Return the kind of each layer, "other" for one that figures have no symbol for."""
    return layers["kind"].where(layers["kind"].isin(KINDS), "other").to_numpy()


def kind_keys(layers: pd.DataFrame) -> list[Line2D]:
    """Return the entries of a legend for the kinds of these layers. None are needed if all are of one kind."""
    there = set(known_kinds(layers))
    shown = [KINDS[kind] for kind in KINDS if kind in there] if len(there) > 1 else []
    return [
        Line2D([], [], linestyle="none", marker=marker, color="0.25", markersize=6 if marker == "*" else 4, label=name)
        for marker, name in shown
    ]


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


Range = tuple[float, float]  # lowest and highest


def similarity_limits(
    panel: Axes, shown: npt.ArrayLike, beside: Mapping[str, Range] | None = None, bounds: Range = (0.0, 1.0)
) -> None:
    """Let the axis end where the values of the pruned networks do, so that their order can be seen.

    shown : these values, with their bands. Missing ones do not count
    beside : the lowest and the highest value of what else is drawn, by its name. The axis covers it, unless the axis
        would be more than `FACTOR` times as long then
    bounds : between which all values lie. Nothing is drawn beyond them
    """
    values = np.asarray(shown, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        panel.set_ylim(0, 1)
        return
    low, high = float(values.min()), float(values.max())
    low, high = _lengthened(low, high, bounds)
    own, covered = high - low, [(low, high)]
    for least, most in (beside or {}).values():
        wider = min(low, least), max(high, most)
        if wider[1] - wider[0] <= FACTOR * own:
            covered.append(wider)
    low, high = min(one for one, _ in covered), max(one for _, one in covered)
    length = high - low
    outside = [end for of in (beside or {}).values() for end in _outside(of, (low, high))]
    under, over = (LINE * length * outside.count(end) for end in ("under", "over"))
    bottom, top = low - MARGIN * length, high + MARGIN * length
    panel.set_ylim(
        max(bottom, bounds[0] - MARGIN / 2 * length) - under, min(top, bounds[1] + MARGIN / 2 * length) + over
    )
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def say_outside(panel: Axes, beside: Mapping[str, Range]) -> None:
    """Write into the panel what of this lies outside its axis, and where."""
    axis = low, high = panel.get_ylim()
    lines: dict[str, list[str]] = {"under": [], "over": []}
    for name, (least, most) in beside.items():
        for end in _outside((least, most), axis):
            inside = most > low if end == "under" else least < high
            edge = least if end == "under" else most
            where = f"to {edge:.2f}" if inside else f"{least:.2f}" if least == most else f"{least:.2f} to {most:.2f}"
            lines[end].append(f"{ARROWS[end]} {name}, {where}")
    for end, at, across in (("under", 0.02, "bottom"), ("over", 0.98, "top")):
        if lines[end]:
            said = panel.text(
                0.02, at, "\n".join(lines[end]), transform=panel.transAxes, ha="left", va=across, fontsize=6
            )
            said.set(color="0.3", gid="outside", zorder=5)


def _lengthened(low: float, high: float, bounds: Range) -> Range:
    """Return a range of at least `SHORTEST`, within the bounds: smaller differences would look like large ones."""
    lacking = max(0.0, SHORTEST - (high - low))
    high = min(high + lacking / 2, max(high, bounds[1]))
    return high - max(SHORTEST, high - low), high


def _outside(values: Range, axis: Range) -> list[str]:
    """Return at which ends of an axis, under and over, a range goes beyond it."""
    return [
        end for end, beyond in zip(ARROWS, (axis[0] - values[0], values[1] - axis[1]), strict=True) if beyond > ROUNDING
    ]


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
