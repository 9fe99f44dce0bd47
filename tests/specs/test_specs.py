import dataclasses
import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsim.problems import PROBLEMS
from distsim.specs import (
    METRICS,
    Extent,
    Identity,
    Problem,
    Pruning,
    Recipe,
    Sweep,
    canonical_json,
    differences,
    identity_from_dict,
    pruned_count,
)

RECIPE = Recipe(epochs=10, batch_size=4)
PRUNING = Pruning()
PROBLEM = Problem("toy", "digits", "vgg_digits", 8, 1, RECIPE, PRUNING)
IDENTITY = Identity(PROBLEM, data_digest="0" * 64)
EXTENT = Extent(runs=1, iterations=1)


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (RECIPE, {"epochs": 0}, "epochs must be at least 1, got 0"),
        (RECIPE, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (RECIPE, {"optimizer": "lion"}, r"optimizer must be one of \('adam', 'sgd', 'fast_sgd'\), got 'lion'"),
        (RECIPE, {"schedule": "cosine"}, r"schedule must be one of \('constant', 'step', 'triangle'\), got 'cosine'"),
        (RECIPE, {"augment": ("flip", "mixup", "jitter")}, r"augment knows .*, not \['jitter', 'mixup'\]"),
        (RECIPE, {"lr": 0.0}, "lr must be positive, got 0.0"),
        (RECIPE, {"lr": math.nan}, "lr must be a finite number, got nan"),
        (RECIPE, {"validation": 0.0}, r"validation must be in \(0, 1\), got 0.0"),
        (RECIPE, {"validation": 1.0}, r"validation must be in \(0, 1\), got 1.0"),
        (RECIPE, {"patience": 0}, "patience must be at least 1, got 0"),
        (PRUNING, {"scope": "layer"}, r"scope must be one of \('global', 'local', 'mixed'\), got 'layer'"),
        (PRUNING, {"rewind": "wr"}, r"rewind must be one of \('WR', 'LRR', 'FT'\), got 'wr'"),
        (PRUNING, {"conv_rate": 0.0}, r"conv_rate must be in \(0, 1\), got 0.0"),
        (PRUNING, {"fc_rate": 1.0}, r"fc_rate must be in \(0, 1\), got 1.0"),
        (PRUNING, {"conv_rate": 0.1}, "global pruning has one rate, got 0.1 and 0.2"),
        (PRUNING, {"rewind_epoch": -1}, "rewind_epoch must not be negative, got -1"),
        (PRUNING, {"finetune_epochs": 0}, "finetune_epochs must be at least 1, got 0"),
        (PROBLEM, {"probe": 0}, "probe must be at least 1, got 0"),
        (PROBLEM, {"probe_rule": "last"}, "probe_rule must be uniform or first, got 'last'"),
        (PROBLEM, {"channels": 2}, "channels must be 1 or 3, got 2"),
        (PROBLEM, {"classes": ("dog", "cat", "dog")}, r"classes are repeated: \('dog', 'cat', 'dog'\)"),
        (PROBLEM, {"runs": 0}, "runs must be at least 1, got 0"),
        (PROBLEM, {"iterations": 0}, "iterations must be at least 1, got 0"),
        (
            PROBLEM,
            {"pruning": Pruning(rewind="WR", rewind_epoch=10)},
            "rewind_epoch 10 leaves nothing to train in 10 epochs",
        ),
        (IDENTITY, {"threads": 0}, "threads must be at least 1, got 0"),
        (IDENTITY, {"precision": "float16"}, r"precision must be one of \(.float32., .bfloat16.\), got .float16."),
        (IDENTITY, {"storage": "float16"}, "storage must be auto or float32, got 'float16'"),
        (EXTENT, {"metrics": ("cka", "rsa")}, r"unknown metrics \['rsa'\]; there are \('mean_cca', "),
        (EXTENT, {"runs": 0}, "runs must be at least 1, got 0"),
        (EXTENT, {"iterations": 0}, "iterations must be at least 1, got 0"),
        (EXTENT, {"retention": "none"}, "retention must be reference or all, got 'none'"),
        (RECIPE, {"epochs": 1.5}, r"epochs must be a whole number \(64 bits\), got 1.5"),
        (RECIPE, {"epochs": True}, r"epochs must be a whole number \(64 bits\), got True"),
        (RECIPE, {"batch_size": 2 * 10**9}, "batch_size must be at most 1,000,000,000, got 2,000,000,000"),
        (RECIPE, {"lr": "0.1"}, "lr must be a finite number, got '0.1'"),
        (RECIPE, {"lr": math.inf}, "lr must be a finite number, got inf"),
        (RECIPE, {"lars": 1}, "lars must be True or False, got 1"),
        (RECIPE, {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        (RECIPE, {"weight_decay": -1e-4}, "weight_decay must not be negative, got -0.0001"),
        (RECIPE, {"factor": 0.0}, "factor must be positive, got 0.0"),
        (RECIPE, {"milestones": [3]}, r"milestones must be a tuple, each a whole number \(64 bits\), got \[3\]"),
        (RECIPE, {"milestones": (-1,)}, r"milestones must not be negative, got \(-1,\)"),
        (RECIPE, {"schedule": "triangle", "peak": 10.5}, "peak 10.5 is after the last of 10 epochs"),
        (RECIPE, {"patience": 2.0}, r"patience must be a whole number \(64 bits\) or None, got 2.0"),
        (RECIPE, {"normalise": ((0.5,), (0.5, 0.5))}, "normalise has 1 means and 2 standard deviations"),
        (RECIPE, {"normalise": ((0.5,), (0.0,))}, r"normalise: standard deviations must be positive, got \(0.0,\)"),
        (PROBLEM, {"name": 3}, "name must be text, got 3"),
        (PROBLEM, {"name": "x" * 101}, "a problem's name is a folder's"),
        (PROBLEM, {"train_limit": 0}, "train_limit must be at least 1, got 0"),
        (PROBLEM, {"recipe": None}, "recipe must be a Recipe, got None"),
        (
            PROBLEM,
            {"recipe": Recipe(epochs=1, batch_size=1, normalise=((0.5,) * 3, (0.5,) * 3))},
            "normalise has constants of 3 channels, images have 1",
        ),
        (IDENTITY, {"threads": 1025}, "threads must be at most 1,024, got 1,025"),
        (IDENTITY, {"seed": 2**63}, r"seed must be a whole number \(64 bits\), got 9223372036854775808"),
        (EXTENT, {"runs": 1001, "iterations": 100}, "runs x iterations must be at most 100,000 networks, got 100,100"),
        (EXTENT, {"metrics": "cka"}, "metrics must be a tuple, each text, got 'cka'"),
        (Sweep(IDENTITY, EXTENT), {"pack": 0}, "pack must be at least 1, got 0"),
        (Sweep(IDENTITY, EXTENT), {"resources": (("cpu", 0.0),)}, "resources: cpu must be above zero, got 0.0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(spec, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(spec, **change)


def test_values_at_the_edge_are_accepted():
    Recipe(epochs=1, batch_size=1, patience=1, validation=1e-9)
    dataclasses.replace(PROBLEM, pruning=Pruning(rewind="WR", rewind_epoch=9))  # one epoch is left
    Pruning(scope="mixed", conv_rate=0.1, fc_rate=0.2)
    Pruning(scope="local", conv_rate=0.1, fc_rate=0.2)
    Recipe(epochs=10**9, batch_size=1, momentum=0, lr=1, schedule="triangle", peak=10**9)  # whole numbers are numbers
    Extent(runs=1000, iterations=100)


def test_specs_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPE.epochs = 5


def test_an_unknown_key_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        Recipe(epochs=1, batch_size=1, learning_rate=0.1)


# --- shorter recipes and problems ---


def test_a_shortened_step_schedule_keeps_its_shape():
    vgg16 = PROBLEMS["vgg16_cifar10"].recipe
    assert vgg16.shortened(16).milestones == (8, 12)
    assert vgg16.shortened(320).milestones == (160, 240)
    assert vgg16.shortened(16) == dataclasses.replace(vgg16, epochs=16, milestones=(8, 12))
    assert PROBLEMS["vgg_svhn"].recipe.shortened(5).milestones == (2, 4)  # 7 / 3 and 12 / 3
    assert vgg16.shortened(1).milestones == (1, 1)  # not 0: the first epoch has the full rate


def test_a_shortened_triangle_keeps_its_shape():
    fast = PROBLEMS["resnet_fast_cifar10"].recipe.shortened(6)
    assert (fast.epochs, fast.peak, fast.lr) == (6, 1.25, 0.4)


def test_the_late_reset_moves_before_the_last_epoch():
    cifar2 = PROBLEMS["cifar2"]  # WR to epoch 3
    epochs = {n: cifar2.reduced_to(epochs=n).pruning.rewind_epoch for n in (1, 2, 3, 4, 20)}
    assert epochs == {1: 0, 2: 1, 3: 2, 4: 3, 20: 3}


def test_reduced_to_changes_what_it_is_told_and_marks_it():
    cifar2 = PROBLEMS["cifar2"]
    small = cifar2.reduced_to(probe=100, train_limit=500)
    assert small == dataclasses.replace(cifar2, probe=100, train_limit=500, reduced=True)
    assert cifar2.reduced_to(epochs=5).reduced
    assert cifar2.reduced_to() is cifar2
    assert cifar2.reduced_to(epochs=50, probe=5000) == cifar2  # nothing is smaller: claims keep their force
    assert not cifar2.reduced


# --- how many weights go ---


def test_pruned_count_takes_the_rate_as_written():
    assert 0.29 * 100 < 29  # what int(rate * n) would stumble over
    assert pruned_count(0.29, 100) == 29
    assert pruned_count(0.1, 30) == 3
    assert pruned_count(0.2, 10) == 2


def test_a_fraction_below_one_prunes_nothing():
    assert [pruned_count(0.2, n) for n in range(6)] == [0, 0, 0, 0, 0, 1]


@given(st.integers(1, 9999), st.integers(0, 2 * 10**7))
def test_pruned_count_is_the_exact_floor(ten_thousandths, survivors):
    rate = ten_thousandths / 10_000
    assert pruned_count(rate, survivors) == Fraction(ten_thousandths, 10_000) * survivors // 1


def test_iterated_counts_of_the_papers():
    survivors, vgg16 = 1_000_000, 14_715_584
    for _ in range(20):
        survivors -= pruned_count(0.2, survivors)
        vgg16 -= pruned_count(0.2, vgg16)
    # 1e6 weights: 0.8^20 is 11,529.2, and each floor leaves a little more
    assert survivors == 11_531
    assert vgg16 == 169_661


# --- identity ---


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_an_identity_survives_json(name):
    problem = PROBLEMS[name]
    identity = Identity(problem, data_digest="ab" * 32, seed=3, threads=2, storage="float32")
    tree = json.loads(canonical_json(identity.as_dict()))
    again = identity_from_dict(tree)
    extent = {"runs": problem.runs, "iterations": problem.iterations, "paper": problem.paper}
    assert dataclasses.replace(again, problem=dataclasses.replace(again.problem, **extent)) == identity
    assert again.hash == identity.hash
    assert differences(again.as_dict(), tree) == []


def test_reading_an_identity_leaves_the_tree_as_it_was():
    tree = IDENTITY.as_dict()
    identity_from_dict(tree)
    assert tree == IDENTITY.as_dict()


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("recipe", "recipe must be an object with fields, got None"),
        ("pruning", "pruning must be an object"),
        ("size", "size"),
    ],
)
def test_an_identity_without_a_field_is_refused(field, message):
    tree = IDENTITY.as_dict()
    del tree["problem"][field]
    with pytest.raises(TypeError, match=message):
        identity_from_dict(tree)


def test_an_identity_with_an_unknown_field_is_refused():
    tree = IDENTITY.as_dict()
    tree["problem"]["recipe"]["warmup"] = 5
    with pytest.raises(TypeError, match="unexpected keyword argument 'warmup'"):
        identity_from_dict(tree)


def test_identities_hash_differently_for_different_problems():
    hashes = {Identity(problem, data_digest="0" * 64).hash for problem in PROBLEMS.values()}
    assert len(hashes) == len(PROBLEMS)


BASE = Identity(
    dataclasses.replace(PROBLEM, recipe=dataclasses.replace(RECIPE, patience=5), pruning=Pruning(scope="local")),
    data_digest="0" * 64,
)
# another valid value for each field that determines a number
OTHER = {
    Identity: {
        "data_digest": "1" * 64,
        "seed": 1,
        "threads": 2,
        "precision": "bfloat16",
        "deterministic": True,
        "storage": "float32",
        "comparison": "fast",
        "format": 99,
    },
    Problem: {
        "name": "other",
        "source": "mnist",
        "model": "lenet5",
        "size": 28,
        "channels": 3,
        "classes": ("1", "0"),
        "probe": 7,
        "probe_rule": "first",
        "train_limit": 100,
        "reduced": True,
    },
    Recipe: {
        "epochs": 11,
        "batch_size": 5,
        "optimizer": "adam",
        "lr": 0.2,
        "momentum": 0.8,
        "weight_decay": 0.1,
        "schedule": "step",
        "milestones": (3,),
        "factor": 0.5,
        "peak": 2.0,
        "lars": True,
        "augment": ("flip",),
        "patience": 6,
        "validation": 0.2,
        "normalise": ((0.5,), (0.5,)),
    },
    Pruning: {
        "scope": "mixed",
        "conv_rate": 0.3,
        "fc_rate": 0.3,
        "biases": True,
        "prune_output": False,
        "rewind": "WR",
        "rewind_epoch": 1,
        "finetune_epochs": 3,
    },
}
EXTENT_ONLY = {"runs", "iterations", "paper"}
NESTED = {"problem", "recipe", "pruning"}


def changed(kind, field, value):
    change = {field: value}
    if kind is Recipe:
        change = {"recipe": dataclasses.replace(BASE.problem.recipe, **change)}
    if kind is Pruning:
        change = {"pruning": dataclasses.replace(BASE.problem.pruning, **change)}
    if kind is not Identity:
        change = {"problem": dataclasses.replace(BASE.problem, **change)}
    return dataclasses.replace(BASE, **change)


@pytest.mark.parametrize("kind", list(OTHER), ids=lambda kind: kind.__name__)
def test_every_field_of_the_identity_is_in_its_hash(kind):
    names = {field.name for field in dataclasses.fields(kind)} - EXTENT_ONLY - NESTED
    assert names == set(OTHER[kind])  # a new field needs a line in OTHER
    others = [changed(kind, field, value) for field, value in OTHER[kind].items()]
    assert len({BASE.hash, *(other.hash for other in others)}) == len(others) + 1
    for field, other in zip(OTHER[kind], others, strict=True):
        (line,) = differences(other.as_dict(), BASE.as_dict())
        prefix = {Identity: "", Problem: "problem.", Recipe: "problem.recipe.", Pruning: "problem.pruning."}[kind]
        assert line.startswith(f"{prefix}{field}: ")


@pytest.mark.parametrize("change", [{"runs": 99}, {"iterations": 99}, {"paper": "mine"}])
def test_the_extent_is_not_part_of_the_identity(change):
    other = dataclasses.replace(BASE, problem=dataclasses.replace(BASE.problem, **change))
    assert other.hash == BASE.hash
    assert differences(other.as_dict(), BASE.as_dict()) == []


def test_differences_say_what_is_asked_for_and_what_is_there():
    ours = {"a": {"x": 1, "y": [1, 2]}, "b": None}
    theirs = {"a": {"x": 2, "y": [1, 2]}, "c": True}
    assert differences(ours, theirs) == [
        "a.x: 1 asked for, 2 in the store",
        "b: None asked for, '(absent)' in the store",
        "c: '(absent)' asked for, True in the store",
    ]


def test_canonical_json_is_one_text_for_one_value():
    assert canonical_json({"b": 1, "a": [0.1, None]}) == '{"a":[0.1,null],"b":1}'
    with pytest.raises(ValueError, match="Out of range float values"):
        canonical_json(math.nan)


def test_an_extent_takes_any_of_the_metrics():
    assert Extent(1, 1).metrics == METRICS
    assert Extent(1, 1, metrics=("cka",)).metrics == ("cka",)
