"""Mistakes made on purpose, one at a time: for each of them a test must fail.

    python tests/mutants/run.py                  # all of them, with two jobs
    python tests/mutants/run.py --sample 12      # what CI runs: some, drawn from --seed
    python tests/mutants/run.py --only lease-number --only probe-of-the-test-set

Each job works in a copy of its own of distsim and its tests, in a temporary folder: the checkout is only read. Its
tests run in forks of a process that has imported the libraries (tests/mutants/warm.py). First the tests of all chosen
mutants must pass on the code as it is. Then each mutant's text is put into its file, its tests run, and the file is put
back. A mutant is killed if a test fails. One whose code cannot be imported is no mutant, and an error. So is one whose
old text is not there exactly once.

Exit status 1: a mutant survives that is not known to change nothing, one of the latter is killed, or one is stale.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where pytest, too, imports `mutants` from

from mutants import (
    cluster,
    data,
    faults_of_batches,
    faults_of_effects,
    faults_of_inputs,
    faults_of_named_files,
    faults_of_networks,
    faults_of_places,
    faults_of_processes,
    faults_of_records,
    faults_of_sentences,
    faults_of_stores,
    faults_of_values,
    fused,
    metrics,
    networks,
    pieces,
    pruning,
    results,
    sweeps,
    training,
)
from mutants.mutant import Kind, Mutant, Stale

ROOT = Path(__file__).resolve().parents[2]
SCIENCE = tuple(one for part in (pruning, training, fused, networks, data, metrics, results) for one in part.MUTANTS)
PROTOCOL = tuple(one for part in (pieces, sweeps, cluster) for one in part.MUTANTS)
FOUND = (
    *(faults_of_stores, faults_of_processes, faults_of_networks, faults_of_values),
    *(
        faults_of_places,
        faults_of_named_files,
        faults_of_records,
        faults_of_inputs,
        faults_of_batches,
        faults_of_effects,
        faults_of_sentences,
    ),
)
KINDS: tuple[Kind, ...] = tuple(kind for part in FOUND for kind in part.KINDS)
FAULTS = tuple(one for kind in KINDS for one in kind.mutants)
MUTANTS = (*SCIENCE, *PROTOCOL, *FAULTS)
COPIED = ("distsim", "tests", "sweeps", "pyproject.toml", "Makefile")  # what the tests need
LIBRARIES = (  # that most tests need
    *("pytest", "xdist", "hypothesis", "numpy", "torch", "scipy.stats", "pandas", "pyarrow.parquet", "zarr", "obstore"),
    *("safetensors.torch", "PIL.Image", "matplotlib.figure", "array_api_compat", "threadpoolctl", "sklearn.datasets"),
    "torch._dynamo",  # an optimizer imports it with its first step
)
LIMIT = 300  # seconds for one mutant's tests; a mutant that hangs is noticed too
BEGIN, END = "<!-- mutants: begin -->", "<!-- mutants: end -->"


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    mutant: Mutant
    killer: str  # the test that failed first; "" if none did
    seconds: float
    error: str = ""  # why it could not be tried

    @property
    def verdict(self) -> str:
        if self.error:
            return f"error: {self.error}"
        return f"killed by {self.killer}" if self.killer else "survives"

    @property
    def wrong(self) -> bool:
        """Whether the mutant should have come out otherwise."""
        return bool(self.error) or bool(self.killer) == bool(self.mutant.changes_nothing)


class Broken(Exception):
    """Tests could not be run, or fail on the code as it is. The text is pytest's."""


