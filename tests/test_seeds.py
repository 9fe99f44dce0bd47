import itertools

import numpy as np
import pytest
import torch

from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.seeds import derive, numpy_stream, torch_stream
from distsim.specs import Recipe
from distsim.training.loop import EpochStreams, TrainingData, train


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0,), 3_456_079_177_858_693_020),
        ((0, "probe"), 4_173_933_112_839_521_089),
        ((7, "order", 3, 20, 159), 4_307_004_831_854_051_208),
        ((2**40, "dropout", "complete", 0, 1, 0), 5_828_531_310_638_567_776),
    ],
)
def test_seeds_are_the_same_everywhere(arguments, expected):
    assert derive(*arguments) == expected


def test_streams_are_the_same_everywhere():
    assert torch.randint(1000, (4,), generator=torch_stream(0, "probe")).tolist() == [646, 827, 901, 748]
    assert numpy_stream(0, "probe").integers(1000, size=4).tolist() == [881, 412, 861, 553]


def test_each_name_its_order_and_its_type_count():
    names = [
        (),
        ("a",),
        ("b",),
        ("a", "b"),
        ("b", "a"),
        ("ab",),
        ("a", ""),
        ("", "a"),
        (1,),
        ("1",),
        (1, 2),
        (2, 1),
        (12,),
        ("1", 2),
        (0,),
        (-1,),
    ]
    seeds = [derive(seed, *these) for seed, these in itertools.product((0, 1, 10), names)]
    assert len(set(seeds)) == len(seeds)


def test_seeds_fit_both_generators():
    seeds = [derive(0, i) for i in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62  # all 63 bits are used


def test_streams_of_one_name_start_alike_and_are_independent():
    first, second = torch_stream(5, "x"), torch_stream(5, "x")
    a = torch.rand(3, generator=first)
    assert torch.equal(torch.rand(3, generator=second), a)
    assert not torch.equal(torch.rand(3, generator=first), a)
    np.testing.assert_array_equal(numpy_stream(5, "x").random(3), numpy_stream(5, "x").random(3))


def test_epoch_streams_depend_on_all_they_name():
    seeds = [
        EpochStreams(seed, run, iteration).seed_for(purpose, epoch)
        for seed, run, iteration, purpose, epoch in itertools.product(
            (0, 1), (0, 1, "complete"), (0, 1), ("order", "augment"), (0, 1)
        )
    ]
    assert len(set(seeds)) == len(seeds)
    streams = EpochStreams(0, 1, 2)
    assert streams.seed_for("dropout", 3, 0) != streams.seed_for("dropout", 3, 1)
    assert streams.generator("order", 3).initial_seed() == streams.seed_for("order", 3)


def test_building_and_training_leave_the_global_generators_alone():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002, the state is the point
    network = build(PROBLEMS["digits"], 10, torch_stream(0, "initialisation"))
    images = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8, generator=torch_stream(0, "images"))
    labels = torch.arange(64) % 10
    one = torch.ones(1)
    data = TrainingData(images, labels, None, (images, labels), one, one)
    recipe = Recipe(epochs=1, batch_size=32, optimizer="adam", lr=1e-3, augment=("crop", "flip", "affine", "cutout"))
    train(network, data, recipe, EpochStreams(0, 0, 1), {}, range(1))
    assert torch.equal(torch.get_rng_state(), torch_before)
    after = np.random.get_state()  # noqa: NPY002
    assert after[2:] == numpy_before[2:]
    np.testing.assert_array_equal(after[1], numpy_before[1])
