"""Laws that published implementations break, one test or more for each, and the invariances of every metric.

Numbers are those of the list the project keeps of such laws. The others are tested where they belong:
 9 (in-place ReLU leaves the stored convolution output alone) and
10 (extracted arrays require no grad, memory is flat in n)        tests/test_activations.py
11 (pruned weights stay zero under momentum, decay and Adam)      tests/test_training.py
12 (each iteration's learning rates equal the complete network's) tests/test_chain.py
13 (test and probe transforms are deterministic)                  tests/data/test_augment.py
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsim.metrics import UndefinedSimilarity, cka, cosine, mean_cca, nbs, pwcca, svcca

from . import plain

pytestmark = pytest.mark.usefixtures("every_backend")

CCA_FAMILY = [mean_cca, svcca, pwcca]
KERNEL_FAMILY = [cka, nbs]
CENTRED = CCA_FAMILY + KERNEL_FAMILY
METRICS = [*CENTRED, cosine]

# the reason a centred metric gives for its nan, after its own name
NO_VARIANCE = r"^(mean_cca|svcca|pwcca|cka|nbs): .*(constant|same for all|no variance)"


def related(rng, n, p1, p2):
    """Two layers that share three latent directions, so that no metric is near 0 or 1."""
    latent = rng.standard_normal((n, 3))

    def layer(p):
        return latent @ rng.standard_normal((3, p)) + rng.standard_normal((n, p))

    return layer(p1), layer(p2)


def well_conditioned(rng, p):
    """An invertible (p, p) with singular values from 0.1 to 10."""
    return rotation(rng, p) @ np.diag(10 ** rng.uniform(-1, 1, p)) @ rotation(rng, p)


def rotation(rng, p):
    return np.linalg.qr(rng.standard_normal((p, p)))[0]


def same(value, expected, atol=1e-9):
    np.testing.assert_allclose(value, expected, rtol=0, atol=atol)


# 1. A layer is like itself


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(60, 7), (20, 90), (50, 1), (12, 5, 4, 3), (9, 30, 2, 2)], ids=str)
def test_law_1_every_layer_is_equal_to_itself(metric, shape, rng):
    X = rng.standard_normal(shape) + 0.5
    same(metric(X, X), 1)


@pytest.mark.parametrize("metric", CENTRED)
def test_law_1_and_to_itself_rotated_scaled_and_shifted(metric, rng):
    X = rng.standard_normal((60, 7))
    same(metric(X, -0.02 * X @ rotation(rng, 7) + 3), 1)


@pytest.mark.parametrize("metric", KERNEL_FAMILY)
def test_law_1_kernels_give_1_to_nothing_else(metric, rng):
    X = rng.standard_normal((60, 7))
    assert metric(X, X @ well_conditioned(rng, 7)) < 0.99
    same(mean_cca(X, X @ well_conditioned(rng, 7)), 1)


# 2. Where the activations are centred does not matter


@pytest.mark.parametrize("metric", CENTRED)
@pytest.mark.parametrize("shift", [7.0, -300.0, "one for each column"])
def test_law_2_adding_a_constant_changes_nothing(metric, shift, rng):
    X, Y = related(rng, 60, 6, 4)
    shifted = X + (rng.uniform(-50, 50, 6) if isinstance(shift, str) else shift)
    same(metric(shifted, Y), metric(X, Y))
    same(metric(Y, shifted), metric(Y, X))


def test_law_2_cosine_alone_is_not_centred(rng):
    X, Y = related(rng, 60, 5, 5)
    assert abs(cosine(X + 7, Y + 7) - cosine(X, Y)) > 0.1
    same(cosine(X + 7, Y + 7), plain.cosine(X + 7, Y + 7))


# 3. Either side may be the wider one


@pytest.mark.parametrize("metric", CENTRED)
@pytest.mark.parametrize("widths", [(9, 4), (4, 9), (80, 4), (4, 80), (80, 60)], ids=str)
def test_law_3_either_side_may_be_wider(metric, widths, rng):
    X, Y = related(rng, 50, *widths)
    same(metric(X, Y), metric(Y, X))
    if min(widths) < 49:
        assert 0.1 < metric(X, Y) <= 1 + 1e-12


@pytest.mark.parametrize("widths", [(9, 4), (4, 9), (6, 6)], ids=str)
def test_law_3_the_side_that_weighs_pwcca_follows_the_exchange(widths, rng):
    X, Y = related(rng, 50, *widths)
    same(pwcca(X, Y, side="first"), pwcca(Y, X, side="second"))
    same(pwcca(X, Y, side="second"), plain.pwcca_first(Y, X))
    assert abs(pwcca(X, Y, side="first") - pwcca(X, Y, side="second")) > 1e-6


# 4. Dead units


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("at", [0, 3, 5])
def test_law_4_a_dead_column_on_both_sides_changes_nothing(metric, at, rng):
    X, Y = related(rng, 60, 5, 5)
    same(metric(np.insert(X, at, 0.0, axis=1), np.insert(Y, at, 0.0, axis=1)), metric(X, Y))


@pytest.mark.parametrize("metric", CENTRED)
@pytest.mark.parametrize("constant", [0.0, 0.1, -1 / 3, 12345.678])
def test_law_4_a_column_that_is_always_the_same_changes_nothing(metric, constant, rng):
    """The mean of 60 times 0.1 is not 0.1 in floating point: what is left must not count as a direction."""
    X, Y = related(rng, 60, 6, 4)
    value = metric(X, Y)
    same(metric(np.insert(X, 2, constant, axis=1), Y), value)
    same(metric(X, np.insert(Y, 2, constant, axis=1)), value)


@pytest.mark.parametrize("metric", METRICS)
def test_law_4_a_dead_channel_changes_nothing(metric, rng):
    X, Y = rng.standard_normal((2, 15, 4, 3, 3))
    same(metric(np.insert(X, 1, 0.0, axis=1), np.insert(Y, 1, 0.0, axis=1)), metric(X, Y))


@pytest.mark.parametrize("dead", [1, 2, 5])
def test_law_4_the_side_of_pwcca_is_chosen_by_rank_not_by_columns(dead, rng):
    X, Y = related(rng, 60, 6, 4)
    same(pwcca(X, np.hstack([Y, np.zeros((60, dead))])), plain.pwcca_first(Y, X))
    same(pwcca(np.hstack([Y, np.zeros((60, dead))]), X), plain.pwcca_first(Y, X))


def test_law_4_equal_ranks_weigh_pwcca_from_the_first(rng):
    X, Y = related(rng, 60, 4, 4)
    same(pwcca(np.insert(X, 0, 0.0, axis=1), Y), plain.pwcca_first(X, Y))
    same(pwcca(np.insert(Y, 0, 0.0, axis=1), X), plain.pwcca_first(Y, X))
    assert abs(plain.pwcca_first(X, Y) - plain.pwcca_first(Y, X)) > 1e-6


# 5. Units that say the same


def test_law_5_a_duplicate_column_leaves_mean_cca_as_it_was(rng):
    X, Y = related(rng, 60, 6, 4)
    same(mean_cca(X[:, [0, 1, 2, 3, 4, 5, 2]], Y), mean_cca(X, Y))
    same(mean_cca(X, Y[:, [0, 0, 1, 2, 3]]), mean_cca(X, Y))


@pytest.mark.parametrize("columns", [[0, 1, 2, 3, 2], [0, 0, 0, 0, 1]], ids=str)
@pytest.mark.parametrize(
    ("metric", "formula"),
    [(mean_cca, plain.mean_cca), (svcca, plain.svcca), (pwcca, plain.pwcca), (cka, plain.cka)],
)
def test_law_5_with_duplicate_columns_every_metric_equals_its_formula(metric, formula, columns, rng):
    X, Y = related(rng, 60, 4, 6)
    same(metric(X[:, columns], Y), formula(X[:, columns], Y))
    same(metric(Y, X[:, columns]), formula(Y, X[:, columns]))
    same(metric(X[:, columns], X[:, columns]), 1)


def test_law_5_nbs_with_duplicate_columns_equals_its_formula(rng):
    X, Y = related(rng, 60, 4, 6)
    duplicated = X[:, [0, 1, 2, 3, 2]]
    same(nbs(duplicated, Y), plain.nbs_nuclear(duplicated, Y))
    same(nbs(duplicated, Y), plain.nbs_product(duplicated, Y), atol=1e-6)
    # two columns x, x are one column √2·x, rotated
    same(nbs(duplicated, Y), nbs(X * [1, 1, np.sqrt(2), 1], Y))


# 6. The unit of measurement does not matter


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e-3, 3.0, 1e6, 1e12])
def test_law_6_the_scale_of_the_data_does_not_matter(metric, scale, rng):
    X, Y = related(rng, 60, 6, 6)
    same(metric(scale * X, Y), metric(X, Y))
    same(metric(X, scale * Y), metric(X, Y))
    same(metric(scale * X, scale * Y), metric(X, Y))


@pytest.mark.parametrize("scale", [1e-6, 0.1, 10.0, 1e6])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_law_6_the_directions_svcca_keeps_do_not_depend_on_scale(scale, k, rng):
    """Directions with variances 16, 8, 4, 2, 1: the first k of them hold (32 - 2^(5 - k)) / 31."""
    Q = np.linalg.qr(plain.centred(rng.standard_normal((60, 5))))[0]
    X = Q * np.sqrt([16, 8, 4, 2, 1]) @ rotation(rng, 5)
    y = Q @ np.ones((5, 1)) + plain.centred(0.1 * rng.standard_normal((60, 1)))
    share = (32 - 2 ** (5 - k)) / 31
    same(svcca(scale * X, y, share - 1e-6), plain.mean_cca(Q[:, :k], y))
    same(svcca(scale * X, y, share + 1e-6), plain.mean_cca(Q[:, : k + 1], y))


# 7. One, two or three rows (there is no minibatch estimator here whose last batch could be short)


@pytest.mark.parametrize("metric", CENTRED)
def test_law_7_a_single_row_is_undefined(metric, rng):
    with pytest.warns(UndefinedSimilarity, match=NO_VARIANCE):
        value = metric(rng.standard_normal((1, 4)), rng.standard_normal((1, 3)))
    assert np.isnan(value)


@pytest.mark.parametrize("metric", CENTRED)
def test_law_7_two_rows_differ_in_one_direction_so_they_agree(metric, rng):
    same(metric(rng.standard_normal((2, 4)), rng.standard_normal((2, 3))), 1)


@pytest.mark.parametrize(
    ("metric", "formula"), [(mean_cca, plain.mean_cca), (svcca, plain.svcca), (pwcca, plain.pwcca), (cka, plain.cka)]
)
def test_law_7_three_rows_follow_the_formula(metric, formula, rng):
    X, Y = rng.standard_normal((3, 5)), rng.standard_normal((3, 4))
    same(metric(X, Y), formula(X, Y))


def test_law_7_nbs_of_three_rows_follows_the_formula(rng):
    X, Y = rng.standard_normal((3, 5)), rng.standard_normal((3, 4))
    same(nbs(X, Y), plain.nbs_matrix_root(X, Y))


# 8. Chance


@pytest.mark.parametrize("metric", CCA_FAMILY)
def test_law_8_independent_convolution_features_are_dissimilar(metric, rng):
    """2,304 rows of 8 channels: chance gives about √(8/2304) = 0.06. Flattened to 64 rows of 288 it would be 1."""
    X, Y = rng.standard_normal((2, 64, 8, 6, 6))
    assert metric(X, Y) < 0.08
    same(mean_cca(plain.flatten(X), plain.flatten(Y)), 1)


# 14. Every row counts


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("batch", range(4))
def test_law_14_changing_any_batch_changes_the_value(metric, batch, rng):
    X, Y = related(rng, 64, 5, 5)
    changed = X.copy()
    changed[16 * batch : 16 * (batch + 1)] = rng.standard_normal((16, 5))
    assert abs(metric(changed, Y) - metric(X, Y)) > 1e-4
    assert abs(metric(Y, changed) - metric(Y, X)) > 1e-4


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("row", [0, 63])
def test_law_14_the_first_and_the_last_row_count(metric, row, rng):
    X, Y = related(rng, 64, 5, 5)
    changed = X.copy()
    changed[row] += 1.0
    assert abs(metric(changed, Y) - metric(X, Y)) > 1e-5


@pytest.mark.parametrize("metric", METRICS)
def test_law_14_the_order_of_the_rows_does_not_count_if_it_is_the_same(metric, rng):
    X, Y = related(rng, 64, 5, 5)
    order = rng.permutation(64)
    same(metric(X[order], Y[order]), metric(X, Y))
    assert abs(metric(X[order], Y) - metric(X, Y)) > 1e-2


# 15. A large mean in float32


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mean", [1e2, 1e3, 1e4])
def test_law_15_a_large_mean_in_float32_agrees_with_float64(metric, mean, rng):
    """With the same numbers held in float64 to rounding; and with those before they were rounded to 1e-5.

    float32 keeps a number of 10,000 to 5e-4, so the activations vary by about 20.
    """
    X, Y = related(rng, 500, 10, 10)
    X, Y = 10 * X + mean, 10 * Y - mean
    X32, Y32 = X.astype(np.float32), Y.astype(np.float32)
    same(metric(X32, Y32), metric(X32.astype(float), Y32.astype(float)), atol=1e-12)
    same(metric(X32, Y32), metric(X, Y), atol=1e-5)


# 16. A layer that says nothing


@pytest.mark.parametrize("metric", CENTRED)
@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, 1e4 + 1 / 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dead", ["first", "second", "both"])
def test_law_16_a_constant_layer_is_undefined_and_says_why(metric, constant, dtype, dead, rng):
    X, Y = rng.standard_normal((2, 60, 5)).astype(dtype)
    if dead in ("first", "both"):
        X = np.full((60, 5), constant, dtype)
    if dead in ("second", "both"):
        Y = np.full((60, 5), constant, dtype)
    with pytest.warns(UndefinedSimilarity, match=NO_VARIANCE):
        value = metric(X, Y)
    assert type(value) is float
    assert np.isnan(value)


@pytest.mark.parametrize("metric", CENTRED)
def test_law_16_columns_constant_each_in_its_own_way_are_undefined_too(metric, rng):
    X = np.tile(rng.uniform(-3, 3, 5), (61, 1))
    with pytest.warns(UndefinedSimilarity, match=NO_VARIANCE):
        assert np.isnan(metric(X, rng.standard_normal((61, 5))))


@pytest.mark.parametrize("metric", CENTRED)
def test_law_16_dead_channels_are_undefined_too(metric, rng):
    with pytest.warns(UndefinedSimilarity, match=NO_VARIANCE):
        assert np.isnan(metric(rng.standard_normal((9, 4, 3, 3)), np.zeros((9, 4, 3, 3))))


@pytest.mark.parametrize("dead", ["first", "second", "both"])
def test_law_16_cosine_is_undefined_for_zeros_only(dead, rng):
    X, Y = rng.standard_normal((2, 60, 5))
    same(cosine(np.ones((60, 5)), Y), plain.cosine(np.ones((60, 5)), Y))
    X = 0 * X if dead in ("first", "both") else X
    Y = 0 * Y if dead in ("second", "both") else Y
    with pytest.warns(UndefinedSimilarity, match=r"(?i)zero|norm"):
        assert np.isnan(cosine(X, Y))


def test_undefined_similarity_is_a_warning_for_users_that_points_at_their_line():
    assert issubclass(UndefinedSimilarity, UserWarning)
    for metric in METRICS:
        with pytest.warns(UndefinedSimilarity) as caught:
            metric(np.zeros((9, 2)), np.zeros((9, 2)))
        assert [warning.filename for warning in caught] == [__file__]


# Invariances and ranges, over drawn shapes

drawn = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
rows = st.integers(25, 60)
narrow = st.integers(1, 12)  # fewer columns than rows: CCA is not saturated
wide = st.integers(1, 150)


@drawn
@given(seeds, rows, narrow, narrow)
def test_mean_cca_is_unchanged_by_invertible_maps(seed, n, p1, p2):
    rng = np.random.default_rng(seed)
    X, Y = related(rng, n, p1, p2)
    value = mean_cca(X, Y)
    same(mean_cca(X @ well_conditioned(rng, p1) + 2, Y @ well_conditioned(rng, p2) - 1), value)
    mass = mean_cca(X, Y, mean_rule="mass98")
    same(mean_cca(X @ well_conditioned(rng, p1), Y @ well_conditioned(rng, p2), mean_rule="mass98"), mass)


@drawn
@given(seeds, rows, narrow, narrow)
def test_pwcca_is_unchanged_by_invertible_maps_of_the_other_side(seed, n, p1, p2):
    rng = np.random.default_rng(seed)
    X, Y = related(rng, n, p1, p2)
    same(pwcca(-5 * X[:, ::-1] + 2, Y @ well_conditioned(rng, p2), side="first"), pwcca(X, Y, side="first"))
    same(pwcca(X @ well_conditioned(rng, p1), 0.3 * Y[:, ::-1] - 1, side="second"), pwcca(X, Y, side="second"))


@pytest.mark.parametrize("metric", [svcca, cka, nbs])
@drawn
@given(seeds, rows, wide, wide)
def test_rotation_and_scale_change_nothing(metric, seed, n, p1, p2):
    rng = np.random.default_rng(seed)
    X, Y = related(rng, n, p1, p2)
    same(metric(30 * X @ rotation(rng, p1) - 1, 0.02 * Y @ rotation(rng, p2) + 4), metric(X, Y))


@pytest.mark.parametrize("metric", METRICS)
@drawn
@given(seeds, rows, wide, wide)
def test_values_lie_between_0_and_1_and_do_not_depend_on_the_order_of_sides(metric, seed, n, p1, p2):
    rng = np.random.default_rng(seed)
    X, Y = related(rng, n, p1, p1 if metric is cosine else p2)
    value = metric(X, Y)
    assert 0 <= value <= 1 + 1e-12
    # equal ranks weigh PWCCA from the first; and where n - 1 < p1 + p2 some ρ are all 1, whose weights are arbitrary
    if metric is not pwcca or (p1 < p2 and p1 + p2 < n):
        same(metric(Y, X), value)


@drawn
@given(seeds, rows, narrow, narrow)
def test_options_keep_mean_cca_between_0_and_1(seed, n, p1, p2):
    X, Y = related(np.random.default_rng(seed), n, p1, p2)
    plain_mean = mean_cca(X, Y)
    assert plain_mean <= mean_cca(X, Y, mean_rule="mass98") + 1e-12 <= 1 + 2e-12  # leaves out the smallest
    same(mean_cca(X, Y, denominator="columns"), plain_mean)  # no direction is missing
    assert svcca(X, Y) <= svcca(X, Y, mean_rule="mass98") + 1e-12 <= 1 + 2e-12
