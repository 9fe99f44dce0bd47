"""Measures speed, accuracy and memory of the comparison of activations, beside other ways to compute the metrics.

python bench/metrics.py --data folder:PATH --write docs/benchmarks.md    # everything, at full size: hours on 2 cores
python bench/metrics.py --only 1,4 --n 1000                              # some sections, smaller
python bench/metrics.py --small                                          # everything in seconds, for a test

Sections: 1 time of a whole run, 2 peers, 3 memory, 4 rates, 5 pairs of many networks, 6 bad input, 7 accuracy, 8 null
and standard error. All are measured in this run, on activations of networks that the library trains and prunes here.
With --write each section replaces its own place in the document, so one section can be measured again without the
others. Where other processes are at work nothing is judged: see --busy.
"""

import argparse
import contextlib
import dataclasses
import os
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import baselines
import beside
import google_crc32c
import machine
import material
import numcodecs
import numpy as np
import torch
from child import Answer, ask
from machine import Calm
from material import LAYERS, Networks
from peers import PEERS, Peer
from place import Place
from report import Section, Table, difference, numbers, replace, seconds, times

from distsim import metrics as public
from distsim.comparison.layer import Reference, compare_pairs
from distsim.comparison.sides import NARROW, PRECISIONS, InMemory, LayerSource, Wanted, collect
from distsim.environment import require_device, threads
from distsim.specs import PAPER_METRICS, NetworkId
from distsim.store import Storage, SweepStore
from distsim.store.activations import Reader, Writer
from distsim.store.commits import Attempt, DamagedStore
from distsim.sweep.cost import readable
from distsim.sweep.extraction import extract

N = 5000  # number of examples for which the targets are set
PAIRWISE = tuple(name for name in PAPER_METRICS if name != "cosine")  # the cosine is measured on the output layer
PEER_LAYER = "conv1_2"
REPEATS = 3  # of measurements that take seconds; the median counts

Values = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    flags = _parser().parse_args(arguments)
    if flags.small:
        flags = argparse.Namespace(**vars(flags) | SMALL)
    require_device(flags.device)
    conditions = machine.describe(flags.threads, flags.device)
    print(f"{conditions}\n", flush=True)
    failed = []
    with _workplace(flags.work) as folder, threads(flags.threads):
        bench = Measuring(flags, folder, conditions)
        for number in flags.only:
            started = time.perf_counter()
            try:
                bench.calm.look(timed=number not in UNTIMED)
                section = SECTIONS[number](bench)
            except machine.Busy as error:
                print(f"section {number} is {error}", file=sys.stderr, flush=True)
                failed.append(number)
                continue
            except Exception:  # the other sections may have taken hours, so go on with them
                traceback.print_exc()
                failed.append(number)
                continue
            print(section.markdown(), flush=True)
            print(f"(section {number} took {seconds(time.perf_counter() - started)})\n", flush=True)
            if flags.write:
                replace(flags.write, section)
    return 1 if failed else 0


