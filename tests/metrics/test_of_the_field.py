"""RSA, overlap of neighbours, soft matching, linear predictivity: against derivations by other libraries."""

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

from distsim.metrics import UndefinedSimilarity, knn_overlap, linear_predictivity, rsa, soft_matching
from distsim.metrics.predictivity import FOLDS, PENALTIES

from . import plain
from .test_laws import related, rotation, same

pytestmark = pytest.mark.usefixtures("every_backend")

METRICS = [rsa, knn_overlap, soft_matching, linear_predictivity]
INVARIANT = [rsa, knn_overlap, linear_predictivity]  # to rotations; soft matching looks at single channels
shapes = pytest.mark.parametrize(("p1", "p2"), [(5, 7), (60, 7), (60, 80)])


@shapes
def test_rsa_is_spearmans_correlation_of_distances(p1, p2, rng):
    A, B = related(rng, 40, p1, p2)
    same(rsa(A, B), spearmanr(pdist(A), pdist(B)).statistic)


def test_rsa_gives_equal_distances_their_mean_rank(rng):
    A = rng.integers(0, 2, (30, 4)).astype(float)  # many examples are equal, and many distances
    B = rng.standard_normal((30, 3))
    same(rsa(A, B), spearmanr(pdist(A), pdist(B)).statistic)


@shapes
def test_overlap_of_neighbours_is_that_of_another_library(p1, p2, rng):
    A, B = related(rng, 50, p1, p2)
    found = [NearestNeighbors(n_neighbors=7).fit(Z).kneighbors(return_distance=False) for Z in (A, B)]
    common = [len(set(a) & set(b)) for a, b in zip(*found, strict=True)]
    same(knn_overlap(A, B, k=7), np.mean(common) / 7)


def test_copies_of_an_example_are_equally_near(rng):
    """However they are rounded: here copies differ in the last bit, and one of two is the last neighbour."""
    A, B = (np.vstack([Z, Z]) for Z in related(rng, 30, 6, 8))
    found = []
    for Z in (A, B):
        among = np.tile(squareform(pdist(Z[:30], "sqeuclidean")), (2, 2))  # copies have the very same distances
        np.fill_diagonal(among, np.inf)
        found.append([set(row[:4]) for row in np.argsort(among, axis=1, kind="stable")])
    expected = np.mean([len(a & b) for a, b in zip(*found, strict=True)]) / 4
    same(knn_overlap(A, B, k=4), expected)
    for _ in range(5):
        rounded = (Z * (1 + np.finfo(float).eps * rng.integers(-1, 2, Z.shape)) for Z in (A, B))
        same(knn_overlap(*rounded, k=4), expected)


def test_overlap_of_independent_sides_is_k_of_the_others(rng):
    values = [knn_overlap(*rng.standard_normal((2, 101, 8))) for _ in range(40)]
    assert np.mean(values) == pytest.approx(0.1, abs=0.01)


def test_soft_matching_tries_every_permutation(rng):
    A, B = related(rng, 60, 6, 6)
    C = np.corrcoef(A.T, B.T)[:6, 6:]
    same(soft_matching(A, B), max(C[range(6), list(order)].mean() for order in itertools.permutations(range(6))))


def test_soft_matching_of_unequal_sides_is_that_of_their_copies(rng):
    """6 channels against 4: of copies, 12 against 12, the best matching is again a permutation."""
    A, B = related(rng, 60, 6, 4)
    C = np.kron(np.corrcoef(A.T, B.T)[:6, 6:], np.ones((2, 3)))
    from scipy.optimize import linear_sum_assignment

    same(soft_matching(A, B), C[linear_sum_assignment(C, maximize=True)].mean(), atol=1e-9)


def test_soft_matching_finds_permuted_channels_and_not_rotated_ones(rng):
    A = rng.standard_normal((30, 8, 2, 3))
    same(soft_matching(A, 3 * A[:, rng.permutation(8)] + 1), 1.0)
    folded = plain.fold(A)
    assert soft_matching(folded, folded @ rotation(rng, 8)) < 0.9


def test_soft_matching_counts_a_dead_channel_as_no_match(rng):
    A = rng.standard_normal((30, 4))
    B = A.copy()
    B[:, 2] = 5.0
    same(soft_matching(A, B), 0.75)


