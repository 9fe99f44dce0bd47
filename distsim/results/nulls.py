"""What each similarity is by chance, beside it.

    null        the mean similarity over permutations of the pruned network's examples
    null_sd     its standard deviation over permutations
    z           (value - null)/null_sd
    calibrated  (value - null)/(1 - null): 0 at chance level, 1 for equal sides
    null_of     the network whose examples were permuted: the row's own, or that of another run at the same iteration

For CKA, biased and unbiased, mean and deviation over all permutations are known in closed form (distsim.metrics.null).
For the other metrics they are those of the permutations in the table `chance`.
"""

import numpy as np
import pandas as pd

from distsim.metrics.null import FULL, PERMUTED
from distsim.metrics.registry import BUILT_IN

__all__ = ["CALIBRATED", "PERMUTED", "above_chance", "with_nulls"]
# Only a similarity that is 1 for equal sides can be calibrated. Of a script's own metric that is not known everywhere.
CALIBRATED = tuple(name for name, metric in BUILT_IN.items() if metric.bounds[1] == 1)


def with_nulls(similarities: pd.DataFrame, chance: pd.DataFrame) -> pd.DataFrame:
    """Return the table of similarities with the five columns above filled in. They are empty where nothing is known.

    similarities : with `null` and `null_sd` where they are known in closed form; chance : the table of that name
    """
    closed = similarities["null"].notna() & (similarities["null_of"] == "")
    known = closed | (similarities["null_of"] != "")  # filled in already
    permuted = _by_permutation(similarities, chance)
    table = similarities.assign(
        null=similarities["null"].where(known, permuted["null"]),
        null_sd=similarities["null_sd"].where(known, permuted["null_sd"]),
        null_of=similarities["null_of"].where(~closed, _label(similarities)).where(known, permuted["null_of"]),
    )
    return above_chance(table)


def above_chance(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with `z` and `calibrated`, from `value`, `null` and `null_sd`."""
    above = table["value"] - table["null"]
    room = (table["null"] <= FULL) & table["metric"].isin(CALIBRATED)
    return table.assign(
        z=(above / table["null_sd"]).where(table["null_sd"] > 0),
        calibrated=(above / (1 - table["null"])).where(room),
    )


def _by_permutation(similarities: pd.DataFrame, chance: pd.DataFrame) -> pd.DataFrame:
    """Return null, null_sd and null_of of each row of similarities from permutations; missing where there are none."""
    whose = ("complete", "control", "problem", "iteration", "layer", "metric")
    keys = [name for name in whose if name in similarities]
    levels = chance.dropna(subset="value").groupby([*keys, "run"])["value"].agg(["mean", "std", "count"]).reset_index()
    levels = levels.sort_values([*keys, "run"], kind="stable").drop_duplicates(keys)  # of the first run that has any
    levels = levels.assign(
        null=levels["mean"],
        null_sd=levels["std"].where(levels["count"] >= PERMUTED),
        null_of=_label(levels),
    )
    found = similarities[keys].merge(levels[[*keys, "null", "null_sd", "null_of"]], on=keys, how="left")
    found.index = similarities.index
    return found.assign(null_of=found["null_of"].fillna("").astype(similarities["null_of"].dtype))


def _label(rows: pd.DataFrame) -> pd.Series:
    """Return each row's network as `distsim.specs.NetworkId` writes it in arguments."""
    if rows.empty:
        return pd.Series(np.array([], dtype=object), rows.index, dtype="str")
    label = "run=" + rows["run"].astype("str") + ",iteration=" + rows["iteration"].astype("str")
    if "control" in rows:
        of_control = "control=" + rows["control"].astype("str") + ","
        label = of_control.where(rows["control"] != "", "") + label
    if "complete" in rows:
        of_complete = ",complete=" + rows["complete"].astype("str")
        label += of_complete.where(rows["complete"] != 0, "")
    return label.astype("str")
