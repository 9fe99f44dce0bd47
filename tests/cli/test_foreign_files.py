"""Whatever else lies in a store's folder: no command touches it, and none is blocked by it."""

import os
import shutil
from pathlib import Path

import pytest
from sweep_scripts import Outcome, outcome, run_script

from distsim.cli import main as cli
from distsim.store import Storage

pytestmark = pytest.mark.usefixtures("blank_figures")

FLAGS = ("--local", "--device", "cpu", "--epochs", 1, "--train-limit", 100, "--probe", 40, "--metrics", "cka")
RUN = "digits/runs/0000"
PIECE = f"{RUN}/iter_01"
FILES = (
    *("Homework #2", "Icon\r", "r\udce9sum\udce9.txt", ".DS_Store", "Thumbs.db", "desktop.ini", ".dropbox", "con", " "),
    *(
        "a\nb",
        "-rf",
        "--help",
        "~",
        "$HOME",
        "*",
        "spec.json",
        "request.json",
        "COMMIT.json",
        "DROPPED.json",
        "doctor-1",
    ),
    *("attempt-0123456789ab", "results.csv", "notes (conflicted copy 2026-01-01).txt", ".dropbox.cache/x/y#12"),
    *("cifar2/notes.txt", "svhn/results/mine.csv", "cifar4/runs/1/model.pt", "other/spec.json", "runs/events.out"),
    *("complete/x", "figures/mine.png", "figures/fig1_accuracy_median (1).png", "figures/draft#3", "figures/.DS_Store"),
    *("lease/notes.json", "lease/2024.json", "lease/20240101.json", "lease/20240101.beat", "lease/Homework #2"),
    *("control/notes.json", "control/20240101.json", "control/000007.json", "control/Homework #2"),
    *("lease/000000-1.digits.results.zip", "lease/mine.zip", "tune/mine.txt", "tune/Homework #2"),
    *("digits/notes.txt", "digits/.DS_Store", "digits/Homework #2", "digits/Icon\r", "digits/r\udce9sum\udce9"),
    *("digits/results/mine.csv", "digits/results/results (1).csv", "digits/results/.~lock.results.csv#"),
    *("digits/results/Homework #2", "digits/results/results.csv.bak#7", "digits/results/old/results.csv"),
    *("digits/pair_results/mine.csv", "digits/pairs/notes.txt", "digits/behaviour/notes.txt", "digits/metrics/x.txt"),
    *(
        "digits/runs/notes.txt",
        f"{RUN}/.DS_Store",
        f"{RUN} copy/iter_01/COMMIT.json",
        f"{RUN}/iter_01 copy/COMMIT.json",
    ),
    *(f"{PIECE}/my.safetensors", f"{PIECE}/.COMMIT.json.swp", f"{PIECE}/COMMIT.json~", f"{PIECE}/COMMIT.json.#1"),
    *(f"{PIECE}/attempt-mine/x", f"{PIECE}/attempt-XYZ/weights.safetensors", f"{PIECE}/attempt-0123456789ab copy/x"),
    *(f"{PIECE}/epoch/notes.txt", f"{PIECE}/epoch/{'0' * 64}", f"{PIECE}/Homework #2", f"{PIECE}/comparison/notes.txt"),
    *(f"{PIECE}/comparison/fc1/notes.txt", f"{PIECE}/activations/notes.txt", "digits/complete/epoch/Homework #2"),
    *("digits/runs/0001/iter_01/notes.txt", "digits/runs/0001/iter_01/epoch/notes.txt"),  # it is not there yet
)
LINKS = {
    "latest": "digits",
    "out": "/tmp",
    "loop": ".",
    "gone": "/nowhere",
    "digits/latest": "/tmp",
    f"{PIECE}/mine": "/etc/hostname",
    "figures/mine": "/nowhere",
    "lease/mine": "..",
    "digits/results/mine": "/tmp",
}
COMMANDS: tuple[tuple[object, ...], ...] = (
    ("status",),
    ("ctl",),
    ("list",),
    ("digest",),
    ("verify",),
    ("compare", "--local", "--metrics", "cka", "nbs"),
    ("pairs", "--local", "--plan", "complete", "--metrics", "cka", "--dry-run"),
    ("pairs", "--local", "--plan", "complete", "--metrics", "cka"),
    ("report",),
    ("run", "--local", "--runs", 2),
    ("repair", "--dry-run"),
    ("repair",),
    ("run", "--local"),
    ("verify",),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert run_script("digits", *FLAGS, "--runs", 1, "--iterations", 1, "--storage", folder).status == 0
    return folder


@pytest.fixture
def strewn(finished: Path, tmp_path: Path) -> Path:
    """A store in which somebody else's files, links and a pipe lie everywhere, in distsim's own folders too."""
    store = tmp_path / "store"
    shutil.copytree(finished, store)
    own = next((store / PIECE).glob("attempt-*"))
    for number, name in enumerate((*FILES, str((own / ".DS_Store").relative_to(store)))):
        file = store / name
        file.parent.mkdir(parents=True, exist_ok=True)
        assert not file.exists(), name
        file.write_bytes(f"{number} mine".encode())
        os.utime(file, (1_000_000 + number, 2_000_000 + number))
    for name, target in LINKS.items():
        (store / name).symlink_to(target)
    os.mkfifo(store / "pipe")
    os.mkfifo(store / PIECE / "pipe")
    (store / "empty").mkdir()
    (store / PIECE / "empty").mkdir()
    return store


def state(store: Path) -> dict[str, tuple[object, ...]]:
    """What is there of the others' files: their content, time and mode, or where they point."""
    names = [*FILES, *LINKS, "pipe", f"{PIECE}/pipe", "empty", f"{PIECE}/empty"]
    names += [str(path.relative_to(store)) for path in (store / PIECE).glob("attempt-*/.DS_Store")]
    found: dict[str, tuple[object, ...]] = {}
    for name in names:
        status = os.lstat(store / name)
        content = (store / name).read_bytes() if name not in LINKS and (store / name).is_file() else None
        target = os.readlink(store / name) if name in LINKS else None
        found[name] = (content, target, status.st_mtime_ns, status.st_mode, status.st_ino)
    return found


def distsim(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main([str(argument) for argument in arguments]))


@pytest.mark.long
def test_every_command_leaves_them_as_they_are(strewn: Path, finished: Path) -> None:
    before = state(strewn)
    assert len(before) > 50
    assert distsim("digest", strewn).out == distsim("digest", finished).out
    for name, *flags in COMMANDS:
        done = distsim(name, strewn, *flags)
        assert (done.status, done.err) == (0, ""), (name, done)
        assert state(strewn) == before, name
    done = run_script("digits", *FLAGS, "--runs", 2, "--iterations", 2, "--storage", strewn)
    assert (done.status, done.err) == (0, "")
    assert state(strewn) == before
    assert Storage(strewn).folders("digits/runs") == ["0000", "0000 copy", "0001"]


@pytest.mark.long
def test_repair_of_a_damaged_store_leaves_them_too(strewn: Path) -> None:
    before = state(strewn)
    for pattern in (
        "digits/results/results.csv",
        "digits/spec.json",
        "figures/*.pdf",
        f"{PIECE}/comparison/fc1/*.json",
    ):
        next(file for file in strewn.glob(pattern) if file.name != "notes.txt").write_bytes(b"damaged")
    assert distsim("verify", strewn).status == 1
    assert distsim("repair", strewn).status == 0
    assert state(strewn) == before
    done = run_script("digits", *FLAGS, "--runs", 1, "--iterations", 1, "--storage", strewn)
    assert (done.status, done.err) == (0, "")
    assert distsim("verify", strewn).status == 0
    assert state(strewn) == before
