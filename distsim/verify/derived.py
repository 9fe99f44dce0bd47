"""Checks of comparisons, and of tables and figures with what they were made from.

The values themselves are checked where they are read (`store.records`).
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from distsim.metrics.registry import METRICS
from distsim.specs import canonical_json
from distsim.store import Mark, Storage
from distsim.store.commits import LARGEST_MARK, MARK, read_mark
from distsim.store.records import decode_record
from distsim.store.storage import first_line
from distsim.verify.report import FOREIGN, NOTE

T = TypeVar("T")

TABLES, PAIR_TABLES, FIGURES = "results", "pair_results", "figures"
SAME = "its text was changed, but not its meaning"


# --- values ----------------------------------------------------------------------------------------------------------


def size_faults(values: Mapping[str, Any], shape: tuple[int, ...]) -> Iterator[str]:
    """Yield the metrics that did not see the layer's rows and columns. shape : (n, ...); older marks name no layer"""
    for metric, result in values.items():
        if metric not in METRICS:
            continue
        over_channels = METRICS[metric].view == "channels"
        n, columns = (math.prod(shape[:-1]), shape[-1]) if over_channels else (shape[0], math.prod(shape[1:]))
        if (result["n"], result["columns_x"], result["columns_y"]) != (n, columns, columns):
            yield f"{metric}: {result['n']} rows and {result['columns_x']} columns are not those of the layer"


# --- tables and figures ----------------------------------------------------------------------------------------------


def canonical(content: bytes) -> bool:
    """Return whether JSON has the text that distsim writes for its content."""
    return content == canonical_json(json.loads(content)).encode()


def decoded(
    storage: Storage, path: str, most: int, decode: Callable[[bytes], T], found: Callable[..., None]
) -> T | None:
    """Return what an object holds, or None if it does not exist or is damaged. Damage is reported to `found`.

    most : bytes that it can have
    decode : raises a ValueError that says what is wrong with a content
    """
    content = storage.get(path, most=most)
    if content is None:
        return None
    try:
        holds = decode(content)
    except ValueError as error:
        found(f"is damaged: {first_line(error)}", path)
        return None
    if not canonical(content):
        found(SAME, path, NOTE)
    return holds


def mark_at(storage: Storage, path: str, found: Callable[..., None]) -> Mark | None:
    """Return the mark at a path, or None if it does not exist or is damaged. Damage is reported to `found`."""
    return decoded(storage, path, LARGEST_MARK, partial(decode_record, path=path), found)


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
        content = storage.get(f"{folder}/{name}", most=size)
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
