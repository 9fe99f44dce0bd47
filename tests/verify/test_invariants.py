"""What holds of every piece: each fault is said, and what a sweep computes has none."""

import copy
import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import pytest
import torch

from distsim.data import Dataset, probe_indices
from distsim.models import Layer, Network, build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream
from distsim.specs import Identity, Problem, Pruning, canonical_json
from distsim.training.pruning import Masks, apply_masks, full_masks, prune, remaining
from distsim.training.stepper import State
from distsim.verify import invariants

PROBLEM = dataclasses.replace(PROBLEMS["digits"].reduced_to(epochs=3, probe=40, train_limit=200), classes=tuple("01"))
IDENTITY = Identity(PROBLEM, "digest of the data")
CONV = Layer("conv1_1", "conv", "module")
OUT = Layer("out", "out", "module")
ROWS = (40, 8, 8, 16)


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
        assert list(invariants.mask_faults(masks, network, pruning, iteration)) == []
        assert list(invariants.nesting_faults(before, masks)) == []
        assert list(invariants.mask_faults(masks, network, pruning, iteration + 1)), "exact counts"
    assert list(invariants.zero_faults(weights_of(network), steps[-1])) == []
    assert list(invariants.state_faults(weights_of(network), network)) == []


def test_a_mask_that_was_changed(network: Network) -> None:
    *_, before, masks = pruned(network, PROBLEM.pruning, 2)
    name = next(name for name in masks if name.endswith("weight"))

    def faults(**changes: torch.Tensor) -> list[str]:
        return list(invariants.mask_faults(masks | changes, network, PROBLEM.pruning, 2))

    one = masks[name].clone()
    one.view(-1)[0] ^= True
    assert "prunings leave" in "; ".join(faults(**{name: one}))
    assert faults(**{name: masks[name][:1]}) == [f"the mask of {name} is {tuple(masks[name][:1].shape)} torch.bool"]
    assert "uint8" in faults(**{name: masks[name].to(torch.uint8)})[0]
    assert faults(other=one) == ["it has 'other', which the model has not"]
    lacking = {key: mask for key, mask in masks.items() if key != name}
    assert list(invariants.mask_faults(lacking, network, PROBLEM.pruning, 2)) == [f"it lacks '{name}'"]
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


def test_weights_that_are_not_the_models(network: Network) -> None:
    weights = weights_of(network)
    name = next(iter(weights))

    def faults(**changes: torch.Tensor) -> list[str]:
        return list(invariants.state_faults(weights | changes, network))

    assert faults(other=weights[name]) == ["it has 'other', which the model has not"]
    assert "the model's is" in faults(**{name: weights[name][:1]})[0]
    assert "float64" in faults(**{name: weights[name].double()})[0]
    broken = weights[name].clone()
    broken.view(-1)[3] = torch.nan
    assert faults(**{name: broken}) == [f"{name} has values that are not finite"]
    assert next(invariants.state_faults({}, network)).startswith("it lacks ")


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
    assert list(invariants.record_faults(RECORD, PROBLEM, (1, 2))) == []
    complete = RECORD | {"run": "complete", "iteration": 0}
    assert list(invariants.record_faults(complete, PROBLEM, None)) == []
    assert "run 1, iteration 2" in next(invariants.record_faults(RECORD, PROBLEM, (1, 1)))
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
    assert len(list(invariants.record_faults(RECORD | {field: value}, PROBLEM, (1, 2)))) == 1


@pytest.mark.parametrize("field", RECORD)
def test_a_record_that_lacks_a_field(field: str) -> None:
    lacking = {name: value for name, value in RECORD.items() if name != field}
    assert list(invariants.record_faults(lacking, PROBLEM, (1, 2))) == [f"its record lacks {field}"]


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
    assert list(invariants.probe_faults(probe(n, seed=seed), identity, True)) == []


