"""`distsim compare-models`: what it prints and writes, and what it says of mistakes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sweep_scripts import Outcome, outcome

from distsim import metrics
from distsim.cli import main as cli
from distsim.data.loose import read_images
from distsim.environment import threads

SCRIPT = """
import torch
from torch import nn

torch.manual_seed(0)
class Small(nn.Sequential):
    def __init__(self, width=6, channels=1):
        super().__init__(nn.Conv2d(channels, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 5))
class Takes(Small):
    def forward(self, pixels): return super().forward(pixels)
def colour(): return Small(4, 3)
def fails(): raise RuntimeError("no GPU here")
def needs(width): return Small(width)
text = "x"
wide = Small(9)
inputs = torch.rand(50, 1, 8, 8)
def batches(): return [{"pixels": part, "label": torch.zeros(len(part))} for part in inputs.split(20)]
def broken():
    yield inputs
    raise OSError("the disk is gone")
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "nets.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTSIM_DATA", str(tmp_path / "nowhere"))
    with threads(1), torch.random.fork_rng(devices=[]):
        yield tmp_path


def run(*words: object) -> Outcome:
    return outcome(lambda: cli.main(["compare-models", *map(str, words), "--device", "cpu"]))


def test_it_prints_a_table_and_writes_table_and_figure(here: Path) -> None:
    done = run("nets.py:Small", "big=nets.py:wide", "--data", "digits", "--examples", 300, "--out", "o")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("cka: layers of Small (rows) and of big\n")
    assert done.out.endswith("o/compare_Small_big.csv and .png\n")
    table = pd.read_csv("o/compare_Small_big.csv")
    assert table["layer_x"].tolist() == ["0", "0", "3", "3"] or table["layer_x"].tolist() == [0, 0, 3, 3]
    assert set(table["n"]) == {300}
    assert f"{table['value'][0]:.3f}".rstrip("0") in done.out
    assert (here / "o" / "compare_Small_big.png").read_bytes().startswith(b"\x89PNG")


def test_it_says_what_was_compared_and_what_it_replaced() -> None:
    models = ("nets.py:Small", "big=nets.py:wide")
    said = run(*models, "--data", "digits", "--examples", 300).out
    assert "\ncompared on 300 inputs, each 1 x 8 x 8, from digits (at most --examples 300)\n" in said
    assert said.endswith("compare_Small_big.csv and .png\n")
    said = run(*models, "--data", "nets.py:inputs").out
    assert "\ncompared on 50 inputs, each 1 x 8 x 8, from nets.py:inputs (at most --examples 1000)\n" in said
    assert said.endswith("compare_Small_big.csv and .png, in place of those of an earlier comparison\n")


def test_three_models_of_a_script_with_its_own_batches() -> None:
    words = ("nets.py:Takes", "nets.py:Takes", "nets.py:wide", "--data", "nets.py:batches", "--batch", "pixels")
    done = run(*words, "--layers", "Conv2d", "3", "--metric", "cka", "svcca")
    assert done.status == 0, done.err
    table = pd.read_csv("compare_Takes_Takes-2_wide.csv")
    assert list(dict.fromkeys(zip(table["model_x"], table["model_y"], strict=True))) == [
        ("Takes", "Takes 2"),
        ("Takes", "wide"),
        ("Takes 2", "wide"),
    ]
    assert len(table) == 3 * 4 * 2


def test_files_of_activations_and_of_inputs(here: Path) -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(60, 8)), rng.normal(size=(60, 5)).astype(np.float32)
    np.save("x.npy", X)
    np.savez("two.npz", a=X, b=Y)
    save_file({"a": torch.from_numpy(Y)}, "y.safetensors")
    assert run("x.npy", "two.npz", "y.safetensors").status == 0
    table = pd.read_csv("compare_x_two_y.csv").set_index(["model_x", "model_y", "layer_x", "layer_y"])
    assert table.loc[("x", "two", "x", "a"), "value"] == pytest.approx(1, abs=1e-6)
    assert table.loc[("two", "y", "a", "a"), "value"] == pytest.approx(metrics.cka(X, Y), abs=1e-6)
    np.save("images.npy", rng.random((50, 1, 8, 8)))
    np.savez("named.npz", pixels=rng.random((50, 1, 8, 8)), more=np.zeros(50))
    assert run("nets.py:wide", "nets.py:Small", "--data", "images.npy").status == 0
    assert run("nets.py:Takes", "nets.py:Takes", "--data", "named.npz").status == 0


def test_layers_of_a_safetensors_file_are_in_the_order_of_their_numbers() -> None:
    rng = np.random.default_rng(0)
    names = ["conv1", "conv2", "conv10", "conv10.b", "fc"]
    made = {name: torch.from_numpy(rng.random((30, 4))) for name in names}
    save_file(made, "a.safetensors")
    assert run("a.safetensors", "b=a.safetensors").status == 0
    assert list(dict.fromkeys(pd.read_csv("compare_a_b.csv")["layer_x"])) == names


