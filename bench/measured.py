"""Tables of what a study measured beside its values: chance, standard errors, controls, complete networks, predictions.

`bench/replication.py` puts them into docs/replication.md.
"""

from collections.abc import Iterator

import pandas as pd
from report import Table

from distsim.metrics.registry import METRICS
from distsim.results.claims.multiverse import DEFINITIONS, WORDS, multiverse, summary
from distsim.results.claims.study import NO_DATA
from distsim.results.published import Published

BESIDE = ("svcca", "cka", "nbs")
MEASURES = {"agreement": "same prediction", "churn": "churn", "jsd": "divergence of the outputs, in bits"}


def tables(study: Published) -> list[Table]:
    """Return the tables of a study that has controls and standard errors; of another one nothing."""
    rows = study.tables.similarities
    if not {"retrain", ""} <= set(rows["control"]) or rows["se"].isna().all():
        return []
    return [table for table in (*_beside(study), _predictions(study), _verdicts(study)) if table.rows]


def _beside(study: Published) -> Iterator[Table]:
    """Yield a table for each metric: the last iteration's value of each layer, and what stands beside it."""
    every = study.tables.similarities
    last = int(every.loc[every["control"] == "", "iteration"].max())
    reference = study.tables.reference
    for metric in BESIDE:
        rows = every[(every["metric"] == metric) & (every["iteration"] == last)]
        table = Table(
            (
                f"{METRICS[metric].label}, iteration {last}",
                "pruned",
                "by chance",
                "calibrated",
                "standard error over examples",
                "sd over runs",
                "retrained, not pruned",
                "pruned at random",
                "two complete networks",
            )
        )
        for layer, of_layer in rows.sort_values("position").groupby("layer", sort=False):
            pruned = of_layer[of_layer["control"] == ""]
            levels = reference[(reference["metric"] == metric) & (reference["layer"] == layer)]["value"]
            within = pruned.groupby("complete")["value"].std().mean()
            table.add(
                str(layer),
                _median(pruned["value"]),
                _median(pruned["null"]),
                _median(pruned["calibrated"]),
                _median(pruned["se"]),
                "" if pd.isna(within) else f"{within:.3f}",
                _median(of_layer.loc[of_layer["control"] == "retrain", "value"]),
                _median(of_layer.loc[of_layer["control"] == "random", "value"]),
                _median(levels),
            )
        table.notes.append("Medians over the networks; the sd is that of the runs from one complete network.")
        yield table


def _median(values: pd.Series) -> str:
    middle = values.median()
    return "" if pd.isna(middle) else f"{middle:.3f}"


def _predictions(study: Published) -> Table:
    rows = study.tables.functional_summary
    rows = rows[rows["class"] == ""]
    iterations = sorted(set(rows["iteration"]) & {1, 2, 5, 10, 15, 20})
    table = Table(("predictions for the test images, median, iteration", "networks", *map(str, iterations)))
    words = {"": "pruned", "retrain": "retrained, not pruned", "random": "pruned at random"}
    for measure, text in MEASURES.items():
        for control, networks in words.items():
            of_one = rows[(rows["measure"] == measure) & (rows["control"] == control)].set_index("iteration")["median"]
            if len(of_one):
                cells = ("" if pd.isna(of_one.get(i)) else f"{of_one[i]:.3f}" for i in iterations)
                table.add(text, networks, *cells)
    return table


def _verdicts(study: Published) -> Table:
    """Say which claims come out the same under which definition of the metric."""
    frame = multiverse(study.tables, {study.problem: study.images}, study.identity.seed)
    measured = set(frame.loc[frame["verdict"] != NO_DATA, "definition"])
    names = [definition.name for definition in DEFINITIONS if definition.name in measured]
    table = Table(("claim", "metric", *names))
    for (claim, metric), of_claim in frame.groupby(["claim", "metric"], sort=False):
        cells = of_claim.set_index("definition")["verdict"].map(WORDS)
        table.add(str(claim), str(metric), *(str(cells.get(name, "")) for name in names))
    if len(frame):
        table.notes.append(f"{summary(frame)}. An empty cell: the definition does not change this claim's metric.")
    return table
