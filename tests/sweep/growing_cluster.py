"""A sweep on a cluster whose only machine has no CPU, and which an autoscaler lets grow: run as a script.

    unshare --pid --fork --mount-proc --kill-child python growing_cluster.py STORE

Ray's own autoscaler starts the machines, as after `ray up`. They are raylets of this machine. Nobody else's Ray is
touched: all processes are in a namespace of their own, and end with it.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distsim.sweep.order import Prepared

FAKE = "ray.autoscaler._private.fake_multi_node.node_provider"
MOST = 3  # machines that the autoscaler may start
RUNS = 6
PORT = 6399
HEAD = "ray.head.default"  # the only name of a head that this provider of machines knows


def main(store: str) -> int:
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID as ID

    head = {
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": ID,
        "RAY_NODE_TYPE_NAME": HEAD,
    }  # as `ray up` does
    head |= {"RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": ID, "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with tempfile.TemporaryDirectory(prefix="grow-", ignore_cleanup_errors=True) as folder:
        config = Path(folder, "cluster.json")
        config.write_text(json.dumps(described(ID)))
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={PORT}", "--num-cpus=0"]
        ray += [f"--temp-dir={folder}", "--object-store-memory=100000000", f"--autoscaling-config={config}"]
        subprocess.run([*ray, "--include-dashboard=false"], env=os.environ | head, check=True, stdout=2)
        said = swept(store)
        log = Path(folder, "session_latest/logs/monitor.log").read_text()
    asked = [int(number) for number in re.findall(r"Adding (\d+) node", log)]
    print(json.dumps({"said": said, "asked": asked}))
    return 0


def described(head: str) -> dict[str, object]:
    """Return what `ray up` would have written: a head that works on nothing, and machines of one CPU each."""
    provider = {"type": "external", "module": f"{FAKE}.FakeMultiNodeProvider", "head_node_id": head}
    provider["gcs_address"] = f"127.0.0.1:{PORT}"
    kinds = {
        HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MOST},
    }
    none = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    none += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")
    lists: dict[str, object] = {name: [] for name in (*none, "rsync_filter")}
    return {
        "cluster_name": "growing",
        "max_workers": MOST,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": provider | {"launch_multiple": True},
        "auth": {},
        "available_node_types": kinds,
        "head_node_type": HEAD,
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **lists,
    }


def swept(store: str) -> list[str]:
    """Make a sweep, and return what it said."""
    import ray

    from distsim.store import Storage
    from distsim.sweep.on_ray.engine import RayEngine
    from distsim.sweep.order import take
    from distsim.sweep.run import run

    address, said = f"127.0.0.1:{PORT}", list[str]()
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    root, order = Storage(store), ordered()
    take([order], root)
    run([order], root, RayEngine(root, address, False, say=said.append), said.append)
    return said


def ordered() -> "Prepared":
    from distsim.problems import PROBLEMS
    from distsim.sweep.order import prepare

    small = PROBLEMS["digits"].reduced_to(epochs=20, probe=60, train_limit=200)
    return prepare(small, runs=RUNS, iterations=1, retention="all", resources=(("cpu", 1.0),), metrics=("cosine",))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
