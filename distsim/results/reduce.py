"""The reducer: it makes tables and figures from commits."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from distsim import plotting, trace
from distsim.comparison.pair import Result
from distsim.problems import departures
from distsim.results import figures
from distsim.results.tables import (
    OF_OLD,
    TABLES,
    Tables,
    chance_table,
    completed,
    long_table,
    network_table,
    read_parquet_bytes,
    reference_table,
    to_csv_bytes,
    to_parquet_bytes,
)
from distsim.specs import NetworkId, digest
from distsim.store import DamagedStore, Mark, Storage, SweepStore, problems_in
from distsim.store.commits import MARK, read_mark, undamaged
from distsim.store.described import ComparedLayer
from distsim.store.descriptions import labels_of
from distsim.store.fenced import replace
from distsim.store.paths import values_path
from distsim.store.records import WEIGHTS_X, WEIGHTS_Y, pairs_in, weights_of

VERSION = 5  # raise it when tables of the same values would come out differently: then written ones are made again


def reduce(store: SweepStore, layers: Sequence[ComparedLayer], seed: int, again: bool = False) -> bool:
    """Write the tables of everything committed for this problem. Return False if they are up to date already.

    results, networks, summary, accuracy and chance hold values only (distsim.results.tables) and are equal byte for
    byte for equal sweeps. provenance says where, when and by which code each piece was computed. Each table is written
    to `results/` as Parquet and as CSV. again : write them even if they are up to date.
    """
    committed = Committed.of(store)
    mark = None if again else undamaged(store.results_mark)
    inputs = committed.digest
    current = mark is not None and (mark.values.get("inputs"), mark.values.get("version")) == (inputs, VERSION)
    if mark is not None and current and _all_there(store.storage, mark, "results"):
        return False
    with trace.stage("reduction", store.problem):
        tables, provenance = collect(store, layers, seed, committed)
        files = {}
        for name, frame in (tables.by_name | {"provenance": provenance}).items():
            files[f"{name}.csv"] = to_csv_bytes(frame)
            files[f"{name}.parquet"] = to_parquet_bytes(frame)
        store.replace_results(files, values={"inputs": inputs, "version": VERSION})
    return True


def collect(
    store: SweepStore, layers: Sequence[ComparedLayer], seed: int, committed: "Committed | None" = None
) -> tuple[Tables, pd.DataFrame]:
    """Make the tables of everything committed for a problem, and the table of where their rows come from."""
    committed = committed or Committed.of(store)
    identity = store.identity()
    _require_one_sweep(store, committed, identity.hash)
    similarities = long_table(_similarity_rows(store.problem, layers, committed.marks, committed.comparisons))
    reduced = bool(departures(identity.problem))
    networks = network_table(_network_rows(store.problem, committed.marks, reduced))
    chance = chance_table(_chance_rows(store.problem, layers, committed.chance))
    reference = reference_table(_reference_rows(store.problem, layers, committed.references))
    tables = Tables.of(similarities, networks, seed, chance, reference)
    return tables, _provenance(committed)


@dataclass(frozen=True)
class Committed:
    """The marks of everything committed for a problem."""

    marks: dict[NetworkId, Mark]
    comparisons: dict[tuple[NetworkId, str], list[Mark]]
    chance: dict[tuple[NetworkId, str], list[Mark]]
    references: dict[str, Mark] = field(default_factory=dict)  # path -> tile that has pairs of complete networks

    @classmethod
    def of(cls, store: SweepStore) -> "Committed":
        networks = {network: store.mark(network) for network in store.contents().networks}
        marks = {network: mark for network, mark in networks.items() if mark is not None}
        comparisons, chance = (
            {key: of_layer for key, of_layer in store.comparisons(kind).items() if key[0] in marks}
            for kind in ("comparison", "chance")
        )
        several = sum(network.is_complete for network in marks) > 1
        tiles = {path: mark for path, mark in store.pair_marks().items() if any(_of_complete(mark))} if several else {}
        return cls(marks, comparisons, chance, tiles)

    @property
    def digest(self) -> str:
        """Return a digest of all marks: equal digests stand for equal tables."""
        entries = [(network.path, mark.digest) for network, mark in self.marks.items()]
        for compared, by in ((self.comparisons, ""), (self.chance, " by chance")):
            entries += [
                (f"{n.path}/{layer}{by}", mark.digest) for (n, layer), marks in compared.items() for mark in marks
            ]
        entries += [(path, mark.digest) for path, mark in self.references.items()]
        return digest(sorted(entries))


def _of_complete(tile: Mark) -> Iterator[tuple[NetworkId, NetworkId, dict[str, Result]]]:
    """Yield the pairs of complete networks in a tile, with their results by metric."""
    for x, y, results in pairs_in(tile.values):
        if x.is_complete and y.is_complete and x != y:
            yield x, y, results


def _reference_rows(
    problem: str, layers: Sequence[ComparedLayer], tiles: Mapping[str, Mark]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each pair of complete networks, layer and metric. If one was computed twice, the first counts."""
    places = {layer.name: {"position": at, "layer": layer.name, "kind": layer.kind} for at, layer in enumerate(layers)}
    seen = set()
    for tile in tiles.values():
        layer = tile.values["layer"]
        for x, y, results in _of_complete(tile):
            for metric, result in results.items():
                key = x, y, layer, metric
                if layer in places and key not in seen:
                    seen.add(key)
                    named = {"problem": problem, "complete_x": x.complete, "complete_y": y.complete, "metric": metric}
                    yield named | places[layer] | {name: result[name] for name in ("value", "warning", "reason")}


