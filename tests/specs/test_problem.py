import dataclasses
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsim.problems import PROBLEMS
from distsim.specs import Problem, Pruning, Recipe, pruned_count
from distsim.specs.fields import to_dict

RECIPE = Recipe(epochs=10, batch_size=4)
PRUNING = Pruning()
PROBLEM = Problem("toy", "digits", "vgg_digits", 8, 1, RECIPE, PRUNING)


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (RECIPE, {"epochs": 0}, "epochs must be at least 1, got 0"),
        (RECIPE, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (RECIPE, {"optimizer": "lion"}, r"optimizer must be adam, sgd or fast_sgd, got 'lion'"),
        (RECIPE, {"schedule": "cosine"}, r"schedule must be constant, step or triangle, got 'cosine'"),
        (
            RECIPE,
            {"augment": ("flip", "mixup", "jitter")},
            r"augment must be a tuple, each crop, flip, affine or cutout, got \('flip', 'mixup', 'jitter'\)",
        ),
        (RECIPE, {"lr": 0.0}, "lr must be positive, got 0.0"),
        (RECIPE, {"lr": math.nan}, "lr must be a finite number, got nan"),
        (RECIPE, {"validation": 0.0}, r"validation must be in \(0, 1\), got 0.0"),
        (RECIPE, {"validation": 1.0}, r"validation must be in \(0, 1\), got 1.0"),
        (RECIPE, {"patience": 0}, "patience must be at least 1, got 0"),
        (PRUNING, {"scope": "layer"}, r"scope must be global, local or mixed, got 'layer'"),
        (PRUNING, {"rewind": "wr"}, r"rewind must be WR, LRR or FT, got 'wr'"),
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
        (RECIPE, {"milestones": (-1,)}, r"milestones must not be negative, got -1"),
        (RECIPE, {"schedule": "triangle", "peak": 10.5}, "peak 10.5 is after the last of 10 epochs"),
        (RECIPE, {"patience": 2.0}, r"patience must be a whole number \(64 bits\) or None, got 2.0"),
        (RECIPE, {"normalise": ((0.5,), (0.5, 0.5))}, "normalise has 1 means and 2 standard deviations"),
        (RECIPE, {"normalise": ((0.5,), (0.0,))}, r"normalise: standard deviations must be positive, got \(0.0,\)"),
        (PROBLEM, {"name": 3}, "name must be text, got 3"),
        (PROBLEM, {"name": "x" * 101}, "a problem's name must be the name of a folder"),
        (PROBLEM, {"train_limit": 0}, "train_limit must be at least 1, got 0"),
        (PROBLEM, {"size": 4097}, "size must be at most 4,096, got 4,097"),
        (RECIPE, {"milestones": (1,) * 1001}, "at most 1,000 milestones are allowed, got 1,001"),
        (PROBLEM, {"recipe": None}, "recipe must be a Recipe, got None"),
        (PROBLEM, {"name": "lease"}, "a problem's name must be .* and not figures, tune, lease, control; got 'lease'"),
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


def test_a_recipe_is_shortened_to_a_number_of_epochs():
    for epochs, said in (
        (0, "at least 1, got 0"),
        (1.5, r"a whole number \(64 bits\), got 1.5"),
        (True, "a whole number"),
        ("3", "a whole number"),
    ):
        with pytest.raises(ValueError, match=f"epochs must be {said}"):
            RECIPE.shortened(epochs)


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


def test_layers_are_patterns_given_as_a_list_or_a_tuple():
    listed = dataclasses.replace(PROBLEMS["digits"], layers=["conv*", "out"])
    assert listed.layers == ("conv*", "out")
    assert dataclasses.replace(listed, layers=("conv*", "out")) == listed
    with pytest.raises(ValueError, match="layers: a pattern is empty"):
        dataclasses.replace(listed, layers=["conv*", ""])
    with pytest.raises(ValueError, match="layers must be "):
        dataclasses.replace(listed, layers="conv*")


def test_without_layers_the_hash_is_that_of_stores_that_had_none():
    assert "layers" not in to_dict(PROBLEMS["digits"])
    assert to_dict(dataclasses.replace(PROBLEMS["digits"], layers=["out"]))["layers"] == ["out"]
