"""What this process is doing, for whoever wants to watch: one line per stage, appended to the file $DISTSIM_STAGES.

Without the variable nothing is written. `distsim status` does not need it; the fault tests do, to know what they hit.
"""

import contextlib
import os
import time
from collections.abc import Iterator


def announce(stage: str, *details: object) -> None:
    """Append `time pid stage details` in one write, so that lines of several processes do not mix."""
    if path := os.environ.get("DISTSIM_STAGES"):
        line = f"{time.time():.4f} {os.getpid()} {stage} {' '.join(map(str, details))}\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def stage(name: str, *details: object) -> Iterator[None]:
    """Announce the stage's begin and, unless it fails, its end."""
    announce(name, "begin", *details)
    yield
    announce(name, "end", *details)
