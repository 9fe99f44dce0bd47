"""Comparisons on Ray: actors that do jobs, as many at once as the cluster has room for."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from distsim import stopping
from distsim.store import Storage, SweepStore
from distsim.sweep.comparison_worker import ComparisonWorker
from distsim.sweep.failures import last_line
from distsim.sweep.jobs import Job, pieces
from distsim.sweep.on_ray.deaths import Deaths
from distsim.sweep.on_ray.hosts import Hosts, selector
from distsim.sweep.on_ray.parcels import Own, Parcel

PAUSE = 0.2  # seconds between two looks where only answers of machines are waited for


@ray.remote(max_restarts=0)
class ComparisonActor:
    """An actor that compares. Jobs can be repeated safely, so another actor can do the job of a dead one."""

    def __init__(
        self, root: Storage, own: Own, drift: bool, heeded: stopping.Heeded | None, parcels: list[Parcel]
    ) -> None:
        own.make_known()
        self._heeded = heeded
        self._workers = {
            parcel.sweep.name: ComparisonWorker(
                SweepStore(root, parcel.sweep.name),
                parcel.sweep,
                parcel.dataset() if parcel.sweep.extent.activations == "memory" else None,
                drift,
            )
            for parcel in parcels
        }

    def compare(self, job: Job) -> list[str] | None:
        """Do a job. Return one sentence for each lasting failure; None: somebody asked to stop before it was done."""
        left = itertools.count(1 - pieces(job))

        def heard() -> None:
            if next(left) < 0:
                stopping.here()

        try:
            with stopping.heeding(self._heeded):
                return self._workers[job.problem].compare(job, heard)
        except stopping.Stopped:
            return None


@dataclass
class _Actor:
    handle: Any
    avoided: frozenset[str]  # Ray's ids of the machines that were kept from it
    known: bool = False  # whether it has done a job: before, it may still wait for room


class Comparisons:
    """Jobs that wait, jobs that are being done, and the actors that do them.

    make : makes an actor on a machine that this label selector allows
    slots : actors at once
    hosts : the machines
    """

    def __init__(
        self,
        make: Callable[[dict[str, str]], Any],
        slots: int,
        hosts: Hosts | None,
        retries: int,
    ) -> None:
        self.slots = slots  # may change at any time; no job is taken from an actor
        self.keeps = False  # whether actors stay that have nothing to do
        self.heard: Callable[[Job], object] = lambda job: None  # called with each job that is done
        self._make, self._hosts = make, hosts
        self._waiting: deque[Job] = deque()
        self._running: dict[Any, tuple[Job, _Actor]] = {}
        self._idle: list[_Actor] = []
        self._retries = retries
        self._deaths: Deaths[Job] = Deaths(hosts, retries)
        self.failures: list[str] = []
        self.stopped = False  # whether somebody asked to stop, here or in an actor

    def __bool__(self) -> bool:
        return bool(self._waiting or self._running or self._deaths)

    @property
    def at_work(self) -> int:
        """Return the number of jobs that are being done."""
        return len(self._running)

    @property
    def jobs_at_work(self) -> list[Job]:
        """Return the jobs that are being done."""
        return [job for job, _ in self._running.values()]

    @property
    def starting(self) -> int:
        """Return the number of actors that may still wait for room."""
        return sum(not actor.known for _, actor in self._running.values())

    @property
    def idle(self) -> int:
        """Return the number of actors that have nothing to do."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Return the number of jobs that no actor has yet."""
        return len(self._waiting)

    def add(self, jobs: Iterable[Job]) -> None:
        """Let these jobs be done too."""
        self._waiting.extend(jobs)

    def step(self, patience: float) -> None:
        """Give out jobs, and take what has been done. patience : seconds to wait for the next job's end, at most"""
        self._decide()
        while self._waiting and len(self._running) < self.slots:
            self._give_out(self._waiting.popleft())
        while self._idle and not self.keeps:  # frees their room: others may wait for it
            self._end(self._idle.pop())
        if not self._running:
            if self._deaths and patience:
                time.sleep(min(patience, PAUSE))
            return
        finished, _ = ray.wait(list(self._running), num_returns=1, timeout=patience)
        for done in finished:
            self._take(done)

    def drop_waiting(self) -> None:
        """Forget the jobs that no actor has yet, those whose actors died, and failures."""
        self._waiting.clear()
        self._deaths, self.failures = Deaths(self._hosts, self._retries), []

    def stop(self) -> None:
        """Give out no more jobs, since somebody asked to stop. What is being done is done."""
        self.stopped = True
        self._waiting.clear()

    def close(self) -> None:
        """End all actors."""
        for actor in [*self._idle, *(actor for _, actor in self._running.values())]:
            self._end(actor)
        self._idle, self._running = [], {}

    def _give_out(self, job: Job) -> None:
        avoid = self._hosts.avoid if self._hosts else frozenset[str]()
        while self._idle:
            actor = self._idle.pop()
            if actor.avoided >= avoid:
                break
            self._end(actor)  # it may be on a machine that gets no more work
        else:
            actor = _Actor(self._make(selector(avoid)), avoid)
        self._running[actor.handle.compare.remote(job)] = job, actor

    def _take(self, done: Any) -> None:
        job, actor = self._running.pop(done)
        actor.known = True
        try:
            failures = ray.get(done)
            self.failures += failures or []
            self.stopped |= failures is None
            self._idle.append(actor)
            self.heard(job)
        except RayTaskError as error:  # of the job itself
            self.failures.append(f"{job.problem}, {job.label}: {last_line(error)}")
            self._idle.append(actor)
        except RayError as error:  # the worker or its machine died, or Ray ended it; its commits stay
            self._end(actor)  # it may only be unreachable, and would keep its slot if it came back
            self._deaths.note(job, job, actor.avoided, str(error))

    def _decide(self) -> None:
        again, given_up = self._deaths.decided()
        self._waiting.extend(again if not self.stopped else ())
        self.failures += [f"{job.problem}, {job.label}: {why}" for job, why in given_up]

    def _end(self, actor: _Actor) -> None:
        ray.kill(actor.handle)


def count(jobs: Iterable[Job]) -> int:
    """Return how many layers of networks, or pairs of them, these jobs compare."""
    return sum(map(pieces, jobs))
