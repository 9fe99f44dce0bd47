"""Where a store's folder can be: shared by a group, named in any way that leads there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_scripts import outcome, run_script

import distsim
from distsim.cli import main as cli
from distsim.store import Storage, existing_root

ONE, OTHER, GROUP = 4001, 4002, 4242  # two people of one group
MEMBER = """
import os, sys
from distsim.store import Lease, Storage
from distsim.store.commits import Attempt, drop, read_piece
from distsim.store.fenced import replace, replace_one
os.umask(int(sys.argv[2], 8))
root, run = Storage(sys.argv[1]), sys.argv[3]
problem = root.within("digits")
with Lease(root):
    replace_one(root, "digits/request.json", sys.argv[3].encode())
    for before in problem.folders("runs"):  # what the other one has made can be extended and dropped
        with Attempt(problem, f"runs/{before}/iter_0{2 + int(run)}") as attempt:
            attempt.put("deep/er/x", b"more")
            attempt.commit()
        drop(problem, f"runs/{before}/iter_01")
        assert read_piece(problem, f"runs/{before}/iter_01") is None
    with Attempt(problem, f"runs/000{run}/iter_01") as attempt:
        attempt.put("deep/er/x", b"1")
        attempt.commit()
    replace(root, "digits/results", {"results.csv": run.encode()})
    replace(root, "figures", {"fig1.png": run.encode()})
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_members_of_a_group_extend_what_others_made(tmp_path: Path) -> None:
    """Whatever their umask, as the folder is the group's: setgid and writable."""
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == 0 and str(above).startswith("/tmp/"):
            above.chmod(0o755)
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, ONE, GROUP)
    shared.chmod(0o2775)
    read = ("+dac_read_search",) * 2  # they may read Python, wherever root has it
    store = shared / "new" / "store"
    for run, (member, umask) in enumerate(((ONE, "022"), (OTHER, "022"), (ONE, "002"), (OTHER, "022"))):
        who = ("setpriv", "--reuid", member, "--regid", GROUP, "--clear-groups")
        command = (*who, "--inh-caps", read[0], "--ambient-caps", read[1], sys.executable, "-c", MEMBER, store, umask)
        done = subprocess.run([*map(str, command), str(run)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    root = Storage(store)
    assert root.get("digits/results/results.csv") == b"3"
    assert len(root.folders("digits/runs")) == 4


def test_a_folder_of_ones_own_is_not_opened_to_the_group(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        Storage(tmp_path / "store").put("a/b/c", b"1")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "store").rglob("*") if path.is_dir()} == {0o755}


def test_a_place_is_the_same_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    deep = tmp_path / "ünï 测试" / ("x" * 200) / ("y" * 200)
    deep.mkdir(parents=True)
    for place in ("store", deep.relative_to(tmp_path) / "store"):
        ways = [f"~/{place}", f"./{place}", f"other/../{place}", f"{tmp_path}/./{place}/", Path(place)]
        assert {Storage(way).url for way in ways} == {str(tmp_path / place)}
        assert {existing_root(way).url for way in ways} == {str(tmp_path / place)}
    assert not (tmp_path / "~").exists()
    assert not (tmp_path / "other").exists()


FLAGS = ("--local", "--device", "cpu", "--epochs", 1, "--train-limit", 100, "--probe", 40, "--metrics", "cka")


def test_scripts_commands_and_python_mean_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    place = f"ünï 测试/{'x' * 200}/store"
    done = run_script("digits", *FLAGS, "--runs", 1, "--iterations", 1, "--no-chance", "--storage", f"~/{place}")
    assert (done.status, done.err) == (0, "")
    for way in (f"~/{place}", f"./gone/../{place}", str(tmp_path / place)):
        assert outcome(lambda way=way: cli.main(["status", way])).status == 0  # type: ignore[misc]
        study = distsim.open(way)
        assert study.storage == str(tmp_path / place)
        assert len(study.results) == 8
    again = distsim.run(
        *("digits",),
        **{"storage": f"~/{place}", "runs": 1, "iterations": 1, "chance": False, "progress": False, "device": "cpu"},
        **{"epochs": 1, "train_limit": 100, "probe": 40, "metrics": "cka"},
    )
    assert again.storage == study.storage
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [
        "ünï 测试"
    ]  # caches are in HOME
