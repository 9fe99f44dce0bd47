"""What all metrics are made of, from one pass over any number of networks' activations of a layer.

A panel (all examples x some image rows) is read from every network, centred per feature in the panel's own dtype, and
adds to float64 statistics: products of channels, cross-products of the pairs that are to be compared, and either the
Gram matrix or, while they are fewer than the examples, the features themselves. In memory at any time are one panel of
each network, as it is stored, a few of its columns centred, and the statistics: n x n, or n x p for p < n, and c x c;
whatever n·h·w·c is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, Workspace
from distsim.metrics.channels import ChannelSide
from distsim.metrics.kernels import KernelSide
from distsim.metrics.rounding import EPS, EPS32, is_constant, unit_of

PRECISIONS = ("exact", "fast")
BLOCK = 2**15  # rows (examples x pixels) whose products are taken in float64 at a time
NARROW = 2e10  # n²·p from which Gram matrices are summed from float32 products; below, float64 costs nothing
HELD = 2**29  # bytes of a layer, centred, up to which it is kept in memory rather than read again
COLUMNS = 2**13  # that are centred at a time, of a panel


class LayerSource(Protocol):
    """One network's activations of a layer, (n, h, w, c) or (n, p), wherever they are."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str:
        """Of the values as they are stored."""
        ...

    @property
    def panel_rows(self) -> int:
        """Image rows in a panel that suits how the layer is stored."""
        ...

    def panels(self, rows: int) -> Iterator[Any]:
        """All examples of `rows` image rows at a time, (n, rows, w, c), or the whole (n, p) at once."""
        ...


@dataclass(frozen=True)
class InMemory:
    """A LayerSource over an array that is already in memory."""

    array: Any
    name: str = "layer"
    kind: str = "conv"
    rows: int | None = None  # in a panel; None: all

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> str:
        return str(self.array.dtype).removeprefix("torch.")

    @property
    def panel_rows(self) -> int:
        return self.rows or self.shape[1]

    def panels(self, rows: int) -> Iterator[Any]:
        if len(self.shape) == 2:
            yield self.array
            return
        for start in range(0, self.shape[1], rows):
            yield self.array[:, start : start + rows]


@dataclass(frozen=True)
class Wanted:
    """Which statistics of a network a pass shall collect, besides what its crosses need."""

    channels: bool = True
    kernel: bool = True
    wide: bool = False  # the kernel from float64 products, whatever the size
    passing: bool = False  # the kernel side is valid until the workspace is used again


@dataclass(frozen=True)
class Side:
    """One network's side of a layer."""

    channels: ChannelSide | None = None
    kernel: KernelSide | None = None


class Held:
    """A layer that was read and centred once, and is kept in memory."""

    def __init__(self, layer: LayerSource, device: str) -> None:
        self.name, self.kind, self.shape, self.panel_rows = layer.name, layer.kind, layer.shape, layer.panel_rows
        self.slabs = [slab for (slab,) in _slabs([layer], device, _Unshared())]


def collect(
    sources: Sequence[LayerSource | Held],
    wanted: Sequence[Wanted],
    crosses: Sequence[tuple[int, int]] = (),
    device: str = "cpu",
    workspace: Workspace | None = None,
) -> tuple[list[Side], dict[tuple[int, int], Array]]:
    """Each network's side, and of each pair (i, j) in `crosses` the centred cross-products of channels, (ci, cj).

    All are read together, panel by panel of the first source's rows; each once. ValueError: shapes do not fit together.
    FloatingPointError: an activation is not finite.
    """
    first, workspace = sources[0], workspace or Workspace()
    for other in sources[1:]:
        if other.shape[:-1] != first.shape[:-1]:
            raise ValueError(f"layer {other.name}: shapes {first.shape} and {other.shape} do not fit together")
    channels = [_Channels() if want.channels else None for want in wanted]
    kernels = [
        _Kernel(one.shape, want, workspace) if want.kernel else None for one, want in zip(sources, wanted, strict=True)
    ]
    products = {cross: _Cross() for cross in crosses}
    for panels in _slabs(sources, device, workspace):
        for panel, channel, kernel in zip(panels, channels, kernels, strict=True):
            if channel is not None:
                channel.add(panel)
            if kernel is not None:
                kernel.add(panel)
        for (i, j), product in products.items():
            product.add(panels[i], panels[j])
    sides = [
        Side(channel.side() if channel else None, kernel.side() if kernel else None)
        for channel, kernel in zip(channels, kernels, strict=True)
    ]
    return sides, {cross: product.total() for cross, product in products.items()}


@dataclass(frozen=True)
class _Slab:
    """Some columns of a panel as x = A + shift, with the mean of A's columns, which is all rounding, in `rest`."""

    A: Array  # (n, features), float32 or float64
    shift: Array  # (pixels, c) float64
    rest: Array  # (pixels, c) float64
    varies: Array  # (features,) whether a column of A is not constant; those that are, are zero
    channels: int
    unit: float  # relative rounding of the values themselves

    @property
    def rows(self) -> Array:
        """(n·pixels, c)"""
        return self.A.reshape((-1, self.channels))


