"""Networks compiled for training: the masks of dropout, what compiles, and the sentence for what does not."""

import copy
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from networks import Dropouts
from sweep_scripts import run_script
from torch import nn

import distsim
from distsim.data import augment, load
from distsim.environment import threads
from distsim.models import MODELS, Dropout, build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream
from distsim.specs import COMPLETE, Identity, Recipe
from distsim.store import Storage, SweepStore
from distsim.sweep import forecast
from distsim.sweep.order import identify, prepare
from distsim.sweep.training_worker import TrainingWorker
from distsim.training import compiling
from distsim.training.chain import Trainer
from distsim.training.compiling import CannotCompile, require_one_graph
from distsim.training.stepper import Arithmetic, Stepper

CPU = torch.device("cpu")
SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=60, train_limit=200)
TINY = ("--runs", 1, "--iterations", 1, "--epochs", 2, "--probe", 60, "--train-limit", 200, "--metrics", "cka")


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


@pytest.fixture
def traced(monkeypatch):
    """Networks are compiled to the operations that they run without, which takes a tenth of the time."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


def on_noise(problem, arithmetic=None, images=4):
    """A stepper of a problem on a few images of noise, one step an epoch, and its weights at the start."""
    shape = (images, problem.channels, problem.size, problem.size)
    noise = torch.randint(256, shape, dtype=torch.uint8, generator=torch_stream(0, "noise"))
    pictures = augment.Pictures(noise, *(torch.full((problem.channels,), 0.5),) * 2)
    network = build(problem, 10, torch_stream(0, "initialisation"))
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    made = Stepper(network, pictures, torch.arange(images) % 10, problem.recipe, arithmetic)
    made.reset(weights, {})
    return made


def stepped(made, steps=2):
    losses = []
    for step in range(steps):
        draws = augment.draw(made._recipe.augment, made.examples, made.size, torch_stream(step, "draws"))
        made.begin(torch.arange(made.examples), draws, [1e-2], [step] * made.dropouts)
        made.step()
        losses.append(made.loss())
    return losses, made.state()


def same(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


# --- the masks -------------------------------------------------------------------------------------------------------


class Dropping(nn.Module):
    """One dropout module called for images and for features, and another between."""

    def __init__(self, channels, size, classes):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.drop, self.other = nn.Dropout(0.3), nn.Dropout(0.6)
        self.last = nn.Linear(8 * size * size, classes)

    def forward(self, x):
        x = self.other(self.drop(self.conv(x))).flatten(1)
        return self.last(self.drop(x))


@pytest.fixture
def dropping(monkeypatch):
    monkeypatch.setitem(MODELS, "Dropping", Dropping)
    return dataclasses.replace(SMALL, model="Dropping")


def test_masks_drawn_before_the_pass_are_those_drawn_in_it(dropping):
    inside = build(dropping, 10, torch_stream(0, "initialisation")).to(memory_format=torch.channels_last).train()
    before = copy.deepcopy(inside)
    dropouts = [[module for module in each.modules() if isinstance(module, Dropout)] for each in (inside, before)]
    n = 5
    shapes = [[torch.Size((n, 8, 8, 8)), torch.Size((n, 512))], [torch.Size((n, 8, 8, 8))]]
    for one, other, of_calls in zip(*dropouts, shapes, strict=True):
        one.reseed(7, CPU)
        other.reseed(7, CPU)
        other.hold(of_calls, CPU)
    for step in range(3):
        images = torch.rand((n, 1, 8, 8), generator=torch_stream(step, "images"))
        for module in dropouts[1]:
            module.draw()
        results = []
        for network in (inside, before):
            with torch.autocast("cpu", torch.bfloat16, enabled=step == 2):
                results.append(network(images))
            results[-1].square().sum().backward()
        assert torch.equal(*results)
        same(*({name: p.grad for name, p in network.named_parameters()} for network in (inside, before)))
    for one, other in zip(*dropouts, strict=True):
        assert torch.equal(one.generator.get_state(), other.generator.get_state()), "as many numbers were drawn"


@pytest.mark.usefixtures("traced")
def test_a_module_that_is_called_twice_has_two_masks(dropping):
    losses, state = stepped(on_noise(dropping, Arithmetic(compile=True)))
    expected, plain = stepped(on_noise(dropping))
    assert losses == expected
    same(state, plain)


# --- what compiles ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_compiles_as_one_graph(name):
    """And its steps are those of the network itself, to the bit where no code is generated."""
    problem = PROBLEMS[name]
    losses, state = stepped(on_noise(problem, Arithmetic(compile=True)))
    expected, plain = stepped(on_noise(problem))
    assert losses == expected
    same(state, plain)
