"""The reducer: it makes tables and figures from commits."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from distsim import plotting, trace
from distsim._version import __version__
from distsim.metrics.jackknife import se_of
from distsim.problems import departures
from distsim.results import figures, functional
from distsim.results.columns import OF_OLD, OF_OLDER, TABLES, completed
from distsim.results.committed import Committed, listing, of_complete, require_one_sweep
from distsim.results.table_files import read_parquet_bytes, to_csv_bytes, to_parquet_bytes
from distsim.results.tables import Tables, chance_table, functional_table, long_table, network_table, reference_table
from distsim.results.titles import titles_of
from distsim.specs import NetworkId, digest
from distsim.store import DamagedStore, Mark, Storage, SweepStore, problems_in
from distsim.store.commits import MARK, read_mark, undamaged
from distsim.store.described import ComparedLayer
from distsim.store.descriptions import labels_of
from distsim.store.fenced import replace
from distsim.store.paths import place_of, values_path
from distsim.store.records import LARGEST_SPEC

LISTING = "listing"  # in the provenance of the mark of tables: what a listing said of what they were made of
VERSION = 5  # raise it when tables of the same values would come out differently: then written ones are made again


def reduce(
    store: SweepStore,
    layers: Sequence[ComparedLayer],
    seed: int,
    again: bool = False,
    listed: Mapping[str, tuple[int, str]] | None = None,
) -> bool:
    """Write the tables of everything committed for this problem. Return False if they are up to date already.

    All but provenance hold values only (distsim.results.tables) and are equal byte for byte for equal sweeps.
    provenance says where, when and by which code each piece was computed. Each table is written to `results/` as
    Parquet and as CSV. The mark beside them keeps what a listing said of the store. While it says the same, they are up
    to date, and no other mark is read.

    again : write them even if they are up to date
    listed : what `Storage.listed` just said, where the caller has it
    """
    listed = store.storage.listed() if listed is None else listed
    seen = {LISTING: listing(listed)}
    mark = None if again else undamaged(store.results_mark)
    there = None if mark is None or mark.values.get("version") != VERSION else _files(store.storage, mark, "results")
    if mark is not None and there is not None and mark.provenance.get(LISTING) == seen[LISTING]:
        return False
    committed = Committed.of(store, listed)
    inputs = committed.digest
    if mark is not None and there is not None and mark.values.get("inputs") == inputs:
        store.replace_results(there, values=mark.values, provenance=seen)  # the next start needs to read no marks
        return False
    with trace.stage("reduction", store.problem):
        tables, provenance = collect(store, layers, seed, committed)
        files = {}
        for name, frame in (tables.by_name | {"provenance": provenance}).items():
            files[f"{name}.csv"] = to_csv_bytes(frame)
            files[f"{name}.parquet"] = to_parquet_bytes(frame)
        store.replace_results(files, values={"inputs": inputs, "version": VERSION}, provenance=seen)
    return True


def collect(
    store: SweepStore, layers: Sequence[ComparedLayer], seed: int, committed: Committed | None = None
) -> tuple[Tables, pd.DataFrame]:
    """Make the tables of everything committed for a problem, and the table of where their rows come from."""
    committed = committed or Committed.of(store)
    identity = store.identity()
    require_one_sweep(store, committed, identity.hash)
    similarities = long_table(_similarity_rows(store.problem, layers, committed))
    reduced = bool(departures(identity.problem))
    networks = network_table(_network_rows(store.problem, committed.marks, reduced))
    chance = chance_table(_chance_rows(store.problem, layers, committed))
    classes = identity.problem.classes
    functions = functional_table(functional.rows(store, committed.logits, committed.marks, classes))
    reference = reference_table(_reference_rows(store.problem, layers, committed.references))
    tables = Tables.of(similarities, networks, seed, chance, functions, reference)
    return tables, _provenance(committed)


def _reference_rows(
    problem: str, layers: Sequence[ComparedLayer], tiles: Mapping[str, Mark]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each pair of complete networks, layer and metric. If one was computed twice, the first counts."""
    places = {layer.name: {"position": at, "layer": layer.name, "kind": layer.kind} for at, layer in enumerate(layers)}
    seen = set()
    for tile in tiles.values():
        layer = tile.values["layer"]
        for x, y, results in of_complete(tile):
            for metric, result in results.items():
                key = x, y, layer, metric
                if layer in places and key not in seen:
                    seen.add(key)
                    named = {"problem": problem, "complete_x": x.complete, "complete_y": y.complete, "metric": metric}
                    yield named | places[layer] | {name: result[name] for name in ("value", "warning", "reason")}


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
    there = [name for name in TABLES if mark is None or name in OF_OLDER or f"{name}.parquet" in mark.objects]
    frames = {name: _read_table(store, name) for name in there}
    if mark is not None and mark.values.get("version") == VERSION:
        return Tables.named(frames)
    old = Tables.named({name: completed(frame, name) for name, frame in frames.items()})
    seed = store.identity().seed
    return Tables.of(old.similarities, old.networks, seed, old.chance, old.functional, old.reference)


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
    permuted = {key: contents.chance.get(key, frozenset()) | {*contents.null.get(key, {})} for key in contents.permuted}
    for table, compared in ((tables.similarities, contents.comparisons), (tables.chance, permuted)):
        rows = {
            (*_whose(network), layer, metric)
            for (network, layer), names in compared.items()
            if not network.is_complete
            for metric in names
        }
        complete &= _keys(table, *WHOSE, "layer", "metric") == rows
    functions = {_whose(of) for of in contents.logits if not of.is_complete and of.origin in contents.logits}
    complete &= _keys(tables.functional, *WHOSE) == functions
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
    if mark is not None and mark.values.get("inputs") == inputs and _files(root, mark, "figures") is not None:
        return []
    with trace.stage("figures"):
        files = {}
        tables = read_tables(root)
        titles = titles_of(SweepStore(root, name).identity().problem for name in problems_in(root))
        drawn = figures.draw_all(tables, metric_labels(root, tables.summary["metric"]), titles)
        for name, figure in drawn.items():
            for format in plotting.KEPT:
                files[f"{name}.{format}"] = plotting.render(figure, format)
        replace(root, "figures", files, values={"inputs": inputs})
    return [f"figures/{name}" for name in files]


