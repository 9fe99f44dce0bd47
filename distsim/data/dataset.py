"""A classification data set in memory, and functions that take exact parts of one.

Everything here is NumPy on the host. Images are bytes. They become floating point only in `distsim.data.augment`.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from distsim.seeds import numpy_stream

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

PIXELS_BLOCK = 1000  # images counted at once: NumPy's bincount makes an 8-byte copy of every byte it counts


@dataclass(frozen=True, eq=False)  # arrays have no single truth value; `digest` compares contents
class Dataset:
    """Decoded images with their labels. The training and the test set have the same classes and image shape.

    train_images : (n, c, h, w) uint8; train_labels : (n,) int64 in [0, len(classes)); the test arrays likewise
    skipped : images that could not be read and were left out: (train/class/file, reason)
    ValueError: dtypes or shapes do not fit, a label is out of range, a class has no training image, or there is no test
    image.
    """

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    classes: tuple[str, ...]  # the name of label i is classes[i]
    skipped: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        _check_names(self.classes)
        for part, images, labels in self._parts():
            _check_part(part, images, labels, len(self.classes))
        train_shape, test_shape = self.train_images.shape[1:], self.test_images.shape[1:]
        if train_shape != test_shape:
            raise ValueError(f"train_images are {train_shape}, test_images {test_shape}; they must have one shape")
        counts = np.bincount(self.train_labels, minlength=len(self.classes))
        for name, count in zip(self.classes, counts, strict=True):
            if count == 0:
                raise ValueError(f"class {name!r} has no training image")
        if len(self.test_labels) == 0:
            raise ValueError("the data set has no test image")

    def _parts(self) -> tuple[tuple[str, Images, Labels], ...]:
        return ("train", self.train_images, self.train_labels), ("test", self.test_images, self.test_labels)

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256, in hexadecimal, of the class names and of the four arrays' shapes and bytes.

        Names of images that were left out enter too, if there are any, but not the reasons, which Pillow words.
        """
        shapes = {part: [list(images.shape), list(labels.shape)] for part, images, labels in self._parts()}
        said: dict[str, object] = {"classes": self.classes, "shapes": shapes}
        if self.skipped:
            said["skipped"] = [name for name, _ in self.skipped]
        total = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for _, images, labels in self._parts():
            total.update(np.ascontiguousarray(images).data)
            total.update(np.ascontiguousarray(labels, dtype="<i8").data)
        return total.hexdigest()


def check_classes(wanted: Sequence[str], available: Sequence[str]) -> None:
    """Check that all wanted classes are available, each wanted once.

    ValueError: one is not available (the message suggests the closest name), or one is wanted twice.
    """
    for name in wanted:
        if name not in available:
            close = difflib.get_close_matches(name, available, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"unknown class {name!r}; the data has {', '.join(available)}{hint}")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"classes are repeated: {', '.join(wanted)}")


