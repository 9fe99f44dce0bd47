"""`distsim doctor` on a GPU: its products, its copies, and training in packs, all within a minute.

One process measures everything, since starting one takes seconds. It says each measurement before it begins and each
result at once. So whatever the GPU does, the command ends in time with what is known by then.
"""

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from distsim.cli.doctor import (
    SECONDS,
    Measured,
    Say,
    Way,
    precisions,
    rate_of_products,
    say_advice,
    say_machine,
    say_storage,
    ways,
)
from distsim.environment import free_memory
from distsim.problems import PROBLEMS
from distsim.specs import Problem
from distsim.sweep.cost import pack_rates, readable
from distsim.tf32 import SWITCH
from distsim.training.stepper import fix_workspace

LIMIT = 55.0  # seconds after which nothing is measured any more; the command ends within 60
OF_STORAGE = 2.0  # seconds in which the storage is written, and in which it is read
OF_PRODUCTS = 0.5  # seconds in which products of one dtype are measured
SIZES = (1024, 2048, 4096, 8192)  # of the matrices
COPIED = 2**28  # bytes
PRODUCTS = {"float64": torch.float64, "float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}

# from the measuring process: {"next": what is measured}, then {"line": head and text}, or one of training's
# {"precision", "pack", "rate", "memory"}, or {"failed": why}
Answer = dict[str, Any]


def examine(
    problem: Problem,
    storage: str,
    say: Say = print,
    enough: float = SECONDS,
    limit: float = LIMIT,
    command: Callable[[str], list[str]] | None = None,
) -> list[Measured]:
    """Measure this machine's GPU and say the results line by line. Each measurement is said before it begins.

    Returns what was measured of training. It ends some seconds after `limit` at the latest.

    enough : seconds that each measurement of training takes
    command : returns the command of the process that measures; it gets the request
    """
    until = time.monotonic() + limit
    warning, free = say_machine("cuda", say), free_memory()
    say_storage(storage, say, OF_STORAGE)
    say(f"measuring the GPU, until {limit:g} s have passed since the start")
    request = json.dumps({"problem": problem.name, "enough": enough})
    measured, doing = [], "the start of CUDA"
    with contextlib.closing(answers((command or _command)(request), until)) as arriving:
        for answer in arriving:
            if "next" in answer:
                doing = answer["next"]
                say(f"measuring {doing}")
            elif "line" in answer:
                say(answer["line"])
            elif "failed" in answer:
                say(f"          {doing}: {answer['failed']}")
            else:
                way = Way(answer["pack"], 1, answer["precision"], "cuda")
                measured.append(Measured(way, answer["rate"], answer["memory"]))
                say(
                    f"training  {problem.name}, {way.text()}: {answer['rate']:,.0f} images/s, "
                    f"{readable(answer['memory'])} of the GPU's memory"
                )
    say_advice(problem, measured, free, warning, say)
    return measured


def _command(request: str) -> list[str]:
    return [sys.executable, "-m", "distsim.cli.doctor_gpu", request]


def answers(command: Sequence[str], until: float) -> Generator[Answer, None, None]:
    """Yield what a process answers, a line of JSON each, until it ends, or until that time of the monotonic clock.

    However this ends, the process ends with it. That it failed or took too long is the last answer, as "failed".
    """
    arrived: queue.Queue[str | None] = queue.Queue()
    with tempfile.TemporaryFile("w+") as error:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=error, text=True)

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                arrived.put(line)
            arrived.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            while (line := arrived.get(timeout=max(0.0, until - time.monotonic()))) is not None:
                yield json.loads(line)
        except queue.Empty:
            yield {"failed": "not finished in time; what comes after it is not measured"}
        else:
            if process.wait():
                error.seek(0)
                lines = error.read().strip().splitlines()
                yield {"failed": lines[-1] if lines else f"the process ended with status {process.returncode}"}
        finally:
            process.kill()
            process.wait()
            reader.join()
            if process.stdout is not None:
                process.stdout.close()


def measurements(
    problem: Problem, enough: float, device: str = "cuda", sizes: Sequence[int] = SIZES
) -> Iterator[Answer]:
    """Measure the device, and yield an answer before and after each measurement. Training comes last.

    A measurement that fails, for lack of memory for example, ends those of its kind.
    """
    yield {"next": f"products of matrices on the GPU, about {len(PRODUCTS) * OF_PRODUCTS:g} s"}
    with _failing() as failed:
        found = [f"{name} {product_rate(name, device, sizes) / 1e12:,.3g} TFLOP/s" for name in PRODUCTS]
        yield {"line": f"products  {', '.join(found)}"}
    yield from failed
    yield {"next": "copies to, from and within the GPU"}
    with _failing() as failed:
        found = [f"{what} {readable(rate)}/s" for what, rate in copies(device).items()]
        yield {"line": f"copies    {', '.join(found)}"}
    yield from failed
    for precision in precisions(device):
        packs = ways(1, "cuda", precision)
        with _failing() as failed:
            rates = pack_rates(
                problem, len(problem.classes) or 10, device, precision, [way.trials for way in packs], enough
            )
            for way in packs:
                yield {"next": f"training of {problem.name}, {way.text()}, about {enough:g} s and its start"}
                yield {"precision": precision, "pack": way.trials, "rate": next(rates), "memory": _memory(device)}
        yield from failed


@contextlib.contextmanager
def _failing() -> Iterator[list[Answer]]:
    """Go on after the block where a GPU cannot do what is asked for. The list then has an answer that says so."""
    failed: list[Answer] = []
    try:
        yield failed
    except RuntimeError as error:  # CUDA's errors and lack of memory are such
        failed.append({"failed": str(error).partition("\n")[0]})


def product_rate(name: str, device: str, sizes: Sequence[int]) -> float:
    """Measure FLOP/s of products in this arithmetic."""

    def multiplication(size: int) -> Callable[[], object]:
        A = torch.randn(size, size, device=device).to(PRODUCTS[name])

        def multiply() -> None:
            A @ A
            _wait(device)

        return multiply

    with SWITCH.products(name):
        return rate_of_products(multiplication, OF_PRODUCTS, sizes=sizes)


def copies(device: str) -> dict[str, float]:
    """Measure bytes a second of copies, by where from and where to. Pinned memory is measured on a GPU only."""
    there = torch.empty(COPIED, dtype=torch.uint8, device=device)
    hosts = {"": torch.zeros(COPIED, dtype=torch.uint8)}
    if device != "cpu":
        hosts["pinned "] = torch.zeros(COPIED, dtype=torch.uint8, pin_memory=True)
    rates = {}
    for kind, host in hosts.items():
        rates[f"from {kind}memory"] = COPIED / _fastest(partial(there.copy_, host), device)
        rates[f"to {kind}memory"] = COPIED / _fastest(partial(host.copy_, there), device)
    other = torch.empty_like(there)
    rates["within"] = COPIED / _fastest(partial(other.copy_, there), device)
    return rates


def _fastest(work: Callable[[], object], device: str) -> float:
    """Return the seconds of the fastest of a few times that the work is done."""
    taken = []
    for _ in range(4):  # the first warms up
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - started)
    return max(min(taken), 1e-9)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _memory(device: str) -> float:
    """Return the most bytes of the GPU's memory that this process has held; 0 on a CPU."""
    return 0.0 if device == "cpu" else float(torch.cuda.max_memory_reserved(device))


if __name__ == "__main__":
    fix_workspace()
    request = json.loads(sys.argv[1])
    for answer in measurements(PROBLEMS[request["problem"]], request["enough"]):
        print(json.dumps(answer), flush=True)
