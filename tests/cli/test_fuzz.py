"""Flags of any value, stores with any damage: success, or one sentence and status 1 or 2; what is there is unhurt."""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fuzzing import DAMAGE, NUMBERS, TEXTS, in_time, judged, mentions
from sweep_scripts import Outcome, outcome, run_script, write_images, write_mnist, write_svhn

from distsim import plotting
from distsim.cli import main as cli
from distsim.cli import sweep_command, sweeps
from distsim.problems import PROBLEMS
from distsim.results import figures
from distsim.results.claims import judging
from distsim.sweep import forecast, pairs

pytestmark = pytest.mark.long

TINY = (
    "--runs",
    1,
    "--iterations",
    1,
    "--epochs",
    1,
    "--train-limit",
    100,
    "--probe",
    20,
    "--metrics",
    "cka",
    "cosine",
)
HERE = ("--local", "--device", "cpu")


def cases(names: Sequence[str]) -> list[Any]:
    """Parameters of a test by name."""
    assert len(set(names)) == len(names)
    return [pytest.param(name, id=name) for name in names]


def distsim(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main([str(argument) for argument in arguments]))


@pytest.fixture(autouse=True, scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Own caches; nothing is drawn, judged or measured, nor forced to the disk: this is not about them."""
    root = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTSIM_CACHE", str(root / "decoded"))
        patch.setenv("DISTSIM_DATA", str(root / "published"))
        patch.setattr(figures, "draw_all", lambda *tables: {"fig1_accuracy_median": None})
        patch.setattr(plotting, "render", lambda figure, format: b"drawn")
        patch.setattr(judging, "check", lambda *tables: [])
        patch.setattr(pairs, "product_rate", lambda *_: 1e12)
        patch.setattr(forecast, "product_rate", lambda *_: 1e12)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of one iteration, with pairs. Not to be changed."""
    folder = tmp_path_factory.mktemp("kept")
    result = run_script("digits", *TINY, *HERE, "--storage", folder)
    assert (result.status, result.err) == (0, "")
    assert distsim("pairs", folder, "--local", "--plan", "complete").status == 0
    return folder


def digests(store: Path) -> dict[str, str]:
    """Piece -> digest, as the command prints them; without the tables, which may be made anew of more."""
    status, out, err = distsim("digest", store, "--pieces")
    assert (status, err) == (0, "")
    lines = [line.split("  ", 1) for line in out.splitlines()[:-1]]
    return {piece: digest for digest, piece in lines if not piece.startswith("digits/results/")}


COMMITTED = ("complete", "runs", "pairs")  # of a problem; what else there is may be made anew


def files(store: Path) -> dict[str, str]:
    """Path -> digest of every file of committed pieces."""
    paths = [path for place in COMMITTED for path in sorted((store / "digits" / place).rglob("*")) if path.is_file()]
    return {path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def seen(folder: Path) -> dict[str, tuple[int, ...]]:
    """Path -> what a listing tells of it: enough to see that nothing was touched."""
    found: dict[str, tuple[int, ...]] = {}

    def look(path: str, within: str) -> None:
        with os.scandir(path) as entries:
            for entry in entries:
                about = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    found[within + entry.name] = (about.st_mode,)
                    look(entry.path, f"{within}{entry.name}/")
                else:
                    found[within + entry.name] = (about.st_mode, about.st_ino, about.st_size, about.st_mtime_ns)

    look(str(folder), "")
    return found


class Ground:
    """The working folder of a case: `store`, a finished one, a `file`, a link to itself (`loop`), and data."""

    def __init__(self, folder: Path, kept: Path) -> None:
        self.origin, self.folder, self.store = folder / "origin", folder / "ground", folder / "ground" / "store"
        self.committed, self.digests = files(kept), digests(kept)
        shutil.copytree(kept, self.origin / "store")
        (self.origin / "file").write_text("in the way")
        (self.origin / "loop").symlink_to("loop")
        write_images(self.origin / "images", ("0", "1"), train=2, test=1)
        write_svhn(self.origin / "svhn", 10, 10)
        write_mnist(self.origin / "mnist", 10, 10)
        self.folder.mkdir()
        self._before: dict[str, tuple[int, ...]] = {}
        self.lay_out()

    def lay_out(self) -> None:
        """Put back what is not as it was. This is most of what these tests do on the disk."""
        now = seen(self.folder)
        for path in sorted(now):
            there = self.folder / path
            if self._before.get(path) != now[path] and os.path.lexists(there):
                shutil.rmtree(there) if there.is_dir() and not there.is_symlink() else there.unlink()
        for path in sorted(seen(self.origin)):
            source, there = self.origin / path, self.folder / path
            if source.is_dir():
                there.mkdir(exist_ok=True)
            elif not os.path.lexists(there):
                shutil.copy2(source, there, follow_symlinks=False)
        self._before = seen(self.folder)

    @property
    def untouched(self) -> bool:
        return seen(self.folder) == self._before

    def require_unhurt(self, lost: str = "nothing") -> None:
        """Every file of every piece is there as it was, and what `digest` vouches for too, but for what was lost."""
        if not self.untouched:
            after = files(self.store)
            others = {path: digest for path, digest in self.committed.items() if not path.startswith(lost)}
            assert {path: after.get(path) for path in others} == others
            if lost == "nothing":
                now = digests(self.store)
                assert {piece: now.get(piece) for piece in self.digests} == self.digests


@pytest.fixture(scope="module")
def laid_out(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("ground"), kept)


@pytest.fixture
def ground(laid_out: Ground, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """The working folder, as if it were laid out for each case."""
    monkeypatch.chdir(laid_out.folder)
    yield laid_out
    if not laid_out.untouched:
        laid_out.lay_out()


# --- flags -----------------------------------------------------------------------------------------------------------

STORES = (  # places that hold no store, and none can be made of most of them
    *("", "/dev/null", "/proc/nothing", "file", "file/store", "s3://", "foo://x", "://", "file:///nowhere/at/all"),
    *("memory://", "memory:///x", "https://me:secret@localhost/x", "s3://bucket/x?secret=1", "~nobody.here/x"),
    *("x" * 300, "x/" * 3000, "\udcff", "loop", "loop/x"),
)
SPECIAL = {  # flags whose values are a kind of their own
    "--storage": STORES,
    "--with": STORES,
    "--out": ("", "file", "file/x", "/proc/nothing", "x" * 300, "\udcff", "loop", "line\nbreak"),
    "--data": (
        *("folder:", "files:", "folder:file", "folder:nowhere", "files:nowhere", "folder:~nobody.here", "~nobody.here"),
        *("files:~nobody.here", "folder:" + "x" * 300, "folder:\udcff", "folder:loop", "folder:line\nbreak", "x" * 300),
        *("folder:images", "folder:/", "folder:.", "files:.", "folder", "http://localhost/x", ""),
    ),
    "--classes": (
        "",
        ",",
        "0,0",
        "0,,1",
        "10",
        "zero",
        "0;1",
        "é",
        "\udcff",
        "0,1\n",
        "x" * 300,
        "0",
        ",".join("9876543210"),
    ),
    "--network": (
        *(
            "",
            "run",
            "run=",
            "run=0",
            "run=complete,iteration=1",
            "run=0,iteration=0",
            "run=-1,iteration=1",
            "run=²,iteration=1",
        ),
        *("run=0,iteration=1,", "run=0,run=0,iteration=1", "run=0,iteration=1,x=2", "run=9,iteration=9", "iteration=2"),
        *(f"run=0,iteration={'9' * 30}", f"run={'9' * 5000},iteration=1", "RUN=0,ITERATION=1", "run=nan,iteration=inf"),
    ),
    "--address": (
        *("", "x", "foo://x", "ray://", "os://x:1", "localhost", "localhost:x", "localhost:0", "localhost:99999", ":1"),
        *("ray://localhost", "http://localhost:1", "me:secret@localhost:1", "localhost:1\n", "é"),
    ),
    "--metrics": ("", "ckaa", "CKA", "cka,svcca", "é", "\udcff", "-1", "all", "dimension", "x" * 300),
    "--layers": ("", "x", "pool", "POOL1", "pool1,fc1", "é", "\udcff", "-1", "../out", "x" * 300),
    "--set": (
        *("", "recipe.lr", "recipe.lr=", "recipe.lr=x", "recipe.lr=-1", "recipe.lr=nan", f"recipe.lr={'9' * 400}"),
        *("recipe=3", "recipe.nix=3", "nix=3", "=3", "..=3", "recipe.lr={a = 3}", "classes=[[[[1]]]]", "name=../x"),
        *("name=\udcff", "recipe.augment=['crop', 'nix']", "model=nix", "source=nix", "size=1979-05-27", "é=1"),
        *("recipe.lr=[", "recipe.lr=" + "[" * 5000, "pruning.scope=global", "runs=0", "runs=1e3"),
    ),
    "--networks": ("", "run=complete", "run=7,iteration=1", "run=0", "x", "\udcff"),
}
NUMERIC = (sweeps.whole, sweeps.positive)


def wrong(action: argparse.Action, rng: random.Random, count: int) -> list[list[str]]:
    """The flag with wrong values, most of them, as words of a command line."""
    flag = action.option_strings[0]
    if action.nargs == 0:
        return [[f"{flag}=1"], [flag, "surplus"]]
    if flag in SPECIAL:
        pool = SPECIAL[flag]
        chosen = list(pool) if count > 3 else rng.sample(pool, min(len(pool), 6))
    else:
        pool = (*NUMBERS, *TEXTS) if action.type in NUMERIC else (*TEXTS, "-1", "0", "1e3")
        chosen = rng.sample(list(dict.fromkeys(pool)), count)
    times = action.nargs if isinstance(action.nargs, int) else 1
    return [[flag, *[value] * times] for value in chosen] + [[flag, *chosen[1:times]]]


def flag_cases(parser: argparse.ArgumentParser, label: str, count: int) -> dict[str, tuple[str, list[str]]]:
    """Name -> (flag, words) for every flag that the parser knows."""
    found: dict[str, tuple[str, list[str]]] = {}
    for action in parser._actions:
        if action.option_strings and action.help != argparse.SUPPRESS and action.dest != "help":
            flag = action.option_strings[0]
            for words in wrong(action, random.Random(f"{label} {flag}"), count):
                name = " ".join((label, words[0], *(ascii(word[:20]) for word in words[1:])))
                found[name if name not in found else f"{name} ({len(found)})"] = (flag, words)
    return found


SCRIPT = flag_cases(sweeps.parser_for([PROBLEMS["digits"]], {}), "digits", 6)


def commands() -> dict[str, argparse.ArgumentParser]:
    """The commands on a store."""
    (found,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    others = ("sweep", "completion", "compare-models")  # they take no store
    return {name: parser for name, parser in found.choices.items() if name not in others}


def sweep_flags() -> dict[str, tuple[str, list[str]]]:
    """The flags of `distsim sweep` that scripts do not have."""
    parser = argparse.ArgumentParser(add_help=False)
    sweep_command._own_flags(parser)
    return flag_cases(parser, "sweep digits", 20)


SWEEP = sweep_flags()


COMMANDS = {name: flag_cases(parser, name, 3) for name, parser in commands().items()}
COMMAND = {case: (name, *line) for name, found in COMMANDS.items() for case, line in found.items()}
USUAL: dict[str, tuple[str, ...]] = {  # flags without which a command would take long or do nothing
    "run": ("--local",),
    "compare": ("--local",),
    "pairs": ("--local", "--plan", "complete", "--dry-run"),
    "ladder": ("--local", "--dry-run", "--out", "ladder"),
    "figures": ("--figure", "fig1"),
    "layers": ("--metrics", "cka"),
    "merge": ("--into", "study"),
    "prove": ("run=complete",),
    "export": ("--publish", "deposit"),
}


def command_line(name: str, store: object) -> list[object]:
    """A command on a store; of doctor one that measures nothing."""
    return [name, "no problem" if name == "doctor" else store, *USUAL.get(name, ())]


SUBJECT = {  # what a sentence about the flag may be about, where it does not repeat flag or value
    "--metrics": "a metric's name",
    "--data": "folder|path|images|home|File name",
    "--classes": "class",
    "--problem": "sweep of",
    "--with-problem": "sweep of",
    "--with": "store|storage",
    "--storage": "storage",
    "--store": "no store in",
    "--networks": "network|run ",
    "--network": "network|iteration",
    "--set": "model|source|pruning|data",
    "--iterations": "networks",
}


ONE_NETWORK = "a ladder needs two networks at least"


def about(flag: str, words: list[str], said: str) -> bool:
    return any(mentions(said, flag, word) for word in words or [""]) or bool(re.search(SUBJECT.get(flag, "^$"), said))


@pytest.mark.parametrize("case", cases(list(SCRIPT)))
def test_a_flag_of_a_script(ground: Ground, case: str) -> None:
    flag, words = SCRIPT[case]
    with in_time():
        said = judged(run_script("digits", *TINY, *HERE, "--storage", ground.store, *words))
    assert not said or about(flag, words[1:], said), said
    assert said or flag != "--address", "Ray would try for minutes, or import a module"
    assert "secret" not in said or flag == "--address", "what may be a password is not repeated"
    ground.require_unhurt()


@pytest.mark.parametrize("case", cases(list(SWEEP)))
def test_a_flag_of_the_sweep_command(ground: Ground, case: str) -> None:
    flag, words = SWEEP[case]
    with in_time():
        said = judged(distsim("sweep", "digits", *TINY, *HERE, "--storage", ground.store, *words))
    assert not said or about(flag, words[1:], said), said
    ground.require_unhurt()


@pytest.mark.parametrize("case", cases(list(COMMAND)))
def test_a_flag_of_a_command(ground: Ground, case: str) -> None:
    name, flag, words = COMMAND[case]
    with in_time():
        said = judged(distsim(*command_line(name, ground.store), *words))
    if ONE_NETWORK in said:  # the flag was passed, and the store has too little for the command
        said = ""
    assert not said or about(flag, words[1:], said) or name == "doctor", said
    assert said or flag != "--address", "Ray would try for minutes, or import a module"
    ground.require_unhurt()


PLACES = {f"{name} on {place[:30]!a}": (name, place) for name in commands() for place in STORES if name != "doctor"}


@pytest.mark.parametrize("case", cases(list(PLACES)))
def test_a_command_where_no_store_is(ground: Ground, case: str) -> None:
    name, place = PLACES[case]
    with in_time():
        said = judged(distsim(*command_line(name, place)))
    assert said
    assert "secret" not in said
    assert ground.untouched, "looking for a store makes none"


def drawn(seed: int) -> tuple[str, list[str]]:
    """Two flags of a script or of a command, each with a wrong value or none."""
    rng = random.Random(seed)
    name = rng.choice(["digits"] * 5 + [name for name in COMMANDS if len(COMMANDS[name]) > 8])
    found = SCRIPT if name == "digits" else COMMANDS[name]
    # a new store is trained for, which other flags may make take long
    usable = [one for one in found.values() if one[0] not in ("--storage", "--address") and one[1][-1] != "surplus"]
    return name, [word for _, words in rng.sample(usable, 2) for word in words]


@pytest.mark.parametrize("seed", range(100))
def test_two_flags(ground: Ground, seed: int) -> None:
    name, line = drawn(seed)
    with in_time():
        if name == "digits":
            judged(run_script("digits", *TINY, *HERE, "--storage", ground.store, *line))
        else:
            judged(distsim(*command_line(name, ground.store), *line))
    ground.require_unhurt()


DATA: dict[str, tuple[str, tuple[object, ...]]] = {
    "all classes twice": ("cifar2", ("--data", "folder:images", "--classes", "0,0")),
    "a class that is not there": ("cifar2", ("--data", "folder:images", "--classes", "0,2")),
    "no class": ("cifar2", ("--data", "folder:images", "--classes", "")),
    "the problem's own classes": ("cifar2", ("--data", "folder:images")),
    "as many images as there are not": ("cifar2", ("--data", "folder:images", "--classes", "0,1", "--probe", 99)),
    "no published data": ("cifar2", ("--data", ".")),
    "a file for published data": ("cifar10", ("--data", "file")),
    "images for SVHN": ("vgg_svhn", ("--data", "files:images")),
    "MNIST for SVHN": ("vgg_svhn", ("--data", "files:mnist")),
    "SVHN for MNIST": ("lenet5_mnist", ("--data", "files:svhn")),
    "SVHN's classes": ("vgg_svhn", ("--data", "files:svhn", "--classes", "ten")),
    "SVHN's as published": ("vgg_svhn", ("--data", "svhn")),
    "pickles": ("cifar2", ("--data", "files:.")),
    "one folder for many": ("p2", ("--data", "folder:images")),
    "one file for many": ("p2", ("--data", "files:svhn")),
    "nothing for many": ("p1", ("--data", "folder:nowhere")),
    "classes for many": ("p1", ("--data", "folder:images", "--classes", "0,1,2")),
    "a loop": ("cifar2", ("--data", "folder:loop")),
    "a long name": ("cifar2", ("--data", "x" * 300)),
    "nobody's home": ("vgg_svhn", ("--data", "~nobody.here")),
}


@pytest.mark.parametrize("case", cases(list(DATA)))
def test_data_of_another_problem(ground: Ground, case: str) -> None:
    name, flags = DATA[case]
    with in_time():
        said = judged(run_script(name, *TINY, "--probe", 5, *HERE, "--storage", "new", *flags))
    assert said
    assert not list((ground.folder / "new").rglob("*"))


def test_a_terminal_that_cannot_show_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of a sweep is no place to fail."""
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, "ascii"))
    assert sweeps.reported(lambda: print("tables in \udcff/é", flush=True)) == 0
    assert buffer.getvalue() == b"tables in \\udcff/\\xe9\n"


# --- stores ----------------------------------------------------------------------------------------------------------

TARGETS = (  # of the problem; each is there
    *("spec.json", "request.json", "complete/COMMIT.json", "complete/attempt-*/weights.safetensors"),
    *("complete/attempt-*/masks.safetensors", "complete/attempt-*/rewind.safetensors", "complete/attempt-*/probe.json"),
    *("complete/activations/COMMIT.json", "complete/activations/attempt-*/zarr.json"),
    *("complete/activations/attempt-*/pool1/zarr.json", "complete/activations/attempt-*/pool1/c/0/0/0/0"),
    *("runs/0000/iter_01/COMMIT.json", "runs/0000/iter_01/attempt-*/weights.safetensors"),
    *("runs/0000/iter_01/attempt-*/masks.safetensors", "runs/0000/iter_01/activations/COMMIT.json"),
    *("runs/0000/iter_01/comparison/pool1/cka.json", "runs/0000/iter_01/chance/out/cka+cosine.json"),
    *("pairs/pool1/*.json", "results/COMMIT.json", "results/summary.parquet", "results/networks.parquet"),
    *("results/results.csv", "../figures/COMMIT.json", "../figures/fig1_accuracy_median.png", "../lease/*.json"),
    "../lease/*.beat",
)
LOOKING = ("status", "list", "digest")  # which change nothing
WORKING = ("report", "run", "compare", "layers", "pairs")
EACH = 3  # damages of each target, drawn

Change = Callable[[Path, random.Random], object]


def content_changed(kind: str) -> Change:
    return lambda file, rng: file.write_bytes(DAMAGE[kind](file.read_bytes(), rng))


def field_changed(file: Path, rng: random.Random) -> None:
    """One value somewhere in its JSON is of another type."""
    tree = json.loads(file.read_bytes())
    inner = tree
    while True:
        key = rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if not isinstance(inner[key], dict | list) or not inner[key] or rng.random() < 0.2:
            break
        inner = inner[key]
    inner[key] = rng.choice((None, True, -1, 0, 1.5, 10**30, "", "x", "\udcff", [], ["x"], [[]], {}, {"x": 1}))
    file.write_text(json.dumps(tree))


def in_place_of(make: Callable[[Path], object]) -> Change:
    def change(file: Path, rng: random.Random) -> None:
        file.unlink()
        make(file)

    return change


CHANGES: dict[str, Change] = {
    **{kind: content_changed(kind) for kind in DAMAGE},
    "gone": in_place_of(lambda file: None),
    "a folder": in_place_of(lambda file: file.mkdir()),
    "a folder of things": in_place_of(lambda file: (file / "a" / "b").mkdir(parents=True)),
    "a link to itself": in_place_of(lambda file: file.symlink_to(file.name)),
    "a link to nothing": in_place_of(lambda file: file.symlink_to("nothing")),
    "a link to another file": in_place_of(lambda file: file.symlink_to("/etc/hostname")),
    "renamed": lambda file, rng: file.rename(file.with_name(f"{file.name}.bak")),
}


def damage_cases() -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for target in TARGETS:
        rng = random.Random(target)
        kinds = rng.sample(list(CHANGES), EACH)
        if target == "request.json":  # what a person may have edited
            kinds = list(CHANGES) + [f"field {n}" for n in range(12)]
        elif target.endswith(".json"):
            kinds = list(dict.fromkeys((*kinds, "deeply nested objects", "field 0")))
        found |= {f"{target}: {kind}": (target, kind) for kind in kinds}
    return found


DAMAGES = damage_cases()


def own_piece(target: str) -> str:
    """The folder, or the file, of what a damaged file belongs to and may be lost with it."""
    for part in ("comparison/", "chance/", "pairs/"):
        if part in target:
            return target.replace("*.json", "")
    return target.split("attempt-")[0].removesuffix("COMMIT.json")


@pytest.mark.parametrize("case", cases(list(DAMAGES)))
def test_a_damaged_store(ground: Ground, case: str) -> None:
    target, kind = DAMAGES[case]
    rng = random.Random(case)
    file, *_ = sorted((ground.store / "digits").glob(target))
    CHANGES.get(kind, field_changed)(file, rng)
    whole = everything(ground.store, rng.choice(WORKING))
    ground.require_unhurt(lost=f"digits/{own_piece(target)}")
    if whole:  # nothing came out otherwise, nothing was added
        assert digests(ground.store).items() <= ground.digests.items()


def everything(store: Path, working: str) -> bool:
    """The commands that look, and one that works: each succeeds or says what is wrong. Whether `digest` succeeds."""
    for name in ("status", "list", working, "digest"):
        with in_time(), noted(name):
            said = judged(distsim(*command_line(name, store)))
    return not said


@contextlib.contextmanager
def noted(what: object) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"in {what}")
        raise


def copied(source: str, target: str) -> Callable[[Path], object]:
    def make(store: Path) -> None:
        (store / target).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (store / source).is_dir() else shutil.copy)(store / source, store / target)

    return make


def written(path: str, content: bytes = b"stray") -> Callable[[Path], object]:
    def make(store: Path) -> None:
        (store / path).parent.mkdir(parents=True, exist_ok=True)
        (store / path).write_bytes(content)

    return make


def in_the_way(path: str) -> Callable[[Path], object]:
    """A file where a folder is."""

    def make(store: Path) -> None:
        shutil.rmtree(store / path, ignore_errors=True)
        (store / path).write_bytes(b"in the way")

    return make


NETWORK = "digits/runs/0000/iter_01"
STRAYS: dict[str, Callable[[Path], object]] = {
    "a file": written("stray.txt"),
    "a hidden file": written(".hidden"),
    "a run of letters": written("digits/runs/zzzz/x"),
    "an iteration 0": copied(NETWORK, "digits/runs/0000/iter_00"),
    "an iteration of one digit": copied(NETWORK, "digits/runs/0000/iter_1"),
    "a run of one digit": copied(NETWORK, "digits/runs/0/iter_01"),
    "a run of many digits": copied(f"{NETWORK}/COMMIT.json", f"digits/runs/{'9' * 30}/iter_01/COMMIT.json"),
    "a run of more digits": copied(f"{NETWORK}/COMMIT.json", f"digits/runs/{'9' * 200}/iter_01/COMMIT.json"),
    "a run of other digits": copied(f"{NETWORK}/COMMIT.json", "digits/runs/\u0663/iter_01/COMMIT.json"),
    "a negative run": copied(NETWORK, "digits/runs/-001/iter_01"),
    "another run's iteration": copied(NETWORK, "digits/runs/0001/iter_01"),
    "a later iteration": copied(NETWORK, "digits/runs/0000/iter_02"),
    "a mark alone": copied(f"{NETWORK}/COMMIT.json", "digits/runs/0000/iter_02/COMMIT.json"),
    "a mark of a folder": lambda store: (store / "digits/runs/0000/iter_02/COMMIT.json").mkdir(parents=True),
    "a second generation's mark": copied(f"{NETWORK}/COMMIT.json", f"{NETWORK}/COMMIT-2.json"),
    "a mark dropped": written(f"{NETWORK}/DROPPED.json", b"{}"),
    "a mark of generation 0": copied(f"{NETWORK}/COMMIT.json", f"{NETWORK}/COMMIT-0.json"),
    "an attempt": written(f"{NETWORK}/attempt-000000000000/weights.safetensors"),
    "an attempt of nobody": written(f"{NETWORK}/attempt-/x"),
    "an attempt that is a file": written(f"{NETWORK}/attempt-111111111111"),
    "epochs": written("digits/runs/0000/iter_02/epoch/x.safetensors"),
    "an epoch of its name": written(
        f"digits/runs/0000/iter_02/epoch/{hashlib.sha256(b'stray').hexdigest()}.safetensors"
    ),
    "a layer that is not": copied(f"{NETWORK}/comparison/pool1/cka.json", f"{NETWORK}/comparison/layer/cka.json"),
    "a metric that is not": copied(f"{NETWORK}/comparison/pool1/cka.json", f"{NETWORK}/comparison/pool1/x.json"),
    "a metric twice": copied(f"{NETWORK}/comparison/pool1/cka.json", f"{NETWORK}/comparison/pool1/cka+cka.json"),
    "a metric too many": copied(f"{NETWORK}/comparison/pool1/cka.json", f"{NETWORK}/comparison/pool1/cka+nbs.json"),
    "no metric": copied(f"{NETWORK}/comparison/pool1/cka.json", f"{NETWORK}/comparison/pool1/.json"),
    "another layer's values": copied(
        f"{NETWORK}/comparison/out/cka+cosine.json", f"{NETWORK}/comparison/fc1/cosine.json"
    ),
    "chance that is not": copied(f"{NETWORK}/comparison/pool1/cka.json", f"{NETWORK}/chance/pool1/nbs.json"),
    "comparisons of the complete network": copied(f"{NETWORK}/comparison", "digits/complete/comparison"),
    "a pair's file": written("digits/pairs/x.json"),
    "a pair's layer": copied(f"{NETWORK}/comparison/pool1/cka.json", "digits/pairs/layer/x.json"),
    "a comparison among pairs": copied(f"{NETWORK}/comparison/pool1/cka.json", "digits/pairs/pool1/x.json"),
    "a copy of the problem": copied("digits", "copy"),
    "a copy with a space": copied("digits", "digits copy"),
    "a problem of a bare spec": copied("digits/spec.json", "other/spec.json"),
    "a problem of nothing": written("other/spec.json", b"{}"),
    "a problem of nonsense": written("other/spec.json", b"\xff"),
    "a problem of brackets": written("other/spec.json", b"[" * 100_000),
    "a problem that is a folder": lambda store: (store / "other/spec.json").mkdir(parents=True),
    "a name with a newline": written("digits/na\nme/x\ny"),
    "a problem with a newline": copied("digits/spec.json", "line\nbreak/spec.json"),
    "a name that is not UTF-8": written("digits/\udcff/\udcfe"),
    "a problem that is not UTF-8": copied("digits/spec.json", "\udcff/spec.json"),
    "a percent name": written("digits/%2e%2e/%00"),
    "a long name": written("digits/" + "x" * 250),
    "a deep folder": written("digits/" + "x/" * 40 + "x"),
    "a backslash": written("digits/runs\\0000\\iter_01\\COMMIT.json"),
    "a name being written": written("digits/spec.json#1"),
    "a pipe": lambda store: os.mkfifo(store / "digits/runs/pipe"),
    "a loop": lambda store: (store / "digits/loop").symlink_to("loop"),
    "a loop of folders": lambda store: (store / "digits/around").symlink_to(store),
    "a link out of it": lambda store: (store / "digits/out").symlink_to("/etc"),
    "a link for a run": lambda store: (store / "digits/runs/0001").symlink_to(store / "digits/runs/0000"),
    "a link for a problem": lambda store: (store / "other").symlink_to(store / "digits"),
    "figures is a file": in_the_way("figures"),
    "results is a file": in_the_way("digits/results"),
    "lease is a file": in_the_way("lease"),
    "pair_results is a file": in_the_way("digits/pair_results"),
    "an empty problem": lambda store: (store / "empty").mkdir(),
    "no results": lambda store: shutil.rmtree(store / "digits/results"),
    "no lease": lambda store: shutil.rmtree(store / "lease"),
    "lease of the far future": written("lease/999999.beat", b"over"),
    "an instruction that is none": written("control/000001.json", b"[" * 100_000),
    "control is a file": written("control"),
    "lease of letters": written("lease/zzz.json", b"{}"),
    "lease with a long number": written(f"lease/{'9' * 30}.beat", b"over"),
}


@pytest.mark.parametrize("case", cases([f"stray: {name}" for name in STRAYS]))
def test_a_store_with_something_else_in_it(ground: Ground, case: str) -> None:
    STRAYS[case.removeprefix("stray: ")](ground.store)
    everything(ground.store, random.Random(case).choice(WORKING))
    after = files(ground.store)
    assert {path: after.get(path) for path in ground.committed} == ground.committed


WAYS: dict[str, Callable[[Path], str]] = {
    "a link": lambda store: str(linked(store)),
    "a relative path": lambda store: os.path.relpath(store),
    "a path with dots": lambda store: f"{store}/../{store.name}/./",
    "a file URL": lambda store: f"file://{store}",
    "a folder too far up": lambda store: str(store.parent),
    "a folder too far down": lambda store: str(store / "digits"),
    "two folders too far down": lambda store: str(store / "digits/runs"),
    "a file of it": lambda store: str(store / "digits/spec.json"),
    "a slash too many": lambda store: f"{store}//",
}


def linked(store: Path) -> Path:
    link = store.with_name("link")
    link.symlink_to(store)
    return link


@pytest.mark.parametrize("case", cases([f"way: {name}" for name in WAYS]))
def test_a_store_by_another_way(ground: Ground, case: str) -> None:
    place = WAYS[case.removeprefix("way: ")](ground.store)
    for name in (*LOOKING, *WORKING):
        with in_time(), noted(name):
            judged(distsim(*command_line(name, place)))
    ground.require_unhurt()
