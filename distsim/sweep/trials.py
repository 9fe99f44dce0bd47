"""What a watcher hears of trials that train in other processes."""

from collections.abc import Mapping, Sequence

from distsim.callbacks import Callback, Event
from distsim.specs import NetworkId
from distsim.sweep import events
from distsim.sweep.order import Prepared
from distsim.sweep.plan import Chain

Task = tuple[str, tuple[Chain, ...] | int]  # a problem's complete network, by its number, or some of its chains


class Trials:
    """What a watcher hears of trials. No more crosses from the workers than their reports of finished networks."""

    def __init__(self, watcher: Callback, orders: Sequence[Prepared], tasks: Sequence[Task]) -> None:
        self._watcher, self._tasks = watcher, tasks
        self._orders: Mapping[str, Prepared] = {order.name: order for order in orders}

    def began(self, number: int) -> None:
        problem, pack = self._tasks[number]
        if isinstance(pack, int):
            self._begins(problem, NetworkId(complete=pack), 0)
            return
        for chain in pack:
            if chain.train:  # after a worker's death it goes on later in the chain, as its next report says
                self._begins(problem, chain.of_run.network(chain.train[0]), chain.train[-1])

    def reported(self, number: int, event: Event) -> None:
        self._watcher.on_network(event)
        problem, pack = self._tasks[number]
        network = events.network_of(event)
        for chain in pack if not isinstance(pack, int) else ():
            later = [iteration for iteration in chain.train if iteration > network.iteration]
            if chain.of_run == network.of_run and later:
                self._begins(problem, chain.of_run.network(later[0]), later[-1])

    def ended(self, number: int, whole: bool = False) -> None:
        """Hear the end of a trial. whole : it has done all that it was to do"""
        problem, pack = self._tasks[number]
        for network in self._extracted(problem, pack) if whole else ():
            self._watcher.on_activations(events.whose(problem, network))
        for event in events.ends(problem, pack):
            self._watcher.on_chain_end(event)

    def _extracted(self, problem: str, pack: tuple[Chain, ...] | int) -> list[NetworkId]:
        if isinstance(pack, int):
            stored = self._orders[problem].sweep.extent.activations == "store"
            return [NetworkId(complete=pack)] * stored
        return [chain.of_run.network(iteration) for chain in pack for iteration in chain.extract]

    def died(self, number: int, piece: str, why: str = "") -> None:
        self._watcher.on_died({"problem": self._tasks[number][0], "piece": piece, "why": why})
        self.ended(number)

    def _begins(self, problem: str, network: NetworkId, last: int) -> None:
        order = self._orders[problem]
        self._watcher.on_training(events.training(order.sweep, len(order.dataset.train_labels), network, last))
