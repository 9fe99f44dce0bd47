"""The tables and figures of the comparisons of networks with each other (`distsim pairs`)."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distsim import plotting
from distsim.comparison.pair import Result
from distsim.metrics.jackknife import se_of
from distsim.metrics.registry import in_order
from distsim.results.columns import ADDED, OF_OLD, SIMILARITY_COLUMNS
from distsim.results.iteration_maps import iteration_maps
from distsim.results.layer_figures import similarity_panels
from distsim.results.looks import PANEL_METRICS
from distsim.results.nulls import above_chance
from distsim.results.table_files import read_parquet_bytes, to_csv_bytes, to_parquet_bytes
from distsim.results.tables import summarise
from distsim.results.titles import titles_of
from distsim.specs import NetworkId
from distsim.store import Mark, Pair, SweepStore, fenced
from distsim.store.commits import MARK, undamaged
from distsim.store.described import ComparedLayer
from distsim.store.descriptions import labels_of
from distsim.store.paths import PAIRS
from distsim.store.records import pairs_in, read_record

FOLDER = "pair_results"
Found = dict[tuple[NetworkId, NetworkId, str], dict[str, Result]]  # (x, y, layer) -> metric -> result
FoundSe = Mapping[tuple[NetworkId, NetworkId, str], dict[str, float | None]]  # the same, of standard errors
NUMBERS = ("run_x", "iteration_x", "run_y", "iteration_y")
KEYS = ("complete_x", "control_x", "run_x", "iteration_x", "complete_y", "control_y", "run_y", "iteration_y")
OLD_KEYS = ("run_a", "iteration_a", "run_b", "iteration_b")  # their names before 0.2


@dataclass(frozen=True)
class Asked:
    """What one table of pairs is to hold."""

    plan: str  # a key of `distsim.sweep.pairs.PLANS`
    pairs: Sequence[Pair]
    metrics: Sequence[str]
    layers: Sequence[str] | None = None  # None: all

    def of(self, found: Found) -> Found:
        """Return what is asked for of all results."""
        pairs, metrics = set(self.pairs), set(self.metrics)
        chosen = {
            (x, y, layer): {metric: result for metric, result in results.items() if metric in metrics}
            for (x, y, layer), results in found.items()
            if (x, y) in pairs and (self.layers is None or layer in self.layers)
        }
        return {key: results for key, results in chosen.items() if results}


def write_results(
    store: SweepStore, layers: Sequence[ComparedLayer], asked: Asked
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Write tables and figures of what is asked for into the store, and return the two tables and their folder.

    Each plan has a folder of its own, `pair_results/PLAN`. What other plans wrote stays, unless it was made from values
    that are no longer there.

    pairs  one row per pair, layer and metric: value, rows, columns, ranks, dead channels, warning, reason if missing,
           standard error over examples where that was asked for
    masks  one row per pair and pruned parameter, and one for all of them ("all"): the number of weights alive in both
           networks, in either of them, and their quotient
    """
    marks = {path: mark for what in PAIRS for path, mark in store.pair_marks(what).items()}
    compared = asked.of(found_in(store))
    masks = list(_mask_rows(store, sorted({(x, y) for x, y, _ in compared})))
    table, of_masks = _table(store, layers, compared), _frame(masks, ["place"])
    files: dict[str, bytes] = {}
    for name, frame in (("pairs", table), ("masks", of_masks)):
        files |= {f"{name}.csv": to_csv_bytes(frame), f"{name}.parquet": to_parquet_bytes(frame)}
    labels = labels_of(store, table["metric"] if len(table) else ())
    titles = titles_of([store.identity().problem])
    for name, figure in _figures(store.problem, table, labels=labels, titles=titles).items():
        files |= {f"{name}.{format}": plotting.render(figure, format) for format in plotting.KEPT}
    _replace(store, asked.plan, files, {path: mark.digest for path, mark in marks.items()})
    return table, of_masks, f"{FOLDER}/{asked.plan}"


def table_of(store: SweepStore, layers: Sequence[ComparedLayer], asked: Asked) -> pd.DataFrame:
    """Return the table `pairs` of what is asked for, and write nothing."""
    return _table(store, layers, asked.of(found_in(store)))


