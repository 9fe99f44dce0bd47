"""Levels: what chance alone gives at each n, how the two means differ, and the numerical hazards of many rows.

A similarity cannot be read without n, p and the value of independent data, so these levels are part of the reference.
"""

import numpy as np
import pytest

from distsim.metrics import cka, mean_cca, nbs, pwcca, svcca
from distsim.metrics.channels import channel_pair
from distsim.metrics.kernels import kernel_pair
from distsim.metrics.registry import METRICS

from . import plain

pytestmark = pytest.mark.usefixtures("every_backend")


@pytest.fixture(scope="module")
def independent():
    """Independent Gaussian sides of 256 columns; take the first n of their rows."""
    return np.random.default_rng(9).standard_normal((2, 2560, 256))


@pytest.mark.parametrize("n", [128, 256, 257])
@pytest.mark.parametrize("metric", [mean_cca, pwcca])
def test_chance_gives_1_where_columns_span_all_rows(metric, n, independent):
    np.testing.assert_allclose(metric(*independent[:, :n]), 1, rtol=0, atol=1e-9)


def test_one_more_row_ends_it(independent):
    """258 rows span 257 dimensions, of which two spans of 256 share 255: one correlation is below 1, if only one."""
    value = mean_cca(*independent[:, :258])
    assert 1 - 1 / 256 <= value < 1 - 1e-6


@pytest.mark.parametrize(("n", "level"), [(512, 0.64), (1280, 0.39), (2560, 0.27)])
def test_chance_level_of_mean_cca(n, level, independent):
    np.testing.assert_allclose(mean_cca(*independent[:, :n]), level, rtol=0, atol=0.01)


def test_chance_level_of_the_kernel_family(independent):
    X, Y = independent[:, :512]
    np.testing.assert_allclose(cka(X, Y), 0.33, rtol=0, atol=0.01)
    np.testing.assert_allclose(nbs(X, Y), 0.57, rtol=0, atol=0.01)


def test_permuting_the_rows_of_one_side_gives_the_chance_level_of_related_layers(independent, rng):
    X, Y = independent[:, :1280]
    related = X + 0.5 * Y
    assert mean_cca(X, related) > 0.8
    np.testing.assert_allclose(mean_cca(X, related[rng.permutation(1280)]), 0.39, rtol=0, atol=0.01)


# The mean over the leading correlations that hold 98 % of the sum


def planted(rng, r):
    p = len(r)
    Q = np.linalg.qr(plain.centred(rng.standard_normal((4 * p + 3, 2 * p))))[0]
    return Q[:, :p], Q[:, :p] * r + Q[:, p:] * np.sqrt(1 - np.square(r))


MASS_98 = {
    # 98 % of 1.83 is 1.7934; the first three hold 1.8
    "three of five": ([0.9, 0.6, 0.3, 0.02, 0.01], 0.6),
    # 0.95, 0.90, … 0.05: of 9.5 at most 0.19 may be left out, so 0.05 and 0.10 are and 0.15 is not: 9.35 over 17
    "seventeen of nineteen": (np.arange(19, 0, -1) / 20, 0.55),
    # three of four equal ones hold 75 %, and all four are never asked for: no such i, so all count
    "equal": ([0.5, 0.5, 0.5, 0.5], 0.5),
    # the first three hold 97.9 %: all count
    "the last is needed": ([0.9, 0.8, 0.16, 0.04], 0.475),
    # the first three hold 98.4 %
    "the last is not needed": ([0.9, 0.8, 0.167, 0.03], 1.867 / 3),
    "a single one": ([0.3], 0.3),
    # the first alone holds 98.9 %
    "one of two": ([0.9, 0.01], 0.9),
    # 50 × 0.8 hold 99.0 % of 40.4, 49 hold 97.0 %
    "fifty of a hundred": ([0.8] * 50 + [0.008] * 50, 0.8),
    # 100 values near 1, falling by 1e-5: 98 of them hold 98.0009 % of the sum
    "ninety-eight of a hundred": (1 - 1e-5 * np.arange(100), 1 - 1e-5 * 48.5),
    # and 200, of which 196 do
    "a hundred and ninety-six of two hundred": (1 - 1e-5 * np.arange(200), 1 - 1e-5 * 97.5),
}


