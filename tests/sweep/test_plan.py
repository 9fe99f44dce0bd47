"""What is missing, and how it is divided into waves that the disk can hold."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsim.models import Layer
from distsim.specs import (
    COMPLETE,
    PAPER_METRICS,
    PERMUTATIONS,
    Extent,
    Identity,
    NetworkId,
    Problem,
    Pruning,
    Recipe,
    RunId,
    Sweep,
)
from distsim.store import Contents, NoSpace, Storage, SweepStore
from distsim.sweep.jobs import Job, PairJob, comparisons, pieces, without
from distsim.sweep.plan import (
    Beside,
    Chain,
    Missing,
    finished_with,
    missing,
    room_for_activations,
    runs_of,
    trials_of,
    wave,
)

LAYERS = (Layer("conv1", "conv", "conv1"), Layer("fc1", "fc", "fc1"), Layer("out", "out", "out"))
BOTH = tuple(name for name in PAPER_METRICS if name != "cosine")
ALL = {"conv1": BOTH, "fc1": BOTH, "out": PAPER_METRICS}


def sweep_of(runs: int = 2, iterations: int = 3, **extent: Any) -> Sweep:
    problem = Problem("tiny", "digits", "lenet5", 28, 1, Recipe(epochs=1, batch_size=1), Pruning())
    return Sweep(
        Identity(problem, "0"),
        Extent(runs, iterations, **{"metrics": PAPER_METRICS, "chance": False, "measure": ()} | extent),
    )


def networks(runs: int, iterations: int) -> list[NetworkId]:
    return list(Extent(runs, iterations).networks)


def contents(
    trained: Iterable[NetworkId],
    activations: Iterable[NetworkId] = (),
    compared: Iterable[NetworkId] = (),
    metrics: tuple[str, ...] = PAPER_METRICS,
) -> Contents:
    comparisons = {
        (network, layer): frozenset(metrics) & frozenset(names) for network in compared for layer, names in ALL.items()
    }
    return Contents(frozenset(trained), frozenset(activations), comparisons)


NOTHING = contents([])


def finished(runs: int, iterations: int, retention: str = "reference") -> Contents:
    pruned = networks(runs, iterations)
    return contents([COMPLETE, *pruned], [COMPLETE, *pruned] if retention == "all" else [COMPLETE], pruned)


def by_run(chains: dict[int, tuple[int, ...]]) -> dict[RunId, tuple[int, ...]]:
    """The chains of the pruned runs of the first complete network."""
    return {RunId.of(run): iterations for run, iterations in chains.items()}


# --- missing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retention", ["reference", "all"])
def test_of_an_empty_store_everything_is_missing(retention: str) -> None:
    lacking = missing(sweep_of(retention=retention), NOTHING, LAYERS)
    assert lacking
    assert lacking.complete
    assert lacking.chains == by_run({0: (1, 2, 3), 1: (1, 2, 3)})
    assert lacking.activations == (COMPLETE, *networks(2, 3))
    assert lacking.comparisons == dict.fromkeys(networks(2, 3), ALL)
    assert lacking.networks == 7
    assert lacking.references == (COMPLETE,)
    assert lacking.similarities == 6 * (5 + 5 + 6)


@pytest.mark.parametrize("retention", ["reference", "all"])
def test_of_a_finished_sweep_nothing_is_missing(retention: str) -> None:
    lacking = missing(sweep_of(retention=retention), finished(2, 3, retention), LAYERS)
    assert not lacking
    assert lacking == Missing((), {}, (), {})


def test_more_in_the_store_than_is_asked_for_is_nothing_missing() -> None:
    assert not missing(sweep_of(1, 2), finished(2, 3), LAYERS)
    assert not missing(sweep_of(2, 3, metrics=("cka",)), finished(2, 3), LAYERS)


def test_a_network_missing_in_the_middle() -> None:
    there = finished(2, 3)
    without = contents([n for n in [COMPLETE, *networks(2, 3)] if n != NetworkId(0, 2)], [COMPLETE], networks(2, 3))
    lacking = missing(sweep_of(), without, LAYERS)
    assert lacking
    assert (lacking.complete, lacking.chains) == ((), by_run({0: (2,)}))
    assert lacking.comparisons == {}, "its comparisons are there"
    uncompared = dataclasses.replace(
        there, comparisons={key: names for key, names in there.comparisons.items() if key[0] != NetworkId(1, 2)}
    )
    lacking = missing(sweep_of(), uncompared, LAYERS)
    assert (lacking.complete, lacking.chains, lacking.activations) == ((), {}, (NetworkId(1, 2),))
    assert lacking.comparisons == {NetworkId(1, 2): ALL}


def test_a_missing_layer_and_a_missing_metric() -> None:
    there = finished(2, 3)
    comparisons = dict(there.comparisons)
    del comparisons[(NetworkId(0, 1), "fc1")]
    comparisons[(NetworkId(0, 1), "out")] = frozenset(PAPER_METRICS) - {"cosine", "nbs"}
    lacking = missing(sweep_of(), dataclasses.replace(there, comparisons=comparisons), LAYERS)
    assert lacking.comparisons == {NetworkId(0, 1): {"fc1": BOTH, "out": ("nbs", "cosine")}}
    assert lacking.activations == (NetworkId(0, 1),)


def test_more_runs() -> None:
    lacking = missing(sweep_of(4, 3), finished(2, 3), LAYERS)
    assert (lacking.complete, lacking.chains) == ((), by_run({2: (1, 2, 3), 3: (1, 2, 3)}))
    assert lacking.activations == tuple(NetworkId(run, i) for run in (2, 3) for i in (1, 2, 3))


def test_more_iterations() -> None:
    lacking = missing(sweep_of(2, 5), finished(2, 3), LAYERS)
    assert lacking.chains == by_run({0: (4, 5), 1: (4, 5)})
    assert set(lacking.comparisons) == {NetworkId(0, 4), NetworkId(0, 5), NetworkId(1, 4), NetworkId(1, 5)}


def test_more_metrics_train_nothing() -> None:
    there = contents([COMPLETE, *networks(2, 3)], [COMPLETE], networks(2, 3), ("cka", "svcca"))
    lacking = missing(sweep_of(metrics=("cka", "nbs", "cosine")), there, LAYERS)
    assert (lacking.complete, lacking.chains) == ((), {})
    wanted = {"conv1": ("nbs",), "fc1": ("nbs",), "out": ("nbs", "cosine")}
    assert lacking.comparisons == dict.fromkeys(networks(2, 3), wanted)
    assert lacking.activations == tuple(networks(2, 3)), "what was dropped is written again, the complete one is there"
    assert lacking.similarities == 6 * 4


def test_metrics_that_no_layer_has_need_nothing_but_the_networks() -> None:
    lacking = missing(sweep_of(metrics=("cosine",)), NOTHING, LAYERS[:2])
    assert lacking.networks == 7
    assert (lacking.activations, lacking.comparisons) == ((), {})


def test_the_complete_networks_activations_are_wanted_only_for_comparisons() -> None:
    without = dataclasses.replace(finished(2, 3), activations=frozenset())
    assert not missing(sweep_of(), without, LAYERS)
    assert missing(sweep_of(2, 4), without, LAYERS).activations == (COMPLETE, NetworkId(0, 4), NetworkId(1, 4))


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
    there = contents([COMPLETE, *networks(2, 3)], [COMPLETE], [NetworkId(0, 1)])
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
    there = contents([COMPLETE], [COMPLETE], [])
    sweep = sweep_of()
    lacking = missing(sweep, there, LAYERS)
    extracted = [sum(len(c.extract) for c in wave(sweep, lacking, 60, 10, promised)) for promised in (0, 30, 60, 90)]
    assert extracted == [6, 3, 0, 0], "it waits for the next wave"
    kept = sweep_of(retention="all")
    with pytest.raises(NoSpace):  # room that never comes back
        wave(kept, missing(kept, there, LAYERS), 60, 10, 10)


def test_what_failed_is_left_out() -> None:
    lacking = missing(sweep_of(), contents([COMPLETE], [COMPLETE], []), LAYERS)
    left = lacking.without({NetworkId(0, 2), NetworkId(1, 1), NetworkId(1, 2), NetworkId(1, 3)})
    assert left.chains == by_run({0: (1, 3)})
    assert left.activations == (NetworkId(0, 1), NetworkId(0, 3))
    assert left.comparisons.keys() == {NetworkId(0, 1), NetworkId(0, 3)}
    assert lacking.without(set()) == lacking
    assert not missing(sweep_of(), NOTHING, LAYERS).without({COMPLETE}), (
        "nothing can be done without the complete network"
    )


# --- controls, and several complete networks --------------------------------------------------------------------------


def test_controls_are_runs_of_their_own_and_never_more_than_the_runs() -> None:
    wanted = Extent(3, 2, control=("random", "retrain"), control_runs=2).all_runs
    assert [run.label for run in wanted] == [
        *("run 0", "run 1", "run 2"),
        *("control retrain, run 0", "control retrain, run 1", "control random, run 0", "control random, run 1"),
    ]
    assert len(Extent(1, 1, control=("retrain",), control_runs=2).all_runs) == 2
    assert Extent(1, 1).networks == (NetworkId(0, 1),), "what is not asked for is not done"


def test_controls_that_are_added_leave_the_rest_alone() -> None:
    there = finished(2, 3)
    lacking = missing(sweep_of(control=("retrain",), control_runs=1), there, LAYERS)
    control = [NetworkId(0, i, control="retrain") for i in (1, 2, 3)]
    assert (lacking.complete, lacking.chains) == ((), {RunId.of(0, control="retrain"): (1, 2, 3)})
    assert lacking.activations == tuple(control)
    assert lacking.comparisons == dict.fromkeys(control, ALL)


def test_another_complete_network_has_runs_and_controls_of_its_own() -> None:
    there = finished(1, 1)
    lacking = missing(sweep_of(1, 1, complete=2, control=("random",), chance=True), there, LAYERS)
    other = [NetworkId(complete=1), NetworkId(0, 1, 1), NetworkId(0, 1, 1, "random")]
    assert lacking.complete == (1,)
    assert lacking.references == (NetworkId(complete=1),), "the first one's activations are there"
    assert lacking.networks == 4
    assert set(lacking.comparisons) == {NetworkId(0, 1, control="random"), *other[1:]}
    assert set(lacking.chance) == {NetworkId(0, 1), NetworkId(0, 1, 1)}
    left = lacking.without({NetworkId(complete=1)})
    assert (left.complete, left.chains) == ((), {RunId.of(0, control="random"): (1,)})


def test_a_trial_starts_from_one_complete_network_and_fused_groups_have_no_controls() -> None:
    sweep = sweep_of(5, 1, complete=2, control=("retrain", "random"), control_runs=1)
    chains = chains_of(sweep, NOTHING, None)
    packed = trials_of(dataclasses.replace(sweep, pack=4), chains)
    assert [runs_of(trial) for trial in packed[:2]] == [
        "runs 0, 1, 2, 3",
        "run 4, control retrain, run 0, control random, run 0",
    ]
    assert all(len({chain.complete for chain in trial}) == 1 for trial in packed)
    identity = dataclasses.replace(sweep.identity, fuse=4)
    groups = [runs_of(trial) for trial in trials_of(dataclasses.replace(sweep, identity=identity), chains)]
    assert groups[:4] == ["runs 0, 1, 2, 3", "run 4", "control retrain, run 0", "control random, run 0"]
    assert groups[5:] == [f"complete network 1, {label}" for label in groups[1:4]]


def test_a_comparison_job_has_one_complete_network() -> None:
    sweep = sweep_of(1, 2, complete=2)
    lacking = missing(sweep, NOTHING, LAYERS).comparisons
    for one in (
        sweep,
        dataclasses.replace(sweep, device="cuda", extent=Extent(1, 2, activations="memory", complete=2)),
    ):
        jobs = comparisons(lacking, one, slots=1)
        assert [{network.complete for network, _ in job.networks} for job in jobs] in (
            [{0}, {1}],
            [{0}] * 3 + [{1}] * 3,
        )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_jobs_without_what_others_do_are_the_rest(device: str) -> None:
    """Each layer of a network is in the one or the other, with its metrics and what is measured beside them."""
    extent = Extent(2, 2, PAPER_METRICS, activations="memory", measure=("null", "se"))
    sweep = dataclasses.replace(sweep_of(), device=device, extent=extent)
    lack = missing(sweep, NOTHING, LAYERS)
    values = comparisons(lack.comparisons, sweep, slots=1, beside=lack.beside)
    by_chance = comparisons(lack.chance, sweep, slots=1, chance=True)
    first, last = NetworkId(0, 1), NetworkId(1, 2)
    begun = comparisons({first: {"conv1": BOTH}, last: ALL}, sweep, slots=1)
    rest = without([*values, *by_chance], begun)
    taken = {(False, "conv1", first), *((False, layer, last) for layer in ALL)}
    assert asked_of(rest) == {one for one in asked_of([*values, *by_chance]) if one[:3] not in taken}
    assert sum(map(pieces, rest)) == len(asked_of(rest)) > len(asked_of(by_chance)) > 0
    assert without(begun, [*values, *by_chance]) == []
    assert without(values, by_chance) == values
    only_beside = comparisons({}, sweep, slots=1, beside=lack.beside)
    assert without(only_beside, []) == only_beside != []


def asked_of(jobs: Iterable[Job]) -> set[Any]:
    """Whether examples are permuted, layer, network, metrics, and what else is measured."""
    return {
        (layer.chance, layer.layer, network, metrics, layer.beside_of(network))
        for job in jobs
        if not isinstance(job, PairJob)
        for layer in job.layers
        for network, metrics in layer.networks
    }


def test_no_room_is_needed_where_nothing_is_to_be_written() -> None:
    there = contents([COMPLETE], [COMPLETE], networks(2, 3))
    assert chains_of(sweep_of(), there, 0) == [Chain(0, (1, 2, 3), ()), Chain(1, (1, 2, 3), ())]


@given(
    runs=st.integers(1, 4),
    iterations=st.integers(1, 4),
    room=st.integers(20, 120),
    trained=st.sets(st.builds(NetworkId, st.integers(0, 3), st.integers(1, 4))),
    compared=st.sets(st.builds(NetworkId, st.integers(0, 3), st.integers(1, 4))),
)
def test_waves_end_and_never_overfill(
    runs: int, iterations: int, room: int, trained: set[NetworkId], compared: set[NetworkId]
) -> None:
    """Each wave as an engine would do it: train, extract, compare what is there, drop what has served."""
    sweep, per_network = sweep_of(runs, iterations), 10
    have = set(trained)
    extracted: set[NetworkId] = set()
    done = compared & trained
    wanted = set(networks(runs, iterations))
    for waves in itertools.count():
        now = contents(have, extracted, done)
        lacking = missing(sweep, now, LAYERS)
        if not lacking:
            break
        assert waves <= runs * iterations, "every wave makes progress"
        chains = wave(sweep, lacking, room - per_network * len(extracted), per_network)
        assert [chain.run for chain in chains] == sorted({chain.run for chain in chains})
        have.add(COMPLETE)
        if COMPLETE in lacking.activations:
            extracted.add(COMPLETE)
        for chain in chains:
            assert chain.extract == tuple(sorted(chain.extract))
            have |= {NetworkId(chain.run, iteration) for iteration in chain.train}
            assert all(NetworkId(chain.run, iteration) in have for iteration in chain.extract)
            extracted |= {NetworkId(chain.run, iteration) for iteration in chain.extract}
        assert len(extracted) * per_network <= room
        now = contents(have, extracted, done)
        done |= {network for network in missing(sweep, now, LAYERS).comparisons if network in extracted}
        now = contents(have, extracted, done)
        extracted -= set(finished_with(sweep, now, missing(sweep, now, LAYERS)))
        assert extracted <= {COMPLETE}, "all that was extracted has served"
    assert wanted <= have
    assert wanted <= done


# --- what has served -------------------------------------------------------------------------------------------------


def test_activations_are_dropped_once_they_have_served() -> None:
    pruned = networks(2, 3)
    there = contents([COMPLETE, *pruned], [COMPLETE, *pruned], [NetworkId(0, 1), NetworkId(1, 3)])
    assert finished_with(sweep_of(), there, missing(sweep_of(), there, LAYERS)) == [NetworkId(0, 1), NetworkId(1, 3)]
    every = contents([COMPLETE, *pruned], [COMPLETE, *pruned], pruned)
    assert finished_with(sweep_of(), every, missing(sweep_of(), every, LAYERS)) == pruned, "the reference stays"
    keep = sweep_of(retention="all")
    assert finished_with(keep, every, missing(keep, every, LAYERS)) == []


def test_chance_levels_are_planned_and_keep_activations() -> None:
    sweep, pruned = sweep_of(chance=True), networks(2, 3)
    there = contents([COMPLETE, *pruned], [COMPLETE, *pruned], pruned)
    lacking = missing(sweep, there, LAYERS)
    wanted = list(sweep.extent.chance_networks)
    assert wanted
    assert lacking.comparisons == {}
    assert lacking.chance == dict.fromkeys(wanted, ALL)
    assert lacking.by_chance == 16 * PERMUTATIONS * len(wanted)
    assert finished_with(sweep, there, lacking) == [network for network in pruned if network not in wanted]


# --- beside the values ---

FREE = tuple(name for name in BOTH if name != "cka")  # whose chance no formula says
CHEAP = tuple(name for name in BOTH if name != "nbs")


def test_standard_errors_are_planned_for_all_networks_and_those_of_nbs_on_request() -> None:
    there = finished(2, 3)
    lacking = missing(sweep_of(measure=("se",)), there, LAYERS)
    assert lacking.comparisons == lacking.chance == {}
    assert set(lacking.beside) == lacking.to_compare == set(networks(2, 3))
    assert all(layers["fc1"] == Beside(se=CHEAP) for layers in lacking.beside.values())
    assert {
        each.se for each in missing(sweep_of(measure=("se_nbs",)), there, LAYERS).beside[NetworkId(1, 2)].values()
    } == {("nbs",)}
    done = {(network, layer): frozenset(names) for network in networks(2, 3) for layer, names in ALL.items()}
    assert not missing(sweep_of(measure=("se", "se_nbs")), dataclasses.replace(there, se=done), LAYERS)


def test_nulls_are_those_of_run_0_at_every_iteration_and_chance_levels_count() -> None:
    sweep, there = sweep_of(measure=("null",), chance=True), finished(2, 3)
    lacking = missing(sweep, there, LAYERS)
    assert lacking.chance.keys() == {NetworkId(0, 1)}
    assert lacking.beside.keys() == {NetworkId(0, 2), NetworkId(0, 3)}, "iteration 1 has five permutations anyway"
    assert lacking.beside[NetworkId(0, 2)]["conv1"] == Beside(nulls=((range(2), FREE),))
    assert lacking.beside[NetworkId(0, 2)]["out"].metrics == (*FREE, "cosine")
    assert lacking.without({NetworkId(0, 2)}).beside.keys() == {NetworkId(0, 3)}


def test_more_permutations_are_only_those_that_are_missing() -> None:
    sweep = sweep_of(measure=("null",), chance=True, permutations=20)
    first = dict.fromkeys(FREE, frozenset({0, 1}))
    there = dataclasses.replace(
        finished(2, 3),
        null={(NetworkId(0, 2), "conv1"): first | {"nbs": frozenset({0, 1, 4})}},
        chance={(NetworkId(0, 3), "conv1"): frozenset({"svcca"})},  # of an earlier request
    )
    lacking = missing(sweep, there, LAYERS).beside
    others = tuple(name for name in FREE if name != "nbs")
    assert lacking[NetworkId(0, 1)]["conv1"].nulls == ((range(5, 20), FREE),)
    assert lacking[NetworkId(0, 2)]["conv1"].nulls == (
        (range(2, 20), others),
        (range(2, 4), ("nbs",)),
        (range(5, 20), ("nbs",)),
    )
    assert dict(lacking[NetworkId(0, 3)]["conv1"].nulls)[range(5, 20)] == ("svcca",)


def test_run_10_comes_after_run_2() -> None:
    """And iteration 10 after iteration 2: in the order of their texts they would not."""
    sweep, there = sweep_of(11, 10), finished(11, 10, "all")
    served = finished_with(sweep, there, missing(sweep, there, LAYERS))
    assert served == [NetworkId(run, i) for run in range(11) for i in range(1, 11)]
    ends = [one.label for one in served if {one.run, one.iteration} <= {2, 10}]
    assert ends == [f"run {run}, iteration {i}" for run in (2, 10) for i in (2, 10)]
    backwards = {network: {"fc1": BOTH} for network in reversed(served)}
    (job,) = comparisons(backwards, sweep, slots=1)
    assert [network for network, _ in job.networks] == served
    chains = missing(sweep, NOTHING, LAYERS).chains
    assert list(chains.items()) == [(RunId.of(run), tuple(range(1, 11))) for run in range(11)]


def test_what_was_not_asked_for_is_not_dropped() -> None:
    pruned = networks(2, 3)
    there = contents([COMPLETE, *pruned], [COMPLETE, *pruned], pruned)
    small = sweep_of(1, 2)
    assert finished_with(small, there, missing(small, there, LAYERS)) == [NetworkId(0, 1), NetworkId(0, 2)]


def test_one_missing_metric_of_one_layer_keeps_the_activations() -> None:
    pruned = networks(2, 3)
    comparisons = dict(finished(2, 3).comparisons)
    comparisons[(NetworkId(0, 1), "out")] = frozenset(BOTH)
    there = Contents(frozenset([COMPLETE, *pruned]), frozenset([COMPLETE, *pruned]), comparisons)
    assert NetworkId(0, 1) not in finished_with(sweep_of(), there, missing(sweep_of(), there, LAYERS))


def test_a_folder_has_a_limit(tmp_path: Any) -> None:
    room = room_for_activations(SweepStore(Storage(tmp_path), "tiny"))
    assert room is not None
    assert room > 0
