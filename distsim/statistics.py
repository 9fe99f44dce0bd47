"""What all metrics are made of, from one pass over any number of networks' activations of a layer.

A panel (all examples x some image rows) is read from every network, centred per feature in the panel's own dtype, and
adds to float64 statistics: products of channels, cross-products of the pairs that are to be compared, and either the
Gram matrix or, while they are fewer than the examples, the features themselves. In memory at any time are one panel of
each network, stored and centred, and the statistics: n x n, or n x p for p < n, and c x c; whatever n·h·w·c is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, rounding
from distsim.metrics.channels import EPS, ChannelSide
from distsim.metrics.kernels import KernelSide

PRECISIONS = ("exact", "fast")
BLOCK = 2**15  # rows (examples x pixels) whose products are taken in float64 at a time
NARROW = 2e10  # n²·p from which Gram matrices are summed from float32 products; below, float64 costs nothing
EPS32 = float(np.finfo(np.float32).eps)


class LayerSource(Protocol):
    """One network's activations of a layer, (n, h, w, c) or (n, p), wherever they are."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
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


@dataclass(frozen=True)
class Side:
    """One network's side of a layer."""

    channels: ChannelSide | None = None
    kernel: KernelSide | None = None


def collect(
    sources: Sequence[LayerSource],
    wanted: Sequence[Wanted],
    crosses: Sequence[tuple[int, int]] = (),
    device: str = "cpu",
    precision: str = "exact",
) -> tuple[list[Side], dict[tuple[int, int], Array]]:
    """Each network's side, and of each pair (i, j) in `crosses` the centred cross-products of channels, (ci, cj).

    All are read together, panel by panel of the first source's rows; each once. ValueError: shapes do not fit together.
    """
    first = sources[0]
    for other in sources[1:]:
        if other.shape[:-1] != first.shape[:-1]:
            raise ValueError(f"layer {other.name}: shapes {first.shape} and {other.shape} do not fit together")
    channels = [_Channels() if want.channels else None for want in wanted]
    kernels = [
        _Kernel(one.shape, want.wide, precision) if want.kernel else None
        for one, want in zip(sources, wanted, strict=True)
    ]
    products = {cross: _Cross() for cross in crosses}
    rows = first.panel_rows
    readers = [source.panels(rows) for source in sources]
    for _ in range(-(-first.shape[1] // rows) if len(first.shape) == 4 else 1):
        panels = [
            _centred(on_device(next(reader), device), source.shape)
            for reader, source in zip(readers, sources, strict=True)
        ]
        for panel, channel, kernel in zip(panels, channels, kernels, strict=True):
            if channel is not None:
                channel.add(panel)
            if kernel is not None:
                kernel.add(panel)
        for (i, j), product in products.items():
            product.add(panels[i], panels[j])
        del panels, panel  # else the next ones are read beside them
    sides = [
        Side(channel.side() if channel else None, kernel.side() if kernel else None)
        for channel, kernel in zip(channels, kernels, strict=True)
    ]
    return sides, {cross: product.total() for cross, product in products.items()}


@dataclass(frozen=True)
class _Panel:
    """A panel as x = A + shift, with the mean of A's columns, which is all rounding, in `rest`."""

    A: Array  # (n, features), float32 or float64
    shift: Array  # (pixels, c) float64
    rest: Array  # (pixels, c) float64
    channels: int
    unit: float  # relative rounding of the values themselves

    @property
    def rows(self) -> Array:
        """(n·pixels, c)"""
        return self.A.reshape((-1, self.channels))


def _centred(panel: Array, shape: tuple[int, ...]) -> _Panel:
    """Columns minus their means, in float64 where the values or the size of the whole layer ask for it, else float32.

    The means are exact in float64. What is subtracted is rounded to the panel's dtype, so that the difference of nearby
    numbers is exact, and the remainder is accounted for.
    """
    xp = array_namespace(panel)
    n, c = panel.shape[0], panel.shape[-1]
    flat = panel.reshape((n, -1))
    narrow = flat.dtype in (xp.float16, xp.float32) and n * float(np.prod(shape)) >= NARROW
    unit = rounding(flat)
    flat = xp.astype(flat, xp.float32 if narrow else xp.float64)
    mean = xp.mean(flat, axis=0, dtype=xp.float64)
    if not bool(xp.all(xp.isfinite(mean))):
        raise FloatingPointError("it has activations that are not finite")
    shift = xp.astype(mean, flat.dtype)
    A = flat - shift
    rest = mean - xp.astype(shift, xp.float64) if narrow else xp.mean(A, axis=0)
    largest = xp.astype(xp.maximum(xp.max(A, axis=0), -xp.min(A, axis=0)), xp.float64)
    constant = largest <= 8 * unit * xp.abs(mean)
    if bool(xp.any(constant)):  # what centring leaves of it is rounding, and may be all there is
        A[:, constant] = 0.0
        rest[constant] = 0.0
    return _Panel(A, xp.astype(shift, xp.float64).reshape((-1, c)), rest.reshape((-1, c)), c, unit)


class _Channels:
    """Sums for the covariance of channels over examples and pixels."""

    def __init__(self) -> None:
        self._within: Array = 0.0
        self._n, self._unit = 0, EPS
        self._shifts: list[Array] = []
        self._rests: list[Array] = []

    def add(self, panel: _Panel) -> None:
        self._n, self._unit = panel.A.shape[0], panel.unit
        self._within = self._within + _products(panel.rows, None)
        self._shifts.append(panel.shift)
        self._rests.append(panel.rest)

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

    def add(self, x: _Panel, y: _Panel) -> None:
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
    return mean, xp.where(xp.max(xp.abs(D), axis=0) > 8 * unit * xp.abs(mean), D, xp.zeros_like(D))


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

    def __init__(self, shape: tuple[int, ...], wide: bool, precision: str) -> None:
        self._n, self._p = shape[0], int(np.prod(shape[1:]))
        self._wide, self._precision = wide, precision
        self._features: list[Array] = []
        self._held = 0
        self._gram: Array | None = None
        self._unit = EPS

    def add(self, panel: _Panel) -> None:
        xp = array_namespace(panel.A)
        if self._gram is None:
            varies = xp.any(panel.A != 0, axis=0)
            self._held += int(xp.sum(xp.astype(varies, xp.int64)))
            if self._held < self._n:
                X = xp.astype(panel.A, xp.float64, copy=False) - panel.rest.reshape((-1,))
                self._features.append(X if bool(xp.all(varies)) else X[:, varies])
                return
            self._gram = xp.zeros((self._n, self._n), dtype=xp.float64)
            for before in self._features:
                self._gram += before @ before.T
            self._features = []
        if panel.A.dtype == xp.float64:
            self._gram += panel.A @ panel.A.T
        elif self._wide:
            for start in range(0, panel.A.shape[1], self._n):
                X = xp.astype(panel.A[:, start : start + self._n], xp.float64)
                self._gram += X @ X.T
        else:
            self._gram += narrow_gram(panel.A, self._precision)
            self._unit = EPS32

    def side(self) -> KernelSide:
        if self._gram is None:
            xp = array_namespace(self._features[0])
            return KernelSide(self._n, self._p, features=xp.concat(self._features, axis=1))
        K = self._gram  # of columns whose means are not quite zero: centred on both sides
        xp = array_namespace(K)
        means = xp.mean(K, axis=0)
        K -= means[:, None] + means[None, :]
        K += xp.mean(means)
        return KernelSide(self._n, self._p, gram=K, unit=self._unit)


def narrow_gram(A: Array, precision: str) -> Array:
    """AAᵀ of a float32 matrix, summed in float32 within the panel.

    `fast` allows PyTorch to multiply in bfloat16; where it does not (measured: 4e-7 off, so it did not), no harm.
    """
    if precision == "fast" and isinstance(A, np.ndarray) and bfloat16_products():
        import torch

        matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        before = matmul.fp32_precision
        matmul.fp32_precision = "bf16"
        try:
            T = torch.from_numpy(A)
            return (T @ T.T).numpy()
        finally:
            matmul.fp32_precision = before
    return A @ A.T


def bfloat16_products() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def on_device(panel: Any, device: str) -> Array:
    """The panel where the arithmetic happens: NumPy on the CPU, CuPy on the GPU. bfloat16 tensors become float32."""
    if device == "cpu":
        return np.asarray(panel)
    import cupy

    return cupy.asarray(panel)
