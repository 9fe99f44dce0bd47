"""The statistics from which all metrics are computed, from one pass over several networks' activations of a layer.

A panel (all examples x some image rows) is read from every network and centred per feature, in the panel's own dtype.
It adds to float64 statistics: products of channels, cross-products of the pairs to compare, and the Gram matrix. As
long as there are fewer features than examples, the features are kept in place of the Gram matrix.

In memory at any time are one panel of each network, as it is stored, a few of its columns, centred, and the statistics:
n x n, or n x p for p < n, and c x c. That holds whatever n·h·w·c is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import device as device_of

from distsim.comparison.devices import capability, on_device
from distsim.metrics.arrays import Array, Workspace, full_rate_float64
from distsim.metrics.channels import ChannelSide
from distsim.metrics.kernels import KernelSide
from distsim.metrics.reads import NOW, Reads
from distsim.metrics.rounding import EPS, EPS32, is_constant, unit_of

PRECISIONS = ("exact", "fast")
BLOCK = 2**15  # rows (examples x pixels) whose products are taken in float64 at a time
NARROW = 2e10  # n²·p from which Gram matrices are summed from float32 products; below, float64 costs nothing
HELD = 2**29  # bytes up to which a centred layer is kept in memory instead of read again
COLUMNS = 2**13  # features of a panel that are centred at a time


class LayerSource(Protocol):
    """One network's activations of a layer, (n, h, w, c) or (n, p), on disk or in memory."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str:
        """Return the dtype of the stored values."""
        ...

    @property
    def panel_rows(self) -> int:
        """Return how many image rows a panel should have, given how the layer is stored."""
        ...

    def panels(self, rows: int) -> Iterator[Any]:
        """Yield all examples of `rows` image rows at a time, (n, rows, w, c), or the whole (n, p) at once."""
        ...


@dataclass(frozen=True)
class InMemory:
    """A LayerSource over an array that is already in memory."""

    array: Any
    name: str = "layer"
    kind: str = "conv"
    rows: int | None = None  # image rows in a panel; None: all

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
    """Which statistics of a network a pass collects, besides what its crosses need."""

    channels: bool = True
    kernel: bool = True
    wide: bool = False  # compute the kernel from float64 products, whatever the size
    passing: bool = False  # the kernel side need only be valid until the workspace is used again


@dataclass(frozen=True)
class Side:
    """One network's side of a layer."""

    channels: ChannelSide | None = None
    kernel: KernelSide | None = None


class Collector(Protocol):
    """What gets the panels of all sources, one after the other."""

    def add(self, panels: tuple["Slab", ...]) -> None: ...


class Held:
    """A layer that was read and centred once and is kept in memory."""

    def __init__(self, layer: LayerSource, device: str) -> None:
        self.name, self.kind, self.shape, self.panel_rows = layer.name, layer.kind, layer.shape, layer.panel_rows
        self.slabs = [slab for (slab,) in _slabs([layer], device, _Unshared(), [NOW])]


