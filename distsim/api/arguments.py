"""Check a caller's arguments by name."""

import difflib
import functools
import inspect
import os
from collections.abc import Callable, Collection
from typing import Any, ParamSpec, TypeVar

from distsim.comparison.arguments import plain, whole
from distsim.specs import shown

P = ParamSpec("P")
R = TypeVar("R")


def names_checked(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function: an unknown keyword raises a TypeError that lists the known ones and names the closest."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            require_known("argument", name, [p for p in signature.parameters if p != "self"], of=function.__name__)
        return function(*args, **kwargs)

    checked.__signature__ = signature  # type: ignore[attr-defined]
    return checked


def require_known(what: str, name: object, known: Collection[str], of: str) -> None:
    """Raise TypeError if the name is unknown; the message names the closest one."""
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise TypeError(f"{of} has no {what} {name}{hint}; it has {', '.join(known)}")


def require_one_of(argument: str, value: object, options: Collection[Any]) -> None:
    """Raise ValueError if the value is not one of the options."""
    if not isinstance(value, str | int) or value not in options:
        named = ", ".join(shown("") if option == "" else str(option) for option in options)
        raise ValueError(f"{argument} must be one of {named}, got {shown(value)}")


def require_path(argument: str, value: object) -> None:
    """Raise ValueError if the value is no path of a file."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"{argument} must be a path, got {shown(value)}")


def require_whole(argument: str, value: object, least: int = 0) -> None:
    """Raise ValueError if the value is not a whole number, Python's or NumPy's, or is below `least`."""
    whole(argument, value, least)


def listed(argument: str, value: Any) -> tuple[str, ...]:
    """Return one name, or a list of names, as a tuple. ValueError: it is something else."""
    names = (value,) if isinstance(value, str) else plain(value)
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{argument} must be a name or a list of names, got {shown(value)}")
    return names
