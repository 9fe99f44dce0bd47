"""The shape of JSON that was read: types as annotations, checked in one place.

A record that a store holds is described by a `TypedDict`. `require_json` checks a value against it, and names the first
field that does not fit. A stranger may have written the store, so nothing may be assumed of what is in it.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

from distsim.specs.fields import fitting, require, shown


def require_json(field: str, value: Any, kind: Any) -> None:
    """Raise ValueError if a JSON value is not of this type. The text names the field and what it must be.

    field  the value's name for the text, such as `values.cka`; "" for the whole record
    kind   a TypedDict, whose value may have further fields; dict[str, X]; list[X]; tuple[X, Y], for a list of two; or
           what `distsim.specs.fields.require` knows: numbers with bounds, text, Literal, unions of these

    All text in the value, names of fields among it, must be encodable: JSON can hold halves of a character.
    """
    if not _shaped(kind)(value):
        _require_kind(field, value, kind)  # which says where it is wrong
    if not _all_encodable(value):
        where, text = next(found for found in _texts(field, value) if not encodable(found[1]))
        raise ValueError(f"{_named(where)} must be text that can be encoded, got {shown(text)}")


@cache
def _shaped(kind: Any) -> Callable[[Any], bool]:
    """Return a function that says whether `_require_kind` has nothing to say. It is quick, as `fitting` is."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        required, fields = kind.__required_keys__, tuple((name, _shaped(of)) for name, of in _hints(kind))
        return lambda value: (
            isinstance(value, dict)
            and required <= value.keys()
            and all(shaped(value[name]) for name, shaped in fields if name in value)
        )
    if origin is dict:
        of_entries = _shaped(inner[1])
        return lambda value: isinstance(value, dict) and all(map(of_entries, value.values()))
    if origin is list:
        of_each = _shaped(inner[0])
        return lambda value: isinstance(value, list) and all(map(of_each, value))
    if origin is tuple:
        parts = tuple(map(_shaped, inner))
        return lambda value: (
            isinstance(value, list)
            and len(value) == len(parts)
            and all(shaped(entry) for shaped, entry in zip(parts, value, strict=True))
        )
    return (lambda value: True) if kind is Any else fitting(kind)


def _require_kind(field: str, value: Any, kind: Any) -> None:
    if is_typeddict(kind):
        _require_fields(field, value, kind)
    elif get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{_named(field)} must be an object, got {shown(value)}")
        for name, entry in value.items():
            _require_kind(_inner(field, name), entry, get_args(kind)[1])
    elif get_origin(kind) in (list, tuple):
        _require_list(field, value, kind)
    elif kind is not Any:
        require(_named(field), value, kind)


def require_record(field: str, value: Any, kind: Any) -> None:
    """Raise ValueError if a JSON value is not of this TypedDict, or has a field that the TypedDict has not."""
    require_json(field, value, kind)
    if unknown := sorted(value.keys() - kind.__annotations__.keys()):
        raise ValueError(f"{_named(field)} has the field {shown(unknown[0])}, which this distsim does not know")


def _require_fields(field: str, value: Any, kind: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{_named(field)} must be an object, got {shown(value)}")
    if lacking := sorted(kind.__required_keys__ - value.keys()):
        raise ValueError(f"{_named(_inner(field, lacking[0]))} is missing")
    for name, of in _hints(kind):
        if name in value:
            _require_kind(_inner(field, name), value[name], of)


def _require_list(field: str, value: Any, kind: Any) -> None:
    inner = get_args(kind)
    if not isinstance(value, list):
        raise ValueError(f"{_named(field)} must be a list, got {shown(value)}")
    if get_origin(kind) is tuple:
        if len(value) != len(inner):
            raise ValueError(f"{_named(field)} must be a list of {len(inner)}, got {shown(value)}")
    else:
        inner = inner * len(value)
    for place, (entry, of) in enumerate(zip(value, inner, strict=True)):
        _require_kind(f"{field}[{place}]", entry, of)


def _texts(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield all texts in a JSON value, each with the name of the field that holds it or has it as its own name."""
    waiting = [(field, value)]  # no recursion: JSON may be nested deeper than calls
    while waiting:
        where, found = waiting.pop()
        if isinstance(found, str):
            yield where, found
        elif isinstance(found, dict):
            yield from ((where, name) for name in found)
            waiting += [(f"{where}.{name}" if where else name, entry) for name, entry in found.items()]
        elif isinstance(found, list):
            waiting += [(where, entry) for entry in found]


def _all_encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()  # many texts at once
    except (TypeError, ValueError, RecursionError):  # of what is not JSON too
        return all(encodable(text) for _, text in _texts("", value))
    return True


def encodable(text: str) -> bool:
    """Return whether UTF-8 has the text: no half of a character, as Python's strings may hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@cache
def _hints(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Return the fields of a TypedDict and their types, without `NotRequired`."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple((name, get_args(of)[0] if get_origin(of) is NotRequired else of) for name, of in hints.items())


def _inner(field: str, name: str) -> str:
    shortened = name if len(name) <= 60 and name.isprintable() else shown(name)
    return f"{field}.{shortened}" if field else shortened


def _named(field: str) -> str:
    return f"field {field}" if field else "it"
