"""One layer of several networks against each other: every metric from one pass over the activations.

`Reference` holds the complete network's side (products of its channels, its Gram matrix and the root of that, or its
features), computed once, for every network that is compared with it; `compare_pairs` reads any number of networks
together and compares any pairs of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from distsim.comparison.sides import InMemory, LayerSource, Side, Wanted, collect, held, on_device
from distsim.metrics.arrays import Array, Undefined, Workspace
from distsim.metrics.channels import ChannelPair, ChannelSide
from distsim.metrics.kernels import KernelPair, KernelSide, Unresolved
from distsim.metrics.registry import METRICS, Metric, known

__all__ = ["InMemory", "LayerSource", "Reference", "applicable", "compare_pairs"]
Result = dict[str, Any]
FEW_ROWS = "fewer rows than columns"


def applicable(metrics: Iterable[str], kind: str) -> tuple[str, ...]:
    """The metrics that a layer of this kind has: cosine belongs to the output layer only."""
    return tuple(name for name in metrics if METRICS[name].applies_to(kind))


class Reference:
    """The complete network's side of one layer.

    precision  exact: NBS within 1e-6 of its float64 value. fast: within 5e-4, from the
               leading eigenvectors only. The other metrics are within 1e-6 in both.
    """

    def __init__(
        self, layer: LayerSource, metrics: Sequence[str], device: str = "cpu", precision: str = "exact"
    ) -> None:
        self.layer, self.device, self.precision = layer, device, precision
        self.metrics = known(applicable(metrics, layer.kind))
        self.workspace = Workspace()
        # read again for each comparison, unless it is small
        self._centred = held(layer, device) if _any(self.metrics, "channels") else layer
        (self.side,), _ = collect([self._centred], [self._wanted], device=device, workspace=self.workspace)

    @property
    def _wanted(self) -> Wanted:
        return Wanted(kernel=_any(self.metrics, "kernel"))

    def compare(self, layer: LayerSource) -> dict[str, Result]:
        """Metric -> value (None where it is undefined), reason, rows and columns that it saw, their quotient, a warning
        if rows are fewer, and of both sides the dead channels and the rank of the channels' covariance, whichever
        metric it is.

        ValueError: the layers' shapes do not fit together. FloatingPointError: an activation is not finite.
        """
        nothing = Wanted(channels=False, kernel=False)
        theirs = replace(self._wanted, passing=True)
        sources, wanted, crosses = [self._centred, layer], [nothing, theirs], [(0, 1)]
        if not _any(self.metrics, "channels"):  # nothing of ours needs to be read again
            _must_fit(self.layer, layer)
            sources, wanted, crosses = [layer], [theirs], []
        sides, products = collect(sources, wanted, crosses, self.device, self.workspace)
        pair = _Pair(self.layer, layer, self.side, sides[-1], products.get((0, 1)), self)
        return pair.results(self.metrics)

    @cached_property
    def wide(self) -> KernelSide:
        """The kernel side from float64 products, where float32 is not enough."""
        return _wide(self.layer, self.device)


def compare_pairs(
    layers: Sequence[LayerSource],
    pairs: Sequence[tuple[int, int]],
    metrics: Sequence[str],
    device: str = "cpu",
    precision: str = "exact",
) -> dict[tuple[int, int], dict[str, Result]]:
    """Compare the pairs (i, j) of layers, each of which is read once; what `Reference.compare` gives, for each pair.

    In memory are all layers' statistics: n x n float64 and its Cholesky factor for each, where they are wide.
    """
    chosen = known(metrics)
    want = Wanted(kernel=_any(chosen, "kernel"))
    crosses = list(pairs) if _any(chosen, "channels") else []
    sides, products = collect(layers, [want] * len(layers), crosses, device)
    workspace = Workspace()
    widened: dict[int, KernelSide] = {}
    holders = [_Holder(widened, i, layer, device, precision, workspace) for i, layer in enumerate(layers)]
    results = {}
    for i, j in pairs:
        pair = _Pair(layers[i], layers[j], sides[i], sides[j], products.get((i, j)), holders[i], holders[j])
        results[i, j] = pair.results([metric for metric in chosen if metric.applies_to(layers[i].kind)])
    return results


class _Holder:
    """A layer of several pairs: its kernel side of float64 products is made when it is needed, once."""

    def __init__(
        self,
        made: dict[int, KernelSide],
        at: int,
        layer: LayerSource,
        device: str,
        precision: str,
        workspace: Workspace,
    ) -> None:
        self._made, self._at, self._layer = made, at, layer
        self.device, self.precision, self.workspace = device, precision, workspace

    @property
    def wide(self) -> KernelSide:
        if self._at not in self._made:
            self._made[self._at] = _wide(self._layer, self.device)
        return self._made[self._at]


class _Pair:
    """Two sides of a layer, ready to be measured."""

    def __init__(
        self,
        x: LayerSource,
        y: LayerSource,
        side_x: Side,
        side_y: Side,
        cross: Array | None,
        first: Any,
        second: Any = None,
    ) -> None:
        self._x, self._y, self._first, self._second = x, y, first, second
        self._sides = side_x, side_y
        self._channels: tuple[ChannelSide, ChannelSide] = (side_x.channels, side_y.channels)  # type: ignore[assignment]
        self._cross = cross

    def results(self, metrics: Iterable[Metric]) -> dict[str, Result]:
        x, y = self._channels
        both = {"rank_x": x.rank, "rank_y": y.rank, "dead_x": x.dead, "dead_y": y.dead}
        return {metric.name: self._result(metric) | both for metric in metrics}

    def _result(self, metric: Metric) -> Result:
        if metric.view == "channels":
            x, y = self._channels
            return _value(metric.measure, ChannelPair(x, y, self._cross)) | _size(x.n, x.columns, y.columns)
        if metric.view == "kernel":
            kernels = self._kernels
            result = _size(kernels.x.n, kernels.x.columns, kernels.y.columns)
            try:
                return _value(metric.measure, kernels) | result
            except Unresolved:
                return _value(metric.measure, self._wide_kernels) | result
        X, Y = (_whole(source, self._first.device) for source in (self._x, self._y))
        if X.shape != Y.shape:
            raise ValueError(f"{metric.name}: the outputs have shapes {X.shape} and {Y.shape}; they must match")
        return _value(metric.measure, X, Y) | _size(X.shape[0], X.shape[1], Y.shape[1])

    @cached_property
    def _kernels(self) -> KernelPair:
        x, y = (side.kernel for side in self._sides)
        if x is None or y is None:
            raise AssertionError("a kernel metric without kernel sides")
        return KernelPair(x, y, self._first.precision == "fast", self._first.workspace)

    @cached_property
    def _wide_kernels(self) -> KernelPair:
        y = self._second.wide if self._second else _wide(self._y, self._first.device)
        return KernelPair(self._first.wide, y, workspace=self._first.workspace)


def _any(metrics: Iterable[Metric], view: str) -> bool:
    return any(metric.view == view for metric in metrics)


def _must_fit(ours: LayerSource, theirs: LayerSource) -> None:
    if theirs.shape[:-1] != ours.shape[:-1]:
        raise ValueError(f"layer {theirs.name}: shapes {ours.shape} and {theirs.shape} do not fit together")


def _wide(layer: LayerSource, device: str) -> KernelSide:
    (side,), _ = collect([layer], [Wanted(channels=False, wide=True)], device=device)
    if side.kernel is None:
        raise AssertionError("no kernel side was collected")
    return side.kernel


def _whole(layer: LayerSource, device: str) -> Array:
    (panel,) = layer.panels(layer.panel_rows)
    return on_device(panel, device).astype("float64")


def _size(n: int, columns_x: int, columns_y: int) -> Result:
    wider = max(columns_x, columns_y)
    warning = FEW_ROWS if n < wider else ""
    return {"n": n, "columns_x": columns_x, "columns_y": columns_y, "n_per_p": n / wider, "warning": warning}


def _value(measure: Callable[..., float], *args: Any) -> Result:
    try:
        return {"value": float(measure(*args)), "reason": ""}
    except Undefined as reason:
        return {"value": None, "reason": str(reason)}
