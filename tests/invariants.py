"""What holds of everything that a sweep writes, whoever computed it: functions that say, in sentences, what does not.

Tests look with these at what the writers write, and the fault tests at the stores that they damage. `distsim verify`
does not: of content that has the right digest it would only find our own mistakes.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from distsim.activations.layout import storage_dtype
from distsim.metrics.registry import METRICS
from distsim.models import Layer, Network, build
from distsim.seeds import numpy_stream
from distsim.specs import COMPLETE, MOST, Identity, NetworkId, Problem, Pruning, pruned_count
from distsim.store import DamagedStore, SweepStore, logits
from distsim.store.activations import Reader
from distsim.store.commits import read_object
from distsim.store.paths import Place
from distsim.store.records import require_values
from distsim.training.chain import TrainedNetwork
from distsim.training.pruning import Masks, full_masks, pools, remaining
from distsim.training.stepper import State

ZEROS = 1e-4  # of the weights alive, or one of them, that training may leave at exactly zero; of 315,368 it left none


def store_faults(store: SweepStore) -> list[str]:
    """Of everything that a sweep has committed, on this machine."""
    identity = store.identity()
    network, contents = build(identity.problem), store.contents()
    layers = {layer.name: layer for layer in network.layers}
    before = {COMPLETE: full_masks(network, identity.problem.pruning)}
    found = []
    for which in sorted(contents.networks):
        step = store.load_network(which)
        said = step_faults(step, before[which.before or which], network, identity.problem)
        require_values(Place("network", which.path, which), step.record)
        before[which] = step.masks
        if which in contents.activations:
            said += activations_faults(store, which, identity, layers)
        if which in contents.logits:
            said += logits_faults(store, which, step.record)
        found += [f"{which.label}: {fault}" for fault in said]
    mark = store.mark(COMPLETE)
    if mark is not None:
        probe = json.loads(read_object(store.storage, "complete", mark, "probe.json"))
        found += probe_faults(probe, identity)
    for (which, name), marks in store.comparisons().items():
        for mark in marks:
            said = similarity_faults(mark.values, layers[name])
            found += [f"{which.label}, {name}: {fault}" for fault in said]
    for mark in store.pair_marks().values():
        name = mark.values["layer"]
        for a, b, values in mark.values["pairs"]:
            found += [f"{a} and {b}, {name}: {fault}" for fault in similarity_faults(values, layers[name])]
    return found


# --- networks --------------------------------------------------------------------------------------------------------


def step_faults(step: TrainedNetwork, before: Masks, network: Network, problem: Problem) -> list[str]:
    """Of a finished network. before : the masks that it was pruned from; its own, of the complete one."""
    return [
        *finite_faults(step.weights),
        *finite_faults(step.rewind or {}),
        *count_faults(step.masks, network, problem.pruning, step.iteration),
        *zero_faults(step.weights, step.masks),
        *nesting_faults(before, step.masks),
        *training_faults(step.record, problem),
        *remaining_faults(step.record, network, step.masks),
    ]


def finite_faults(state: State) -> Iterator[str]:
    for name, tensor in sorted(state.items()):
        if not torch.isfinite(tensor).all():
            yield f"{name} has values that are not finite"


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


def count_faults(masks: Masks, network: Network, pruning: Pruning, iteration: int) -> Iterator[str]:
    """Of each pool exactly as many are alive as pruning leaves."""
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


def number(value: Any) -> bool:
    """Say whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def nesting_faults(before: Masks, after: Masks) -> Iterator[str]:
    """What was dead earlier in the run is dead."""
    for name in sorted(before.keys() & after.keys()):
        if (after[name] & ~before[name]).any():
            yield f"parameters of {name} are alive that were dead earlier in the run"


def training_faults(record: Mapping[str, Any], problem: Problem) -> Iterator[str]:
    """Whether a record's values can be."""
    for name in ("accuracy", "remaining", "remaining_pool"):
        if not (number(record[name]) and 0 <= record[name] <= 1):
            yield f"its {name} is {record[name]!r}"
    losses = record["train_loss"]
    if not all(map(number, (record["loss"], *losses))):
        yield "a loss in its record is no finite number"
    most = max(problem.recipe.epochs, problem.pruning.finetune_epochs)
    if not (record["epochs"] == len(losses) and 1 <= len(losses) <= most):
        yield f"its record says {record['epochs']!r} epochs"
    best = record["best_epoch"]
    if best is not None and not (isinstance(best, int) and 1 <= best <= most):
        yield f"its best epoch is {best!r}"
    if record["reduced"] != problem.reduced:
        yield f"its record says reduced: {record['reduced']!r}, the sweep is {problem.reduced}"


