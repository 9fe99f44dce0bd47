"""Images and labels that are given in Python."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from distsim.data import Dataset
from distsim.data.arrays import as_images, dataset_of

N = 40
Y = np.arange(N) % 4
X = np.random.default_rng(0).integers(0, 256, (N, 6, 6)).astype(np.uint8)


def parts(dataset: Dataset) -> tuple[Any, ...]:
    return dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels


def test_a_train_and_a_test_part_are_taken_as_they_are():
    found = dataset_of({"train": (X, Y), "test": (X[:8], Y[:8])})
    for got, wanted in zip(parts(found), (X[:, None], Y, X[:8, None], Y[:8]), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert found.classes == ("0", "1", "2", "3")
    assert found.digest == Dataset(X[:, None], Y, X[:8, None], Y[:8], tuple("0123")).digest


def test_a_fifth_of_each_class_becomes_the_test_set():
    found = dataset_of((X, Y))
    assert np.bincount(found.test_labels).tolist() == [2, 2, 2, 2]
    assert sorted(map(bytes, np.concatenate([found.train_images, found.test_images]))) == sorted(map(bytes, X[:, None]))
    assert dataset_of((X, Y)).digest == found.digest


RGB = np.random.default_rng(1).integers(0, 256, (N, 3, 6, 6)).astype(np.uint8)
FORMS = {
    "lists": ([list(image) for image in RGB], Y.tolist()),
    "channels last": (RGB.transpose(0, 2, 3, 1), Y),
    "floats": (RGB / 255, Y.astype(np.uint8)),
    "float32": ((RGB / 255).astype(np.float32), Y),
    "tensors": (torch.tensor(RGB), torch.tensor(Y)),
    "tensors of floats": (torch.tensor(RGB) / 255, torch.tensor(Y)),
    "a tensor data set": TensorDataset(torch.tensor(RGB) / 255, torch.tensor(Y)),
    "pictures": ([Image.fromarray(image.transpose(1, 2, 0)) for image in RGB], Y),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_data_set(form: str):
    assert dataset_of(FORMS[form]).digest == dataset_of((RGB, Y)).digest


def test_two_torch_data_sets_are_train_and_test():
    train, test = (TensorDataset(torch.tensor(RGB[a:b]), torch.tensor(Y[a:b])) for a, b in ((0, 32), (32, 40)))
    wanted = dataset_of({"train": (RGB[:32], Y[:32]), "test": (RGB[32:], Y[32:])})
    assert dataset_of((train, test)).digest == wanted.digest
    assert dataset_of({"train": train, "test": (RGB[32:], Y[32:])}).digest == wanted.digest


def test_names_of_classes():
    names = np.array(["cat", "dog", "eel", "fox"])
    for labels in (names[Y], names[Y].tolist(), names[Y].astype(object)):
        assert dataset_of((X, labels)).classes == ("cat", "dog", "eel", "fox")
    some = dataset_of({"train": (X, names[Y]), "test": (X, names[Y])}, classes=["fox", "cat"])
    assert some.classes == ("fox", "cat")
    np.testing.assert_array_equal(some.train_images[:, 0], X[np.isin(Y, (0, 3))])
    np.testing.assert_array_equal(some.train_labels, np.where(Y[np.isin(Y, (0, 3))] == 3, 0, 1))
    assert dataset_of((X, Y), classes=list(names)).classes == tuple(names)


def test_halves_are_rounded_to_even():
    values = np.array([0.5, 1.5, 2.5, 254.5]) / 255
    found = as_images(np.broadcast_to(values[:, None, None], (4, 2, 2)), "inputs")
    np.testing.assert_array_equal(found[:, 0, 0, 0], np.rint(values * 255))


class Noisy(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return image + torch.rand(()) / 1000, label


BOTH = {"train": (X, Y), "test": (X, Y)}
WRONG = {
    "images of another type": ((X.astype(int), Y), "images of train are int64, expected uint8, or floats"),
    "floats beyond 1": ((X.astype(float), Y), "images of train are floats from 0 to 255, expected"),
    "negative floats": ((X / 255 - 0.5, Y), r"images of train are floats from -0\.5 to 0\.5, expected"),
    "not a number": ((np.where(X > 9, X / 255, np.nan), Y), "images of train are floats from nan to nan, expected"),
    "flat images": ((X.reshape(N, 36), Y), r"images of train have the shape \(40, 36\), expected"),
    "four channels": ((np.zeros((N, 4, 6, 6), np.uint8), Y), r"the shape \(40, 4, 6, 6\).* must be 1 or 3"),
    "channels anywhere": (
        (np.zeros((N, 3, 6, 3), np.uint8), Y),
        r"\(40, 3, 6, 3\).* both the second and the last could be channels",
    ),
    "images of several shapes": (([X[0], X[0, :2]], [0, 1]), "images of train have several shapes, expected one"),
    "fewer labels": ((X, Y[:-1]), "train has 40 images and 39 labels, expected one for each"),
    "no images": ((X[:0], Y[:0]), "train has no image"),
    "labels in columns": ((X, np.eye(4)[Y]), r"labels of train have the shape \(40, 4\), expected \(n,\)"),
    "fractional labels": ((X, Y / 2), "labels of train are float64, expected whole numbers from 0, or names"),
    "labels from 1": ((X, Y + 1), "class '0' has no training image"),
    "negative labels": ((X, Y - 1), "labels go from -1 to 2, expected whole numbers: 0, 1, 2"),
    "huge labels": ((X, Y * 10**12), "labels go from 0 to 3000000000000, expected"),
    "one image of each class": ((X[:4], Y[:4]), "no test set is given, and none can be split off: label 0 has 1 exam"),
    "names and numbers": (BOTH | {"test": (X, Y.astype(str))}, "numbers in one of train and test and names"),
    "no test part": ({"train": (X, Y)}, "keys 'train' and 'test', got 'train'"),
    "a dictionary of others": ({"x": X, "y": Y}, "keys 'train' and 'test', got 'x', 'y'"),
    "three things": ((X, Y, Y), r"train is a tuple of 3, expected \(x, y\), "),
    "images alone": (X, r"train is of type ndarray, expected \(x, y\), "),
    "a number": (3, r"train is of type int, expected \(x, y\), "),
    "sizes that differ": (BOTH | {"test": (X[:, :5], Y)}, "they must have one shape"),
    "items that are no pairs": (TensorDataset(torch.tensor(X)), r"item 0 of train is a tuple, expected \(image"),
    "random items": (Noisy(torch.tensor(X) / 300, torch.tensor(Y)), "item 0 of train is a different image each time"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_by_name(case: str):
    data, sentence = WRONG[case]
    with pytest.raises(ValueError, match=sentence) as raised:
        dataset_of(data)
    assert "\n" not in str(raised.value)


def test_classes_that_do_not_fit():
    with pytest.raises(ValueError, match="classes: data has no label cow; it has 0, 1, 2, 3"):
        dataset_of((X, Y.astype(str)), classes=["0", "cow"])
    with pytest.raises(ValueError, match="labels go from 0 to 3, expected whole numbers: 0 to 1, as there are 2 cl"):
        dataset_of((X, Y), classes=["a", "b"])
