"""Engines, which do the work: their protocol, and the engine that works in this process."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from distsim import stopping
from distsim.callbacks import Callback, Event
from distsim.processor import cores
from distsim.specs import NetworkId, Sweep
from distsim.store import Storage, SweepStore
from distsim.sweep import events
from distsim.sweep.chain_training import train_chains
from distsim.sweep.comparison_worker import ComparisonWorker
from distsim.sweep.failures import attempt
from distsim.sweep.jobs import Job, pieces
from distsim.sweep.order import Prepared
from distsim.sweep.plan import Chain, runs_of, trials_of
from distsim.sweep.training_worker import TrainingWorker
from distsim.words import counted

JobsOf = Callable[[Mapping[str, set[NetworkId]], int], Sequence[Job]]


def no_jobs(ready: Mapping[str, set[NetworkId]], slots: int) -> Sequence[Job]:
    """Return that nothing is to be compared while networks are trained."""
    return ()


class Engine(Protocol):
    """What does the work: this process, or Ray. `train` and `compare` return one sentence for each lasting failure."""

    watcher: Callback

    @property
    def here(self) -> bool:
        """Return whether the work is done on this machine."""
        ...

    def slots(self, orders: list[Prepared]) -> int:
        """Return how many comparisons of these sweeps run at once."""
        ...

    def trials(self, orders: list[Prepared], order: Prepared) -> int:
        """Return how many trials of `order`, one of these sweeps, run at once."""
        ...

    def train(
        self,
        orders: list[Prepared],
        chains: dict[str, list[Chain]],
        complete: set[tuple[str, int]],
        jobs_of: JobsOf = no_jobs,
    ) -> list[str]:
        """Train complete networks, extract their activations, then run the chains.

        complete : problem and number of each complete network to train
        jobs_of : returns the comparisons of networks that are ready, by problem, for so many at once. An engine may do
            them while it trains others; what it does not do is asked of `compare` afterwards
        """
        ...

    def compare(self, orders: list[Prepared], jobs: Sequence[Job]) -> list[str]:
        """Do the jobs and commit their values."""
        ...


def beside(sweep: Sweep) -> bool:
    """Return whether activations are written in a thread while the next network is trained: on a GPU.

    There the CPU's cores have nothing else to do. On a CPU the thread would take time from the training.
    """
    return sweep.device != "cpu"


def writers(sweep: Sweep) -> int | None:
    """Return how many threads compress and write activations; None: as many as a trial has CPUs.

    The only trial beside a GPU has all cores of the machine, unless it was given more CPUs than threads.
    """
    asked = dict(sweep.resources).get("cpu", 0.0)
    return cores() if beside(sweep) and asked <= sweep.identity.threads else None


class LocalEngine:
    """The engine that works in this process. On a CPU it works in order, and breakpoints work.

    The bytes are those that Ray writes. Where somebody asks it to stop (`distsim.stopping`), it raises Stopped.
    """

    here = True

    def __init__(
        self,
        root: Storage,
        allow_drift: bool = False,
        watcher: Callback | None = None,
        allow_slow: bool = False,
    ) -> None:
        self.root, self.allow_drift, self.allow_slow = root, allow_drift, allow_slow
        self.watcher = watcher or Callback()

    def slots(self, orders: list[Prepared]) -> int:
        return 1

    def trials(self, orders: list[Prepared], order: Prepared) -> int:
        return 1

    def train(
        self,
        orders: list[Prepared],
        chains: dict[str, list[Chain]],
        complete: set[tuple[str, int]],
        jobs_of: JobsOf = no_jobs,
    ) -> list[str]:
        failures: list[str] = []
        for order in orders:
            name = order.name
            store = SweepStore(self.root, name)
            worker = TrainingWorker(
                store,
                order.sweep,
                order.dataset,
                self.allow_drift,
                beside(order.sweep),
                self.allow_slow,
                writers(order.sweep),
                self.watcher,
            )
            absent = set()
            for number in sorted(number for of, number in complete if of == name):
                label = NetworkId(complete=number).label
                failed = attempt(f"{name}, {label}", self._complete, worker, number)
                absent |= {number} if failed else set()
                failures += failed
                self._ended(name, number)
            for pack in trials_of(order.sweep, [chain for chain in chains[name] if chain.complete not in absent]):
                failures += attempt(f"{name}, {runs_of(pack)}", self._chains, worker, pack, failures.append)
                self._ended(name, pack)
        return failures

    def _complete(self, worker: TrainingWorker, number: int) -> None:
        self.watcher.on_network(worker.complete(number))

    def _chains(self, worker: TrainingWorker, pack: Sequence[Chain], failed: Callable[[str], None]) -> None:
        for event in train_chains(worker, pack, failed):
            self.watcher.on_network(event)

    def _ended(self, problem: str, pack: Sequence[Chain] | int) -> None:
        """Tell that a trial has ended, and stop here if that is asked for."""
        for event in events.ends(problem, pack):
            self.watcher.on_chain_end(event)
        stopping.here()

    def compare(self, orders: list[Prepared], jobs: Sequence[Job]) -> list[str]:
        workers = {
            order.name: ComparisonWorker(
                SweepStore(self.root, order.name), order.sweep, order.dataset, self.allow_drift
            )
            for order in orders
        }
        failures, done, whole = [], 0, sum(map(pieces, jobs))
        for job in jobs:
            compared = itertools.count(done + 1)

            def heard(compared: Iterator[int] = compared) -> None:
                self._compared(next(compared), whole)

            failures += workers[job.problem].compare(job, heard)
            done += pieces(job)
            self._compared(done, whole)
        return failures

    def _compared(self, done: int, whole: int) -> None:
        """Tell how far comparisons are, and stop here if that is asked for, unless they are all done.

        Then what they needed is dropped first: no later command would see that it has served.
        """
        self.watcher.on_comparison({"done": done, "of": whole})
        if done < whole:
            stopping.here()


class Lines(Callback):
    """A callback that says a line for each finished network, and for each worker that died."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say

    def on_network(self, event: Event) -> None:
        self._say(describe(event))

    def on_died(self, event: Event) -> None:
        self._say(describe(event | {"died": True}))


def describe(event: Event) -> str:
    """Return an event as a line of a log."""
    if "died" in event:
        return f"{time.strftime('%H:%M:%S')} {event['problem']} {event['piece']}: {event['why'] or 'its worker died'}"
    number, control = event.get("complete", 0), event.get("control", "")
    which = NetworkId(complete=number).label
    if event["run"] is not None:
        of_run = f"run {event['run']} iteration {event['iteration']}"
        which = ", ".join([which] * bool(number) + [f"control {control}"] * bool(control) + [of_run])
    return (
        f"{time.strftime('%H:%M:%S')} {event['problem']} {which}: accuracy {event['accuracy']:.4f}, "
        f"remaining {event['remaining']:.3f}, {counted(event['epochs'], 'epoch')}, {event['seconds']:.1f} s"
    )
