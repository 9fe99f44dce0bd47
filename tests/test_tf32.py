"""TF32: the one switch of a process, and the sentences where there is no TF32.

Capture itself is tested in tests/training/test_device_discipline.py, on a device without hardware.
"""

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sweep_scripts import run_script

import distsim
from distsim.cli import main as cli
from distsim.problems import PROBLEMS
from distsim.specs import COMPLETE, Identity
from distsim.store import Storage, SweepStore
from distsim.sweep.order import prepare
from distsim.sweep.training_worker import TrainingWorker
from distsim.tf32 import Switch, set_tf32
from distsim.training import loop
from distsim.training.stepper import Arithmetic, Stepper, require_arithmetic

WAIT = 20.0  # seconds, at most, until another thread has come to where it must
SENTENCE = (
    "precision tf32 is an arithmetic of GPUs, and this is a CPU: use --precision float32, which is another sweep, or"
)
SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=60, train_limit=200)
TINY = ("--runs", 1, "--iterations", 1, "--epochs", 2, "--probe", 60, "--train-limit", 200, "--metrics", "cka")


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def off() -> Iterator[None]:
    """Off at first, as `settle` leaves it on a GPU, and afterwards as it was."""
    before = flags()
    set_tf32(False)
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


# --- the switch ------------------------------------------------------------------------------------------------------


class Other(threading.Thread):
    """A thread that goes into a block of the switch, tells so, and stays until it is let go."""

    def __init__(self, block: object) -> None:
        super().__init__(daemon=True)
        self.block, self.seen = block, None
        self.inside, self.released = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.block:  # type: ignore[attr-defined]
            self.seen = flags()
            self.inside.set()
            self.released.wait(WAIT)

    def let_go(self) -> None:
        self.released.set()
        self.join(WAIT)
        assert not self.is_alive()


def test_it_is_on_in_its_block_only() -> None:
    switch = Switch()
    with switch.products("tf32"):
        assert flags() == (True, True)
    assert flags() == (False, False)
    with pytest.raises(ZeroDivisionError), switch.tf32():
        1 / 0  # noqa: B018
    assert flags() == (False, False)
    for precision in ("float32", "bfloat16"):
        with switch.products(precision), switch.float32():
            assert flags() == (False, False)


def test_nobody_computes_in_float32_while_it_is_on() -> None:
    switch = Switch()
    capturing = Other(switch.tf32())
    assert capturing.inside.wait(WAIT)
    evaluating, other_capture = Other(switch.float32()), Other(switch.tf32())
    assert not evaluating.inside.wait(0.2)
    assert not other_capture.inside.wait(0.2)
    capturing.let_go()
    other_capture.released.set()
    assert evaluating.inside.wait(WAIT)
    evaluating.let_go()
    other_capture.join(WAIT)
    assert [thread.seen for thread in (capturing, other_capture, evaluating)] == [(True, True)] * 2 + [(False, False)]
    assert flags() == (False, False)


def test_it_waits_for_all_who_compute_in_float32_and_goes_before_later_ones() -> None:
    switch = Switch()
    extracting, evaluating = Other(switch.float32()), Other(switch.float32())
    assert extracting.inside.wait(WAIT)
    assert evaluating.inside.wait(WAIT), "many may hold it"
    capturing = Other(switch.tf32())
    assert not capturing.inside.wait(0.2)
    later = Other(switch.float32())
    extracting.let_go()
    assert not capturing.inside.wait(0.2)
    assert not later.inside.is_set(), "or it would never be on"
    evaluating.let_go()
    assert capturing.inside.wait(WAIT)
    capturing.let_go()
    assert later.inside.wait(WAIT)
    later.let_go()


def test_who_holds_it_may_take_it_again_while_another_waits() -> None:
    switch = Switch()
    with switch.float32():
        capturing = Other(switch.tf32())
        assert not capturing.inside.wait(0.2)
        with switch.float32():
            pass
    assert capturing.inside.wait(WAIT)
    capturing.let_go()


def test_a_thread_that_would_wait_for_itself_is_told_so() -> None:
    switch = Switch()
    with switch.float32(), pytest.raises(RuntimeError, match="inside a block of float32"), switch.tf32():
        pass
    with switch.tf32(), pytest.raises(RuntimeError, match="inside a block of tf32"), switch.float32():
        pass
    with switch.tf32(), pytest.raises(RuntimeError, match="inside a block of float32 or tf32"), switch.tf32():
        pass
    with switch.tf32():
        assert flags() == (True, True), "and nothing is left of it"


