"""The metrics beyond the papers', against published values and their definitions written out."""

import numpy as np
import pytest

from distsim.metrics import (
    UndefinedSimilarity,
    cka,
    cka_channels,
    cka_unbiased,
    mean_cca,
    mean_squared_cca,
    nbs,
    nbs_channels,
    procrustes,
)

from . import plain
from .test_conformance import X, Y, agrees

pytestmark = pytest.mark.usefixtures("every_backend")


def test_published_values():
    agrees(cka_unbiased(X, Y), 0.1193974689)
    agrees(mean_squared_cca(X, Y), 0.2243833326)
    agrees(procrustes(X, Y), 1.1556610476)


def hsic(K, L):
    """Song et al. 2012, Eq. 5, term by term."""
    n = len(K)
    K, L = (A - np.diag(np.diag(A)) for A in (K, L))
    one = np.ones(n)
    total = np.trace(K @ L) + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (one @ K @ L @ one)) / (n * (n - 3))


@pytest.mark.parametrize(("n", "p"), [(4, 3), (30, 7), (30, 90)])
def test_unbiased_cka_is_its_formula(n, p, rng):
    A, B = rng.standard_normal((2, n, p)) + 3.0
    B = B + A / 2
    K, L = plain.gram(A), plain.gram(B)
    np.testing.assert_allclose(cka_unbiased(A, B), hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L)), atol=1e-12)


def test_unbiased_cka_of_independent_sides_does_not_rise_with_the_number_of_features(rng):
    """Published for 40 x 200 Gaussians: biased 0.825, the unbiased HSIC -0.039."""
    pairs = rng.standard_normal((20, 2, 40, 200))
    assert np.mean([cka(A, B) for A, B in pairs]) > 0.8
    assert abs(np.mean([cka_unbiased(A, B) for A, B in pairs])) < 0.03
    assert min(cka_unbiased(A, B) for A, B in pairs) < 0, "an unbiased estimate of zero is also below it"


def test_unbiased_cka_needs_four_examples(rng):
    A, B = rng.standard_normal((2, 3, 5))
    with pytest.warns(UndefinedSimilarity, match="at least 4 examples, there are 3"):
        assert np.isnan(cka_unbiased(A, B))


def test_channel_metrics_are_those_of_the_folded_matrices(rng):
    A = rng.standard_normal((20, 5, 3, 2))
    B = A[:, :4] + rng.standard_normal((20, 4, 3, 2))
    np.testing.assert_allclose(cka_channels(A, B), cka(plain.fold(A), plain.fold(B)), atol=1e-12)
    np.testing.assert_allclose(nbs_channels(A, B), nbs(plain.fold(A), plain.fold(B)), atol=1e-12)
    last = [np.moveaxis(Z, 1, -1) for Z in (A, B)]
    np.testing.assert_allclose(nbs_channels(*last, channels_last=True), nbs_channels(A, B), atol=1e-12)


def test_mean_squared_cca_is_the_mean_of_squares(rng):
    A, B = rng.standard_normal((2, 60, 5))
    rho = plain.correlations(A, A + B)
    np.testing.assert_allclose(mean_squared_cca(A, A + B), (rho**2).mean(), atol=1e-12)
    assert mean_squared_cca(A, A + B) < mean_cca(A, A + B)


@pytest.mark.parametrize("metric", [cka_unbiased, mean_squared_cca, cka_channels, nbs_channels])
def test_of_equal_sides_they_are_1(metric, rng):
    A = rng.standard_normal((30, 4, 2, 3))
    np.testing.assert_allclose(metric(A, A), 1.0, atol=1e-12)
    np.testing.assert_allclose(metric(A, 2 * A + 7), 1.0, atol=1e-12)


def test_the_angle_of_equal_sides_is_0_and_it_obeys_the_triangle_inequality(rng):
    A = rng.standard_normal((30, 8))
    assert procrustes(A, 3 * A - 1) < 1e-7
    for _ in range(20):
        A, B, C = rng.standard_normal((3, 12, 4))
        assert procrustes(A, C) <= procrustes(A, B) + procrustes(B, C) + 1e-12


@pytest.mark.parametrize("metric", [cka_unbiased, mean_squared_cca, cka_channels, nbs_channels, procrustes])
def test_a_side_without_variance_has_none(metric, rng):
    A = rng.standard_normal((30, 4, 2, 3))
    with pytest.warns(UndefinedSimilarity):
        assert np.isnan(metric(A, np.full_like(A, 7.3)))


@pytest.mark.parametrize("metric", [mean_cca, cka, nbs, cka_channels, mean_squared_cca])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_variance_within_the_rounding_of_float32_is_none(metric, dtype, rng):
    """What a linear layer behind a dead one puts out: equal rows but for the last bits of a float32 product."""
    A = rng.standard_normal((330, 6)).astype(np.float32)
    dead = np.full((330, 6), 0.7, dtype=np.float32)
    if dtype == np.float32:
        dead[::7] = np.nextafter(dead[::7], np.float32(1))
    with pytest.warns(UndefinedSimilarity):
        assert np.isnan(metric(A, dead.astype(dtype)))
    small = 0.7 + 1e-4 * A  # a thousand times above rounding
    assert metric(A, small) > 0.99
