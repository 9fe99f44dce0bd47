"""A data set from images and labels in Python: arrays, lists, or torch Datasets.

    (x, y)                                 a fifth of each class becomes the test set, the same on every machine
    {"train": (x, y), "test": (x, y)}
    a torch Dataset of (image, label)      likewise, alone or in the place of a pair

x    images, (n, h, w) grey, (n, c, h, w) or (n, h, w, c) with 1 or 3 channels: uint8, or floats in [0, 1], which are
     rounded to bytes: x·255, halves to even
y    (n,) whole numbers from 0, or names of classes

Every error is a ValueError that names the argument and says what came and what is expected.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsim.data.dataset import Dataset, Images, Labels, stratified_split
from distsim.seeds import numpy_stream

TEST_SHARE = 0.2  # of each class, where no test set is given
READ_TWICE = 4  # items of a torch Dataset, to find random transforms, with which each read gives other images
EXPECTED = (
    "(x, y), {'train': (x, y), 'test': (x, y)}, a torch Dataset of (image, label), a folder or a distsim.data.Dataset"
)

Names = NDArray[np.str_]


def dataset_of(data: Any, classes: Sequence[str] = ()) -> Dataset:
    """Return the data set of images and labels in any of the forms above. A Dataset is returned as it is.

    classes : names of the labels 0, 1, ...; () means "0", "1", ..., or the names in y, sorted
        If y has names, only the images of `classes` are taken.
    """
    if isinstance(data, Dataset):
        return data
    train, test = _parts(data)
    x, y = as_images(train[0], "train"), _labels(train, "train")
    _require_pairs(x, y, "train")
    if test is None:
        names, (y,) = _numbered([y], classes)
        wanted = y >= 0
        x, y = x[wanted], y[wanted]
        for_training, for_test = _split(y)
        return Dataset(x[for_training], y[for_training], x[for_test], y[for_test], names)
    x_test, y_test = as_images(test[0], "test"), _labels(test, "test")
    _require_pairs(x_test, y_test, "test")
    names, (y, y_test) = _numbered([y, y_test], classes)
    wanted, wanted_test = y >= 0, y_test >= 0
    return Dataset(x[wanted], y[wanted], x_test[wanted_test], y_test[wanted_test], names)


def _split(labels: Labels) -> tuple[Any, Any]:
    try:
        return stratified_split(labels, TEST_SHARE, numpy_stream(0, "arrays", "test"))
    except ValueError as error:
        raise ValueError(f"data: no test set is given, and none can be split off: {error}") from None


# --- the two parts ---------------------------------------------------------------------------------------------------


def _parts(data: Any) -> tuple[Any, Any | None]:
    """Return the training and the test pair of images and labels; the test pair is None if it is not given."""
    if isinstance(data, Mapping):
        if data.keys() != {"train", "test"}:
            keys = ", ".join(map(repr, data)) or "none"
            raise ValueError(f"data: a dictionary must have the keys 'train' and 'test', got {keys}")
        return _pair(data["train"], "train"), _pair(data["test"], "test")
    if isinstance(data, tuple | list) and len(data) == 2 and all(map(_is_torch_dataset, data)):
        return _pair(data[0], "train"), _pair(data[1], "test")
    return _pair(data, "train"), None


def _pair(data: Any, part: str) -> tuple[Any, Any]:
    if _is_torch_dataset(data):
        return _items(data, part)
    if not isinstance(data, tuple | list):
        raise ValueError(f"data: {part} is of type {type(data).__name__}, expected {EXPECTED}")
    if len(data) != 2:
        raise ValueError(f"data: {part} is a {type(data).__name__} of {len(data)}, expected {EXPECTED}")
    return data[0], data[1]


def _is_torch_dataset(data: Any) -> bool:
    """Return whether the data gives items by number and is neither an array nor one of Python's containers."""
    plain = isinstance(data, Mapping | tuple | list | str) or hasattr(data, "__array__")
    return not plain and hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _items(dataset: Any, part: str) -> tuple[list[Any], list[Any]]:
    """Return the images and the labels of a torch Dataset."""
    images, labels = [], []
    for number in range(len(dataset)):
        image, label = _item(dataset, number, part)
        if number < READ_TWICE and not np.array_equal(image, _item(dataset, number, part)[0]):
            raise ValueError(
                f"data: item {number} of {part} is a different image each time it is read: pass the data set without "
                "random transforms (use the augmentations of a Recipe instead)"
            )
        images.append(image)
        labels.append(label)
    return images, labels


