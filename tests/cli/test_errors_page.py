"""docs/errors.md: each error on it is provoked, says what the page shows, and none is left out."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sweep_scripts import Outcome, outcome, run_script, write_images

from distsim.cli.main import main
from distsim.models import MODELS
from distsim.results import reduce
from distsim.specs import COMPLETE
from distsim.specs.canonical import signed
from distsim.store import Lease, Storage, SweepStore

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
SMALL = (
    *("--local", "--device", "cpu", "--runs", 1, "--iterations", 1, "--epochs", 1, "--probe", 50),
    *("--train-limit", 100, "--metrics", "cka", "cosine", "--measure", "none", "--quiet"),
)


class Place:
    """A folder of a case: a finished store to spoil, a folder of images to spoil."""

    def __init__(self, folder: Path, store: Path, images: Path) -> None:
        self.folder, self._store, self._images = folder, store, images

    @property
    def store(self) -> Path:
        return self._copy(self._store, "store")

    @property
    def images(self) -> Path:
        return self._copy(self._images, "images")

    def _copy(self, source: Path, name: str) -> Path:
        target = self.folder / name
        return target if target.exists() else Path(shutil.copytree(source, target))

    def file(self, name: str, text: str) -> Path:
        (self.folder / name).write_text(text)
        return self.folder / name

    def sweep(self, *flags: object, script: str | Path = "digits") -> Outcome:
        """Run a small sweep; flags given later win."""
        return run_script(script, "--storage", self.store, *SMALL, *flags)


def distsim(*words: object) -> Outcome:
    return outcome(lambda: main(list(map(str, words))))


def spoiled(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


CASES: dict[str, Callable[[Place], Outcome]] = {}


def case(work: Callable[[Place], Outcome]) -> Callable[[Place], Outcome]:
    CASES[work.__name__.replace("_", "-")] = work
    return work


# --- data ------------------------------------------------------------------------------------------------------------


@case
def no_data(place: Place) -> Outcome:
    return run_script("cifar2", "--storage", place.folder / "new", *SMALL)


@case
def no_folder(place: Place) -> Outcome:
    return run_script("cifar2", "--data", "folder:/data/animal", "--storage", place.folder / "new", *SMALL)


@case
def no_test_images(place: Place) -> Outcome:
    shutil.rmtree(place.images / "test")
    return run_script("cifar2", "--data", f"folder:{place.images}", "--storage", place.folder / "new", *SMALL)


@case
def unknown_class(place: Place) -> Outcome:
    return run_script("cifar4", "--data", f"folder:{place.images}", "--storage", place.folder / "new", *SMALL)


@case
def not_an_image(place: Place) -> Outcome:
    (place.images / "train" / "truck" / "0003.jpg").write_bytes(b"not an image")
    return run_script("cifar2", "--data", f"folder:{place.images}", "--storage", place.folder / "new", *SMALL)


@case
def probe_too_large(place: Place) -> Outcome:
    return place.sweep("--probe", 500, "--storage", place.folder / "new")


# --- the store -------------------------------------------------------------------------------------------------------


@case
def another_sweep(place: Place) -> Outcome:
    return place.sweep("--epochs", 2)


@case
def no_sweep_there(place: Place) -> Outcome:
    return distsim("status", place.folder / "nothing")


@case
def problem_not_in_the_store(place: Place) -> Outcome:
    return distsim("status", place.store, "--problem", "cifar2")


@case
def in_use(place: Place) -> Outcome:
    with Lease(Storage(str(place.store))):
        return place.sweep("--runs", 2)


@case
def another_version(place: Place) -> Outcome:
    store = SweepStore(Storage(str(place.store)), "digits")
    mark = store.mark(COMPLETE)
    assert mark is not None
    older = dataclasses.replace(mark, environment=mark.environment | {"torch": "2.9.0"})
    (place.store / "digits/complete/COMMIT.json").write_bytes(older.encode())
    return place.sweep("--runs", 2)


@case
def damaged_weights(place: Place) -> Outcome:
    (weights,) = (place.store / "digits/complete").glob("attempt-*/weights.safetensors")
    spoiled(weights)
    return place.sweep("--runs", 2)


@case
def verify_finds_damage(place: Place) -> Outcome:
    (weights,) = (place.store / "digits/complete").glob("attempt-*/weights.safetensors")
    spoiled(weights)
    return distsim("verify", place.store)


@case
def request_of_a_newer_distsim(place: Place) -> Outcome:
    path = place.store / "digits" / "request.json"
    tree = json.loads(path.read_text())
    tree.pop("sha256", None)
    path.write_bytes(signed(tree | {"colour": "blue"}))
    return distsim("run", place.store)


@case
def storage_is_a_file(place: Place) -> Outcome:
    return place.sweep("--storage", place.file("store.txt", "a file"))


@case
def bucket_of_a_wrong_form(place: Place) -> Outcome:
    return distsim("status", "s3:/bucket/prefix")


# --- flags -----------------------------------------------------------------------------------------------------------


@case
def unknown_metric(place: Place) -> Outcome:
    return place.sweep("--metrics", "ckaa")


@case
def unknown_problem(place: Place) -> Outcome:
    return distsim("sweep", "cifar3", "--storage", place.folder / "new")


@case
def unknown_field(place: Place) -> Outcome:
    return distsim("sweep", "digits", "--set", "recipe.learning_rate=0.1", "--storage", place.folder / "new")


@case
def value_of_a_field(place: Place) -> Outcome:
    return distsim("sweep", "digits", "--set", "recipe.lr=fast", "--storage", place.folder / "new")


@case
def not_toml(place: Place) -> Outcome:
    return distsim("sweep", "digits", "--config", place.file("study.toml", "recipe = = 3\n"))


@case
def fewer_runs_than_one(place: Place) -> Outcome:
    return place.sweep("--runs", 0)


@case
def no_gpu(place: Place) -> Outcome:
    return place.sweep("--device", "cuda")


@case
def network_not_asked_for(place: Place) -> Outcome:
    return distsim("run", place.store, "--local", "--only", "run=3,iteration=7")


@case
def layer_not_there(place: Place) -> Outcome:
    return distsim("pairs", place.store, "--local", "--plan", "runs", "--layers", "conv9")


# --- training --------------------------------------------------------------------------------------------------------


@case
def diverged(place: Place) -> Outcome:
    return distsim(
        "sweep", "digits", *SMALL, "--control", "none", "--set", "recipe.lr=1e12", "--storage", place.folder / "new"
    )


# --- your own code ---------------------------------------------------------------------------------------------------

OWN = """
import dataclasses
from torch import nn
from distsim.cli.sweeps import main
from distsim.models import MODELS
from distsim.problems import PROBLEMS


