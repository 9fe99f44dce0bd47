"""`distsim.run`: from problems and data to a finished study."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsim import specs
from distsim.api.arguments import listed, names_checked, require_one_of, require_whole
from distsim.api.problem import ProblemOfData
from distsim.comparison.arguments import plain
from distsim.problems import PROBLEMS
from distsim.specs.fields import Positive, require

if TYPE_CHECKING:
    from distsim.api.study import Study
    from distsim.callbacks import Callback
    from distsim.store import Storage
    from distsim.sweep.order import Prepared

Progress = bool | Callable[[dict[str, Any]], object]
KINDS = {"download": bool, "allow_drift": bool, "allow_slow": bool, "cpus": Positive | None, "gpus": Positive | None}


@names_checked
def run(
    problem: Any,
    *,
    data: Any = None,
    storage: str | Path | None = None,
    runs: int | None = None,
    iterations: int | None = None,
    metrics: str | list[str] | tuple[str, ...] | None = None,
    retention: str = "reference",
    activations: str = "store",
    chance: bool = True,
    measure: str | list[str] | tuple[str, ...] | None = None,
    permutations: int | None = None,
    control: str | list[str] | tuple[str, ...] | None = None,
    control_runs: int | None = None,
    complete: int = 1,
    classes: list[str] | tuple[str, ...] | None = None,
    epochs: int | None = None,
    probe: int | None = None,
    probe_from: str | None = None,
    train_limit: int | None = None,
    download: bool = False,
    skip_bad: int = 0,
    bits: int | None = None,
    local: bool = True,
    address: str | None = None,
    device: specs.DeviceChoice = "auto",
    cpus: float | None = None,
    gpus: float | None = None,
    pack: int = 1,
    seed: int = 0,
    threads: int = 1,
    precision: str = "float32",
    compile: bool = False,
    deterministic: bool = False,
    comparison: str = "exact",
    fuse: int = 1,
    allow_drift: bool = False,
    allow_slow: bool = False,
    progress: Progress = True,
    callbacks: list[Callback] | tuple[Callback, ...] = (),
) -> Study:
    """Bring a store to what is asked for, and return the study in it. The same call again resumes or extends it.

    problem : a `distsim.Problem`, a name in distsim.problems.PROBLEMS, or a list of these, which share the store
    data : images and labels (distsim.data.arrays), or a folder, or a location as of --data; by default published data
        where they are kept
    storage : a folder or a URL; by default results/ and the first problem's name
    local : everything in this process, in order; False uses Ray, on this machine or at `address`
    control : "retrain", "random", both as a list, or "none"; None: both for a new study, as before for another
    progress : True shows a live display on a terminal and elsewhere a line for each network, False nothing; a function
        gets a dictionary for each network
    callbacks : objects that hear how the sweep gets on, as `distsim.Callback` says; an error in one becomes a warning
    metrics, measure, permutations : None for what the store was asked for last, of a new one the default ones;
        measure="none" for nothing beside the values
    The others are the flags of the sweep scripts, whose --help explains them.

    ValueError names the argument, what came and what is expected. TooSlow, which is one: precision="bfloat16" on a
    processor without instructions for it, unless allow_slow=True. IdentityMismatch: the store holds another sweep.
    StoreInUse: another process works on it. SweepFailed: what could not be done; the rest is.
    """
    given = dict(locals())  # every argument by its name
    problems = _problems(problem)
    where = f"results/{problems[0].name}" if storage is None else storage
    _check_settings(where, local, address, threads, device, progress)
    _check_callbacks(callbacks)
    for name, kind in KINDS.items():
        require(name, given[name], kind)

    from distsim.store import new_root
    from distsim.sweep.order import with_kept

    reductions, request = _reductions(given), _request(given)
    how = {name: given[name] for name in ("local", "address", "allow_drift", "allow_slow")}
    with new_root(where) as root:
        asked = {each.name: with_kept(root, each.name, request) for each in problems}
        sweeps = [_prepared(each, data, reductions, asked[each.name]) for each in problems]
        return _studied(sweeps, root, progress, callbacks, **how)


def _reductions(given: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a problem smaller, of the arguments by their names."""
    classes = None if given["classes"] is None else listed("classes", given["classes"])
    return {name: plain(given[name]) for name in ("epochs", "probe", "probe_from", "train_limit")} | {
        "classes": classes
    }


