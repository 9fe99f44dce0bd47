"""Networks for other programs, and studies as folders to deposit."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from sweep_scripts import Outcome, outcome, run_script
from torch import nn
from torch.nn.utils import prune

from distsim.api import exporting
from distsim.api.exporting import ENDINGS
from distsim.api.opening import open as opened
from distsim.cli import main as cli
from distsim.cli.exporting import FORMATS
from distsim.models import build
from distsim.results.published import read
from distsim.store import Storage, SweepStore

pytestmark = pytest.mark.usefixtures("blank_figures")

SMALL = ("--runs", 2, "--iterations", 2, "--epochs", 1, "--probe", 60, "--train-limit", 150)
METRICS = ("--metrics", "cka", "svcca")
HERE = ("--local", "--device", "cpu")


def distsim(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main([str(argument) for argument in arguments]))


def sentence(result: Outcome) -> str:
    assert (result.status, result.err.count("\n")) == (1, 1), result.err
    return result.err.removeprefix("distsim: ").strip()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two iterations, and controls. Not to be changed."""
    folder = tmp_path_factory.mktemp("kept") / "store"
    status, _, err = run_script("digits", *SMALL, *METRICS, *HERE, "--control-runs", 1, "--storage", folder)
    assert (status, err) == (0, "")
    return folder


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- a network -------------------------------------------------------------------------------------------------------


def plain(store: Path) -> nn.Module:
    """The problem's network with other weights, as a program has it that knows nothing of the store."""
    return build(SweepStore(Storage(store), "digits").identity().problem).eval()


def test_state_dict_and_safetensors_are_read_without_distsim(store: Path) -> None:
    of_study = opened(store).network(run=1, iteration=2).model
    images = torch.rand(5, 1, 8, 8)
    assert distsim("export", store, "--network", "run=1,iteration=2").status == 0
    assert distsim("export", store, "--network", "run=1,iteration=2", "--to", "safetensors").status == 0
    ours = torch.load("digits-run1-iteration2.pt", weights_only=True)
    with safe_open("digits-run1-iteration2.safetensors", "pt") as file:
        theirs, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    for weights in (ours, theirs):
        network = plain(store)
        network.load_state_dict(weights)
        assert torch.equal(network(images), of_study(images))
    about = json.loads(Path("digits-run1-iteration2.safetensors.json").read_text())
    assert about == json.loads(Path("digits-run1-iteration2.pt.json").read_text())
    assert (about["network"], about["input"], len(about["classes"])) == ("run 1, iteration 2", [1, 8, 8], 10)
    assert about["accuracy"] == opened(store).network(run=1, iteration=2).record["accuracy"]
    assert metadata["format"] == "pt"
    assert json.loads(metadata["normalise"]) == about["normalise"]


def test_the_input_is_normalised_as_it_says(store: Path) -> None:
    network = opened(store).network()
    assert distsim("export", store, "--network", "run=complete", "--out", "deep/complete.pt").status == 0
    said = json.loads(Path("deep/complete.pt.json").read_text())["normalise"]
    images = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8)
    mean, sd = (torch.tensor(said[name]).view(1, -1, 1, 1) for name in ("mean", "sd"))
    torch.testing.assert_close((images / 255 - mean) / sd, network.inputs(images.numpy()))


def test_torch_prune_goes_on_where_the_study_stopped(store: Path) -> None:
    network = opened(store).network(run=0, iteration=2)
    status, out, err = distsim(
        "export", store, "--network", "run=0,iteration=2", "--to", "torch_prune", "--out", "pruned.pt"
    )
    assert (status, err) == (0, "")
    assert out == "run 0, iteration 2 of digits: pruned.pt, and what it is in pruned.pt.json\n"
    weights, model = torch.load("pruned.pt", weights_only=True), plain(store)
    for name in weights:
        if name.endswith("_mask"):
            path, _, parameter = name.removesuffix("_mask").rpartition(".")
            prune.identity(model.get_submodule(path), parameter)
    model.load_state_dict(weights)
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(model(images), network.model(images))
    masks = {name.removesuffix("_mask"): value for name, value in weights.items() if name.endswith("_mask")}
    assert masks.keys() == network.masks.keys()
    assert all(torch.equal(masks[name].bool(), network.masks[name]) for name in masks)
    assert sum(int((mask == 0).sum()) for mask in masks.values()) > 0


def test_a_network_of_a_study_is_exported_from_python(store: Path, tmp_path: Path) -> None:
    network = opened(store).network(run=0, iteration=1)
    assert network.export(tmp_path / "new" / "net.safetensors", "safetensors") == tmp_path / "new" / "net.safetensors"
    with pytest.raises(ValueError, match="a network is exported to state_dict, torch_prune, safetensors, got 'onnx'"):
        network.export(tmp_path / "net.onnx", "onnx")  # type: ignore[arg-type]
    assert tuple(ENDINGS) == FORMATS


def test_from_python_a_network_has_its_description_beside_it(store: Path, tmp_path: Path) -> None:
    opened(store).network(run=0, iteration=1).export(tmp_path / "net.pt")
    assert distsim("export", store, "--network", "run=0,iteration=1").status == 0
    about = (tmp_path / "net.pt.json").read_text()
    assert about == Path("digits-run0-iteration1.pt.json").read_text()
    assert json.loads(about)["network"] == "run 0, iteration 1"


