"""When numbers leave the device that computes them.

A number on a GPU is known to the host only after the GPU has done all work before it. A host that looks at each number
makes the GPU wait in turn. So a side or a pair of a comparison on a GPU is *deferred*:

- Numbers stay arrays of no dimension. What is computed from them on the host is a `Later`.
- A decision between two ways takes the likely one and notes that as an assumption.
- Counts, such as ranks, do not cut arrays. What is beyond them is set to zero (`first`, `last`).
- `fetched` reads all numbers and assumptions together, in one copy to the host. Where an assumption of a metric was
  wrong, that metric is computed again and decides by what it reads.

On the CPU nothing is deferred: numbers are Python's, and counts cut arrays. Functions of this package call the methods
of the `Reads` that they are given, and work both ways. No other way leads from an array to a Python number.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj, is_cupy_array, is_torch_array, to_device

T = TypeVar("T")
Array = Any  # as in distsim.metrics.arrays
Number = Any  # a Python number; where reads are deferred an array of no dimension, or a Later


@dataclass(frozen=True)
class Later:
    """A number of the host that is computed from numbers of the device when these have been read."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Assumption:
    """What was decided without reading: a condition, and the answer that was taken for likely."""

    condition: Array
    likely: bool

    @property
    def right(self) -> Array:
        """Return whether the answer was right, as an array of no dimension."""
        return self.condition == self.likely


_noted: ContextVar[list[Assumption] | None] = ContextVar("noted", default=None)


@contextlib.contextmanager
def noting() -> Iterator[list[Assumption]]:
    """Yield a list that gets the assumptions of what is computed in the block, or was computed earlier and is used."""
    notes: list[Assumption] = []
    token = _noted.set(notes)
    try:
        yield notes
    finally:
        _noted.reset(token)


def _note(assumptions: list[Assumption]) -> None:
    if (notes := _noted.get()) is not None:
        notes += assumptions


