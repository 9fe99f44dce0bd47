"""Each metric equals a second derivation of the same number, and answers known in closed form are recovered.

The derivations are in `plain.py`: QR + SVD for CCA, canonical vectors written out for PWCCA, an explicit SVD for SVCCA,
Gram matrices for CKA, and for NBS the nuclear norm, the eigenvalues of K L and matrix square roots.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsim.metrics import cka, cosine, mean_cca, nbs, pwcca, svcca

from . import plain

drawn = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def related(rng, n, p1, p2):
    latent = rng.standard_normal((n, 3))
    X = latent @ rng.standard_normal((3, p1)) + rng.standard_normal((n, p1))
    Y = latent @ rng.standard_normal((3, p2)) + rng.standard_normal((n, p2))
    return X + rng.standard_normal(p1), Y + rng.standard_normal(p2)


def same(value, expected, atol=1e-9):
    np.testing.assert_allclose(value, expected, rtol=0, atol=atol)


def every_metric_equals_its_derivation(X, Y):
    """X and Y as matrices; NBS from eigenvalues of the product is good to 1e-6 only."""
    same(mean_cca(X, Y), plain.mean_cca(X, Y))
    same(mean_cca(X, Y, mean_rule="mass98"), plain.mass98(plain.correlations(X, Y)))
    same(svcca(X, Y), plain.svcca(X, Y))
    same(svcca(X, Y, 0.7), plain.svcca(X, Y, 0.7))
    same(pwcca(X, Y), plain.pwcca(X, Y))
    same(pwcca(X, Y, side="first"), plain.pwcca_first(X, Y))
    same(pwcca(X, Y, side="second"), plain.pwcca_first(Y, X))
    kernel_metrics_equal_their_derivations(X, Y)


def kernel_metrics_equal_their_derivations(X, Y):
    same(cka(X, Y), plain.cka(X, Y))
    same(nbs(X, Y), plain.nbs_nuclear(X, Y))
    same(nbs(X, Y), plain.nbs_product(X, Y), atol=1e-6)


# Fewer columns than rows: nothing is saturated


@pytest.mark.parametrize("widths", [(12, 5), (5, 12), (9, 9), (1, 7), (7, 1), (1, 1), (30, 9), (3, 34)], ids=str)
def test_fewer_columns_than_rows(widths, rng):
    X, Y = related(rng, 40, *widths)
    every_metric_equals_its_derivation(X, Y)
    assert mean_cca(X, Y) < 0.99


@drawn
@given(seeds, st.integers(30, 60), st.integers(1, 12), st.integers(1, 12))
def test_drawn_shapes(seed, n, p1, p2):
    every_metric_equals_its_derivation(*related(np.random.default_rng(seed), n, p1, p2))


@pytest.mark.parametrize("widths", [(30, 20), (20, 30), (38, 3), (25, 25)], ids=str)
def test_more_columns_together_than_rows(widths, rng):
    """The two spans then share directions, ρ = 1, and the canonical vectors within that share are anybody's choice.

    All but PWCCA do not depend on it. PWCCA's weights do: of shared columns S = Σⱼ ‖P xⱼ‖ (P projects on the share, of
    d dimensions) they sum to between S and √d·S, which leaves it an interval.
    """
    X, Y = related(rng, 40, *widths)
    rho = plain.correlations(X, Y)
    shared = int((rho > 1 - 1e-9).sum())
    assert shared == sum(widths) - 39
    same(mean_cca(X, Y), rho.mean())
    same(mean_cca(X, Y, mean_rule="mass98"), plain.mass98(rho))
    same(svcca(X, Y, 0.95), plain.svcca(X, Y, 0.95))
    kernel_metrics_equal_their_derivations(X, Y)

    Qx = plain.basis(X)
    H = Qx @ np.linalg.svd(Qx.T @ plain.basis(Y), full_matrices=False)[0]
    loadings = H.T @ plain.centred(X)
    least = np.linalg.norm(loadings[:shared], axis=0).sum()
    alpha, rest = np.abs(loadings[shared:]).sum(axis=1), rho[shared:]
    low, high = ((total + (alpha * rest).sum()) / (total + alpha.sum()) for total in (least, np.sqrt(shared) * least))
    assert low - 1e-9 <= pwcca(X, Y, side="first") <= high + 1e-9
    assert high < 1 - 1e-4


# Layers that pruning has damaged


def rank_deficient(rng, X):
    return X @ rng.standard_normal((X.shape[1], 3)) @ rng.standard_normal((3, X.shape[1]))


def duplicated(rng, X):
    return X[:, [*range(X.shape[1]), 0, 0, 1]]


def dead_columns(rng, X):
    return np.insert(X, [0, 2, 2], 0.0, axis=1)


def constant_column(rng, X):
    return np.insert(X, 1, -17.3, axis=1)


def small_column(rng, X):
    return X * np.r_[1e-4, np.ones(X.shape[1] - 1)]


def large_column(rng, X):
    return X * np.r_[1e4, np.ones(X.shape[1] - 1)]


def small_and_large_column(rng, X):
    """Variances 1e16 apart: no covariance matrix holds both columns in float64 unless they are scaled first."""
    return X * np.r_[1e-4, 1e4, np.ones(X.shape[1] - 2)]


def nearly_equal_columns(rng, X):
    return np.c_[X, X[:, 0] + 1e-3 * rng.standard_normal(len(X))]


DAMAGE = [
    rank_deficient,
    duplicated,
    dead_columns,
    constant_column,
    small_column,
    large_column,
    small_and_large_column,
    nearly_equal_columns,
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("widths", [(6, 4), (4, 6), (5, 5)], ids=str)
@pytest.mark.parametrize("sides", ["first", "second", "both"])
def test_damaged_layers(damage, widths, sides, rng):
    X, Y = related(rng, 50, *widths)
    if sides in ("first", "both"):
        X = damage(rng, X)
    if sides in ("second", "both"):
        Y = damage(rng, Y)
    every_metric_equals_its_derivation(X, Y)


# As many columns as rows, or more


@pytest.mark.parametrize("widths", [(39, 3), (40, 4), (41, 5), (160, 3), (4, 160), (160, 40)], ids=str)
def test_a_side_that_spans_everything_correlates_perfectly(widths, rng):
    """40 centred rows span 39 dimensions: 39 columns explain whatever there is on the other side."""
    X, Y = related(rng, 40, *widths)
    same(mean_cca(X, Y), 1)
    same(pwcca(X, Y), 1)
    if min(widths) < 39:
        assert mean_cca(X[:, :30], Y[:, :30]) < 0.999
    same(svcca(X, Y), plain.svcca(X, Y))


@pytest.mark.parametrize("p1", [5, 39, 40, 41, 160])
@pytest.mark.parametrize("p2", [5, 38, 40, 100, 160])
def test_kernel_metrics_on_both_sides_of_p_equal_n(p1, p2, rng):
    X, Y = related(rng, 40, p1, p2)
    kernel_metrics_equal_their_derivations(X, Y)
    if min(p1, p2) >= 39:
        same(nbs(X, Y), plain.nbs_matrix_root(X, Y), atol=1e-8)
    assert 0.01 < cka(X, Y) < 0.99


@drawn
@given(seeds, st.integers(4, 30), st.data())
def test_kernel_metrics_on_drawn_shapes(seed, n, data):
    p1, p2 = data.draw(st.integers(5, 4 * n)), data.draw(st.integers(5, 4 * n))
    kernel_metrics_equal_their_derivations(*related(np.random.default_rng(seed), n, p1, p2))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("widths", [(100, 7), (7, 100), (90, 70)], ids=str)
def test_kernel_metrics_of_damaged_wide_layers(damage, widths, rng):
    X, Y = related(rng, 30, *widths)
    kernel_metrics_equal_their_derivations(damage(rng, X), Y)
    kernel_metrics_equal_their_derivations(X, damage(rng, Y))


# Convolutional layers


@pytest.mark.parametrize("channels", [(5, 3), (3, 5), (4, 4)], ids=str)
@pytest.mark.parametrize("space", [(3, 2), (1, 1), (1, 4)], ids=str)
def test_convolutional_layers(channels, space, rng):
    n = 20
    X, Y = (rng.standard_normal((n, c, *space)) + rng.standard_normal((n, 1, 1, 1)) for c in channels)
    rows = plain.fold(X), plain.fold(Y)
    same(mean_cca(X, Y), plain.mean_cca(*rows))
    same(svcca(X, Y, 0.8), plain.svcca(*rows, 0.8))
    same(pwcca(X, Y), plain.pwcca(*rows))
    kernels = plain.flatten(X), plain.flatten(Y)
    same(cka(X, Y), plain.cka(*kernels))
    same(nbs(X, Y), plain.nbs_nuclear(*kernels))
    if channels[0] == channels[1]:
        same(cosine(X, Y), plain.cosine(X, Y))


def test_kernel_metrics_compare_layers_of_any_two_shapes(rng):
    X, Y = rng.standard_normal((20, 3, 4, 4)), rng.standard_normal((20, 5, 2, 1))
    same(cka(X, Y), plain.cka(plain.flatten(X), plain.flatten(Y)))
    same(nbs(X, Y), plain.nbs_nuclear(plain.flatten(X), plain.flatten(Y)))
    same(cka(X, Y[:, :, 0, 0]), plain.cka(plain.flatten(X), Y[:, :, 0, 0]))


@drawn
@given(seeds, st.integers(1, 40), st.integers(1, 8))
def test_cosine(seed, n, p):
    X, Y = related(np.random.default_rng(seed), n, p, p)
    same(cosine(X, Y), plain.cosine(X, Y), atol=1e-12)
    same(cosine(X, -3 * X), 1, atol=1e-12)


# Planted correlations, known in closed form


def planted(rng, n, r):
    """(n, p) X and Y with orthonormal, centred columns, whose canonical correlations are exactly r."""
    p = len(r)
    Q = np.linalg.qr(plain.centred(rng.standard_normal((n, 2 * p))))[0]
    X, Z = Q[:, :p], Q[:, p:]
    return X, X * r + Z * np.sqrt(1 - np.square(r))


def mixing(rng, p):
    return rng.standard_normal((p, p)) + 3 * np.eye(p)


@pytest.mark.parametrize("r", [0.0, 0.001, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("p", [1, 6])
def test_one_planted_correlation_is_recovered_by_every_metric(r, p, rng):
    X, Y = planted(rng, 60, np.full(p, r))
    for metric in (mean_cca, svcca, pwcca, nbs):
        same(metric(X, Y), r)
    same(cka(X, Y), r**2)
    same(mean_cca(X @ mixing(rng, p) + 1, Y @ mixing(rng, p) - 2), r)
    same(pwcca(X @ mixing(rng, p) + 1, Y @ mixing(rng, p) - 2), r)


SPECTRUM = np.array([0.95, 0.7, 0.4, 0.15, 0.02])


def test_a_planted_spectrum_is_recovered(rng):
    X, Y = planted(rng, 60, SPECTRUM)
    for metric in (mean_cca, svcca, nbs):
        same(metric(X, Y), 0.444)
    same(cka(X, Y), np.mean(SPECTRUM**2))
    same(mean_cca(X @ mixing(rng, 5), Y @ mixing(rng, 5)), 0.444)


@pytest.mark.parametrize("side", ["first", "second"])
def test_pwcca_weighs_a_planted_spectrum_by_the_loadings(side, rng):
    """X = Q M with canonical vectors Q: αᵢ = Σⱼ |Mᵢⱼ|."""
    Q, R = planted(rng, 60, SPECTRUM)
    M, N = mixing(rng, 5), mixing(rng, 5)
    alpha = np.abs(M if side == "first" else N).sum(axis=1)
    same(pwcca(Q @ M, R @ N, side=side), (alpha * SPECTRUM).sum() / alpha.sum())


@pytest.mark.parametrize(("p1", "p2"), [(1, 1), (5, 5), (4, 9), (24, 24)])
def test_googles_weights_follow_from_the_covariances(p1, p2, rng):
    """The plain derivation works on the rows, as google/svcca does."""
    X = np.maximum(rng.standard_normal((400, p1)) @ mixing(rng, p1) + 0.5, 0)
    Y = X[:, :1] * rng.standard_normal(p2) + 2 * rng.standard_normal((400, p2))
    same(pwcca(X, Y, side="first", weights="google"), plain.pwcca_google(X, Y))
    same(pwcca(Y, X, side="second", weights="google"), plain.pwcca_google(X, Y))


def test_googles_weights_leave_dead_columns_out_and_change_with_a_shift(rng):
    X = np.maximum(rng.standard_normal((300, 6)) + 0.5, 0)
    Y = X + 0.5 * rng.standard_normal((300, 6))
    X[:, 2] = Y[:, 4] = 0.0
    expected = plain.pwcca_google(np.delete(X, 2, axis=1), np.delete(Y, 4, axis=1))
    same(pwcca(X, Y, side="first", weights="google"), expected)
    assert abs(pwcca(X + 3, Y, side="first", weights="google") - expected) > 1e-3


def test_googles_weights_of_a_side_that_has_lost_directions(rng):
    X = np.maximum(rng.standard_normal((300, 6)) + 0.5, 0)
    Y = X + rng.standard_normal((300, 6))
    X[:, 3] = X[:, 0] + X[:, 1]
    value = pwcca(X, Y, side="first", weights="google")
    assert 0 < value < 1
    assert np.isfinite(pwcca(X, X, side="first", weights="google"))


def test_other_words_for_weights_are_refused(rng):
    X = rng.standard_normal((30, 3))
    with pytest.raises(ValueError, match="weights must be paper or google, got 'svcca'"):
        pwcca(X, X, weights="svcca")


def test_unequal_widths_count_the_smaller(rng):
    """Three columns beside five: three correlations."""
    X, Y = planted(rng, 60, SPECTRUM)
    for narrow in ([0, 1, 2], [1, 3, 4]):
        same(mean_cca(X, Y[:, narrow] @ mixing(rng, 3)), SPECTRUM[narrow].mean())
        same(mean_cca(X[:, narrow], Y @ mixing(rng, 5)), SPECTRUM[narrow].mean())


@pytest.mark.parametrize(("rank", "columns"), [(2, 5), (3, 4), (4, 4)])
def test_denominator_columns_counts_a_lost_direction_as_zero(rank, columns, rng):
    """Y has lost directions and still has columns; X has five of both."""
    X, Y = planted(rng, 60, SPECTRUM)
    Y = Y[:, :rank] @ rng.standard_normal((rank, columns))
    for sides in ((X, Y), (Y, X)):
        same(mean_cca(*sides), SPECTRUM[:rank].mean())
        same(mean_cca(*sides, denominator="rank"), SPECTRUM[:rank].mean())
        same(mean_cca(*sides, denominator="columns"), SPECTRUM[:rank].sum() / columns)


def test_denominator_columns_counts_dead_columns(rng):
    X, Y = planted(rng, 60, SPECTRUM)
    dead = np.insert(Y[:, :3], [0, 3], 0.0, axis=1)
    same(mean_cca(X, dead), SPECTRUM[:3].mean())
    same(mean_cca(X, dead, denominator="columns"), SPECTRUM[:3].sum() / 5)
    same(mean_cca(X[:, :4], dead, denominator="columns"), SPECTRUM[:3].sum() / 4)


def test_svcca_drops_planted_directions_of_little_variance(rng):
    """Variances 0.6, 0.3, 0.08, 0.015, 0.005 on both sides: 99 % takes four directions, 97 % three, 60 % + two."""
    X, Y = planted(rng, 60, SPECTRUM)
    weights = np.sqrt([0.6, 0.3, 0.08, 0.015, 0.005])
    X, Y = X * weights, Y * weights
    same(svcca(X, Y), SPECTRUM[:4].mean())
    same(svcca(X, Y, 0.97), SPECTRUM[:3].mean())
    same(svcca(X, Y, 0.61), SPECTRUM[:2].mean())
    same(svcca(X, Y, 0.59), SPECTRUM[0])
    same(svcca(X, Y, 0.999), SPECTRUM.mean())


# Whitened sides tie the two families together


@pytest.mark.parametrize("p", [1, 4, 9])
def test_of_whitened_sides_nbs_is_mean_cca_and_cka_is_mean_squared_correlation(p, rng):
    X, Y = related(rng, 40, p, p)
    white = plain.basis(X) @ mixing_free(rng, p), plain.basis(Y) @ mixing_free(rng, p)
    same(nbs(*white), mean_cca(X, Y))
    same(cka(*white), np.mean(plain.correlations(X, Y) ** 2))


def mixing_free(rng, p):
    return np.linalg.qr(rng.standard_normal((p, p)))[0]


def test_bures_distance_follows_from_nbs(rng):
    """d² = tr K + tr L − 2·NBS·√(tr K · tr L) is the least ‖X − YQ‖² over rotations Q (Procrustes)."""
    X, Y = related(rng, 40, 6, 6)
    X, Y = plain.centred(X), plain.centred(Y)
    U, _, Vt = np.linalg.svd(Y.T @ X)
    least = ((X - Y @ U @ Vt) ** 2).sum()
    k, m = (X**2).sum(), (Y**2).sum()
    np.testing.assert_allclose(k + m - 2 * nbs(X, Y) * np.sqrt(k * m), least, rtol=1e-9)
