"""The tables of a study: measured values, and their statistics over runs.

    similarities   one row per (problem, run, iteration, layer, metric)
    networks       one row per trained network; the complete one has iteration 0 and no run
    summary        similarities over runs: one row per (problem, metric, layer, iteration)
    accuracy       test accuracy over runs: one row per (problem, iteration)
    chance         similarities with the pruned network's examples permuted: the chance level
    functional     how predictions for the test images differ from the complete network's: one row per pruned network
                   and class
    functional_summary   the same over runs: one row per (problem, measure, class, iteration)
    reference      similarities of complete networks with each other, where a study has several: the reference level

Each row is of pruned networks, or of a control (the column `control`). Statistics never mix the two. A study of several
complete networks has runs of each: then bands are over all of their runs, and intervals say how sure a median is of
complete networks, not of one.

A value that could not be computed is NaN in every table. It is counted (`missing`) and never filled in.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from distsim.metrics.functional import MEASURES
from distsim.metrics.registry import in_order
from distsim.results.columns import (
    ACCURACY_COLUMNS,
    ADDED,
    ALL_CLASSES,
    CHANCE_COLUMNS,
    FUNCTIONAL_COLUMNS,
    FUNCTIONAL_SUMMARY_COLUMNS,
    NETWORK_COLUMNS,
    OF_OLD,
    REFERENCE_COLUMNS,
    SIMILARITY_COLUMNS,
    STATISTICS,
    SUMMARY_COLUMNS,
    TABLES,
    WHOSE,
)
from distsim.results.nulls import with_nulls
from distsim.seeds import numpy_stream

QUANTILES = (0.05, 0.25, 0.75, 0.95)
RESAMPLES = 1000  # of the bootstrap
CONFIDENCE = 0.95
# Values from which on the bootstrap's interval of a median is given. The whole range of n values covers the median with
# probability 1 - 2^(1-n): 50, 75, 88 and 94 % for 2 to 5. No interval within it can reach 95 %.
ENOUGH = 6


@dataclass(frozen=True)
class Tables:
    """All tables from which figures are drawn and claims are judged."""

    similarities: pd.DataFrame
    networks: pd.DataFrame
    summary: pd.DataFrame
    accuracy: pd.DataFrame
    chance: pd.DataFrame = field(default_factory=lambda: chance_table([]))
    functional: pd.DataFrame = field(default_factory=lambda: functional_table([]))
    functional_summary: pd.DataFrame = field(default_factory=lambda: _frame([], FUNCTIONAL_SUMMARY_COLUMNS))
    reference: pd.DataFrame = field(default_factory=lambda: reference_table([]))

    @property
    def by_name(self) -> dict[str, pd.DataFrame]:
        """Return the tables by the names of their files, in the order of `TABLES`."""
        frames = self.similarities, self.networks, self.summary, self.accuracy, self.chance
        others = self.functional, self.functional_summary, self.reference
        return dict(zip(TABLES, (*frames, *others), strict=True))

    @classmethod
    def named(cls, frames: Mapping[str, pd.DataFrame]) -> "Tables":
        """Make the set of tables from those that have these names. Tables that are left out are empty."""
        return cls(**{"similarities" if name == "results" else name: frame for name, frame in frames.items()})

    @cached_property
    def pruned(self) -> "Tables":
        """Return the tables without the rows of controls."""
        return self.of_control("")

    @cached_property
    def retrained(self) -> "Tables":
        """Return the tables of the control that is retrained without pruning only."""
        return self.of_control("retrain")

    def of_control(self, control: str) -> "Tables":
        """Return the tables with the rows of this control only. "": of pruned and complete networks"""
        return Tables(*(_of_control(frame, control) for frame in self.by_name.values()))

    @classmethod
    def of(
        cls,
        similarities: pd.DataFrame,
        networks: pd.DataFrame,
        seed: int = 0,
        chance: pd.DataFrame | None = None,
        functional: pd.DataFrame | None = None,
        reference: pd.DataFrame | None = None,
    ) -> "Tables":
        """Make the set of tables from the measured ones, adding their summaries and what values are by chance.

        seed : of the bootstrap
        """
        chance = chance_table([]) if chance is None else chance
        functional = functional_table([]) if functional is None else functional
        reference = reference_table([]) if reference is None else reference
        summaries = summarise(similarities, seed), summarise_accuracy(networks, seed)
        of_functions = functional, summarise_functional(functional, seed)
        return cls(with_nulls(similarities, chance), networks, *summaries, chance, *of_functions, reference)


def _of_control(frame: pd.DataFrame, control: str) -> pd.DataFrame:
    if "control" not in frame:
        return frame
    own = frame["control"] == control
    return frame if own.all() else frame[own]


def long_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the table of similarities, with fixed columns, dtypes and order, whatever the order of the rows is.

    Rows may lack the columns in `ADDED`, whose values are then missing, and those in `OF_OLD`.
    ValueError: a row lacks or adds a column, or a (problem, complete, control, run, iteration, layer, metric) repeats.
    """
    filled = ({**ADDED, **row} for row in rows)
    return _table(filled, SIMILARITY_COLUMNS, [*WHOSE, "run", "iteration", "layer", "metric"])


