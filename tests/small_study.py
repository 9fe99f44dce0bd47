"""The tables of a small study, to draw figures of."""

from typing import Any

import numpy as np

from distsim.results.columns import CHANCE_COLUMNS
from distsim.results.tables import Tables, chance_table, long_table, network_table

LAYERS = (("conv1_1", "conv"), ("pool1", "pool"), ("conv2_1", "conv"), ("pool2", "pool"), ("fc1", "fc"), ("out", "out"))
ITERATIONS = 4


def tables(
    *problems: str,
    missing: tuple[str, int] = ("", 0),
    level: float = 0.4,
    rate: float = 0.2,
    lacking: tuple[str, int] = ("", 0),
    doubtful: tuple[str, int] = ("", 0),
    runs: int = 3,
    chance: float | None = None,
) -> Tables:
    """A small study. `missing` names a (layer, iteration) without a value, `lacking` one that only run 0 has.

    `doubtful` is one that carries a warning in run 1. chance : what every similarity is by chance
    """
    similarities, networks, permuted = [], [], []
    counts: dict[str, Any] = dict.fromkeys(("columns_x", "columns_y", "rank_x", "rank_y", "dead_x", "dead_y", "n"), 8)
    counts |= {"n_per_p": 1.0, "warning": ""}
    for problem in problems:
        rest = {"loss": 0.5, "epochs": 2, "reduced": False}
        place: dict[str, Any] = {
            "problem": problem,
            "run": None,
            "iteration": 0,
            "remaining": 1.0,
            "remaining_pool": 1.0,
        }
        networks.append(place | rest | {"accuracy": 0.9})
        for run in range(runs):
            for iteration in range(1, ITERATIONS + 1):
                left = (1 - rate) ** iteration
                place |= {"run": run, "iteration": iteration, "remaining": left, "remaining_pool": left}
                networks.append(place | rest | {"accuracy": 0.9 - 0.01 * iteration + 0.001 * run})
                for position, (layer, kind) in enumerate(LAYERS):
                    for metric in ("svcca", "pwcca", "cka", "nbs", "cosine")[: 5 if kind == "out" else 4]:
                        value = level + 0.05 * position - 0.02 * iteration + 0.01 * run
                        named = {"position": position, "layer": layer, "kind": kind, "metric": metric, "reason": ""}
                        lacks = (layer, iteration) == missing or (run > 0 and (layer, iteration) == lacking)
                        named["warning"] = "high by chance" * (run == 1 and (layer, iteration) == doubtful)
                        similarities.append(place | counts | named | {"value": np.nan if lacks else value})
                        if chance is not None:
                            row = {name: (place | named)[name] for name in CHANCE_COLUMNS if name in place | named}
                            permuted.append(row | {"complete": 0, "control": "", "permutation": 0, "value": chance})
    return Tables.of(long_table(similarities), network_table(networks), chance=chance_table(permuted))
