"""What a Ray cluster holds, as JSON. Runs on a machine of it: python tests/cluster/look.py"""

import json
import logging
import subprocess
from typing import Any

import ray
from ray.util.state import list_actors


def look() -> dict[str, Any]:
    """Addresses of living and of dead nodes, living actors and placement groups, resources in use, and `ray status`."""
    nodes = ray.nodes()
    whole, free = ray.cluster_resources(), ray.available_resources()
    return {
        "nodes": sorted(node["NodeManagerAddress"] for node in nodes if node["Alive"]),
        "dead": sorted(node["NodeManagerAddress"] for node in nodes if not node["Alive"]),
        "actors": [f"{actor.class_name} {actor.state}" for actor in list_actors() if actor.state != "DEAD"],
        "groups": [
            table["state"] for table in ray.util.placement_group_table().values() if table["state"] != "REMOVED"
        ],
        "used": {name: amount - free.get(name, 0) for name, amount in whole.items() if amount > free.get(name, 0)},
        "status": subprocess.run(["ray", "status"], capture_output=True, text=True, check=True).stdout,
    }


if __name__ == "__main__":
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    print("look", json.dumps(look()))
