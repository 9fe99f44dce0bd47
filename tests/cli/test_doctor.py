"""What this machine can do, and what a sweep will take: measured, said, and refused where it cannot fit."""

import dataclasses
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sweep_scripts import outcome

from distsim import processor
from distsim.cli import doctor
from distsim.cli import main as cli
from distsim.cli.doctor import Measured, Way, advice, ways
from distsim.data import load
from distsim.environment import threads
from distsim.problems import PROBLEMS
from distsim.specs import NetworkId, Problem
from distsim.store import Storage
from distsim.sweep import cost, forecast, order
from distsim.sweep.engine import LocalEngine
from distsim.sweep.jobs import Comparison
from distsim.sweep.order import identify, prepare, take
from distsim.sweep.run import run
from distsim.training.chain import Trainer
from distsim.training.stepper import Stepper

pytestmark = pytest.mark.usefixtures("blank_figures")

TINY = PROBLEMS["digits"].reduced_to(epochs=3, probe=60, train_limit=200)


@pytest.mark.long
def test_doctor_measures_and_advises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "lacks_bfloat16", lambda: "")
    monkeypatch.setattr(doctor, "PATIENCE", 300.0)
    result = outcome(lambda: cli.main(["doctor", "digits", "--seconds", "0.1", "--storage", str(tmp_path / "store")]))
    assert (result.status, result.err) == (0, "")
    lines = [line.partition(" ")[::2] for line in result.out.splitlines()]
    heads = [head for head, _ in lines if head and head != "measuring"]
    assert heads[:6] == ["cores", "load", "memory", "GPU", "products", "storage"]
    for what in ("products", "storage", "training"):
        place = next(i for i, (head, _) in enumerate(lines) if head == what)
        assert lines[place - 1][0] == "measuring", "each measurement is said before it begins"
    training = [text for head, text in lines if head == "training"]
    expected = len(ways(processor.cores(), "cpu", "float32"))
    assert sum("float32" in text for text in training) == sum("bfloat16" in text for text in training) == expected
    assert all(re.search(r": [\d,]*[1-9][\d,]* images/s, \d", text) for text in training)
    told = [text for head, text in lines if head == "advice"]
    assert len(told) == 2
    assert all(re.search(r"--threads \d+.*: 4 runs x 6 iterations are 0 million images, about \d+ ", t) for t in told)
    assert Storage(tmp_path / "store").sizes() == {}, "what it wrote to see how fast that goes is gone"


class Clock:
    """A clock on which only work takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def working(self, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.now += seconds

        return work


@pytest.mark.parametrize(("flops", "sizes"), [(1e13, list(doctor.SIZES)), (1e9, [128, 256, 512]), (1e4, [128])])
def test_products_are_measured_from_small_to_large_until_one_takes_long(flops: float, sizes: list[int]) -> None:
    clock, multiplied = Clock(), []

    def multiplication(size: int) -> Callable[[], None]:
        multiplied.append(size)
        return clock.working(2 * size**3 / flops)

    rate = doctor.rate_of_products(multiplication, 1.0, clock)
    assert rate == pytest.approx(flops)
    assert multiplied == sizes
    assert clock.now <= 1.0 + 2 * sizes[-1] ** 3 / flops + 1e-6, "no other product begins after that"


def test_a_slow_storage_is_measured_by_fewer_objects() -> None:
    clock = Clock()
    names = [str(number) for number in range(16)]
    assert doctor._timed(lambda name: clock.working(2.0)(), names, 5.0, clock) == (3, 6.0)
    assert doctor._timed(lambda name: clock.working(0.1)(), names, 5.0, clock)[0] == 16
    assert doctor._timed(lambda name: clock.working(100.0)(), names, 5.0, clock) == (1, 100.0)


def test_training_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes are ended; the others are measured, and what has no measurement gets no advice."""
    started: list[subprocess.Popen[str]] = []
    run = subprocess.Popen

    def slow(command: list[str], **choices: Any) -> "subprocess.Popen[str]":
        started.append(run(["sleep", "20"], **choices))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", slow)
    assert doctor.measure(PROBLEMS["digits"], Way(2, 1, "bfloat16"), enough=0.0, patience=0.0) is None
    assert [process.poll() for process in started] == [-signal.SIGKILL] * 2
    said: list[str] = []
    monkeypatch.setattr(doctor, "PATIENCE", 0.0)
    monkeypatch.setattr(doctor, "measure", lambda problem, way, enough: None)
    assert doctor._training(PROBLEMS["digits"], [Way(2, 1, "bfloat16")], 0.0, said.append) == []
    way = "digits, bfloat16, 2 at once x 1 thread"
    announced, told = said
    assert announced == f"measuring training of {way}, about 0 s, at most 0 s"
    assert told == f"training  {way}: no step was finished in that time"
    assert doctor.advice(PROBLEMS["digits"], [], comparison=1e9, free=None) == []


