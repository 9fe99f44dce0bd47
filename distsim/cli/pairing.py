"""`distsim pairs` and `distsim layers`: networks of a store against each other."""

import argparse
from collections.abc import Callable
from typing import Any

from distsim.cli.arguments import (
    device_flag,
    former,
    own_code_flag,
    positive,
    resolved_device,
    se_flag,
    store_flags,
    whole,
    workplace_flags,
)
from distsim.cli.commands import order_of, stores_of
from distsim.cli.run import comparing
from distsim.cli.studies import import_named
from distsim.named_files import place, write_all
from distsim.specs import NetworkId


def pairs_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `distsim pairs`."""
    store_flags(parser)
    parser.add_argument(
        "--plan",
        choices=("complete", "references", "runs", "iterations", "all"),
        default="runs",
        help="which networks are compared. complete: each complete network with what comes from it; references: "
        "complete networks with each other, where the study has several; runs: run with run at equal iteration; "
        "iterations: iteration with iteration of each run; all: every network with every other (default: "
        "%(default)s)",
    )
    chosen_flags(parser, "all", "all")
    parser.add_argument(
        "--layers", nargs="+", metavar="LAYER", help="take only these layers (default: all compared layers)"
    )
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="metrics to compute (default: as last asked for)")
    memory_flag(parser)
    se_flag(parser)
    workplace_flags(parser)
    former(parser, "--forecast", "--dry-run")
    own_code_flag(parser)


def chosen_flags(parser: argparse.ArgumentParser, runs: str, iterations: str) -> None:
    """Add the flags that choose among a store's networks. runs, iterations : the defaults, in words"""
    parser.add_argument(
        "--only-runs", nargs="+", type=whole, metavar="RUN", help=f"take only these runs (default: {runs})"
    )
    parser.add_argument(
        "--only-iterations",
        nargs="+",
        type=whole,
        metavar="ITERATION",
        help=f"take only these iterations (default: {iterations})",
    )
    former(parser, "--runs", "--only-runs")
    former(parser, "--iterations", "--only-iterations")


