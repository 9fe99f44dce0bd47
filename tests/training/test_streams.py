"""Networks that draw random numbers in training: every step has its stream, so no interruption leaves a trace."""

import copy
import dataclasses

import pytest
import torch
from networks import Dropouts, Functional, Transformer, small_resnet18
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from distsim.data import load
from distsim.environment import threads
from distsim.models import MODELS
from distsim.problems import PROBLEMS
from distsim.sweep.order import identify
from distsim.training.chain import Trainer

DIGITS = PROBLEMS["digits"].reduced_to(epochs=2, probe=100, train_limit=100)


class Odd(nn.Module):
    """Tied and frozen weights, a hook that draws, a recurrent layer with dropout, spectral norm, running means."""

    def __init__(self, channels, size, classes):
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.second, self.third = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.third.weight = self.second.weight
        self.frozen = nn.Conv2d(8, 8, 1).requires_grad_(False)
        self.relu, self.norm = nn.ReLU(), nn.InstanceNorm2d(8, track_running_stats=True)
        self.average = nn.BatchNorm2d(8, momentum=None)
        self.recurrent = nn.LSTM(8, 8, 2, dropout=0.2)
        self.last = parametrizations.spectral_norm(nn.Conv1d(8, 8, 1))
        self.out = nn.Linear(8, classes)
        self.relu.register_forward_hook(lambda module, inputs, output: F.dropout(output, 0.2, module.training))

    def forward(self, x):
        x = self.average(self.norm(self.relu(self.third(self.second(self.first(x))))))
        x = self.recurrent(self.frozen(x).flatten(2).permute(2, 0, 1))[0]  # (t, n, d)
        return self.out(self.last(x.permute(1, 2, 0)).mean(2))


NETWORKS = {"functional": Functional, "transformer": Transformer, "dropouts": Dropouts, "odd": Odd}


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


@pytest.fixture(params=NETWORKS)
def problem(request, monkeypatch):
    monkeypatch.setitem(MODELS, "mine", NETWORKS[request.param])
    return dataclasses.replace(DIGITS, model="mine", recipe=dataclasses.replace(DIGITS.recipe, epochs=3, batch_size=32))


def trainer_of(problem, seed=0):
    data = load(problem, "")
    return Trainer(identify(problem, data, seed=seed), data)


class Kept:
    """Checkpoints in memory."""

    def __init__(self, checkpoint=None):
        self.checkpoint, self.offers = checkpoint, []

    def load(self):
        return copy.deepcopy(self.checkpoint)

    def offer(self, checkpoint):
        self.offers.append(copy.deepcopy(checkpoint()))


def assert_same(one, two):
    assert one.record == two.record
    for name, value in one.weights.items():
        assert torch.equal(value, two.weights[name]), name


def test_a_training_goes_on_from_any_epoch_as_if_nothing_had_been(problem):
    trainer, kept, chained = trainer_of(problem), Kept(), Kept()
    complete = trainer.complete(kept)
    first = trainer.iterate(0, 1, complete, complete, chained)
    assert len(kept.offers) == 3
    torch.manual_seed(7)  # whatever another process's generator says
    for checkpoint in kept.offers[:-1]:
        assert_same(trainer_of(problem).complete(Kept(checkpoint)), complete)
    for checkpoint in chained.offers[:-1]:
        torch.rand(5)
        assert_same(trainer_of(problem).iterate(0, 1, complete, complete, Kept(checkpoint)), first)


def test_the_global_generator_is_left_as_it_was(problem):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    trainer = trainer_of(problem)
    trainer.complete()
    assert torch.equal(torch.get_rng_state(), before)


def test_trainings_in_turns_are_those_alone(problem):
    trainer = trainer_of(problem)
    complete = trainer.complete()
    alone = [trainer.iterate(run, 1, complete, complete) for run in (0, 1)]
    assert not torch.equal(*(next(iter(network.weights.values())) for network in alone))
    going = dict(enumerate(trainer.iterating(run, 1, complete, complete) for run in (0, 1)))
    ended = {}
    while going:
        for run, steps in tuple(going.items()):
            try:
                next(steps)
            except StopIteration as end:
                ended[run] = end.value
                del going[run]
    for run in (0, 1):
        assert_same(ended[run], alone[run])


def test_steps_and_runs_draw_differently(monkeypatch):
    """What a network draws in each step of two epochs of two runs: no two alike, and all again the next time."""
    drawn = []

    class Noting(Functional):
        def forward(self, x):
            if self.training:
                drawn.append(torch.rand(()).item())
            return super().forward(x)

    monkeypatch.setitem(MODELS, "mine", Noting)
    problem = dataclasses.replace(DIGITS, model="mine", recipe=dataclasses.replace(DIGITS.recipe, batch_size=32))
    problem = dataclasses.replace(problem, pruning=dataclasses.replace(problem.pruning, rewind="LRR"))
    trainer = trainer_of(problem)
    complete = trainer.complete()
    drawn.clear()
    for run in (0, 1, 0):
        trainer.iterate(run, 1, complete, complete)
    per_run = len(drawn) // 3
    assert per_run == 2 * 3  # epochs, steps
    assert len(set(drawn[: 2 * per_run])) == 2 * per_run
    assert drawn[2 * per_run :] == drawn[:per_run]


def test_resnet18_is_pruned_and_goes_on_from_an_epoch(monkeypatch):
    monkeypatch.setitem(MODELS, "mine", small_resnet18)
    recipe = dataclasses.replace(DIGITS.recipe, epochs=2, batch_size=32)
    problem = dataclasses.replace(DIGITS, model="mine", recipe=recipe, train_limit=32, probe=32)
    trainer, kept = trainer_of(problem), Kept()
    complete = trainer.complete()
    first = trainer.iterate(0, 1, complete, complete, kept)
    assert first.record["remaining_pool"] == pytest.approx(0.8, abs=1e-5)
    assert "fc.weight" not in first.masks  # the output, which the recipe spares
    assert first.masks["layer4.1.conv2.weight"].float().mean() < 1
    for checkpoint in kept.offers[:1]:
        assert_same(trainer.iterate(0, 1, complete, complete, Kept(checkpoint)), first)
