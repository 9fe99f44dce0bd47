"""The summary of sensitivity.py's long table: how far each choice moves values, and whether it moves conclusions."""

import numpy as np
import pandas as pd
from report import Table

from distsim.results.claims.study import spearman

STUDY = "the study"  # the study's own choices


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each metric and choice, from the long table.

    values, undefined         numbers of differences, and of values without one
    median, largest, where    of |difference|
    order                     Spearman's rank correlation of the layers' values under the study's choice and under this
                              one, the least over runs and iterations; nan below three layers
    fall, fall_study          median, over runs and layers that have the choice, of the first iteration's value minus
                              the last one's
    turned                    number of these runs and layers in which the fall has another sign

    In `order` a layer without the choice counts with the study's value.
    """
    key = ["run", "iteration", "layer"]
    found = []
    for (metric, choice), of in rows.groupby(["metric", "choice"], sort=False):
        study = rows[(rows["metric"] == metric) & (rows["choice"] == STUDY)].set_index(key)["value"]
        there = of.set_index(key)["value"]
        if choice != STUDY:  # only what this choice has been measured for so far
            study = study[study.index.droplevel("layer").isin(there.index.droplevel("layer"))]
        value = there.reindex(study.index).where(study.index.isin(there.index), study)
        sizes = of["difference"].abs().dropna()
        largest = of.loc[sizes.idxmax()] if len(sizes) else None
        falls = pd.DataFrame({"study": _falls(study), "choice": _falls(there)}).dropna()
        found.append(
            {
                "metric": metric,
                "choice": choice,
                "values": len(sizes),
                "undefined": int(of["value"].isna().sum()),
                "median": sizes.median(),
                "largest": sizes.max(),
                "where": "" if largest is None else f"{largest['layer']}, {largest['iteration']}",
                "order": _least_order(study, value),
                "fall_study": falls["study"].median(),
                "fall": falls["choice"].median(),
                "turned": int((np.sign(falls["study"]) != np.sign(falls["choice"])).sum()),
            }
        )
    return pd.DataFrame(found)


def _least_order(study: pd.Series, value: pd.Series) -> float:
    pairs = pd.DataFrame({"study": study, "value": value}).dropna()
    orders = [spearman(of["study"], of["value"]) for _, of in pairs.groupby(["run", "iteration"]) if len(of) > 2]
    return float(np.min(orders)) if orders else float("nan")


def _falls(values: pd.Series) -> pd.Series:
    """Return the first iteration's value minus the last one's, by run and layer, where both are defined."""
    table = values.unstack("iteration").sort_index(axis=1)
    return (table.iloc[:, 0] - table.iloc[:, -1]).dropna() if table.shape[1] > 1 else pd.Series(dtype=float)


def as_table(summary: pd.DataFrame) -> Table:
    """Return the summary as a table for a document. Differences are absolute."""
    table = Table(
        (
            *("metric", "choice", "values", "median difference", "largest", "layer, iteration"),
            *("order of layers, least Spearman", "fall", "the study's fall", "falls that turn"),
        )
    )
    for _, row in summary.iterrows():
        values = f"{row['values']}" + (f" ({row['undefined']} undefined)" if row["undefined"] else "")
        texts = [_text(row[name]) for name in ("median", "largest", "order", "fall", "fall_study")]
        table.add(
            *(row["metric"], row["choice"], values, texts[0], texts[1], row["where"]),
            *(texts[2], texts[3], texts[4], str(row["turned"])),
        )
    return table


def _text(value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.0e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"
