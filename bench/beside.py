"""What null and standard error take of a comparison's time: section 8 of bench/metrics.py."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from report import Table, seconds

from distsim.comparison.layer import Reference
from distsim.comparison.sides import LayerSource
from distsim.metrics.jackknife import split
from distsim.metrics.null import of_cka
from distsim.metrics.registry import METRICS
from distsim.seeds import numpy_stream
from distsim.specs import PAPER_METRICS

METRICS_HERE = tuple(name for name in (*PAPER_METRICS, "cka_unbiased") if METRICS[name].view != "output")
PERMUTED = tuple(name for name in METRICS_HERE if METRICS[name].null is None)
WITH_SE = tuple(name for name in METRICS_HERE if name != "nbs")
CLOSED = 2.0  # per cent that the closed form may take


def table_of(layers: list[tuple[str, LayerSource, LayerSource]], device: str, repeats: int) -> tuple[Table, float]:
    """Time comparisons of layers, and what is measured beside.

    layers : name, and the layer of the complete and of a pruned network
    repeats : of each measurement, whose median counts
    Returns the table, and the largest share of CKA's null in closed form, in per cent.
    """
    table = Table(("layer", "n", "values", "null of CKA", "share", "2 permutations", "share", "se", "share"))
    largest = 0.0
    for name, complete, pruned in layers:
        whole, *parts = (
            statistics.median(times) for times in zip(*_timed(name, complete, pruned, device, repeats), strict=True)
        )
        shares = [100 * max(part, 0.0) / whole for part in parts]
        largest = max(largest, shares[0])
        cells = [cell for part, share in zip(parts, shares, strict=True) for cell in (seconds(part), f"{share:.2g} %")]
        table.add(name, f"{pruned.shape[0]:,}", seconds(whole), *cells)
    table.notes.append(
        f"Values: {', '.join(METRICS_HERE)}, of one pruned network. Permutations are of {', '.join(PERMUTED)}, and of "
        "run 0 only. The standard error is of all but NBS. Both are from the pass over the activations that the values "
        "need; the complete network's half is made before. On a CPU, seconds are those for which the cores worked for "
        f"this process, so that others count less. {f'Medians of {repeats}.' if repeats > 1 else 'Once each.'}"
    )
    return table, largest


def _timed(
    name: str, complete: LayerSource, pruned: LayerSource, device: str, repeats: int
) -> Iterator[tuple[float, ...]]:
    """Yield the seconds of the values, of CKA's null, of two permutations, and of the standard error."""
    clock = time.process_time if device == "cpu" else time.perf_counter  # seconds of the cores, whoever else has them
    reference, n = Reference(complete, METRICS_HERE, device), pruned.shape[0]
    orders = [numpy_stream(0, "chance", name, number).permutation(n) for number in range(2)]
    blocks = split(n, 0)
    _without(reference, pruned, blocks)  # makes the complete network's half
    for _ in range(repeats):
        read = reference.read(pruned)
        read.results()
        pair = read.pair.kernels
        for made in ("diagonal", "squares_of_diagonal"):
            pair.y.__dict__.pop(made, None)
        closed = _time(clock, of_cka, pair)
        plain = _time(clock, _plain, reference, pruned)
        permuted, without = (
            _time(clock, _permuted, reference, pruned, orders),
            _time(clock, _without, reference, pruned, blocks),
        )
        yield plain, closed, max(permuted - plain, 0.0), max(without - plain, 0.0)


def _plain(reference: Reference, layer: LayerSource) -> None:
    reference.read(layer).results()


def _permuted(reference: Reference, layer: LayerSource, orders: list[Any]) -> None:
    read = reference.read(layer, orders=orders)
    read.results()
    for place in range(len(orders)):
        read.by_chance(place, PERMUTED)


def _without(reference: Reference, layer: LayerSource, blocks: Any) -> None:
    read = reference.read(layer, blocks=blocks)
    read.results()
    read.without_blocks(WITH_SE)


def _time(clock: Callable[[], float], work: Callable[..., object], *args: Any) -> float:
    started = clock()
    work(*args)
    return clock() - started