def test_folders_of_images(here: Path) -> None:
    rng = np.random.default_rng(0)
    for place in range(9):
        file = here / "pictures" / f"{place % 2}" / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(file)
    (here / "pictures" / ".hidden.png").write_text("no image")
    words = ("nets.py:colour", "nets.py:colour", "--data", "folder:pictures", "--size", 8)
    for normalise in ("none", "imagenet", "data"):
        done = run(*words, "--normalise", normalise)
        assert done.status == 0, done.err
    assert set(pd.read_csv("compare_colour_colour-2.csv")["n"]) == {9}
    grey = run("nets.py:Small", "nets.py:wide", "--data", "folder:pictures", "--size", 8, "--grey", "--examples", 4)
    assert grey.status == 0, grey.err
    assert set(pd.read_csv("compare_Small_wide.csv")["n"]) == {4}
    few = read_images(here / "pictures", 8, 3, 4)
    np.testing.assert_array_equal(few, read_images(here / "pictures", 8, 3, 9)[[0, 2, 4, 6]])
    (here / "pictures" / "1" / "bad.png").write_text("no image")
    assert "cannot read image" in run(*words).err
    (here / "empty").mkdir()
    assert run("nets.py:colour", "nets.py:colour", "--data", "folder:empty").err.startswith("distsim: no image in ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nets.py:Small",), "there is one model, nets.py:Small: name two at least"),
        (("nets.py:Small", "nets.py:wide"), "Small is a network and needs inputs: say where they are with --data"),
        (("a=nets.py:Small", "a=nets.py:wide"), "two models have the name a"),
        (("nets.py:needs", "nets.py:wide"), "nets.py:needs needs the arguments width"),
        (("nets.py:fails", "nets.py:wide"), "nets.py:fails fails: RuntimeError: no GPU here"),
        (("nets.py:text", "nets.py:wide"), "nets.py:text is of type str; a model is a torch.nn.Module"),
        (("nets.py:none", "nets.py:wide"), "nets.py has no 'none'; it has Small, Takes"),
        (("none.py:net", "nets.py:wide"), "none.py cannot be read: No such file or directory"),
        (("no.module:net", "nets.py:wide"), "no.module cannot be imported: ModuleNotFoundError"),
        (("x.npy", "nets.py:wide"), "there is no file x.npy"),
        (("nets.py", "nets.py:wide"), "nets.py is not a model: a model is script.py:NAME"),
        ((".", "nets.py:wide"), ". is a folder: a model is script.py:NAME"),
        (("bad.npy", "bad.npy"), "bad.npy cannot be read as .npy"),
        (("bad.safetensors", "bad.npy"), "bad.safetensors cannot be read as .safetensors"),
        (("nets.py:Small", "nets.py:wide", "--data", "digit"), "--data digit is not one of folder:PATH"),
        (("nets.py:Small", "nets.py:wide", "--data", "mnist"), "--data mnist is not on this machine yet"),
        (("nets.py:Small", "nets.py:wide", "--data", "folder:no"), "no folder no: --data folder:PATH takes"),
        (("nets.py:Small", "nets.py:colour", "--data", "digits"), "colour fails for a batch of (64, 1, 8, 8)"),
        (
            ("nets.py:Small", "nets.py:wide", "--data", "nets.py:broken"),
            "data fails when a batch is read: OSError: the",
        ),
        (("nets.py:Small", "nets.py:wide", "--data", "nets.py:batches"), "Small: its forward takes input"),
        (("nets.py:Small", "nets.py:wide", "--data", "nets.py:text"), "data must be a tensor, an array"),
        (
            ("nets.py:Small", "nets.py:wide", "--data", "digits", "--layers", "c*"),
            "Small has no layer that matches the pattern",
        ),
        (("nets.py:Small", "nets.py:wide", "--data", "digits", "--metrics", "ccka"), "unknown metrics ['ccka']"),
        (("nets.py:Small", "nets.py:wide", "--data", "digits", "--out", "nets.py"), "--out nets.py is a file"),
        (("nets.py:Small", "nets.py:wide", "--examples", 0), "--examples takes whole numbers from 1 on, got 0"),
        (("nets.py:Small", "nets.py:wide", "--data", "digits", "--batch", "x"), "Small: batch='x' is not in the batch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_sentences(words: tuple[object, ...], said: str) -> None:
    Path("bad.npy").write_text("no array")
    Path("bad.safetensors").write_text("no tensors")
    done = run(*words)
    assert done.status == 1
    assert done.err.startswith(f"distsim: {said}"), done.err
    assert len(done.err.splitlines()) == 1
