"""Comparisons that begin while other networks are still in training, where the cluster has room for them."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from distsim import stopping
from distsim.callbacks import Event
from distsim.specs import NetworkId
from distsim.store import Storage, StorageError, SweepStore
from distsim.sweep.events import network_of
from distsim.sweep.jobs import Job
from distsim.sweep.on_ray.comparisons import Comparisons
from distsim.sweep.order import Prepared
from distsim.sweep.plan import Chain

Ready = Mapping[str, set[NetworkId]]  # problem -> networks whose activations can be had
LOOKS = 1.0  # seconds between two looks at whether there is room
UNREADY = 5.0  # seconds until a network is looked at again whose activations were not there


class Early:
    """Compares networks of a wave that are committed, as long as no training waits for a machine.

    So a cluster is not idle while the last runs of a wave train. A comparison that has begun goes on when the training
    ends. What has not begun by then, and what has failed, is compared after it.

    chains : by problem, those of the wave
    jobs_of : returns the jobs that compare these networks, for so many comparisons at once
    room : returns how many more comparisons the cluster has room for now
    """

    def __init__(
        self,
        root: Storage,
        orders: Sequence[Prepared],
        chains: Mapping[str, Sequence[Chain]],
        jobs_of: Callable[[Ready, int], Sequence[Job]],
        pool: Comparisons,
        room: Callable[[], int],
    ) -> None:
        self._jobs_of, self._pool, self._room = jobs_of, pool, room
        self._stores = {order.name: SweepStore(root, order.name) for order in orders}
        self._stored = {order.name for order in orders if order.sweep.extent.activations == "store"}
        self._expected = {
            (name, chain.of_run.network(iteration))
            for name, of_problem in chains.items()
            for chain in of_problem
            for iteration in (chain.extract if name in self._stored else chain.train)
        }
        self._committed: dict[tuple[str, NetworkId], float] = {}  # -> when to look at it
        self._looked = 0.0
        self._pool.slots = 0

    def on_network(self, event: Event) -> None:
        """Hear that a network is committed. Its activations may follow."""
        network = event["problem"], network_of(event)
        if network in self._expected:
            self._committed[network] = 0.0

    def tick(self, no_trial_waits: bool) -> None:
        """Give out comparisons if there is room. It does not wait."""
        now = time.monotonic()
        if now - self._looked < LOOKS:
            return
        self._looked = now
        no_trial_waits = no_trial_waits and not stopping.wanted()
        wanted = no_trial_waits and (self._pool.waiting or self._committed)
        room = max(0, self._room() - self._pool.starting) + self._pool.idle if wanted else 0
        if room and not self._pool.waiting:
            with contextlib.suppress(StorageError):  # what is not compared now is compared after the wave
                if ready := self._ready(now):
                    self._pool.add(self._jobs_of(ready, room))
        self._pool.slots = self._pool.at_work + room
        self._pool.keeps = no_trial_waits
        self._pool.step(0)

    def _ready(self, now: float) -> dict[str, set[NetworkId]]:
        """Return the committed networks that can be compared, each only once."""
        ready: dict[str, set[NetworkId]] = {}
        for (name, network), due in tuple(self._committed.items()):
            if due > now:
                continue
            if name in self._stored and self._stores[name].activations_mark(network) is None:
                self._committed[name, network] = now + UNREADY
            else:
                del self._committed[name, network]
                ready.setdefault(name, set()).add(network)
        return ready
