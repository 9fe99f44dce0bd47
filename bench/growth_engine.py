"""What does the engine on Ray cost beside training? Chains whose trainings only sleep, on raylets of one CPU each.

    python bench/growth_engine.py --work results/growth                       # 20 and 180 chains x 20 iterations
    python bench/growth_engine.py --work results/growth --chains 2000 --write docs/benchmarks.md

The engine is that of every sweep: Tune's trials, reports and commits. Only the training sleeps (growth_noop.py). Each
size is measured in a driver process of its own. The time that a chain's iteration takes beside the sleep is

    raylets x seconds / iterations of all chains - sleep

so it holds what workers do (pruning, test accuracy, commit), what Tune does, and waiting. All raylets are on this
machine and share its cores, so on a small one most of this is waiting for a core. The processor time of all processes
(driver, raylets, workers, their starts; as root only) is what each iteration would take beside its sleep if every
raylet had cores of its own. The driver's is what limits how many iterations a driver can follow. Memory is the driver's
resident set; its growth is divided by the chains.
"""

import argparse
import cProfile
import io
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import machine
import processor_time
from growth_noop import SECONDS
from report import Section, Table, replace

HERE = Path(__file__).resolve().parent
AN_ITERATION = 10.0  # seconds of training beside which the engine's time is judged
SHARE = 0.03  # of these, that the engine may take
A_RUN = 100.0  # KB of the driver's memory that a run may take


def main(arguments: Sequence[str] | None = None) -> int:
    flags = _parser().parse_args(arguments)
    if flags.one:
        print(json.dumps(measured(flags.nodes, flags.chains[0], flags.iterations[0], flags.sleep, flags.profile)))
        return 0
    calm, kept = machine.Calm(flags.busy), flags.work / "growth_engine.json"
    flags.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    for chains in flags.chains:
        for iterations in flags.iterations:
            calm.look()
            row = _in_its_own_process(flags, chains, iterations) | {"load": calm.text(), "judged": calm.judged}
            row |= {"machine": machine.describe(1)}
            same = ("chains", "iterations", "nodes", "sleep")
            rows = [old for old in rows if any(old[name] != row[name] for name in same)] + [row]
            kept.write_text(json.dumps(rows, indent=1))
            print(row, flush=True)
    found = section(rows)
    print(found.markdown())
    if flags.write:
        replace(flags.write, found)
    return 0


def _in_its_own_process(flags: argparse.Namespace, chains: int, iterations: int) -> dict[str, Any]:
    size = ["--chains", str(chains), "--iterations", str(iterations), "--nodes", str(flags.nodes)]
    command = [sys.executable, __file__, "--one", *size, "--sleep", str(flags.sleep), "--work", str(flags.work)]
    done = subprocess.run([*command, *(["--profile"] if flags.profile else [])], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}")
    *said, last = done.stdout.strip().splitlines()
    print("\n".join(said), flush=True)
    row: dict[str, Any] = json.loads(last)
    return row


def measured(nodes: int, chains: int, iterations: int, sleep: float, profile: bool) -> dict[str, Any]:
    """Run chains whose trainings sleep, on a cluster of this process."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])  # what raylets and workers inherit
    os.environ[SECONDS] = str(sleep)
    from faults.nodes import cluster

    with (
        tempfile.TemporaryDirectory(prefix="growth-", ignore_cleanup_errors=True) as folder,
        processor_time.counted() as seconds,
        cluster(nodes) as made,
    ):
        try:
            row = _measured(made.address, folder, chains, iterations, profile, seconds)
            return row | {"chains": chains, "iterations": iterations, "nodes": nodes, "sleep": sleep}
        finally:
            import ray

            ray.shutdown()


def _measured(
    address: str, folder: str, chains: int, iterations: int, profile: bool, seconds: Callable[[], float] | None
) -> dict[str, Any]:
    import ray
    from growth_problem import DEFAULTS, NAME, PROBLEM

    from distsim.store import Storage, SweepStore
    from distsim.sweep.on_ray import engine as ray_engine
    from distsim.sweep.order import prepare, take, trial_resources
    from distsim.sweep.plan import missing, wave

    hook = {"worker_process_setup_hook": "growth_noop.install"}
    ray.init(address=address, runtime_env=hook, logging_level="ERROR", log_to_driver=False)
    root = Storage(folder)
    asked = {name: DEFAULTS[name] for name in ("metrics", "activations", "control", "device")} | {"measure": ()}
    order = prepare(PROBLEM, runs=chains, iterations=iterations, resources=trial_resources("cpu", 1), **asked)
    take([order], root)
    store = SweepStore(root, NAME)
    with ray_engine.RayEngine(root, address, allow_drift=False) as engine:
        _require_none(engine.train([order], {NAME: []}, {(NAME, 0)}))
        lacking = missing(order.sweep, store.contents(), order.layers)
        work = wave(order.sweep, lacking, None, 0)
        profiler, before = cProfile.Profile(), _resident()
        began, cpu, everything = time.perf_counter(), time.process_time(), seconds and seconds()
        if profile:
            profiler.enable()
        _require_none(engine.train([order], {NAME: work}, set()))
        profiler.disable()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        everything = seconds and everything is not None and seconds() - everything
        grown = _resident("VmHWM") - before
    if profile:
        print(_top(profiler))
    if len(store.contents().networks) != 1 + chains * iterations:
        raise RuntimeError("not every network was committed")
    return {"seconds": took, "driver": cpu, "everything": everything, "before": before, "grown": grown}


def _require_none(failures: list[str]) -> None:
    if failures:
        raise RuntimeError("; ".join(failures))


def _resident(what: str = "VmRSS") -> int:
    """Return the bytes of this process in memory, or their maximum so far (VmHWM)."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(1024 * int(fields[1]) for fields in lines if fields[0] == f"{what}:")


