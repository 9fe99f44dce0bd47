"""The result of `distsim.compare`: a table, matrices, heat maps."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from distsim import extras
from distsim.comparison.beside import Cells
from distsim.comparison.heatmaps import Panel, as_html, heatmap_figure
from distsim.metrics.null import PERMUTED, Null, largest
from distsim.metrics.registry import DISTANCES, METRICS

T = TypeVar("T")


class Row(Cells):
    """A result, with its two layers and its metric."""

    layer_x: str
    layer_y: str
    metric: str


class LeftOut(UserWarning):
    """The warning of `compare` for layers with weights that it does not compare by default."""


@dataclass(frozen=True)
class Similarities:
    """The result of `compare`, where x is its first model and y its second.

    `rows` are plain dicts, with None for an undefined value. Tables need pandas, and heat maps need matplotlib.
    """

    layers_x: tuple[str, ...]
    layers_y: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...] = field(repr=False)
    # model_a, model_b -> layer -> why the default left it out
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    model_x: str = "model x"  # the models' names, if they have any
    model_y: str = "model y"

    @property
    def pairs(self) -> "dict[tuple[str, str], Similarities]":
        """Return the one pair of models, as `Comparisons.pairs` returns several."""
        return {(self.model_x, self.model_y): self}

    @property
    def layers_a(self) -> tuple[str, ...]:
        """Return `layers_x` under its old name, which stays for one release."""
        return _renamed("layers_a", "layers_x", self.layers_x)

    @property
    def layers_b(self) -> tuple[str, ...]:
        """Return `layers_y` under its old name, which stays for one release."""
        return _renamed("layers_b", "layers_y", self.layers_y)

    @property
    def doubts(self) -> str:
        """Return a sentence on the values that should be read with care, or "" if there are none."""
        doubtful = [row for row in self.rows if row["warning"]]
        if not doubtful:
            return ""
        first = doubtful[0]
        return (
            f"{len(doubtful)} of {len(self.rows)} similarities should be read with care, among them "
            f"{first['metric']} of {first['layer_x']} and {first['layer_y']}: {first['warning']}. The table's column "
            "warning says which and why"
        )

    @cached_property
    def best_by_chance(self) -> dict[str, tuple[float, ...]]:
        """Return what the best of y's layers has by chance, for each layer of x; by metric.

        Whoever looks for the best of many layers finds a larger value by chance than any one layer has. With
        `permutations` it is the mean of the best over the permutations, each of which is of all layers together.
        Without, it is known for CKA and unbiased CKA only. There layers are taken for independent; those of a network
        are not, so that theirs is less. The best of a distance is the smallest.
        """
        found: dict[str, tuple[float, ...]] = {}
        for metric in self.metrics:
            rows = [[row for row in self._of(metric) if row["layer_x"] == name] for name in self.layers_x]
            best = [
                _best_permuted(of_layer) if self.permutations else _best_in_closed_form(of_layer) for of_layer in rows
            ]
            if None not in best:
                found[metric] = tuple(value for value in best if value is not None)
        return found

    def _of(self, metric: str) -> Iterator[Row]:
        return (row for row in self.rows if row["metric"] == metric)

    @cached_property
    def permutations(self) -> int:
        """Return how many permutations of y's examples the layers were compared with, too."""
        return max((len(row.get("permuted", ())) for row in self.rows), default=0)

    @property
    def said_of_the_best(self) -> str:
        """Return a sentence on what the best of many layers has by chance, or "" if nothing is known of it."""
        if not self.best_by_chance or len(self.layers_y) < 2:
            return ""
        parts = [f"{metric} {min(of):.2f} to {max(of):.2f}" for metric, of in self.best_by_chance.items()]
        how = f"in the mean of {self.permutations} permutations" if self.permutations else "at most"
        return (
            f"by chance, the most similar of {len(self.layers_y)} layers of y is, depending on the layer of x, {how} "
            f"{', '.join(parts)}"
        )

    @cached_property
    def table(self) -> Any:
        """Return a DataFrame with a row for each layer of x, layer of y and metric; columns as in a sweep's table.

        value           NaN if it is undefined; reason says why
        n, columns_x, columns_y   rows and columns that the metric saw; n_per_p: rows for each column of the wider side
        warning         why the value should be read with care
        rank_x, rank_y  independent channels among the columns, for metrics over channels; else missing
        dead_x, dead_y  constant channels of the layer
        k_x, k_y        directions that SVCCA keeps; else missing
        effective_rank_x, effective_rank_y   participation ratio of the channels' variances, for metrics over channels
        lower, upper    bounds of NBS, where they were computed (docs/metrics.md); else NaN
        null, null_sd   what the value is by chance: mean and sd over permutations of the examples. Those of CKA, biased
                        or unbiased, are over all of them, by a formula. Others need `permutations`, and null_sd 20
        z, calibrated   (value - null)/null_sd, and (value - null)/(1 - null)
        se              standard error of the value over examples, where `measure` asks for it; else NaN
        """
        whole = dict.fromkeys(("rank_x", "rank_y", "k_x", "k_y"), "Int64")
        numbers = ("value", "effective_rank_x", "effective_rank_y", "lower", "upper", *NULL, "se")
        rows = [{**row, **_above_chance(row), "se": row.get("se")} for row in self.rows]
        for row in rows:
            row.pop("permuted", None)
        return as_table(rows).astype(whole | dict.fromkeys(numbers, "float64"))

    def matrix(self, metric: str | None = None) -> Any:
        """Return a metric's values as a DataFrame, with layers of x as rows and layers of y as columns.

        The metric may be left out if there is only one. ValueError: it is not among `metrics`.
        """
        extras.require_modules("the table", "pandas")
        import pandas as pd

        if metric is None and len(self.metrics) == 1:
            (metric,) = self.metrics
        if metric is None:
            raise ValueError(f"several metrics were computed: choose one, as in matrix({self.metrics[0]!r})")
        if metric not in self.metrics:
            raise ValueError(f"metric must be one of {self.metrics}, got {metric!r}")
        values = np.array([row["value"] for row in self.rows if row["metric"] == metric], np.float64)  # None is NaN
        return pd.DataFrame(
            values.reshape(len(self.layers_x), len(self.layers_y)),
            pd.Index(self.layers_x, name="layer_x"),
            pd.Index(self.layers_y, name="layer_y"),
        )

    def figure(self, metric: str | None = None) -> Any:
        """Draw the matrix of a metric, or of every metric if none is named; the first layers are at the lower left.

        Values with a warning have a star.
        Returns a matplotlib Figure. `figure.savefig(path)` writes it, or `distsim.plotting.render`, which writes the
        same bytes every time.
        """
        return heatmap_figure(self.panels(metric))

    heatmap = figure

    def panels(self, metric: str | None = None) -> list[Panel]:
        """Return what `figure` draws of a metric, or of every metric if none is named."""
        names = [metric] if metric else self.metrics
        return [Panel(name, self.matrix(name), self._warned(name), self.model_x, self.model_y) for name in names]

    def _repr_html_(self) -> str:
        """Return the heat map and what is to be said of it, as a notebook shows it."""
        title = (
            f"{self.model_x} ({_number(self.layers_x)}) against {self.model_y} ({_number(self.layers_y)}): "
            f"{', '.join(self.metrics)}. The table is in .table"
        )
        return as_html(title, self.figure(), (self.doubts, self.said_of_the_best))

    def _warned(self, metric: str) -> Any:
        """Return which values of a metric carry a warning, as an array with the shape of the matrix."""
        warned = np.array([bool(row.get("warning")) for row in self.rows if row["metric"] == metric])
        return warned.reshape(len(self.layers_x), len(self.layers_y))


