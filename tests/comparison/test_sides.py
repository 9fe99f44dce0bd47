"""The pass over the activations: float32 products where they are many, exact to 1e-6 whatever the activations are."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distsim.comparison import pair, sides
from distsim.comparison.layer import Reference, compare_pairs
from distsim.comparison.sides import InMemory
from distsim.environment import threads
from distsim.metrics import kernels, roots
from distsim.metrics.arrays import Workspace
from distsim.metrics.registry import METRICS, Metric, known, register
from distsim.metrics.rounding import EPS, EPS32

Array = NDArray[Any]
ALL = tuple(name for name in METRICS if "dimension" not in name)  # of two sides
EXACT = 1e-6  # the promise; measured: 1e-8
FAST = 5e-4


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def activations(n: int, size: int, channels: int, noise: float = 0.05, seed: int = 0) -> tuple[Array, Array]:
    """Two layers like trained ones: rectified, their spectrum a power law, the second a perturbed first."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((100, size * size * channels)) * np.arange(1, 101)[:, None] ** -0.7
    latent = rng.standard_normal((n, 100))
    made = []
    for change in (0.0, 0.4):
        signal = (latent + change * rng.standard_normal(latent.shape)) @ mix
        signal = np.maximum(signal + noise * rng.standard_normal(signal.shape), 0)
        made.append(signal.reshape(n, size, size, channels).astype(np.float16))
    return made[0], made[1]


def values(X: Array, Y: Array, precision: str = "exact") -> dict[str, float]:
    results = Reference(InMemory(X, rows=4), ALL, precision=precision).compare(InMemory(Y, rows=4))
    return {name: result["value"] for name, result in results.items()}


def plain(A: Array) -> Array:
    return A


def large_mean(A: Array) -> Array:
    return A.astype(np.float32) + np.float32(1e4)


def dead(A: Array) -> Array:
    A = A.copy()
    A[..., :3] = 0
    return A


def constant(A: Array) -> Array:
    A = A.copy()
    A[..., 0] = 7.3
    return A


def duplicated(A: Array) -> Array:
    A = A.copy()
    half = A.shape[-1] // 2
    A[..., -half:] = A[..., :half]
    return A


def mostly_dead(A: Array) -> Array:
    """Fewer features than examples vary: one side is held as features, the other as a Gram matrix."""
    A = A.copy()
    A[..., 2:] = 0
    return A


def repeated_examples(A: Array) -> Array:
    half = len(A) // 2
    return np.concatenate([A[:half], A[:half]])


HARD: dict[str, Callable[[Array], Array]] = {
    change.__name__: change
    for change in (plain, large_mean, dead, constant, duplicated, mostly_dead, repeated_examples)
}


@pytest.mark.parametrize("change", HARD.values(), ids=HARD.keys())
@pytest.mark.parametrize("changed", ["both", "second"])
@pytest.mark.parametrize("shape", [(330, 8, 10), (450, 8, 6)], ids=["Gram matrices", "features"])
def test_float32_products_agree_with_float64(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Array], Array], changed: str, shape: tuple[int, int, int]
) -> None:
    """Forced on a small layer; otherwise only layers whose float64 products would cost seconds take them."""
    X, Y = activations(*shape)
    if changed == "both" or change in (repeated_examples, large_mean):
        X = change(X)
    Y = change(Y)
    exact = values(X, Y)
    monkeypatch.setattr(sides, "NARROW", 0)
    for name, value in values(X, Y).items():
        assert value == pytest.approx(exact[name], rel=0, abs=EXACT), name


@pytest.mark.parametrize("change", HARD.values(), ids=HARD.keys())
def test_fast_keeps_its_bounds(monkeypatch: pytest.MonkeyPatch, change: Callable[[Array], Array]) -> None:
    X, Y = (change(A) for A in activations(330, 8, 10))
    exact = values(X, Y)
    monkeypatch.setattr(sides, "NARROW", 0)
    fast = values(X, Y, "fast")
    assert np.cos(fast.pop("procrustes")) == pytest.approx(exact["nbs"], rel=0, abs=FAST)
    for name, value in fast.items():
        assert value == pytest.approx(exact[name], rel=0, abs=FAST if name == "nbs" else EXACT), name


def test_a_regular_gram_matrix_beside_features_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y = activations(600, 12, 8)
    monkeypatch.setattr(sides, "NARROW", 0)
    monkeypatch.setattr(pair.PairSide, "wide", None)
    for x, y in ((X, mostly_dead(Y)), (mostly_dead(Y), X)):
        Reference(InMemory(x, rows=4), ("nbs",)).compare(InMemory(y, rows=4))


