"""Figures show what stands beside the pruned networks, each with its name, and tables keep it apart."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from distsim.results.accuracy_figures import accuracy_median
from distsim.results.beside import CONTROL_NAMES, REFERENCE
from distsim.results.layer_figures import similarity_by_layer, similarity_panels
from distsim.results.output_figures import output_layer
from distsim.results.tables import Tables, long_table, network_table, reference_level, reference_table
from distsim.results.text import as_text

LAYERS = {"conv1": "conv", "fc1": "fc", "out": "out"}
LEVELS = {"": 0.9, "retrain": 0.8, "random": 0.6}
KINDS = {"convolution", "linear", "output"}
NAMES = {*CONTROL_NAMES.values(), REFERENCE}


@pytest.fixture(scope="module")
def tables() -> Tables:
    """Two complete networks, each with three runs and one of each control, two iterations."""
    rest: dict[str, Any] = {"problem": "digits", "remaining": 0.5, "remaining_pool": 0.5}
    sizes = dict.fromkeys(("n", "columns_x", "columns_y", "rank_x", "rank_y", "dead_x", "dead_y"), 8)
    rows, networks = [], []
    for complete in (0, 1):
        of_network = {"complete": complete, "accuracy": 0.9, "loss": 0.1, "epochs": 1, "reduced": True}
        networks.append(rest | of_network | {"run": None, "iteration": 0})
        for control, run in [("", 0), ("", 1), ("", 2), ("retrain", 0), ("random", 0)]:
            for iteration in (1, 2):
                whose = {"complete": complete, "control": control, "run": run, "iteration": iteration}
                networks.append(rest | of_network | whose)
                for position, (layer, kind) in enumerate(LAYERS.items()):
                    value = LEVELS[control] - 0.01 * iteration - 0.001 * run - 0.002 * complete
                    named = {"position": position, "layer": layer, "kind": kind, "metric": "svcca", "value": value}
                    rows.append(rest | whose | sizes | named | {"n_per_p": 1.0, "warning": "", "reason": ""})
    pairs = [
        {"problem": "digits", "complete_x": 0, "complete_y": 1, "position": position, "layer": layer, "kind": kind}
        | {"metric": "svcca", "value": 0.7, "warning": "", "reason": ""}
        for position, (layer, kind) in enumerate(LAYERS.items())
    ]
    return Tables.of(long_table(rows), network_table(networks), reference=reference_table(pairs))


def said(figure: Figure) -> set[str]:
    return {text.get_text() for legend in figure.legends for text in legend.get_texts()}


def lines(figure: Figure, name: str) -> list[list[float]]:
    found = [line for panel in figure.axes for line in panel.get_lines() if line.get_gid() == name]
    return [[round(float(value), 6) for value in line.get_ydata()] for line in found]  # type: ignore[union-attr]


@pytest.mark.parametrize("draw", [similarity_by_layer, lambda s, **k: similarity_panels(s, "digits", ["svcca"], **k)])
def test_layers_have_both_controls_and_the_reference_level(tables: Tables, draw: Any) -> None:
    figure = draw(tables.summary, reference=reference_level(tables.reference))
    assert said(figure) - KINDS == NAMES
    layers = len(lines(figure, "reference")[0])
    for name, level in (("retrain", 0.779), ("random", 0.579), ("reference", 0.7)):
        assert lines(figure, name) == [[pytest.approx(level)] * layers], "of the last iteration"
    alone = draw(tables.pruned.summary)
    assert said(alone) <= KINDS


def test_the_output_layer_has_them_too(tables: Tables) -> None:
    figure = output_layer(tables.summary, "digits", reference=reference_level(tables.reference))
    assert said(figure) > NAMES
    assert lines(figure, "retrain") == [[pytest.approx(0.789), pytest.approx(0.779)]]
    assert lines(figure, "reference") == [[0.7, 0.7]]


def test_accuracies_of_controls_are_not_those_of_the_runs(tables: Tables) -> None:
    assert any("pruned at random" in name for name in said(accuracy_median(tables.accuracy)))
    assert all("random" not in name for name in said(accuracy_median(tables.pruned.accuracy)))


def test_medians_are_over_runs_of_one_kind_and_bands_over_complete_networks(tables: Tables) -> None:
    summary = tables.summary.set_index(["control", "layer", "iteration"])
    for control, level in LEVELS.items():
        row = summary.loc[(control, "fc1", 2)]
        assert row["complete"] == 2
        assert row["count"] == (2 if control else 6)
        assert row["median"] == pytest.approx(level - 0.021 - (0 if control else 0.001))
    own = tables.similarities[tables.similarities["control"] == ""]
    values = own.loc[(own["layer"] == "fc1") & (own["iteration"] == 2), "value"]
    row = summary.loc[("", "fc1", 2)]
    assert (row["ci_low"], row["ci_high"]) == (values.min(), values.max()), "two complete networks give a range"


def test_the_text_is_of_pruned_networks(tables: Tables) -> None:
    assert as_text(tables, "digits") == as_text(tables.pruned, "digits")
    assert not np.isnan(tables.summary["median"]).any()