def memory_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that limits the memory of comparisons."""
    parser.add_argument(
        "--memory",
        type=positive,
        metavar="GIB",
        help="use this much memory for all comparisons together (default: half of what is free)",
    )


def do_pairs(flags: argparse.Namespace) -> int:
    from distsim.results.pairs import Asked, as_text, write_results
    from distsim.store.descriptions import describe_metrics
    from distsim.sweep import pairs
    from distsim.sweep.engine import LocalEngine
    from distsim.sweep.failures import SweepFailed
    from distsim.sweep.kept_behaviour import require_same_behaviour
    from distsim.sweep.order import check_workplace

    stores = stores_of(flags)
    import_named(flags)
    metrics = tuple(dict.fromkeys(flags.metrics)) if flags.metrics else None
    plans = [_planned(store, flags) for store in stores]
    orders = [order_of(store, flags, metrics=metrics, runs=None, iterations=None) for store in stores]
    root, failures = stores[0].root, []

    def work(engine: Any, check: Callable[[], None] = lambda: None) -> None:
        for order, store, planned in zip(orders, stores, plans, strict=True):
            metrics = order.sweep.extent.metrics
            if not flags.dry_run:
                require_same_behaviour(store, order.sweep)
                describe_metrics(store, metrics)
            memory = flags.memory * 2**30 if flags.memory else None
            of_pairs = order, store, engine, planned, metrics, flags.layers, memory, flags.dry_run
            failures.extend(pairs.compare(*of_pairs, measure=flags.measure, check=check))
            if not flags.dry_run:
                asked = Asked(flags.plan, tuple(planned), metrics, tuple(flags.layers) if flags.layers else None)
                table, masks, folder = write_results(store, order.layers, asked)
                if table.empty:  # all failed
                    continue
                print(as_text(table))
                print(f"masks: median Jaccard similarity {masks[masks['parameter'] == 'all']['jaccard'].median():.3f}")
                print(f"tables and figures in {store.storage.url}/{folder}")

    check_workplace(orders, here=flags.address is None)
    if flags.dry_run:
        work(LocalEngine(root, flags.allow_drift))  # takes no lease: it only estimates
    else:
        with comparing(root, flags) as (engine, check):
            work(engine, check)
    if failures:
        raise SweepFailed(failures)
    return 0


def _planned(store: Any, flags: argparse.Namespace) -> list[Any]:
    """Return the pairs that the flags ask for. FileNotFoundError, ValueError: there are none, or no such layer."""
    from distsim.store.descriptions import layers_of
    from distsim.sweep.pairs import planned

    for flag, numbers in (("--only-runs", flags.only_runs), ("--only-iterations", flags.only_iterations)):
        if wrong := [number for number in numbers or () if number < 0]:
            raise ValueError(f"{flag} takes whole numbers from 0 on, got {wrong[0]}")
    known = [layer.name for layer in layers_of(store)]
    if unknown := sorted(set(flags.layers or ()) - set(known)):
        raise ValueError(f"{store.problem} has no layers {unknown}; it has {known}")
    networks = [n for n in store.contents().networks if _chosen(n, flags.only_runs, flags.only_iterations)]
    pairs = planned(flags.plan, networks)
    if not pairs:
        raise FileNotFoundError(f"{store.problem}: no two committed networks make a pair of this plan")
    return pairs


def _chosen(network: NetworkId, runs: list[int] | None, iterations: list[int] | None) -> bool:
    """Say whether the flags choose the network; the complete one is iteration 0 of every run."""
    of_runs = network.run is None or runs is None or network.run in runs
    return of_runs and (iterations is None or network.iteration in iterations)


def layers_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `distsim layers`."""
    store_flags(parser)
    parser.add_argument(
        "--networks",
        nargs=2,
        metavar=("A", "B"),
        default=["run=complete", "run=complete"],
        help="the two networks, each written as run=3,iteration=7, or run=complete for the complete network "
        "(default: that, twice)",
    )
    parser.add_argument("--with", dest="other", metavar="STORE", help="take B from this store (default: STORE)")
    parser.add_argument("--with-problem", metavar="PROBLEM", help="take B from this problem (default: --problem)")
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME", default=["cka"], help="metrics to compute (default: cka)"
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        default=".",
        help="write table and figure into this folder (default: the one you are in)",
    )
    parser.add_argument(
        "--data",
        metavar="WHERE",
        help="take the images from here, written as for `distsim sweep` (default: as last asked for)",
    )
    device_flag(parser, "auto")
    parser.set_defaults(device="auto")
    se_flag(parser)
    own_code_flag(parser)
    parser.add_argument(
        "--permutations",
        type=whole,
        default=0,
        metavar="N",
        help="compare with N permutations of B's examples too, each at the cost of the comparison: says for every "
        "metric what the best of many layers has by chance (default: for CKA by a formula, for others not)",
    )


def do_layers(flags: argparse.Namespace) -> int:
    from distsim.plotting import render
    from distsim.results.table_files import to_csv_bytes
    from distsim.store.existing import existing_store
    from distsim.sweep.own_code import make_known
    from distsim.sweep.stored_models import Stored, layer_by_layer

    sides = []
    import_named(flags)
    for where, problem, text in zip(
        (flags.store, flags.other or flags.store),
        (flags.problem, flags.with_problem or flags.problem),
        flags.networks,
        strict=True,
    ):
        store = existing_store(where, problem)
        make_known(store, flags.metrics)
        sides.append(Stored(store, NetworkId.parse(text)))
    device = resolved_device(flags.device, None)
    beside = {"measure": flags.measure, "permutations": flags.permutations}
    comparison = layer_by_layer(sides[0], sides[1], flags.metrics, flags.data, device, **beside)
    folder = place(flags.out, "--out")
    name = f"layers_{sides[0].label}_{sides[1].label}"
    files = {f"{name}.csv": to_csv_bytes(comparison.table), f"{name}.png": render(comparison.heatmap(), "png")}
    write_all(folder, files, "--out")
    for metric in comparison.metrics:
        print(f"{metric}\n{comparison.matrix(metric).round(3).to_string()}\n")
    if comparison.said_of_the_best:
        print(comparison.said_of_the_best)
    if comparison.doubts:
        print(comparison.doubts)
    print(f"{folder / name}.csv and .png")
    return 0
