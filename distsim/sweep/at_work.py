"""Work on a store by one driver at a time: the lease, and prepared sweeps brought to their end under it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from distsim.store import Lease, Storage, StorageError

if TYPE_CHECKING:  # PyTorch takes seconds to import, and who only writes tables needs the lease alone
    from distsim.sweep.order import Prepared
    from distsim.sweep.training_worker import Event

Say = Callable[[str], None]


def carry_out(
    orders: "list[Prepared]",
    root: Storage,
    *,
    local: bool = True,
    address: str | None = None,
    allow_drift: bool = False,
    say: Say = print,
    tell: "Callable[[Event], None] | None" = None,
) -> bool:
    """Do what a store lacks of these sweeps, in this process or by Ray; False where nothing was missing.

    say : gets sentences of what is about to be done. tell : gets an event for each network that is finished.
    StoreInUse: another driver is at work. Other errors are those of `distsim.sweep.order.take` and of
    `distsim.sweep.run.run`.
    """
    from distsim.sweep.engine import LocalEngine
    from distsim.sweep.order import take
    from distsim.sweep.run import run

    with at_work(root, one_writer=local, say=say) as check:
        take(orders, root, here=address is None, say=say)
        if local:
            return run(orders, root, LocalEngine(root, allow_drift, tell), say, check)
        from distsim.sweep.ray_engine import RayEngine

        with RayEngine(root, address, allow_drift, tell) as engine:
            return run(orders, root, engine, say, check)


@contextlib.contextmanager
def at_work(root: Storage, one_writer: bool = False, say: Say = print) -> Iterator[Callable[[], None]]:
    """Hold the store's lease; what is yielded raises where another driver has taken over.

    StorageError: the store has no conditional puts. With `one_writer` it will do, but nothing keeps others away.
    """
    if root.exclusive():
        with Lease(root, say) as lease:
            yield lease.check
    elif one_writer:
        say(f"{root.url} has no conditional puts: nothing keeps a second driver away, so start none")
        yield lambda: None
    else:
        raise StorageError(
            f"{root.url} has no conditional puts, so that writers could overwrite each other's commits: use --local, "
            "which is a single writer, or another object store"
        )
