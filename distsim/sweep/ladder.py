"""Loss barriers between the networks of a store, for the ladder (distsim.results.ladder)."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from distsim.activations.probe import make_probe
from distsim.environment import threads
from distsim.models import Network, build
from distsim.specs import NetworkId
from distsim.store import Pair, SweepStore
from distsim.store.records import weights_of
from distsim.sweep.order import Prepared
from distsim.training.alignment import Aligner, NotAligned
from distsim.training.connectivity import Line, line
from distsim.training.loop import training_data
from distsim.training.stepper import State, settle

RUNS, ITERATIONS = 5, (1, 5, 10, 15, 20)  # by default

Row = dict[str, Any]  # of distsim.results.ladder.BARRIERS, with the digests of both networks' weights


def chosen(
    networks: Iterable[NetworkId], runs: Sequence[int] | None, iterations: Sequence[int] | None
) -> list[NetworkId]:
    """Return the pruned networks of these runs and iterations; None stands for the first `RUNS`, and `ITERATIONS`.

    They come from the first complete network. Controls are left out: what is known of the ladder is known of pruning.

    ValueError: fewer than two networks are there.
    """
    pruned = sorted(n for n in networks if n.run is not None and not n.control and not n.complete)
    first = sorted({network.run for network in pruned if network.run is not None})[:RUNS]
    wanted = set(first if runs is None else runs), set(ITERATIONS if iterations is None else iterations)
    found = [network for network in pruned if network.run in wanted[0] and network.iteration in wanted[1]]
    if len(found) < 2:
        raise ValueError(
            f"a ladder needs two networks at least, and of the runs and iterations asked for the store has {len(found)}"
        )
    return found


def neighbours(networks: Sequence[NetworkId]) -> list[Pair]:
    """Return the pairs between which barriers are measured: successive iterations of a run, and runs at one iteration.

    networks : sorted
    """
    successive = [
        (a, b)
        for a, b in itertools.pairwise(networks)
        if a.run == b.run  # sorted by run, then iteration
    ]
    across = [(a, b) for a, b in itertools.combinations(networks, 2) if a.iteration == b.iteration and a.run != b.run]
    return successive + across


class Barriers:
    """Measures the loss barriers between networks of a store, each pair as the networks are, and aligned."""

    def __init__(self, order: Prepared, store: SweepStore) -> None:
        """Put the data on the sweep's device."""
        self._order, self._store = order, store
        identity, self._device = order.sweep.identity, torch.device(order.sweep.device)
        settle(self._device, identity.deterministic)
        trained_on = dataclasses.replace(identity.problem, probe_from="train")  # batch norm never sees the test images
        self._probe = make_probe(dataclasses.replace(identity, problem=trained_on), order.dataset, self._device)
        recipe = identity.problem.recipe
        self._test = training_data(order.dataset, recipe, identity.seed, self._device).test
        self._weights: dict[NetworkId, State] = {}
        try:
            self._aligner: Aligner | None = Aligner(build(identity.problem, len(order.dataset.classes)))
            self.not_aligned = ""
        except NotAligned as reason:
            self._aligner, self.not_aligned = None, str(reason)

    def measure(
        self, pairs: Sequence[Pair], known: Sequence[Row], keep: Callable[[Row], None], say: Callable[[str], None]
    ) -> None:
        """Measure the pairs that are not among the known rows. `keep` gets each row as soon as it is there."""
        have = {self._key(row) for row in known}
        todo = [
            (a, b, aligned)
            for a, b in pairs
            for aligned in ((False, True) if self._aligner else (False,))
            if (self._digest(a), self._digest(b), aligned) not in have
        ]
        with threads(self._order.sweep.identity.threads):
            for place, (a, b, aligned) in enumerate(todo, 1):
                found = self._line(a, b, aligned)
                how = ", aligned" if aligned else ""
                say(f"barrier {place} of {len(todo)}: {a.label} to {b.label}{how}: {found.barrier:.4f}")
                keep(self._row(a, b, aligned, found))

    def _line(self, a: NetworkId, b: NetworkId, aligned: bool) -> Line:
        first, last = self._weights_of(a), self._weights_of(b)
        if aligned and self._aligner is not None:
            last = self._aligner.aligned(self._build(), first, last, self._probe)
        return line(self._build, first, last, self._probe, self._test)

    def _build(self) -> Network:
        network = build(self._order.sweep.problem, len(self._order.dataset.classes)).to(self._device)
        return network.to(memory_format=torch.channels_last)

    def _weights_of(self, network: NetworkId) -> State:
        """Return a network's weights on the device. Dead parameters are zero in the store."""
        if network not in self._weights:
            loaded = self._store.load_network(network).weights
            self._weights[network] = {name: tensor.to(self._device) for name, tensor in loaded.items()}
        return self._weights[network]

    def _digest(self, network: NetworkId) -> str:
        mark = self._store.mark(network)
        if mark is None:
            raise FileNotFoundError(f"{self._order.name}: {network.label} is not in {self._store.root.url}")
        return weights_of(mark)

    def _row(self, a: NetworkId, b: NetworkId, aligned: bool, found: Line) -> Row:
        return {
            "run_x": a.run,
            "iteration_x": a.iteration,
            "run_y": b.run,
            "iteration_y": b.iteration,
            "aligned": aligned,
            "barrier": found.barrier,
            "loss_x": found.losses[0],
            "loss_y": found.losses[-1],
            "weights_x": self._digest(a),
            "weights_y": self._digest(b),
        }

    @staticmethod
    def _key(row: Mapping[str, Any]) -> tuple[str, str, bool]:
        return row["weights_x"], row["weights_y"], bool(row["aligned"])
