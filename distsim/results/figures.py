"""Which figures there are of a study: the papers' by their numbers, and beyond them every metric that was computed.

Nothing is computed here or in the modules that draw: they take
tables of `distsim.results.tables` and return Figures. Figures are built with matplotlib's object interface, without
pyplot or a window, and look the same whatever the user's matplotlibrc says.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from distsim.metrics.registry import in_order
from distsim.results import accuracy_figures, beside, functional_figures, layer_figures, output_figures
from distsim.results.figure_names import NAMES, OF_P2, TAKE_LAYERS, TAKE_METRICS
from distsim.results.looks import PANEL_METRICS, Labels
from distsim.results.tables import Tables, chance_level, reference_level
from distsim.results.titles import Titles
from distsim.results.titles import in_order as problems_in_order
from distsim.specs import shown

Draw = Callable[[], Figure]


@dataclass(frozen=True)
class Choice:
    """What figures are to show of a study."""

    problems: tuple[str, ...]
    metrics: tuple[str, ...] = ()  # (): those of each figure
    layers: tuple[str, ...] = ()  # patterns of names; (): all, but that fig2 leaves out the output, as P1 does
    labels: Labels = field(default_factory=dict)
    titles: Titles = field(default_factory=dict)
    errors: bool = False  # with standard errors over examples, where layers are shown


def draw_all(tables: Tables, labels: Labels | None = None, titles: Titles | None = None) -> dict[str, Figure]:
    """Draw every figure for which the tables hold values, and return the figures by file name.

    The papers' metrics are in the papers' figures, all other metrics in `more_similarities_*`.
    """
    problems = dict.fromkeys([*tables.accuracy["problem"], *tables.summary["problem"]])
    choice = Choice(tuple(problems), labels=labels or {}, titles=titles or {})
    return {name: draw() for name, draw in planned(tables, choice).items()}


def planned(tables: Tables, choice: Choice, names: Sequence[str] = ()) -> dict[str, Draw]:
    """Return the figures of these names by file name, each as a function that draws it. (): all that there are

    ValueError: a figure has nothing to show, or does not take what was chosen; the tables lack a metric or a layer.
    """
    for name in names:
        _require_takes(name, choice)
    study = _Study(tables, choice, asked=bool(names))
    found: dict[str, Draw] = {}
    for name in names or [name for name in NAMES if name not in OF_P2 and _takes(name, choice)]:
        of_name = dict(study.plans(name))
        if names and not of_name:
            raise ValueError(f"{name}: the store has nothing of {', '.join(choice.problems)} yet that it shows")
        found |= of_name
    return dict(sorted(found.items()))


def further_metrics(rows: pd.DataFrame) -> list[str]:
    """Return the metrics of hidden layers that the papers' panels do not show, in the order of the registry."""
    return [metric for metric in in_order(rows[rows["kind"] != "out"]["metric"]) if metric not in PANEL_METRICS]


# --- what can be chosen ----------------------------------------------------------------------------------------------


def _takes(name: str, choice: Choice) -> bool:
    return (not choice.metrics or name in TAKE_METRICS) and (not choice.layers or name in TAKE_LAYERS)


def _require_takes(name: str, choice: Choice) -> None:
    for what, chosen, takers in (("metric", choice.metrics, TAKE_METRICS), ("layers", choice.layers, TAKE_LAYERS)):
        if chosen and name not in takers:
            raise ValueError(f"{what}: {name} shows {NAMES[name]}, so none can be chosen; got {', '.join(chosen)}")


def _of_layers(summary: pd.DataFrame, patterns: Sequence[str]) -> set[str]:
    """Return the layers of these names, or whose names match a pattern. ValueError: no layer matches one of them.

    A layer's own name is no pattern, since names may have brackets.
    """
    there = list(dict.fromkeys(summary.sort_values("position", kind="stable")["layer"]))
    chosen: set[str] = set()
    for pattern in patterns:
        found = {pattern} if pattern in there else {layer for layer in there if fnmatchcase(layer, pattern)}
        if not found:
            raise ValueError(f"layers: no layer matches {shown(pattern)}; there are {', '.join(there)}")
        chosen |= found
    return chosen


