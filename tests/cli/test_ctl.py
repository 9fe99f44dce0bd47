"""Sweeps that are paused and stopped through their store: they end up with the same bits. And what `ctl` prints."""

import math
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3_server
from read_only import mounted
from sweep_scripts import Outcome, outcome, run_script

from distsim import stopping
from distsim.callbacks import Callback, Event
from distsim.cli.main import main
from distsim.problems import PROBLEMS
from distsim.specs import COMPLETE, NetworkId
from distsim.stopping import Stopped
from distsim.store import Storage, SweepStore, control
from distsim.store.control import PAUSE, RESUME, STOP, give
from distsim.store.epochs import epochs_kept
from distsim.sweep import heeding
from distsim.sweep.at_work import carry_out
from distsim.sweep.elsewhere import Elsewhere
from distsim.sweep.engine import Lines, LocalEngine
from distsim.sweep.order import Prepared, prepare
from distsim.verify.report import NOTE
from distsim.verify.store import verify_store

pytestmark = pytest.mark.usefixtures("blank_figures")

FLAGS = ("--local", "--device", "cpu", "--runs", 1, "--iterations", 3, "--epochs", 3, "--train-limit", 128)
FLAGS = (*FLAGS, "--probe", 100, "--metrics", "cka", "--measure", "none", "--no-chance", "--retention", "reference")
NETWORKS = (COMPLETE, NetworkId(0, 1), NetworkId(0, 2), NetworkId(0, 3))


def ordered(**asked: Any) -> Prepared:
    """The sweep of `FLAGS`, or one that differs from it."""
    problem = PROBLEMS["digits"].reduced_to(epochs=3, train_limit=128, probe=100)
    usual: dict[str, Any] = {"runs": 1, "iterations": 3, "metrics": ("cka",), "measure": (), "chance": False}
    return prepare(problem, **usual | {"resources": (("cpu", 1.0),)} | asked)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep without an interruption. Not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    assert carry_out([ordered()], Storage(folder), say=unheard)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same to change."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver of this process looks into its store at every step."""
    monkeypatch.setattr(heeding, "LOOK", 0.0)
    monkeypatch.setattr(heeding, "LOOK_REMOTE", 0.0)
    monkeypatch.setattr(heeding, "SHARE", math.inf)


def unheard(said: str) -> None:
    pass


def store_in(folder: Path) -> SweepStore:
    return SweepStore(Storage(folder), "digits")


class On(Callback):
    """Does something at the first of some events."""

    def __init__(self, name: str, do: Callable[[], object], run: int | None = None, iteration: int = 0) -> None:
        self.epochs: list[tuple[int, int]] = []
        self.begun = 0
        self._do, self._at, self._done = do, (name, run, iteration), False

    def on_begin(self, event: Event) -> None:
        self.begun += 1

    def on_epoch(self, event: Event) -> None:
        self.epochs.append((event["iteration"], event["epoch"]))
        self._hear("on_epoch", event)

    def on_network(self, event: Event) -> None:
        self._hear("on_network", event)

    def on_comparison(self, event: Event) -> None:
        self._hear("on_comparison", event)

    def _hear(self, name: str, event: Event) -> None:
        if not self._done and self._at == (name, event.get("run"), event.get("iteration", 0)):
            self._done = True
            self._do()


def ctl(*words: object) -> Outcome:
    return outcome(lambda: main(["ctl", *map(str, words)]))


# --- in this process -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("prompt")
def test_a_paused_sweep_goes_on_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """It is paused before it begins, and in the middle of a training."""
    root, said = Storage(tmp_path), list[str]()
    store, heard = store_in(tmp_path), On("on_epoch", lambda: give(root, PAUSE), 0, 2)
    kept: list[tuple[int, dict[NetworkId, int]]] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if sentence.startswith("paused by "):
            kept.append((len(heard.epochs), epochs_kept(store.storage)))
            assert outcome(lambda: main(["status", root.url])).out.endswith(f"\n{sentence}\n")
            give(root, RESUME)

    give(root, PAUSE)
    assert carry_out([ordered()], root, say=say, watcher=heard)
    assert kept[0] == (0, {}), "nothing was begun"
    assert re.fullmatch(rf"paused by \S+ on \S+ at [-\d: ]+ UTC; distsim ctl {root.url} resume goes on", said[0])
    assert re.fullmatch(r"goes on: resumed by \S+ on \S+ at [-\d: ]+ UTC", said[1])
    ((told, epochs),) = kept[1:]
    assert epochs == {NetworkId(0, 2): 1}, "the last epoch is kept"
    assert heard.epochs[told - 1] == (2, 1), "and the training was not over"
    after_rewinding = [(iteration, epoch) for iteration in (1, 2, 3) for epoch in (1, 2)]
    assert heard.epochs == [(0, 1), (0, 2), (0, 3), *after_rewinding], "none twice"
    assert heard.begun == 1
    assert store.digests() == store_in(whole).digests()


