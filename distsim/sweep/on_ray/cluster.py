"""The Ray cluster: how this process gets one, and whether it still lives."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker

from distsim.data import Dataset
from distsim.store.lease import release_all
from distsim.sweep import cluster

# Ray reads these when it starts. Tune's new output cannot be silenced, its old one can. Usage is not reported. Nobody
# reads the CSV, JSON and TensorBoard files that Tune would write of each report, with an fsync of the driver's.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")

OBJECT_STORE = 200 * 2**20  # bytes besides the data sets; results do not pass through Ray
LOOKS = 1.0  # seconds between two looks at whether Ray lives
SILENCE = 30.0  # seconds without an answer after which a cluster is given up; Ray ends this process after 60
ANSWER = 5.0  # seconds that a look waits for an answer
GRACE = 8.0  # seconds that this process has to end by itself when Ray has died; Ray ends it after 12 to 60
VITAL = {"raylet": "its raylet", "gcs_server": "its control service (gcs_server)"}


def connect(address: str | None, datasets: Sequence[Dataset]) -> "Watch":
    """Connect to a cluster, or start Ray on this machine if the address is None. Return what watches it.

    ConnectionError: nothing answers, the cluster does not let this process in, or Ray does not start.
    """
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is not None:
        cluster.require_answer(address)
        try:
            with _own_end():
                ray.init(address=address, **quiet)
        except Exception as error:  # Ray raises no narrower one
            raise cluster.refused(address, error) from error
        watch = Watch(address)
        watch.begin()
    else:
        size = OBJECT_STORE + 2 * int(sum(x.train_images.nbytes + x.test_images.nbytes for x in datasets))
        watch = _start_here({"include_dashboard": False, "object_store_memory": size, **quiet})
    # Tune logs tracebacks for workers that died, which the engine reports, and for its own files that could not be
    # written, which nothing reads
    for name in ("ray.tune", "ray.train._internal.storage"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return watch


def _start_here(options: dict[str, Any]) -> "Watch":
    """Start Ray on this machine. ConnectionError: it failed three times to start in 30 s, as on a busy machine."""
    cluster.prepare_local_start()
    for last in (False, False, True):
        watch = Watch(None)
        try:
            with _own_end(), _loopback_only():
                ray.init(address="local", **options)
            watch.begin()
            return watch
        except Exception as error:  # Ray raises no narrower one
            watch.stop()
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            if last:
                raise ConnectionError(
                    "Ray did not start within 30 s, three times: use --local, which works without Ray"
                ) from error
    raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Make a Ray that starts in the block listen at 127.0.0.1 only: it serves this machine, and a port of it runs code.

    This is how Ray starts on macOS and Windows. It replaces an address of 127.0.0.1 that is passed to it by the
    machine's own.
    """
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    before = os.environ.get(name)
    os.environ[name] = "0"  # for the processes that are started; this one read it when Ray was imported
    try:
        with _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False):
            yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextlib.contextmanager
def _own_end() -> Iterator[None]:
    """Leave it to this process how it ends, while Ray starts in the block.

    Ray would take SIGTERM for itself, and end the process with a stack trace in C++. And it would print the log of a
    raylet that died; `Watch` says in a sentence that it did.
    """
    before = signal.getsignal(signal.SIGTERM)
    with _replaced(ray_worker, "listen_error_messages", lambda *_: None):
        if not callable(before) or threading.current_thread() is not threading.main_thread():
            yield
            return
        try:
            with _replaced(ray_utils, "set_sigterm_handler", lambda handler: None):
                yield
        finally:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    """Replace an attribute of one of Ray's modules in the block, if this Ray has it."""
    if not hasattr(module, name):
        yield
        return
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


class Watch:
    """Threads that look whether the Ray that this process works on still lives.

    Where Ray has died, or takes this machine for dead, it lets the driver wait for ever, or ends it without a word.

    address : that of the cluster, None if Ray was started on this machine. A ray:// address is not watched: its client
        raises an error itself.
    ours : this engine connected to it, so nobody else may have stopped it
    """

    def __init__(self, address: str | None, ours: bool = True) -> None:
        self.lost = ""  # the sentence that says what died
        self._here, self._watched = address is None, not (address or "").startswith("ray://")
        self._ours = ours
        self._over, self._seen = threading.Event(), threading.Event()
        self._node = self._gcs = ""  # not known while Ray starts
        self._dead = False  # whether the cluster takes this machine for dead
        self._answered = time.monotonic()
        if self._watched:
            for look in (self._look, self._look_at_nodes):
                threading.Thread(target=look, daemon=True, name="distsim-watch").start()

    def begin(self) -> None:
        """Look at the cluster's table of nodes too, now that Ray has started."""
        context = ray.get_runtime_context()
        if self._watched:
            self._answered, self._gcs = time.monotonic(), context.gcs_address
            self._node = context.get_node_id()

    def check(self, now: bool = False) -> None:
        """Raise ClusterLost if Ray has died. now : also if it does not answer at this moment"""
        if now and not self.lost and self._gcs and not cluster.answers(self._gcs, ANSWER):
            self.lost = cluster.lost(f"its control service at {self._gcs} does not answer", self._here)
        if self.lost:
            self._seen.set()
            raise cluster.ClusterLost(self.lost)

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._seen.set()

    def _look(self) -> None:
        while not self._over.wait(LOOKS):
            if self._node and not ray.is_initialized():  # somebody stopped it
                return
            cause = self._cause()
            if cause and not self._over.is_set():
                self.lost = cluster.lost(cause, self._here)
                if self._ours and not self._seen.wait(GRACE) and (ray.is_initialized() or not self._node):
                    # the process waits in Ray's C++, which would end it soon, too, and say nothing
                    print(f"distsim: {self.lost}", file=sys.stderr, flush=True)
                    release_all()
                    os._exit(1)
                return

    def _look_at_nodes(self) -> None:
        """Look whether the cluster takes this machine for dead. It waits for long where the cluster does not answer."""
        while not self._over.wait(LOOKS) and not self.lost and not self._dead:
            if self._node and not ray.is_initialized():
                return
            with contextlib.suppress(Exception):  # a cluster that begins to fail: the other look says more
                self._dead = bool(self._node) and any(
                    node["NodeID"] == self._node and not node["Alive"] for node in ray.nodes()
                )

    def _cause(self) -> str:
        """Return what is wrong, "" if nothing is."""
        if self._here and (dead := _dead_process()):
            return dead
        if not self._node:
            return ""
        if self._dead:
            return cluster.TAKEN_FOR_DEAD
        if cluster.answers(self._gcs, ANSWER):
            self._answered = time.monotonic()
        elif time.monotonic() - self._answered > SILENCE:
            return f"its control service at {self._gcs} has not answered for {SILENCE:.0f} s"
        return ""


def _dead_process() -> str:
    """Return which vital process of the Ray that was started here has ended, "" if none has."""
    node = ray_worker._global_node
    for kind, process in node.dead_processes() if node is not None else ():
        if kind in VITAL:
            status = process.returncode
            return f"{VITAL[kind]} " + (f"was killed by signal {-status}" if status < 0 else f"ended with {status}")
    return ""
