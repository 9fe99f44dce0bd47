"""`distsim sweep`: a problem by its name, with another recipe, from a file; and --dry-run."""

import pytest
from sweep_scripts import Outcome, outcome, run_script

from distsim.cli import main as cli
from distsim.problems import PROBLEMS
from distsim.store import Storage, SweepStore

SMALL = ("--runs=1", "--iterations=1", "--epochs=1", "--train-limit=100", "--probe=20", "--metrics", "cka", "cosine")
HERE = ("--local", "--device=cpu", "--no-chance")


def distsim(*words: object) -> Outcome:
    return outcome(lambda: cli.main([str(word) for word in words]))


def identity(store: object, problem: str = "digits"):
    return SweepStore(Storage(str(store)), problem).identity()


@pytest.fixture(scope="module")
def by_script(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "script"
    assert run_script("digits", *SMALL, *HERE, "--storage", folder).status == 0
    return folder


def test_it_is_the_script_without_the_script(by_script):
    status, out, err = distsim("sweep", "digits", *SMALL, *HERE, "--storage", by_script)
    assert (status, err) == (0, "")
    assert out.startswith("nothing is missing")


def test_a_changed_field_is_another_sweep(by_script, tmp_path):
    change = ("--set", "recipe.lr=0.001", "pruning.scope=global", "--set", "pruning.conv_rate=0.2")
    status, _, err = distsim("sweep", "digits", *SMALL, *HERE, *change, "--storage", by_script)
    assert status == 1
    assert "recipe.lr" in err
    assert "pruning.scope" in err
    assert distsim("sweep", "digits", *SMALL, *HERE, *change, "--storage", tmp_path / "s").status == 0
    problem = identity(tmp_path / "s").problem
    assert (problem.recipe.lr, problem.pruning.scope, problem.reduced) == (0.001, "global", True)


def test_a_file_is_the_problem_and_flags_win(tmp_path):
    file = tmp_path / "study.toml"
    printed = distsim("sweep", "digits", "--print-config", "--set", "name=mine", "recipe.epochs=2")
    assert printed.status == 0
    file.write_text(printed.out.replace("runs = 4", 'runs = 2\nmetrics = ["cka"]\nlocal = true\nno-chance = true'))
    arguments = ("--iterations=1", "--runs=1", "--storage", tmp_path / "s", *HERE[1:], "--probe=20")
    status, out, err = distsim("sweep", "--config", file, *arguments)
    assert (status, err) == (0, "")
    assert "mine: 1 run, 1 iteration" in out
    problem = identity(tmp_path / "s", "mine").problem
    assert (problem.recipe.epochs, problem.model, problem.probe) == (2, "vgg_digits", 20)


def test_the_printed_file_changes_nothing(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(distsim("sweep", "cifar8", "--print-config").out)
    again = distsim("sweep", "--config", file, "--print-config")
    assert (again.status, again.out) == (0, file.read_text())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs = 3", "a file may have base = \"PROBLEM\" and the tables [sweep] and [problem], this has 'runs'"),
        ("[sweep]\nruns = 3", 'say which problem it changes, as base = "cifar2"'),
        ("base = 'nix'", 'say which problem it changes, as base = "cifar2"'),
        ("base = 'digits'\n[sweep]\nspeed = 3", "[sweep] has 'speed', which is not a flag of distsim sweep"),
        ("base = 'digits'\n[sweep]\nconfig = 'x'", "[sweep] has 'config', which is not a flag of distsim sweep"),
        ("base = 'digits'\n[sweep.runs]\na = 1", "[sweep] runs must be a value, got a table"),
        ("base = 'digits'\n[problem]\nspeed = 3", "--config: 'speed' is not known"),
        ("base = 'digits'\n[problem.recipe]\nlr = 'fast'", "--config: recipe.lr must be a finite number, got 'fast'"),
        ("base = 3", "a file may have base"),
        ("base = ", "is not a TOML file"),
        ("a = " + "[" * 5000, "is not a TOML file"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, text, said):
    file = tmp_path / "study.toml"
    file.write_text(text)
    status, _, err = distsim("sweep", "--config", file)
    assert status == 1
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize("words", [(), ("--local",)])
def test_without_a_problem_it_says_which_there_are(words):
    status, _, err = distsim("sweep", *words)
    assert status == 2
    assert err.splitlines()[-1].endswith(", ".join(PROBLEMS))


def test_help_has_the_defaults_of_the_problem():
    status, out, _ = distsim("sweep", "cifar8", "--help")
    assert status == 0
    assert "(default: 200)" in " ".join(out.split())
    assert "(default: results/cifar8)" in " ".join(out.split())


def test_a_dry_run_says_what_is_missing_and_writes_nothing(by_script, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in by_script.rglob("*")}
    more = ("digits", *SMALL, *HERE, "--storage", by_script, "--dry-run")
    assert distsim("sweep", *more).out.startswith("nothing is missing")
    status, out, err = distsim("sweep", *more, "--runs=2", "--metrics", "cka", "svcca", "cosine")
    assert (status, err) == (0, "")
    assert "1 of 3 networks to train" in out
    assert "pairs of layers" in out
    assert {path: path.stat().st_mtime_ns for path in by_script.rglob("*")} == before
    assert distsim("sweep", *more, "--seed=1").status == 1  # as the sweep itself would say
    absent = tmp_path / "a" / "b"
    assert run_script("digits", *SMALL, *HERE, "--dry-run", "--storage", absent).status == 0
    assert not absent.parent.exists()
