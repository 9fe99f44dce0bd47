import copy
import dataclasses
from contextlib import contextmanager

import pytest
import torch
from invariants import step_faults

from distsim.data import load
from distsim.environment import threads
from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream
from distsim.specs import COMPLETE, NetworkId, Pruning, Recipe
from distsim.store.paths import Place
from distsim.store.records import require_values
from distsim.sweep.order import identify
from distsim.training import chain, early_stopping, loop
from distsim.training import optimizers as optim
from distsim.training.chain import TrainedNetwork, Trainer
from distsim.training.loop import evaluate

SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=100, train_limit=200)  # 3 steps of 64 an epoch; rewinds to 1
SGD = Recipe(epochs=4, batch_size=64, lr=0.05, weight_decay=5e-4, schedule="step", milestones=(1, 3))


def trainer_of(problem, seed=0, precision="float32", **more):
    data = load(problem, "")
    return Trainer(identify(problem, data, seed=seed, precision=precision), data, **more)


def with_pruning(problem, **change):
    return dataclasses.replace(problem, pruning=dataclasses.replace(problem.pruning, **change))


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


@pytest.fixture(scope="module")
def small():
    with threads(1):
        trainer = trainer_of(SMALL)
        complete = trainer.complete()
        return trainer, complete, list(trainer.chain(0, complete, iterations=3))


def assert_same(one: TrainedNetwork, two: TrainedNetwork):
    assert one.iteration == two.iteration
    assert one.record == two.record
    for ours, theirs in ((one.weights, two.weights), (one.masks, two.masks)):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name


def same_weights(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items())


@contextmanager
def watching(monkeypatch):
    """What each training starts from and how it goes: a list of dicts, one per training.

    `start` the state it is given; `epochs`; `streams`; `lr` of every step; `empty` whether the optimizer had no state
    before its first step.
    """
    calls, train_steps, optimizer = [], chain.train_steps, optim.optimizer

    def watched_train(stepper, recipe, streams, epochs, *more):
        start = copy.deepcopy(stepper.network.state_dict())
        calls.append({"start": start, "epochs": list(epochs), "streams": streams, "lr": [], "empty": []})
        return (yield from train_steps(stepper, recipe, streams, epochs, *more))

    def watched_optimizer(recipe, parameters):
        made = optimizer(recipe, parameters)

        def before_step(rule, *_):
            calls[-1]["empty"].append(not rule.state)
            calls[-1]["lr"].append(float(rule.param_groups[0]["lr"]))

        made.register_step_pre_hook(before_step)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(chain, "train_steps", watched_train)
        patch.setattr(optim, "optimizer", watched_optimizer)
        yield calls


# --- what a chain gives ---


def test_remaining_is_exact(small):
    _, complete, steps = small
    conv, fc, total = 16_368, 8_256, 25_370  # weights and biases of the convolutions, of the hidden layer, everything
    prunable = conv + fc
    assert [step.iteration for step in (complete, *steps)] == [0, 1, 2, 3]
    for step in (complete, *steps):
        if step.iteration:
            conv, fc = conv - conv // 5, fc - fc // 5
        assert sum(int(mask.sum()) for mask in step.masks.values()) == conv + fc
        assert step.record["remaining_pool"] == (conv + fc) / prunable
        assert step.record["remaining"] == (total - prunable + conv + fc) / total


def test_record(small):
    trainer, complete, steps = small
    keys = {"run", "iteration", "epochs", "best_epoch", "train_loss", "accuracy", "loss"}
    keys |= {"remaining", "remaining_pool", "reduced"}
    for step in (complete, *steps):
        assert step.record.keys() == keys
        assert step.record["iteration"] == step.iteration
        assert step.record["reduced"] is True
        assert step.record["best_epoch"] is None
        assert len(step.record["train_loss"]) == step.record["epochs"]
        network = build(SMALL, 10)
        network.load_state_dict(step.weights)
        accuracy, loss = evaluate(network, *trainer.data.test, trainer.data.mean, trainer.data.sd)
        assert step.record["accuracy"] == accuracy
        assert step.record["loss"] == pytest.approx(loss, rel=1e-6)  # memory layouts differ in the last bits
    assert complete.record["run"] == "complete"
    assert complete.record["epochs"] == 2
    assert [(step.record["run"], step.record["epochs"]) for step in steps] == [(0, 1)] * 3


