"""The same number whatever library, dtype, memory layout and device the arrays come in."""

import dataclasses

import numpy as np
import pytest
import torch

from distsim.metrics import UndefinedSimilarity, cka, cosine, kernels, mean_cca, nbs, pwcca, rounding, svcca

from .conftest import require

METRICS = [mean_cca, svcca, pwcca, cka, nbs, cosine]
EXACT = 64 * np.finfo(np.float64).eps  # all is computed in float64: only the order of sums may differ


def matrices(rng):
    X = rng.standard_normal((60, 6))
    return X, 0.5 * X + rng.standard_normal((60, 6)) + 0.2


def wide_matrices(rng):
    X = rng.standard_normal((30, 70))
    return X, X + rng.standard_normal((30, 70)) - 0.5


def images(rng):
    X = rng.standard_normal((20, 6, 3, 2))
    return X, 0.5 * X + rng.standard_normal((20, 6, 3, 2)) + 0.2


SHAPES = pytest.mark.parametrize("pair", [matrices, wide_matrices, images], ids=lambda pair: pair.__name__)
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])


def same(value, expected):
    np.testing.assert_allclose(value, expected, rtol=0, atol=EXACT)


@SHAPES
@DTYPES
@pytest.mark.parametrize("metric", METRICS)
def test_numpy_and_torch_agree(metric, dtype, pair, rng):
    X, Y = (Z.astype(dtype) for Z in pair(rng))
    value = metric(torch.tensor(X), torch.tensor(Y))
    assert type(value) is float
    same(value, metric(X, Y))


@pytest.mark.gpu
@SHAPES
@DTYPES
@pytest.mark.parametrize("metric", METRICS)
def test_numpy_and_cupy_agree(metric, dtype, pair, rng):
    """CPU twin: test_numpy_and_torch_agree."""
    cupy_array = require("cupy")
    X, Y = (Z.astype(dtype) for Z in pair(rng))
    value = metric(cupy_array(X), cupy_array(Y))
    assert type(value) is float
    np.testing.assert_allclose(value, metric(X, Y), rtol=0, atol=1e-12)  # other eigensolvers, same dtype


@pytest.mark.gpu
@SHAPES
@pytest.mark.parametrize("metric", METRICS)
def test_numpy_and_torch_on_cuda_agree(metric, pair, rng):
    """CPU twin: test_numpy_and_torch_agree."""
    cuda_tensor = require("cuda")
    X, Y = pair(rng)
    value = metric(cuda_tensor(X), cuda_tensor(Y))
    assert type(value) is float
    np.testing.assert_allclose(value, metric(X, Y), rtol=0, atol=1e-12)


