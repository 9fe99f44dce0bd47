"""`distsim claims`: what a study says of each claim of the papers, under one definition of a metric or under all."""

import argparse
from typing import Any

from distsim.cli.arguments import store_flags
from distsim.cli.output import print_line
from distsim.cli.studies import published_studies
from distsim.named_files import place, write


def flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    store_flags(parser)
    parser.add_argument(
        "--multiverse",
        action="store_true",
        help="judge each claim under every definition of its metric that the tables hold: means over all columns, over "
        "98 %% of the mass, other weights, the channel view, unbiased, calibrated against chance, beyond the control",
    )
    parser.add_argument("--all", action="store_true", help="show the claims, too, for which the study has no data")
    parser.add_argument(
        "--out", metavar="FILE.csv", help="write the verdicts, with the numbers behind them, as a table into this file"
    )


def do_claims(flags: argparse.Namespace) -> int:
    """Print the verdicts, and write them where --out says."""
    from distsim.results.claims.judging import check
    from distsim.results.table_files import to_csv_bytes

    tables, images, seed = _tables(flags)
    if flags.multiverse:
        frame = _multiverse(flags, tables, images, seed)
    else:
        frame = _verdicts(check(tables, images), flags.all)
    if flags.out:
        out = write(place(flags.out, "--out"), to_csv_bytes(frame), "--out")
        print_line(f"{len(frame)} verdicts in {out}")
    return 0


def _tables(flags: argparse.Namespace) -> tuple[Any, dict[str, str], int]:
    """Return a study's tables, what to say of the images of its problems, and its seed."""
    from distsim.results import reduce
    from distsim.results.claims.images import remark
    from distsim.store import existing_stores
    from distsim.store.descriptions import layers_of

    for study in published_studies(flags):
        return study.tables, {study.problem: study.images}, study.identity.seed
    stores = existing_stores(flags.store, flags.problem)
    seeds = [store.identity().seed for store in stores]
    parts = [reduce.collect(store, layers_of(store), seed)[0] for store, seed in zip(stores, seeds, strict=True)]
    return reduce.joined(parts), {store.problem: remark(store) for store in stores}, seeds[0]


def _verdicts(verdicts: list[Any], every: bool) -> Any:
    """Print verdicts with their conditions, and return the table of all. every : those without data, too"""
    import pandas as pd

    from distsim.results.claims.study import NO_DATA

    rows = []
    said = [verdict for verdict in verdicts if every or verdict.verdict != NO_DATA]
    for verdict in said:
        images = f" ({verdict.data})" if verdict.data else ""
        print_line(f"{verdict.claim:4} {verdict.problem:20} {verdict.metric:9} {verdict.verdict}{images}")
        print_line(f"     {verdict.text} ({verdict.where})")
        if verdict.controlled:
            print_line(f"     where falls count beyond those of retraining without pruning: {verdict.controlled}")
    if left := len(verdicts) - len(said):
        print_line(f"{left} {'more ' if said else ''}claims are about other problems, or lack data: --all shows them")
    for verdict in verdicts:
        fields = {name: getattr(verdict, name) for name in ("claim", "problem", "metric", "verdict", "text", "where")}
        rows.append({**fields, "data": verdict.data, "controlled": verdict.controlled, **verdict.numbers})
    return pd.DataFrame.from_records(rows)


def _multiverse(flags: argparse.Namespace, tables: Any, images: dict[str, str], seed: int) -> Any:
    """Print the verdicts under all definitions, and return the table."""
    from distsim.results.claims import multiverse

    frame = multiverse.multiverse(tables, images, seed)
    if frame.empty:
        raise ValueError(f"no claim of the papers can be judged from {flags.store}: there is not enough data")
    print_line(multiverse.as_text(frame))
    print_line(f"{multiverse.summary(frame)}. Thresholds are those of the papers throughout.")
    if missing := multiverse.lacking(tables):
        print_line(f"not measured here: {', '.join(missing)}. {_how(flags, tables, missing)}")
    return frame


def _how(flags: argparse.Namespace, tables: Any, missing: list[str]) -> str:
    """Say how the missing metrics are computed."""
    from distsim.store.existing import published_in

    store = "STORE" if published_in(flags.store) is not None else flags.store
    problem = f" --problem {flags.problem}" if flags.problem else ""
    metrics = " ".join(sorted({*tables.similarities["metric"], *missing}))
    return (
        f"Where the weights are, `distsim compare {store}{problem} --metrics {metrics}` computes them, and says first "
        "what that takes"
    )