def test_the_dead_are_zero_and_stay_dead(small):
    _, complete, steps = small
    before = complete
    for step in steps:
        for name, mask in step.masks.items():
            assert (step.weights[name][~mask] == 0).all()
            assert not (mask & ~before.masks[name]).any()
        before = step


def test_what_a_chain_gives_has_no_fault(small):
    _, complete, steps = small
    network = build(SMALL, 10)
    for before, step in zip((complete, complete, *steps), (complete, *steps), strict=False):
        which = NetworkId(0, step.iteration) if step.iteration else COMPLETE
        assert step_faults(step, before.masks, network, SMALL) == []
        require_values(Place("network", which.path, which), step.record)


@pytest.mark.parametrize("pool", ["blocks", "head"])
def test_what_is_pruned_is_smallest_at_the_end_of_each_training(small, pool):
    """Of those that were alive, by the weights of the training just before and not of an earlier one."""
    _, complete, steps = small
    for before, step in zip((complete, *steps), steps, strict=False):
        names = [name for name in step.masks if name.startswith(pool)]
        magnitude, was, stays = (
            torch.cat([of[name].flatten() for name in names]) for of in (before.weights, before.masks, step.masks)
        )
        magnitude = magnitude.abs()
        assert magnitude[was & ~stays].max() <= magnitude[stays].min(), f"iteration {step.iteration}"


def test_the_complete_network_learns_and_carries_its_rewind_state(small):
    _, complete, steps = small
    assert complete.record["train_loss"][1] < complete.record["train_loss"][0]
    assert complete.rewind is not None
    assert int(complete.rewind["blocks.conv1_1.norm.num_batches_tracked"]) == 3  # after one epoch of 3 steps
    assert int(complete.weights["blocks.conv1_1.norm.num_batches_tracked"]) == 6
    assert all(step.rewind is None for step in steps)
    assert all(mask.all() for mask in complete.masks.values())


def test_the_rewind_state_at_epoch_0_is_the_initialisation():
    trainer = trainer_of(with_pruning(SMALL.reduced_to(epochs=1), rewind_epoch=0))
    initial = build(SMALL, 10, torch_stream(0, "initialisation")).state_dict()
    assert same_weights(initial, trainer.complete().rewind)


def test_a_chain_without_a_rewind_state_is_refused(small):
    trainer, complete, _ = small
    with pytest.raises(ValueError, match="chain: the complete network has no rewind state"):
        next(trainer.chain(0, dataclasses.replace(complete, rewind=None)))


# --- where the survivors return to ---


def test_wr_returns_to_the_late_reset(small, monkeypatch):
    _, complete, _ = small
    with watching(monkeypatch) as calls:
        trainer = trainer_of(SMALL)
        steps = list(trainer.chain(0, complete, iterations=2))
    for step, call in zip(steps, calls, strict=True):
        assert call["start"].keys() == complete.rewind.keys()
        for name, value in complete.rewind.items():  # batch norm's statistics among them
            expected = value * step.masks[name] if name in step.masks else value
            assert torch.equal(call["start"][name], expected), name
        assert call["epochs"] == [1]
        assert call["streams"] == loop.EpochStreams(0, 0, step.iteration)
        assert call["empty"] == [True, False, False]
    assert not torch.equal(calls[0]["start"]["out.weight"], complete.weights["out.weight"])


def test_wr_trains_the_epochs_after_the_reset_at_their_rates(monkeypatch):
    problem = with_pruning(dataclasses.replace(SMALL, recipe=SGD), rewind_epoch=2)
    with watching(monkeypatch) as calls:
        trainer = trainer_of(problem)
        complete = trainer.complete()
        (step,) = trainer.chain(0, complete, iterations=1)
    assert calls[0]["lr"] == pytest.approx([0.05] * 3 + [0.005] * 6 + [0.0005] * 3)
    assert calls[1]["epochs"] == [2, 3]
    assert calls[1]["lr"] == calls[0]["lr"][6:]
    assert step.record["epochs"] == 2


