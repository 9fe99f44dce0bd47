"""What happens to hosts while a sweep runs on them. Each function returns what is not as it must be.

Hosts 1 to 3 are the cluster, 1 its head. Host 4 is the desk at which its user sits.
"""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import s3_server
from cluster.hosts import FOLDER, GATEWAY, ROOT, Hosts, HostsFailed, until
from cluster.launch import SCRIPT, Cluster, held, sweep
from faults import processes
from faults.kills import differing
from faults.s3 import contents

from distsim.store import Storage

HEAD, WORKERS, DESK = 1, (2, 3), 4
FLAGS = ("--runs", "3", "--iterations", "2", "--epochs", "12", "--train-limit", "400", "--probe", "100")
FLAGS = (*FLAGS, "--control", "none", "--metrics", "cka", "cosine", "--no-chance")
PATIENCE = 600.0  # seconds for one sweep
HELD = 30.0  # seconds for which a process waits for one on another host
Wrong = list[str]


@dataclass
class Running:
    """A sweep's command that was started on a host."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def wait(self) -> int:
        """The exit status, once it has ended. HostsFailed: it does not end."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise HostsFailed(f"the sweep has not ended after {PATIENCE:.0f} s:\n{self.said()}") from None

    def said(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-3000:]


@dataclass(frozen=True)
class Caught:
    """A process that was stopped in a stage."""

    host: int
    pid: int  # as this machine counts

    def go_on(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)


class Stages:
    """The stages that processes of hosts are in, as their files of DISTSIM_STAGES say."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._read_to: dict[int, int] = {}  # host -> bytes
        self._open: dict[tuple[int, str], set[str]] = {}  # host and process, as the host counts -> stages
        self._pids: dict[tuple[int, str], int | None] = {}  # the same -> process, as this machine counts

    def catch(self, running: Running, stage: str, wanted: Sequence[int]) -> Caught:
        """Stop the next process that is in the middle of this stage on one of these hosts.

        Those on other hosts wait until then: one worker that is up early would do all the work of so small a sweep.
        They wait for a while only, since the driver may be waiting for what one of them has begun.
        """
        held: list[Caught] = []
        deadline, since = time.monotonic() + PATIENCE, 0.0
        try:
            while time.monotonic() < deadline and running.process.poll() is None:
                if held and time.monotonic() - since > HELD:
                    for caught in held:
                        caught.go_on()
                    held.clear()
                for host in (HEAD, *WORKERS):
                    for number in self._read(host, stage):
                        if (pid := self._stopped(host, number, stage)) is None:
                            continue
                        if host in wanted:
                            return Caught(host, pid)
                        since = since if held else time.monotonic()
                        held.append(Caught(host, pid))
                time.sleep(0.001)
        finally:
            for caught in held:
                caught.go_on()
        raise HostsFailed(f"no process on hosts {wanted} came to {stage}:\n{running.said()}")

    def _read(self, host: int, stage: str) -> list[str]:
        """Take in what is new: the processes that began the stage or, in a training, finished an epoch."""
        try:
            with open(self._hosts.stages / f"dst{host}", "rb") as file:
                file.seek(self._read_to.get(host, 0))
                new = file.read()
        except FileNotFoundError:
            return []
        new = new[: new.rfind(b"\n") + 1]
        self._read_to[host] = self._read_to.get(host, 0) + len(new)
        at_it = []
        for line in new.decode().splitlines():
            _, number, what, word, *_ = line.split()
            within = self._open.setdefault((host, number), set())
            if word == "begin":
                within.add(what)
            elif word == "end":
                within.discard(what)
            if stage in within and what == ("epoch" if stage == "training" else stage):
                at_it.append(number)
        return at_it

    def _stopped(self, host: int, number: str, stage: str) -> int | None:
        """Stop the process if it is still in the stage; the number that this machine gives to it."""
        if self._pids.get((host, number)) is None:
            self._pids[host, number] = self._hosts.process(host, number)
        pid = self._pids[host, number]
        if pid is None or not processes.stop(pid):
            return None
        self._read(host, stage)
        if stage in self._open[host, number]:
            return pid
        Caught(host, pid).go_on()
        return None


@dataclass
class Study:
    """A cluster that is up, and where its sweep goes."""

    hosts: Hosts
    cluster: Cluster
    storage: str
    expected: dict[str, str]
    _began: int = 0

    @property
    def stages(self) -> Stages:
        """A reader of the stages from the beginning."""
        return Stages(self.hosts)

    def on(self, host: int, command: str) -> Running:
        """Start a command on a host."""
        self._began += 1
        log = self.hosts.stages.parent / f"sweep{self._began}.log"
        return Running(self.hosts.start(host, f"cd {ROOT}; {command}", log), log)

    def by_exec(self) -> Running:
        """Start the sweep from the desk by `ray exec`."""
        return self._by(f"ray exec {self.cluster.file} {shlex.quote(sweep(self.storage, FLAGS))}")

    def by_submit(self) -> Running:
        """Start it by `ray submit`, which brings the script to the head."""
        words = shlex.split(sweep(self.storage, FLAGS))[2:]
        return self._by(f"ray submit {self.cluster.file} {SCRIPT} -- {shlex.join(words)}")

    def by_job(self) -> Running:
        """Start it by `ray job submit`, through the tunnel of `ray dashboard`."""
        tunnel = f"(ray dashboard {self.cluster.file} < /dev/null > /tmp/dashboard.log 2>&1 &)"
        ready = "for _ in $(seq 60); do (exec 3<> /dev/tcp/127.0.0.1/8265) 2> /dev/null && break; sleep 1; done"
        submit = f"ray job submit --address http://localhost:8265 -- {sweep(self.storage, FLAGS)}"
        return self._by(f"{tunnel}; {ready}; {submit}")

    def _by(self, command: str) -> Running:
        return self.on(DESK, f"export RAY_UP_enable_autoscaler_v2=0 RAY_AUTH_MODE=token; {command}")

    def end(self, running: Running) -> Wrong:
        """Wait for the sweep's end; then the store is as expected and the cluster holds nothing any more."""
        if status := running.wait():
            return [f"the sweep ended with status {status}:\n{running.said()}"]
        pieces = differing(self.expected, contents(Storage(self.storage)))
        return [f"{piece} differs" for piece in pieces] + self.cluster.held()


