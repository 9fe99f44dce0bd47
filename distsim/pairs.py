"""A store's networks against each other: which pairs, in which portions, at what cost, and the table of what came out.

A plan is a list of pairs of networks; each pair is compared layer by layer. Pairs are done in tiles of a few networks
that are read together, each once, so that reading grows with networks and not with pairs. Masks are compared by their
Jaccard similarity, |A ∩ B| / |A ∪ B| of the parameters that are alive.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distsim import figures
from distsim.activations import layer_shapes
from distsim.comparison import applicable
from distsim.cost import Cost, layer_cost, product_rate
from distsim.models import Layer, build
from distsim.statistics import COLUMNS, free_memory
from distsim.store import Mark, NetworkId, SweepStore, network_label
from distsim.store.commits import MARK
from distsim.summary import SIMILARITY_COLUMNS, summarise, to_csv_bytes, to_parquet_bytes
from distsim.sweep import Engine, Order
from distsim.training import threads
from distsim.work import Pair, PairJob

PLANS = {
    "complete": "the complete network with every other",
    "runs": "run with run at equal iteration",
    "iterations": "iteration with iteration of the same run, the complete network being iteration 0",
    "all": "every network with every other",
}
FOLDER = "pair_results"

Found = dict[tuple[NetworkId, NetworkId, str], dict[str, Any]]  # (a, b, layer) -> metric -> result


def planned(plan: str, networks: Iterable[NetworkId]) -> list[Pair]:
    """The plan's pairs (a, b) of these networks, a before b: the complete one first, then by run and iteration."""
    if plan not in PLANS:
        raise ValueError(f"there is no plan {plan!r}; there are {', '.join(PLANS)}")
    ordered = sorted(networks, key=_order)
    every = itertools.combinations(ordered, 2)
    if plan == "complete":
        return [(a, b) for a, b in every if a is None]
    if plan == "runs":
        return [(a, b) for a, b in every if a is not None and b is not None and a[1] == b[1]]
    if plan == "iterations":
        return [(a, b) for a, b in every if b is not None and (a is None or a[0] == b[0])]
    return list(every)


