"""A process that runs tests in forks of itself, after it has imported the libraries that it was started with.

    python tests/mutants/warm.py torch pandas ...

Importing takes several times as long as the tests of a mutant do. distsim is imported by each fork anew.

Each line of the standard input asks for one run, {"tests": [...], "output": FILE, "limit": SECONDS}. The answer is a
line with pytest's exit status, or null if the time was up. The process ends with its input, and on SIGTERM at once.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from types import FrameType
from typing import Any

if not os.path.exists("/dev/nvidiactl"):  # no GPU: as tests/conftest.py does, but before torch imports Triton
    os.environ["TRITON_INTERPRET"] = "1"
OPTIONS = ("-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore:Module already imported")


class Forks:
    """Runs tests in one fork at a time."""

    def __init__(self) -> None:
        self._child = 0
        signal.signal(signal.SIGTERM, self._end)

    def run(self, tests: list[str], output: str, limit: float) -> int | None:
        """Run tests, with what they print in the file `output`. Return pytest's status, None if the time was up."""
        self._child = os.fork()
        if self._child == 0:
            _become_pytest(tests, output)
        until, status = time.monotonic() + limit, None
        while status is None and time.monotonic() < until:
            time.sleep(0.02)
            ended, code = os.waitpid(self._child, os.WNOHANG)
            status = os.waitstatus_to_exitcode(code) if ended else None
        self._kill()
        if status is None:
            os.waitpid(self._child, 0)
        self._child = 0
        return status

    def _kill(self) -> None:
        """End the fork and whatever its tests have started."""
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(self._child, signal.SIGKILL)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self._child:
            self._kill()
        os._exit(128 + number)


def _become_pytest(tests: list[str], output: str) -> None:
    status: Any = 3  # pytest's number for an internal error
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for stream, descriptor in (
            (os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1),
            (os.open(os.devnull, 0), 0),
        ):
            os.dup2(stream, descriptor)
        os.dup2(1, 2)
        import pytest

        status = pytest.main([*OPTIONS, *tests])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(int(status))


def main() -> None:
    sys.path[0] = os.getcwd()  # as `python -m pytest` has it
    for library in sys.argv[1:]:
        importlib.import_module(library)
    forks = Forks()
    for line in sys.stdin:
        print(json.dumps(forks.run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
