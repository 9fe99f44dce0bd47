"""Carries out prepared sweeps, or says what that would take, and prints the results."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from distsim.cli import ending
from distsim.cli.output import print_line
from distsim.cli.progress import reporting, saying_what_is_kept
from distsim.words import counted

if TYPE_CHECKING:
    from distsim.sweep.engine import Engine


def carry_out(orders: list[Any], root: Any, flags: argparse.Namespace) -> None:
    """Do what the store lacks, on Ray or in this process (--local), and print the results.

    With --dry-run write nothing: only say what the store lacks and what it would cost.
    """
    from distsim.sweep import at_work

    asked = {name: getattr(flags, name) for name in ("local", "address", "allow_slow")}
    if flags.dry_run:
        missing = at_work.foresee(orders, root, **asked, say=print_line)
    else:
        with saying_what_is_kept(orders, root), reporting(root, flags) as report:
            to = {"say": report.say, "watcher": report.watcher, "allow_drift": flags.allow_drift}
            missing = at_work.carry_out(orders, root, **asked, **to)
    if not missing:
        print_line("nothing is missing: the store holds everything that was asked for")
    if not flags.dry_run:
        _print_results(orders, root)


def _print_results(orders: list[Any], root: Any) -> None:
    from distsim.results import text
    from distsim.results.reduce import read_tables

    for order in orders:
        extent = order.sweep.extent
        print_line(f"\n{order.name}: {counted(extent.runs, 'run')}, {counted(extent.iterations, 'iteration')}")
        tables = read_tables(root, [order.name])
        print_line(text.as_text(tables, order.name, order.sweep.problem.probe_from))
    print_line(f"\ntables in {root.url}/<problem>/results, figures in {root.url}/figures")
    print_line(f"report: {root.url}/report.html")


def at_work(root: Any, one_writer: bool = False) -> Any:
    """Hold the store's lease, as `distsim.sweep.at_work.at_work` does, and print what it reports."""
    from distsim.sweep.at_work import at_work

    return at_work(root, one_writer, print_line)


@contextlib.contextmanager
def comparing(root: Any, flags: argparse.Namespace) -> Iterator[tuple["Engine", Callable[[], None]]]:
    """Hold the store's lease in a `with` block in which its networks are compared, and heed instructions meanwhile.

    Yield the engine that the flags ask for, and a function that raises if another driver has taken over.
    """
    from distsim.sweep.engine import LocalEngine
    from distsim.sweep.heeding import heeding

    said = saying_what_is_kept([], root, "the values that were compared")
    with said, at_work(root, one_writer=flags.local) as check, heeding(root):
        if flags.local:
            with ending.gently(shown=False):
                yield LocalEngine(root, flags.allow_drift), check
        else:
            from distsim.sweep.on_ray.engine import RayEngine

            with RayEngine(root, flags.address, flags.allow_drift) as engine:
                yield engine, check
