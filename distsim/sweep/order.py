"""From a problem and flags to a spec with its data in memory."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distsim.activations.layout import bytes_per_network, chunk_shape
from distsim.activations.probe import layer_shapes
from distsim.data import Dataset, load, pixel_statistics, probe_indices, suited
from distsim.environment import free_memory, require_cupy, require_device
from distsim.metrics.registry import known, require_libraries
from distsim.models import Layer, build
from distsim.problems import CIFAR_CLASSES
from distsim.specs import Device, Extent, Identity, NetworkId, Problem, Sweep, names
from distsim.store import Storage, SweepStore
from distsim.store.described import StoredLayer
from distsim.store.descriptions import describe_layers, describe_metrics
from distsim.sweep import own_code
from distsim.sweep.cost import (
    comparison_memory,
    readable,
)
from distsim.sweep.kept_behaviour import require_same_behaviour
from distsim.training.stepper import require_streams


@dataclass(frozen=True)
class Prepared:
    """A sweep with its data in memory: what an engine needs to do the work."""

    sweep: Sweep
    dataset: Dataset
    layers: tuple[Layer, ...] = field(default=())
    per_network: int = 0  # bytes of one network's activations
    described: tuple[StoredLayer, ...] = ()  # the layers as the store is to say what they are

    @property
    def name(self) -> str:
        return self.sweep.name


def identify(problem: Problem, dataset: Dataset, **choices: Any) -> Identity:
    """The identity of a problem on these data; `choices` are further fields of Identity (seed, threads, ...).

    A recipe without a normalisation of its own gets the training set's. ValueError: the probe is larger than the data.
    """
    if problem.recipe.normalise is None:
        recipe = dataclasses.replace(problem.recipe, normalise=pixel_statistics(dataset.train_images))
        problem = dataclasses.replace(problem, recipe=recipe)
    foreign = problem.source == "cifar10" and not set(dataset.classes) <= set(CIFAR_CLASSES)
    foreign |= problem.source == "svhn" and not set(dataset.classes) <= set("0123456789")
    # the papers' claims are not about these images
    problem = dataclasses.replace(problem, classes=dataset.classes, reduced=problem.reduced or foreign)
    identity = Identity(problem=problem, data_digest=dataset.digest, **choices)
    probe_indices(dataset, problem.probe, problem.probe_rule, identity.seed)  # refuses a probe that is too large
    return identity


def adapted(
    problem: Problem,
    data: str = "",
    *,
    classes: tuple[str, ...] | None = None,
    epochs: int | None = None,
    probe: int | None = None,
    train_limit: int | None = None,
) -> Problem:
    """Return the problem as another location of its data, other classes and smaller numbers change it."""
    folder = data.startswith("folder:")
    if classes and classes != problem.classes:
        recipe = dataclasses.replace(problem.recipe, normalise=None) if folder else problem.recipe
        problem = dataclasses.replace(problem, classes=classes, recipe=recipe, reduced=True)
    if folder and problem.channels == 1:  # one's own images are RGB; grey data's constants do not fit them
        recipe = dataclasses.replace(problem.recipe, normalise=None)
        problem = dataclasses.replace(problem, channels=3, recipe=recipe)
    if folder:  # its images are in the order of the classes, so the first ones are no sample
        problem = dataclasses.replace(problem, probe_rule="uniform")
    return problem.reduced_to(epochs=epochs, probe=probe, train_limit=train_limit)


def trial_resources(
    device: str, threads: int, cpus: float | None = None, gpus: float | None = None
) -> tuple[tuple[str, float], ...]:
    """Return what one trial takes, as Ray wants it: as many CPUs as threads, and a GPU where it trains on one."""
    wanted = {"cpu": cpus or float(threads)}
    if device == "cuda":
        wanted["gpu"] = gpus or 1.0
    return tuple(sorted(wanted.items()))


def prepare(
    problem: Problem,
    *,
    data: str = "",
    dataset: Dataset | None = None,
    download: bool = False,
    device: Device = "cpu",
    resources: tuple[tuple[str, float], ...] = (),
    pack: int = 1,
    **choices: Any,
) -> Prepared:
    """Load the data and settle the spec. Errors are those of loading and of the specs' fields.

    choices : fields of Extent (runs, metrics, ...), where None are the problem's runs, and of Identity (seed, ...)
    dataset : taken instead of what lies at `data`, as the problem wants it (its classes, its size)
    """
    own_code.refuse_while_importing()
    known(choices.get("metrics", ()))
    dataset = load(problem, data, download=download) if dataset is None else suited(problem, dataset)
    extent = Extent.of(problem, **{name: choices.pop(name) for name in names(Extent) if name in choices})
    identity = identify(problem, dataset, **choices)
    sweep = Sweep(identity, extent, _absolute(data), device, resources, pack)
    network = build(identity.problem)
    require_streams(network, device)
    shapes = layer_shapes(network, identity.problem)
    by_layer = {layer: shapes[layer.name] for layer in network.layers}
    per_network = bytes_per_network(by_layer, identity.problem.probe, identity.storage)
    described = tuple(StoredLayer(x.name, x.kind, x.module, shapes[x.name]) for x in network.layers)
    return Prepared(sweep, dataset, network.layers, per_network, described)


def _absolute(data: str) -> str:
    """The location as another process, started in another folder, finds it."""
    scheme, colon, path = data.partition(":")
    if colon and scheme in ("folder", "files"):
        return f"{scheme}:{Path(path).expanduser().resolve()}"
    return str(Path(data).expanduser().resolve()) if data else ""


def take(orders: Iterable[Prepared], root: Storage, here: bool = True, say: Callable[[str], None] = print) -> None:
    """Write what is asked for into the store. IdentityMismatch: it holds other sweeps of these problems.

    BehaviourChanged: under the same names a network or a metric does something else than when the store was begun.

    here : the work is done on this machine, which must have the device; a cluster's head need not.
    say : is told that a store of before now keeps how its network behaves
    """
    orders = list(orders)
    check_workplace(orders, here)
    for one in orders:
        store = SweepStore(root, one.name)
        store.claim(one.sweep.identity)
        if one.described:
            describe_layers(store, one.described, one.sweep.identity)
        describe_metrics(store, one.sweep.extent.metrics)
        require_same_behaviour(store, one.sweep, say)
        store.write_request(own_code.recorded_in(one.sweep.request, one.sweep.problem, store))


def check_workplace(orders: Iterable[Prepared], here: bool) -> None:
    """ValueError: the work is done here, and the device asked for, or a library that a metric needs, is not.

    ValueError too where a single comparison needs more memory than there is.
    """
    for one in orders if here else ():
        require_device(one.sweep.device)
        require_cupy(one.sweep.device)
        require_libraries(one.sweep.extent.metrics)
        _require_memory(one)


def _require_memory(one: Prepared) -> None:
    problem, free = one.sweep.problem, free_memory()
    if free is None or one.sweep.device != "cpu":
        return
    shapes = layer_shapes(build(problem), problem)
    for name, shape in shapes.items():
        whole = (problem.probe, *shape)
        needed = comparison_memory(whole, chunk_shape(whole)[1])
        if needed > free:
            raise ValueError(
                f"{one.name}: comparing layer {name} on {problem.probe:,} images takes {readable(needed)} of memory, "
                f"and {readable(free)} are free: use a smaller --probe"
            )


def compare_only(one: Prepared, store: SweepStore) -> Prepared | None:
    """The order cut down to what needs no training: complete runs of iterations that every run has. None: nothing."""
    have = store.contents().networks
    runs = 0
    while runs < one.sweep.extent.runs and NetworkId(runs, 1) in have:
        runs += 1
    iterations = 0
    wanted = one.sweep.extent.iterations
    while iterations < wanted and all(NetworkId(run, iterations + 1) in have for run in range(runs)):
        iterations += 1
    if not runs or not iterations:
        return None
    extent = dataclasses.replace(one.sweep.extent, runs=runs, iterations=iterations)
    return dataclasses.replace(one, sweep=dataclasses.replace(one.sweep, extent=extent))
