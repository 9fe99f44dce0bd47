"""A driver that is paused, is taken over from another machine, and wakes: what the newer driver wrote stays."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweep_scripts import outcome, run_script

from distsim.cli import main as cli
from distsim.store import lease

FLAGS = ("--local", "--device", "cpu", "--runs", 1, "--iterations", 1, "--epochs", 1, "--train-limit", 100)
FLAGS = (*FLAGS, "--probe", 40, "--no-chance", "--metrics", "cka")
REPORT = """
import os, signal, sys
from distsim.cli import main
from distsim.store import Storage
put = Storage.put
def paused(storage, path, content):  # stops itself before this write
    if path == sys.argv[2]:
        Storage.put = put  # once
        os.kill(os.getpid(), signal.SIGSTOP)
    put(storage, path, content)
Storage.put = paused
sys.exit(main.main(["report", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one run, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    assert run_script("digits", *FLAGS, "--storage", folder).status == 0
    return folder


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is on another machine: it sees no processes of the first one, and hears whether they beat."""
    monkeypatch.setattr(lease, "_machine", lambda: "another machine")
    monkeypatch.setattr(lease.Lease.__init__, "__defaults__", (print, 0.2, 1.0))


def derived(store: Path) -> dict[str, str]:
    files = [*(store / "digits" / "results").iterdir(), *(store / "figures").iterdir(), store / "digits/request.json"]
    return {str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("place", ["digits/results/results.csv", "figures/COMMIT.json"])
@pytest.mark.usefixtures("elsewhere")
def test_its_tables_and_figures_stay(trained: Path, tmp_path: Path, place: str) -> None:
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", trained, store], check=True)
    first = subprocess.Popen(
        [sys.executable, "-c", REPORT, store, place], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        while Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.05)
        done = run_script("digits", *FLAGS, "nbs", "--storage", store)
        assert (done.status, done.err) == (0, "")
        assert "waiting 1 s for a sign of life" in done.out
        newer = derived(store)
        assert b",nbs," in (store / "digits/results/results.csv").read_bytes()
        os.kill(first.pid, signal.SIGCONT)
        said, _ = first.communicate(timeout=120)
    finally:
        first.kill()
        first.wait()
        assert first.stdout is not None
        first.stdout.close()
    assert "another driver took over" in said
    assert "Traceback" not in said
    assert derived(store) == newer
    verified = outcome(lambda: cli.main(["verify", str(store)]))
    assert verified.status == 0
    assert verified.out.splitlines()[-1].endswith("nothing damaged")
    assert len(verified.out.splitlines()) == 1, verified.out
