import itertools
import math
from typing import get_args

import pytest
import torch
from torch.testing import assert_close
from torchvision.transforms.v2 import functional as F

from distsim.data import apply, draw, normalise
from distsim.specs import Augmentation

AUGMENTATIONS = get_args(Augmentation)

MEAN, SD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
SUBSETS = [steps for k in range(5) for steps in itertools.combinations(AUGMENTATIONS, k)]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Thousands of tiny operations: threads waiting for each other took more than half of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(n, size, channels=3):
    # 1 to 255, so that a moved-in zero cannot be mistaken for a pixel
    return torch.randint(1, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator(7))


def one_by_one(image, draws, i, mean, sd):
    """The steps in their order, each by torchvision."""
    size = image.shape[-1]
    if "crop" in draws:
        top, left = draws["crop"][i].tolist()
        image = F.crop(F.pad(image, [4, 4, 4, 4]), top, left, size, size)
    if "flip" in draws and draws["flip"][i]:
        image = F.horizontal_flip(image)
    if "affine" in draws:
        degrees, right, down = draws["affine"][i].tolist()
        image = F.affine(image, degrees, [right, down], scale=1.0, shear=[0.0, 0.0])
    result = normalise(image[None], mean, sd)[0]
    if "cutout" in draws:
        y, x = draws["cutout"][i].tolist()
        result[:, max(y - 4, 0) : y + 4, max(x - 4, 0) : x + 4] = 0
    return result


def near_a_tie(draws, size):
    """(n, s, s) bool: the affine step's source, in float64, lies within 1e-4 of the middle between two pixels."""
    degrees, right, down = draws["affine"].double().view(-1, 3, 1, 1).unbind(1)
    cos, sin = torch.cos(degrees * math.pi / 180), torch.sin(degrees * math.pi / 180)
    grid = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    x, y = grid.view(1, 1, -1) - right, grid.view(1, -1, 1) - down
    sources = torch.stack([cos * x + sin * y, cos * y - sin * x]) + (size - 1) / 2
    return ((sources - sources.floor() - 0.5).abs() < 1e-4).any(0)


@pytest.mark.parametrize("size", [8, 28, 32, 33])
@pytest.mark.parametrize("augment", SUBSETS, ids="-".join)
def test_equals_torchvision_step_by_step(augment, size):
    n = 40
    images = random_images(n, size)
    draws = draw(augment, n, size, generator(size))
    got = apply(images, draws, MEAN, SD)
    expected = torch.stack([one_by_one(images[i], draws, i, MEAN, SD) for i in range(n)])
    differs = (got != expected).any(1)
    if "affine" in augment:
        differs &= ~near_a_tie(draws, size)
    assert not differs.any()


def test_ties_are_rare_enough_for_the_comparison_to_mean_something():
    draws = draw(("affine",), 2000, 32, generator())
    assert near_a_tie(draws, 32).float().mean() < 2e-3


@pytest.mark.parametrize("degrees", [-15.0, -1e-3, 0.0, 7.3, 15.0])
@pytest.mark.parametrize("shift", [(0, 0), (3, -3), (-3, 0)])
def test_extreme_windows_and_shifts_equal_torchvision(degrees, shift):
    corners = torch.tensor([(0, 0), (0, 8), (8, 0), (8, 8)]).repeat(2, 1)
    draws = {
        "crop": corners,
        "flip": torch.arange(8) < 4,
        "affine": torch.tensor([[degrees, *map(float, shift)]]).repeat(8, 1),
        "cutout": torch.tensor([(0, 0), (31, 31), (3, 4), (4, 3), (28, 27), (0, 31), (16, 16), (31, 0)]),
    }
    images = random_images(8, 32)
    expected = torch.stack([one_by_one(images[i], draws, i, MEAN, SD) for i in range(8)])
    same = (apply(images, draws, MEAN, SD) == expected).all(1) | near_a_tie(draws, 32)
    assert same.all()


def test_grey_images():
    images = random_images(5, 28, channels=1)
    draws = draw(("crop", "flip"), 5, 28, generator())
    mean, sd = torch.tensor([0.1307]), torch.tensor([0.3081])
    expected = torch.stack([one_by_one(images[i], draws, i, mean, sd) for i in range(5)])
    assert_close(apply(images, draws, mean, sd), expected, rtol=0, atol=0)


def test_normalise_equals_its_formula():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    got = normalise(images, MEAN, SD)
    assert got.dtype == torch.float32
    exact = (images.double() / 255 - MEAN.double().view(3, 1, 1)) / SD.double().view(3, 1, 1)
    assert_close(got.double(), exact, rtol=0, atol=2e-6 / 4)  # two roundings of values up to 5: 2 · 2⁻²² at most
    assert_close(apply(images, {}, MEAN, SD), got, rtol=0, atol=0)


