"""`distsim doctor`: measures this machine and says which flags suit it and how long a sweep would take."""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import torch

from distsim.activations.layout import bytes_per_network, chunk_shape
from distsim.activations.probe import layer_shapes
from distsim.environment import free_memory, threads
from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.specs import Precision, Problem
from distsim.store import Storage
from distsim.sweep.cost import comparison_memory, duration, images_to_train, readable, training_rate

SECONDS = 3.0  # of each measurement of training
PACKS = (1, 5, 20)  # chains that take turns on a GPU
DISK = 64 * 2**20  # bytes written and read to measure the storage
TRAINING_IMAGES = {"mnist": 60_000, "svhn": 73_257, "digits": 1_437}  # of the published sets; CIFAR-10 by class


@dataclass(frozen=True)
class Way:
    """A way to train: how many trials at once (on a GPU: chains in a pack), and how many threads each."""

    trials: int
    threads: int
    precision: str
    device: str = "cpu"

    def text(self) -> str:
        if self.device == "cuda":
            return f"{self.precision}, a pack of {self.trials}"
        return f"{self.precision}, {self.trials} at once x {self.threads} thread{'s' * (self.threads > 1)}"


@dataclass(frozen=True)
class Measured:
    way: Way
    rate: float  # images a second, together
    memory: float  # peak of one process, in bytes


def examine(problem: Problem, storage: str, device: str, say: Any = print, enough: float = SECONDS) -> list[Measured]:
    """Measure this machine and say the results line by line.

    Returns what was measured of training, for each precision the fastest way first. `enough` is the seconds that each
    measurement of training takes.
    """
    cores = _cores()
    free = free_memory()
    say(f"cores     {cores}, {torch.backends.cpu.get_cpu_capability()}")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    say(f"memory    {readable(total)}" + (f", {readable(free)} of it free" if free is not None else ""))
    say(f"GPU       {_gpu()}")
    say(f"products  {_products(cores)}")
    say(f"storage   {_storage(storage)}")
    measured = []
    for precision in get_args(Precision):
        results = [measure(problem, way, enough) for way in ways(cores, device, precision)]
        results.sort(key=lambda result: -result.rate)
        for result in results:
            rate, memory = f"{result.rate:,.0f} images/s", f"{readable(result.memory)} each"
            say(f"training  {problem.name}, {result.way.text()}: {rate}, {memory}")
        measured += results
    network = build(problem, len(problem.classes) or 10)
    shapes = layer_shapes(network, problem)
    of_layers = [(problem.probe, *shape) for shape in shapes.values()]
    largest = max(comparison_memory(shape, chunk_shape(shape)[1]) for shape in of_layers)
    say(f"compare   {problem.name}'s largest layer takes {readable(largest)} a comparison")
    kept = bytes_per_network({layer: shapes[layer.name] for layer in network.layers}, problem.probe, "auto")
    say(f"          activations take {readable(kept)} a network, uncompressed")
    for line in advice(problem, measured, largest, free):
        say(line)
    return measured


