"""Arrays of numbers out of MATLAB's Level 5 files (save -v6 and -v7), every length checked before it is believed.

SciPy's reader goes wrong in compiled code on some damaged files, and takes the whole process with it.

A file is 128 bytes of header, then one element per variable: type, size, content; a variable may be compressed by zlib.
The variable's content is elements again: flags, dimensions, name, numbers. (MathWorks, "MAT-File Format", chapter 1.)
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
# how numbers may lie in the file, and of what dtype an array is by its class: what it holds may need fewer bytes
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_OTHERS = {1: "cells", 2: "a struct", 3: "an object", 4: "text", 5: "a sparse matrix"}
_COMPLEX = 0x800  # a flag
_MOST_DIMENSIONS = 32  # NumPy takes 64
_BLOCK = 2**24  # bytes unpacked at once


def read_arrays(file: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The variables of these names that there are. ValueError: damaged, another format, or one is no array of numbers.

    Their dtype is the variable's in MATLAB; they are in Fortran's order and may be read-only.
    """
    content, wanted = memoryview(file.read_bytes()), set(names)
    mark = bytes(content[_HEADER - 4 : _HEADER])
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(mark)
    if order is None:
        newer = mark in (b"\x00\x02IM", b"\x02\x00MI")
        raise ValueError("it is HDF5, from save -v7.3; use save -v7" if newer else "it does not begin as one does")
    found: dict[str, NDArray[Any]] = {}
    for variable in _variables(_Bytes(content[_HEADER:]), order):
        name, array = _named(variable, order, wanted)
        if array is not None:
            if name in found:
                raise ValueError(f"it holds {name} twice")
            variable.finish()
            found[name] = array
    return found


class _Bytes:
    """Bytes to be taken one after the other."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._place = content, 0

    @property
    def left(self) -> int:
        return len(self._content) - self._place

    def take(self, n: int) -> memoryview:
        """The next n. ValueError: there are fewer."""
        if self.left < n:
            raise ValueError(f"it ends {n - self.left} bytes too early")
        self._place += n
        return self._content[self._place - n : self._place]

    def finish(self) -> None:
        """ValueError: what follows is not as it should be."""


class _Packed(_Bytes):
    """The same of what zlib packed, unpacked no further than it is asked for."""

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
        self._unpack(_HEADER)  # no more than padding is left, then comes the checksum
        if not self._stream.eof:
            raise ValueError("it goes on where it should end")

    def _unpack(self, most: int) -> bytes:
        try:
            part = self._stream.decompress(self._packed, most)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        self._packed = self._stream.unconsumed_tail
        return part


def _variables(content: _Bytes, order: str) -> Iterator[_Bytes]:
    """The content of each variable, unpacked."""
    while content.left:
        kind, size = struct.unpack(order + "II", content.take(8))
        variable = _Bytes(content.take(size))
        if kind == _COMPRESSED:
            variable = _Packed(variable.take(size))
            kind, size = struct.unpack(order + "II", variable.take(8))
        if kind == _MATRIX:
            yield variable


def _named(variable: _Bytes, order: str, wanted: set[str]) -> tuple[str, NDArray[Any] | None]:
    """The variable's name, and what it holds if it is wanted."""
    flags, dimensions, letters = (_numbers(variable, order, dtype) for dtype in ("u4", "i4", "i1"))
    name = letters.tobytes().decode("ascii", "replace")
    if name not in wanted:
        return name, None
    if len(flags) != 2 or not 2 <= len(dimensions) <= _MOST_DIMENSIONS or dimensions.min() < 0:
        raise ValueError(f"{name} has the flags {flags.tolist()} and the dimensions {dimensions.tolist()[:9]}")
    kind, shape = int(flags[0]) & 0xFF, tuple(map(int, dimensions))
    if kind not in _CLASSES or int(flags[0]) & _COMPLEX:
        what = "complex numbers" if kind in _CLASSES else _OTHERS.get(kind, f"of the class {kind}")
        raise ValueError(f"{name} must be a full array of real numbers, it is {what}")
    values, dtype = _numbers(variable, order), np.dtype(_CLASSES[kind])
    if values.dtype.itemsize > dtype.itemsize or not np.can_cast(values.dtype, dtype, "same_kind"):
        raise ValueError(f"{name} is of {dtype} and lies there as {values.dtype}")
    if len(values) != math.prod(shape):
        raise ValueError(f"{name} holds {len(values)} numbers, its dimensions are {shape}")
    return name, values.astype(dtype, copy=False).reshape(shape, order="F")


def _numbers(variable: _Bytes, order: str, expected: str = "") -> NDArray[Any]:
    """The next element of a variable, which must be of the `expected` dtype, if any."""
    (kind,) = struct.unpack(order + "I", variable.take(4))
    size = kind >> 16
    if size:  # up to 4 bytes lie in the tag itself
        kind &= 0xFFFF
        content = variable.take(4)[:size]
    else:
        (size,) = struct.unpack(order + "I", variable.take(4))
        content = variable.take(size)
        variable.take(-size % 8)
    dtype = _STORED.get(kind, "")
    if not dtype or expected not in ("", dtype) or len(content) != size or size % int(dtype[1]):
        raise ValueError(f"{size} bytes of the type {kind} are not what belongs there")
    return np.frombuffer(content, order + dtype)
