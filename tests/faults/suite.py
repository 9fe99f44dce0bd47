"""SIGKILLs of live sweeps, each followed by a resume: every store must come out as if nothing had happened.

    python tests/faults/suite.py --folder results/faults    # 10 rounds of 20 kills: below 90 minutes on 2 cores
    python tests/faults/suite.py --rounds 1                 # what CI runs

A round is a fresh store of sweeps/digits.py, made small. Its sweep is killed 20 times: 12 times a worker or an actor,
which Ray replaces; 6 times the driver and 2 times the whole group, after which the same command is started at once.
Then the command, given once more, must find nothing to do, and every network, activation, comparison, table and figure
must be that of a sweep that nobody disturbed. Stages, victims and moments are drawn from the seed.

A kill counts for the stage that it cut off: one that was begun and never ended. The stage aimed at may be over before
its process could be stopped, and a driver's worker may finish its own; then that is what is written down.

Every kill and every round is a line of kills.jsonl in the folder; the same command goes on with the rounds that are not
there, as long as distsim is what it was. Exit status 1: something differs, a resume failed, or there are not as many
kills, of each victim and in ten rounds of each stage, as there must be.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where pytest, too, imports `faults` from

from faults.kills import (
    DRIVERS_OWN,
    PHASE,
    ROOT,
    STAGES,
    VICTIMS,
    Kill,
    KillsFailed,
    Missed,
    Struck,
    Sweep,
    Watch,
    differing,
    digests,
)

ROUNDS = 10  # of the full form
ROUND = {"worker": 12, "driver": 6, "group": 2}  # kills
FLAGS = ("--runs", "3", "--iterations", "4", "--epochs", "6", "--train-limit", "200", "--probe", "60")
RETRIES = 3  # of a trial or a comparison (distsim.sweep.on_ray.engine); after one more death it is given up
LATEST = {"complete": 0.1, "figures": 0.5}  # of its length: what comes once should not be missed. 0.8 of the others'
STORES = 3  # that a round may take, where kills are left over when the sweep is at its end
NOTHING = "nothing"  # in the place of a stage: a worker that outlived its driver finished what it was at
NAMES = {
    "complete": "complete network",
    "epoch": "epoch of a pruned network",
    "checkpoint": "epoch checkpoint",
    NOTHING: "none: finished by a worker that outlived its driver",
}

OPENING = """# Reliability