def test_an_interrupt_ends_the_processes_that_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    run = subprocess.Popen

    def interrupted(command: list[str], **choices: Any) -> "subprocess.Popen[str]":
        started.append(run(["sleep", "20"], **choices))
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return started[-1]

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            doctor.measure(PROBLEMS["digits"], Way(1, 1, "float32"), enough=1.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert started[0].poll() == -signal.SIGKILL


def test_training_in_bfloat16_is_not_measured_where_it_is_lacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measure(problem: Problem, way: Way, enough: float) -> Measured:
        asked.append(way.precision)
        return Measured(way, 1000.0, 1e9)

    monkeypatch.setattr(doctor, "measure", measure)
    monkeypatch.setattr(processor, "lacks_bfloat16", lambda: "this processor lacks instructions for bfloat16 (x)")
    monkeypatch.setattr(doctor, "OF_PRODUCTS", 0.01)
    said: list[str] = []
    doctor.examine(PROBLEMS["digits"], str(tmp_path / "store"), "cpu", said.append)
    assert set(asked) == {"float32"}
    assert said[1].strip() == "this processor lacks instructions for bfloat16 (x)"
    assert "training  digits, bfloat16: not measured, since this processor does not have it" in said
    assert sum(line.startswith("advice") for line in said) == 1
    for what in ("products", "storage"):
        place = next(i for i, line in enumerate(said) if line.startswith(what))
        assert said[place - 1].startswith("measuring "), "each measurement is said before it begins"
        assert re.search(r"about [\d.]+ s$", said[place - 1])


@pytest.mark.parametrize("load", [1000.0, 0.0, None])
def test_doctor_looks_at_the_load_before_it_measures(
    load: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def average() -> tuple[float, float, float]:
        if load is None:
            raise OSError("unobtainable")
        return (load, 0.0, 0.0)

    monkeypatch.setattr("os.getloadavg", average)
    monkeypatch.setattr(doctor, "measure", lambda problem, way, enough: Measured(way, 1000.0, 1e9))
    monkeypatch.setattr(doctor, "OF_PRODUCTS", 0.01)
    said: list[str] = []
    doctor.examine(PROBLEMS["digits"], str(tmp_path / "store"), "cpu", said.append)
    text = next(line for line in said if line.startswith("load"))
    if load is None:
        assert text == "load      this system does not say"
    else:
        assert re.fullmatch(r"load      [\d.]+ by other processes", text)
    assert sum("other processes hold cores" in line for line in said) == bool(load)
    assert ("measured beside other processes" in said[-1]) == bool(load)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_slow_step_is_measured_with_few_images(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped: list[int] = []
    step = Stepper._step

    def count(stepper: Stepper) -> None:
        stepped.append(stepper.batch)
        step(stepper)

    monkeypatch.setattr(Stepper, "_step", count)
    with threads(1):
        monkeypatch.setattr(cost, "LONG", 1e9)
        assert cost.training_rate(TINY, 10, "cpu", precision, enough=0.0) > 0
        assert stepped == [cost.FEW] * 2 + [64] * 2, "the start says enough"
        stepped.clear()
        monkeypatch.setattr(cost, "LONG", 0.0)
        assert cost.training_rate(TINY, 10, "cpu", precision, enough=100.0) > 0
    assert stepped == [cost.FEW], "no second step, and none of a whole batch"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["doctor", "cifar3"], "distsim: unknown problem 'cifar3'; the problems are cifar2, "),
        (["doctor", "digits", "--device", "cuda"], "distsim: a GPU was asked for and PyTorch finds none"),
    ],
)
def test_what_doctor_cannot_do_is_a_sentence(arguments: list[str], sentence: str) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = outcome(lambda: cli.main(arguments))
    assert result.status == 1
    assert result.err.startswith(sentence)


def test_ways_use_all_cores() -> None:
    assert [(way.trials, way.threads) for way in ways(8, "cpu", "float32")] == [(8, 1), (4, 2), (1, 8)]
    assert [(way.trials, way.threads) for way in ways(3, "cpu", "float32")] == [(3, 1), (1, 3)]
    assert [(way.trials, way.threads) for way in ways(1, "cpu", "float32")] == [(1, 1)]
    assert [way.trials for way in ways(8, "cuda", "bfloat16")] == [1, 5, 20]


def test_the_fastest_way_is_advised_and_memory_is_minded() -> None:
    problem = dataclasses.replace(PROBLEMS["cifar2"], train_limit=1280, runs=2, iterations=5)
    found = [Measured(Way(4, 1, p), rate, 1e9) for p, rate in (("float32", 1000.0), ("bfloat16", 2000.0))]
    found += [Measured(Way(1, 4, p), 900.0, 1e9) for p in ("float32", "bfloat16")]
    images = 1280 * (50 + 10 * 47)
    plain, half = advice(problem, found, comparison=1e9, free=1e12)
    assert plain.startswith("advice    --threads 1 (4 at once): 2 runs x 5 iterations are 1 million images, about ")
    assert plain.endswith(cost.duration(images / 1000))
    assert half.startswith("advice    --threads 1 --precision bfloat16 (4 at once)")
    assert half.endswith(cost.duration(images / 2000))
    lines = advice(problem, found, comparison=1e9, free=5e9)
    assert "4 at once may need 8 GB" in lines[1]
    assert "lets 2 run at once" in lines[1]