def _table(store: SweepStore, layers: Sequence[ComparedLayer], compared: Found) -> pd.DataFrame:
    positions = {layer.name: (position, layer.kind) for position, layer in enumerate(layers)}
    rows, errors = [], se_in(store)
    for (x, y, layer), results in compared.items():
        position, kind = positions[layer]
        row = {"problem": store.problem} | _named(x, y) | {"position": position, "layer": layer, "kind": kind}
        of_pair = errors.get((x, y, layer), {})
        rows += [row | {"metric": metric} | result | {"se": of_pair.get(metric)} for metric, result in results.items()]
    return _frame(rows, ["position", "metric"])


def read_pairs(data: bytes) -> pd.DataFrame:
    """Return the table of a `pairs.parquet` or `masks.parquet`, with the present names of its columns.

    The old names, `run_a`, `iteration_a`, `run_b` and `iteration_b`, can be read for one more release.
    """
    table = read_parquet_bytes(data).rename(columns=dict(zip(OLD_KEYS, NUMBERS, strict=True)))
    lacking = {f"{name}_{side}": OF_OLD[name] for side in "xy" for name in OF_OLD if f"{name}_{side}" not in table}
    return table.assign(**lacking)[[*(["problem"] if "problem" in table else []), *KEYS, *_others(table)]]


def _others(table: pd.DataFrame) -> list[str]:
    return [name for name in table if name not in ("problem", *KEYS)]


def _replace(store: SweepStore, plan: str, files: dict[str, bytes], tiles: dict[str, str]) -> None:
    """Replace the files of a plan. The mark lists the files of all plans and the tiles that they were made from.

    tiles : path -> digest of every tile in the store
    """
    before = undamaged(partial(read_record, store.storage, f"{FOLDER}/{MARK}")) or Mark("", {})
    plans, kept = _kept(before, plan, tiles), {}
    for name, (size, sha256) in before.objects.items():
        if (of_plan := name.split("/")[0]) in plans:
            content = store.storage.get(f"{FOLDER}/{name}", most=size) or b""
            if hashlib.sha256(content).hexdigest() != sha256:  # they can be made again
                plans.pop(of_plan)
            kept[name] = content
    kept = {name: content for name, content in kept.items() if name.split("/")[0] in plans}
    new = kept | {f"{plan}/{name}": content for name, content in files.items()}
    values = {"inputs": tiles, "plans": plans | {plan: tiles}}
    fenced.replace(store.root, f"{store.problem}/{FOLDER}", new, before.objects.keys() - new.keys(), values=values)


