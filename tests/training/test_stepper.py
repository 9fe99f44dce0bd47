"""The step that training is made of, and the same step captured on a GPU (skipped without one)."""

import dataclasses
import os

import pytest
import torch

from distsim.data import augment, load
from distsim.environment import threads
from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream
from distsim.specs import Recipe
from distsim.sweep.order import identify
from distsim.training import optimizers as optim
from distsim.training.loop import EpochStreams, finish, stepper_for, train_steps, training_data
from distsim.training.pruning import full_masks, prune
from distsim.training.stepper import Arithmetic, Stepper, settle

PROBLEM = dataclasses.replace(
    PROBLEMS["digits"].reduced_to(epochs=2, probe=100, train_limit=200),
    recipe=Recipe(epochs=2, batch_size=64, optimizer="adam", lr=2e-3, augment=("crop", "flip", "affine", "cutout")),
)


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


def stepper(device="cpu", arithmetic=None, **change):
    """A fresh one, with the weights and masks of a first pruning, reset."""
    problem = dataclasses.replace(PROBLEM, recipe=dataclasses.replace(PROBLEM.recipe, **change))
    data = load(problem, "")
    recipe = identify(problem, data).problem.recipe
    network = build(problem, 10, torch_stream(0, "initialisation"))
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    masks = prune(network, full_masks(network, problem.pruning), problem.pruning)
    for name, mask in masks.items():
        weights[name] = weights[name] * mask
    place = torch.device(device)
    made = stepper_for(network.to(place), training_data(data, recipe, 0, place), recipe, arithmetic)
    made.reset(weights, masks)
    return made, recipe, weights, masks


def trained(made, recipe, run=0, epochs=2):
    losses = finish(train_steps(made, recipe, EpochStreams(0, run, 1), range(epochs)))
    return losses, made.state()


def same(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "fast_sgd"])
def test_a_used_stepper_is_as_good_as_a_new_one(optimizer):
    made, recipe, weights, masks = stepper(optimizer=optimizer)
    losses, first = trained(made, recipe)
    trained(made, recipe, run=7)
    made.reset(weights, masks)
    again, second = trained(made, recipe)
    assert again == losses
    same(first, second)


def test_masks_of_the_training_before_hold_nothing_back():
    """The complete network after a pruned one: every parameter learns again."""
    made, recipe, weights, masks = stepper()
    trained(made, recipe)
    whole = {name: torch.ones_like(mask) for name, mask in masks.items()}
    made.reset(weights, whole)
    trained(made, recipe)
    after = made.network.state_dict()
    dead = torch.cat([after[name][~mask] for name, mask in masks.items()])
    assert len(dead) > 4000
    assert (dead != 0).float().mean() > 0.9


def test_a_state_is_a_copy_laid_out_as_its_shape_says():
    made, recipe, _, _ = stepper()
    trained(made, recipe, epochs=1)
    state = made.state()
    before = {name: value.clone() for name, value in state.items()}
    trained(made, recipe, epochs=1)
    same(state, before)
    assert all(value.is_contiguous() and value.device.type == "cpu" for value in state.values())
    assert any(value.ndim == 4 for value in state.values())


def test_the_learning_rate_and_the_batch_are_those_of_the_step():
    """Against the same steps written out with the library's own augmentation and optimizer."""
    made, recipe, _, _ = stepper(optimizer="sgd", lr=0.05)
    other, _, _, masks = stepper(optimizer="sgd", lr=0.05)
    network = other.network
    rule = optim.optimizer(recipe, network.parameters())
    data = training_data(load(PROBLEM, ""), identify(PROBLEM, load(PROBLEM, "")).problem.recipe, 0, torch.device("cpu"))
    order = torch.randperm(200, generator=torch_stream(0, "order"))
    draws = augment.draw(recipe.augment, 200, 8, torch_stream(0, "draws"))
    rates = [0.05, 0.01, 0.02]
    made.begin(order, draws, rates, [3])
    network.train()
    for module in network.modules():
        if hasattr(module, "reseed"):
            module.reseed(3, torch.device("cpu"))
    for step, rate in enumerate(rates):
        made.step()
        rows = slice(64 * step, 64 * (step + 1))
        drawn = {name: values[rows] for name, values in draws.items()}
        images = augment.apply(data.images[order[rows]], drawn, data.mean, data.sd)
        loss = torch.nn.functional.cross_entropy(network(images), data.labels[order[rows]])
        rule.zero_grad()
        loss.backward()
        for name, parameter in network.named_parameters():
            if name in masks:
                parameter.grad *= masks[name]
        for group in rule.param_groups:
            group["lr"] = rate
        rule.step()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(made.network.state_dict()[name], parameter, rtol=1e-4, atol=1e-6)


