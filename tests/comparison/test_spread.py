"""Values without each block of examples, and with permuted examples, against comparisons of such layers themselves."""

import itertools
from typing import Any

import numpy as np
import pytest

from distsim.comparison.devices import ON_CPU
from distsim.comparison.layer import InMemory, Reference
from distsim.comparison.spread import Taken
from distsim.metrics import jackknife, kernels
from distsim.metrics.channels import ChannelSide
from distsim.metrics.jackknife import BLOCKS, kept, split, standard_error
from distsim.metrics.registry import METRICS

Array = Any
MEASURED = tuple(name for name, metric in METRICS.items() if not metric.needs)
# Each pixel of the channel view is a row, and each of the other view a column.
SHAPES = {"more features than examples": (60, 4, 5, 6), "fewer": (150, 3, 3, 5), "no pixels": (90, 20)}


def activations(shape: tuple[int, ...], dtype: str = "float64") -> tuple[Array, Array]:
    """Two related layers with large means, a dead channel, and one that only the first example makes alive."""
    rng = np.random.default_rng(0)
    X, noise = rng.standard_normal((2, *shape))
    Y = X @ rng.standard_normal((shape[-1], shape[-1])) + noise + 5
    X = X + np.arange(shape[-1])
    X[..., 0], Y[..., 1] = 3.0, 0.0
    Y[..., 2] = 0.0
    Y[0, ..., 2] = 4.0
    return X.astype(dtype), Y.astype(dtype)


def layer(A: Array, rows: int = 2) -> InMemory:
    return InMemory(A, kind="out" if A.ndim == 2 else "conv", rows=rows)


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def shape(request: pytest.FixtureRequest) -> Any:
    return request.param


def brute(X: Array, Y: Array, examples: Array, names: tuple[str, ...]) -> dict[str, float | None]:
    return {
        name: result["value"]
        for name, result in Reference(layer(X[examples]), names).compare(layer(Y[examples])).items()
    }


