"""Machines as network namespaces: each has its own network, mounts, processes, name, home, /tmp and /dev/shm.

    with Hosts(3) as hosts:
        hosts.run(1, "hostname")             # by ssh; hosts are numbered from 1
        hosts.power_off(2)
        hosts.cut(3)                         # the cable: nothing arrives any more, and nobody is told

All of them use this machine's disk, the checkout and the Python that runs this. Host i is 10.78.0.i, this machine is
10.78.0.254. They reach each other and nothing else. It takes root, and sshd, rsync, iproute2 and util-linux.

Names have the prefix `dst`. Processes are written down with their number and the time at which they began, so that what
a crash left behind can be ended (`clean`) without a look at names of processes.
"""

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("/var/tmp/dst")  # not in /tmp, because hosts have a /tmp of their own
STATE = FOLDER / "hosts"  # what is there of the hosts that are up, or were up last
PYCACHE = FOLDER / "pycache"  # compiled modules: to compile 3,000 of them on each host takes longer than a sweep
EXTRA = Path(sys.prefix) / "cluster"  # ray[default], in a folder of its own: other tests see Ray without it
PREFIX = "dst"  # of namespaces, cables and the bridge; a cable's name may have 15 characters
BRIDGE = "dstbr"
NETWORK = "10.78.0"
GATEWAY = f"{NETWORK}.254"  # this machine, as hosts see it
MARK = "DST_SUITE"  # in the environment of whatever the suite starts
TOOLS = ("ip", "unshare", "setpriv", "ssh", "ssh-keygen", "/usr/sbin/sshd", "rsync")
PATIENCE = 60.0  # seconds for what takes one


class HostsFailed(RuntimeError):
    """The hosts did not do what they must."""


