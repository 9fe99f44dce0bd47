"""What a Ray cluster holds, as JSON. Runs on a machine of it: python tests/cluster/look.py"""

import json
import logging
import subprocess
from typing import Any

import ray
from ray.util.state import list_actors

ASKED = {"From request_resources", "Pending Demands"}  # the parts of `ray status` that say what is asked for
NOTHING = ("(none)", "(no ")


def look() -> dict[str, Any]:
    """Addresses of living and of dead nodes, living actors and placement groups, resources in use and asked for."""
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
        "asked": asked(subprocess.run(["ray", "status"], capture_output=True, text=True, check=True).stdout),
    }


def asked(status: str) -> list[str]:
    """The resources that `ray status` says somebody waits for or has requested. ValueError: it says nothing of them."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in status.splitlines():
        if line.endswith(":"):
            lines = sections.setdefault(line.removesuffix(":"), [])
        elif line.strip() and not line.startswith(("-", "=")):
            lines.append(line.strip())
    if ASKED - sections.keys():
        raise ValueError(f"`ray status` has no part {ASKED - sections.keys()}:\n{status}")
    return [line for name in sorted(ASKED) for line in sections[name] if not line.startswith(NOTHING)]


if __name__ == "__main__":
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    print("look", json.dumps(look()))
