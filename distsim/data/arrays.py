"""Images and labels given in Python, as a data set: arrays, lists, or torch Datasets.

    (x, y)                                 a fifth of each class becomes the test set, the same on every machine
    {"train": (x, y), "test": (x, y)}
    a torch Dataset of (image, label)      likewise, alone or in the place of a pair

x    images, (n, h, w) grey, (n, c, h, w) or (n, h, w, c) with 1 or 3 channels: uint8, or floats in [0, 1], which are
     rounded to bytes, x·255 half to even
y    (n,) whole numbers from 0, or names of classes

Every error is a ValueError that says which argument, what came and what is expected.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsim.data.dataset import Dataset, Images, Labels, stratified_split
from distsim.seeds import numpy_stream

TEST_SHARE = 0.2  # of each class, where no test set is given
LOOKED_AT = 4  # items of a torch Dataset that are read twice: random ones would make another data set each time
EXPECTED = (
    "(x, y), {'train': (x, y), 'test': (x, y)}, a torch Dataset of (image, label), a folder or a distsim.data.Dataset"
)

Names = NDArray[np.str_]


def dataset_of(data: Any, classes: Sequence[str] = ()) -> Dataset:
    """Return the data set of images and labels in any of the forms above; a Dataset is returned as it is.

    classes : names of the labels 0, 1, ...; () means their decimals, or the names in y, sorted
        Where y has names, only the images of `classes` are taken.
    """
    if isinstance(data, Dataset):
        return data
    train, test = _parts(data)
    x, y = as_images(train[0], "train"), _labels(train, "train")
    _require_pairs(x, y, "train")
    if test is None:
        names, (y,) = _numbered([y], classes)
        kept = y >= 0  # of the classes asked for
        x, y = x[kept], y[kept]
        for_training, for_test = _split(y)
        return Dataset(x[for_training], y[for_training], x[for_test], y[for_test], names)
    x_test, y_test = as_images(test[0], "test"), _labels(test, "test")
    _require_pairs(x_test, y_test, "test")
    names, (y, y_test) = _numbered([y, y_test], classes)
    kept, kept_test = y >= 0, y_test >= 0
    return Dataset(x[kept], y[kept], x_test[kept_test], y_test[kept_test], names)


def _split(labels: Labels) -> tuple[Any, Any]:
    try:
        return stratified_split(labels, TEST_SHARE, numpy_stream(0, "arrays", "test"))
    except ValueError as error:
        raise ValueError(f"data: no test set is given, and none can be split off: {error}") from None


# --- the two parts ---------------------------------------------------------------------------------------------------


def _parts(data: Any) -> tuple[Any, Any | None]:
    """(training, test) pairs of images and labels; the test pair is None where there is none."""
    if isinstance(data, Mapping):
        if data.keys() != {"train", "test"}:
            raise ValueError(f"data: a dictionary has the keys 'train' and 'test', got {_keys(data)}")
        return _pair(data["train"], "train"), _pair(data["test"], "test")
    if isinstance(data, tuple | list) and len(data) == 2 and all(map(_is_torch_dataset, data)):
        return _pair(data[0], "train"), _pair(data[1], "test")
    return _pair(data, "train"), None


def _keys(data: Mapping[Any, Any]) -> str:
    return ", ".join(map(repr, data)) or "none"


def _pair(given: Any, part: str) -> tuple[Any, Any]:
    if _is_torch_dataset(given):
        return _items(given, part)
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    what = f"{len(given)} things" if isinstance(given, tuple | list) else f"of type {type(given).__name__}"
    raise ValueError(f"data: {part} is {what}, expected is {EXPECTED}")


def _is_torch_dataset(given: Any) -> bool:
    """Whether it gives items by number and is neither an array nor a container of Python's own."""
    plain = isinstance(given, Mapping | tuple | list | str) or hasattr(given, "__array__")
    return not plain and hasattr(given, "__getitem__") and hasattr(given, "__len__")


def _items(given: Any, part: str) -> tuple[list[Any], list[Any]]:
    """Images and labels of a torch Dataset."""
    images, labels = [], []
    for number in range(len(given)):
        image, label = _item(given, number, part)
        if number < LOOKED_AT and not np.array_equal(image, _item(given, number, part)[0]):
            raise ValueError(
                f"data: item {number} of {part} is another image each time: give the data set without random "
                "transforms (a Recipe has augmentations)"
            )
        images.append(image)
        labels.append(label)
    return images, labels


