"""What the tests look for in what is written (tests/invariants.py): each fault is said, and what is right has none."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import invariants
import numpy as np
import pytest
import torch
from faults import flips

from distsim.data import Dataset, probe_indices
from distsim.models import Layer, Network, build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream
from distsim.specs import COMPLETE, Identity, NetworkId, Pruning
from distsim.store import Storage, SweepStore
from distsim.store.commits import drop, read_mark
from distsim.store.paths import values_path
from distsim.training.pruning import Masks, apply_masks, full_masks, prune, remaining
from distsim.training.stepper import State

PROBLEM = dataclasses.replace(PROBLEMS["digits"].reduced_to(epochs=3, probe=40, train_limit=200), classes=tuple("01"))
IDENTITY = Identity(PROBLEM, "digest of the data")
CONV = Layer("conv1_1", "conv", "module")


@pytest.fixture
def network() -> Network:
    return build(PROBLEM, 2, torch_stream(0, "test"))


def pruned(network: Network, pruning: Pruning, times: int) -> list[Masks]:
    """The masks before and after each of so many prunings."""
    found = [full_masks(network, pruning)]
    for _ in range(times):
        found.append(prune(network, found[-1], pruning))
        apply_masks(network, found[-1])
    return found


def weights_of(network: Network) -> State:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pruning",
    [
        PROBLEM.pruning,
        Pruning(scope="global", conv_rate=0.29, fc_rate=0.29),
        Pruning(scope="local", conv_rate=0.1, fc_rate=0.7, biases=True, prune_output=False),
    ],
    ids=lambda pruning: pruning.scope,
)
def test_what_pruning_leaves_has_no_fault(network: Network, pruning: Pruning) -> None:
    steps = pruned(network, pruning, 4)
    for iteration, (before, masks) in enumerate(zip([steps[0], *steps], steps, strict=False)):
        assert list(invariants.count_faults(masks, network, pruning, iteration)) == []
        assert list(invariants.nesting_faults(before, masks)) == []
        assert list(invariants.count_faults(masks, network, pruning, iteration + 1)), "exact counts"
    assert list(invariants.zero_faults(weights_of(network), steps[-1])) == []
    assert list(invariants.finite_faults(weights_of(network))) == []


def test_a_mask_that_was_changed(network: Network) -> None:
    *_, before, masks = pruned(network, PROBLEM.pruning, 2)
    name = next(name for name in masks if name.endswith("weight"))

    def faults(**changes: torch.Tensor) -> list[str]:
        return list(invariants.count_faults(masks | changes, network, PROBLEM.pruning, 2))

    one = masks[name].clone()
    one.view(-1)[0] ^= True
    assert "prunings leave" in "; ".join(faults(**{name: one}))
    moved = masks[name].clone().view(-1)  # as many are alive as before, and one of them was dead
    dead, alive = (~before[name].view(-1)).nonzero()[0], moved.nonzero()[0]
    moved[dead], moved[alive] = True, False
    moved = moved.view(masks[name].shape)
    assert faults(**{name: moved}) == []
    said = list(invariants.nesting_faults(before, masks | {name: moved}))
    assert said == [f"parameters of {name} are alive that were dead earlier in the run"]


def test_dead_is_zero_and_alive_is_not(network: Network) -> None:
    masks = pruned(network, PROBLEM.pruning, 1)[-1]
    weights = weights_of(network)
    (name, mask) = max(masks.items(), key=lambda item: item[1].numel())
    place = tuple((~mask).nonzero()[0])
    weights[name][place] = 1e-38
    assert list(invariants.zero_faults(weights, masks)) == [f"a dead parameter of {name} is not zero"]
    weights[name][place] = -0.0
    alive = sum(int(mask.sum()) for mask in masks.values())
    allowed = max(1, int(invariants.ZEROS * alive))
    for count, place in enumerate(map(tuple, mask.nonzero()[: allowed + 1]), 1):
        weights[name][place] = 0.0
        said = list(invariants.zero_faults(weights, masks))
        assert said == ([] if count <= allowed else [f"{count} of {alive} parameters that are alive are zero"])


def test_weights_that_are_not_finite(network: Network) -> None:
    weights = weights_of(network)
    name = next(iter(weights))
    weights[name].view(-1)[3] = torch.nan
    assert list(invariants.finite_faults(weights)) == [f"{name} has values that are not finite"]


RECORD = {
    "run": 1,
    "iteration": 2,
    "accuracy": 0.5,
    "loss": 0.25,
    "remaining": 0.8,
    "remaining_pool": 0.64,
    "epochs": 2,
    "train_loss": [0.5, 0.25],
    "best_epoch": None,
    "reduced": True,
}


def test_a_record(network: Network) -> None:
    assert list(invariants.training_faults(RECORD, PROBLEM)) == []
    masks = pruned(network, PROBLEM.pruning, 1)[-1]
    said = dict(zip(("remaining", "remaining_pool"), remaining(network, masks), strict=True))
    assert list(invariants.remaining_faults(said, network, masks)) == []
    assert len(list(invariants.remaining_faults(RECORD, network, masks))) == 2
    off = said | {"remaining": np.nextafter(said["remaining"], 1)}
    assert len(list(invariants.remaining_faults(off, network, masks))) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accuracy", 1.5),
        ("accuracy", None),
        ("remaining", -0.1),
        ("remaining_pool", True),
        ("loss", float("nan")),
        ("train_loss", [0.5, None]),
        ("train_loss", [0.5, 0.5, 0.5]),
        ("epochs", 3),
        ("best_epoch", 0),
        ("best_epoch", "two"),
        ("reduced", False),
    ],
)
def test_a_record_with_a_wrong_value(field: str, value: Any) -> None:
    assert len(list(invariants.training_faults(RECORD | {field: value}, PROBLEM))) == 1


# --- the probe -------------------------------------------------------------------------------------------------------


def dataset(n: int) -> Dataset:
    labels = np.arange(n) % 2
    return Dataset(np.zeros((n, 1, 8, 8), np.uint8), labels, np.zeros((2, 1, 8, 8), np.uint8), labels[:2], tuple("01"))


def probe(n: int, size: int = 40, rule: str = "uniform", seed: int = 0) -> dict[str, list[int]]:
    return {"indices": probe_indices(dataset(n), size, rule, seed).tolist()}


@pytest.mark.parametrize("n", [40, 41, 60, 120, 200])
@pytest.mark.parametrize("seed", range(4))
def test_a_probe_is_recognised_without_the_data(n: int, seed: int) -> None:
    identity = dataclasses.replace(IDENTITY, seed=seed)
    assert list(invariants.probe_faults(probe(n, seed=seed), identity)) == []


@pytest.mark.parametrize("seed", range(4))
def test_another_seeds_probe(seed: int) -> None:
    assert list(invariants.probe_faults(probe(120, seed=seed + 1), IDENTITY)) == [
        "the probe is not what the seed draws"
    ]


def test_a_probe_of_many_images_is_recognised() -> None:
    large = dataclasses.replace(IDENTITY, problem=dataclasses.replace(PROBLEM, train_limit=None, probe=50))
    indices = probe(20_000, size=50)
    assert list(invariants.probe_faults(indices, large)) == []
    place = next(i for i in range(49) if indices["indices"][i] + 1 < indices["indices"][i + 1])
    indices["indices"][place] += 1
    assert list(invariants.probe_faults(indices, large)) == ["the probe is not what the seed draws"]


@pytest.mark.parametrize(
    "tree",
    [
        {"indices": []},
        {"indices": [*range(39)]},
        {"indices": [*range(39), 38]},
        {"indices": [*range(1, 40), 0]},
        {"indices": [*range(39), 200]},
        {"indices": [-1, *range(39)]},
        {"indices": [*range(39), 39.0]},
        {"indices": [True, *range(2, 41)]},
    ],
)
def test_what_is_no_probe(tree: Any) -> None:
    assert len(list(invariants.probe_faults(tree, IDENTITY))) == 1


def test_a_probe_of_the_first_images() -> None:
    first = dataclasses.replace(IDENTITY, problem=dataclasses.replace(PROBLEM, probe_rule="first"))
    assert list(invariants.probe_faults(probe(60, rule="first"), first)) == []
    assert list(invariants.probe_faults({"indices": [*range(1, 41)]}, first)) == [
        "the probe is not the first 40 images"
    ]


# --- comparisons -----------------------------------------------------------------------------------------------------

SIMILARITY = {"value": 0.5, "n": 40, "columns_x": 8, "columns_y": 16, "n_per_p": 2.5, "warning": "", "reason": ""}
SIMILARITY |= {"rank_x": 7, "rank_y": 16, "dead_x": 1, "dead_y": 0}


def test_a_similarity() -> None:
    def faults(metric: str = "svcca", **changes: Any) -> list[str]:
        return list(invariants.similarity_faults({metric: SIMILARITY | changes}, CONV))

    assert faults() == []
    assert faults("cosine") == ["cosine is not of layers of kind conv"]
    assert faults(n_per_p=40 / 8) == ["svcca: 40 rows are not 5.0 times its columns"]
    two = {"svcca": SIMILARITY | {"rank_y": 17}, "cka": SIMILARITY | {"rank_x": None, "rank_y": None}}
    assert list(invariants.similarity_faults(two, CONV)) == faults(rank_y=17) != []
    assert faults(rank_x=9) == faults(dead_y=17) == ["svcca: more dimensions or dead channels than columns"]


# --- a store ---------------------------------------------------------------------------------------------------------


def faulty(store: SweepStore, network: NetworkId, **changes: Any) -> None:
    """Commit the network again, with right digests, as a faulty writer would."""
    mark, step = store.mark(network), store.load_network(network)
    assert mark is not None
    drop(store.storage, network.path)
    files = {"probe.json": json.dumps({"indices": list(range(1, 61))}).encode()} if network.is_complete else None
    step = dataclasses.replace(step, **changes)
    store.commit_network(network, step, files, identity=mark.identity, environment=mark.environment)


def test_a_store_of_a_faulty_writer(tmp_path: Path) -> None:
    with flips.undrawn():
        assert flips.sweep(tmp_path, "--runs", "1", "--epochs", "1", "--retention", "all") == 0
    store = SweepStore(Storage(tmp_path), "digits")
    assert invariants.store_faults(store) == []
    step = store.load_network(NetworkId(0, 2))
    name = next(name for name in sorted(step.masks) if name.endswith("weight"))
    place = tuple((~store.load_network(NetworkId(0, 1)).masks[name]).nonzero()[0])
    step.masks[name][place], step.weights[name][place] = True, torch.inf
    faulty(store, NetworkId(0, 2), masks=step.masks, weights=step.weights, record=step.record | {"remaining": 1.0})
    store.drop_activations(NetworkId(0, 2))  # of the weights before
    faulty(store, COMPLETE)
    path = values_path(NetworkId(0, 1), "comparison", "fc1", store.contents().comparisons[NetworkId(0, 1), "fc1"])
    mark = read_mark(store.storage, path)
    assert mark is not None
    values = {metric: one | {"n_per_p": 77.0} for metric, one in mark.values.items()}
    store.storage.put(path, dataclasses.replace(mark, values=values).encode())
    said = "; ".join(invariants.store_faults(store))
    for fault in (
        f"run 0, iteration 2: {name} has values that are not finite",
        "parameters of the pool conv are alive, 2 prunings leave",
        f"parameters of {name} are alive that were dead earlier in the run",
        "its record says remaining",
        "the probe is not what the seed draws",
        "come from other weights than the network's",
        "run 0, iteration 1, fc1: cka: 60 rows are not 77.0 times its columns",
    ):
        assert fault in said, fault
