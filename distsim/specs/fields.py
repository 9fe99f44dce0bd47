"""Checks the fields of frozen dataclasses, writes them as JSON trees, and reads them back.

A field's annotation states its allowed values: `Literal` options, tuples, unions, numbers with bounds.

How specs grow. A field that is added later is declared as `warmup: int = added(5, absent=0)`. Older stores do not have
the field. It is read as 0 there, and that meaning never changes. A spec whose value is 0 leaves the field out of its
JSON, so older stores keep their hash. New specs get 5, and this default may change at any time.

Why no library. msgspec (0.22, 41 ms to import) does not check constructors, ignores unknown fields and accepts integers
of any length. pydantic (2.14, 197 ms) checks constructors, but accepts NaN and long integers unless told otherwise, and
its errors take several lines. Either would replace only `_fits` (17 lines). The wording of the bounds, `absent` and
`INLINE` would stay, and its errors would have to be translated.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

T = TypeVar("T")

MOST = 10**9  # the largest number of anything that is counted; a larger one is a typing error
LARGEST = 1e100  # the largest number that is measured; its square, and axes of figures around it, are finite


class UnknownField(TypeError):
    """A JSON tree has a field that this version of distsim does not know. A newer version wrote it."""


# --- declaring fields ------------------------------------------------------------------------------------------------


def added(default: T, *, absent: T) -> T:
    """Declare a field that older stores do not have.

    default : the value of new specs; it may change. absent : the value in older stores; it must never change.
    """
    return dataclasses.field(default=default, metadata={"absent": absent})


def unwritten(default: T) -> T:
    """Declare a field that is left out of the JSON, and so out of the hash."""
    return dataclasses.field(default=default, metadata={"unwritten": True})


INLINE = {"inline": True}  # metadata of a nested spec whose JSON fields stand among those of the outer spec


@dataclass(frozen=True)
class Bound:
    """A condition on a number, and the words that follow "must" in its error message."""

    says: str
    holds: Callable[[Any], bool]


def count(most: int) -> tuple[Bound, Bound]:
    """Return the bounds of a number of things, from 1 to `most`."""
    return Bound("be at least 1", lambda n: n >= 1), Bound(f"be at most {most:,}", lambda n: n <= most)


_NOT_NEGATIVE = Bound("not be negative", lambda x: x >= 0)

Count = Annotated[int, *count(MOST)]
Natural = Annotated[int, _NOT_NEGATIVE]
Positive = Annotated[float, Bound("be positive", lambda x: x > 0)]
NotNegative = Annotated[float, _NOT_NEGATIVE]
Real = Annotated[float, Bound(f"be between -{LARGEST:g} and {LARGEST:g}", lambda x: abs(x) <= LARGEST)]
Proportion = Annotated[float, Bound("be in [0, 1]", lambda x: 0 <= x <= 1)]
Share = Annotated[float, Bound("be in (0, 1)", lambda x: 0 < x < 1)]


# --- checking --------------------------------------------------------------------------------------------------------


def check(spec: Any) -> None:
    """Raise ValueError, which names the field, for the first field whose value does not fit its annotation."""
    for field in dataclasses.fields(spec):
        require(field.name, getattr(spec, field.name), field.type)


def require(name: str, value: Any, kind: Any) -> None:
    """Raise ValueError if the value is not of this type or breaks a bound that `Annotated` gives."""
    if fitting(kind)(value):
        return
    if not _fits(value, kind):
        raise ValueError(f"{name} must be {_described(kind)}, got {shown(value)}")
    for fault in _out_of_bounds(value, kind):
        raise ValueError(f"{name} {fault}")


def expect(condition: bool, message: str) -> None:
    """Raise ValueError with this message if the condition does not hold."""
    if not condition:
        raise ValueError(message)


def shown(value: Any) -> str:
    """Return the value as text for an error message, cut to 100 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write numbers of more than 4,300 digits
        return "a number of thousands of digits"
    except RecursionError:
        return "what is nested too deeply"
    return text if len(text) <= 100 else f"{text[:100]}..."


