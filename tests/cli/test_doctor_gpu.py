"""`distsim doctor` on a GPU. Where there is none, the same measurements run on the CPU, or a process answers for it."""

import re
import sys
import time
from pathlib import Path

import pytest
import torch
from sweep_scripts import outcome

from distsim.cli import doctor, doctor_gpu
from distsim.cli import main as cli
from distsim.cli.doctor import Way
from distsim.cli.doctor_gpu import answers, examine, measurements
from distsim.environment import threads
from distsim.problems import PROBLEMS
from distsim.sweep import cost

DIGITS = PROBLEMS["digits"]
ANSWERS = """
import json, sys, time
for answer in [
    {"next": "products of matrices on the GPU"}, {"line": "products  float64 64 TFLOP/s"},
    {"next": "packs of 1"}, {"precision": "float32", "pack": 1, "rate": 1000.0, "memory": 2e9},
    {"next": "packs of 5"}, {"precision": "float32", "pack": 5, "rate": 3000.0, "memory": 3e9},
    {"next": "packs of 20"},
]:
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKS", (1, 3))
    monkeypatch.setattr(doctor_gpu, "OF_PRODUCTS", 0.01)
    monkeypatch.setattr(doctor_gpu, "COPIED", 2**20)
    monkeypatch.setattr(doctor_gpu, "OF_STORAGE", 0.1)


@pytest.mark.usefixtures("small")
def test_products_copies_and_packs_are_measured_and_said_before() -> None:
    with threads(1):
        found = list(measurements(DIGITS, 0.01, "cpu", sizes=(32, 64)))
    assert ["next" in answer for answer in found] == [True, False] * 6
    said = [answer["next"] for answer in found[::2]]
    assert said[0].startswith("products of matrices on the GPU, about 0.04 s")
    assert said[1:3] == [
        "copies to, from and within the GPU",
        "training of digits, float32, a pack of 1, about 0.01 s and its start",
    ]
    products, copies, *training = found[1::2]
    names = ("float64", "float32", "tf32", "bfloat16")
    assert re.fullmatch("products  " + ", ".join(rf"{name} [\d.e-]+ TFLOP/s" for name in names), products["line"])
    assert re.fullmatch(r"copies    from memory \S+ \wB/s, to memory \S+ \wB/s, within \S+ \wB/s", copies["line"])
    assert [(one["precision"], one["pack"]) for one in training] == [
        ("float32", 1),
        ("float32", 3),
        ("bfloat16", 1),
        ("bfloat16", 3),
    ]
    assert all(one["rate"] > 0 for one in training)


@pytest.mark.usefixtures("small")
def test_what_a_gpu_cannot_do_does_not_end_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(device: str) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(doctor_gpu, "copies", no_room)
    with threads(1):
        found = list(measurements(DIGITS, 0.01, "cpu", sizes=(32,)))
    assert found[3] == {"failed": "CUDA out of memory."}
    assert sum("rate" in answer for answer in found) == 4


def test_a_larger_pack_goes_on_with_the_runs_of_the_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    init = cost._Lane.__init__

    def count(*args: object) -> None:
        made.append("lane")
        init(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(cost._Lane, "__init__", count)
    with threads(1):
        rates = cost.pack_rates(DIGITS, 10, "cpu", "float32", (1, 3), 0.0)
        assert next(rates) > 0
        assert len(made) == 1
        assert next(rates) > 0
    assert len(made) == 3


@pytest.mark.usefixtures("small")
def test_it_ends_in_time_whatever_the_gpu_does(tmp_path: Path) -> None:
    said: list[str] = []
    hanging = [sys.executable, "-c", ANSWERS + "time.sleep(600)"]
    measured = examine(DIGITS, str(tmp_path), said.append, 1.0, 10.0, lambda request: hanging)
    assert [(one.way, one.rate) for one in measured] == [
        (Way(1, 1, "float32", "cuda"), 1000.0),
        (Way(5, 1, "float32", "cuda"), 3000.0),
    ]
    place = said.index("measuring the GPU, until 10 s have passed since the start")
    assert said[place + 1 : place + 8] == [
        "measuring products of matrices on the GPU",
        "products  float64 64 TFLOP/s",
        "measuring packs of 1",
        "training  digits, float32, a pack of 1: 1,000 images/s, 2 GB of the GPU's memory",
        "measuring packs of 5",
        "training  digits, float32, a pack of 5: 3,000 images/s, 3 GB of the GPU's memory",
        "measuring packs of 20",
    ]
    assert said[place + 8] == "          packs of 20: not finished in time; what comes after it is not measured"
    advice = next(line for line in said if line.startswith("advice"))
    assert advice.startswith("advice    --device cuda --pack 5: 4 runs x 6 iterations are ")


def test_a_process_that_fails_says_why() -> None:
    found = list(answers([sys.executable, "-c", ANSWERS + "sys.exit('no driver')"], time.monotonic() + 300))
    assert found[-1] == {"failed": "no driver"}
    assert len(found) == 8


def test_a_process_that_is_not_waited_for_ends() -> None:
    arriving = answers([sys.executable, "-c", ANSWERS + "time.sleep(600)"], time.monotonic() + 300)
    assert next(arriving) == {"next": "products of matrices on the GPU"}
    arriving.close()  # as by Ctrl-C; it returns when the process has ended


@pytest.mark.gpu
def test_doctor_measures_the_gpu(tmp_path: Path) -> None:
    """CPU twin: test_it_ends_in_time_whatever_the_gpu_does."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    result = outcome(lambda: cli.main(["doctor", "cifar2", "--device", "cuda", "--storage", str(tmp_path / "store")]))
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    heads = [line.partition(" ")[0] for line in lines]
    assert {"products", "copies", "training", "advice"} <= set(heads)
    assert any(line.startswith("advice    --device cuda --pack ") for line in lines)
