"""Processes as Linux lists them under /proc: who belongs to a sweep, what it is called, and stopping it."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path


def members(session: int) -> set[int]:
    """Living processes of the session. Ray gives workers process groups of their own, but no session."""
    return {pid for pid, its in _sessions() if its == session}


def kill(pids: set[int]) -> None:
    for pid in sorted(pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> bool:
    """Stop all threads of a process; False if it is gone."""
    deadline = time.monotonic() + 60
    try:
        os.kill(pid, signal.SIGSTOP)
        while any(state not in "TtZX" for state in _thread_states(pid)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {pid} does not stop")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


def title(pid: int) -> str:
    """The process's name for a person: what Ray calls it, or its program."""
    try:
        first = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "?"
    return first if first.startswith("ray::") else Path(first).name


def is_worker(pid: int) -> bool:
    """Whether it is a process of Ray's that may write to the store."""
    name = title(pid)
    return name.startswith("ray::") and not name.endswith("Agent")


def _sessions() -> Iterator[tuple[int, int]]:
    """(pid, session) of every process that is not a zombie."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, _, _, session, *_ = _stat(f"/proc/{entry}/stat")
                if state not in "ZX":
                    yield int(entry), int(session)


def _thread_states(pid: int) -> Iterator[str]:
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread may end at any time
            yield _stat(f"/proc/{pid}/task/{task}/stat")[0]


def _stat(path: str) -> list[str]:
    """The fields of a /proc stat file after the name, which may contain anything: state, ppid, group, session, ..."""
    with open(path) as file:
        return file.read().rpartition(")")[2].split()