def _top(profiler: cProfile.Profile) -> str:
    out = io.StringIO()
    pstats.Stats(profiler, stream=out).sort_stats("cumulative").print_stats(45)
    pstats.Stats(profiler, stream=out).sort_stats("tottime").print_stats(15)
    return out.getvalue()


def section(rows: list[dict[str, Any]]) -> Section:
    header = "raylets", "chains", "iterations", "sleep", "wall", "beside the sleep, an iteration"
    times = "processor time of all, an iteration", f"of {AN_ITERATION:.0f} s", "of the driver, an iteration"
    table = Table((*header, *times, "memory of the driver grew"))
    for row in sorted(rows, key=lambda row: (row["chains"], row["iterations"])):
        count = row["chains"] * row["iterations"]
        beside, driver = row["nodes"] * row["seconds"] / count - row["sleep"], row["driver"] / count
        sizes = [f"{row[name]:,}" for name in ("nodes", "chains", "iterations")]
        memory = f"{row['grown'] / 2**20:.1f} MiB, {row['grown'] / 1024 / row['chains']:.0f} KB a chain"
        every = row["everything"] and row["everything"] / count
        table.add(
            *sizes,
            f"{row['sleep']:g} s",
            f"{row['seconds']:.1f} s",
            f"{beside:.2f} s",
            f"{every:.2f} s" if every else "",
            f"{100 * every / AN_ITERATION:.1f} %" if every else "",
            f"{1000 * driver:.1f} ms",
            memory,
        )
    table.notes += [
        f"Targets: < {100 * SHARE:.0f} % of {AN_ITERATION:.0f} s; at most {A_RUN:.0f} KB of memory a chain, and "
        "no more with iterations. The wall clock begins with Tune, so starts of workers are in it."
    ]
    table.notes += _slopes(rows)
    loads = [f"{row['chains']:,} x {row['iterations']}: {row['load']}" for row in rows]
    table.notes.append(f"Load. {'; '.join(loads)}.")
    return Section("growth engine", "The engine on Ray beside training", f"{rows[-1]['machine']}.", [table])


def _slopes(rows: list[dict[str, Any]]) -> list[str]:
    """Return what a chain more, and an iteration more, adds to the driver's memory."""
    said = []
    for name, other in (("chains", "iterations"), ("iterations", "chains")):
        for value in sorted({row[other] for row in rows}):
            of = sorted((row for row in rows if row[other] == value), key=lambda row: row[name])
            if len(of) > 1:
                each = (of[-1]["grown"] - of[0]["grown"]) / 1024 / (of[-1][name] - of[0][name])
                per = f"a {name.removesuffix('s')} more, from {of[0][name]:,} to {of[-1][name]:,} at {value:,} {other}"
                said.append(f"{each:.1f} KB for {per}")
    return [f"Memory: {'; '.join(said)}."] if said else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, nargs="*", default=[20, 180], help="numbers of chains (default: 20 180)")
    parser.add_argument("--iterations", type=int, nargs="+", default=[20], help="of each chain (default: 20)")
    parser.add_argument("--nodes", type=int, default=10, help="raylets of one CPU (default: %(default)s)")
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds of a training (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="print where the driver's time goes")
    parser.add_argument("--work", type=Path, required=True, help="folder for what was measured")
    parser.add_argument("--write", type=Path, help="document whose section is replaced")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    machine.busy_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
