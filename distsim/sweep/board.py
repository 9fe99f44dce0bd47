"""How a running sweep stands, as a display shows it: chains at work, what else is done, and the time that is left."""

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from distsim.callbacks import Callback, Event
from distsim.specs import NetworkId
from distsim.store import Storage
from distsim.sweep.events import network_of
from distsim.words import duration, readable

Key = tuple[str, NetworkId]  # a problem, and a run's first network or a complete network
COLUMNS = ("", "iteration", "epoch", "accuracy", "parameters left", "images/s", "time left")


@dataclass(frozen=True)
class View:
    """What a display shows. Rows have a text for each of `COLUMNS`; lines are a name and what is said of it."""

    rows: tuple[tuple[str, ...], ...]
    lines: tuple[tuple[str, str], ...]
    failures: tuple[str, ...] = ()
    more: str = "{count} more at work"  # said of rows for which there is no room


@dataclass
class _Training:
    """The training of a network that is under way. Accuracy and size are those of the chain's network before."""

    network: NetworkId
    iterations: int
    epochs: int
    images: int  # in each epoch
    before: tuple[float, float] | None
    at: float  # when the last epoch that is known ended
    epoch: int = 0
    known: bool = False  # whether `epoch` was heard since the training began here
    rate: float | None = None  # images a second

    def goes_on(self, epoch: int, now: float) -> int:
        """Take note that an epoch is over. Return the number of epochs that were trained since the last note."""
        trained = epoch - self.epoch if self.known or epoch == 1 else 1  # what a checkpoint held took no time here
        if trained > 0 and now > self.at:
            rate = trained * self.images / (now - self.at)
            self.rate = rate if self.rate is None else (self.rate + rate) / 2
        self.epoch, self.at, self.known = epoch, now, True
        return trained

    @property
    def seconds_left(self) -> float | None:
        """Return the seconds until the chain's last network is trained, None if the rate is not known yet."""
        if not self.rate:
            return None
        epochs = self.epochs - self.epoch + max(0, self.iterations - self.network.iteration) * self.epochs
        return epochs * self.images / self.rate

    def row(self, problem: str) -> tuple[str, ...]:
        progress = self.network, self.iterations, self.epoch, self.epochs
        return row(problem, *progress, self.before, self.rate, self.seconds_left)


def row(
    problem: str,
    network: NetworkId,
    iterations: int,
    epoch: int,
    epochs: int,
    before: tuple[float, float] | None,
    rate: float | None,
    left: float | None,
) -> tuple[str, ...]:
    """Return the cells of a chain's row, "" where nothing is known. They are those of COLUMNS.

    network : the one in training; iterations : of its chain; epoch, epochs : epochs done and in all
    before : accuracy and share of parameters left of the network before it
    rate : images a second; left : seconds until the chain's last network is trained
    """
    of_run = network.of_run
    accuracy, remaining = before or (None, None)
    return (
        f"{problem} {network.label if of_run is None else of_run.label}",
        "" if of_run is None else f"{network.iteration} of {iterations}",
        f"{epoch} of {epochs}",
        "" if accuracy is None else f"{accuracy:.4f}",
        "" if remaining is None else f"{remaining:.1%}",
        "" if rate is None else f"{rate:,.0f}",
        "" if left is None else duration(left),
    )


@dataclass
class _Count:
    """How many pieces of something are done, and since when."""

    done: int = 0
    of: int = 0
    since: float = field(default_factory=time.monotonic)

    def left(self, now: float) -> str:
        """Say how long the rest takes if it goes on like this; "" if nothing is known."""
        if not self.done or self.done >= self.of or now <= self.since:
            return ""
        return f", about {duration((self.of - self.done) * (now - self.since) / self.done)} left"


