"""The look of all figures, and how a figure becomes a file with the same bytes every time."""

import io
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import matplotlib.style
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

FORMATS = ("png", "pdf")
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same letters
    "text.parse_math": False,  # names of layers and problems are text, with a dollar sign too
    "font.size": 9,
    "axes.titlesize": 10,
    "figure.labelsize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType: text in the PDF can be searched and copied
}


# From light to dark. The lightest fifth of the map is left out: it would not be seen on white.
SHADES = LinearSegmentedColormap.from_list("shades", matplotlib.colormaps["YlGnBu"](np.linspace(0.22, 1, 256)))
P = ParamSpec("P")


def drawn(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a function so that it draws in `STYLE` on matplotlib's defaults, whatever the caller's settings are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(["default", STYLE]):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # lays it out once; a second layout would move it by a rounding error
            figure.set_layout_engine("none")
            return figure

    return drawn


def render(figure: Figure, format: str) -> bytes:
    """Return the bytes of a PNG or PDF file of the figure.

    Equal figures give equal bytes: the file names no date and no program. ValueError: another format.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, got {format!r}")
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}[format]
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(buffer, format=format, metadata=metadata)
    return buffer.getvalue()
