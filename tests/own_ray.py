"""Nodes of Ray on this machine, each with folders and ports of its own, ended by their own process ids.

`ray stop` would end every Ray of this machine, those of other tests and other people too.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

BIN = Path(sys.executable).parent
RAY = BIN / "ray"
PATIENCE = 120.0


def environment(**more: str) -> dict[str, str]:
    """What a node or a peer needs. `distsim` is this checkout's, and no token or mode comes from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    root = str(Path(__file__).parents[1])
    paths = {"PYTHONPATH": root, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    return kept | paths | quiet | more


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths may have 107 characters. pytest's are longer."""
    with tempfile.TemporaryDirectory(prefix="dr-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """A process that leads a session, and all of its session, ended with the block."""
    try:
        yield process
    finally:
        for end, number in ((os.kill, signal.SIGTERM), (os.killpg, signal.SIGKILL)):  # the leader ends its own first
            with contextlib.suppress(ProcessLookupError):
                end(process.pid, number)
            until = time.monotonic() + 30
            while group(process.pid) and time.monotonic() < until:
                process.poll()
                time.sleep(0.1)
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
        assert not group(process.pid), f"still there: {group(process.pid)}"


def group(leader: int) -> list[str]:
    """The command lines of the living processes of a process group."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [row[2] for row in rows if int(row[0]) == leader and not row[1].startswith("Z")]


@contextlib.contextmanager
def head(variables: Mapping[str, str]) -> Iterator[str]:
    """A head of one CPU, without a dashboard, in this environment. Its address, once it answers who is in it."""
    address = f"127.0.0.1:{free_port()}"
    with short_folder() as folder:
        options = ["--head", f"--port={address.rpartition(':')[2]}", "--num-cpus=1", "--include-dashboard=false"]
        line = [RAY, "start", *options, "--object-store-memory=100000000", f"--temp-dir={folder}", "--block"]
        with open(folder / "log", "w+") as log:
            process = subprocess.Popen(
                line, env=variables, stdout=log, stderr=log, stdin=subprocess.DEVNULL, text=True, start_new_session=True
            )
            with ended(process):
                until = time.monotonic() + PATIENCE
                while subprocess.run(
                    [RAY, "health-check", "--address", address], env=variables, capture_output=True
                ).returncode:
                    assert process.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < until, (folder / "log").read_text()
                yield address
