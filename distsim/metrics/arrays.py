"""The first steps of every metric: find the arrays' library, check the two sides, bring them to matrices."""

import warnings
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_cupy_array, is_torch_array

from distsim.metrics.rounding import is_constant, unit_of

Array = Any  # a NumPy, CuPy or torch array; functions get its library's functions from array_namespace

# compute capabilities of the data-centre cards whose float64 runs at half of float32's rate or more: P100, V100 (and
# Titan V), A100 and A30, H100 and H200, B200. On all others, such as 6.1, 7.5, 8.6, 8.9, 10.3 (B300) and 12.0, it runs
# at a 32nd or less
FULL_RATE = frozenset({(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)})


class UndefinedSimilarity(UserWarning):
    """The warning of a public metric that returned nan, because the similarity is 0/0. The message says why."""


class UnreliableSimilarity(UserWarning):
    """The warning of a comparison in which some values say little, for example because there are too few examples."""


class Undefined(Exception):
    """Raised inside the package where a similarity has no value. Its text is recorded as the reason."""


class Workspace:
    """Arrays that are reused, because large arrays cost more to allocate than to fill.

    A name stands for one array, so asking for it again overwrites what it held. Only NumPy needs this: the other
    libraries keep freed memory for themselves.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def empty(self, xp: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return the array of that name with arbitrary content; make a new one if shape or dtype have changed."""
        if xp.__name__.rpartition(".")[2] != "numpy":
            return xp.empty(shape, dtype=dtype)
        array = self._arrays.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            array = self._arrays[name] = np.empty(shape, dtype)
        return array


def on_host(A: Array) -> np.ndarray:
    """Return an array's values as a NumPy array."""
    if is_cupy_array(A):
        return np.asarray(A.get())
    return np.asarray(A.cpu()) if is_torch_array(A) else np.asarray(A)


def full_rate_float64(capability: tuple[int, int]) -> bool:
    """Return whether a GPU of this compute capability, (major, minor), computes in float64 at full rate.

    False for a capability that is not in the table.
    """
    return capability in FULL_RATE


def or_nan(name: str, measure: Any, *args: Any, **options: Any) -> float:
    """Return `measure(*args, **options)` as a float, or nan with an UndefinedSimilarity warning if it is undefined.

    name : of the metric, for the warning
    """
    try:
        return float(measure(*args, **options))
    except Undefined as reason:
        warnings.warn(f"{name}: {reason}", UndefinedSimilarity, stacklevel=3)
        return float("nan")


def both_rows(name: str, X: Array, Y: Array, channels_last: bool) -> tuple[Array, Array]:
    """Return X and Y as float64 matrices whose rows are pixels of examples and whose columns are channels.

    (n, c, h, w) becomes (n*h*w, c) with rows in the order n, h, w. (n, p) stays.
    name : of the metric, for errors
    channels_last : 4-D arrays are (n, h, w, c)
    ValueError: shapes or numbers of rows do not match, or a value is not finite.
    """
    units = unit_of(X), unit_of(Y)
    X, Y = _checked(name, X, Y)
    height_width = slice(1, 3) if channels_last else slice(2, 4)
    sizes = [tuple(A.shape[height_width]) for A in (X, Y)]
    if X.ndim == Y.ndim == 4 and sizes[0] != sizes[1]:
        raise ValueError(f"{name}: X has spatial size {sizes[0]}, Y has {sizes[1]}; they must match")
    X, Y = (_rows(A, channels_last) for A in (X, Y))
    if X.shape[0] != Y.shape[0]:
        raise ValueError(f"{name}: X has {X.shape[0]} rows (examples x pixels), Y has {Y.shape[0]}; they must match")
    return _exactly_constant(X, units[0]), _exactly_constant(Y, units[1])


def both_examples(name: str, X: Array, Y: Array) -> tuple[Array, Array]:
    """Return X and Y as float64 matrices whose rows are examples: (n, c, h, w) becomes (n, c*h*w), (n, p) stays.

    name : of the metric, for errors
    ValueError: the numbers of rows differ, or a value is not finite.
    """
    units = unit_of(X), unit_of(Y)
    X, Y = _checked(name, X, Y)
    X, Y = (A.reshape((A.shape[0], -1)) for A in (X, Y))
    return _exactly_constant(X, units[0]), _exactly_constant(Y, units[1])


def _exactly_constant(A: Array, unit: float) -> Array:
    """Set the constant columns to their means, so that no rounding is left in them."""
    xp = array_namespace(A)
    mean = xp.mean(A, axis=0)
    constant = is_constant(xp.max(xp.abs(A - mean), axis=0), mean, unit)
    return xp.where(constant, mean, A) if bool(xp.any(constant)) else A


def _rows(A: Array, channels_last: bool) -> Array:
    if A.ndim == 2:
        return A
    if not channels_last:
        A = array_namespace(A).permute_dims(A, (0, 2, 3, 1))
    return A.reshape((-1, A.shape[-1]))


def _checked(name: str, X: Array, Y: Array) -> tuple[Array, Array]:
    sides = []
    for label, A in (("X", X), ("Y", Y)):
        if is_torch_array(A):
            A = A.detach()
        xp = array_namespace(A)
        if A.ndim not in (2, 4):
            raise ValueError(f"{name}: {label} must be (n, p) or (n, c, h, w), got shape {tuple(A.shape)}")
        if 0 in A.shape:
            raise ValueError(f"{name}: {label} is empty, its shape is {tuple(A.shape)}")
        A = xp.astype(A, xp.float64)
        if not bool(xp.all(xp.isfinite(A))):
            raise ValueError(f"{name}: {label} has values that are not finite")
        sides.append(A)
    X, Y = sides
    if X.shape[0] != Y.shape[0]:
        raise ValueError(f"{name}: X has {X.shape[0]} rows, Y has {Y.shape[0]}; rows are examples and must match")
    array_namespace(X, Y)  # TypeError if the two sides come from different libraries
    return X, Y
