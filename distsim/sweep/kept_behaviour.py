"""Records of how a sweep's network, metrics and criterion behaved at its first start, in its store.

<problem>/behaviour/network.json            what the network computed from fixed numbers (distsim.sweep.behaviour)
                    metric-<name>.json      the values of a metric that does not come with distsim
                    criterion-<name>.json   the order in which a criterion of one's own prunes
Each is written once, at the first start that lacks it, and compared at every later start.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypedDict

from distsim.metrics.registry import BUILT_IN, METRICS
from distsim.specs import MAGNITUDE, Sweep, shown
from distsim.specs.canonical import signed, unsigned
from distsim.specs.fields import Bound, Natural, expect
from distsim.specs.json_shape import require_json, require_record
from distsim.store import Storage, SweepStore
from distsim.store.commits import WRITTEN_AGAIN, read_decoded
from distsim.store.fenced import replace_one
from distsim.sweep.behaviour import (
    DECIDE,
    NAME,
    SCHEME,
    Record,
    criterion_behaviour,
    criterion_differences,
    differences,
    metric_behaviour,
    metric_differences,
    network_behaviour,
)
from distsim.sweep.exact import PROJECTIONS

FOLDER = "behaviour"
NETWORK = f"{FOLDER}/network.json"
PATH = re.compile(rf"{FOLDER}/(?:network|metric-(?P<metric>[^/]+)|criterion-(?P<criterion>[^/]+))\.json")
LARGEST = 64 * 2**20  # bytes; a network of 350 modules has 0.2 MB


class BehaviourChanged(ValueError):
    """A network, metric or criterion behaves differently from the one of the same name at the sweep's first start."""


def require_same_behaviour(store: SweepStore, sweep: Sweep, say: Callable[[str], None] = print) -> None:
    """Compare the network, and one's own metrics and criterion, with the records in the store. Write missing ones.

    say : gets a sentence if a store that has networks lacked a record

    BehaviourChanged names the first place that differs. DamagedStore: a record cannot be read.
    """
    for kept in _kept(store, sweep):
        theirs, ours = read_behaviour(store.storage, kept.path, store.problem), kept.evaluate()
        if kept.path == NETWORK and ours["dtype"] is None:
            say(
                f"{sweep.name}: edits of the network {sweep.problem.model} cannot be noticed, because it fails on a "
                f"fixed input: {ours['reason']}"
            )
        if theirs is None and not store.storage.create(kept.path, signed(ours)):  # another driver was first
            theirs = read_behaviour(store.storage, kept.path, store.problem)
        if theirs is None:
            if kept.used():
                say(f"{sweep.name}: the store had no record of {kept.what}: now it has one")
        elif edits := kept.edits(theirs, ours):
            if kept.used():
                raise BehaviourChanged(kept.changed + edits[0] + kept.instead)
            replace_one(store.root, f"{store.problem}/{kept.path}", signed(ours))


def require_recorded_behaviour(store: SweepStore, sweep: Sweep) -> None:
    """Compare the network, and one's own metrics and criterion, with those records that are there. Write nothing.

    Errors are those of `require_same_behaviour`.
    """
    for kept in _kept(store, sweep):
        theirs = read_behaviour(store.storage, kept.path, store.problem)
        if theirs is not None and (edits := kept.edits(theirs, kept.evaluate())):
            raise BehaviourChanged(kept.changed + edits[0] + kept.instead)


@dataclass(frozen=True)
class _Kept:
    """A record that a store keeps of a sweep, and how it is made, compared and spoken of."""

    path: str
    evaluate: Callable[[], Record]
    edits: Callable[[Record, Record], list[str]]  # from the store's record and ours: the places that differ
    used: Callable[[], bool]  # whether anything in the store came from what is recorded
    what: str  # is recorded
    changed: str  # the sentence of an edit, before the place that differs
    instead: str  # and after it: what to do