@pytest.mark.parametrize("who", ["evaluation", "extraction", "comparison"])
def test_evaluation_extraction_and_comparisons_wait_while_a_step_is_captured(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distsim.sweep import comparison_worker

    one = prepare(SMALL, runs=1, iterations=1, metrics=("cka",), chance=False)
    store = SweepStore(Storage(tmp_path), "digits")
    store.claim(one.sweep.identity)
    worker = TrainingWorker(store, one.sweep, one.dataset)
    worker.complete()
    trained, begun = store.load_network(COMPLETE), threading.Event()
    comparer = comparison_worker.ComparisonWorker(store, one.sweep)
    work = {
        "evaluation": lambda: worker.trainer.evaluated(trained),
        "extraction": lambda: worker.extract(COMPLETE, trained),
        "comparison": lambda: comparer.measure(COMPLETE, "conv1_1", ("cka",)),
    }[who]
    if who == "extraction":
        store.drop_activations(COMPLETE)
    capturing = Other(loop.SWITCH.tf32())
    assert capturing.inside.wait(WAIT)
    thread = threading.Thread(target=lambda: (begun.set(), work()), daemon=True)
    thread.start()
    assert begun.wait(WAIT)
    thread.join(1.0)
    assert thread.is_alive(), "it waits"
    capturing.let_go()
    thread.join(WAIT)
    assert not thread.is_alive()


# --- where there is no TF32 ------------------------------------------------------------------------------------------


def test_a_cpu_refuses_it_before_data_are_looked_for(tmp_path: Path) -> None:
    place = ("--storage", tmp_path / "store", "--data", tmp_path / "nowhere")
    for more in ((), ("--allow-slow",)):
        refused = run_script("cifar2", "--local", "--precision", "tf32", "--device", "cpu", *place, *more)
        assert (refused.status, refused.out, refused.err.count("\n")) == (1, "", 1)
        assert SENTENCE in refused.err
    assert not (tmp_path / "store").exists()


def test_python_and_workers_refuse_it_too(tmp_path: Path) -> None:
    asked = {"runs": 1, "iterations": 1, "metrics": "cka", "device": "cpu", "storage": tmp_path, "progress": False}
    with pytest.raises(ValueError, match=f"^{SENTENCE}"):
        distsim.run("digits", precision="tf32", epochs=2, probe=60, train_limit=200, **asked)
    one = prepare(SMALL, runs=1, iterations=1, metrics=("cka",), precision="tf32")
    worker = TrainingWorker(SweepStore(Storage(tmp_path), "digits"), one.sweep, one.dataset, allow_slow=True)
    with pytest.raises(ValueError, match=f"^{SENTENCE}"):
        worker.complete()
    with pytest.raises(ValueError, match=f"^{SENTENCE}"):
        Stepper(None, None, torch.zeros(1), SMALL.recipe, Arithmetic("tf32"))  # type: ignore[arg-type]


def test_a_gpu_that_has_no_tf32_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    require_arithmetic(Arithmetic("float32"), "cuda")
    with pytest.raises(
        ValueError, match=r"^precision tf32 needs .* capability 8\.0 or more, and Tesla T4 has 7\.5: use"
    ):
        require_arithmetic(Arithmetic("tf32"), "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    require_arithmetic(Arithmetic("tf32"), "cuda")


def test_a_store_that_was_trained_in_it_is_compared_on_a_cpu_but_not_extended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a GPU left it, but trained here in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distsim.training.stepper.require_precision", lambda *_: None)
        patch.setattr("distsim.sweep.order.require_precision", lambda *_: None)
        patch.setattr("distsim.training.stepper.SWITCH.products", lambda _: Switch().float32())
        script = run_script("digits", *TINY, "--local", "--no-chance", "--precision", "tf32", "--storage", tmp_path)
        assert (script.status, script.err) == (0, "")
    assert '"precision":"tf32"' in (tmp_path / "digits" / "spec.json").read_text()
    assert cli.main(["run", str(tmp_path), "--local"]) == 0
    assert cli.main(["compare", str(tmp_path), "--local", "--metrics", "svcca"]) == 0
    capsys.readouterr()
    assert cli.main(["run", str(tmp_path), "--local", "--runs", "2"]) == 1
    assert SENTENCE in capsys.readouterr().err


def test_both_arithmetics_are_in_the_identity_and_older_stores_have_neither() -> None:
    plain = Identity(SMALL, "0" * 64)
    assert "compile" not in plain.as_dict()
    assert not Identity.from_dict(plain.as_dict()).compile
    others = [dataclasses.replace(plain, compile=True), dataclasses.replace(plain, precision="tf32")]
    assert len({plain.hash, *(other.hash for other in others)}) == 3
    assert [Identity.from_dict(other.as_dict()).hash for other in others] == [other.hash for other in others]


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_gpu_trains_in_every_arithmetic(precision: str, compiled: bool, tmp_path: Path) -> None:
    """And evaluates in float32. CPU twins: test_device_discipline and test_compiling, in tests/training."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    digests = []
    for name in ("one", "two"):
        one = prepare(
            SMALL,
            runs=1,
            iterations=1,
            metrics=("cka",),
            device="cuda",
            precision=precision,
            compile=compiled,
            deterministic=True,
        )
        store = SweepStore(Storage(tmp_path / name), "digits")
        store.claim(one.sweep.identity)
        worker = TrainingWorker(store, one.sweep, one.dataset)
        event = worker.complete()
        assert flags() == (False, False)
        assert worker.trainer.evaluated(store.load_network(COMPLETE))["accuracy"] == event["accuracy"]
        digests.append(store.digests())
    assert digests[0] == digests[1]
