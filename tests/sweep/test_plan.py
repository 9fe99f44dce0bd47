"""What is missing, and how it is divided into waves that the disk can hold."""

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsim.models import Layer
from distsim.specs import PAPER_METRICS, Extent, Identity, Problem, Pruning, Recipe, Sweep
from distsim.store import Contents, NetworkId, NoSpace, Storage, SweepStore
from distsim.sweep.plan import Chain, Missing, finished_with, missing, room_for_activations, wave

LAYERS = (Layer("conv1", "conv", "conv1"), Layer("fc1", "fc", "fc1"), Layer("out", "out", "out"))
BOTH = tuple(name for name in PAPER_METRICS if name != "cosine")
ALL = {"conv1": BOTH, "fc1": BOTH, "out": PAPER_METRICS}


def sweep_of(runs: int = 2, iterations: int = 3, **extent: Any) -> Sweep:
    problem = Problem("tiny", "digits", "lenet5", 28, 1, Recipe(epochs=1, batch_size=1), Pruning())
    return Sweep(Identity(problem, "0"), Extent(runs, iterations, **{"chance": False} | extent))


def networks(runs: int, iterations: int) -> list[NetworkId]:
    return [(run, iteration) for run in range(runs) for iteration in range(1, iterations + 1)]


def contents(
    trained: list[NetworkId],
    activations: list[NetworkId] | None = None,
    compared: list[NetworkId] | None = None,
    metrics: tuple[str, ...] = PAPER_METRICS,
) -> Contents:
    comparisons = {
        (network, layer): frozenset(metrics) & frozenset(names)
        for network in compared or []
        for layer, names in ALL.items()
    }
    return Contents(frozenset(trained), frozenset(activations or []), comparisons)


NOTHING = contents([])


def finished(runs: int, iterations: int, retention: str = "reference") -> Contents:
    pruned = networks(runs, iterations)
    return contents([None, *pruned], [None, *pruned] if retention == "all" else [None], pruned)


# --- missing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retention", ["reference", "all"])
def test_of_an_empty_store_everything_is_missing(retention: str) -> None:
    lacking = missing(sweep_of(retention=retention), NOTHING, LAYERS)
    assert lacking
    assert lacking.complete
    assert lacking.chains == {0: (1, 2, 3), 1: (1, 2, 3)}
    assert lacking.activations == (None, *networks(2, 3))
    assert lacking.comparisons == dict.fromkeys(networks(2, 3), ALL)
    assert lacking.networks == 7
    assert lacking.reference
    assert lacking.values == 6 * (5 + 5 + 6)


@pytest.mark.parametrize("retention", ["reference", "all"])
def test_of_a_finished_sweep_nothing_is_missing(retention: str) -> None:
    lacking = missing(sweep_of(retention=retention), finished(2, 3, retention), LAYERS)
    assert not lacking
    assert lacking == Missing(False, {}, (), {})


def test_more_in_the_store_than_is_asked_for_is_nothing_missing() -> None:
    assert not missing(sweep_of(1, 2), finished(2, 3), LAYERS)
    assert not missing(sweep_of(2, 3, metrics=("cka",)), finished(2, 3), LAYERS)


def test_a_network_missing_in_the_middle() -> None:
    there = finished(2, 3)
    without = contents([n for n in [None, *networks(2, 3)] if n != (0, 2)], [None], networks(2, 3))
    lacking = missing(sweep_of(), without, LAYERS)
    assert lacking
    assert (lacking.complete, lacking.chains) == (False, {0: (2,)})
    assert lacking.comparisons == {}, "its comparisons are there"
    uncompared = dataclasses.replace(
        there, comparisons={key: names for key, names in there.comparisons.items() if key[0] != (1, 2)}
    )
    lacking = missing(sweep_of(), uncompared, LAYERS)
    assert (lacking.complete, lacking.chains, lacking.activations) == (False, {}, ((1, 2),))
    assert lacking.comparisons == {(1, 2): ALL}


def test_a_missing_layer_and_a_missing_metric() -> None:
    there = finished(2, 3)
    comparisons = dict(there.comparisons)
    del comparisons[((0, 1), "fc1")]
    comparisons[((0, 1), "out")] = frozenset(PAPER_METRICS) - {"cosine", "nbs"}
    lacking = missing(sweep_of(), dataclasses.replace(there, comparisons=comparisons), LAYERS)
    assert lacking.comparisons == {(0, 1): {"fc1": BOTH, "out": ("nbs", "cosine")}}
    assert lacking.activations == ((0, 1),)


