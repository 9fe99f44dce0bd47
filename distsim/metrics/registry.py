"""The metrics that sweeps and `distsim.comparison.layer` can compute, by name. `register` adds one of your own."""

import importlib.util
import math
import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from distsim import extras
from distsim.metrics import jackknife
from distsim.metrics.channels import saturation
from distsim.metrics.channels_only import cka_from_pair as cka_channels
from distsim.metrics.channels_only import nbs_from_pair as nbs_channels
from distsim.metrics.cka import by_chance
from distsim.metrics.cka import from_pair as cka
from distsim.metrics.cka import unbiased_from_pair as cka_unbiased
from distsim.metrics.cosine import from_matrices as cosine
from distsim.metrics.dimension import of_complete as dimension_complete
from distsim.metrics.dimension import of_pruned as dimension
from distsim.metrics.mean_cca import from_pair as mean_cca
from distsim.metrics.mean_cca import squared_from_pair as mean_squared_cca
from distsim.metrics.nbs import angle_from_pair as procrustes
from distsim.metrics.nbs import bounds_of_pair, few_rows
from distsim.metrics.nbs import from_pair as nbs
from distsim.metrics.neighbours import from_pair as knn_overlap
from distsim.metrics.null import Null, of_cka, of_unbiased
from distsim.metrics.predictivity import from_pair as linear_predictivity
from distsim.metrics.pwcca import from_pair as pwcca
from distsim.metrics.rsa import from_pair as rsa
from distsim.metrics.soft_matching import from_pair as soft_matching
from distsim.metrics.svcca import from_pair as svcca
from distsim.metrics.svcca import kept as kept_of_leading
from distsim.metrics.svcca import saturation as saturation_of_leading

VIEWS = ("channels", "kernel", "output")


@dataclass(frozen=True)
class Metric:
    """A similarity of two sides of a layer.

    view     what `measure` gets, and which layers have the metric
             channels: a ChannelPair (distsim.metrics.channels), columns are channels, rows are examples x pixels
             kernel: a KernelPair (distsim.metrics.kernels), columns are channels x pixels, rows are examples
             output: two matrices (n, p), not centred; for the output layer only
    measure  returns the value; raises distsim.metrics.arrays.Undefined with the reason if there is none
    caution  of the same arguments: why the value should be read with care, "" if nothing; None: there is no such check
    kept     of the same arguments: the numbers of directions of both sides that it compares; None: all of them
    bounds   between which all values lie; figures end bands there
    enclosed of the same arguments: two bounds between which this value lies, None: it was computed without
    deferred whether these functions read numbers as `distsim.metrics.reads` says, so that a GPU need not wait. Those of
             the output view then take `reads` too. False, which one's own metrics need not change: they look at
             numbers as they like, and get pairs whose numbers are read at once
    null     of the same arguments: what the value is by chance (distsim.metrics.null), where that is known in closed
             form; None: it is not, and sweeps permute examples
    without  of a BlockedPair (distsim.metrics.jackknife): the values without each block of examples, where that is
             cheaper than computing each; for the kernel view only
    ValueError, TypeError: another view, a name that is not an identifier, or a field of another type.
    """

    name: str
    view: str
    measure: Callable[..., float]
    label: str = ""  # in figures; if empty, the name
    needs: str = ""  # a module that distsim does not require
    extra: str = ""  # the extra of distsim that installs it
    caution: Callable[..., str] | None = None
    kept: Callable[..., tuple[int, int]] | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    enclosed: Callable[..., tuple[float, float] | None] | None = None
    deferred: bool = False
    null: Callable[..., Null | None] | None = None
    without: Callable[..., list[float]] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"a metric's name must be an identifier, got {self.name!r}")
        if self.view not in VIEWS:
            raise ValueError(f"metric {self.name}: view must be one of {VIEWS}, got {self.view!r}")
        for field in ("measure", "caution", "kept", "enclosed", "null", "without"):
            function = getattr(self, field)
            if not (callable(function) or (function is None and field != "measure")):
                raise TypeError(f"metric {self.name}: {field} must be a function, got {function!r}")
        for field in ("label", "needs", "extra"):
            if not isinstance(text := getattr(self, field), str):
                raise TypeError(f"metric {self.name}: {field} must be text, got {text!r}")
        if not isinstance(self.deferred, bool):
            raise TypeError(f"metric {self.name}: deferred must be True or False, got {self.deferred!r}")
        if not _are_bounds(self.bounds):
            raise ValueError(
                f"metric {self.name}: bounds must be two numbers, the smaller one first, got {self.bounds!r}"
            )

    def applies_to(self, kind: str) -> bool:
        """Return whether layers of this kind (conv, pool, fc, out, ...) have the metric."""
        return self.view != "output" or kind == "out"


def _are_bounds(bounds: Any) -> bool:
    return (
        isinstance(bounds, tuple | list)
        and len(bounds) == 2
        and all(isinstance(bound, numbers.Real) for bound in bounds)
        and bool(bounds[0] < bounds[1])
    )


METRICS: dict[str, Metric] = {}


def register(metric: Metric) -> Metric:
    """Add a metric to METRICS and return it. ValueError: another metric has its name."""
    if METRICS.setdefault(metric.name, metric) != metric:
        raise ValueError(f"there is already another metric named {metric.name}")
    return metric


