"""Kills a sweep again and again; each time the same command must go on, and in the end the bits must be the same.

    python tests/faults/kills.py --kills 12 --seed 0
    python tests/faults/kills.py --kills 12 --folder /tmp/kills --local-too -- --runs 2 --iterations 3

Runs sweeps/digits.py (flags after -- are its own) once in peace and once with SIGKILLs, and compares the digests of
the two stores piece by piece. Exit status 0: every stage was cut off, every resume went on, every digest is equal.

A driver that is killed alone leaves its workers a second or two; one of them may still finish the stage it was in,
which is then not cut off.

How a stage of some milliseconds is hit for sure: its process is stopped (SIGSTOP) once the file $DISTSIM_STAGES says
that the stage began. If the file then says that it has ended already, the process goes on and the next one is tried;
if not, the process cannot leave the stage any more except by the kill.
"""

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# "epoch" is the inside of the training of a pruned network: between its first and its last finished epoch.
STAGES = ("complete", "epoch", "checkpoint", "commit", "extraction", "comparison", "reduction", "figures")
PHASE = dict(zip(STAGES, (0, 1, 1, 1, 1, 2, 3, 4), strict=True))
DRIVERS_OWN = ("reduction", "figures")  # stages that no worker has
RECURRING = ("epoch", "checkpoint", "commit", "extraction", "comparison")
WITHIN_TRAINING = ("checkpoint", "extraction")  # between two epochs, and beside them
VICTIMS = ("driver", "worker", "tree")

PATIENCE = 900.0  # seconds until a sweep that neither ends nor reaches a stage is given up
GRACE = 20.0  # seconds that a dead driver's workers get to notice; seen: 1 to 3. Ray's agents take up to 90
POLL = 0.0005  # seconds; a commit takes two to four milliseconds


class KillsFailed(RuntimeError):
    """The sweep did not do what it must after a kill."""


@dataclass(frozen=True)
class Kill:
    """What to kill, and when: in the occurrence-th such stage from now on, `share` of its usual length after its begin.

    driver: the process that was started. worker: the process in the stage, which may be the driver. tree: all.
    """

    stage: str
    victim: str
    occurrence: int = 1
    share: float = 0.0


@dataclass(frozen=True)
class Struck:
    """What a kill did."""

    hit: tuple[str, ...]  # stages that were begun and will never end, the one aimed at first if it is among them
    goes_on: bool  # the driver lives: Ray has to replace the worker
    ended: tuple[str, ...]  # names of processes that outlived their driver by GRACE and were ended by pid