@pytest.mark.parametrize("seed", range(4))
def test_another_seeds_probe(seed: int) -> None:
    assert list(invariants.probe_faults(probe(120, seed=seed + 1), IDENTITY, False)) == []
    assert list(invariants.probe_faults(probe(120, seed=seed + 1), IDENTITY, True)) == [
        "the probe is not what the seed draws"
    ]


def test_a_probe_of_many_images_is_recognised() -> None:
    large = dataclasses.replace(IDENTITY, problem=dataclasses.replace(PROBLEM, train_limit=None, probe=50))
    indices = probe(20_000, size=50)
    assert list(invariants.probe_faults(indices, large, True)) == []
    place = next(i for i in range(49) if indices["indices"][i] + 1 < indices["indices"][i + 1])
    indices["indices"][place] += 1
    assert list(invariants.probe_faults(indices, large, True)) == ["the probe is not what the seed draws"]


@pytest.mark.parametrize(
    "tree",
    [
        None,
        {},
        {"indices": "0, 1"},
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
    assert len(list(invariants.probe_faults(tree, IDENTITY, False))) == 1


def test_a_probe_of_the_first_images() -> None:
    first = dataclasses.replace(IDENTITY, problem=dataclasses.replace(PROBLEM, probe_rule="first"))
    assert list(invariants.probe_faults(probe(60, rule="first"), first, True)) == []
    assert list(invariants.probe_faults({"indices": [*range(1, 41)]}, first, True)) == [
        "the probe is not the first 40 images"
    ]


# --- arrays ----------------------------------------------------------------------------------------------------------

METADATA: dict[str, Any] = {
    "node_type": "array",
    "shape": [40, 8, 8, 16],
    "data_type": "float16",
    "attributes": {"position": 3, "kind": "conv"},
    "codecs": [
        {
            "name": "sharding_indexed",
            "configuration": {
                "codecs": [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 0}}, {"name": "crc32c"}],
                "index_codecs": [{"name": "bytes"}, {"name": "crc32c"}],
            },
        }
    ],
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [16, 3, 8, 16]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
}


def array_faults(metadata: Any, problem: Problem = PROBLEM, **choices: Any) -> list[str]:
    identity = dataclasses.replace(IDENTITY, problem=problem, **choices)
    return invariants.array_faults(metadata, identity, (8, 8, 16), 3, CONV)


def test_an_array() -> None:
    assert array_faults(METADATA) == []
    assert array_faults(METADATA | {"data_type": "float32"}) == [], "float16 could not hold it"
    assert len(array_faults(METADATA, storage="float32")) == 1
    assert len(array_faults(METADATA, dataclasses.replace(PROBLEM, probe=41))) == 1
    for name, value in {
        "shape": [40, 8, 8, 17],
        "node_type": "group",
        "data_type": "float64",
        "attributes": {"position": 2, "kind": "conv"},
        "codecs": [{"name": "bytes"}, {"name": "gzip"}],
        "chunk_grid": {"name": "rectangular"},
        "chunk_key_encoding": {"name": "v2"},
    }.items():
        assert len(array_faults(METADATA | {name: value})) == 1, name
    inside = copy.deepcopy(METADATA)
    inside["codecs"][0]["configuration"]["index_codecs"].append({"name": "blosc"})
    assert array_faults(inside) == ["it is encoded by blosc, which nothing here writes"]
    for nonsense in (None, [], {}, {"shape": 3}, METADATA | {"codecs": None}, METADATA | {"codecs": [3]}):
        assert len(array_faults(nonsense)) >= 1


def test_the_objects_of_an_array() -> None:
    names = invariants.chunk_names(METADATA)
    assert len(names) == 3 * 3
    assert names[:4] == ["c/0/0/0/0", "c/0/1/0/0", "c/0/2/0/0", "c/1/0/0/0"]


# --- comparisons -----------------------------------------------------------------------------------------------------