class Board(Callback):
    """What was heard of a sweep. It may be asked for a view in another thread.

    disk : how much the store takes, in words; "" as long as that is not known
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Make an empty board. clock : of seconds"""
        self.disk = ""
        self._clock, self._lock = clock, threading.RLock()
        self._rows: dict[Key, _Training] = {}
        self._before: dict[Key, tuple[float, float]] = {}  # of each chain's last finished network
        self._networks, self._activations, self._compared = _Count(), _Count(), _Count()
        self._in_all = 0
        self._images = _Count()  # to train on; what was trained elsewhere or before counts as done where it is seen
        self._failures: list[str] = []
        self._died = 0

    # --- what is heard -----------------------------------------------------------------------------------------------

    def on_begin(self, event: Event) -> None:
        with self._lock:
            now = self._clock()
            self._networks.of = sum(of["networks"] for of in event.values())
            self._in_all = sum(of["in_all"] for of in event.values())
            self._activations.of = sum(of["activations"] for of in event.values())
            self._images = _Count(0, sum(of["images"] for of in event.values()), now)

    def on_training(self, event: Event) -> None:
        with self._lock:
            key, network = _key(event), network_of(event)
            if not self._rows and not self._images.done:
                self._images.since = self._clock()
            last = self._rows.get(key)
            before = self._before.get(key) or self._before.get((event["problem"], network.origin))
            row = _Training(network, event["iterations"], event["epochs"], event["images"], before, self._clock())
            if last is not None:  # the next network of a run takes as long as the last one
                row.rate, row.known = last.rate, True
            self._rows[key] = row

    def on_epoch(self, event: Event) -> None:
        with self._lock:
            row = self._rows.get(_key(event))
            if row is not None and row.network == network_of(event):
                row.goes_on(event["epoch"], self._clock())

    def on_network(self, event: Event) -> None:
        with self._lock:
            key, network = _key(event), network_of(event)
            self._before[key] = event["accuracy"], event["remaining"]
            row = self._rows.get(key)
            if row is not None and row.network == network:
                if not row.known and row.rate is None:  # no epoch was heard of, as on Ray
                    row.rate = row.epochs * row.images / max(self._clock() - row.at, 1e-3)
                self._networks.done += 1
                self._images.done += row.epochs * row.images
                row.epoch, row.before = row.epochs, self._before[key]

    def on_activations(self, event: Event) -> None:
        with self._lock:
            self._activations.done += 1

    def on_comparison(self, event: Event) -> None:
        with self._lock:
            if event["of"] != self._compared.of or event["done"] < self._compared.done:
                self._compared = _Count(0, event["of"], self._clock())
            self._compared.done = event["done"]

    def on_chain_end(self, event: Event) -> None:
        with self._lock:
            self._rows.pop(_key(event), None)

    def on_died(self, event: Event) -> None:
        with self._lock:
            self._died += 1

    def on_failure(self, event: Event) -> None:
        with self._lock:
            self._failures.append(event["sentence"])

    # --- what is seen ------------------------------------------------------------------------------------------------

    @property
    def at_work(self) -> list[tuple[str, NetworkId]]:
        """Return problem and network of each training that is under way."""
        with self._lock:
            return [(problem, row.network) for (problem, _), row in self._rows.items()]

    def seen(self, problem: str, network: NetworkId, epochs: int) -> None:
        """Take note of how many epochs the checkpoint of a training holds."""
        with self._lock:
            row = self._rows.get((problem, network if network.of_run is None else network.of_run.network(1)))
            if row is None or row.network != network or epochs <= row.epoch:
                return
            if row.known:
                row.goes_on(epochs, self._clock())
            else:  # the training may have gone on from there
                row.epoch, row.at, row.known = epochs, self._clock(), True

    def view(self) -> View:
        """Return how the sweep stands now."""
        with self._lock:
            now = self._clock()
            rows = tuple(row.row(problem) for (problem, _), row in sorted(self._rows.items()))
            return View(rows, tuple(self._lines(now)), tuple(self._failures))

    def _lines(self, now: float) -> Iterable[tuple[str, str]]:
        if self._networks.of:
            yield "training", f"{self._networks.done} of {self._networks.of} networks{self._training_left(now)}"
        if self._activations.of:
            done = min(self._activations.done, self._activations.of)
            yield "extraction", f"activations of {done} of {self._activations.of} networks"
        compared = self._compared
        said = f"{compared.done:,} of {compared.of:,} pairs of layers{compared.left(now)}"
        if self._in_all or compared.of:
            yield "comparison", said if compared.of else "not begun"
        there = self._in_all - self._networks.of + self._networks.done
        total = [f"{there} of {self._in_all} networks"] if self._in_all else []
        total += [self.disk] if self.disk else []
        total += [f"{self._died} worker{'s' * (self._died != 1)} died"] if self._died else []
        total.append(f"{len(self._failures) or 'no'} failure{'s' * (len(self._failures) != 1)}")
        yield "in all", ", ".join(total)

    def _training_left(self, now: float) -> str:
        """Say how long the rest of the training takes at the present rate, or at that since the begin."""
        rows = [row for row in self._rows.values() if row.epoch < row.epochs]
        done = self._images.done + sum(row.epoch * row.images for row in rows)
        rates = [row.rate for row in rows if row.rate]
        if rates and done < self._images.of:
            return f", about {duration((self._images.of - done) / sum(rates))} left"
        return _Count(done, self._images.of, self._images.since).left(now)


def _key(event: Event) -> Key:
    """Return whose row it is: that of a complete network, or of a run, by its first network."""
    network = network_of(event)
    return event["problem"], network if network.of_run is None else network.of_run.network(1)


def disk_used(root: Storage, sizes: Mapping[str, int]) -> str:
    """Say what a store takes and how much room is left beside it. sizes : of all its objects"""
    used = f"{readable(sum(sizes.values()))} in the store"
    return used if root.folder is None else f"{used}, {readable(shutil.disk_usage(root.folder).free)} free"
