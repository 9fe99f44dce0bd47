"""What a metric says of two layers, checked: its value or why it has none, in the form in which results hold it."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from distsim.metrics.arrays import Undefined
from distsim.metrics.kernels import Unresolved
from distsim.metrics.reads import Number
from distsim.metrics.registry import BUILT_IN, Metric
from distsim.specs import shown
from distsim.specs.fields import LARGEST
from distsim.specs.json_shape import encodable


class Measured(NamedTuple):
    """A metric's value or why it has none, why it should be read with care, its bounds, and what it is by chance."""

    value: Number | None
    reason: str = ""
    warning: Any = ""  # a text, or a Later that becomes one
    lower: Number | None = None
    upper: Number | None = None
    null: Number | None = None
    null_sd: Number | None = None


def measured(metric: Metric, layer: str, *sides: Any, **options: Any) -> Measured:
    """Call a metric's functions for two sides and return what they say. layer : its name, for errors

    ValueError: what one of them returns is nothing that can be recorded, or one of a metric of one's own fails. The
    functions of deferred metrics are taken at their word.
    """
    try:
        value = _called(metric, "measure", layer, sides, options)
    except Undefined as reason:
        return Measured(None, _reason(metric, layer, str(reason)))
    warning = _called(metric, "caution", layer, sides) if metric.caution else ""
    bounds = _called(metric, "enclosed", layer, sides) if metric.enclosed else None
    null = _called(metric, "null", layer, sides) if metric.null else None
    if metric.deferred:
        return Measured(value, "", warning, *(bounds or (None, None)), *(null or (None, None)))
    if not (isinstance(warning, str) and encodable(warning)):
        raise _wrong(metric, "'s caution returned", warning, layer, 'text, "" where there is nothing to say')
    number = _number(value)
    if number is None:
        raise _wrong(metric, " returned", value, layer, f"a finite number of at most {LARGEST:g} in size")
    return Measured(number, "", warning, *_two(metric, "enclosed", layer, bounds), *_two(metric, "null", layer, null))


def kept(metric: Metric, layer: str, pair: Any) -> tuple[Number, Number]:
    """Return how many directions of both sides a metric with `kept` compares. Arguments and errors: see `measured`."""
    counts = _called(metric, "kept", layer, (pair,))
    if metric.deferred:
        x, y = counts
        return x, y
    try:
        x, y = map(operator.index, counts)
    except (TypeError, ValueError):
        x, y = -1, -1
    if min(x, y) < 0:
        raise _wrong(metric, "'s kept returned", counts, layer, "two whole numbers")
    return x, y


def _called(metric: Metric, what: str, layer: str, sides: tuple[Any, ...], options: Any = None) -> Any:
    """Call one of a metric's functions. ValueError: it is one's own and raises something."""
    function: Callable[..., Any] = getattr(metric, what)
    try:
        return function(*sides, **(options or {}))
    except (Unresolved, MemoryError):
        raise
    except Exception as error:
        is_reason = what == "measure" and isinstance(error, Undefined)
        lacks_memory = type(error).__name__ == "OutOfMemoryError"  # PyTorch's, which is no MemoryError
        if is_reason or lacks_memory or metric.deferred or BUILT_IN.get(metric.name) == metric:
            raise
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"metric {metric.name}'s {what} fails for layer {layer}: {told}") from error


def _reason(metric: Metric, layer: str, reason: str) -> str:
    if not reason or not encodable(reason):
        raise _wrong(metric, " raised Undefined with", reason, layer, "a text that says why there is no value")
    return reason


def _two(metric: Metric, what: str, layer: str, found: Any) -> tuple[float | None, float | None]:
    """Return two numbers that a metric's function gave, or twice None if it gave None."""
    if found is None:
        return None, None
    try:
        first, second = map(_number, found)
    except (TypeError, ValueError):
        first = second = None
    if first is None or second is None:
        raise _wrong(metric, f"'s {what} returned", found, layer, "two finite numbers, or None")
    return first, second


def _number(value: Any) -> float | None:
    """Return a value as a number, None if it is not a finite one of at most `LARGEST`."""
    if isinstance(value, str | bytes | bytearray):
        return None
    try:
        number = float(value)
    except Exception:  # arrays and tensors raise what they like
        return None
    return number if abs(number) <= LARGEST else None


def _wrong(metric: Metric, verb: str, found: Any, layer: str, expected: str) -> ValueError:
    return ValueError(f"metric {metric.name}{verb} {shown(found)} for layer {layer}; expected {expected}")
