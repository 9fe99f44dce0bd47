"""The comparison of two layers: metrics get their two sides here, and values become records, and nowhere else.

Sweeps, pairs of stored networks and `distsim.compare` make a `PairSide` of each layer that they have read, and get
results from a `Pair`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NotRequired, TypedDict

from array_api_compat import array_namespace

from distsim.comparison.devices import on_device
from distsim.comparison.measured import Measured, kept, measured
from distsim.comparison.sides import LayerSource, Side, Wanted, collect
from distsim.metrics.arrays import Array, Workspace
from distsim.metrics.channels import ChannelPair, ChannelSide
from distsim.metrics.kernels import KernelPair, KernelSide, Unresolved
from distsim.metrics.reads import NOW, Assumption, Number, Reads, computed, fetched, noting
from distsim.metrics.registry import Metric
from distsim.specs.fields import Natural, Real


class Result(TypedDict):
    """A metric's value for two layers x and y, and the data behind it. Stored in this form as JSON."""

    value: Real | None  # None: undefined
    reason: str  # why there is no value; "" if there is one
    n: Natural  # rows that the metric saw
    columns_x: Natural
    columns_y: Natural
    n_per_p: Real  # rows / columns of the wider side
    warning: str  # why the value should be read with care; "" if nothing
    rank_x: Natural | None  # independent columns that a metric over channels saw; None for metrics of another view
    rank_y: Natural | None
    dead_x: Natural  # constant channels of the layer, whatever the metric
    dead_y: Natural
    # records of before 0.2 lack these
    k_x: NotRequired[Natural | None]  # directions that SVCCA keeps; None for metrics that keep all
    k_y: NotRequired[Natural | None]
    effective_rank_x: NotRequired[Real | None]  # participation ratio; None where rank_x is
    effective_rank_y: NotRequired[Real | None]
    # bounds of NBS, computed on a card with full-rate float64; None elsewhere, and where eigenvalues gave the value
    lower: NotRequired[Real | None]
    upper: NotRequired[Real | None]
    # what the value is by chance, where that is known in closed form; None elsewhere
    null: NotRequired[Real | None]
    null_sd: NotRequired[Real | None]


@dataclass(frozen=True, eq=False)
class PairSide:
    """A layer as one side of any number of pairs. Missing statistics are collected when a metric needs them.

    collected  statistics from an earlier pass over the activations
    dead       number of constant channels; None: that of `collected`
    example    shape of the layer's output for one example; None: that of the source
    reads      of what is collected
    """

    source: LayerSource
    collected: Side = field(default_factory=Side)
    device: str = "cpu"
    dead: int | None = None
    example: tuple[int, ...] | None = None
    reads: Reads = NOW

    @cached_property
    def now(self) -> "PairSide":
        """Return this side with numbers that are read at once."""
        if not self.reads.deferred:
            return self
        channels, kernel = self.collected.channels, self.__dict__.get("kernel", self.collected.kernel)
        side = Side(channels and channels.now, kernel and kernel.now)
        return replace(self, collected=side, reads=NOW)

    @property
    def bare(self) -> "PairSide":
        """Return this side without what was computed from what was collected, which takes memory."""
        channels, kernel = self.collected.channels, self.__dict__.get("kernel", self.collected.kernel)
        return replace(self, collected=Side(channels and replace(channels), kernel and replace(kernel)))

    @property
    def channels(self) -> ChannelSide:
        if self.collected.channels is None:
            raise AssertionError("a pair without channels")
        return self.collected.channels

    @cached_property
    def kernel(self) -> KernelSide:
        return self.collected.kernel or self._kernel_of(Wanted(channels=False))

    @cached_property
    def wide(self) -> KernelSide:
        """Return the kernel side from float64 products, for use where float32 is not enough."""
        return self._kernel_of(Wanted(channels=False, wide=True))

    def output(self) -> Array:
        """Return the layer's activations, (n, p) float64."""
        (panel,) = self.source.panels(self.source.shape[1])  # one panel of all image rows
        X = on_device(panel, self.device).reshape((panel.shape[0], -1))
        xp = array_namespace(X)
        return xp.astype(X, xp.float64)

    @property
    def dead_channels(self) -> Number:
        return self.channels.dead if self.dead is None else self.dead

    @property
    def of_example(self) -> tuple[int, ...]:
        return self.source.shape[1:] if self.example is None else self.example

    def _kernel_of(self, wanted: Wanted) -> KernelSide:
        (side,), _ = collect([self.source], [wanted], device=self.device, reads=[self.reads])
        if side.kernel is None:
            raise AssertionError("no kernel side was collected")
        return side.kernel


