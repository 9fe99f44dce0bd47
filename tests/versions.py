"""Try distsim with other versions of Python, and with the oldest libraries that pyproject.toml allows.

    python tests/versions.py                       # a short set of tests with each (`make test-versions`)
    python tests/versions.py --python 3.13         # with one Python
    python tests/versions.py --tests tests         # every test

Each gets an environment of its own in a temporary folder, made by uv, which needs several GB and minutes for the first
of them. A Python that uv neither finds nor can fetch is said and left out. The exit status is 1 if a test fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TELLING = (  # from an array to a figure, through the store, by the commands, without Ray
    "tests/metrics/test_laws.py",
    "tests/training/test_chain.py",
    "tests/store/test_activations_stored.py",
    "tests/results/test_tables.py",
    "tests/results/test_figures.py",
    "tests/cli/test_sweep_command.py",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try each Python with the newest libraries, and the first with the oldest, too. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS, metavar="VERSION", help="the versions to try")
    parser.add_argument("--tests", nargs="+", default=TELLING, metavar="PATH", help="the tests to run with each")
    parser.add_argument("--index-flags", nargs="*", default=[], metavar="FLAG", help="passed on to `uv pip install`")
    flags = parser.parse_args(arguments)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        parser.error("uv is not installed")
    tried = [(version, "highest") for version in flags.python] + [(flags.python[0], "lowest-direct")]
    outcomes = {f"Python {v}, {r} versions": tried_one(uv, v, r, flags.tests, flags.index_flags) for v, r in tried}
    print("\n".join(f"{name}: {outcome}" for name, outcome in outcomes.items()))
    return int("failed" in outcomes.values())


def tried_one(uv: str, version: str, resolution: str, tests: Sequence[str], more: Sequence[str]) -> str:
    """Return "passed", "failed", or why it could not be tried."""
    with tempfile.TemporaryDirectory(prefix="distsim-versions-") as folder:
        if subprocess.run([uv, "venv", "--quiet", "--python", version, folder]).returncode:
            return "not tried: there is no such Python here"
        python = Path(folder) / "bin" / "python"
        install = [uv, "pip", "install", "--quiet", "--python", python, "--resolution", resolution, *more]
        if subprocess.run([*install, "-e", ".[dev]"], cwd=ROOT).returncode:
            return "failed"
        run = [python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        if resolution != "highest":  # old libraries use what newer ones deprecate
            run += ["-W", "ignore::DeprecationWarning", "-W", "ignore::PendingDeprecationWarning"]
        done = subprocess.run(run, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return "failed" if done.returncode else "passed"


if __name__ == "__main__":
    sys.exit(main())
