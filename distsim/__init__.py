"""distsim: sweeps of iterative magnitude pruning, and layer-wise similarity of what the networks represent.

    study = distsim.run("digits", runs=2, iterations=3)     or distsim.open("results/digits")
    study.summary, study.network(run=1, iteration=3).model, study.figure("fig2")

docs/python.md shows all of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from distsim._version import __version__

if TYPE_CHECKING:
    from distsim import metrics
    from distsim.api.opening import open
    from distsim.api.problem import Problem, Pruning, Recipe
    from distsim.api.running import run
    from distsim.api.study import Study
    from distsim.callbacks import Callback
    from distsim.comparison.models import compare

__all__ = ["Callback", "Problem", "Pruning", "Recipe", "Study", "__version__", "compare", "metrics", "open", "run"]

_PLACES = {
    "Callback": "distsim.callbacks",
    "Problem": "distsim.api.problem",
    "Pruning": "distsim.api.problem",
    "Recipe": "distsim.api.problem",
    "Study": "distsim.api.study",
    "compare": "distsim.comparison.models",
    "open": "distsim.api.opening",
    "run": "distsim.api.running",
}
_NEEDS = {  # extras; distsim.run looks for Ray once it is asked to use it
    "Problem": ("train",),
    "Pruning": ("train",),
    "Recipe": ("train",),
    "Study": ("train", "store", "report"),
    "compare": ("train",),  # its table and its heat map say what they need
    "open": ("train", "store", "report"),
    "run": ("train", "store", "report"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, since importing PyTorch, Ray and pandas takes seconds each."""
    if name == "metrics":
        return importlib.import_module("distsim.metrics")
    if name in _PLACES:
        if name in _NEEDS:
            from distsim import extras

            extras.require(f"distsim.{name}", _NEEDS[name])
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'distsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
