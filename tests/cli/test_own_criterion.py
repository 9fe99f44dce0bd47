"""A pruning criterion of one's own in a sweep: on Ray, by commands, after an edit, without its script."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_scripts import Outcome, outcome

from distsim.cli import main as cli
from distsim.results import reduce
from distsim.specs.canonical import signed
from distsim.store import Storage, SweepStore
from distsim.sweep import own_code

SCRIPT = '''
"""Weights that change the loss least go first."""

import dataclasses
import sys

from distsim.cli.sweeps import main
from distsim.problems import PROBLEMS
from distsim.training.criteria import Criterion, register


def taylor(weights, gradients):
    return (weights * gradients).abs()


register(Criterion("taylor", taylor, needs=("gradients",), examples=60))
SMALL = PROBLEMS["digits"].reduced_to(epochs=1, probe=50, train_limit=100)
PROBLEM = dataclasses.replace(
    SMALL, name="digits_taylor", pruning=dataclasses.replace(SMALL.pruning, criterion="taylor")
)

if __name__ == "__main__":
    sys.exit(main(PROBLEM))
'''
HERE = ("--local", "--device", "cpu")
NAMED = ("--set", "name=digits_taylor", "pruning.criterion=taylor")
REDUCED = ("--epochs", 1, "--probe", 50, "--train-limit", 100)
ASKED = ("--runs", 1, "--iterations", 2, "--metrics", "cka")


def distsim(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main([str(argument) for argument in arguments]))


def sentence(result: Outcome) -> str:
    assert (result.status, result.err.count("\n")) == (1, 1), result.err
    return result.err.removeprefix("distsim: ").strip()


@pytest.fixture(autouse=True)
def as_in_another_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Figures take longer than the sweep; what a test imports is unknown to the next."""
    monkeypatch.setattr(reduce, "draw", lambda root, again=False: [])
    path = list(sys.path)
    yield
    own_code._registered_by.clear()
    for module in own_code.imported_modules():
        del sys.modules[module.__name__]
    sys.path[:] = path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with taylor.py and the store that it made on Ray, in a process of its own. Not to be changed."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "taylor.py").write_text(SCRIPT)
    line = [sys.executable, "taylor.py", "--device", "cpu", *map(str, ASKED), "--storage", "store"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """The same to change; the store's request names the script here."""
    folder = Path(shutil.copytree(kept, tmp_path / "own"))
    sweep = SweepStore(Storage(folder / "store"), "digits_taylor")
    tree = sweep.request().as_dict() | {"script": str(folder / "taylor.py")}
    sweep.storage.put("request.json", signed(tree))
    return folder


def digest(store: Path) -> str:
    status, out, err = distsim("digest", store)
    assert (status, err) == (0, "")
    return out.split()[-1]


def test_a_sweep_without_a_problem_of_its_own_imports_it(kept: Path, tmp_path: Path) -> None:
    """Without Ray, and from a file: the networks of the script's sweep on Ray."""
    status, out, err = distsim("sweep", "digits", *NAMED, "--import", kept / "taylor.py", "--print-config")
    assert (status, err) == (0, "")
    assert 'criterion = "taylor"' in out
    line = f'import = "{kept / "taylor.py"}"'
    (tmp_path / "study.toml").write_text(out.replace("[sweep]", f"[sweep]\n{line}"))
    config = ("--config", tmp_path / "study.toml", *REDUCED, *ASKED, *HERE, "--storage", tmp_path / "store")
    status, out, err = distsim("sweep", *config)
    assert (status, err) == (0, "")
    ours, theirs = (SweepStore(Storage(store), "digits_taylor") for store in (tmp_path / "store", kept / "store"))
    assert ours.identity().hash == theirs.identity().hash
    assert ours.request().script == str(kept / "taylor.py")
    assert digest(tmp_path / "store") == digest(kept / "store")


def test_commands_import_the_script_of_the_store(folder: Path) -> None:
    status, out, err = distsim("run", folder / "store", *HERE, "--runs", 2)
    assert (status, err) == (0, "")
    assert "2 of 9 networks to train" in out
    assert distsim("verify", folder / "store").status == 0


def test_what_only_reads_does_not_need_it(folder: Path) -> None:
    (folder / "taylor.py").unlink()
    for command in ("status", "report", "list"):
        status, _, err = distsim(command, folder / "store")
        assert (status, err) == (0, "")
    report = (folder / "store" / "report.html").read_text()
    assert "those lowest by the criterion taylor" in report
    assert "by the criterion taylor and trains it again" in report


def test_without_the_script_it_is_named(folder: Path) -> None:
    (folder / "taylor.py").rename(folder / "away.py")
    said = sentence(distsim("run", folder / "store", *HERE, "--runs", 2))
    assert said.startswith("unknown criterion 'taylor': the script ")
    assert said.endswith("does not exist. Name the script that registers it with --import FILE")
    status, out, err = distsim("run", folder / "store", *HERE, "--runs", 2, "--import", folder / "away.py")
    assert (status, err) == (0, "")
    assert "2 of 9 networks to train" in out


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (("(weights * gradients).abs()", "weights.abs()"), "it prunes the same weights in another order"),
        (("examples=60", "examples=61"), "it has examples 61 here, 60 in the store"),
        (("(weights * gradients).abs()", "(weights * gradients) ** 2"), ""),
        (("    return", "    # the same\n    return"), ""),
    ],
)
def test_an_edit_is_noticed_by_what_it_prunes(folder: Path, edit: tuple[str, str], says: str) -> None:
    assert edit[0] in SCRIPT
    (folder / "taylor.py").write_text(SCRIPT.replace(*edit))
    found = distsim("run", folder / "store", *HERE, "--runs", 2, "--import", folder / "taylor.py")
    if not says:
        assert (found.status, found.err) == (0, "")
        return
    assert sentence(found) == (
        f"digits_taylor: the criterion taylor is not the one this store was begun with: {says}. Undo the edit, give it "
        "another name, or use another --storage"
    )


def test_another_criterion_is_another_sweep(folder: Path) -> None:
    others = ("sweep", "digits", "--set", "name=digits_taylor", *REDUCED, *ASKED, *HERE, "--storage", folder / "store")
    said = sentence(distsim(*others))
    assert re.search(r"pruning\.criterion: .*'?taylor'? in the store", said), said


def test_an_unknown_criterion_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    others = ("sweep", "digits", "--set", "pruning.criterion=nobodys", *ASKED, *HERE, "--storage", tmp_path / "store")
    assert sentence(distsim(*others)) == "unknown criterion 'nobodys'; there are magnitude"
    assert not (tmp_path / "store").exists()
    (tmp_path / "wrong.py").write_text("import nothing_like_it\n")
    said = sentence(distsim(*others, "--import", tmp_path / "wrong.py"))
    assert "fails when it is imported: ModuleNotFoundError: No module named 'nothing_like_it'" in said


def test_a_damaged_record_is_found(folder: Path) -> None:
    record = folder / "store/digits_taylor/behaviour/criterion-taylor.json"
    text = record.read_text()
    assert '"criterion":"taylor"' in text
    for wrong in (text.replace('"examples":60', '"examples":61'), "{}"):
        record.write_text(wrong)
        found = distsim("verify", folder / "store")
        assert found.status == 1
        assert "behaviour/criterion-taylor.json" in found.out
    assert distsim("repair", folder / "store").status == 0
    assert not record.exists()
