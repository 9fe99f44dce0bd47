"""The problems against SPEC §1, written out a second time: a slip of the pen in either shows."""

import dataclasses
import itertools
from typing import get_args

import numpy as np
import pytest

from distsim.data import Dataset, load
from distsim.environment import threads
from distsim.models import MODELS
from distsim.problems import PROBLEMS, departures
from distsim.specs import Problem, Pruning, Recipe, Rewind, Scope
from distsim.sweep.order import identify
from distsim.training.chain import Trainer

CLASSES = {
    "cifar2": "automobile truck",
    "cifar4": "automobile truck airplane ship",
    "cifar6": "automobile truck airplane ship cat dog",
    "cifar8": "automobile truck airplane ship cat dog deer horse",
    "cifar10": "automobile truck airplane ship cat dog deer horse bird frog",
    "vgg16_cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "resnet_fast_cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "vgg_svhn": "",  # all ten
    "lenet5_mnist": "",
    "digits": "",
}
# epochs, batch, optimizer, lr, weight decay, schedule, milestones, peak, patience
RECIPES = {
    "cifar2": (50, 128, "adam", 1e-3, 5e-4, "constant", (), 0, None),
    "cifar4": (50, 128, "adam", 1e-3, 5e-4, "constant", (), 0, None),
    "cifar6": (100, 128, "adam", 1e-3, 5e-4, "constant", (), 0, None),
    "cifar8": (200, 128, "adam", 1e-3, 5e-4, "constant", (), 0, 20),
    "cifar10": (200, 128, "adam", 1e-3, 5e-4, "constant", (), 0, 20),
    "vgg16_cifar10": (160, 128, "sgd", 0.1, 1e-4, "step", (80, 120), 0, None),
    "resnet_fast_cifar10": (24, 512, "fast_sgd", 0.4, 5e-4, "triangle", (), 5, None),
    "vgg_svhn": (15, 50, "sgd", 0.1, 1e-4, "step", (7, 12), 0, None),
    "lenet5_mnist": (15, 128, "sgd", 0.1, 1e-4, "step", (10, 12), 0, None),
    "digits": (15, 64, "adam", 2e-3, 5e-4, "step", (8, 12), 0, None),
}
# scope, conv rate, fc rate, biases, output, rewind, to epoch
PRUNINGS = {
    "cifar2": ("mixed", 0.1, 0.2, True, False, "WR", 3),
    "cifar4": ("mixed", 0.1, 0.2, True, False, "WR", 3),
    "cifar6": ("mixed", 0.1, 0.2, True, False, "WR", 3),
    "cifar8": ("mixed", 0.2, 0.2, True, False, "WR", 3),
    "cifar10": ("mixed", 0.2, 0.2, True, False, "WR", 3),
    "vgg16_cifar10": ("global", 0.2, 0.2, False, True, "LRR", 0),
    "resnet_fast_cifar10": ("global", 0.2, 0.2, False, True, "LRR", 0),
    "vgg_svhn": ("global", 0.2, 0.2, False, True, "LRR", 0),
    "lenet5_mnist": ("global", 0.5, 0.5, True, False, "LRR", 0),
    "digits": ("mixed", 0.2, 0.2, True, False, "WR", 1),
}
# source, model, size, channels, runs, iterations, probe, probe rule
REST = {
    "cifar2": ("cifar10", "vgg_cifar2", 32, 3, 20, 20, 5000, "uniform"),
    "cifar4": ("cifar10", "vgg_cifar4", 32, 3, 20, 20, 5000, "uniform"),
    "cifar6": ("cifar10", "vgg_cifar6", 32, 3, 20, 20, 5000, "uniform"),
    "cifar8": ("cifar10", "vgg_cifar8", 32, 3, 20, 20, 5000, "uniform"),
    "cifar10": ("cifar10", "vgg_cifar8", 32, 3, 20, 20, 5000, "uniform"),
    "vgg16_cifar10": ("cifar10", "vgg16_bn", 32, 3, 20, 20, 5000, "uniform"),
    "resnet_fast_cifar10": ("cifar10", "resnet_fast", 32, 3, 5, 20, 5000, "uniform"),
    "vgg_svhn": ("svhn", "vgg_svhn", 32, 3, 5, 20, 5000, "uniform"),
    "lenet5_mnist": ("mnist", "lenet5", 28, 1, 1, 2, 500, "first"),
    "digits": ("digits", "vgg_digits", 8, 1, 4, 6, 1000, "uniform"),
}
P1_STEPS, P2_STEPS = ("crop", "flip", "affine"), ("crop", "flip", "affine", "cutout")
AUGMENT = {
    **dict.fromkeys(("cifar2", "cifar4", "cifar6", "cifar8", "cifar10"), P1_STEPS),
    **dict.fromkeys(("vgg16_cifar10", "resnet_fast_cifar10"), P2_STEPS),
    **dict.fromkeys(("vgg_svhn", "lenet5_mnist", "digits"), ()),
}
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
NORMALISE = dict.fromkeys(CLASSES, CIFAR) | {
    "vgg_svhn": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "lenet5_mnist": ((0.1307,), (0.3081,)),
    "digits": None,  # computed from the training set
}

