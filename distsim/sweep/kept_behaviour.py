"""Records of how a sweep's network and metrics behaved at its first start, in its store.

<problem>/behaviour/network.json            what the network computed from fixed numbers (distsim.sweep.behaviour)
                    metric-<name>.json      the values of a metric that does not come with distsim
Each is written once, at the first start that lacks it, and compared at every later start.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from distsim.metrics.registry import BUILT_IN, METRICS
from distsim.specs import Sweep, canonical_json, digest
from distsim.store import DamagedStore, Storage, SweepStore
from distsim.store.fenced import replace_one
from distsim.sweep.behaviour import (
    DECIDE,
    NAME,
    SCHEME,
    TOLERANCE,
    Record,
    differences,
    metric_behaviour,
    metric_differences,
    network_behaviour,
)
from distsim.sweep.exact import PROJECTIONS

FOLDER = "behaviour"
NETWORK = f"{FOLDER}/network.json"
PATH = re.compile(rf"{FOLDER}/(?:network|metric-(?P<metric>[^/]+))\.json")
LARGEST = 64 * 2**20  # bytes; a network of 350 modules has 0.2 MB


class BehaviourChanged(ValueError):
    """A network or metric behaves differently from the one of the same name at the sweep's first start."""


def require_same_behaviour(store: SweepStore, sweep: Sweep, say: Callable[[str], None] = print) -> None:
    """Compare the network, and the user's own metrics, with the records in the store. Write missing records.

    say : gets a sentence if a store that has networks lacked a record

    BehaviourChanged names the first place that differs. DamagedStore: a record cannot be read.
    """
    _network(store, sweep, say)
    for name in sweep.extent.metrics:
        if METRICS[name] is not BUILT_IN.get(name):
            _metric(store, name, say)


def require_recorded_behaviour(store: SweepStore, sweep: Sweep) -> None:
    """Compare the network, and the user's own metrics, with those records that the store has. Write nothing.

    Errors are those of `require_same_behaviour`.
    """
    theirs = read_behaviour(store.storage, NETWORK, store.problem)
    if theirs is not None and (edits := _edits(theirs, network_behaviour(sweep.problem, sweep.identity.seed), sweep)):
        raise BehaviourChanged(_of_network(sweep, edits))
    for name in sweep.extent.metrics:
        if METRICS[name] is not BUILT_IN.get(name):
            theirs = read_behaviour(store.storage, f"{FOLDER}/metric-{name}.json", store.problem)
            if theirs is not None and (edits := metric_differences(theirs, metric_behaviour(name))):
                raise BehaviourChanged(_of_metric(store, name, edits))


def read_behaviour(storage: Storage, path: str, problem: str) -> Record | None:
    """Return the record at a path that matches PATH, or None if it does not exist. DamagedStore: it was changed."""
    size = storage.sizes(FOLDER).get(path, 0)
    content = storage.get(path) if size <= LARGEST else b""
    if content is None:
        return None
    try:
        _require(size <= LARGEST, "the size")
        tree = json.loads(content)
        _require(isinstance(tree, dict), "the content")
        _require(tree.pop("sha256", None) == digest(tree), "the digest")
        match = PATH.fullmatch(path)
        _require(match is not None, "the name")
        _require(tree.get("scheme") == SCHEME, "the field scheme")
        if match is not None and match["metric"] is not None:
            return _metric_record(tree, match["metric"])
        return _network_record(tree, problem)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedStore(
            f"{path} of {storage.url} is damaged: {error}. distsim repair removes it, and the next start "
            "writes it again"
        ) from None


def _network(store: SweepStore, sweep: Sweep, say: Callable[[str], None]) -> None:
    identity, model = sweep.identity, sweep.problem.model
    theirs = read_behaviour(store.storage, NETWORK, store.problem)
    ours = network_behaviour(sweep.problem, identity.seed)
    if ours["dtype"] is None:
        say(
            f"{sweep.name}: edits of the network {model} cannot be noticed, because it fails on a fixed input: "
            f"{ours['reason']}"
        )
    theirs = _written(store, NETWORK, theirs, ours)
    if theirs is None:
        if _begun(store):
            say(f"{sweep.name}: the store had no record of the behaviour of its network {model}: now it has one")
        return
    edits = _edits(theirs, ours, sweep)
    if not edits:
        return
    if not _begun(store):
        replace_one(store.root, f"{store.problem}/{NETWORK}", _encoded(ours))
        return
    raise BehaviourChanged(_of_network(sweep, edits))


def _edits(theirs: Record, ours: Record, sweep: Sweep) -> list[str]:
    """Return the places where the network differs from the record, but for what may be rounding."""
    differing = differences(theirs, ours)
    if differing:  # leave out what nudging all numbers causes as well
        differing = differences(theirs, ours, network_behaviour(sweep.problem, sweep.identity.seed, nudged=True))
    return differing


