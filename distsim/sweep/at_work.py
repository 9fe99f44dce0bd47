"""Run prepared sweeps on a store while holding its lease, so that only one driver works on it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from distsim.callbacks import Callback
from distsim.store import Lease, Storage, StorageError, problems_in
from distsim.store.fenced import finish
from distsim.sweep.cluster import require_answer
from distsim.sweep.heeding import heeding

if TYPE_CHECKING:  # PyTorch takes seconds to import; writing tables needs the lease only
    from distsim.sweep.order import Prepared

Say = Callable[[str], None]


def carry_out(
    orders: "list[Prepared]",
    root: Storage,
    *,
    local: bool = True,
    address: str | None = None,
    allow_drift: bool = False,
    allow_slow: bool = False,
    say: Say = print,
    watcher: Callback | None = None,
) -> bool:
    """Do what the store lacks of these sweeps, and heed instructions meanwhile. Return False if nothing was missing.

    local : work in this process; otherwise on Ray, on the cluster at `address` or on this machine if it is None
    say : gets sentences about what comes next
    watcher : hears how it gets on
    allow_slow : train also where this takes many times as long as it need

    TooSlow: the machine that trains has no instructions for the precision, which this one can say of itself only.
    Stopped: somebody has asked it to stop. StoreInUse: another driver is at work. ConnectionError: no cluster answers
    at `address`. Other errors: see `distsim.sweep.order.take` and `distsim.sweep.run.run`.
    """
    from distsim.sweep.engine import LocalEngine
    from distsim.sweep.order import require_possible, take
    from distsim.sweep.run import run

    require_possible(orders, root, here=address is None, allow_slow=allow_slow)
    if not local and address is not None and not {order.name for order in orders} <= set(problems_in(root)):
        require_answer(address)  # before a store is made; one that holds all of this needs no cluster
    with at_work(root, one_writer=local, say=say) as check, heeding(root):
        take(orders, root, here=address is None, say=say)
        if local:
            return run(orders, root, LocalEngine(root, allow_drift, watcher, allow_slow), say, check)
        from distsim.sweep.on_ray.engine import RayEngine

        with RayEngine(root, address, allow_drift, watcher, allow_slow, say) as engine:
            return run(orders, root, engine, say, check)


def foresee(
    orders: "list[Prepared]",
    root: Storage,
    *,
    local: bool = True,
    address: str | None = None,
    allow_slow: bool = False,
    say: Say = print,
) -> bool:
    """Say what the store lacks of these sweeps and what it would cost. Write nothing.

    Return False if nothing is missing. Arguments and errors are those of `carry_out`, but the store may be in use.
    """
    from distsim.sweep.engine import LocalEngine
    from distsim.sweep.order import require_possible
    from distsim.sweep.run import foretell

    require_possible(orders, root, here=address is None, allow_slow=allow_slow)
    if local:
        return foretell(orders, root, LocalEngine(root), say)
    from distsim.sweep.on_ray.engine import RayEngine

    with RayEngine(root, address, allow_drift=False, say=say) as engine:
        return foretell(orders, root, engine, say)


@contextlib.contextmanager
def at_work(root: Storage, one_writer: bool = False, say: Say = print) -> Iterator[Callable[[], None]]:
    """Hold the store's lease in a `with` block. Yield a function that raises if another driver has taken over.

    one_writer : accept a store without conditional puts, on which nothing keeps a second driver away

    StorageError: the store has no conditional puts, and `one_writer` is False. StoreInUse: another driver is at work.
    """
    if root.exclusive():
        with Lease(root, say) as lease:
            if lease.interrupted:
                finish(root, lease.interrupted)
            yield lease.check
    elif one_writer:
        say(f"{root.url} has no conditional puts: nothing keeps a second driver away, so do not start one")
        yield lambda: None
    else:
        raise StorageError(
            f"{root.url} has no conditional puts, so that writers could overwrite each other's commits: use --local, "
            "which is a single writer, or another object store"
        )