def with_cluster(
    play: Callable[[Study], Wrong],
    expected: dict[str, str],
    workers: Sequence[int] = WORKERS,
    ill: Mapping[int, str] = MappingProxyType({}),
) -> Wrong:
    """Play on fresh hosts with a shared folder, which are there no more afterwards.

    ill : host -> a line that its shells run, Ray's too
    """
    with Hosts(DESK) as hosts:
        for host, line in ill.items():
            hosts.add_to_shells(host, line)
        cluster = Cluster(hosts, DESK, HEAD, workers)
        cluster.up()
        wrong = play(Study(hosts, cluster, str(hosts.share / "sweep"), expected))
    return wrong + [f"left over: {what}" for what in hosts.left_over()]


def quiet(expected: dict[str, str]) -> Wrong:
    """`ray exec`, and nothing happens. The looks for remains see remains. The published script ends Ray everywhere."""

    def play(study: Study) -> Wrong:
        wrong = study.end(study.by_exec()) + unseen(study)
        study.cluster.down()
        for host in (HEAD, *WORKERS):
            lines = study.hosts.processes(host).values()
            wrong += [f"after on-prem-down.sh host {host} has {line}" for line in lines if "ray" in line.split("/")]
        return wrong

    return with_cluster(play, expected)


HOLD = """import ray, time
ray.init(address="auto")
group = ray.util.placement_group([{"CPU": 1}], lifetime="detached")
ray.get(group.ready())
class Holder:
    def there(self): return True
actor = ray.remote(Holder).options(num_cpus=1, lifetime="detached", name="holder", namespace="kept").remote()
ray.get(actor.there.remote())
from ray.autoscaler.sdk import request_resources
request_resources(num_cpus=3)
time.sleep(10)
"""


def unseen(study: Study) -> Wrong:
    """What is left behind on purpose and not reported by the checks: in the cluster, and of the hosts."""
    study.hosts.run(HEAD, f"python -c {shlex.quote(HOLD)}")
    found = " ".join(held(study.cluster.look()))
    kinds = ("has actors", "has groups", "has used", "has asked")
    wrong = [
        f"the check for remains does not see what the cluster {kind}: {found}" for kind in kinds if kind not in found
    ]
    left = " ".join(study.hosts.left_over())
    kinds = ("process", "namespace dst1", "interface dstbr", "interface dstv1")
    return wrong + [f"the check for remains does not see a {kind}" for kind in kinds if kind not in left]


def off_in_training(expected: dict[str, str]) -> Wrong:
    """`ray submit`; a host is powered off while it trains. The command must end by itself."""

    def play(study: Study) -> Wrong:
        running = study.by_submit()
        study.hosts.power_off(study.stages.catch(running, "training", WORKERS).host)
        return study.end(running)

    return with_cluster(play, expected)


def off_in_comparison(expected: dict[str, str]) -> Wrong:
    """`ray exec`; a host is powered off while it compares, and boots a little later."""

    def play(study: Study) -> Wrong:
        running = study.by_exec()
        host = study.stages.catch(running, "comparison", WORKERS).host
        study.hosts.power_off(host)
        time.sleep(5)
        study.hosts.power_on(host)
        return study.end(running)

    return with_cluster(play, expected)


