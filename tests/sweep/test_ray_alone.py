"""A Ray that a sweep starts for itself: where it listens, and what its death is for the sweep."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker
from sweep_scripts import SWEEPS

from distsim.sweep import cluster
from distsim.sweep.on_ray import cluster as ray_cluster

pytestmark = [pytest.mark.ray, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

LAPTOP = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # Ray's name for what it does on macOS and Windows unless it is 1
SMALL = ("--device", "cpu", "--runs", "1", "--iterations", "1", "--train-limit", "200", "--probe", "60")
SMALL = (*SMALL, "--control", "none")
FLAGS = (*SMALL, "--epochs", "5000")


@contextlib.contextmanager
def sweep(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep that trains on a Ray of its own, for as long as the block runs."""
    line = [sys.executable, str(SWEEPS / "digits.py"), *FLAGS, "--storage", str(folder)]
    with subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run in the background
    ) as process:
        try:
            assert process.stdout is not None
            for said in process.stdout:
                if "training on" in said:
                    break
            while not any("ImplicitFunc" in name for name in descendants(process.pid).values()):
                assert process.poll() is None
                time.sleep(0.2)
            yield process
        finally:
            process.kill()


def descendants(pid: int) -> dict[int, str]:
    """Pid -> command line of the process and of all that came from it."""
    found: dict[int, str] = {}
    with contextlib.suppress(OSError):  # it ends meanwhile
        found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found |= descendants(int(child))
    return found


def listening(pids: dict[int, str]) -> dict[str, int]:
    """Address, as the system writes it in hexadecimal -> number of sockets of these processes that listen there."""
    inodes = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(file))
    found: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = fields = line.split()
            if state == "0A" and f"socket:[{fields[9]}]" in inodes:
                address = local.split(":")[0]
                found[address] = found.get(address, 0) + 1
    return found


# 127.0.0.1, also in IPv6
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def test_it_is_started_for_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the processes that are started and this one take Ray's way on a laptop, which is 127.0.0.1."""
    seen = []

    def init(**options: object) -> None:
        seen.append((os.environ.get(LAPTOP), ray_constants.ENABLE_RAY_CLUSTER, options["address"]))
        raise RuntimeError("it is not to be started here")

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.delenv(LAPTOP, raising=False)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(RuntimeError, match="not to be started"):
        ray_cluster.connect(None, [])
    assert seen == [("0", False, "local")]
    assert LAPTOP not in os.environ
    assert ray_constants.ENABLE_RAY_CLUSTER


def test_what_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process at a time that has died; and a machine that the cluster takes for dead while it lives."""
    dead: list[tuple[str, SimpleNamespace]] = []
    monkeypatch.setattr(ray_worker, "_global_node", SimpleNamespace(dead_processes=lambda: dead))
    monkeypatch.setattr(ray_cluster, "LOOKS", 3600.0)
    watch = ray_cluster.Watch(None, ours=False)
    try:
        assert watch._cause() == ""
        dead[:] = [("dashboard", SimpleNamespace(returncode=1)), ("raylet", SimpleNamespace(returncode=-9))]
        assert watch._cause() == "its raylet was killed by signal 9"
        dead[:] = [("gcs_server", SimpleNamespace(returncode=1))]
        assert watch._cause() == "its control service (gcs_server) ended with 1"
        dead.clear()
        watch._node, watch._dead = "this machine's", True
        assert watch._cause() == cluster.TAKEN_FOR_DEAD
    finally:
        watch.stop()


@pytest.mark.long
def test_it_listens_on_loopback_only_and_its_death_is_a_sentence(tmp_path: Path) -> None:
    with sweep(tmp_path) as process:
        family = descendants(process.pid)
        found = listening(family)
        assert sum(found.values()) >= 3, "of the raylet, the control service, the driver"
        assert set(found) <= set(LOOPBACK)
        (raylet,) = (pid for pid, name in family.items() if "/raylet/raylet " in name)
        os.kill(raylet, signal.SIGKILL)
        _, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert err.startswith("distsim: Ray has died: its raylet was killed by signal 9. What is committed is kept: ")
    assert err.count("\n") == 1
    (beat,) = (tmp_path / "lease").glob("*.beat")
    assert beat.read_text() == "over", "the lease is released"


@pytest.mark.long
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_sweep_and_its_ray(tmp_path: Path, number: int, status: int) -> None:
    with sweep(tmp_path) as process:
        family = descendants(process.pid)
        process.send_signal(number)
        _, err = process.communicate(timeout=180)
    assert process.returncode == status
    assert err.endswith("; run the same command again to go on from here\n")
    assert err.count("\n") == 1
    (beat,) = (tmp_path / "lease").glob("*.beat")
    assert beat.read_text() == "over"
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < until:
        time.sleep(0.5)
    assert not [name for pid, name in family.items() if Path(f"/proc/{pid}").exists()], "nothing of Ray is left"


@pytest.mark.long
def test_a_machine_that_is_short_of_memory_is_a_sentence(tmp_path: Path) -> None:
    """Ray ends comparisons here as soon as they begin: it is told that 1 % of the memory is all that may be used."""
    line = [sys.executable, str(SWEEPS / "digits.py"), *SMALL, "--epochs", "1", "--storage", str(tmp_path)]
    subprocess.run([*line, "--metrics", "cosine", "--local"], check=True, capture_output=True)
    little = os.environ | {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "50"}
    done = subprocess.run(
        [*line, "--metrics", "cosine", "cka"], env=little, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    short = r"Ray ended its worker, because the machine was short of memory \([\d.]+ of [\d.]+ GB in use\)"
    advice = "a larger --cpus lets fewer workers run there at once"
    failed = [text for text in done.stderr.splitlines() if "given up" in text]
    assert failed, done.stderr
    for text in failed:
        assert re.fullmatch(f"  digits, layer .*: given up after 3 retries: {short}; {advice}", text)
    assert "Traceback" not in done.stderr
