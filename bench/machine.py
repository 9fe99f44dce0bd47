"""One line that describes the machine, to stand beside the numbers measured on it."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

import numpy as np
import threadpoolctl
import torch

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16", "sve")
VERSIONS = ("numpy", "torch", "zarr", "numcodecs", "obstore")


def describe(threads: int, device: str = "cpu") -> str:
    """Describe cores, instruction sets, memory, BLAS, versions and threads in one line, with the date."""
    parts = [f"{_usable_cores()} cores of {_processor()}", f"{_memory() / 2**30:.0f} GiB", _blas()]
    if device != "cpu":
        parts.append(_gpu())
    versions = [f"{name} {version}" for name in VERSIONS if (version := _version(name))]
    parts.append(f"Python {platform.python_version()}, {', '.join(versions)}")
    parts.append(f"{threads} threads")
    parts.append(datetime.date.today().isoformat())
    return "; ".join(parts)


def _version(name: str) -> str:
    """Return a package's version, or "" if it is not installed: training is measured without the store's packages."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    version = _version("cupy-cuda13x") or _version("cupy-cuda12x") or _version("cupy")
    return torch.cuda.get_device_name() + (f", CuPy {version}" if version else "")