def run(
    mutants: Sequence[Mutant],
    jobs: int,
    root: Path = ROOT,
    limit: float = LIMIT,
    libraries: Sequence[str] = LIBRARIES,
) -> list[Outcome]:
    """Try the mutants and return what became of each, in their order.

    Stale: one does not fit the code. Broken: their tests do not pass on the code as it is.
    """
    for mutant in mutants:
        mutant.check(root)
    with copies(root, jobs, libraries) as made, ThreadPoolExecutor(jobs) as pool:
        free: queue.Queue[Copy] = queue.Queue()
        for copy in made:
            free.put(copy)

        def tried(mutant: Mutant) -> Outcome:
            copy = free.get()
            try:
                outcome = attempt(mutant, copy, limit)
            finally:
                free.put(copy)
            print(f"{mutant.name}: {outcome.verdict}, {outcome.seconds:.0f} s", flush=True)
            return outcome

        try:
            require_passing(pool, made, {test for mutant in mutants for test in mutant.tests})
            return list(pool.map(tried, mutants))
        except BaseException:  # such as Ctrl-C: end what is running, for which the pool would wait
            for copy in made:
                copy.process.terminate()
            raise


@dataclass(frozen=True)
class Copy:
    """A copy of the code and its tests, and the process that runs them there."""

    folder: Path
    process: "subprocess.Popen[str]"

    def pytest(self, tests: Sequence[str], limit: float) -> tuple[int | None, str]:
        """Run tests. Return pytest's status, None if it took longer than `limit` seconds, and its output.

        Broken: the process has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        output = self.folder / "output"
        asked = {"tests": [f"tests/{test}" for test in tests], "output": str(output), "limit": limit}
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Broken("the process that runs tests has ended") from None
        if not (answer := self.process.stdout.readline()):
            raise Broken("the process that runs tests has ended")
        return json.loads(answer), output.read_text(errors="replace") if output.exists() else ""


@contextlib.contextmanager
def copies(root: Path, jobs: int, libraries: Sequence[str]) -> Iterator[list[Copy]]:
    """Make `jobs` copies of the code and its tests. At the end they are removed, and their processes end."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as made, contextlib.ExitStack() as processes:
        result = []
        for number in range(jobs):
            folder = Path(made) / str(number)
            folder.mkdir()
            for name in COPIED:
                if (root / name).is_dir():
                    shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
                elif (root / name).exists():
                    shutil.copy2(root / name, folder / name)
            environment = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
            process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("warm.py"), *libraries],
                cwd=folder,
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            processes.enter_context(process)  # closes its input, with which it ends, and waits for it
            result.append(Copy(folder, process))
        yield result


def require_passing(pool: ThreadPoolExecutor, made: Sequence[Copy], tests: Set[str]) -> None:
    """Check that the tests pass on the code as it is. Each copy runs those of some files. Broken: they do not pass."""
    started, files = time.monotonic(), sorted({test.partition("::")[0] for test in tests})
    print(f"{len(tests)} tests on the code as it is", flush=True)

    def passes(number: int) -> None:
        own = set(files[number :: len(made)])
        part = sorted(test for test in tests if test.partition("::")[0] in own)
        status, output = made[number].pytest(part, limit=3600) if part else (0, "")
        if status != 0:
            raise Broken(f"tests do not pass on the code as it is, pytest ends with {status}:\n{output[-4000:]}")

    list(pool.map(passes, range(len(made))))
    print(f"they pass: {time.monotonic() - started:.0f} s", flush=True)


def attempt(mutant: Mutant, copy: Copy, limit: float) -> Outcome:
    """Make the mistake in a copy, run its tests, and put the file back."""
    path, started = copy.folder / "distsim" / mutant.file, time.monotonic()
    before = path.read_text()
    try:
        _replace(path, mutant.applied(before))
        status, output = copy.pytest(mutant.tests, limit)
    finally:
        _replace(path, before)
    seconds = time.monotonic() - started
    failed = re.search(r"^(?:FAILED|ERROR) (tests/\S+)", output, re.M)
    if status is None:
        return Outcome(mutant, f"the limit of {limit:.0f} s", seconds)
    if status == 1 and failed:
        return Outcome(mutant, failed[1], seconds)
    if status != 0:
        return Outcome(mutant, "", seconds, f"pytest ends with {status}: {output.strip()[-300:]}")
    return Outcome(mutant, "", seconds)


