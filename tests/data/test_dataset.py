import dataclasses
import hashlib

import numpy as np
import pytest

from distsim.data import (
    Dataset,
    limit,
    pixel_statistics,
    probe_indices,
    stratified_split,
    subset,
    validation_split,
)
from distsim.seeds import numpy_stream

CLASSES = ("airplane", "bird", "cat", "dog")


def make(train=(10, 7, 5, 3), test=(2, 2, 2, 2), size=4, seed=0):
    """Random images with the given count of each class, in a random order."""
    rng = np.random.default_rng(seed)

    def part(counts):
        labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
        return rng.integers(0, 256, (len(labels), 3, size, size), dtype=np.uint8), labels

    return Dataset(*part(train), *part(test), CLASSES[: len(train)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": np.zeros((25, 3, 4, 4))}, r"train_images must be \(n, c, h, w\) uint8, got .* float64"),
        ({"test_images": np.zeros((8, 48), np.uint8)}, r"test_images must be \(n, c, h, w\) uint8, got \(8, 48\)"),
        ({"train_labels": np.zeros(25, np.int32)}, r"train_labels must be \(n,\) int64, got \(25,\) int32"),
        ({"train_labels": np.zeros(24, np.int64)}, "train_images has 25 images, train_labels 24 labels"),
        ({"test_labels": np.full(8, 4)}, r"test_labels must be in \[0, 4\), got 4 to 4"),
        ({"test_labels": np.full(8, -1)}, r"test_labels must be in \[0, 4\), got -1 to -1"),
        ({"train_labels": np.arange(25) % 3}, "class 'dog' has no training image"),
        ({"test_images": np.zeros((8, 3, 5, 4), np.uint8)}, r"train_images are \(3, 4, 4\), test_images \(3, 5, 4\)"),
        ({"classes": ()}, "at least one class"),
        ({"classes": ("a", "b", "c", "a")}, "classes are repeated: a, b, c, a"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make(), **change)


def test_a_data_set_without_test_images_is_refused():
    whole = make()
    with pytest.raises(ValueError, match="no test image"):
        dataclasses.replace(whole, test_images=whole.test_images[:0], test_labels=whole.test_labels[:0])


def test_digest_is_of_content_not_of_memory_layout():
    whole = make()
    columns_first = np.asfortranarray(whole.train_images)
    assert dataclasses.replace(whole, train_images=columns_first).digest == whole.digest == make().digest


def test_digest_is_the_documented_one():
    whole = make(train=(1, 1), test=(1, 1), size=1)
    total = hashlib.sha256(
        b'{"classes": ["airplane", "bird"], "shapes": {"test": [[2, 3, 1, 1], [2]], "train": [[2, 3, 1, 1], [2]]}}'
    )
    for array in (whole.train_images, whole.train_labels, whole.test_images, whole.test_labels):
        total.update(array.tobytes())
    assert whole.digest == total.hexdigest()


def test_digest_sees_every_field():
    whole = make()
    images, labels = whole.test_images.copy(), whole.test_labels.copy()
    images[-1, -1, -1, -1] ^= 1
    labels[-1] = (labels[-1] + 1) % 4
    changes = [{"test_images": images}, {"test_labels": labels}, {"classes": ("airplane", "bird", "cat", "Dog")}]
    digests = {dataclasses.replace(whole, **change).digest for change in [{}, *changes]}
    assert len(digests) == 4


def test_subset_renumbers_in_the_order_given_and_keeps_the_images_order():
    whole = make()
    part = subset(whole, ("dog", "bird"))
    keep = np.isin(whole.train_labels, (1, 3))
    np.testing.assert_array_equal(part.train_images, whole.train_images[keep])
    np.testing.assert_array_equal(part.train_labels, np.where(whole.train_labels[keep] == 3, 0, 1))
    assert part.classes == ("dog", "bird")
    assert len(part.test_labels) == 4


def test_subset_of_all_classes_is_the_whole():
    whole = make()
    assert subset(whole, CLASSES) is whole


def test_unknown_class_is_named_with_the_closest():
    with pytest.raises(ValueError, match=r"^unknown class 'boat'; the data has airplane, bird, cat, dog$"):
        subset(make(), ("cat", "boat"))
    with pytest.raises(ValueError, match=r"unknown class 'plane'; .* \(did you mean 'airplane'\?\)"):
        subset(make(), ("plane",))
    with pytest.raises(ValueError, match="classes are repeated: cat, cat"):
        subset(make(), ("cat", "cat"))


@pytest.mark.parametrize(
    ("n", "counts"), [(4, (1, 1, 1, 1)), (7, (2, 2, 2, 1)), (12, (3, 3, 3, 3)), (18, (5, 5, 4, 3))]
)
def test_limit_takes_the_first_of_each_class(n, counts):
    whole = make()
    part = limit(whole, n)
    expected = np.sort(np.concatenate([np.flatnonzero(whole.train_labels == i)[:k] for i, k in enumerate(counts)]))
    np.testing.assert_array_equal(part.train_labels, whole.train_labels[expected])
    np.testing.assert_array_equal(part.train_images, whole.train_images[expected])
    assert part.test_images is whole.test_images


def test_limit_at_or_above_the_size_changes_nothing():
    whole = make()
    assert limit(whole, 25) is whole
    assert limit(whole, 1000) is whole


@pytest.mark.parametrize("n", [3, 0, -1])
def test_limit_below_the_number_of_classes_is_refused(n):
    with pytest.raises(ValueError, match=f"a limit of {n} training images leaves some of the 4 classes without one"):
        limit(make(), n)


def test_pixel_statistics_equal_numpys():
    images = np.random.default_rng(1).integers(0, 256, (2300, 3, 5, 7), dtype=np.uint8)
    means, sds = pixel_statistics(images)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(means, scaled.mean(axis=(0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(sds, scaled.std(axis=(0, 2, 3)), rtol=1e-13)


def test_pixel_statistics_do_not_depend_on_the_order_of_images():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (1500, 1, 8, 8), dtype=np.uint8)
    assert pixel_statistics(images) == pixel_statistics(images[rng.permutation(1500)])


def test_pixel_statistics_of_a_constant_channel():
    assert pixel_statistics(np.full((2, 1, 3, 3), 51, np.uint8)) == ((0.2,), (1.0,))
    with pytest.raises(ValueError, match=r"no pixels in images of shape \(0, 1, 3, 3\)"):
        pixel_statistics(np.zeros((0, 1, 3, 3), np.uint8))


def test_uniform_probe_is_the_named_stream_sorted():
    whole = make()
    probe = probe_indices(whole, 9, "uniform", seed=3)
    assert probe.dtype == np.int64
    np.testing.assert_array_equal(probe, np.sort(numpy_stream(3, "probe").choice(25, 9, replace=False)))
    assert len(np.unique(probe)) == 9
    assert not np.array_equal(probe, probe_indices(whole, 9, "uniform", seed=4))
    np.testing.assert_array_equal(probe_indices(whole, 25, "uniform", seed=3), np.arange(25))


def test_first_probe():
    np.testing.assert_array_equal(probe_indices(make(), 6, "first", seed=3), np.arange(6))


def test_probe_errors():
    with pytest.raises(
        ValueError, match=r"^probe of 5000 images asked for, the training set has 25: use --probe 25 or fewer$"
    ):
        probe_indices(make(), 5000, "uniform", seed=0)
    few = len(make().test_labels)
    with pytest.raises(
        ValueError, match=rf"^probe of 25 images asked for, the test set has {few}: use --probe {few} or"
    ):
        probe_indices(make(), 25, "uniform", seed=0, source="test")
    with pytest.raises(ValueError, match="at least 1 image, got 0"):
        probe_indices(make(), 0, "first", seed=0)
    with pytest.raises(ValueError, match="must be uniform or first, got 'last'"):
        probe_indices(make(), 1, "last", seed=0)


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [
        (10, 0.1, 1),
        (15, 0.1, 2),
        (14, 0.1, 1),
        (2, 0.1, 1),
        (2, 0.9, 1),
        (100, 0.29, 29),
        (50, 0.29, 15),
        (4500, 0.1, 450),
    ],
)
def test_validation_takes_the_exact_share_of_each_class(count, share, held):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 5], [count, 20, count])).astype(np.int64)
    train, validation = validation_split(labels, share, seed=1)
    assert (labels[validation] == 0).sum() == (labels[validation] == 5).sum() == held
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert train.dtype == validation.dtype == np.int64


def test_validation_depends_on_the_seed_alone():
    labels = np.repeat(np.arange(4), 30)
    first, again, other = (validation_split(labels, 0.2, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(first, stratified_split(labels, 0.2, numpy_stream(1, "validation"))[1])


def test_validation_errors():
    with pytest.raises(ValueError, match="label 1 has 1 example; a split by class needs at least 2"):
        validation_split(np.array([0, 0, 1]), 0.1, seed=0)
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\), got 1"):
        validation_split(np.array([0, 0]), 1, seed=0)