# The sizes of --small: every path of this script except peers. Its numbers say nothing about speed.
SMALL = {
    "busy": True,
    "n": 60,
    "iterations": 8,
    "epochs": 2,
    "train_limit": 120,
    "wide": (4, 8),
    "threads": 1,
    "peers": False,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        type=lambda text: numbers(text, SECTIONS),
        default=tuple(SECTIONS),
        help="numbers of sections, separated by commas (default: all)",
    )
    parser.add_argument("--n", type=int, default=N, help="number of examples (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=20, help="prunings in the run, 8 or more (default: 20)")
    parser.add_argument("--threads", type=int, default=2, help="threads of everything measured (default: %(default)s)")
    parser.add_argument("--data", default="", help="folder:PATH for real images (default: drawn)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each training (default: %(default)s)")
    parser.add_argument("--train-limit", type=int, help="training images (default: all, or --n if drawn)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="device of distsim (default: %(default)s)"
    )
    parser.add_argument(
        "--baseline-networks",
        type=int,
        default=1,
        help="number of networks for the original authors' code (default: 1)",
    )
    parser.add_argument(
        "--cached-networks", type=int, default=3, help="number of networks for the cached baseline (default: 3)"
    )
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="leave out the peers in section 2")
    parser.add_argument(
        "--peers-python", default=sys.executable, help="a Python with bench/requirements.txt (default: this one)"
    )
    parser.add_argument(
        "--peer-seconds", type=float, default=900, help="seconds that a peer's call may take (default: 900)"
    )
    parser.add_argument(
        "--peer-networks", type=int, default=4, help="networks compared with one reference (default: 4)"
    )
    parser.add_argument("--limit-gib", type=float, default=6, help="memory limit in section 2 (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="measurements of each time in section 8 (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, help="keep networks and arrays in this folder for the next call")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the sections into this Markdown document")
    machine.busy_flag(parser)
    parser.add_argument("--small", action="store_true", help="use tiny sizes and no peers, for a test")
    parser.set_defaults(wide=(32, 64))
    return parser


@contextlib.contextmanager
def _workplace(chosen: Path | None) -> Iterator[Path]:
    folder = chosen or Path(tempfile.mkdtemp(prefix="distsim-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if chosen is None:
            shutil.rmtree(folder)


class Measuring:
    """What the sections share: flags, machine, and the networks, which are made when a section first needs them."""

    def __init__(self, flags: argparse.Namespace, folder: Path, machine: str) -> None:
        self.flags, self.folder, self.machine = flags, folder, machine
        self.calm = Calm(flags.busy)
        self._networks: Networks | None = None

    @property
    def networks(self) -> Networks:
        if self._networks is None:
            f = self.flags
            self._networks = material.networks(
                self.folder, f.n, f.iterations, f.threads, f.epochs, f.train_limit, f.data
            )
        return self._networks

    def wide(self, size: int) -> tuple[Place, Place]:
        return material.wide_pair(self.folder, self.flags.n, size)

    def section(self, number: int, title: str, what: str, tables: list[Table]) -> Section:
        n = self.flags.n
        size = f"n = {n:,}" + ("" if n == N else f", **not the n = {N:,} for which the targets are set**")
        where = " on a GPU" if self.flags.device != "cpu" else ""  # which has its own place in the document
        self.calm.mark(tables)
        conditions = f"{what} {size}.\n\nOn {self.machine}; {self.calm.text()}."
        return Section(f"metrics {number}{where}", f"{number}. {title}{where}", conditions, tables)

    def verdict(self, value: float, target: float, at_most: bool = False, unit: str = "") -> str:
        """Return the target and whether the value meets it.

        Only the target, if n is not the one it is set for or other processes were at work.
        """
        text = f"{'≤' if at_most else '≥'} {target:g}{unit}"
        if self.flags.n != N or not self.calm.judged:
            return text
        return f"{text}: {'met' if (value <= target if at_most else value >= target) else '**missed**'}"


# --- 1: a whole run --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Run:
    """The seconds of one way, by layer, for the reference and for each network, and its values by (network, layer)."""

    once: dict[str, float] = dataclasses.field(default_factory=dict)
    each: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    values: dict[tuple[int, str], Values] = dataclasses.field(default_factory=dict)
    clock: baselines.Clock = dataclasses.field(default_factory=baselines.Clock)

    def total(self, networks: int) -> float:
        """Return the seconds for this many networks, at the mean time of those that were timed."""
        return sum(self.once.values()) + networks * sum(statistics.fmean(times) for times in self.each.values())


def whole_run(bench: Measuring) -> Section:
    networks, f = bench.networks, bench.flags
    chosen = [spaced(networks.iterations, count) for count in (f.baseline_networks, f.cached_networks)]
    ways = {
        "the original authors' code": seeds_run(networks, chosen[0]),
        "reference cached, float64": cached_run(networks, sorted({*chosen[0], *chosen[1]})),
    }
    if f.device != "cpu":  # the first call compiles the device's kernels
        Reference(networks.complete.layer("fc1"), PAIRWISE, f.device).compare(networks.pruned[0].layer("fc1"))
    for precision in PRECISIONS:
        ways[f"distsim `{precision}`"] = our_run(networks, precision, f.device)
    count = networks.iterations
    totals = {way: run.total(count) for way, run in ways.items()}
    slow, cached = list(totals.values())[:2]

    table = Table(
        ("way", "once", "a network", f"{count} networks", "timed on", "to theirs", "target", "to cached", "target")
    )
    for way, run in ways.items():
        ours = way.startswith("distsim")
        target = 12 if "fast" in way else 8
        table.add(
            way,
            seconds(sum(run.once.values())) if run.once else "–",
            seconds(sum(map(statistics.fmean, run.each.values()))),
            seconds(totals[way]),
            f"{len(next(iter(run.each.values())))} of {count}",
            times(slow / totals[way]),
            bench.verdict(slow / totals[way], target) if ours else "",
            times(cached / totals[way]),
            bench.verdict(cached / totals[way], 1.5) if ours else "",
        )
    if f.device == "cpu":
        table.add("distsim on a GPU", *["**open**: `python bench/metrics.py --device cuda`", *[""] * 7])
    table.notes.append(
        f"Layers {', '.join(LAYERS)} with {', '.join(PAIRWISE)}, and out with cosine; reading included. A way that was "
        "timed on fewer networks is scaled: once + networks x mean."
    )
    steps = ways["the original authors' code"].clock
    table.notes.append(
        "Of the original authors' code: "
        + ", ".join(f"{what} {100 * s / steps.total:.0f} %" for what, s in steps.seconds.items())
        + "."
    )

    layers = Table(("layer", "one network's", *(f"{way}" for way in ways), "distsim's reference, `exact`"))
    for layer in LAYERS:
        shape = "x".join(map(str, networks.complete.layer(layer).shape))
        cells = [_spread(run.each[layer]) for run in ways.values()]
        layers.add(layer, shape, *cells, seconds(ways["distsim `exact`"].once[layer]))
    layers.notes.append("A comparison of one network: median (least to most).")
    return bench.section(
        1,
        "One run against the complete network",
        f"cifar2, one run of {count} IMP iterations on {networks.source}, from a store on disk to all six metrics.",
        [table, layers, _agreement(ways)],
    )


def _agreement(ways: dict[str, Run]) -> Table:
    exact = ways["distsim `exact`"]
    table = Table(("largest difference to `exact`", *PAPER_METRICS))
    for way, run in ways.items():
        if run is exact:
            continue
        cells = []
        for metric in PAPER_METRICS:
            differences = [
                abs(values[metric] - exact.values[key][metric])
                for key, values in run.values.items()
                if metric in values
            ]
            cells.append(difference(max(differences)))
        table.add(way, *cells)
    table.notes.append(
        "All compute the same definitions, PWCCA with the complete network's weights. The original authors' "
        "code differs by its float32 (sums over n² entries, roots of the eigenvalues of a product that is not "
        "symmetric) and by what its CCA takes for rank: directions with less than 1e-10 of the largest "
        "variance are left out, so that means over directions differ where there are such. With few examples "
        "beside a layer's width, PWCCA's weights are not unique."
    )
    return table


def seeds_run(networks: Networks, chosen: Sequence[int]) -> Run:
    """Compute every pair from scratch, reading both sides again each time."""
    run = Run()
    for i in chosen:
        for layer in LAYERS:
            with _added(run.each.setdefault(layer, [])):
                with run.clock("reading"):
                    X, Y = (_float32(place, layer) for place in (networks.complete, networks.place(NetworkId(0, i))))
                run.values[i, layer] = baselines.seeds_way(X, Y, run.clock)
        with _added(run.each.setdefault("out", [])):
            X, Y = (_float32(place, "out") for place in (networks.complete, networks.place(NetworkId(0, i))))
            run.values[i, "out"] = {"cosine": baselines.cosine(X, Y)}
    return run


def cached_run(networks: Networks, chosen: Sequence[int]) -> Run:
    run = Run()
    for layer in LAYERS:
        started = time.perf_counter()
        reference = baselines.CachedReference(_float32(networks.complete, layer))
        run.once[layer] = time.perf_counter() - started
        for i in chosen:
            with _added(run.each.setdefault(layer, [])):
                run.values[i, layer] = reference.compare(_float32(networks.place(NetworkId(0, i)), layer), run.clock)
    started = time.perf_counter()
    X = _float32(networks.complete, "out")
    run.once["out"] = time.perf_counter() - started
    for i in chosen:
        with _added(run.each.setdefault("out", [])):
            run.values[i, "out"] = {"cosine": baselines.cosine(X, _float32(networks.place(NetworkId(0, i)), "out"))}
    return run


def our_run(networks: Networks, precision: str, device: str) -> Run:
    run = Run()
    for layer, metrics in [*((layer, PAIRWISE) for layer in LAYERS), ("out", ("cosine",))]:
        started = time.perf_counter()
        reference = Reference(networks.complete.layer(layer), metrics, device, precision)
        run.once[layer] = time.perf_counter() - started
        for i, place in enumerate(networks.pruned, start=1):
            with _added(run.each.setdefault(layer, [])):
                results = reference.compare(place.layer(layer))
            run.values[i, layer] = {name: _number(result) for name, result in results.items()}
    return run


def _float32(place: Place, layer: str) -> baselines.Array:
    return place.layer(layer).read().astype(np.float32)


def _number(result: dict[str, Any]) -> float:
    return float("nan") if result["value"] is None else float(result["value"])


@contextlib.contextmanager
def _added(durations: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    durations.append(time.perf_counter() - started)


def _spread(durations: list[float]) -> str:
    middle = seconds(statistics.median(durations))
    return middle if len(durations) == 1 else f"{middle} ({min(durations):.3g} to {max(durations):.3g})"


def spaced(last: int, count: int) -> list[int]:
    """Return `count` evenly spaced iterations of 1 ... last; for a count of 1 the middle one."""
    count = min(count, last)
    return sorted({round((2 * k + 1) * last / (2 * count) + 0.5) for k in range(count)})


# --- 2: peers --------------------------------------------------------------------------------------------------------


def peers(bench: Measuring) -> Section:
    networks, f = bench.networks, bench.flags
    several = spaced(networks.iterations, f.peer_networks)
    many = f"one and {len(several)}"
    header = ("peer", "ours", "n", "a pair", "ours", "ratio", "target", many, "ours", "ratio", "value", "to ours")
    table = Table((*header, "definition"))
    for peer in PEERS if f.peers else ():
        table.add(*_beside(bench, peer, several))
    if not f.peers:
        table.notes.append("Peers were left out of this run.")
    shape = "x".join(map(str, networks.complete.layer(PEER_LAYER).shape[1:]))
    table.notes.append(
        f"cifar2's {PEER_LAYER}, (n, {shape}), as float32 arrays in memory; each call in a process of its own, loading "
        f"not counted, one metric of both sides. Left: one pair. Right: a reference and {len(several)} networks, by "
        "each library in the way that suits it best. A peer that would take more than "
        f"{f.peer_seconds:.0f} s a call gets a smaller n, and so do we. Versions: bench/requirements.txt."
    )
    tables = [table, _limited(bench)] if f.peers else [table]
    return bench.section(2, "Peers on the same arrays", f"On {networks.source}.", tables)


def _beside(bench: Measuring, peer: Peer, several: Sequence[int]) -> list[str]:
    """Return a peer's row of the table."""
    f = bench.flags

    def theirs(n: int, count: int = 1) -> Answer:
        return ask(request(n, count) | {"peer": peer.name}, f.threads, f.peers_python, timeout=2 * f.peer_seconds)

    def ours(n: int, count: int = 1) -> Answer:
        answer = ask(request(n, count) | {"peer": None}, f.threads)
        if "error" in answer:
            raise RuntimeError(f"section 2, distsim's {peer.metric}: {answer['error']}")
        return answer

    def request(n: int, count: int) -> dict[str, Any]:
        places = [bench.networks.complete, *(bench.networks.place(NetworkId(0, i)) for i in several[-count:])]
        return {
            "task": "arrays",
            "places": [dataclasses.asdict(place) for place in places],
            "layer": PEER_LAYER,
            "n": n,
            "metric": peer.metric,
            "precision": "exact",
        }

    n, their_pair = _largest(peer, f.n, f.peer_seconds, theirs)
    row = [peer.name, f"`{peer.metric}`", f"{n:,}"]
    if "error" in their_pair:
        return [*row, str(their_pair["error"]), *[""] * 9]
    our_pair = ours(n)
    ratio = their_pair["seconds"] / our_pair["seconds"]
    row += [seconds(their_pair["seconds"]), seconds(our_pair["seconds"]), times(ratio)]
    row.append(bench.verdict(ratio, 3) if n == f.n else "≥ 3")
    if their_pair["seconds"] * len(several) > f.peer_seconds:
        row += ["not tried", "", ""]
    elif "error" in (their_many := theirs(n, len(several))):
        row += [str(their_many["error"]), "", ""]
    else:
        our_many = ours(n, len(several))
        row += [seconds(their_many["seconds"]), seconds(our_many["seconds"])]
        row.append(times(their_many["seconds"] / our_many["seconds"]))
    value = float(their_pair["values"][0])
    return [*row, f"{value:.6f}", difference(abs(value - our_pair["values"][0])), peer.remark]


def _largest(peer: Peer, n: int, budget: float, measure: Callable[[int], Answer]) -> tuple[int, Answer]:
    """Measure the peer at the largest n that should fit into the budget, judged from a small n; return n and answer."""
    small = min(n, 500)
    answer = measure(small)
    if "error" in answer or small == n:
        return small, answer
    fits = small * (budget / answer["seconds"]) ** (1 / peer.growth)
    largest = n if fits >= n else max(small, int(fits // 100) * 100)
    return (small, answer) if largest == small else (largest, measure(largest))


def _limited(bench: Measuring) -> Table:
    """Measure which libraries finish with limited memory."""
    f = bench.flags
    limit = int(f.limit_gib * 2**30)
    table = Table(("with memory for", *(f"64 channels, {size}x{size}" for size in f.wide)))
    table.notes.append(
        f"VGG16-BN's widest layer and twice its size, at n = {f.n:,}, in a process that may have {f.limit_gib:g} GiB "
        "of private memory (RLIMIT_DATA). Peers are given float32 arrays, which they need whole."
    )
    rows: dict[str, list[str]] = {}
    for size in f.wide:
        places = [dataclasses.asdict(place) for place in bench.wide(size)]
        for precision in PRECISIONS:
            request = {"task": "stored", "places": places, "layer": "conv1_1", "precision": precision, "limit": limit}
            answer = ask(request, f.threads)
            rows.setdefault(f"distsim `{precision}`, all metrics", []).append(_ended(answer))
        for peer in PEERS:
            request = {
                "task": "arrays",
                "places": places,
                "layer": "conv1_1",
                "n": f.n,
                "peer": peer.name,
                "limit": limit,
                "enough": 0,
            }
            answer = ask(request, f.threads, f.peers_python, timeout=f.peer_seconds)
            rows.setdefault(peer.name, []).append(_ended(answer))
    for name, cells in rows.items():
        table.add(name, *cells)
    return table


def _ended(answer: Answer) -> str:
    if "error" in answer:
        return str(answer["error"])
    return f"{seconds(answer['seconds'])}, at most {answer['peak'] / 2**30:.2f} GiB"


# --- 3: memory -------------------------------------------------------------------------------------------------------


def memory(bench: Measuring) -> Section:
    f = bench.flags
    table = Table(("layer", "precision", "both sides, float32", "peak of the process", "before it", "target", "time"))
    peaks: dict[str, list[float]] = {}
    for size in f.wide:
        places = [dataclasses.asdict(place) for place in bench.wide(size)]
        for precision in PRECISIONS[:1] if f.small else PRECISIONS:
            answer = ask({"task": "stored", "places": places, "layer": "conv1_1", "precision": precision}, f.threads)
            if "error" in answer:
                raise RuntimeError(f"section 3: {answer['error']}")
            peaks.setdefault(precision, []).append(answer["peak"] / 2**30)
            table.add(
                f"{material.WIDE_CHANNELS}x{size}x{size}",
                f"`{precision}`",
                readable(2 * 4 * f.n * size * size * material.WIDE_CHANNELS),
                f"{peaks[precision][-1]:.2f} GiB",
                f"{answer['before'] / 2**30:.2f} GiB",
                bench.verdict(peaks[precision][-1], 3, at_most=True, unit=" GiB"),
                seconds(answer["seconds"]),
            )
    for precision, by_size in peaks.items():
        ratio = by_size[-1] / by_size[0]
        table.notes.append(
            f"Twice the size, `{precision}`: {ratio:.2f} of the memory (target "
            f"{bench.verdict(ratio, 1.05, at_most=True)}; 0.05 is what two processes differ by)."
        )
    table.notes.append(
        "VmHWM of a fresh process that reads both networks' layer from disk (float16) and computes all its metrics."
    )
    return bench.section(3, "Memory", "VGG16-BN's widest layer, synthetic.", [table])


# --- 4: rates --------------------------------------------------------------------------------------------------------


def rates(bench: Measuring) -> Section:
    f, networks = bench.flags, bench.networks
    gram = Table(("layer", "dtype", "pass", "rate", "of gemm's", "gemm", "target"))
    reading = Table(
        ("layer", "decoded", "in files", "reader", "plain code", "share", "target", "plain, threads", "share")
    )
    sources = [
        (f"cifar2 {PEER_LAYER}", networks.complete, PEER_LAYER),
        (f"VGG16-BN 64x{f.wide[0]}x{f.wide[0]}", bench.wide(f.wide[0])[0], "conv1_1"),
    ]
    for name, place, layer in sources:
        source = place.layer(layer)
        n, p = source.shape[0], int(np.prod(source.shape[1:]))
        narrow = n * n * p >= NARROW
        dtype = "float32" if narrow else "float64"
        columns = p // source.shape[1] * source.panel_rows
        alone, taken = [], []
        for _ in range(REPEATS):
            alone.append(gemm_rate(n, columns, dtype, f.device))
            started = time.perf_counter()
            collect([source], [Wanted(channels=False)], device=f.device)
            taken.append(time.perf_counter() - started)
        rate = n * (n + 1) * p / statistics.median(taken)
        share = rate / statistics.median(alone)
        gram.add(
            name,
            dtype,
            seconds(statistics.median(taken)),
            f"{rate / 1e9:.0f} GFLOP/s",
            f"{100 * share:.0f} %",
            f"{statistics.median(alone) / 1e9:.0f} GFLOP/s",
            bench.verdict(100 * share, 60, unit=" %"),
        )
        reading.add(name, *_reading(bench, place, layer, source))
    if f.device == "cpu":
        gram.add("on a GPU", "**open**: `python bench/metrics.py --only 4 --device cuda`", *[""] * 5)
    gram.notes.append(
        "From files to the centred Gram matrix: reading, decoding, centring and the products, counted as n(n+1)p. "
        "Gemm: (n, k) @ (k, n) of unrelated matrices with k a panel's columns, counted as 2n²k, before each pass; "
        f"medians of {REPEATS}."
    )
    reading.notes.append(
        "The reader's panels against a loop that opens, reads, checks (CRC32C) and decompresses the same chunk files "
        f"with numcodecs, putting nothing together; and that loop in {f.threads} threads. Files are in the page cache; "
        f"medians of {REPEATS}."
    )
    return bench.section(4, "Rates of the pass and of the reader", f"On {networks.source}.", [gram, reading])


def gemm_rate(n: int, columns: int, dtype: str, device: str) -> float:
    """Measure the FLOP/s of a plain product of that dtype, without anything else."""
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal(shape, dtype=np.float32) for shape in ((n, columns), (columns, n)))
    if device == "cuda":
        ours, theirs = (torch.as_tensor(M.astype(dtype, copy=False), device=device) for M in (A, B))
        ours @ theirs
        torch.cuda.synchronize()
        started = time.perf_counter()
        ours @ theirs
        torch.cuda.synchronize()
        return 2 * n * n * columns / (time.perf_counter() - started)
    A, B = A.astype(dtype, copy=False), B.astype(dtype, copy=False)
    started = time.perf_counter()
    A @ B
    return 2 * n * n * columns / (time.perf_counter() - started)


def _reading(bench: Measuring, place: Place, layer: str, source: LayerSource) -> list[str]:
    files = place.files(layer)
    taken: dict[str, list[float]] = {"reader": [], "plain": [], "threads": []}
    decoded = 0
    with ThreadPoolExecutor(bench.flags.threads) as pool:
        for _ in range(1 + REPEATS):  # the first round brings the files into the page cache and is left out
            with _added(taken["reader"]):
                decoded = sum(panel.nbytes for panel in source.panels(source.panel_rows))
            with _added(taken["plain"]):
                for file in files:
                    _plain(file)
            with _added(taken["threads"]):
                list(pool.map(_plain, files))
    reader, plain, threaded = (statistics.median(durations[1:]) for durations in taken.values())
    speeds = [f"{decoded / duration / 1e9:.2f} GB/s" for duration in (reader, plain, threaded)]
    return [
        readable(decoded),
        readable(sum(file.stat().st_size for file in files)),
        *speeds[:2],
        f"{100 * plain / reader:.0f} %",
        bench.verdict(100 * plain / reader, 70, unit=" %"),
        speeds[2],
        f"{100 * threaded / reader:.0f} %",
    ]


def _plain(file: Path) -> int:
    """Read, check and decompress a chunk (zstd, followed by a CRC32C of the compressed bytes); return its bytes."""
    with open(file, "rb") as opened:
        raw = opened.read()
    if google_crc32c.value(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        raise AssertionError(f"{file} is damaged")
    return len(numcodecs.Zstd().decode(raw[:-4]))


# --- 5: pairs of many networks ---------------------------------------------------------------------------------------


def pairs(bench: Measuring) -> Section:
    networks = bench.networks
    chosen = [networks.place(NetworkId(0, i)) for i in spaced(networks.iterations, 8)]
    every = [(i, j) for i in range(len(chosen)) for j in range(i + 1, len(chosen))]
    layers = [place.layer(PEER_LAYER) for place in chosen]
    compare_pairs(layers[:1], [(0, 0)], PAIRWISE)  # so that what is read once in a process is not counted
    table = Table(("", "bytes read", "to one pair's", "target", "time", "to 28 alone"))
    with _counted() as all_bytes:
        started = time.perf_counter()
        together = compare_pairs(layers, every, PAIRWISE)
        all_at_once = time.perf_counter() - started
    with _counted() as separate_bytes:
        started = time.perf_counter()
        alone = {pair: compare_pairs([layers[i] for i in pair], [(0, 1)], PAIRWISE)[0, 1] for pair in every}
        one_by_one = time.perf_counter() - started
    one_bytes = separate_bytes[0] / len(every)  # a mean: compressed files of networks may differ by a factor of two
    ratio = all_bytes[0] / one_bytes
    table.add("one pair, mean of all", readable(one_bytes), "1", "", seconds(one_by_one / len(every)), "")
    table.add(
        f"all {len(every)} pairs of {len(chosen)} networks",
        readable(all_bytes[0]),
        f"{ratio:.2f}",
        bench.verdict(ratio, 4.2, at_most=True),
        seconds(all_at_once),
        times(one_by_one / all_at_once),
    )
    table.add(
        f"{len(every)} comparisons one by one",
        readable(separate_bytes[0]),
        f"{separate_bytes[0] / one_bytes:.2f}",
        "",
        seconds(one_by_one),
        "1",
    )
    furthest = max(abs(_number(together[pair][m]) - _number(alone[pair][m])) for pair in every for m in PAIRWISE)
    table.notes.append(
        f"cifar2's {PEER_LAYER}, {', '.join(PAIRWISE)}, `exact`. Bytes are those that the process read by system calls"
        f"{'' if COUNTS_BYTES else ' (not known on this system)'}. Largest difference between the two ways' values: "
        f"{difference(furthest)}."
    )
    return bench.section(5, "All pairs of eight networks", f"On {networks.source}.", [table])


COUNTS_BYTES = Path("/proc/self/io").exists()


@contextlib.contextmanager
def _counted() -> Iterator[list[int]]:
    """Count the bytes that this process reads in the block. Afterwards the list holds that number."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1]) if COUNTS_BYTES else 0

    counted, before = [0], so_far()
    yield counted
    counted[0] = so_far() - before


# --- 6: bad input ----------------------------------------------------------------------------------------------------


def bad_input(bench: Measuring) -> Section:
    table = Table(("what is wrong", "what is said"))
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 6, 6, 4), dtype=np.float32)
    Y = X + rng.standard_normal(X.shape, dtype=np.float32)
    reference = Reference(InMemory(X, "conv1_1"), PAIRWISE)
    table.add("another number of examples", _said(lambda: reference.compare(InMemory(Y[:-1], "conv1_1"))))
    table.add("the same, public function", _said(lambda: public.cka(X, Y[:-1])))
    broken = Y.copy()
    broken[3, 2, 2, 1] = np.nan
    table.add("NaN in an array that is compared", _said(lambda: reference.compare(InMemory(broken, "conv1_1"))))
    table.add("the same, public function", _said(lambda: public.cka(X, broken)))
    table.add("NaN in a network that is extracted", _said(lambda: _extract_nan(bench)))
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        for damage, message in _damaged_files(Path(folder)):
            table.add(damage, message)
    table.notes.append("STORE stands for the store's path.")

    recorded = Table(("n", "p", "metric", "value", "reason", "recorded with it"))
    few, wide = (rng.standard_normal((50, 80)) for _ in range(2))
    results = Reference(InMemory(few, "fc1", "fc"), PAIRWISE).compare(InMemory(few + wide, "fc1", "fc"))
    for metric, result in results.items():
        rest = ", ".join(f"{name} {value}" for name, value in result.items() if name not in ("value", "reason"))
        recorded.add("50", "80", metric, f"{_number(result):.4f}", result["reason"] or "–", rest)
    recorded.notes.append(
        "Fewer examples than features: there is a value, and beside it what shows how little it says."
    )
    return bench.section(6, "Bad input", "Messages as they come.", [table, recorded])


def _said(action: Callable[[], Any]) -> str:
    """Return the error message, or the result if there is no error."""
    try:
        result = action()
    except (ValueError, FloatingPointError, DamagedStore, OSError) as error:
        return f"{type(error).__name__}: {error}"
    if isinstance(result, dict):
        return "no error; values " + ", ".join(f"{name} {entry['value']}" for name, entry in result.items())
    return f"no error; {result}"


def _extract_nan(bench: Measuring) -> None:
    networks = bench.networks
    network = networks.bench.store.load_network(NetworkId(0, 1))
    network.weights["blocks.conv1_2.conv.weight"].view(-1)[0] = float("nan")
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        store = SweepStore(Storage(folder), networks.bench.sweep.name)
        extract(
            store, networks.bench.sweep, networks.bench.probe, networks.bench.trainer.classes, NetworkId(0, 1), network
        )


def _damaged_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Damage a layer of two chunks in three ways, each in its own store; yield the damage and the message."""
    array = np.random.default_rng(0).standard_normal((1024, 32, 32, 16), dtype=np.float32).astype(np.float16)
    for damage in ("a byte of a chunk changed", "a chunk is missing", "a chunk vanishes while the store is open"):
        storage = Storage(folder / damage.replace(" ", "-"))
        attempt = Attempt(storage, "run/activations")
        writer = Writer(attempt)
        rows = writer.create("conv1_2", array.shape, "float16", {"position": 0, "kind": "conv"})
        for start in range(0, len(array), rows):
            writer.write("conv1_2", start, array[start : start + rows])
        mark = attempt.commit()
        place = Place(storage.url, "run/activations")
        harmed = place.files("conv1_2")[-1]
        reader = Reader(storage, place.piece, mark)
        if "changed" in damage:
            content = bytearray(harmed.read_bytes())
            content[len(content) // 2] ^= 1
            harmed.write_bytes(content)
        else:
            harmed.unlink()
        opened = reader if "vanishes" in damage else None
        yield damage, _said(partial(_read_all, opened, place)).replace(storage.url, "STORE")


def _read_all(reader: Reader | None, place: Place) -> int:
    return int((reader or place.reader()).layer("conv1_2").read().nbytes)


# --- 7: accuracy -----------------------------------------------------------------------------------------------------


def accuracy(bench: Measuring) -> Section:
    networks = bench.networks
    chosen = spaced(networks.iterations, 1 if bench.flags.small else 2)
    table = Table(("layer", "iteration", "metric", "float64 from scratch", *(f"`{p}`" for p in PRECISIONS)))
    worst = dict.fromkeys(PRECISIONS, 0.0)
    others = dict.fromkeys(PRECISIONS, 0.0)
    for layer in LAYERS:
        complete = networks.complete.layer(layer)
        references = {p: Reference(complete, ("cka", "nbs"), bench.flags.device, p) for p in PRECISIONS}
        for i in chosen:
            other = networks.place(NetworkId(0, i)).layer(layer)
            truth = baselines.kernel_values(complete.read(), other.read())
            results = {p: reference.compare(other) for p, reference in references.items()}
            for metric, value in truth.items():
                off = {p: abs(_number(results[p][metric]) - value) for p in PRECISIONS}
                table.add(layer, str(i), metric, f"{value:.9f}", *(difference(off[p]) for p in PRECISIONS))
                largest = worst if metric == "nbs" else others
                for p in PRECISIONS:
                    largest[p] = max(largest[p], off[p])
    targets = {"exact": 1e-6, "fast": 5e-4}
    for p in PRECISIONS:
        table.notes.append(
            f"`{p}`: NBS off by at most {difference(worst[p])} (target "
            f"{bench.verdict(worst[p], targets[p], at_most=True)}), CKA by {difference(others[p])} (target "
            f"{bench.verdict(others[p], 1e-6, at_most=True)})."
        )
    table.notes.append(
        "From scratch: Gram matrices by products of float64, NBS from the singular values of RxRyᵀ with Rx, Ry from QR."
    )
    return bench.section(7, "Accuracy", f"On {networks.source}.", [table])


def measures(bench: Measuring) -> Section:
    networks, device = bench.networks, bench.flags.device
    pruned = networks.place(NetworkId(0, spaced(networks.iterations, 1)[0]))
    layers = [(layer, networks.complete.layer(layer), pruned.layer(layer)) for layer in LAYERS]
    table, share = beside.table_of(layers, device, bench.flags.repeats)
    table.notes.append(
        f"The null of CKA in closed form takes at most {share:.2g} % of a comparison (target "
        f"{bench.verdict(share, beside.CLOSED, unit=' %', at_most=True)})."
    )
    return bench.section(8, "Null and standard error beside the values", f"On {networks.source}.", [table])


SECTIONS: dict[int, Callable[[Measuring], Section]] = {
    1: whole_run,
    2: peers,
    3: memory,
    4: rates,
    5: pairs,
    6: bad_input,
    7: accuracy,
    8: measures,
}
UNTIMED = {6, 7}

os.environ.setdefault("TQDM_DISABLE", "1")

if __name__ == "__main__":
    sys.exit(main())
