"""Readers of SVHN's and MNIST's file formats, for the published files and for your own.

The readers check everything that they rely on. A file that does not fit is a ValueError that names it. Neither format
can carry code. So your own files are read in these two formats, and not in CIFAR-10's, whose files are Python pickles.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from distsim.data.dataset import Dataset, Images, Labels
from distsim.data.mat import read_arrays

DIGITS = tuple("0123456789")
SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_svhn(train: Path, test: Path) -> Dataset:
    """Read a data set from two .mat files in the format of SVHN's "cropped digits" (`read_mat`); classes "0" to "9"."""
    return Dataset(*read_mat(train), *read_mat(test), DIGITS)


def read_mnist(train_images: Path, train_labels: Path, test_images: Path, test_labels: Path) -> Dataset:
    """Read a data set from four idx files in MNIST's format, each raw or .gz; classes "0" to "9"."""
    train = _read_idx_pair(train_images, train_labels)
    test = _read_idx_pair(test_images, test_labels)
    return Dataset(*train, *test, DIGITS)


def read_mat(file: Path) -> tuple[Images, Labels]:
    """Read the images (n, 3, 32, 32) uint8 and the labels (n,) int64 in 0..9 from one of SVHN's .mat files.

    The file holds X : (32, 32, 3, n) uint8 and y : (n, 1), where label 10 means the digit 0.
    ValueError: it cannot be read, or holds something else.
    """
    try:
        content = read_arrays(file, ("X", "y"))
    except (ValueError, OSError) as error:
        raise ValueError(f"cannot read {file} as a MATLAB 5 file: {error}") from error
    if missing := [name for name in ("X", "y") if name not in content]:
        raise ValueError(f"{file}: no variable {' and no '.join(missing)}; X (32, 32, 3, n) and y (n, 1) are expected")
    X, y = content["X"], content["y"]
    if X.ndim != 4 or X.shape[:3] != (32, 32, 3) or X.dtype != np.uint8:
        raise ValueError(f"{file}: X must be (32, 32, 3, n) uint8, got {X.shape} {X.dtype}")
    if y.shape not in ((X.shape[3], 1), (1, X.shape[3])) or y.dtype.kind not in "uif":
        raise ValueError(f"{file}: y must be ({X.shape[3]}, 1) numbers, one for each image, got {y.shape} {y.dtype}")
    if not np.isin(y, np.arange(11)).all():
        raise ValueError(f"{file}: labels in y must be 1 to 10 (10 is the digit 0), or 0 to 9")
    return np.ascontiguousarray(X.transpose(3, 2, 0, 1)), y.ravel().astype(np.int64) % 10


def read_idx(file: Path, dimensions: int) -> Images:
    """Read the uint8 array of `dimensions` dimensions in an idx file, raw or compressed (.gz).

    ValueError: the file cannot be read, or its content is not what its header says.
    """
    try:
        content = _unpacked(file, dimensions) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    header = 4 + 4 * dimensions  # two zero bytes, the type (8: uint8), the number of dimensions, their lengths
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise ValueError(
            f"{file} is not an idx file of bytes in {dimensions} dimensions: it begins {content[:4].hex()!r}"
        )
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", dimensions, offset=4))
    values = np.frombuffer(content, np.uint8, offset=header)
    if 0 in shape:
        raise ValueError(f"{file} holds nothing: its header says {shape}")
    if len(values) != math.prod(shape):
        raise ValueError(f"{file} holds {len(values)} bytes of data, its header says {shape}")
    return values.reshape(shape).copy()  # frombuffer is read-only


def _unpacked(file: Path, dimensions: int) -> bytes:
    """Unpack as many bytes as the file's header announces, and one more.

    Not everything, since a few compressed bytes may unpack to any number of bytes.
    """
    with gzip.open(file) as packed:
        content = packed.read(4 + 4 * dimensions)
        shape = np.frombuffer(content[4 : len(content) // 4 * 4], ">u4")
        parts, left = [content], math.prod(map(int, shape)) + 1
        while left and (part := packed.read(min(left, 2**24))):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def _read_idx_pair(images_file: Path, labels_file: Path) -> tuple[Images, Labels]:
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise ValueError(f"{images_file} has {len(images)} images, {labels_file} {len(labels)} labels")
    if labels.max(initial=0) > 9:
        raise ValueError(f"{labels_file}: labels must be 0 to 9, found {labels.max()}")
    return images[:, None], labels.astype(np.int64)
