"""How all figures look, and how they become bytes that are equal every time."""

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
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same letters
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


# light to dark; the lightest fifth would not be seen on white
SHADES = LinearSegmentedColormap.from_list("shades", matplotlib.colormaps["YlGnBu"](np.linspace(0.22, 1, 256)))
P = ParamSpec("P")


def drawn(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """`draw` under `STYLE` on top of matplotlib's defaults, the caller's settings untouched."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(["default", STYLE]):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # lays it out once: each further layout would move it by a rounding error
            figure.set_layout_engine("none")
            return figure

    return drawn


def render(figure: Figure, format: str) -> bytes:
    """The figure as a PNG or a PDF file's bytes: equal for equal figures, without dates or program names."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, got {format!r}")
    unnamed = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}[format]
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(buffer, format=format, metadata=unnamed)
    return buffer.getvalue()
