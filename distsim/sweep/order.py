"""Orders: from a problem and flags to a sweep with its data in memory."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from distsim.activations.layout import bytes_per_network, chunk_shape
from distsim.activations.probe import layer_shapes
from distsim.data import Dataset, load, pixel_statistics, probe_indices, suited
from distsim.data.folder import expanded
from distsim.environment import free_memory, require_device
from distsim.metrics.registry import METRICS, known, require_libraries
from distsim.models import Layer, build
from distsim.problems import CIFAR_CLASSES
from distsim.processor import require_speed, slow_precision
from distsim.specs import KEPT, Device, Extent, Identity, Problem, Sweep, names
from distsim.store import DamagedStore, Storage, SweepStore, problems_in
from distsim.store.described import StoredLayer
from distsim.store.descriptions import describe_layers, describe_metrics, stored_layers
from distsim.sweep import own_code
from distsim.sweep.cost import comparison_memory, readable
from distsim.sweep.kept_behaviour import require_same_behaviour
from distsim.sweep.training_memory import require_training_memory
from distsim.training.compiling import require_one_graph
from distsim.training.criteria import criterion_of
from distsim.training.fusible import require_fusible
from distsim.training.stepper import Arithmetic, require_arithmetic, require_precision, require_streams
from distsim.training.streams import require_few_runs


@dataclass(frozen=True)
class Prepared:
    """A sweep with its data in memory, as an engine needs it."""

    sweep: Sweep
    dataset: Dataset
    layers: tuple[Layer, ...] = field(default=())
    per_network: int = 0  # bytes of one network's activations
    described: tuple[StoredLayer, ...] = ()  # the layers as the store describes them

    @property
    def name(self) -> str:
        """Return the problem's name."""
        return self.sweep.name


def identify(problem: Problem, dataset: Dataset, **choices: Any) -> Identity:
    """Return the identity of a problem on these data.

    A recipe without a normalisation gets that of the training set.

    choices : further fields of Identity (seed, threads, ...)

    ValueError: the probe is larger than the data.
    """
    if problem.recipe.normalise is None:
        recipe = dataclasses.replace(problem.recipe, normalise=pixel_statistics(dataset.train_images))
        problem = dataclasses.replace(problem, recipe=recipe)
    foreign = problem.source == "cifar10" and not set(dataset.classes) <= set(CIFAR_CLASSES)
    foreign |= problem.source == "svhn" and not set(dataset.classes) <= set("0123456789")
    # the papers' claims are not about these images
    problem = dataclasses.replace(problem, classes=dataset.classes, reduced=problem.reduced or foreign)
    identity = Identity(problem=problem, data_digest=dataset.digest, **choices)
    probe_indices(dataset, problem.probe, problem.probe_rule, identity.seed, problem.probe_from)  # raises if too large
    return identity


def adapted(problem: Problem, data: str = "", *, classes: tuple[str, ...] | None = None, **smaller: Any) -> Problem:
    """Return the problem with changes for other data, other classes or smaller numbers.

    data : location; a "folder:" of images changes normalisation, channels and the choice of the probe
    smaller : epochs, probe, probe_from or train_limit, as for `Problem.reduced_to`
    """
    changes: dict[str, Any] = {}
    if classes and classes != problem.classes:
        changes = {"classes": classes, "reduced": True}
    if data.startswith("folder:"):
        if problem.channels == 1:  # a folder's images are RGB; constants of grey images do not fit them
            changes["channels"] = 3
        if changes:
            changes["recipe"] = dataclasses.replace(problem.recipe, normalise=None)
        changes["probe_rule"] = "uniform"  # its images are sorted by class, so the first ones are not a sample
    return dataclasses.replace(problem, **changes).reduced_to(**smaller)


