"""Log records of what this process is doing.

Each stage is a record of the standard library's logger `distsim.trace`, at level INFO:
`logging.basicConfig(level="INFO")` shows them. If the environment variable DISTSIM_STAGES names a file, each record is
also appended to that file, as one line `time pid stage details`. The fault tests use it to know which stage they hit.
"""

import contextlib
import logging
import os
from collections.abc import Iterator

logger = logging.getLogger("distsim.trace")


class _Appender(logging.Handler):
    """Append each record to the file $DISTSIM_STAGES in one write, so lines of several processes do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        path = os.environ.get("DISTSIM_STAGES")
        if not path:
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"{record.created:.4f} {record.process} {record.getMessage()}\n".encode())
        finally:
            os.close(descriptor)


logger.setLevel(logging.INFO)
logger.addHandler(_Appender())


def announce(stage: str, *details: object) -> None:
    """Log that this process has reached a stage."""
    logger.info("%s", " ".join(map(str, (stage, *details))))


@contextlib.contextmanager
def stage(name: str, *details: object) -> Iterator[None]:
    """Log the beginning of the stage and, unless the block raises, its end."""
    announce(name, "begin", *details)
    yield
    announce(name, "end", *details)