PCA = {"rank_x": 16, "rank_y": 15, "dead_x": 0, "dead_y": 1, "warning": "", "reason": ""}
CHANNELS = {"value": 0.5, "n": 40 * 64, "columns_x": 16, "columns_y": 16, "n_per_p": 160.0} | PCA
KERNEL = {"value": 0.5, "n": 40, "columns_x": 1024, "columns_y": 1024, "n_per_p": 40 / 1024} | PCA
NO_RANKS = {"rank_x": None, "rank_y": None}
VALUES = {"cka": KERNEL, "svcca": CHANNELS}


def test_a_comparison() -> None:
    def faults(values: Any, named: tuple[str, ...] = ("cka", "svcca"), layer: Layer | None = CONV) -> list[str]:
        return invariants.comparison_faults(values, named, layer, ROWS if layer is not None else ())

    assert faults(VALUES) == faults(VALUES, layer=None) == []
    missing = KERNEL | {"value": None, "reason": "no variance"}
    assert faults(VALUES | {"cka": missing}) == []
    assert len(faults(VALUES, named=("cka",))) == 1
    assert len(faults(None)) == len(faults({"cka": KERNEL})) == 1
    assert faults({"cosine": KERNEL}, ("cosine",)) == ["cosine is not of layers of kind conv"]
    for change in (
        {"value": None},
        {"value": float("inf")},
        {"value": True},
        {"reason": "why"},
        {"n": 41},
        {"n": -40},
        {"columns_x": 16},
        {"rank_x": 1.0},
        {"dead_y": None},
        {"n_per_p": 1.0},
        {"warning": None},
    ):
        assert len(faults(VALUES | {"cka": KERNEL | change})) == 1, change
    assert len(faults(VALUES | {"svcca": KERNEL})) == 1, "rows of the other view"
    assert faults(VALUES | {"cka": KERNEL | NO_RANKS}) == [], "since 0.2; before, the channels' ranks stood here too"
    assert len(faults(VALUES | {"svcca": CHANNELS | NO_RANKS})) == 1
    assert len(faults(VALUES | {"cka": {}})) == len(faults(VALUES | {"cka": 3})) == 1
    assert faults({"mine": KERNEL}, ("mine",)) == [], "a metric that a script registered is not known here"


def test_what_comes_by_chance() -> None:
    def faults(one: Any) -> list[str]:
        return invariants.chance_faults({"cka": one}, ("cka",), CONV)

    assert faults({"values": [0.1, None, 0.2, 0.3, 0.4], "reasons": ["", "no variance", "", "", ""]}) == []
    assert len(faults({"values": [0.1] * 4, "reasons": [""] * 4})) == 1
    assert len(faults({"values": [0.1] * 5, "reasons": [""] * 4})) == 1
    assert len(faults({"values": [0.1] * 4 + [None], "reasons": [""] * 5})) == 1
    assert len(faults({"values": 3, "reasons": 4})) == len(faults(None)) == 1


def test_a_tile_of_pairs() -> None:
    values = {"layer": "conv1_1", "pairs": [[[0, 1], [1, 1], VALUES], [None, [0, 2], VALUES]]}
    pairs = [((0, 1), (1, 1)), (None, (0, 2))]
    named = canonical_json([sorted(map(str, pairs)), ["cka", "svcca"]]).encode()
    key = hashlib.sha256(named).hexdigest()[:16]
    assert invariants.pairs_faults(values, key, CONV, ROWS) == []
    assert invariants.pairs_faults(values, key[::-1], CONV, ROWS) == [
        "it holds other pairs than those that it is named by"
    ]
    assert len(invariants.pairs_faults(values, key, OUT, ROWS)) == 1
    wrong = json.loads(json.dumps(values))
    wrong["pairs"][1][2]["cka"]["value"] = None
    assert invariants.pairs_faults(wrong, key, CONV, ROWS) == [
        "complete network and run 0, iteration 2: cka is None, reason ''"
    ]
    for nonsense in (None, {}, {"layer": "conv1_1", "pairs": [1]}, {"layer": "conv1_1", "pairs": [[1, 2, {}]]}):
        assert invariants.pairs_faults(nonsense, key, CONV, ROWS) == ["it holds no values of pairs"]
