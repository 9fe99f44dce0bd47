"""What tests/cluster needs no root for: the configuration, the looks for remains, catching and ending processes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cluster.hosts import _Made
from cluster.launch import LIMITS, PUBLISHED, asked, config, held
from cluster.scenarios import Running, Stages

STATUS = """======== Autoscaler status: 2026-11-28 14:08:07 ========
Resources
---------------------------------------------------------------
Total Usage:
 0.0/3.0 CPU

From request_resources:
 (none)
Pending Demands:
 (no resource demands)
"""


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_the_published_configuration_is_what_is_started() -> None:
    published: dict[str, Any] = yaml.safe_load(PUBLISHED.read_text())
    changed = config(published, "10.78.0.1", ["10.78.0.2", "10.78.0.3"], "/key")
    assert changed["provider"] == {"type": "local", "head_ip": "10.78.0.1", "worker_ips": ["10.78.0.2", "10.78.0.3"]}
    assert (changed["min_workers"], changed["max_workers"]) == (2, 2)
    assert set(changed["file_mounts"]) == {"~/.ray/auth_token"}
    said = " ".join(changed["setup_commands"])
    assert "RAY_AUTH_MODE=token" in said
    assert "chmod 600" in said
    assert "pip install" not in said
    for kind in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert [command.replace(f"{LIMITS} ", "") for command in changed[kind]] == published[kind]
        assert LIMITS in changed[kind][-1]


def test_what_ray_is_asked_for_is_seen() -> None:
    assert asked(STATUS) == []
    assert asked(STATUS.replace("(none)", "{'CPU': 1}: 3 from request_resources()"))
    assert asked(STATUS.replace("(no resource demands)", "{'CPU': 1.0}: 3+ pending tasks/actors"))
    with pytest.raises(ValueError, match="Pending Demands"):
        asked(STATUS.replace("Pending", "Other"))


def test_what_the_cluster_holds_is_seen() -> None:
    idle = {"actors": [], "groups": [], "used": {}, "status": STATUS}
    assert held(idle) == []
    for kind, value in (("actors", ["A ALIVE"]), ("groups", ["CREATED"]), ("used", {"CPU": 1.0})):
        assert held(idle | {kind: value}) == [f"Ray still has {kind}: {value}"]


def test_a_process_is_caught_inside_the_stage_only(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    hosts = SimpleNamespace(stages=tmp_path, process=lambda host, number: sleeper.pid if number == "7" else None)
    running = Running(sleeper, tmp_path / "log")
    file = tmp_path / "dst2"
    before = "1.0 7 training begin run 0\n1.1 7 epoch 1\n1.2 7 training end run 0\n1.3 7 epoch 1\n"
    file.write_text(before)
    stages = Stages(hosts)  # type: ignore[arg-type]
    assert stages._read(2, "training") == ["7"]
    assert stages._stopped(2, "7", "training") is None
    assert _state(sleeper.pid) != "T"
    with open(file, "a") as more:
        more.write("2.0 7 training begin run 1\n2.1 7 epoch 2\n2.2 7 epo")
    caught = stages.catch(running, "training", [2])
    assert (caught.host, caught.pid, _state(sleeper.pid)) == (2, sleeper.pid, "T")
    caught.go_on()
    assert _state(sleeper.pid) != "T"


def test_only_the_process_that_was_started_is_ended(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr("cluster.hosts.os.kill", lambda pid, signal: killed.append(pid))
    made = _Made()
    made._began = {"dst1": (sleeper.pid, 1)}  # another process had this number when the machine booted
    made.end("dst1")
    assert killed == []
    made._began = {"dst1": (sleeper.pid, _ticks(sleeper.pid))}
    made.end("dst1")
    assert killed == [sleeper.pid]


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
