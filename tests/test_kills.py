"""A sweep that is killed, at whatever stage, is brought to the same bits by the same command. The short form.

tests/faults/suite.py is the long one: by Ray, two hundred kills. Most of what is here tests it and its instrument.
"""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faults import processes, suite
from faults.kills import PHASE, STAGES, Begin, Kill, KillsFailed, Missed, Struck, Sweep, Watch, differing
from faults.suite import NOTHING, Journal, Suite, plan, report, table, verdict, write

from distsim.store import Storage, SweepStore

FLAGS = ("--local", "--runs", "1", "--iterations", "2", "--epochs", "3", "--train-limit", "200", "--probe", "60")


@pytest.mark.long
def test_a_process_killed_in_one_stage_after_the_other(tmp_path: Path) -> None:
    """Without Ray. A worker of Ray's alone: tests/test_ray_engine.py."""

    def digests(sweep: Sweep) -> dict[str, str]:
        return SweepStore(Storage(sweep.store), "digits").digests()

    with Sweep(tmp_path, "undisturbed", FLAGS) as undisturbed:
        undisturbed.finish()
    with Sweep(tmp_path, "killed", FLAGS) as sweep:
        for stage, occurrence in {"checkpoint": 2, "comparison": 9}.items():
            struck = sweep.strike(Kill(stage, "driver", occurrence, 0.1), undisturbed.watch.usual(stage))
            assert struck.hit[0] == stage  # a checkpoint is between two epochs
        sweep.finish()
        assert differing(digests(sweep), digests(undisturbed)) == []


@pytest.mark.long
def test_a_group_of_fused_runs_killed_within_its_training_and_between_its_commits(tmp_path: Path) -> None:
    flags = ("--local", "--fuse", "2", "--runs", "2", *FLAGS[3:])

    def digests(sweep: Sweep) -> dict[str, str]:
        return SweepStore(Storage(sweep.store), "digits").digests()

    with Sweep(tmp_path, "undisturbed", flags) as undisturbed:
        undisturbed.finish()
    with Sweep(tmp_path, "killed", flags) as sweep:
        for stage, occurrence in {"epoch": 1, "commit": 2}.items():
            struck = sweep.strike(Kill(stage, "driver", occurrence, 0.1), undisturbed.watch.usual(stage))
            assert struck.hit[0] == stage
        sweep.finish()
        assert differing(digests(sweep), digests(undisturbed)) == []


# --- the instrument itself -------------------------------------------------------------------------------------------


def test_a_sweep_that_ends_before_it_could_be_killed_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('nothing is missing')")
    with (
        Sweep(tmp_path, "done", script=str(script)) as sweep,
        pytest.raises(Missed, match=r"\(exit status 0\) before stage complete could be hit:\nnothing is missing"),
    ):
        sweep.strike(Kill("complete", "driver"))


def test_a_resume_that_fails_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit('cannot go on')")
    with Sweep(tmp_path, "broken", script=str(script)) as sweep:
        with pytest.raises(KillsFailed, match=r"status 1:\ncannot"):
            sweep.finish()
        with pytest.raises(KillsFailed, match=r"\(exit status 1\) before stage commit") as failed:
            sweep.strike(Kill("commit", "driver"))
        assert not isinstance(failed.value, Missed)


def test_pieces_that_differ_are_named() -> None:
    assert differing({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "0", "d": "4"}) == ["b", "c", "d"]


