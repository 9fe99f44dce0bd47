"""The behaviour that a sweep was begun with, as its store keeps it.

<problem>/behaviour/network.json            what the network computed from fixed numbers (distsim.sweep.behaviour)
                    metric-<name>.json      the values of a metric that does not come with distsim
Each is written once, at the first start that lacks it, and compared at every later one.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from typing import Any

from distsim.metrics.registry import BUILT_IN, METRICS
from distsim.specs import Sweep, canonical_json
from distsim.store import DamagedStore, Storage, SweepStore
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
    """The network or a metric does something else than when the store was begun, under the same name."""


def require_same_behaviour(store: SweepStore, sweep: Sweep, say: Callable[[str], None] = print) -> None:
    """Compare the network, and metrics of one's own, with what the store was begun with; write what it lacks.

    BehaviourChanged names the first place that differs. DamagedStore: what the store has cannot be read. A record that
    a store of finished work did not have is announced by `say`.
    """
    _network(store, sweep, say)
    for name in sweep.extent.metrics:
        if METRICS[name] is not BUILT_IN.get(name):
            _metric(store, name, say)


def read_behaviour(storage: Storage, path: str, problem: str) -> Record | None:
    """Return the record at a path that PATH matches; None where there is none. DamagedStore: it is not as written."""
    size = storage.sizes(FOLDER).get(path, 0)
    content = storage.get(path) if size <= LARGEST else b""
    if content is None:
        return None
    try:
        _require(size <= LARGEST, "its size")
        tree = json.loads(content)
        _require(isinstance(tree, dict), "it")
        _require(tree.pop("sha256", None) == _digest(tree), "its digest")
        match = PATH.fullmatch(path)
        _require(match is not None, "its name")
        _require(tree.get("scheme") == SCHEME, "its scheme")
        if match is not None and match["metric"] is not None:
            return _metric_record(tree, match["metric"])
        return _network_record(tree, problem)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedStore(
            f"{path} of {storage.url} is damaged: {error}; distsim repair removes it, the next start writes it anew"
        ) from None


def _network(store: SweepStore, sweep: Sweep, say: Callable[[str], None]) -> None:
    identity, model = sweep.identity, sweep.problem.model
    theirs = read_behaviour(store.storage, NETWORK, store.problem)
    ours = network_behaviour(sweep.problem, identity.seed)
    if ours["dtype"] is None:
        say(
            f"{sweep.name}: edits of the network {model} cannot be noticed: on a fixed input it fails: {ours['reason']}"
        )
    theirs = _written(store, NETWORK, theirs, ours)
    if theirs is None:
        if _begun(store):
            say(f"{sweep.name}: the store did not say how its network {model} behaves; from now on it does")
        return
    found = differences(theirs, ours)
    if found:  # what a nudge of all numbers brings about as well, rounding may have
        found = differences(theirs, ours, network_behaviour(sweep.problem, identity.seed, nudged=True))
    if not found:
        return
    if not _begun(store):
        store.storage.put(NETWORK, _encoded(ours))
        return
    raise BehaviourChanged(
        f"{sweep.name}: the network {model} behaves differently from the one this store was begun with: first at "
        f"{found[0]}. Undo the edit, or use another --storage"
    )


def _metric(store: SweepStore, name: str, say: Callable[[str], None]) -> None:
    path, ours = f"{FOLDER}/metric-{name}.json", metric_behaviour(name)
    theirs = _written(store, path, read_behaviour(store.storage, path, store.problem), ours)
    if theirs is None:
        if _measured(store, name):
            say(f"{store.problem}: the store did not say what its metric {name} gives; from now on it does")
        return
    found = metric_differences(theirs, ours)
    if found and not _measured(store, name):
        store.storage.put(path, _encoded(ours))
    elif found:
        raise BehaviourChanged(
            f"{store.problem}: the metric {name} is not the one this store was begun with: {found[0]}. Undo the edit, "
            "give it another name, or use another --storage"
        )


def _written(store: SweepStore, path: str, theirs: Record | None, ours: Record) -> Record | None:
    """Write ours where there is none. None: it was written; else what is there, maybe another driver's by now."""
    if theirs is None and not store.storage.create(path, _encoded(ours)):
        theirs = read_behaviour(store.storage, path, store.problem)
    return theirs


def _begun(store: SweepStore) -> bool:
    """Whether anything of a network is there, of one that is half trained too."""
    return any(path.startswith(("complete/", "runs/", "pairs/")) for path in store.storage.sizes())


def _measured(store: SweepStore, metric: str) -> bool:
    contents = store.contents()
    there = (*contents.comparisons.values(), *contents.chance.values())
    return any(metric in names for names in there) or bool(store.storage.sizes("pairs"))


def _encoded(record: Record) -> bytes:
    return canonical_json(record | {"sha256": _digest(record)}).encode()


def _digest(record: Record) -> str:
    return hashlib.sha256(canonical_json(record).encode()).hexdigest()


# --- what a record is ------------------------------------------------------------------------------------------------

_FIELDS = {"scheme", "problem", "model", "dtype", "reason", "computed", "parameters", "initial"}
_TYPES: dict[str, Any] = {
    "of": str,
    "name": str,
    "shape": list,
    "largest": float | int | None,
    "projections": list,
}


def _network_record(tree: dict[str, Any], problem: str) -> Record:
    _require(tree.keys() == _FIELDS, "the names of its fields")
    _require(all(isinstance(tree[name], str) for name in ("problem", "model", "reason")), "its texts")
    _require(tree["problem"] == problem, "its problem")
    _require(tree["dtype"] in (*TOLERANCE, None), "its dtype")
    computed = tree["computed"]
    _require(isinstance(computed, list) and bool(computed) == (tree["dtype"] is not None), "what was computed")
    for entry in computed:
        _require(isinstance(entry, dict) and entry.keys() == _TYPES.keys(), "an entry")
        _require(all(isinstance(entry[name], of) for name, of in _TYPES.items()), "an entry's type")
        _require(entry["of"] in (*DECIDE, *NAME), "an entry's kind")
        _require(_is_shape(entry["shape"]), "a shape")
        _require(_are_numbers(entry["projections"], 0 if entry["largest"] is None else PROJECTIONS), "a projection")
    _require(isinstance(tree["parameters"], dict) and all(map(_is_shape, tree["parameters"].values())), "a parameter")
    initial = tree["initial"]
    _require(isinstance(initial, dict), "its initial values")
    _require(all(value is None or _are_numbers(value, 2) for value in initial.values()), "an initial value")
    return tree


def _metric_record(tree: dict[str, Any], name: str) -> Record:
    _require(tree.keys() == {"scheme", "metric", "view", "values"}, "the names of its fields")
    _require(tree["metric"] == name and isinstance(tree["view"], str), "its metric")
    values = tree["values"]
    _require(isinstance(values, list) and len(values) == 2, "its values")
    _require(all(value is None or _are_numbers([value], 1) for value in values), "a value")
    return tree


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{what} is not as it is written")


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _are_numbers(values: Any, count: int) -> bool:
    numbers = isinstance(values, list) and all(type(value) in (float, int) for value in values)
    return numbers and len(values) == count and all(map(math.isfinite, values))
