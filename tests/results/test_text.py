"""What the terminal shows of a study, and how it marks values that say little."""

from typing import Any

import numpy as np
import pandas as pd

from distsim.results.pairs import as_text as pairs_as_text
from distsim.results.tables import Tables, long_table, network_table
from distsim.results.text import as_text

LAYERS = ("conv1_1", "conv1_2", "fc1")


def study(warned: tuple[str, ...] = (), dead: tuple[str, ...] = (), short: bool = False) -> Tables:
    """Three runs of two iterations. In run 1 CKA is warned of in some layers, in runs 1 and 2 some layers are dead.

    short : run 2 has one iteration only
    """
    similarities, networks = [], []
    for run, iteration in (
        (run, iteration) for run in range(3) for iteration in (1, 2) if not short or (run, iteration) != (2, 2)
    ):
        place: dict[str, Any] = {"problem": "digits", "run": run, "iteration": iteration}
        place |= {"remaining": 0.8, "remaining_pool": 0.8}
        networks.append(place | {"accuracy": 0.9, "loss": 0.1, "epochs": 2, "reduced": False})
        for position, layer in enumerate(LAYERS):
            for metric in ("svcca", "cka"):
                counts = dict.fromkeys(("n", "columns_x", "columns_y", "rank_x", "rank_y", "dead_x", "dead_y"), 8)
                gone = layer in dead and run > 0 and iteration == 2
                warning = "0.50 by chance" if layer in warned and metric == "cka" and run == 1 else ""
                row = {"position": position, "layer": layer, "kind": "conv", "metric": metric, "n_per_p": 1.0}
                said = {"reason": "dead" if gone else "", "warning": "" if gone else warning}
                similarities.append(place | counts | row | said | {"value": np.nan if gone else 0.5})
    return Tables.of(long_table(similarities), network_table(networks))


def test_nothing_is_marked_where_nothing_is_wrong() -> None:
    text = as_text(study(), "digits")
    assert "*" not in text
    assert "!" not in text
    assert text.splitlines()[1].split() == ["1", "0.800", "3", "0.9000", "0.500", "0.500"]


def test_values_to_be_read_with_care_are_marked_and_their_layers_named() -> None:
    lines = as_text(study(warned=("fc1", "conv1_2")), "digits").splitlines()
    assert lines[1].split()[-2:] == ["0.500", "0.500*"]
    at = lines.index("* to be read with care; the column warning of results.csv says why:")
    assert lines[at + 1] == "    cka: conv1_2, fc1"


def test_what_rests_on_fewer_runs_is_marked_and_named() -> None:
    lines = as_text(study(dead=("fc1",)), "digits").splitlines()
    assert lines[1].split()[-2:] == ["0.500", "0.500"]
    assert lines[2].split()[-2:] == ["0.500!", "0.500!"]
    assert "! on fewer runs than the study has: fc1" in lines


def test_networks_that_are_not_there_yet_are_runs_that_lack() -> None:
    lines = as_text(study(short=True), "digits").splitlines()
    assert lines[2].split()[2:] == ["2!", "0.9000", "0.500!", "0.500!"]
    assert "! on fewer runs than the study has: conv1_1, conv1_2, fc1" in lines


def test_of_many_layers_the_first_are_named() -> None:
    tables = study(warned=LAYERS)
    summary = tables.summary
    many = [summary.assign(layer=f"conv{at}", position=at) for at in range(9)]
    text = as_text(Tables(tables.similarities, tables.networks, pd.concat(many), tables.accuracy), "digits")
    assert "    cka: conv0, conv1, conv2, conv3, conv4, conv5 and 3 more" in text


def test_pairs_say_how_many_values_carry_a_warning() -> None:
    table = study(warned=("fc1",)).similarities
    lines = pairs_as_text(table).splitlines()
    assert [line.split()[:4] for line in lines[1:3]] == [["svcca", "18", "0", "0"], ["cka", "18", "0", "2"]]
    assert lines[3].startswith("warned: values to be read with care")
    assert "read with care" not in pairs_as_text(study().similarities)