def test_stages_are_read_as_they_are_written(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "stages")
    assert watch.read() == []
    with open(watch.path, "w") as file:

        def begins(text: str) -> list[tuple[int, str]]:
            file.write(text)
            file.flush()
            return [(begin.pid, begin.stage) for begin in watch.read()]

        assert begins("1.0 7 complete begin digits\n1.5 7 epoch 1\n2.0 7 epo") == [(7, "complete")] * 2
        assert begins("ch 2\n2.5 7 epoch 3\n3.0 7 complete end digits\n") == [(7, "complete")] * 2, "after each epoch"
        assert watch.inside(7) == ()
        assert begins("3.5 8 training begin digits run 1, iteration 2\n") == []
        assert begins("4.0 7 epoch 2\n4.5 8 epoch 2\n5.0 7 epoch 3\n") == [(7, "epoch"), (8, "epoch")]
        assert (watch.inside(7), watch.inside(8)) == ((), ("epoch",)), "after the last epoch the training is over"
        assert begins("5.5 7 training end digits run 0, iteration 1\n") == []
        assert begins("6.0 7 commit begin digits run 0, iteration 1\n") == [(7, "commit")]
        training = ("training", "digits run 1, iteration 2")
        assert watch.close(alive={7}) == (Begin(4.5, 8, "epoch", training),)
        assert [begin.stage for begin in watch.close(alive=set())] == ["commit"]
        assert watch.close(alive=set()) == ()
        assert begins("7.0 9 training begin digits run 1, iteration 2\n7.1 9 checkpoint begin runs/0001\n") == [
            (9, "checkpoint")
        ]
        assert watch.again(training, since=4.6) == 7.0
        assert watch.again(training, since=7.0) is None
        (checkpoint,) = watch.close(alive=set())
        assert checkpoint.unit == training, "which is what has to be done again"
    assert (watch.usual("complete"), watch.usual("epoch"), watch.usual("figures")) == (2.0, 1.0, 0.0)


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The pid of a process that does nothing."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


def test_who_is_past_a_stage_is_stopped_in_the_next(tmp_path: Path, sleeper: int) -> None:
    watch = Watch(tmp_path / "stages")
    watch.path.write_text(f"1.0 {sleeper} commit begin a\n1.1 {sleeper} commit end a\n")
    assert watch.freeze(Kill("commit", "worker", or_later=True), 0.0, lambda: True) is None, "it is over"
    assert _state(sleeper) != "T"
    watch.path.write_text(f"{watch.path.read_text()}2.0 {sleeper} comparison begin b\n")
    watch = Watch(watch.path)
    assert watch.freeze(Kill("commit", "worker"), 0.0, lambda: True) is None, "not asked for"
    watch = Watch(watch.path)
    assert watch.freeze(Kill("epoch", "worker", or_later=True), 0.0, lambda: True) == sleeper
    assert _state(sleeper) == "T"


def test_no_worker_is_in_a_stage_of_the_driver(tmp_path: Path, sleeper: int) -> None:
    watch = Watch(tmp_path / "stages")
    watch.path.write_text(f"1.0 {sleeper} reduction begin digits\n")
    assert watch.freeze(Kill("comparison", "worker", or_later=True), 0.0, lambda: True) is None
    assert _state(sleeper) != "T"
    assert watch.freeze(Kill("reduction", "driver"), 0.0, lambda: True) == sleeper, "the next kill finds it still"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# --- the suite -------------------------------------------------------------------------------------------------------

BEGUN = Counter(
    complete=1, epoch=60, checkpoint=13, commit=13, extraction=13, comparison=104, reduction=1, figures=1
)  # fmt: skip

