"""The nuclear norm between two bounds, by QDWH: what it says is held against SVDs, and against norms known exactly."""

import dataclasses

import numpy as np
import pytest
import torch

from distsim.metrics import kernels, polar, rounding
from distsim.metrics.arrays import Undefined, full_rate_float64
from distsim.metrics.nbs import from_pair

from . import plain
from .conftest import require
from .hard_matrices import KINDS, exact, hard, of_spectrum

EPS = np.finfo(np.float64).eps
CONVERGED = ("gaussian", "deficient", "equal", "dead")  # kinds with no singular value below l₀ but zeros
backends = pytest.mark.parametrize("backend", ["numpy", "torch", pytest.param("cuda", marks=pytest.mark.gpu)])


def on(backend):
    return np.asarray if backend == "numpy" else require(backend)


def check(M, bring=np.asarray, close=0.0):
    """Hold an enclosure against an SVD. close : of the value, relative; 0: not checked"""
    singular = np.linalg.svd(M, compute_uv=False)
    found = polar.enclosed(bring(M))
    assert found is not None
    assert found.lower <= singular.sum() <= found.upper
    assert found.lower < found.value < found.upper
    slack = 1.1 * min(M.shape) * polar.START * np.linalg.norm(M)
    assert found.upper - found.lower <= slack + 3 * polar.WIDEN * max(M.shape) * EPS * found.value
    if close:
        assert found.value == pytest.approx(singular.sum(), rel=close, abs=0)


def check_exact(seeds, bring=np.asarray):
    """Return for each seed whether the bounds hold a norm that is known without any rounding."""
    held = []
    for seed in seeds:
        M, norm = exact(seed)
        found = polar.enclosed(bring(M))
        held.append(found.lower <= norm <= found.upper)
    return held


@backends
def test_bounds_and_value_of_hard_matrices(backend):
    bring = on(backend)
    for seed in range(300 if backend == "numpy" else 60):
        kind, M = hard(seed, 60)
        check(M, bring, close=1e-12 if kind in CONVERGED else 0)


@pytest.mark.long
def test_bounds_and_value_of_ten_thousand_hard_matrices():
    for seed in range(10_000):
        kind, M = hard(seed, 128)
        check(M, close=1e-12 if kind in CONVERGED else 0)
    assert all(check_exact(range(10_000)))


@backends
def test_norms_that_are_known_exactly(backend):
    assert all(check_exact(range(200), on(backend)))


@pytest.mark.parametrize("shape", [(700, 520), (520, 700), (600, 600)])
def test_matrices_that_pytorch_factors_for_numpy(shape, rng):
    check(rng.standard_normal(shape), close=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 50), (50, 2)])
def test_narrow_matrices(shape, rng):
    check(rng.standard_normal(shape), close=1e-12)


def test_a_matrix_and_its_transpose(rng):
    M = rng.standard_normal((40, 17))
    assert polar.enclosed(M) == polar.enclosed(M.T)


def test_all_kinds_are_tried():
    assert {hard(seed, 5)[0] for seed in range(20)} == {kind.__name__ for kind in KINDS}


# --- each part of the bounds is needed -------------------------------------------------------------------------------


def test_without_the_term_for_rounding_the_lower_bound_breaks(monkeypatch):
    monkeypatch.setattr(polar, "WIDEN", 0)
    assert not all(check_exact(range(200)))


def test_without_the_term_for_small_singular_values_the_upper_bound_breaks(rng):
    """They do not converge, and the value lacks them: here by some 1e-11, far above rounding."""
    M = of_spectrum(rng, 60, 60, np.r_[1.0, np.full(59, 0.02 * polar.START)])
    found, norm = polar.enclosed(M), np.linalg.svd(M, compute_uv=False).sum()
    assert found.value * (1 + polar.WIDEN * 60 * EPS) < norm < found.upper


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_fewer_steps_give_wider_bounds_that_hold(steps, monkeypatch, rng):
    """Singular values are then brought to l only, by which the upper bound is divided."""
    monkeypatch.setattr(polar, "STEPS", steps)
    M = of_spectrum(rng, 60, 60, np.logspace(0, -9.5, 60))
    found, norm = polar.enclosed(M), np.linalg.svd(M, compute_uv=False).sum()
    assert found.value * (1 + 1e-5) < norm, "the division is needed"
    assert found.lower <= norm <= found.upper
    assert not found.narrow