@pytest.mark.parametrize(
    "recipe",
    [SGD, dataclasses.replace(SGD, epochs=3, optimizer="fast_sgd", schedule="triangle", milestones=(), peak=1.0)],
    ids=["step", "triangle"],
)
def test_lrr_keeps_the_weights_and_replays_the_schedule(monkeypatch, recipe):
    """Law 12: every iteration has the complete network's learning rates, and an optimizer that starts empty."""
    problem = with_pruning(dataclasses.replace(SMALL, recipe=recipe), rewind="LRR")
    with watching(monkeypatch) as calls:
        trainer = trainer_of(problem)
        complete = trainer.complete()
        steps = list(trainer.chain(0, complete, iterations=2))
    for before, step, call in zip((complete, steps[0]), steps, calls[1:], strict=True):
        for name, value in before.weights.items():
            expected = value * step.masks[name] if name in step.masks else value
            assert torch.equal(call["start"][name], expected), name
        assert call["epochs"] == list(range(recipe.epochs))
        assert call["lr"] == calls[0]["lr"]
        assert len(set(call["lr"])) > 1
        assert call["empty"] == [True] + [False] * (3 * recipe.epochs - 1)


@pytest.mark.parametrize(
    ("recipe", "rate"),
    [
        (SGD, 0.0005),
        (dataclasses.replace(SGD, epochs=3, schedule="triangle", milestones=(), peak=1.0), 0.05 / 3 / 2),
        (dataclasses.replace(SGD, epochs=2, patience=1), 0.0005),  # fine-tuning does not stop early
    ],
    ids=["step", "triangle", "patience"],
)
def test_ft_keeps_the_weights_and_stays_at_the_last_rate(monkeypatch, recipe, rate):
    if recipe.patience:
        recipe = dataclasses.replace(recipe, milestones=(0, 1))
    problem = with_pruning(dataclasses.replace(SMALL, recipe=recipe), rewind="FT", finetune_epochs=5)
    with watching(monkeypatch) as calls:
        trainer = trainer_of(problem)
        complete = trainer.complete()
        (step,) = trainer.chain(0, complete, iterations=1)
    for name, value in complete.weights.items():
        expected = value * step.masks[name] if name in step.masks else value
        assert torch.equal(calls[1]["start"][name], expected), name
    steps = len(trainer.data.images) // 64
    assert calls[1]["lr"] == pytest.approx([rate] * 5 * steps)
    assert step.record["epochs"] == 5
    assert step.record["best_epoch"] is None


@pytest.mark.parametrize("rewind", ["LRR", "FT"])
def test_a_rewind_epoch_that_nobody_rewinds_to_does_not_matter(rewind):
    """Only WR returns to `rewind_epoch`; for the others it may lie beyond what was trained."""
    pruning = Pruning(rewind=rewind, rewind_epoch=5, finetune_epochs=1)
    recipe = dataclasses.replace(SMALL.recipe, epochs=1)
    problem = dataclasses.replace(SMALL, recipe=recipe, pruning=pruning)
    trainer = trainer_of(problem)
    (step,) = trainer.chain(0, trainer.complete(), iterations=1)
    assert step.record["epochs"] == 1


# --- the same bits, whatever happens around a chain ---


def test_a_complete_network_depends_on_the_seed_only(small):
    _, complete, _ = small
    again, other = trainer_of(SMALL).complete(), trainer_of(SMALL, seed=1).complete()
    assert_same(complete, again)
    assert same_weights(complete.rewind, again.rewind)
    assert not torch.equal(complete.weights["out.weight"], other.weights["out.weight"])