def _number(layers: Sequence[str]) -> str:
    return f"{len(layers)} layer{'s' * (len(layers) != 1)}"


NULL = ("null", "null_sd", "z", "calibrated")


def _above_chance(row: Row) -> dict[str, float | None]:
    """Return the cells of `NULL` for a row. None: what its value is by chance is not known."""
    null, several = _null_of(row), METRICS.get(row["metric"])
    if row["value"] is None or null is None:
        return dict.fromkeys(NULL)
    full = several is not None and several.bounds[1] == 1  # others are not 1 for equal sides
    known_sd = np.isfinite(null.sd)
    return {
        "null": null.mean,
        "null_sd": null.sd if known_sd else None,
        "z": null.z(row["value"]) if known_sd else None,
        "calibrated": null.calibrated(row["value"]) if full else None,
    }


def _null_of(row: Row) -> Null | None:
    """Return what a row's value is by chance, in closed form or else over permutations. sd : NaN of too few"""
    mean, sd = row.get("null"), row.get("null_sd")
    if mean is not None and sd is not None:
        return Null(mean, sd)
    values = [value for value in row.get("permuted", ()) if value is not None]
    if not values:
        return None
    return Null(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) >= PERMUTED else float("nan"))


def _best_in_closed_form(rows: Sequence[Row]) -> float | None:
    """Return what the largest of these layers' values is by chance, if a formula says it of any."""
    nulls = [Null(row["null"], row["null_sd"]) for row in rows if None not in (row.get("null"), row.get("null_sd"))]
    return largest(nulls) if nulls else None


def _best_permuted(rows: Sequence[Row]) -> float | None:
    """Return the best of these layers' values in a permutation, in the mean over those in which one has a value."""
    by_order = zip(*(row.get("permuted", ()) for row in rows), strict=True)
    best_of = min if rows and rows[0]["metric"] in DISTANCES else max
    best = [best_of(there) for of in by_order if (there := [value for value in of if value is not None])]
    return float(np.mean(best)) if best else None


def as_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return a DataFrame whose columns can be read by their old names too, `..._a` and `..._b`, for one release."""
    import pandas as pd

    class OldNames:
        def _known(self) -> Any:
            return super().keys()  # type: ignore[misc]  # of a frame its columns, of a series its index

        def __getitem__(self, key: Any) -> Any:
            of: Any = super()
            if not isinstance(key, str) or key[-2:] not in OLD_ENDS or key in self._known():
                return of.__getitem__(key)
            new = key[:-2] + OLD_ENDS[key[-2:]]
            return _renamed(key, new, of.__getitem__(new)) if new in self._known() else of.__getitem__(key)

    class Line(OldNames, pd.Series):  # type: ignore[misc]
        @property
        def _constructor(self) -> Any:
            return Line

    class Table(OldNames, pd.DataFrame):  # type: ignore[misc]
        @property
        def _constructor(self) -> Any:
            return Table

        @property
        def _constructor_sliced(self) -> Any:
            return Line

    return Table(rows)


OLD_ENDS = {"_a": "_x", "_b": "_y"}


def _renamed(old: str, new: str, value: T) -> T:
    warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=3)
    return value