def network_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the table of networks, each problem's complete network first. ValueError: as in `long_table`."""
    return _table(rows, NETWORK_COLUMNS, [*WHOSE, "run", "iteration"])


def chance_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the table of similarities with permuted examples. ValueError: as in `long_table`."""
    return _table(rows, CHANCE_COLUMNS, [*WHOSE, "run", "iteration", "layer", "metric", "permutation"])


def reference_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the table of similarities of complete networks with each other. ValueError: as in `long_table`."""
    return _table(rows, REFERENCE_COLUMNS, ["problem", "complete_x", "complete_y", "layer", "metric"])


def reference_level(reference: pd.DataFrame) -> pd.DataFrame:
    """Return the smallest, median and largest similarity of two complete networks, by (problem, metric, layer)."""
    return _levels(reference)


def functional_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the table of functional similarity. ValueError: as in `long_table`."""
    return _table(rows, FUNCTIONAL_COLUMNS, [*WHOSE, "run", "iteration", "class"])


def chance_level(chance: pd.DataFrame) -> pd.DataFrame:
    """Return the smallest, median and largest chance similarity, one row per (problem, metric, layer)."""
    return _levels(chance)


def _levels(table: pd.DataFrame) -> pd.DataFrame:
    keys = ["problem", "metric", "layer"]
    levels = table.groupby(keys, sort=False)["value"].agg(low="min", median="median", high="max").reset_index()
    return levels.merge(table[[*keys, "position"]].drop_duplicates(), on=keys)


def summarise(similarities: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Compute statistics over runs, one row per (problem, control, metric, layer, iteration).

    Each group has its own random stream for the bootstrap, so neither other groups nor the order of rows change it.
    """
    keys = ["problem", "control", "metric", "layer", "iteration"]
    rows = []
    for named, group in _groups(_with_whose(similarities), keys):
        of_control = [named["control"]] if named["control"] else []
        names = named["problem"], *of_control, named["metric"], named["layer"], int(named["iteration"])
        there = ~np.isnan(group["value"])
        placed = {"kind": group["kind"][0], "position": group["position"][0]}
        warned = {"warned": np.count_nonzero(group["warning"][there] != "")}
        se = {"se": _median(group["se"]) if "se" in group else np.nan}
        statistics = _statistics(group["value"], group, numpy_stream(seed, "bootstrap", *names))
        rows.append(named | placed | statistics | warned | se)
    return sorted_by(_frame(rows, SUMMARY_COLUMNS), ["problem", "control", "metric", "position", "iteration"])