def test_a_resumed_chain_is_the_uninterrupted_one(small):
    """From a step as a store would give it back, in a process that has done other things."""
    _, complete, steps = small
    torch.manual_seed(12345)
    stored = TrainedNetwork(1, copy.deepcopy(steps[0].weights), copy.deepcopy(steps[0].masks))
    resumed = list(trainer_of(SMALL).chain(0, complete, resume=stored, iterations=3))
    assert [step.iteration for step in resumed] == [2, 3]
    for ours, theirs in zip(resumed, steps[1:], strict=True):
        assert_same(ours, theirs)


def test_nothing_is_left_of_a_finished_chain(small):
    trainer, complete, steps = small
    assert list(trainer.chain(0, complete, resume=steps[2], iterations=3)) == []


def test_interleaved_chains_do_not_disturb_each_other(small):
    """Dropout included: each module draws from its own chain's stream."""
    _, complete, steps = small
    trainer = trainer_of(SMALL)
    second = list(trainer.chain(1, complete, iterations=2))
    one, two = (trainer.chain(run, complete, iterations=2) for run in (0, 1))
    mixed = [next(one), next(two), next(two), next(one)]
    for ours, theirs in zip(mixed, (steps[0], second[0], second[1], steps[1]), strict=True):
        assert_same(ours, theirs)
    assert not torch.equal(steps[0].weights["out.weight"], second[0].weights["out.weight"])


def in_turns(*trainings):
    """What each generator returns, advanced a step of training at a time."""
    going, finished = list(enumerate(trainings)), {}
    while going:
        for number, steps in tuple(going):
            try:
                next(steps)
            except StopIteration as end:
                finished[number] = end.value
                going.remove((number, steps))
    return [finished[number] for number in range(len(trainings))]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_steps_taken_in_turns_are_those_taken_alone(precision):
    """Of other lengths: a run's first and second iteration, and the complete network."""
    trainer = trainer_of(SMALL, precision=precision)
    complete = trainer.complete()
    first = trainer.iterate(0, 1, complete, complete)
    second = trainer.iterate(0, 2, first, complete)
    other = trainer_of(SMALL, precision=precision)
    found = in_turns(
        other.completing(), other.iterating(0, 1, complete, complete), other.iterating(0, 2, first, complete)
    )
    for ours, theirs in zip(found, (complete, first, second), strict=True):
        assert_same(ours, theirs)


def test_bfloat16_is_another_training_of_the_same_network(small):
    _, complete, _ = small
    half = trainer_of(SMALL, precision="bfloat16").complete()
    assert {tensor.dtype for tensor in half.weights.values()} == {torch.float32, torch.int64}
    assert not torch.equal(half.weights["out.weight"], complete.weights["out.weight"])
    for name, weight in complete.weights.items():  # rounding, no other initialisation or order
        if weight.ndim > 1:
            assert (half.weights[name] - weight).norm() < 0.1 * weight.norm(), name


# --- interrupted between epochs ---


class Kept:
    """A checkpoints in memory; everything in it went through copies."""

    def __init__(self, checkpoint=None):
        self.checkpoint, self.offers, self.loads = checkpoint, [], 0

    def load(self):
        self.loads += 1
        return copy.deepcopy(self.checkpoint)

    def offer(self, checkpoint):
        self.offers.append(copy.deepcopy(checkpoint()))


