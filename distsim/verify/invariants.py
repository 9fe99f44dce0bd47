"""What holds of every piece of a sweep, whoever computed it: functions that say, in sentences, what does not.

They take values and no store; an empty answer means that nothing is wrong.
"""

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from distsim.activations.layout import storage_dtype
from distsim.metrics.registry import METRICS
from distsim.models import Layer, Network
from distsim.seeds import numpy_stream
from distsim.specs import MOST, PERMUTATIONS, Identity, Problem, Pruning, canonical_json, pruned_count, shown
from distsim.store import NetworkId, network_label
from distsim.training.pruning import Masks, full_masks, pools, remaining
from distsim.training.stepper import State

ZEROS = 1e-4  # of the weights alive, or one of them, that training may leave at exactly zero; of 315,368 it left none
CODECS = frozenset({"bytes", "zstd", "crc32c", "sharding_indexed"})  # that activations are written with
RECORD = ("run", "iteration", "accuracy", "loss", "remaining", "remaining_pool", "epochs", "train_loss", "best_epoch")
SIZES = ("n", "columns_x", "columns_y", "dead_x", "dead_y")  # of a comparison, whole numbers
RANKS = ("rank_x", "rank_y")  # whole numbers of metrics over channels; of others also None


# --- networks --------------------------------------------------------------------------------------------------------


def alive_after(network: Network, pruning: Pruning, iteration: int) -> dict[str, int]:
    """Pool -> how many of its parameters are alive after so many prunings."""
    parameters = dict(network.named_parameters())
    alive = {}
    for pool, (rate, names) in pools(network, pruning).items():
        count = sum(parameters[name].numel() for name in names)
        for _ in range(iteration):
            count -= pruned_count(rate, count)
        alive[pool] = count
    return alive


def state_faults(state: Mapping[str, torch.Tensor], network: Network) -> Iterator[str]:
    """Of weights, or of the state that survivors are rewound to: names, shapes, dtypes, finite values."""
    expected = network.state_dict()
    yield from _differing_names(state, expected)
    for name in sorted(state.keys() & expected.keys()):
        tensor = state[name]
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            theirs, ours = ((tuple(t.shape), t.dtype) for t in (tensor, expected[name]))
            yield f"{name} is {theirs[0]} {theirs[1]}, the model's is {ours[0]} {ours[1]}"
        elif not torch.isfinite(tensor).all():
            yield f"{name} has values that are not finite"


def mask_faults(masks: Masks, network: Network, pruning: Pruning, iteration: int) -> Iterator[str]:
    """Names and shapes are those of the pools, and of each pool exactly as many are alive as pruning leaves."""
    expected = full_masks(network, pruning)
    faults = list(_differing_names(masks, expected))
    for name in sorted(masks.keys() & expected.keys()):
        if masks[name].shape != expected[name].shape or masks[name].dtype != torch.bool:
            faults.append(f"the mask of {name} is {tuple(masks[name].shape)} {masks[name].dtype}")
    yield from faults
    if faults:
        return
    counts = alive_after(network, pruning, iteration)
    for pool, (_, names) in pools(network, pruning).items():
        alive = sum(int(masks[name].sum()) for name in names)
        if alive != counts[pool]:
            yield f"{alive} parameters of the pool {pool} are alive, {iteration} prunings leave {counts[pool]}"


def zero_faults(weights: State, masks: Masks) -> Iterator[str]:
    """What is dead is exactly zero; what is alive is not, but for few that training may bring there."""
    zeros = alive = 0
    for name, mask in sorted(masks.items()):
        if weights[name][~mask].any():
            yield f"a dead parameter of {name} is not zero"
        zeros += int((weights[name][mask] == 0).sum())
        alive += int(mask.sum())
    if zeros > max(1, ZEROS * alive):
        yield f"{zeros} of {alive} parameters that are alive are zero"


def nesting_faults(before: Masks, after: Masks) -> Iterator[str]:
    """What was dead earlier in the run is dead."""
    for name in sorted(before.keys() & after.keys()):
        if before[name].shape == after[name].shape and (after[name] & ~before[name]).any():
            yield f"parameters of {name} are alive that were dead earlier in the run"


