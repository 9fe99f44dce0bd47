"""Work that is done in a thread, beside something else."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Beside:
    """A `with` block that does pieces of work one after the other in a thread, or at once if `beside` is False.

    The block ends when all work is done. An error in the thread is raised by a later call of `do`, or at the end.
    """

    def __init__(self, beside: bool, most: int = 1) -> None:
        """Start nothing yet. most : pieces that may wait; one more waits for the first of them"""
        self._pool = ThreadPoolExecutor(1) if beside else None
        self._doing: deque[Future[None]] = deque()
        self._most = most

    def __enter__(self) -> "Beside":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            if kind is None:
                self._settle(0)

    def do(self, work: Callable[..., None], *args: Any) -> None:
        """Call work(*args), in the thread if there is one."""
        if self._pool is None:
            work(*args)
            return
        self._settle(self._most - 1)
        self._doing.append(self._pool.submit(work, *args))

    def _settle(self, left: int) -> None:
        while len(self._doing) > left:
            self._doing.popleft().result()
