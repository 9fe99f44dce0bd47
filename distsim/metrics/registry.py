"""The similarities that sweeps and `distsim.comparison.layer` can compute, by name. One's own is one more line."""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from distsim.metrics.channels_only import cka_from_pair as cka_channels
from distsim.metrics.channels_only import nbs_from_pair as nbs_channels
from distsim.metrics.cka import from_pair as cka
from distsim.metrics.cka import unbiased_from_pair as cka_unbiased
from distsim.metrics.cosine import from_matrices as cosine
from distsim.metrics.dimension import of_complete as dimension_complete
from distsim.metrics.dimension import of_pruned as dimension
from distsim.metrics.mean_cca import from_pair as mean_cca
from distsim.metrics.mean_cca import squared_from_pair as mean_squared_cca
from distsim.metrics.nbs import angle_from_pair as procrustes
from distsim.metrics.nbs import from_pair as nbs
from distsim.metrics.pwcca import from_pair as pwcca
from distsim.metrics.svcca import from_pair as svcca

VIEWS = ("channels", "kernel", "output")


@dataclass(frozen=True)
class Metric:
    """A similarity of two sides of a layer.

    view     what `measure` is given, and which layers have it
             channels: a ChannelPair (distsim.metrics.channels), columns are channels, rows examples x pixels
             kernel: a KernelPair (distsim.metrics.kernels), columns are channels x pixels, rows are examples
             output: two matrices (n, p), not centred; of the output layer only
    measure  the value; raises distsim.metrics.arrays.Undefined with the reason where there is none
    """

    name: str
    view: str
    measure: Callable[..., float]
    label: str = ""  # in figures; the name if empty
    needs: str = ""  # a module that is not among distsim's own requirements
    extra: str = ""  # of distsim, that installs it

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ValueError(f"metric {self.name}: view must be one of {VIEWS}, got {self.view!r}")
        if not self.name.isidentifier():
            raise ValueError(f"a metric's name must be an identifier, got {self.name!r}")

    def applies_to(self, kind: str) -> bool:
        """Whether layers of this kind (conv, pool, fc, out, ...) have it."""
        return self.view != "output" or kind == "out"


METRICS: dict[str, Metric] = {}


def register(metric: Metric) -> Metric:
    """Make a metric known by its name. ValueError: the name is another's."""
    there = METRICS.setdefault(metric.name, metric)
    if there != metric:
        raise ValueError(f"there is another metric {metric.name}")
    return metric


def known(names: Any) -> tuple[Metric, ...]:
    """The metrics of these names. ValueError names those that are unknown."""
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"unknown metrics {unknown}; there are {tuple(METRICS)}")
    return tuple(METRICS[name] for name in names)


for _metric in (
    Metric("mean_cca", "channels", mean_cca, "mean CCA"),
    Metric("svcca", "channels", svcca, "mean SVCCA"),
    # the weights always come from the complete network, so that the side does not jump between iterations
    Metric("pwcca", "channels", partial(pwcca, side="first"), "PWCCA"),
    Metric("cka", "kernel", cka, "CKA"),
    Metric("nbs", "kernel", nbs, "NBS"),
    Metric("cosine", "output", cosine, "cosine"),
    # beyond the papers
    Metric("mean_cca_mass98", "channels", partial(mean_cca, mean_rule="mass98"), "mean CCA (98 % mass)"),
    Metric("mean_cca_columns", "channels", partial(mean_cca, denominator="columns"), "mean CCA (of columns)"),
    Metric("mean_squared_cca", "channels", mean_squared_cca, "mean squared CCA"),
    Metric("svcca_mass98", "channels", partial(svcca, mean_rule="mass98"), "mean SVCCA (98 % mass)"),
    Metric("cka_channels", "channels", cka_channels, "CKA over channels"),
    Metric("nbs_channels", "channels", nbs_channels, "NBS over channels"),
    Metric("cka_unbiased", "kernel", cka_unbiased, "unbiased CKA"),
    Metric("procrustes", "kernel", procrustes, "angular Procrustes"),
    # of one side each, and no similarities
    Metric("dimension", "kernel", dimension, "intrinsic dimension", needs="skdim", extra="dimension"),
    Metric(
        "dimension_complete",
        "kernel",
        dimension_complete,
        "intrinsic dimension of the complete network",
        needs="skdim",
        extra="dimension",
    ),
):
    register(_metric)

# What comes with distsim, in the order of tables and figures. A script's own metrics come after them, by name.
BUILT_IN = dict(METRICS)


def in_order(names: Iterable[str]) -> list[str]:
    """Return each name once: distsim's in the registry's order, then one's own by name, whether known here or not."""
    given = set(names)
    return [name for name in BUILT_IN if name in given] + sorted(given.difference(BUILT_IN))


def require_libraries(metrics: Iterable[str]) -> None:
    """ValueError with what to install where a metric needs a library that is not there."""
    for metric in known(metrics):
        if metric.needs and importlib.util.find_spec(metric.needs) is None:
            raise ValueError(f"the metric {metric.name} needs a library: pip install 'distsim[{metric.extra}]'")
