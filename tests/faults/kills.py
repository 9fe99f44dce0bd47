"""Kills a sweep in the middle of a stage, and starts the same command again. The instrument; suite.py plays it.

How a stage of some milliseconds is hit for sure: its process is stopped (SIGSTOP) once the file $DISTSIM_STAGES says
that the stage began. If the file then says that it has ended already, the process goes on and the next one is tried;
if not, the process cannot leave the stage any more except by the kill.

A worker is stopped until the driver that is to be killed is dead and Ray's daemons with it, which takes some
hundredths of a second; then it goes on, finds itself alone and ends. Other workers live a second or two longer and may
still finish what they are at, while the next driver starts.
"""

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from faults import processes

ROOT = Path(__file__).resolve().parents[2]

# "epoch" is the inside of the training of a pruned network: between its first and its last finished epoch.
STAGES = ("complete", "epoch", "checkpoint", "commit", "extraction", "comparison", "reduction", "figures")
PHASE = dict(zip(STAGES, (0, 1, 1, 1, 1, 2, 3, 4), strict=True))
DRIVERS_OWN = ("reduction", "figures")  # stages that no worker has
WITHIN_TRAINING = ("checkpoint", "extraction")  # between two epochs, and beside them
VICTIMS = ("worker", "driver", "group")

PATIENCE = 900.0  # seconds until a sweep that neither ends nor reaches a stage is given up
GRACE = 20.0  # seconds that a dead driver's workers get to notice; seen: 1 to 3. Ray's agents take up to 90
POLL = 0.0005  # seconds; a commit takes two to four milliseconds

Unit = tuple[str, str]  # a stage and of which piece, as announced


class KillsFailed(RuntimeError):
    """The sweep did not do what it must after a kill."""


class Missed(KillsFailed):
    """What was to be cut off was over before."""


@dataclass(frozen=True)
class Kill:
    """What to kill, and when: in the occurrence-th such stage from now on, `share` of its usual length after its begin.

    The complete network's stage comes once, and occurs again after each of its epochs.
    driver: the process that was started. worker: the process in the stage, which may be the driver. group: all.
    or_later: where the sweep is past the stage, in the next one that it comes to.
    """

    stage: str
    victim: str
    occurrence: int = 1
    share: float = 0.0
    or_later: bool = False


@dataclass(frozen=True)
class Begin:
    """A stage that a process began."""

    at: float  # seconds since 1970
    pid: int
    stage: str
    unit: Unit  # what is begun again if the stage is cut off: it itself; of an epoch and a checkpoint, the training


@dataclass(frozen=True)
class Struck:
    """What a kill did."""

    at: float  # seconds since 1970
    process: str  # that was in the stage
    cut_off: tuple[Begin, ...]  # what was begun and will never end, the stage aimed at first if it is among them
    goes_on: bool  # the driver lives: Ray has to replace the worker. If not, the same command was started again
    outlived: tuple[str, ...]  # workers that lived longer than their driver by GRACE and were ended by pid

    @property
    def hit(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(begin.stage for begin in self.cut_off))