def test_normalised_values_do_not_depend_on_the_place_in_the_batch():
    images = random_images(37, 9)
    whole = normalise(images, MEAN, SD)
    for i in (0, 17, 36):
        assert_close(normalise(images[i : i + 1], MEAN, SD)[0], whole[i], rtol=0, atol=0)


def test_images_are_left_alone():
    images = random_images(6, 32)
    before = images.clone()
    apply(images, draw(AUGMENTATIONS, 6, 32, generator()), MEAN, SD)
    assert torch.equal(images, before)


def test_a_batch_is_augmented_as_its_images_are():
    images, draws = random_images(12, 32), draw(AUGMENTATIONS, 12, 32, generator())
    whole = apply(images, draws, MEAN, SD)
    rows = torch.tensor([5, 0, 11])
    assert_close(apply(images[rows], {k: v[rows] for k, v in draws.items()}, MEAN, SD), whole[rows], rtol=0, atol=0)


def test_cutout_is_an_eight_by_eight_square_clipped_at_the_border():
    images = random_images(3, 32)
    centres = torch.tensor([(16, 10), (0, 0), (31, 2)])
    zero = (apply(images, {"cutout": centres}, MEAN, SD) == 0).all(1)
    assert zero.sum((1, 2)).tolist() == [64, 16, 5 * 6]
    assert zero[0, 12:20, 6:14].all()
    assert zero[2, 27:, :6].all()


def test_draws_have_the_documented_ranges_and_frequencies():
    n = 40_000
    draws = draw(AUGMENTATIONS, n, 32, generator())
    assert list(draws) == list(AUGMENTATIONS)
    assert draws["crop"].shape == (n, 2)
    for column in draws["crop"].T:
        assert_close(torch.bincount(column, minlength=9) / n, torch.full((9,), 1 / 9), rtol=0, atol=0.01)
    assert abs(draws["flip"].float().mean() - 0.5) < 0.01
    degrees, right, down = draws["affine"].T
    assert -15 <= degrees.min() < -14.9
    assert 14.9 < degrees.max() <= 15
    assert abs(degrees.mean()) < 0.2
    for shift in (right, down):  # uniform on ±3.2 rounded: 0.7/6.4 for ±3, 1/6.4 for the rest
        frequency = torch.bincount((shift + 3).long(), minlength=7) / n
        assert_close(frequency, torch.tensor([0.7, 1, 1, 1, 1, 1, 0.7]) / 6.4, rtol=0, atol=0.01)
    for column in draws["cutout"].T:
        assert_close(torch.bincount(column, minlength=32) / n, torch.full((32,), 1 / 32), rtol=0, atol=0.005)


def test_draws_are_reproducible_and_differ_between_generators():
    first, again, other = (draw(AUGMENTATIONS, 50, 32, generator(seed)) for seed in (1, 1, 2))
    for name in AUGMENTATIONS:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_a_steps_draws_do_not_depend_on_the_other_steps():
    every = draw(AUGMENTATIONS, 20, 32, generator())
    for steps in SUBSETS:
        some = draw(steps[::-1], 20, 32, generator())
        assert tuple(some) == steps
        assert all(torch.equal(some[name], every[name]) for name in steps)


def test_errors():
    with pytest.raises(ValueError, match=r"augment knows .* not \['blur'\]"):
        draw(("crop", "blur"), 1, 32, generator())
    with pytest.raises(ValueError, match=r"images must be square, got \(1, 3, 4, 5\)"):
        apply(torch.zeros(1, 3, 4, 5, dtype=torch.uint8), {}, MEAN, SD)
    with pytest.raises(ValueError, match="2 images, but 3 rows of flip"):
        apply(random_images(2, 8), draw(("flip",), 3, 8, generator()), MEAN, SD)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_agrees_with_the_cpu():  # CPU twin: test_equals_torchvision_step_by_step
    images, draws = random_images(256, 32), draw(AUGMENTATIONS, 256, 32, generator())
    cpu = apply(images, draws, MEAN, SD)
    gpu = apply(images.cuda(), {k: v.cuda() for k, v in draws.items()}, MEAN.cuda(), SD.cuda()).cpu()
    same = torch.isclose(cpu, gpu, rtol=0, atol=1e-6).all(1) | near_a_tie(draws, 32)
    assert same.all()
    on_device = draw(AUGMENTATIONS, 10_000, 32, torch.Generator("cuda").manual_seed(0))
    assert on_device["crop"].is_cuda
    assert on_device["crop"].max() == 8
    assert on_device["cutout"].max() == 31