def _request(given: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked for of each problem, of the arguments by their names."""
    from distsim.environment import resolved_device
    from distsim.sweep.order import trial_resources

    metrics, measure = given["metrics"], given["measure"]
    device = resolved_device(given["device"], given["address"])
    request = {name: plain(given[name]) for name in ("download", "pack", *specs.CHOSEN, *specs.names(specs.Extent))}
    return request | {
        "metrics": None if metrics is None else listed("metrics", metrics),
        "measure": measure if measure is None else () if measure in ("none", (), []) else listed("measure", measure),
        "control": _controls(given["control"]),
        "reading": specs.Reading(plain(given["skip_bad"]), plain(given["bits"])),
        "device": device,
        "resources": trial_resources(device, given["threads"], given["cpus"], given["gpus"]),
    }


def _controls(control: Any) -> tuple[str, ...] | None:
    """Return the controls that are named; None if nothing is said. ValueError: there is no such control."""
    if control is None:
        return None
    names = () if control in ("none", [], ()) else listed("control", control)
    for name in names:
        require_one_of("control", name, (*specs.CONTROLS, "none"))
    if "none" in names:
        raise ValueError(f"control: none stands alone, got {', '.join(names)}")
    return tuple(name for name in specs.CONTROLS if name in names)


def _studied(
    sweeps: list[Prepared], root: Storage, progress: Progress, callbacks: Iterable[Callback], **how: Any
) -> Study:
    """Do what the store lacks of these sweeps, and return the study in it. how : as for `carry_out`"""
    from distsim.api.study import Study
    from distsim.callbacks import Guarded, Several
    from distsim.store import SweepStore
    from distsim.sweep.at_work import carry_out

    with _shown(progress, root, how["local"]) as (say, shown):
        carry_out(sweeps, root, **how, say=say, watcher=Several([shown, *map(Guarded, callbacks)]))
    return Study([SweepStore(root, sweep.name) for sweep in sweeps], {sweep.name: sweep.dataset for sweep in sweeps})


def _check_settings(storage: Any, local: Any, address: Any, threads: Any, device: Any, progress: Any) -> None:
    """Raise ValueError for the first argument that cannot be meant."""
    require("local", local, bool)
    if not (isinstance(progress, bool) or callable(progress)):
        raise ValueError(f"progress must be True, False or a function of one event, got {specs.shown(progress)}")
    if local and address is not None:
        raise ValueError(f"address must be None where local is True, got {specs.shown(address)}; Ray needs local=False")
    require_whole("threads", plain(threads), 1)
    require_one_of("device", device, ("auto", "cpu", "cuda"))
    if not isinstance(storage, str | Path):
        raise ValueError(f"storage must be a folder or a URL, got {specs.shown(storage)}")


def _check_callbacks(callbacks: Any) -> None:
    """Raise ValueError for callbacks that would hear nothing."""
    from distsim.callbacks import METHODS

    if not isinstance(callbacks, list | tuple):
        raise ValueError(f"callbacks must be a list of distsim.Callback, got {specs.shown(callbacks)}")
    for callback in callbacks:
        if isinstance(callback, type) or not any(callable(getattr(callback, name, None)) for name in METHODS):
            raise ValueError(
                f"callbacks: each must have methods of distsim.Callback, such as on_epoch, got {specs.shown(callback)}"
            )


@contextlib.contextmanager
def _shown(progress: Progress, root: Storage, local: bool) -> Iterator[tuple[Callable[[str], None], Callback]]:
    """Show a sweep while the block lasts. Yield what gets its sentences, and the callback that gets its events."""
    from distsim.callbacks import Callback, Told
    from distsim.sweep.engine import Lines
    from distsim.sweep.live import Display, shows

    if progress is True and shows(sys.stdout, sys.stderr):
        with Display(root, from_store=not local) as display:
            yield display.say, display
    elif progress is True:
        yield print, Lines(print)
    else:
        yield lambda line: None, Told(progress) if callable(progress) else Callback()


def _prepared(problem: specs.Problem, data: Any, reductions: dict[str, Any], request: dict[str, Any]) -> Prepared:
    """Return the sweep of one problem: its data found and checked, its recipe reduced as asked."""
    from distsim.api.data import placed, settled
    from distsim.sweep.order import adapted, checked, prepare

    problem, location, dataset = placed(problem, data, reductions["classes"] or ())
    problem = adapted(problem, location, **reductions)
    if isinstance(problem, ProblemOfData) and reductions["probe"] is not None:
        problem = dataclasses.replace(problem, of_data=tuple(name for name in problem.of_data if name != "probe"))
    asked = {name: value for name, value in request.items() if name != "download"}
    checked(problem, data=location, network=not isinstance(problem, ProblemOfData), **asked)
    problem, dataset = settled(problem, location, dataset, request["download"], request["reading"])
    return prepare(problem, data=location, dataset=dataset, **request)


def _problems(given: Any) -> list[specs.Problem]:
    """Return the problems that `given` names or holds."""
    problems = []
    for problem in given if isinstance(given, list | tuple) else [given]:
        if isinstance(problem, str):
            require_one_of("problem", problem, PROBLEMS)
            problem = PROBLEMS[problem]
        if not isinstance(problem, specs.Problem):
            raise ValueError(
                f"problem must be a distsim.Problem, a name ({', '.join(PROBLEMS)}) or a list of these, got "
                f"{specs.shown(problem)}"
            )
        problems.append(problem)
    names = [problem.name for problem in problems]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"problem: names must differ in one store, got {', '.join(names) or 'none'}")
    return problems
