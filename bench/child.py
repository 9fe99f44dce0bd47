"""Runs one measurement in a new process, so that its memory can be measured and limited.

python bench/child.py '{"task": ..., ...}' prints one line of JSON: the answer, or {"error": one sentence}.
"""

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Request = dict[str, Any]
Answer = dict[str, Any]


def ask(request: Request, threads: int, python: str = sys.executable, timeout: float | None = None) -> Answer:
    """Return the answer of a new process to the request. It has an `error` if the process died or took too long."""
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [python, str(Path(__file__).resolve()), json.dumps(request | {"threads": threads})]
    environment = os.environ | variables | {"PYTHONPATH": path}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {timeout:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if lines and lines[-1].startswith("{"):  # a process short of memory may die after its answer
        return dict(json.loads(lines[-1]))
    output = (done.stderr or done.stdout).strip().splitlines()
    if request.get("limit"):
        short = re.search(r"alloc|memory", done.stderr, re.I)
        return {"error": "out of memory" if short else f"died of the limit, with status {done.returncode}"}
    return {"error": f"ended with status {done.returncode}{f': {output[-1]}' if output else ''}"}


def main() -> None:
    request = json.loads(sys.argv[1])
    if request.get("limit"):  # private writable memory only, without the libraries' code
        resource.setrlimit(resource.RLIMIT_DATA, (request["limit"], request["limit"]))
    try:
        answer = TASKS[request["task"]](request)
    except MemoryError:
        answer = {"error": "out of memory"}
    except RuntimeError as error:  # torch raises it when it is out of memory
        if not re.search(r"alloc|memory", str(error), re.I):
            raise
        answer = {"error": "out of memory"}
    except ImportError as error:
        short = request.get("limit") and re.search(r"alloc|memory|map segment", str(error), re.I)
        answer = {"error": "out of memory" if short else f"not installed: {error}"}
    print(json.dumps(answer))


def peak() -> int:
    """Return the peak memory of this process in bytes. (ru_maxrss may be that of the parent process.)"""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def stored(request: Request) -> Answer:
    """Compare a layer of two networks from disk by all metrics: seconds, values, and the peak before and after."""
    from place import Place

    from distsim.comparison.layer import Reference
    from distsim.environment import threads
    from distsim.specs import PAPER_METRICS

    X, Y = (Place(**place).layer(request["layer"]) for place in request["places"])
    before = peak()
    with threads(request["threads"]):
        started = time.perf_counter()
        results = Reference(X, PAPER_METRICS, precision=request["precision"]).compare(Y)
        seconds = time.perf_counter() - started
    values = {name: result["value"] for name, result in results.items()}
    return {"seconds": seconds, "values": values, "before": before, "peak": peak()}


def arrays(request: Request) -> Answer:
    """Measure one metric of the first network with each other one, as float32 arrays in memory, by us or a peer."""
    import torch
    from place import Place

    torch.set_num_threads(request["threads"])
    X, *Ys = (_loaded(Place(**place), request["layer"], request["n"]) for place in request["places"])
    compute = _ours(request) if request["peer"] is None else _theirs(request["peer"])
    seconds: list[float] = []
    values: list[float] = []
    while not seconds or (len(seconds) < 3 and sum(seconds) < request.get("enough", 10.0)):
        started = time.perf_counter()
        values = compute(X, Ys)
        seconds.append(time.perf_counter() - started)
    return {"seconds": sorted(seconds)[len(seconds) // 2], "runs": len(seconds), "values": values, "peak": peak()}


def _loaded(place: Any, layer: str, n: int) -> Any:
    """Read the first n examples as float32, panel by panel, so that loading takes little memory besides the result."""
    import numpy as np

    source = place.layer(layer)
    array = np.empty((n, *source.shape[1:]), dtype=np.float32)
    if array.ndim == 2:
        array[:] = source.read()[:n]
        return array
    rows = source.panel_rows
    for start, panel in zip(range(0, source.shape[1], rows), source.panels(rows), strict=True):
        array[:, start : start + rows] = panel[:n]
    return array


def _ours(request: Request) -> Any:
    from distsim.activations.layout import chunk_shape
    from distsim.comparison.layer import Reference, compare_pairs
    from distsim.comparison.sides import InMemory

    def compute(X: Any, Ys: Sequence[Any]) -> list[float]:
        rows = chunk_shape(X.shape)[1] if X.ndim == 4 else None
        x, *ys = (InMemory(array, rows=rows) for array in (X, *Ys))
        metric, precision = request["metric"], request["precision"]
        if metric == "pwcca":  # the mean over both sides' weights, as its peers compute it
            pairs = [pair for i in range(1, len(ys) + 1) for pair in ((0, i), (i, 0))]
            results = compare_pairs([x, *ys], pairs, [metric], precision=precision)
            both = ((results[0, i][metric], results[i, 0][metric]) for i in range(1, len(ys) + 1))
            return [(forth["value"] + back["value"]) / 2 for forth, back in both]
        if len(ys) == 1:
            return [compare_pairs([x, ys[0]], [(0, 1)], [metric], precision=precision)[0, 1][metric]["value"]]
        reference = Reference(x, [metric], precision=precision)
        return [reference.compare(y)[metric]["value"] for y in ys]

    return compute


def _theirs(name: str) -> Any:
    from peers import PEERS

    (peer,) = (peer for peer in PEERS if peer.name == name)
    return peer.compute


TASKS = {"stored": stored, "arrays": arrays}

if __name__ == "__main__":
    main()
