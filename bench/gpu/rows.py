"""What the parts of bench/gpu/run.sh share: results, a line of JSON each, features of this version, and the machine.

python bench/gpu/rows.py   # writes $OUT/machine.json
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))  # bench/, whose modules are used here too

import machine

ROOT = Path(__file__).resolve().parents[2]
ABSENT, LATE = "not in this version", "out of time"  # why a row has no number
DEVICE = os.environ.get("DEVICE", "cuda")
SMALL = DEVICE == "cpu"  # a rehearsal
OWN_MARGIN = 3.0  # seconds before its end in which a part begins nothing more


class Rows:
    """The results of one part, written to $OUT/<part>.jsonl as soon as they are there."""

    def __init__(self, part: str, until: float) -> None:
        """Begin the part. until : when it must have ended, seconds since 1970"""
        self._file = Path(os.environ["OUT"]) / f"{part}.jsonl"
        self._file.write_text("")
        self._until = until - OWN_MARGIN

    @property
    def left(self) -> float:
        """Return the seconds in which something more may begin."""
        return self._until - time.time()

    def add(self, **values: Any) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(values) + "\n")
        print(" ".join(f"{name}={value}" for name, value in values.items()), flush=True)

    def measure(self, way: dict[str, Any], measurement: Callable[[], dict[str, Any]], lacking: str = "") -> None:
        """Add what the measurement returns, under what says how it is measured. Nothing that fails stops the part.

        lacking : the name of a feature that this version does not have, and the measurement needs
        """
        if lacking:
            self.add(**way, note=f"{ABSENT}: {lacking}")
        elif self.left < 0:
            self.add(**way, note=LATE)
        else:
            try:
                found = measurement()
            except Exception as error:
                said = str(error).strip().partition("\n")[0]
                found = {"note": f"failed: {type(error).__name__}: {said}"[:400]}
            self.add(**way, **found)


def until(doc: str | None) -> float:
    """Read a part's only flag: when it must have ended. The start of Python and its imports count too."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--until", type=float, required=True, help="seconds since 1970, when it must have ended")
    return float(parser.parse_args().until)


def features() -> set[str]:
    """Return which of fuse, compile, tf32 and tails this version has, by its flags and modules."""
    from distsim.cli.sweeps import parser_for
    from distsim.problems import PROBLEMS
    from distsim.specs import Precision

    text = parser_for([PROBLEMS["cifar2"]], {}).format_help()
    found = {name for name in ("fuse", "compile") if f"--{name}" in text}
    found |= {"tails"} if importlib.util.find_spec("distsim.training.tails") else set()
    return found | ({"tf32"} & set(get_args(Precision)))


def lacking(*wanted: str) -> str:
    """Return the first of the wanted features that this version lacks, or ""."""
    return next((name for name in wanted if name not in features()), "")


def synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def conditions() -> dict[str, Any]:
    """Describe the machine, the versions and the code that are measured. A row of read.py's table of machines."""
    from distsim.environment import code_version

    commit = ROOT / ".gpu/commit"
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU (a rehearsal)"
    versions = {name: machine.installed(name) for name in (*machine.VERSIONS, "cupy-cuda13x", "cupy-cuda12x", "scipy")}
    return {
        "card": card,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.read_text().strip() if commit.exists() else "",
        "code": code_version(),
        "cores": machine.cores(),
        "python": platform.python_version(),
        "driver": _driver(),
        "versions": {name: version for name, version in versions.items() if version},
        "ray": importlib.util.find_spec("ray") is not None,
    }


def _driver() -> str:
    file = Path("/proc/driver/nvidia/version")
    words = file.read_text().split() if file.exists() else []
    return next((word for word in words if word[0].isdigit() and "." in word), "")


def main() -> int:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU; DEVICE=cpu rehearses", file=sys.stderr)
        return 1
    found = conditions()
    (Path(os.environ["OUT"]) / "machine.json").write_text(json.dumps(found) + "\n")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
