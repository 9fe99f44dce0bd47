"""The look of all figures, and how a figure becomes a file with the same bytes every time.

Sizes are those of print: a figure of several panels is as wide as a page, one of a single panel as wide as a column.
"""

import io
import textwrap
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib.style
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

FORMATS = ("png", "pdf", "svg")
PRINTED = 300  # dots per inch of a picture
SHOWN = 130  # dots per inch of what a notebook shows
KEPT = ("png", "pdf")  # that a sweep writes into its store
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same letters
    "text.parse_math": False,  # names of layers and problems are text, with a dollar sign too
    "font.size": 8,
    "axes.titlesize": 9,
    "figure.titlesize": 9,
    "figure.labelsize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "savefig.dpi": PRINTED,
    "pdf.fonttype": 42,  # TrueType: text in the PDF can be searched and copied
    "svg.hashsalt": "distsim",  # else names of parts of an SVG file are drawn at random
}


# From light to dark, in colour and in grey. The lightest third of the map is left out: it would not be seen on white.
SHADES = LinearSegmentedColormap.from_list("shades", matplotlib.colormaps["YlGnBu"](np.linspace(0.32, 1, 256)))
LETTER = 0.0085  # inches: the mean width of a letter, for each point of its size
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


class Picture(Figure):
    """A figure that a notebook shows. matplotlib's own is shown only where pyplot has been set up for it."""

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows."""
        return render(self, "png", dpi=SHOWN)


def fitted(text: str, inches: float, points: float) -> str:
    """Break a text into lines that fit into this width, in letters of this size."""
    return "\n".join(textwrap.fill(line, max(8, int(inches / (LETTER * points)))) for line in text.split("\n"))


def render(figure: Figure, format: str, dpi: int | None = None) -> bytes:
    """Return the bytes of a PNG, PDF or SVG file of the figure. dpi : dots per inch of a PNG, by default those of print

    Equal figures give equal bytes: the file names no date and no program. ValueError: another format.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, got {format!r}")
    metadata = {
        "png": {},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "svg": {"Date": None, "Creator": None},
    }[format]
    plain: dict[str, Any] = {"pil_kwargs": {"compress_level": 0}} if format == "png" else {}  # it is compressed below
    buffer, resolution = io.BytesIO(), dpi or PRINTED
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(buffer, format=format, metadata=metadata, dpi=resolution, **plain)
    return _of_256_colours(buffer, resolution) if format == "png" else buffer.getvalue()


def _of_256_colours(png: io.BytesIO, dpi: int) -> bytes:
    """Return a picture of no more than 256 colours. It takes a third of the bytes, and nobody sees a difference."""
    smaller = io.BytesIO()
    Image.open(png).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(smaller, "png", dpi=(dpi, dpi))
    return smaller.getvalue()
