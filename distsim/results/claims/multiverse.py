"""The measurement multiverse: every claim judged under every definition of its metric that is in use.

A metric's name stands for several definitions. A claim that holds under one of them only says more about the definition
than about the networks. Each definition takes the place of the metric in the tables, and all claims about it are judged
again, by the same thresholds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from distsim.results.claims.judging import check, check_beyond_control
from distsim.results.claims.study import NO_DATA, Verdict
from distsim.results.tables import Tables

OWN = "as in the papers"
KEYS = ["claim", "problem", "metric"]
WORDS = {
    "holds": "holds",
    "fails": "fails",
    "tendency: for": "for",
    "tendency: against": "against",
    NO_DATA: "no data",
}


@dataclass(frozen=True)
class Definition:
    """Another definition of some metrics.

    stands_for : metric -> the metric that is measured in its place; column : of the table, in which its values are
    controlled : a fall with the iteration counts only where it goes beyond that of the control
    """

    name: str
    means: str
    stands_for: Mapping[str, str] = field(default_factory=dict)
    column: str = "value"
    controlled: bool = False

    def concerns(self, metric: str) -> bool:
        """Return whether claims about this metric, or about "accuracy", are judged under the definition."""
        return (
            self.name == OWN
            or self.controlled
            or metric in self.stands_for
            or (self.column != "value" and metric != "accuracy")
        )


DEFINITIONS = (
    Definition(OWN, "the papers' formulas"),
    Definition("of columns", "mean CCA divided by the smaller number of columns", {"mean_cca": "mean_cca_columns"}),
    Definition(
        "98 % mass",
        "the mean over the leading correlations that hold 98 % of their sum",
        {"mean_cca": "mean_cca_mass98", "svcca": "svcca_mass98"},
    ),
    Definition("google's weights", "PWCCA with the weights of google/svcca's code", {"pwcca": "pwcca_google"}),
    Definition(
        "channel view",
        "CKA and NBS with pixels of examples as rows",
        {"cka": "cka_channels", "nbs": "nbs_channels"},
    ),
    Definition("unbiased", "CKA from the unbiased estimate of HSIC", {"cka": "cka_unbiased"}),
    Definition("calibrated", "(value − null)/(1 − null), with the null by chance", column="calibrated"),
    Definition(
        "with controls",
        "falls with the iteration count beyond those of networks that are retrained without pruning",
        controlled=True,
    ),
)


def lacking(tables: Tables) -> list[str]:
    """Return the metrics of `DEFINITIONS` that the tables do not hold, and whose own metric they do."""
    there = set(tables.similarities["metric"])
    wanted = {new: old for definition in DEFINITIONS for old, new in definition.stands_for.items()}
    return [new for new, old in wanted.items() if old in there and new not in there]


def multiverse(tables: Tables, data: Mapping[str, str] | None = None, seed: int = 0) -> pd.DataFrame:
    """Judge each claim under each definition. Return a row for each claim, problem, metric and definition.

    A definition that does not change a claim's metric has no row for it. Claims that lack data under the papers'
    formulas have none either.

    data : as for `distsim.results.claims.judging.check`; seed : of the bootstrap
    """
    rows: list[dict[str, Any]] = []
    judged: set[tuple[str, str, str]] = set()
    for definition in DEFINITIONS:
        judge = check_beyond_control if definition.controlled else check
        verdicts = judge(_under(tables, definition, seed), data)
        if definition.name == OWN:
            judged = {_key(verdict) for verdict in verdicts if verdict.verdict != NO_DATA}
        for verdict in verdicts:
            if _key(verdict) in judged and definition.concerns(verdict.metric):
                rows.append(
                    {
                        "claim": verdict.claim,
                        "problem": verdict.problem,
                        "metric": verdict.metric,
                        "definition": definition.name,
                        "verdict": verdict.verdict,
                        "text": verdict.text,
                        **{name: number for name, number in verdict.numbers.items() if np.isfinite(number)},
                    }
                )
    columns = [*KEYS, "definition", "verdict", "text"]
    return pd.DataFrame.from_records(rows, columns=None if rows else columns)


def _key(verdict: Verdict) -> tuple[str, str, str]:
    return verdict.claim, verdict.problem, verdict.metric


def _under(tables: Tables, definition: Definition, seed: int) -> Tables:
    """Return the tables with the definition's values in place of the metrics that it changes."""
    if definition.name == OWN or definition.controlled:
        return tables
    rows = tables.similarities
    if definition.column != "value":
        changed = rows.assign(value=rows[definition.column])
    else:
        new = rows[rows["metric"].isin(definition.stands_for.values())]
        back = {measured: metric for metric, measured in definition.stands_for.items()}
        kept = rows[~rows["metric"].isin(definition.stands_for)]
        changed = pd.concat([kept, new.assign(metric=new["metric"].map(back))], ignore_index=True)
    return Tables.of(changed, tables.networks, seed, tables.chance)


def as_text(table: pd.DataFrame, definitions: Sequence[Definition] = DEFINITIONS) -> str:
    """Return the verdicts as a table of text: a line for each claim, a column for each definition that was measured.

    An empty cell: the definition does not change the claim's metric.
    """
    measured = set(table.loc[table["verdict"] != NO_DATA, "definition"])
    names = [definition.name for definition in definitions if definition.name in measured]
    widths = [max(len(name), 8) + 2 for name in names]
    lines = [f"{'':38}" + "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))]
    for (claim, problem, metric), of_claim in table.groupby(KEYS, sort=False):
        cells = of_claim.set_index("definition")["verdict"].map(WORDS)
        row = "".join(f"{cells.get(name, ''):>{width}}" for name, width in zip(names, widths, strict=True))
        lines.append(f"{claim:4} {problem:21} {metric:11}{row}")
    return "\n".join(lines)


def summary(table: pd.DataFrame) -> str:
    """Return a sentence on how many claims are for the papers, or against them, under all definitions."""
    judged = table[table["verdict"] != NO_DATA]
    sides = judged["verdict"].isin(("holds", "tendency: for")).groupby([judged[key] for key in KEYS], sort=False)
    several = sides.agg(["size", "nunique"]).query("size > 1")
    return (
        f"{(several['nunique'] == 1).sum()} of {len(several)} claims that were judged under more than one definition "
        "come out the same way, for or against, under all of them"
    )
