"""A published study with planted numbers, as large as a paper's, without training anything."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from distsim.problems import PROBLEMS
from distsim.results.columns import (
    ADDED,
    CHANCE_COLUMNS,
    NETWORK_COLUMNS,
    OF_OLD,
    SIMILARITY_COLUMNS,
    SUMMARY_COLUMNS,
)
from distsim.results.published import Published
from distsim.results.study_record import PartRecord
from distsim.results.tables import Tables, functional_table, summarise_accuracy, summarise_functional
from distsim.specs import Identity

ROOT = Path(__file__).parents[1]
VGG16 = (
    *("conv1_1", "conv1_2", "pool1", "conv2_1", "conv2_2", "pool2", "conv3_1", "conv3_2", "conv3_3", "pool3"),
    *("conv4_1", "conv4_2", "conv4_3", "pool4", "conv5_1", "conv5_2", "conv5_3", "pool5", "out"),
)
METRICS = ("mean_cca", "svcca", "pwcca", "cka", "nbs", "cosine", "cka_unbiased")
ODD = ("<script>alert(1)</script>", "$x^2$", "=1+cmd", '"quoted", & more', "out")


def kind_of(layer: str) -> str:
    return next((kind for kind in ("conv", "pool", "out") if layer.startswith(kind)), "fc")


def study(
    layers: Sequence[str] = ("conv1_1", "pool1", "fc1", "out"),
    metrics: Sequence[str] = ("svcca", "cka", "nbs"),
    runs: int = 3,
    iterations: int = 4,
    problem: str = "vgg16_cifar10",
    lost: float = 0.0,
    classes: tuple[str, ...] | None = None,
    large: bool = False,
) -> Published:
    """A study in which similarity falls from iteration to iteration, and accuracy by `lost` in the last of them.

    large : its intervals are quantiles, as bootstraps of thousands of groups take half a minute
    """
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        [
            (run, iteration, position, layer, metric)
            for run, iteration, (position, layer), metric in itertools.product(
                range(runs), range(1, iterations + 1), enumerate(layers), metrics
            )
        ],
        columns=["run", "iteration", "position", "layer", "metric"],
    )
    remaining = 0.8 ** frame["iteration"]
    depth = 0.1 + 0.3 * frame["position"] / len(layers)
    value = 0.97 - depth * frame["iteration"] / iterations + rng.normal(0, 0.005, len(frame))
    frame = frame.assign(
        problem=problem,
        remaining=remaining,
        remaining_pool=remaining,
        kind=frame["layer"].map(kind_of),
        value=value,
        **dict.fromkeys(("n", "columns_x", "columns_y"), 64),
        n_per_p=1.0,
        **dict.fromkeys(("warning", "reason"), ""),
        **dict.fromkeys(("rank_x", "rank_y"), pd.NA),
        **dict.fromkeys(("dead_x", "dead_y"), 0),
        **ADDED,
        **OF_OLD,
    )
    similarities = frame[list(SIMILARITY_COLUMNS)].astype(SIMILARITY_COLUMNS)
    networks, chance = _networks(problem, runs, iterations, lost), _chance(similarities)
    if large:
        tables = Tables(similarities, networks, _summary(similarities), summarise_accuracy(networks), chance)
    else:
        tables = Tables.of(similarities, networks, 0, chance)
    part = PartRecord(
        complete=0, weights="0" * 64, runs=runs, iterations=iterations, command="python sweeps/x.py --storage STORE",
        environments=[0], training_hours=1.25, comparison_hours=0.5, first="2026-01-01T00:00:00+00:00",
        last="2026-01-02T00:00:00+00:00",
    )  # fmt: skip
    spec = PROBLEMS[problem]
    spec = spec if classes is None else dataclasses.replace(spec, classes=classes)
    return Published(Identity(spec, "0" * 64), tables, environments(), (part,))


def environments() -> pd.DataFrame:
    row = {"environment": 0, "device": "cpu", "instruction_set": "AVX2", "blas": "Haswell", "machine": "x86_64"}
    versions = {"threads": "1", "torch": "2.9.0", "numpy": "2.3.0", "python": "3.12.1", "distsim": "0.2.0", "code": ""}
    return pd.DataFrame([row | versions])


def _networks(problem: str, runs: int, iterations: int, lost: float) -> pd.DataFrame:
    chains = [(run, iteration) for run in range(runs) for iteration in range(1, iterations + 1)]
    rows = [(pd.NA, 0, 0.9), *((run, i, 0.9 - lost * (i == iterations) + 0.001 * run) for run, i in chains)]
    frame = pd.DataFrame(rows, columns=["run", "iteration", "accuracy"])
    left = 0.8 ** frame["iteration"]
    frame = frame.assign(
        problem=problem, remaining=left, remaining_pool=left, loss=0.3, epochs=5, reduced=False, **OF_OLD
    )
    return frame[list(NETWORK_COLUMNS)].astype(NETWORK_COLUMNS)


def _summary(similarities: pd.DataFrame) -> pd.DataFrame:
    groups = similarities.groupby(["problem", "metric", "layer", "kind", "position", "iteration"], sort=False)
    frame = groups["value"].agg(["count", "mean", "std", "median"]).rename(columns={"std": "sd"})
    quantiles = groups["value"].quantile([0.05, 0.25, 0.75, 0.95]).unstack()
    frame[["q05", "q25", "q75", "q95"]] = quantiles.loc[frame.index].to_numpy()
    frame = frame.assign(ci_low=frame["q25"], ci_high=frame["q75"], remaining=groups["remaining"].median())
    frame = frame.assign(missing=0, warned=0, se=np.nan, complete=1, control="").reset_index()
    return frame[list(SUMMARY_COLUMNS)].astype(SUMMARY_COLUMNS)


def _chance(similarities: pd.DataFrame) -> pd.DataFrame:
    rows = similarities[(similarities["run"] == 0) & (similarities["iteration"] == similarities["iteration"].max())]
    every = pd.concat([rows.assign(permutation=p, value=0.1 + 0.01 * p) for p in range(3)], ignore_index=True)
    return every[list(CHANCE_COLUMNS)].astype(CHANCE_COLUMNS)


def with_values(made: Published, similarities: pd.DataFrame) -> Published:
    """The study with another table of similarities, and what follows from it."""
    tables = Tables.of(similarities, made.tables.networks, 0, made.tables.chance)
    return dataclasses.replace(made, tables=tables)


def with_predictions(made: Published, classes: Sequence[str] = ("cat", "dog")) -> Published:
    """The study with predictions that leave the complete network's by 1 % an iteration, and by 0.5 % when retrained."""
    networks, rows = made.tables.networks, []
    for control, run, iteration, (place, name) in itertools.product(
        ("", "retrain"), sorted(networks["run"].dropna().unique()), made.tables.summary["iteration"].unique(),
        enumerate(("", *classes)),
    ):  # fmt: skip
        churn = (0.005 if control else 0.01) * iteration * (1 + 0.2 * place) + 0.001 * run
        left = 1.0 if control else 0.8**iteration
        named = {"problem": made.problem, "complete": 0, "control": control, "run": run, "iteration": iteration}
        of_images = {"remaining": left, "remaining_pool": left, "class": name, "n": 100}
        measures = {"agreement": 1 - churn, "churn": churn, "jsd": churn / 2, "lost": 0.0, "won": 0.0}
        rows.append(named | of_images | measures)
    functional = functional_table(rows)
    tables = dataclasses.replace(
        made.tables, functional=functional, functional_summary=summarise_functional(functional)
    )
    return dataclasses.replace(made, tables=tables)