def test_an_image_size_of_its_own_is_read_from_the_images():
    made, _, _, _ = stepper()
    assert (made.examples, made.size, made.batch, made.steps, made.dropouts) == (200, 8, 64, 3, 1)


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        if "cuda" in os.environ.get("DISTSIM_REQUIRE", "").split(","):
            pytest.fail("DISTSIM_REQUIRE names cuda: no CUDA device")
        pytest.skip("no CUDA device")
    settle(torch.device("cuda"), True)
    yield "cuda"
    settle(torch.device("cuda"), False)


DETERMINISTIC = Arithmetic("bfloat16", deterministic=True)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "fast_sgd"])
def test_a_captured_step_is_the_step(gpu, optimizer):
    captured, recipe, _, _ = stepper(gpu, DETERMINISTIC, optimizer=optimizer)
    plain, _, weights, masks = stepper(gpu, DETERMINISTIC, optimizer=optimizer)
    plain.step = plain._step
    plain.reset(weights, masks)
    one, two = trained(captured, recipe), trained(plain, recipe)
    assert one[0] == two[0]
    same(one[1], two[1])


@pytest.mark.gpu
def test_captured_steps_in_turns_are_those_alone(gpu):
    alone = []
    for run in range(3):
        made, recipe, _, _ = stepper(gpu, DETERMINISTIC)
        alone.append(trained(made, recipe, run))
    lanes = [stepper(gpu, DETERMINISTIC)[0] for _ in range(3)]
    steps_of = (train_steps(made, recipe, EpochStreams(0, run, 1), range(2)) for run, made in enumerate(lanes))
    going = dict(enumerate(steps_of))
    losses = {}
    while going:
        for run, steps in tuple(going.items()):
            try:
                next(steps)
            except StopIteration as end:
                losses[run] = end.value
                del going[run]
    for run, (expected, state) in enumerate(alone):
        assert losses[run] == expected
        same(lanes[run].state(), state)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_twenty_wide_networks_in_turns_are_those_alone(gpu, precision):
    """cifar2 at its own widths, where products are split and their parts wait in a workspace: 200 steps of each."""
    lanes = [wide(gpu, Arithmetic(precision, deterministic=True)) for _ in range(20)]
    start = {name: value.clone() for name, value in lanes[0].network.state_dict().items()}
    alone = []
    for run, made in enumerate(lanes):
        made.reset(start, {})
        begin_epoch(made, run)
        for _ in range(made.steps):
            made.step()
        alone.append((made.loss(), made.state()))
    for made in lanes:
        made.reset(start, {})
    for run, made in enumerate(lanes):
        begin_epoch(made, run)
    for _ in range(lanes[0].steps):
        for made in lanes:
            made.step()
    for made, (loss, state) in zip(lanes, alone, strict=True):
        assert made.loss() == loss
        same(made.state(), state)


def wide(device, arithmetic, steps=200):
    """A stepper of cifar2 on noise."""
    problem = PROBLEMS["cifar2"]
    n = steps * problem.recipe.batch_size
    noise = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch_stream(0, "noise"))
    pictures = augment.Pictures(noise.to(device), *(torch.full((3,), 0.5, device=device),) * 2)
    network = build(problem, 10, torch_stream(0, "initialisation")).to(device)
    return Stepper(network, pictures, torch.arange(n, device=device) % 10, problem.recipe, arithmetic)


def begin_epoch(made, run):
    generator = torch_stream(run, "order")
    order = torch.randperm(made.examples, generator=generator)
    draws = augment.draw(PROBLEMS["cifar2"].recipe.augment, made.examples, made.size, generator)
    made.begin(order, draws, [1e-3] * made.steps, range(made.dropouts))


@pytest.mark.gpu
def test_a_gpu_trains_as_the_cpu_does(gpu):
    """Dropout draws from the device's own generator, so only a network without it can agree."""
    found = []
    for device in ("cpu", gpu):
        made, recipe, weights, masks = stepper(device)
        for module in made.network.modules():
            if hasattr(module, "reseed"):
                module.p = 0.0
        if device != "cpu":  # captured with dropout
            made.step = made._step
        made.reset(weights, masks)
        found.append(trained(made, recipe))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)


@pytest.mark.gpu
def test_a_captured_step_goes_on_from_a_state(gpu):
    made, recipe, weights, masks = stepper(gpu, DETERMINISTIC)
    whole = trained(made, recipe)
    made.reset(weights, masks)
    trained(made, recipe, epochs=1)
    state = made.state()
    other, _, _, _ = stepper(gpu, DETERMINISTIC)
    other.load(state)
    losses = finish(train_steps(other, recipe, EpochStreams(0, 0, 1), range(1, 2)))
    assert losses == whole[0][1:]
    same(other.state(), whole[1])


def test_the_stepper_is_not_tied_to_a_problem():
    network = build(PROBLEM, 10, torch_stream(0, "initialisation"))
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8)
    pictures = augment.Pictures(images, torch.zeros(1), torch.ones(1))
    made = Stepper(network, pictures, torch.arange(40) % 10, dataclasses.replace(PROBLEM.recipe, augment=()))
    assert (made.batch, made.steps) == (40, 1)
