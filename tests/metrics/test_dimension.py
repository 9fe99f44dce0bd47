"""Intrinsic dimension: known ones, its definition, invariances, examples that repeat, and the route of sweeps."""

import sys

import numpy as np
import pytest
import torch

from distsim import plotting
from distsim.comparison import sides
from distsim.comparison.layer import Reference
from distsim.comparison.sides import InMemory
from distsim.metrics import UndefinedSimilarity, intrinsic_dimension
from distsim.metrics.dimension import of_side
from distsim.metrics.kernels import KernelSide, kernel_side
from distsim.results import figures, text
from distsim.results.claims import judging
from distsim.results.columns import NETWORK_COLUMNS, SIMILARITY_COLUMNS
from distsim.results.tables import Tables, long_table, network_table

TwoNN = pytest.importorskip("skdim.id", reason="scikit-dimension is not installed").TwoNN

BOTH = ("dimension", "dimension_complete")
EVERY = pytest.mark.usefixtures("every_backend")
FORMS = pytest.mark.parametrize("p", [50, 400], ids=["features", "gram"])  # of 300 examples


def embedded(rng, n, d, p=50):
    """A Gaussian of d dimensions in p features."""
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, p)) + rng.standard_normal(p)


@EVERY
@pytest.mark.parametrize("d", [2, 5, 10])
def test_known_dimensions(d, rng):
    np.testing.assert_allclose(intrinsic_dimension(embedded(rng, 1000, d)), d, rtol=0.15)


@EVERY
@FORMS
def test_is_its_definition(p, rng):
    X = embedded(rng, 300, 6, p)
    distances = np.sort(np.linalg.norm(X[:, None] - X, axis=2), axis=1)
    x = np.log(np.sort(distances[:, 2] / distances[:, 1])[:270])
    y = -np.log(1 - np.arange(1, 271) / 300)
    np.testing.assert_allclose(intrinsic_dimension(X), (x @ y) / (x @ x), rtol=1e-10)


def test_is_what_the_library_finds_from_the_points_themselves(rng):
    X = embedded(rng, 600, 4)
    np.testing.assert_allclose(intrinsic_dimension(X), TwoNN().fit(X).dimension_, rtol=1e-10)


@EVERY
@FORMS
def test_unchanged_by_rotation_scale_and_shift(p, rng):
    X = embedded(rng, 300, 5, p)
    rotation = np.linalg.qr(rng.standard_normal((p, p)))[0]
    for changed in (X @ rotation, -1e3 * X, X + 100, np.column_stack([X, np.zeros(300)])):
        np.testing.assert_allclose(intrinsic_dimension(changed), intrinsic_dimension(X), rtol=1e-8)


def test_features_and_gram_matrix_agree(rng):
    side = kernel_side(embedded(rng, 600, 5))  # several blocks of rows
    assert side.features is not None
    np.testing.assert_allclose(of_side(KernelSide(600, 50, gram=side.full_gram)), of_side(side), rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_torch_and_images(dtype, rng):
    X = rng.standard_normal((200, 3, 4, 5)).astype(dtype)
    value = intrinsic_dimension(X)
    assert type(value) is float
    np.testing.assert_allclose(value, intrinsic_dimension(X.reshape(200, -1)), rtol=1e-10)
    np.testing.assert_allclose(intrinsic_dimension(X, channels_last=True), value, rtol=1e-10)
    np.testing.assert_allclose(intrinsic_dimension(torch.tensor(X, requires_grad=True)), value, rtol=1e-10)


@EVERY
@FORMS
def test_examples_with_a_copy_are_left_out(p, rng):
    X = embedded(rng, 300, 5, p)
    repeated = np.concatenate([X[:40], X, X[:20], X[:20]])
    rng.shuffle(repeated)
    np.testing.assert_allclose(intrinsic_dimension(repeated), intrinsic_dimension(X[40:]), rtol=1e-8)


@EVERY
@FORMS
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda X: np.full_like(X, 7.3), "every activation is the same"),
        (lambda X: X[:2], "at least 3 examples, there are 2"),
        (lambda X: np.concatenate([X, X]), "3 examples without a copy, there are 0"),
        (lambda X: np.concatenate([X[2:], X]), "3 examples without a copy, there are 2"),
        (lambda X: np.eye(40), "as far from its second neighbour as from its first"),
    ],
    ids=["constant", "two examples", "copies", "nearly all copies", "simplex"],
)
def test_undefined(p, change, reason, rng):
    with pytest.warns(UndefinedSimilarity, match=reason):
        assert np.isnan(intrinsic_dimension(change(embedded(rng, 300, 5, p))))