RECIPES = {
    "adam": dataclasses.replace(SMALL.recipe, epochs=4),
    "sgd": SGD,
    "fast_sgd": dataclasses.replace(SGD, optimizer="fast_sgd", schedule="triangle", milestones=(), peak=1.0),
    "patience": dataclasses.replace(SMALL.recipe, epochs=6, patience=2),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_a_training_goes_on_from_any_epoch_as_if_nothing_had_been(recipe):
    problem = dataclasses.replace(SMALL, recipe=recipe)
    checkpoints = Kept()
    trainer = trainer_of(problem)
    complete = trainer.complete(checkpoints)
    chained = Kept()
    first = trainer.iterate(0, 1, complete, complete, chained)
    assert len(checkpoints.offers) >= 3
    for checkpoint in checkpoints.offers:
        assert_same(trainer_of(problem).complete(Kept(checkpoint)), complete)
        assert same_weights(trainer_of(problem).complete(Kept(checkpoint)).rewind, complete.rewind)
    for checkpoint in chained.offers:  # by a trainer that has trained others before
        assert_same(trainer.iterate(0, 1, complete, complete, Kept(checkpoint)), first)


def with_tensor(checkpoint, name, change):
    return dataclasses.replace(checkpoint, tensors=checkpoint.tensors | {name: change(checkpoint.tensors[name])})


def without(checkpoint, name):
    return dataclasses.replace(checkpoint, tensors={n: t for n, t in checkpoint.tensors.items() if n != name})


def with_values(checkpoint, **values):
    return dataclasses.replace(checkpoint, values=checkpoint.values | values)


def with_memory(checkpoint, name, values):
    return with_values(checkpoint, memories=checkpoint.values["memories"] | {name: values})


def moved(checkpoint, name, to):
    return dataclasses.replace(without(checkpoint, name), tensors=checkpoint.tensors | {to: checkpoint.tensors[name]})


WEIGHT, BUFFER, BEST = "network/out.weight", "optimizer/exp_avg/out.weight", "memory/stopping/out.weight"
FORGED = {
    "no memory": lambda kept: with_values(kept, memories={}),
    "a memory of nobody": lambda kept: with_memory(kept, "mine", {}),
    "a memory without values": lambda kept: with_memory(kept, "stopping", {}),
    "a memory of another kind": lambda kept: with_memory(
        kept, "stopping", {"losses": 3, "best_epoch": 0, "best_loss": 1.0, "waited": 0}
    ),
    "too many epochs": lambda kept: with_values(kept, losses=[0.5] * 7),
    "a weight is lacking": lambda kept: without(kept, WEIGHT),
    "a weight of another shape": lambda kept: with_tensor(kept, WEIGHT, lambda t: t[:1]),
    "a weight of another type": lambda kept: with_tensor(kept, WEIGHT, lambda t: t.long()),
    "a weight of no layer": lambda kept: moved(kept, WEIGHT, "network/in.weight"),
    "a buffer of no weight": lambda kept: moved(kept, BUFFER, "optimizer/exp_avg/in.weight"),
    "a buffer of another shape": lambda kept: with_tensor(kept, BUFFER, lambda t: t[:1]),
    "a tensor of nobody": lambda kept: moved(kept, BUFFER, "mine/out.weight"),
    "a tensor in a memory of nobody": lambda kept: moved(kept, BEST, "memory/mine/out.weight"),
    "a memory's tensor of another shape": lambda kept: with_tensor(kept, BEST, lambda t: t[:1]),
}


@pytest.fixture(scope="module")
def patient():
    """A training that stops early, and what it kept of its second epoch."""
    with threads(1):
        problem, kept = dataclasses.replace(SMALL, recipe=RECIPES["patience"]), Kept()
        return problem, trainer_of(problem).complete(kept), kept.offers[1]


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_checkpoint_that_does_not_fit_is_as_good_as_none(patient, forge):
    """A stranger may have written it, under a digest that is right."""
    problem, complete, offer = patient
    assert {WEIGHT, BUFFER, BEST} <= offer.tensors.keys()
    kept = Kept(forge(offer))
    assert_same(trainer_of(problem).complete(kept), complete)
    assert len(kept.offers[0].values["losses"]) == 1, "it began anew"


def test_epochs_interleaved_within_two_trainings():
    """A second chain that trains a whole iteration between two epochs of the first changes no bit of it."""
    problem = SMALL.reduced_to(epochs=3)
    alone = trainer_of(problem)
    first = alone.complete()
    (expected,) = alone.chain(0, first, iterations=1)
    other = trainer_of(problem)
    disturbed = trainer_of(problem, after_epoch=[lambda epoch, network: next(other.chain(1, first)) is None])
    (found,) = disturbed.chain(0, first, iterations=1)
    assert found.record["epochs"] == 2
    assert_same(found, expected)


def test_steps_do_not_share_memory(small):
    """What a caller does to a step it was given does not reach the next one."""
    _, complete, steps = small
    trainer = trainer_of(SMALL)
    going = trainer.chain(0, complete, iterations=1)
    step = next(going)
    assert_same(step, steps[0])
    for value in step.weights.values():
        value.zero_()
    assert complete.weights["out.weight"].abs().sum() > 0
    assert complete.rewind["out.weight"].abs().sum() > 0


# --- early stopping ---


def test_early_stopping_restores_the_best_epoch(monkeypatch):
    """Validation losses by script: epoch 3 is best of the complete network, 2 of the retraining from epoch 1 on."""
    recipe = dataclasses.replace(SMALL.recipe, epochs=8, patience=2)
    problem = dataclasses.replace(SMALL, recipe=recipe)
    states = []
    watch = [lambda epoch, network: states.append(copy.deepcopy(network.state_dict())) or False]
    trainer = trainer_of(problem, after_epoch=watch)
    script = iter([0.1, 0.9, 0.5, 0.6, 0.5, 0.4, 0.6, 0.6])
    monkeypatch.setattr(
        early_stopping, "evaluate", lambda *arguments: (0.0, next(script))
    )  # the test set's is chain's own
    complete = trainer.complete()
    assert complete.record["validation_loss"] == [0.1, 0.9, 0.5, 0.6, 0.5]
    assert (complete.record["epochs"], complete.record["best_epoch"]) == (5, 3)  # not 1: that is before the reset
    assert same_weights(states[2], complete.weights)
    assert same_weights(states[0], complete.rewind)
    (step,) = trainer.chain(0, complete, iterations=1)
    assert step.record["validation_loss"] == [0.4, 0.6, 0.6]
    assert (step.record["epochs"], step.record["best_epoch"]) == (3, 2)
    assert same_weights(states[5], step.weights)


def test_the_validation_split_is_left_out_of_training_and_equal_for_all():
    recipe = dataclasses.replace(SMALL.recipe, patience=2, validation=0.1)
    problem = dataclasses.replace(SMALL, recipe=recipe)
    data, whole = trainer_of(problem).data, trainer_of(SMALL).data
    assert whole.validation is None
    assert len(whole.images) == 200
    images, labels = data.validation
    assert torch.bincount(labels).tolist() == [2] * 10
    assert torch.bincount(data.labels).tolist() == [18] * 10
    parts = torch.cat([data.images, images]).flatten(1)
    assert torch.equal(parts.unique(dim=0), whole.images.flatten(1).unique(dim=0))
    assert torch.equal(trainer_of(problem).data.validation[0], images)


def test_a_recipe_without_normalisation_is_refused():
    data = load(SMALL, "")
    with pytest.raises(ValueError, match=r"no normalisation; make the spec with distsim.sweep.order.identify"):
        loop.training_data(data, SMALL.recipe, 0, torch.device("cpu"))


def test_divergence_names_run_and_iteration(small):
    _, complete, steps = small
    recipe = dataclasses.replace(SMALL.recipe, optimizer="sgd", lr=1e30)
    trainer = trainer_of(dataclasses.replace(SMALL, recipe=recipe))
    with pytest.raises(FloatingPointError, match="run 4, iteration 2: the loss of epoch 2 is"):
        next(trainer.chain(4, complete, resume=steps[0]))


def test_a_stepper_is_kept_after_a_training_that_failed(small):
    """A GPU must not free its graph while other runs go on. The next training is as good as with a new one."""
    _, complete, (first, *_) = small
    trainer = trainer_of(SMALL)
    broken = dataclasses.replace(complete, rewind={name: value * torch.nan for name, value in complete.rewind.items()})
    with pytest.raises(FloatingPointError, match="training diverged"):
        trainer.iterate(0, 1, complete, broken)
    stopped = trainer.iterating(0, 1, complete, complete)
    next(stopped)
    stopped.close()
    (kept,) = trainer._idle
    assert_same(trainer.iterate(0, 1, complete, complete), first)
    assert trainer._idle == [kept]