def known(names: Any) -> tuple[Metric, ...]:
    """Return the metrics of these names. ValueError: some names are unknown; the message lists them."""
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"unknown metrics {unknown}; there are {tuple(METRICS)}")
    return tuple(METRICS[name] for name in names)


_UNIT = (0.0, 1.0)

for _metric in (
    Metric("mean_cca", "channels", mean_cca, "mean CCA", caution=saturation, bounds=_UNIT, deferred=True),
    Metric(
        "svcca",
        "channels",
        svcca,
        "mean SVCCA",
        caution=saturation_of_leading,
        kept=kept_of_leading,
        bounds=_UNIT,
        deferred=True,
    ),
    # the weights always come from the complete network, so that the side does not jump between iterations
    Metric("pwcca", "channels", partial(pwcca, side="first"), "PWCCA", caution=saturation, bounds=_UNIT, deferred=True),
    Metric(
        "cka", "kernel", cka, "CKA", caution=by_chance, bounds=_UNIT, deferred=True, null=of_cka, without=jackknife.cka
    ),
    Metric("nbs", "kernel", nbs, "NBS", caution=few_rows, bounds=_UNIT, enclosed=bounds_of_pair, deferred=True),
    Metric("cosine", "output", cosine, "cosine", bounds=_UNIT, deferred=True),
    # beyond the papers
    Metric(
        "mean_cca_mass98",
        "channels",
        partial(mean_cca, mean_rule="mass98"),
        "mean CCA (98 % mass)",
        caution=saturation,
        bounds=_UNIT,
        deferred=True,
    ),
    Metric(
        "mean_cca_columns",
        "channels",
        partial(mean_cca, denominator="columns"),
        "mean CCA (of columns)",
        caution=saturation,
        bounds=_UNIT,
        deferred=True,
    ),
    Metric(
        "mean_squared_cca",
        "channels",
        mean_squared_cca,
        "mean squared CCA",
        caution=saturation,
        bounds=_UNIT,
        deferred=True,
    ),
    Metric(
        "svcca_mass98",
        "channels",
        partial(svcca, mean_rule="mass98"),
        "mean SVCCA (98 % mass)",
        caution=saturation_of_leading,
        kept=kept_of_leading,
        bounds=_UNIT,
        deferred=True,
    ),
    Metric(
        "pwcca_google",
        "channels",
        partial(pwcca, side="first", weights="google"),
        "PWCCA (google/svcca's weights)",
        caution=saturation,
        bounds=_UNIT,
    ),
    Metric("cka_channels", "channels", cka_channels, "CKA over channels", bounds=_UNIT, deferred=True),
    Metric("nbs_channels", "channels", nbs_channels, "NBS over channels", bounds=_UNIT, deferred=True),
    Metric(
        "cka_unbiased",
        "kernel",
        cka_unbiased,
        "unbiased CKA",
        bounds=(-math.inf, 1.0),
        deferred=True,
        null=of_unbiased,
        without=jackknife.unbiased,
    ),
    Metric(
        "procrustes",
        "kernel",
        procrustes,
        "angular Procrustes",
        caution=few_rows,
        bounds=(0.0, math.pi / 2),
        deferred=True,
    ),
    Metric("rsa", "kernel", rsa, "RSA", bounds=(-1.0, 1.0)),
    Metric("knn_overlap", "kernel", knn_overlap, "overlap of 10 nearest neighbours", bounds=_UNIT),
    Metric("soft_matching", "channels", soft_matching, "soft matching", bounds=_UNIT),
    Metric("linear_predictivity", "kernel", linear_predictivity, "linear predictivity", bounds=(-math.inf, 1.0)),
    # no similarities: each looks at one side only
    Metric(
        "dimension",
        "kernel",
        dimension,
        "intrinsic dimension",
        needs="skdim",
        extra="dimension",
        bounds=(0.0, math.inf),
    ),
    Metric(
        "dimension_complete",
        "kernel",
        dimension_complete,
        "intrinsic dimension of the complete network",
        needs="skdim",
        extra="dimension",
        bounds=(0.0, math.inf),
    ),
):
    register(_metric)

# The metrics that come with distsim, in the order of tables and figures. A script's own metrics follow them, by name.
BUILT_IN = dict(METRICS)
FROM_SUMS = tuple(name for name, metric in BUILT_IN.items() if metric.without is not None)
DISTANCES = ("procrustes",)  # small for similar sides
ONE_SIDED = ("dimension", "dimension_complete")  # which permuting the other side's examples does not change


def se_belongs_to(metric: Any) -> Literal["se", "se_nbs"]:
    """Return the measure that a metric's standard error over examples belongs to, by its view and name.

    se_nbs : the metric is computed again without each block of the examples, at ten times the cost of its value
    """
    return "se_nbs" if metric.view == "kernel" and metric.name not in FROM_SUMS else "se"


def in_order(names: Iterable[str]) -> list[str]:
    """Return each name once: distsim's metrics in the registry's order, then all others by name, known or not."""
    wanted = set(names)
    return [name for name in BUILT_IN if name in wanted] + sorted(wanted.difference(BUILT_IN))


def require_libraries(metrics: Iterable[str]) -> None:
    """Check that the libraries of these metrics are installed. ValueError: one is missing; says what to install."""
    for metric in known(metrics):
        if metric.needs and importlib.util.find_spec(metric.needs) is None:
            raise ValueError(
                f"the metric {metric.name} needs a library that is not installed: {extras.command([metric.extra])}"
            )