class Mine(nn.Module):
    def __init__(self, channels, size, classes):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU()
        self.out = nn.Linear(4 * size * size, classes)

    def forward(self, x):
        return self.out(self.relu(self.conv(x)).flatten(1))


MODELS["mine"] = Mine
if __name__ == "__main__":
    raise SystemExit(main(dataclasses.replace(PROBLEMS["digits"], model="mine", name="mine")))
"""


def begun(place: Place) -> tuple[Path, Path]:
    """A sweep of a network of one's own: its script and its store."""
    script, store = place.file("mine.py", OWN), place.folder / "mine"
    assert run_script(script, "--storage", store, *SMALL).status == 0
    MODELS.pop("mine")  # as in a new process
    return script, store


@case
def network_was_edited(place: Place) -> Outcome:
    script, store = begun(place)
    script.write_text(OWN.replace("ReLU()", "Hardswish()"))
    return run_script(script, "--storage", store, *SMALL, "--runs", 2)


@case
def script_is_gone(place: Place) -> Outcome:
    script, store = begun(place)
    script.unlink()
    return distsim("run", store, "--local", "--runs", 2)


@case
def script_was_changed(place: Place) -> Outcome:
    script, store = begun(place)
    script.write_text(OWN + "# a remark\n")
    return distsim("run", store, "--local", "--runs", 2)


@case
def images_too_small(place: Place) -> Outcome:
    return distsim("sweep", "digits", *SMALL, "--set", "model=vgg16_bn", "--storage", place.folder / "new")


# --- results ---------------------------------------------------------------------------------------------------------


@case
def report_of_somebody_else(place: Place) -> Outcome:
    return distsim("report", place.store, "--out", place.file("report.html", "<p>mine</p>"))


@case
def row_not_published(place: Place) -> Outcome:
    distsim("merge", place.store, "--into", place.folder / "published")
    return distsim(
        "prove", place.folder / "published", "run=3,iteration=7,layer=out,metric=cka", "--store", place.store
    )


@case
def tables_were_changed(place: Place) -> Outcome:
    distsim("merge", place.store, "--into", place.folder / "published")
    spoiled(place.folder / "published" / "results.parquet")
    return distsim("claims", place.folder / "published")


@case
def another_sweep_merged(place: Place) -> Outcome:
    distsim("merge", place.store, "--into", place.folder / "published")
    assert place.sweep("--seed", 1, "--storage", place.folder / "other").status == 0
    return distsim("merge", place.folder / "other", "--into", place.folder / "published")


# --- the machine -----------------------------------------------------------------------------------------------------


@case
def nobody_answers(place: Place) -> Outcome:
    return run_script("digits", "--storage", place.folder / "new", *SMALL[1:], "--address", "127.0.0.1:1")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A finished store and a folder of images. Not to be changed."""
    root = tmp_path_factory.mktemp("errors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTSIM_CACHE", str(root / "decoded"))
        patch.setenv("DISTSIM_DATA", str(root / "published"))
        patch.setattr(reduce, "draw", lambda root, again=False: [])  # figures take the longest
        assert run_script("digits", *SMALL, "--storage", root / "store").status == 0
        images = write_images(root / "images", ("automobile", "truck", "frog"), train=6, test=1)
        yield root / "store", images


def shown() -> dict[str, str]:
    """What the page shows: title -> message, in which "…" stands for anything."""
    entries = re.findall(r"^### ([^\n]+)\n\n```text\n(.*?)\n```$", PAGE.read_text(), re.M | re.S)
    return {title.lower().replace(" ", "-"): message for title, message in entries}


def test_the_page_has_thirty_errors_and_each_is_provoked() -> None:
    assert shown().keys() == CASES.keys()
    assert len(CASES) >= 30


@pytest.mark.parametrize("name", CASES)
def test_an_error_says_what_the_page_shows(name: str, kept: tuple[Path, Path], tmp_path: Path) -> None:
    result = CASES[name](Place(tmp_path, *kept))
    assert result.status in (1, 2)
    assert "Traceback" not in result.err
    message = ".*?".join(map(re.escape, shown()[name].split("…")))
    assert re.search(message, " ".join((result.err + result.out).split())), result