@dataclass(frozen=True, eq=False)
class Pair:
    """Two layers, ready to be compared.

    cross  the centred cross-products of their channels; needed for metrics over channels
    fast   NBS may use float32, or leading eigenvectors only, as for the precision "fast" of
           `distsim.comparison.layer.Reference`. On a GPU it changes nothing
    qdwh   as of a KernelPair
    reads  of what is computed from both; deferred only where those of a side are
    """

    x: PairSide
    y: PairSide
    cross: Array | None = None
    fast: bool = False
    qdwh: bool | None = None
    workspace: Workspace = field(default_factory=Workspace)
    reads: Reads = NOW

    def results(self, metrics: Iterable[Metric]) -> dict[str, Result]:
        """Return each metric's record, by name.

        Errors are those of `Draft.results`.
        """
        return self.draft(metrics).results()

    def draft(self, metrics: Iterable[Metric], known_wrong: Collection[str] = ()) -> "Draft":
        """Compute each metric and return the draft of its record. Where reads are deferred, no number is read yet.

        known_wrong : metrics to be computed with numbers that are read at once, because an assumption would be wrong
        Whether a metric of the kernel view falls back to float64 products depends on these two layers only, not on the
        other metrics.
        """
        return Draft(self, list(metrics), known_wrong)

    @property
    def now(self) -> "Pair":
        """Return this pair with numbers that are read at once."""
        return replace(self, x=self.x.now, y=self.y.now, reads=NOW) if self.reads.deferred else self

    @property
    def required(self) -> list[tuple[Array, Exception]]:
        """Return what must hold of both sides: conditions, and the errors to raise where they do not."""
        return self.x.reads.required + self.y.reads.required

    def record(self, metric: Metric) -> Result:
        """Return a metric's record. Where reads are deferred, its numbers are those of `distsim.metrics.reads`."""
        if metric.view == "channels":
            x, y = self._channels.x, self._channels.y
            found = measured(metric, self._layer, self._channels)
            spans: Spans = {
                "rank_x": x.rank,
                "rank_y": y.rank,
                "effective_rank_x": x.effective_rank,
                "effective_rank_y": y.effective_rank,
            }
            if metric.kept is not None:
                spans["k_x"], spans["k_y"] = kept(metric, self._layer, self._channels)
            return self._record(found, x.n, (x.columns, y.columns), spans)
        if metric.view == "kernel":
            kernels = self.kernels
            try:
                found = measured(metric, self._layer, kernels)
            except Unresolved:
                found = measured(metric, self._layer, self._wide_kernels)
            return self._record(found, kernels.x.n, (kernels.x.columns, kernels.y.columns))
        X, Y = self.x.output(), self.y.output()
        if self.x.of_example == self.y.of_example:
            found = measured(metric, self._layer, X, Y, **({"reads": self.reads} if metric.deferred else {}))
        else:
            found = Measured(None, f"unequal shapes: {self.x.of_example} and {self.y.of_example}")
        return self._record(found, X.shape[0], (X.shape[1], Y.shape[1]))

    @property
    def _layer(self) -> str:
        x, y = self.x.source.name, self.y.source.name
        return x if x == y else f"{x} and {y}"

    def _record(self, found: Measured, n: int, columns: tuple[int, int], spans: "Spans | None" = None) -> Result:
        spans = spans or {}
        return {
            "value": found.value,
            "reason": found.reason,
            "n": n,
            "columns_x": columns[0],
            "columns_y": columns[1],
            "n_per_p": n / max(columns),
            "warning": found.warning,
            "rank_x": spans.get("rank_x"),
            "rank_y": spans.get("rank_y"),
            "dead_x": self.x.dead_channels,
            "dead_y": self.y.dead_channels,
            "k_x": spans.get("k_x"),
            "k_y": spans.get("k_y"),
            "effective_rank_x": spans.get("effective_rank_x"),
            "effective_rank_y": spans.get("effective_rank_y"),
            "lower": found.lower,
            "upper": found.upper,
            "null": found.null,
            "null_sd": found.null_sd,
        }

    @cached_property
    def _channels(self) -> ChannelPair:
        return ChannelPair(self.x.channels, self.y.channels, self.cross, self.reads)

    @cached_property
    def kernels(self) -> KernelPair:
        # the bound of `fast` holds for LAPACK's float32 eigenvalues; cuSOLVER's lost 3.6e-3, and were no faster
        fast = self.fast and self.x.device == "cpu"
        return KernelPair(self.x.kernel, self.y.kernel, fast, self.qdwh, self.workspace, self.reads)

    @cached_property
    def _wide_kernels(self) -> KernelPair:
        return KernelPair(self.x.wide, self.y.wide, qdwh=self.qdwh, workspace=self.workspace, reads=self.reads)