def test_singular_gram_matrices_take_float64_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated examples: half the eigenvalues are zero, which float32 products cannot tell from small ones."""
    X, Y = (repeated_examples(A) for A in activations(600, 12, 8))
    monkeypatch.setattr(sides, "NARROW", 0)
    reference = Reference(InMemory(X, rows=4), ("nbs",))
    assert reference.side.kernel.unit == EPS32
    assert "wide" not in vars(reference.side)
    reference.compare(InMemory(Y, rows=4))
    assert "wide" in vars(reference.side), "the complete network's float64 side is kept for the next comparison"
    assert reference.side.wide.unit == EPS


@pytest.mark.parametrize("size", [12, 6])
def test_the_eigenproblem_gives_the_svd(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """600 examples: by Gram matrices (1,152 features) and by features (288), each against an SVD."""
    X, Y = activations(600, size, 8)
    monkeypatch.setattr(kernels, "SMALL", 10**6)
    by_svd = values(X, Y)["nbs"]
    monkeypatch.setattr(kernels, "SMALL", 0)
    monkeypatch.setattr(kernels.KernelPair, "_by_svd", None)
    assert values(X, Y)["nbs"] == pytest.approx(by_svd, rel=0, abs=1e-10)


def test_one_side_of_each_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels live on one side: it is held as features, the other as a Gram matrix."""
    X, Y = activations(600, 12, 8)
    Y[..., 3:] = 0
    monkeypatch.setattr(kernels, "SMALL", 10**6)
    by_svd = values(X, Y)
    monkeypatch.setattr(kernels, "SMALL", 0)
    for name, value in values(X, Y).items():
        assert value == pytest.approx(by_svd[name], rel=0, abs=1e-9), name
    for name, value in values(Y, X).items():
        if name not in ("pwcca", "pwcca_google", "linear_predictivity"):  # in which the first side has another part
            assert value == pytest.approx(by_svd[name], rel=0, abs=1e-9), name


SPECTRA: dict[str, Array] = {
    "flat": np.ones(600),
    "power law": np.arange(1, 601) ** -1.0,
    "steep": np.arange(1, 601) ** -3.0,
    "to nothing": np.geomspace(1, 1e-16, 600),
    "half is zero": np.r_[np.arange(1, 301) ** -1.0, np.zeros(300)],
    "one is large": np.r_[1, np.full(599, 1e-3)],
    "one is very large": np.r_[1, np.full(599, 1e-5)],
    "one is so large that float32 loses the others": np.r_[1, np.full(599, 1e-6)],
    "one is so large that float64 loses the others": np.r_[1, np.full(599, 1e-9)],
}


@pytest.mark.parametrize(("dtype", "bound"), [("float64", EXACT), ("float32", FAST)])
@pytest.mark.parametrize("singular", SPECTRA.values(), ids=SPECTRA.keys())
def test_roots_of_eigenvalues_are_within_bounds_or_refused(singular: Array, dtype: str, bound: float) -> None:
    Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((600, 600)))
    half = (Q * singular).astype(dtype)
    found = roots.sum_of_roots(half @ half.T)
    assert found is None or found == pytest.approx(singular.sum(), rel=bound)
    if singular[-1] > 1e-4:
        assert found is not None, "what is clear is not refused"


def test_a_small_reference_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of the held side and of one that is read are the same, whatever cuts them."""
    X, Y = activations(200, 12, 8)
    monkeypatch.setattr(sides, "COLUMNS", 100)  # of 8 channels: 12 pixels and the rest of a panel
    once = values(X, Y)
    monkeypatch.setattr(sides, "HELD", 0)
    assert values(X, Y) == once
    monkeypatch.setattr(sides, "COLUMNS", 2**13)
    for name, value in values(X, Y).items():
        assert value == pytest.approx(once[name], rel=0, abs=1e-10), name


@pytest.mark.parametrize("n", [511, 512, 700, 1100])
def test_a_congruence_with_a_triangular_matrix(n: int) -> None:
    C, A = np.random.default_rng(0).standard_normal((2, n, n))
    C, L = np.tril(C), A + A.T
    found = kernels.congruence(C, L, Workspace())
    np.testing.assert_allclose(np.tril(found), np.tril(C.T @ L @ C), atol=1e-9)


def test_variance_within_the_rounding_of_float32_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that differ in the last bits of a float32 product only, as behind a dead layer."""
    X, Y = (A.astype(np.float32) for A in activations(60, 4, 4))
    Y[:] = 0.7
    Y[::7] = np.nextafter(Y[::7], np.float32(1))
    for limit in (sides.NARROW, 0):
        monkeypatch.setattr(sides, "NARROW", limit)
        results = Reference(InMemory(X, rows=2), ALL).compare(InMemory(Y, rows=2))
        assert {result["value"] for result in results.values()} == {None}
        assert {result["dead_y"] for result in results.values()} == {4}


