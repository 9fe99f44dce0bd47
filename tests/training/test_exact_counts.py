"""Twenty iterations of global pruning of the whole VGG16-BN, counted in the files of weights themselves."""

import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from sweep_scripts import run_script, write_images

from distsim.specs import pruned_count

pytestmark = pytest.mark.long  # 1.6 GB of weights are written

PRUNABLE = 14_715_584  # weights of the 13 convolutions and of the output
PARAMETERS = PRUNABLE + 4_224 + 10 + 2 * 4_224  # and biases, and scales and shifts of batch normalisation
ITERATIONS = 20
LEFT = 169_661

Tensors = dict[str, NDArray[np.generic]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One run through the sweep's own script: an epoch of one step for each network, one metric of one layer."""
    root = tmp_path_factory.mktemp("vgg16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTSIM_CACHE", str(root / "decoded"))
        data = write_images(root / "images", train=2, test=1)
        extent = ("--runs", 1, "--iterations", ITERATIONS, "--metrics", "cosine")
        size = ("--epochs", 1, "--probe", 2)
        where = ("--data", f"folder:{data}", "--storage", root / "store", "--local", "--device", "cpu")
        assert run_script("vgg16_cifar10", *extent, *size, *where).status == 0
    yield root / "store" / "vgg16_cifar10"
    shutil.rmtree(root)  # 1.6 GB


def networks(store: Path) -> Iterator[tuple[int, Tensors, Tensors]]:
    """(iteration, weights, masks) as saved, from the complete network to the sparsest."""
    folders = [store / "complete", *(store / f"runs/0000/iter_{i:02d}" for i in range(1, ITERATIONS + 1))]
    for iteration, folder in enumerate(folders):
        weights, masks = (
            safetensors.numpy.load_file(next(folder.glob(f"attempt-*/{name}.safetensors")))
            for name in ("weights", "masks")
        )
        yield iteration, weights, masks


def expected_survivors() -> list[int]:
    """Of the pool, after each iteration: a fifth of what is left goes, rounded down."""
    left = [PRUNABLE]
    for _ in range(ITERATIONS):
        left.append(left[-1] - left[-1] // 5)
    return left


def test_the_rule_leaves_what_the_paper_says() -> None:
    left = [PRUNABLE]
    for _ in range(ITERATIONS):
        left.append(left[-1] - pruned_count(0.2, left[-1]))
    assert left == expected_survivors()
    assert left[-1] == LEFT
    shares = [alive / PRUNABLE for alive in left]
    assert (shares[8], shares[20]) == (pytest.approx(0.168, abs=5e-4), pytest.approx(0.0115, abs=5e-5))


def test_weights_that_are_not_zero_are_counted_exactly(store: Path) -> None:
    """No mask is looked at: convolutions and linear layers are what has more than one dimension."""
    for (iteration, weights, _), expected in zip(networks(store), expected_survivors(), strict=True):
        pool = [tensor for tensor in weights.values() if tensor.ndim > 1]
        assert sorted({tensor.ndim for tensor in pool}) == [2, 4]
        assert len(pool) == 14
        assert sum(tensor.size for tensor in pool) == PRUNABLE
        assert all(np.isfinite(tensor).all() for tensor in pool), iteration
        alive = sum(np.count_nonzero(tensor) for tensor in pool)
        if iteration == 0:  # a weight of the complete network may be zero by chance, as one in 2**24 begins
            assert PRUNABLE - 20 <= alive <= PRUNABLE
        else:
            assert alive == expected, iteration
    assert alive == LEFT


def test_masks_say_where_the_zeros_are(store: Path) -> None:
    for iteration, weights, masks in networks(store):
        assert masks.keys() == {name for name, tensor in weights.items() if tensor.ndim > 1}
        for name, mask in masks.items():
            assert mask.dtype == np.bool_
            if iteration == 0:
                assert mask.all()
            else:
                np.testing.assert_array_equal(mask, weights[name] != 0, err_msg=f"{iteration} {name}")


def test_what_is_dead_stays_dead(store: Path) -> None:
    for (_, _, before), (iteration, _, after) in pairwise(networks(store)):
        assert all(not (after[name] & ~before[name]).any() for name in after), iteration
        assert sum(int(mask.sum()) for mask in after.values()) < sum(int(mask.sum()) for mask in before.values())


def test_batch_normalisation_and_biases_are_not_pruned(store: Path) -> None:
    *_, (_, last, _) = networks(store)
    vectors = {name: tensor for name, tensor in last.items() if tensor.ndim == 1}
    scales = [tensor for name, tensor in vectors.items() if name.endswith("norm.weight")]
    biases = [tensor for name, tensor in vectors.items() if re.search(r"(conv|out)\.bias$", name)]
    assert sum(len(scale) for scale in scales) == 4_224
    assert sum(len(bias) for bias in biases) == 4_224 + 10
    assert all(scale.all() for scale in scales)
    assert all(bias.all() for bias in biases)


def test_the_tables_say_the_same(store: Path) -> None:
    table = pd.read_csv(store / "results" / "networks.csv").sort_values("iteration")
    assert list(table["iteration"]) == list(range(ITERATIONS + 1))
    left = np.array(expected_survivors())
    np.testing.assert_allclose(table["remaining_pool"], left / PRUNABLE, rtol=1e-12)
    np.testing.assert_allclose(table["remaining"], (left + PARAMETERS - PRUNABLE) / PARAMETERS, rtol=1e-12)
    assert table["remaining"].iloc[-1] == pytest.approx(0.0124, abs=5e-5)  # "about 1.2 %" of all parameters