class Draft:
    """The records of a pair's metrics, whose numbers may still be on the device."""

    def __init__(self, pair: Pair, metrics: Sequence[Metric], known_wrong: Collection[str]) -> None:
        self.metrics = metrics
        self.wrong: dict[str, list[Assumption]] = {}
        self._pair = replace(pair, y=pair.y.bare)
        self._required = pair.required
        self._records: dict[str, Result] = {}
        self._assumed: dict[str, list[Assumption]] = {}
        self._read: tuple[Any, ...] | None = None
        for metric in metrics:
            if pair.reads.deferred and (not metric.deferred or metric.name in known_wrong):
                continue
            with noting() as notes:
                try:
                    self._records[metric.name] = pair.record(metric)
                except Exception as error:
                    if pair.reads.deferred and type(error).__name__.endswith("LinAlgError"):  # NumPy's, and torch's
                        continue  # a matrix is not what was taken for likely
                    raise
            self._assumed[metric.name] = list(dict.fromkeys(notes))

    @property
    def tree(self) -> tuple[Any, ...]:
        """Return all numbers that are to be read."""
        right = {name: [each.right for each in assumed] for name, assumed in self._assumed.items()}
        return self._records, right, [condition for condition, _ in self._required]

    def results(self) -> dict[str, Result]:
        """Return the records, by metric. Read their numbers, unless `read_together` has.

        A metric of which an assumption was wrong is computed again, and so is one that was not computed. `wrong` then
        has these assumptions, by metric.

        FloatingPointError: an activation is not finite. ValueError: the layers' shapes do not fit together.
        """
        if self._read is None:
            read_together([self])
        records, right, kept = self._read or self.tree
        for (_, error), does in zip(self._required, kept, strict=True):
            if not does:
                raise error
        for name, assumed in self._assumed.items():
            if wrong := [each for each, was in zip(assumed, right[name], strict=True) if not was]:
                self.wrong[name] = wrong
        sound = {name: computed(record) for name, record in records.items() if name not in self.wrong}
        if len(sound) == len(self.metrics):
            return sound
        now = self._pair.now
        return {each.name: sound[each.name] if each.name in sound else now.record(each) for each in self.metrics}


def read_together(drafts: Sequence[Draft], also: Any = ()) -> Any:
    """Read the numbers of several drafts, and those of the tree `also`, in one copy. Return the latter."""
    trees, rest = fetched(([draft.tree for draft in drafts], also))
    for draft, read in zip(drafts, trees, strict=True):
        draft._read = read
    return rest


class Spans(TypedDict, total=False):
    """The parts of a result that say how many directions the two sides have, for metrics over channels."""

    rank_x: Number
    rank_y: Number
    k_x: Number
    k_y: Number
    effective_rank_x: Number
    effective_rank_y: Number
