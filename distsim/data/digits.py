"""Scikit-learn's bundled handwritten digits: 1,797 grey images of 8×8 pixels, without a download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from distsim.data.dataset import Dataset, stratified_split
from distsim.seeds import numpy_stream

TEST_SHARE = 0.2


def read_digits() -> Dataset:
    """Return about 1,437 training and 360 test images, with the classes "0" to "9".

    The split is by class and the same on every machine. The values 0..16 are scaled to bytes by 255/16, halves rounded
    up.
    """
    table = _table()
    values, targets = table[:, :-1], table[:, -1]
    images = ((values.astype(np.int64) * 255 + 8) // 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = targets.astype(np.int64)
    train, test = stratified_split(labels, TEST_SHARE, numpy_stream(0, "digits", "test"))
    return Dataset(images[train], labels[train], images[test], labels[test], tuple("0123456789"))


def _table() -> np.ndarray:
    """Return scikit-learn's table: for each image its 64 values and its class.

    It is read from where scikit-learn keeps it. To import scikit-learn takes longer than a small network's training.
    """
    if (found := find_spec("sklearn")) is not None:
        for folder in found.submodule_search_locations or ():
            if (file := Path(folder) / "datasets" / "data" / "digits.csv.gz").exists():
                return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    return np.column_stack(load_digits(return_X_y=True))
