"""How metrics and kinds of layers look in figures, and what figures call them and the runs that they show."""

from collections.abc import Mapping
from itertools import cycle

import pandas as pd

from distsim.metrics.registry import METRICS, in_order

PANEL_METRICS = ("svcca", "pwcca", "cka", "nbs")  # in P2's figures; all other metrics are drawn separately
# Okabe & Ito's palette, which people with colour blindness can tell apart; the markers differ too
METRIC_LOOKS = {
    "svcca": ("#0072B2", "o"),
    "pwcca": ("#56B4E9", "s"),
    "cka": ("#D55E00", "^"),
    "nbs": ("#E69F00", "D"),
    "cosine": ("#009E73", "v"),
}
OTHER_LOOKS = (("#CC79A7", "P"), ("#000000", "X"), ("#808080", "*"), ("#F0E442", "p"))
KINDS = {  # of layers: marker, name; those of the report
    "conv": ("o", "convolution"),
    "conv_res": ("^", "convolution in a residual branch"),
    "add": ("D", "residual sum"),
    "pool": ("s", "pooling"),
    "fc": ("P", "linear"),
    "out": ("*", "output"),
    "other": ("X", "other"),
}
MAIN_COLOUR = "#0072B2"  # of what has no metric
Labels = Mapping[str, str]  # metric -> label; the registry has the labels of metrics that are left out


def label(metric: str, labels: Labels | None = None) -> str:
    """Return a metric's label: from `labels`, else from the registry, else its name."""
    return (labels or {}).get(metric) or (metric in METRICS and METRICS[metric].label) or metric


def bounds(metric: str) -> tuple[float, float]:
    """Return between which numbers a metric's values lie; of an unknown metric infinite ones."""
    return METRICS[metric].bounds if metric in METRICS else (-float("inf"), float("inf"))


def metric_looks(metrics: pd.Series) -> dict[str, tuple[str, str]]:
    """Return colour and marker of the papers' metrics, and of the others that are there."""
    others = [metric for metric in in_order(metrics) if metric not in METRIC_LOOKS]
    return METRIC_LOOKS | dict(zip(others, cycle(OTHER_LOOKS)))


def runs(rows: pd.DataFrame) -> list[int]:
    """Return the number of runs of each problem in a summary, or in accuracies."""
    of_runs = rows[rows["iteration"] > 0]
    return list((of_runs["count"] + of_runs["missing"]).groupby(of_runs["problem"]).max())


def over_runs(rows: pd.DataFrame, statistic: str) -> str:
    """Say over how many runs a statistic is: "one run", "median of 20 runs", of unequal numbers "median of runs"."""
    numbers = set(runs(rows))
    if numbers <= {1}:
        return "one run"
    return f"{statistic} of {numbers.pop()} runs" if len(numbers) == 1 else f"{statistic} of runs"
