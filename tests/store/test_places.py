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
from distsim.store import Storage, StorageError, existing_root, existing_stores, problems_in
from distsim.store.existing import published_in

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


def test_a_folder_of_others_with_a_spec_is_no_sweep(tmp_path: Path) -> None:
    root = Storage(tmp_path)
    for name, content in (("mine", b"{}"), ("notes", b"a specification"), ("api", b'{"openapi": "3.1.0", "info": {}}')):
        root.put(f"{name}/spec.json", content)
        root.put(f"{name}/results/mine.csv", b"1")
    root.put("digits/spec.json", b"damaged")
    root.put("digits/complete/COMMIT.json", b"{}")
    assert problems_in(root) == ["digits"], "what distsim has written is a sweep's, whatever its spec has become"


def sweep(folder: Path) -> Storage:
    """A store that looks as if there were a sweep in it."""
    root = Storage(folder)
    root.put("lease/000001.json", b"{}")
    root.put("digits/spec.json", b'{"identity": {}}')
    root.put("digits/complete/COMMIT.json", b"{}")
    return root


def test_a_study_json_of_others_does_not_hide_a_store(tmp_path: Path) -> None:
    root = sweep(tmp_path / "store")
    for content in (b'{"title": "mine"}', b"not JSON", b'{"version": 1, "identity": {}, "hash": "", "parts": []}'):
        root.put("study.json", content)
        assert published_in(root.url) is None
        assert [store.problem for store in existing_stores(root.url)] == ["digits"]
    alone = Storage(tmp_path / "alone")
    alone.put("study.json", b"damaged")
    alone.put("mine/spec.json", b"{}")
    assert published_in(alone.url) == Path(alone.url), "which may be damaged, and is then called so"


def test_links_and_pipes_of_others_with_names_like_distsims_block_nothing(tmp_path: Path) -> None:
    root, outside = sweep(tmp_path / "store"), tmp_path / "outside"
    store = Path(root.url)
    before = root.sizes()
    (outside / "x").mkdir(parents=True)
    (outside / "spec.json").write_bytes(b'{"identity": {}}')
    for name in ("linked", "pipe", "loop", "mine"):
        (store / name).mkdir()
    (store / "linked" / "spec.json").symlink_to(outside / "spec.json")
    os.mkfifo(store / "pipe" / "spec.json")
    (store / "loop" / "spec.json").symlink_to("spec.json")
    (store / "digits" / "loop").symlink_to("loop")
    (store / "linked" / "results").symlink_to(outside)
    for name in ("2024", "runs", "results", "mine/results", "mine/runs", "mine/COMMIT.json"):
        (store / name).symlink_to(outside)
    for name in ("controls", "complete", "pairs"):  # to a folder that is no sweep's
        (store / name).symlink_to(outside / "x")
    assert problems_in(root) == ["digits"]
    assert root.sizes() == before


@pytest.mark.parametrize(
    "path",
    [
        *("figures", "report.html", "tune", "digits/runs", "digits/complete-1", "digits/results", "digits/layers.json"),
        *("digits/controls/retrain/runs/0000/iter_01/COMMIT.json", "digits/runs/0000/iter_01/activations"),
        *("digits/complete-1/runs/0002", "digits/runs/0000/iter_01/logits/attempt-0123456789ab", "digits/behaviour"),
    ],
)
def test_a_link_out_of_the_store_in_the_place_of_something_of_distsims_is_refused(tmp_path: Path, path: str) -> None:
    root = sweep(tmp_path / "store")
    link = Path(root.url, path)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path)
    with pytest.raises(StorageError, match=f"{path} leads out of the store"):
        root.sizes()
    if path.startswith("digits/"):
        with pytest.raises(StorageError, match="leads out of the store"):
            root.within("digits").sizes()


SHUT = """
import os, sys
from distsim.cli import main as cli
from distsim.store import Storage, StorageError, existing_stores, problems_in
from distsim.verify.store import verify_store
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(4001)
    os.setuid(4001)
root = Storage(sys.argv[1])
if sys.argv[2] == "other":
    print(problems_in(root), sorted(root.sizes()))
    print([str(note) for note in verify_store(root).of("note") if note.object in ("lost+found", "other")])
    try:
        existing_stores(root.url, "cifar4")
    except FileNotFoundError as error:
        print(str(error).partition(root.url)[2])
else:
    try:
        print(root.sizes())
    except StorageError as error:
        print(error)
"""


def test_a_folder_that_may_not_be_read_blocks_nothing_unless_it_is_distsims(tmp_path: Path) -> None:
    """As lost+found, which is in the root of each ext4 file system, and is root's."""
    for above in tmp_path.parents:
        if above.stat().st_uid == os.geteuid() and not above.stat().st_mode & 0o077:
            above.chmod(0o711)
    tmp_path.chmod(0o711)
    root = sweep(tmp_path / "store")
    store = Path(root.url)
    for name in ("lost+found", "other"):
        (store / name).mkdir()
    (store / "other" / "spec.json").write_bytes(b"{}")
    inside = store / "digits" / "runs" / "mine"
    inside.mkdir(parents=True)
    for path in (store, *store.rglob("*")) if os.geteuid() == 0 else ():
        os.chown(path, 4001, 4001)

    def seen(what: str) -> str:
        return subprocess.run([sys.executable, "-c", SHUT, root.url, what], capture_output=True, text=True).stdout

    shut = [store / "lost+found", store / "other" / "spec.json"]
    try:
        for path in shut:
            path.chmod(0)
        listed = (
            "['digits'] ['digits/complete/COMMIT.json', 'digits/spec.json', 'lease/000001.json', 'other/spec.json']"
        )
        note = "['lost+found: may not be read by this user, and is left alone']"
        there = "; there are digits (lost+found cannot be read: permission is missing)"
        assert seen("other") == f"{listed}\n{note}\n{there}\n"
        inside.chmod(0)
        assert "Permission denied" in seen("inside"), "what is in a sweep may be part of it"
    finally:
        for path in (*shut, inside):
            path.chmod(0o755)


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