@SHAPES
@DTYPES
@pytest.mark.parametrize("metric", METRICS)
def test_narrow_floats_are_computed_in_float64(metric, dtype, pair, rng):
    X, Y = (Z.astype(dtype) for Z in pair(rng))
    assert type(metric(X, Y)) is float
    same(metric(X, Y), metric(X.astype(np.float64), Y.astype(np.float64)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("metric", METRICS)
def test_integers_are_computed_in_float64(metric, dtype, rng):
    """uint8 products of 200 by 200 would overflow."""
    X, Y = rng.integers(0, 120, (2, 60, 5)).astype(dtype)
    Y = Y + X
    same(metric(X, Y), metric(X.astype(np.float64), Y.astype(np.float64)))
    same(metric(torch.tensor(X), torch.tensor(Y)), metric(X, Y))


@pytest.mark.parametrize("metric", METRICS)
def test_large_float16_values_do_not_overflow(metric, rng):
    """Each is finite in float16, whose largest is 65,504; their squares and sums are not."""
    X, Y = (rng.uniform(-6e4, 6e4, (2, 60, 5))).astype(np.float16)
    Y = X // 2 + Y // 2
    same(metric(X, Y), metric(X.astype(np.float64), Y.astype(np.float64)))


@pytest.mark.parametrize("metric", METRICS)
def test_bfloat16_tensors(metric, rng):
    X, Y = (torch.tensor(Z).to(torch.bfloat16) for Z in matrices(rng))
    same(metric(X, Y), metric(X.double(), Y.double()))


@pytest.mark.parametrize("metric", METRICS)
def test_the_two_sides_may_differ_in_dtype(metric, rng):
    X, Y = matrices(rng)
    same(metric(X.astype(np.float32), Y), metric(X.astype(np.float32).astype(np.float64), Y))


@pytest.mark.parametrize("library", [np.asarray, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("metric", METRICS)
def test_channels_last_is_the_permuted_channels_first(metric, library, rng):
    X, Y = images(rng)
    last = (library(np.ascontiguousarray(np.moveaxis(Z, 1, -1))) for Z in (X, Y))
    value = metric(*last, channels_last=True)
    same(value, metric(X, Y))


@pytest.mark.parametrize("metric", [mean_cca, svcca, pwcca])
def test_channels_last_matters_to_the_cca_family(metric, rng):
    """(20, 6, 3, 2) read as height 6, width 3 and two channels is another comparison."""
    X, Y = images(rng)
    assert abs(metric(X, Y, channels_last=True) - metric(X, Y)) > 1e-4


@pytest.mark.parametrize("metric", METRICS)
def test_channels_last_says_nothing_about_matrices(metric, rng):
    X, Y = matrices(rng)
    assert metric(X, Y, channels_last=True) == metric(X, Y)


@SHAPES
@pytest.mark.parametrize("metric", METRICS)
def test_tensors_that_require_grad_are_detached(metric, pair, rng):
    X, Y = (torch.tensor(Z, requires_grad=True) for Z in pair(rng))
    value = metric(X * 1.0, Y)  # one within a graph, one a leaf
    assert type(value) is float
    same(value, metric(X.detach(), Y.detach()))
    assert X.requires_grad
    assert X.grad is None


@pytest.mark.parametrize("metric", METRICS)
def test_memory_layout_does_not_matter(metric, rng):
    X, Y = matrices(rng)
    value = metric(X, Y)
    padded = np.zeros((120, 12))
    padded[::2, ::2] = X
    same(metric(np.asfortranarray(X), Y), value)
    same(metric(padded[::2, ::2], Y[::-1][::-1]), value)
    same(metric(torch.tensor(X.T.copy()).T, torch.tensor(Y)), value)

    X, Y = images(rng)
    strided = (torch.tensor(Z).to(memory_format=torch.channels_last) for Z in (X, Y))
    same(metric(*strided), metric(X, Y))


@SHAPES
@DTYPES
@pytest.mark.parametrize("metric", METRICS)
def test_inputs_are_not_modified(metric, dtype, pair, rng):
    X, Y = (Z.astype(dtype) for Z in pair(rng))
    tensors = torch.tensor(X), torch.tensor(Y)
    before = X.copy(), Y.copy()
    metric(*tensors)
    X.flags.writeable = Y.flags.writeable = False  # an attempt would raise
    metric(X, Y)
    for array, tensor, copy in zip((X, Y), tensors, before, strict=True):
        np.testing.assert_array_equal(array, copy)
        np.testing.assert_array_equal(tensor.numpy(), copy)


@pytest.mark.parametrize("library", [np.asarray, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("metric", METRICS)
def test_nan_of_an_undefined_similarity_is_a_python_float_too(metric, library, rng):
    X, Y = library(np.zeros((60, 6))), library(matrices(rng)[0])
    with pytest.warns(UndefinedSimilarity):
        value = metric(X, Y)
    assert type(value) is float
    assert np.isnan(value)


@SHAPES
@pytest.mark.parametrize("metric", METRICS)
def test_the_same_call_gives_the_same_bits(metric, pair, rng):
    X, Y = pair(rng)
    assert metric(X, Y) == metric(X.copy(), Y.copy())


def test_global_random_state_is_left_alone(rng):
    X, Y = matrices(rng)
    state = torch.get_rng_state()
    np_state = np.random.get_state()[1].copy()  # noqa: NPY002  the legacy global state is what must not move
    for metric in METRICS:
        metric(X, Y)
        metric(torch.tensor(X), torch.tensor(Y))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], np_state)  # noqa: NPY002


@pytest.mark.parametrize("backend", ["torch", pytest.param("cupy", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("p", [900, 560], ids=["Gram matrices", "features"])
@pytest.mark.parametrize("fast", [False, True])
def test_large_sides_too(backend, p, fast, rng):
    """From 512 columns on, eigenproblems take the place of the SVD; each backend has routes of its own."""
    bring = require(backend)
    X = rng.standard_normal((700, p)) * np.arange(1, p + 1) ** -0.5
    Y = X + 0.3 * rng.standard_normal((700, p)) * np.arange(1, p + 1) ** -0.5

    def nuclear(X, Y):
        sides = []
        for A in (X, Y):
            side = kernels.kernel_side(A)
            sides.append(
                dataclasses.replace(side, unit=rounding.EPS32) if p > 700 else dataclasses.replace(side, narrow=True)
            )
        pair = kernels.KernelPair(*sides, fast)
        return pair.nuclear / (pair.x.trace * pair.y.trace) ** 0.5

    svd = np.linalg.svd((X - X.mean(0)).T @ (Y - Y.mean(0)), compute_uv=False).sum()
    expected = svd / np.sqrt(((X - X.mean(0)) ** 2).sum() * ((Y - Y.mean(0)) ** 2).sum())
    np.testing.assert_allclose(nuclear(X, Y), expected, rtol=0, atol=5e-4 if fast else 1e-6)
    np.testing.assert_allclose(nuclear(bring(X), bring(Y)), expected, rtol=0, atol=5e-4 if fast else 1e-6)