What happens to a sweep whose processes are killed. `make faults` kills some 200 times and writes the table.
"""

Line = dict[str, Any]


def plan(seed: int, number: int, begun: Counter[str]) -> list[Kill]:
    """A round's kills, in the order in which a sweep comes to their stages.

    Every stage of a worker is aimed at twice with a worker; the driver's own once with the driver, and by chance the
    others, so that no round leaves a stage out. No trial and no comparison loses its worker more often than Ray
    retries it: between two deaths of the driver at most `RETRIES` workers are killed in training, and in comparing.

    begun : how often an undisturbed sweep begins each stage. No kill waits for more than its share of half of them,
    because a stage that was completed does not come again.
    """
    rng = random.Random(f"{seed}, round {number}")
    workers_own = [stage for stage in STAGES if stage not in DRIVERS_OWN]
    aims = [(stage, "worker") for stage in workers_own * (ROUND["worker"] // len(workers_own))]
    drivers = [*DRIVERS_OWN, *rng.sample(workers_own, ROUND["driver"] - len(DRIVERS_OWN))]
    aims += [(stage, "driver") for stage in drivers]
    aims += [(stage, "group") for stage in rng.sample(STAGES, ROUND["group"])]
    while True:
        rng.shuffle(aims)
        aims.sort(key=lambda aim: PHASE[aim[0]])
        if not _too_many_retries(aims):
            break
    per_stage = Counter(stage for stage, _ in aims)
    kills = []
    for stage, victim in aims:
        most = 3 if stage == "complete" else max(1, begun[stage] // (2 * per_stage[stage]))
        occurrence = rng.randint(1, most)
        latest = 0.0 if stage == "complete" and occurrence > 1 else LATEST.get(stage, 0.8)
        kills.append(Kill(stage, victim, occurrence, round(rng.uniform(0, latest), 3), or_later=True))
    return kills


def _too_many_retries(aims: list[tuple[str, str]]) -> bool:
    in_a_row, comparing = 0, False
    for stage, victim in aims:
        if victim != "worker" or comparing != (stage == "comparison"):
            in_a_row, comparing = 0, stage == "comparison"
        in_a_row += victim == "worker"
        if in_a_row > RETRIES:
            return True
    return False


@dataclass(frozen=True)
class Journal:
    """kills.jsonl: a line for the suite, the undisturbed sweep, and each round's begin, kills and end."""

    path: Path

    def add(self, what: str, **fields: Any) -> None:
        torn = self.path.exists() and not self.path.read_text().endswith("\n")  # its writer was killed
        with open(self.path, "a") as file:
            file.write("\n" * torn + json.dumps({"what": what} | fields) + "\n")

    def lines(self, what: str) -> list[Line]:
        return [line for line in self._all() if line["what"] == what]

    def ends(self) -> dict[int, Line]:
        """Of the rounds that came to an end, whatever it was."""
        return {line["round"]: line for line in self.lines("end")}

    def kills(self) -> list[Line]:
        """Those of rounds that came to an end. A round that was interrupted begins anew, without its kills."""
        of_round: dict[int, list[Line]] = {}
        for line in self._all():
            if line["what"] == "begin":
                of_round[line["round"]] = []
            elif line["what"] == "kill":
                of_round[line["round"]].append(line)
        return [line for number in sorted(self.ends()) for line in of_round[number]]

    def _all(self) -> Iterator[Line]:
        if self.path.exists():
            for text in self.path.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a torn line
                    yield json.loads(text)


@dataclass
class Suite:
    """Rounds in a folder, against the undisturbed sweep that lies there too."""

    folder: Path
    seed: int = 0
    flags: tuple[str, ...] = FLAGS
    script: str = "sweeps/digits.py"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(self.folder / "kills.jsonl")
        asked = {"seed": self.seed, "flags": list(self.flags), "code": _code(ROOT / self.script)}
        begun = self.journal.lines("suite")
        if not begun:
            self.journal.add("suite", **asked)
        elif others := [name for name, value in asked.items() if begun[0][name] != value]:
            raise ValueError(f"{self.folder} holds a suite of other {' and '.join(others)}: use another folder")

    def run(self, rounds: int) -> None:
        """Do the rounds that are missing."""
        missing = [number for number in range(1, rounds + 1) if number not in self.journal.ends()]
        if missing:
            usual, expected = self._undisturbed()
            for number in missing:
                Round(self, number, usual, expected).run()

    def sweep(self, name: str) -> Sweep:
        """A sweep in a fresh store."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        for file in (f"{name}.log", f"{name}.stages"):
            (self.folder / file).unlink(missing_ok=True)
        return Sweep(self.folder, name, self.flags, self.script)

    def _undisturbed(self) -> tuple[Watch, dict[str, str]]:
        """What a sweep's stages take, and what its store holds. It is run once."""
        if not self.journal.lines("undisturbed"):
            started = time.monotonic()
            with self.sweep("undisturbed") as sweep:
                sweep.finish()
            pieces = contents(sweep.store)
            self.journal.add("undisturbed", pieces=len(pieces), seconds=_since(started))
            print(f"undisturbed: {len(pieces)} pieces, {_since(started):.0f} s", flush=True)
        watch = Watch(self.folder / "undisturbed.stages")
        watch.read()
        return watch, contents(self.folder / "undisturbed")


