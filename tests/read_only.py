"""A store seen through a read-only mount, in a name space of the child process's own."""

import subprocess
from pathlib import Path

import pytest

MOUNT = 'mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" && shift 2 && exec "$@"'


def mounted(store: Path, at: Path) -> list[str]:
    """The beginning of a command line that sees the store at `at`, where nothing can be written. `at` is made."""
    at.mkdir()
    line = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", str(store), str(at)]
    try:
        possible = subprocess.run([*line, "true"], capture_output=True, timeout=60).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("no mounts may be made here")
    return line
