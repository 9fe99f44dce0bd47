"""The commands of `distsim`. Each `do_...` takes the parsed flags and returns the exit status."""

import argparse
import dataclasses
from typing import Any

from distsim.cli import progress
from distsim.cli.arguments import (
    control_flags,
    former,
    measure_flags,
    measured,
    own_code_flag,
    resolved_device,
    store_flags,
    whole,
    workplace_flags,
)
from distsim.cli.run import carry_out
from distsim.cli.studies import import_named, require_problem
from distsim.specs import CHOSEN, Extent, NetworkId, Request
from distsim.specs.fields import frozen
from distsim.words import counted


def root_of(flags: argparse.Namespace) -> Any:
    from distsim.store import existing_root

    return existing_root(flags.store)


def stores_of(flags: argparse.Namespace) -> list[Any]:
    from distsim.store import existing_stores

    return existing_stores(flags.store, flags.problem)


def order_of(store: Any, flags: argparse.Namespace, **asked: Any) -> Any:
    """Return the store's order: its spec and last request, with the flags' changes to its extent."""
    from distsim.sweep.order import prepare, trial_resources
    from distsim.sweep.own_code import make_known

    identity, request = store.identity(), store.request()
    extent = _extent(request, asked)
    make_known(store, extent.metrics)
    device = resolved_device(flags.device or request.device, flags.address)
    order = prepare(
        identity.problem,
        data=flags.data if flags.data is not None else request.data,
        reading=request.reading,
        **dataclasses.asdict(extent),
        device=device,
        resources=trial_resources(device, identity.threads, flags.cpus, flags.gpus),
        **{name: getattr(identity, name) for name in ("storage", *CHOSEN)},
    )
    store.claim(order.sweep.identity)  # refuses data that have changed since the store was made
    return order


def _extent(request: Request, asked: dict[str, Any]) -> Extent:
    """Return the extent of a request with what the flags ask for instead."""
    return dataclasses.replace(
        request.extent, **{name: frozen(value) for name, value in asked.items() if value is not None}
    )


def run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `distsim run`."""
    as_last = "(default: as last asked for)"
    store_flags(parser)
    parser.add_argument("--runs", type=whole, metavar="N", help=f"number of independent runs {as_last}")
    parser.add_argument("--iterations", type=whole, metavar="N", help=f"number of prunings in each run {as_last}")
    parser.add_argument("--complete", type=whole, metavar="K", help=f"number of complete networks {as_last}")
    control_flags(parser, as_last, as_last)
    measure_flags(parser)
    workplace_flags(parser)
    parser.add_argument(
        "--allow-slow",
        action="store_true",
        help="train in bfloat16 also on a processor without instructions for it, which takes 2 to 16 times as long as "
        "in float32",
    )
    parser.add_argument(
        "--network",
        metavar="run=3,iteration=7",
        help="train one network again in this process (run=complete: the complete one; "
        "control=retrain,run=0,iteration=1: one of a control); commit it if it is missing, else say whether it equals "
        "the committed one bit by bit",
    )
    former(parser, "--only", "--network")
    own_code_flag(parser)
    progress.flags(parser)


def do_run(flags: argparse.Namespace) -> int:
    stores = stores_of(flags)
    import_named(flags)
    if flags.network is not None:
        return _redo(flags)
    asked = {name: getattr(flags, name) for name in ("runs", "iterations", "control", "control_runs", "complete")}
    asked |= measured(flags)
    for store in stores:
        _require_trainable(store, flags, asked)
    carry_out([order_of(store, flags, **asked) for store in stores], stores[0].root, flags)
    return 0


def _require_trainable(store: Any, flags: argparse.Namespace, asked: dict[str, Any]) -> None:
    """Check, before data are looked for, that this machine can train what is to be trained, and is fast enough."""
    from distsim.sweep.order import require_trainable
    from distsim.training.stepper import Arithmetic

    if flags.address is not None:
        return
    request, identity = store.request(), store.identity()
    device = resolved_device(flags.device or request.device, None)
    arithmetic = dataclasses.replace(Arithmetic.of(identity), compile=False)  # the network is not known yet
    extent = _extent(request, asked)
    require_trainable(store.root, identity.problem, extent, arithmetic, device, allow_slow=flags.allow_slow)


def _redo(flags: argparse.Namespace) -> int:
    """Train one network again. ValueError: --dry-run is asked for, too."""
    from distsim.processor import require_speed
    from distsim.store.existing import existing_store
    from distsim.sweep.kept_behaviour import require_same_behaviour
    from distsim.sweep.plan import require_before
    from distsim.sweep.training_worker import TrainingWorker

    if flags.dry_run:
        raise ValueError("--network trains one network, and is not to be combined with --dry-run")
    store, network = existing_store(flags.store, flags.problem), NetworkId.parse(flags.network)
    require_before(store, network)
    if not flags.allow_slow:
        device = resolved_device(flags.device or store.request().device, None)
        require_speed(store.problem, store.identity().precision, device)
    order = order_of(store, flags, metrics=())  # training needs none
    require_same_behaviour(store, order.sweep)
    worker = TrainingWorker(store, order.sweep, order.dataset, flags.allow_drift, allow_slow=flags.allow_slow)
    print(worker.redo(network))
    return 0


def status_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `distsim status`."""
    store_flags(parser)
    parser.add_argument(
        "--watch", action="store_true", help="show it again and again, until everything that was asked for is there"
    )


