"""Sentences about what a sweep is going to do and how long it takes, printed before it starts."""

import itertools
from collections.abc import Mapping, Sequence

from distsim.activations.layout import storage_dtype
from distsim.activations.probe import layer_shapes
from distsim.environment import threads
from distsim.models import build
from distsim.processor import busy_sentence, slow_precision
from distsim.specs import PERMUTATIONS
from distsim.sweep.cost import (
    Cost,
    beside_cost,
    duration,
    images_to_train,
    layer_cost,
    memory_on_device,
    product_rate,
    readable,
    training_rate,
)
from distsim.sweep.engine import Engine
from distsim.sweep.jobs import Comparison, NetworkComparison, by_network
from distsim.sweep.order import Prepared
from distsim.sweep.plan import Chain, Missing, trials_of
from distsim.sweep.training_memory import training_memory

WORTH_MEASURING = 200_000  # images to train; below this the time is not forecast
WORTH_COMPILING = 600.0  # seconds of training; of a shorter one, compiling would take much of what it saves

FUSED_ON_CPU = "fused runs train about half as fast as runs alone on a CPU; --fuse is for GPUs"


def comparison_forecast(busy: list[Prepared], jobs: Sequence[Comparison | NetworkComparison], engine: Engine) -> str:
    """Return what the jobs cost, in words: bytes, floating point operations and about how long."""
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    for order in busy:
        problem = order.sweep.problem
        for name, shape in layer_shapes(build(problem), problem).items():
            shapes[order.name, name] = (problem.probe, *shape)
    total = Cost()
    for job in itertools.chain.from_iterable(each.layers for each in jobs):
        shape = shapes[job.problem, job.layer]
        metrics = {name for _, wanted in job.networks for name in wanted}
        pairs = sum(bool(wanted) for _, wanted in job.networks) * (PERMUTATIONS if job.chance else 1)
        total += layer_cost(shape, 2, 1 + len(job.networks), pairs, metrics or job.all_metrics)
        for _, beside in job.beside:
            nulls = [(len(numbers), wanted) for numbers, wanted in beside.nulls]
            total += beside_cost(shape, nulls, beside.se)
    sweep = busy[0].sweep
    with threads(sweep.identity.threads):
        text = total.sentence(product_rate(sweep.device, engine.here), engine.slots(busy), sweep.device)
    memory = max((_on_device(order, shapes) for order in busy if by_network(order.sweep)), default=0.0)
    return f"{text}, {readable(memory)} of the GPU's memory" if memory else text


def _on_device(order: Prepared, shapes: Mapping[tuple[str, str], tuple[int, ...]]) -> float:
    """Return the bytes that comparing all layers of a network takes on a GPU."""
    sweep = order.sweep
    layers = {layer.name: layer for layer in build(sweep.problem).layers}
    half = {name for name, layer in layers.items() if storage_dtype(layer, sweep.identity.storage) == "float16"}
    return memory_on_device({name: shapes[order.name, name] for name in layers}, half)


def training_forecast(busy: list[Prepared], order: Prepared, lack: Missing, engine: Engine) -> str:
    """Return what training a sweep's missing networks costs, in words: images and about how long.

    An image counts once for each epoch of each network.

    The time is left out if there is little to train, or if the work is done on other machines.
    """
    sweep, dataset = order.sweep, order.dataset
    identity, problem = sweep.identity, sweep.problem
    images = _images(order, lack)
    most = "at most " if problem.recipe.patience is not None else ""
    text = f"{order.name}: training on {most}{images:,} images over all epochs{_fused(order, lack)}"
    if not engine.here or images < WORTH_MEASURING:
        return text
    at_once = _at_once(busy, order, lack, engine)
    together = {"pack": sweep.pack, "fuse": identity.fuse}
    with threads(identity.threads):
        rate = training_rate(
            problem, len(dataset.classes), sweep.device, identity.precision, compiled=identity.compile, **together
        )
    seconds = _images(order, lack, slots=True) / (rate * at_once)
    text += f", about {duration(seconds)} with {at_once} trial{'s' * (at_once > 1)} at once"
    return text + compile_advice(sweep.device, identity.compile, seconds)


def compile_advice(device: str, compiled: bool, seconds: float) -> str:
    """Return what --compile would save of a training of so many seconds, or "" if it does not pay.

    An H100 made 22 to 40 % more images a second, and took 5 to 20 s to compile.
    """
    if device != "cuda" or compiled or seconds < WORTH_COMPILING:
        return ""
    return f". --compile, which is another sweep, may save about {duration(seconds / 5)} of that"