# A sweep without Ray or distsim: files in a folder, a stage each, and nothing that is there already is done again.
SCRIPT = """
import os, sys, time
from pathlib import Path

def announce(*words):
    with open(os.environ["DISTSIM_STAGES"], "a") as file:
        file.write(f"{time.time():.4f} {os.getpid()} {' '.join(map(str, words))}\\n")

def done(stage, number):
    file = Path(sys.argv[-1], f"{stage}-{number}")
    if file.exists():
        return True
    if stage == "epoch":
        announce("training", "begin", number)
        announce("epoch", 1)
    else:
        announce(stage, "begin", number)
    time.sleep(0.01)
    file.write_text(CONTENT)
    announce(*(("epoch", 2) if stage == "epoch" else (stage, "end", number)))

STAGES = [("complete", 0)]
STAGES += [(stage, n) for n in range(20) for stage in ("epoch", "checkpoint", "commit", "extraction")]
STAGES += [("comparison", n) for n in range(20)] + [("reduction", 0), ("figures", 0)]
if Path(sys.argv[-1]).exists():
    RESUME
Path(sys.argv[-1]).mkdir(exist_ok=True)
announce("complete", "begin", 0), announce("epoch", 2), announce("complete", "end", 0)
print("nothing is missing" if all([done(*stage) for stage in STAGES]) else "something was missing")
"""


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What such a sweep makes."""
    monkeypatch.setattr(suite, "contents", lambda store: {file.name: file.read_text() for file in store.iterdir()})


def fake_suite(folder: Path, content: str = "'done'", resume: str = "pass") -> Suite:
    script = folder / "script.py"
    script.write_text(SCRIPT.replace("CONTENT", content).replace("RESUME", resume))
    return Suite(folder / "suite", seed=1, script=str(script))


def test_the_plan_comes_to_every_stage_in_the_sweeps_order() -> None:
    for number in range(50):
        kills = plan(0, number, BEGUN)
        assert kills == plan(0, number, BEGUN)
        assert Counter(kill.victim for kill in kills) == {"worker": 12, "driver": 6, "group": 2}
        stages = [kill.stage for kill in kills]
        assert set(stages) == set(STAGES)
        assert [PHASE[stage] for stage in stages] == sorted(PHASE[stage] for stage in stages)
        assert not any(kill.victim == "worker" for kill in kills if kill.stage in ("reduction", "figures"))
        for stage in STAGES[1:]:  # what may have been completed when the last one comes leaves some over
            aimed_at = [kill.occurrence for kill in kills if kill.stage == stage]
            assert sum(aimed_at) <= max(BEGUN[stage] / 2, len(aimed_at))
        training, comparing = (
            "".join(kill.victim[0] for kill in kills if PHASE[kill.stage] in phases) for phases in ((0, 1), (2,))
        )
        assert "wwww" not in training, "Ray gives up a trial whose worker dies a fourth time"
        assert "wwww" not in comparing
    assert plan(0, 1, BEGUN) != plan(1, 1, BEGUN)
    assert plan(0, 1, BEGUN) != plan(0, 2, BEGUN)


def test_a_round_kills_as_often_as_it_must(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = fake_suite(tmp_path)
    fake.run(rounds=1)
    kills = fake.journal.kills()
    assert [kill["number"] for kill in kills] == list(range(1, 21))
    assert Counter(kill["victim"] for kill in kills) == suite.ROUND
    assert all(kill["stage"] == kill["cut_off"][0].split()[0] for kill in kills), "it is one process, and it is dead"
    (end,) = fake.journal.lines("end")
    assert end["wrong"] == []
    assert len(end["resumed_after"]) == 20
    assert verdict(fake.journal, rounds=1) == []
    assert verdict(fake.journal, rounds=2) == ["1 of 2 rounds are missing"]
    assert "| all" in report(fake)
    assert capsys.readouterr().out.count("victim") == 20

    before = fake.journal.path.read_text()
    Suite(fake.folder, fake.seed, fake.flags, fake.script).run(rounds=1)
    assert fake.journal.path.read_text() == before, "it is done"

    lines = before.splitlines()
    fake.journal.path.write_text("\n".join(lines[:-3]) + lines[-3][:20])  # as if killed while it wrote of a kill
    assert fake.journal.kills() == []
    fake.run(rounds=1)
    assert len(fake.journal.kills()) == 20, "the round began anew"
    with pytest.raises(ValueError, match="holds a suite of other seed and code: use"):
        Suite(fake.folder, seed=2)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"content": "str(os.getpid())"}, "round 1: comparison-0 differs"),
        ({"resume": "sys.exit('cannot go on')"}, "round 1: the sweep ended (exit status 1)"),
    ],
    ids=["other bits", "no resume"],
)
def test_a_round_that_went_wrong_stays_wrong(tmp_path: Path, change: dict[str, str], complaint: str) -> None:
    wrong = fake_suite(tmp_path, **change)
    wrong.run(rounds=1)
    wrong.run(rounds=1)
    assert len(wrong.journal.lines("begin")) == 1
    assert any(sentence.startswith(complaint) for sentence in verdict(wrong.journal, rounds=1))


def test_an_interrupted_suite_leaves_no_process(tmp_path: Path) -> None:
    """Python's own handling of SIGTERM would end the suite and nothing else."""
    program = (
        f"import functools, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from faults import suite\n"
        f"suite.Suite = functools.partial(suite.Suite, script={str(tmp_path / 'sleeps.py')!r})\n"
        f"suite.main(['--rounds', '1', '--folder', {str(tmp_path / 'suite')!r}])"
    )
    (tmp_path / "sleeps.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)")
    with subprocess.Popen([sys.executable, "-c", program]) as running:
        log = tmp_path / "suite" / "undisturbed.log"
        while not log.exists() or not log.read_text():
            assert running.poll() is None
            time.sleep(0.01)
        driver = int(log.read_text())
        assert processes.members(driver) == {driver}
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 128 + signal.SIGTERM
    left = processes.members(driver)
    processes.kill(left)
    assert left == set()