def lacking() -> str:
    """What this machine lacks to make hosts, "" if nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs Linux and root"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(Path(tool).name for tool in absent)} not found: install openssh-server, rsync and iproute2"
    if not (EXTRA / "bin" / "ray").exists():
        return f"there is no Ray in {EXTRA} that knows `ray up`: `make test-cluster` installs it"
    for command in (
        ("unshare", "--net", "--mount", "--uts", "--pid", "--ipc", "--fork", "--mount-proc", "true"),
        ("unshare", "--net", "ip", "link", "add", BRIDGE, "type", "bridge"),
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"namespaces cannot be made here ({done.stderr.strip().splitlines()[-1]})"
    return ""


class Hosts:
    """`count` machines that are on. Leaving the `with` block takes all of it away.

    shared : whether `share` is one folder for all of them, else each has an empty one of its own
    """

    def __init__(self, count: int, shared: bool = True) -> None:
        self.count, self.shared = count, shared
        self.share, self.stages, self.key = STATE / "share", STATE / "stages", STATE / "key"
        self._made = _Made()
        self._clients: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Hosts":
        self._made.lock()
        try:
            _clean(self._made)
            self._up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def down(self) -> None:
        """Take everything away but the logs and the shared folder, which the next one to come up removes."""
        for client in self._clients:
            client.kill()
            client.wait()
        _clean(self._made, logs=False)
        self._made.unlock()

    def address(self, host: int) -> str:
        return f"{NETWORK}.{host}"

    def export(self, variables: Mapping[str, str]) -> None:
        """Set environment variables for every shell that begins on a host from now on."""
        lines = (f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
        with open(STATE / "environment", "a") as file:
            file.writelines(lines)

    def add_to_shells(self, host: int, line: str) -> None:
        """Let every shell that begins on this host run a line, until the host boots again."""
        with open(STATE / _name(host) / "home" / ".bashrc", "a") as file:
            file.write(f"{line}\n")

    def power_on(self, host: int) -> None:
        """Boot the host, with an empty /tmp, and wait for its sshd."""
        name = _name(host)
        shutil.rmtree(STATE / name / "tmp", ignore_errors=True)
        (STATE / name).mkdir(exist_ok=True)
        spaces = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", name, "unshare", "--mount", "--uts", "--pid"]
        spaces += ["--ipc", "--fork", "--mount-proc", "--kill-child"]
        init = str(Path(__file__).with_name("host_init.sh"))
        shared = "yes" if self.shared else "no"
        with open(STATE / name / "log", "ab") as log:
            # the host goes off when this process dies, however it dies
            process = subprocess.Popen(
                [*spaces, "bash", init, name, self.address(host), str(STATE), shared, str(ROOT), sys.prefix],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], MARK: str(os.getpid())},
                start_new_session=True,
            )
        self._made.started(name, process)
        self.heal(host)
        until(lambda: self.run(host, "true", check=False).returncode == 0, f"{name} does not boot")

    def power_off(self, host: int) -> None:
        """End every process of the host at once, and answer nobody from then on.

        Connections that are open may still be closed, as by a kernel that goes down. `cut` is silent.
        """
        self._made.end(_name(host))
        until(lambda: not self.processes(host), f"processes of {_name(host)} do not die")
        self.cut(host)

    def cut(self, host: int) -> None:
        """Pull the cable: the host goes on, and neither it nor the others are told."""
        _ip("link", "set", _cable(host), "down")

    def heal(self, host: int) -> None:
        _ip("link", "set", _cable(host), "up")

    def run(
        self, host: int, command: str, check: bool = True, timeout: float = 600.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in a login shell of the host, by ssh. HostsFailed: it failed, and `check` is set."""
        done = subprocess.run(self._ssh(host, command), capture_output=True, text=True, timeout=timeout, env=_marked())
        if check and done.returncode:
            said = (done.stdout + done.stderr)[-4000:]
            raise HostsFailed(f"{_name(host)}: exit status {done.returncode} of {command}\n{said}")
        return done

    def start(self, host: int, command: str, log: Path) -> "subprocess.Popen[bytes]":
        """Start a command on the host by ssh. What it prints goes to the log."""
        with open(log, "ab") as file:
            process = subprocess.Popen(
                self._ssh(host, command), stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=_marked()
            )
        self._clients.append(process)
        return process

    def processes(self, host: int) -> dict[int, str]:
        """Process number, as this machine counts, -> command line of what runs on the host, its PID 1 included."""
        space = self._made.spaces.get(_name(host))
        return {pid: _line(pid) for pid in _pids() if space is not None and _space(pid) == space}

    def process(self, host: int, number: str) -> int | None:
        """The number that this machine gives to what the host counts as `number`; None: it has ended."""
        return next((pid for pid in self.processes(host) if _numbers(pid)[-1:] == [number]), None)

    def left_over(self) -> list[str]:
        """What is still there of the hosts that this object made, and of what the suite started."""
        spaces = set(self._made.spaces.values())
        found = [f"process {pid}: {_line(pid)[:120]}" for pid in _pids() if _space(pid) in spaces or _is_marked(pid)]
        return found + [f"namespace {name}" for name in _namespaces()] + [f"interface {name}" for name in _interfaces()]

    def _up(self) -> None:
        for folder in (STATE, self.share, self.stages):
            folder.mkdir(exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        numbers = range(1, self.count + 1)
        names = "".join(f"{self.address(host)} {_name(host)}\n" for host in numbers)
        (STATE / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        found = [str(EXTRA / "bin"), str(Path(sys.executable).parent), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        self.export({"PATH": ":".join(found), "PYTHONPATH": f"{ROOT}:{EXTRA}", MARK: str(os.getpid())})
        self.export({"PYTHONPYCACHEPREFIX": str(PYCACHE), "RAY_USAGE_STATS_ENABLED": "0"})
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for host in numbers:
            name = _name(host)
            _ip("netns", "add", name)
            self._made.note(name, (Path("/run/netns") / name).stat().st_ino)
            _ip("link", "add", _cable(host), "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", _cable(host), "master", BRIDGE)
            _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            for interface in ("eth0", "lo"):
                _ip("-n", name, "link", "set", interface, "up")
            self.power_on(host)

    def _ssh(self, host: int, command: str) -> list[str]:
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=5")
        flags = [flag for option in options for flag in ("-o", option)]
        line = f"bash --login -c {shlex.quote(command)}"
        return ["ssh", "-F", "none", "-i", str(self.key), *flags, f"root@{self.address(host)}", line]


class _Made:
    """What was made, as made.json has it."""

    def __init__(self) -> None:
        self.file = STATE / "made.json"
        self.spaces: dict[str, int] = {}  # host -> its network namespace
        self._began: dict[str, tuple[int, int]] = {}  # host -> the process that keeps it on, and when it began
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock: int | None = None

    def lock(self) -> None:
        """Make sure that no other suite runs. HostsFailed: one does."""
        FOLDER.mkdir(mode=0o755, exist_ok=True)
        if FOLDER.is_symlink() or FOLDER.stat().st_uid != os.geteuid():
            raise HostsFailed(f"{FOLDER} is somebody else's")
        self._lock = os.open(FOLDER / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostsFailed("another suite has its hosts up on this machine") from None

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def note(self, host: str, space: int) -> None:
        self.spaces[host] = space

    def started(self, host: str, process: "subprocess.Popen[bytes]") -> None:
        self._children[host] = process
        self._began[host] = (process.pid, _began(process.pid))
        self.file.write_text(json.dumps(self._began))

    def end(self, host: str) -> None:
        """Kill the process that keeps the host on, if it is still the one that was started."""
        pid, began = self._began.pop(host, (0, 0))
        if pid and _began(pid) == began:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if child := self._children.pop(host, None):
            child.wait(PATIENCE)

    def end_all(self) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._began = {host: tuple(pair) for host, pair in json.loads(self.file.read_text()).items()} | self._began
        for host in list(self._began):
            self.end(host)
        self.file.unlink(missing_ok=True)


def clean() -> None:
    """Take away what a suite that died has left. HostsFailed: a suite runs."""
    made = _Made()
    made.lock()
    _clean(made)
    shutil.rmtree(FOLDER)
    made.unlock()


def _clean(made: _Made, logs: bool = True) -> None:
    made.end_all()
    spaces = set(made.spaces.values())
    until(lambda: not any(_space(pid) in spaces for pid in _pids()), "processes of the hosts do not die")
    for name in _interfaces():  # first: a namespace takes its cable with it, but not at once
        _ip("link", "del", name)
    for name in _namespaces():
        _ip("netns", "del", name)
    if logs and STATE.is_dir():
        shutil.rmtree(STATE)


def _name(host: int) -> str:
    return f"{PREFIX}{host}"


def _cable(host: int) -> str:
    return f"{PREFIX}v{host}"


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise HostsFailed(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line.startswith(PREFIX)]


def _interfaces() -> list[str]:
    """Bridge and cables, cables first. A cable's other end goes with it."""
    names = [link["ifname"] for link in json.loads(_ip("-json", "link", "show")) if link["ifname"].startswith(PREFIX)]
    return sorted(names, reverse=True)


def _marked() -> dict[str, str]:
    return dict(os.environ) | {MARK: str(os.getpid())}


def _is_marked(pid: int) -> bool:
    try:
        return f"{MARK}={os.getpid()}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _pids() -> Sequence[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _space(pid: int) -> int | None:
    """The network namespace of a process; None: it has ended."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def _line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _numbers(pid: int) -> list[str]:
    """The process's numbers, from this machine's to that of its own namespace."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return line.split()[1:]
    return []


def _began(pid: int) -> int:
    """When the process began, in the kernel's ticks; 0: there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def until(condition: Callable[[], bool], complaint: str, patience: float = PATIENCE, pause: float = 0.1) -> None:
    """Wait until the condition holds. HostsFailed: it does not come to hold."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise HostsFailed(f"{complaint} (waited {patience:.0f} s)")
        time.sleep(pause)
