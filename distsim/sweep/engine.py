"""Where the work is done: the protocol of engines, and the one that works in this process."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from distsim.store import Storage, SweepStore
from distsim.sweep.comparison_worker import ComparisonWorker
from distsim.sweep.failures import attempt
from distsim.sweep.jobs import Comparison, PairJob
from distsim.sweep.order import Prepared
from distsim.sweep.plan import Chain, packed, runs_of
from distsim.sweep.training_worker import Event, TrainingWorker


class Engine(Protocol):
    """Where the work is done: in this process, or by Ray. Each method returns what failed for good, a sentence each."""

    @property
    def here(self) -> bool:
        """Whether the work is done on this machine."""
        ...

    def slots(self, orders: list[Prepared]) -> int:
        """Comparisons of these sweeps at once."""
        ...

    def trials(self, orders: list[Prepared], one: Prepared) -> int:
        """Trials of this one of the sweeps at once."""
        ...

    def train(self, orders: list[Prepared], chains: dict[str, list[Chain]], complete: set[str]) -> list[str]:
        """Train the complete networks named and extract their activations, then run the chains that need them."""
        ...

    def compare(self, orders: list[Prepared], jobs: Sequence[Comparison | PairJob]) -> list[str]: ...


class LocalEngine:
    """Everything in this process, in order: breakpoints work, and the bytes are those that Ray's workers write."""

    here = True

    def __init__(self, root: Storage, allow_drift: bool = False, tell: Callable[[Event], None] | None = None) -> None:
        self.root, self.allow_drift = root, allow_drift
        self.tell = tell or (lambda event: None)

    def slots(self, orders: list[Prepared]) -> int:
        return 1

    def trials(self, orders: list[Prepared], one: Prepared) -> int:
        return 1

    def train(self, orders: list[Prepared], chains: dict[str, list[Chain]], complete: set[str]) -> list[str]:
        failures = []
        for one in orders:
            bench = TrainingWorker(SweepStore(self.root, one.name), one.sweep, one.dataset, self.allow_drift)
            failed = attempt(f"{one.name}, complete network", self._complete, bench) if one.name in complete else []
            if not failed:
                for pack in packed(chains[one.name], one.sweep.pack):
                    failed += attempt(f"{one.name}, {runs_of(pack)}", self._chains, bench, pack, failed.append)
            failures += failed
        return failures

    def _complete(self, bench: TrainingWorker) -> None:
        self.tell(bench.complete())

    def _chains(self, bench: TrainingWorker, pack: Sequence[Chain], failed: Callable[[str], None]) -> None:
        for event in bench.chains(pack, failed):
            self.tell(event)

    def compare(self, orders: list[Prepared], jobs: Sequence[Comparison | PairJob]) -> list[str]:
        comparers = {
            one.name: ComparisonWorker(SweepStore(self.root, one.name), one.sweep, one.dataset, self.allow_drift)
            for one in orders
        }
        failures = []
        for job in jobs:
            failures += comparers[job.problem].compare(job)
        return failures


def describe(event: Event) -> str:
    """An event as a line of a log."""
    if "died" in event:
        return f"{time.strftime('%H:%M:%S')} {event['problem']} {event['piece']}: its worker died"
    which = "complete network" if event["run"] is None else f"run {event['run']} iteration {event['iteration']}"
    return (
        f"{time.strftime('%H:%M:%S')} {event['problem']} {which}: accuracy {event['accuracy']:.4f}, "
        f"remaining {event['remaining']:.3f}, {event['epochs']} epochs, {event['seconds']:.1f} s"
    )
