"""The papers' figures, by their numbers, of any problems and metric of a study."""

from collections.abc import Callable, Sequence
from typing import Any

from distsim.api.arguments import require_one_of
from distsim.results import figures
from distsim.results.functional_figures import functional_similarity
from distsim.results.tables import Tables, chance_level, reference_level

OF_ACCURACY: dict[str, Callable[..., Any]] = {"fig1": figures.accuracy_median, "fig4": figures.accuracy_mean}
OF_ONE_PROBLEM = ("fig5", "fig8", "functional")
NAMES = {
    "fig1": "accuracy, medians",
    "fig2": "one metric by layer",
    "fig4": "accuracy, means",
    "fig5": "several metrics by layer, of one problem",
    "fig8": "the output layer, of one problem",
    "functional": "predictions for the test images, of one problem",
}


def figure(
    tables: Tables,
    name: str,
    problems: Sequence[str],
    metrics: tuple[str, ...] | None,
    titles: figures.Titles | None = None,
    errors: bool = False,
) -> Any:
    """Return the matplotlib Figure of this name.

    titles : of problems, where they are not their names
    errors : with standard errors over examples, in fig2 and fig5

    ValueError: there is nothing to show yet, its metric is not in the tables, or it takes none.
    """
    summary, accuracy = (table[table["problem"].isin(problems)] for table in (tables.summary, tables.accuracy))
    functional = tables.functional_summary[tables.functional_summary["problem"].isin(problems)]
    shown = accuracy if name in OF_ACCURACY else functional if name == "functional" else summary
    if shown.empty:
        raise ValueError(f"{name}: nothing that it shows of {', '.join(problems)} is in the store yet")
    reference = reference_level(tables.reference)
    if name in OF_ACCURACY or name in ("fig8", "functional"):
        if metrics is not None:
            raise ValueError(f"metric: {name} shows {NAMES[name]} and takes none, got {', '.join(metrics)}")
        if name == "functional":
            return functional_similarity(functional, problems[0])
        if name == "fig8":
            return figures.output_layer(summary, problems[0], titles=titles, reference=reference)
        return OF_ACCURACY[name](accuracy)
    there = tuple(dict.fromkeys(summary["metric"]))
    for metric in metrics or ():
        require_one_of("metric", metric, there)
    chance = chance_level(tables.chance)
    if name == "fig5":
        chosen = metrics or [metric for metric in figures.PANEL_METRICS if metric in there] or there
        return figures.similarity_panels(
            summary, problems[0], chosen, chance=chance, titles=titles, reference=reference, errors=errors
        )
    metric = _only(metrics) if metrics else "svcca" if "svcca" in there else there[0]
    hidden = (summary["metric"] == metric) & (summary["kind"] != "out")
    levels = {"chance": chance, "reference": reference}
    return figures.similarity_by_layer(
        summary, metric, include_output=not hidden.any(), titles=titles, errors=errors, **levels
    )


def _only(metrics: tuple[str, ...]) -> str:
    if len(metrics) > 1:
        raise ValueError(f"metric: fig2 shows one metric, got {', '.join(metrics)}")
    return metrics[0]