@pytest.mark.parametrize("device", ["cpu", ON_CPU])
def test_values_without_a_block_are_those_of_the_other_examples(
    shape: tuple[int, ...], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every metric, in both views, whether numbers are read at once or together.

    SVCCA's cut is that of all examples. pwcca_google is left out: it depends on signs that the data do not determine.
    """
    X, Y = activations(shape)
    n, names = shape[0], tuple(name for name in MEASURED if name != "pwcca_google")
    blocks = split(n, 7)
    reference = Reference(layer(X), names, device)
    found = reference.read(layer(Y), blocks=blocks).without_blocks()
    assert set(found) == {metric.name for metric in reference.metrics}
    cuts = itertools.cycle([cut(X), cut(Y)])
    monkeypatch.setattr(ChannelSide, "kept", lambda side, variance: min(next(cuts), side.rank))
    for place, block in enumerate(blocks):
        expected = brute(X, Y, kept(n, block), names)
        for name, several in found.items():
            assert several["values"][place] == pytest.approx(expected[name], rel=0, abs=1e-9), name
            assert several["reasons"][place] == ""


def cut(A: Array) -> int:
    """Return how many directions hold 99 % of the variance of all examples."""
    rows = A.reshape(-1, A.shape[-1])
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    return int((np.cumsum(values) / values.sum() < 0.99).sum()) + 1


@pytest.mark.parametrize("device", ["cpu", ON_CPU])
def test_permuted_examples_are_those_of_a_permuted_layer(shape: tuple[int, ...], device: str) -> None:
    X, Y = activations(shape)
    names = tuple(name for name in MEASURED if name != "pwcca_google")
    orders = [np.random.default_rng(number).permutation(shape[0]) for number in range(3)]
    read = Reference(layer(X), names, device).read(layer(Y), orders=orders)
    for place, order in enumerate(orders):
        expected = Reference(layer(X), names, device).compare(Taken(layer(Y), order))
        for name, result in read.by_chance(place).items():
            assert result["value"] == pytest.approx(expected[name]["value"], rel=0, abs=1e-9), name


def test_large_layers_are_permuted_and_deleted_as_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where NBS comes from Cholesky factors and eigenvalues, and from polar factors."""
    monkeypatch.setattr(kernels, "SMALL", 0)
    X, Y = activations(SHAPES["more features than examples"], "float32")
    blocks, order = split(60, 0), np.random.default_rng(0).permutation(60)
    for qdwh in (False, True):
        read = Reference(layer(X), ("nbs", "cka"), qdwh=qdwh).read(layer(Y), orders=[order], blocks=blocks)
        permuted, without = read.by_chance(0), read.without_blocks()
        monkeypatch.setattr(kernels, "SMALL", 10**6)
        expected = Reference(layer(X), ("nbs", "cka")).compare(layer(Y[order]))
        alone = brute(X, Y, kept(60, blocks[3]), ("nbs", "cka"))
        monkeypatch.setattr(kernels, "SMALL", 0)
        for name in ("nbs", "cka"):
            assert permuted[name]["value"] == pytest.approx(expected[name]["value"], abs=2e-6)
            assert without[name]["values"][3] == pytest.approx(alone[name], abs=2e-6)


def test_the_values_do_not_depend_on_what_is_measured_beside_them(shape: tuple[int, ...]) -> None:
    X, Y = activations(shape)
    alone = Reference(layer(X), ("cka", "svcca", "nbs")).compare(layer(Y))
    order = np.arange(shape[0])[::-1].copy()
    read = Reference(layer(X), ("cka", "svcca", "nbs")).read(layer(Y), orders=[order], blocks=split(shape[0], 0))
    assert read.results() == alone


def test_what_metrics_share_is_computed_once(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of CKA need the same sums over blocks of both sides and of the pair."""
    calls: list[str] = []
    for name in ("_products_of_features", "_products_of_grams"):
        made = getattr(jackknife, name)
        monkeypatch.setattr(jackknife, name, lambda *given, made=made: calls.append("") or made(*given))
    X, Y = activations(shape)
    Reference(layer(X), ("cka", "cka_unbiased")).read(layer(Y), blocks=split(shape[0], 0)).without_blocks()
    assert len(calls) == 3


def test_a_side_that_varies_in_one_block_only_has_no_standard_error() -> None:
    X, Y = activations((40, 12))
    Y = np.zeros_like(Y)
    blocks = split(40, 0)
    Y[blocks[2]] = np.random.default_rng(1).standard_normal((4, 12)) + 1e3
    found = Reference(layer(X), ("cka", "nbs", "mean_cca")).read(layer(Y), blocks=blocks).without_blocks()
    for name, several in found.items():
        assert several["values"][2] is None, name
        assert several["reasons"][2], name


def test_blocks_are_tenths_of_the_images_and_a_fixed_split() -> None:
    blocks = split(57, 3)
    assert [len(block) for block in blocks] == [6] * 7 + [5] * 3
    assert sorted(np.concatenate(blocks)) == list(range(57))
    assert all((a == b).all() for a, b in zip(blocks, split(57, 3), strict=True))
    assert any((a != b).any() for a, b in zip(blocks[:7], split(57, 4)[:7], strict=True))
    assert len(blocks) == BLOCKS
    with pytest.raises(ValueError, match="at least 10 examples, there are 9"):
        split(9, 0)


def test_a_standard_error_is_that_of_the_jackknife() -> None:
    """Of a mean of ten blocks it is the usual one."""
    means = np.random.default_rng(0).standard_normal(10)
    without = [(means.sum() - mean) / 9 for mean in means]
    assert standard_error(without) == pytest.approx(means.std(ddof=1) / 10**0.5)


def test_a_standard_error_is_the_spread_over_fresh_examples() -> None:
    """Of related Gaussian sides: within a factor of 1.5, on average over samples."""
    rng, names = np.random.default_rng(5), ("cka", "cka_unbiased", "mean_cca", "svcca", "pwcca", "nbs", "cosine")
    mixed, n = rng.standard_normal((6, 6)), 400
    values: dict[str, list[float]] = {name: [] for name in names}
    errors: dict[str, list[float]] = {name: [] for name in names}
    for sample in range(60):
        X, noise = rng.standard_normal((2, n, 6)) * np.array([3, 2, 1, 1, 0.7, 0.5])
        read = Reference(layer(X), names).read(layer(X @ mixed + 3 * noise), blocks=split(n, sample))
        for name, result in read.results().items():
            values[name].append(result["value"] or 0.0)
        for name, several in read.without_blocks().items():
            errors[name].append(standard_error([each or 0.0 for each in several["values"]]))
    for name in names:
        ratio = np.sqrt(np.mean(np.square(errors[name]))) / np.std(values[name], ddof=1)
        assert 1 / 1.5 < ratio < 1.5, (name, ratio)
