"""Which figures of a study a caller asks for."""

from collections.abc import Callable, Sequence
from typing import Any

from distsim.api.arguments import listed, require_one_of
from distsim.results.figure_names import NAMES, OF_ALL_PROBLEMS, OF_P2
from distsim.results.figures import Choice, planned
from distsim.results.tables import Tables
from distsim.specs.fields import require

Draw = Callable[[], Any]


def chosen(
    there: Sequence[str],
    problem: str | Sequence[str] | None,
    metric: str | Sequence[str] | None,
    layers: str | Sequence[str] | None,
    errors: bool,
    **named: Any,
) -> Choice:
    """Return what figures are to show. there : the study's problems. ValueError: it has no such problem."""
    problems = tuple(there) if problem is None else tuple(dict.fromkeys(listed("problem", problem)))
    for one in problems:
        require_one_of("problem", one, there)
    require("errors", errors, bool)
    metrics = () if metric is None else tuple(dict.fromkeys(listed("metric", metric)))
    patterns = () if layers is None else listed("layers", layers)
    return Choice(problems, metrics, patterns, errors=errors, **named)


def one(tables: Tables, name: str, choice: Choice) -> Draw:
    """Return the one figure of this name, as a function that draws it.

    ValueError: there is nothing to show yet, or there are several: of problems, or of metrics in fig2.
    """
    require_one_of("name", name, NAMES)
    problems = choice.problems
    if name not in (*OF_ALL_PROBLEMS, *OF_P2) and len(problems) > 1:
        raise ValueError(f"problem: {name} shows one problem, choose from {', '.join(problems)}")
    if name == "fig2" and len(choice.metrics) > 1:
        raise ValueError(f"metric: fig2 shows one metric, got {', '.join(choice.metrics)}")
    (draw,) = planned(tables, choice, (name,)).values()
    return draw


def several(tables: Tables, names: str | Sequence[str] | None, choice: Choice) -> dict[str, Draw]:
    """Return figures by file name, each as a function that draws it. ValueError: as for `one`."""
    asked = () if names is None else listed("names", names)
    for name in asked:
        require_one_of("names", name, NAMES)
    return planned(tables, choice, asked)
