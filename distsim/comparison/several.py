"""The result of `distsim.compare` for more than two models: the similarities of each two of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distsim.comparison.heatmaps import Panel, as_html, heatmap_figure
from distsim.comparison.similarities import Similarities, as_table


@dataclass(frozen=True, repr=False)
class Comparisons:
    """The similarities of each two of several models.

    pairs : (name of x, name of y) -> their `Similarities`; the models are in the order in which they were given
    """

    pairs: Mapping[tuple[str, str], Similarities]

    def __repr__(self) -> str:
        return f"Comparisons({', '.join(self.models)}; metrics={self.metrics})"

    def __getitem__(self, pair: tuple[str, str]) -> Similarities:
        """Return the similarities of two models. KeyError: they were not compared, or the other way round."""
        if pair not in self.pairs:
            raise KeyError(f"no pair {pair!r}; there are {', '.join(map(repr, self.pairs))}")
        return self.pairs[pair]

    @property
    def models(self) -> tuple[str, ...]:
        """Return the models' names."""
        return tuple(dict.fromkeys(name for pair in self.pairs for name in pair))

    @property
    def metrics(self) -> tuple[str, ...]:
        return self._any.metrics

    @property
    def left_out(self) -> Mapping[str, Mapping[str, str]]:
        """Return the layers that were left out, with the reason: model -> layer -> reason."""
        found: dict[str, Mapping[str, str]] = {}
        for similarities in self.pairs.values():
            found |= similarities.left_out
        return found

    @property
    def doubts(self) -> str:
        """Return a sentence on the values that should be read with care, or "" if there are none."""
        doubtful = {pair: found.doubts for pair, found in self.pairs.items() if found.doubts}
        if not doubtful:
            return ""
        (x, y), said = next(iter(doubtful.items()))
        more = f"; and of {len(doubtful) - 1} more pairs" if len(doubtful) > 1 else ""
        return f"{x} and {y}: {said}{more}"

    @cached_property
    def table(self) -> Any:
        """Return the tables of all pairs below each other, after the columns model_x and model_y."""
        import pandas as pd

        frames = []
        for (x, y), similarities in self.pairs.items():
            frame = pd.DataFrame(similarities.table)
            frame.insert(0, "model_x", x)
            frame.insert(1, "model_y", y)
            frames.append(frame)
        columns = {  # one by one: pandas warns of a column that is empty in one of the frames
            name: np.concatenate([frame[name].to_numpy(object) for frame in frames]) for name in frames[0]
        }
        return as_table(pd.DataFrame(columns).astype(frames[0].dtypes.to_dict()))

    def matrix(self, metric: str | None = None, pair: tuple[str, str] | None = None) -> Any:
        """Return a metric's values for two models as a DataFrame: layers of x as rows, layers of y as columns.

        The metric may be left out if there is only one.
        """
        if pair is None:
            raise ValueError(f"matrix needs a pair of models, one of {', '.join(map(repr, self.pairs))}")
        return self[pair].matrix(metric)

    def figure(self, metric: str | None = None) -> Any:
        """Draw the matrix of a metric, or of every metric if none is named, for each two models.

        With one metric the pairs fill rows; with several each pair has a row. Returns a matplotlib Figure.
        """
        panels: list[Panel] = [panel for found in self.pairs.values() for panel in found.panels(metric)]
        metrics = 1 if metric else len(self.metrics)
        return heatmap_figure(panels, max(3, math.ceil(math.sqrt(len(panels)))) if metrics == 1 else metrics)

    heatmap = figure

    def _repr_html_(self) -> str:
        """Return the heat maps and what is to be said of them, as a notebook shows them."""
        title = f"{', '.join(self.models)}: {', '.join(self.metrics)} of each two. The table is in .table"
        return as_html(title, self.figure(), (self.doubts,))

    @property
    def _any(self) -> Similarities:
        return next(iter(self.pairs.values()))
