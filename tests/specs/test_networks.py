"""Names of networks: one path, one label, one argument, one JSON value each, and their order."""

import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsim.specs import COMPLETE, CONTROLS, PATTERN, NetworkId, RunId

MOST = 10**9 - 1


def numbers(least: int) -> st.SearchStrategy[int]:
    return st.integers(least, 12) | st.integers(least, MOST) | st.sampled_from([99, 100, 9999, 10_000, MOST])


NETWORKS = st.builds(lambda complete: NetworkId(complete=complete), numbers(0)) | st.builds(
    NetworkId, numbers(0), numbers(1), st.just(0) | numbers(0), st.sampled_from(["", *CONTROLS])
)


def of_path(path: str) -> NetworkId | None:
    """Read a path exactly as `NetworkId.path` writes it. None: it is not a network's path."""
    match = re.fullmatch(PATTERN, path)
    return NetworkId.of_match(match) if match else None


# path, label, argument, JSON, key
WRITTEN = {
    NetworkId(): ("complete", "complete network", "run=complete", None, "None"),
    NetworkId(3, 7): ("runs/0003/iter_07", "run 3, iteration 7", "run=3,iteration=7", [3, 7], "(3, 7)"),
    NetworkId(0, 1): ("runs/0000/iter_01", "run 0, iteration 1", "run=0,iteration=1", [0, 1], "(0, 1)"),
    NetworkId(12345, 100): (
        "runs/12345/iter_100",
        "run 12345, iteration 100",
        "run=12345,iteration=100",
        [12345, 100],
        "(12345, 100)",
    ),
    NetworkId(complete=1): (
        "complete-1",
        "complete network 1",
        "run=complete,complete=1",
        [None, 0, 1],
        "(None, 0, 1)",
    ),
    NetworkId(3, 7, complete=12): (
        "complete-12/runs/0003/iter_07",
        "complete network 12, run 3, iteration 7",
        "run=3,iteration=7,complete=12",
        [3, 7, 12],
        "(3, 7, 12)",
    ),
    NetworkId(0, 3, control="retrain"): (
        "controls/retrain/runs/0000/iter_03",
        "control retrain, run 0, iteration 3",
        "control=retrain,run=0,iteration=3",
        [0, 3, 0, "retrain"],
        "(0, 3, 0, 'retrain')",
    ),
    NetworkId(1, 2, complete=3, control="random"): (
        "complete-3/controls/random/runs/0001/iter_02",
        "complete network 3, control random, run 1, iteration 2",
        "control=random,run=1,iteration=2,complete=3",
        [1, 2, 3, "random"],
        "(1, 2, 3, 'random')",
    ),
}


@pytest.mark.parametrize("network", WRITTEN, ids=lambda network: network.path)
def test_how_a_network_is_written(network: NetworkId) -> None:
    assert (network.path, network.label, network.argument, network.as_json(), network.key) == WRITTEN[network]


def test_the_complete_network_is_that_of_no_run() -> None:
    assert NetworkId() == NetworkId(run=None, iteration=0, complete=0) == COMPLETE
    assert COMPLETE.is_complete
    assert NetworkId(complete=2).is_complete
    assert not NetworkId(0, 1).is_complete


@given(NETWORKS)
def test_every_writing_is_read_back(network: NetworkId) -> None:
    assert of_path(network.path) == network
    assert NetworkId.parse(network.argument) == network
    assert NetworkId.from_json(network.as_json()) == network
    assert pickle.loads(pickle.dumps(network)) == network
    assert hash(of_path(network.path)) == hash(network)


@given(NETWORKS, NETWORKS)
def test_no_two_networks_are_written_alike(one: NetworkId, other: NetworkId) -> None:
    for write in (
        lambda network: network.path,
        lambda network: network.label,
        lambda network: network.argument,
        lambda network: network.key,
        lambda network: repr(network.as_json()),
    ):
        assert (write(one) == write(other)) == (one == other)


# --- what is no network ----------------------------------------------------------------------------------------------

