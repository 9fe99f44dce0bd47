"""`distsim doctor`: measures this machine and says which flags suit it and how long a sweep would take."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import torch

from distsim.activations.layout import bytes_per_network, chunk_shape
from distsim.activations.probe import layer_shapes
from distsim.environment import free_memory, threads
from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.processor import Load, busy_sentence, cores, slow_precision
from distsim.specs import Precision, Problem
from distsim.store import Storage
from distsim.sweep.cost import comparison_memory, duration, images_to_train, readable, training_rate

SECONDS = 3.0  # of each measurement of training
PATIENCE = 60.0  # seconds more that the processes of a measurement may take to start and to answer
OF_PRODUCTS = 1.0  # seconds in which products of one dtype are measured
OF_STORAGE = 5.0  # seconds in which the storage is written, and in which it is read
SIZES = (128, 256, 512, 1024, 2048)  # of the matrices; a larger one takes eight times as long
LONG = 0.1  # seconds that a product takes to be worth measuring: no larger ones are then tried
PACKS = (1, 5, 20)  # chains that take turns on a GPU
OBJECT = 4 * 2**20  # bytes of an object that is written and read to measure the storage
OBJECTS = 16  # at most
TRAINING_IMAGES = {"mnist": 60_000, "svhn": 73_257, "digits": 1_437}  # of the published sets; CIFAR-10 by class


Say = Callable[[str], object]


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


def examine(problem: Problem, storage: str, device: str, say: Say = print, enough: float = SECONDS) -> list[Measured]:
    """Measure this machine's processor and say the results line by line. Each measurement is said before it begins.

    Returns what was measured of training, for each precision the fastest way first. `enough` is the seconds that each
    measurement of training takes.
    """
    count, free = cores(), free_memory()
    lacking = slow_precision("bfloat16", device)
    warning = say_machine(device, say)
    say(f"measuring products of matrices, about {3 * OF_PRODUCTS:g} s")
    say(f"products  {_products(count)}")
    say_storage(storage, say)
    measured = []
    for precision in precisions(device):
        if precision == "bfloat16" and lacking:
            say(f"training  {problem.name}, bfloat16: not measured, since this processor does not have it")
        else:
            measured += _training(problem, ways(count, device, precision), enough, say)
    say_advice(problem, measured, free, warning, say)
    return measured


def say_machine(device: str, say: Say) -> str:
    """Say what the machine is, and what other processes do on it. Return the warning that they are many, or ""."""
    load = Load().others()  # first, since measuring is a load too
    free = free_memory()
    say(f"cores     {cores()}, {torch.backends.cpu.get_cpu_capability()}")
    if lacking := slow_precision("bfloat16", device):
        say(f"          {lacking}")
    say(f"load      {'this system does not say' if load is None else f'{load:.1f} by other processes'}")
    warning = busy_sentence(load) or ""
    if warning:
        say(f"          {warning}")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    say(f"memory    {readable(total)}" + (f", {readable(free)} of it free" if free is not None else ""))
    say(f"GPU       {_gpu()}")
    return warning


def say_storage(storage: str, say: Say, enough: float = OF_STORAGE) -> None:
    """Measure the storage, and say how fast it is. enough : seconds to write, and to read"""
    say(f"measuring the storage, at most about {2 * enough:g} s")
    say(f"storage   {_storage(storage, enough)}")


def say_advice(problem: Problem, measured: list[Measured], free: float | None, warning: str, say: Say) -> None:
    """Say what comparisons take, and which flags suit the machine. warning : what `say_machine` returned"""
    network = build(problem, len(problem.classes) or 10)
    shapes = layer_shapes(network, problem)
    of_layers = [(problem.probe, *shape) for shape in shapes.values()]
    largest = max(comparison_memory(shape, chunk_shape(shape)[1]) for shape in of_layers)
    say(f"compare   {problem.name}'s largest layer takes {readable(largest)} a comparison")
    kept = bytes_per_network({layer: shapes[layer.name] for layer in network.layers}, problem.probe, "auto")
    say(f"          activations take {readable(kept)} a network, uncompressed")
    for line in advice(problem, measured, largest, free):
        say(line)
    if warning and measured:
        say("          measured beside other processes: measure again when they are done")


def _training(problem: Problem, ways: list[Way], enough: float, say: Any) -> list[Measured]:
    """Measure ways to train, say each before and after, and return the fastest first."""
    results = []
    for way in ways:
        what = f"{problem.name}, {way.text()}"
        say(f"measuring training of {what}, about {enough:g} s, at most {enough + PATIENCE:g} s")
        result = measure(problem, way, enough)
        if result is None:
            say(f"training  {what}: no step was finished in that time")
        else:
            say(f"training  {what}: {result.rate:,.0f} images/s, {readable(result.memory)} each")
            results.append(result)
    return sorted(results, key=lambda result: -result.rate)


def precisions(device: str) -> list[str]:
    """Return the precisions that the device has: tf32 is for GPUs only."""
    return [precision for precision in get_args(Precision) if device != "cpu" or precision != "tf32"]


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
        of_precision = [result for result in measured if result.way.precision == precision]
        if not of_precision:
            continue
        best = max(of_precision, key=lambda result: result.rate)
        way = best.way
        flags = f"--device cuda --pack {way.trials}" if way.device == "cuda" else f"--threads {way.threads}"
        flags += f" --precision {precision}" if precision != "float32" else ""
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
                f"--cpus {cores() // fit} lets {fit} run at once"
            )
    return lines


def measure(problem: Problem, way: Way, enough: float, patience: float | None = None) -> Measured | None:
    """Measure a way of training in new processes that run at the same time.

    Returns None if one of them has not answered `patience` (by default PATIENCE) seconds after the measurement should
    be over. However this ends, by Ctrl-C too, the processes end with it. ChildProcessError: one of them failed.
    """
    request = {"problem": problem.name, "way": asdict(way), "enough": enough}
    environment = os.environ | {"OMP_NUM_THREADS": str(way.threads)}
    command = [sys.executable, "-m", "distsim.cli.doctor", json.dumps(request)]
    until = time.monotonic() + enough + (PATIENCE if patience is None else patience)
    with contextlib.ExitStack() as stack:
        running = []
        for _ in range(way.trials):
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
            running.append(stack.enter_context(process))
            stack.callback(_end, process)  # also after Ctrl-C
        answers = []
        for process in running:
            try:
                out, error = process.communicate(timeout=max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                return None
            if process.returncode:
                lines = error.strip().splitlines()
                raise ChildProcessError(
                    f"doctor: {way.text()}: {lines[-1] if lines else f'status {process.returncode}'}"
                )
            answers.append(json.loads(out.splitlines()[-1]))
    return Measured(way, sum(answer["rate"] for answer in answers), max(answer["memory"] for answer in answers))


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()


def _answer(request: dict[str, Any]) -> dict[str, float]:
    import resource

    problem, way = PROBLEMS[request["problem"]], Way(**request["way"])
    with threads(way.threads):
        rate = training_rate(problem, len(problem.classes) or 10, way.device, way.precision, request["enough"])
    return {"rate": rate, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that PyTorch finds"
    free, total = torch.cuda.mem_get_info()
    count = torch.cuda.device_count()
    return f"{count} x {torch.cuda.get_device_name()}, {readable(total)}, {readable(free)} of it free"


def _products(cores: int) -> str:
    """Measure the FLOP/s of matrix products in three dtypes, with all cores."""
    rates = []
    with threads(cores):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            rate = rate_of_products(partial(_multiplication, dtype))
            rates.append(f"{str(dtype).removeprefix('torch.')} {rate / 1e9:,.3g} GFLOP/s")
    return ", ".join(rates)


def _multiplication(dtype: torch.dtype, size: int) -> Callable[[], object]:
    A = torch.randn(size, size).to(dtype)
    return lambda: A @ A


def rate_of_products(
    multiplication: Callable[[int], Callable[[], object]],
    enough: float = OF_PRODUCTS,
    clock: Callable[[], float] = time.perf_counter,
    sizes: Sequence[int] = SIZES,
) -> float:
    """Measure FLOP/s of matrix products, from small to large, so that it ends soon however slow the processor is.

    multiplication : returns for n a function that multiplies two (n, n) matrices
    enough : seconds after which no other product begins
    """
    until, best = clock() + enough, 0.0
    for size in sizes:
        multiply, fastest = multiplication(size), float("inf")
        for _ in range(4):  # the first warms up
            started = clock()
            multiply()
            fastest = min(fastest, clock() - started)
            if clock() > until:
                break
        best = max(best, 2 * size**3 / max(fastest, 1e-9))
        if fastest > LONG or clock() > until:
            break
    return best


def _storage(url: str, enough: float = OF_STORAGE) -> str:
    """Measure how fast objects are written and read back, and how much room there is."""
    storage = Storage(url)
    storage.reach()
    content = np.random.default_rng(0).bytes(OBJECT)
    names = [f"probe-{uuid.uuid4().hex}" for _ in range(OBJECTS)]  # names that nobody else has
    try:
        written, writing = _timed(lambda name: storage.put(name, content), names, enough)
        read, reading = _timed(lambda name: storage.get(name), names[:written], enough)
    finally:
        storage.delete(names)
    rates = f"writes {readable(written * OBJECT / writing)}/s, reads {readable(read * OBJECT / reading)}/s"
    room = "" if storage.folder is None else f", {readable(shutil.disk_usage(storage.folder).free)} free"
    return f"{storage.url}: {rates}{room}"


def _timed(
    work: Callable[[str], object],
    names: list[str],
    enough: float = OF_STORAGE,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[int, float]:
    """Do the work for the names until `enough` seconds are over. Return for how many, at least one, and the seconds."""
    started, count = clock(), 0
    for name in names:
        work(name)
        count += 1
        if clock() - started > enough:
            break
    return count, max(clock() - started, 1e-9)


def _training_images(problem: Problem) -> int:
    if problem.train_limit is not None:
        return problem.train_limit
    return TRAINING_IMAGES.get(problem.source, 5_000 * len(problem.classes))


if __name__ == "__main__":
    print(json.dumps(_answer(json.loads(sys.argv[1]))))
