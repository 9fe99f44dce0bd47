"""All tests that are marked `gpu`, several at a time. A part of run.sh.

Each that fails is a row as soon as it has failed; how many passed is the last row. On a CPU those tests are skipped, so
a few of their twins run instead.
"""

import _thread
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from rows import DEVICE, ROOT, Rows, until

WORKERS = int(os.environ.get("WORKERS", "6"))  # processes; each takes a gigabyte or two of the GPU's memory
TWINS = ("tests/training/test_gpu_streams.py", "tests/comparison/test_routes_on_gpus.py")
LINES = 12  # of a failure's text that are kept


def marked(folder: Path) -> list[str]:
    """Return the files with such tests. Each worker collects for itself, which takes a while if it is all files.

    A conftest.py may mark those of its folder.
    """
    files = sorted(folder.rglob("test_*.py"))
    return [str(file) for file in files if any(map(_marks, (file, file.parent / "conftest.py")))]


def _marks(file: Path) -> bool:
    return file.exists() and "mark.gpu" in file.read_text()


class Recorder:
    """A plugin of pytest that writes rows."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self._counts, self._began = rows, {"passed": 0, "failed": 0, "skipped": 0}, time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self._counts[report.outcome] += 1
        if report.failed:
            self._failed(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._counts["failed"] += 1
            self._failed(report)

    def _failed(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        self._rows.add(failed=report.nodeid, why="\n".join(report.longreprtext.splitlines()[-LINES:]))

    def finish(self, status: int) -> None:
        ended = {0: "all", 1: "all", 2: "interrupted: out of time"}.get(status, f"pytest's status {status}")
        self._rows.add(**self._counts, ran=ended, seconds=round(time.monotonic() - self._began, 1))


def main() -> int:
    os.chdir(ROOT)
    # warnings are no errors here: the versions are the machine's, not ours
    arguments = ["-q", "-W", "default", "-p", "no:cacheprovider", "-p", "no:benchmark", "-m"]
    if DEVICE == "cuda":
        os.environ.setdefault("DISTSIM_REQUIRE", "cuda,cupy")
        arguments += ["gpu", "-n", str(WORKERS), *marked(ROOT / "tests")]
    else:
        arguments += ["not long and not ray", *TWINS]
    rows = Rows("tests", until(__doc__))
    recorder = Recorder(rows)
    end = threading.Timer(rows.left, _thread.interrupt_main)
    end.daemon = True
    end.start()
    status = pytest.main(arguments, plugins=[recorder])
    recorder.finish(int(status))
    return 0


if __name__ == "__main__":
    sys.exit(main())