def record_faults(record: Mapping[str, Any], problem: Problem, which: NetworkId) -> Iterator[str]:
    """Whose record it is, and whether its values can be."""
    if lacking := [name for name in (*RECORD, "reduced") if name not in record]:
        yield f"its record lacks {', '.join(lacking)}"
        return
    expected = ("complete", 0) if which is None else which
    if (record["run"], record["iteration"]) != expected:
        yield f"its record is that of run {shown(record['run'])}, iteration {shown(record['iteration'])}"
    for name in ("accuracy", "remaining", "remaining_pool"):
        if not (_number(record[name]) and 0 <= record[name] <= 1):
            yield f"its {name} is {shown(record[name])}"
    losses = record["train_loss"]
    if not (_number(record["loss"]) and isinstance(losses, list) and all(map(_number, losses))):
        yield "a loss in its record is no finite number"
    most = max(problem.recipe.epochs, problem.pruning.finetune_epochs)
    if not (isinstance(losses, list) and record["epochs"] == len(losses) and 1 <= len(losses) <= most):
        yield f"its record says {shown(record['epochs'])} epochs"
    best = record["best_epoch"]
    if best is not None and not (isinstance(best, int) and 1 <= best <= most):
        yield f"its best epoch is {shown(best)}"
    if record["reduced"] != problem.reduced:
        yield f"its record says reduced: {shown(record['reduced'])}, the sweep is {problem.reduced}"


def remaining_faults(record: Mapping[str, Any], network: Network, masks: Masks) -> Iterator[str]:
    for name, value in zip(("remaining", "remaining_pool"), remaining(network, masks), strict=True):
        if record.get(name) != value:
            yield f"its record says {name} {shown(record.get(name))}, its masks {value}"


def probe_faults(tree: Any, identity: Identity, same_numpy: bool) -> Iterator[str]:
    """Of probe.json: as many distinct training images as asked for, and those that are drawn from the seed.

    How many training images there were decides the draw and is not in the store: one number must fit.
    same_numpy : as drew them; another one may draw otherwise.
    """
    problem = identity.problem
    indices = tree.get("indices") if isinstance(tree, dict) else None
    most = problem.train_limit or MOST
    if not isinstance(indices, list) or not all(type(i) is int and 0 <= i < most for i in indices):
        yield "the probe's indices are no numbers of training images"
    elif len(indices) != problem.probe or indices != sorted(set(indices)):
        yield f"the probe has {len(set(indices))} distinct indices of {len(indices)}, in order: {problem.probe} belong"
    elif problem.probe_rule == "first":
        if indices != list(range(problem.probe)):
            yield f"the probe is not the first {problem.probe} images"
    elif same_numpy and not _drawn(np.array(indices), identity.seed, most):
        yield "the probe is not what the seed draws"


