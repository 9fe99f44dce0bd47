"""How does the cost of a sweep's driver grow with the sweep? Finished stores, and what it takes to find them finished.

    python bench/growth.py --work results/growth                        # minutes: 20, 60 and 180 runs, folder and S3
    python bench/growth.py --work results/growth --runs 2000 --on folder
    python bench/growth.py --work results/growth --runs --write docs/benchmarks.md   # measures nothing, writes all

A store of N runs x 20 iterations is made of one: a sweep of a tiny network (growth_problem.py) trains run 0, and all
its objects are put again under the names of the other runs, with marks that name their run. So every object is what a
commit leaves, and `distsim verify` finds nothing wrong. The sweep's command makes tables, figures and report once; then
it is given again, and finds that nothing is missing. On S3 (moto's server on loopback, tests/s3_server.py, one request
at a time) requests that read are counted by the server. bench/growth_engine.py measures the engine on Ray.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import machine
import s3_server
from growth_problem import NAME
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from multiplied import multiply
from report import Section, Table, replace, seconds

from distsim import plotting
from distsim.specs import Sweep
from distsim.store import Storage, SweepStore
from distsim.store.descriptions import layers_of, metrics_of
from distsim.sweep.plan import missing

HERE = Path(__file__).resolve().parent
ITERATIONS = 20
A_THOUSAND = 2.0  # requests per 1,000 objects that finding a store finished may take, beside a constant
IMAGE = "growth.png"
WAYS = {"look": "contents and plan", "command": "the command", "status": "`distsim status`"}


def main(arguments: Sequence[str] | None = None) -> int:
    flags = _parser().parse_args(arguments)
    calm = machine.Calm(flags.busy)
    kept = flags.work / "growth.json"
    flags.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    for where in flags.on if flags.runs else ():
        with _place(where, flags.work) as (url, requests):
            for runs in flags.runs:
                calm.look()
                row = measured(url, flags.work, runs, flags.iterations, requests)
                row |= {"where": where, "load": calm.text(), "machine": machine.describe(1), "judged": calm.judged}
                rows = [old for old in rows if (old["where"], old["runs"]) != (where, runs)] + [row]
                kept.write_text(json.dumps(rows, indent=1))
                print(row, flush=True)
    found = section(rows)
    print(found.markdown())
    if flags.write:
        replace(flags.write, found)
        (flags.write.parent / "images" / IMAGE).write_bytes(plotting.render(curve(rows), "png"))
    return 0


@contextlib.contextmanager
def _place(where: str, work: Path) -> Iterator[tuple[str, Callable[[], int] | None]]:
    """Yield a place for stores, and what counts the requests there."""
    if where == "folder":
        yield str(work), None
        return
    with s3_server.serving() as url, s3_server.exported(url):
        yield f"s3://{s3_server.BUCKET}", lambda: _reads(s3_server.requests_of(url))


def _reads(counted: Mapping[str, int]) -> int:
    """Return the requests that read. Writes are signs of life of the driver, as many as it takes seconds."""
    return sum(counted.get(method, 0) for method in ("GET", "HEAD", "LIST"))


def measured(url: str, work: Path, runs: int, iterations: int, requests: Callable[[], int] | None) -> dict[str, Any]:
    """Make a finished store and measure what it takes to find it finished."""
    where = f"{url}/finished-{runs}-{uuid.uuid4().hex[:6]}"
    root, started = Storage(where), time.perf_counter()
    multiply(Storage(seed(work, iterations)), root, NAME, runs)
    row: dict[str, Any] = {"runs": runs, "networks": runs * iterations, "made": time.perf_counter() - started}
    sweep = _sweep(runs, iterations, where)
    row["tables"], _ = _timed(lambda: _run(sweep), requests)
    row["objects"] = len(root.sizes())
    store = SweepStore(root, NAME)
    works = {
        "look": lambda: _nothing_missing(store),
        "command": lambda: _run(sweep),
        "status": lambda: _run([sys.executable, "-m", "distsim", "status", where]),
    }
    for name, of in works.items():
        row[f"{name} seconds"], row[f"{name} requests"] = _timed(of, requests)
    if root.folder is not None:
        root.delete_prefix("")
    return row


def seed(work: Path, iterations: int) -> str:
    """Return the folder of a store with run 0, which is trained unless it is there."""
    folder = work / f"seed-{iterations}"
    if not (folder / "report.html").exists():
        _run(_sweep(1, iterations, str(folder)))
    return str(folder)


def _nothing_missing(store: SweepStore) -> None:
    extent = store.request().extent
    metrics = metrics_of(store, extent.metrics)
    if missing(Sweep(store.identity(), extent), store.contents(), layers_of(store), metrics):
        raise RuntimeError("something is missing in a finished store")


def _sweep(runs: int, iterations: int, where: str) -> list[str]:
    asked = ["--runs", str(runs), "--iterations", str(iterations), "--local", "--quiet", "--storage", where]
    return [sys.executable, str(HERE / "growth_problem.py"), *asked]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")


def _timed(work: Callable[[], object], requests: Callable[[], int] | None) -> tuple[float, int | None]:
    """Return the seconds that the work takes, and its requests where they are counted."""
    before, started = requests and requests(), time.perf_counter()
    work()
    took = time.perf_counter() - started
    return took, None if requests is None or before is None else requests() - before


# --- what came out ---------------------------------------------------------------------------------------------------


def section(rows: list[dict[str, Any]]) -> Section:
    rows = sorted(rows, key=lambda row: (row["where"], row["runs"]))
    times = [f"{way}: s" for way in WAYS.values()]
    table = Table(("store", "runs", "networks", "objects", *times, *(f"{way}: requests" for way in WAYS.values())))
    for row in rows:
        took = [seconds(row[f"{name} seconds"]) for name in WAYS]
        asked = [f"{count:,}" if (count := row[f"{name} requests"]) is not None else "" for name in WAYS]
        counts = [f"{row[name]:,}" for name in ("runs", "networks", "objects")]
        table.add(row["where"], *counts, *took, *asked)
    table.notes.append(
        f"Finished stores of runs x {ITERATIONS} iterations of a network of one convolution. Contents and plan: one "
        "listing in a process that runs already, and the difference to what was asked for. The other two are whole "
        "processes, their start included; the command also looks at its tables, figures and report. Requests that "
        "read are counted, by moto's server on loopback, which takes one at a time and is itself slow to list: its "
        "seconds are no object store's. The driver also gives a sign of life every 5 s, and reads its lease before it."
    )
    table.notes += _verdicts(rows)
    loads = sorted({f"{row['where']}, {row['runs']:,} runs: {row['load']}" for row in rows})
    table.notes.append(f"Load. {'; '.join(loads)}.")
    image = f"![Requests and seconds against networks](images/{IMAGE})"
    return Section("growth store", "Finding a finished store finished", f"{rows[-1]['machine']}.\n\n{image}", [table])


def _verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """Judge the requests, which no load changes."""
    on_s3 = [row for row in rows if row["where"] == "s3"]
    if len(on_s3) < 2:
        return []
    few, many = on_s3[0], on_s3[-1]
    more = (many["objects"] - few["objects"]) / 1000
    said = []
    for name, way in WAYS.items():
        each = (many[f"{name} requests"] - few[f"{name} requests"]) / more
        verdict = "met" if each <= A_THOUSAND else "**missed**"
        said.append(f"{way}: {each:.2f} requests for each 1,000 objects more (target ≤ {A_THOUSAND:.0f}: {verdict})")
    return [f"From {few['runs']} to {many['runs']} runs. {'; '.join(said)}."]


@plotting.drawn
def curve(rows: list[dict[str, Any]]) -> Figure:
    """Draw requests and seconds against the networks of a finished store."""
    figure = Figure(figsize=(6.8, 2.9), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, what in zip(axes, ("requests", "seconds"), strict=True):
        for where, style in (("folder", "o--"), ("s3", "o-")):
            for number, (name, way) in enumerate(WAYS.items()):
                points = sorted(
                    (row["networks"], row[f"{name} {what}"])
                    for row in rows
                    if row["where"] == where and row[f"{name} {what}"] is not None
                )
                if points:
                    x, y = zip(*points, strict=True)
                    axis.plot(x, y, style, color=f"C{number}", label=f"{way.strip('`')}, {where}")
        axis.set_xscale("log")
        axis.set_yscale("log")
        sizes = sorted({row["networks"] for row in rows})
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axis.minorticks_off()
        axis.set_xlabel("networks in the store")
        axis.set_ylabel(what)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right center")
    return figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="*", default=[20, 60, 180], help="sizes (default: 20 60 180)")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="of each run (default: %(default)s)")
    parser.add_argument("--on", nargs="+", choices=("folder", "s3"), default=["folder", "s3"], help="kinds of stores")
    parser.add_argument("--work", type=Path, required=True, help="folder for stores and for what was measured")
    parser.add_argument("--write", type=Path, help="document whose section is replaced; the curve goes beside it")
    machine.busy_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
