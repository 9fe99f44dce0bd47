"""How far a sweep is: what was asked for, what is in the store, and what is missing."""

import dataclasses
from dataclasses import dataclass

from distsim.specs import Sweep
from distsim.store import SweepStore
from distsim.store.descriptions import layers_of, metrics_of
from distsim.sweep.plan import missing


@dataclass(frozen=True)
class Status:
    """How far one problem's sweep is. Its text is what `distsim status` prints."""

    problem: str
    runs: int  # as last asked for
    iterations: int
    complete: bool  # whether the complete network is committed
    pruned: int  # pruned networks that were asked for and are committed
    in_store: int  # all pruned networks in the store, asked for or not
    missing_networks: dict[int, tuple[int, ...]]  # run -> iterations
    missing_similarities: int
    unknown_metrics: tuple[str, ...] = ()  # asked for, but known neither to distsim nor to the store; not counted
    missing_logits: int = 0  # networks, the complete one too, whose logits of the test images were asked for

    @property
    def done(self) -> bool:
        """Return whether every network, similarity and set of test logits that was asked for is committed."""
        lacking = self.missing_networks, self.missing_similarities, self.missing_logits
        return self.complete and not any(lacking)

    def __str__(self) -> str:
        lines = [
            f"{self.problem}: {self.runs} runs x {self.iterations} iterations asked for",
            f"  complete network  {'done' if self.complete else 'missing'}",
            f"  pruned networks   {self.pruned} of {self.runs * self.iterations} ({self.in_store} in the store)",
            f"  similarities      {self.missing_similarities or 'none'} missing",
        ]
        if self.missing_logits:
            lines.append(f"  test logits       {self.missing_logits} missing")
        if self.unknown_metrics:
            names = ", ".join(self.unknown_metrics)
            lines.append(f"  not counted       {names}: unknown to distsim and to the store, run the sweep script")
        for run, iterations in self.missing_networks.items():
            lines.append(f"  run {run}: iterations {_ranges(iterations)} missing")
        return "\n".join(lines)


def status(store: SweepStore) -> Status:
    """Return how far a problem's sweep is, from what was last asked for and one listing of the store.

    Neither PyTorch nor the user's own code is imported: the store describes its layers and metrics. FileNotFoundError:
    the store has no sweep of this problem.
    """
    extent = store.request().extent
    metrics = metrics_of(store, extent.metrics)
    sweep = Sweep(store.identity(), dataclasses.replace(extent, metrics=tuple(metrics)))
    contents = store.contents()
    lacking = missing(sweep, contents, layers_of(store), metrics)
    return Status(
        problem=store.problem,
        runs=sweep.extent.runs,
        iterations=sweep.extent.iterations,
        complete=not lacking.complete,
        pruned=sweep.extent.runs * sweep.extent.iterations - sum(map(len, lacking.chains.values())),
        in_store=sum(not network.is_complete for network in contents.networks),
        missing_networks=dict(lacking.chains),
        missing_similarities=lacking.values,
        unknown_metrics=tuple(name for name in extent.metrics if name not in metrics),
        missing_logits=len(lacking.logits),
    )


def _ranges(numbers: tuple[int, ...]) -> str:
    """Return numbers in words: 1, 2, 3, 7 -> "1-3, 7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