@cache
def fitting(kind: Any) -> Callable[[Any], bool]:
    """Return a function that says whether a value passes `require`. It is quick: a large store has 100,000 records."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is int:
        return lambda value: (type(value) is int and -(2**63) < value < 2**63) or _fits(value, int)
    if kind is float:
        return lambda value: (type(value) is float and abs(value) <= sys.float_info.max) or _fits(value, float)
    if origin is Annotated:
        of_type, held = fitting(inner[0]), tuple(bound.holds for bound in inner[1:])
        return lambda value: of_type(value) and all(holds(value) for holds in held)
    if origin in (Union, UnionType):
        options = [fitting(option) for option in inner if option is not NoneType]
        if len(options) == 1:
            return lambda value: value is None or options[0](value)
        if all(option in (str, bool, int, float, NoneType) for option in inner):
            return lambda value: (value is None and NoneType in inner) or any(fits(value) for fits in options)
    elif origin is not tuple:
        return lambda value: _fits(value, kind)
    return lambda value: _fits(value, kind) and not any(_out_of_bounds(value, kind))


def _fits(value: Any, kind: Any) -> bool:
    """Say whether the value is of this type.

    An int counts as a float. True, NaN and infinity do not count as numbers, nor do integers of more than 64 bits.
    """
    if kind in (str, bool, NoneType):
        return isinstance(value, kind)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(value, inner[0])
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is Literal:
        return any(_fits(value, type(option)) and value == option for option in inner)
    if origin is tuple:
        kinds = _of_each(value, inner) if isinstance(value, tuple) else None
        return kinds is not None and len(kinds) == len(value) and all(map(_fits, value, kinds))
    if kind is float:
        return _fits(value, int) or (isinstance(value, float) and abs(value) <= sys.float_info.max)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, kind)


def _out_of_bounds(value: Any, kind: Any) -> Iterator[str]:
    """Yield a message for each bound that a value of this type breaks."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        text = shown(value) if isinstance(value, str) else f"{value:,}"
        yield from (f"must {bound.says}, got {text}" for bound in inner[1:] if not bound.holds(value))
    elif origin in (Union, UnionType):
        for option in inner:
            if _fits(value, option):
                yield from _out_of_bounds(value, option)
    elif origin is tuple:
        for element, element_kind in zip(value, _of_each(value, inner), strict=True):
            yield from _out_of_bounds(element, element_kind)


def _of_each(value: tuple[Any, ...], inner: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the type of each element of a tuple[X, ...] or tuple[X, Y]."""
    return (inner[0],) * len(value) if inner[-1] is Ellipsis else inner


def _described(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _described(inner[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_described, inner))
    if origin is Literal:
        *first, last = map(str, inner)
        return f"{', '.join(first)} or {last}" if first else last
    if origin is tuple:
        return f"a tuple, each {_described(inner[0])}" if inner[-1] is Ellipsis else f"a tuple of {len(inner)}"
    plain = {int: "a whole number (64 bits)", float: "a finite number", bool: "True or False", str: "text"}
    return plain.get(kind) or ("None" if kind is NoneType else f"a {kind.__name__}")


# --- JSON ------------------------------------------------------------------------------------------------------------


def names(kind: Any) -> tuple[str, ...]:
    """Return the names of the fields that the JSON of this spec, or of this class of specs, can have."""
    return tuple(field.name for field in _written(kind))


def default_of(kind: Any, name: str) -> Any:
    """Return the value of a field where new specs do not say it."""
    return next(field.default for field in dataclasses.fields(kind) if field.name == name)


def to_dict(spec: Any) -> dict[str, Any]:
    """Write a spec as plain JSON values. An added field is left out while it has its `absent` value."""
    tree: dict[str, Any] = {}
    for field in _written(spec):
        value = getattr(spec, field.name)
        if field.metadata.get("inline"):
            tree |= to_dict(value)
        elif dataclasses.is_dataclass(value):
            tree[field.name] = to_dict(value)
        elif "absent" not in field.metadata or value != field.metadata["absent"]:
            tree[field.name] = json.loads(json.dumps(value))
    return tree


def from_dict(kind: type[T], tree: Any, path: str = "") -> T:
    """Read what `to_dict` wrote, now or before a field was added. The tree is not changed.

    TypeError: a field is missing. UnknownField: a field is not known here. ValueError: a value does not fit its field.
    """
    where = path or kind.__name__.lower()
    if not isinstance(tree, dict):
        raise TypeError(f"{where} must be an object with fields, got {shown(tree)}")
    unread, values = dict(tree), {}
    for field in _written(kind):
        spec: Any = field.type
        if field.metadata.get("inline"):
            values[field.name] = from_dict(
                spec, {name: unread.pop(name) for name in names(spec) if name in unread}, path
            )
        elif field.name not in unread:
            if "absent" not in field.metadata:
                raise TypeError(f"{where} lacks {field.name}")
            values[field.name] = field.metadata["absent"]
        elif dataclasses.is_dataclass(field.type):
            inner = f"{path}.{field.name}" if path else field.name
            values[field.name] = from_dict(spec, unread.pop(field.name), inner)
        else:
            values[field.name] = frozen(unread.pop(field.name))
    if unread:
        raise UnknownField(f"{where} has the field {shown(min(unread))}, which this distsim does not know")
    return kind(**values)


class Spec:
    """What every specification can do. It is the base of frozen dataclasses whose fields state their values."""

    def __post_init__(self) -> None:
        check(self)

    def as_dict(self) -> dict[str, Any]:
        """Write plain JSON values, as `to_dict` does."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, tree: Any) -> Self:
        """Read what `as_dict` wrote. Errors are those of `distsim.specs.fields.from_dict`."""
        return from_dict(cls, tree)


def frozen(value: Any, levels: int = 2) -> Any:
    """Turn JSON's lists, and lists of lists, back into tuples."""
    return tuple(frozen(element, levels - 1) for element in value) if levels and isinstance(value, list) else value


def _written(kind: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if not field.metadata.get("unwritten")]
