"""Takes hosts and cables away from a Ray cluster while a sweep runs; it must end with the bits of a sweep without Ray.

    python tests/cluster/suite.py                    # every scenario: less than 30 minutes on 2 cores
    python tests/cluster/suite.py --short            # a host powered off in training, and the head lost: what CI runs
    python tests/cluster/suite.py --only NAME ...
    python tests/cluster/suite.py --clean            # takes away what a suite that was killed has left

Three hosts and a desk, as namespaces of this machine (hosts.py), get their cluster by `ray up` with
clusters/on-prem.yaml. It takes root. Where such hosts cannot be made, --short runs tests/faults/nodes.py instead.
Exit status 0: every store was equal to that of `--local`, piece by piece, and nothing was left behind.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where pytest, too, imports `cluster` and `faults` from


from cluster import hosts, ill, scenarios
from cluster.launch import local
from cluster.scenarios import FLAGS, LOCAL, SHORT
from faults.kills import KillsFailed
from faults.s3 import contents

from distsim.store import Storage

SCENARIOS = scenarios.SCENARIOS | ill.SCENARIOS


def reference() -> dict[str, str]:
    """Piece -> SHA-256 of the sweep on one machine, without Ray."""
    shutil.rmtree(LOCAL, ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(hosts.PYCACHE)
    subprocess.run(local(LOCAL, FLAGS), check=True, stdout=subprocess.DEVNULL, env=environment)
    return contents(Storage(LOCAL))


def play(name: str, expected: dict[str, str]) -> bool:
    """Play one scenario and say how it went; whether it went well."""
    began = time.monotonic()
    try:
        wrong = SCENARIOS[name](expected)
    except (hosts.HostsFailed, KillsFailed, subprocess.SubprocessError) as error:
        wrong = [str(error)]
    print(f"{name:20} {time.monotonic() - began:4.0f} s  {'WRONG' if wrong else 'equal'}", flush=True)
    for sentence in wrong:
        print(f"    {sentence}", flush=True)
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--short", action="store_true", help=f"only {' and '.join(SHORT)}")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="NAME", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--clean", action="store_true", help="take away what a suite that was killed has left")
    flags = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that hosts are taken away then, too
    if lacking := hosts.lacking():
        if not flags.short:
            print(f"no hosts can be made here: {lacking}")
            return 1
        print(f"no hosts can be made here: {lacking}. tests/faults/nodes.py runs instead", flush=True)
        return subprocess.run([sys.executable, Path(__file__).parents[1] / "faults" / "nodes.py"]).returncode
    try:
        if flags.clean:
            hosts.clean()
            return 0
        began = time.monotonic()
        hosts.FOLDER.mkdir(exist_ok=True)
        expected = reference()
        print(f"{'without Ray':20} {time.monotonic() - began:4.0f} s  {len(expected)} pieces", flush=True)
        well = [play(name, expected) for name in flags.only or (SHORT if flags.short else SCENARIOS)]
    except KeyboardInterrupt:
        return 130
    except hosts.HostsFailed as error:
        print(error)
        return 1
    print(f"{sum(well)} of {len(well)} scenarios in {(time.monotonic() - began) / 60:.1f} minutes")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
