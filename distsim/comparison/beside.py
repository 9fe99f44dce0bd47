"""What `distsim.compare` measures beside the values of two layers: standard errors, and values by chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, cast

from distsim.comparison.pair import Pair, Result
from distsim.comparison.spread import Jackknife, permuted
from distsim.metrics.arrays import Array
from distsim.metrics.jackknife import BLOCKS, Blocks, se_of, split
from distsim.metrics.registry import ONE_SIDED, Metric, se_belongs_to
from distsim.seeds import numpy_stream

MOST = 10_000  # permutations
SEED = 0  # of blocks and permutations: the same inputs give the same numbers


class Cells(Result):
    """A result with what was measured beside it."""

    se: NotRequired[float | None]  # standard error over examples; None where it cannot be given
    permuted: NotRequired[list[float | None]]  # the values with the examples of y in other orders


@dataclass(frozen=True)
class Beside:
    """What is asked for beside the values.

    blocks, orders : set by `of`, for a number of examples. An order is the same for all layers of y, so that the
        largest of its layers by chance is that of a whole network.
    """

    measure: tuple[str, ...] = ()
    permutations: int = 0
    blocks: Blocks = ()
    orders: tuple[Any, ...] = ()

    def of(self, n: int) -> "Beside":
        """Return the same for this number of examples. Fewer than `BLOCKS` have no standard errors."""
        orders = (numpy_stream(SEED, "chance", "compare", n, k).permutation(n) for k in range(self.permutations))
        blocks = split(n, SEED) if self.measure and n >= BLOCKS else ()
        return Beside(self.measure, self.permutations, blocks, tuple(orders))

    @property
    def products(self) -> int:
        """Return how many cross-products of channels are made of a pair."""
        return 1 + len(self.orders) + len(self.blocks)

    def cells(
        self, pair: Pair, metrics: Sequence[Metric], without: Jackknife, crosses: Sequence[Array | None]
    ) -> dict[str, Cells]:
        """Return each metric's result, and what is asked for beside it, by name.

        without : of this pair; crosses : its cross-products in each order, for metrics over channels
        """
        found = {name: cast(Cells, result) for name, result in pair.results(metrics).items()}
        with_se = [metric for metric in metrics if se_belongs_to(metric) in self.measure and self.blocks]
        for name, several in without.values(with_se).items():
            found[name]["se"] = se_of(several["values"]) if found[name]["value"] is not None else None
        by_chance = [metric for metric in metrics if metric.name not in ONE_SIDED]
        for order, cross in zip(self.orders, crosses, strict=True):
            for name, result in permuted(pair, order, cross, by_chance).results(by_chance).items():
                found[name].setdefault("permuted", []).append(result["value"])
        return found
