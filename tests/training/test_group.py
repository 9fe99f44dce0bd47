"""Groups of runs that are trained in one step: a run comes out the same among any others, stopped or not."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch

from distsim.data import load
from distsim.environment import threads
from distsim.problems import PROBLEMS
from distsim.specs import Recipe
from distsim.sweep.order import identify
from distsim.training import early_stopping
from distsim.training.chain import Trainer
from distsim.training.group import GroupTrainer

SMALL = PROBLEMS["digits"].reduced_to(epochs=3, probe=100, train_limit=200)  # 3 steps of 64 an epoch; rewinds to 1
STOPS = dataclasses.replace(SMALL.recipe, epochs=8, patience=1, lr=3e-2, schedule="constant")
LRR = Recipe(epochs=3, batch_size=64, lr=0.05, weight_decay=5e-4, schedule="step", milestones=(1, 2))


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


def trainer_of(problem, **choices):
    data = load(problem, "")
    return Trainer(identify(problem, data, **choices), data)


def with_recipe(recipe, **pruning):
    return dataclasses.replace(SMALL, recipe=recipe, pruning=dataclasses.replace(SMALL.pruning, **pruning))


@pytest.fixture(scope="module")
def small():
    with threads(1):
        trainer = trainer_of(SMALL)
        return trainer, trainer.complete()


def ends(group, iteration, before, complete, checkpoints=None):
    """What came of each run, in the order in which they ended."""
    return {e.run: e for e in group.iterating(iteration, before, complete, checkpoints) if e is not None}


def networks(group, iteration, before, complete, checkpoints=None):
    return {run: end.network() for run, end in ends(group, iteration, before, complete, checkpoints).items()}


def assert_same(one, two):
    assert one.record == two.record
    for ours, theirs in ((one.weights, two.weights), (one.masks, two.masks)):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name


class Kept:
    """Checkpoints in memory, of every epoch. A run that was lost has none."""

    def __init__(self, checkpoints=None):
        self.checkpoints, self.offers = checkpoints or {}, []

    def load(self, runs):
        assert not self.checkpoints or set(runs) == set(self.checkpoints)
        return copy.deepcopy(self.checkpoints)

    def offer(self, make):
        self.offers.append(copy.deepcopy(dict(make())))


def test_a_group_is_what_each_run_is_alone_but_for_rounding(small):
    """The unfused training gives the same masks and nearly the same losses."""
    trainer, complete = small
    for run, trained in networks(GroupTrainer(trainer, 4), 1, {0: complete, 1: complete}, complete).items():
        alone = trainer.iterate(run, 1, complete, complete)
        assert trained.record.keys() == alone.record.keys()
        assert trained.record["train_loss"] == pytest.approx(alone.record["train_loss"], rel=1e-3)
        assert (trained.record["run"], trained.record["iteration"]) == (run, 1)
        assert trained.record["remaining"] == alone.record["remaining"]
        for name, mask in alone.masks.items():
            assert torch.equal(trained.masks[name], mask)
            assert not trained.weights[name][~mask].any()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_is_the_same_alone_and_among_others(precision):
    trainer = trainer_of(SMALL, precision=precision)
    complete = trainer.complete()
    group = GroupTrainer(trainer, 3)
    first = networks(group, 1, {3: complete, 4: complete, 5: complete}, complete)
    second = networks(group, 2, first, complete)
    other = GroupTrainer(trainer, 3)  # run by run, in another order
    for run in (5, 3, 4):
        assert_same(other.iterate(run, 1, complete, complete), first[run])
        assert_same(other.iterate(run, 2, first[run], complete), second[run])
    assert len({float(each.weights["out.weight"].sum()) for each in first.values()}) == 3, "streams of their own"


def test_a_run_keeps_its_slot(small):
    """A grouped convolution may round each group in another way, and on a GPU does."""
    trainer, complete = small
    group = GroupTrainer(trainer, 4)
    group.iterate(2, 1, complete, complete)
    weights = group._stepper.network.state_dict()["out.weight"]
    assert [bool(part.abs().sum() > 1e-2) for part in weights] == [False, False, True, False]


def test_another_size_is_another_sweep_only_in_rounding(small):
    trainer, complete = small
    two, five = (GroupTrainer(trainer, size).iterate(1, 1, complete, complete) for size in (2, 5))
    assert two.record["train_loss"] == pytest.approx(five.record["train_loss"], rel=1e-3)


@pytest.mark.parametrize("recipe", [SMALL.recipe, LRR, STOPS], ids=["adam", "sgd", "patience"])
def test_a_group_goes_on_from_any_epoch_as_if_nothing_had_been(recipe):
    trainer = trainer_of(with_recipe(recipe, rewind="LRR"))
    complete = trainer.complete()
    before, kept = {0: complete, 1: complete, 2: complete}, Kept()
    whole = networks(GroupTrainer(trainer, 4), 1, before, complete, kept)
    assert len(kept.offers) >= 2
    for offer in kept.offers[:3]:
        unfinished = dict.fromkeys(offer, complete)
        resumed = networks(GroupTrainer(trainer, 4), 1, unfinished, complete, Kept(offer))
        assert resumed.keys() == offer.keys()
        for run, trained in resumed.items():
            assert_same(trained, whole[run])


def test_checkpoints_of_which_one_does_not_fit_are_as_good_as_none(small):
    trainer, complete = small
    before, kept = {0: complete, 1: complete}, Kept()
    whole = networks(GroupTrainer(trainer, 2), 1, before, complete, kept)
    offer = kept.offers[0]
    weight = {"network/out.weight": offer[1].tensors["network/out.weight"][:1]}
    forged = offer | {1: dataclasses.replace(offer[1], tensors=offer[1].tensors | weight)}
    for run, trained in networks(GroupTrainer(trainer, 2), 1, before, complete, Kept(forged)).items():
        assert_same(trained, whole[run])


def test_a_run_that_stops_early_ends_at_once_and_disturbs_nobody():
    trainer = trainer_of(with_recipe(STOPS))
    complete = trainer.complete()
    before = dict.fromkeys(range(4), complete)
    found = networks(GroupTrainer(trainer, 4), 1, before, complete)
    epochs = [trained.record["epochs"] for trained in found.values()]
    assert epochs == sorted(epochs), "in the order in which they end"
    assert len(set(epochs)) > 1
    for run, trained in found.items():
        assert_same(GroupTrainer(trainer, 4).iterate(run, 1, complete, complete), trained)
        best = trained.record["best_epoch"] - trainer.problem.pruning.rewind_epoch - 1
        assert trained.record["validation_loss"][best] == min(trained.record["validation_loss"])


def test_a_run_whose_validation_loss_is_not_finite_ends_alone(monkeypatch):
    trainer = trainer_of(with_recipe(STOPS))
    complete = trainer.complete()
    evaluate, asked = early_stopping.evaluate, itertools.count()
    monkeypatch.setattr(early_stopping, "evaluate", lambda *of: evaluate(*of) if next(asked) else (0.0, math.nan))
    found = ends(GroupTrainer(trainer, 2), 1, {0: complete, 1: complete}, complete)
    assert list(found) == [0, 1]
    with pytest.raises(FloatingPointError, match="training diverged: run 0, iteration 1: the validation loss of epoch"):
        found[0].network()
    assert found[1].network().record["validation_loss"]


def test_a_run_that_diverges_ends_alone():
    """Its weights are so large that the first loss is not finite."""
    trainer = trainer_of(with_recipe(LRR, rewind="LRR"))
    complete = trainer.complete()
    huge = {n: t * 1e25 if t.is_floating_point() else t for n, t in complete.weights.items()}
    wild = dataclasses.replace(complete, weights=huge)
    found = ends(GroupTrainer(trainer, 3), 2, {0: complete, 1: wild, 2: complete}, complete)
    assert list(found) == [1, 0, 2]
    with pytest.raises(FloatingPointError, match="training diverged: run 1, iteration 2: the loss of epoch 1 is"):
        found[1].network()
    for run in (0, 2):
        assert all(map(math.isfinite, found[run].network().record["train_loss"]))
        assert_same(GroupTrainer(trainer, 3).iterate(run, 2, complete, complete), found[run].network())


def test_a_run_that_cannot_be_pruned_ends_alone(small):
    trainer, complete = small
    weights = dict(complete.weights) | {"out.weight": complete.weights["out.weight"] / 0}
    weights["head.fc1.linear.weight"] = weights["head.fc1.linear.weight"] * float("nan")
    found = ends(
        GroupTrainer(trainer, 2), 1, {0: dataclasses.replace(complete, weights=weights), 1: complete}, complete
    )
    with pytest.raises(ValueError, match="cannot prune: a surviving parameter is not finite"):
        found[0].network()
    assert_same(GroupTrainer(trainer, 2).iterate(1, 1, complete, complete), found[1].network())


def test_functions_are_called_after_each_epoch_of_each_run(small):
    trainer, complete = small
    seen, announced = [], []

    def stops(epoch, network):
        seen.append((epoch, float(network.state_dict()["out.weight"].sum())))
        return False

    group = GroupTrainer(trainer, 2, [stops], announced.append)
    found = networks(group, 1, {0: complete, 1: complete}, complete)
    assert announced == [1, 2]  # after the late reset
    assert [epoch for epoch, _ in seen] == [1, 1, 2, 2]
    assert [total for _, total in seen[2:]] == [float(found[run].weights["out.weight"].sum()) for run in (0, 1)]


def test_pruning_on_the_device_gives_the_masks_of_the_cpu(small):
    """On a CPU they are one; the twin on a GPU is below."""
    trainer, complete = small
    group = GroupTrainer(trainer, 2)
    alone = trainer.iterate(0, 1, complete, complete)
    _, masks = trainer.pruned(group._network, complete, complete)
    assert all(torch.equal(masks[name], mask) for name, mask in alone.masks.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_group_on_a_gpu_is_extended_and_goes_on_to_the_same_bits(precision):
    """The CPU's twins are above."""
    data = load(SMALL, "")
    trainer = Trainer(identify(SMALL, data, precision=precision, deterministic=True), data, "cuda")
    complete, kept = trainer.complete(), Kept()
    before = dict.fromkeys(range(3), complete)
    whole = networks(GroupTrainer(trainer, 4), 1, before, complete, kept)
    group = GroupTrainer(trainer, 4)
    assert_same(group.iterate(1, 1, complete, complete), whole[1])
    for run, trained in networks(group, 1, before, complete, Kept(kept.offers[0])).items():
        assert_same(trained, whole[run])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pruning_on_a_gpu_gives_the_masks_of_the_cpu():
    """With ties, which are broken by place."""
    from distsim.models import build
    from distsim.seeds import torch_stream
    from distsim.training.pruning import full_masks, prune

    network = build(PROBLEMS["cifar2"], 2, torch_stream(0, "initialisation"))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_((parameter * 1000).round() / 1000)
    torch.use_deterministic_algorithms(True)
    try:
        masks = full_masks(network, PROBLEMS["cifar2"].pruning)
        here = prune(network, masks, PROBLEMS["cifar2"].pruning)
        there = prune(network.to("cuda"), masks, PROBLEMS["cifar2"].pruning)
    finally:
        torch.use_deterministic_algorithms(False)
    for name, mask in here.items():
        assert there[name].device.type == "cpu"
        assert torch.equal(mask, there[name]), name
