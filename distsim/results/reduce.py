"""From commits to tables and figures: the reducer."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pandas as pd

from distsim import plotting, trace
from distsim.results import figures
from distsim.results.tables import (
    Tables,
    chance_table,
    long_table,
    network_table,
    read_parquet_bytes,
    to_csv_bytes,
    to_parquet_bytes,
)
from distsim.specs import NetworkId, canonical_json
from distsim.store import DamagedStore, Mark, Storage, SweepStore, problems_in
from distsim.store.commits import MARK, read_mark
from distsim.store.described import ComparedLayer
from distsim.store.descriptions import metrics_of

T = TypeVar("T")
TABLES = ("results", "networks", "summary", "accuracy", "chance")


def reduce(store: SweepStore, layers: Sequence[ComparedLayer], seed: int, again: bool = False) -> bool:
    """Write the tables of everything committed for this problem; False where they are there already.

    results, networks, summary and accuracy hold values only (distsim.results.tables) and are equal byte for byte for
    equal sweeps; provenance says which piece was computed where, when and by what. Each is written to `results/` as
    Parquet and as CSV.
    """
    committed = Committed.of(store)
    there = None if again else _believable(store.results_mark)
    if there is not None and there.values.get("inputs") == committed.digest and _whole(store, there):
        return False
    with trace.stage("reduction", store.problem):
        tables, provenance = collect(store, layers, seed, committed)
        frames = dict(zip(TABLES, _frames(tables), strict=True)) | {"provenance": provenance}
        files = {}
        for name, frame in frames.items():
            files[f"{name}.csv"] = to_csv_bytes(frame)
            files[f"{name}.parquet"] = to_parquet_bytes(frame)
        store.replace_results(files, values={"inputs": committed.digest})
    return True


def collect(
    store: SweepStore, layers: Sequence[ComparedLayer], seed: int, committed: "Committed | None" = None
) -> tuple[Tables, pd.DataFrame]:
    """The tables of everything committed for a problem, and where each of their rows comes from."""
    have = committed or Committed.of(store)
    similarities = long_table(_similarity_rows(store.problem, layers, have.marks, have.comparisons))
    networks = network_table(_network_rows(store.problem, have.marks))
    tables = Tables.of(similarities, networks, seed, chance_table(_chance_rows(store.problem, layers, have.chance)))
    return tables, pd.DataFrame(_provenance_rows(have)).astype({"run": "Int64"} if have.marks else {})


@dataclass(frozen=True)
class Committed:
    """A problem's marks."""

    marks: dict[NetworkId, Mark]
    comparisons: dict[tuple[NetworkId, str], list[Mark]]
    chance: dict[tuple[NetworkId, str], list[Mark]]

    @classmethod
    def of(cls, store: SweepStore) -> "Committed":
        networks = {network: store.mark(network) for network in store.contents().networks}
        marks = {network: mark for network, mark in networks.items() if mark is not None}
        comparisons, chance = (
            {key: found for key, found in store.comparisons(what).items() if key[0] in marks}
            for what in ("comparison", "chance")
        )
        return cls(marks, comparisons, chance)

    @property
    def digest(self) -> str:
        """Equal where the tables would be."""
        return _digest(
            [(network.path, mark.digest) for network, mark in self.marks.items()]
            + [(f"{n.path}/{layer}", m.digest) for (n, layer), found in self.comparisons.items() for m in found]
            + [
                (f"{n.path}/{layer} by chance", mark.digest)
                for (n, layer), found in self.chance.items()
                for mark in found
            ]
        )


def read_tables(root: Storage, problems: list[str] | None = None) -> Tables:
    """The reduced tables of some or all of a store's problems, as one set. FileNotFoundError: none was reduced yet."""
    parts = []
    for problem in problems or problems_in(root):
        store = SweepStore(root, problem)
        if problems is None and store.results_mark() is None:
            continue
        parts.append(Tables(*(read_parquet_bytes(store.read_result(f"{name}.parquet")) for name in TABLES)))
    if not parts:
        raise FileNotFoundError(f"no results in {root.url} yet")
    return joined(parts)