@dataclass
class Round:
    """Twenty kills of the sweep of one store, or of a second one's where the first was at its end before the last."""

    suite: Suite
    number: int
    usual: Watch
    expected: dict[str, str]

    def __post_init__(self) -> None:
        self._kills = 0
        self._resumed_after: list[float | None] = []

    def run(self) -> None:
        started, wrong = time.monotonic(), []
        journal = self.suite.journal
        journal.add("begin", round=self.number, at=time.strftime("%Y-%m-%d %H:%M:%S"))
        left = plan(self.suite.seed, self.number, self.usual.begun)
        for store in range(STORES):
            if left and not wrong:
                left, wrong = self._store(f"round-{self.number:02}" + f"-{store + 1}" * (store > 0), left)
        if left and not wrong:
            wrong = [f"{len(left)} kills could not be delivered"]
        fields = {"seconds": _since(started), "wrong": wrong, "resumed_after": self._resumed_after}
        journal.add("end", round=self.number, **fields)
        print(f"round {self.number}: {_since(started):.0f} s, {'; '.join(wrong) or 'everything is equal'}", flush=True)

    def _store(self, name: str, kills: list[Kill]) -> tuple[list[Kill], list[str]]:
        """The kills for which the sweep was too far already, and what is not as it must be."""
        try:
            with self.suite.sweep(name) as sweep:
                done = [(kill, self._strike(sweep, kill)) for kill in kills]
                wrong = self._finish(sweep)
        except (KillsFailed, TimeoutError) as error:
            return kills, [str(error)]
        self._resumed_after += [_resumed_after(struck, sweep.watch) for _, struck in done if struck]
        if not wrong:
            shutil.rmtree(sweep.store)
        return [replace(kill, occurrence=1, share=0.0) for kill, struck in done if struck is None], wrong

    def _strike(self, sweep: Sweep, kill: Kill) -> Struck | None:
        """What the kill did, which is written down; None if the sweep was too far already."""
        started = time.monotonic()
        try:
            struck = sweep.strike(kill, self.usual.usual(kill.stage))
        except Missed:
            return None
        self._kills += 1
        stage, seconds = (*struck.hit, NOTHING)[0], _since(started)
        self.suite.journal.add(
            "kill",
            round=self.number,
            number=self._kills,
            aimed_at=kill.stage,
            stage=stage,
            cut_off=[" of ".join(filter(None, (begin.stage, begin.unit[1]))) for begin in struck.cut_off],
            victim=kill.victim,
            process=struck.process,
            outlived=struck.outlived,
            seconds=seconds,
        )
        print(
            f"round {self.number:2}  kill {self._kills:2}  aimed at {kill.stage:10}  victim {kill.victim:6}  "
            f"cut off {' '.join(struck.hit) or NOTHING:24}  {seconds:5.1f} s  {' '.join(struck.outlived)}".rstrip(),
            flush=True,
        )
        return struck

    def _finish(self, sweep: Sweep) -> list[str]:
        """Let the sweep come to its end, and give the command once more; what is not as it must be."""
        sweep.finish()
        again = sweep.finish()
        wrong = [f"{piece} differs" for piece in differing(self.expected, contents(sweep.store))]
        if "nothing is missing" not in again:
            wrong.append(f"the finished sweep, run again, found something to do; see {sweep.log}")
        return wrong


