"""Takes nodes away from a Ray cluster while a sweep runs on it; the sweep must end by itself, with the same bits.

    python tests/faults/nodes.py

Three nodes of one CPU each, as raylets of their own on this machine, and a head without a CPU. While sweeps/digits.py
runs there, a node joins on which distsim cannot be imported, a node is lost whole (raylet, workers and all) in a
training, another node's raylet alone in a training, and a third node in a comparison; each time a fresh one joins.
One of these loses its code as soon as it works. The command must not have to be given again, and both sick nodes must
be named. Then the store is compared, piece by piece, with that of a sweep without Ray. Exit status 0: it is equal.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where pytest, too, imports `faults` from


from faults.kills import ROOT, Watch, differing, digests, environment

FLAGS = ("--runs", "3", "--iterations", "3", "--epochs", "4", "--train-limit", "400", "--probe", "100")
FLAGS = (*FLAGS, "--control", "none")
LOSSES = (("epoch", "node"), ("epoch", "raylet"), ("comparison", "node"))  # the stage a worker is in, and what goes
PATIENCE = 600.0


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """A Ray cluster of this many nodes with a CPU each, and a head without one."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            join(made)
        yield made
    finally:
        made.shutdown()


def join(made: Any, lost: Path | None = None) -> Any:
    """Let a node join. lost : distsim cannot be imported there once this file exists"""
    env = {} if lost is None else {"PYTHONPATH": str(sick_path(lost))}
    return made.add_node(num_cpus=1, object_store_memory=100 * 2**20, env_vars=env)


def sick_path(lost: Path) -> Path:
    """A folder that, on Python's path, keeps distsim from being imported once the file exists."""
    folder = lost.parent / f"without-{lost.name}"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SICK.format(lost=str(lost)))
    return folder


SICK = """
import os, sys
class Lost:
    def find_spec(self, name, path=None, target=None):
        if name == "distsim" and os.path.exists({lost!r}):
            raise ModuleNotFoundError("No module named 'distsim'", name=name)
sys.meta_path.insert(0, Lost())
"""
SAID = "gets no work: ModuleNotFoundError: No module named 'distsim'"


def node_of(made: Any, pid: int) -> Any:
    """The node whose raylet is the parent of this worker."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for node in made.worker_nodes:
        if parent in (info.process.pid for infos in node.all_processes.values() for info in infos):
            return node
    raise LookupError(f"process {pid} belongs to no node")


def lose(made: Any, what: str, pid: int) -> None:
    """Take away the node on which this worker runs, or its raylet only."""
    node = node_of(made, pid)
    if what == "raylet":
        node.kill_raylet()
        made.worker_nodes.discard(node)
    else:
        made.remove_node(node, allow_graceful=False)


def experiment(folder: Path) -> list[str]:
    """What is not as it must be."""
    script = str(ROOT / "sweeps" / "digits.py")
    subprocess.run([sys.executable, script, *FLAGS, "--local", "--storage", folder / "local"], check=True)
    os.environ.update(environment(folder) | {"DISTSIM_STAGES": str(folder / "stages")})  # what the nodes inherit
    watch = Watch(folder / "stages")
    with cluster(3) as made:
        line = [sys.executable, script, *FLAGS, "--address", made.address, "--device", "cpu"]
        with open(folder / "said", "w") as said:
            sweep = subprocess.Popen([*line, "--storage", folder / "lost"], stdout=said, stderr=subprocess.STDOUT)
        try:
            for number, (stage, what) in enumerate(LOSSES):
                pid = next_in(made, watch, stage, sweep)
                if not number:
                    (folder / "never").touch()
                    join(made, lost=folder / "never")
                    print("a node without distsim joins", flush=True)
                lose(made, what, pid)
                print(f"lost a {what} in {stage}", flush=True)
                if not number:
                    forgetful = join(made, lost=folder / "soon")
                    continue
                join(made)
                if what == "raylet":
                    (folder / "soon").touch()
                    end_workers(forgetful)
                    print("a node loses its code, and its workers", flush=True)
            status = sweep.wait(PATIENCE)
        finally:
            if sweep.poll() is None:
                sweep.kill()
                sweep.wait()
            print((folder / "said").read_text(), flush=True)
    if status:
        return [f"the sweep ended with status {status}"]
    wrong = [f"{piece} differs" for piece in differing(digests(folder / "local"), digests(folder / "lost"))]
    named = (folder / "said").read_text().count(SAID)
    return wrong if named >= 4 else [*wrong, f"two sick nodes were named {named} times, not twice each"]


def end_workers(node: Any) -> None:
    """SIGKILL all workers of a node. Its agents stay: a raylet ends with them."""
    raylets = {info.process.pid for info in node.all_processes["raylet"]}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ends meanwhile
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            name = (stat.parent / "cmdline").read_bytes()
            if parent in raylets and name.startswith(b"ray::") and b"Agent" not in name:
                os.kill(int(stat.parent.name), signal.SIGKILL)


def at_work(made: Any, pid: int) -> bool:
    """Whether this is a worker of a node. Those of a node that was lost may live a moment longer."""
    try:
        return bool(node_of(made, pid))
    except (LookupError, OSError):
        return False


def next_in(made: Any, watch: Watch, stage: str, sweep: "subprocess.Popen[bytes]") -> int:
    """The process that is in this stage, as soon as one is. RuntimeError: none was any more."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and sweep.poll() is None:
        for begin in watch.read():
            if begin.stage == stage and at_work(made, begin.pid):
                return begin.pid
        time.sleep(0.002)
    raise RuntimeError(f"no process came to {stage}")


def main() -> int:
    # a short path: Ray's sockets are in it, and their paths may have 107 characters
    with tempfile.TemporaryDirectory(prefix="nodes-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        wrong = experiment(Path(folder))
    for sentence in wrong:
        print(sentence)
    print("equal" if not wrong else f"{len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