def _fused(order: Prepared, lack: Missing) -> str:
    """Say what a step of fused runs takes, and how many of its slots have no run to train; "" for runs alone."""
    sweep = order.sweep
    if sweep.identity.fuse == 1 or not lack.chains:
        return ""
    needed = readable(training_memory(sweep, len(order.dataset.train_labels)))
    pruned, slots = sum(map(len, lack.chains.values())), _slots(order, lack)
    empty = f", {1 - pruned / slots:.0%} of them empty" if slots > pruned else ""
    return f" in steps of {sweep.identity.fuse} runs{empty}, with {needed} of memory"


def _at_once(busy: list[Prepared], order: Prepared, lack: Missing, engine: Engine) -> int:
    """Return how many trials of a sweep run at once."""
    return max(1, min(engine.trials(busy, order), len(_trials(order, lack))))


def _trials(order: Prepared, lack: Missing) -> list[tuple[Chain, ...]]:
    return trials_of(order.sweep, [Chain.of(run, iterations) for run, iterations in lack.chains.items()])


def _slots(order: Prepared, lack: Missing) -> int:
    """Return the number of trainings, empty slots of fused ones counted too."""
    if order.sweep.identity.fuse == 1:
        return sum(map(len, lack.chains.values()))
    total = 0
    for group in _trials(order, lack):
        slots = 1 if group[0].control else order.sweep.identity.fuse  # controls are trained alone
        total += slots * len({i for chain in group for i in chain.train})
    return total


def _images(order: Prepared, lack: Missing, slots: bool = False) -> int:
    """Return the number of images to train on. slots : count those of empty slots too"""
    pruned = _slots(order, lack) if slots else sum(map(len, lack.chains.values()))
    return images_to_train(order.sweep.problem, len(order.dataset.train_labels), len(lack.complete), pruned)


def training_warnings(
    orders: list[Prepared], lacking: Mapping[str, Missing], engine: Engine, load: float | None
) -> list[str]:
    """Return sentences about what makes training on this machine slow: the precision, and other processes.

    The load is left out if there is little to train, and both if the work is done on other machines.

    load : `distsim.processor.Load.others`, as it was before the forecast and the engine began
    """
    if not engine.here:
        return []
    said = []
    for order in orders:
        sweep, lack = order.sweep, lacking[order.name]
        if not lack.networks:
            continue
        said.append(slow_precision(sweep.identity.precision, sweep.device))
        if sweep.identity.fuse > 1 and sweep.device == "cpu":
            said.append(FUSED_ON_CPU)
        if _images(order, lack) >= WORTH_MEASURING:
            each = sweep.identity.threads
            said.append(busy_sentence(load, each, needed=each * _at_once(orders, order, lack, engine)))
    return list(dict.fromkeys(filter(None, said)))


def to_do(order: Prepared, lacking: Missing) -> dict[str, int]:
    """Return what there is to do of a sweep, in numbers (`distsim.callbacks.Callback.on_begin`)."""
    extent = order.sweep.extent
    return {
        "networks": lacking.networks,
        "in_all": len(extent.networks) + extent.complete,
        "images": _images(order, lacking),
        "activations": len(lacking.activations),
    }


def work_sentence(order: Prepared, lacking: Missing) -> str:
    """Return what a sweep still lacks, in words."""
    parts = []
    if lacking.networks:
        extent = order.sweep.extent
        parts.append(f"{lacking.networks} of {len(extent.networks) + extent.complete} networks to train")
        if controls := sum(len(iterations) for run, iterations in lacking.chains.items() if run.control):
            parts[-1] += f" ({controls} of them controls)"
    if lacking.activations:
        size = readable(order.per_network * len(lacking.activations))
        parts.append(f"activations of {len(lacking.activations)} to write (up to {size})")
    if lacking.logits:
        dataset = order.dataset
        size = readable(2 * len(lacking.logits) * len(dataset.test_labels) * len(dataset.classes))
        parts.append(f"test logits of {len(lacking.logits)} to keep ({size})")
    compared = {
        "similarities": lacking.similarities,
        "values by chance": lacking.by_chance,
        "standard errors": lacking.errors,
    }
    if said := [f"{count} {what}" for what, count in compared.items() if count]:
        parts += [f"{said[0]} to compute", *said[1:]]
    return f"{order.name}: {', '.join(parts)}"