def lines_of(kills: int = 20, **changes: object) -> list[dict[str, object]]:
    """A journal of ten rounds."""
    made: list[dict[str, object]] = []
    for number in range(1, 11):
        made.append({"what": "begin", "round": number})
        victims = [victim for victim, count in suite.ROUND.items() for _ in range(count)][:kills]
        for place, victim in enumerate(victims):
            made.append({"what": "kill", "round": number, "stage": STAGES[place % 8], "victim": victim} | changes)
        made.append({"what": "end", "round": number, "wrong": [], "seconds": 1.0, "resumed_after": []})
    return made


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (lines_of(), []),
        (lines_of(kills=19), ["10 kills of a group instead of 20"]),
        (lines_of(stage="commit"), [f"stage {stage} was never cut off" for stage in STAGES if stage != "commit"]),
        (lines_of()[:-1], ["1 of 10 rounds are missing"]),
    ],
    ids=["all is well", "too few", "stages left out", "interrupted"],
)
def test_the_verdict_on_ten_rounds(tmp_path: Path, lines: list[dict[str, object]], wrong: list[str]) -> None:
    journal = Journal(tmp_path / "kills.jsonl")
    journal.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert verdict(journal, rounds=10) == wrong


def test_the_table_counts_every_kill_once(tmp_path: Path) -> None:
    kills = [{"stage": "commit", "victim": "worker"}] * 3 + [{"stage": NOTHING, "victim": "driver"}]
    rows = {cells[0]: cells[1:] for line in table(kills).splitlines() if (cells := line.strip("| ").split(" | "))}
    rows = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    assert rows["commit"] == ["3", "0", "0", "3"]
    assert rows["figures"] == ["0", "0", "0", "0"]
    assert rows[suite.NAMES[NOTHING]] == ["0", "1", "0", "1"]
    assert rows["all"] == ["3", "1", "0", "4"]
    assert suite.NAMES[NOTHING] not in table(kills[:3])

    document = tmp_path / "reliability.md"
    write(document, "first")
    assert document.read_text().startswith("# Reliability\n")
    document.write_text(document.read_text() + "\nwhat follows\n")
    write(document, r"second \1")
    assert document.read_text().endswith("<!-- kills: begin -->\nsecond \\1\n<!-- kills: end -->\n\nwhat follows\n")
    assert "first" not in document.read_text()


def test_a_resume_is_seen_where_something_is_begun_again(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "stages")
    watch.path.write_text("5.0 7 commit begin a\n6.5 8 commit begin a\n")
    watch.read()
    cut_off = Begin(5.0, 7, "commit", ("commit", "a"))
    struck = Struck(5.5, "worker", (cut_off,), True, ())
    assert suite._resumed_after(struck, watch) == 1.0
    assert suite._resumed_after(replace(struck, at=7.0), watch) is None
    assert suite._resumed_after(replace(struck, cut_off=()), watch) is None
