"""Predictions compared: against SciPy, by hand, and what must hold whatever the logits are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax as scipys
from sklearn.metrics import accuracy_score

from distsim.metrics.functional import MEASURES, differing, divergences, measured, softmax


def drawn(seed: int, n: int = 40, classes: int = 7, scale: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = scale * rng.standard_normal((n, classes))
    return X, X + scale * rng.standard_normal((n, classes)) * rng.random((n, 1))


@given(st.integers(0, 2**31), st.integers(2, 30), st.sampled_from([0.01, 1.0, 30.0]))
def test_the_divergence_is_scipys(seed: int, classes: int, scale: float) -> None:
    X, Y = drawn(seed, classes=classes, scale=scale)
    with np.errstate(invalid="ignore"):  # SciPy takes the root of a rounding below 0
        theirs = np.nan_to_num(jensenshannon(scipys(X, axis=1), scipys(Y, axis=1), base=2, axis=1)) ** 2
    np.testing.assert_allclose(divergences(X, Y), theirs, atol=1e-14)
    np.testing.assert_allclose(divergences(Y, X), theirs, atol=1e-14)
    np.testing.assert_allclose(softmax(X), scipys(X, axis=1), rtol=1e-12)


def test_the_divergence_ends_at_0_and_1_bit() -> None:
    X, _ = drawn(0)
    np.testing.assert_array_equal(divergences(X, X), 0.0)
    far = np.array([[5000.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 5000.0]])
    np.testing.assert_array_equal(divergences(*far), 1.0)
    halves = np.array([[0.0, 0.0, -5000.0]]), np.array([[-5000.0, 0.0, 0.0]])  # (1/2, 1/2, 0) and (0, 1/2, 1/2)
    np.testing.assert_allclose(divergences(*halves), 0.5)


@given(st.integers(0, 2**31))
def test_a_number_added_to_all_logits_of_an_image_changes_nothing(seed: int) -> None:
    X, Y = drawn(seed)
    moved = X + np.random.default_rng(seed).integers(-50, 50, (len(X), 1))
    np.testing.assert_allclose(divergences(moved, Y), divergences(X, Y), atol=1e-12)
    np.testing.assert_array_equal(differing(moved, Y), differing(X, Y))


@given(st.integers(0, 2**31))
def test_shares_add_up_to_the_accuracies(seed: int) -> None:
    X, Y = drawn(seed)
    labels = np.random.default_rng(seed).integers(0, 7, len(X))
    means = {name: values.mean() for name, values in measured(X, Y, labels).items()}
    assert tuple(means) == MEASURES
    assert means["agreement"] == pytest.approx(accuracy_score(X.argmax(axis=1), Y.argmax(axis=1)))
    assert means["agreement"] + means["churn"] == pytest.approx(1)
    gained = accuracy_score(labels, Y.argmax(axis=1)) - accuracy_score(labels, X.argmax(axis=1))
    assert means["won"] - means["lost"] == pytest.approx(gained)
    assert means["won"] + means["lost"] <= means["churn"] + 1e-12


def test_four_images_by_hand() -> None:
    one_hot = np.eye(3)
    X, Y = one_hot[[0, 0, 1, 2]], one_hot[[0, 1, 0, 1]]
    found = measured(X, Y, np.array([0, 0, 0, 0]))
    assert found["churn"].tolist() == [0, 1, 1, 1]
    assert found["lost"].tolist() == [0, 1, 0, 0]
    assert found["won"].tolist() == [0, 0, 1, 0]