@pytest.mark.parametrize(
    ("shape", "seconds"), [((5000, 16, 16, 64), 0.37), ((5000, 8, 8, 64), 0.24), ((5000, 256), 0.12)], ids=str
)
def test_comparisons_on_a_gpu_are_forecast_about_right(shape: tuple[int, ...], seconds: float) -> None:
    """An H100 makes 64 TFLOP/s of products in float64; seconds for a layer of a network, as its study took."""
    metrics = ("mean_cca", "svcca", "pwcca", "cka", "nbs")
    each = cost.layer_cost(shape, 2, 1, 1, metrics)
    found = each.seconds(64e12, device="cuda")
    assert found < 3 * seconds
    assert found > seconds / 3 or seconds < 0.2, "where more than the start of kernels counts"
    eigenvalues = cost.Cost(of_eigenvalues=4 / 3 * 5000**3)
    assert eigenvalues.seconds(64e12, device="cuda") == pytest.approx(0.2, rel=0.1), "they do not run as products do"
    assert eigenvalues.seconds(64e12) < 0.02


def test_the_rate_of_another_machines_gpu_is_not_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster's head may have no GPU, or another one: then no time is said."""
    one = prepare(TINY, runs=1, iterations=1, metrics=("cka",), device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    jobs = [Comparison("digits", "fc1", ((NetworkId(0, 1), ("cka",)),))]
    said = forecast.comparison_forecast([one], jobs, LocalEngine(Storage(tmp_path)))
    assert re.fullmatch(r"[\d.]+ \wB to read, [\d.e-]+ TFLOP", said)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cost, "_rate_on_gpu", lambda: 1e12)
    assert forecast.comparison_forecast([one], jobs, LocalEngine(Storage(tmp_path))).endswith(", about 1 s")
    assert cost.product_rate("cuda", here=False) is None


@pytest.mark.gpu
def test_products_of_a_gpu_are_measured_there() -> None:
    """CPU twin: test_the_rate_of_another_machines_gpu_is_not_made_up."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with threads(1):
        on_cpu, on_gpu = cost.product_rate(), cost.product_rate("cuda")
    assert on_cpu is not None
    assert on_gpu is not None
    assert on_gpu > on_cpu


@pytest.mark.parametrize("rewind", ["WR", "LRR", "FT"])
def test_images_to_train_are_those_that_are_trained_on(rewind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = dataclasses.replace(TINY, pruning=dataclasses.replace(TINY.pruning, rewind=rewind, finetune_epochs=4))
    data = load(problem, "")
    trainer = Trainer(identify(problem, data), data)
    passed: list[int] = []
    counted = Stepper._step

    def count(stepper: Stepper) -> None:
        passed.append(stepper.batch)
        counted(stepper)

    monkeypatch.setattr(Stepper, "_step", count)
    with threads(1):
        list(trainer.chain(0, trainer.complete(), iterations=2))
    assert cost.images_to_train(problem, 200, True, 2) == sum(passed)


def test_a_sweep_says_how_much_it_will_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def sweep_of(folder: str) -> None:
        one, root = prepare(TINY, runs=1, iterations=1, metrics=("cka",)), Storage(tmp_path / folder)
        take([one], root)
        run([one], root, LocalEngine(root), said.append)

    sweep_of("small")
    images = 3 * 64 * (3 + 2)
    assert f"digits: training on {images} images over all epochs" in said, "too few to be worth measuring"
    monkeypatch.setattr(forecast, "WORTH_MEASURING", 1)
    sweep_of("large")
    assert any(
        re.fullmatch(rf"digits: training on {images} images over all epochs, about \d+ s with 1 trial at once", s)
        for s in said
    )


def test_what_cannot_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep_scripts import SWEEPS, run_script

    monkeypatch.setattr(order, "free_memory", lambda: 1e5)
    result = run_script(SWEEPS / "digits.py", "--local", "--probe", 60, "--epochs", 2, "--storage", tmp_path / "store")
    assert result.status == 1
    assert re.search(
        r"comparing layer \w+ on 60 images takes [\d.]+ [kM]B of memory, but only 100 kB are free", result.err
    )
    assert not (tmp_path / "store" / "digits").exists(), "nothing was begun"


def test_memory_of_a_comparison_is_an_upper_bound() -> None:
    """What NumPy takes, for a layer with more features than examples and for one with fewer."""
    import tracemalloc

    import numpy as np

    from distsim.comparison.layer import Reference
    from distsim.comparison.sides import InMemory

    rng = np.random.default_rng(0)
    for shape in ((700, 8, 8, 16), (700, 8, 8, 4)):
        X, Y = (rng.standard_normal(shape).astype(np.float16) for _ in range(2))
        with threads(1):
            tracemalloc.start()
            Reference(InMemory(X), ("svcca", "cka", "nbs")).compare(InMemory(Y))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        bound = cost.comparison_memory(shape, shape[1])
        assert peak < bound
        assert peak > bound / 20, "a bound that says something"
