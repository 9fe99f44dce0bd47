"""Callbacks of `distsim.run`: what they hear, that they change no bit, and that their errors end nothing."""

import dataclasses
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import terminal
import torch

import distsim
from distsim.callbacks import METHODS
from distsim.problems import PROBLEMS
from distsim.store import Storage, SweepStore
from distsim.sweep.failures import SweepFailed

pytestmark = pytest.mark.usefixtures("blank_figures")

FEW: dict[str, Any] = {"runs": 1, "iterations": 2, "epochs": 2, "train_limit": 100, "probe": 50, "device": "cpu"}
FEW |= {"metrics": "cosine", "measure": (), "control": "none", "chance": False, "progress": False}


class Heard(distsim.Callback):
    """Notes everything."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Any]] = []
        for name in METHODS:
            setattr(self, name, lambda *event, name=name: self.all.append((name, *event) if event else (name, None)))

    def of(self, name: str) -> list[Any]:
        return [event for what, event in self.all if what == name]


class Meddling(distsim.Callback):
    """Changes what training depends on, and fails."""

    def on_epoch(self, event: dict[str, Any]) -> None:
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002  what a user's code may do
        random.seed(7)
        torch.set_grad_enabled(False)
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        event.clear()
        raise RuntimeError("the tracking server does not answer")


def digests(folder: Path) -> dict[str, str]:
    return SweepStore(Storage(folder), "digits").digests()


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Heard, Path]:
    folder, heard = tmp_path_factory.mktemp("heard"), Heard()
    distsim.run("digits", storage=folder, callbacks=[heard], **FEW)
    return heard, folder


def test_what_a_callback_hears(heard: tuple[Heard, Path]) -> None:
    told, _ = heard
    names = [name for name, _ in told.all]
    assert names[0] == "on_begin"
    assert names[-1] == "on_end"
    assert names.count("on_begin") == names.count("on_end") == 1
    assert told.of("on_begin") == [{"digits": {"networks": 3, "in_all": 3, "images": 256, "activations": 3}}]
    complete, *pruned = told.of("on_training")
    assert complete == {"problem": "digits", "run": None, "iteration": 0, "complete": 0, "control": ""} | {
        "epochs": 2,
        "images": 64,
        "iterations": 0,
    }
    assert [(event["run"], event["iteration"], event["iterations"]) for event in pruned] == [(0, 1, 2), (0, 2, 2)]
    epochs = told.of("on_epoch")
    assert [event["epoch"] for event in epochs] == [1, 2] + 2 * [*range(1, pruned[0]["epochs"] + 1)]
    study = distsim.open(heard[1])
    assert [event["loss"] for event in epochs[:2]] == study.network().record["train_loss"]
    networks = told.of("on_network")
    assert [(event["run"], event["iteration"]) for event in networks] == [(None, 0), (0, 1), (0, 2)]
    pruned_ones = [study.network(run=0, iteration=iteration) for iteration in (1, 2)]
    assert [event["accuracy"] for event in networks] == [
        network.record["accuracy"] for network in (study.network(), *pruned_ones)
    ]
    assert len(told.of("on_activations")) == 3
    assert told.of("on_comparison")[-1] == {"done": 2, "of": 2}
    assert [event["run"] for event in told.of("on_chain_end")] == [None, 0]
    assert told.of("on_failure") == told.of("on_died") == []


def test_a_callback_changes_no_bit_and_ends_nothing(heard: tuple[Heard, Path], tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    said = "the callback Meddling.on_epoch failed and is not called again: RuntimeError: the tracking server"
    with pytest.warns(UserWarning, match=said) as warned:
        distsim.run("digits", storage=tmp_path, callbacks=[Meddling(), Heard()], **FEW)
    assert len(warned) == 1
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == threads
    assert digests(tmp_path) == digests(heard[1])


def test_any_object_with_one_of_the_methods_will_do(heard: tuple[Heard, Path]) -> None:
    class Ended:
        over = False

        def on_end(self) -> None:
            self.over = True

    ended = Ended()
    distsim.run("digits", storage=heard[1], callbacks=[ended], **FEW)
    assert ended.over, "also where nothing is missing"


@pytest.mark.parametrize("callbacks", [Heard(), [print], ["on_epoch"], [Heard], "on_epoch"])
def test_what_is_no_callback(callbacks: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"callbacks.* distsim\.Callback.*, got "):
        distsim.run("digits", storage=tmp_path, callbacks=callbacks, **FEW)
    assert not list(tmp_path.iterdir())


def test_a_failure_is_heard(tmp_path: Path) -> None:
    digits = PROBLEMS["digits"]
    wild, heard = dataclasses.replace(digits, recipe=dataclasses.replace(digits.recipe, lr=1e30)), Heard()
    with pytest.raises(SweepFailed, match="training diverged"):
        distsim.run(wild, storage=tmp_path, callbacks=[heard], **FEW)
    (event,) = heard.of("on_failure")
    assert "training diverged" in event["sentence"]
    assert heard.all[-1] == ("on_end", None)


def test_the_example_for_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its curves, as TensorBoard's own reader finds them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    text = (Path(__file__).parents[1] / "docs" / "watching.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "watching.md", "exec"), {})
    study, curves = distsim.open("results/watched"), {}
    for name in ("complete", "run 0"):
        curves[name] = accumulator.EventAccumulator(f"board/digits/{name}").Reload()
    assert set(curves["complete"].Tags()["scalars"]) == {"loss/iteration 0", "accuracy", "parameters left"}
    losses = [event.value for event in curves["complete"].Scalars("loss/iteration 0")]
    np.testing.assert_allclose(losses, study.network().record["train_loss"], rtol=1e-6)
    accuracies = {event.step: event.value for event in curves["run 0"].Scalars("accuracy")}
    for iteration in (1, 2):
        record = study.network(run=0, iteration=iteration).record
        np.testing.assert_allclose(accuracies[iteration], record["accuracy"], rtol=1e-6)
        assert len(curves["run 0"].Scalars(f"loss/iteration {iteration}")) == record["epochs"]


def test_the_other_examples_are_python() -> None:
    text = (Path(__file__).parents[1] / "docs" / "watching.md").read_text()
    for block in re.findall(r"^```py\n(.*?)^```$", text, re.M | re.S):
        names = set(re.findall(r"def (on_\w+)", block))
        assert names <= set(METHODS)
        compile(block, "watching.md", "exec")


ON_A_TERMINAL = """
import sys, distsim
few = {"runs": 1, "iterations": 1, "epochs": 1, "train_limit": 100, "probe": 50, "device": "cpu"}
few |= {"metrics": "cosine", "measure": (), "control": "none", "chance": False}
distsim.run("digits", storage=sys.argv[0] + ".store", **few)
print("what comes afterwards")
"""


def test_run_shows_a_display_on_a_terminal(tmp_path: Path) -> None:
    with terminal.python(ON_A_TERMINAL, tmp_path) as screen:
        assert screen.status() == 0
    assert re.search(r"digits run 0 +1 of 1 +0 of 1 ", screen.seen)
    assert "2 of 2 networks, " in screen.seen
    assert "accuracy 0." not in screen.seen, "no lines"
    assert screen.seen.endswith("what comes afterwards\n\n")