def summarise_accuracy(networks: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Compute statistics of test accuracy over runs, one row per (problem, control, iteration).

    Iteration 0 is the complete network, or all of them.
    """
    keys = ["problem", "control", "iteration"]
    rows = []
    for named, group in _groups(_with_whose(networks), keys):
        of_control = [named["control"]] if named["control"] else []
        rng = numpy_stream(seed, "bootstrap", named["problem"], *of_control, "accuracy", int(named["iteration"]))
        rows.append(named | _statistics(group["accuracy"], group, rng))
    return sorted_by(_frame(rows, ACCURACY_COLUMNS), keys)


def _with_whose(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the columns that say whose they are, as of earlier versions where they lack them."""
    return rows.assign(**{name: of for name, of in OF_OLD.items() if name not in rows})


def summarise_functional(functional: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Compute statistics over runs of each measure of all test images, and of each class's churn.

    One row per (problem, control, measure, class, iteration).
    """
    keys = ["problem", "control", "class", "iteration"]
    rows = []
    for named, group in _groups(_with_whose(functional), keys):
        name, of_control = named["class"], [named["control"]] if named["control"] else []
        for measure in MEASURES if name == ALL_CLASSES else ("churn",):
            names = named["problem"], *of_control, "functional", measure, name, int(named["iteration"])
            statistics = _statistics(group[measure], group, numpy_stream(seed, "bootstrap", *names))
            rows.append(named | {"measure": measure} | statistics)
    return sorted_by(_frame(rows, FUNCTIONAL_SUMMARY_COLUMNS), ["problem", "control", "measure", "class", "iteration"])


def few(rows: pd.DataFrame) -> pd.Series:
    """Say for each row of a summary, or of accuracies, whether it rests on fewer runs than its problem has.

    A problem, and each of its controls, has as many runs as its best covered row. Iteration 0 has one network of each
    complete one.
    """
    whose = [rows["problem"], rows["control"]]
    runs = (rows["count"] + rows["missing"]).groupby(whose).transform("max")
    return (rows["count"] < runs) & (rows["iteration"] > 0)


def _frame(rows: Iterable[Mapping[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    records = []
    of_old = {name: value for name, value in OF_OLD.items() if name in columns}
    for given in rows:
        row = {**of_old, **given}
        if row.keys() != columns.keys():
            missing, unknown = columns.keys() - row.keys(), row.keys() - columns.keys()
            raise ValueError(f"row: lacks the columns {sorted(missing)} and adds {sorted(unknown)}: {dict(row)}")
        records.append(row)
    return pd.DataFrame.from_records(records, columns=list(columns)).astype(columns)


def _table(rows: Iterable[Mapping[str, Any]], columns: dict[str, str], keys: list[str]) -> pd.DataFrame:
    """Make a table in the order of its keys, layers by their positions. ValueError: the keys of a row repeat."""
    frame = _frame(rows, columns)
    repeated = frame[frame.duplicated(keys)]
    if len(repeated):
        example = ", ".join(f"{key} {repeated[key].iloc[0]}" for key in keys)
        raise ValueError(f"{len(repeated)} rows are duplicates, the first of {example}")
    return sorted_by(frame, ["position" if key == "layer" else key for key in keys])


def sorted_by(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Sort by `keys`, missing values first, metrics in the order of the registry."""
    rank: dict[str, int] = {}
    if "metric" in frame:
        rank = {name: at for at, name in enumerate(in_order(frame["metric"]))}
    by_rank = frame.assign(metric=frame["metric"].map(rank)) if "metric" in frame else frame
    order = by_rank.reset_index(drop=True).sort_values(keys, kind="stable", na_position="first").index
    return frame.iloc[order].reset_index(drop=True)


def _groups(frame: pd.DataFrame, keys: list[str]) -> Iterator[tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]]:
    """Yield what identifies each group of rows, with its number of complete networks, and its columns as arrays.

    A table has thousands of groups of a few rows each; as tables of their own they would take ten times as long.
    """
    number = frame.groupby(keys, sort=False).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    order = order[np.count_nonzero(number < 0) :]  # those are of rows without a key
    columns = {name: frame[name].to_numpy()[order] for name in frame}
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    ends = [*starts[1:], len(order)] if len(starts) else []
    for start, end in zip(starts, ends, strict=True):
        group = {name: column[start:end] for name, column in columns.items()}
        yield {key: group[key][0] for key in keys} | {"complete": len(np.unique(group["complete"]))}, group


def _median(values: npt.NDArray[np.float64]) -> float:
    there = values[~np.isnan(values)]
    return float(np.median(there)) if len(there) else np.nan


def _statistics(
    values: npt.NDArray[np.float64], group: Mapping[str, npt.NDArray[Any]], rng: np.random.Generator
) -> dict[str, Any]:
    """Return the statistics of a column of a group of rows, one row for each run."""
    there = ~np.isnan(values)
    present = np.sort(values[there])  # sorted: the bootstrap must not depend on the order
    count = len(present)
    result = dict.fromkeys(STATISTICS, np.nan)
    result |= {"remaining": float(np.median(group["remaining"])), "count": count, "missing": len(values) - count}
    if count:
        result |= {"mean": present.mean(), "median": np.median(present)}
        result |= dict(zip(("q05", "q25", "q75", "q95"), np.quantile(present, QUANTILES), strict=True))
    if count > 1:
        result["sd"] = present.std(ddof=1)
        complete = group["complete"][there]
        by_complete = [np.sort(values[there][complete == one]) for one in np.unique(complete)]
        result["ci_low"], result["ci_high"] = _median_interval(present, by_complete, rng)
    return result


def _median_interval(
    values: npt.NDArray[np.float64], by_complete: list[npt.NDArray[np.float64]], rng: np.random.Generator
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the median (Efron 1979), with probability `CONFIDENCE`.

    by_complete : the values of each complete network; of several, complete networks are drawn and then their runs.
        Where what is drawn first is less than `ENOUGH`, the interval is the range of the values.
    """
    several = len(by_complete) > 1
    if len(by_complete if several else values) < ENOUGH:
        return float(values[0]), float(values[-1])
    if several:
        drawn = rng.integers(len(by_complete), size=(RESAMPLES, len(by_complete)))
        medians = [
            np.median(np.concatenate([rng.choice(by_complete[k], len(by_complete[k])) for k in ks])) for ks in drawn
        ]
    else:
        medians = list(np.median(values[rng.integers(len(values), size=(RESAMPLES, len(values)))], axis=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, (tail, 1 - tail))
    return float(low), float(high)


def runs_of(rows: pd.DataFrame) -> list[str]:
    """Return the columns that name a run."""
    return [name for name in ("complete", "control", "run") if name in rows]
