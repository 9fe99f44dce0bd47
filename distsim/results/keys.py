"""The key of a figure: a legend under it that names whatever its panels show."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from distsim.plotting import LETTER, fitted
from distsim.results.marks import SMALL

BY_CHANCE = "by chance"
CHANCE_IN_WORDS = "by chance: with the examples permuted"
CHANCE_COLOUR = "0.75"
ENTRY, LETTERS, ROW = 0.5, 7, 0.16  # inches of an entry beside its text; points of its letters; inches of a row


def of_chance() -> Patch:
    """Return the entry of the band of values by chance."""
    return Patch(facecolor=CHANCE_COLOUR, label=f"{BY_CHANCE} (examples permuted)")


def of_band(colour: Any = "0.4", name: str = "25–75 % of runs", alpha: float = 0.2) -> Patch:
    """Return the entry of a band over runs."""
    return Patch(facecolor=colour, alpha=alpha, linewidth=0, label=name)


def of_errors() -> Line2D:
    """Return the entry of bars of one standard error."""
    return Line2D([], [], linestyle="none", marker="|", markersize=8, color="0.3", label="± 1 se over examples")


def key(figure: Figure, entries: Sequence[Any], said: Sequence[str] = ()) -> None:
    """Put a legend under the figure, in as many columns as fit, and make the figure higher by it.

    said : sentences above the entries. Empty ones do not count
    """
    width = figure.get_size_inches()[0]
    lines = [fitted(sentence, width, SMALL) for sentence in said if sentence]
    if not entries:
        if lines:
            figure.supxlabel("\n".join(lines), fontsize=SMALL, color="0.3")
        return
    columns = _columns([str(entry.get_label()) for entry in entries], width)
    legend = figure.legend(handles=list(entries), loc="outside lower center", ncols=columns, title="\n".join(lines))
    legend.get_title().set(fontsize=SMALL, multialignment="center", color="0.3")
    rows = math.ceil(len(entries) / columns) + sum(line.count("\n") + 1 for line in lines)
    figure.set_figheight(figure.get_figheight() + ROW * rows)


def _columns(names: Sequence[str], width: float) -> int:
    """Return the largest number of columns that fit into the width. A legend fills one column after another."""
    lengths = [ENTRY + LETTER * LETTERS * len(name) for name in names]
    for columns in range(len(names), 1, -1):
        rows = math.ceil(len(names) / columns)
        if sum(max(lengths[at : at + rows]) for at in range(0, len(names), rows)) <= width:
            return math.ceil(len(names) / rows)  # with fewer in the last column rather than more in the first
    return 1
