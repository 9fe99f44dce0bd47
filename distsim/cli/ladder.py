"""`distsim ladder`: which metric finds the order, the ancestry and the loss barriers of a study's networks."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distsim.cli.arguments import former, own_code_flag, store_flags, workplace_flags
from distsim.cli.commands import order_of, stores_of
from distsim.cli.output import print_line
from distsim.cli.pairing import chosen_flags, memory_flag
from distsim.cli.run import comparing
from distsim.cli.studies import import_named
from distsim.named_files import make_folder, place, write, write_all

BARRIERS = "barriers.parquet"


def flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's own flags."""
    store_flags(parser)
    chosen_flags(parser, "the first five of the store", "1 5 10 15 20")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="metrics to rank (default: as last asked for)")
    memory_flag(parser)
    parser.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="write the table, the figure and the barriers into this folder; the same command again goes on there",
    )
    workplace_flags(parser)
    former(parser, "--forecast", "--dry-run")
    own_code_flag(parser)


def do_ladder(flags: argparse.Namespace) -> int:
    """Compare the chosen networks with each other, measure barriers between neighbours, and rank the metrics."""
    from distsim.store.descriptions import describe_metrics
    from distsim.sweep import pairs
    from distsim.sweep.engine import LocalEngine
    from distsim.sweep.failures import SweepFailed
    from distsim.sweep.kept_behaviour import require_same_behaviour
    from distsim.sweep.ladder import chosen
    from distsim.sweep.order import check_workplace

    stores = stores_of(flags)
    if len(stores) > 1:
        raise ValueError(
            f"the store holds several problems: choose one with --problem: {', '.join(s.problem for s in stores)}"
        )
    (store,) = stores
    import_named(flags)
    metrics = tuple(dict.fromkeys(flags.metrics)) if flags.metrics else None
    order = order_of(store, flags, metrics=metrics, runs=None, iterations=None)
    every = store.contents().networks
    networks = chosen(every, flags.only_runs, flags.only_iterations)
    if any(network.control or network.complete for network in every):
        print_line("the ladder is of pruned networks: controls, and other complete networks, are left out")
    planned, metrics = pairs.planned("all", networks), order.sweep.extent.metrics
    memory = flags.memory * 2**30 if flags.memory else None

    def compare(engine: Any, check: Callable[[], None] = lambda: None) -> None:
        asked = order, store, engine, planned, metrics, None, memory, flags.dry_run, print_line
        if failures := pairs.compare(*asked, check=check):
            raise SweepFailed(failures)

    check_workplace([order], here=flags.address is None)
    if flags.dry_run:
        compare(LocalEngine(store.root, flags.allow_drift))
        return 0
    out = _made(flags.out)  # before hours are spent
    require_same_behaviour(store, order.sweep)
    describe_metrics(store, metrics)
    with comparing(store.root, flags) as (engine, check):
        compare(engine, check)
    _rank(store, order, networks, planned, metrics, out)
    return 0


def _made(folder: str) -> Path:
    """Return the folder of --out, made if it is not there. ValueError: it cannot be made."""
    return make_folder(place(folder, "--out"), "--out")


def _rank(store: Any, order: Any, networks: list[Any], planned: list[Any], metrics: tuple[str, ...], out: Path) -> None:
    """Measure the barriers, and write and print the ladder."""
    import pandas as pd

    from distsim.plotting import render
    from distsim.results import ladder
    from distsim.results.pairs import Asked, table_of
    from distsim.results.reduce import collect
    from distsim.results.table_files import to_csv_bytes, to_parquet_bytes

    barriers = _barriers(store, order, networks, out)
    similarities = table_of(store, order.layers, Asked("all", planned, metrics))
    tables, _ = collect(store, order.layers, order.sweep.identity.seed)
    measured = pd.DataFrame.from_records(barriers).astype(ladder.BARRIERS)
    table = ladder.ladder(similarities, tables.networks, measured, order.sweep.identity.seed)
    resi = ladder.as_resi(table, order.sweep.problem.model, order.sweep.problem.source)
    files = {f"ladder.{format}": render(ladder.figure(table), format) for format in ("png", "pdf")}
    for name, frame in (("ladder", table), ("resi", resi)):
        files |= {f"{name}.csv": to_csv_bytes(frame), f"{name}.parquet": to_parquet_bytes(frame)}
    write_all(out, files, "--out")
    print_line(ladder.as_text(table))
    print_line(f"tables and figure in {out}")


def _barriers(store: Any, order: Any, networks: list[Any], out: Path) -> list[dict[str, Any]]:
    """Return the barriers between neighbouring networks. Each is kept in the folder as soon as it is measured."""
    import pandas as pd

    from distsim.results.table_files import read_parquet_bytes, to_parquet_bytes
    from distsim.sweep.ladder import Barriers, neighbours

    file, wanted = out / BARRIERS, neighbours(networks)
    rows: list[dict[str, Any]] = []
    if file.is_file():
        try:
            rows = read_parquet_bytes(file.read_bytes()).to_dict("records")
        except Exception as error:  # pyarrow raises several
            raise ValueError(f"{file} is not a table of barriers that this command wrote: {error}") from None

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        write(file, to_parquet_bytes(pd.DataFrame.from_records(rows)), "--out")

    measured = Barriers(order, store)
    if measured.not_aligned:
        print_line(f"{store.problem}: channels are not aligned, because {measured.not_aligned}")
    measured.measure(wanted, rows, keep, print_line)
    pairs = {(a.run, a.iteration, b.run, b.iteration) for a, b in wanted}
    return [row for row in rows if (row["run_x"], row["iteration_x"], row["run_y"], row["iteration_y"]) in pairs]
