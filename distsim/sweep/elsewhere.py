"""How a sweep stands that runs in another process, or on other machines: what its store tells. Nothing is written."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from distsim.specs import NetworkId, Sweep
from distsim.store import DamagedStore, Mark, SweepStore, control
from distsim.store.epochs import epochs_kept
from distsim.store.lease import SILENCE, driver
from distsim.sweep.board import View, disk_used, row
from distsim.sweep.events import training
from distsim.sweep.status import Status, status
from distsim.words import duration


@dataclass
class _Seen:
    """The epochs of a training, as two looks found them in its checkpoint."""

    epochs: int
    at: float
    rate: float | None = None  # epochs a second


@dataclass
class Elsewhere:
    """The sweeps of a store, looked at again and again.

    stores : of one root; clock : of seconds
    """

    stores: Sequence[SweepStore]
    clock: Callable[[], float] = time.monotonic
    done: bool = False  # whether the last look found everything that was asked for
    _seen: dict[tuple[str, NetworkId], _Seen] = field(default_factory=dict)
    _marks: dict[tuple[str, NetworkId], Mark] = field(default_factory=dict)  # of committed networks, read once
    _sign: tuple[bytes, float] = (b"", 0.0)  # the driver's last sign of life, and when it was new

    def look(self) -> View:
        """Return how the sweeps stand now. StorageError: the store cannot be read."""
        rows: list[tuple[str, ...]] = []
        lines: list[tuple[str, str]] = []
        found = [status(store) for store in self.stores]
        for store, of_store in zip(self.stores, found, strict=True):
            at_work = self._rows(store)
            rows += at_work
            lines += self._lines(store, of_store, len(at_work))
        root = self.stores[0].root
        lines += [("store", disk_used(root, root.sizes())), ("driver", self._driver())]
        if paused := control.paused(root):
            lines.append(("", paused))
        self.done = all(of_store.done for of_store in found)
        return View(tuple(rows), tuple(lines))

    def _rows(self, store: SweepStore) -> list[tuple[str, ...]]:
        """Return a row for each network that has a checkpoint and is not committed."""
        sweep = Sweep(store.identity(), store.request().extent)
        committed, now = store.contents().networks, self.clock()
        kept = {network: n for network, n in epochs_kept(store.storage).items() if network not in committed}
        self._seen = {key: seen for key, seen in self._seen.items() if key[0] != store.problem or key[1] in kept}
        rows = []
        for network, epochs in sorted(kept.items()):
            seen = self._seen.setdefault((store.problem, network), _Seen(epochs, now))
            if epochs != seen.epochs:
                rate = (epochs - seen.epochs) / max(now - seen.at, 1e-3)
                self._seen[store.problem, network] = seen = _Seen(epochs, now, rate if epochs > seen.epochs else None)
            rows.append(self._row(store, sweep, network, seen))
        return rows

    def _row(self, store: SweepStore, sweep: Sweep, network: NetworkId, seen: _Seen) -> tuple[str, ...]:
        last, of_run = sweep.extent.iterations, network.of_run
        epochs = training(sweep, 0, network, last)["epochs"]
        mark = self._mark(store, network.before) if network.before is not None else None
        before = None if mark is None else (mark.values["accuracy"], mark.values["remaining"])
        left = epochs - seen.epochs + (0 if of_run is None else max(0, last - network.iteration) * epochs)
        seconds = left / seen.rate if seen.rate else None
        # checkpoints do not say how many images an epoch has
        return row(store.problem, network, last, seen.epochs, epochs, before, None, seconds)

    def _lines(self, store: SweepStore, found: Status, at_work: int) -> list[tuple[str, str]]:
        extent = store.request().extent
        wanted = {*extent.complete_networks, *extent.networks}
        committed = store.contents().networks
        there = sorted(wanted & committed)
        said = f"{len(there)} of {len(wanted)} networks"
        seconds = [mark.provenance.get("seconds", 0.0) for of in there[-20:] if (mark := self._mark(store, of))]
        if seconds and at_work and len(there) < len(wanted):
            left = (len(wanted) - len(there)) * sum(seconds) / len(seconds) / at_work
            said += f", about {duration(left)} of training left with {at_work} at once"
        lacking = {
            "similarities": found.missing_similarities,
            "values by chance": found.missing_by_chance,
            "standard errors": found.missing_errors,
            "test logits": found.missing_logits,
        }
        missing = ", ".join(f"{count:,} {what}" for what, count in lacking.items() if count)
        return [(store.problem, said), ("", f"{missing} missing" if missing else "nothing else missing")]

    def _mark(self, store: SweepStore, network: NetworkId) -> Mark | None:
        if (store.problem, network) not in self._marks:
            try:
                mark = store.mark(network)
            except DamagedStore:  # `distsim verify` says which
                mark = None
            if mark is None:
                return None
            self._marks[store.problem, network] = mark
        return self._marks[store.problem, network]

    def _driver(self) -> str:
        found, now = driver(self.stores[0].root), self.clock()
        if found is None:
            return "none is at work here"
        who, sign = found
        if sign != self._sign[0]:
            self._sign = sign, now
        silent = now - self._sign[1]
        return who if silent < SILENCE else f"{who}: no sign of life for {duration(silent)}"