def _kept(store: SweepStore, sweep: Sweep) -> Iterator[_Kept]:
    """Yield the records of the network and of the user's own criterion and metrics."""
    name, model, seed = sweep.name, sweep.problem.model, sweep.identity.seed
    yield _Kept(
        NETWORK,
        lambda: network_behaviour(sweep.problem, seed),
        partial(_edits, sweep),
        partial(_begun, store),
        f"the behaviour of its network {model}",
        f"{name}: the network {model} behaves differently from the one this store was begun with: first at ",
        ". Undo the edit, or use another --storage",
    )
    criterion = sweep.problem.pruning.criterion
    if criterion != MAGNITUDE:
        yield _Kept(
            f"{FOLDER}/criterion-{criterion}.json",
            partial(criterion_behaviour, criterion),
            criterion_differences,
            partial(_pruned, store),
            f"how the criterion {criterion} prunes",
            f"{name}: the criterion {criterion} is not the one this store was begun with: ",
            ". Undo the edit, give it another name, or use another --storage",
        )
    for metric in sweep.extent.metrics:
        if METRICS[metric] is not BUILT_IN.get(metric):
            yield _Kept(
                f"{FOLDER}/metric-{metric}.json",
                partial(metric_behaviour, metric),
                metric_differences,
                partial(_measured, store, metric),
                f"what the metric {metric} gives",
                f"{name}: the metric {metric} is not the one this store was begun with: ",
                ". Undo the edit, give it another name, or use another --storage",
            )


def _edits(sweep: Sweep, theirs: Record, ours: Record) -> list[str]:
    """Return the places where the network differs from the record, but for what may be rounding."""
    differing = differences(theirs, ours)
    if differing:  # leave out what nudging all numbers causes as well
        differing = differences(theirs, ours, network_behaviour(sweep.problem, sweep.identity.seed, nudged=True))
    return differing


def _begun(store: SweepStore) -> bool:
    """Return whether the store holds anything of a network, even of a half-trained one."""
    return any(path.startswith(("complete/", "runs/", "pairs/")) for path in store.storage.sizes())


def _pruned(store: SweepStore) -> bool:
    """Return whether the store holds anything of a pruned network, even of a half-trained one."""
    return any(path.startswith(("runs/", "pairs/")) for path in store.storage.sizes())


def _measured(store: SweepStore, metric: str) -> bool:
    contents = store.contents()
    compared = [*contents.comparisons.values(), *contents.chance.values(), *contents.se.values()]
    compared += [frozenset(numbers) for numbers in contents.null.values()]
    return any(metric in names for names in compared) or bool(store.storage.sizes("pairs"))


# --- reading a record ------------------------------------------------------------------------------------------------


class _Entry(TypedDict):
    of: Annotated[str, Bound("be a kind of place", (*DECIDE, *NAME).__contains__)]
    name: str
    shape: list[Natural]
    largest: float | None
    projections: list[float]


class _NetworkRecord(TypedDict):
    scheme: int
    problem: str
    model: str
    dtype: Literal["float64", "float32"] | None
    reason: str
    computed: list[Any]  # each an _Entry
    parameters: dict[str, list[Natural]]
    initial: dict[str, Any]  # each two numbers, or None


class _MetricRecord(TypedDict):
    scheme: int
    metric: str
    view: str
    values: tuple[float | None, float | None]


class _CriterionRecord(TypedDict):
    scheme: int
    criterion: str
    needs: list[str]
    examples: Natural
    order: list[Natural]


def read_behaviour(storage: Storage, path: str, problem: str) -> Record | None:
    """Return the record at a path that matches PATH, or None if it does not exist. DamagedStore: it was changed."""
    return read_decoded(storage, path, LARGEST, partial(decode_behaviour, path=path, problem=problem), WRITTEN_AGAIN)


def decode_behaviour(content: bytes, path: str, problem: str) -> Record:
    """Return the record in an object that was read at this path. ValueError says what is wrong with it."""
    tree, match = unsigned(content, LARGEST), PATH.fullmatch(path)
    if match is not None and match["metric"] is not None:
        require_record("", tree, _MetricRecord)
        expect(tree["metric"] == match["metric"], f"it is of another metric, {shown(tree['metric'])}")
    elif match is not None and match["criterion"] is not None:
        require_record("", tree, _CriterionRecord)
        expect(tree["criterion"] == match["criterion"], f"it is of another criterion, {shown(tree['criterion'])}")
    else:
        _require_network(tree, problem)
    expect(tree["scheme"] == SCHEME, f"its scheme is {tree['scheme']}, expected {SCHEME}")
    return tree


def _require_network(tree: dict[str, Any], problem: str) -> None:
    require_record("", tree, _NetworkRecord)
    expect(tree["problem"] == problem, f"it is of another problem, {shown(tree['problem'])}")
    expect(bool(tree["computed"]) == (tree["dtype"] is not None), "it must have a dtype if anything was computed")
    for place, entry in enumerate(tree["computed"]):
        field = f"computed[{place}]"
        require_record(field, entry, _Entry)
        count = 0 if entry["largest"] is None else PROJECTIONS
        expect(len(entry["projections"]) == count, f"field {field}.projections must be a list of {count}")
    for name, value in tree["initial"].items():
        if value is not None:
            require_json(f"initial.{name}", value, tuple[float, float])
