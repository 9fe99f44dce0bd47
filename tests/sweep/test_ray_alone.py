"""A Ray that a sweep starts for itself: where it listens, and what its death is for the sweep."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_scripts import SWEEPS

pytestmark = [pytest.mark.ray, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

FLAGS = ("--device", "cpu", "--runs", "1", "--iterations", "1", "--epochs", "5000", "--train-limit", "200")


@contextlib.contextmanager
def sweep(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep that trains on a Ray of its own, for as long as the block runs."""
    line = [
        sys.executable,
        str(SWEEPS / "digits.py"),
        *FLAGS,
        "--control",
        "none",
        "--probe",
        "60",
        "--storage",
        str(folder),
    ]
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
            (
                _,
                local,
                _,
                state,
                *_,
            ) = fields = line.split()
            if state == "0A" and f"socket:[{fields[9]}]" in inodes:
                address = local.split(":")[0]
                found[address] = found.get(address, 0) + 1
    return found


LOOPBACK = (
    "0100007F",
    "0000000000000000FFFF00000100007F",
    "00000000000000000000000001000000",
)  # 127.0.0.1, also in IPv6


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
