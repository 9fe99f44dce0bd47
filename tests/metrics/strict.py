"""Arrays that are on a device which the host cannot look into, after the array API's rules, for tests of discipline.

They are array_api_strict's, on its second device: arrays of different devices do not mix, and only what the standard
names is there. An array refuses to become a Python number, a truth value, an index or a NumPy array. Only a copy to
the CPU leaves the device, and each is counted: `distsim.metrics.reads.read` makes them.

Slices may reach beyond the end, and `reshape`, `mean(dtype=...)` and fewer indices than dimensions are allowed: all
libraries have these.
"""

from typing import Any

import array_api_strict
import numpy as np

DEVICE = array_api_strict.Device("device1")
CPU = array_api_strict.Device("CPU_DEVICE")


class HostRead(AssertionError):
    """The host looked at a number on the device."""


class Strict:
    """An array on the second device."""

    reads = 0  # copies to the CPU, of all arrays

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return NAMESPACE

    shape = property(lambda self: self.array.shape)
    ndim = property(lambda self: self.array.ndim)
    dtype = property(lambda self: self.array.dtype)
    device = property(lambda self: self.array.device)
    T = property(lambda self: Strict(self.array.T))

    def reshape(self, shape: tuple[int, ...]) -> "Strict":
        return Strict(array_api_strict.reshape(self.array, shape))

    def to_device(self, device: str, stream: None = None) -> np.ndarray:
        assert device == "cpu"
        Strict.reads += 1
        return np.asarray(self.array.to_device(CPU))

    def __getitem__(self, key: Any) -> "Strict":
        return Strict(self.array[self._completed(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.array[self._completed(key)] = inside(value)

    def _completed(self, key: Any) -> Any:
        """The key with an entry for each dimension and slices that end with the array."""
        entries = list(key) if isinstance(key, tuple) else [key]
        if any(isinstance(entry, Strict) for entry in entries):
            raise HostRead("what an array picks out by a mask or by indices has a size that the host must wait for")
        if Ellipsis in entries:
            return key
        entries += [slice(None)] * (self.ndim - sum(entry is not None for entry in entries))
        sizes = iter(self.shape)
        return tuple(entry if entry is None else self._bounded(entry, next(sizes)) for entry in entries)

    def _bounded(self, entry: Any, size: int) -> Any:
        return slice(*entry.indices(size)) if isinstance(entry, slice) else entry

    def _refused(self, *_: Any) -> Any:
        raise HostRead("the host looks at an array on the device")

    __float__ = __int__ = __index__ = __bool__ = __complex__ = __array__ = __iter__ = __len__ = tolist = _refused


def _operator(name: str) -> Any:
    def operate(self: Strict, *others: Any) -> Any:
        result = getattr(self.array, name)(*(inside(other) for other in others))
        return result if result is NotImplemented else Strict(result)

    return operate


def _in_place(name: str) -> Any:
    def operate(self: Strict, other: Any) -> Strict:
        getattr(self.array, name)(inside(other))
        return self

    return operate


ARITHMETIC = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"]
COMPARISONS = ["lt", "le", "gt", "ge", "eq", "ne"]
for _name in [*ARITHMETIC, *(f"r{name}" for name in ARITHMETIC), *COMPARISONS, "neg", "abs", "invert"]:
    setattr(Strict, f"__{_name}__", _operator(f"__{_name}__"))
for _name in ("iadd", "isub", "imul", "itruediv"):
    setattr(Strict, f"__{_name}__", _in_place(f"__{_name}__"))
Strict.__hash__ = None  # type: ignore[assignment]


def inside(value: Any) -> Any:
    if isinstance(value, Strict):
        return value.array
    return type(value)(map(inside, value)) if type(value) in (list, tuple) else value


def wrapped(value: Any) -> Any:
    if isinstance(value, array_api_strict._array_object.Array):
        return Strict(value)
    if isinstance(value, tuple):
        parts = [wrapped(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


class Namespace:
    """A namespace of array_api_strict whose functions take and return `Strict` arrays."""

    def __init__(self, of: Any, name: str) -> None:
        self._of, self.__name__ = of, name

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if name == "linalg":
            return Namespace(found, name)
        if not callable(found) or isinstance(found, type):
            return found

        def function(*args: Any, **options: Any) -> Any:
            options = {option: inside(value) for option, value in options.items()}
            if name == "mean" and options.get("dtype") is not None:
                args = (array_api_strict.astype(inside(args[0]), options["dtype"]),)
            if name == "mean":
                options.pop("dtype", None)
            return wrapped(found(*(inside(arg) for arg in args), **options))

        return function


def no_shapes_from_data() -> Any:
    """A block in which functions whose result's size depends on values are errors."""
    return array_api_strict.ArrayAPIStrictFlags(data_dependent_shapes=False, boolean_indexing=False)


NAMESPACE = Namespace(array_api_strict, "strict")


def strict(array: np.ndarray) -> Strict:
    """The array on the second device."""
    return Strict(array_api_strict.asarray(array, device=DEVICE))