@dataclass
class Watch:
    """Reads the file of stages as it grows."""

    path: Path
    begun: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _open: dict[int, dict[str, Begin]] = field(default_factory=lambda: defaultdict(dict))  # pid -> stage
    _training: dict[int, Unit] = field(default_factory=dict)  # that a process is in or was last in
    _begins: dict[Unit, list[float]] = field(default_factory=lambda: defaultdict(list))
    _noted: list[Begin] = field(default_factory=list)  # read, and not yet looked at by `freeze`
    _last_epoch: int = 0  # that any network was trained to; the complete network comes first
    _offset: int = 0

    def read(self) -> list[Begin]:
        """Take in what is new; every begin, and every epoch of the complete network."""
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

    def close(self, alive: set[int]) -> tuple[Begin, ...]:
        """The stages that dead processes were in, which are thereby over."""
        self._noted += self.read()
        dead = [pid for pid in self._open if pid not in alive]
        cut_off = [begin for pid in dead for begin in self._open.pop(pid).values()]
        return tuple(sorted(cut_off, key=lambda begin: STAGES.index(begin.stage)))

    def usual(self, stage: str) -> float:
        """The median length of the stage, of `epoch` that of one epoch; 0 where none was seen."""
        return statistics.median(self.lengths[stage]) if self.lengths.get(stage) else 0.0

    def again(self, unit: Unit, since: float) -> float | None:
        """When the unit was begun after `since`, if it was."""
        return min((at for at in self._begins[unit] if at > since), default=None)

    def freeze(self, kill: Kill, usual: float, over: Callable[[], bool]) -> int | None:
        """Stop a process inside the stage, which lasts `usual` seconds; its pid, None if all was over before."""
        delay, seen = kill.share * usual, 0
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            ended = over()
            fresh, self._noted = self._noted + self.read(), []
            aimed_at = [begin for begin in fresh if begin.stage == kill.stage]
            later = [begin for begin in fresh if kill.or_later and PHASE[begin.stage] > PHASE[kill.stage]]
            seen += len(aimed_at)
            if later and kill.victim == "worker" and later[-1].stage in DRIVERS_OWN:
                self._noted = later
                return None
            if later and self._stopped_in(later[-1]):
                return later[-1].pid
            if aimed_at and seen >= kill.occurrence:
                time.sleep(max(0.0, aimed_at[-1].at + delay - time.time()))
                if self._stopped_in(aimed_at[-1]):
                    return aimed_at[-1].pid
                delay /= 2  # this one was shorter than usual
            elif ended:
                return None
            time.sleep(POLL)
        raise KillsFailed(f"stage {kill.stage} did not come within {PATIENCE:.0f} s, nor did the end; see {self.path}")

    def _stopped_in(self, begin: Begin) -> bool:
        """Stop the process if it is still in the stage."""
        if not processes.stop(begin.pid):
            return False
        self._noted += self.read()
        if begin.stage in self.inside(begin.pid):
            return True
        with contextlib.suppress(ProcessLookupError):
            os.kill(begin.pid, signal.SIGCONT)
        return False

    def _take(self, line: str) -> Begin | None:
        at, number, stage, word, *rest = line.split()
        now, pid, unit = float(at), int(number), (stage, " ".join(rest))
        if stage == "epoch":
            return self._epoch(pid, int(word), now)
        stages = self._open[pid]
        if word == "begin":
            self._begins[unit].append(now)
            if stage in ("complete", "training"):
                self._training[pid] = unit
            if stage == "training":  # the frame of epochs, checkpoints and what is no stage of its own
                return None
            if stage not in WITHIN_TRAINING:
                stages.pop("epoch", None)
            return self._begin(now, pid, stage, self._training.get(pid, unit) if stage == "checkpoint" else unit)
        if stage in stages:
            self.lengths[stage].append(now - stages.pop(stage).at)
        return None

    def _epoch(self, pid: int, epoch: int, now: float) -> Begin | None:
        self._last_epoch = max(self._last_epoch, epoch)
        stages = self._open[pid]
        if "complete" in stages:  # an occurrence more, which needs no guess of how long the others take
            return replace(stages["complete"], at=now)
        if "epoch" in stages:
            self.lengths["epoch"].append(now - stages.pop("epoch").at)
        if epoch == self._last_epoch:  # what follows is evaluation and a commit
            return None
        return self._begin(now, pid, "epoch", self._training.get(pid, ("epoch", "")))

    def _begin(self, now: float, pid: int, stage: str, unit: Unit) -> Begin:
        self.begun[stage] += 1
        self._open[pid][stage] = Begin(now, pid, stage, unit)
        return self._open[pid][stage]