def _require_one_sweep(store: SweepStore, committed: Committed, identity: str) -> None:
    """Check that everything is of this identity, and that values come from the weights that are there.

    DamagedStore: a piece is not. Marks of older versions do not name their weights.
    """
    where, weights = store.storage.url, {network: weights_of(mark) for network, mark in committed.marks.items()}
    for network, mark in committed.marks.items():
        _require(mark.identity == identity, f"{network.label} in {where} belongs to another sweep")
    for what, compared in (("comparison", committed.comparisons), ("chance", committed.chance)):
        for (network, layer), marks in compared.items():
            expected = {WEIGHTS_X: weights.get(network.origin), WEIGHTS_Y: weights[network]}
            for mark in marks:
                piece = f"the {what} of {network.label}, layer {layer}, in {where}"
                same = all(mark.provenance.get(name, sha256) == sha256 for name, sha256 in expected.items())
                _require(mark.identity == identity, f"{piece} belongs to another sweep")
                _require(same, f"{piece} comes from other weights than the networks'")


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise DamagedStore(f"{fault}: distsim verify says which pieces are damaged, and distsim repair drops them")


def read_tables(root: Storage, problems: list[str] | None = None) -> Tables:
    """Read the tables of some or all of a store's problems, as one set. FileNotFoundError: none were written yet."""
    parts = []
    for problem in problems or problems_in(root):
        store = SweepStore(root, problem)
        if problems is None and store.results_mark() is None:
            continue
        parts.append(_read(store))
    if not parts:
        raise FileNotFoundError(f"no results in {root.url} yet")
    return joined(parts)


def _read(store: SweepStore) -> Tables:
    """Read a problem's written tables. Summaries that an earlier version wrote are computed again, not written."""
    mark = store.results_mark()
    there = [name for name in TABLES if mark is None or f"{name}.parquet" in mark.objects or name != "reference"]
    frames = [_read_table(store, name) for name in there]  # tables of older versions have no reference level
    if mark is not None and mark.values.get("version") == VERSION:
        return Tables(*frames)
    tables = Tables(*(completed(frame, name) for name, frame in zip(there, frames, strict=True)))
    seed = store.identity().seed
    return Tables.of(tables.similarities, tables.networks, seed, tables.chance, tables.reference)


def _read_table(store: SweepStore, name: str) -> pd.DataFrame:
    try:
        return read_parquet_bytes(store.read_result(f"{name}.parquet"))
    except ValueError as error:
        where = f"results/{name}.parquet in {store.storage.url}"
        raise DamagedStore(f"{where} is damaged: {error}. distsim report writes it again") from None