def current(store: SweepStore) -> tuple[Tables, pd.DataFrame] | None:
    """Return a problem's reduced tables and their provenance, if they tell of all that is committed; else None.

    None too where a table is damaged: `collect` makes them again. Nothing is written.
    """
    if _believable(store.results_mark) is None:
        return None
    try:
        tables = read_tables(store.root, [store.problem])
        provenance = read_parquet_bytes(store.read_result("provenance.parquet"))
    except DamagedStore:
        return None
    contents = store.contents()
    networks = {(-1 if network.run is None else network.run, network.iteration) for network in contents.networks}
    there = _keys(tables.networks.fillna({"run": -1}), "run", "iteration") == networks
    for table, compared in ((tables.similarities, contents.comparisons), (tables.chance, contents.chance)):
        rows = {
            (network.run, network.iteration, layer, metric)
            for (network, layer), names in compared.items()
            if not network.is_complete
            for metric in names
        }
        there &= _keys(table, "run", "iteration", "layer", "metric") == rows
    return (tables, provenance) if there else None


def _keys(table: pd.DataFrame, *columns: str) -> set[tuple[Any, ...]]:
    return set(table[list(columns)].itertuples(index=False, name=None))


def joined(parts: Sequence[Tables]) -> Tables:
    """The tables of several problems as one set."""
    return Tables(*(pd.concat(same, ignore_index=True) for same in zip(*map(_frames, parts), strict=True)))


def _frames(tables: Tables) -> tuple[pd.DataFrame, ...]:
    """In the order of `TABLES`."""
    return tables.similarities, tables.networks, tables.summary, tables.accuracy, tables.chance


def draw(root: Storage, again: bool = False) -> list[str]:
    """Draw the figures of all problems in the store as PNG and PDF under `figures/`; the paths that were written.

    Nothing is drawn where the tables are those that the figures there were drawn from.
    """
    inputs = drawn_from(root)
    there = None if again else _believable(lambda: read_mark(root, f"figures/{MARK}"))
    if not again and there is not None and there.values.get("inputs") == inputs:
        sizes = root.sizes("figures")
        if all(sizes.get(f"figures/{name}") == size for name, (size, _) in there.objects.items()):
            return []
    with trace.stage("figures"):
        files = {}
        tables = read_tables(root)
        for name, figure in figures.draw_all(tables, metric_labels(root, tables.summary["metric"])).items():
            for format in plotting.FORMATS:
                files[f"{name}.{format}"] = plotting.render(figure, format)
        for name, content in files.items():
            root.put(f"figures/{name}", content)
        objects = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
        root.put(f"figures/{MARK}", Mark(attempt="", objects=objects, values={"inputs": inputs}).encode())
    return [f"figures/{name}" for name in files]


def metric_labels(root: Storage, names: Iterable[str]) -> dict[str, str]:
    """What figures call these metrics, by name, as distsim or the first sweep of the store says it that does."""
    labels: dict[str, str] = {}
    for store in (SweepStore(root, problem) for problem in problems_in(root)):
        wanted = [name for name in dict.fromkeys(names) if name not in labels]
        found = _believable(partial(metrics_of, store, wanted)) or {}
        labels |= {name: metric.label for name, metric in found.items()}
    return labels


def drawn_from(root: Storage) -> str:
    """A digest that is equal where the figures of the tables there would be. DamagedStore: a mark of tables is."""
    marks = {problem: SweepStore(root, problem).results_mark() for problem in problems_in(root)}
    return _digest([(problem, mark.values["inputs"]) for problem, mark in marks.items() if mark is not None])


def _believable(read: Callable[[], T | None]) -> T | None:
    """What is read, None also where it is damaged: what is derived is made again."""
    try:
        return read()
    except DamagedStore:
        return None


