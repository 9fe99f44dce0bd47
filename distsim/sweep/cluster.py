"""What is checked and set before Ray starts here or a cluster is asked, so that what is wrong is said in a sentence."""

import os
import secrets
import socket
import tempfile
from pathlib import Path

PATIENCE = 10.0  # seconds within which a machine of the cluster must answer
SOCKET_PATH = 107  # bytes of a Unix socket's path, at most
RAYS_PART = len("/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.1")
ADDRESSES = 16 * 2**30  # bytes of addresses that a process of Ray takes, at most; 12 GB were seen to be too few
TAKEN_FOR_DEAD = "it takes this machine for dead, as if it had not answered for a while"
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class ClusterLost(ConnectionError):
    """The Ray cluster that this process works on has died, or takes this machine for dead."""


def require_answer(address: str) -> None:
    """Check that something listens at a Ray address. ConnectionError: nothing does.

    address : host:port, ray://host:port, or auto, which stands for RAY_ADDRESS or for what `ray start` left here
    """
    named = address
    if address == "auto":
        named = os.environ.get("RAY_ADDRESS") or _started_here()
        if not named or named == "auto":
            return  # Ray says that it finds no cluster
    host, _, port = named.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # not a place that can be asked
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or error
        raise ConnectionError(
            f"no Ray cluster answers at {named} ({reason}): check --address, and that the cluster runs (ray up, or "
            "ray start --head); without --address the sweep runs on this machine"
        ) from None


def answers(address: str, patience: float = PATIENCE) -> bool:
    """Return whether something listens at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), patience).close()
    except (OSError, OverflowError, ValueError):
        return False
    return True


def lost(cause: str, here: bool) -> str:
    """Return the sentence for a Ray that died while a sweep ran. `here`: it was started on this machine."""
    do = (
        "see whether this machine has too little memory or too much work (--cpus), or use --local"
        if here
        else ("see whether the cluster runs (ray status)")
    )
    return f"Ray has died: {cause}. What is committed is kept: {do}, then run the same command again to go on from here"


def _started_here() -> str:
    """Return the address of the cluster that `ray start` recorded on this machine, "" if there is none."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        return Path(folder, "ray", "ray_current_cluster").read_text().strip()
    except OSError:
        return ""


def refused(address: str, error: BaseException) -> ConnectionError:
    """Make an error for a cluster that answered and did not let this process in."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    return ConnectionError(
        f"cannot use the Ray cluster at {address}: {lines[0]}. If it was started with a token, RAY_AUTH_MODE must be "
        f"token here and ~/.ray/auth_token the same; if without, RAY_AUTH_MODE must be disabled (now it is {mode})"
    )


def prepare_local_start() -> None:
    """Give a Ray that starts here a token of its own, and a folder short enough for its sockets.

    Without a token in the environment Ray would leave one in ~/.ray, which may not be writable, and which a cluster
    that is started later would ask for. ConnectionError: Ray would not start, or not work.
    """
    _require_addresses()
    if os.environ.get("RAY_AUTH_MODE", "token") == "token" and not any(name in os.environ for name in TOKENS):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if "RAY_TMPDIR" not in os.environ and _too_long(tempfile.gettempdir()) and os.access("/tmp", os.W_OK | os.X_OK):
        os.environ["RAY_TMPDIR"] = "/tmp"
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if _too_long(folder):
        raise ConnectionError(
            f"Ray cannot start: its sockets would have too long a path in {folder}. Set RAY_TMPDIR to a folder with a "
            f"path of at most {SOCKET_PATH - RAYS_PART} bytes, or use --local, which works without Ray"
        )


def _require_addresses() -> None:
    """Check that the processes of Ray may have enough addresses. Where they get too few, they abort again and again."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESSES:
        raise ConnectionError(
            f"Ray cannot work with `ulimit -v {limit // 1024}`: its processes take up to {ADDRESSES // 1024} kB. Raise "
            "the limit, or use --local, which works without Ray"
        )


def _too_long(folder: str) -> bool:
    return len(os.fsencode(os.path.abspath(folder))) + RAYS_PART > SOCKET_PATH
