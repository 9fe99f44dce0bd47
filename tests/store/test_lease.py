"""The lease: one driver at a time, whoever dies, sleeps or is far away."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_scripts import run_script

from distsim.store import Lease, Storage, StoreGone, StoreInUse, lease
from distsim.store.commits import Attempt
from distsim.store.fenced import replace_one
from distsim.store.lease import FOLDER

HOLD = """
import sys
from distsim.store import Lease, Storage
with Lease(Storage(sys.argv[1])) as lease:
    print(lease.number, flush=True)
    sys.stdin.read()
"""
TAKE_TURNS = """
import sys, time
from distsim.store import Lease, Storage, StoreInUse
root, done = Storage(sys.argv[1]), 0
while done < 5:
    try:
        with Lease(root, lambda said: None) as lease:  # on a busy machine it may say that it waits
            assert root.create("inside", sys.argv[2].encode()), "somebody else is inside"
            lease.check()
            root.delete(["inside"])
            print(lease.number)
            done += 1
    except StoreInUse:
        pass
    time.sleep(0.001)
"""


def quick(root: Storage, said: list[str] | None = None) -> Lease:
    """A lease that waits for half a second only."""
    return Lease(root, (said if said is not None else []).append, beat=0.05, silence=0.5)


def started(code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def root(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


@pytest.fixture
def holder(root: Storage) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lease, number 1."""
    process = started(HOLD, root.url)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    yield process
    process.kill()
    process.communicate()


def test_numbers_grow_and_only_the_last_is_kept(root: Storage) -> None:
    for number in (1, 2, 3):
        with quick(root) as lease:
            assert lease.number == number
            lease.check()
    assert sorted(root.sizes(FOLDER)) == ["lease/000003.beat", "lease/000003.json"]
    assert root.get("lease/000003.beat") == b"over"


def test_a_second_driver_is_refused_while_the_first_lives(root: Storage, holder: "subprocess.Popen[str]") -> None:
    refused = rf"another driver is at work in .*: process {holder.pid} on .*, since \d{{4}}-"
    with pytest.raises(StoreInUse, match=refused), Lease(root):
        pass
    holder.send_signal(signal.SIGSTOP)  # a laptop that sleeps has not gone
    with pytest.raises(StoreInUse, match=refused), Lease(root):
        pass
    holder.send_signal(signal.SIGCONT)
    holder.communicate("")  # and lets go
    with Lease(root) as lease:
        assert lease.number == 2


