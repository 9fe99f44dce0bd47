"""Changes of a spec's fields, from a command line or a TOML file, and specs as TOML."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from distsim.specs.fields import frozen, shown

T = TypeVar("T")
Toml = dict[str, Any]
NONE = "none"  # how None is written: TOML has no word for it


def parsed(change: str) -> Toml:
    """Read `recipe.lr=0.05` as {"recipe": {"lr": 0.05}}. A value that is not TOML is text.

    ValueError: it is not FIELD=VALUE.
    """
    import tomllib

    path, equals, text = change.partition("=")
    names = path.strip().split(".")
    if not equals or not all(name.isidentifier() for name in names):
        raise ValueError(f"--set: {shown(change)} is not FIELD=VALUE, as in recipe.lr=0.05")
    value: Any = text.strip()
    if "\n" not in text:  # else it could hold more than one value
        with contextlib.suppress(tomllib.TOMLDecodeError, RecursionError):
            value = tomllib.loads(f"value = {text}")["value"]
    for name in reversed(names):
        value = {name: value}
    return value  # type: ignore[no-any-return]  # there is one name at least


def merged(first: Mapping[str, Any], then: Mapping[str, Any]) -> Toml:
    """Return a tree with the values of both; where both have one, that of `then`."""
    both = {name: merged(first[name], then[name]) for name in then if _tables(first.get(name), then[name])}
    return {**first, **then, **both}


def _tables(*values: Any) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def changed(spec: T, tree: Mapping[str, Any], where: str, path: str = "") -> T:
    """Return the spec with the values of a tree like its own; "none" stands for None.

    ValueError: a field is not known, or a value does not fit. The message begins with `where` and names the field.
    """
    fields = {field.name: field for field in dataclasses.fields(spec)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in tree.items():
        inner = f"{path}.{name}".lstrip(".")
        if name not in fields:
            among = f"the fields of {path}" if path else "the fields"
            raise ValueError(f"{where}: {shown(inner)} is not known; {among} are {', '.join(fields)}")
        now = getattr(spec, name)
        if dataclasses.is_dataclass(now):
            if not isinstance(value, Mapping):
                fewer = ", ".join(field.name for field in dataclasses.fields(now))
                raise ValueError(f"{where}: {inner} has fields of its own ({fewer}), got {shown(value)}")
            values[name] = changed(now, value, where, inner)
        else:
            values[name] = None if value == NONE else frozen(value)
    try:
        return dataclasses.replace(spec, **values)  # type: ignore[type-var]
    except ValueError as error:
        about_a_field = str(error).partition(" ")[0] in fields
        subject = f"{path}{'.' if about_a_field else ': '}" if path else ""
        raise ValueError(f"{where}: {subject}{error}") from None


def written(spec: Any, table: str) -> Iterator[str]:
    """Yield the lines of a TOML table that holds a spec. What is None stands in a comment."""
    yield f"[{table}]"
    inner = []
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if field.metadata.get("unwritten") or field.name == "reduced":
            continue
        if dataclasses.is_dataclass(value):
            inner.append((field.name, value))
        elif value is None:
            yield f'{field.name} = "{NONE}"'
        else:
            yield f"{field.name} = {json.dumps(value, ensure_ascii=False)}"
    for name, value in inner:
        yield ""
        yield from written(value, f"{table}.{name}")
