"""The records that a store holds, and their check: the one place where what was read becomes believed.

Each record is JSON in a mark, and the path says which record it must be. A stranger may have written the store. The
digest shows that a record is whole, not that it is what its path says.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, NotRequired, TypedDict

import distsim
from distsim.comparison.pair import Result
from distsim.metrics.jackknife import BLOCKS
from distsim.metrics.registry import BUILT_IN, METRICS
from distsim.specs import PERMUTATIONS, Control, Identity, NetworkId, shown
from distsim.specs.fields import Count, Natural, Proportion, Real, expect
from distsim.specs.json_shape import require_json
from distsim.store.commits import LARGEST_MARK, DamagedStore, Mark, Sha256, decode_mark, read_decoded
from distsim.store.paths import Place, pairs_key, place_of
from distsim.store.storage import Storage

LARGEST_SPEC = 2**20  # bytes of spec.json and request.json
ROUNDING = 0.01  # by which values may pass a bound: float32 eigenvalues err by 0.004 at most (comparison.pair)
# Fields of provenance: the SHA-256 of the weights that activations and logits, or the two sides of values, come from.
WEIGHTS, WEIGHTS_X, WEIGHTS_Y = "weights", "weights_x", "weights_y"


class NetworkRecord(TypedDict):
    """How a network was trained, and how good it is."""

    run: Natural | Literal["complete"]
    iteration: Natural
    complete: NotRequired[Natural]  # number of the complete network; 0 is not written
    control: NotRequired[Control]  # not written of other runs
    epochs: Natural  # trained
    accuracy: Proportion  # on the test set
    loss: Real
    remaining: Proportion  # alive / all parameters
    remaining_pool: Proportion  # alive / prunable parameters
    reduced: bool
    train_loss: NotRequired[list[Real]]  # of each epoch
    validation_loss: NotRequired[list[Real]]
    best_epoch: NotRequired[Natural | None]


class StoredArray(TypedDict):
    """A layer's activations as stored."""

    dtype: Literal["float16", "float32"]
    shape: list[Count]
    sha256: Sha256  # of the values in C order


class ActivationsRecord(TypedDict):
    """A network's activations. Older marks have no layers."""

    layers: NotRequired[dict[str, StoredArray]]


class LogitsRecord(TypedDict):
    """A network's logits of the test images."""

    examples: Count
    classes: Count
    dtype: Literal["float16", "float32"]


class ChanceResult(TypedDict):
    """A metric's values for permuted examples, one for each permutation; or without a block of the examples."""

    values: list[Real | None]
    reasons: list[str]


class PairsRecord(TypedDict):
    """A tile: one layer's values of pairs of networks."""

    layer: str
    pairs: list[tuple[Any, Any, dict[str, Result]]]


class SeveralPairsRecord(TypedDict):
    """A tile: one layer's values of pairs of networks without each block of the examples."""

    layer: str
    pairs: list[tuple[Any, Any, dict[str, ChanceResult]]]


class TablesRecord(TypedDict):
    """Tables or figures, and the digest of what they were made from."""

    inputs: str
    version: NotRequired[Natural]  # of the tables (distsim.results.reduce.VERSION); older marks have none


class PairTablesRecord(TypedDict):
    """Tables of pairs, and the digest of each tile that they were made from; by plan too, but in older marks."""

    inputs: dict[str, str]
    plans: NotRequired[dict[str, dict[str, str]]]


KINDS: dict[str, Any] = {
    "network": NetworkRecord,
    "activations": ActivationsRecord,
    "logits": LogitsRecord,
    "comparison": dict[str, Result],
    "chance": dict[str, ChanceResult],
    "null": dict[str, ChanceResult],
    "se": dict[str, ChanceResult],
    "pairs": PairsRecord,
    "pairs_se": SeveralPairsRecord,
    "tables": TablesRecord,
    "pair_tables": PairTablesRecord,
    "figures": TablesRecord,
}


def read_record(storage: Storage, path: str) -> Mark | None:
    """Return the mark at this path, or None if nothing is there.

    DamagedStore: it is not a mark, belongs to another piece, or does not hold the record that its path says.
    """
    return read_decoded(storage, path, LARGEST_MARK, partial(decode_record, path=path))


def decode_record(content: bytes, path: str) -> Mark:
    """Return the mark in an object that was read at this path. ValueError: see `read_record`."""
    mark, place = decode_mark(content), place_of(path)
    if place is not None:
        owner = mark.provenance.get("piece", place.piece)  # older marks do not name their piece
        expect(owner == place.piece, f"it belongs to {shown(owner)}")
        require_values(place, mark.values)
    return mark


def require_values(place: Place, values: dict[str, Any]) -> None:
    """Check the values of a mark at this place. ValueError: they are not the record that belongs there."""
    require_json("values", values, KINDS[place.kind])
    if place.kind in _AGREES:
        _AGREES[place.kind](place, values)


class SpecRecord(TypedDict):
    """The content of spec.json."""

    identity: dict[str, Any]  # as `Identity.from_dict` reads it
    hash: Sha256
    distsim: NotRequired[str]  # the version that wrote it