def _slabs(sources: Sequence[LayerSource | Held], device: str, workspace: Workspace) -> Iterator[tuple[_Slab, ...]]:
    """The same pixels of all sources, so many at a time as have about `COLUMNS` features of the first."""
    rows, pixels = sources[0].panel_rows, max(1, COLUMNS // sources[0].shape[-1])

    def of(source: LayerSource | Held, name: str) -> Iterator[_Slab]:
        if isinstance(source, Held):
            yield from source.slabs
            return
        for panel in source.panels(rows):
            flat = on_device(panel, device).reshape((panel.shape[0], -1, panel.shape[-1]))
            del panel  # else the next one is read beside it
            for start in range(0, flat.shape[1], pixels):
                slab = _centred(flat[:, start : start + pixels], source.shape, workspace, name)
                if slab is None:
                    where = getattr(source, "label", f"layer {source.name}")  # a stored one knows its network
                    raise FloatingPointError(f"{where} has activations that are not finite")
                yield slab
            del flat

    return zip(*(of(source, f"centred {i}") for i, source in enumerate(sources)), strict=True)


class _Unshared(Workspace):
    """A workspace whose arrays may be kept."""

    def empty(self, xp: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        return xp.empty(shape, dtype=dtype)


def held(layer: LayerSource, device: str) -> LayerSource | Held:
    """The layer, kept in memory where that takes at most `HELD` bytes."""
    itemsize = 4 if _narrow(layer.shape) else 8
    return Held(layer, device) if np.prod(layer.shape) * itemsize <= HELD else layer


def _narrow(shape: tuple[int, ...]) -> bool:
    """Whether float32 products will do, if the values are no wider; n²·p of the whole layer decides."""
    return shape[0] * float(np.prod(shape)) >= NARROW


def _centred(part: Array, shape: tuple[int, ...], workspace: Workspace, name: str) -> _Slab | None:
    """Columns minus their means, in float64 where the values or the size of the whole layer ask for it, else float32.

    The means are exact in float64. What is subtracted is rounded to the dtype, so that the difference of nearby numbers
    is exact, and the remainder is accounted for. Valid until the next call with the same name. None: not finite.
    """
    xp = array_namespace(part)
    n, c = part.shape[0], part.shape[-1]
    narrow = part.dtype in (xp.float16, xp.float32) and _narrow(shape)
    unit = unit_of(part)
    A = workspace.empty(xp, name, part.shape, xp.float32 if narrow else xp.float64)
    A[...] = part
    A = A.reshape((n, -1))
    mean = xp.mean(A, axis=0, dtype=xp.float64)
    if not bool(xp.all(xp.isfinite(mean))):
        return None
    shift = xp.astype(mean, A.dtype)
    A -= shift
    rest = mean - xp.astype(shift, xp.float64) if narrow else xp.mean(A, axis=0)
    largest = xp.astype(xp.maximum(xp.max(A, axis=0), -xp.min(A, axis=0)), xp.float64)
    constant = is_constant(largest, mean, unit)
    if bool(xp.any(constant)):  # what centring leaves of it is rounding, and may be all there is
        A[:, constant] = 0.0
        rest[constant] = 0.0
    shift = xp.astype(shift, xp.float64).reshape((-1, c))
    return _Slab(A, shift, rest.reshape((-1, c)), ~constant, c, unit)


class _Channels:
    """Sums for the covariance of channels over examples and pixels."""

    def __init__(self) -> None:
        self._within: Array = 0.0
        self._n, self._unit = 0, EPS
        self._shifts: list[Array] = []
        self._rests: list[Array] = []

    def add(self, slab: _Slab) -> None:
        self._n, self._unit = slab.A.shape[0], slab.unit
        self._within = self._within + _products(slab.rows, None)
        self._shifts.append(slab.shift)
        self._rests.append(slab.rest)

    def side(self) -> ChannelSide:
        xp = array_namespace(self._within)
        shift, rest = xp.concat(self._shifts), xp.concat(self._rests)
        mean, D = _between(shift, rest, self._unit)
        products = self._within + self._n * (rest.T @ D + D.T @ rest + D.T @ D)
        return ChannelSide(self._n * shift.shape[0], mean, products)


class _Cross:
    """Sums for the cross-covariance of two networks' channels."""

    def __init__(self) -> None:
        self._within: Array = 0.0
        self._n, self._units = 0, (EPS, EPS)
        self._means: list[tuple[Array, Array, Array, Array]] = []

    def add(self, x: _Slab, y: _Slab) -> None:
        self._n, self._units = x.A.shape[0], (x.unit, y.unit)
        self._within = self._within + _products(x.rows, y.rows)
        self._means.append((x.shift, x.rest, y.shift, y.rest))

    def total(self) -> Array:
        xp = array_namespace(self._within)
        shift_x, rest_x, shift_y, rest_y = (xp.concat(list(parts)) for parts in zip(*self._means, strict=True))
        Dx, Dy = _between(shift_x, rest_x, self._units[0])[1], _between(shift_y, rest_y, self._units[1])[1]
        return self._within + self._n * (rest_x.T @ Dy + Dx.T @ rest_y + Dx.T @ Dy)


def _between(shift: Array, rest: Array, unit: float) -> tuple[Array, Array]:
    """Channels' means over all pixels (c,), and how far each pixel's shift is from them (pixels, c).

    A channel whose pixels differ by no more than rounding is exactly zero.
    """
    xp = array_namespace(shift)
    mean = xp.mean(shift, axis=0)
    mean = mean + xp.mean(shift - mean, axis=0) + xp.mean(rest, axis=0)
    D = shift - mean
    return mean, xp.where(is_constant(xp.max(xp.abs(D), axis=0), mean, unit), xp.zeros_like(D), D)


def _products(X: Array, Y: Array | None) -> Array:
    """XᵀY, or XᵀX, summed in float64."""
    xp = array_namespace(X)
    total: Array = 0.0
    for start in range(0, X.shape[0], BLOCK):
        ours = xp.astype(X[start : start + BLOCK], xp.float64, copy=False)
        theirs = ours if Y is None else xp.astype(Y[start : start + BLOCK], xp.float64, copy=False)
        total = total + ours.T @ theirs
    return total


class _Kernel:
    """The kernel side: features that vary as long as they are fewer than examples, from then on their Gram matrix."""

    def __init__(self, shape: tuple[int, ...], wanted: Wanted, workspace: Workspace) -> None:
        self._n, self._p = shape[0], int(np.prod(shape[1:]))
        self._wide, self._passing, self._workspace = wanted.wide, wanted.passing, workspace
        self._features: Array | None = None
        self._held = 0  # of its columns
        self._narrow = False
        self._gram: Array | None = None
        self._unit = EPS

    def add(self, slab: _Slab) -> None:
        A, xp = slab.A, array_namespace(slab.A)
        if self._gram is None:
            more = int(xp.sum(xp.astype(slab.varies, xp.int64)))
            if self._held + more < self._n:
                self._hold(slab, more)
                return
            self._gram = self._empty(xp, "gram", (self._n, self._n))
            self._gram[...] = 0.0
            if self._features is not None:
                before = self._features[:, : self._held]
                self._gram += before @ before.T
                self._features = None
        if A.dtype == xp.float64 or not self._wide:
            self._gram += self._product(A)
            self._unit = EPS32 if A.dtype == xp.float32 else self._unit
            return
        for start in range(0, A.shape[1], self._n):
            self._gram += self._product(xp.astype(A[:, start : start + self._n], xp.float64))

    def _hold(self, slab: _Slab, more: int) -> None:
        """Keep the columns that vary, exactly centred."""
        A, rest, xp = slab.A, slab.rest.reshape((-1,)), array_namespace(slab.A)
        if self._features is None:
            self._features = self._empty(xp, "features", (self._n, min(self._n, self._p)))
        if more < A.shape[1]:
            A, rest = A[:, slab.varies], rest[slab.varies]
        columns = self._features[:, self._held : self._held + more]
        columns[...] = A
        columns -= rest
        self._held += more
        self._narrow = A.dtype == xp.float32 and not self._wide

    def _empty(self, xp: Any, name: str, shape: tuple[int, int]) -> Array:
        if self._passing:
            return self._workspace.empty(xp, f"passing {name}", shape, xp.float64)
        return xp.empty(shape, dtype=xp.float64)

    def _product(self, A: Array) -> Array:
        """AAᵀ, summed in A's dtype."""
        product = self._workspace.empty(array_namespace(A), f"product {A.dtype}", (self._n, self._n), A.dtype)
        return np.matmul(A, A.T, out=product) if isinstance(A, np.ndarray) else A @ A.T

    def side(self) -> KernelSide:
        if self._gram is None:
            features: Array = self._features
            return KernelSide(self._n, self._p, features=features[:, : self._held], narrow=self._narrow)
        K = self._gram  # of columns whose means are not quite zero: centred on both sides
        xp = array_namespace(K)
        means = xp.mean(K, axis=0)
        K -= means[:, None]
        K -= means[None, :] - xp.mean(means)
        return KernelSide(self._n, self._p, gram=K, unit=self._unit)


def on_device(panel: Any, device: str) -> Array:
    """The panel where the arithmetic happens: NumPy on the CPU, CuPy on the GPU. bfloat16 tensors become float32."""
    if device == "cpu":
        return np.asarray(panel)
    import cupy

    return cupy.asarray(panel)
