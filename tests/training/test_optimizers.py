import numpy as np
import pytest
import torch
from torch import nn

from distsim.problems import PROBLEMS
from distsim.specs import Recipe
from distsim.training.optimizers import FastSGD, last_rate, optimizer, schedule


def rates(recipe, steps):
    rate = schedule(recipe)
    return np.array([[rate(epoch, step, steps) for step in range(steps)] for epoch in range(recipe.epochs)])


# --- schedules in closed form ---


def test_constant():
    assert (rates(PROBLEMS["cifar2"].recipe, 3) == 1e-3).all()


def test_steps_of_vgg16():
    found = rates(PROBLEMS["vgg16_cifar10"].recipe, 2)
    expected = np.repeat([0.1, 0.01, 0.001], [80, 40, 40])
    np.testing.assert_allclose(found, np.stack([expected, expected], axis=1), rtol=1e-15)


def test_triangle_of_resnet_fast():
    steps = 97  # 50,000 // 512
    found = rates(PROBLEMS["resnet_fast_cifar10"].recipe, steps).ravel()
    time = np.arange(1, 24 * steps + 1) / steps  # in epochs, at the end of each step
    np.testing.assert_allclose(found, np.interp(time, [0, 5, 24], [0, 0.4, 0]), rtol=1e-12, atol=1e-15)
    assert found[5 * steps - 1] == found.max() == 0.4
    assert found[0] == pytest.approx(0.4 / (5 * steps))
    assert found[-1] == 0.0
    assert (np.diff(found[: 5 * steps]) > 0).all()
    assert (np.diff(found[5 * steps - 1 :]) < 0).all()


def test_triangle_with_the_peak_at_either_end():
    falling = Recipe(epochs=2, batch_size=1, schedule="triangle", lr=1.0, peak=0.0)
    np.testing.assert_allclose(rates(falling, 2).ravel(), [0.75, 0.5, 0.25, 0.0])
    rising = Recipe(epochs=2, batch_size=1, schedule="triangle", lr=1.0, peak=2.0)
    np.testing.assert_allclose(rates(rising, 2).ravel(), [0.25, 0.5, 0.75, 1.0])


def test_last_rate_that_is_not_zero():
    assert last_rate(PROBLEMS["cifar2"].recipe, 10) == 1e-3
    assert last_rate(PROBLEMS["vgg16_cifar10"].recipe, 10) == pytest.approx(1e-3)
    assert last_rate(PROBLEMS["resnet_fast_cifar10"].recipe, 97) == pytest.approx(0.4 / 97 / 19)
    single = Recipe(epochs=1, batch_size=1, schedule="triangle", lr=1.0, peak=0.0)
    with pytest.raises(ValueError, match="the schedule is zero throughout"):
        last_rate(single, 1)


# --- update rules, three steps against the formula in float64 ---

GRADIENTS = ([0.5, -1.0, 0.25], [-0.25, 0.5, 1.0], [1.0, 1.0, -2.0])
RATES = (0.1, 0.2, 0.05)
START = [1.0, -2.0, 3.0]


def stepped(recipe, shape=(3,)):
    """The parameter after three steps of known gradients, the learning rate set as the loop sets it."""
    parameter = nn.Parameter(torch.tensor(START).reshape(shape))
    rule = optimizer(recipe, [parameter])
    for gradient, lr in zip(GRADIENTS, RATES, strict=True):
        parameter.grad = torch.tensor(gradient).reshape(shape)
        for group in rule.param_groups:
            group["lr"] = lr
        rule.step()
    return parameter.detach().flatten()


def recipe(name, **more):
    return Recipe(epochs=1, batch_size=1, optimizer=name, weight_decay=0.01, **more)


def test_sgd_with_momentum_and_coupled_decay():
    w, v = np.array(START), np.zeros(3)
    for g, lr in zip(np.array(GRADIENTS), RATES, strict=True):
        v = 0.9 * v + (g + 0.01 * w)
        w = w - lr * v  # not Nesterov; the learning rate is outside the buffer
    np.testing.assert_allclose(stepped(recipe("sgd")), w, rtol=1e-6)