def test_the_lease_of_a_killed_driver_is_free_at_once(root: Storage, holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    while Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        pass
    said: list[str] = []
    with Lease(root, said.append) as lease:  # though its remains are still there, as nobody has waited for it
        assert lease.number == 2
    assert said == []


def test_another_process_with_the_number_of_a_dead_one_is_not_taken_for_it(root: Storage) -> None:
    with quick(root):
        pass
    holder = json.loads(root.get("lease/000001.json") or b"")
    assert holder["pid"] == os.getpid()
    root.put("lease/000001.json", json.dumps(holder | {"started": "1"}).encode())
    root.put("lease/000001.beat", b"alive")
    with quick(root) as lease:
        assert lease.number == 2


@pytest.mark.parametrize("beats", [True, False])
def test_a_driver_on_another_machine_is_alive_as_long_as_it_beats(root: Storage, beats: bool) -> None:
    root.put("lease/000041.json", json.dumps({"machine": "another", "pid": 1, "host": "far"}).encode())
    root.put("lease/000041.beat", b"0")
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(0.05):
            count += 1
            root.put("lease/000041.beat", str(count).encode())

    said: list[str] = []
    thread = threading.Thread(target=beat)
    if beats:
        thread.start()
        try:
            with pytest.raises(StoreInUse, match="process 1 on far"), quick(root, said):
                pass
        finally:
            over.set()
            thread.join()
    else:
        with quick(root, said) as lease:
            assert lease.number == 42
    assert len(said) == 1
    assert "process 1 on far" in said[0]


def test_who_was_overtaken_is_told(root: Storage) -> None:
    with quick(root) as first:
        root.delete(["lease/000001.json", "lease/000001.beat"])  # as if it had not been heard of for long
        root.put("lease/000002.json", b"{}")
        with pytest.raises(StoreInUse, match="another driver took over"):
            first.check()
    assert root.get("lease/000002.beat") is None, "it has no say over another's lease"


def test_a_store_that_has_gone_is_not_begun_anew(tmp_path: Path) -> None:
    """As if its disk were unmounted: nobody took over, and nothing is written into the place where it was."""
    root = Storage(tmp_path / "store")
    with quick(root) as lease:
        problem = root.within("digits")
        with Attempt(problem, "complete") as attempt:
            attempt.put("x", b"1")
            attempt.commit()
        shutil.rmtree(root.url)
        (tmp_path / "store").mkdir()  # where it was mounted
        for work in (
            lease.check,
            lambda: problem.put("runs/0000/iter_01/epoch/x", b"1"),
            lambda: problem.create("complete/COMMIT.json", b"1"),
            lambda: root.within("digits"),
            lambda: replace_one(root, "digits/request.json", b"{}"),
            lambda: Attempt(problem, "complete").put("x", b"1"),
        ):
            with pytest.raises(StoreGone, match=r"has gone \(unmounted or removed\?\): lease/000001.json"):
                work()  # type: ignore[operator]
        lease._beating.join(10)
        assert not lease._beating.is_alive(), "it gives no sign of life any more"
    with pytest.raises(StoreGone):
        root.within("digits")
    assert list((tmp_path / "store").iterdir()) == []


def test_a_lease_that_cannot_be_read_counts_as_one_that_does_not_beat(root: Storage) -> None:
    root.put("lease/000007.json", b"\x00 no JSON")
    with quick(root) as lease:
        assert lease.number == 8


def test_a_driver_whose_process_is_hidden_is_not_taken_for_dead(root: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a login node, where /proc shows one's own processes only: whether it lives is seen from its beat."""
    holder = {"machine": "here", "pid": 4711, "started": "1", "host": "login"}
    root.put("lease/000001.json", json.dumps(holder).encode())
    root.put("lease/000001.beat", b"0")
    number, said = itertools.count(1), list[str]()

    def kill(pid: int, signal: int) -> None:
        assert (pid, signal) == (4711, 0)
        raise PermissionError("it belongs to another user")

    def sleep(seconds: float) -> None:
        root.put("lease/000001.beat", str(next(number)).encode())

    monkeypatch.setattr(lease, "_machine", lambda: "here")
    monkeypatch.setattr(lease, "_state", lambda pid: None)
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(lease.time, "sleep", sleep)
    with pytest.raises(StoreInUse, match="process 4711 on login"), quick(root, said):
        pass
    assert len(said) == 1, "it was listened for"


def test_files_of_others_in_its_folder_stay(root: Storage) -> None:
    others = {
        "lease/000000.json": b'{"of": "the user"}',
        "lease/000000.beat": b"a file of the user's",
        "lease/notes.json": b"mine",
        "lease/2024.json": b"mine",
    }
    for path, content in others.items():
        root.put(path, content)
    for _ in range(2):
        with quick(root):
            pass
    assert {path: root.get(path) for path in others} == others


def test_of_many_that_want_it_one_at_a_time_has_it(root: Storage) -> None:
    processes = [started(TAKE_TURNS, root.url, name) for name in "abc"]
    numbers = [int(line) for process in processes for line in process.communicate(timeout=120)[0].split()]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(numbers) == list(range(1, 16))


def test_a_script_is_refused_where_another_driver_is_at_work(root: Storage, tmp_path: Path) -> None:
    flags = ("--local", "--runs", 1, "--iterations", 1, "--epochs", 1, "--train-limit", 100, "--probe", 20)
    with Lease(root):
        status, _, err = run_script("digits", *flags, "--storage", tmp_path)
    assert status == 1
    assert err.startswith("distsim: another driver is at work in ")
    assert err.count("\n") == 1
    assert root.sizes("digits") == {}, "it has touched nothing"
