"""A store's networks against each other: which pairs, in which portions, at what cost, and the table of what came out.

A plan is a list of pairs of networks; each pair is compared layer by layer. Pairs are done in tiles of a few networks
that are read together, each once, so that reading grows with networks and not with pairs. Masks are compared by their
Jaccard similarity, |A ∩ B| / |A ∪ B| of the parameters that are alive.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from distsim.activations.probe import layer_shapes
from distsim.comparison.layer import applicable
from distsim.comparison.sides import COLUMNS
from distsim.environment import free_memory, threads
from distsim.models import Layer, build
from distsim.results.pairs import (
    Found,
    found_in,
)
from distsim.specs import NetworkId
from distsim.store import Pair, SweepStore
from distsim.sweep.cost import Cost, layer_cost, product_rate
from distsim.sweep.engine import Engine
from distsim.sweep.jobs import PairJob
from distsim.sweep.order import Prepared

PLANS = {
    "complete": "the complete network with every other",
    "runs": "run with run at equal iteration",
    "iterations": "iteration with iteration of the same run, the complete network being iteration 0",
    "all": "every network with every other",
}


def planned(plan: str, networks: Iterable[NetworkId]) -> list[Pair]:
    """The plan's pairs (a, b) of these networks, a before b: the complete one first, then by run and iteration."""
    if plan not in PLANS:
        raise ValueError(f"there is no plan {plan!r}; there are {', '.join(PLANS)}")
    ordered = sorted(networks)
    every = itertools.combinations(ordered, 2)
    if plan == "complete":
        return [(a, b) for a, b in every if a.is_complete]
    if plan == "runs":
        return [(a, b) for a, b in every if not a.is_complete and a.iteration == b.iteration]
    if plan == "iterations":
        return [(a, b) for a, b in every if b.comes_from(a)]
    return list(every)


def tiles(pairs: Sequence[Pair], limit: int) -> Iterator[list[Pair]]:
    """The pairs in portions that name at most `limit` networks, at least 2; all of a plan's together where they can be.

    What hangs together, as the runs at one iteration do, is one tile or, if it is too large, cut into groups of half
    the limit, of which each two are a tile: N networks are then read about N / (limit / 2) times each.
    """
    half = max(1, limit // 2)
    for part in _components(pairs):
        members = sorted({network for pair in part for network in pair})
        if len(members) <= max(2, limit):
            yield part
            continue
        group = {network: place // half for place, network in enumerate(members)}
        last = max(group.values())
        portions: dict[tuple[int, int], list[Pair]] = {}
        for a, b in part:
            first, second = sorted((group[a], group[b]))
            # pairs within a group are done where it meets its neighbour
            key = (first, second) if first != second else (first, first + 1) if first < last else (first - 1, first)
            portions.setdefault(key, []).append((a, b))
        yield from (portions[key] for key in sorted(portions))


def tile_limit(shape: tuple[int, ...], memory: float) -> int:
    """How many networks' statistics of a layer fit into so many bytes, with what is needed beside them; at least 2."""
    n, p = shape[0], int(np.prod(shape[1:]))
    wide = p >= n
    shared = 5 * 8 * n**2 if wide else 3 * 8 * p**2
    # the Gram matrix and its factor, or the features; a panel as stored and a slab of it centred
    each = (2 * 8 * n**2 if wide else 8 * n * p) + 8 * n * min(p, 2 * COLUMNS)
    return max(2, int((memory - shared) / each))


def jobs(
    problem: str,
    pairs: Sequence[Pair],
    layers: Mapping[Layer, tuple[int, ...]],
    metrics: tuple[str, ...],
    there: Found,
    memory: float,
) -> list[PairJob]:
    """What of the plan is not there yet. layers : with their shapes (n, ...); memory : bytes of one job."""
    found = []
    for layer, shape in layers.items():
        wanted = applicable(metrics, layer.kind)
        if not wanted:
            continue
        missing = [pair for pair in pairs if not set(wanted) <= there.get((*pair, layer.name), {}).keys()]
        for tile in tiles(missing, tile_limit(shape, memory)):
            found.append(PairJob(problem, layer.name, tuple(tile), wanted))
    return found


def cost(todo: Iterable[PairJob], layers: Mapping[Layer, tuple[int, ...]], itemsize: int = 2) -> Cost:
    shapes = {layer.name: shape for layer, shape in layers.items()}
    total = Cost()
    for job in todo:
        total += layer_cost(shapes[job.layer], itemsize, len(job.networks), len(job.pairs), job.metrics)
    return total


def compare(
    one: Prepared,
    store: SweepStore,
    engine: Engine,
    pairs: Sequence[Pair],
    metrics: tuple[str, ...],
    names: Sequence[str] | None = None,
    memory: float | None = None,
    forecast: bool = False,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Compare what of these pairs is not compared yet and commit it; a sentence for each tile that failed.

    names     of layers; None: all
    memory    bytes for all comparisons at once; None: half of what this machine has free, 4 GiB if it does not say
    forecast  only say what it would cost

    Activations that the store keeps (`--retention all`) are read; the others' networks run over the probe again.
    FileNotFoundError: a network is not committed. ValueError: unknown layers.
    """
    problem = one.sweep.problem
    kept = store.contents()
    if absent := {network for pair in pairs for network in pair} - kept.networks:
        raise FileNotFoundError(f"{one.name}: {min(absent).label} is not in {store.root.url}")
    layers = [layer for layer in one.layers if names is None or layer.name in names]
    if unknown := set(names or ()) - {layer.name for layer in one.layers}:
        raise ValueError(f"{one.name} has no layers {sorted(unknown)}; it has {[layer.name for layer in one.layers]}")
    network = build(problem)
    shapes = layer_shapes(network, problem)
    sized = {layer: (problem.probe, *shapes[layer.name]) for layer in layers}
    if not {network for pair in pairs for network in pair} <= kept.activations:  # then workers need the images
        extent = dataclasses.replace(one.sweep.extent, activations="memory")
        one = dataclasses.replace(one, sweep=dataclasses.replace(one.sweep, extent=extent))
    slots = 1 if forecast else engine.slots([one])
    todo = jobs(
        one.name, pairs, sized, metrics, found_in(store), (memory or (free_memory() or 8 * 2.0**30) / 2) / slots
    )
    if not todo:
        say(f"{one.name}: nothing is missing")
        return []
    with threads(one.sweep.identity.threads):
        total, rate = cost(todo, sized), product_rate()
    say(
        f"{one.name}: {sum(len(job.pairs) for job in todo)} pairs of layers in {len(todo)} tiles: "
        + total.sentence(rate, slots)
    )
    return [] if forecast else engine.compare([one], todo)


def _components(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs by what hangs together."""
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
