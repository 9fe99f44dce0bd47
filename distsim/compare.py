"""One layer of one network against the same layer of the complete network: every metric from one pass over both.

The complete network's side (mean and products of its channels, its Gram matrix and the root of that, or its centred
features) is computed once by `Reference` and used for every network that is compared with it. A layer is read in panels
of all examples x some image rows; at any time two panels and the n x n or p x p statistics are in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace

from distsim.metrics.arrays import Array, Undefined
from distsim.metrics.channels import ChannelPair, ChannelSide
from distsim.metrics.cka import from_pair as cka
from distsim.metrics.cosine import from_matrices as cosine
from distsim.metrics.kernels import KernelPair, KernelSide, centred_features
from distsim.metrics.mean_cca import from_pair as mean_cca
from distsim.metrics.nbs import from_pair as nbs
from distsim.metrics.pwcca import from_pair as pwcca
from distsim.metrics.svcca import from_pair as svcca

CHANNEL_METRICS: dict[str, Callable[[ChannelPair], float]] = {
    "mean_cca": mean_cca,
    "svcca": svcca,
    # the weights always come from the complete network, so that the side does not jump between iterations
    "pwcca": lambda pair: pwcca(pair, side="first"),
}
KERNEL_METRICS: dict[str, Callable[[KernelPair], float]] = {"cka": cka, "nbs": nbs}
OUTPUT_METRICS: dict[str, Callable[[Array, Array], float]] = {"cosine": cosine}


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

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def panel_rows(self) -> int:
        return self.shape[1]

    def panels(self, rows: int) -> Iterator[Any]:
        if len(self.shape) == 2:
            yield self.array
            return
        for start in range(0, self.shape[1], rows):
            yield self.array[:, start : start + rows]


def applicable(metrics: Iterable[str], kind: str) -> tuple[str, ...]:
    """The metrics that a layer of this kind has: cosine belongs to the output layer only."""
    return tuple(name for name in metrics if name not in OUTPUT_METRICS or kind == "out")


class Reference:
    """The complete network's side of one layer."""

    def __init__(self, layer: LayerSource, metrics: Sequence[str], device: str = "cpu") -> None:
        self.layer, self.device = layer, device
        self.metrics = applicable(metrics, layer.kind)
        self._kernels = any(name in KERNEL_METRICS for name in self.metrics)
        self._crossed = any(name in CHANNEL_METRICS for name in self.metrics)
        channels, kernel = _Channels(), _Kernel(layer.shape)
        for panel in layer.panels(layer.panel_rows):
            panel = on_device(panel, device)
            channels.add(panel)
            if self._kernels:
                kernel.add(panel)
        self.channels: ChannelSide = channels.side()
        self.kernel: KernelSide | None = kernel.side() if self._kernels else None

    def compare(self, layer: LayerSource) -> dict[str, dict[str, Any]]:
        """Metric -> value (None where it is undefined), reason, rows and columns that it saw, and of both sides the
        dead channels and the rank of the channels' covariance, whichever metric it is.

        ValueError: the layers' shapes do not fit together.
        """
        if layer.shape[:-1] != self.layer.shape[:-1]:
            raise ValueError(f"layer {layer.name}: shapes {self.layer.shape} and {layer.shape} do not fit together")
        channels, kernel = _Channels(), _Kernel(layer.shape)
        for ours, theirs in self._panels(layer):
            panel = on_device(theirs, self.device)
            channels.add(panel)
            if self._crossed:
                channels.cross(panel, on_device(ours, self.device), self.channels.mean)
            if self._kernels:
                kernel.add(panel)
        x, y = self.channels, channels.side()
        sides = {"rank_x": x.rank, "rank_y": y.rank, "dead_x": x.dead, "dead_y": y.dead}
        results: dict[str, dict[str, Any]] = {}
        pair = ChannelPair(x, y, channels.crossed)
        size = {"n": x.n, "columns_x": x.columns, "columns_y": y.columns}
        for name in self._of(CHANNEL_METRICS):
            results[name] = _value(CHANNEL_METRICS[name], pair) | size | sides
        if self.kernel is not None:
            kernels = KernelPair(self.kernel, kernel.side())
            size = {"n": self.kernel.n, "columns_x": self.kernel.columns, "columns_y": kernels.y.columns}
            for name in self._of(KERNEL_METRICS):
                results[name] = _value(KERNEL_METRICS[name], kernels) | size | sides
        for name in self._of(OUTPUT_METRICS):
            X, Y = (_whole(source, self.device) for source in (self.layer, layer))
            size = {"n": X.shape[0], "columns_x": X.shape[1], "columns_y": Y.shape[1]}
            results[name] = _value(OUTPUT_METRICS[name], X, Y) | size | sides
        return {name: results[name] for name in self.metrics}

    def _panels(self, layer: LayerSource) -> Iterator[tuple[Any, Any]]:
        """Our panels beside theirs; ours are read only where the channels' cross-products are needed."""
        rows = self.layer.panel_rows
        if self._crossed:
            yield from zip(self.layer.panels(rows), layer.panels(rows), strict=True)
        else:
            yield from ((None, panel) for panel in layer.panels(rows))

    def _of(self, family: dict[str, Any]) -> list[str]:
        return [name for name in self.metrics if name in family]


