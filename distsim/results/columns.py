"""The columns of a study's tables, and how tables that an earlier version wrote get them."""

from typing import Any

import pandas as pd

SIMILARITY_COLUMNS = {
    "problem": "str",
    "complete": "int64",  # number of the complete network
    "control": "str",  # retrain | random; "" of pruned networks
    "run": "int64",
    "iteration": "int64",  # from 1
    "remaining": "float64",  # alive / all parameters
    "remaining_pool": "float64",  # alive / prunable parameters
    "position": "int64",  # of the layer, input to output, from 0
    "layer": "str",
    "kind": "str",  # conv | conv_res | pool | add | fc | out
    "metric": "str",
    "value": "float64",  # NaN: missing
    "n": "int64",  # rows the metric saw
    "columns_x": "int64",  # x is the complete network, y the pruned one
    "columns_y": "int64",
    "n_per_p": "float64",  # rows / columns of the wider side
    "warning": "str",  # what to know when reading the value; "" if nothing
    "rank_x": "Int64",  # independent columns that a metric over channels saw; <NA> for other metrics
    "rank_y": "Int64",
    "dead_x": "int64",
    "dead_y": "int64",
    "reason": "str",  # why the value is missing; "" if it is not
    "k_x": "Int64",  # directions that SVCCA keeps; <NA> for other metrics
    "k_y": "Int64",
    "effective_rank_x": "float64",  # participation ratio of the channels' variances; NaN where rank_x is <NA>
    "effective_rank_y": "float64",
    "lower": "float64",  # bounds of NBS from a card with full-rate float64; NaN where eigenvalues gave the value
    "upper": "float64",
    "null": "float64",  # the similarity by chance (distsim.results.nulls); NaN: not known
    "null_sd": "float64",
    "z": "float64",  # (value - null)/null_sd
    "calibrated": "float64",  # (value - null)/(1 - null)
    "null_of": "str",  # the network whose examples were permuted, as run=3,iteration=7; "" where there is no null
    "se": "float64",  # standard error of the value over examples (distsim.metrics.jackknife); NaN: not measured
}
ADDED: dict[str, Any] = {  # columns that values written by earlier versions lack, with what stands there instead
    **dict.fromkeys(("k_x", "k_y", "effective_rank_x", "effective_rank_y", "lower", "upper")),
    **dict.fromkeys(("null", "null_sd", "z", "calibrated")),
    "null_of": "",
    "se": None,
}
RANKS = ("rank_x", "rank_y")  # stores written before 0.2 have them in every row, whatever the metric
NETWORK_COLUMNS = {
    "problem": "str",
    "complete": "int64",
    "control": "str",
    "run": "Int64",  # <NA>: the complete network
    "iteration": "int64",  # 0: the complete network
    "remaining": "float64",
    "remaining_pool": "float64",
    "accuracy": "float64",  # on the test set, 0..1
    "loss": "float64",
    "epochs": "int64",  # trained
    "reduced": "bool",
}
WHOSE = ("problem", "complete", "control")
_PLACE = ("problem", "complete", "control", "run", "iteration", "position", "layer", "kind", "metric")
CHANCE_COLUMNS = {name: SIMILARITY_COLUMNS[name] for name in _PLACE} | {
    "permutation": "int64",  # of the pruned network's examples, from 0; the same for all networks
    "value": "float64",
    "reason": "str",
}
STATISTICS = {
    "remaining": "float64",  # median
    "count": "int64",  # values that the statistics are computed from
    "missing": "int64",
    "mean": "float64",
    "sd": "float64",  # n - 1 in the denominator; NaN if count < 2
    "median": "float64",
    "q05": "float64",
    "q25": "float64",
    "q75": "float64",
    "q95": "float64",
    "ci_low": "float64",  # 95 % interval of the median; below ENOUGH values their range, below 2 NaN
    "ci_high": "float64",
}
SUMMARY_COLUMNS = {
    "problem": "str",
    "complete": "int64",  # number of complete networks that the values come from; of 1 they say nothing of others
    "control": "str",
    "metric": "str",
    "layer": "str",
    "kind": "str",
    "position": "int64",
    "iteration": "int64",
    **STATISTICS,
    "warned": "int64",  # values among `count` that carry a warning
    "se": "float64",  # median of the values' standard errors over examples; NaN: not measured
}
ACCURACY_COLUMNS = {"problem": "str", "complete": "int64", "control": "str", "iteration": "int64", **STATISTICS}
ALL_CLASSES = ""  # the class that stands for all test images
FUNCTIONAL_COLUMNS = {
    "problem": "str",
    "complete": "int64",
    "control": "str",
    "run": "int64",
    "iteration": "int64",  # from 1
    "remaining": "float64",
    "remaining_pool": "float64",
    "class": "str",  # of the images, by their labels; "": all
    "n": "int64",  # images
    "agreement": "float64",  # share of images with the complete network's prediction
    "churn": "float64",  # share of images with another prediction: 1 - agreement
    "jsd": "float64",  # mean Jensen–Shannon divergence of the softmax outputs, in bits, 0..1
    "lost": "float64",  # share of images that only the complete network gets right
    "won": "float64",  # share of images that only the pruned network gets right
}
FUNCTIONAL_SUMMARY_COLUMNS = {
    "problem": "str",
    "complete": "int64",
    "control": "str",
    "measure": "str",
    "class": "str",
    "iteration": "int64",
    **STATISTICS,
}
REFERENCE_COLUMNS = {
    "problem": "str",
    "complete_x": "int64",  # numbers of the two complete networks
    "complete_y": "int64",
    "position": "int64",
    "layer": "str",
    "kind": "str",
    "metric": "str",
    "value": "float64",
    "warning": "str",
    "reason": "str",
}
COLUMNS = {
    "results": SIMILARITY_COLUMNS,
    "networks": NETWORK_COLUMNS,
    "summary": SUMMARY_COLUMNS,
    "accuracy": ACCURACY_COLUMNS,
    "chance": CHANCE_COLUMNS,
    "functional": FUNCTIONAL_COLUMNS,
    "functional_summary": FUNCTIONAL_SUMMARY_COLUMNS,
    "reference": REFERENCE_COLUMNS,
}
TABLES = tuple(COLUMNS)
OF_OLDER = TABLES[:5]  # those that every version has written
SUMMARIES = ("summary", "accuracy", "functional_summary")
# What stands in the columns that say whose a row is, where an earlier version wrote the table.
OF_OLD: dict[str, Any] = {"complete": 0, "control": ""}


def completed(table: pd.DataFrame, name: str = "results") -> pd.DataFrame:
    """Return a table that an earlier version wrote, with the columns that it lacks. They are empty.

    name : of `TABLES`. Rows of summaries are then of one complete network.
    """
    expected = COLUMNS[name]
    missing, places = set(expected) - set(table.columns), list(expected)
    columns = list(table.columns)  # a published study's table has more than those of a store
    for column in filter(missing.__contains__, expected):
        columns.insert(columns.index(places[places.index(column) - 1]) + 1, column)
    instead = ADDED | OF_OLD | ({"complete": 1, "warned": 0} if name in SUMMARIES else {})
    filled = {column: instead[column] for column in missing if instead.get(column) is not None}
    return table.reindex(columns=columns).assign(**filled).astype({column: expected[column] for column in missing})
