"""`distsim.run`: from problems and data to a finished study."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsim import specs
from distsim.api.arguments import listed, names_checked, plain, require_flag, require_one_of, require_whole
from distsim.api.problem import ProblemOfData
from distsim.problems import PROBLEMS

if TYPE_CHECKING:
    from distsim.api.study import Study
    from distsim.sweep.order import Prepared

Progress = bool | Callable[[dict[str, Any]], object]


@names_checked
def run(
    problem: Any,
    *,
    data: Any = None,
    storage: str | Path | None = None,
    runs: int | None = None,
    iterations: int | None = None,
    metrics: str | list[str] | tuple[str, ...] = specs.PAPER_METRICS,
    retention: str = "reference",
    activations: str = "store",
    chance: bool = True,
    classes: list[str] | tuple[str, ...] | None = None,
    epochs: int | None = None,
    probe: int | None = None,
    train_limit: int | None = None,
    download: bool = False,
    local: bool = True,
    address: str | None = None,
    device: specs.DeviceChoice = "auto",
    cpus: float | None = None,
    gpus: float | None = None,
    pack: int = 1,
    seed: int = 0,
    threads: int = 1,
    precision: str = "float32",
    deterministic: bool = False,
    comparison: str = "exact",
    allow_drift: bool = False,
    progress: Progress = True,
) -> Study:
    """Bring a store to what is asked for, and return the study in it. The same call again resumes or extends it.

    problem : a `distsim.Problem`, a name in distsim.problems.PROBLEMS, or a list of these, which share the store
    data : images and labels (distsim.data.arrays), or a folder, or a location as of --data; by default published data
        where they are kept
    storage : a folder or a URL; by default results/ and the first problem's name
    local : everything in this process, in order; False uses Ray, on this machine or at `address`
    progress : True prints a line for each network, False nothing; a function gets a dictionary for each network
    The others are the flags of the sweep scripts, whose --help explains them.

    ValueError names the argument, what came and what is expected. IdentityMismatch: the store holds another sweep.
    StoreInUse: another process works on it. SweepFailed: what could not be done; the rest is.
    """
    problems = _problems(problem)
    for name, flag in (("local", local), ("download", download), ("allow_drift", allow_drift)):
        require_flag(name, flag)
    if not (isinstance(progress, bool) or callable(progress)):
        raise ValueError(f"progress must be True, False or a function of one event, got {specs.shown(progress)}")
    if local and address is not None:
        raise ValueError(f"address must be None where local is True, got {specs.shown(address)}; Ray wants local=False")
    require_whole("threads", plain(threads), 1)
    require_one_of("device", device, ("auto", "cpu", "cuda"))
    where = f"results/{problems[0].name}" if storage is None else storage
    if not isinstance(where, str | Path):
        raise ValueError(f"storage must be a folder or a URL, got {specs.shown(storage)}")

    from distsim.api.study import Study
    from distsim.environment import resolved_device
    from distsim.store import Storage, SweepStore
    from distsim.sweep.at_work import carry_out
    from distsim.sweep.order import trial_resources

    chosen = resolved_device(device, address)
    asked = {
        "runs": runs,
        "iterations": iterations,
        "metrics": listed("metrics", metrics),
        "retention": retention,
        "activations": activations,
        "chance": chance,
        "download": download,
        "device": chosen,
        "resources": trial_resources(chosen, threads, _amount("cpus", cpus), _amount("gpus", gpus)),
        "pack": pack,
        "seed": seed,
        "threads": threads,
        "precision": precision,
        "deterministic": deterministic,
        "comparison": comparison,
    }
    smaller = {
        "classes": None if classes is None else listed("classes", classes),
        "epochs": epochs,
        "probe": probe,
        "train_limit": train_limit,
    }
    smaller, asked = ({name: plain(value) for name, value in fields.items()} for fields in (smaller, asked))
    orders = [_prepared(one, data, smaller, asked) for one in problems]
    root = Storage(where)
    carry_out(
        orders,
        root,
        local=local,
        address=address,
        allow_drift=allow_drift,
        say=print if progress is True else lambda line: None,
        tell=lambda event: _report(progress, event),
    )
    return Study([SweepStore(root, one.name) for one in orders], {one.name: one.dataset for one in orders})


def _report(progress: Progress, event: dict[str, Any]) -> None:
    from distsim.sweep.engine import describe

    if callable(progress):
        progress(event)
    elif progress:
        print(describe(event))


def _prepared(problem: specs.Problem, data: Any, smaller: dict[str, Any], asked: dict[str, Any]) -> Prepared:
    from distsim.api.data import placed, settled
    from distsim.sweep.order import adapted, prepare

    problem, location, dataset = placed(problem, data, smaller["classes"] or ())
    problem = adapted(problem, location, **smaller)
    if isinstance(problem, ProblemOfData) and smaller["probe"] is not None:
        problem = dataclasses.replace(problem, of_data=tuple(name for name in problem.of_data if name != "probe"))
    problem, dataset = settled(problem, location, dataset, asked["download"])
    return prepare(problem, data=location, dataset=dataset, **asked)


def _problems(given: Any) -> list[specs.Problem]:
    found = []
    for one in given if isinstance(given, list | tuple) else [given]:
        if isinstance(one, str):
            require_one_of("problem", one, PROBLEMS)
            one = PROBLEMS[one]
        if not isinstance(one, specs.Problem):
            raise ValueError(
                f"problem must be a distsim.Problem, a name ({', '.join(PROBLEMS)}) or a list of these, got "
                f"{specs.shown(one)}"
            )
        found.append(one)
    names = [one.name for one in found]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"problem: names must differ in one store, got {', '.join(names) or 'none'}")
    return found


def _amount(argument: str, value: Any) -> float | None:
    if value is not None and not (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
        raise ValueError(f"{argument} must be a number above zero, got {specs.shown(value)}")
    return value
