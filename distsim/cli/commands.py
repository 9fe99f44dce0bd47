"""The commands of `distsim`. Each `do_...` takes the parsed flags and returns the exit status."""

import argparse
import dataclasses
import hashlib
from typing import Any

from distsim.cli.arguments import measured, resolved_device
from distsim.cli.output import one_line
from distsim.cli.run import at_work, finish
from distsim.cli.studies import import_named, published_studies
from distsim.specs import CHOSEN, Extent, NetworkId, Request
from distsim.specs.fields import frozen


def _root(flags: argparse.Namespace) -> Any:
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


def do_run(flags: argparse.Namespace) -> int:
    stores = stores_of(flags)
    import_named(flags)
    if flags.only is not None:
        return _only(flags)
    asked = {name: getattr(flags, name) for name in ("runs", "iterations", "control", "control_runs", "complete")}
    asked |= measured(flags)
    for store in stores:
        _require_trainable(store, flags, asked)
    finish([order_of(store, flags, **asked) for store in stores], stores[0].root, flags)
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


def _only(flags: argparse.Namespace) -> int:
    from distsim.processor import require_speed
    from distsim.store.existing import existing_store
    from distsim.sweep.kept_behaviour import require_same_behaviour
    from distsim.sweep.plan import require_before
    from distsim.sweep.training_worker import TrainingWorker

    store, network = existing_store(flags.store, flags.problem), NetworkId.parse(flags.only)
    require_before(store, network)
    if not flags.allow_slow:
        device = resolved_device(flags.device or store.request().device, None)
        require_speed(store.problem, store.identity().precision, device)
    order = order_of(store, flags, metrics=())  # training needs none
    require_same_behaviour(store, order.sweep)
    worker = TrainingWorker(store, order.sweep, order.dataset, flags.allow_drift, allow_slow=flags.allow_slow)
    print(worker.redo(network))
    return 0


def do_status(flags: argparse.Namespace) -> int:
    """Print what each store holds and lacks.

    This imports neither PyTorch nor the user's own code: the store itself names its layers and metrics.
    """
    from distsim.sweep.status import status

    stores = stores_of(flags)
    if flags.watch:
        _watch(stores)
    for store in stores:
        print(status(store))
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
    finish(orders, stores[0].root, flags)
    return 0


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

    def work(engine: Any) -> None:
        for order, store, planned in zip(orders, stores, plans, strict=True):
            metrics = order.sweep.extent.metrics
            if not flags.forecast:
                require_same_behaviour(store, order.sweep)
                describe_metrics(store, metrics)
            memory = flags.memory * 2**30 if flags.memory else None
            of_pairs = order, store, engine, planned, metrics, flags.layers, memory, flags.forecast
            failures.extend(pairs.compare(*of_pairs, measure=flags.measure))
            if not flags.forecast:
                asked = Asked(flags.plan, tuple(planned), metrics, tuple(flags.layers) if flags.layers else None)
                table, masks, folder = write_results(store, order.layers, asked)
                if table.empty:  # all failed
                    continue
                print(as_text(table))
                print(f"masks: median Jaccard similarity {masks[masks['parameter'] == 'all']['jaccard'].median():.3f}")
                print(f"tables and figures in {store.storage.url}/{folder}")

    check_workplace(orders, here=flags.address is None)
    if flags.forecast:
        work(LocalEngine(root, flags.allow_drift))  # takes no lease: it only estimates
    elif flags.local:
        with at_work(root, one_writer=True):
            work(LocalEngine(root, flags.allow_drift))
    else:
        from distsim.sweep.ray_engine import RayEngine

        with at_work(root), RayEngine(root, flags.address, flags.allow_drift) as engine:
            work(engine)
    if failures:
        raise SweepFailed(failures)
    return 0


def _planned(store: Any, flags: argparse.Namespace) -> list[Any]:
    """Return the pairs that the flags ask for. FileNotFoundError, ValueError: there are none, or no such layer."""
    from distsim.store.descriptions import layers_of
    from distsim.sweep.pairs import planned

    for name, least in (("runs", 0), ("iterations", 0)):
        if wrong := [number for number in getattr(flags, name) or () if number < least]:
            raise ValueError(f"--{name} takes whole numbers from {least} on, got {wrong[0]}")
    known = [layer.name for layer in layers_of(store)]
    if unknown := sorted(set(flags.layers or ()) - set(known)):
        raise ValueError(f"{store.problem} has no layers {unknown}; it has {known}")
    networks = [n for n in store.contents().networks if _chosen(n, flags.runs, flags.iterations)]
    pairs = planned(flags.plan, networks)
    if not pairs:
        raise FileNotFoundError(f"{store.problem}: no two committed networks make a pair of this plan")
    return pairs