def collect(
    sources: Sequence[LayerSource | Held],
    wanted: Sequence[Wanted],
    crosses: Sequence[tuple[int, int]] = (),
    device: str = "cpu",
    workspace: Workspace | None = None,
    reads: Sequence[Reads] | None = None,
    also: Sequence["Collector"] = (),
) -> tuple[list[Side], dict[tuple[int, int], Array]]:
    """Return each network's side, and for each pair (i, j) in `crosses` the centred products of channels, (ci, cj).

    wanted : one for each source. A GPU whose float64 runs at full rate computes every kernel from float64 products
    reads : one for each source, also those of its side; None: all numbers are read at once
    also : get the same panels, for further statistics
    All sources are read together and once, in panels of the first source's `panel_rows`.
    ValueError: shapes do not fit together. FloatingPointError: an activation is not finite.
    """
    first, workspace = sources[0], workspace or Workspace()
    for other in sources[1:]:
        if other.shape[:-1] != first.shape[:-1]:
            raise ValueError(f"layer {other.name}: shapes {first.shape} and {other.shape} do not fit together")
    reads = reads or [NOW] * len(sources)
    channels = [_Channels() if want.channels else None for want in wanted]
    float64 = full_rate_float64(capability(device))
    kernels = [
        _Kernel(source.shape, replace(want, wide=want.wide or float64), workspace, read) if want.kernel else None
        for source, want, read in zip(sources, wanted, reads, strict=True)
    ]
    products = {cross: Cross() for cross in crosses}
    for panels in _slabs(sources, device, workspace, reads):
        for panel, channel, kernel in zip(panels, channels, kernels, strict=True):
            if channel is not None:
                channel.add(panel)
            if kernel is not None:
                kernel.add(panel)
        for (i, j), product in products.items():
            product.add(panels[i], panels[j])
        for collector in also:
            collector.add(panels)
    sides = [
        Side(channel.side(read) if channel else None, kernel.side() if kernel else None)
        for channel, kernel, read in zip(channels, kernels, reads, strict=True)
    ]
    return sides, {cross: product.total() for cross, product in products.items()}


@dataclass(frozen=True)
class Slab:
    """Some columns x of a panel, as x = A + shift."""

    A: Array  # (n, features), float32 or float64; constant columns are zero
    shift: Array  # (pixels, c) float64
    rest: Array  # (pixels, c) float64, the means of A's columns, which are only rounding
    varies: Array  # (features,) whether a column is not constant
    channels: int
    unit: float  # relative rounding of the values themselves

    @property
    def rows(self) -> Array:
        """Return A as (n·pixels, c)."""
        return self.A.reshape((-1, self.channels))

    def of(self, examples: Array) -> "Slab":
        """Return these examples of the panel, (m,) indices, less the same means."""
        return replace(self, A=array_namespace(self.A).take(self.A, examples, axis=0))