@shapes
def test_predictivity_is_ridge_regression_fold_by_fold(p1, p2, rng):
    A, B = related(rng, 43, p1, p2)
    folds, error, total = np.arange(43) % FOLDS, 0.0, 0.0
    for k in range(FOLDS):
        X, Y = A[folds != k], B[folds != k]
        n = len(X)
        centred = X - X.mean(axis=0)
        scores = {}
        for penalty in PENALTIES * (centred**2).sum() / n:
            fit = Ridge(penalty, solver="svd").fit(X, Y)
            hat = centred @ np.linalg.solve(centred.T @ centred + penalty * np.eye(p1), centred.T)
            scores[penalty] = ((Y - fit.predict(X)) ** 2).sum() / (n - 1 - np.trace(hat)) ** 2
        best = Ridge(min(scores, key=scores.get), solver="svd").fit(X, Y)
        error += ((B[folds == k] - best.predict(A[folds == k])) ** 2).sum()
        total += ((B[folds == k] - Y.mean(axis=0)) ** 2).sum()
    same(linear_predictivity(A, B), 1 - error / total, atol=1e-7)


@pytest.mark.parametrize("seed", range(8))
def test_small_penalties_are_not_judged_by_rounding(seed):
    """The best penalty is the least of all here. The eigenvalue of the constant vector, a rounding, may not hide it."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((43, 60)) + 7
    B = np.hstack([A, rng.standard_normal((43, 3))]) @ rng.standard_normal((63, 5))
    folds, error, total = np.arange(43) % FOLDS, 0.0, 0.0
    for k in range(FOLDS):
        X, Y, new = A[folds != k], B[folds != k], A[folds == k] - A[folds != k].mean(axis=0)
        U, s, Vt = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
        U, s, Vt = U[:, :-1], s[:-1], Vt[:-1]  # the last singular value is zero, for the mean
        parts, scores = U.T @ (Y - Y.mean(axis=0)), []
        for penalty in (penalties := PENALTIES * (s**2).sum() / len(X)):
            left = penalty / (s**2 + penalty)
            scores.append(((left[:, None] * parts) ** 2).sum() / left.sum() ** 2)
        least = penalties[np.argmin(scores)]
        fit = new @ Vt.T @ ((s / (s**2 + least))[:, None] * parts)
        error += ((B[folds == k] - Y.mean(axis=0) - fit) ** 2).sum()
        total += ((B[folds == k] - Y.mean(axis=0)) ** 2).sum()
    same(linear_predictivity(A, B), 1 - error / total, atol=1e-9)


def test_predictivity_of_a_linear_map_is_1_one_way_only(rng):
    A = rng.standard_normal((200, 6))
    B = A @ rng.standard_normal((6, 3)) + 2
    assert linear_predictivity(A, B) == pytest.approx(1, abs=1e-6)
    assert linear_predictivity(B, A) < 0.8
    assert linear_predictivity(*rng.standard_normal((2, 200, 6))) < 0.05


@pytest.mark.parametrize("metric", METRICS)
def test_equal_sides_give_1(metric, rng):
    A = rng.standard_normal((40, 6))
    same(metric(A, A), 1.0, atol=1e-6)


@pytest.mark.parametrize("metric", INVARIANT)
def test_rotating_scaling_and_shifting_change_nothing(metric, rng):
    A, B = related(rng, 50, 6, 60)
    same(metric(3 * A @ rotation(rng, 6) - 2, 0.5 * B @ rotation(rng, 60) + 1), metric(A, B), atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_a_side_without_variance_has_no_value(metric, rng):
    A, constant = rng.standard_normal((20, 4)), np.full((20, 4), 3.0)
    for sides in ((A, constant), (constant, A)):
        with pytest.warns(UndefinedSimilarity, match="constant|same for all"):
            assert np.isnan(metric(*sides))


def test_too_few_examples_are_said(rng):
    A = rng.standard_normal((9, 4))
    for measure, few, said in (
        (rsa, 2, "3 examples"),
        (knn_overlap, 9, "more than 10"),
        (linear_predictivity, 9, "10 ex"),
    ):
        with pytest.warns(UndefinedSimilarity, match=said):
            assert np.isnan(measure(A[:few], A[:few]))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        knn_overlap(A, A, k=0)