def long_cut(expected: dict[str, str]) -> Wrong:
    """A host that trains is cut off until Ray takes it for dead. Then it is back, and the training goes on there."""

    def play(study: Study) -> Wrong:
        running = study.by_exec()
        caught = study.stages.catch(running, "training", WORKERS)
        study.hosts.cut(caught.host)
        address = study.hosts.address(caught.host)
        until(lambda: address in study.cluster.look()["dead"], f"Ray does not miss {address}", 180, 1.0)
        study.hosts.heal(caught.host)
        caught.go_on()
        return study.end(running)

    return with_cluster(play, expected)


def short_cut(expected: dict[str, str]) -> Wrong:
    """A host that trains is cut off for six seconds, which Ray must not take for its death."""

    def play(study: Study) -> Wrong:
        running = study.by_exec()
        caught = study.stages.catch(running, "training", WORKERS)
        study.hosts.cut(caught.host)
        time.sleep(6)
        study.hosts.heal(caught.host)
        caught.go_on()
        wrong = study.end(running)
        return wrong + [f"Ray took {address} for dead" for address in study.cluster.look()["dead"]]

    return with_cluster(play, expected)


def driver_killed(expected: dict[str, str]) -> Wrong:
    """`ray job submit`; the driver is killed in the training, and the sweep is resumed from another host."""

    def play(study: Study) -> Wrong:
        running = study.by_job()
        caught = study.stages.catch(running, "training", WORKERS)
        drivers = [pid for pid, line in study.hosts.processes(HEAD).items() if line.startswith(f"python {SCRIPT}")]
        if len(drivers) != 1:
            return [f"there is not one driver but {drivers}"]
        os.kill(drivers[0], signal.SIGKILL)
        caught.go_on()
        if running.wait() == 0:
            return ["the job of a killed driver succeeded"]
        return study.end(study.on(WORKERS[1], sweep(study.storage, FLAGS)))

    return with_cluster(play, expected)


def head_lost(expected: dict[str, str]) -> Wrong:
    """A host is powered off in a training and boots. Then the head goes: the driver ends with a sentence.

    The driver runs on a third host. The sweep is resumed on a new cluster, whose head is the host that has booted.
    """

    def play(study: Study) -> Wrong:
        running, stages = study.on(WORKERS[1], sweep(study.storage, FLAGS)), study.stages
        stages.catch(running, "training", WORKERS[:1])
        study.hosts.power_off(WORKERS[0])
        study.hosts.power_on(WORKERS[0])
        caught = stages.catch(running, "training", (HEAD, *WORKERS))
        study.hosts.power_off(HEAD)
        caught.go_on()
        if running.wait() == 0:
            return ["the sweep ended with status 0 without its head"]
        said = running.said()
        wrong = [] if "Ray has died" in said and "Traceback" not in said else [f"the driver said no sentence:\n{said}"]
        study.cluster = Cluster(study.hosts, DESK, WORKERS[0], WORKERS[1:])
        study.cluster.up()
        return wrong + study.end(study.by_exec())

    return with_cluster(play, expected)


def joins(expected: dict[str, str]) -> Wrong:
    """A host joins a sweep that runs, by the published start command, and trains."""

    def play(study: Study) -> Wrong:
        running, stages = study.by_submit(), study.stages
        caught = [stages.catch(running, "training", [host]) for host in (HEAD, WORKERS[0])]  # they wait for the third
        study.cluster.join(WORKERS[1])
        caught.append(stages.catch(running, "training", WORKERS[1:]))
        for each in caught:
            each.go_on()
        return study.end(running)

    return with_cluster(play, expected, WORKERS[:1])


def object_store(expected: dict[str, str]) -> Wrong:
    """`ray job submit` into a bucket, from hosts that share no folder; one is powered off while it trains."""
    with (
        Hosts(DESK, shared=False) as hosts,
        s3_server.serving(GATEWAY) as url,
        s3_server.exported(url),
    ):
        hosts.export({name: value for name, value in os.environ.items() if name.startswith("AWS_")})
        cluster = Cluster(hosts, DESK, HEAD, WORKERS)
        cluster.up()
        study = Study(hosts, cluster, f"s3://{s3_server.BUCKET}/of/a-sweep", expected)
        running = study.by_job()
        hosts.power_off(study.stages.catch(running, "training", WORKERS).host)
        wrong = study.end(running)
    return wrong + [f"left over: {what}" for what in hosts.left_over()]


PLAYS = (quiet, off_in_training, off_in_comparison, long_cut, short_cut, driver_killed, head_lost, joins, object_store)
SCENARIOS = {play.__name__: play for play in PLAYS}
SHORT = ("head_lost",)  # a host is powered off in training there, too
LOCAL = FOLDER / "local"
