"""Amounts and lists in words."""

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """Return a duration in words, such as "12 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def readable(size: float) -> str:
    """Return a number of bytes in words, such as "3.4 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def counted(number: int, what: str) -> str:
    """Return a number of things in words, such as "1 epoch" or "2 epochs". what : one of them"""
    return f"{number:,} {what}{'s' * (number != 1)}"


def enumerated(names: Sequence[str]) -> str:
    """Return names as a list in a sentence, such as "a, b and c"."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
