"""The Ray cluster: how this process gets one, what it has room for, and whether distsim is on its machines."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsim._version import __version__
from distsim.data import Dataset
from distsim.sweep import cluster
from distsim.sweep.order import Prepared

# Ray reads these when it starts. Tune's new output cannot be silenced, its old one can. Usage is not reported.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

OBJECT_STORE = 200 * 2**20  # bytes besides the data sets; results do not pass through Ray
ASKED = 60.0  # seconds that the machines of a cluster have to say whether distsim is there


def connect(address: str | None, datasets: Sequence[Dataset]) -> None:
    """Connect to a cluster, or start Ray on this machine if the address is None.

    ConnectionError: nothing answers, the cluster does not let this process in, Ray does not start, or distsim cannot
    be imported on a machine of the cluster.
    """
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is not None:
        cluster.require_answer(address)
        try:
            ray.init(address=address, **quiet)
        except Exception as error:  # Ray raises no narrower one
            raise cluster.refused(address, error) from error
        _require_distsim()
    else:
        size = OBJECT_STORE + 2 * int(sum(x.train_images.nbytes + x.test_images.nbytes for x in datasets))
        _start_here({"include_dashboard": False, "object_store_memory": size, **quiet})
    # Tune logs tracebacks for workers that died, which the engine reports, and for its own files that could not be
    # written, which nothing reads
    for name in ("ray.tune", "ray.train._internal.storage"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


# Run on each machine of a cluster. It must not need distsim there to be unpickled, so it is code of no module.
ASK = """
def ask():
    try:
        import distsim
        return distsim.__version__, ""
    except BaseException as error:
        return "", f"{type(error).__name__}: {error}"
"""


def _require_distsim() -> None:
    """Check that distsim of this version can be imported on each machine. ConnectionError names those where it cannot.

    Ray would send work there, see it die and send it there again, since that machine is idle. A machine that does not
    answer in time is left alone: it may be busy.
    """
    code: dict[str, Any] = {}
    exec(ASK, code)
    ask = ray.remote(num_cpus=0, max_retries=0)(code["ask"])
    asked = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node
        for node in ray.nodes()
        if node["Alive"]
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ASKED)
    wrong = []
    for answer in answered:
        host = asked[answer]["NodeManagerHostname"]
        try:
            version, error = ray.get(answer)
        except ray.exceptions.RayError:  # the machine has gone
            continue
        if error:
            wrong.append(f"{host}: {error}")
        elif version != __version__:
            wrong.append(f"{host}: it has distsim {version}, this is {__version__}")
    if wrong:
        ray.shutdown()
        raise ConnectionError(
            f"distsim cannot be used on some machines of the Ray cluster ({'; '.join(wrong)}): install it there"
        )


def _start_here(options: dict[str, Any]) -> None:
    """Start Ray on this machine. ConnectionError: it failed three times to start in 30 s, as on a busy machine."""
    cluster.prepare_local_start()
    for last in (False, False, True):
        try:
            ray.init(address="local", **options)
            return
        except Exception as error:  # Ray raises no narrower one
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            if last:
                raise ConnectionError(
                    "Ray did not start within 30 s, three times: use --local, which works without Ray"
                ) from error


def require_room(orders: list[Prepared]) -> None:
    """Check that each trial and comparison fits on a machine. ValueError: one does not, and Ray would wait forever."""
    cpus, gpus = slot(orders)
    wanted = [bundle_of(dict(order.sweep.resources)) for order in orders] + [{"CPU": cpus, "GPU": gpus}]
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for bundle in wanted:
        if not any(all(machine.get(name, 0) >= amount for name, amount in bundle.items()) for machine in machines):
            needed = ", ".join(f"{amount:g} {name}" for name, amount in bundle.items() if amount)
            raise ValueError(f"no machine of the Ray cluster has {needed}: see --cpus, --gpus, --threads")


def slot(orders: list[Prepared]) -> tuple[int, float]:
    """Return the CPUs and GPUs that one comparison of any of these sweeps needs."""
    cpus = max(order.sweep.identity.threads for order in orders)
    gpus = (dict(order.sweep.resources).get("gpu", 1.0) for order in orders if order.sweep.device == "cuda")
    return cpus, max(gpus, default=0.0)


def room_for(bundle: dict[str, float]) -> int:
    """Return how many bundles of resources the cluster holds, at least 1."""
    resources = ray.cluster_resources()
    return max(1, min(int(resources.get(name, 0) / amount) for name, amount in bundle.items() if amount))


def bundle_of(resources: dict[str, float]) -> dict[str, float]:
    return {name.upper(): amount for name, amount in resources.items() if amount} or {"CPU": 1}
