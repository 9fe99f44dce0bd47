"""A Ray cluster on hosts, made by `ray up` with what clusters/on-prem.yaml says, and sweeps on it."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from cluster.hosts import ROOT, STATE, Hosts, until

PUBLISHED = ROOT / "clusters" / "on-prem.yaml"
SCRIPT = ROOT / "sweeps" / "digits.py"
INSTALLS = ("distsim-uv", "distsim-env --")  # in a setup command that installs: hosts have this machine's Python
LIMITS = "--num-cpus=1 --memory=2000000000"  # each host takes this machine's memory to be its own
JOINED = 180.0  # seconds until all workers have joined; seen: 20 to 40 on two busy cores
ASKED = {"From request_resources", "Pending Demands"}  # the parts of `ray status` that say what is asked for
NOTHING = ("(none)", "(no ")
IDLE = 60.0  # seconds until Ray has given back what a sweep used


def config(published: dict[str, Any], head: str, workers: Sequence[str], key: str) -> dict[str, Any]:
    """The published configuration for these machines, which have the software already: all else is as published."""
    changed = dict(published)
    changed["provider"] = dict(published["provider"]) | {"head_ip": head, "worker_ips": list(workers)}
    changed["min_workers"] = changed["max_workers"] = len(workers)
    changed["auth"] = {"ssh_user": "root", "ssh_private_key": key}
    changed["file_mounts"] = {at: path for at, path in published["file_mounts"].items() if path.startswith("~")}
    changed["setup_commands"] = [
        command for command in published["setup_commands"] if not any(word in command for word in INSTALLS)
    ]
    for kind in ("head_start_ray_commands", "worker_start_ray_commands"):
        changed[kind] = [command.replace("ray start ", f"ray start {LIMITS} ") for command in published[kind]]
    return changed


class Cluster:
    """A Ray cluster of hosts. `desk` is the host where its user sits: it has the configuration and no Ray."""

    def __init__(self, hosts: Hosts, desk: int, head: int, workers: Sequence[int], name: str = "cluster") -> None:
        self.hosts, self.desk, self.head, self.workers = hosts, desk, head, tuple(workers)
        self.file = STATE / f"{name}.yaml"
        self.write(self.workers)

    def write(self, workers: Sequence[int]) -> None:
        """Write the configuration with these workers."""
        self.workers = tuple(workers)
        addresses = [self.hosts.address(host) for host in workers]
        published = yaml.safe_load(PUBLISHED.read_text())
        changed = config(published, self.hosts.address(self.head), addresses, str(self.hosts.key))
        self.file.write_text(yaml.safe_dump(changed, sort_keys=False))

    def up(self) -> None:
        """As the file says: a token, the variable, `ray up`; then wait for the workers."""
        self.at_desk("test -f ~/.ray/auth_token || (umask 077; ray get-auth-token --generate > /dev/null)")
        self.at_desk(f"ray up -y --no-config-cache {self.file}")
        self.wait_for(1 + len(self.workers))

    def join(self, host: int) -> None:
        """Start Ray on one more host by hand, with the token and the file's command for workers.

        `ray up` with one more address does not reach the autoscaler that runs: it goes on with its own addresses
        (provider local, Ray 2.60).
        """
        key = self.hosts.key
        there = f"ssh -i {key} -o StrictHostKeyChecking=no -o LogLevel=ERROR root@{self.hosts.address(host)}"
        self.at_desk(f"{there} 'umask 077; mkdir -p ~/.ray; cat > ~/.ray/auth_token' < ~/.ray/auth_token")
        command = yaml.safe_load(self.file.read_text())["worker_start_ray_commands"][-1]
        variables = f"export RAY_AUTH_MODE=token RAY_HEAD_IP={self.hosts.address(self.head)}"
        self.hosts.run(host, f"{variables}; {command}")

    def down(self) -> None:
        """By the script that is published beside the file."""
        self.at_desk(f"{PUBLISHED.with_name('on-prem-down.sh')} {self.file}")

    def at_desk(self, command: str) -> str:
        variables = "export RAY_UP_enable_autoscaler_v2=0 RAY_AUTH_MODE=token"
        done = self.hosts.run(self.desk, f"{variables}; cd {ROOT}; {command}")
        return done.stdout + done.stderr

    def look(self) -> dict[str, Any]:
        """What tests/cluster/look.py sees on the head."""
        said = self.hosts.run(self.head, f"python {Path(__file__).with_name('look.py')}").stdout
        return json.loads(next(line for line in said.splitlines() if line.startswith("look ")).removeprefix("look "))

    def wait_for(self, nodes: int) -> None:
        """Until so many nodes are there. HostsFailed: they do not come."""
        until(lambda: len(self.look()["nodes"]) == nodes, f"Ray has not {nodes} nodes", JOINED, 2.0)

    def held(self) -> list[str]:
        """What the cluster still holds, a minute after a sweep, of actors, placement groups and resources."""
        deadline = time.monotonic() + IDLE
        while left := held(self.look()):
            if time.monotonic() > deadline:
                return left
            time.sleep(1)
        return []


def held(seen: dict[str, Any]) -> list[str]:
    """What is not idle in what look.py saw."""
    kinds = ("actors", "groups", "used", "asked")
    seen = seen | {"asked": asked(seen["status"])}
    return [f"Ray still has {kind}: {seen[kind]}" for kind in kinds if seen[kind]]


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


def sweep(storage: str, flags: Sequence[str], address: str = "auto") -> str:
    """The command line of the sweep, for a shell of a host."""
    return shlex.join(["python", str(SCRIPT), *flags, "--address", address, "--device", "cpu", "--storage", storage])


def local(storage: Path, flags: Sequence[str]) -> list[str]:
    """The command of the sweep on one machine without Ray."""
    return [sys.executable, str(SCRIPT), *flags, "--local", "--storage", str(storage)]