def test_more_runs() -> None:
    lacking = missing(sweep_of(4, 3), finished(2, 3), LAYERS)
    assert (lacking.complete, lacking.chains) == (False, {2: (1, 2, 3), 3: (1, 2, 3)})
    assert lacking.activations == tuple(network for network in networks(4, 3) if network and network[0] >= 2)


def test_more_iterations() -> None:
    lacking = missing(sweep_of(2, 5), finished(2, 3), LAYERS)
    assert lacking.chains == {0: (4, 5), 1: (4, 5)}
    assert set(lacking.comparisons) == {(0, 4), (0, 5), (1, 4), (1, 5)}


def test_more_metrics_train_nothing() -> None:
    there = contents([None, *networks(2, 3)], [None], networks(2, 3), ("cka", "svcca"))
    lacking = missing(sweep_of(metrics=("cka", "nbs", "cosine")), there, LAYERS)
    assert (lacking.complete, lacking.chains) == (False, {})
    wanted = {"conv1": ("nbs",), "fc1": ("nbs",), "out": ("nbs", "cosine")}
    assert lacking.comparisons == dict.fromkeys(networks(2, 3), wanted)
    assert lacking.activations == tuple(networks(2, 3)), "what was dropped is written again, the complete one is there"
    assert lacking.values == 6 * 4


def test_metrics_that_no_layer_has_need_nothing_but_the_networks() -> None:
    lacking = missing(sweep_of(metrics=("cosine",)), NOTHING, LAYERS[:2])
    assert lacking.networks == 7
    assert (lacking.activations, lacking.comparisons) == ((), {})


def test_the_complete_networks_activations_are_wanted_only_for_comparisons() -> None:
    without = dataclasses.replace(finished(2, 3), activations=frozenset())
    assert not missing(sweep_of(), without, LAYERS)
    assert missing(sweep_of(2, 4), without, LAYERS).activations == (None, (0, 4), (1, 4))


def test_retention_all_wants_every_networks_activations() -> None:
    lacking = missing(sweep_of(retention="all"), finished(2, 3, "reference"), LAYERS)
    assert lacking.activations == tuple(networks(2, 3))
    assert (lacking.comparisons, lacking.chains) == ({}, {})


# --- waves -----------------------------------------------------------------------------------------------------------


def chains_of(sweep: Sweep, store: Contents, room: int | None, per_network: int = 10) -> list[Chain]:
    return wave(sweep, missing(sweep, store, LAYERS), room, per_network)


def test_without_a_limit_one_wave_does_it_all() -> None:
    assert chains_of(sweep_of(), NOTHING, None) == [Chain(0, (1, 2, 3), (1, 2, 3)), Chain(1, (1, 2, 3), (1, 2, 3))]
    assert chains_of(sweep_of(), finished(2, 3), None) == []


def test_room_for_some_trains_all_and_extracts_some() -> None:
    # the complete network's activations take their share first
    assert chains_of(sweep_of(), NOTHING, 10 + 40) == [Chain(0, (1, 2, 3), (1, 2, 3)), Chain(1, (1, 2, 3), (1,))]
    assert chains_of(sweep_of(), NOTHING, 10 + 19) == [Chain(0, (1, 2, 3), (1,)), Chain(1, (1, 2, 3), ())]
    there = contents([None, *networks(2, 3)], [None], [(0, 1)])
    assert chains_of(sweep_of(), there, 40) == [Chain(0, (), (2, 3)), Chain(1, (), (1, 2))]
    assert chains_of(sweep_of(), there, 49) == chains_of(sweep_of(), there, 40)
    assert chains_of(sweep_of(), there, 50) == [Chain(0, (), (2, 3)), Chain(1, (), (1, 2, 3))]


@pytest.mark.parametrize("room", [0, 9, 10, 19])
def test_too_little_room_for_one(room: int) -> None:
    with pytest.raises(NoSpace, match=rf"tiny: activations need 20 bytes of disk, there is room for {room}"):
        chains_of(sweep_of(), NOTHING, room)


def test_all_that_is_to_be_kept_must_fit() -> None:
    everything = sweep_of(retention="all")
    assert len(chains_of(everything, NOTHING, 70)) == 2
    with pytest.raises(NoSpace, match="tiny: activations need 70 bytes of disk, there is room for 69"):
        chains_of(everything, NOTHING, 69)


def test_what_other_problems_were_promised_is_left_to_them() -> None:
    there = contents([None], [None], [])
    sweep = sweep_of()
    lacking = missing(sweep, there, LAYERS)
    extracted = [sum(len(c.extract) for c in wave(sweep, lacking, 60, 10, promised)) for promised in (0, 30, 60, 90)]
    assert extracted == [6, 3, 0, 0], "it waits for the next wave"
    kept = sweep_of(retention="all")
    with pytest.raises(NoSpace):  # room that never comes back
        wave(kept, missing(kept, there, LAYERS), 60, 10, 10)