def decode_spec(content: bytes) -> dict[str, Any]:
    """Return the content of spec.json. ValueError: it is not a `SpecRecord`."""
    if len(content) > LARGEST_SPEC:
        raise ValueError(f"it has more than {LARGEST_SPEC:,} bytes")
    try:
        spec = json.loads(content)
    except RecursionError:
        raise ValueError("its content is nested too deeply") from None
    require_json("", spec, SpecRecord)
    return dict(spec)


def identity_in(record: Mapping[str, Any], where: str) -> Identity:
    """Return the identity in a record that has a hash beside it. where : the record's place, for messages

    DamagedStore: it does not have that hash, or another distsim wrote it.
    """
    try:
        identity = Identity.from_dict(record["identity"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        version = record.get("distsim", "unknown version")
        raise DamagedStore(
            f"{where} was written by another distsim ({version}; this is {distsim.__version__}): {error}"
        ) from None
    if identity.hash != record["hash"]:
        raise DamagedStore(f"{where} is damaged: its identity does not match its hash")
    return identity


def weights_of(mark: Mark) -> str:
    """Return the SHA-256 of the weights in a network's mark, "" if it names none."""
    return mark.objects.get("weights.safetensors", (0, ""))[1]


# --- what must hold between fields -----------------------------------------------------------------------------------


def _network(place: Place, record: dict[str, Any]) -> None:
    assert place.network is not None
    run, iteration = "complete" if place.network.run is None else place.network.run, place.network.iteration
    expect(
        (record["run"], record["iteration"]) == (run, iteration),
        f"it is the record of run {record['run']}, iteration {record['iteration']}",
    )
    ours, theirs = (
        (place.network.complete, place.network.control),
        (record.get("complete", 0), record.get("control", "")),
    )
    expect(
        ours == theirs, f"it is the record of a network of complete network {theirs[0]}, control {theirs[1] or 'none'}"
    )


def _comparison(place: Place, values: dict[str, Any]) -> None:
    _require_metrics(place, values)
    for metric, result in values.items():
        _require_value_or_reason(f"values.{metric}", metric, result["value"], result["reason"])
        if metric in METRICS and METRICS[metric].view == "channels":
            expect(None not in (result["rank_x"], result["rank_y"]), f"field values.{metric} has no ranks")


def _several(place: Place, values: dict[str, Any]) -> None:
    """Check values of permuted examples, or without blocks of them: their number follows from their place."""
    most = {"chance": PERMUTATIONS, "null": len(place.permutations), "se": BLOCKS}[place.kind]
    _require_metrics(place, values)
    for metric, result in values.items():
        _require_several(f"values.{metric}", metric, result, most)


def _require_several(field: str, metric: str, result: dict[str, Any], most: int) -> None:
    counts = len(result["values"]), len(result["reasons"])
    expect(counts == (most,) * 2, f"field {field} must have {most} values, got {counts[0]}")
    for value, reason in zip(result["values"], result["reasons"], strict=True):
        _require_value_or_reason(field, metric, value, reason)


def _pairs(place: Place, values: dict[str, Any]) -> None:
    expect(values["layer"] == place.layer, f"it holds values of layer {shown(values['layer'])}")
    pairs = {(x, y): results for x, y, results in pairs_in(values)}
    metrics = {metric for results in pairs.values() for metric in results}
    expect(place.named == pairs_key(pairs, metrics), "it holds other pairs than its name says")
    for (x, y), results in pairs.items():
        for metric, result in results.items():
            where = f"{metric} of {x.label} and {y.label}"
            if place.kind == "pairs_se":
                _require_several(where, metric, result, BLOCKS)
            else:
                _require_value_or_reason(where, metric, result["value"], result["reason"])


def _pair_tables(place: Place, values: dict[str, Any]) -> None:
    for plan, tiles in values.get("plans", {}).items():
        expect(tiles.items() <= values["inputs"].items(), f"field values.plans.{plan} has tiles that inputs has not")


def pairs_in(values: dict[str, Any]) -> Iterator[tuple[NetworkId, NetworkId, dict[str, Any]]]:
    """Yield the networks x and y of each pair in a tile, and metric -> record. ValueError: a network is not one."""
    for x, y, results in values["pairs"]:
        yield NetworkId.from_json(x), NetworkId.from_json(y), results


def _require_metrics(place: Place, values: dict[str, Any]) -> None:
    names = sorted(values)
    expect(names == sorted(place.metrics), f"it holds {shown(', '.join(names))}, but its name says otherwise")


def _require_value_or_reason(field: str, metric: str, value: float | None, reason: str) -> None:
    """Check that there is either a value that the metric can have, or a reason why there is none."""
    if value is None:
        expect(bool(reason), f"field {field} has neither a value nor a reason")
        return
    expect(math.isfinite(value) and not reason, f"field {field} has the value {value} and a reason why it has none")
    if metric in BUILT_IN:  # what one's own metrics say of their values is nobody's promise
        low, high = BUILT_IN[metric].bounds
        within = low - ROUNDING <= value <= high + ROUNDING
        expect(within, f"field {field} has the value {value}, and {metric} lies between {low:g} and {high:g}")


_AGREES: dict[str, Callable[[Place, dict[str, Any]], None]] = {
    "network": _network,
    "comparison": _comparison,
    "chance": _several,
    "null": _several,
    "se": _several,
    "pairs": _pairs,
    "pairs_se": _pairs,
    "pair_tables": _pair_tables,
}