def ways(cores: int, device: str, precision: str) -> list[Way]:
    """Return the ways to train that are measured, each of which uses all cores or the GPU."""
    if device == "cuda":
        return [Way(count, 1, precision, device) for count in PACKS]
    shares = {1, cores} | ({2} if cores % 2 == 0 else set())
    return [Way(cores // each, each, precision) for each in sorted(shares)]


def advice(problem: Problem, measured: list[Measured], comparison: float, free: float | None) -> list[str]:
    """Return lines that name the fastest flags of each precision and how long the papers' sweep takes with them."""
    lines = []
    every = images_to_train(problem, _training_images(problem), True, problem.runs * problem.iterations)
    for precision in get_args(Precision):
        best = max((result for result in measured if result.way.precision == precision), key=lambda result: result.rate)
        way = best.way
        flags = f"--device cuda --pack {way.trials}" if way.device == "cuda" else f"--threads {way.threads}"
        flags += " --precision bfloat16" if precision == "bfloat16" else ""
        at_once = "" if way.device == "cuda" else f" ({way.trials} at once)"
        lines.append(
            f"advice    {flags}{at_once}: {problem.runs} runs x {problem.iterations} iterations are "
            f"{every / 1e6:,.0f} million images, about {duration(every / best.rate)}"
        )
        needed = way.trials * (best.memory + comparison)
        if free is not None and way.device == "cpu" and needed > free:
            fit = max(1, int(free / (best.memory + comparison)))
            lines.append(
                f"          but {way.trials} at once may need {readable(needed)}: "
                f"--cpus {_cores() // fit} lets {fit} run at once"
            )
    return lines


def measure(problem: Problem, way: Way, enough: float) -> Measured:
    """Measure a way of training in new processes that run at the same time. RuntimeError: one of them failed."""
    request = {"problem": problem.name, "way": asdict(way), "enough": enough}
    environment = os.environ | {"OMP_NUM_THREADS": str(way.threads)}
    command = [sys.executable, "-m", "distsim.cli.doctor", json.dumps(request)]
    processes = 1 if way.device == "cuda" else way.trials
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(processes)
    ]
    answers = []
    for process in running:
        out, error = process.communicate()
        if process.returncode:
            lines = error.strip().splitlines()
            raise RuntimeError(f"doctor: {way.text()}: {lines[-1] if lines else f'status {process.returncode}'}")
        answers.append(json.loads(out.splitlines()[-1]))
    return Measured(way, sum(answer["rate"] for answer in answers), max(answer["memory"] for answer in answers))


def _answer(request: dict[str, Any]) -> dict[str, float]:
    import resource

    problem, way = PROBLEMS[request["problem"]], Way(**request["way"])
    with threads(way.threads):
        pack, classes = way.trials if way.device == "cuda" else 1, len(problem.classes) or 10
        rate = training_rate(problem, classes, way.device, way.precision, request["enough"], pack)
    return {"rate": rate, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that PyTorch finds"
    free, total = torch.cuda.mem_get_info()
    count = torch.cuda.device_count()
    return f"{count} x {torch.cuda.get_device_name()}, {readable(total)}, {readable(free)} of it free"


def _products(cores: int) -> str:
    """Measure the FLOP/s of matrix products in three dtypes, with all cores."""
    size, rates = 2048, []
    with threads(cores):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            A = torch.randn(size, size).to(dtype)
            A @ A  # warms up
            taken = min(_once(A) for _ in range(3))
            rates.append(f"{str(dtype).removeprefix('torch.')} {2 * size**3 / taken / 1e9:,.0f} GFLOP/s")
    return ", ".join(rates)


def _once(A: torch.Tensor) -> float:
    started = time.perf_counter()
    A @ A
    return time.perf_counter() - started


def _storage(url: str) -> str:
    """Measure how fast an object is written and read back, and how much room there is."""
    storage = Storage(url)
    storage.reach()
    content = np.random.default_rng(0).bytes(DISK)
    name = f"probe-{uuid.uuid4().hex}"  # a name that nobody else has
    try:
        started = time.perf_counter()
        storage.put(name, content)
        written = time.perf_counter()
        storage.get(name)
        read = time.perf_counter()
    finally:
        storage.delete([name])
    rates = f"writes {readable(DISK / (written - started))}/s, reads {readable(DISK / (read - written))}/s"
    room = "" if storage.folder is None else f", {readable(shutil.disk_usage(storage.folder).free)} free"
    return f"{storage.url}: {rates}{room}"


def _training_images(problem: Problem) -> int:
    if problem.train_limit is not None:
        return problem.train_limit
    return TRAINING_IMAGES.get(problem.source, 5_000 * len(problem.classes))


if __name__ == "__main__":
    print(json.dumps(_answer(json.loads(sys.argv[1]))))
