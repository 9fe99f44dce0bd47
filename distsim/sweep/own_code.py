"""The user's own networks, metrics and pruning criteria: which script registered them, and how to register them again.

A script is the user's program. A command that needs what it registers imports it only in two cases: the user says so
(`--import FILE`); or a store in a local folder records it, it lies outside that store, and it has not changed since it
started the sweep. Commands that only read a store import nothing.
"""

import dataclasses
import functools
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from distsim.data.folder import expanded
from distsim.metrics.registry import BUILT_IN as METRICS_OF_DISTSIM
from distsim.metrics.registry import METRICS
from distsim.models import BUILT_IN as MODELS_OF_DISTSIM
from distsim.models import MODELS
from distsim.specs import Problem, Request, shown
from distsim.store import Storage, SweepStore
from distsim.training.criteria import BUILT_IN as CRITERIA_OF_DISTSIM
from distsim.training.criteria import CRITERIA

SCRIPT = "distsim_script_"  # prefix of the names of modules that are imported here


@dataclass(frozen=True)
class Script:
    """A file that registered networks, metrics or criteria."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Script":
        """Return the script at this path. OSError: it cannot be read."""
        return cls(str(path.resolve()), hashlib.sha256(path.read_bytes()).hexdigest())


_registered_by: dict[str, Script] = {}  # model, metric or criterion -> the imported file that registered it
_importing: list[str] = []


def recorded_in(request: Request, problem: Problem, store: SweepStore) -> Request:
    """Return the request with the script that registered the sweep's own model, criterion or metrics, if it has any.

    It is the file that was imported for them; else the running program; else the script in the last request.
    """
    own = [] if problem.model in MODELS_OF_DISTSIM else [problem.model]
    own += [] if problem.pruning.criterion in CRITERIA_OF_DISTSIM else [problem.pruning.criterion]
    own += [name for name in request.extent.metrics if name not in METRICS_OF_DISTSIM]
    if not own:
        return request
    script = next((_registered_by[name] for name in own if name in _registered_by), None)
    script = script or _program() or _recorded(store)
    return dataclasses.replace(request, script=script.path, script_sha256=script.sha256) if script else request


def _program() -> Script | None:
    """Return the script that Python was started with, or None if it is distsim itself or no script."""
    main = sys.modules.get("__main__")
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if not isinstance(file, str) or not file.endswith(".py") or (spec is not None and spec.name.startswith("distsim.")):
        return None
    try:
        return Script.of(Path(file))
    except OSError:
        return None


def _recorded(store: SweepStore) -> Script | None:
    try:
        request = store.request()
    except FileNotFoundError:
        return None
    return Script(request.script, request.script_sha256) if request.script else None


def make_known(store: SweepStore, metrics: Iterable[str]) -> None:
    """Import the script that registers the store's model, its criterion or these metrics, if one is unknown.

    It is imported only if it may be. ValueError names what is unknown, the script that is recorded, and why it was not
    imported.
    """
    problem, asked = store.identity().problem, list(metrics)
    if not _unknown(problem, asked):
        return
    recorded = _recorded(store)
    if recorded is None:
        why = "the store records no script"
    else:
        failure = _refusal(recorded.path, store.root) or _import(Path(recorded.path), recorded.sha256)
        why = failure or f"{recorded.path} does not register it"
    if unknown := _unknown(problem, asked):
        raise ValueError(f"{unknown}: {why}. Name the script that registers it with --import FILE")


def require_known(problem: Problem, metrics: Iterable[str]) -> None:
    """Raise ValueError if the problem's model or criterion, or one of these metrics, is not registered."""
    if unknown := _unknown(problem, list(metrics)):
        raise ValueError(f"{unknown}. Name the script that registers it with --import FILE")