def test_three_examples_are_enough(rng):
    assert intrinsic_dimension(rng.standard_normal((3, 5))) > 0


def test_bad_arguments(rng):
    X = rng.standard_normal((20, 4))
    X[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"intrinsic_dimension: X .*finite"):
        intrinsic_dimension(X)
    with pytest.raises(ValueError, match=r"intrinsic_dimension: .*shape"):
        intrinsic_dimension(X[0])


def test_without_the_library(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "skdim.id", None)
    with pytest.raises(ValueError, match=r"scikit-dimension: pip install 'distsim-imp\[dimension\]'$"):
        intrinsic_dimension(rng.standard_normal((20, 4)))


def layers(rng, channels):
    """Complete and pruned, (n, h, w, c): of 8 and of 3 dimensions."""
    return [embedded(rng, 300, d, 16 * channels).reshape(300, 4, 4, channels).astype(np.float32) for d in (8, 3)]


@pytest.mark.parametrize("channels", [3, 25], ids=["features", "gram"])
def test_each_metric_is_of_its_side(channels, rng):
    X, Y = layers(rng, channels)
    found = Reference(InMemory(X, rows=2), BOTH).compare(InMemory(Y, rows=2))
    values = [found[name]["value"] for name in BOTH]
    np.testing.assert_allclose(values, [intrinsic_dimension(Y), intrinsic_dimension(X)], rtol=1e-8)
    assert values[1] > 1.5 * values[0], "y is the pruned network, of fewer dimensions"


@pytest.mark.parametrize("copies", [0, 1, 100])
def test_float32_products(copies, rng, monkeypatch):
    """Forced on a small layer. They cannot tell whether examples are copies: float64 products are taken then."""
    X, Y = layers(rng, 25)
    Y[:copies] = Y[299]
    monkeypatch.setattr(sides, "NARROW", 0)
    reference = Reference(InMemory(X, rows=2), BOTH)
    found = reference.compare(InMemory(Y, rows=2))
    assert ("wide" in vars(reference.side)) == (copies > 0)
    values = [found[name]["value"] for name in BOTH]
    np.testing.assert_allclose(values, [intrinsic_dimension(Y), intrinsic_dimension(X)], rtol=1e-5)


def test_a_sweep_records_why_there_is_none(rng):
    X, Y = layers(rng, 3)
    found = Reference(InMemory(X), BOTH).compare(InMemory(np.zeros_like(Y)))
    assert found["dimension"]["value"] is None
    assert found["dimension"]["reason"] == "every activation is the same for all examples"
    assert found["dimension_complete"]["value"] > 3


def tables(metrics):
    """Four runs of digits; the dimensions' spread is as large as they are."""
    similarities, networks = [], []
    for run in range(4):
        for iteration in range(3):
            network = {"problem": "digits", "run": run if iteration else None, "iteration": iteration}
            network |= {"complete": 0, "control": ""}
            shared = network | {"remaining": 0.8**iteration, "remaining_pool": 0.8**iteration}
            if iteration or not run:
                networks.append(dict.fromkeys(NETWORK_COLUMNS, 1) | shared | {"accuracy": 0.9})
            for position, layer in enumerate(("conv1", "fc1", "out") if iteration else ()):
                place = {"position": position, "layer": layer, "kind": layer.rstrip("1"), "reason": ""}
                for metric in metrics:
                    value = 50.0 * 3**run if metric in BOTH else 0.7 - 0.1 * iteration + 0.01 * run
                    row = dict.fromkeys(SIMILARITY_COLUMNS, 1) | shared | place
                    similarities.append(row | {"metric": metric, "value": value})
    return Tables.of(long_table(similarities), network_table(networks))


def test_dimensions_have_a_figure_and_columns_and_change_no_other():
    without, both = tables(("svcca", "cka")), tables(("svcca", "cka", *BOTH))
    assert both.summary.loc[both.summary["metric"] == "dimension", "median"].eq(300).all()
    assert judging.check(both) == judging.check(without)
    header = text.as_text(both, "digits").splitlines()[0].split()
    assert header == [*text.as_text(without, "digits").splitlines()[0].split(), *BOTH]
    drawn = [figures.draw_all(one) for one in (without, both)]
    assert drawn[1].keys() - drawn[0].keys() == {"more_similarities_digits"}
    for name in drawn[0]:
        assert plotting.render(drawn[0][name], "png") == plotting.render(drawn[1][name], "png"), name
