"""A sweep that is killed, at whatever stage, is brought to the same bits by the same command. The short form.

tests/faults/kills.py is the long one: the demo as it stands, killed twelve times.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.kills import PHASE, STAGES, Kill, KillsFailed, Sweep, Watch, differing, plan

from distsim.store import Storage, SweepStore

FLAGS = ("--runs", "2", "--iterations", "2", "--epochs", "3", "--train-limit", "200", "--probe", "60")


def digests(sweep: Sweep) -> dict[str, str]:
    return SweepStore(Storage(sweep.store), "digits").digests()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sweep, dict[str, str]]]:
    """The sweep without Ray and without a kill, and its digests."""
    with Sweep(tmp_path_factory.mktemp("uninterrupted"), "local", [*FLAGS, "--local"]) as sweep:
        sweep.finish()
        yield sweep, digests(sweep)


def test_a_process_killed_in_one_stage_after_the_other(
    uninterrupted: tuple[Sweep, dict[str, str]], tmp_path: Path
) -> None:
    reference, expected = uninterrupted
    with Sweep(tmp_path, "killed", [*FLAGS, "--local"]) as sweep:
        stages = {"commit": 2, "checkpoint": 1, "extraction": 1, "comparison": 9, "reduction": 1}
        for stage, occurrence in stages.items():
            struck = sweep.strike(Kill(stage, "driver", occurrence, 0.1), reference.watch.usual(stage))
            assert struck.hit[0] == stage  # a checkpoint is between two epochs
        sweep.finish()
        assert differing(digests(sweep), expected) == []


@pytest.mark.ray
def test_a_ray_sweep_killed_as_a_whole(uninterrupted: tuple[Sweep, dict[str, str]], tmp_path: Path) -> None:
    """Driver, workers and daemons, in the middle of a training. A worker alone: tests/test_ray_engine.py."""
    _, expected = uninterrupted
    with Sweep(tmp_path, "killed", FLAGS) as sweep:
        struck = sweep.strike(Kill("epoch", "tree"))
        assert "epoch" in struck.hit
        assert not struck.goes_on
        sweep.finish()
        assert differing(digests(sweep), expected) == [], "with Ray or without, killed or not"


# --- the instrument itself -------------------------------------------------------------------------------------------


def test_a_sweep_that_ends_before_it_could_be_killed_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('nothing is missing')")
    with (
        Sweep(tmp_path, "done", script=str(script)) as sweep,
        pytest.raises(KillsFailed, match=r"\(exit status 0\) before stage complete could be hit:\nnothing is missing"),
    ):
        sweep.strike(Kill("complete", "driver"))


def test_a_resume_that_fails_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit('cannot go on')")
    with Sweep(tmp_path, "broken", script=str(script)) as sweep, pytest.raises(KillsFailed, match=r"status 1:\ncannot"):
        sweep.finish()


def test_pieces_that_differ_are_named() -> None:
    assert differing({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "0", "d": "4"}) == ["b", "c", "d"]


def test_the_plan_hits_every_stage_in_the_sweeps_order() -> None:
    counts = Counter(
        complete=1, epoch=300, checkpoint=25, commit=25, extraction=25, comparison=192, reduction=1, figures=1
    )
    for seed in range(50):
        kills = plan(12, seed, counts)
        assert kills == plan(12, seed, counts)
        stages = [kill.stage for kill in kills]
        assert len(stages) == 12
        assert set(stages) == set(STAGES)
        assert [PHASE[stage] for stage in stages] == sorted(PHASE[stage] for stage in stages)
        for stage in STAGES:  # what may have been completed when the last one comes leaves some over
            assert sum(kill.occurrence for kill in kills if kill.stage == stage) <= max(counts[stage] / 2, len(kills))
        victims = " ".join(kill.victim for kill in kills)
        assert "worker worker worker" not in victims
        assert {"driver", "worker", "tree"} == set(victims.split())
    with pytest.raises(ValueError, match="8 stages are to be hit"):
        plan(7, 0, counts)


def test_stages_are_read_as_they_are_written(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "stages")
    assert watch.read() == []
    with open(watch.path, "w") as file:

        def write(text: str) -> list[tuple[int, str]]:
            file.write(text)
            file.flush()
            return watch.read()

        assert write("1.0 7 complete begin digits\n1.5 7 epoch 1\n2.0 7 epo") == [(7, "complete")]
        assert write("ch 2\n2.5 7 epoch 3\n3.0 7 complete end digits\n") == [], "the complete network's are no target"
        assert watch.inside(7) == ()
        assert write("4.0 7 epoch 2\n4.5 8 epoch 2\n5.0 7 epoch 3\n") == [(7, "epoch"), (8, "epoch")]
        assert (watch.inside(7), watch.inside(8)) == ((), ("epoch",)), "after the last epoch the training is over"
        assert write("5.5 7 training end digits run 0, iteration 1\n") == []
        assert write("6.0 7 commit begin digits run 0, iteration 1\n") == [(7, "commit")]
        assert watch.close(alive={7}) == ("epoch",)
        assert watch.close(alive=set()) == ("commit",)
        assert watch.close(alive=set()) == ()
    assert (watch.usual("complete"), watch.usual("epoch"), watch.usual("figures")) == (2.0, 1.0, 0.0)