def tiles(pairs: Sequence[Pair], limit: int) -> Iterator[list[Pair]]:
    """The pairs in portions that name at most `limit` networks, at least 2; all of a plan's together where they can be.

    What hangs together, as the runs at one iteration do, is one tile or, if it is too large, cut into groups of half
    the limit, of which each two are a tile: N networks are then read about N / (limit / 2) times each.
    """
    half = max(1, limit // 2)
    for part in _components(pairs):
        members = sorted({network for pair in part for network in pair}, key=_order)
        if len(members) <= max(2, limit):
            yield part
            continue
        group = {network: place // half for place, network in enumerate(members)}
        last = max(group.values())
        portions: dict[tuple[int, int], list[Pair]] = {}
        for a, b in part:
            first, second = sorted((group[a], group[b]))
            # pairs within a group are done where it meets its neighbour
            key = (first, second) if first != second else (first, first + 1) if first < last else (first - 1, first)
            portions.setdefault(key, []).append((a, b))
        yield from (portions[key] for key in sorted(portions))


def tile_limit(shape: tuple[int, ...], memory: float) -> int:
    """How many networks' statistics of a layer fit into so many bytes, with what is needed beside them; at least 2."""
    n, p = shape[0], int(np.prod(shape[1:]))
    wide = p >= n
    shared = 5 * 8 * n**2 if wide else 3 * 8 * p**2
    # the Gram matrix and its factor, or the features; a panel as stored and a slab of it centred
    each = (2 * 8 * n**2 if wide else 8 * n * p) + 8 * n * min(p, 2 * COLUMNS)
    return max(2, int((memory - shared) / each))


def jobs(
    problem: str,
    pairs: Sequence[Pair],
    layers: Mapping[Layer, tuple[int, ...]],
    metrics: tuple[str, ...],
    there: Found,
    memory: float,
) -> list[PairJob]:
    """What of the plan is not there yet. layers : with their shapes (n, ...); memory : bytes of one job."""
    found = []
    for layer, shape in layers.items():
        wanted = applicable(metrics, layer.kind)
        if not wanted:
            continue
        missing = [pair for pair in pairs if not set(wanted) <= there.get((*pair, layer.name), {}).keys()]
        for tile in tiles(missing, tile_limit(shape, memory)):
            found.append(PairJob(problem, layer.name, tuple(tile), wanted))
    return found


def cost(todo: Iterable[PairJob], layers: Mapping[Layer, tuple[int, ...]], itemsize: int = 2) -> Cost:
    shapes = {layer.name: shape for layer, shape in layers.items()}
    total = Cost()
    for job in todo:
        total += layer_cost(shapes[job.layer], itemsize, len(job.networks), len(job.pairs), job.metrics)
    return total


def compare(
    one: Order,
    store: SweepStore,
    engine: Engine,
    pairs: Sequence[Pair],
    metrics: tuple[str, ...],
    names: Sequence[str] | None = None,
    memory: float | None = None,
    forecast: bool = False,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Compare what of these pairs is not compared yet and commit it; a sentence for each tile that failed.

    names     of layers; None: all
    memory    bytes for all comparisons at once; None: half of what this machine has free, 4 GiB if it does not say
    forecast  only say what it would cost

    Activations that the store keeps (`--retention all`) are read; the others' networks run over the probe again.
    FileNotFoundError: a network is not committed. ValueError: unknown layers.
    """
    problem = one.sweep.problem
    kept = store.contents()
    if absent := {network for pair in pairs for network in pair} - kept.networks:
        raise FileNotFoundError(f"{one.name}: {network_label(min(absent, key=_order))} is not in {store.root.url}")
    layers = [layer for layer in one.layers if names is None or layer.name in names]
    if unknown := set(names or ()) - {layer.name for layer in one.layers}:
        raise ValueError(f"{one.name} has no layers {sorted(unknown)}; it has {[layer.name for layer in one.layers]}")
    network = build(problem, len(problem.classes))
    shapes = layer_shapes(network, problem.channels, problem.size)
    sized = {layer: (problem.probe, *shapes[layer.name]) for layer in layers}
    if not {network for pair in pairs for network in pair} <= kept.activations:  # then workers need the images
        extent = dataclasses.replace(one.sweep.extent, activations="memory")
        one = dataclasses.replace(one, sweep=dataclasses.replace(one.sweep, extent=extent))
    slots = 1 if forecast else engine.slots([one])
    todo = jobs(
        one.name, pairs, sized, metrics, found_in(store), (memory or (free_memory() or 8 * 2.0**30) / 2) / slots
    )
    if not todo:
        say(f"{one.name}: nothing is missing")
        return []
    with threads(one.sweep.identity.threads):
        total, rate = cost(todo, sized), product_rate()
    say(
        f"{one.name}: {sum(len(job.pairs) for job in todo)} pairs of layers in {len(todo)} tiles: "
        + total.sentence(rate, slots)
    )
    return [] if forecast else engine.compare([one], todo)


# --- tables ----------------------------------------------------------------------------------------------------------

KEYS = ("run_a", "iteration_a", "run_b", "iteration_b")


def write_results(store: SweepStore, layers: Sequence[Layer]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put tables and figures of every pair that is compared into the store's `pair_results/`; gives the tables back.

    pairs  one row per pair, layer and metric: value, rows, columns, ranks, dead channels, warning, reason if missing
    masks  one row per pair and pruned parameter, and one for all ("all"): alive in both, in either, and their quotient
    """
    inputs = {path: mark.digest for path, mark in store.pair_marks().items()}
    there = found_in(store)
    positions = {layer.name: (place, layer.kind) for place, layer in enumerate(layers)}
    rows = []
    for (a, b, layer), results in there.items():
        for metric, result in results.items():
            place, kind = positions[layer]
            start = {"problem": store.problem} | _named(a, b)
            rows.append(start | {"position": place, "layer": layer, "kind": kind, "metric": metric} | result)
    masks = list(_mask_rows(store, sorted({(a, b) for a, b, _ in there}, key=lambda pair: tuple(map(_order, pair)))))
    tables = _frame(rows, ["position", "metric"]), _frame(masks, ["place"])
    files: dict[str, bytes] = {}
    for name, table in zip(("pairs", "masks"), tables, strict=True):
        files |= {f"{name}.csv": to_csv_bytes(table), f"{name}.parquet": to_parquet_bytes(table)}
    for name, figure in _figures(store.problem, tables[0]).items():
        files |= {f"{name}.{format}": figures.render(figure, format) for format in figures.FORMATS}
    _replace(store, files, inputs)
    return tables


def _replace(store: SweepStore, files: dict[str, bytes], inputs: dict[str, str]) -> None:
    """Put new files in place of the old ones, with a mark that says what they are and from which tiles they come."""
    store.storage.delete([f"{FOLDER}/{MARK}"])
    for name, content in files.items():
        store.storage.put(f"{FOLDER}/{name}", content)
    objects = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    store.storage.put(f"{FOLDER}/{MARK}", Mark(attempt="", objects=objects, values={"inputs": inputs}).encode())


def _figures(problem: str, pairs: pd.DataFrame) -> dict[str, Any]:
    """Runs at equal iteration as lines over the layers; iterations against iterations as maps, by metric."""
    drawn: dict[str, Any] = {}
    if pairs.empty:
        return drawn
    apart = pairs[(pairs["iteration_a"] == pairs["iteration_b"]) & (pairs["run_a"] != pairs["run_b"])]
    if len(apart):
        rows = apart.assign(iteration=apart["iteration_a"].astype("int64"), remaining=np.nan)
        shown = [name for name in figures.PANEL_METRICS if name in set(rows["metric"])]
        if shown:
            drawn["runs"] = figures.similarity_panels(
                summarise(rows), problem, shown, bands=True, title=f"{problem}: pairs of runs, mean and 25–75 %"
            )
    same = pairs[pairs["run_a"].isna() | (pairs["run_a"] == pairs["run_b"])]
    if len(set(zip(same["iteration_a"], same["iteration_b"], strict=True))) > 1 and same["iteration_a"].nunique() > 1:
        for metric in figures.PANEL_METRICS:
            if metric in set(same["metric"]):
                drawn[f"iterations_{metric}"] = figures.iteration_maps(same, problem, metric)
    return drawn


def as_text(pairs: pd.DataFrame) -> str:
    """Quartiles of each metric over pairs and layers, for a terminal."""
    lines = [f"{'metric':20}  values  missing     q25  median     q75"]
    for metric, rows in pairs.groupby("metric", sort=False):
        low, middle, high = rows["value"].quantile([0.25, 0.5, 0.75])
        missing = int(rows["value"].isna().sum())
        lines.append(f"{metric:20}  {len(rows):6d}  {missing:7d}  {low:6.3f}  {middle:6.3f}  {high:6.3f}")
    return "\n".join(lines)


def _frame(rows: list[dict[str, Any]], last: list[str]) -> pd.DataFrame:
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame.from_records(rows).astype(dict.fromkeys(KEYS, "Int64"))
    if "value" in table:
        table["value"] = table["value"].astype("float64")  # None is NaN
        table = table[["problem", *KEYS, *(name for name in SIMILARITY_COLUMNS if name in table and name != "problem")]]
    return table.sort_values([*KEYS, *last], kind="stable", na_position="first").reset_index(drop=True)


def _named(a: NetworkId, b: NetworkId) -> dict[str, Any]:
    (run_a, iteration_a), (run_b, iteration_b) = ((None, 0) if one is None else one for one in (a, b))
    return {"run_a": run_a, "iteration_a": iteration_a, "run_b": run_b, "iteration_b": iteration_b}


def _mask_rows(store: SweepStore, pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    masks = {network: _masks(store, network) for network in {one for pair in pairs for one in pair}}
    for a, b in pairs:
        both, either = 0, 0
        names = sorted(masks[a])
        for place, name in enumerate([*names, "all"]):
            if name != "all":
                x, y = masks[a][name], masks[b][name]
                counts = _ones(x & y), _ones(x | y)
                both, either = both + counts[0], either + counts[1]
            else:
                counts = both, either
            row = {"problem": store.problem} | _named(a, b) | {"place": place, "parameter": name}
            yield row | {"both": counts[0], "either": counts[1], "jaccard": jaccard(*counts)}


def _masks(store: SweepStore, network: NetworkId) -> dict[str, NDArray[np.uint8]]:
    return {name: np.packbits(mask.numpy().astype(bool)) for name, mask in store.load_masks(network).items()}


def _ones(bits: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def jaccard(both: int, either: int) -> float:
    """|A ∩ B| / |A ∪ B|; NaN where nothing is alive in either."""
    return both / either if either else float("nan")


def _components(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs by what hangs together."""
    parent: dict[NetworkId, NetworkId] = {}

    def root(network: NetworkId) -> NetworkId:
        parent.setdefault(network, network)
        while parent[network] != network:
            parent[network] = network = parent[parent[network]]
        return network

    for a, b in pairs:
        parent[root(b)] = root(a)
    parts: dict[NetworkId, list[Pair]] = {}
    for a, b in pairs:
        parts.setdefault(root(a), []).append((a, b))
    return list(parts.values())


def _order(network: NetworkId) -> tuple[int, int]:
    return (-1, 0) if network is None else network


def found_in(store: SweepStore) -> Found:
    """What is compared already; of what was computed twice, the first."""
    found: Found = {}
    for mark in store.pair_marks().values():
        for a, b, results in mark.values["pairs"]:
            for metric, result in results.items():
                found.setdefault((_id(a), _id(b), mark.values["layer"]), {}).setdefault(metric, result)
    return found


def _id(network: Any) -> NetworkId:
    return None if network is None else (int(network[0]), int(network[1]))