def do_status(flags: argparse.Namespace) -> int:
    """Print what each store holds and lacks.

    This imports neither PyTorch nor the user's own code: the store itself names its layers and metrics.
    """
    from distsim.store import control
    from distsim.sweep.status import status

    stores = stores_of(flags)
    if flags.watch:
        _watch(stores)
    for store in stores:
        print(status(store))
    if said := control.paused(stores[0].root):
        print(said)
    return 0


def _watch(stores: list[Any]) -> None:
    """Show how the sweeps of a store get on, until they are done. Ctrl-C ends it. ValueError: this is no terminal."""
    import sys

    from distsim.sweep.elsewhere import Elsewhere
    from distsim.sweep.live import shows, watched

    if not shows(sys.stdout):
        raise ValueError("--watch needs a terminal that can show a display: without one, run distsim status again")
    elsewhere = Elsewhere(stores)
    watched(elsewhere.look, lambda: elsewhere.done)


def compare_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `distsim compare`."""
    store_flags(parser)
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="metrics to compute (default: as last asked for)")
    workplace_flags(parser)
    own_code_flag(parser)
    progress.flags(parser)


def do_compare(flags: argparse.Namespace) -> int:
    """Compare the committed networks only; train none."""
    from distsim.sweep.order import compare_only

    stores = stores_of(flags)
    import_named(flags)
    metrics = tuple(flags.metrics) if flags.metrics else None
    orders = [compare_only(order_of(store, flags, metrics=metrics), store) for store in stores]
    orders = [order for order in orders if order]
    if not orders:
        raise FileNotFoundError("no run of the store has a committed network yet")
    carry_out(orders, stores[0].root, flags)
    return 0


def do_list(flags: argparse.Namespace) -> int:
    from distsim.store.existing import published_in

    if (folder := published_in(flags.store)) is not None:
        _list_published(folder, flags)
        return 0
    for store in stores_of(flags):
        contents = store.contents()
        runs = {n.of_run for n in contents.networks if not (n.is_complete or n.control)}
        last = max((network.iteration for network in contents.networks), default=0)
        several = len({network.complete for network in contents.networks})
        complete = f", from {several} complete networks" if several > 1 else ""
        controls = {n.of_run for n in contents.networks if n.control}
        of_controls = f" and {len(controls)} of controls" if controls else ""
        _print_sweep(store.problem, store.identity(), f"{counted(len(runs), 'run')}{of_controls}{complete}", last)
    return 0


def _list_published(folder: Any, flags: argparse.Namespace) -> None:
    from distsim.results.study_record import read_record

    record, identity = read_record(folder)
    require_problem(identity.problem.name, flags.store, flags.problem)
    parts = record["parts"]
    runs, last = (sum(part["runs"] for part in parts), max(part["iterations"] for part in parts))
    complete = f", from {len(parts)} complete networks" if len(parts) > 1 else ""
    _print_sweep(identity.problem.name, identity, f"{counted(runs, 'run')}{complete}", last, ", published")


def _print_sweep(problem: str, identity: Any, runs: str, last: int, more: str = "") -> None:
    print(f"{problem:20} {runs}, up to iteration {last}, seed {identity.seed}, {identity.hash[:12]}{more}")
