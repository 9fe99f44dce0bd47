"""What is the caller's mistake raises, and says what was expected and what came."""

import numpy as np
import pytest
import torch

from distsim.metrics import cka, cosine, mean_cca, nbs, pwcca, svcca
from distsim.metrics.arrays import full_rate_float64

CCA_FAMILY = [mean_cca, svcca, pwcca]
METRICS = [*CCA_FAMILY, cka, nbs, cosine]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("tail", [(5,), (5, 3, 2)], ids=["matrix", "images"])
def test_different_numbers_of_examples(metric, tail, rng):
    X, Y = rng.standard_normal((64, *tail)), rng.standard_normal((63, *tail))
    with pytest.raises(ValueError, match=rf"{metric.__name__}: .*64.*63"):
        metric(X, Y)
    with pytest.raises(ValueError, match=rf"{metric.__name__}: .*63.*64"):
        metric(torch.tensor(Y), torch.tensor(X))


@pytest.mark.parametrize("metric", METRICS)
def test_different_numbers_of_examples_with_as_many_folded_rows(metric, rng):
    with pytest.raises(ValueError, match=rf"{metric.__name__}: .*8.*4"):
        metric(rng.standard_normal((8, 5, 2, 2)), rng.standard_normal((4, 5, 4, 2)))


@pytest.mark.parametrize("metric", CCA_FAMILY)
@pytest.mark.parametrize("space", [(4, 4), (3, 1), (1, 1), (3, 4)], ids=str)
def test_cca_of_different_spatial_sizes(metric, space, rng):
    with pytest.raises(ValueError, match=rf"{metric.__name__}: .*spatial"):
        metric(rng.standard_normal((9, 5, 3, 3)), rng.standard_normal((9, 5, *space)))


@pytest.mark.parametrize("metric", CCA_FAMILY)
def test_cca_of_different_spatial_sizes_with_as_many_pixels(metric, rng):
    """Row 4 is pixel (1, 0) of a 4 × 4 image and pixel (0, 4) of a 2 × 8 image: the rows match in number only."""
    with pytest.raises(ValueError, match=rf"{metric.__name__}: .*spatial"):
        metric(rng.standard_normal((9, 5, 4, 4)), rng.standard_normal((9, 5, 2, 8)))


@pytest.mark.parametrize("metric", CCA_FAMILY)
def test_cca_of_a_matrix_and_images(metric, rng):
    with pytest.raises(ValueError, match=rf"{metric.__name__}: .*81.*9"):
        metric(rng.standard_normal((9, 5, 3, 3)), rng.standard_normal((9, 5)))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("library", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_values_that_are_not_finite(metric, bad, dtype, library, rng):
    X, Y = rng.standard_normal((2, 30, 4)).astype(dtype)
    X[29, 3] = bad
    with pytest.raises(ValueError, match=rf"{metric.__name__}: X .*finite"):
        metric(library(X), library(Y))
    with pytest.raises(ValueError, match=rf"{metric.__name__}: Y .*finite"):
        metric(library(Y), library(X))


@pytest.mark.parametrize("metric", METRICS)
def test_one_bad_value_in_images(metric, rng):
    X, Y = rng.standard_normal((2, 6, 4, 3, 3))
    Y[5, 3, 2, 2] = np.nan
    with pytest.raises(ValueError, match=rf"{metric.__name__}: Y .*finite"):
        metric(X, Y)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(30,), (10, 3, 2), (5, 3, 2, 2, 2), ()], ids=str)
def test_arrays_that_are_neither_matrices_nor_images(metric, shape, rng):
    X = rng.standard_normal(shape)
    with pytest.raises(ValueError, match=rf"{metric.__name__}: .*shape"):
        metric(X, X)


@pytest.mark.parametrize("shape", [(30, 5), (30, 3), (30, 4, 1, 1)], ids=str)
def test_cosine_of_different_shapes(shape, rng):
    with pytest.raises(ValueError, match=r"cosine: .*shape"):
        cosine(rng.standard_normal((30, 4)), rng.standard_normal(shape))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X, Y: mean_cca(X, Y, mean_rule="mean"), "mean_rule.*'mean'"),
        (lambda X, Y: svcca(X, Y, mean_rule="mass99"), "mean_rule.*'mass99'"),
        (lambda X, Y: mean_cca(X, Y, denominator="min"), "denominator.*'min'"),
        (lambda X, Y: pwcca(X, Y, side="x"), "side.*'x'"),
        (lambda X, Y: svcca(X, Y, 0.0), "variance.*0.0"),
        (lambda X, Y: svcca(X, Y, 99), "variance.*99"),
        (lambda X, Y: svcca(X, Y, -0.5), "variance.*-0.5"),
        (lambda X, Y: svcca(X, Y, float("nan")), "variance.*nan"),
    ],
)
def test_options_that_do_not_exist(call, message, rng):
    with pytest.raises(ValueError, match=message):
        call(*rng.standard_normal((2, 30, 4)))


@pytest.mark.parametrize("metric", METRICS)
def test_options_are_given_by_name(metric, rng):
    X, Y = rng.standard_normal((2, 30, 4))
    with pytest.raises(TypeError, match="positional"):
        metric(X, Y, 0.9, True)


@pytest.mark.parametrize(
    ("capability", "full"),
    [
        *(((major, 0), True) for major in (6, 7, 8, 9, 10)),
        *((other, False) for other in [(6, 1), (7, 5), (8, 6), (8, 7), (8, 9), (10, 3), (11, 0), (12, 0), (99, 0)]),
    ],
)
def test_cards_whose_float64_runs_at_full_rate(capability, full):
    assert full_rate_float64(capability) is full