class _Study:
    """The tables of the chosen problems and layers, and how each figure is drawn of them."""

    def __init__(self, tables: Tables, choice: Choice, asked: bool) -> None:
        """Choose. asked : figures are named, so that fig2 shows another metric where there is no SVCCA."""
        self.choice, self.asked = choice, asked
        summary, self.accuracy, self.functional = (
            table[table["problem"].isin(choice.problems)]
            for table in (tables.summary, tables.accuracy, beside.pruned(tables.functional_summary))
        )
        chance, reference = chance_level(tables.chance), reference_level(tables.reference)
        if choice.layers and len(summary):
            layers = _of_layers(summary, choice.layers)
            summary, chance, reference = (of[of["layer"].isin(layers)] for of in (summary, chance, reference))
        self.summary, self.reference = summary, reference
        self.problems = problems_in_order(summary["problem"])
        self.metrics = list(dict.fromkeys(summary["metric"]))
        if len(summary):
            self._require_metrics()
        self.named: dict[str, Any] = {"labels": choice.labels, "titles": choice.titles, "reference": reference}
        self.over_layers = self.named | {"chance": chance, "errors": choice.errors}

    def _require_metrics(self) -> None:
        for metric in self.choice.metrics:
            if metric not in self.metrics:
                raise ValueError(f"metric must be one of {', '.join(self.metrics)}, got {shown(metric)}")

    def plans(self, name: str) -> Iterator[tuple[str, Draw]]:
        """Yield the files of a figure, and how each is drawn."""
        if name in OF_P2:
            return self._similarity(self._like_p2(name))
        plan: dict[str, Callable[[], Iterator[tuple[str, Draw]]]] = {
            "fig1": partial(self._accuracy, "fig1_accuracy_median", accuracy_figures.accuracy_median),
            "fig2": self._by_layer,
            "fig4": partial(self._accuracy, "fig4_accuracy_mean", accuracy_figures.accuracy_mean),
            "fig8": self._output,
            "similarity": partial(self._similarity, self.problems),
            "more": self._more,
            "functional": self._functional,
        }
        return plan[name]()

    def _like_p2(self, name: str) -> list[str]:
        """Return the problem that one of P2's figures is drawn of: its own, or else the only one."""
        if OF_P2[name] in self.problems or not self.problems:
            return [problem for problem in self.problems if problem == OF_P2[name]]
        if len(self.problems) > 1:
            raise ValueError(
                f"problem: {name} shows one problem, choose from {', '.join(self.problems)}; similarity shows any"
            )
        return self.problems

    def _accuracy(self, file: str, draw: Callable[..., Figure]) -> Iterator[tuple[str, Draw]]:
        if len(self.accuracy):
            yield file, partial(draw, self.accuracy, self.choice.titles)

    def _by_layer(self) -> Iterator[tuple[str, Draw]]:
        usual = ["svcca"] if "svcca" in self.metrics else self.metrics[:1] if self.asked else []
        for metric in self.choice.metrics or usual:
            hidden = (self.summary["metric"] == metric) & (self.summary["kind"] != "out")
            output = bool(self.choice.layers) or not hidden.any()
            drawn = partial(layer_figures.similarity_by_layer, self.summary, metric, include_output=output)
            yield f"fig2_{metric}_by_layer{self._suffix([])}", partial(drawn, **self.over_layers)

    def _similarity(self, problems: Sequence[str]) -> Iterator[tuple[str, Draw]]:
        numbers = {problem: f"{name}_" for name, problem in OF_P2.items()}
        for problem in problems:
            there = self._of(problem)
            usual = [metric for metric in PANEL_METRICS if metric in there] or (there if self.asked else [])
            metrics = [metric for metric in self.choice.metrics if metric in there] or usual
            if metrics:
                file = f"{numbers.get(problem, '')}similarity_{problem}{self._suffix(self.choice.metrics)}"
                drawn = partial(layer_figures.similarity_panels, self.summary, problem, metrics)
                yield file, partial(drawn, **self.over_layers)

    def _more(self) -> Iterator[tuple[str, Draw]]:
        for problem in self.problems:
            metrics = further_metrics(self.summary[self.summary["problem"] == problem])
            if metrics:
                drawn = partial(layer_figures.similarity_panels, self.summary, problem, metrics)
                yield f"more_similarities_{problem}{self._suffix([])}", partial(drawn, **self.over_layers)

    def _output(self) -> Iterator[tuple[str, Draw]]:
        for problem in self.problems:
            of_problem = self.summary[self.summary["problem"] == problem]
            if len(output_figures.of_output_layer(of_problem, self.choice.metrics)):
                drawn = partial(output_figures.output_layer, self.summary, problem, self.choice.metrics)
                yield f"fig8_output_{problem}{self._suffix(self.choice.metrics)}", partial(drawn, **self.named)

    def _functional(self) -> Iterator[tuple[str, Draw]]:
        for problem in sorted(set(self.functional["problem"])):
            drawn = partial(functional_figures.functional_similarity, self.functional, problem)
            yield f"functional_{problem}", partial(drawn, self.choice.titles)

    def _of(self, problem: str) -> list[str]:
        return list(dict.fromkeys(self.summary.loc[self.summary["problem"] == problem, "metric"]))

    def _suffix(self, metrics: Sequence[str]) -> str:
        """Return what tells a file of chosen metrics and layers from the usual one."""
        layers = [re.sub(r"[^A-Za-z0-9.-]+", "", pattern) for pattern in self.choice.layers]
        words = [*metrics, *(word for word in layers if word)] or ["chosen"] * bool(layers)
        return "".join(f"_{word}" for word in words)[:80]