@pytest.mark.usefixtures("prompt")
def test_a_sweep_that_is_stopped_after_its_network(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, store = Storage(tmp_path), store_in(tmp_path)
    stop = On("on_epoch", lambda: give(root, STOP), 0, 1)
    monkeypatch.setattr(Lines, "on_epoch", lambda self, event: stop.on_epoch(event))
    status, _, err = run_script("digits", *FLAGS, "--storage", tmp_path)
    assert status == 130
    said = r"distsim: stopped by \S+ on \S+ at [-\d: ]+ UTC\. "
    kept = rf"{root.url} keeps 2 of 4 networks of digits\. To go on: python \S+digits\.py --local .*"
    assert re.fullmatch(rf"{said}{kept}\n", err)
    assert store.contents().networks == {*NETWORKS[:2]}, "it is finished, and the next not begun"
    assert store.contents().activations == {*NETWORKS[:2]}
    assert epochs_kept(store.storage) == {}
    assert run_script("digits", *FLAGS, "--storage", tmp_path).status == 0, "the next command is not concerned"
    assert store.digests() == store_in(whole).digests()


@pytest.mark.usefixtures("prompt")
def test_comparisons_stop_too(copy: Path, whole: Path) -> None:
    root, store = Storage(copy), store_in(copy)
    for network in NETWORKS[1:]:
        store.storage.delete_prefix(f"{network.path}/comparison")
    stop = On("on_comparison", lambda: give(root, STOP))
    with pytest.raises(Stopped, match=r"^stopped by "):
        carry_out([ordered()], root, say=unheard, watcher=stop)
    done, of_all = (len(store_in(folder).contents().comparisons) for folder in (copy, whole))
    assert 0 < done < of_all
    assert carry_out([ordered()], root, say=unheard)
    assert store.digests() == store_in(whole).digests()


TOGETHER: dict[str, dict[str, int]] = {"in turns": {"pack": 2}, "in one step": {"fuse": 2}}


@pytest.mark.usefixtures("prompt")
@pytest.mark.parametrize("way", TOGETHER)
def test_runs_that_train_together_are_paused_together(tmp_path: Path, way: str) -> None:
    """In the middle of an iteration. Each keeps its last epoch, and goes on from it."""
    asked = {"runs": 2, "iterations": 1, **TOGETHER[way]}
    assert carry_out([ordered(**asked)], Storage(tmp_path / "whole"), say=unheard)
    root, store = Storage(tmp_path / "paused"), store_in(tmp_path / "paused")
    heard, kept = On("on_epoch", lambda: give(root, PAUSE), 0, 1), list[dict[NetworkId, int]]()

    def say(sentence: str) -> None:
        if sentence.startswith("paused by "):
            kept.append(epochs_kept(store.storage))
            give(root, RESUME)

    assert carry_out([ordered(**asked)], root, say=say, watcher=heard)
    ((first, second),) = ((epochs.get(NetworkId(0, 1)), epochs.get(NetworkId(1, 1))) for epochs in kept)
    assert first == 1
    assert second == 1
    assert len(heard.epochs) == 3 + 2 * 2, "none twice"
    assert store.digests() == store_in(tmp_path / "whole").digests()


@pytest.mark.usefixtures("prompt")
def test_a_pause_on_an_object_store(tmp_path: Path) -> None:
    """With `distsim ctl`, as from another machine."""
    assert carry_out([ordered(iterations=1)], Storage(tmp_path), say=unheard)
    with s3_server.serving() as url, s3_server.exported(url):
        root = Storage(f"s3://{s3_server.BUCKET}/paused")
        heard, said = On("on_epoch", lambda: ctl(root.url, "pause"), 0, 1), list[str]()

        def say(sentence: str) -> None:
            said.append(sentence)
            if sentence.startswith("paused by "):
                assert epochs_kept(SweepStore(root, "digits").storage) == {NetworkId(0, 1): 1}, "within a training"
                assert f"\n{sentence}\n" in outcome(lambda: main(["status", root.url])).out
                assert ctl(root.url).out.splitlines()[0] == f"{root.url}: {sentence}"
                assert ctl(root.url, "resume").status == 0

        assert carry_out([ordered(iterations=1)], root, say=say, watcher=heard)
        assert [sentence.split()[0] for sentence in said if sentence.startswith(("paused", "goes"))] == [
            "paused",
            "goes",
        ]
        assert SweepStore(root, "digits").digests() == store_in(tmp_path).digests()


@pytest.mark.usefixtures("prompt")
def test_pairs_are_stopped_and_paused_too(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the tile that is under way. Then they go on with what is not compared yet."""
    other, root = Path(shutil.copytree(copy, tmp_path / "other")), Storage(copy)
    line = "--plan", "iterations", "--local", "--metrics", "cka"
    compare, done = LocalEngine.compare, list[list[object]]()

    def pairs(store: Path, instruct: Callable[[], object]) -> Outcome:
        def instructed(self: LocalEngine, orders: list[Prepared], jobs: list[Any]) -> list[str]:
            self.watcher = On("on_comparison", instruct) if not done else Callback()
            done.append(jobs)
            return compare(self, orders, jobs)

        done.clear()
        monkeypatch.setattr(LocalEngine, "compare", instructed)
        return outcome(lambda: main(["pairs", str(store), *line]))

    assert pairs(other, lambda: None).status == 0
    every = len(done[0])
    status, _, err = pairs(copy, lambda: give(root, STOP))
    assert status == 130
    assert re.fullmatch(
        rf"distsim: stopped by \S+ on \S+ at [-\d: ]+ UTC\. {copy} keeps the values that were compared\. .*\n", err
    )

    def pause() -> None:
        give(root, PAUSE)
        threading.Timer(0.3, give, (root, RESUME)).start()

    status, out, err = pairs(copy, pause)
    assert (status, err) == (0, "")
    assert re.search(r"^paused by \S+ on .*\n(.*\n)*goes on: resumed by ", out, re.MULTILINE)
    assert [len(jobs) for jobs in done] == [every - 1, every - 2]
    table = "digits/pair_results/iterations/pairs.parquet"
    assert (copy / table).read_bytes() == (other / table).read_bytes()


def test_a_finished_sweep_waits_for_nobody(copy: Path) -> None:
    give(Storage(copy), PAUSE)
    assert not carry_out([ordered()], Storage(copy), say=lambda said: pytest.fail(said))


def test_ctrl_c_ends_a_pause(tmp_path: Path) -> None:
    root = Storage(tmp_path)
    give(root, PAUSE)
    try:
        with pytest.raises(Stopped):
            carry_out([ordered()], root, say=lambda said: stopping.ask())
    finally:
        stopping.forget()
    assert stopping.heeded() is None


# --- on Ray ----------------------------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_on_ray_is_paused_by_its_workers_and_by_its_driver(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver looks once at the begin, and then not until it waits: so it is the trial that stops."""
    import ray

    root, store = Storage(tmp_path), store_in(tmp_path)
    monkeypatch.setattr(heeding, "LOOK", 3600.0)
    there: list[set[NetworkId]] = []

    def say(sentence: str) -> None:
        if sentence.startswith("paused by "):
            there.append(set(store.contents().networks))
            for _ in range(600):
                if ray.available_resources().get("CPU") == 2.0:
                    break
                time.sleep(0.1)
            else:
                pytest.fail(f"workers keep their room: {ray.available_resources()}")
            monkeypatch.setattr(heeding, "LOOK", 0.0)
            give(root, RESUME)

    class Pauses(Callback):
        def on_network(self, event: Event) -> None:
            if event["run"] is None:
                give(root, PAUSE)

        def on_comparison(self, event: Event) -> None:
            if len(there) == 1:
                give(root, PAUSE)

    assert carry_out([ordered()], root, local=False, say=say, watcher=Pauses())
    first, second = there
    assert first in ({*NETWORKS[:1]}, {*NETWORKS[:2]}), "the chain's trial has stopped early"
    assert second == {*NETWORKS}
    assert store.digests() == store_in(whole).digests()


# --- what is printed -------------------------------------------------------------------------------------------------


def test_it_shows_and_gives(copy: Path) -> None:
    root, digests, by = Storage(copy), store_in(copy).digests(), r"by \S+ on \S+ at [-\d: ]+ UTC"
    assert ctl(copy) == (0, f"{copy}: not paused\n  at work: no driver\n", "")
    status, out, err = ctl(copy, "pause")
    assert (status, err) == (0, "")
    waits = f"no driver is at work here: the next one waits until distsim ctl {copy} resume"
    assert re.fullmatch(rf"{copy}: instruction 1, pause, {by}\n  {waits}\n", out)
    root.put("control/000002.json", b"mine")
    lines = ctl(copy).out.splitlines()
    assert lines[0] == f"{copy}: {control.paused(root)}"
    assert lines[2].startswith(f"  control/000002.json in {copy} is damaged: ")
    assert re.fullmatch(rf"  000001 pause, {by}", lines[3])
    assert ("", control.paused(root)) in Elsewhere([store_in(copy)]).look().lines
    assert ctl(copy, "stop-after-iteration").out.endswith("\n  no driver is at work here, so this changes nothing\n")
    report = verify_store(root)
    assert report.whole
    (note,) = report.of(NOTE)
    assert str(note).startswith("control/000002.json: is not an instruction of distsim ctl, and is ignored: ")
    assert outcome(lambda: main(["repair", str(copy)])).status == 0
    assert len(root.sizes("control")) == 3, "nothing of it is removed"
    assert store_in(copy).digests() == digests


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    assert ctl(tmp_path, "pause") == (1, "", f"distsim: no sweep in {tmp_path}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_read_only(whole: Path, tmp_path: Path) -> None:
    at = tmp_path / "mounted"
    line: list[Any] = [*mounted(whole, at), sys.executable, "-m", "distsim", "ctl", at, "pause"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert re.fullmatch(
        rf"distsim: cannot write control/000001\.json in {at}: .*Read-only file system.*\n", done.stderr
    )