class Cached(Generic[T]):
    """A `functools.cached_property` that also keeps the assumptions on which its value rests, for each later use."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function, self.__doc__ = function, function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name, self._notes = name, f"assumptions of {name}"

    @overload
    def __get__(self, one: None, owner: type) -> "Cached[T]": ...
    @overload
    def __get__(self, one: object, owner: type) -> T: ...
    def __get__(self, one: Any, owner: type) -> Any:
        if one is None:
            return self
        kept = one.__dict__
        if self._name not in kept:
            with noting() as notes:
                kept[self._name] = self._function(one)
            kept[self._notes] = notes
        _note(kept[self._notes])
        return kept[self._name]

    def __set__(self, one: object, value: T) -> None:  # so that Python asks here each time
        raise AttributeError(f"{self._name} cannot be set")


def assumptions_of(one: object) -> list[Assumption]:
    """Return the assumptions on which the values rest that this object keeps in its `Cached`s."""
    kept = one.__dict__.items()
    return [each for name, notes in kept if name.startswith("assumptions of ") for each in notes]


class Reads:
    """How a side or a pair reads numbers: at once, or deferred.

    required : what must hold without having been read: conditions, and the error to raise where one does not
    """

    def __init__(self, deferred: bool = False) -> None:
        self.deferred = deferred
        self.required: list[tuple[Array, Exception]] = []

    def decide(self, condition: Any, likely: bool) -> bool:
        """Return whether a condition holds. Deferred: return the likely answer and note it as an assumption."""
        if self.deferred and is_array_api_obj(condition) and not isinstance(condition, np.generic):
            _note([Assumption(condition, likely)])
            return likely
        return bool(read(condition))

    def require(self, condition: Array, error: Exception) -> None:
        """Raise the error if a condition does not hold. Deferred: note both."""
        if self.deferred:
            self.required.append((condition, error))
        elif not bool(read(condition)):
            raise error

    def number(self, value: Array) -> Number:
        """Return an array's only element as a float. Deferred: return it as it is."""
        return value if self.deferred else float(read(value))

    def count(self, mask: Array) -> Number:
        """Return how many entries of a mask are True, as an int. Deferred: as an array of no dimension."""
        xp = array_namespace(mask)
        total = xp.sum(xp.astype(mask, xp.int64))
        return total if self.deferred else int(read(total))

    def later(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return function(*args) for numbers. Deferred: return it as a `Later`."""
        return Later(function, args) if self.deferred else function(*args)

    @property
    def kept(self) -> list[Array]:
        """Return for each requirement whether it holds, as arrays of no dimension."""
        return [condition for condition, _ in self.required]


NOW = Reads()  # reads at once


def read(value: Any) -> Any:
    """Copy an array to the host. It is the only place where work on a device is waited for."""
    if is_torch_array(value):
        return value.detach().cpu().numpy()
    if is_cupy_array(value):
        return value.get()
    if isinstance(value, np.ndarray | np.generic | bool | int | float):
        return value
    return np.asarray(to_device(value, "cpu"))


def fetched(tree: Any) -> Any:
    """Return a tree of dicts, lists, tuples and `Later`s with numbers in place of its arrays of no dimension.

    All arrays are read in one copy. They must be of one library and on one device.
    """
    leaves = list(_arrays(tree))
    if not leaves:
        return _filled(tree, iter(()))
    xp = array_namespace(*leaves)
    numbers = read(xp.stack([xp.astype(leaf, xp.float64) for leaf in leaves])).tolist()  # counts are far below 2^53
    return _filled(tree, iter([_kind(leaf)(number) for leaf, number in zip(leaves, numbers, strict=True)]))


def computed(tree: Any) -> Any:
    """Return a fetched tree with numbers in place of its `Later`s."""
    if isinstance(tree, Later):
        return tree.function(*computed(tree.args))
    return _mapped(tree, computed) if isinstance(tree, dict | list | tuple) else tree


def _arrays(tree: Any) -> Iterator[Array]:
    if isinstance(tree, Later):
        yield from _arrays(tree.args)
    elif isinstance(tree, dict):
        yield from _arrays(tuple(tree.values()))
    elif isinstance(tree, list | tuple):
        for branch in tree:
            yield from _arrays(branch)
    elif _is_leaf(tree):
        yield tree


def _filled(tree: Any, numbers: Iterator[Any]) -> Any:
    """Return the tree with these numbers in place of its arrays, in the order of `_arrays`."""
    if isinstance(tree, Later):
        return Later(tree.function, _filled(tree.args, numbers))
    if isinstance(tree, dict | list | tuple):
        return _mapped(tree, lambda branch: _filled(branch, numbers))
    return next(numbers) if _is_leaf(tree) else tree


def _mapped(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Return a dict, list or tuple with function(branch) in place of each branch, in their order."""
    if isinstance(tree, dict):
        return {name: function(branch) for name, branch in tree.items()}
    mapped = [function(branch) for branch in tree]
    return mapped if isinstance(tree, list) else tuple(mapped)


def _is_leaf(tree: Any) -> bool:
    return is_array_api_obj(tree) and not isinstance(tree, np.generic)


def _kind(leaf: Array) -> type:
    dtype = str(leaf.dtype)
    return bool if "bool" in dtype else int if "int" in dtype else float


# --- counts that may be deferred -------------------------------------------------------------------------------------


def first(A: Array, k: Number, axis: int = 0) -> Array:
    """Return the first k rows or columns of A (or entries of a vector). Deferred: all, zero from the k-th on."""
    if isinstance(k, int):
        return A[:k] if axis == 0 else A[:, :k]
    return _where(A, _places(A, axis) < k, axis)


def last(A: Array, k: Number, axis: int = 0) -> Array:
    """Return the last k, as `first`. k is at least 1."""
    if isinstance(k, int):
        return A[-k:] if axis == 0 else A[:, -k:]
    return _where(A, _places(A, axis) >= A.shape[axis] - k, axis)


def _places(A: Array, axis: int) -> Array:
    return array_namespace(A).arange(A.shape[axis], device=device(A))


def _where(A: Array, kept: Array, axis: int) -> Array:
    xp = array_namespace(A)
    if A.ndim == 2:
        kept = kept[:, None] if axis == 0 else kept[None, :]
    return xp.where(kept, A, xp.zeros_like(A))


def least(a: Number, b: Number) -> Number:
    """Return the smaller of two counts."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    if isinstance(a, int):
        a, b = b, a
    xp = array_namespace(a)
    return xp.where(a < b, a, b)


def as_divisor(A: Array) -> Array:
    """Return A with ones in place of its zeros, which are beyond a count."""
    xp = array_namespace(A)
    return xp.where(A > 0, A, xp.ones_like(A))
