"""What is checked of comparisons, and of tables and figures with what they were made from.

As in `verify.networks`: what readers rely on, not whether the values are those that a comparison computes.
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
COUNTS = ("n", "columns_x", "columns_y", "dead_x", "dead_y")  # of a similarity, whole numbers
RANKS = ("rank_x", "rank_y")  # whole numbers of metrics over channels; of others also None
SAME = "its text was changed, and says the same"


# --- values ----------------------------------------------------------------------------------------------------------


def comparison_faults(values: Any, named: Iterable[str], shape: tuple[int, ...] = ()) -> list[str]:
    """Of one layer's values, in a file that is named by its metrics: tables can be made from them.

    shape : (n, ...) of the layer; () where it is not known
    """
    return list(_values_faults(values, named, lambda metric, one: _similarity_faults(metric, one, shape)))


def chance_faults(values: Any, named: Iterable[str]) -> list[str]:
    return list(_values_faults(values, named, _permuted_faults))


def pairs_faults(values: Any, key: str, layer: str) -> list[str]:
    """Of a tile of pairs of networks, in a file named by the digest of what it holds."""
    try:
        pairs = {(NetworkId.from_json(a), NetworkId.from_json(b)): found for a, b, found in values["pairs"]}
        metrics = {metric for found in pairs.values() for metric in found}
        if values["layer"] != layer:
            return [f"it holds values of layer {shown(values['layer'])}"]
        if key != pairs_key(pairs, metrics):
            return ["it holds other pairs than those that it is named by"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return ["it holds no values of pairs"]
    return [
        f"{a.label} and {b.label}: {fault}"
        for (a, b), found in pairs.items()
        for fault in comparison_faults(found, found)
    ]


def _values_faults(values: Any, named: Iterable[str], faults: Callable[[str, Any], Iterator[str]]) -> Iterator[str]:
    if not isinstance(values, dict) or sorted(values) != sorted(named):
        yield f"it holds {shown(sorted(values) if isinstance(values, dict) else values)}, and is named otherwise"
        return
    for metric, one in values.items():
        try:
            yield from faults(metric, one)
        except (KeyError, TypeError, AttributeError):
            yield f"{metric} is not as a comparison writes it"


def _similarity_faults(metric: str, one: Mapping[str, Any], shape: tuple[int, ...]) -> Iterator[str]:
    if not _value_or_reason(one["value"], one["reason"]):
        yield f"{metric} is {shown(one['value'])}, reason {shown(one['reason'])}"
    view = METRICS[metric].view if metric in METRICS else ""
    ranks = [one[name] for name in RANKS if one[name] is not None or view == "channels"]
    counts = all(type(count) is int and count >= 0 for count in (*(one[name] for name in COUNTS), *ranks))
    if not (counts and number(one["n_per_p"]) and isinstance(one["warning"], str)):
        yield f"{metric}: rows, columns or ranks are no counts"
    elif shape and metric in METRICS:  # older marks do not say of which layer they are
        n, columns = (math.prod(shape[:-1]), shape[-1]) if view == "channels" else (shape[0], math.prod(shape[1:]))
        if (one["n"], one["columns_x"], one["columns_y"]) != (n, columns, columns):
            yield f"{metric}: {one['n']} rows and {one['columns_x']} columns are not those of the layer"


def _permuted_faults(metric: str, one: Mapping[str, Any]) -> Iterator[str]:
    values, reasons = one["values"], one["reasons"]
    if len(values) != PERMUTATIONS or len(reasons) != PERMUTATIONS:
        yield f"{metric} has {len(values)} values of {PERMUTATIONS} permutations"
    elif not all(map(_value_or_reason, values, reasons)):
        yield f"{metric} is {shown(values)}, reasons {shown(reasons)}"


def _value_or_reason(value: Any, reason: Any) -> bool:
    """Either a value or a reason why there is none."""
    if not isinstance(reason, str):
        return False
    return bool(reason) if value is None else number(value) and not reason


# --- tables and figures ----------------------------------------------------------------------------------------------


def canonical(content: bytes) -> bool:
    """Whether the text is as it was written, where it says what was written."""
    return content == canonical_json(json.loads(content)).encode()


def mark_at(storage: Storage, path: str, found: Callable[..., None]) -> Mark | None:
    """The mark at a path; None where there is none, or where it is damaged, which is said by `found`."""
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
    storage: Storage, folder: str, there: Collection[str], again: str, found: Callable[..., None]
) -> Mark | None:
    """Say what is the matter with the files of a folder, whose mark lies beside them; the mark, if all are whole.

    there : paths in the folder
    again : how they are made again
    """
    if f"{folder}/{MARK}" not in there:
        found(f"nothing vouches for what is there: {again}", None, NOTE)
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
        return None  # a driver at work replaced them while they were read
    for path, said in damaged.items():
        found(said, path)
    for path in sorted(set(there) - {f"{folder}/{name}" for name in (*mark.objects, MARK)}):
        found("no mark names it", path, FOREIGN)
    return None if damaged else mark