def contents(store: Path) -> dict[str, str]:
    """Piece -> SHA-256 of everything that a sweep makes: what `distsim digest` says, and the figures."""
    figures = sorted(file for file in (store / "figures").glob("*") if file.suffix in (".png", ".pdf"))
    return digests(store) | {f"figures/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in figures}


def verdict(journal: Journal, rounds: int) -> list[str]:
    """What is not as it must be."""
    ends, kills = journal.ends(), journal.kills()
    wrong = [f"round {number}: {what}" for number in sorted(ends) for what in ends[number]["wrong"]]
    if len(ends) < rounds:
        wrong.append(f"{rounds - len(ends)} of {rounds} rounds are missing")
    victims, stages = (Counter(line[what] for line in kills) for what in ("victim", "stage"))
    for victim, per_round in ROUND.items():
        if victims[victim] != len(ends) * per_round:
            wrong.append(f"{victims[victim]} kills of a {victim} instead of {len(ends) * per_round}")
    if rounds >= ROUNDS:
        wrong += [f"stage {stage} was never cut off" for stage in STAGES if not stages[stage]]
    return wrong


def table(kills: list[Line]) -> str:
    """Stage by victim, in Markdown."""
    counts = Counter((line["stage"], line["victim"]) for line in kills)
    stages = [*STAGES, NOTHING] if any(stage == NOTHING for stage, _ in counts) else [*STAGES]
    rows = [[NAMES.get(stage, stage), *(counts[stage, victim] for victim in VICTIMS)] for stage in stages]
    rows.append(["all", *(sum(counts[stage, victim] for stage in stages) for victim in VICTIMS)])
    header = ["what was cut off", "workers and actors", "driver", "whole group", "all"]
    cells = [header, *([*map(str, row), str(sum(row[1:]))] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def report(suite: Suite) -> str:
    """The table and how it came about."""
    kills, ends = suite.journal.kills(), suite.journal.ends().values()
    pieces = suite.journal.lines("undisturbed")[0]["pieces"]
    resumed = [seconds for end in ends for seconds in end["resumed_after"] if seconds is not None]
    minutes, cores = sum(end["seconds"] for end in ends) / 60, len(os.sched_getaffinity(0))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "ray"))
    text = (
        f"{len(kills)} kills in {len(ends)} round{'s' * (len(ends) > 1)} of `{suite.script} {' '.join(suite.flags)}`, "
        f"seed {suite.seed}: {minutes:.0f} minutes on {cores} cores, Python {platform.python_version()}, {versions}, "
        f"{time.strftime('%Y-%m-%d')}. What was cut off was begun again after a median of "
        f"{statistics.median(resumed or [math.nan]):.1f} s. In the end of every round all {pieces} networks, "
        "activations, comparisons, tables and figures were those of the undisturbed sweep."
    )
    return "\n".join([*textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False), "", table(kills)])


def write(document: Path, text: str) -> None:
    """Put the text where the document has it, between comments, or at the end."""
    begin, end = "<!-- kills: begin -->", "<!-- kills: end -->"
    body = f"{begin}\n{text}\n{end}"
    before = document.read_text() if document.exists() else OPENING
    if begin in before:
        after = re.sub(f"{begin}.*?{end}", lambda match: body, before, count=1, flags=re.S)
    else:
        after = f"{before.rstrip()}\n\n{body}\n"
    document.write_text(after)


def _resumed_after(struck: Struck, watch: Watch) -> float | None:
    """Seconds until something that was cut off was begun again; None if it had been committed, or nothing was."""
    begins = [watch.again(begin.unit, struck.at) for begin in struck.cut_off]
    return min((round(at - struck.at, 1) for at in begins if at is not None), default=None)


def _code(script: Path) -> str:
    """Digest of what is run: kills of two versions are not one suite."""
    files = [script, *sorted((ROOT / "distsim").rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of 20 kills (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="for stores, logs and kills.jsonl; kept (default: a temporary one)")
    parser.add_argument("--seed", type=int, default=0, help="of stages, victims and moments (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a Markdown document to put the table into")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that the sweep is ended as well
        signal.signal(number, lambda received, frame: sys.exit(128 + received))
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    wrong: list[str] = []
    try:
        suite = Suite(folder.resolve(), options.seed)
        suite.run(options.rounds)
        wrong = verdict(suite.journal, options.rounds)
        print(f"\n{table(suite.journal.kills()) if wrong else report(suite)}\n")
        if options.write and not wrong:
            write(options.write, report(suite))
    except (KillsFailed, ValueError) as error:
        wrong = [str(error)]
    except KeyboardInterrupt:
        print("suite: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        if not options.folder and not wrong:
            shutil.rmtree(folder)
    for sentence in wrong:
        print(f"suite: {sentence}", file=sys.stderr)
    print(f"stores and logs are in {folder}" * bool(wrong or options.folder))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