def with_kept(root: Storage, problem: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked for, with what the store was asked for last in place of each None among `KEPT`.

    A store that was not asked for anything yet keeps None, which stands for what a new study has. A metric of one's own
    that is not registered here is left out: no value of it could be computed.
    """
    missing = [name for name in KEPT if asked.get(name) is None]
    try:
        extent = SweepStore(root, problem).request().extent if missing else None
    except (FileNotFoundError, DamagedStore):  # a damaged request is written again
        extent = None
    kept = {name: None if extent is None else getattr(extent, name) for name in missing}
    if extent is not None and "metrics" in kept:
        kept["metrics"] = tuple(name for name in extent.metrics if name in METRICS) or None
    return asked | kept


def trial_resources(
    device: str, threads: int, cpus: float | None = None, gpus: float | None = None
) -> tuple[tuple[str, float], ...]:
    """Return what one trial takes, in Ray's terms: as many CPUs as threads, and a GPU if it trains on one."""
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
    **asked: Any,
) -> Prepared:
    """Load the data and make the sweep. Errors are those of the specs' fields, of the network, and of loading.

    Everything that can be checked without the data is checked before they are looked for.

    dataset : used instead of the data at `data`; it must have the problem's classes and image size
    asked : as for `checked`
    """
    own_code.refuse_while_importing()
    sweep = checked(problem, data=data, **asked)
    if dataset is None:
        dataset = load(problem, data, download=download, reading=sweep.reading)
    else:
        dataset = suited(problem, dataset)
    identity = identify(problem, dataset, **_of(Identity, asked))
    sweep = dataclasses.replace(sweep, identity=identity)
    network = build(identity.problem)
    require_streams(network, sweep.device)
    if identity.fuse > 1:
        require_fusible(identity.problem)
    described = stored_layers(network, identity.problem)
    shapes = {layer: of.shape for layer, of in zip(network.layers, described, strict=True)}
    per_network = bytes_per_network(shapes, identity.problem.probe, identity.storage)
    return Prepared(sweep, dataset, network.layers, per_network, described)


def checked(problem: Problem, *, data: str = "", network: bool = True, **asked: Any) -> Sweep:
    """Check everything about an order that can be checked without its data, and return the sweep without their digest.

    network : False if the data will determine it
    asked : fields of Extent (runs, metrics, ...), of Identity (seed, ...) and of Sweep (reading, device, resources,
        pack); None stands for what a new study has, as in `Extent.of`

    ValueError: a metric or the criterion is unknown, a field has no possible value, or the network cannot be trained
    and compared.
    """
    known(asked.get("metrics") or ())
    criterion_of(problem.pruning.criterion)
    extent, identity = Extent.of(problem, **_of(Extent, asked)), Identity(problem, "", **_of(Identity, asked))
    places = {name: value for name, value in asked.items() if name not in (*names(Extent), *names(Identity))}
    sweep = Sweep(identity, extent, _absolute(data), **places)
    require_few_runs(sweep.pack, sweep.device)
    if network and problem.classes:
        require_streams(build(problem), sweep.device)
        if identity.fuse > 1:
            require_fusible(problem)
    return sweep


def _of(spec: type, asked: dict[str, Any]) -> dict[str, Any]:
    """Return those of the values that are fields of the spec."""
    return {name: asked[name] for name in names(spec) if name in asked}


def _absolute(data: str) -> str:
    """Return the location with an absolute path, for processes that start in another folder."""
    scheme, colon, path = data.partition(":")
    if colon and scheme in ("folder", "files"):
        return f"{scheme}:{expanded(path).resolve()}"
    return str(expanded(data).resolve()) if data else ""


def take(orders: Iterable[Prepared], root: Storage, here: bool = True, say: Callable[[str], None] = print) -> None:
    """Write what is asked for into the store.

    here : the work is done on this machine, which must have the device; a cluster's head need not
    say : gets a sentence if the store had no record of how the network behaves

    IdentityMismatch: the store holds another sweep of one of these problems. BehaviourChanged: a network or a metric
    behaves differently from the one of the same name at the sweep's first start.
    """
    orders = list(orders)
    check_workplace(orders, here)
    for order in orders:
        sweep, store = order.sweep, SweepStore(root, order.name)
        store.claim(sweep.identity)
        if order.described:
            describe_layers(store, order.described, sweep.identity)
        describe_metrics(store, sweep.extent.metrics)
        require_same_behaviour(store, sweep, say)
        skipped = tuple(f"{name}: {reason}" for name, reason in order.dataset.skipped)
        request = dataclasses.replace(sweep.request, skipped=skipped)
        store.write_request(own_code.recorded_in(request, sweep.problem, store))


