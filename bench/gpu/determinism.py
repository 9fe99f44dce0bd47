"""The same deterministic sweep in several ways, and whether the stores' digests are equal. A part of run.sh.

Alone, killed and resumed, in packs; and what is another arithmetic (fused, compiled, TF32) alone, and killed and
resumed. A sweep is killed by SIGKILL while it trains the second iteration of a run. All ways run at once on a GPU.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rows import ABSENT, DEVICE, LATE, ROOT, SMALL, Rows, features, until

RUNS = 2 if SMALL else 4
SIZES = (
    ["--epochs", "2", "--train-limit", "256", "--probe", "100"]
    if SMALL
    else ["--epochs", "4", "--train-limit", "4000", "--probe", "1000"]
)
AT_ONCE = 2 if SMALL else 16
KILLED_AT, AFTER = "iteration 1:", 0.2  # the line of output, and the seconds after it, when a sweep is killed


@dataclass(frozen=True)
class Way:
    """A way to run the sweep. None of `as_`: it is what others are compared with."""

    name: str
    flags: tuple[str, ...] = ()
    killed: bool = False
    as_: str | None = None
    feature: str = ""  # that the version must have


WAYS = (
    Way("alone"),
    Way("killed and resumed", killed=True, as_="alone"),
    Way("packed", ("--pack", str(RUNS)), as_="alone"),
    Way("fused", ("--fuse", str(RUNS)), feature="fuse"),
    Way("fused, killed and resumed", ("--fuse", str(RUNS)), True, "fused", "fuse"),
    Way("compiled", ("--compile",), feature="compile"),
    Way("compiled, killed and resumed", ("--compile",), True, "compiled", "compile"),
    Way("tf32", ("--precision", "tf32"), feature="tf32"),
    Way("tf32, killed and resumed", ("--precision", "tf32"), True, "tf32", "tf32"),
)
GPU_ONLY = {"tf32"}  # the CPU refuses it


def main(data: str) -> int:
    rows = Rows("determinism", until(__doc__))
    has = features() - (GPU_ONLY if SMALL else set())
    possible = [way for way in WAYS if way.feature in {"", *has}]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        running = {way.name: pool.submit(measure, way, Path(folder), data, rows) for way in possible}
        digests: dict[str, str] = {}
        for way in WAYS:
            if way.name not in running:
                why = "refused on a CPU" if way.feature in GPU_ONLY and SMALL else f"{ABSENT}: {way.feature}"
                rows.add(way=way.name, note=why)
                continue
            found = running[way.name].result()
            digests[way.name] = found.get("digest", "")
            if way.as_ is not None and digests[way.name] and digests.get(way.as_):
                found |= {"as": way.as_, "same": digests[way.name] == digests[way.as_]}
            rows.add(way=way.name, **found)
    return 0


def measure(way: Way, folder: Path, data: str, rows: Rows) -> dict[str, Any]:
    """Run the sweep in this way and return the digest of its store, or a note that says why there is none."""
    began, store = time.monotonic(), folder / way.name.replace(" ", "-")
    command = [sys.executable, "sweeps/cifar2.py", "--local", "--device", DEVICE, "--data", data, "--deterministic"]
    command += ["--no-chance", "--runs", str(RUNS), "--iterations", "2", "--storage", str(store), *SIZES, *way.flags]
    killed: dict[str, Any] = {}
    if way.killed:
        status, lines = run(command, rows.left, folder, killed=True)
        seen = [line for line in lines if KILLED_AT in line]
        killed = {"killed": seen[-1] if seen and status < 0 else "not: it had ended before"}
    status, lines = run(command, rows.left, folder)
    if status:
        return killed | {"note": LATE if rows.left <= 0 else f"failed: {' / '.join(lines)[-300:]}"}
    status, lines = run([sys.executable, "-m", "distsim", "digest", str(store)], rows.left, folder)
    if status:
        return killed | {"note": LATE if rows.left <= 0 else f"failed: {' / '.join(lines)[-300:]}"}
    return {"digest": lines[-1].split()[0], "seconds": round(time.monotonic() - began, 1)} | killed


def run(command: list[str], seconds: float, folder: Path, killed: bool = False) -> tuple[int, list[str]]:
    """Run a command for at most so many seconds, and return its status and its last lines of output.

    It shares no compiled networks with the others: what each compiles itself must have the same bits.

    folder : for temporary files
    killed : kill it when a sweep has trained its first pruned network; the status is then negative
    """
    own = tempfile.mkdtemp(dir=folder)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{own}/compiled", "TRITON_CACHE_DIR": f"{own}/triton"},
    )
    end = threading.Timer(max(seconds, 0), process.kill)
    end.daemon = True
    end.start()
    lines: deque[str] = deque(maxlen=6)
    assert process.stdout is not None
    with process, process.stdout:
        for line in process.stdout:
            lines.append(line.rstrip())
            if killed and KILLED_AT in line:
                time.sleep(AFTER)
                process.kill()
                break
    end.cancel()
    return process.returncode, list(lines)


if __name__ == "__main__":
    sys.exit(main(os.environ["DATA"]))