def _chosen(network: NetworkId, runs: list[int] | None, iterations: list[int] | None) -> bool:
    """Say whether --runs and --iterations choose the network; the complete one is iteration 0 of every run."""
    of_runs = network.run is None or runs is None or network.run in runs
    return of_runs and (iterations is None or network.iteration in iterations)


def do_layers(flags: argparse.Namespace) -> int:
    from pathlib import Path

    from distsim.plotting import render
    from distsim.results.tables import to_csv_bytes
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
    folder = Path(flags.out)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"layers_{sides[0].label}_{sides[1].label}"
    (folder / f"{name}.csv").write_bytes(to_csv_bytes(comparison.table))
    (folder / f"{name}.png").write_bytes(render(comparison.heatmap(), "png"))
    for metric in comparison.metrics:
        print(f"{metric}\n{comparison.matrix(metric).round(3).to_string()}\n")
    if comparison.said_of_the_best:
        print(comparison.said_of_the_best)
    if comparison.doubts:
        print(comparison.doubts)
    print(f"{folder / name}.csv and .png")
    return 0


def do_list(flags: argparse.Namespace) -> int:
    for study in published_studies(flags):
        runs, last = (sum(p["runs"] for p in study.parts), max(p["iterations"] for p in study.parts))
        complete = f", from {len(study.parts)} complete networks" if len(study.parts) > 1 else ""
        _print_sweep(study.problem, study.identity, f"{runs} runs{complete}", last, ", published")
        return 0
    for store in stores_of(flags):
        contents = store.contents()
        runs = {n.of_run for n in contents.networks if not (n.is_complete or n.control)}
        last = max((network.iteration for network in contents.networks), default=0)
        several = len({network.complete for network in contents.networks})
        complete = f", from {several} complete networks" if several > 1 else ""
        controls = {n.of_run for n in contents.networks if n.control}
        of_controls = f" and {len(controls)} of controls" if controls else ""
        _print_sweep(store.problem, store.identity(), f"{len(runs)} runs{of_controls}{complete}", last)
    return 0


def _print_sweep(problem: str, identity: Any, runs: str, last: int, more: str = "") -> None:
    print(f"{problem:20} {runs}, up to iteration {last}, seed {identity.seed}, {identity.hash[:12]}{more}")


def do_doctor(flags: argparse.Namespace) -> int:
    from distsim.cli import doctor, doctor_gpu
    from distsim.environment import require_device
    from distsim.problems import PROBLEMS

    if flags.problem not in PROBLEMS:
        raise ValueError(f"unknown problem {flags.problem!r}; the problems are {', '.join(PROBLEMS)}")
    device = resolved_device(flags.device, None)
    require_device(device)
    if device == "cuda":
        doctor_gpu.examine(PROBLEMS[flags.problem], flags.storage, enough=flags.seconds)
    else:
        doctor.examine(PROBLEMS[flags.problem], flags.storage, device, enough=flags.seconds)
    return 0


def do_digest(flags: argparse.Namespace) -> int:
    for store in stores_of(flags):
        store.identity()  # raises if spec.json was changed
        pieces = store.digests()
        if flags.pieces:
            for piece, digest in pieces.items():
                print(f"{digest}  {store.problem}/{piece}")
        whole = hashlib.sha256("".join(f"{p} {d}\n" for p, d in pieces.items()).encode()).hexdigest()
        print(f"{whole}  {store.problem} ({len(pieces)} pieces)")
    return 0


def do_verify(flags: argparse.Namespace) -> int:
    from distsim.verify.report import summary
    from distsim.verify.store import verify_store

    report = verify_store(_root(flags), [flags.problem] if flags.problem else None)
    print("\n".join(map(one_line, summary(report))))
    return 0 if report.whole else 1


def do_repair(flags: argparse.Namespace) -> int:
    import contextlib

    from distsim.verify.repair import carry_out, planned, summary
    from distsim.verify.store import verify_store

    root = _root(flags)
    at_rest = contextlib.nullcontext(lambda: None) if flags.dry_run else at_work(root, one_writer=True)
    with at_rest as check:
        report = verify_store(root, [flags.problem] if flags.problem else None)
        actions = planned(root, report, flags.allow_drift)
        print("\n".join(map(one_line, summary(report, actions))))
        if flags.dry_run:
            print("dry run: nothing was changed")
        else:
            carry_out(root, actions, check)
    return 0 if not report.of("unread") else 1