class Sweep:
    """One sweep's command and store. Whatever was started is ended on leaving the `with` block."""

    def __init__(self, folder: Path, name: str, flags: Sequence[str] = (), script: str = "sweeps/digits.py") -> None:
        self.store = folder / name
        self.log = folder / f"{name}.log"
        self.watch = Watch(folder / f"{name}.stages")
        controls = [] if "--control" in flags else ["--control", "none"]
        self._command = [sys.executable, str(ROOT / script), *flags, *controls, "--storage", str(self.store)]
        # Ray's sessions stay behind when a driver is killed, so they get a folder that goes away. A short one: sockets
        # are in it, and their paths may have 107 characters
        self._ray = Path(tempfile.mkdtemp(prefix="kills-ray-", dir="/tmp"))
        self._environment = environment(folder) | {
            "DISTSIM_STAGES": str(self.watch.path),
            "RAY_TMPDIR": str(self._ray),
            "RAY_worker_niceness": "0",  # Ray's 15 lets workers starve where other tests have the cores
        }
        self._driver: subprocess.Popen[bytes] | None = None
        self._started: set[int] = set()  # sessions: each driver has one of its own
        self._printed = 0

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
        driver = self._running_driver()
        try:
            driver.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise KillsFailed(f"the sweep did not finish within {PATIENCE:.0f} s; see {self.log}") from None
        if driver.returncode != 0:
            raise KillsFailed(f"the sweep ended with exit status {driver.returncode}:\n{self._said()}")
        self._end()
        self.watch.read()
        self.watch.close(set())
        return self._said()

    def strike(self, kill: Kill, usual: float = 0.0) -> Struck:
        """Wait for the stage, kill, and start the same command again where the driver died.

        The command is started first if it does not run. `usual`: how long the stage lasts. Missed: it did not come.
        """
        driver = self._running_driver()
        frozen = self.watch.freeze(kill, usual, lambda: not self.running)
        if frozen is None:
            raise self._failure(driver.poll(), kill)
        at, name = time.time(), processes.title(frozen)
        goes_on = kill.victim == "worker" and frozen != driver.pid
        outlived: tuple[str, ...] = ()
        if goes_on:
            processes.kill({frozen})
            _until(lambda: frozen not in self._members(), "a killed worker does not die")
        else:
            self._kill_driver(driver, frozen, with_all=kill.victim == "group")
            self._start()
            outlived = self._see_off(driver.pid)
        cut_off = self.watch.close(self._members())
        first = sorted(cut_off, key=lambda begin: (begin.stage != kill.stage, begin.pid != frozen))
        return Struck(at, name, tuple(first), goes_on, outlived)

    def _running_driver(self) -> subprocess.Popen[bytes]:
        if self._driver is None or self._driver.poll() is not None:
            self._driver = self._start()
        return self._driver

    def _start(self) -> subprocess.Popen[bytes]:
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
        self._started.add(self._driver.pid)
        return self._driver

    def _kill_driver(self, driver: subprocess.Popen[bytes], frozen: int, with_all: bool) -> None:
        """Kill the driver and, if asked for, all of its session; the frozen worker goes on when the driver is dead."""
        driver.kill()
        if with_all:
            self._kill_all({driver.pid})
        driver.wait(PATIENCE)
        if frozen != driver.pid and not with_all:
            raylets = [pid for pid in processes.members(driver.pid) if processes.title(pid) == "raylet"]
            _until(lambda: not processes.members(driver.pid).intersection(raylets), "Ray outlives its driver")
            with contextlib.suppress(ProcessLookupError):
                os.kill(frozen, signal.SIGCONT)

    def _see_off(self, session: int) -> tuple[str, ...]:
        """Wait for a dead driver's workers to go by themselves, then end what is left; the workers that were left."""
        deadline = time.monotonic() + GRACE
        while (left := _workers(session)) and time.monotonic() < deadline:
            time.sleep(0.05)
        names = tuple(sorted(processes.title(pid) for pid in left))
        self._kill_all({session})  # Ray's agents take a minute more, and write nothing
        return names

    def _members(self) -> set[int]:
        return {pid for session in self._started for pid in processes.members(session)}

    def _end(self) -> None:
        self._kill_all(set(self._started))
        if self._driver is not None:
            self._driver.wait(PATIENCE)

    def _kill_all(self, sessions: set[int]) -> None:
        """Kill the sessions' processes until there are none; their numbers may then mean other processes."""

        def gone() -> bool:
            left = {pid for session in sessions for pid in processes.members(session)}
            processes.kill(left)
            return not left

        _until(gone, "processes of the sweep do not die")
        self._started -= sessions

    def _said(self) -> str:
        return self.log.read_text()[self._printed :]

    def _failure(self, status: int | None, kill: Kill) -> KillsFailed:
        if status is None:
            return Missed(f"the sweep is past stage {kill.stage}")
        kind = KillsFailed if status else Missed
        return kind(f"the sweep ended (exit status {status}) before stage {kill.stage} could be hit:\n{self._said()}")


def environment(folder: Path) -> dict[str, str]:
    """Return this process's environment, changed for the processes of a sweep.

    Where Python writes no compiled modules beside the sources, they go into the folder: to compile 3,000 of them at
    each start takes longer than most stages.
    """
    changed = dict(os.environ)
    if changed.pop("PYTHONDONTWRITEBYTECODE", None):
        changed["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")
    return changed


def digests(store: Path) -> dict[str, str]:
    """Piece -> SHA-256, by `distsim digest`, which reads and checks everything in the store."""
    command = [sys.executable, "-m", "distsim", "digest", "--pieces", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment(store.parent))
    if done.returncode != 0:
        raise KillsFailed(f"distsim digest of {store} failed:\n{done.stderr}")
    return {piece: digest for digest, piece in (line.split("  ", 1) for line in done.stdout.splitlines())}


def differing(one: dict[str, str], two: dict[str, str]) -> list[str]:
    """Pieces that are not the same in both, or not in both."""
    return sorted(piece for piece in one.keys() | two.keys() if one.get(piece) != two.get(piece))


def _workers(session: int) -> set[int]:
    return {pid for pid in processes.members(session) if processes.is_worker(pid)}


def _until(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise KillsFailed(complaint)
        time.sleep(0.02)
