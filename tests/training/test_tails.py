"""What follows a convolution, by one kernel each way: the numbers of torch's own modules."""

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distsim.data import augment
from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream
from distsim.training import tails
from distsim.training.fused import FusedConv2d, fused, set_run
from distsim.training.fused_stepper import Epoch, FusedStepper
from distsim.training.stepper import Arithmetic, settle
from distsim.training.tails import Norm, Tail, tail, with_tails

pytest.importorskip("triton", reason="Triton is not installed")
ROOT = Path(__file__).resolve().parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((3, 5, 4, 6), (2, 70, 6, 4), (5, 33, 16, 16), (3, 6, 5, 7))  # the last has no whole number of 2x2 pixels
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.05}


class Case:
    """A convolution's result, a gradient of what comes out, and the parameters of bias and batch norm."""

    def __init__(self, shape, dtype, normed, pool):
        generator = torch.Generator().manual_seed(1)
        of_parameters = torch.float32 if dtype is torch.bfloat16 else dtype

        def drawn(*size, dtype=of_parameters):
            return torch.randn(size, generator=generator, dtype=torch.float64).to(DEVICE, dtype)

        channels = shape[1]
        self.x = drawn(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        self.bias, self.weight, self.offset = (drawn(channels).requires_grad_() for _ in range(3))
        self.mean, self.variance = drawn(channels), drawn(channels).abs()
        self.normed, self.pool = normed, pool
        size = (shape[2] // 2, shape[3] // 2) if pool else shape[2:]
        self.back = drawn(*shape[:2], *size, dtype=dtype)

    def gradients(self, y):
        leaves = [self.x, self.bias, *((self.weight, self.offset) if self.normed else ())]
        return torch.autograd.grad(y, leaves, self.back)

    def by_torch(self):
        y = self.x + self.bias[:, None, None].to(self.x.dtype)
        if self.normed:
            y = F.batch_norm(y, self.mean, self.variance, self.weight, self.offset, True, 0.1, 1e-5)
        y = F.relu(y)
        y = F.max_pool2d(y, 2) if self.pool else y
        return [y.detach(), *self.gradients(y), self.mean, self.variance]

    def by_kernels(self):
        norm = Norm(self.weight, self.offset, self.mean, self.variance, momentum=0.1, eps=1e-5) if self.normed else None
        y = tail(self.x, self.bias, norm, self.pool)
        return [y.detach(), *self.gradients(y), self.mean, self.variance]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("pool", [False, True], ids=["", "pooled"])
@pytest.mark.parametrize("normed", [False, True], ids=["", "normed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_tail_is_what_torchs_modules_do(shape, normed, pool, dtype, monkeypatch):
    """Outputs, all gradients, running statistics. With few parts, so that each has several blocks."""
    monkeypatch.setattr(tails, "PARTS", 3)
    expected, found = Case(shape, dtype, normed, pool).by_torch(), Case(shape, dtype, normed, pool).by_kernels()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(one, other, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("normed", [False, True], ids=["", "normed"])
def test_it_computes_in_float32_where_torch_has_bfloat16(normed):
    """Sums of 1,280 values that are far from zero would lose all digits in bfloat16."""
    case = Case((5, 33, 16, 16), torch.bfloat16, normed, pool=False)
    exact = Case((5, 33, 16, 16), torch.float64, normed, pool=False)
    for each in (case, exact):
        with torch.no_grad():
            each.x.copy_(case.x)  # what is rounded is the same
            each.back.copy_(case.back)
    for one, other in zip(case.by_kernels(), exact.by_torch(), strict=True):
        assert torch.allclose(one.double(), other, rtol=0.02, atol=0.02)


def test_statistics_are_exact_far_from_zero():
    """By distances from the mean: the mean of squares would lose them."""
    case = Case((5, 4, 16, 16), torch.float32, normed=True, pool=False)
    with torch.no_grad():
        case.x += 1000.0
    y = case.by_kernels()[0]
    x = case.x.detach().double()
    apart = x - x.mean((0, 2, 3), keepdim=True)
    scaled = apart / apart.square().mean((0, 2, 3), keepdim=True).sqrt()
    expected = F.relu(scaled * case.weight[:, None, None] + case.offset[:, None, None])
    assert torch.allclose(y.double(), expected, atol=2e-3)


def test_one_channels_nan_stays_its_own_and_is_not_hidden():
    case, sound = (Case((2, 6, 4, 4), torch.float32, normed=True, pool=True) for _ in range(2))
    with torch.no_grad():
        case.x[1, 2, 3, 3] = torch.nan
    found, expected = case.by_kernels(), sound.by_kernels()
    assert found[0][:, 2].isnan().all()
    others = [0, 1, 3, 4, 5]
    assert torch.equal(found[0][:, others], expected[0][:, others])
    assert torch.equal(found[1][:, others], expected[1][:, others])
    unnormed = Case((2, 6, 4, 4), torch.float32, normed=False, pool=True)
    with torch.no_grad():
        unnormed.x[1, 2, 3, 3] = torch.nan
    assert unnormed.by_kernels()[0].isnan().sum() == 1


def test_of_equal_pixels_pooling_chooses_torchs():
    """Values in bfloat16 are often equal."""
    case, same = (Case((5, 33, 16, 16), torch.float64, normed=False, pool=True) for _ in range(2))
    for each in (case, same):
        with torch.no_grad():
            each.x.round_()
            each.bias.fill_(1.0)
    assert torch.equal(case.by_kernels()[1], same.by_torch()[1])


def test_tritons_compiler_takes_the_kernels(tmp_path):
    """For an H100. None is needed to compile, and the interpreter lets more pass."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    script = [sys.executable, str(ROOT / "tests/triton_compiles.py")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 2 * 10, "bfloat16 and float32"


def test_it_repeats_itself():
    once, again = (Case((5, 33, 16, 16), torch.float32, normed=True, pool=True).by_kernels() for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))


# --- in a network ----------------------------------------------------------------------------------------------------


def stacked(name, runs=2):
    """A fused network of runs with different weights, in float64, in training mode."""
    problem = dataclasses.replace(PROBLEMS[name], **({"size": 8} if name.startswith("resnet") else {}))
    classes = len(problem.classes) or 10
    image = problem.channels, problem.size, problem.size
    network = fused(build(problem, classes).double(), runs, 4, image)
    for run in range(runs):
        weights = build(problem, classes, torch_stream(run, "initialisation")).state_dict()
        set_run(network, run, weights)
    return network.train().to(DEVICE), torch.rand(4, runs * image[0], *image[1:], dtype=torch.float64, device=DEVICE)


# convolutions whose followers are done by a kernel, with pooling or without; LeNet-5's are in no nn.Sequential
FOLDED = {"cifar2": (1, 1), "digits": (2, 2), "resnet_fast_cifar10": (0, 8), "lenet5_mnist": (0, 0)}


@pytest.mark.parametrize("name", FOLDED)
def test_a_network_with_tails_is_the_network_without(name):
    """Its outputs, gradients and buffers, and the names of all of them."""
    network, images = stacked(name)
    torch.manual_seed(0)
    other = copy.deepcopy(network)
    with_tails(other)
    found = [module._pool for module in other.modules() if isinstance(module, Tail)]
    assert (sum(found), len(found) - sum(found)) == FOLDED[name]
    assert list(other.state_dict()) == list(network.state_dict())
    outputs = [of(images) for of in (network, other)]
    assert torch.allclose(*outputs, rtol=0, atol=1e-10)
    for output in outputs:
        output.square().sum().backward()
    for (path, one), two in zip(network.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, rtol=1e-9, atol=1e-9), path
    for (path, one), two in zip(network.named_buffers(), other.buffers(), strict=True):
        assert torch.allclose(one, two, rtol=1e-10, atol=1e-10), path
    with torch.no_grad():
        assert torch.allclose(network.eval()(images), other.eval()(images), rtol=0, atol=1e-9)


def test_filling_up_channels_changes_nothing():
    torch.manual_seed(0)
    for groups in (1, 3):
        conv = FusedConv2d(nn.Conv2d(3 * groups, 6, 3, padding=1, groups=groups).double(), 2)
        with torch.no_grad():
            conv.weight.normal_()
        x = torch.randn(4, 6 * groups, 5, 5, dtype=torch.float64)
        assert torch.allclose(conv.products(x, 8), conv(x), rtol=0, atol=1e-12)
        assert torch.equal(conv.products(x, 3), conv(x)), "three are enough"


@pytest.mark.parametrize(
    "pool", [{"kernel_size": 3}, {"kernel_size": 2, "stride": 1}, {"kernel_size": 2, "padding": 1}]
)
def test_other_poolings_are_left_to_torch(pool):
    problem = PROBLEMS["digits"]
    network = fused(build(problem, 10), 2, 4, (problem.channels, problem.size, problem.size))
    network.blocks.pool1 = nn.MaxPool2d(**pool)
    with_tails(network)
    assert type(network.blocks.pool1) is nn.MaxPool2d
    assert type(network.blocks.pool2) is nn.Identity


def trained(tails, steps=3, precision="float32", deterministic=False):
    """Losses and weights of two fused runs after a few steps."""
    problem, images = PROBLEMS["digits"], 32
    recipe = problem.recipe
    generator = torch_stream(0, "images")
    shape = (images, problem.channels, problem.size, problem.size)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(DEVICE)
    half = torch.full((problem.channels,), 0.5, device=DEVICE)
    pictures = augment.Pictures(pixels, half, half)
    labels = torch.arange(images, device=DEVICE) % 10
    settle(labels.device, deterministic)
    stepper = FusedStepper(build(problem, 10), 2, pictures, labels, recipe, Arithmetic(precision, deterministic), tails)
    assert any(isinstance(module, Tail) for module in stepper.network.modules()) is tails
    weights = [build(problem, 10, torch_stream(run, "initialisation")).state_dict() for run in range(2)]
    stepper.reset_runs({run: (of_run, {}) for run, of_run in enumerate(weights)})
    drawn = augment.draw(recipe.augment, images, problem.size, generator)
    order = torch.stack([torch.randperm(images, generator=generator) for _ in range(2)])
    draws = {name: torch.stack([values] * 2) for name, values in drawn.items()}
    for _ in range(steps):
        stepper.begin_epoch(Epoch(order, draws, [1e-4] * stepper.steps, range(2 * stepper.modules)))
        for _ in range(stepper.steps):
            stepper.step()
    return stepper.losses(), [stepper.state_of(run) for run in range(2)]


def test_fused_steps_with_tails_are_those_without():
    (losses, states), (expected, others) = trained(tails=True), trained(tails=False)
    assert losses == pytest.approx(expected, rel=1e-4)
    for one, other in zip(states, others, strict=True):
        name = "network/blocks.conv1_1.norm.running_var"
        assert torch.allclose(one[name], other[name], rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fused_steps_with_tails_on_a_gpu(precision):
    """CPU twin: test_fused_steps_with_tails_are_those_without."""
    if DEVICE == "cpu":
        pytest.skip("no CUDA device")
    (losses, states), (expected, _) = trained(True, 3, precision, True), trained(False, 3, precision, True)
    assert losses == pytest.approx(expected, rel=1e-4 if precision == "float32" else 0.02)
    again = trained(True, 3, precision, True)
    assert losses == again[0]
    for one, other in zip(states, again[1], strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
