"""Problem, Recipe and Pruning as a user writes them: a class as the model, lists where lists are natural, defaults.

They return the specs of `distsim.specs`, in which a model is a name and every field has its final value.
"""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distsim import specs
from distsim.api.arguments import require_known
from distsim.comparison.arguments import plain
from distsim.problems import ARRAYS, PROBLEMS

PROBE = 5000  # images, or all there are
OF_SOURCE = {
    "folder": {"channels": 3, "probe": PROBE},
    **{one.source: {"size": one.size, "channels": one.channels, "probe": one.probe} for one in PROBLEMS.values()},
}


@dataclass(frozen=True)
class ProblemOfData(specs.Problem):
    """A problem of arrays that leaves some fields to its data. `distsim.run` fills them in."""

    of_data: tuple[str, ...] = ()  # of size, channels, probe; until then they are 1

    def settled(self, **fields: Any) -> specs.Problem:
        """Return the problem with these fields set, as far as it left them to the data."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(specs.Problem)}
        return specs.Problem(**own | {name: value for name, value in fields.items() if name in self.of_data})


def Problem(
    model: str | Callable[[int, int, int], Any],
    *,
    name: str | None = None,
    source: str = ARRAYS,
    size: int | None = None,
    channels: int | None = None,
    recipe: specs.Recipe | None = None,
    pruning: specs.Pruning | None = None,
    classes: list[str] | tuple[str, ...] = (),
    probe: int | None = None,
    runs: int = 20,
    iterations: int = 20,
    **more: Any,
) -> specs.Problem:
    """Return a `distsim.specs.Problem`, for `distsim.run`.

    model : a class or function that is called with (channels, size, classes) and returns a network, or a name in
        distsim.models.MODELS. A class or function is added to MODELS under its own name
    name : the problem's folder in the store; by default the model's name
    source : arrays, folder, or a published data set (cifar10, svhn, mnist, digits)
    size, channels, probe : by default those of the data (the probe at most 5,000 images)
    recipe, pruning : by default Recipe() and Pruning()
    classes : names of the labels 0, 1, ...; where the data have class names, the ones to use
    more : the other fields of distsim.specs.Problem
    ValueError names the argument, what came and what is expected.
    """
    more = _fields(specs.Problem, more, "argument")
    for argument, value, kind in (("recipe", recipe, specs.Recipe), ("pruning", pruning, specs.Pruning)):
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{argument} must be a distsim.{kind.__name__}, got {specs.shown(value)}")
    known = registered(model)
    recipe = Recipe() if recipe is None else recipe
    given = {"size": size, "channels": channels, "probe": probe}
    if channels is None and recipe.normalise is not None:
        given["channels"] = len(recipe.normalise[0])
    of_source = OF_SOURCE.get(source, {}) if isinstance(source, str) else {}
    images = {field: of_source.get(field) if value is None else value for field, value in given.items()}
    if source == "folder" and images["size"] is None:
        raise ValueError("size must be a whole number where source is folder: its images are cropped and resized to it")
    of_data = tuple(field for field, value in images.items() if value is None)
    made = {
        "name": known if name is None else name,
        "source": source,
        "model": known,
        **{field: 1 if value is None else plain(value) for field, value in images.items()},
        "recipe": recipe,
        "pruning": Pruning() if pruning is None else pruning,
        "classes": plain(classes),
        "runs": plain(runs),
        "iterations": plain(iterations),
        **more,
    }
    return ProblemOfData(**made, of_data=of_data) if of_data else specs.Problem(**made)


def Recipe(**fields: Any) -> specs.Recipe:
    """Return a `distsim.specs.Recipe`; its docstring explains the fields.

    The default is 15 epochs of Adam with lr 0.001 and batches of 64. With another optimizer the default lr is 0.1.
    """
    defaults: dict[str, Any] = {"epochs": 15, "batch_size": 64, "optimizer": "adam"}
    if fields.get("optimizer", "adam") == "adam":
        defaults["lr"] = 1e-3
    return specs.Recipe(**defaults | _fields(specs.Recipe, fields))


def Pruning(**fields: Any) -> specs.Pruning:
    """Return a `distsim.specs.Pruning`; its docstring explains the fields.

    By default each iteration prunes a fifth of all parameters together, with learning-rate rewinding (LRR). A global
    pool has one rate: if one of the two is given, the other is set to it.
    """
    if fields.get("scope", "global") == "global" and len(given := fields.keys() & {"conv_rate", "fc_rate"}) == 1:
        fields |= dict.fromkeys(("conv_rate", "fc_rate"), fields[given.pop()])
    return specs.Pruning(**_fields(specs.Pruning, fields))


Recipe.__signature__ = inspect.signature(specs.Recipe)  # type: ignore[attr-defined]  # for help()
Pruning.__signature__ = inspect.signature(specs.Pruning)  # type: ignore[attr-defined]


def _fields(spec: type, given: dict[str, Any], what: str = "field") -> dict[str, Any]:
    for name in given:
        require_known(what, name, [field.name for field in dataclasses.fields(spec)], of=spec.__name__)
    return {name: plain(value) for name, value in given.items()}


# --- networks by name ------------------------------------------------------------------------------------------------


def registered(model: Any) -> str:
    """Return the name under which distsim knows this model. A class or function is added to MODELS first.

    A class that is defined again, as in a notebook's cell, replaces the earlier one. ValueError: the name is unknown or
    belongs to another model, or this is not a class or function.
    """
    from distsim.models import MODELS

    if isinstance(model, str):
        if model not in MODELS:
            raise ValueError(f"model must be a class, a function or one of {', '.join(sorted(MODELS))}, got {model!r}")
        return model
    name = getattr(model, "__name__", None)
    if not callable(model) or name is None:  # an instance has none
        raise ValueError(f"model must be a class or function that makes a network, or a name, got {specs.shown(model)}")
    if not name.isidentifier():
        raise ValueError(
            f"model: a function needs a name, which the store records; got {specs.shown(model)}; define it with def"
        )
    there = MODELS.get(name, model)
    if there is not model and _place(there) != _place(model):
        raise ValueError(
            f"model {name} of {_place(model)}: {_place(there)} has the same name; give one of them another name"
        )
    MODELS[name] = model
    return str(name)


def _place(model: Any) -> str:
    return f"{getattr(model, '__module__', '?')}.{getattr(model, '__qualname__', '?')}"