def subset(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """Return the images of these classes, in their present order; label i then stands for `classes[i]`.

    ValueError: the data does not have a class, or a class is given twice.
    """
    if classes == dataset.classes:
        return dataset
    check_classes(classes, dataset.classes)
    renumbered = np.full(len(dataset.classes), -1, dtype=np.int64)
    for label, name in enumerate(classes):
        renumbered[dataset.classes.index(name)] = label

    def part(images: Images, labels: Labels) -> tuple[Images, Labels]:
        new = renumbered[labels]
        keep = new >= 0
        return images[keep], new[keep]

    train = part(dataset.train_images, dataset.train_labels)
    test = part(dataset.test_images, dataset.test_labels)
    return Dataset(*train, *test, classes, dataset.skipped)


def limit(dataset: Dataset, n: int) -> Dataset:
    """Return at most n training images, shared evenly over the classes, in their present order, and all test images.

    Each class gives its first n // k images, and one more if it is among the first n mod k of the k classes. A class
    with fewer images gives all it has. The others do not make up for it, so the result may have fewer than n.
    ValueError: n is smaller than the number of classes.
    """
    k = len(dataset.classes)
    if n < k:
        raise ValueError(f"a limit of {n} training images leaves some of the {k} classes without one")
    if n >= len(dataset.train_labels):
        return dataset
    share, remainder = divmod(n, k)
    first = [np.flatnonzero(dataset.train_labels == i)[: share + (i < remainder)] for i in range(k)]
    keep = np.sort(np.concatenate(first))
    return replace(dataset, train_images=dataset.train_images[keep], train_labels=dataset.train_labels[keep])


def pixel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the channels' means and their (population) standard deviations, of pixels scaled to [0, 1].

    images : (n, c, h, w) uint8
    Sums are exact integers, so the values are correctly rounded whatever the order of the images. The standard
    deviation of a constant channel is given as 1.0, so that normalising by it leaves zeros.
    ValueError: there are no pixels.
    """
    if images.size == 0:
        raise ValueError(f"pixel_statistics: no pixels in images of shape {images.shape}")
    means, sds = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), PIXELS_BLOCK):
            counts += np.bincount(images[start : start + PIXELS_BLOCK, channel].ravel(), minlength=256)
        n = int(counts.sum())
        total = sum(value * int(count) for value, count in enumerate(counts))
        squares = sum(value * value * int(count) for value, count in enumerate(counts))
        variance = n * squares - total * total  # of bytes, times n²; Python's integers do not overflow
        means.append(total / (255 * n))
        sds.append(math.sqrt(variance / n**2) / 255 if variance else 1.0)
    return tuple(means), tuple(sds)


def probe_indices(dataset: Dataset, size: int, rule: str, seed: int, source: str = "train") -> NDArray[np.int64]:
    """Return the indices of the images on which representations are compared: (size,) int64, ascending.

    rule    uniform: drawn without replacement from the whole set, from the stream (seed, "probe")
            first: the first `size` images
    source  train: of the training images; test: of the test images
    ValueError: size is below 1 or above the number of these images, or the rule is another.
    """
    n = len(dataset.test_labels if source == "test" else dataset.train_labels)
    if size > n:
        name = "test" if source == "test" else "training"
        raise ValueError(f"probe of {size} images asked for, the {name} set has {n}: use --probe {n} or fewer")
    if size < 1:
        raise ValueError(f"probe must have at least 1 image, got {size}")
    if rule == "first":
        return np.arange(size, dtype=np.int64)
    if rule == "uniform":
        drawn = numpy_stream(seed, "probe").choice(n, size, replace=False)
        return np.sort(drawn).astype(np.int64)
    raise ValueError(f"probe rule must be uniform or first, got {rule!r}")


def validation_split(labels: Labels, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the training and the validation indices: `stratified_split` from the stream (seed, "validation")."""
    return stratified_split(labels, share, numpy_stream(seed, "validation"))


def stratified_split(
    labels: Labels, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the indices of `labels` (n,) into two sets, each int64 and ascending; the second holds the share.

    Of every class present, share · count examples go to the second set, halves rounded up, at least 1 and at most all
    but 1. `share` is taken as the decimal that is written, so that 0.15 of 10 is 2.
    ValueError: share is not in (0, 1), or a class has fewer than 2 examples.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}")
    fraction = Fraction(repr(float(share)))
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise ValueError(f"label {label} has {len(members)} example; a split by class needs at least 2")
        count = math.floor(fraction * len(members) + Fraction(1, 2))
        count = min(max(count, 1), len(members) - 1)
        chosen[rng.choice(members, count, replace=False)] = True
    return np.flatnonzero(~chosen).astype(np.int64), np.flatnonzero(chosen).astype(np.int64)


def _check_names(classes: tuple[str, ...]) -> None:
    if not classes:
        raise ValueError("a data set needs at least one class")
    check_classes(classes, classes)


def _check_part(part: str, images: Images, labels: Labels, classes: int) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"{part}_images must be (n, c, h, w) uint8, got {images.shape} {images.dtype}")
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise ValueError(f"{part}_labels must be (n,) int64, got {labels.shape} {labels.dtype}")
    if len(images) != len(labels):
        raise ValueError(f"{part}_images has {len(images)} images, {part}_labels {len(labels)} labels")
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"{part}_labels must be in [0, {classes}), got {labels.min()} to {labels.max()}")