def test_a_device_has_no_description_beside_it(store: Path, tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.symlink_to(os.devnull)
    status, out, err = distsim("export", store, "--network", "run=0,iteration=1", "--out", device)
    assert (status, out, err) == (0, f"run 0, iteration 1 of digits: {device}\n", "")
    assert os.listdir(tmp_path) == ["device"]


def test_where_the_output_goes_to_a_file_there_is_no_description_beside_its_name(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--out /dev/stdout > weights.pt`: the name leads to a file, and its folder is not the user's."""
    monkeypatch.setattr(exporting, "OPEN_FILES", (str(tmp_path / "dev"),))
    (tmp_path / "weights.pt").touch()
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/stdout").symlink_to(tmp_path / "weights.pt")
    status, out, err = distsim("export", store, "--network", "run=0,iteration=1", "--out", tmp_path / "dev/stdout")
    assert (status, out, err) == (0, f"run 0, iteration 1 of digits: {tmp_path / 'dev/stdout'}\n", "")
    assert os.listdir(tmp_path / "dev") == ["stdout"]
    assert torch.load(tmp_path / "weights.pt", weights_only=True)


# --- a study ---------------------------------------------------------------------------------------------------------


def test_a_study_is_deposited(store: Path, tmp_path: Path) -> None:
    status, out, err = distsim("export", store, "--publish", "deposit")
    assert (status, err) == (0, "")
    folder = tmp_path / "deposit"
    files = sorted(file.name for file in folder.iterdir())
    assert out.startswith(f"digits: {len(files)} files in deposit\n")
    sums = dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sorted(sums) == [name for name in files if name != "SHA256SUMS"]
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in sums.items())
    readme = (folder / "README.md").read_text()
    for line in readme.splitlines():
        name = line.removeprefix("- `").partition("`")[0]
        assert not line.startswith("- `") or name.startswith("*") or name in files, line
    assert "2 runs start from one complete network" in readme
    assert "by mean SVCCA and CKA" in " ".join(readme.split())
    assert "the digits of scikit-learn" in " ".join((folder / "LICENSES.md").read_text().split())
    study = read(folder)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(study.tables.by_name["results"])
    assert float(rows[0]["value"]) == pytest.approx(study.tables.by_name["results"]["value"].iloc[0])
    for name in files:
        content = (folder / name).read_bytes()
        assert str(tmp_path.parent).encode() not in content, f"{name} has a path of this machine"
        assert not name.endswith((".pt", ".safetensors", ".zarr"))


def test_the_recipe_runs_the_same_sweep(store: Path) -> None:
    assert distsim("export", store, "--publish", "deposit").status == 0
    asked = ("sweep", "--config", "deposit/study.toml", *HERE, "--storage", store, "--dry-run")
    status, out, err = distsim(*asked)
    assert (status, err) == (0, "")
    assert "nothing is missing" in out or "0 of" in out, out


def test_a_published_study_is_deposited_too_and_again(store: Path) -> None:
    assert distsim("merge", store, "--into", "published").status == 0
    for _ in range(2):
        assert distsim("export", "published", "--publish", "deposit").status == 0
    assert distsim("export", store, "--publish", "other").status == 0
    for name in ("README.md", "study.toml", "study.json", "report.html", "SHA256SUMS"):
        assert Path("deposit", name).read_bytes() == Path("other", name).read_bytes(), name


def test_texts_that_were_edited_are_left_alone(store: Path) -> None:
    assert distsim("export", store, "--publish", "deposit").status == 0
    Path("deposit/README.md").write_text("By Jane Doe")
    for _ in range(2):  # not even when the digest of the edited text is in SHA256SUMS
        status, out, err = distsim("export", store, "--publish", "deposit")
        assert (status, err) == (0, "")
        assert "because you may have edited them: README.md. Remove them to make them anew\n" in out
        assert Path("deposit/README.md").read_text() == "By Jane Doe"
    digest = hashlib.sha256(b"By Jane Doe").hexdigest()
    assert f"{digest}  README.md" in Path("deposit/SHA256SUMS").read_text()


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_mistakes_are_sentences(store: Path) -> None:
    assert "run 7" in sentence(distsim("export", store, "--network", "run=7,iteration=1"))
    assert sentence(distsim("export", store, "--publish", "x", "--out", "y")) == (
        "--out is the file of a network; --publish names the folder already"
    )
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    assert sentence(distsim("export", store, "--publish", "full")) == (
        "full is not empty and holds no published study: name another folder"
    )
    assert [file.name for file in Path("full").iterdir()] == ["mine.txt"]
    assert sentence(distsim("export", store, "--network", "run=complete", "--out", "full")) == (
        "--out 'full' cannot be written: it is a folder"
    )
    for line in ((), ("--network", "run=complete", "--publish", "x"), ("--network", "run=complete", "--to", "onnx")):
        done = subprocess.run(
            [sys.executable, "-m", "distsim", "export", str(store), *line], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