def test_a_step_maps_singular_values_as_it_says():
    """[l, 1] into [l', 1], and [0, l] into [0, l']; each l' is what the next step begins with."""
    lowest = polar.START
    for _ in range(polar.STEPS):
        a, b, c, after = polar.weights(lowest)
        above, below = np.geomspace(lowest, 1, 10_001), np.linspace(0, lowest, 1001)
        for values, low in ((above, after), (below, 0.0)):
            mapped = values * (a + b * values**2) / (1 + c * values**2)
            assert (mapped >= low * (1 - 1e-12)).all()
            assert (mapped <= (1 if low else after) * (1 + 1e-12)).all()
        lowest = after
    assert lowest == pytest.approx(1, abs=1e-15)


def test_a_smaller_start_cannot_be_factored(monkeypatch, rng):
    """So 1e-9 stays: c·XᵀX drowns the identity beside it."""
    monkeypatch.setattr(polar, "START", 1e-14)
    assert polar.enclosed(of_spectrum(rng, 60, 60, np.logspace(0, -16, 60))) is None


def test_a_larger_start_gives_bounds_that_are_too_wide(monkeypatch, rng):
    M = rng.standard_normal((60, 60))
    assert polar.enclosed(M).narrow
    monkeypatch.setattr(polar, "START", 1e-5)
    assert not polar.enclosed(M).narrow


# --- what has no enclosure -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [np.asarray, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("entry", [0.0, np.nan, np.inf, 1e200, 1e-200])
def test_matrices_without_an_enclosure(library, entry):
    assert polar.enclosed(library(np.full((5, 3), entry))) is None


def test_a_matrix_that_is_zero_but_for_one_entry():
    M = np.zeros((5, 3))
    M[2, 1] = -4
    assert polar.enclosed(M).value == pytest.approx(4, rel=1e-14)


# --- two sides of a layer --------------------------------------------------------------------------------------------


def layers(rng, n, p, q):
    X = rng.standard_normal((n, p)) * np.arange(1, p + 1) ** -0.5
    Y = rng.standard_normal((n, q)) * np.arange(1, q + 1) ** -0.5
    Y[:, : min(p, q)] += X[:, : min(p, q)]
    return X, Y