# --- pairs -----------------------------------------------------------------------------------------------------------


class Counted(InMemory):
    """Counts the bytes that are read of it."""

    read = 0

    def panels(self, rows: int) -> Iterator[Any]:
        for panel in super().panels(rows):
            Counted.read += panel.nbytes
            yield panel


def networks(count: int, n: int = 60) -> list[Array]:
    base = activations(n, 6, 4)[0].astype(np.float32)
    rng = np.random.default_rng(1)
    return [base + i * rng.standard_normal(base.shape).astype(np.float32) for i in range(count)]


def test_pairs_are_what_references_give() -> None:
    layers = [InMemory(A, rows=2) for A in networks(4)]
    pairs = [(0, 1), (0, 3), (2, 1), (3, 3)]
    found = compare_pairs(layers, pairs, ALL)
    assert list(found) == pairs
    for (i, j), results in found.items():
        expected = Reference(layers[i], ALL).compare(layers[j])
        if i != j:
            assert results == expected, (i, j)
        for name, result in results.items():  # a layer's products with itself may come from another routine of BLAS
            assert result["value"] == pytest.approx(expected[name]["value"], rel=0, abs=1e-7), name


def test_all_pairs_of_eight_read_each_network_once() -> None:
    layers = [Counted(A, rows=2) for A in networks(8)]
    Counted.read = 0
    compare_pairs(layers[:2], [(0, 1)], ALL)
    one = Counted.read
    Counted.read = 0
    compare_pairs(layers, [(i, j) for i in range(8) for j in range(i)], ALL)
    assert Counted.read == 4 * one


def test_layers_that_do_not_fit() -> None:
    X = networks(1)[0]
    with pytest.raises(ValueError, match=r"shapes \(60, 6, 6, 4\) and \(50, 6, 6, 4\) do not fit together"):
        compare_pairs([InMemory(X), InMemory(X[:50])], [(0, 1)], ("cka",))


# --- the registry ----------------------------------------------------------------------------------------------------


def test_an_own_metric_is_computed_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Metric("smallest_correlation", "channels", lambda pair: float(pair.correlations[-1]))
    monkeypatch.setitem(METRICS, own.name, own)
    X, Y = networks(2)
    results = Reference(InMemory(X), ("mean_cca", own.name)).compare(InMemory(Y))
    assert 0 <= results[own.name]["value"] < results["mean_cca"]["value"]


def test_a_name_belongs_to_one_metric() -> None:
    assert register(METRICS["cka"]) is METRICS["cka"]
    with pytest.raises(ValueError, match="there is already another metric named cka"):
        register(Metric("cka", "kernel", lambda pair: 0.0))


def test_unknown_names_and_views() -> None:
    with pytest.raises(ValueError, match=r"unknown metrics \['nope'\]; there are \('mean_cca',"):
        known(("cka", "nope"))
    with pytest.raises(ValueError, match="view must be one of"):
        Metric("x", "pixels", lambda pair: 0.0)
    with pytest.raises(ValueError, match="identifier"):
        Metric("a/b", "kernel", lambda pair: 0.0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": 5}, "a metric's name must be an identifier, got 5"),
        ({"measure": 5}, "metric own: measure must be a function, got 5"),
        ({"measure": None}, "metric own: measure must be a function, got None"),
        ({"caution": "few"}, "metric own: caution must be a function, got 'few'"),
        ({"label": 5}, "metric own: label must be text, got 5"),
        ({"deferred": "no"}, "metric own: deferred must be True or False, got 'no'"),
        ({"bounds": "ab"}, "metric own: bounds must be two numbers, the smaller one first, got 'ab'"),
        ({"bounds": (0, "1")}, "metric own: bounds must be two numbers, .*'1'"),
        ({"bounds": (1, 0)}, r"metric own: bounds must be two numbers, the smaller one first, got \(1, 0\)"),
    ],
)
def test_the_fields_of_a_metric_have_their_types(fields: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"name": "own", "view": "kernel", "measure": lambda pair: 0.0} | fields
    with pytest.raises((TypeError, ValueError), match=f"^{said}"):
        Metric(**given)