def _drawn(indices: Any, seed: int, most: int) -> bool:
    """Whether the stream of the probe draws these out of some number of images."""
    least, size = int(indices[-1]) + 1, len(indices)
    # a fair draw ends so far below the number of images with probability e^-40
    for n in range(least, min(most, least + 40 * (least // size + 1)) + 1):
        if np.array_equal(np.sort(numpy_stream(seed, "probe").choice(n, size, replace=False)), indices):
            return True
    return False


# --- activations -----------------------------------------------------------------------------------------------------


def array_faults(metadata: Any, identity: Identity, shape: tuple[int, ...], position: int, layer: Layer) -> list[str]:
    """Of a layer's zarr.json: what the array is. shape : of the layer for one image."""
    try:
        return list(_array_faults(metadata, identity, shape, position, layer))
    except (KeyError, TypeError, AttributeError):
        return ["the metadata are not those of an array as it is written here"]


def _array_faults(
    metadata: Any, identity: Identity, shape: tuple[int, ...], position: int, layer: Layer
) -> Iterator[str]:
    whole = [identity.problem.probe, *shape]
    if metadata["node_type"] != "array" or metadata["shape"] != whole:
        yield f"the array's shape is {shown(metadata['shape'])}, expected was {whole}"
    dtypes = {"float32", storage_dtype(layer, identity.storage)}
    if metadata["data_type"] not in dtypes:
        yield f"its dtype is {shown(metadata['data_type'])}, expected was {' or '.join(sorted(dtypes))}"
    attributes = metadata["attributes"]
    if (attributes["position"], attributes["kind"]) != (position, layer.kind):
        yield f"it says layer {shown(attributes['position'])} of kind {shown(attributes['kind'])}"
    if foreign := set(_codecs(metadata["codecs"])) - CODECS:
        yield f"it is encoded by {', '.join(sorted(foreign))}, which nothing here writes"
    if metadata["chunk_grid"]["name"] != "regular" or metadata["chunk_key_encoding"]["name"] != "default":
        yield "its chunks are named otherwise than here"


def _codecs(codecs: Iterable[Any]) -> Iterator[str]:
    for codec in codecs:
        yield codec["name"]
        inside = codec.get("configuration", {})
        yield from _codecs([*inside.get("codecs", ()), *inside.get("index_codecs", ())])


def chunk_names(metadata: Any) -> list[str]:
    """The objects of an array, in the order of its examples: c/0/0/0/0, ..."""
    chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [range(-(-size // chunk)) for size, chunk in zip(metadata["shape"], chunks, strict=True)]
    return ["/".join(("c", *map(str, place))) for place in itertools.product(*counts)]


# --- comparisons -----------------------------------------------------------------------------------------------------


def comparison_faults(values: Any, named: Iterable[str], layer: Layer | None, rows: tuple[int, ...]) -> list[str]:
    """Of one layer's values, in a file that is named by its metrics. rows : (n, ...) of the layer, () if unknown."""
    return list(_values_faults(values, named, layer, lambda metric, one: _result_faults(metric, one, layer, rows)))


def chance_faults(values: Any, named: Iterable[str], layer: Layer | None) -> list[str]:
    return list(_values_faults(values, named, layer, _permuted_faults))


def pairs_faults(values: Any, key: str, layer: Layer, rows: tuple[int, ...]) -> list[str]:
    """Of a tile of pairs of networks, in a file named by the digest of what it holds."""
    try:
        pairs = {(_network(a), _network(b)): found for a, b, found in values["pairs"]}
        metrics = sorted({metric for found in pairs.values() for metric in found})
        if values["layer"] != layer.name:
            return [f"it holds values of layer {shown(values['layer'])}"]
        if key != hashlib.sha256(canonical_json([sorted(map(str, pairs)), metrics]).encode()).hexdigest()[:16]:
            return ["it holds other pairs than those that it is named by"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return ["it holds no values of pairs"]
    return [
        f"{network_label(a)} and {network_label(b)}: {fault}"
        for (a, b), found in pairs.items()
        for fault in comparison_faults(found, found, layer, rows)
    ]


def _network(tree: Any) -> NetworkId:
    if tree is None:
        return None
    run, iteration = tree
    return int(run), int(iteration)


def _values_faults(values: Any, named: Iterable[str], layer: Layer | None, faults: Any) -> Iterator[str]:
    if not isinstance(values, dict) or sorted(values) != sorted(named):
        yield f"it holds {shown(sorted(values) if isinstance(values, dict) else values)}, and is named otherwise"
        return
    for metric, one in values.items():
        if layer is not None and metric in METRICS and not METRICS[metric].applies_to(layer.kind):
            yield f"{metric} is not of layers of kind {layer.kind}"
        try:
            yield from faults(metric, one)
        except (KeyError, TypeError, AttributeError):
            yield f"{metric} is not as a comparison writes it"


def _result_faults(metric: str, one: Mapping[str, Any], layer: Layer | None, rows: tuple[int, ...]) -> Iterator[str]:
    if not _value_or_reason(one["value"], one["reason"]):
        yield f"{metric} is {shown(one['value'])}, reason {shown(one['reason'])}"
    view = METRICS[metric].view if metric in METRICS else ""
    counts = [one[name] for name in SIZES] + [
        one[name] for name in RANKS if one[name] is not None or view == "channels"
    ]
    if not all(type(count) is int and count >= 0 for count in counts) or not isinstance(one["warning"], str):
        yield f"{metric}: rows, columns or ranks are no counts"
    elif one["n_per_p"] != one["n"] / max(one["columns_x"], one["columns_y"], 1):
        yield f"{metric}: {one['n']} rows are not {shown(one['n_per_p'])} times its columns"
    elif rows and metric in METRICS:
        n, columns = (math.prod(rows[:-1]), rows[-1]) if view == "channels" else (rows[0], math.prod(rows[1:]))
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
    return bool(reason) if value is None else _number(value) and not reason


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _differing_names(ours: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    if lacking := sorted(expected.keys() - ours.keys()):
        yield f"it lacks {shown(', '.join(lacking))}"
    if more := sorted(ours.keys() - expected.keys()):
        yield f"it has {shown(', '.join(more))}, which the model has not"
