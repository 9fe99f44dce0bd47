"""One's own networks and metrics: which script made them known, and making them known again.

A script is a program of its user's. It is imported, where a command needs what it registers, only if the user says so
(`--import FILE`), or if a store in a local folder records it, it lies outside that store, and it is still what it was
when it started the sweep. Nothing that only reads a store imports anything.
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

from distsim.metrics.registry import BUILT_IN as METRICS_OF_DISTSIM
from distsim.metrics.registry import METRICS
from distsim.models import BUILT_IN as MODELS_OF_DISTSIM
from distsim.models import MODELS
from distsim.specs import Problem, Request, shown
from distsim.store import Storage, SweepStore

SCRIPT = "distsim_script_"  # what names of modules begin with that are imported here


@dataclass(frozen=True)
class Script:
    """A file that registered networks or metrics."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Script":
        """OSError: it cannot be read."""
        return cls(str(path.resolve()), hashlib.sha256(path.read_bytes()).hexdigest())


_registered_by: dict[str, Script] = {}  # own model or metric -> the file that was imported for it
_importing: list[str] = []


def own_names(model: str, metrics: Iterable[str]) -> list[str]:
    """Return the names among these of what does not come with distsim, the model's first."""
    own = [] if model in MODELS_OF_DISTSIM else [model]
    return own + [name for name in metrics if name not in METRICS_OF_DISTSIM]


def recorded_in(request: Request, problem: Problem, store: SweepStore) -> Request:
    """Return the request with the script that this sweep's own model or metrics come from, if it has any.

    It is the file that was imported for them; else the program that runs; else what the last request says.
    """
    own = own_names(problem.model, request.extent.metrics)
    if not own:
        return request
    script = next((_registered_by[name] for name in own if name in _registered_by), None)
    script = script or _program() or _recorded(store)
    return dataclasses.replace(request, script=script.path, script_sha256=script.sha256) if script else request


def _program() -> Script | None:
    """The script that Python was started with; None: it was another program, or none."""
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
    """Import what the store's model and these metrics need, if it must be and may be.

    ValueError names the model or metric, the script that is recorded, and why it was not imported.
    """
    model, asked = store.identity().problem.model, list(metrics)
    if not _unknown(model, asked):
        return
    recorded = _recorded(store)
    if recorded is None:
        why = "no script of one's own is recorded in the store"
    else:
        refused = _refusal(recorded.path, store.root) or _import(Path(recorded.path), recorded.sha256)
        why = refused or f"{recorded.path} does not register it"
    if unknown := _unknown(model, asked):
        raise ValueError(f"{unknown}: {why}; name the script that registers it with --import FILE")


def _unknown(model: str, metrics: list[str]) -> str:
    """What is not known here, for a sentence."""
    if model not in MODELS:
        return f"unknown model {shown(model)}"
    lacking = [name for name in metrics if name not in METRICS]
    return f"unknown metrics {shown(lacking)} (there are {', '.join(METRICS)})" if lacking else ""


def _refusal(script: str, root: Storage) -> str | None:
    """Why the recorded script is not to be imported; None: it may be, if it is what it was."""
    path = Path(script)
    if root.folder is None:
        return f"the script {path} is not imported, for the store that names it is no local folder"
    if not path.is_absolute():
        return f"the script {shown(str(path))} is not imported, for its path is not absolute"
    if path.resolve().is_relative_to(Path(root.folder).resolve()):
        return f"the script {path} is not imported, for it lies in the store that names it"
    try:
        owner = path.stat().st_uid
    except (OSError, ValueError):
        return f"the script {path} is not there"
    if owner not in (os.geteuid(), 0):  # who can write the store of another could name any program of theirs
        return f"the script {path} is not imported, for it belongs to another user"
    return None


def import_file(file: str) -> None:
    """Import a script because the user says so. ValueError: it cannot be, or fails."""
    if failed := _import(Path(file).expanduser(), None):
        raise ValueError(f"--import {file}: {failed}")


class StartedByImport(RuntimeError):
    """A script that is imported starts its sweep."""


def refuse_while_importing() -> None:
    """Raise StartedByImport while a script is being imported: what it registers is wanted, not its sweep."""
    if _importing:
        raise StartedByImport("it starts its sweep, which belongs under if __name__ == '__main__'")


def _import(path: Path, expected: str | None) -> str | None:
    """Run the file as a module of its own, not as `__main__`; what failed, None if nothing did."""
    try:
        content = path.read_bytes()
        code = compile(content, str(path.resolve()), "exec", dont_inherit=True)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except (SyntaxError, ValueError) as error:
        return f"{path} is no Python: {error}"
    script = Script(str(path.resolve()), hashlib.sha256(content).hexdigest())
    if expected not in (None, script.sha256):
        return f"the script {path} is not imported, for it has changed since it started the sweep"
    name = SCRIPT + script.sha256[:16]
    if name in sys.modules:
        return None
    module = ModuleType(name)
    module.__file__ = script.path
    before, arguments = MODELS.keys() | METRICS.keys(), sys.argv
    sys.modules[name] = module
    sys.path.insert(0, os.path.dirname(script.path))  # as when the script is run, for modules that lie beside it
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
        sys.path.append(sys.path.pop(0))  # for what it imports later; the libraries' own modules come first again
    for registered in (MODELS.keys() | METRICS.keys()) - before:
        _registered_by[registered] = script
    return None


def imported_modules() -> list[ModuleType]:
    """Return the modules of scripts that were imported here: a worker has not got them."""
    return [module for name, module in sys.modules.items() if name.startswith(SCRIPT)]


def module_of(made: object) -> ModuleType | None:
    """Return the module that a class or a function was defined in, if it is a file of the user's own; else None.

    No worker could import it by its name. What is installed, on every machine then, is no file of one's own.
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
