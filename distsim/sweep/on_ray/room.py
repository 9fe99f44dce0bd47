"""What a Ray cluster has room for, and whether it can hold what a sweep asks for."""

import contextlib
import json
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

import ray
from ray._private import state as ray_state
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.experimental import internal_kv
from ray.util.client import ray as client

from distsim.activations.layout import chunk_shape
from distsim.activations.probe import layer_shapes
from distsim.models import build
from distsim.specs import Problem
from distsim.sweep import cluster
from distsim.sweep.cost import comparison_memory
from distsim.sweep.on_ray.hosts import fits
from distsim.sweep.order import Prepared
from distsim.words import readable

WORKER = 0.7e9  # bytes of a process with PyTorch and Zarr, before it compares anything
STATUS = b"__autoscaling_status"  # where the first version of Ray's autoscaler says what it knows
ONE_BY_ONE = "node_"  # begins the names of kinds of machines where no autoscaler can start one
OWN = "local.cluster.node"  # the kind of machines that one has, where an autoscaler only starts Ray
GROWTH = 16  # trials for which a cluster that grows may start machines at once; Tune's own number

Bundle = dict[str, float]


def bundle_of(resources: Mapping[str, float]) -> Bundle:
    """Return a trial's resources under Ray's names."""
    return {name.upper(): amount for name, amount in resources.items() if amount} or {"CPU": 1}


def slot(orders: list[Prepared]) -> Bundle:
    """Return the CPUs, GPUs and bytes of memory that one comparison of any of these sweeps needs.

    Memory that no machine has is not asked for: a comparison that swaps is better than one that never begins.
    """
    gpus = (dict(order.sweep.resources).get("gpu", 1.0) for order in orders if order.sweep.device == "cuda")
    most = max((node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    needed = max(_memory(order.sweep.problem) for order in orders)
    return {
        "CPU": max(order.sweep.identity.threads for order in orders),
        "GPU": max(gpus, default=0.0),
        "memory": min(needed, most) if most else needed,
    }


@cache
def _memory(problem: Problem) -> float:
    """Return the bytes of memory of a process that compares the largest layer."""
    shapes = [(problem.probe, *shape) for shape in layer_shapes(build(problem), problem).values()]
    return WORKER + max(comparison_memory(shape, chunk_shape(shape)[1]) for shape in shapes)


def bundles(orders: list[Prepared]) -> list[Bundle]:
    """Return the resources of each kind of piece: trials and comparisons."""
    return [*(bundle_of(dict(order.sweep.resources)) for order in orders), slot(orders)]


def room_for(bundle: Bundle, avoid: Collection[str] = ()) -> int:
    """Return how many bundles of resources the idle cluster would hold, at least 1.

    avoid : Ray's ids of machines that get no work
    """
    return max(1, sum(fits(node, bundle, avoid) for node in ray.nodes()))


def free_for(bundle: Bundle, avoid: Collection[str] = ()) -> int:
    """Return how many bundles of resources the cluster has room for now; 0 where that cannot be asked (ray://)."""
    if client.is_connected():
        return 0
    free = ray_state.available_resources_per_node()
    return sum(fits(node | {"Resources": free.get(node["NodeID"], {})}, bundle, avoid) for node in ray.nodes())


def require_room(orders: list[Prepared], here: bool, say: Callable[[str], object]) -> None:
    """Check that each trial and comparison fits on a machine, and that each machine can hold the data sets.

    here : Ray was started on this machine. Otherwise a cluster may grow on demand: it is said what is waited for

    ValueError: a piece does not fit, and Ray would wait for ever. ClusterLost: Ray takes the machine for dead.
    """
    machines = [node for node in ray.nodes() if node["Alive"]]
    if not machines:
        raise cluster.ClusterLost(cluster.lost(cluster.TAKEN_FOR_DEAD, here))
    for bundle in bundles(orders):
        if not any(fits(machine, bundle) for machine in machines):
            needed = _in_words(_lacking(bundle, machines))
            if here or not grows():
                has = "; ".join(_host(machine) for machine in machines)
                raise ValueError(
                    f"no machine of the Ray cluster has {needed} (it has {has}): see --cpus, --gpus, --threads"
                )
            say(f"waiting for a machine with {needed}, which the cluster may start")
    if not here:
        _require_memory(orders)


def memory_sentence(orders: list[Prepared]) -> str:
    """Return what the sweeps take of each machine's memory, and of the network between them."""
    size, machines = _size(orders), _machines(orders)
    wire = f", {readable(size * len(machines))} over the network" if machines else ""
    return (
        f"each machine gets the data once: {readable(size)} in Ray's object store{wire}; a comparison asks for "
        f"{readable(slot(orders)['memory'])} of memory"
    )


def _machines(orders: list[Prepared]) -> list[Any]:
    """Return the machines that may work on these sweeps."""
    return [machine for machine in ray.nodes() if any(fits(machine, bundle) for bundle in bundles(orders))]


def _size(orders: list[Prepared]) -> int:
    return sum(order.dataset.train_images.nbytes + order.dataset.test_images.nbytes for order in orders)


def _require_memory(orders: list[Prepared]) -> None:
    """Check that each machine that may work can hold the data sets, which it gets once. ValueError: one cannot."""
    size = _size(orders)
    for machine in _machines(orders):
        holds = machine["Resources"].get("object_store_memory", 0.0)
        if holds < size:
            raise ValueError(
                f"{machine['NodeManagerHostname']} cannot hold the data: they take {readable(size)} of Ray's object "
                f"store on each machine, which has {readable(holds)} there: start Ray with --object-store-memory"
            )


def grows() -> bool:
    """Return whether an autoscaler may start machines of this cluster."""
    with contextlib.suppress(Exception):  # Ray's are of many kinds, and without an answer the cluster does not grow
        kinds = _kinds()
        return bool(kinds) and not all(kind.startswith(ONE_BY_ONE) for kind in kinds)
    return False


def hires() -> bool:
    """Return whether an autoscaler may start machines beyond those that are there, as in a cloud."""
    with contextlib.suppress(Exception):
        return grows() and not _kinds() <= {OWN}
    return False


def _kinds() -> set[str]:
    """Return the autoscaler's names for kinds of machines that are there; none if no autoscaler has reported."""
    if said := internal_kv._internal_kv_get(STATUS):
        return {*json.loads(said)["autoscaler_report"]["active_nodes"]}
    status = get_cluster_status(ray.get_runtime_context().gcs_address)  # the second version, `ray up`'s since Ray 2.50
    if not int(status.stats.autoscaler_version or 0):
        return set()
    return {node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)}


def _lacking(bundle: Bundle, machines: list[Any]) -> Bundle:
    """Return what of a bundle no machine has; all of it if some machine has each of its resources alone."""
    alone = {name: amount for name, amount in bundle.items() if not any(fits(one, {name: amount}) for one in machines)}
    return {name: amount for name, amount in alone.items() if amount} or bundle


def _in_words(bundle: Bundle) -> str:
    amounts = {name: amount for name, amount in bundle.items() if amount}
    return ", ".join(
        f"{readable(amount)} of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in amounts.items()
    )


def _host(machine: Any) -> str:
    resources = machine["Resources"]
    return f"{machine['NodeManagerHostname']}: " + ", ".join(
        f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU")
    )
