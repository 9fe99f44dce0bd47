"""What decides the last bits of a result besides the sweep's identity: versions, threads, instruction set, device."""

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController, threadpool_info

import distsim
from distsim.metrics.arrays import full_rate_float64
from distsim.specs import Device, DeviceChoice, Sweep, differences


class EnvironmentDrift(ValueError):
    """This process would not reproduce the results in the store bit by bit."""


def environment(sweep: Sweep) -> dict[str, Any]:
    """Describe what decides the last bits of a result in this process.

    Equal environments give equal bits. Every mark records its environment.
    compiler : of a sweep with --compile only; the first line in which the C++ compiler or Triton says what it is
    """
    compiled = {"compiler": _compiler(sweep.device)} if sweep.identity.compile else {}
    return compiled | {
        "distsim": distsim.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "blas": blas_kernels(),
        "threads": sweep.identity.threads,
        "device": torch.cuda.get_device_name() if sweep.device == "cuda" else "cpu",
    }


def comparison_environment(sweep: Sweep) -> dict[str, Any]:
    """Describe what decides the last bits of a comparison in this process: the environment, and the route to NBS.

    nuclear_norm : qdwh or eigenvalues. Older marks lack it, and their values are from eigenvalues.

    The route follows from the card and from distsim's version, which `environment` has. So it is recorded for readers,
    and no two environments are told apart by it: a network's mark does not have it.
    """
    return environment(sweep) | {"nuclear_norm": _route(sweep.device)}


def _route(device: str) -> str:
    full_rate = device == "cuda" and full_rate_float64(torch.cuda.get_device_capability())
    return "qdwh" if full_rate else "eigenvalues"


@functools.cache
def blas_kernels() -> str:
    """Return the instruction set that NumPy's BLAS uses, which an environment variable may lower."""
    architectures = {str(pool.get("architecture")) for pool in threadpool_info() if pool["user_api"] == "blas"}
    return "+".join(sorted(architectures))


@functools.cache
def _compiler(device: str) -> str:
    """Return the version of what generates code for compiled networks, "none" if there is nothing."""
    if device != "cpu":
        found = importlib.util.find_spec("triton") is not None
        return f"triton {importlib.metadata.version('triton')}" if found else "none"
    try:
        said = subprocess.run([cxx(), "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return said.partition("\n")[0].strip()


def cxx() -> str:
    """Return the C++ compiler that torch calls to compile networks for a CPU."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def check_environment(sweep: Sweep, recorded: dict[str, Any]) -> None:
    """Raise EnvironmentDrift if this environment differs from the one in which the complete network was trained."""
    if fields := differences(environment(sweep), recorded):
        here = "; ".join(fields).replace("asked for", "here")
        raise EnvironmentDrift(
            f"{sweep.name}: results would not be bit-identical to the store's: {here}. "
            "Use the same environment, or pass --allow-drift, which is recorded with each result"
        )


def provenance(started: float, ended: float, together: int = 1) -> dict[str, Any]:
    """Say where, when and by which code a piece was computed. This is not part of any result.

    together : number of pieces that were computed in this time, of which each gets its share
    """
    return {
        "code": code_version(),
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round((ended - started) / together, 3),
    }


@functools.cache
def code_version() -> str:
    """Return the version and a digest of this package's source, since a checkout may lie between two versions."""
    digest = hashlib.sha256()
    package = Path(distsim.__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{distsim.__version__}+{digest.hexdigest()[:12]}"


def resolved_device(device: DeviceChoice, address: str | None = None) -> Device:
    """Return the device, with `auto` replaced by a GPU if this machine has one, else by the CPU.

    With a cluster's address `auto` means the CPU: the driver may have no GPU, so a GPU must be asked for by name.
    """
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() and address is None else "cpu"


def require_device(device: str) -> None:
    """Raise ValueError if training and comparisons cannot run on this device."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("a GPU was asked for and PyTorch finds none; use --device cpu, or a machine that has one")


def free_memory() -> float | None:
    """Return the bytes of memory that are available; None if the system does not say (only Linux does)."""
    meminfo = Path("/proc/meminfo")
    available = re.search(r"MemAvailable: +(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    return 1024.0 * int(available[1]) if available else None


def free_on(device: str) -> float | None:
    """Return the bytes that this process may still use on a device: of a GPU, or the system's as `free_memory`."""
    if device == "cpu":
        return free_memory()
    free, _ = torch.cuda.mem_get_info()
    return float(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block with exactly this many threads in torch and in NumPy's BLAS; other counts give other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with _thread_pools(len(sys.modules)).limit(limits=count):
            yield
    finally:
        torch.set_num_threads(before)


@functools.lru_cache(maxsize=1)
def _thread_pools(modules: int) -> ThreadpoolController:
    """Return the libraries that have threads. modules : that are imported. A new one may have loaded another library.

    To look for them takes milliseconds each time.
    """
    return ThreadpoolController()
