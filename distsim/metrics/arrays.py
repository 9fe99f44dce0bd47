"""What every metric does first: find the arrays' library, check the two sides, choose the matrix view."""

import warnings
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_torch_array

from distsim.metrics.rounding import is_constant, unit_of

Array = Any  # a NumPy, CuPy or torch array; the functions ask it for its namespace


class UndefinedSimilarity(UserWarning):
    """The similarity of these arrays is 0/0; the public function returned nan. The message says why."""


class Undefined(Exception):
    """Raised inside the package where a similarity has no value; its text is the reason that gets recorded."""


class Workspace:
    """Memory that is used again and again: large arrays cost more to get from the system than to fill.

    Whoever asks for a name gets the array that the one before got. Only NumPy's need it; the other libraries keep what
    is given back to them.
    """

    def __init__(self) -> None:
        self._held: dict[str, np.ndarray] = {}

    def empty(self, xp: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array with anything in it."""
        if xp.__name__.rpartition(".")[2] != "numpy":
            return xp.empty(shape, dtype=dtype)
        held = self._held.get(name)
        if held is None or held.shape != shape or held.dtype != dtype:
            held = self._held[name] = np.empty(shape, dtype)
        return held


def or_nan(name: str, measure: Any, *args: Any, **options: Any) -> float:
    """`measure(*args, **options)` as a Python float; nan with an UndefinedSimilarity warning where it is undefined."""
    try:
        return float(measure(*args, **options))
    except Undefined as reason:
        warnings.warn(f"{name}: {reason}", UndefinedSimilarity, stacklevel=3)
        return float("nan")


def both_rows(name: str, X: Array, Y: Array, channels_last: bool) -> tuple[Array, Array]:
    """X and Y as float64 matrices whose rows are pixels of examples and whose columns are channels.

    (n, c, h, w) becomes (n*h*w, c), row order n, h, w; (n, p) stays. ValueError: shapes, rows, non-finite values.
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
    """X and Y as float64 matrices whose rows are examples: (n, c, h, w) becomes (n, c*h*w); (n, p) stays."""
    units = unit_of(X), unit_of(Y)
    X, Y = _checked(name, X, Y)
    X, Y = (A.reshape((A.shape[0], -1)) for A in (X, Y))
    return _exactly_constant(X, units[0]), _exactly_constant(Y, units[1])


def _exactly_constant(A: Array, unit: float) -> Array:
    """The matrix with its constant columns at their means, so that no rounding is left in them."""
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
    array_namespace(X, Y)  # TypeError where the two sides come from different libraries
    return X, Y