def test_adam_with_coupled_decay():
    w, m, s = np.array(START), np.zeros(3), np.zeros(3)
    for t, (g, lr) in enumerate(zip(np.array(GRADIENTS), RATES, strict=True), start=1):
        d = g + 0.01 * w
        m, s = 0.9 * m + 0.1 * d, 0.999 * s + 0.001 * d**2
        w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(stepped(recipe("adam")), w, rtol=1e-6)


@pytest.mark.parametrize("lars", [False, True])
def test_fast_sgd(lars):
    """With LARS: the parameter is the weight of a convolution with one filter."""
    w, v = np.array(START), np.zeros(3)
    for g, lr in zip(np.array(GRADIENTS), RATES, strict=True):
        r = np.linalg.norm(w) / (512 * np.linalg.norm(g) + 1e-2) if lars else 1.0
        d = g + 0.01 * w
        v = 0.9 * v - lr * r * d
        w = w + 0.9 * v - lr * r * d
    np.testing.assert_allclose(stepped(recipe("fast_sgd", lars=lars), shape=(1, 3, 1, 1)), w, rtol=1e-6)


def test_fast_sgd_by_hand():
    """One weight, in decimals: w = 1, g = 1, lr = 0.1, momentum 0.9, no decay."""
    parameter = nn.Parameter(torch.ones(1))
    rule = FastSGD([parameter], lr=0.1)
    expected = (0.81, 0.539, 0.1951)  # v = -0.1, -0.19, -0.271; each step is 0.9 v - 0.1
    for value in expected:
        parameter.grad = torch.ones(1)
        rule.step()
        assert parameter.item() == pytest.approx(value, rel=1e-6)


def test_lars_scales_each_filter_alone_and_nothing_else():
    lr = 0.1
    conv = nn.Parameter(torch.tensor([3.0, 4.0, 0.6, 0.8]).reshape(2, 2, 1, 1))  # filter norms 5 and 1
    linear, norm = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    rule = FastSGD([conv, linear, norm], lr=lr, momentum=0.0, lars=True)
    conv.grad = torch.ones(2, 2, 1, 1) / 2**0.5  # filter norms 1
    linear.grad, norm.grad = torch.ones(2, 2), torch.ones(2)
    rule.step()
    step = lr / 2**0.5 / 512.01
    expected = [3 - 5 * step, 4 - 5 * step, 0.6 - step, 0.8 - step]
    np.testing.assert_allclose(conv.detach().flatten(), expected, rtol=1e-6)
    assert torch.equal(linear.detach(), torch.full((2, 2), 0.9))
    assert torch.equal(norm.detach(), torch.full((2,), 0.9))


def test_fast_sgd_passes_over_parameters_without_gradient():
    parameter = nn.Parameter(torch.ones(2))
    FastSGD([parameter], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(parameter.detach(), torch.ones(2))


def test_the_recipes_options_reach_the_optimizer():
    parameter = [nn.Parameter(torch.ones(1))]
    adam = optimizer(PROBLEMS["cifar2"].recipe, parameter)
    assert isinstance(adam, torch.optim.Adam)
    assert (adam.defaults["betas"], adam.defaults["eps"], adam.defaults["weight_decay"]) == ((0.9, 0.999), 1e-8, 5e-4)
    sgd = optimizer(PROBLEMS["vgg16_cifar10"].recipe, parameter)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"], sgd.defaults["weight_decay"]) == (0.9, False, 1e-4)
    fast = optimizer(PROBLEMS["resnet_fast_cifar10"].recipe, parameter)
    assert isinstance(fast, FastSGD)
    assert (fast.defaults["momentum"], fast.defaults["weight_decay"]) == (0.9, 5e-4)
