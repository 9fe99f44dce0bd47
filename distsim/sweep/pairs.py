"""Comparison of a store's networks with each other: which pairs, in which tiles, and at what cost.

A plan is a list of pairs of networks. Each pair is compared layer by layer. The pairs are divided into tiles of a few
networks that are read together, each once, so that reading grows with the networks and not with the pairs. Masks are
compared by their Jaccard similarity, |A ∩ B| / |A ∪ B| of the alive parameters.
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from distsim.activations.probe import layer_shapes
from distsim.comparison.layer import applicable
from distsim.comparison.sides import COLUMNS
from distsim.environment import free_memory, threads
from distsim.metrics.jackknife import BLOCKS
from distsim.metrics.registry import known, se_belongs_to
from distsim.models import Layer, build
from distsim.results.pairs import Found, FoundSe, found_in, se_in
from distsim.specs import NetworkId
from distsim.store import Pair, SweepStore
from distsim.sweep.cost import Cost, beside_cost, layer_cost, product_rate
from distsim.sweep.engine import Engine
from distsim.sweep.heeding import through_pauses, wait_if_paused
from distsim.sweep.jobs import PairJob
from distsim.sweep.order import Prepared

PLANS = {
    "complete": "each complete network with every network that comes from it",
    "references": "the complete networks with each other",
    "runs": "run with run at equal iteration, of one complete network, controls among themselves",
    "iterations": "iteration with iteration of the same run, the complete network being iteration 0",
    "all": "every network with every other",
}


def planned(plan: str, networks: Iterable[NetworkId]) -> list[Pair]:
    """Return the plan's pairs (a, b) of these networks, where a comes before b.

    The order is that of `NetworkId`. ValueError: the plan is unknown.
    """
    if plan not in PLANS:
        raise ValueError(f"there is no plan {plan!r}; there are {', '.join(PLANS)}")
    ordered = sorted(networks)
    every = itertools.combinations(ordered, 2)
    if plan == "complete":
        return [(a, b) for a, b in every if a.is_complete and b.comes_from(a)]
    if plan == "references":
        return [(a, b) for a, b in every if a.is_complete and b.is_complete]
    if plan == "runs":
        return [(a, b) for a, b in every if a.run is not None and _beside(a, b)]
    if plan == "iterations":
        return [(a, b) for a, b in every if b.comes_from(a)]
    return list(every)


def _beside(a: NetworkId, b: NetworkId) -> bool:
    """Say whether two pruned networks are at one iteration of runs of one kind."""
    return (a.iteration, a.complete, a.control) == (b.iteration, b.complete, b.control)


def tiles(pairs: Sequence[Pair], limit: int) -> Iterator[list[Pair]]:
    """Yield the pairs in tiles that name at most `limit` networks (at least 2).

    Networks that are connected by pairs, such as all runs at one iteration, form one tile. If they are too many, they
    are cut into groups of half the limit, and every two groups form a tile. N networks are then read about
    N / (limit / 2) times each.
    """
    half = max(1, limit // 2)
    for part in _components(pairs):
        members = sorted({network for pair in part for network in pair})
        if len(members) <= max(2, limit):
            yield part
            continue
        group = {network: place // half for place, network in enumerate(members)}
        last = max(group.values())
        by_groups: dict[tuple[int, int], list[Pair]] = {}
        for a, b in part:
            first, second = sorted((group[a], group[b]))
            # pairs within a group go into the tile of the group and its neighbour
            key = (first, second) if first != second else (first, first + 1) if first < last else (first - 1, first)
            by_groups.setdefault(key, []).append((a, b))
        yield from (by_groups[key] for key in sorted(by_groups))


def tile_limit(shape: tuple[int, ...], memory: float, with_se: bool = False) -> int:
    """Return of how many networks a layer's statistics fit into memory together, at least 2.

    shape : of the layer, (n, ...)
    memory : in bytes; what a comparison needs besides is counted too
    with_se : sums over blocks of examples are made of the channels of each network and of each pair
    """
    n, p = shape[0], int(np.prod(shape[1:]))
    wide = p >= n
    shared = 5 * 8 * n**2 if wide else 3 * 8 * p**2
    # Gram matrix and its factor, or the features; a panel as stored and some of its columns centred
    each = (2 * 8 * n**2 if wide else 8 * n * p) + 8 * n * min(p, 2 * COLUMNS)
    most = max(2, int((memory - shared) / each))
    if with_se:  # m networks have m²/2 pairs
        of_blocks = (BLOCKS + 1) * 8 * shape[-1] ** 2
        while most > 2 and shared + most * each + of_blocks * (most + most**2 / 2) > memory:
            most -= 1
    return most


def jobs(
    problem: str,
    pairs: Sequence[Pair],
    layers: Mapping[Layer, tuple[int, ...]],
    metrics: tuple[str, ...],
    committed: Found,
    memory: float,
    with_se: tuple[str, ...] = (),
    committed_se: FoundSe = MappingProxyType({}),
) -> list[PairJob]:
    """Return jobs for the pairs that are not committed yet.

    layers : layer -> its shape (n, ...)
    memory : bytes that one job may take
    with_se : the metrics whose standard error is wanted too
    """
    todo = []
    for layer, shape in layers.items():
        wanted, wanted_se = applicable(metrics, layer.kind), applicable(with_se, layer.kind)
        missing: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Pair]] = {}  # metrics, metrics with se -> pairs
        for pair in pairs:
            key = *pair, layer.name
            values = () if set(wanted) <= committed.get(key, {}).keys() else wanted
            errors = () if set(wanted_se) <= committed_se.get(key, {}).keys() else wanted_se
            if values or errors:
                missing.setdefault((values, errors), []).append(pair)
        for (values, errors), some in missing.items():
            for tile in tiles(some, tile_limit(shape, memory, bool(errors))):
                todo.append(PairJob(problem, layer.name, tuple(tile), values, errors))
    return todo


def cost(todo: Iterable[PairJob], layers: Mapping[Layer, tuple[int, ...]], itemsize: int = 2) -> Cost:
    """Return what the jobs cost. itemsize : bytes of an activation."""
    shapes = {layer.name: shape for layer, shape in layers.items()}
    total = Cost()
    for job in todo:
        shape, every = shapes[job.layer], dict.fromkeys((*job.metrics, *job.se))
        total += layer_cost(shape, itemsize, len(job.networks), 0, every)
        total += layer_cost(shape, itemsize, 0, len(job.pairs), job.metrics)
        if job.se:
            total += beside_cost(shape, (), job.se).times(len(job.pairs))
    return total


def compare(
    order: Prepared,
    store: SweepStore,
    engine: Engine,
    pairs: Sequence[Pair],
    metrics: tuple[str, ...],
    names: Sequence[str] | None = None,
    memory: float | None = None,
    forecast: bool = False,
    say: Callable[[str], None] = print,
    measure: Collection[str] = (),
    check: Callable[[], None] = lambda: None,
) -> list[str]:
    """Compare those of these pairs that are not compared yet, and commit the values.

    Where somebody pauses this (`distsim.sweep.heeding`), it waits, and then goes on with what is not compared yet.

    Activations that the store holds (`--retention all`) are read. Other networks run over the probe again. Return a
    sentence for each tile that failed.

    names : of layers; None: all
    memory : bytes for all comparisons at once; None: half of this machine's free memory, 4 GiB if that is unknown
    forecast : only say what it would cost
    measure : "se", "se_nbs" or both: commit standard errors over examples too, as far as they are not committed yet
    check : raises if another driver has taken over (`distsim.store.Lease.check`)

    FileNotFoundError: a network is not committed. ValueError: no metric applies to any of these layers. Stopped:
    somebody has asked it to stop.
    """
    name, layers = order.name, _sized(order, metrics, names)
    with_se = tuple(metric.name for metric in known(metrics) if se_belongs_to(metric) in measure)

    def once(again: bool) -> list[str]:
        asked, device = _with_images(order, store, pairs), order.sweep.device
        slots = 1 if forecast else engine.slots([asked])
        share = (memory or (free_memory() or 8 * 2.0**30) / 2) / slots
        todo = jobs(name, pairs, layers, metrics, found_in(store), share, with_se, se_in(store) if with_se else {})
        if not todo:
            say(f"{name}: nothing is missing")
            return []
        with threads(order.sweep.identity.threads):
            sentence = cost(todo, layers).sentence(product_rate(device, engine.here), slots, device)
        errors_too = f", with standard errors of {', '.join(with_se)}" if any(job.se for job in todo) else ""
        count = sum(len(job.pairs) for job in todo)
        say(f"{name}: {count} pairs of layers in {len(todo)} tiles: {sentence}{errors_too}")
        return [] if forecast else engine.compare([asked], todo)

    wait_if_paused(say, check)
    return through_pauses(once, say, check)


def _sized(order: Prepared, metrics: tuple[str, ...], names: Sequence[str] | None) -> dict[Layer, tuple[int, ...]]:
    """Return layer -> its shape (n, ...), of the layers with these names. ValueError: no metric applies to any."""
    problem = order.sweep.problem
    layers = [layer for layer in order.layers if names is None or layer.name in names]
    if not any(applicable(metrics, layer.kind) for layer in layers):
        raise ValueError(
            f"{order.name}: none of the metrics {', '.join(metrics)} applies to {', '.join(x.name for x in layers)}"
        )
    shapes = layer_shapes(build(problem), problem)
    return {layer: (problem.probe, *shapes[layer.name]) for layer in layers}


def _with_images(order: Prepared, store: SweepStore, pairs: Sequence[Pair]) -> Prepared:
    """Return the order as workers need it: with images, unless the store holds the activations of all these networks.

    FileNotFoundError: a network is not committed.
    """
    contents, wanted = store.contents(), {network for pair in pairs for network in pair}
    if absent := wanted - contents.networks:
        raise FileNotFoundError(f"{order.name}: {min(absent).label} is not in {store.root.url}")
    if wanted <= contents.activations:
        return order
    extent = dataclasses.replace(order.sweep.extent, activations="memory")
    return dataclasses.replace(order, sweep=dataclasses.replace(order.sweep, extent=extent))


def _components(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Return the pairs in parts: networks in different parts have no pair between them, even through others."""
    parent: dict[NetworkId, NetworkId] = {}

    def root(network: NetworkId) -> NetworkId:
        parent.setdefault(network, network)
        while parent[network] != network:
            parent[network] = network = parent[parent[network]]
        return network

    for a, b in pairs:
        parent[root(b)] = root(a)
    parts: dict[NetworkId, list[Pair]] = {}
    for a, b in pairs:
        parts.setdefault(root(a), []).append((a, b))
    return list(parts.values())


def references(
    order: Prepared, store: SweepStore, networks: Collection[NetworkId], engine: Engine, say: Callable[[str], None]
) -> list[str] | None:
    """Compare complete networks with each other, as far as they are not compared yet.

    networks : those of the sweep that are committed

    Return a sentence for each failure; None if nothing is missing.
    """
    pairs, metrics, found = planned("references", networks), order.sweep.extent.metrics, found_in(store)
    lacking = [
        pair
        for pair in pairs
        for layer in order.layers
        if not set(applicable(metrics, layer.kind)) <= found.get((*pair, layer.name), {}).keys()
    ]
    return compare(order, store, engine, pairs, metrics, say=say) if lacking else None
