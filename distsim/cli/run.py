"""From prepared sweeps to a finished store, and what it then says."""

from typing import Any

from distsim.cli.output import print_line


def finish(orders: list[Any], root: Any, *, local: bool, address: str | None, allow_drift: bool) -> None:
    """Do what is missing, by Ray or in this process, and print what the store then says."""
    from distsim.results import text
    from distsim.results.reduce import read_tables
    from distsim.sweep.at_work import carry_out
    from distsim.sweep.engine import describe

    say = print_line
    worked = carry_out(
        orders,
        root,
        local=local,
        address=address,
        allow_drift=allow_drift,
        say=say,
        tell=lambda event: say(describe(event)),
    )
    if not worked:
        say("nothing is missing: the store holds everything that was asked for")
    for one in orders:
        tables = read_tables(root, [one.name])
        say(f"\n{one.name}: {one.sweep.extent.runs} runs, {one.sweep.extent.iterations} iterations")
        say(text.as_text(tables, one.name))
    say(f"\ntables in {root.url}/<problem>/results, figures in {root.url}/figures")


def at_work(root: Any, one_writer: bool = False) -> Any:
    """Hold the store's lease (distsim.sweep.at_work), and print what there is to say of it."""
    from distsim.sweep.at_work import at_work

    return at_work(root, one_writer, print_line)
