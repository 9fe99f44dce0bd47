"""The arguments of a comparison, checked by name before anything runs."""

from collections.abc import Collection, Mapping
from typing import Any

from distsim.metrics.registry import METRICS, Metric, known
from distsim.specs import shown

MEASURES = ("se", "se_nbs")


def plain(value: Any) -> Any:
    """Return the value with lists turned into tuples and NumPy numbers into Python ones."""
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def whole(argument: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a whole number, also of NumPy, as Python's. ValueError: it is something else, or out of these bounds."""
    number = plain(value)
    if (
        isinstance(number, bool)
        or not isinstance(number, int)
        or not least <= number <= (number if most is None else most)
    ):
        bounds = f"from {least} on" if most is None else f"from {least} to {most:,}"
        raise ValueError(f"{argument} must be a whole number {bounds}, got {shown(value)}")
    return int(number)


def metrics_of(names: Any) -> tuple[Metric, ...]:
    """Return the metrics of a name or of several, each once. TypeError, ValueError: there are none of these names."""
    wanted = _names(names)
    if wanted is None:
        raise TypeError(f"metrics must be a name or a list of names, got {shown(names)}")
    if not wanted:
        raise ValueError(f"metrics is empty; there are {tuple(METRICS)}")
    return known(dict.fromkeys(wanted))


def measures_of(names: Any) -> tuple[str, ...]:
    """Return what `measure` names. TypeError, ValueError: it is something else than names of `MEASURES`."""
    wanted = _names(names)
    if wanted is None:
        raise TypeError(f"measure takes {' and '.join(MEASURES)}, got {shown(names)}")
    if unknown := sorted(set(wanted) - set(MEASURES)):
        raise ValueError(f"measure takes {' and '.join(MEASURES)}, got {', '.join(map(repr, unknown))}")
    return wanted


def channels_of(channels: Any) -> dict[str, int]:
    """Return which dimension is the channels, by layer. TypeError: it is no dict of whole numbers by names."""
    if channels is None:
        return {}
    if not isinstance(channels, Mapping):
        raise TypeError(f"channels must be a dict of dimensions by layer, got {shown(channels)}")
    for name, given in channels.items():
        if not isinstance(name, str):
            raise TypeError(f"channels must be by the layers' names, got {shown(name)}")
        if isinstance(number := plain(given), bool) or not isinstance(number, int):
            raise TypeError(
                f"channels[{name!r}] must be a dimension, a whole number such as 1 or -1, got {shown(given)}"
            )
    return {name: plain(number) for name, number in channels.items()}


def require_channels(channels: Mapping[str, int], layers: Collection[str]) -> None:
    """Check that `channels` names layers that are compared. ValueError: one is not."""
    if unknown := sorted(set(channels) - set(layers)):
        raise ValueError(f"channels names {unknown}, which are not among the layers")


def progress_of(progress: Any) -> bool | None:
    """Return whether a bar is asked for. TypeError: it is not True, False or None."""
    asked = plain(progress)
    if asked is not None and not isinstance(asked, bool):
        raise TypeError(f"progress must be True, False or None, got {shown(progress)}")
    return asked


def _names(names: Any) -> tuple[str, ...] | None:
    """Return one name or several as a tuple, None if these are no names."""
    if isinstance(names, str):
        return (names,)
    try:
        several = tuple(names)
    except TypeError:
        return None
    return several if all(isinstance(name, str) for name in several) else None