def check_workplace(orders: Iterable[Prepared], here: bool) -> None:
    """Check that this machine can do the work, if it is done here.

    ValueError: the device, or a library that a metric needs, is missing, or one comparison, or a step of fused runs,
    needs more memory than there is.
    """
    for order in orders if here else ():
        require_tools(order.sweep.device, order.sweep.extent.metrics)
        _require_memory(order)
        require_training_memory(order.sweep, len(order.dataset.train_labels))


def require_tools(device: Device, metrics: Iterable[str]) -> None:
    """Check that this machine has the device and the libraries. ValueError: one is missing."""
    require_device(device)
    require_libraries(metrics)


def require_trainable(
    root: Storage,
    problem: Problem,
    extent: Extent,
    arithmetic: Arithmetic,
    device: Device,
    here: bool = True,
    allow_slow: bool = False,
) -> None:
    """Check that the missing networks of a problem can be trained in this arithmetic, if any is missing.

    here : this machine trains them. allow_slow : also where that takes many times as long as it need

    TooSlow: it does. ValueError: the device has no such precision. CannotCompile: see `distsim.training.compiling`.
    """
    slow = here and not allow_slow and bool(slow_precision(arithmetic.precision, device))
    if not (slow or arithmetic.compile or arithmetic.precision == "tf32"):
        return
    name = problem.name
    there = SweepStore(root, name).contents().networks if name in problems_in(root) else frozenset()
    if not {*extent.complete_networks, *extent.networks} - there:
        return
    if slow:
        require_speed(name, arithmetic.precision, device)
    if here:
        require_arithmetic(arithmetic, device)
    else:
        require_precision(arithmetic.precision, device)
    if arithmetic.compile and problem.classes:
        require_one_graph(problem)


def require_possible(orders: Iterable[Prepared], root: Storage, here: bool = True, allow_slow: bool = False) -> None:
    """Check, without writing anything, that the work can be done in this store.

    Errors are those of `require_trainable` and of `take`.
    """
    orders = list(orders)
    for order in orders:
        sweep = order.sweep
        arithmetic = Arithmetic.of(sweep.identity)
        require_trainable(root, sweep.problem, sweep.extent, arithmetic, sweep.device, here, allow_slow)
    check_workplace(orders, here)
    there = problems_in(root)
    for order in orders:
        if order.name not in there:
            continue
        store, identity = SweepStore(root, order.name), order.sweep.identity
        # a store of another sweep that holds something: then `claim` compares and does not write
        if store.identity().hash != identity.hash and any(store.contents().__dict__.values()):
            store.claim(identity)


def _require_memory(order: Prepared) -> None:
    problem, free = order.sweep.problem, free_memory()
    if free is None or order.sweep.device != "cpu":
        return
    shapes = layer_shapes(build(problem), problem)
    for name, shape in shapes.items():
        whole = (problem.probe, *shape)
        needed = comparison_memory(whole, chunk_shape(whole)[1])
        if needed > free:
            raise ValueError(
                f"{order.name}: comparing layer {name} on {problem.probe:,} images takes {readable(needed)} of memory, "
                f"but only {readable(free)} are free: use a smaller --probe"
            )


def compare_only(order: Prepared, store: SweepStore) -> Prepared | None:
    """Return the order cut down to networks that are committed, so that nothing is trained. None: there are none.

    It has the first runs, the iterations that all of them have, and those controls and complete networks of which all
    that is committed too.
    """
    wanted, networks = order.sweep.extent, store.contents().networks

    def there(**fields: Any) -> bool:
        larger = dataclasses.replace(extent, **fields)
        return networks.issuperset((*larger.complete_networks, *larger.networks))

    extent = dataclasses.replace(wanted, runs=1, iterations=1, control=(), complete=1)
    if not there():
        return None
    for name in ("runs", "iterations"):
        while getattr(extent, name) < getattr(wanted, name) and there(**{name: getattr(extent, name) + 1}):
            extent = dataclasses.replace(extent, **{name: getattr(extent, name) + 1})
    for control in wanted.control:
        if there(control=(*extent.control, control)):
            extent = dataclasses.replace(extent, control=(*extent.control, control))
    while extent.complete < wanted.complete and there(complete=extent.complete + 1):
        extent = dataclasses.replace(extent, complete=extent.complete + 1)
    return dataclasses.replace(order, sweep=dataclasses.replace(order.sweep, extent=extent))
