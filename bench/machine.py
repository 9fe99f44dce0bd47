"""The machine that measures: one line to stand beside the numbers, and whether other processes leave it alone."""

import argparse
import datetime
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import threadpoolctl
import torch
from report import Table

from distsim.processor import QUIET, Load, cores

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16", "sve")
VERSIONS = ("numpy", "torch", "zarr", "numcodecs", "obstore")
FADING = 180.0  # seconds in which the load of what was measured before fades
LOOKS = 5.0  # seconds between looks at the load


class Busy(RuntimeError):
    """Other processes hold so much of the machine that times are no measure."""


class Calm:
    """Whether other processes leave the machine alone. It is looked at before each section that measures times."""

    def __init__(
        self, anyway: bool, load: Callable[[], float | None] | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Make one. anyway : measure all the same, without a verdict. load : that of other processes"""
        self._anyway, self._load, self._sleep = anyway, load or Load().others, sleep
        self._patience = 0.0
        self.load: float | None = None  # when the section began
        self.judged = True  # whether its times may be judged

    def look(self, timed: bool = True) -> None:
        """Look at the load before a section. Wait for what the section before it may have left.

        timed : its numbers are times. Busy: they would be no measure, and `anyway` is False.
        """
        self.load, waited = self._load(), 0.0
        while timed and self._crowded and waited < self._patience:
            self._sleep(LOOKS)
            self.load, waited = self._load(), waited + LOOKS
        self._patience = 0.0 if self._anyway else FADING
        self.judged = not (timed and self._crowded)
        if not self.judged and not self._anyway:
            raise Busy(
                f"not measured: the load of other processes is {self.load:.1f}, above {QUIET:g}, so times would be no "
                "measure. Wait until they are done, or use --busy, which measures without a verdict"
            )

    @property
    def _crowded(self) -> bool:
        return self.load is not None and self.load > QUIET

    def text(self) -> str:
        """Return the load in words."""
        return "load unknown" if self.load is None else f"load of other processes {self.load:.1f} at the start"

    def mark(self, tables: list[Table]) -> None:
        """Note under the tables that their times are not judged, if they are not."""
        for table in () if self.judged else tables:
            table.notes.append(f"Measured beside other processes ({self.text()}), so nothing is judged.")


def busy_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--busy",
        action="store_true",
        help=f"measure although the load of other processes is above {QUIET:g}; then there are no verdicts",
    )


def describe(threads: int, device: str = "cpu") -> str:
    """Describe cores, instruction sets, memory, BLAS, versions and threads in one line, with the date."""
    parts = [f"{cores()} cores of {_processor()}", f"{_memory() / 2**30:.0f} GiB", _blas()]
    if device != "cpu":
        parts.append(_gpu())
    versions = [f"{name} {version}" for name in VERSIONS if (version := installed(name))]
    parts.append(f"Python {platform.python_version()}, {', '.join(versions)}")
    parts.append(f"{threads} threads")
    parts.append(datetime.date.today().isoformat())
    return "; ".join(parts)


def installed(name: str) -> str:
    """Return a package's version, or "" if it is not installed: training is measured without the store's packages."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """Return the processor's name and the instruction sets that decide how fast it multiplies matrices."""
    fields = {}
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        fields = {key.strip(): value.strip() for key, _, value in lines}
    flags = fields.get("flags", fields.get("Features", "")).split()
    name = fields.get("model name", platform.processor() or platform.machine())
    sets = [flag for flag in INSTRUCTION_SETS if flag in flags]
    return f"{name} ({', '.join(sets) or torch.backends.cpu.get_cpu_capability()})"


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _blas() -> str:
    """Return NumPy's BLAS and the processor whose kernels it uses; on a processor too new for it, an older one's."""
    np.ones((2, 2)) @ np.ones((2, 2))  # loads it
    libraries = [
        f"{info['internal_api']} {info['version']} with its kernels for {info.get('architecture', '?')}"
        for info in threadpoolctl.threadpool_info()
        if info["user_api"] == "blas"
    ]
    chosen = os.environ.get("OPENBLAS_CORETYPE")
    return (", ".join(dict.fromkeys(libraries)) or "an unknown BLAS") + (
        f" (OPENBLAS_CORETYPE={chosen})" if chosen else ""
    )


def _gpu() -> str:
    version = installed("cupy-cuda13x") or installed("cupy-cuda12x") or installed("cupy")
    return torch.cuda.get_device_name() + (f", CuPy {version}" if version else "")
