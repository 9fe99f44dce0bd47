"""The chance level of CKA in closed form, held against every permutation, and against many of them."""

import itertools

import numpy as np
import pytest

from distsim.metrics import cka, cka_null, cka_unbiased
from distsim.metrics.kernels import kernel_pair
from distsim.metrics.null import FULL, Null, largest, of_cka, of_unbiased
from distsim.metrics.registry import METRICS

from .conftest import require

backends = pytest.mark.parametrize("backend", ["numpy", "torch", pytest.param("cuda", marks=pytest.mark.gpu)])


def sides(seed, n, p=3, q=4, shared=0.0):
    """Two sides with uneven rows: the variance must see the fourth moments."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * rng.exponential(size=(n, 1)) ** 2
    Y = rng.standard_normal((n, q)) * rng.exponential(size=(n, 1)) ** 2
    return X, Y + shared * X @ rng.standard_normal((p, q))


def by_permutation(measure, X, Y, orders):
    return np.array([measure(X, Y[list(order)]) for order in orders])


def plain_unbiased(X, Y):
    """Written once more, from the U-centred matrices themselves; no rounding to zero."""

    def centred(A):
        A = A - A.mean(axis=0)
        K, n = A @ A.T, len(A)
        np.fill_diagonal(K, 0)
        rows = K.sum(axis=1, keepdims=True) / (n - 2)
        U = K - rows - rows.T + K.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(U, 0)
        return U

    K, L = centred(X), centred(Y)
    return (K * L).sum() / np.sqrt((K * K).sum() * (L * L).sum())


@pytest.mark.parametrize("n", [5, 6, 7])
@pytest.mark.parametrize(("p", "q"), [(3, 4), (1, 1), (20, 2), (20, 30)])
def test_mean_and_sd_are_those_of_all_permutations(n, p, q):
    X, Y = sides(10 * n + p, n, p, q)
    values = by_permutation(cka, X, Y, itertools.permutations(range(n)))
    null = cka_null(X, Y)
    assert null.mean == pytest.approx(values.mean(), rel=1e-12)
    assert null.sd == pytest.approx(values.std(), rel=1e-10)


@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_unbiased_mean_and_sd_are_those_of_all_permutations(n):
    X, Y = sides(n, n)
    values = by_permutation(plain_unbiased, X, Y, itertools.permutations(range(n)))
    null = of_unbiased(kernel_pair(X, Y))
    assert null.mean == 0 == pytest.approx(values.mean(), abs=1e-12)
    assert null.sd == pytest.approx(values.std(), rel=1e-12)
    assert cka_unbiased(X, Y) == pytest.approx(plain_unbiased(X, Y), abs=1e-12)


def test_ten_thousand_permutations_of_300_examples():
    """Rows as behind a ReLU: many zeros, and a few large ones."""
    X, Y = (np.maximum(A, 0) for A in sides(7, 300, 12, 20, shared=0.3))
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    rng = np.random.default_rng(1)
    values = np.array([np.sum((X.T @ Y[order]) ** 2) for order in map(rng.permutation, [300] * 10_000)])
    values /= np.linalg.norm(X.T @ X) * np.linalg.norm(Y.T @ Y)
    null = cka_null(X, Y)
    assert abs(values.mean() - null.mean) <= 3 * null.sd / 100
    tails = np.mean((values - values.mean()) ** 4) - values.var() ** 2  # of which the variance's standard error comes
    assert abs(values.var() - null.sd**2) <= 3 * (tails / 10_000) ** 0.5


@backends
def test_every_form_of_a_side_has_the_same_null(backend):
    bring = np.asarray if backend == "numpy" else require(backend)
    X, Y = sides(3, 40, p=30, q=30, shared=0.5)
    wide = np.repeat(X, 2, axis=1) / 2**0.5  # the same Gram matrix, of more features than examples
    thin, gram = cka_null(bring(X), bring(Y)), cka_null(bring(wide), bring(Y))
    assert (kernel_pair(X, Y).x.gram is None, kernel_pair(wide, Y).x.gram is None) == (True, False)
    assert gram == pytest.approx(thin, rel=1e-10)


def test_independent_sides_are_within_two_sd_of_chance():
    """The null is skewed to the right, so a few more than 2.5 % lie above."""
    z = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        X, Y = rng.standard_normal((60, 20)), rng.standard_normal((60, 30))
        z.append(cka_null(X, Y).z(cka(X, Y)))
    assert np.mean(np.abs(z) <= 2) >= 0.93


def test_more_features_than_examples_are_chance_not_similarity():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((2, 100, 2_000))
    null = cka_null(X, Y)
    assert null.mean > 0.9
    assert cka(X, Y) == pytest.approx(null.mean, abs=0.01)
    assert abs(null.calibrated(cka(X, Y))) < 0.05
    assert null.calibrated(1.0) == 1


def test_few_examples_have_no_null_and_dead_sides_neither():
    X, Y = sides(0, 3)
    assert cka_null(X, Y) is None
    assert cka_null(*sides(0, 4)) is not None
    assert cka_null(np.ones((10, 3)), sides(0, 10)[1]) is None


def test_a_chance_level_of_one_cannot_be_calibrated():
    simplex = np.eye(8)  # every permutation leaves its Gram matrix as it is
    pair = kernel_pair(simplex, simplex)
    null = of_cka(pair)
    assert null.mean == pytest.approx(1)
    assert null.sd < 1e-7
    assert null.calibrated(0.5) is None
    assert METRICS["cka"].caution(pair) == "1.00 by chance, with 8 rows, so it cannot be calibrated"
    assert Null(0.5, 0.0).z(0.7) is None
    assert Null(FULL, 0.1).calibrated(1.0) == 1


def test_the_largest_of_several_is_that_of_drawn_numbers():
    nulls = [Null(0.2, 0.05), Null(0.25, 0.02), Null(0.1, 0.1), Null(0.24, 0.0)]
    rng = np.random.default_rng(0)
    drawn = np.max([rng.normal(null.mean, null.sd, 200_000) for null in nulls], axis=0).mean()
    assert largest(nulls) == pytest.approx(drawn, abs=1e-3)
    assert largest(nulls[:1]) == pytest.approx(0.2)
    assert largest(nulls[3:]) == 0.24


def test_the_null_of_trained_layers_is_that_of_ten_thousand_permutations():
    """Activations of a network that was trained for a few steps, before and after its first layers changed."""
    import torch
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images[:300] / 16.0).float(), torch.tensor(labels[:300])
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(a, b, generator=generator) / a**0.5 for a, b in ((64, 40), (40, 20), (20, 10))]
    weights = [each.requires_grad_() for each in weights]

    def outputs():
        first = torch.relu(images @ weights[0])
        second = torch.relu(first @ weights[1])
        return first, second, second @ weights[2]

    before = [each.detach().double().numpy() for each in outputs()]
    optimizer = torch.optim.Adam(weights, lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(outputs()[2], labels).backward()
        optimizer.step()
    after = [each.detach().double().numpy() for each in outputs()]
    rng = np.random.default_rng(1)
    for X, Y in zip(before, after, strict=True):
        X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
        values = np.array([np.sum((X.T @ Y[order]) ** 2) for order in map(rng.permutation, [300] * 10_000)])
        values /= np.linalg.norm(X.T @ X) * np.linalg.norm(Y.T @ Y)
        null = cka_null(X, Y)
        assert abs(values.mean() - null.mean) <= 3 * null.sd / 100
        tails = np.mean((values - values.mean()) ** 4) - values.var() ** 2
        assert abs(values.var() - null.sd**2) <= 3 * (tails / 10_000) ** 0.5