def test_what_failed_is_left_out() -> None:
    lacking = missing(sweep_of(), contents([None], [None], []), LAYERS)
    left = lacking.without({(0, 2), (1, 1), (1, 2), (1, 3)})
    assert left.chains == {0: (1, 3)}
    assert left.activations == ((0, 1), (0, 3))
    assert left.comparisons.keys() == {(0, 1), (0, 3)}
    assert lacking.without(set()) == lacking
    assert not missing(sweep_of(), NOTHING, LAYERS).without({None}), "nothing can be done without the complete network"


def test_no_room_is_needed_where_nothing_is_to_be_written() -> None:
    there = contents([None], [None], networks(2, 3))
    assert chains_of(sweep_of(), there, 0) == [Chain(0, (1, 2, 3), ()), Chain(1, (1, 2, 3), ())]


@given(
    runs=st.integers(1, 4),
    iterations=st.integers(1, 4),
    room=st.integers(20, 120),
    trained=st.sets(st.tuples(st.integers(0, 3), st.integers(1, 4))),
    compared=st.sets(st.tuples(st.integers(0, 3), st.integers(1, 4))),
)
def test_waves_end_and_never_overfill(
    runs: int, iterations: int, room: int, trained: set[tuple[int, int]], compared: set[tuple[int, int]]
) -> None:
    """Each wave as an engine would do it: train, extract, compare what is there, drop what has served."""
    sweep, per_network = sweep_of(runs, iterations), 10
    have: set[NetworkId] = {*trained}
    extracted: set[NetworkId] = set()
    done: set[NetworkId] = {network for network in compared if network in trained}
    wanted = set(networks(runs, iterations))
    for waves in itertools.count():
        now = contents(sorted(have, key=str), sorted(extracted, key=str), sorted(done, key=str))
        lacking = missing(sweep, now, LAYERS)
        if not lacking:
            break
        assert waves <= runs * iterations, "every wave makes progress"
        chains = wave(sweep, lacking, room - per_network * len(extracted), per_network)
        assert [chain.run for chain in chains] == sorted({chain.run for chain in chains})
        have.add(None)
        if None in lacking.activations:
            extracted.add(None)
        for chain in chains:
            assert chain.extract == tuple(sorted(chain.extract))
            have |= {(chain.run, iteration) for iteration in chain.train}
            assert all((chain.run, iteration) in have for iteration in chain.extract)
            extracted |= {(chain.run, iteration) for iteration in chain.extract}
        assert len(extracted) * per_network <= room
        now = contents(sorted(have, key=str), sorted(extracted, key=str), sorted(done, key=str))
        done |= {network for network in missing(sweep, now, LAYERS).comparisons if network in extracted}
        now = contents(sorted(have, key=str), sorted(extracted, key=str), sorted(done, key=str))
        extracted -= set(finished_with(sweep, now, missing(sweep, now, LAYERS)))
        assert extracted <= {None}, "all that was extracted has served"
    assert wanted <= have
    assert wanted <= done


# --- what has served -------------------------------------------------------------------------------------------------


def test_activations_are_dropped_once_they_have_served() -> None:
    pruned = networks(2, 3)
    there = contents([None, *pruned], [None, *pruned], [(0, 1), (1, 3)])
    assert finished_with(sweep_of(), there, missing(sweep_of(), there, LAYERS)) == [(0, 1), (1, 3)]
    every = contents([None, *pruned], [None, *pruned], pruned)
    assert finished_with(sweep_of(), every, missing(sweep_of(), every, LAYERS)) == pruned, "the reference stays"
    keep = sweep_of(retention="all")
    assert finished_with(keep, every, missing(keep, every, LAYERS)) == []


def test_what_was_not_asked_for_is_not_dropped() -> None:
    pruned = networks(2, 3)
    there = contents([None, *pruned], [None, *pruned], pruned)
    small = sweep_of(1, 2)
    assert finished_with(small, there, missing(small, there, LAYERS)) == [(0, 1), (0, 2)]


def test_one_missing_metric_of_one_layer_keeps_the_activations() -> None:
    pruned = networks(2, 3)
    comparisons = dict(finished(2, 3).comparisons)
    comparisons[((0, 1), "out")] = frozenset(BOTH)
    there = Contents(frozenset([None, *pruned]), frozenset([None, *pruned]), comparisons)
    assert (0, 1) not in finished_with(sweep_of(), there, missing(sweep_of(), there, LAYERS))


def test_a_folder_has_a_limit(tmp_path: Any) -> None:
    room = room_for_activations(SweepStore(Storage(tmp_path), "tiny"))
    assert room is not None
    assert room > 0