def _of_network(sweep: Sweep, edits: list[str]) -> str:
    return (
        f"{sweep.name}: the network {sweep.problem.model} behaves differently from the one this store was begun with: "
        f"first at {edits[0]}. Undo the edit, or use another --storage"
    )


def _of_metric(store: SweepStore, name: str, edits: list[str]) -> str:
    return (
        f"{store.problem}: the metric {name} is not the one this store was begun with: {edits[0]}. "
        "Undo the edit, give it another name, or use another --storage"
    )


def _metric(store: SweepStore, name: str, say: Callable[[str], None]) -> None:
    path, ours = f"{FOLDER}/metric-{name}.json", metric_behaviour(name)
    theirs = _written(store, path, read_behaviour(store.storage, path, store.problem), ours)
    if theirs is None:
        if _measured(store, name):
            say(f"{store.problem}: the store had no record of what the metric {name} gives: now it has one")
        return
    differing = metric_differences(theirs, ours)
    if differing and not _measured(store, name):
        replace_one(store.root, f"{store.problem}/{path}", _encoded(ours))
    elif differing:
        raise BehaviourChanged(_of_metric(store, name, differing))


def _written(store: SweepStore, path: str, theirs: Record | None, ours: Record) -> Record | None:
    """Write our record if there is none. Return None if it was written, else the record in the store."""
    if theirs is None and not store.storage.create(path, _encoded(ours)):
        theirs = read_behaviour(store.storage, path, store.problem)
    return theirs


def _begun(store: SweepStore) -> bool:
    """Return whether the store holds anything of a network, even of a half-trained one."""
    return any(path.startswith(("complete/", "runs/", "pairs/")) for path in store.storage.sizes())


def _measured(store: SweepStore, metric: str) -> bool:
    contents = store.contents()
    compared = (*contents.comparisons.values(), *contents.chance.values())
    return any(metric in names for names in compared) or bool(store.storage.sizes("pairs"))


def _encoded(record: Record) -> bytes:
    return canonical_json(record | {"sha256": digest(record)}).encode()


# --- checking a record -----------------------------------------------------------------------------------------------

_FIELDS = {"scheme", "problem", "model", "dtype", "reason", "computed", "parameters", "initial"}
_TYPES: dict[str, Any] = {
    "of": str,
    "name": str,
    "shape": list,
    "largest": float | int | None,
    "projections": list,
}


def _network_record(tree: dict[str, Any], problem: str) -> Record:
    _require(tree.keys() == _FIELDS, "the list of fields")
    texts = all(isinstance(tree[name], str) for name in ("problem", "model", "reason"))
    _require(texts, "the problem, model or reason")
    _require(tree["problem"] == problem, "the problem")
    _require(tree["dtype"] in (*TOLERANCE, None), "the dtype")
    computed = tree["computed"]
    _require(
        isinstance(computed, list) and bool(computed) == (tree["dtype"] is not None), "the list of computed entries"
    )
    for entry in computed:
        _require(isinstance(entry, dict) and entry.keys() == _TYPES.keys(), "an entry")
        _require(all(isinstance(entry[name], of) for name, of in _TYPES.items()), "a value's type in an entry")
        _require(entry["of"] in (*DECIDE, *NAME), "an entry's kind")
        _require(_is_shape(entry["shape"]), "a shape")
        _require(_are_numbers(entry["projections"], 0 if entry["largest"] is None else PROJECTIONS), "a projection")
    _require(isinstance(tree["parameters"], dict) and all(map(_is_shape, tree["parameters"].values())), "a parameter")
    initial = tree["initial"]
    _require(isinstance(initial, dict), "the table of initial values")
    _require(all(value is None or _are_numbers(value, 2) for value in initial.values()), "an initial value")
    return tree


def _metric_record(tree: dict[str, Any], name: str) -> Record:
    _require(tree.keys() == {"scheme", "metric", "view", "values"}, "the list of fields")
    _require(tree["metric"] == name and isinstance(tree["view"], str), "the metric or its view")
    values = tree["values"]
    _require(isinstance(values, list) and len(values) == 2, "the list of values")
    _require(all(value is None or _are_numbers([value], 1) for value in values), "a value")
    return tree


def _require(holds: bool, part: str) -> None:
    if not holds:
        raise ValueError(f"{part} is not as distsim writes it")


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _are_numbers(values: Any, count: int) -> bool:
    numbers = isinstance(values, list) and all(type(value) in (float, int) for value in values)
    return numbers and len(values) == count and all(map(math.isfinite, values))
