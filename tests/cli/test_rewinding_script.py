"""sweeps/rewinding.py: what differs between its problems, what stays the same, and that C17 finds its twins.

`--only`, with which a script of several problems runs some of them, is tested here too.
"""

import dataclasses
import hashlib
import itertools
import runpy
from pathlib import Path
from typing import Any

import pytest
from sweep_scripts import SWEEPS, outcome, run_script, write_mnist

import distsim
from distsim.cli import sweeps
from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.specs import Problem
from distsim.training.pruning import full_masks, pools

pytestmark = pytest.mark.usefixtures("blank_figures")

SCRIPT = runpy.run_path(str(SWEEPS / "rewinding.py"))
LENET5, CIFAR2 = SCRIPT["LENET5"], SCRIPT["CIFAR2"]
NINE = {
    "lenet5_mnist": {problem.name: problem for problem in SCRIPT["ways"](LENET5, 1, 3)},
    "cifar2": {problem.name: problem for problem in SCRIPT["ways"](CIFAR2, 3, 4)},
}


@pytest.mark.parametrize("base", NINE)
def test_nine_problems_differ_in_rewinding_and_pools_alone(base: str) -> None:
    problems = NINE[base]
    ways = {(problem.pruning.rewind, problem.pruning.scope) for problem in problems.values()}
    assert ways == set(itertools.product(("WR", "LRR", "FT"), ("mixed", "global", "local")))
    assert len(problems) == 9
    own = {"lenet5_mnist": ("LRR", "global"), "cifar2": ("WR", "mixed")}[base]
    for name, problem in problems.items():
        pruning = problem.pruning
        endings = [way.lower() for way in (pruning.scope, pruning.rewind) if way not in own]
        assert name == "_".join([base, *endings])
        one = problems[base]
        assert dataclasses.replace(problem, name=base, pruning=one.pruning) == one
        same = {"scope": "mixed", "rewind": "LRR", "rewind_epoch": 0, "finetune_epochs": 1, "conv_rate": 0.2}
        assert dataclasses.replace(pruning, **same) == dataclasses.replace(one.pruning, **same)


def test_lenet5_is_the_registered_problem_in_its_own_way() -> None:
    extent = {"runs": PROBLEMS["lenet5_mnist"].runs, "iterations": PROBLEMS["lenet5_mnist"].iterations}
    assert dataclasses.replace(NINE["lenet5_mnist"]["lenet5_mnist"], **extent) == PROBLEMS["lenet5_mnist"]
    assert not LENET5.reduced
    assert CIFAR2.reduced


def test_what_each_way_of_rewinding_trains() -> None:
    pruning = {name: problem.pruning for nine in NINE.values() for name, problem in nine.items()}
    assert pruning["lenet5_mnist_wr"].rewind_epoch == 1
    assert pruning["lenet5_mnist_ft"].finetune_epochs == LENET5.recipe.epochs // 5 == 3
    assert pruning["cifar2_local"].rewind_epoch == PROBLEMS["cifar2"].pruning.rewind_epoch == 3
    assert pruning["cifar2_ft"].finetune_epochs == CIFAR2.recipe.epochs // 5 == 4


def test_pools_take_nearly_the_same_number_of_weights() -> None:
    """So that networks of one iteration are alike in size, however they were pruned."""
    for base, classes in (("lenet5_mnist", 10), ("cifar2", 2)):
        taken = []
        for problem in NINE[base].values():
            network = build(problem, classes)
            sizes = {name: mask.numel() for name, mask in full_masks(network, problem.pruning).items()}
            of_pools = pools(network, problem.pruning).values()
            taken.append(sum(rate * sizes[name] for rate, names in of_pools for name in names))
            share = sizes.get("head.fc1.linear.weight", 0) / sum(sizes.values())
            assert base != "cifar2" or share > 0.99, "the rate of linear layers may stand for the whole network's"
        assert max(taken) / min(taken) < 1.002


def weights(store: Path, problem: str) -> str:
    (file,) = (store / problem / "complete").glob("attempt-*/weights.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.long
def test_c17_is_judged_from_a_store_of_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTSIM_CACHE", str(tmp_path / "decoded"))
    store, data = tmp_path / "store", write_mnist(tmp_path / "mnist")
    names = ("lenet5_mnist", "lenet5_mnist_wr", "lenet5_mnist_local", "lenet5_mnist_local_wr", "lenet5_mnist_mixed_ft")
    size = ("--runs", 1, "--iterations", 1, "--epochs", 2, "--train-limit", 60, "--probe", 30, "--no-chance")
    where = ("--data", f"files:{data}", "--storage", store, "--local", "--device", "cpu", "--metrics", "svcca")
    only = ("--only", "lenet5_mnist", "lenet5_mnist_local", "lenet5_mnist*_wr", "lenet5_mnist_mixed_ft")
    finished = run_script("rewinding", *only, *size, *where)
    assert (finished.status, finished.err) == (0, "")
    assert {folder.name for folder in store.iterdir()} == {
        *names,
        "lenet5_mnist_mixed_wr",
        "figures",
        "lease",
        "report.html",
    }
    assert len({weights(store, name) for name in names}) == 1, "all start from the same network"
    claims = distsim.open(store).claims()
    c17 = claims[claims["claim"] == "C17"].set_index("problem")
    assert set(c17.index) == {"all", "lenet5_mnist", "lenet5_mnist_local"}
    assert c17.loc["lenet5_mnist", "verdict"].startswith("tendency: ")
    assert "profiles go up and down together" in c17.loc["lenet5_mnist_local", "text"].lower()


def test_only_names_problems_or_patterns() -> None:
    problems = [PROBLEMS[name] for name in ("cifar2", "cifar4", "lenet5_mnist")]

    def chosen(*patterns: str) -> list[str]:
        flags = sweeps.parser_for(problems, {}).parse_args(["--only", *patterns] if patterns else [])
        return [problem.name for problem in sweeps._chosen(problems, flags.only)]

    assert chosen() == ["cifar2", "cifar4", "lenet5_mnist"]
    assert chosen("lenet5_mnist", "cifar2") == ["cifar2", "lenet5_mnist"]
    assert chosen("cifar*") == ["cifar2", "cifar4"]
    assert chosen("cifar4", "cifar*") == ["cifar2", "cifar4"]
    assert sweeps.parser_for(problems, {"only": ["cifar4"]}).parse_args([]).only == ["cifar4"]


def test_only_of_no_problem_is_answered_with_the_names(tmp_path: Path) -> None:
    asked: list[Any] = ["--only", "cifar2", "cifar3", "--storage", str(tmp_path / "new"), "--local"]
    problems: list[Problem] = [PROBLEMS["cifar2"], PROBLEMS["cifar4"]]
    status, out, err = outcome(lambda: sweeps.main(*problems, arguments=[*asked, "--control", "none"]))
    assert (status, out) == (1, "")
    assert "--only cifar3: there are cifar2, cifar4" in err
    assert not (tmp_path / "new").exists()


def test_a_script_of_one_problem_has_no_such_flag() -> None:
    status, _, err = outcome(lambda: sweeps.main(PROBLEMS["digits"], arguments=["--only", "digits"]))
    assert status == 2
    assert "unrecognized arguments: --only" in err