def add_figures(root: Storage, files: Mapping[str, bytes]) -> None:
    """Put more figures beside those in the store, which are drawn first where they are out of date.

    They stay until the tables change. files : name -> content
    """
    draw(root)
    mark = read_mark(root, f"figures/{MARK}") or Mark("", {})
    others = {name: root.get(f"figures/{name}", most=size) or b"" for name, (size, _) in mark.objects.items()}
    replace(root, "figures", others | dict(files), values=mark.values)


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


def made_from(store: SweepStore) -> str:
    """Return a digest of what a report is made from: tables, identity, request. "": there are no tables yet."""
    mark, request = store.results_mark(), store.storage.get("request.json", most=LARGEST_SPEC)
    if mark is None or request is None:
        return ""
    return digest([_tables_of(mark), store.identity().hash, hashlib.sha256(request).hexdigest(), __version__])


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


def _similarity_rows(problem: str, layers: Sequence[ComparedLayer], committed: Committed) -> Iterator[dict[str, Any]]:
    errors = {_key(named): se_of(record["values"]) for _, named, record in _measured(problem, layers, committed.se)}
    for network, named, value in _measured(problem, layers, committed.comparisons):
        record = committed.marks[network].values
        share = {"remaining": record["remaining"], "remaining_pool": record["remaining_pool"]}
        yield named | share | value | {"se": errors.get(_key(named))}


def _key(named: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(named[name] for name in (*WHOSE, "layer", "metric"))


def _chance_rows(problem: str, layers: Sequence[ComparedLayer], committed: Committed) -> Iterator[dict[str, Any]]:
    """Yield a row for each permutation of each value. If one was computed twice, the first counts."""
    seen = set()
    pieces = [
        (key, mark) for compared in (committed.chance, committed.null) for key, of in compared.items() for mark in of
    ]
    for key, mark in pieces:
        first = _first_permutation(mark)
        for _, named, result in _measured(problem, layers, {key: [mark]}):
            for number, (value, reason) in enumerate(zip(result["values"], result["reasons"], strict=True), first):
                if (place := (*_key(named), number)) not in seen:
                    seen.add(place)
                    yield named | {"permutation": number, "value": value, "reason": reason}


def _first_permutation(mark: Mark) -> int:
    """Return the number of the first permutation in a mark: 0, but of nulls."""
    place = place_of(str(mark.provenance.get("piece", "")))
    return place.permutations.start if place is not None else 0


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
    """Make one row for each row of networks, results and chance, with the same keys, and for what else they rest on."""
    rows = [_provenance_row("networks", n, None, None, n.path, mark) for n, mark in committed.marks.items()]
    for n, mark in committed.logits.items():
        rows.append(_provenance_row("functional", n, None, None, f"{n.path}/logits", mark))
    kinds = ("results", "comparison", committed.comparisons), ("chance", "chance", committed.chance)
    for table, folder, comparisons in (*kinds, ("chance", "null", committed.null), ("se", "se", committed.se)):
        for (network, layer), marks in comparisons.items():
            by_metric = [(metric, mark) for mark in marks for metric in mark.values]
            for metric, mark in by_metric if folder == "null" else dict(reversed(by_metric)).items():
                piece = str(mark.provenance.get("piece", values_path(network, folder, layer, mark.values)))
                rows.append(_provenance_row(table, network, layer, metric, piece.removesuffix(".json"), mark))
    first = set()  # a null is of the table of its own name where the same values' first permutations are elsewhere
    for row in rows:
        if row["table"] == "chance":
            key = _key(row)
            row["table"] = "null" if key in first else "chance"
            first.add(key)
    return sorted(rows, key=lambda row: (row["table"], row["piece"], row["metric"] or ""))


def _provenance_row(
    table: str, network: NetworkId, layer: str | None, metric: str | None, piece: str, mark: Mark
) -> dict[str, Any]:
    keys = {"table": table, "complete": network.complete, "control": network.control, "run": network.run}
    keys |= {"iteration": network.iteration, "layer": layer, "metric": metric}
    committed = {"piece": piece, "digest": mark.digest, "identity": mark.identity}
    return keys | mark.environment | mark.provenance | committed


def _files(storage: Storage, mark: Mark, folder: str) -> dict[str, bytes] | None:
    """Return what the mark names of a folder, or None if the folder does not hold it."""
    files = {}
    for name, (size, sha256) in mark.objects.items():
        content = storage.get(f"{folder}/{name}", most=size)
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            return None
        files[name] = content
    return files
