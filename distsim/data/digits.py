"""Scikit-learn's bundled handwritten digits: 1,797 grey images of 8×8 pixels, without a download."""

import numpy as np
from sklearn.datasets import load_digits

from distsim.data.dataset import Dataset, stratified_split
from distsim.seeds import numpy_stream

TEST_SHARE = 0.2


def read_digits() -> Dataset:
    """Return about 1,437 training and 360 test images, with the classes "0" to "9".

    The split is by class and the same on every machine. The values 0..16 are scaled to bytes by 255/16, halves rounded
    up.
    """
    values, targets = load_digits(return_X_y=True)
    images = ((values.astype(np.int64) * 255 + 8) // 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = targets.astype(np.int64)
    train, test = stratified_split(labels, TEST_SHARE, numpy_stream(0, "digits", "test"))
    return Dataset(images[train], labels[train], images[test], labels[test], tuple("0123456789"))
