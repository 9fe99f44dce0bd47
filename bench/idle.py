"""How long are slots of a cluster idle, when comparisons wait for the last training, and when they do not?

python bench/idle.py --code ../before --code .            # the checkouts to compare, in turns; some minutes
python bench/idle.py --code ../before --code . --write docs/benchmarks.md
python bench/idle.py --code ../before --code . --hosts    # on three hosts by `ray up`: it takes what test-cluster does

Each turn runs sweeps/digits.py on a fresh Ray cluster of as many nodes with one CPU each, with one run more than there
are nodes, so that the last run trains alone. Busy is a slot that trains, extracts or compares, as DISTSIM_STAGES tells.
The nodes are processes of this machine. With --hosts they are three network namespaces, each with one CPU, of which one
is the head. A checkout must not lie in /tmp then, because hosts have a /tmp of their own.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import machine
from report import Section, Table, replace

HOSTS = 3  # of tests/cluster: a head and two workers
BUSY = ("training", "extraction", "comparison")
FLAGS = ("--control", "none", "--device", "cpu", "--quiet")

# The cluster, and on it the sweep, in a process of the checkout's own.
TURN = """
import os, subprocess, sys
from ray.cluster_utils import Cluster
nodes, *command = sys.argv[1:]
made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(int(nodes)):
    made.add_node(num_cpus=1, object_store_memory=100 * 2**20)
try:
    sys.exit(subprocess.run([sys.executable, *command, "--address", made.address]).returncode)
finally:
    made.shutdown()
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, action="append", required=True, help="a checkout; give it twice or more")
    parser.add_argument("--nodes", type=int, default=2, help="nodes with one CPU each (default: %(default)s)")
    parser.add_argument("--hosts", action="store_true", help=f"{HOSTS} hosts as network namespaces instead of nodes")
    parser.add_argument("--iterations", type=int, default=6, help="of each run (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=60, help="of each training (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each checkout (default: %(default)s)")
    parser.add_argument("--write", type=Path, help="document whose table is replaced")
    flags = parser.parse_args(arguments)
    slots = HOSTS if flags.hosts else flags.nodes
    measure = turn_on_hosts if flags.hosts else turn
    turns: dict[Path, list[tuple[float, float]]] = {code: [] for code in flags.code}
    for _ in range(flags.rounds):
        for code in flags.code:
            turns[code].append(measure(code.resolve(), flags))
            wall, idle = turns[code][-1]
            print(f"{code}: {wall:.0f} s, slots idle {idle:.0%}", flush=True)
    name, title = ("idle hosts", "Idle slots of three hosts") if flags.hosts else ("idle", "Idle slots of a cluster")
    section = Section(name, title, machine.describe(1), [table(turns, slots)])
    print(section.markdown())
    if flags.write:
        replace(flags.write, section)
    return 0


def turn(code: Path, flags: argparse.Namespace) -> tuple[float, float]:
    """Run the sweep with this code. Return the seconds of its work, and the share of them in which slots are idle."""
    with tempfile.TemporaryDirectory(prefix="idle-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        stages = Path(folder) / "stages"
        command = sweep(code, flags, flags.nodes, f"{folder}/store")
        environment = os.environ | {
            "PYTHONPATH": str(code),
            "DISTSIM_STAGES": str(stages),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
        }
        line = [sys.executable, "-c", TURN, str(flags.nodes), *command]
        subprocess.run(line, check=True, env=environment, cwd=folder)  # workers may import from a driver's folder
        return idle_share(stages.read_text(), flags.nodes)


def turn_on_hosts(code: Path, flags: argparse.Namespace) -> tuple[float, float]:
    """Do as `turn` does, on the hosts of tests/cluster."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from cluster.hosts import EXTRA, Hosts
    from cluster.launch import Cluster
    from cluster.scenarios import DESK, HEAD, PATIENCE, WORKERS

    with Hosts(DESK) as hosts:
        hosts.export({"PYTHONPATH": f"{code}:{EXTRA}"})
        Cluster(hosts, DESK, HEAD, WORKERS).up()
        command = shlex.join(["python", *sweep(code, flags, HOSTS, str(hosts.share / "store")), "--address", "auto"])
        hosts.run(HEAD, f"export RAY_AUTH_MODE=token; {command}", timeout=3 * PATIENCE)
        said = {file.name: file.read_text().splitlines() for file in hosts.stages.iterdir()}
    # a process number is a host's own
    split = [(host, line.split(maxsplit=2)) for host, lines in said.items() for line in lines]
    return idle_share("\n".join(f"{at} {host}-{pid} {rest}" for host, (at, pid, rest) in split), HOSTS)


def sweep(code: Path, flags: argparse.Namespace, slots: int, storage: str) -> list[str]:
    """Return the script of this checkout and its arguments, all but the cluster's address."""
    asked = {"--runs": slots + 1, "--iterations": flags.iterations, "--epochs": flags.epochs}
    words = [str(word) for pair in asked.items() for word in pair]
    return [str(code / "sweeps" / "digits.py"), *words, *FLAGS, "--storage", storage]


def idle_share(stages: str, slots: int) -> tuple[float, float]:
    """Return the seconds from the first run's first training to the last comparison, and the idle share of slots.

    stages : lines `time pid stage begin|end details`
    """
    began: dict[tuple[str, str], float] = {}
    busy: dict[str, list[tuple[float, float]]] = {}
    for line in stages.splitlines():
        at, pid, stage, what, *details = line.split(maxsplit=4)
        if stage not in BUSY or "complete network" in " ".join(details):
            continue
        if what == "begin":
            began[pid, stage] = float(at)
        elif what == "end" and (pid, stage) in began:
            busy.setdefault(pid, []).append((began.pop((pid, stage)), float(at)))
    first = min(start for spans in busy.values() for start, _ in spans)
    last = max(end for spans in busy.values() for _, end in spans)
    worked = sum(map(covered, busy.values()))
    return last - first, 1 - worked / (slots * (last - first))


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the seconds that these spans cover together: a process may extract while it trains."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def table(turns: dict[Path, list[tuple[float, float]]], nodes: int) -> Table:
    """Return the medians of each checkout, and the last one's time relative to the first one's, round by round."""
    first, *_ = turns.values()
    rows: list[Sequence[str]] = []
    for code, measured in turns.items():
        ratios = [wall / before for (wall, _), (before, _) in zip(measured, first, strict=True)]
        rows.append(
            [
                code.resolve().name,
                f"{statistics.median(wall for wall, _ in measured):.0f} s",
                f"{statistics.median(idle for _, idle in measured):.0%}",
                f"{statistics.median(ratios):.2f}",
            ]
        )
    note = f"{nodes + 1} runs of digits on {nodes} slots; medians of {len(first)} rounds, taken in turns."
    return Table(["code", "time", "slots idle", "time / first"], rows, [note])


if __name__ == "__main__":
    sys.exit(main())