def repeated(X):
    """Each example twice: the Gram matrix is singular."""
    return np.tile(X[: len(X) // 2], (2, 1))


def with_dead(X):
    """Few features vary, but no fewer than examples are kept: `kernel_side` makes a Gram matrix all the same."""
    return X * (np.arange(X.shape[1]) < 20)


def both(X, Y):
    return X, Y


PAIRS = {
    "Gram matrices": (150, 400, 300, both),
    "Gram matrices of one side singular": (150, 400, 300, lambda X, Y: (X, repeated(Y))),
    "Gram matrices of the other side singular": (150, 400, 300, lambda X, Y: (repeated(X), Y)),
    "singular Gram matrices": (150, 400, 300, lambda X, Y: (repeated(X), repeated(Y))),
    "dead channels": (150, 400, 300, lambda X, Y: (X, with_dead(Y))),
    "features": (150, 40, 30, both),
    "features and a Gram matrix": (150, 40, 300, both),
    "a Gram matrix and features": (150, 400, 30, both),
    "features and a singular Gram matrix": (150, 40, 300, lambda X, Y: (X, repeated(Y))),
    "one feature": (150, 1, 300, both),
    "large Gram matrices": (600, 700, 650, both),
    "large singular Gram matrices": (600, 700, 650, lambda X, Y: (repeated(X), Y)),
}


def pair_of(X, Y, **options):
    return kernels.KernelPair(kernels.kernel_side(X), kernels.kernel_side(Y), **options)


@backends
@pytest.mark.parametrize("kind", PAIRS)
def test_two_sides(kind, backend, rng):
    n, p, q, changed = PAIRS[kind]
    X, Y = changed(*layers(rng, n, p, q))
    pair = pair_of(*map(on(backend), (X, Y)), qdwh=True)
    scale = (pair.x.trace * pair.y.trace) ** 0.5
    assert pair.enclosure is not None
    assert pair.nuclear == pair.enclosure.value
    assert pair.nuclear / scale == pytest.approx(plain.nbs_nuclear(X, Y), abs=1e-11)
    assert pair.enclosure.lower / scale < plain.nbs_nuclear(X, Y) < pair.enclosure.upper / scale
    assert pair.enclosure.upper - pair.enclosure.lower <= 1e-6 * pair.enclosure.lower


def test_fast_takes_it_too(rng):
    pair = pair_of(*layers(rng, 600, 700, 650), fast=True, qdwh=True)
    assert pair.nuclear == pair.enclosure.value


def test_a_large_matrix_near_rank_one_has_bounds_that_are_too_wide(rng):
    """min(m, n)·l₀·‖M‖_F is then above 1e-6 of the norm. The bounds hold all the same."""
    M = np.outer(rng.standard_normal(1100), rng.standard_normal(1050)) + 1e-9 * rng.standard_normal((1100, 1050))
    check(M, close=1e-7)
    assert not polar.enclosed(M).narrow


def test_sides_near_rank_one_are_left_to_eigenvalues(monkeypatch, rng):
    """As at n = 5,000; here with a larger l₀."""
    X = np.outer(rng.standard_normal(150), rng.standard_normal(400))
    X, Y = (X + 1e-4 * rng.standard_normal(X.shape) for _ in range(2))
    assert pair_of(X, Y, qdwh=True).enclosure is not None
    monkeypatch.setattr(polar, "START", 1e-8)
    pair = pair_of(X, Y, qdwh=True)
    assert pair.enclosure is None
    assert pair.nuclear == pair_of(X, Y, qdwh=False).nuclear


@pytest.mark.parametrize("kind", PAIRS)
def test_where_nothing_can_be_factored_eigenvalues_decide(kind, monkeypatch, rng):
    n, p, q, changed = PAIRS[kind]
    X, Y = changed(*layers(rng, n, p, q))
    monkeypatch.setattr(polar, "cholesky", lambda A, reads: None)
    pair = pair_of(X, Y, qdwh=True)
    assert pair.enclosure is None
    usual = pair_of(X, Y, qdwh=False)
    assert pair.nuclear == pytest.approx(usual.nuclear, rel=1e-10)


def test_large_singular_sides_never_take_an_svd(monkeypatch, rng):
    X, Y = layers(rng, 1200, 1300, 1250)
    X = repeated(X)
    monkeypatch.setattr(polar, "cholesky", lambda A, reads: None)
    monkeypatch.setattr(np.linalg, "svd", None)
    assert pair_of(X, Y, qdwh=True).nuclear > 0
    with pytest.raises(TypeError, match="not callable"):
        pair_of(X, Y, qdwh=False).nuclear  # noqa: B018


def test_a_side_without_variance_has_no_value(rng):
    pair = pair_of(np.ones((20, 5)), rng.standard_normal((20, 5)), qdwh=True)
    with pytest.raises(Undefined):
        from_pair(pair)


# --- where the route is taken ----------------------------------------------------------------------------------------


def test_which_cards_have_full_rate():
    full = [(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)]
    others = [(5, 2), (6, 1), (6, 2), (7, 2), (7, 5), (8, 6), (8, 7), (8, 9), (10, 3), (11, 0), (12, 0), (12, 1)]
    assert all(map(full_rate_float64, full))
    assert not any(map(full_rate_float64, others))


@pytest.mark.parametrize("bring", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_a_cpu_keeps_its_route_and_its_bits(bring, rng):
    X, Y = map(bring, layers(rng, 150, 400, 300))
    assert not polar.on_full_rate(X)
    assert pair_of(X, Y).enclosure is None
    assert pair_of(X, Y).nuclear == pair_of(X, Y, qdwh=False).nuclear


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["cuda", "cupy"])
def test_a_gpu_takes_it_if_it_has_full_rate(backend, rng):
    bring = require(backend)
    X, Y = layers(rng, 150, 400, 300)
    full = full_rate_float64(torch.cuda.get_device_capability())
    pair = pair_of(bring(X), bring(Y))
    assert polar.on_full_rate(bring(X)) == full == (pair.enclosure is not None)
    usual = pair_of(bring(X), bring(Y), qdwh=False).nuclear
    assert pair.nuclear == pytest.approx(usual, rel=1e-11)


def test_float32_products_of_singular_sides_are_made_again(rng):
    X, Y = layers(rng, 150, 400, 300)
    side = dataclasses.replace(kernels.kernel_side(repeated(X)), unit=rounding.EPS32)
    for sides in ((side, kernels.kernel_side(Y)), (kernels.kernel_side(Y), side)):
        with pytest.raises(kernels.Unresolved):
            kernels.KernelPair(*sides, qdwh=True).nuclear  # noqa: B018