def _unknown(problem: Problem, metrics: list[str]) -> str:
    """Return which of these names are not registered, for a sentence; "" if all are."""
    if problem.model not in MODELS:
        return f"unknown model {shown(problem.model)}"
    if problem.pruning.criterion not in CRITERIA:
        return f"unknown criterion {shown(problem.pruning.criterion)}"
    lacking = [name for name in metrics if name not in METRICS]
    return f"unknown metrics {shown(lacking)} (there are {', '.join(METRICS)})" if lacking else ""


def _refusal(script: str, root: Storage) -> str | None:
    """Return why the recorded script must not be imported, or None if it may be (unless it has changed)."""
    path = Path(script)
    if root.folder is None:
        return f"the script {path} is not imported, because the store that names it is not a local folder"
    if not path.is_absolute():
        return f"the script {shown(str(path))} is not imported, because its path is not absolute"
    if path.resolve().is_relative_to(Path(root.folder).resolve()):
        return f"the script {path} is not imported, because it lies in the store that names it"
    try:
        owner = path.stat().st_uid
    except (OSError, ValueError):
        return f"the script {path} does not exist"
    if owner not in (os.geteuid(), 0):  # a store that others can write could name any program of theirs
        return f"the script {path} is not imported, because it belongs to another user"
    return None


def import_file(file: str) -> None:
    """Import a script that the user named. ValueError: it cannot be read, or fails."""
    if failed := _import(expanded(file), None):
        raise ValueError(f"--import {file}: {failed}")


def imported(file: str) -> ModuleType:
    """Import a script that the user named, and return its module. ValueError: it cannot be read, or fails."""
    path = expanded(file)
    if failed := _import(path, None):
        raise ValueError(failed)
    return sys.modules[SCRIPT + Script.of(path).sha256[:16]]


class StartedByImport(RuntimeError):
    """A script starts its sweep while it is being imported."""


def refuse_while_importing() -> None:
    """Raise StartedByImport while a script is being imported: only what it registers is wanted."""
    if _importing:
        raise StartedByImport("it starts its sweep on import: put that under if __name__ == '__main__'")


def _import(path: Path, expected: str | None) -> str | None:
    """Run the file as a module, not as `__main__`. Return what failed, or None.

    expected : SHA-256 that the file must have, or None
    """
    try:
        content = path.read_bytes()
        code = compile(content, str(path.resolve()), "exec", dont_inherit=True)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except (SyntaxError, ValueError) as error:
        return f"{path} is not Python: {error}"
    script = Script(str(path.resolve()), hashlib.sha256(content).hexdigest())
    if expected not in (None, script.sha256):
        return f"the script {path} is not imported, because it has changed since it started the sweep"
    name = SCRIPT + script.sha256[:16]
    if name in sys.modules:
        return None
    module = ModuleType(name)
    module.__file__ = script.path
    before, arguments = _known(), sys.argv
    sys.modules[name] = module
    sys.path.insert(0, os.path.dirname(script.path))  # for modules beside the script, as when it is run
    sys.argv = [script.path]
    _importing.append(script.path)
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        return f"{path} fails when it is imported: {type(error).__name__}: {error}"
    finally:
        _importing.pop()
        sys.argv = arguments
        sys.path.append(sys.path.pop(0))  # for later imports; from here on the libraries come first again
    for registered in _known() - before:
        _registered_by[registered] = script
    return None


def _known() -> set[str]:
    """Return the names of all models, metrics and criteria that are registered."""
    return MODELS.keys() | METRICS.keys() | CRITERIA.keys()


def imported_modules() -> list[ModuleType]:
    """Return the modules of the scripts that were imported here. Ray's workers do not have them."""
    return [module for name, module in sys.modules.items() if name.startswith(SCRIPT)]


def module_of(made: object) -> ModuleType | None:
    """Return the module that defines a class or function if it is the user's own file, else None.

    Ray's workers cannot import such a module by its name. An installed module is on every machine and does not count.
    """
    while isinstance(made, functools.partial):
        made = made.func
    name = getattr(made, "__module__", None) or ""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None or name == "__main__" or name.split(".")[0] == "distsim":
        return None
    installed = {sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return None if any(Path(file).is_relative_to(folder) for folder in installed) else module
