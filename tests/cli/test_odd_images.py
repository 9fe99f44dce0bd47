"""Images that cannot be read, and grey values of more than 8 bits, as a user's commands meet them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sweep_scripts import outcome, run_script

import distsim
from distsim import specs
from distsim.cli.main import main
from distsim.store import Storage, SweepStore

pytestmark = pytest.mark.usefixtures("blank_figures")

FLAGS = ("--local", "--runs", 1, "--iterations", 1, "--epochs", 1, "--probe", 10, "--metrics", "cka", "--no-chance")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of 12-bit grey images. The first of each part cannot be read."""
    monkeypatch.setenv("DISTSIM_CACHE", str(tmp_path / "cache"))
    rng, root = np.random.default_rng(0), tmp_path / "images"
    for part, count in (("train", 40), ("test", 4)):
        for name in ("left", "right"):
            (root / part / name).mkdir(parents=True)
            for at in range(count):
                Image.fromarray(rng.integers(0, 4000, (8, 8)).astype(np.uint16)).save(root / part / name / f"{at}.png")
        (root / part / "left" / "0.png").write_bytes(b"<html>404</html>")
    return root


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_sweep_leaves_out_what_it_was_allowed_to_and_remembers_it(images: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    flags = (*FLAGS, "--data", f"folder:{images}", "--storage", store)
    refused = run_script("digits", *flags)
    assert refused.status == 1
    assert "cannot read 2 images" in refused.err
    assert not (store / "digits").exists()
    done = run_script("digits", *flags, "--skip-bad", 2, "--bits", 12)
    assert done.status == 0, done.err
    assert "2 images that cannot be read are left out: train/left/0.png" in done.err
    assert "scaled by 12 bits as asked" in done.err
    request = json.loads((store / "digits" / "request.json").read_text())
    assert (request["skip_bad"], request["bits"]) == (2, 12)
    assert [said.partition(": ")[0] for said in request["skipped"]] == ["train/left/0.png", "test/left/0.png"]
    again = outcome(lambda: main(["run", str(store), "--local"]))
    assert again.status == 0, again.err
    assert "nothing is missing" in again.out
    assert "2 images that cannot be read are left out" in again.err
    other = run_script("digits", *flags, "--skip-bad", 2, "--bits", 14)
    assert other.status == 1
    assert "data_digest" in other.err, "another range is another sweep"


def test_the_same_from_python(images: Path, tmp_path: Path) -> None:
    small = {"runs": 1, "iterations": 1, "epochs": 1, "probe": 10, "metrics": "cka", "chance": False, "progress": False}
    small["control"] = "none"
    with pytest.warns(UserWarning, match="left out|as asked") as caught:
        distsim.run("digits", data=f"folder:{images}", storage=tmp_path / "store", skip_bad=2, bits=12, **small)
    assert len(caught) == 2
    assert SweepStore(Storage(tmp_path / "store"), "digits").request().reading == specs.Reading(2, 12)


@pytest.mark.parametrize(("flag", "name"), [("--skip-bad", "skip_bad"), ("--bits", "bits")])
def test_what_is_no_folder_of_images_has_neither(flag: str, name: str, tmp_path: Path) -> None:
    said = run_script("digits", *FLAGS, "--storage", tmp_path / "store", flag, 3)
    assert said.status == 1
    assert f"{name} is for a folder of images (folder:PATH), and these data are not one; got 3" in said.err
    arrays = (np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2)
    with pytest.raises(ValueError, match=f"{name} is for a folder of images"):
        distsim.run(distsim.Problem("vgg_digits"), data=arrays, storage=tmp_path / "store", **{name: 3})
    assert not (tmp_path / "store" / "digits").exists()


@pytest.mark.parametrize(
    ("flag", "value", "says"), [("--skip-bad", -1, "not be negative"), ("--bits", 17, "at most 16")]
)
def test_numbers_that_cannot_be_meant_are_refused(flag: str, value: int, says: str, tmp_path: Path) -> None:
    said = run_script("digits", *FLAGS, "--storage", tmp_path / "store", "--data", f"folder:{tmp_path}", flag, value)
    assert said.status == 1
    assert said.err.count("\n") == 1
    assert says in said.err
