"""What is rounding and what is data: both sides of each line, and what rounding really does."""

import numpy as np
import pytest
import torch

from distsim.metrics import arrays, channels, kernels
from distsim.metrics.rounding import (
    EPS,
    EPS32,
    SAME,
    is_constant,
    least_pivot,
    rank_of_gram,
    rank_of_products,
    squares_of_constant,
    unit_of,
)


@pytest.mark.parametrize(
    ("array", "unit"),
    [
        (np.zeros(2, np.float64), 2.0**-52),
        (np.zeros(2, np.float32), 2.0**-23),
        (np.zeros(2, np.float16), 2.0**-23),
        (np.zeros(2, np.int64), 2.0**-52),
        (torch.zeros(2, dtype=torch.bfloat16), 2.0**-23),
        (torch.zeros(2, dtype=torch.float64), 2.0**-52),
    ],
)
def test_the_unit_is_that_of_the_arithmetic(array, unit):
    assert unit_of(array) == unit


@pytest.mark.parametrize("unit", [EPS, EPS32])
@pytest.mark.parametrize("mean", [1.0, -1000.0])
def test_a_column_is_constant_up_to_eight_units(unit, mean):
    deviation = np.array([0, 7.9, 8, 8.1]) * unit * abs(mean)
    assert is_constant(deviation, np.full(4, mean), unit).tolist() == [True, True, True, False]
    assert is_constant(np.array([0.0, 1e-300]), np.zeros(2), unit).tolist() == [True, False], "nothing is near to zero"


def test_squares_are_those_of_values_at_the_limit():
    mean = np.array([3.0, 0.0])
    deviation = SAME * EPS * np.abs(mean)
    assert is_constant(deviation, mean, EPS).all()
    np.testing.assert_allclose(squares_of_constant(50, mean), 50 * deviation**2, rtol=1e-14, atol=0)


def values_around(mean, units, unit, rows=40):
    """(rows, 2): a column whose values are so many units from their mean, up and down, and one that varies."""
    signs = np.where(np.arange(rows) % 2, 1.0, -1.0)
    return np.stack([mean * (1 + units * unit * signs), np.arange(rows)], axis=1)


@pytest.mark.parametrize("unit", [EPS, EPS32])
@pytest.mark.parametrize(("units", "constant"), [(6, True), (10, False)])
def test_every_way_to_a_side_draws_the_same_line(unit, units, constant):
    """The public functions' two views."""
    X = values_around(3.0, units, unit)
    x, _ = (A for A in arrays.both_rows("test", X.astype("float32") if unit == EPS32 else X, X, False))
    assert channels.channel_pair(x, x).x.dead == constant
    assert (kernels.kernel_side(x).features[:, 0] == 0).all() == constant


def test_equal_rows_of_a_product_are_constant():
    """Behind a dead layer: float32 products of equal rows, in batches of several sizes, all of one sign."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.rand(4096, generator=generator), torch.rand(64, 4096, generator=generator)
    rows = torch.cat([x.repeat(n, 1) @ weight.T for n in (128, 7, 1, 3, 500)]).double().numpy()
    mean = rows.mean(axis=0)
    assert is_constant(np.abs(rows - mean).max(axis=0), mean, EPS32).all()


@pytest.mark.parametrize("p", [8, 64, 256])
def test_the_rank_of_products_is_that_of_the_data(p, rng):
    X = rng.standard_normal((3000, p // 4)) @ rng.standard_normal((p // 4, p)) + 10 * rng.standard_normal(p)
    side = channels.channel_pair(X, X).x
    scale = np.sqrt(np.diag(side.products))
    values = np.linalg.eigvalsh(side.products / scale / scale[:, None])[::-1]
    assert rank_of_products(values) == p // 4
    assert np.abs(values[p // 4 :]).max() < 0.1 * 10 * p * EPS * values[0], "rounding is far below the floor"


def test_both_sides_of_the_floors():
    """Fractions of the largest eigenvalue; of products the floor grows with their number."""
    assert rank_of_products(np.array([1, 41 * EPS, 39 * EPS, 0])) == 2
    assert rank_of_products(np.array([1, 41 * EPS, 39 * EPS, 0, 0])) == 1
    assert rank_of_products(np.zeros(3)) == 0
    for unit in (EPS, EPS32):
        assert rank_of_gram(np.array([-1 * unit, 9 * unit, 11 * unit, 1]), unit) == 2
    assert least_pivot(EPS32) == 16 * EPS32
    assert least_pivot(EPS) == 1e-10


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_rank_of_a_gram_matrix_is_that_of_the_data(dtype, rng):
    X = (rng.standard_normal((300, 40)) @ rng.standard_normal((40, 500))).astype(dtype)
    values = np.linalg.eigvalsh((X @ X.T).astype("float64"))
    assert rank_of_gram(values, float(np.finfo(dtype).eps)) == 40