class _Channels:
    """Sums of centred products over panels, of one side and, by `cross`, with the reference.

    Values are shifted by the first panel's mean before they are multiplied, so that a large mean costs no digits.
    """

    def __init__(self) -> None:
        self._n = 0
        self._shift: Array = None
        self._sum: Array = 0.0
        self._products: Array = 0.0
        self.crossed: Array = 0.0

    def add(self, panel: Array) -> None:
        rows = panel.reshape((-1, panel.shape[-1]))
        if self._shift is None:
            self._shift = rows.mean(axis=0)
        rows = rows - self._shift
        self._n += rows.shape[0]
        self._sum = self._sum + rows.sum(axis=0)
        self._products = self._products + rows.T @ rows

    def cross(self, panel: Array, reference: Array, reference_mean: Array) -> None:
        """Add this panel's products with the reference's, whose columns are centred by their exact mean.

        Those sum to zero over all panels, so our own shift drops out of the result.
        """
        ours = reference.reshape((-1, reference.shape[-1])) - reference_mean
        self.crossed = self.crossed + ours.T @ (panel.reshape((-1, panel.shape[-1])) - self._shift)

    def side(self) -> ChannelSide:
        rest = self._sum / self._n
        products = self._products - self._n * (rest[:, None] * rest[None, :])
        return ChannelSide(self._n, self._shift + rest, products)


class _Kernel:
    """The kernel side of a layer from its panels: centred features where they are few, else their Gram matrix."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._n, self._p = shape[0], int(np.prod(shape[1:]))
        self._panels: list[Array] = []
        self._gram: Array = 0.0

    def add(self, panel: Array) -> None:
        features = centred_features(panel.reshape((self._n, -1)))
        if self._p < self._n:
            self._panels.append(features)
        else:
            self._gram = self._gram + features @ features.T

    def side(self) -> KernelSide:
        if self._p >= self._n:
            return KernelSide(self._n, self._p, gram=self._gram)
        first = self._panels[0]
        if len(self._panels) == 1:
            return KernelSide(self._n, self._p, features=first)
        return KernelSide(self._n, self._p, features=array_namespace(first).concat(self._panels, axis=1))


def on_device(panel: Any, device: str) -> Array:
    """The panel as float64 where the arithmetic happens: NumPy on the CPU, CuPy on the GPU."""
    if device == "cpu":
        return np.asarray(panel, dtype=np.float64)
    import cupy

    return cupy.asarray(panel).astype(cupy.float64)


def require_device(device: str) -> None:
    """ValueError with what to install or change where comparisons cannot run on the device asked for."""
    if device == "cpu":
        return
    try:
        import cupy

        count = int(cupy.cuda.runtime.getDeviceCount())
    except ImportError:
        raise ValueError("comparisons on the GPU need CuPy: pip install 'distsim[gpu]'") from None
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise ValueError(f"a GPU was asked for and CuPy finds none: {error}") from None
    if count == 0:
        raise ValueError("a GPU was asked for and CuPy finds none")


def _whole(layer: LayerSource, device: str) -> Array:
    (panel,) = layer.panels(layer.panel_rows)
    return on_device(panel, device)


def _value(measure: Callable[..., float], *args: Any) -> dict[str, Any]:
    try:
        return {"value": float(measure(*args)), "reason": ""}
    except Undefined as reason:
        return {"value": None, "reason": str(reason)}