def _item(given: Any, number: int, part: str) -> tuple[NDArray[Any], Any]:
    item = given[number]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise ValueError(f"data: item {number} of {part} is a {type(item).__name__}, expected is (image, label)")
    return _array(item[0]), item[1].item() if hasattr(item[1], "item") else item[1]


# --- images ----------------------------------------------------------------------------------------------------------


def as_images(given: Any, part: str) -> Images:
    """Return images in any of the forms above as (n, c, h, w) uint8. part : what an error calls them."""
    images = _array(given, f"data: the images of {part}")
    images = _channels_first(images, part)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if images.dtype.kind != "f":
        raise ValueError(f"data: the images of {part} are {images.dtype}, expected is uint8, or floats in [0, 1]")
    low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # nor NaN
        raise ValueError(
            f"data: the images of {part} are floats from {low:g} to {high:g}, expected is uint8, or floats in [0, 1]; "
            "distsim normalises them itself"
        )
    return np.rint(images.astype(np.float64) * 255).astype(np.uint8)


def _channels_first(images: NDArray[Any], part: str) -> NDArray[Any]:
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise ValueError(
            f"data: the images of {part} have the shape {images.shape}, expected is (n, h, w), (n, c, h, w) or "
            "(n, h, w, c)"
        )
    first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if first == last:
        why = "both could be channels" if first else "1 or 3 channels are expected"
        raise ValueError(
            f"data: the images of {part} have the shape {images.shape}: of the second and the last number {why}"
        )
    return images if first else images.transpose(0, 3, 1, 2)


def _array(given: Any, what: str = "") -> NDArray[Any]:
    """On the host: of NumPy, torch, CuPy, pandas, PIL, or a list of these."""
    if hasattr(given, "detach"):  # of torch
        given = given.detach().cpu()
        return given.float().numpy() if "float16" in str(given.dtype) else given.numpy()
    if type(given).__module__.startswith("cupy"):
        return given.get()
    if isinstance(given, list | tuple) and len(given) and hasattr(given[0], "shape"):
        given = [_array(one) for one in given]
    try:
        return np.asarray(given)
    except ValueError:
        raise ValueError(f"{what} have several shapes, expected is one shape for all") from None


# --- labels ----------------------------------------------------------------------------------------------------------


def _labels(pair: tuple[Any, Any], part: str) -> Labels | Names:
    labels = _array(pair[1], f"data: the labels of {part}")
    if labels.dtype == object and all(isinstance(label, str) for label in labels.flat):
        labels = labels.astype(np.str_)
    if labels.ndim != 1:
        raise ValueError(f"data: the labels of {part} have the shape {labels.shape}, expected is (n,)")
    if labels.dtype.kind not in "iuU":
        raise ValueError(
            f"data: the labels of {part} are {labels.dtype}, expected are whole numbers from 0, or names of classes"
        )
    return labels if labels.dtype.kind == "U" else labels.astype(np.int64)


def _require_pairs(images: Images, labels: Labels | Names, part: str) -> None:
    if len(images) != len(labels):
        raise ValueError(f"data: {part} has {len(images)} images and {len(labels)} labels, expected is one for each")
    if not len(labels):
        raise ValueError(f"data: {part} has no image")


def _numbered(parts: list[Labels | Names], classes: Sequence[str]) -> tuple[tuple[str, ...], list[Labels]]:
    """Names of the classes, and the labels as numbers; -1 for a name that is not among the classes asked for."""
    named = [labels.dtype.kind == "U" for labels in parts]
    if any(named) != all(named):
        raise ValueError("data: the labels of train and test are numbers in one and names in the other")
    if all(named):
        there = tuple(sorted({str(name) for labels in parts for name in labels}))
        names = tuple(classes) or there
        if unknown := [name for name in names if name not in there]:
            raise ValueError(f"classes: {', '.join(unknown)} is no label in data, which has {', '.join(there)}")
        number = {name: i for i, name in enumerate(names)}
        return names, [np.array([number.get(str(name), -1) for name in labels], np.int64) for labels in parts]
    low, high = min(int(labels.min()) for labels in parts), max(int(labels.max()) for labels in parts)
    count = len(classes) or high + 1
    if low < 0 or high >= count or count > len(parts[0]):
        most = f"0 to {count - 1}, as there are {count} classes" if classes else "0, 1, 2, ... for each class"
        raise ValueError(f"data: the labels go from {low} to {high}, expected are whole numbers: {most}")
    return tuple(classes) or tuple(map(str, range(count))), [labels.astype(np.int64) for labels in parts]
