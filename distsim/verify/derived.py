"""Checks of comparisons, and of tables and figures with what they were made from.

As in `verify.networks` they check what readers rely on, not whether the values are those that a comparison computes.
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from distsim.metrics.registry import METRICS
from distsim.specs import PERMUTATIONS, NetworkId, canonical_json, shown
from distsim.store import Mark, Storage
from distsim.store.commits import MARK, decode_mark, read_mark
from distsim.store.storage import first_line
from distsim.store.sweep_store import pairs_key
from distsim.verify.networks import number
from distsim.verify.report import FOREIGN, NOTE

TABLES, PAIR_TABLES, FIGURES = "results", "pair_results", "figures"
COUNTS = ("n", "columns_x", "columns_y", "dead_x", "dead_y")  # whole numbers of a similarity
RANKS = ("rank_x", "rank_y")  # whole numbers for metrics over channels; None is allowed for others
SAME = "its text was changed, but not its meaning"


# --- values ----------------------------------------------------------------------------------------------------------


def comparison_faults(values: Any, named: Iterable[str], shape: tuple[int, ...] = ()) -> list[str]:
    """Return what keeps tables from being made from one layer's values.

    named : the metrics in the file's name
    shape : (n, ...) of the layer; () if it is not known
    """
    return list(_values_faults(values, named, lambda metric, values: _similarity_faults(metric, values, shape)))


def chance_faults(values: Any, named: Iterable[str]) -> list[str]:
    """Return what keeps tables from being made from one layer's values of permuted examples."""
    return list(_values_faults(values, named, _permuted_faults))


def pairs_faults(values: Any, key: str, layer: str) -> list[str]:
    """Return what keeps tables from being made from a tile of pairs.

    key : the file's name without .json, a digest of the pairs in it
    """
    try:
        pairs = {(NetworkId.from_json(a), NetworkId.from_json(b)): of_pair for a, b, of_pair in values["pairs"]}
        metrics = {metric for of_pair in pairs.values() for metric in of_pair}
        if values["layer"] != layer:
            return [f"it holds values of layer {shown(values['layer'])}"]
        if key != pairs_key(pairs, metrics):
            return ["it holds other pairs than its name says"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return ["it does not hold values of pairs"]
    return [
        f"{a.label} and {b.label}: {fault}"
        for (a, b), of_pair in pairs.items()
        for fault in comparison_faults(of_pair, of_pair)
    ]


def _values_faults(values: Any, named: Iterable[str], faults: Callable[[str, Any], Iterator[str]]) -> Iterator[str]:
    if not isinstance(values, dict) or sorted(values) != sorted(named):
        yield f"it holds {shown(sorted(values) if isinstance(values, dict) else values)}, but its name says otherwise"
        return
    for metric, entry in values.items():
        try:
            yield from faults(metric, entry)
        except (KeyError, TypeError, AttributeError):
            yield f"{metric} is not as distsim writes it"


def _similarity_faults(metric: str, entry: Mapping[str, Any], shape: tuple[int, ...]) -> Iterator[str]:
    if not _value_or_reason(entry["value"], entry["reason"]):
        yield f"{metric} is {shown(entry['value'])}, reason {shown(entry['reason'])}"
    view = METRICS[metric].view if metric in METRICS else ""
    ranks = [entry[name] for name in RANKS if entry[name] is not None or view == "channels"]
    counts = all(type(count) is int and count >= 0 for count in (*(entry[name] for name in COUNTS), *ranks))
    if not (counts and number(entry["n_per_p"]) and isinstance(entry["warning"], str)):
        yield f"{metric}: rows, columns or ranks are not counts"
    elif shape and metric in METRICS:  # older marks do not name their layer
        n, columns = (math.prod(shape[:-1]), shape[-1]) if view == "channels" else (shape[0], math.prod(shape[1:]))
        if (entry["n"], entry["columns_x"], entry["columns_y"]) != (n, columns, columns):
            yield f"{metric}: {entry['n']} rows and {entry['columns_x']} columns are not those of the layer"


def _permuted_faults(metric: str, entry: Mapping[str, Any]) -> Iterator[str]:
    values, reasons = entry["values"], entry["reasons"]
    if len(values) != PERMUTATIONS or len(reasons) != PERMUTATIONS:
        yield f"{metric} has {len(values)} values of {PERMUTATIONS} permutations"
    elif not all(map(_value_or_reason, values, reasons)):
        yield f"{metric} is {shown(values)}, reasons {shown(reasons)}"


def _value_or_reason(value: Any, reason: Any) -> bool:
    """Return whether there is either a value or a reason why there is none."""
    if not isinstance(reason, str):
        return False
    return bool(reason) if value is None else number(value) and not reason


# --- tables and figures ----------------------------------------------------------------------------------------------


def canonical(content: bytes) -> bool:
    """Return whether JSON has the text that distsim writes for its content."""
    return content == canonical_json(json.loads(content)).encode()


def mark_at(storage: Storage, path: str, found: Callable[..., None]) -> Mark | None:
    """Return the mark at a path, or None if it does not exist or is damaged. Damage is reported to `found`."""
    content = storage.get(path)
    if content is None:
        return None
    try:
        mark = decode_mark(content)
    except ValueError as error:
        found(f"is damaged: {first_line(error)}", path)
        return None
    if not canonical(content):
        found(SAME, path, NOTE)
    return mark


def files_faults(
    storage: Storage, folder: str, paths: Collection[str], again: str, found: Callable[..., None]
) -> Mark | None:
    """Check the files of a folder against the mark beside them. Return the mark if all are whole, else None.

    paths : of the objects in the folder
    again : how to make the files again, for the reader
    found : gets each problem
    """
    if f"{folder}/{MARK}" not in paths:
        found(f"these files have no mark: {again}", None, NOTE)
        return None
    mark = mark_at(storage, f"{folder}/{MARK}", found)
    if mark is None:
        return None
    damaged = {}
    for name, (size, digest) in mark.objects.items():
        content = storage.get(f"{folder}/{name}")
        if content is None:
            damaged[f"{folder}/{name}"] = "is missing"
        elif (len(content), hashlib.sha256(content).hexdigest()) != (size, digest):
            damaged[f"{folder}/{name}"] = "is damaged: it is not what its mark says"
    if damaged and read_mark(storage, f"{folder}/{MARK}") != mark:
        return None  # a driver replaced them while they were read
    for path, problem in damaged.items():
        found(problem, path)
    for path in sorted(set(paths) - {f"{folder}/{name}" for name in (*mark.objects, MARK)}):
        found("no mark names it", path, FOREIGN)
    return None if damaged else mark
