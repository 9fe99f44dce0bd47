"""A reader of arrays in MATLAB's Level 5 files (save -v6 and -v7) that checks every length before it relies on it.

SciPy's reader fails in compiled code on some damaged files and ends the whole process.

A file is 128 bytes of header, then one element per variable: type, size, content. A variable may be compressed by zlib.
Its content is elements again: flags, dimensions, name, numbers. (MathWorks, "MAT-File Format", chapter 1.)
"""

import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15  # types of elements that are variables
# The dtype of numbers in the file by their type, and the dtype of an array by its class. The file may use fewer bytes.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_OTHERS = {1: "cells", 2: "a struct", 3: "an object", 4: "text", 5: "a sparse matrix"}
_COMPLEX = 0x800  # a flag
_MOST_DIMENSIONS = 32  # NumPy takes 64
_BLOCK = 2**24  # most bytes to unpack at once


def read_arrays(file: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read those of the named variables that the file holds.

    An array has the dtype of its variable in MATLAB. It is in Fortran order and may be read-only.
    ValueError: the file is damaged or of another format, or a variable is not an array of real numbers. The message
    does not name the file.
    """
    content, wanted = memoryview(file.read_bytes()), set(names)
    mark = bytes(content[_HEADER - 4 : _HEADER])
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(mark)
    if order is None:
        newer = mark in (b"\x00\x02IM", b"\x02\x00MI")
        raise ValueError("it is HDF5, from save -v7.3; use save -v7" if newer else "it does not begin like one")
    arrays: dict[str, NDArray[Any]] = {}
    for variable in _variables(_Bytes(content[_HEADER:]), order):
        name, array = _named(variable, order, wanted)
        if array is not None:
            if name in arrays:
                raise ValueError(f"it holds {name} twice")
            variable.finish()
            arrays[name] = array
    return arrays


class _Bytes:
    """Bytes that are read from the first to the last."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._place = content, 0

    @property
    def left(self) -> int:
        return len(self._content) - self._place

    def take(self, n: int) -> memoryview:
        """Return the next n bytes. ValueError: fewer are left."""
        if self.left < n:
            raise ValueError(f"it ends {n - self.left} bytes too early")
        self._place += n
        return self._content[self._place - n : self._place]

    def finish(self) -> None:
        """Check the end of a variable, of which everything has been read. ValueError: it is not as it should be."""


class _Packed(_Bytes):
    """Bytes compressed by zlib, unpacked no further than they are read."""

    def __init__(self, content: memoryview) -> None:
        self._stream, self._packed = zlib.decompressobj(), bytes(content)

    def take(self, n: int) -> memoryview:
        parts = []
        while n:
            part = self._unpack(min(n, _BLOCK))
            if not part:
                raise ValueError(f"it ends {n} bytes too early")
            parts.append(part)
            n -= len(part)
        return memoryview(b"".join(parts))

    def finish(self) -> None:
        self._unpack(_HEADER)  # at most padding is left, then comes the checksum
        if not self._stream.eof:
            raise ValueError("a variable is longer than it says")

    def _unpack(self, most: int) -> bytes:
        try:
            part = self._stream.decompress(self._packed, most)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        self._packed = self._stream.unconsumed_tail
        return part


def _variables(content: _Bytes, order: str) -> Iterator[_Bytes]:
    """Yield the content of each variable, unpacked."""
    while content.left:
        kind, size = struct.unpack(order + "II", content.take(8))
        variable = _Bytes(content.take(size))
        if kind == _COMPRESSED:
            variable = _Packed(variable.take(size))
            kind, size = struct.unpack(order + "II", variable.take(8))
        if kind == _MATRIX:
            yield variable


def _named(variable: _Bytes, order: str, wanted: set[str]) -> tuple[str, NDArray[Any] | None]:
    """Return the variable's name, and its array, or None if it is not wanted."""
    flags, dimensions, letters = (_numbers(variable, order, dtype) for dtype in ("u4", "i4", "i1"))
    name = letters.tobytes().decode("ascii", "replace")
    if name not in wanted:
        return name, None
    if len(flags) != 2 or not 2 <= len(dimensions) <= _MOST_DIMENSIONS or dimensions.min() < 0:
        raise ValueError(f"{name} has invalid flags {flags.tolist()} or dimensions {dimensions.tolist()[:9]}")
    kind, shape = int(flags[0]) & 0xFF, tuple(map(int, dimensions))
    if kind not in _CLASSES or int(flags[0]) & _COMPLEX:
        content = "complex numbers" if kind in _CLASSES else _OTHERS.get(kind, f"class {kind}")
        raise ValueError(f"{name} must be a full array of real numbers, got {content}")
    values, dtype = _numbers(variable, order), np.dtype(_CLASSES[kind])
    if values.dtype.itemsize > dtype.itemsize or not np.can_cast(values.dtype, dtype, "same_kind"):
        raise ValueError(f"{name} is {dtype}, but its numbers are stored as {values.dtype}")
    if len(values) != math.prod(shape):
        raise ValueError(f"{name} holds {len(values)} numbers, but its dimensions are {shape}")
    return name, values.astype(dtype, copy=False).reshape(shape, order="F")


def _numbers(variable: _Bytes, order: str, expected: str = "") -> NDArray[Any]:
    """Return the numbers of the variable's next element. ValueError: they are not of the `expected` dtype, if any."""
    (kind,) = struct.unpack(order + "I", variable.take(4))
    size = kind >> 16
    if size:  # up to 4 bytes are stored in the tag itself
        kind &= 0xFFFF
        content = variable.take(4)[:size]
    else:
        (size,) = struct.unpack(order + "I", variable.take(4))
        content = variable.take(size)
        variable.take(-size % 8)
    dtype = _STORED.get(kind, "")
    if not dtype or expected not in ("", dtype) or len(content) != size or size % int(dtype[1]):
        raise ValueError(f"it holds {size} bytes of type {kind} where other data should be")
    return np.frombuffer(content, order + dtype)
