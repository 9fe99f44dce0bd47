"""Checks what is measured beside similarities on data whose truth is known: chance, weak similarity, order, ancestry.

python bench/truths.py                 # 200 draws of every metric: minutes
python bench/truths.py --draws 20      # fewer

All draws have fixed seeds. The exit status is 1 if a metric fails a target; metrics without one are reported.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from report import Table

from distsim.comparison.layer import InMemory, Reference
from distsim.metrics.null import Null
from distsim.metrics.registry import METRICS, ONE_SIDED

EVERY = tuple(name for name in METRICS if name not in (*ONE_SIDED, "pwcca_google"))
PERMUTATIONS = 20
INDEPENDENT = {"permuted": 0.88, "closed": 0.93}  # share of draws that must have |z| <= 2
FOUND = ("cka", "nbs")  # which must find a weak similarity, order and ancestry

Array = Any


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="draws of each truth (default: %(default)s)")
    flags = parser.parse_args(arguments)
    chance, weak = z_values(EVERY, flags.draws), z_values(EVERY, max(flags.draws // 10, 1), n=400, p=20, shared=0.05)
    order, ancestry = copies(EVERY, max(flags.draws // 10, 1))
    table = Table(("metric", "|z| ≤ 2 if independent", "5 % shared: z > 2", "order", "ancestry", "verdict"))
    failed = []
    for name in EVERY:
        least = INDEPENDENT["closed" if METRICS[name].null else "permuted"]
        calm, seen = np.mean(np.abs(chance[name]) <= 2), np.mean(np.array(weak[name]) > 2)
        good = calm >= least and (name not in FOUND or min(seen, order[name], ancestry[name]) > 0.95)
        failed += [] if good else [name]
        shares = (f"{100 * share:.0f} %" for share in (calm, seen, order[name], ancestry[name]))
        table.add(name, *shares, "met" if good else "**missed**")
    print(table.markdown())
    return 1 if failed else 0


def z_values(
    metrics: Sequence[str], draws: int, n: int = 40, p: int = 6, shared: float = 0.0
) -> dict[str, list[float]]:
    """Return z of each metric for pairs of Gaussian layers X and Y, where X explains this share of Y's variance."""
    found: dict[str, list[float]] = {name: [] for name in metrics}
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        X, noise = rng.standard_normal((2, n, p))
        Y = shared**0.5 * X + (1 - shared) ** 0.5 * noise
        orders = [rng.permutation(n) for _ in range(PERMUTATIONS)]
        read = Reference(_layer(X), metrics).read(_layer(Y), orders=orders)
        permuted = [name for name in metrics if METRICS[name].null is None]
        by_chance = [read.by_chance(place, permuted) for place in range(PERMUTATIONS)]
        for name, result in read.results().items():
            values = [of[name]["value"] for of in by_chance] if name in permuted else []
            null = Null(np.mean(values), np.std(values, ddof=1)) if values else Null(result["null"], result["null_sd"])
            found[name].append(null.z(result["value"]) or 0.0)
    return found


def copies(metrics: Sequence[str], draws: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return how often copies with growing noise are found in their order, and with their own ancestor.

    Of each draw, two lineages of six copies: each is the one before with noise of a tenth of its variance added.
    order : share of copies i < j of a lineage, of which i is more similar to the origin
    ancestry : share of successive copies that are more similar to each other than to the same copy of the other lineage
    """
    ordered: dict[str, list[bool]] = {name: [] for name in metrics}
    own: dict[str, list[bool]] = {name: [] for name in metrics}
    for draw in range(draws):
        rng = np.random.default_rng(1000 + draw)
        origin = rng.standard_normal((200, 10)) * np.linspace(2, 0.5, 10)
        lineages = [[origin], [origin]]
        for lineage in lineages:
            for _ in range(6):
                lineage.append(lineage[-1] + 0.4 * rng.standard_normal(origin.shape))
        of_origin = Reference(_layer(origin), metrics)
        falls = [of_origin.compare(_layer(copy)) for copy in lineages[0][1:]]
        for i in range(1, 6):
            parent = Reference(_layer(lineages[0][i]), metrics)
            child, stranger = (parent.compare(_layer(lineage[i + 1])) for lineage in lineages)
            for name in metrics:
                sign = -1 if name == "procrustes" else 1  # a distance
                own[name].append(sign * child[name]["value"] > sign * stranger[name]["value"])
                values = [sign * each[name]["value"] for each in falls]
                ordered[name] += [values[i - 1] > later for later in values[i:]]
    order, ancestry = ({name: float(np.mean(of[name])) for name in metrics} for of in (ordered, own))
    return order, ancestry


def _layer(A: Array) -> InMemory:
    return InMemory(A, kind="out")


if __name__ == "__main__":
    sys.exit(main())