each_problem = pytest.mark.parametrize("name", sorted(CLASSES))


def test_there_are_nine_rows_and_digits():
    assert set(PROBLEMS) == set(CLASSES)
    assert all(name == problem.name for name, problem in PROBLEMS.items())


@each_problem
def test_classes(name):
    assert PROBLEMS[name].classes == tuple(CLASSES[name].split())


@each_problem
def test_recipe(name):
    r = PROBLEMS[name].recipe
    found = (r.epochs, r.batch_size, r.optimizer, r.lr, r.weight_decay, r.schedule, r.milestones, r.peak, r.patience)
    assert found == RECIPES[name]
    assert (r.momentum, r.factor, r.validation) == (0.9, 0.1, 0.1)
    assert r.augment == AUGMENT[name]
    assert r.normalise == NORMALISE[name]


@each_problem
def test_pruning(name):
    p = PROBLEMS[name].pruning
    found = (p.scope, p.conv_rate, p.fc_rate, p.biases, p.prune_output, p.rewind, p.rewind_epoch)
    assert found == PRUNINGS[name]
    assert p.finetune_epochs == 10


@each_problem
def test_data_model_and_extent(name):
    p = PROBLEMS[name]
    assert (p.source, p.model, p.size, p.channels, p.runs, p.iterations, p.probe, p.probe_rule) == REST[name]
    assert p.model in MODELS
    assert p.train_limit is None
    assert not p.reduced


def test_any_pruning_goes_with_any_model():
    """Every combination of model, pool scope and rewinding can be written down."""
    recipe = Recipe(epochs=5, batch_size=8)
    for model, scope, rewind in itertools.product(MODELS, get_args(Scope), get_args(Rewind)):
        Problem("mine", "folder", model, 32, 3, recipe, Pruning(scope=scope, rewind=rewind, rewind_epoch=2))


@pytest.mark.parametrize("seed", range(3))
def test_digits_trains_well_whatever_the_seed(seed):
    """About 2 s a seed. bench/digits.py looks at 32 of them."""
    problem = PROBLEMS["digits"]
    data = load(problem, "")
    with threads(1):
        complete = Trainer(identify(problem, data, seed=seed), data).complete()
    assert complete.record["accuracy"] > 0.97


@pytest.mark.parametrize(
    ("name", "classes", "reduced"),
    [
        ("vgg16_cifar10", ("automobile", "truck"), False),  # what it says of these images stands beside each verdict
        ("vgg16_cifar10", ("ant", "bee"), True),
        ("vgg_svhn", ("0", "1"), False),
        ("vgg_svhn", ("0", "nought"), True),
    ],
)
def test_other_classes_under_a_papers_name_are_a_reduced_problem(name, classes, reduced):
    images, labels = np.zeros((4, 3, 32, 32), np.uint8), np.arange(4) % 2
    problem = dataclasses.replace(PROBLEMS[name], probe=4)
    assert identify(problem, Dataset(images, labels, images, labels, classes)).problem.reduced is reduced


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_papers_problems_depart_in_nothing_from_themselves(name):
    problem = PROBLEMS[name]
    filled = dataclasses.replace(problem, classes=problem.classes or ("a", "b"), runs=3, iterations=2)
    if problem.recipe.normalise is None:
        channels = ((0.5,) * problem.channels,) * 2
        filled = dataclasses.replace(filled, recipe=dataclasses.replace(problem.recipe, normalise=channels))
    assert departures(filled) == []
    assert departures(dataclasses.replace(filled, name="mine", probe=7)) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"recipe": {"epochs": 4}}, "recipe"),
        ({"recipe": {"lr": 1.0}}, "recipe"),
        ({"recipe": {"normalise": ((0.5,) * 3, (0.5,) * 3)}}, "recipe"),
        ({"pruning": {"conv_rate": 0.01}}, "pruning"),
        ({"probe": 1000}, "probe"),
        ({"classes": ("cat", "dog")}, "classes"),
        ({"train_limit": 4000}, "train_limit"),
        ({"model": "vgg_cifar4"}, "model"),
        ({"source": "folder"}, "source"),
    ],
)
def test_a_script_that_changes_a_problem_is_found_out(change, field):
    problem = PROBLEMS["cifar2"]
    for name, value in change.items():
        if isinstance(value, dict):
            value = dataclasses.replace(getattr(problem, name), **value)
        problem = dataclasses.replace(problem, **{name: value})
    assert departures(problem) == [field]
