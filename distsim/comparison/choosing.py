"""Which layers of a model are compared: those that names, patterns and types choose, or the default."""

import difflib
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from distsim.comparison.inputs import require_names

DEFAULT = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
PATTERN = frozenset("*?[")
Selector = str | type | types.UnionType
WRONG = "layers must be names, patterns or module types, or a list of them for each model"


@dataclass
class Chosen:
    """The modules of a model that were chosen.

    by_name : those that were named one by one: that one cannot be compared is an error
    in_order : they are wanted in this order; otherwise it is that in which they run
    left_out : modules with weights that the default leaves out, with the reason
    """

    modules: dict[str, nn.Module]
    by_name: frozenset[str]
    in_order: bool
    left_out: dict[str, str]


def selections(layers: Any, names: list[str]) -> list[tuple[Selector, ...] | None]:
    """Return what chooses the layers of each model, None where it is the default.

    layers : as for `distsim.compare`; names : of the models
    """
    if isinstance(layers, Mapping):
        require_names("layers", layers, names)
        of_models = [layers.get(name) for name in names]
    elif _of_each(layers, len(names)):
        of_models = list(layers)
    else:
        of_models = [layers] * len(names)
    return [None if one is None else _selectors(one, layers) for one in of_models]


def _of_each(layers: Any, models: int) -> bool:
    """Return whether this is a list of what each model is to have."""
    return (
        isinstance(layers, Sequence)
        and not isinstance(layers, str)
        and len(layers) == models
        and any(one is None or (isinstance(one, Sequence) and not isinstance(one, str)) for one in layers)
    )


def _selectors(given: Any, layers: Any) -> tuple[Selector, ...]:
    several = [given] if isinstance(given, str | type | types.UnionType) else given
    if not isinstance(several, Sequence) or not all(_is_selector(one) for one in several):
        raise TypeError(f"{WRONG}, got {layers!r}")
    if not several or len(set(several)) < len(several):
        raise ValueError(f"layers must name at least one layer, and each once, got {list(several)}")
    return tuple(several)


def _is_selector(one: Any) -> bool:
    if isinstance(one, type):
        return issubclass(one, nn.Module)
    return isinstance(one, str | types.UnionType)


def choose(label: str, model: nn.Module, selectors: Sequence[Selector] | None) -> Chosen:
    """Choose the layers of a model. ValueError: a name, pattern or type chooses none."""
    if selectors is None:
        default = {name: module for name, module in model.named_modules() if name and is_default(module)}
        return Chosen(default, frozenset(), False, _not_compared(model))
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    chosen, by_name = dict[str, nn.Module](), set[str]()
    for selector in selectors:
        if isinstance(selector, str) and (selector in modules or not PATTERN & set(selector)):
            chosen |= {selector: _named(label, modules, selector)}
            by_name.add(selector)
        else:
            found = {name: module for name, module in modules.items() if _matches(name, module, selector)}
            if not found:
                raise ValueError(_no_match(label, modules, selector))
            there = set(map(id, chosen.values()))  # a module that has several names is taken under one
            for name, module in found.items():
                if id(module) not in there:
                    chosen[name] = module
                    there.add(id(module))
    return Chosen(chosen, frozenset(by_name), len(by_name) == len(selectors), {})


def choose_names(label: str, names: Sequence[str], selectors: Sequence[Selector]) -> list[str]:
    """Choose among layers of which only the names are known. ValueError, TypeError: a selector chooses none."""
    chosen: dict[str, None] = {}
    for selector in selectors:
        if not isinstance(selector, str):
            raise TypeError(f"{label} is activations, whose layers have no types: choose them by name")
        found = [selector] if selector in names else [name for name in names if fnmatchcase(name, selector)]
        if not found:
            raise ValueError(f"{label} has no layer {selector!r}; near: {_near(names, selector)}")
        chosen |= dict.fromkeys(found)
    return list(chosen)


def is_default(module: nn.Module) -> bool:
    """Return whether the default compares the module."""
    return isinstance(module, DEFAULT) or is_transposed_linear(module)


def is_transposed_linear(module: nn.Module) -> bool:
    """Return whether this is the linear layer of GPT-2 in Hugging Face's transformers, which they call Conv1D."""
    return type(module).__name__ == "Conv1D" and type(module).__module__.partition(".")[0] == "transformers"


def _matches(name: str, module: nn.Module, selector: Selector) -> bool:
    return fnmatchcase(name, selector) if isinstance(selector, str) else isinstance(module, selector)


def _named(label: str, modules: Mapping[str, nn.Module], name: str) -> nn.Module:
    if name not in modules:
        raise ValueError(f"{label} has no layer {name!r}; near: {_near(modules, name)}")
    return modules[name]


def _near(modules: Collection[str], name: str) -> str:
    near = difflib.get_close_matches(name, modules, n=3, cutoff=0.5) or list(modules)[:3]
    return ", ".join(map(repr, near))


def _no_match(label: str, modules: Mapping[str, nn.Module], selector: Selector) -> str:
    if isinstance(selector, str):
        return f"{label} has no layer that matches the pattern {selector!r}; near: {_near(modules, selector)}"
    kinds = sorted({type(module).__name__ for module in modules.values()})
    name = selector.__name__ if isinstance(selector, type) else str(selector)
    return f"{label} has no layer of type {name}; it has {', '.join(kinds[:20])}{', ...' if len(kinds) > 20 else ''}"


def _not_compared(model: nn.Module) -> dict[str, str]:
    """Return the modules with weights that the default leaves out, and the model's own weights, with the reason."""
    reasons: dict[str, str] = {}
    first: dict[nn.Module, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        own = {of: parameter for of, parameter in module._parameters.items() if parameter is not None}
        if first.setdefault(module, name) != name:
            if is_default(module):
                reasons[name] = f"it is the same module as {first[module]!r}"
        elif not is_default(module) and (weights := [of for of, value in own.items() if value.ndim > 1]):
            if name:
                reasons[name] = f"{type(module).__name__} is not compared unless it is named in layers=[...]"
            else:
                reasons |= dict.fromkeys(weights, "it is a parameter of the model itself, not a module's")
    return reasons