NO_PATHS = [
    *("", "complete/", "/complete", "complete\n", "Complete", "complete0", "complete-0", "complete-01", "complete-1/"),
    *("runs/3/iter_07", "runs/00003/iter_07", "runs/0003/iter_7", "runs/0003/iter_007", "runs/0003/iter_00"),
    *("runs/0003", "runs/0003/iter_07/", "runs/-003/iter_07", "runs/0003/iter_0x", "runs/٠٠٠٣/iter_07"),
    *("complete/runs/0003/iter_07", "complete-1/complete", "complete-1/runs", "complete-1runs/0003/iter_07"),
    *("controls", "controls/retrain", "controls/other/runs/0000/iter_01", "controls/retrain/complete"),
    *("controls/complete-1/runs/0000/iter_01", "controls/retrain/controls/random/runs/0000/iter_01"),
    *("runs/1234567890/iter_01", "runs/0001/iter_1234567890", "complete-1234567890", "complete-1/complete-1"),
]


@pytest.mark.parametrize("path", NO_PATHS)
def test_no_other_spelling_is_a_path(path: str) -> None:
    assert of_path(path) is None


@given(st.text(alphabet="complet-runsi_/0123456789", max_size=30) | NETWORKS.map(lambda network: network.path))
def test_what_is_a_path_is_written_so(text: str) -> None:
    network = of_path(text)
    assert network is None or network.path == text


@given(NETWORKS, st.sampled_from(["COMMIT.json", "activations/COMMIT.json", "runs/1/x", "a/b"]))
def test_the_pattern_stands_in_larger_expressions(network: NetworkId, rest: str) -> None:
    """It takes the whole of the network's path: complete-1 has runs below it."""
    match = re.compile(rf"{PATTERN}/(?P<rest>.+)").fullmatch(f"{network.path}/{rest}")
    assert match is not None
    assert NetworkId.of_match(match) == network
    assert match["rest"] == rest


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("iteration=7,run=3", NetworkId(3, 7)),
        ("run=0003,iteration=07", NetworkId(3, 7)),
        ("complete=0,run=complete", COMPLETE),
        ("iteration=7,complete=2,run=3", NetworkId(3, 7, 2)),
        ("run=3,control=random,iteration=7", NetworkId(3, 7, control="random")),
        ("iteration=7,control=retrain,complete=2,run=3", NetworkId(3, 7, 2, "retrain")),
    ],
)
def test_the_parts_of_an_argument_come_in_any_order(text: str, network: NetworkId) -> None:
    assert NetworkId.parse(text) == network


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "complete", "run=3", "iteration=7", "run=complete,iteration=1", "run=3,iteration=7,"),
        *("run=3,run=4,iteration=7", "run=3,iteration=x", "run=-1,iteration=1", "run=,iteration=1", "complete=1"),
        *("run=3,iteration=7,complete=x", "run=3,complete=1", "run=3,iteration=1234567890", "run=٣,iteration=1"),
        *("control=retrain", "control=retrain,run=complete", "control=other,run=3,iteration=7", "control=,run=3"),
    ],
)
def test_what_names_no_network(text: str) -> None:
    said = f"^a network is named run=3,iteration=7 or run=complete, got {re.escape(repr(text))}$"
    with pytest.raises(ValueError, match=said):
        NetworkId.parse(text)


def test_iterations_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="iterations are counted from 1; the complete network is run=complete"):
        NetworkId.parse("run=3,iteration=0")