def _kept(before: Mark, plan: str, tiles: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return plan -> tiles of the other plans in a mark whose tiles are all as they were.

    Before there were plans in the mark, one table held the pairs of all of them. It is not kept.
    """
    plans = before.values.get("plans", {})
    return {name: made for name, made in plans.items() if name != plan and made.items() <= tiles.items()}


def _figures(problem: str, pairs: pd.DataFrame, **named: Any) -> dict[str, Any]:
    """Draw runs at equal iteration as lines over the layers, and iterations against iterations as a map per metric.

    named : labels of metrics and titles of problems
    """
    drawn: dict[str, Any] = {}
    if pairs.empty:
        return drawn
    one = (pairs["control_x"] == "") & (pairs["control_y"] == "") & (pairs["complete_x"] == pairs["complete_y"])
    pairs = pairs[one]  # figures are of pruned networks, each with its own complete network
    apart = pairs[(pairs["iteration_x"] == pairs["iteration_y"]) & (pairs["run_x"] != pairs["run_y"])]
    if len(apart):
        rows = apart.assign(iteration=apart["iteration_x"].astype("int64"), remaining=np.nan)
        rows = rows.assign(complete=rows["complete_x"].astype("int64"), control="")
        summary, said = summarise(rows), "pairs of runs, mean"
        panels = {
            "runs": [name for name in PANEL_METRICS if name in set(rows["metric"])],
            "runs_more": [name for name in in_order(rows["metric"]) if name not in PANEL_METRICS],
        }
        for name, shown in panels.items():
            if shown:
                drawn[name] = similarity_panels(summary, problem, shown, bands=True, said=said, each="pairs", **named)
    same = pairs[pairs["run_x"].isna() | (pairs["run_x"] == pairs["run_y"])]
    if len(set(zip(same["iteration_x"], same["iteration_y"], strict=True))) > 1 and same["iteration_x"].nunique() > 1:
        for metric in in_order(same["metric"]):
            drawn[f"iterations_{metric}"] = iteration_maps(same, problem, metric, **named)
    return drawn


def as_text(pairs: pd.DataFrame) -> str:
    """Return the quartiles of each metric over pairs and layers, as a table of text.

    It says how many values are missing, and how many carry a warning.
    """
    lines = [f"{'metric':20}  values  missing  warned     q25  median     q75"]
    for metric, rows in pairs.groupby("metric", sort=False):
        low, middle, high = rows["value"].quantile([0.25, 0.5, 0.75])
        missing, warned = int(rows["value"].isna().sum()), int((rows["warning"] != "").sum())
        counts = f"{len(rows):6d}  {missing:7d}  {warned:6d}"
        lines.append(f"{metric:20}  {counts}  {low:6.3f}  {middle:6.3f}  {high:6.3f}")
    if (pairs["warning"] != "").any():
        lines.append("warned: values to be read with care; the column warning of pairs.csv says why.")
    return "\n".join(lines)


def _frame(rows: list[dict[str, Any]], last: list[str]) -> pd.DataFrame:
    if not rows:
        return pd.DataFrame()
    types = {name: "str" if name.startswith("control") else "Int64" for name in KEYS}
    table = pd.DataFrame.from_records(rows).astype(types)
    if "value" in table:
        optional = ("value", "rank_x", "rank_y", *(name for name in ADDED if name in table))
        table = table.astype({name: SIMILARITY_COLUMNS[name] for name in optional})  # None becomes missing
        table = above_chance(table) if "null" in table else table
        table = table[["problem", *KEYS, *(name for name in SIMILARITY_COLUMNS if name in _others(table))]]
    return table.sort_values([*KEYS, *last], kind="stable", na_position="first").reset_index(drop=True)


def _named(x: NetworkId, y: NetworkId) -> dict[str, Any]:
    sides = {"x": x, "y": y}
    names = ("complete", "control", "run", "iteration")
    return {f"{name}_{side}": getattr(network, name) for side, network in sides.items() for name in names}


def _mask_rows(store: SweepStore, pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    masks = {network: _masks(store, network) for network in {network for pair in pairs for network in pair}}
    for x, y in pairs:
        counts = {n: (_ones(mask & masks[y][n]), _ones(mask | masks[y][n])) for n, mask in sorted(masks[x].items())}
        counts["all"] = sum(both for both, _ in counts.values()), sum(either for _, either in counts.values())
        for place, (name, (both, either)) in enumerate(counts.items()):
            row = {"problem": store.problem} | _named(x, y) | {"place": place, "parameter": name}
            yield row | {"both": both, "either": either, "jaccard": jaccard(both, either)}


def _masks(store: SweepStore, network: NetworkId) -> dict[str, NDArray[np.uint8]]:
    return {name: np.packbits(mask.numpy().astype(bool)) for name, mask in store.load_masks(network).items()}


def _ones(bits: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def jaccard(both: int, either: int) -> float:
    """Return |A ∩ B| / |A ∪ B|; NaN if nothing is alive in either."""
    return both / either if either else float("nan")


def found_in(store: SweepStore) -> Found:
    """Return all results that are committed. If a metric was computed twice, its first result counts."""
    results_of: Found = {}
    for mark in store.pair_marks().values():
        for x, y, results in pairs_in(mark.values):
            of_pair = results_of.setdefault((x, y, mark.values["layer"]), {})
            for metric, result in results.items():
                of_pair.setdefault(metric, result)
    return results_of


def se_in(store: SweepStore) -> FoundSe:
    """Return all standard errors over examples that are committed, None where one cannot be given.

    If one was computed twice, the first counts.
    """
    errors: dict[tuple[NetworkId, NetworkId, str], dict[str, float | None]] = {}
    for mark in store.pair_marks("pairs_se").values():
        for x, y, results in pairs_in(mark.values):
            of_pair = errors.setdefault((x, y, mark.values["layer"]), {})
            for metric, without in results.items():
                of_pair.setdefault(metric, se_of(without["values"]))
    return errors
