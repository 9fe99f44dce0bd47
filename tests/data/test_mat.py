"""The reader of .mat files gives what SciPy wrote and reads, and refuses what is not whole."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from distsim.data.mat import read_arrays

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
SHAPES = ((1, 1), (3, 2), (2, 3, 4), (4, 4, 3, 5), (0, 3), (1, 700))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_what_scipy_writes(tmp_path: Path, rng: np.random.Generator, dtype: str, packed: bool) -> None:
    arrays = {f"a{i}": rng.integers(0, 100, shape).astype(dtype) for i, shape in enumerate(SHAPES)}
    savemat(tmp_path / "some.mat", arrays | {"text": "x", "cells": [1, "b"]}, do_compression=packed)
    found, theirs = read_arrays(tmp_path / "some.mat", arrays), loadmat(tmp_path / "some.mat")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == np.dtype(dtype) == theirs[name].dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def element(order: str, kind: int, content: bytes) -> bytes:
    return struct.pack(order + "II", kind, len(content)) + content + bytes(-len(content) % 8)


def file_of(order: str, *variables: bytes) -> bytes:
    mark = b"\x00\x01IM" if order == "<" else b"\x01\x00MI"
    return b"made by hand".ljust(124) + mark + b"".join(variables)


def variable(order: str, name: str, array: np.ndarray[Any, Any], stored: int, kind: int) -> bytes:
    """An array of the class `kind`, its numbers as they are, of the type `stored`."""
    content = element(order, 6, struct.pack(order + "II", kind, 0))
    content += element(order, 5, struct.pack(order + f"{array.ndim}i", *array.shape))
    content += element(order, 1, name.encode())
    return element(order, 14, content + element(order, stored, array.tobytes("F")))


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_byte_order_and_numbers_stored_in_fewer_bytes(tmp_path: Path, order: str) -> None:
    """MATLAB writes doubles that are whole numbers as bytes."""
    small, large = np.arange(6, dtype="u1").reshape(2, 3), np.arange(6.0).reshape(3, 2) / 7
    parts = variable(order, "small", small, 2, 6), variable(order, "large", large.astype(order + "f8"), 9, 6)
    (tmp_path / "some.mat").write_bytes(file_of(order, *parts))
    found = read_arrays(tmp_path / "some.mat", ("small", "large"))
    assert {name: array.dtype for name, array in found.items()} == {"small": np.float64, "large": np.float64}
    np.testing.assert_array_equal(found["small"], small)
    np.testing.assert_array_equal(found["large"], large)


BYTES = variable("<", "X", np.arange(8, dtype="u1").reshape(2, 4), 2, 9)
PACKED = zlib.compress(BYTES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin"),
        (b"MATLAB 7.3".ljust(124) + b"\x00\x02IM" + bytes(100), "save -v7$"),
        (file_of("<", BYTES[:-1]), "ends 1 bytes too early"),
        (file_of("<", BYTES, BYTES), "holds X twice"),
        (file_of("<", BYTES, b"\x0e\x00"), "too early"),
        (file_of("<", struct.pack("<II", 15, len(PACKED)) + PACKED[:-1]), "ends 1 bytes too early"),
        (file_of("<", element("<", 15, PACKED[:-4] + b"abcd")), "incorrect data check"),
        (file_of("<", element("<", 15, PACKED[:20])), "too early"),
        (file_of("<", element("<", 15, zlib.compress(BYTES + bytes(1000)))), "longer than it says"),
        (
            file_of("<", variable("<", "X", np.zeros((2, 4), "f8"), 9, 9)),
            "is uint8, but its numbers are stored as float64",
        ),
        (file_of("<", variable("<", "X", np.zeros((2, 4), "u1"), 2, 5)), "a sparse matrix"),
        (file_of("<", variable("<", "X", np.zeros((2, 4), "u1"), 2, 99)), "got class 99"),
        (file_of("<", variable("<", "X", np.zeros((2, 4), "u1"), 3, 10)), "X holds 4 numbers"),
        (file_of("<", variable("<", "X", np.zeros((2, 3), "u1"), 9, 6)), "6 bytes of type 9"),
        (file_of("<", variable("<", "X", np.zeros((2, 4), "u1"), 77, 9)), "8 bytes of type 77"),
        (file_of("<", variable("<", "X", np.zeros(8, "u1"), 2, 9)), r"or dimensions \[8\]"),
        (file_of("<", BYTES.replace(struct.pack("<2i", 2, 4), struct.pack("<2i", -2, -4))), r"dimensions \[-2, -4\]"),
    ],
)
def test_refuses_what_is_not_whole(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "some.mat").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_arrays(tmp_path / "some.mat", ("X",))


def test_what_is_not_asked_for_is_not_looked_at(tmp_path: Path) -> None:
    odd = variable("<", "Z", np.zeros((2, 4), "u1"), 77, 99)
    (tmp_path / "some.mat").write_bytes(file_of("<", odd, element("<", 7, b"no array"), BYTES))
    assert list(read_arrays(tmp_path / "some.mat", ("X", "y"))) == ["X"]


@pytest.mark.parametrize("packed", [False, True])
def test_cut_anywhere(tmp_path: Path, packed: bool) -> None:
    """It is refused, or what was cut off had not begun."""
    savemat(tmp_path / "whole.mat", {"X": np.zeros((2, 3, 4), "u1"), "y": np.ones((4, 1))}, do_compression=packed)
    content = (tmp_path / "whole.mat").read_bytes()
    lengths = []
    for length in range(len(content)):
        (tmp_path / "cut.mat").write_bytes(content[:length])
        try:
            lengths.append((length, len(read_arrays(tmp_path / "cut.mat", ("X", "y")))))
        except ValueError as error:
            assert str(error), length  # noqa: PT017 - some cuts raise, some do not
    assert [found for _, found in lengths] == [0, 1], lengths
