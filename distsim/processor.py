"""What this machine's processor lacks for bfloat16, and how much of it other processes hold."""

import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

BFLOAT16 = {"x86_64": ("avx512_bf16", "amx_bf16"), "aarch64": ("bf16",)}  # how processors name it in /proc/cpuinfo
# How many times as long as in float32 a training step in bfloat16 took: docs/benchmarks.md.
IMITATED = "12 times (vgg_svhn) and 16 times (cifar2) as long as in float32 on AVX2"
IMITATED_BY_AVX512 = "about twice as long as in float32 on AVX-512 without bfloat16"
MINUTE = 60.0  # seconds over which the system averages its load
QUIET = 0.5  # cores that others may hold in a measurement of time


class TooSlow(ValueError):
    """Training in this precision would take longer here than in float32, mostly many times as long."""


def lacks_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = platform.machine()) -> str:
    """Return a sentence if this processor has no instructions for bfloat16; "" if it has, or does not say."""
    names = BFLOAT16.get(machine, ())
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ""
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), None)
    if not names or flags is None or set(names) & set(flags):
        return ""
    seen = IMITATED_BY_AVX512 if "avx512bw" in flags else IMITATED
    return (
        f"this processor lacks instructions for bfloat16 ({' or '.join(names)}): PyTorch imitates them, and a training "
        f"step took {seen}"
    )


def slow_precision(precision: str, device: str) -> str:
    """Return a sentence if training in this precision is slow on this machine, else ""."""
    return lacks_bfloat16() if precision == "bfloat16" and device == "cpu" else ""


def require_speed(label: str, precision: str, device: str) -> None:
    """Raise TooSlow if training in this precision is slow on this machine. label : what is to be trained"""
    if slow := slow_precision(precision, device):
        raise TooSlow(
            f"{label}: {slow}. Train in float32, which is another sweep, or on another machine. --allow-slow "
            "(allow_slow=True in Python) goes on all the same"
        )


def seconds_used() -> float:
    """Return the seconds of processor time that this process used, with the children that it has waited for."""
    return sum(os.times()[:4])


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Load:
    """How many of this process's cores others hold, from the system's load, which is an average over a minute.

    What this process itself adds to that average is taken off, as far as it is known.
    """

    def __init__(
        self,
        average: Callable[[], tuple[float, float, float]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = seconds_used,
    ) -> None:
        self._average = average or getattr(os, "getloadavg", None)
        self._clock, self._used = clock, used
        self._at, self._before = clock(), used()
        self._own = 1 - math.exp(-self._before / MINUTE)  # as if it had computed without a break until now

    def others(self, ours: int | None = None, all_cores: int | None = None) -> float | None:
        """Return the load of other processes. None: the system does not say, as in some containers.

        ours : cores that this process may use. all_cores : those of the machine, of whose load the system speaks. The
        others have the rest to themselves.
        """
        now, used = self._clock(), self._used()
        if passed := now - self._at:
            left = math.exp(-passed / MINUTE)
            self._own = left * self._own + (1 - left) * (used - self._before) / passed
            self._at, self._before = now, used
        try:
            load = self._average()[0] if self._average else None
        except OSError:
            load = None
        if load is None:
            return None
        ours = cores() if ours is None else ours
        elsewhere = max(0, (all_cores or os.cpu_count() or ours) - ours)
        return max(0.0, load - self._own - elsewhere)


def busy_sentence(load: float | None, threads: int = 1, needed: int | None = None) -> str:
    """Return a sentence if others hold cores that are needed here; "" if they do not, or if the load is not known.

    load : `Load.others`. threads : of one trial. needed : cores that all trials need together; None: every core
    """
    count = cores()
    if load is None or load <= QUIET + max(0, count - (count if needed is None else needed)):
        return ""
    said = (
        f"other processes hold cores (a load of {load:.1f} on {count} core{'s' * (count > 1)}), so what is measured "
        "now is too slow. More than one thread a trial would be slow: threads wait for a core that others hold, and "
        "two had a seventh of the speed of one. "
    )
    return said + ("Wait, or use --threads 1, which is another sweep" if threads > 1 else "Keep --threads 1, or wait")