@pytest.mark.parametrize(
    "tree",
    [
        *(True, 3, "complete", {}, [], [3], [None, 0], [3, 0], [3, 7, 0], [3, 7, 1, 1], [3.0, 7], [True, 7], ["3", 7]),
        *([3, 7, 0, ""], [3, 7, 0, "other"], [3, 7, "retrain"], [None, 0, 0, "retrain"], [3, 7, 0, "retrain", 1]),
    ],
    ids=repr,
)
def test_what_is_no_networks_json(tree: Any) -> None:
    with pytest.raises(ValueError, match="network"):
        NetworkId.from_json(tree)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"run": 3}, "neither, got run 3 and iteration 0"),
        ({"iteration": 1}, "neither, got run None and iteration 1"),
        ({"run": -1, "iteration": 1}, r"run of a network must be a whole number in \[0, 999,999,999\], got -1"),
        ({"run": 10**9, "iteration": 1}, "run of a network must be .* got 1000000000"),
        ({"run": True, "iteration": 1}, "run of a network must be .* got True"),
        ({"run": 1, "iteration": 1.0}, "iteration of a network must be .* got 1.0"),
        ({"iteration": None}, "iteration of a network must be .* got None"),
        ({"complete": -1}, "complete of a network must be .* got -1"),
        ({"complete": None}, "complete of a network must be .* got None"),
        ({"control": "retrain"}, "control of a network must be retrain or random, or '' as of a complete .* 'retrain'"),
        ({"run": 3, "iteration": 1, "control": "other"}, "control of a network must be retrain or random, .* 'other'"),
    ],
)
def test_a_network_has_a_run_and_an_iteration_or_neither(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NetworkId(**fields)


# --- order and descent -----------------------------------------------------------------------------------------------


def test_networks_are_in_the_order_of_their_numbers() -> None:
    ordered = [
        COMPLETE,
        *(NetworkId(run, iteration) for run in (0, 2, 10, 10_000) for iteration in (1, 2, 10, 100)),
        *(NetworkId(run, iteration, control="retrain") for run in (0, 1) for iteration in (1, 2)),
        NetworkId(0, 1, control="random"),
        NetworkId(complete=1),
        NetworkId(0, 1, complete=1),
        NetworkId(0, 1, complete=1, control="retrain"),
        NetworkId(complete=10),
    ]
    backwards = ordered[::-1]
    assert sorted(backwards) == ordered
    assert sorted(ordered, key=str) != ordered, "which is why they have an order"
    runs = dict.fromkeys(network.of_run for network in backwards if network.of_run)
    assert sorted(runs) == list(dict.fromkeys(network.of_run for network in ordered if network.of_run))
    with pytest.raises(TypeError, match="'<' not supported"):
        COMPLETE < (0, 1)  # noqa: B015


@given(NETWORKS, NETWORKS)
def test_the_order_is_total(one: NetworkId, other: NetworkId) -> None:
    assert (one < other) + (one == other) + (one > other) == 1
    assert (one <= other) == (not one > other)


@given(NETWORKS)
def test_what_a_network_was_pruned_from_comes_before_it(network: NetworkId) -> None:
    before = network.before
    if before is None:
        assert network.is_complete
        assert network.origin == network
    else:
        assert before < network
        assert before.iteration == network.iteration - 1
        assert before.origin == network.origin
        assert before.is_complete or before.of_run == network.of_run
        assert network.of_run is not None
        assert network.of_run.network(network.iteration) == network
        assert network.comes_from(before)
        assert not before.comes_from(network)
    assert network.comes_from(network)
    assert network.comes_from(network.origin)


def test_a_run_is_pruned_step_by_step_from_its_complete_network() -> None:
    assert NetworkId(3, 2, 1).before == NetworkId(3, 1, 1)
    assert NetworkId(3, 1, 1).before == NetworkId(complete=1)
    assert NetworkId(complete=1).before is None
    assert NetworkId(3, 7).comes_from(NetworkId(3, 2))
    assert not NetworkId(3, 7).comes_from(NetworkId(2, 2))
    assert not NetworkId(3, 7).comes_from(NetworkId(3, 2, complete=1))
    assert not NetworkId(3, 7).comes_from(NetworkId(complete=1))
    assert not COMPLETE.comes_from(NetworkId(3, 2))
    assert not NetworkId(3, 7, control="retrain").comes_from(NetworkId(3, 2))
    assert NetworkId(3, 7, control="retrain").comes_from(COMPLETE)
    assert RunId.of(3, control="retrain").network(0) == COMPLETE
    assert RunId.of(3, 1, "retrain").label == "complete network 1, control retrain, run 3"
    assert not NetworkId(complete=1).comes_from(COMPLETE)


@given(NETWORKS, NETWORKS)
def test_keys_are_the_text_of_the_tuples_that_networks_were(one: NetworkId, other: NetworkId) -> None:
    """Files of pairs are named by hashes of these texts."""
    then = [None if n.is_complete else (n.run, n.iteration) for n in (one, other)]
    if one.complete == other.complete == 0 and not (one.control or other.control):
        assert f"({one.key}, {other.key})" == str(tuple(then))
