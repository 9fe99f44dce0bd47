"""A cluster that begins with no worker, as cluster.yaml's does, and grows while a sweep waits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from growing_cluster import MOST, ordered

from distsim.results import reduce as results
from distsim.store import Storage, SweepStore
from distsim.sweep.engine import LocalEngine
from distsim.sweep.order import take
from distsim.sweep.run import run

HERE = Path(__file__).parent
OWN = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")  # so that no process is left, whatever fails

pytestmark = [pytest.mark.ray, pytest.mark.long]


@pytest.mark.skipif(os.geteuid() != 0, reason="a namespace of processes takes root")
def test_a_sweep_waits_for_its_machines_and_asks_for_them_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trains the complete network. Then chains wait, and the rest of the machines are started together."""
    script = [*OWN, sys.executable, str(HERE / "growing_cluster.py"), str(tmp_path / "grown")]
    paths = {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(script, env=os.environ | paths, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert "waiting for a machine with 1 CPU, which the cluster may start" in found["said"]
    assert found["asked"] == [1, MOST - 1]
    monkeypatch.setattr(results, "draw", lambda root, again=False: [])
    root = Storage(tmp_path / "local")
    take([ordered()], root)
    run([ordered()], root, LocalEngine(root), lambda text: None)
    grown, local = (SweepStore(Storage(tmp_path / name), "digits").digests() for name in ("grown", "local"))
    assert grown == local
