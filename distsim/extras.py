"""Which extra of the package brings which library, and the sentence for a user who lacks one.

The metrics need NumPy and array-api-compat, which are always there. Everything else is in an extra of `pyproject.toml`,
so that nobody installs PyTorch to measure two arrays.
"""

import importlib.util
from collections.abc import Iterable

from distsim.words import enumerated

DISTRIBUTION = "distsim-imp"  # on PyPI, `distsim` is another project

EXTRA = {  # module -> extra, as in pyproject.toml
    "torch": "train",
    "torchvision": "train",
    "threadpoolctl": "train",
    "PIL": "train",
    "sklearn": "train",
    "obstore": "store",
    "zarr": "store",
    "safetensors": "store",
    "rich": "store",
    "ray": "ray",
    "pandas": "report",
    "pyarrow": "report",
    "matplotlib": "report",
    "scipy": "report",
    "cupy": "gpu",
    "cupyx": "gpu",
    "skdim": "dimension",
    "xarray": "xarray",
    "tensorboard": "tensorboard",
}
NAMES = {"torch": "PyTorch", "PIL": "Pillow", "sklearn": "scikit-learn", "ray": "Ray", "scipy": "SciPy"}


MANY = 4  # more are not named


class MissingExtra(ImportError):
    """A library is not installed that an extra brings. The text says which, and the command that installs it."""


def command(extras: Iterable[str]) -> str:
    """Return the command that installs these extras."""
    return f"pip install '{DISTRIBUTION}[{','.join(dict.fromkeys(extras))}]'"


def require(who: str, extras: Iterable[str]) -> None:
    """Check that the libraries of these extras are installed; import none of them. who : begins the sentence

    MissingExtra: one is not installed.
    """
    wanted = tuple(extras)
    require_modules(who, *(module for module, extra in EXTRA.items() if extra in wanted))


def require_modules(who: str, *modules: str) -> None:
    """Check that these modules of extras are installed; import none. MissingExtra: one is not. who : as in `require`"""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtra(said(who, missing))


def said(who: str, modules: list[str]) -> str:
    """Return the sentence about libraries that are not installed."""
    names = [NAMES.get(module, module) for module in modules]
    if len(names) > MANY:
        names = [names[0], f"{len(names) - 1} other libraries"]
    are = "are" if len(modules) > 1 else "is"
    return f"{who} needs {enumerated(names)}, which {are} not installed: {command(EXTRA[module] for module in modules)}"


def missing_in(error: BaseException) -> str | None:
    """Return what to say of an import that failed because an extra is not installed. None: the error is another."""
    if isinstance(error, MissingExtra):
        return str(error)
    module = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return said("this", [module]) if module in EXTRA else None
