"""A command on a terminal of its own, as somebody who sits before it has it."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A process on a pseudo-terminal. `seen` is all that it has shown, without colours and movements."""

    def __init__(self, line: Sequence[object], width: int = 120, height: int = 40, **environment: str) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self._descriptor, self._raw = ours, b""
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [*map(str, line)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=kept | {"TERM": "xterm-256color"} | environment,
            start_new_session=True,
            preexec_fn=lambda: (fcntl.ioctl(0, termios.TIOCSCTTY, 0), signal.signal(signal.SIGINT, signal.SIG_DFL)),
        )
        os.close(theirs)

    @property
    def seen(self) -> str:
        return CONTROL.sub("", self._raw.decode(errors="replace")).replace("\r", "\n")

    @property
    def raw(self) -> str:
        return self._raw.decode(errors="replace")

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def until(self, text: str, seconds: float = 240.0) -> None:
        """Read until the text is seen."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} does not come: {self.seen}"
            assert self._read(), f"it ended without {text!r}: {self.seen}"

    def status(self, seconds: float = 240.0) -> int:
        """Read to the end, and return the exit status."""
        end = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < end, f"it does not end: {self.seen}"
        return self.process.wait(timeout=30)

    def _read(self) -> bool:
        if not select.select([self._descriptor], [], [], 1.0)[0]:
            return True
        with contextlib.suppress(OSError):  # the process has ended
            if part := os.read(self._descriptor, 2**16):
                self._raw += part
                return True
        return False

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._descriptor)


def python(code: str, folder: Path, **environment: str) -> Terminal:
    """A script on a terminal."""
    script = folder / "script.py"
    script.write_text(code)
    return Terminal([sys.executable, script], **environment)