Comparisons = dict[tuple[NetworkId, str], list[Mark]]


def _place(positions: dict[str, tuple[int, str]], network: NetworkId, layer: str) -> tuple[int, str]:
    """A layer's position and kind. DamagedStore: the network has none of this name."""
    if layer not in positions:
        raise DamagedStore(f"{network.path} was compared in a layer {layer}, which it has not")
    return positions[layer]


def _similarity_rows(
    problem: str, layers: Sequence[ComparedLayer], marks: dict[NetworkId, Mark], comparisons: Comparisons
) -> Iterator[dict[str, Any]]:
    positions = {layer.name: (position, layer.kind) for position, layer in enumerate(layers)}
    for (network, layer), found in comparisons.items():
        if network.is_complete:
            continue
        record = marks[network].values
        position, kind = _place(positions, network, layer)
        values = {name: value for mark in reversed(found) for name, value in mark.values.items()}
        for metric, value in values.items():
            yield {
                "problem": problem,
                "run": network.run,
                "iteration": network.iteration,
                "remaining": record["remaining"],
                "remaining_pool": record["remaining_pool"],
                "position": position,
                "layer": layer,
                "kind": kind,
                "metric": metric,
                **value,
            }


def _chance_rows(problem: str, layers: Sequence[ComparedLayer], chance: Comparisons) -> Iterator[dict[str, Any]]:
    positions = {layer.name: (position, layer.kind) for position, layer in enumerate(layers)}
    for (network, layer), found in chance.items():
        if network.is_complete:
            continue
        position, kind = _place(positions, network, layer)
        for metric, result in {name: value for mark in reversed(found) for name, value in mark.values.items()}.items():
            for permutation, (value, reason) in enumerate(zip(result["values"], result["reasons"], strict=True)):
                yield {
                    "problem": problem,
                    "run": network.run,
                    "iteration": network.iteration,
                    "position": position,
                    "layer": layer,
                    "kind": kind,
                    "metric": metric,
                    "permutation": permutation,
                    "value": value,
                    "reason": reason,
                }


def _network_rows(problem: str, marks: dict[NetworkId, Mark]) -> Iterator[dict[str, Any]]:
    for network, mark in marks.items():
        names = ("iteration", "remaining", "remaining_pool", "accuracy", "loss", "epochs", "reduced")
        yield {"problem": problem, "run": network.run} | {name: mark.values[name] for name in names}


def _provenance_rows(have: Committed) -> list[dict[str, Any]]:
    """One row for each row of networks, results and chance, under the same keys."""
    rows = [_provenance_row("networks", n, None, None, n.path, mark) for n, mark in have.marks.items()]
    for table, folder, compared in (("results", "comparison", have.comparisons), ("chance", "chance", have.chance)):
        for (network, layer), found in compared.items():
            by_metric = {metric: mark for mark in reversed(found) for metric in mark.values}
            for metric, mark in by_metric.items():
                piece = f"{network.path}/{folder}/{layer}/{'+'.join(sorted(mark.values))}"
                rows.append(_provenance_row(table, network, layer, metric, piece, mark))
    return sorted(rows, key=lambda row: (row["table"], row["piece"], row["metric"] or ""))


def _provenance_row(
    table: str, network: NetworkId, layer: str | None, metric: str | None, piece: str, mark: Mark
) -> dict[str, Any]:
    of_row = {"table": table, "run": network.run, "iteration": network.iteration, "layer": layer, "metric": metric}
    by = {"piece": piece, "digest": mark.digest, "identity": mark.identity}
    return of_row | mark.environment | mark.provenance | by


def _digest(entries: list[tuple[str, str]]) -> str:
    return hashlib.sha256(canonical_json(sorted(entries)).encode()).hexdigest()


def _whole(store: SweepStore, mark: Mark) -> bool:
    sizes = store.storage.sizes("results")
    return all(sizes.get(f"results/{name}") == size for name, (size, _) in mark.objects.items())
