"""Comparisons whose numbers are read at the end, as on a GPU, on the CPU: the values are NumPy's, whatever the layers.

What is taken for likely is wrong for some of these layers. Then a metric is computed again.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distsim.comparison.devices import ON_CPU
from distsim.comparison.layer import Reference, compare_pairs
from distsim.comparison.pair import Pair
from distsim.comparison.sides import InMemory
from distsim.environment import threads
from distsim.metrics.registry import BUILT_IN, METRICS, Metric

Array = NDArray[Any]
# pwcca_google depends on the signs that LAPACK returns
NAMES = tuple(name for name in BUILT_IN if "dimension" not in name and name != "pwcca_google")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def layers(n: int, size: int, channels: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = np.maximum(rng.standard_normal((n, size, size, channels)), -0.5)
    Y = np.maximum(X + 0.5 * rng.standard_normal(X.shape), -0.5)
    return X.astype(np.float16), Y.astype(np.float16)


def plain(A: Array) -> Array:
    return A


def dead(A: Array) -> Array:
    A = A.copy()
    A[..., :2] = 0.3
    return A


def nearly_all_dead(A: Array) -> Array:
    A = A.copy()
    A[..., 1:] = 0
    return A


def all_dead(A: Array) -> Array:
    return np.full_like(A, 0.7)


def the_same_for_all_examples(A: Array) -> Array:
    """Channels vary over pixels only: the kernel has no variance, the channels have."""
    return np.broadcast_to(A[:1], A.shape).copy()


def duplicated(A: Array) -> Array:
    A = A.copy()
    A[..., 2:] = A[..., : A.shape[-1] - 2]
    return A


def repeated_examples(A: Array) -> Array:
    half = len(A) // 2
    return np.concatenate([A[:half], A[:half]])


def large_mean(A: Array) -> Array:
    return A.astype(np.float32) + np.float32(1e4)


CHANGES: list[Callable[[Array], Array]] = [
    plain,
    dead,
    nearly_all_dead,
    all_dead,
    the_same_for_all_examples,
    duplicated,
    repeated_examples,
    large_mean,
]
CHANGED = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
SHAPES = pytest.mark.parametrize("shape", [(60, 4, 5), (100, 4, 5)], ids=["Gram matrices", "features"])


def reference(X: Array, names: Any = NAMES, device: str = ON_CPU, qdwh: bool | None = None) -> Reference:
    return Reference(InMemory(X, kind="out", rows=2), names, device, qdwh=qdwh)


def same(found: Any, expected: Any) -> None:
    for name, result in expected.items():
        for field, value in result.items():
            # the bound is wider by the dead features, which NumPy's route cuts out
            within = 1e-6 if field == "upper" else 1e-12
            near = pytest.approx(value, rel=0, abs=within) if isinstance(value, float) else value
            assert found[name][field] == near, (name, field)
            assert type(found[name][field]) is type(value), (name, field)


@CHANGED
@SHAPES
@pytest.mark.parametrize("changed", ["second", "both"])
@pytest.mark.parametrize("qdwh", [False, True], ids=["eigenvalues", "qdwh"])
def test_records_are_numpys(change: Callable[[Array], Array], shape: Any, changed: str, qdwh: bool) -> None:
    X, Y = layers(*shape)
    X, Y = change(X) if changed == "both" or change is large_mean else X, change(Y)
    same(
        reference(X, qdwh=qdwh).compare(InMemory(Y, kind="out", rows=2)),
        reference(X, device="cpu", qdwh=qdwh).compare(InMemory(Y, kind="out", rows=2)),
    )


@CHANGED
@SHAPES
def test_pairs_too(change: Callable[[Array], Array], shape: Any) -> None:
    X, Y = layers(*shape)
    each = [InMemory(A, kind="out", rows=2) for A in (X, change(Y))]
    same(compare_pairs(each, [(0, 1)], NAMES, ON_CPU)[0, 1], compare_pairs(each, [(0, 1)], NAMES)[0, 1])


@CHANGED
def test_a_value_does_not_depend_on_the_other_metrics(change: Callable[[Array], Array]) -> None:
    """Nor on whether one of them was computed again, or on earlier comparisons."""
    X, Y = layers(60, 4, 5)
    source = InMemory(change(Y), kind="out", rows=2)
    together = reference(X)
    first = together.compare(source)
    assert together.compare(source) == first
    assert {name: reference(X, [name]).compare(source)[name] for name in NAMES} == first


def test_what_is_wrong_of_the_complete_network_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y = layers(60, 4, 5)
    complete = reference(repeated_examples(X), qdwh=True)
    record, computed = Pair.record, list[str]()

    def counted(self: Pair, metric: Metric) -> Any:
        computed.append(metric.name)
        return record(self, metric)

    monkeypatch.setattr(Pair, "record", counted)
    first = complete.compare(InMemory(Y, kind="out", rows=2))
    assert sorted(computed) == sorted([*NAMES, "nbs", "procrustes"])
    computed.clear()
    assert complete.compare(InMemory(Y, kind="out", rows=2)) == first
    assert sorted(computed) == sorted(NAMES)


def test_ones_own_metric_looks_at_numbers_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets a pair without zeros in place of what is beyond a rank."""
    own = Metric("smallest_correlation", "channels", lambda pair: float(pair.correlations[-1]))
    monkeypatch.setitem(METRICS, own.name, own)
    X, Y = layers(100, 4, 5)
    source = InMemory(dead(Y), kind="out", rows=2)
    found = reference(X, ["mean_cca", own.name]).compare(source)
    assert list(found) == ["mean_cca", own.name]
    assert 0 < found[own.name]["value"] < found["mean_cca"]["value"]
    same(found, reference(X, ["mean_cca", own.name], "cpu").compare(source))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite(value: float) -> None:
    X, Y = layers(60, 4, 5)
    Y[3, 1, 2, 0] = value
    draft = reference(X).draft(InMemory(Y, kind="out", rows=2))
    with pytest.raises(FloatingPointError, match="layer layer has activations that are not finite"):
        draft.results()
    with pytest.raises(FloatingPointError, match="layer layer has activations that are not finite"):
        reference(Y)


def test_layers_that_do_not_fit() -> None:
    X, Y = layers(60, 4, 5)
    with pytest.raises(ValueError, match="do not fit together"):
        reference(X).compare(InMemory(Y[:50]))


def test_arrays_that_must_not_be_written_to() -> None:
    X, Y = layers(60, 4, 5)
    X.flags.writeable = Y.flags.writeable = False
    same(reference(X).compare(InMemory(Y, rows=2)), reference(X, device="cpu").compare(InMemory(Y, rows=2)))