def _item(dataset: Any, number: int, part: str) -> tuple[NDArray[Any], Any]:
    item = dataset[number]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise ValueError(f"data: item {number} of {part} is a {type(item).__name__}, expected (image, label)")
    return _array(item[0]), item[1].item() if hasattr(item[1], "item") else item[1]


# --- images ----------------------------------------------------------------------------------------------------------


def as_images(data: Any, part: str) -> Images:
    """Return images in any of the forms above as (n, c, h, w) uint8. part : the name of the images in errors."""
    images = _array(data, f"data: the images of {part}")
    images = _channels_first(images, part)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if images.dtype.kind != "f":
        raise ValueError(f"data: the images of {part} are {images.dtype}, expected uint8, or floats in [0, 1]")
    low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # true of NaN too
        raise ValueError(
            f"data: the images of {part} are floats from {low:g} to {high:g}, expected uint8, or floats in [0, 1]; "
            "distsim normalises them itself"
        )
    return np.rint(images.astype(np.float64) * 255).astype(np.uint8)


def _channels_first(images: NDArray[Any], part: str) -> NDArray[Any]:
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise ValueError(
            f"data: the images of {part} have the shape {images.shape}, expected (n, h, w), (n, c, h, w) or "
            "(n, h, w, c)"
        )
    first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if first == last:
        why = "both the second and the last could be channels" if first else "the second or the last must be 1 or 3"
        raise ValueError(f"data: the images of {part} have the shape {images.shape}: {why}")
    return images if first else images.transpose(0, 3, 1, 2)


def _array(data: Any, name: str = "") -> NDArray[Any]:
    """Return data of NumPy, torch, CuPy, pandas or PIL, or a list of these, as an array in host memory."""
    if hasattr(data, "detach"):  # a torch tensor
        data = data.detach().cpu()
        return data.float().numpy() if "float16" in str(data.dtype) else data.numpy()
    if type(data).__module__.startswith("cupy"):
        return data.get()
    if isinstance(data, list | tuple) and len(data) and hasattr(data[0], "shape"):
        data = [_array(item) for item in data]
    try:
        return np.asarray(data)
    except ValueError:
        raise ValueError(f"{name} have several shapes, expected one shape for all") from None


# --- labels ----------------------------------------------------------------------------------------------------------


def _labels(pair: tuple[Any, Any], part: str) -> Labels | Names:
    labels = _array(pair[1], f"data: the labels of {part}")
    if labels.dtype == object and all(isinstance(label, str) for label in labels.flat):
        labels = labels.astype(np.str_)
    if labels.ndim != 1:
        raise ValueError(f"data: the labels of {part} have the shape {labels.shape}, expected (n,)")
    if labels.dtype.kind not in "iuU":
        raise ValueError(
            f"data: the labels of {part} are {labels.dtype}, expected whole numbers from 0, or names of classes"
        )
    return labels if labels.dtype.kind == "U" else labels.astype(np.int64)


def _require_pairs(images: Images, labels: Labels | Names, part: str) -> None:
    if len(images) != len(labels):
        raise ValueError(f"data: {part} has {len(images)} images and {len(labels)} labels, expected one for each")
    if not len(labels):
        raise ValueError(f"data: {part} has no image")


def _numbered(parts: list[Labels | Names], classes: Sequence[str]) -> tuple[tuple[str, ...], list[Labels]]:
    """Return the names of the classes, and the labels as numbers; a name that is not among `classes` becomes -1."""
    named = [labels.dtype.kind == "U" for labels in parts]
    if any(named) != all(named):
        raise ValueError("data: the labels are numbers in one of train and test and names in the other; use one kind")
    if all(named):
        in_data = tuple(sorted({str(name) for labels in parts for name in labels}))
        names = tuple(classes) or in_data
        if unknown := [name for name in names if name not in in_data]:
            raise ValueError(f"classes: data has no label {', '.join(unknown)}; it has {', '.join(in_data)}")
        number = {name: i for i, name in enumerate(names)}
        return names, [np.array([number.get(str(name), -1) for name in labels], np.int64) for labels in parts]
    low, high = min(int(labels.min()) for labels in parts), max(int(labels.max()) for labels in parts)
    count = len(classes) or high + 1
    if low < 0 or high >= count or count > len(parts[0]):
        numbers = f"0 to {count - 1}, as there are {count} classes" if classes else "0, 1, 2, ..., one for each class"
        raise ValueError(f"data: the labels go from {low} to {high}, expected whole numbers: {numbers}")
    return tuple(classes) or tuple(map(str, range(count))), [labels.astype(np.int64) for labels in parts]