@pytest.mark.parametrize("spectrum", MASS_98)
def test_mass98_of_a_planted_spectrum(spectrum, rng):
    r, expected = MASS_98[spectrum]
    X, Y = planted(rng, r)
    np.testing.assert_allclose(mean_cca(X, Y, mean_rule="mass98"), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(mean_cca(X, Y), np.mean(r), rtol=0, atol=1e-9)
    if len(r) < 100:  # equal variances: SVCCA keeps all of fewer than 100 directions
        np.testing.assert_allclose(svcca(X, Y, mean_rule="mass98"), expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(svcca(X, Y), np.mean(r), rtol=0, atol=1e-9)


def test_mass98_of_perfect_correlations_is_1(rng):
    X = rng.standard_normal((230, 100))
    np.testing.assert_allclose(mean_cca(X, X, mean_rule="mass98"), 1, rtol=0, atol=1e-9)


def test_mass98_lies_visibly_above_the_plain_mean_of_a_few_shared_latents(rng):
    """64 columns that share 8 latent directions: google/svcca's mean and the plain one are two levels."""
    latent = rng.standard_normal((5000, 8))
    X, Y = (latent @ rng.standard_normal((8, 64)) + 3 * rng.standard_normal((5000, 64)) for _ in range(2))
    assert 0.01 < mean_cca(X, Y, mean_rule="mass98") - mean_cca(X, Y) < 0.1


# Many rows in float32: norms over n² entries of a Gram matrix lose digits unless they are summed in float64


def trained_like(rng, n, p):
    """Rectified float32 features whose scales run over four orders of magnitude, as those of trained networks do."""
    latent = rng.standard_normal((n, 12)) * np.logspace(1, -1, 12)
    scales = 10 ** rng.uniform(-2, 2, p)
    X = np.maximum(latent @ rng.standard_normal((12, p)) + rng.standard_normal((n, p)) + 0.5, 0) * scales
    noisy = np.maximum(X + 0.1 * scales * rng.standard_normal((n, p)), 0)
    return X.astype(np.float32), noisy.astype(np.float32)


@pytest.mark.parametrize("p", [300, 1700])
def test_cka_of_float32_features_with_a_large_dynamic_range_agrees_with_float64(p, rng):
    X, Y = trained_like(rng, 1500, p)
    Xc, Yc = plain.centred(X.astype(np.float64)), plain.centred(Y.astype(np.float64))
    if p < 1500:
        XX, XY, YY = Xc.T @ Xc, Xc.T @ Yc, Yc.T @ Yc
        exact = np.sum(XY * XY) / np.sqrt(np.sum(XX * XX) * np.sum(YY * YY))
    else:
        K, L = Xc @ Xc.T, Yc @ Yc.T
        exact = np.sum(K * L) / np.sqrt(np.sum(K * K) * np.sum(L * L))
    np.testing.assert_allclose(cka(X, Y), exact, rtol=0, atol=1e-6)
    np.testing.assert_allclose(cka(X, Y), cka(X.astype(np.float64), Y.astype(np.float64)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "p"), [(600, 150), (300, 450)], ids=["features", "Gram matrices"])
def test_nbs_of_float32_features_with_a_large_dynamic_range_agrees_with_float64(n, p, rng):
    """By the nuclear norm, to which small singular values of XᵀY add up.

    An eigenvalue of K L is the square of one. So cutting these off near rounding, at n·eps, cuts off singular values
    1e-7 times the largest, and there are hundreds.
    """
    X, Y = trained_like(rng, n, p)
    exact = plain.nbs_nuclear(X.astype(np.float64), Y.astype(np.float64))
    np.testing.assert_allclose(nbs(X, Y), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", [cka, nbs])
@pytest.mark.parametrize(("n", "p"), [(600, 150), (300, 450)], ids=["features", "Gram matrices"])
def test_a_layer_with_a_large_dynamic_range_equals_itself(metric, n, p, rng):
    X, _ = trained_like(rng, n, p)
    np.testing.assert_allclose(metric(X, X), 1, rtol=0, atol=1e-6)


def test_each_value_is_one_number(rng):
    """The seed's NBS returned a vector."""
    X, Y = rng.standard_normal((2, 40, 6))
    for metric in (cka, nbs):
        assert type(metric(X, Y)) is float
        np.testing.assert_allclose(metric(X, X), 1, rtol=0, atol=1e-9)


# What is said of a value that says little


def caution(name, X, Y):
    metric = METRICS[name]
    return metric.caution((channel_pair if metric.view == "channels" else kernel_pair)(X, Y))


@pytest.mark.parametrize(("n", "p", "q"), [(40, 30, 25), (40, 39, 39), (40, 60, 5), (30, 20, 10)])
def test_correlations_that_are_1_by_force_are_counted(n, p, q, rng):
    X, Y = rng.standard_normal((n, p)), rng.standard_normal((n, q))
    p, q = min(p, n - 1), min(q, n - 1)
    forced = p + q - (n - 1)
    rho = channel_pair(X, Y).correlations
    assert int((np.asarray(rho) > 1 - 1e-9).sum()) == forced
    said = f"{forced} of {min(p, q)} correlations are 1 by force: ranks {p} and {q}, {n} rows"
    assert caution("mean_cca", X, Y) == caution("pwcca", X, Y) == said


def test_few_rows_for_each_direction(rng):
    X, Y = rng.standard_normal((2, 99, 20))
    assert caution("mean_cca", X, Y) == "high by chance: 99 rows for ranks 20 and 20"
    X, Y = rng.standard_normal((2, 100, 20))
    assert caution("mean_cca", X, Y) == ""


def test_svcca_counts_the_directions_that_it_keeps(rng):
    X = rng.standard_normal((40, 30)) * np.where(np.arange(30) < 4, 100.0, 1e-3)
    assert caution("mean_cca", X, X) == "21 of 30 correlations are 1 by force: ranks 30 and 30, 40 rows"
    assert caution("svcca", X, X) == ""
    Y = rng.standard_normal((40, 12))
    assert caution("svcca", X, Y).startswith("high by chance: 40 rows for ranks 4 and 1")


@pytest.mark.parametrize("p", [10, 300])
def test_the_chance_level_of_cka_is_the_mean_over_permutations(p, rng):
    X, Y = rng.standard_normal((2, 60, p)) * np.linspace(0.2, 2, p)
    level = np.mean([cka(X, Y[rng.permutation(60)]) for _ in range(300)])
    said = caution("cka", X, Y)
    assert said.partition(" ")[0] == (f"{level:.2f}" if p == 300 else "")
    assert (level > 0.25) == (p == 300)
