"""Runs prepared sweeps until nothing is missing, and prints the results."""

import argparse
from typing import Any

from distsim.cli.output import print_line
from distsim.cli.progress import reporting, saying_what_is_kept


def finish(orders: list[Any], root: Any, flags: argparse.Namespace) -> None:
    """Do what the store lacks, on Ray or in this process (--local), and print the results."""
    from distsim.results import text
    from distsim.results.reduce import read_tables
    from distsim.sweep.at_work import carry_out

    asked = {name: getattr(flags, name) for name in ("local", "address", "allow_drift", "allow_slow")}
    with saying_what_is_kept(orders, root), reporting(root, flags) as report:
        worked = carry_out(orders, root, **asked, say=report.say, watcher=report.watcher)
    if not worked:
        print_line("nothing is missing: the store holds everything that was asked for")
    for order in orders:
        extent = order.sweep.extent
        print_line(f"\n{order.name}: {extent.runs} runs, {extent.iterations} iterations")
        tables = read_tables(root, [order.name])
        print_line(text.as_text(tables, order.name, order.sweep.problem.probe_from))
    print_line(f"\ntables in {root.url}/<problem>/results, figures in {root.url}/figures")
    print_line(f"report: {root.url}/report.html")


def foresee(orders: list[Any], root: Any, flags: argparse.Namespace) -> int:
    """Print what the store lacks and what it would cost, write nothing, and return the exit status."""
    from distsim.sweep.at_work import foresee

    asked = {name: getattr(flags, name) for name in ("local", "address", "allow_slow")}
    if not foresee(orders, root, **asked, say=print_line):
        print_line("nothing is missing: the store holds everything that was asked for")
    return 0


def at_work(root: Any, one_writer: bool = False) -> Any:
    """Hold the store's lease, as `distsim.sweep.at_work.at_work` does, and print what it reports."""
    from distsim.sweep.at_work import at_work

    return at_work(root, one_writer, print_line)