def _replace(path: Path, text: str) -> None:
    """Write a module. Its bytecode goes, which Python would take for that of a text of equal size and second."""
    path.write_text(text)
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a Markdown table."""
    lines = ["| mutant | what it would spoil | killed by | s |", "|---|---|---|---|"]
    for outcome in outcomes:
        mutant = outcome.mutant
        nothing = f"changes nothing: {mutant.changes_nothing}" if mutant.changes_nothing else ""
        killer = f"`{_short(outcome.killer)}`" if outcome.killer else f"**{outcome.verdict}**"
        lines.append(f"| {mutant.name} | {mutant.spoils} | {nothing or killer} | {outcome.seconds:.0f} |")
    return "\n".join(lines)


def kinds(outcomes: Sequence[Outcome]) -> str:
    """Return as a Markdown table how many of each kind of fault were tried, and how many were killed."""
    killed = {outcome.mutant.name: bool(outcome.killer) for outcome in outcomes}
    lines = ["| kind of fault | mutants | killed |", "|---|---|---|"]
    for kind in KINDS:
        tried = [killed[name] for name in kind.names if name in killed]
        lines.append(f"| {kind.name} | {len(tried)} | {sum(tried)} |")
    return "\n".join(lines)


def _short(test: str) -> str:
    """Return a test without its parameters, which may hold a `|`."""
    return test.partition("[")[0]


def summary(outcomes: Sequence[Outcome]) -> str:
    killed = sum(bool(outcome.killer) for outcome in outcomes)
    nothing = sum(bool(outcome.mutant.changes_nothing) for outcome in outcomes)
    left = sum(outcome.wrong for outcome in outcomes)
    return f"{len(outcomes)} mutants: {killed} killed, {nothing} change nothing, {left} came out wrong"


def write(document: Path, outcomes: Sequence[Outcome], minutes: float) -> None:
    """Put the table where the document has it, between comments. ValueError: the document has no place for it.

    minutes : that the outcomes took
    """
    before, cores = document.read_text(), len(os.sched_getaffinity(0))
    versions = f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}"
    said = f"{summary(outcomes)}. {minutes:.0f} minutes on {cores} cores, {versions}, {time.strftime('%Y-%m-%d')}."
    body = f"{BEGIN}\n{said}\n\n{kinds(outcomes)}\n\n{table(outcomes)}\n{END}"
    after, times = re.subn(f"{BEGIN}.*?{END}", lambda match: body, before, count=1, flags=re.S)
    if not times:
        raise ValueError(f"{document} has no {BEGIN} ... {END} to put the table into")
    document.write_text(after)


def chosen(only: Sequence[str], sample: int | None, seed: int) -> list[Mutant]:
    """Return the mutants of these names, or as many as `sample` says, or all. ValueError: a name is unknown."""
    if only:
        if unknown := set(only) - {mutant.name for mutant in MUTANTS}:
            raise ValueError(f"there is no mutant {', '.join(sorted(unknown))}")
        return [mutant for mutant in MUTANTS if mutant.name in only]
    if sample is None or sample >= len(MUTANTS):
        return list(MUTANTS)
    drawn = set(random.Random(seed).sample(range(len(MUTANTS)), sample))
    return [mutant for number, mutant in enumerate(MUTANTS) if number in drawn]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (default: %(default)s)")
    parser.add_argument("--sample", type=int, metavar="N", help="draw N mutants (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a mutant; may be repeated")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a Markdown document to put the table into")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that the copies are removed
        signal.signal(number, lambda received, frame: sys.exit(128 + received))
    try:
        started = time.monotonic()
        outcomes = run(chosen(options.only, options.sample, options.seed), options.jobs)
        print(f"\n{table(outcomes)}\n\n{summary(outcomes)}")
        wrong = [outcome for outcome in outcomes if outcome.wrong]
        if options.write and not wrong:
            write(options.write, outcomes, (time.monotonic() - started) / 60)
    except KeyboardInterrupt:
        print("mutants: interrupted", file=sys.stderr)
        return 130
    except (Stale, Broken, ValueError) as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 1
    for outcome in wrong:
        print(f"mutants: {outcome.mutant.name}: {outcome.verdict}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