def current(store: SweepStore) -> tuple[Tables, pd.DataFrame] | None:
    """Return a problem's written tables and their provenance, if they cover everything that is committed.

    None if they do not, or if one of them is damaged: then `collect` makes them again. Nothing is written.
    """
    if undamaged(store.results_mark) is None:
        return None
    try:
        tables = read_tables(store.root, [store.problem])
        provenance = _read_table(store, "provenance")
        provenance = provenance.assign(**{name: of for name, of in OF_OLD.items() if name not in provenance})
    except DamagedStore:
        return None
    contents = store.contents()
    networks = {_whose(network) for network in contents.networks}
    complete = _keys(tables.networks.fillna({"run": -1}), *WHOSE) == networks
    for table, compared in ((tables.similarities, contents.comparisons), (tables.chance, contents.chance)):
        rows = {
            (*_whose(network), layer, metric)
            for (network, layer), names in compared.items()
            if not network.is_complete
            for metric in names
        }
        complete &= _keys(table, *WHOSE, "layer", "metric") == rows
    return (tables, provenance) if complete else None


WHOSE = ("complete", "control", "run", "iteration")  # columns that name a network


def _whose(network: NetworkId) -> tuple[int, str, int, int]:
    """Return a network as these columns name it, -1 in place of a missing run."""
    return network.complete, network.control, -1 if network.run is None else network.run, network.iteration


def _keys(table: pd.DataFrame, *columns: str) -> set[tuple[Any, ...]]:
    return set(table[list(columns)].itertuples(index=False, name=None))


def joined(parts: Sequence[Tables]) -> Tables:
    """Join the tables of several problems into one set."""
    return Tables(*(pd.concat([part.by_name[name] for part in parts], ignore_index=True) for name in TABLES))


def draw(root: Storage, again: bool = False) -> list[str]:
    """Draw the figures of all problems in the store into `figures/`, as PNG and PDF. Return the paths written.

    Nothing is drawn if the figures there were drawn from the same tables. again : draw them all the same.
    """
    inputs = drawn_from(root)
    mark = None if again else undamaged(lambda: read_mark(root, f"figures/{MARK}"))
    if mark is not None and mark.values.get("inputs") == inputs and _all_there(root, mark, "figures"):
        return []
    with trace.stage("figures"):
        files = {}
        tables = read_tables(root)
        for name, figure in figures.draw_all(tables, metric_labels(root, tables.summary["metric"])).items():
            for format in plotting.FORMATS:
                files[f"{name}.{format}"] = plotting.render(figure, format)
        replace(root, "figures", files, values={"inputs": inputs})
    return [f"figures/{name}" for name in files]


def metric_labels(root: Storage, names: Iterable[str]) -> dict[str, str]:
    """Return the label of each of these metrics, as distsim or the first sweep of the store that knows it gives it."""
    labels: dict[str, str] = {}
    for store in (SweepStore(root, problem) for problem in problems_in(root)):
        wanted = [name for name in dict.fromkeys(names) if name not in labels]
        described = undamaged(partial(labels_of, store, wanted)) or {}
        labels |= described
    return labels


def drawn_from(root: Storage) -> str:
    """Return a digest of the tables: equal digests stand for equal figures. DamagedStore: a table's mark is damaged."""
    marks = {problem: SweepStore(root, problem).results_mark() for problem in problems_in(root)}
    return digest(sorted((problem, _tables_of(mark)) for problem, mark in marks.items() if mark is not None))


def _tables_of(mark: Mark) -> str:
    """Return what stands for the tables of a mark: the digest of the values, and the version if there is one."""
    version = mark.values.get("version")
    return str(mark.values["inputs"]) + (f" {version}" if version is not None else "")


Comparisons = dict[tuple[NetworkId, str], list[Mark]]


