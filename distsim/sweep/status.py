"""How far a sweep is: what was asked for, what is in the store, and what is missing."""

import dataclasses
from dataclasses import dataclass

from distsim.specs import RunId, Sweep
from distsim.store import SweepStore
from distsim.store.descriptions import layers_of, metrics_of
from distsim.sweep.plan import missing
from distsim.words import counted


@dataclass(frozen=True)
class Status:
    """How far one problem's sweep is. Its text is what `distsim status` prints."""

    problem: str
    runs: int  # as last asked for
    iterations: int
    complete: bool  # whether the complete networks are committed
    pruned: int  # pruned networks that were asked for and are committed
    in_store: int  # all pruned networks in the store, asked for or not
    missing_networks: dict[RunId, tuple[int, ...]]  # run -> iterations
    missing_similarities: int
    missing_by_chance: int = 0  # values of permuted examples
    missing_errors: int = 0  # standard errors
    unknown_metrics: tuple[str, ...] = ()  # asked for, but known neither to distsim nor to the store; not counted
    missing_logits: int = 0  # networks, the complete one too, whose logits of the test images were asked for
    complete_networks: int = 1  # as last asked for
    controls: tuple[int, int] = (0, 0)  # networks of controls that are committed, and that were asked for

    @property
    def done(self) -> bool:
        """Return whether every network, similarity and set of test logits that was asked for is committed."""
        compared = self.missing_similarities, self.missing_by_chance, self.missing_errors
        return self.complete and not any((self.missing_networks, *compared, self.missing_logits))

    def __str__(self) -> str:
        several = self.complete_networks > 1
        of_each = f", from each of {self.complete_networks} complete networks" if several else ""
        pruned = self.complete_networks * self.runs * self.iterations
        lines = [
            f"{self.problem}: {counted(self.runs, 'run')} x {counted(self.iterations, 'iteration')} asked for{of_each}",
            f"  complete network{'s' * several:2}{'done' if self.complete else 'missing'}",
            f"  pruned networks   {self.pruned} of {pruned} ({self.in_store} in the store)",
            *([f"  controls          {self.controls[0]} of {self.controls[1]} networks"] if self.controls[1] else []),
            f"  similarities      {self.missing_similarities or 'none'} missing",
        ]
        if self.missing_by_chance:
            lines.append(f"  values by chance  {self.missing_by_chance} missing")
        if self.missing_errors:
            lines.append(f"  standard errors   {self.missing_errors} missing")
        if self.missing_logits:
            lines.append(f"  test logits       {self.missing_logits} missing")
        if self.unknown_metrics:
            names = ", ".join(self.unknown_metrics)
            lines.append(f"  not counted       {names}: unknown to distsim and to the store, run the sweep script")
        for run, iterations in self.missing_networks.items():
            lines.append(f"  {run.label}: iterations {_ranges(iterations)} missing")
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
    wanted = [network for network in extent.networks if network in contents.networks]
    controls = [sum(bool(network.control) for network in networks) for networks in (wanted, extent.networks)]
    return Status(
        problem=store.problem,
        runs=sweep.extent.runs,
        iterations=sweep.extent.iterations,
        complete=not lacking.complete,
        pruned=len(wanted) - controls[0],
        in_store=sum(not (network.is_complete or network.control) for network in contents.networks),
        missing_networks=dict(lacking.chains),
        missing_similarities=lacking.similarities,
        missing_by_chance=lacking.by_chance,
        missing_errors=lacking.errors,
        unknown_metrics=tuple(name for name in extent.metrics if name not in metrics),
        missing_logits=len(lacking.logits),
        complete_networks=extent.complete,
        controls=(controls[0], controls[1]),
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
