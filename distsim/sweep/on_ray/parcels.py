"""What the workers on a Ray cluster are sent: sweeps, data sets, and the user's own code."""

from dataclasses import dataclass, field
from typing import Any

import ray

from distsim.data import Dataset
from distsim.metrics.registry import BUILT_IN, METRICS, Metric
from distsim.models import MODELS
from distsim.specs import Sweep
from distsim.sweep import own_code
from distsim.sweep.order import Prepared
from distsim.training.criteria import BUILT_IN as CRITERIA_OF_DISTSIM
from distsim.training.criteria import CRITERIA, Criterion


@dataclass(frozen=True)
class Parcel:
    """A sweep, and where its data set is in Ray's object store."""

    sweep: Sweep
    data: Any  # ray.ObjectRef, which Ray would replace by the data set if it were an argument itself

    def dataset(self) -> Dataset:
        """Return the data set. A machine fetches it once, whichever of its workers asks first."""
        found: Dataset = ray.get(self.data)
        return found


@dataclass
class Parcels:
    """Each sweep's parcel. A data set is put into Ray's object store once, and not for each wave."""

    _data: dict[str, Any] = field(default_factory=dict)

    def of(self, order: Prepared) -> Parcel:
        """Return the parcel of a sweep."""
        if order.name not in self._data:
            self._data[order.name] = ray.put(order.dataset)
        return Parcel(order.sweep, self._data[order.name])


@dataclass(frozen=True)
class Own:
    """These sweeps' models, the user's own criteria and metrics. A Ray worker has not run the script with them."""

    models: dict[str, Any]
    metrics: dict[str, Metric]
    criteria: dict[str, Criterion]

    def make_known(self) -> None:
        """Register them in this process."""
        MODELS.update(self.models)
        METRICS.update(self.metrics)
        CRITERIA.update(self.criteria)


def own(orders: list[Prepared]) -> Own:
    """Return what workers on these sweeps need of the user's own. Modules of the user are sent by value."""
    for module in own_code.imported_modules():  # a worker cannot import it by its name
        ray.cloudpickle.register_pickle_by_value(module)
    models = {name: MODELS[name] for name in {order.sweep.problem.model for order in orders}}
    metrics = {name: metric for name, metric in METRICS.items() if name not in BUILT_IN}
    criteria = {name: criterion for name, criterion in CRITERIA.items() if name not in CRITERIA_OF_DISTSIM}
    functions = [metric.measure for metric in metrics.values()] + [of.score for of in criteria.values()]
    for code in (*models.values(), *functions):
        if (of_user := own_code.module_of(code)) is not None:
            ray.cloudpickle.register_pickle_by_value(of_user)
    return Own(models, metrics, criteria)