def _measured(
    problem: str, layers: Sequence[ComparedLayer], compared: Comparisons
) -> Iterator[tuple[NetworkId, dict[str, Any], dict[str, Any]]]:
    """Yield a pruned network, the columns that say which layer and metric a value is of, and the value's record.

    If a metric was computed twice, the first mark's value counts. DamagedStore: the network has no such layer.
    """
    places = {layer.name: {"position": at, "layer": layer.name, "kind": layer.kind} for at, layer in enumerate(layers)}
    for (network, layer), marks in compared.items():
        if network.is_complete:
            continue
        if layer not in places:
            raise DamagedStore(f"{network.path} was compared in a layer {layer}, which the network does not have")
        named = {"problem": problem, "complete": network.complete, "control": network.control}
        named |= {"run": network.run, "iteration": network.iteration} | places[layer]
        values = {metric: value for mark in reversed(marks) for metric, value in mark.values.items()}
        for metric, value in values.items():
            yield network, named | {"metric": metric}, value


def _similarity_rows(
    problem: str, layers: Sequence[ComparedLayer], marks: dict[NetworkId, Mark], comparisons: Comparisons
) -> Iterator[dict[str, Any]]:
    for network, named, value in _measured(problem, layers, comparisons):
        record = marks[network].values
        yield named | {"remaining": record["remaining"], "remaining_pool": record["remaining_pool"]} | value


def _chance_rows(problem: str, layers: Sequence[ComparedLayer], chance: Comparisons) -> Iterator[dict[str, Any]]:
    for _, named, result in _measured(problem, layers, chance):
        for permutation, (value, reason) in enumerate(zip(result["values"], result["reasons"], strict=True)):
            yield named | {"permutation": permutation, "value": value, "reason": reason}


def _network_rows(problem: str, marks: dict[NetworkId, Mark], reduced: bool) -> Iterator[dict[str, Any]]:
    """Make a row for each network. reduced : the problem is not the papers' of its name, whatever the records say."""
    for network, mark in marks.items():
        names = ("iteration", "remaining", "remaining_pool", "accuracy", "loss", "epochs", "reduced")
        row = {"problem": problem, "complete": network.complete, "control": network.control, "run": network.run}
        row |= {name: mark.values[name] for name in names}
        yield row | {"reduced": row["reduced"] or reduced}


def _provenance(committed: Committed) -> pd.DataFrame:
    """Make the table of where rows come from. A column whose marks disagree on its type is text."""
    rows = _provenance_rows(committed)
    types: dict[str, set[type]] = {}
    for name, value in (item for row in rows for item in row.items() if item[1] is not None):
        types.setdefault(name, set()).add(type(value))
    mixed = {name for name, found in types.items() if len(found) > 1 and not found <= {int, float}}
    plain = [
        {name: str(value) if name in mixed and value is not None else value for name, value in row.items()}
        for row in rows
    ]
    return pd.DataFrame(plain).astype({"run": "Int64"} if committed.marks else {})


def _provenance_rows(committed: Committed) -> list[dict[str, Any]]:
    """Make one row for each row of networks, results and chance, with the same keys."""
    rows = [_provenance_row("networks", n, None, None, n.path, mark) for n, mark in committed.marks.items()]
    kinds = ("results", "comparison", committed.comparisons), ("chance", "chance", committed.chance)
    for table, folder, comparisons in kinds:
        for (network, layer), marks in comparisons.items():
            by_metric = {metric: mark for mark in reversed(marks) for metric in mark.values}
            for metric, mark in by_metric.items():
                piece = values_path(network, folder, layer, mark.values).removesuffix(".json")
                rows.append(_provenance_row(table, network, layer, metric, piece, mark))
    return sorted(rows, key=lambda row: (row["table"], row["piece"], row["metric"] or ""))


def _provenance_row(
    table: str, network: NetworkId, layer: str | None, metric: str | None, piece: str, mark: Mark
) -> dict[str, Any]:
    keys = {"table": table, "complete": network.complete, "control": network.control, "run": network.run}
    keys |= {"iteration": network.iteration, "layer": layer, "metric": metric}
    committed = {"piece": piece, "digest": mark.digest, "identity": mark.identity}
    return keys | mark.environment | mark.provenance | committed


def _all_there(storage: Storage, mark: Mark, folder: str) -> bool:
    """Say whether the folder holds what its mark names."""
    for name, (size, sha256) in mark.objects.items():
        content = storage.get(f"{folder}/{name}", most=size)
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            return False
    return True