def _slabs(
    sources: Sequence[LayerSource | Held], device: str, workspace: Workspace, reads: Sequence[Reads]
) -> Iterator[tuple[Slab, ...]]:
    """Yield the same pixels of all sources, as many at a time as have about `COLUMNS` features of the first."""
    rows, pixels = sources[0].panel_rows, max(1, COLUMNS // sources[0].shape[-1])

    def of(source: LayerSource | Held, name: str, read: Reads) -> Iterator[Slab]:
        if isinstance(source, Held):
            yield from source.slabs
            return
        for panel in source.panels(rows):
            flat = on_device(panel, device).reshape((panel.shape[0], -1, panel.shape[-1]))
            del panel  # otherwise it would still be in memory while the next one is read
            for start in range(0, flat.shape[1], pixels):
                yield _centred(flat[:, start : start + pixels], source, workspace, name, read)
            del flat

    each = zip(sources, reads, strict=True)
    return zip(*(of(source, f"centred {i}", read) for i, (source, read) in enumerate(each)), strict=True)


class _Unshared(Workspace):
    """A workspace whose arrays may be kept."""

    def empty(self, like: Array, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        return array_namespace(like).empty(shape, dtype=dtype, device=device_of(like))


def held(layer: LayerSource, device: str) -> LayerSource | Held:
    """Read the layer into memory if that takes at most `HELD` bytes; otherwise return it as it is."""
    itemsize = 4 if _narrow(layer.shape) else 8
    return Held(layer, device) if np.prod(layer.shape) * itemsize <= HELD else layer


def _narrow(shape: tuple[int, ...]) -> bool:
    """Return whether float32 products are enough for values of at most float32; n²·p of the whole layer decides."""
    return shape[0] * float(np.prod(shape)) >= NARROW


def _centred(part: Array, source: LayerSource, workspace: Workspace, name: str, reads: Reads) -> Slab:
    """Subtract the columns' means, in float64 or, if `_narrow` allows it for the whole layer, in float32.

    The means are exact in float64. They are rounded to the dtype before they are subtracted, so that the difference of
    nearby numbers is exact. The remainder is kept in `rest`.
    The result is valid until the next call with the same `name`.
    source : whose part it is. FloatingPointError: a value is not finite.
    """
    xp = array_namespace(part)
    n, c = part.shape[0], part.shape[-1]
    narrow = str(part.dtype).rpartition(".")[2] in ("float16", "float32") and _narrow(source.shape)
    unit = unit_of(part)
    A = workspace.empty(part, name, part.shape, xp.float32 if narrow else xp.float64)
    A[...] = part
    A = A.reshape((n, -1))
    mean = xp.mean(A, axis=0, dtype=xp.float64)
    where = getattr(source, "label", f"layer {source.name}")  # a label names the network too
    error = FloatingPointError(f"{where} has activations that are not finite")
    reads.require(xp.all(xp.isfinite(mean)), error)
    shift = xp.astype(mean, A.dtype)
    A -= shift
    rest = mean - xp.astype(shift, xp.float64) if narrow else xp.mean(A, axis=0)
    largest = xp.astype(xp.maximum(xp.max(A, axis=0), -xp.min(A, axis=0)), xp.float64)
    constant = is_constant(largest, mean, unit)
    # centring leaves only rounding of a constant column, which may be all that the layer has
    if reads.deferred:
        A *= xp.astype(~constant, A.dtype)
        rest *= xp.astype(~constant, rest.dtype)
    elif reads.decide(xp.any(constant), likely=False):
        A[:, constant] = 0.0
        rest[constant] = 0.0
    shift = xp.astype(shift, xp.float64).reshape((-1, c))
    return Slab(A, shift, rest.reshape((-1, c)), ~constant, c, unit)


class _Channels:
    """Sums for the covariance of channels over examples and pixels."""

    def __init__(self) -> None:
        self._within: Array = 0.0
        self._n, self._unit = 0, EPS
        self._shifts: list[Array] = []
        self._rests: list[Array] = []

    def add(self, slab: Slab) -> None:
        self._n, self._unit = slab.A.shape[0], slab.unit
        self._within = self._within + product_of(slab.rows, None)
        self._shifts.append(slab.shift)
        self._rests.append(slab.rest)

    def side(self, reads: Reads) -> ChannelSide:
        xp = array_namespace(self._within)
        shift, rest = xp.concat(self._shifts), xp.concat(self._rests)
        mean, D = between(shift, rest, self._unit)
        products = self._within + self._n * (rest.T @ D + D.T @ rest + D.T @ D)
        return ChannelSide(self._n * shift.shape[0], mean, products, reads)


class Cross:
    """Sums for the cross-covariance of two networks' channels."""

    def __init__(self) -> None:
        self._within: Array = 0.0
        self._n, self._units = 0, (EPS, EPS)
        self._means: list[tuple[Array, Array, Array, Array]] = []

    def add(self, x: Slab, y: Slab) -> None:
        self._n, self._units = x.A.shape[0], (x.unit, y.unit)
        self._within = self._within + product_of(x.rows, y.rows)
        self._means.append((x.shift, x.rest, y.shift, y.rest))

    def total(self) -> Array:
        xp = array_namespace(self._within)
        shift_x, rest_x, shift_y, rest_y = (xp.concat(list(parts)) for parts in zip(*self._means, strict=True))
        Dx, Dy = between(shift_x, rest_x, self._units[0])[1], between(shift_y, rest_y, self._units[1])[1]
        return self._within + self._n * (rest_x.T @ Dy + Dx.T @ rest_y + Dx.T @ Dy)


def between(shift: Array, rest: Array, unit: float) -> tuple[Array, Array]:
    """Return the channels' means over all pixels (c,), and each pixel's shift minus these (pixels, c).

    The second is exactly zero for a channel whose pixels differ by no more than rounding.
    """
    xp = array_namespace(shift)
    mean = xp.mean(shift, axis=0)
    mean = mean + xp.mean(shift - mean, axis=0) + xp.mean(rest, axis=0)
    D = shift - mean
    return mean, xp.where(is_constant(xp.max(xp.abs(D), axis=0), mean, unit), xp.zeros_like(D), D)


def product_of(X: Array, Y: Array | None) -> Array:
    """Return XᵀY, or XᵀX if Y is None, summed in float64."""
    xp = array_namespace(X)
    total: Array = 0.0
    for start in range(0, X.shape[0], BLOCK):
        ours = xp.astype(X[start : start + BLOCK], xp.float64, copy=False)
        theirs = ours if Y is None else xp.astype(Y[start : start + BLOCK], xp.float64, copy=False)
        total = total + ours.T @ theirs
    return total


class _Kernel:
    """The kernel side: the features that vary, as long as they are fewer than the examples, then their Gram matrix.

    Where reads are deferred, constant features count too, and the shape alone decides.
    """

    def __init__(self, shape: tuple[int, ...], wanted: Wanted, workspace: Workspace, reads: Reads) -> None:
        self._n, self._p = shape[0], int(np.prod(shape[1:]))
        self._wide, self._passing, self._workspace, self._reads = wanted.wide, wanted.passing, workspace, reads
        self._features: Array | None = None
        self._filled = 0  # columns of `_features`
        self._narrow = False
        self._gram: Array | None = None
        self._unit = EPS

    def add(self, slab: Slab) -> None:
        A, xp = slab.A, array_namespace(slab.A)
        if self._gram is None:
            more = A.shape[1] if self._reads.deferred else self._reads.count(slab.varies)
            least = self._p if self._reads.deferred else self._filled + more
            if least < self._n:
                self._keep(slab, more)
                return
            self._gram = self._empty(A, "gram", (self._n, self._n))
            self._gram[...] = 0.0
            if self._features is not None:
                features = self._features[:, : self._filled]
                self._gram += features @ features.T
                self._features = None
        if A.dtype == xp.float64 or not self._wide:
            self._gram += self._product(A)
            self._unit = EPS32 if A.dtype == xp.float32 else self._unit
            return
        for start in range(0, A.shape[1], self._n):
            self._gram += self._product(xp.astype(A[:, start : start + self._n], xp.float64))

    def _keep(self, slab: Slab, more: int) -> None:
        """Keep the `more` columns that vary, exactly centred."""
        A, rest, xp = slab.A, slab.rest.reshape((-1,)), array_namespace(slab.A)
        if self._features is None:
            self._features = self._empty(A, "features", (self._n, min(self._n, self._p)))
        if more < A.shape[1]:
            A, rest = A[:, slab.varies], rest[slab.varies]
        columns = self._features[:, self._filled : self._filled + more]
        columns[...] = A
        columns -= rest
        self._filled += more
        self._narrow = A.dtype == xp.float32 and not self._wide

    def _empty(self, like: Array, name: str, shape: tuple[int, int]) -> Array:
        workspace = self._workspace if self._passing else _Unshared()
        return workspace.empty(like, f"passing {name}", shape, array_namespace(like).float64)

    def _product(self, A: Array) -> Array:
        """Return AAᵀ, summed in A's dtype."""
        if not isinstance(A, np.ndarray):
            return A @ A.T
        return np.matmul(A, A.T, out=self._workspace.empty(A, f"product {A.dtype}", (self._n, self._n), A.dtype))

    def side(self) -> KernelSide:
        if self._gram is None:
            features: Array = self._features
            features = features[:, : self._filled]
            return KernelSide(self._n, self._p, features=features, narrow=self._narrow, reads=self._reads)
        K = self._gram  # centred on both sides below, since the means of its columns' features are not quite zero
        xp = array_namespace(K)
        means = xp.mean(K, axis=0)
        K -= means[:, None]
        K -= means[None, :] - xp.mean(means)
        return KernelSide(self._n, self._p, gram=K, unit=self._unit, reads=self._reads)