def remaining_faults(record: Mapping[str, Any], network: Network, masks: Masks) -> Iterator[str]:
    for name, value in zip(("remaining", "remaining_pool"), remaining(network, masks), strict=True):
        if record.get(name) != value:
            yield f"its record says {name} {record.get(name)!r}, its masks {value}"


# --- the probe, activations, comparisons -----------------------------------------------------------------------------


def probe_faults(tree: Any, identity: Identity) -> Iterator[str]:
    """Of probe.json: as many distinct training images as asked for, in order, and those that are drawn from the seed.

    How many training images there were decides the draw and is not in the store: one number must fit.
    """
    problem, indices = identity.problem, tree["indices"]
    most = problem.train_limit or MOST
    if not all(type(i) is int and 0 <= i < most for i in indices):
        yield "the probe's indices are no numbers of training images"
    elif len(indices) != problem.probe or indices != sorted(set(indices)):
        yield f"the probe has {len(set(indices))} distinct indices of {len(indices)}, in order: {problem.probe} belong"
    elif problem.probe_rule == "first":
        if indices != list(range(problem.probe)):
            yield f"the probe is not the first {problem.probe} images"
    elif not _drawn(np.array(indices), identity.seed, most):
        yield "the probe is not what the seed draws"


def _drawn(indices: Any, seed: int, most: int) -> bool:
    """Whether the stream of the probe draws these out of some number of images."""
    least, size = int(indices[-1]) + 1, len(indices)
    # a fair draw ends so far below the number of images with probability e^-40
    for n in range(least, min(most, least + 40 * (least // size + 1)) + 1):
        if np.array_equal(np.sort(numpy_stream(seed, "probe").choice(n, size, replace=False)), indices):
            return True
    return False


def activations_faults(
    store: SweepStore, which: NetworkId, identity: Identity, layers: Mapping[str, Layer]
) -> Iterator[str]:
    """Values are finite, layers are in their order and of their kinds, dtypes are those that the rule allows."""
    mark = store.activations_mark(which)
    assert mark is not None
    reader = Reader(store.storage, store.activations_path(which), mark)
    if reader.layers != list(layers):
        yield f"its activations are of {', '.join(reader.layers)}"
    for name in reader.layers:
        array = reader.layer(name)
        if not np.isfinite(array.read()).all():
            yield f"the activations of {name} have values that are not finite"
        if array.kind != layers[name].kind:
            yield f"the activations of {name} are of a layer of kind {array.kind}"
        if array.dtype not in ("float32", storage_dtype(layers[name], identity.storage)):
            yield f"the activations of {name} are {array.dtype}"


def logits_faults(store: SweepStore, which: NetworkId, record: Mapping[str, Any]) -> Iterator[str]:
    """The test logits are of these weights and predict as the record says: rounding them changes no prediction."""
    try:
        complete, mark = store.piece_mark(which.origin, "logits"), store.piece_mark(which, "logits")
    except DamagedStore as error:
        yield str(error)
        return
    assert mark is not None
    labels = None if complete is None else logits.read(store, which.origin, complete).labels
    right = logits.read(store, which, mark).margins.argmax(axis=1) == labels
    if labels is not None and right.mean() != record["accuracy"]:
        yield f"its test logits have an accuracy of {right.mean()}, its record says {record['accuracy']}"


def similarity_faults(values: Mapping[str, Any], layer: Layer) -> Iterator[str]:
    """Of one layer's comparison: its metrics are those of its kind, its counts agree with each other."""
    for metric, one in values.items():
        if not METRICS[metric].applies_to(layer.kind):
            yield f"{metric} is not of layers of kind {layer.kind}"
        if one["n_per_p"] != one["n"] / max(one["columns_x"], one["columns_y"], 1):
            yield f"{metric}: {one['n']} rows are not {one['n_per_p']} times its columns"
        counted = [(one[f"{what}_{side}"], one[f"columns_{side}"]) for what in ("rank", "dead") for side in "xy"]
        if any(count is not None and count > columns for count, columns in counted):  # kernels' rows have no ranks
            yield f"{metric}: more dimensions or dead channels than columns"
