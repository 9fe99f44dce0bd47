"""From prepared sweeps to a finished store: the lease, the engine, the summary."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from distsim.cli.output import print_line


def finish(orders: list[Any], root: Any, *, local: bool, address: str | None, allow_drift: bool) -> None:
    """Do what is missing, by Ray or in this process, and print what the store then says."""
    from distsim.results import text
    from distsim.results.reduce import read_tables
    from distsim.sweep.engine import LocalEngine, describe
    from distsim.sweep.order import take
    from distsim.sweep.run import run

    say = print_line
    with at_work(root, one_writer=local) as check:
        take(orders, root, here=address is None, say=say)
        if local:
            engine: Any = LocalEngine(root, allow_drift, lambda event: say(describe(event)))
            worked = run(orders, root, engine, say, check)
        else:
            from distsim.sweep.ray_engine import RayEngine

            with RayEngine(root, address, allow_drift, lambda event: say(describe(event))) as engine:
                worked = run(orders, root, engine, say, check)
    if not worked:
        say("nothing is missing: the store holds everything that was asked for")
    for one in orders:
        tables = read_tables(root, [one.name])
        say(f"\n{one.name}: {one.sweep.extent.runs} runs, {one.sweep.extent.iterations} iterations")
        say(text.as_text(tables, one.name))
    say(f"\ntables in {root.url}/<problem>/results, figures in {root.url}/figures")


@contextlib.contextmanager
def at_work(root: Any, one_writer: bool = False) -> Iterator[Callable[[], None]]:
    """Hold the store's lease; what is yielded raises where another driver has taken over.

    StorageError: the store has no conditional puts. With `one_writer` it will do, but nothing keeps others away.
    """
    from distsim.store import Lease, StorageError

    if root.exclusive():
        with Lease(root, print_line) as lease:
            yield lease.check
    elif one_writer:
        print_line(f"{root.url} has no conditional puts: nothing keeps a second driver away, so start none")
        yield lambda: None
    else:
        raise StorageError(
            f"{root.url} has no conditional puts, so that writers could overwrite each other's commits: use --local, "
            "which is a single writer, or another object store"
        )