@dataclass
class Watch:
    """Reads the file of stages as it grows."""

    path: Path
    begun: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _open: dict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))  # pid -> stage -> begin
    _last_epoch: int = 0  # that any network was trained to; the complete network comes first
    _offset: int = 0

    def read(self) -> list[tuple[int, str]]:
        """Take in what is new; (pid, stage) of every begin."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [begin for line in whole.decode().splitlines() if (begin := self._take(line))]

    def inside(self, pid: int) -> tuple[str, ...]:
        """The stages that the process is in."""
        return tuple(self._open.get(pid, ()))

    def close(self, alive: set[int]) -> tuple[str, ...]:
        """The stages that dead processes were in, which are thereby over."""
        dead = [pid for pid in self._open if pid not in alive]
        return tuple(sorted({stage for pid in dead for stage in self._open.pop(pid)}, key=STAGES.index))

    def usual(self, stage: str) -> float:
        """The median length of the stage, of `epoch` that of one epoch; 0 where none was seen."""
        return statistics.median(self.lengths[stage]) if self.lengths.get(stage) else 0.0

    def freeze(self, kill: Kill, usual: float, over: Callable[[], bool]) -> int | None:
        """Stop a process inside the stage, which lasts `usual` seconds; its pid, None if all was over before."""
        delay, seen = kill.share * usual, 0
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            ended = over()
            begins = [pid for pid, stage in self.read() if stage == kill.stage]
            seen += len(begins)
            if begins and seen >= kill.occurrence:
                time.sleep(delay)
                if _stop(begins[-1]):
                    self.read()
                    if kill.stage in self.inside(begins[-1]):
                        return begins[-1]
                    os.kill(begins[-1], signal.SIGCONT)
                delay /= 2  # this one was shorter than usual
            elif ended:
                return None
            time.sleep(POLL)
        raise KillsFailed(f"stage {kill.stage} did not come within {PATIENCE:.0f} s, nor did the end; see {self.path}")

    def _take(self, line: str) -> tuple[int, str] | None:
        at, pid, stage, detail, *_ = line.split()
        if stage == "training":  # the frame of epochs, checkpoints and what is no stage of its own
            return None
        now, stages = float(at), self._open[int(pid)]
        if stage == "epoch":
            return self._epoch(int(pid), int(detail), now)
        if detail == "begin":
            if stage not in WITHIN_TRAINING:
                stages.pop("epoch", None)
            stages[stage] = now
            self.begun[stage] += 1
            return int(pid), stage
        self.lengths[stage].append(now - stages.pop(stage))
        return None

    def _epoch(self, pid: int, epoch: int, now: float) -> tuple[int, str] | None:
        self._last_epoch = max(self._last_epoch, epoch)
        stages = self._open[pid]
        if "complete" in stages:
            return None
        if "epoch" in stages:
            self.lengths["epoch"].append(now - stages.pop("epoch"))
        if epoch == self._last_epoch:  # what follows is evaluation and a commit
            return None
        stages["epoch"] = now
        self.begun["epoch"] += 1
        return pid, "epoch"


class Sweep:
    """One sweep's command and store. Whatever was started is ended on leaving the `with` block."""

    def __init__(self, folder: Path, name: str, flags: Sequence[str] = (), script: str = "sweeps/digits.py") -> None:
        self.store = folder / name
        self.log = folder / f"{name}.log"
        self.watch = Watch(folder / f"{name}.stages")
        self._command = [sys.executable, str(ROOT / script), *flags, "--storage", str(self.store)]
        # Ray's sessions stay behind when a driver is killed, so they get a folder that goes away. A short one: sockets
        # are in it, and their paths may have 107 characters
        self._ray = Path(tempfile.mkdtemp(prefix="kills-ray-", dir="/tmp"))
        self._environment = os.environ | {
            "DISTSIM_STAGES": str(self.watch.path),
            "RAY_TMPDIR": str(self._ray),
            "RAY_worker_niceness": "0",  # Ray's 15 lets workers starve where other tests have the cores
        }
        self._driver: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()
        shutil.rmtree(self._ray, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self._driver is not None and self._driver.poll() is None

    def finish(self) -> str:
        """Let the sweep that runs, or the same command again, come to its end; what it printed since it started."""
        if not self.running:
            self._start()
        assert self._driver is not None
        try:
            self._driver.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise KillsFailed(f"the sweep did not finish within {PATIENCE:.0f} s; see {self.log}") from None
        text = self.log.read_text()[self._printed :]
        if self._driver.returncode != 0:
            raise KillsFailed(f"the sweep ended with exit status {self._driver.returncode}:\n{text}")
        self._end()
        self.watch.read()
        self.watch.close(set())
        return text

    def strike(self, kill: Kill, usual: float = 0.0) -> Struck:
        """Start the same command unless it runs, wait for the stage, kill. `usual`: how long the stage lasts."""
        if not self.running:
            self._start()
        assert self._driver is not None
        driver = self._driver.pid
        struck = self.watch.freeze(kill, usual, lambda: not self.running)
        if struck is None:
            raise KillsFailed(
                f"the sweep ended (exit status {self._driver.returncode}) before stage {kill.stage} could be hit:\n"
                + self.log.read_text()[self._printed :]
            )
        if kill.victim == "worker":
            os.kill(struck, signal.SIGKILL)
        elif kill.victim == "driver":
            os.kill(driver, signal.SIGKILL)
            if struck != driver:
                os.kill(struck, signal.SIGCONT)
        else:
            while members := self._members():
                for pid in sorted(members, key=lambda pid: pid != driver):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        goes_on = kill.victim == "worker" and struck != driver
        ended: tuple[str, ...] = ()
        if goes_on:
            _until(lambda: struck not in self._members(), "a killed worker does not die")
        else:
            self._driver.wait(PATIENCE)
            ended = self._see_off()
        self.watch.read()
        hit = self.watch.close(self._members())
        return Struck(tuple(sorted(hit, key=lambda stage: stage != kill.stage)), goes_on, ended)

    def _start(self) -> None:
        self._printed = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self._driver = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def _members(self) -> set[int]:
        """Living processes of the driver's session. Ray gives workers process groups of their own, but no session."""
        assert self._driver is not None
        return {pid for pid, session in _sessions() if session == self._driver.pid}

    def _see_off(self) -> tuple[str, ...]:
        """Wait for a dead driver's processes to go by themselves, then end those that do not; their names."""
        deadline = time.monotonic() + GRACE
        while (left := self._members()) and time.monotonic() < deadline:
            self.watch.read()
            if not any(_is_worker(pid) for pid in left):
                break  # Ray's agents take a minute more, and write nothing
            time.sleep(0.05)
        names = tuple(sorted(_title(pid) for pid in left))
        self._end()
        return names

    def _end(self) -> None:
        if self._driver is None:
            return

        def gone() -> bool:
            for pid in self._members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not self._members()

        _until(gone, "processes of the sweep do not die")
        self._driver.wait(PATIENCE)


def plan(kills: int, seed: int, counts: Counter[str], local: bool = False) -> list[Kill]:
    """Every stage once, then those that come often by chance, in the order in which a sweep comes to them.

    counts : how often an uninterrupted sweep begins each stage. No kill waits for more than its share of half of them,
    because a stage that was completed does not come again.
    """
    if kills < len(STAGES):
        raise ValueError(f"{len(STAGES)} stages are to be hit, so at least as many kills are needed, not {kills}")
    rng = random.Random(seed)
    # a driver's death alone leaves the worker a second in which it may finish the stage, so that is not in the first
    aims = [(stage, rng.choice(("driver", "tree") if stage in DRIVERS_OWN else ("worker", "tree"))) for stage in STAGES]
    deck = itertools.cycle(rng.sample(VICTIMS, k=len(VICTIMS)))
    aims += [(rng.choice(RECURRING), next(deck)) for _ in range(kills - len(STAGES))]
    rng.shuffle(aims)
    aims.sort(key=lambda aim: PHASE[aim[0]])
    per_phase = Counter(PHASE[stage] for stage, _ in aims)
    made: list[Kill] = []
    for stage, victim in aims:
        if victim == "worker" and [kill.victim for kill in made[-2:]] == ["worker"] * 2:  # Ray retries a trial thrice
            victim = "tree"
        most = max(1, counts[stage] // (2 * per_phase[PHASE[stage]]))
        latest = 0.8 if counts[stage] > 1 else 0.3  # what comes once must not be missed where the machine is faster now
        made.append(Kill(stage, "driver" if local else victim, rng.randint(1, most), round(rng.uniform(0, latest), 3)))
    return made


def digests(store: Path) -> dict[str, str]:
    """Piece -> SHA-256, by `distsim digest`, which reads and checks everything in the store."""
    command = [sys.executable, "-m", "distsim.cli", "digest", "--pieces", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        raise KillsFailed(f"distsim digest of {store} failed:\n{done.stderr}")
    return {piece: digest for digest, piece in (line.split("  ", 1) for line in done.stdout.splitlines())}


def differing(one: dict[str, str], two: dict[str, str]) -> list[str]:
    """Pieces that are not the same in both, or not in both."""
    return sorted(piece for piece in one.keys() | two.keys() if one.get(piece) != two.get(piece))


def _sessions() -> Iterator[tuple[int, int]]:
    """(pid, session) of every process that is not a zombie."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, _, _, session, *_ = _stat(f"/proc/{entry}/stat")
                if state not in "ZX":
                    yield int(entry), int(session)


def _stat(path: str) -> list[str]:
    """The fields of a /proc stat file after the name, which may contain anything: state, ppid, group, session, ..."""
    with open(path) as file:
        return file.read().rpartition(")")[2].split()


def _stop(pid: int) -> bool:
    """Stop all threads of a process; False if it is gone."""
    deadline = time.monotonic() + 5
    try:
        os.kill(pid, signal.SIGSTOP)
        while any(state not in "TtZX" for state in _thread_states(pid)):
            if time.monotonic() > deadline:
                raise KillsFailed(f"process {pid} does not stop")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


def _thread_states(pid: int) -> Iterator[str]:
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread may end at any time
            yield _stat(f"/proc/{pid}/task/{task}/stat")[0]


def _title(pid: int) -> str:
    """The process's name for a person: what Ray calls it, or its program."""
    try:
        first = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "?"
    return first if first.startswith("ray::") else Path(first).name


def _is_worker(pid: int) -> bool:
    """Whether the process may still write to the store."""
    title = _title(pid)
    return title.startswith("ray::") and not title.endswith("Agent")


def _until(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise KillsFailed(complaint)
        time.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of stages, victims and moments (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="for stores and logs; kept (default: a temporary one)")
    parser.add_argument("--local-too", action="store_true", help="compare with a --local sweep as well")
    parser.add_argument("flags", nargs="*", help="of the sweep, after --")
    options = parser.parse_args()
    if options.kills < len(STAGES):
        parser.error(f"--kills: {len(STAGES)} stages are to be hit, so at least that many, not {options.kills}")
    if options.folder and options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"--folder: {options.folder} is not empty")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that the sweep is ended as well
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        wrong = experiment(folder, options.kills, options.seed, options.flags, options.local_too)
    except KillsFailed as error:
        wrong = [str(error)]
    for sentence in wrong:
        print(f"kills: {sentence}", file=sys.stderr)
    if not wrong and not options.folder:
        shutil.rmtree(folder)
    else:
        print(f"stores and logs are in {folder}")
    return 1 if wrong else 0


def experiment(folder: Path, kills: int, seed: int, flags: list[str], local_too: bool) -> list[str]:
    """The whole of it, printed as it goes; what is not as it must be."""
    with Sweep(folder, "reference", flags) as reference:
        _say("uninterrupted", reference.finish)
    counts: Counter[str] = Counter()
    aimed: Counter[str] = Counter()
    with Sweep(folder, "killed", flags) as sweep:
        for number, kill in enumerate(plan(kills, seed, reference.watch.begun, "--local" in flags), 1):
            started = time.monotonic()
            struck = sweep.strike(kill, reference.watch.usual(kill.stage))
            counts.update(struck.hit)
            aimed[kill.stage] += 1
            then = "Ray goes on" if struck.goes_on else "same command again"
            rest = f", ended {' '.join(struck.ended)}" if struck.ended else ""
            print(
                f"kill {number:2}  in {kill.stage:10}  no. {kill.occurrence:<3} victim {kill.victim:6}  "
                f"cut off {' '.join(struck.hit) or 'nothing':20}  {time.monotonic() - started:5.1f} s  {then}{rest}",
                flush=True,
            )
        _say("the last resume", sweep.finish)
        again = sweep.finish()
    print("\nstage       kills in it  cut off")
    for stage in STAGES:
        print(f"{stage:10}  {aimed[stage]:11}  {counts[stage]:7}")
    wrong = [f"stage {stage} was never cut off" for stage in STAGES if not counts[stage]]
    if "nothing is missing" not in again:
        wrong.append(f"the finished sweep, run again, found something to do; see {sweep.log}")
    expected = digests(reference.store)
    found = {"killed": digests(sweep.store)}
    if local_too:
        with Sweep(folder, "local", [*flags, "--local"]) as local:
            _say("in one process", local.finish)
        found["local"] = digests(local.store)
    for name, pieces in found.items():
        different = differing(expected, pieces)
        print(f"{name}: {len(different)} of {len(expected)} pieces differ from the uninterrupted sweep's")
        wrong += [f"{name}: {piece} differs" for piece in different]
    return wrong


def _say(what: str, work: Callable[[], object]) -> None:
    started = time.monotonic()
    work()
    print(f"{what}: {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
