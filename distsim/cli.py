"""`distsim`: work on the store of any sweep."""

import argparse
import dataclasses
import hashlib
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from distsim.script import at_work, cluster, finish, one_line, positive, reported, resolved_device, resources, whole
from distsim.specs import shown

# Everything that needs torch is imported inside functions: --help answers at once.


def main(arguments: Sequence[str] | None = None) -> int:
    flags = _parser().parse_args(arguments)
    return reported(lambda: flags.command(flags))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="distsim", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, work: Any, help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        made.set_defaults(command=work)
        made.add_argument("store", metavar="STORE", help="the sweep's --storage: a folder, or s3://bucket/prefix")
        made.add_argument("--problem", help="one problem of the store (default: all)")
        return made

    run = command("run", _run, "do what a store lacks of what its sweep script last asked for")
    _workplace(run)
    run.add_argument("--runs", type=whole, help="ask for this many runs")
    run.add_argument("--iterations", type=whole, help="ask for this many iterations")
    run.add_argument(
        "--only",
        metavar="run=3,iteration=7",
        help="recompute one network in this process (run=complete: the complete one); commit it if it is missing, else "
        "say whether it comes out bit by bit as committed",
    )
    command("status", _status, "say what a store holds and what it lacks")
    compare = command("compare", _compare, "compute the similarities that a store lacks, and nothing else")
    _workplace(compare)
    compare.add_argument("--metrics", nargs="+", help="ask for these")
    pairs = command("pairs", _pairs, "compare a store's networks with each other")
    _workplace(pairs)
    pairs.add_argument(
        "--plan",
        choices=("complete", "runs", "iterations", "all"),
        default="runs",
        help="complete: the complete network with every other; runs: run with run at equal iteration; iterations: "
        "iteration with iteration of each run; all: every network with every other (default: %(default)s)",
    )
    pairs.add_argument("--runs", nargs="+", type=whole, metavar="RUN", help="of these only (default: all there are)")
    pairs.add_argument("--iterations", nargs="+", type=whole, metavar="ITERATION", help="likewise")
    pairs.add_argument("--layers", nargs="+", metavar="LAYER", help="of these only (default: all that are compared)")
    pairs.add_argument("--metrics", nargs="+", metavar="NAME", help="(default: as last asked for)")
    pairs.add_argument("--memory", type=positive, metavar="GIB", help="for all at once (default: half of what is free)")
    pairs.add_argument("--forecast", action="store_true", help="only say what it would cost")
    layers = command("layers", _layers, "compare every layer of one network with every layer of another")
    layers.add_argument(
        "--networks",
        nargs=2,
        metavar=("A", "B"),
        default=["run=complete", "run=complete"],
        help="as in run=3,iteration=7; run=complete is the complete network (default: that, twice)",
    )
    layers.add_argument("--with", dest="other", metavar="STORE", help="take B from this store")
    layers.add_argument("--with-problem", metavar="PROBLEM", help="of that store")
    layers.add_argument("--metrics", nargs="+", metavar="NAME", default=["cka"], help="(default: cka)")
    layers.add_argument("--out", metavar="FOLDER", default=".", help="for the table and the figure (default: here)")
    layers.add_argument("--data", help="where the data lie (default: as last asked for)")
    layers.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    command("report", _report, "write tables and figures of what a store holds, and print the summary and the claims")
    command("list", _list, "list a store's problems")
    digest = command("digest", _digest, "read and check everything in a store and print its digests")
    digest.add_argument("--pieces", action="store_true", help="one line for each piece")
    command("verify", _verify, "read everything in a store, check that it is what was written, and say what is damaged")
    repair = command("repair", _repair, "drop what is damaged, and nothing else, so that the next run does it again")
    repair.add_argument("--dry-run", action="store_true", help="only say what would be done")
    repair.add_argument(
        "--allow-drift",
        action="store_true",
        help="drop a damaged complete network where this machine or its versions would not train the same one again, "
        "and everything that came from it",
    )
    doctor = commands.add_parser(
        "doctor",
        help="measure this machine, and say how a sweep suits it best",
        description="Measure this machine, and say how a sweep suits it best: trials at once, threads, precision.",
    )
    doctor.set_defaults(command=_doctor)
    doctor.add_argument("problem", nargs="?", default="cifar2", help="to train for some seconds (default: %(default)s)")
    doctor.add_argument("--storage", metavar="STORE", default="results", help="to write to (default: %(default)s)")
    doctor.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    doctor.add_argument("--seconds", type=positive, default=3.0, help="of each measurement (default: %(default)s)")
    return parser


def _workplace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--local", action="store_true", help="everything in this process, in order, without Ray")
    parser.add_argument("--address", type=cluster, help="of a Ray cluster")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="(default: as last asked for)")
    parser.add_argument("--data", help="where the data lie (default: as last asked for)")
    parser.add_argument("--cpus", type=positive, help="of one trial")
    parser.add_argument("--gpus", type=positive, help="of one trial")
    parser.add_argument("--allow-drift", action="store_true", help="go on with other versions than the store's")


def _root(flags: argparse.Namespace) -> Any:
    from distsim.store import Storage

    if "://" not in flags.store:
        from pathlib import Path

        if not Path(flags.store).is_dir():  # opening a folder as storage would make it
            raise FileNotFoundError(f"no store in {flags.store}")
    return Storage(flags.store)


def _stores(flags: argparse.Namespace) -> list[Any]:
    from distsim.store import SweepStore, problems_in

    root = _root(flags)
    names = problems_in(root)
    if not names:
        raise FileNotFoundError(f"no sweep in {root.url}")
    if flags.problem is not None and flags.problem not in names:
        raise FileNotFoundError(f"no sweep of {flags.problem} in {root.url}; there are {', '.join(names)}")
    return [SweepStore(root, name) for name in ([flags.problem] if flags.problem else names)]


def _order(store: Any, flags: argparse.Namespace, **asked: Any) -> Any:
    """The order that the store's own spec and last request amount to, as the flags change its extent."""
    from distsim.specs import Extent
    from distsim.sweep import order

    identity, request = store.identity(), store.request()
    known = {field.name for field in dataclasses.fields(Extent)}
    extent = {name: value for name, value in request.items() if name in known}
    extent |= {name: value for name, value in asked.items() if value is not None}
    extent["metrics"] = tuple(extent["metrics"])
    device = resolved_device(flags.device or request.get("device", "auto"), flags.address)
    one = order(
        identity.problem,
        data=flags.data if flags.data is not None else request.get("data", ""),
        **extent,
        device=device,
        resources=resources(argparse.Namespace(**vars(flags), threads=identity.threads), device),
        **{
            field.name: getattr(identity, field.name)
            for field in dataclasses.fields(identity)
            if field.name not in ("problem", "data_digest", "format")
        },
    )
    store.claim(one.sweep.identity)  # the data may have changed since
    return one


def _run(flags: argparse.Namespace) -> int:
    stores = _stores(flags)
    if flags.only is not None:
        return _only(stores, flags)
    orders = [_order(store, flags, runs=flags.runs, iterations=flags.iterations) for store in stores]
    finish(orders, stores[0].root, local=flags.local, address=flags.address, allow_drift=flags.allow_drift)
    return 0


def _only(stores: list[Any], flags: argparse.Namespace) -> int:
    from distsim.work import Bench

    if len(stores) > 1:
        raise ValueError(f"the store holds {', '.join(s.problem for s in stores)}: name one with --problem")
    network, store = _network(flags.only), stores[0]
    one = _order(store, flags)
    bench = Bench(store, one.sweep, one.dataset, flags.allow_drift)
    print(bench.redo(network))
    return 0


def _network(text: str) -> tuple[int, int] | None:
    """run=3,iteration=7 -> (3, 7); run=complete -> None."""
    if text == "run=complete":
        return None
    ordered = ",".join(sorted(text.split(","), reverse=True))
    named = re.fullmatch(r"run=([0-9]{1,9}),iteration=([0-9]{1,9})", ordered)
    if named is None:
        raise ValueError(f"a network is named run=3,iteration=7 or run=complete, got {shown(text)}")
    run, iteration = map(int, named.groups())
    if iteration < 1:
        raise ValueError("iterations are counted from 1; the complete network is run=complete")
    return run, iteration


def _status(flags: argparse.Namespace) -> int:
    from distsim.models import build
    from distsim.plan import missing
    from distsim.specs import Extent, Sweep

    for store in _stores(flags):
        identity, request = store.identity(), store.request()
        asked: dict[str, Any] = {field.name: request[field.name] for field in dataclasses.fields(Extent)}
        sweep = Sweep(identity, Extent(**asked | {"metrics": tuple(asked["metrics"])}))
        contents = store.contents()
        layers = build(identity.problem, len(identity.problem.classes)).layers
        lacking = missing(sweep, contents, layers)
        total = sweep.extent.runs * sweep.extent.iterations
        pruned = sum(network is not None for network in contents.networks)
        print(f"{store.problem}: {sweep.extent.runs} runs x {sweep.extent.iterations} iterations asked for")
        print(f"  complete network  {'missing' if lacking.complete else 'done'}")
        print(
            f"  pruned networks   {total - sum(map(len, lacking.chains.values()))} of {total} ({pruned} in the store)"
        )
        print(f"  similarities      {lacking.values or 'none'} missing")
        for run, iterations in lacking.chains.items():
            print(f"  run {run}: iterations {_ranges(iterations)} missing")
    return 0


def _ranges(numbers: tuple[int, ...]) -> str:
    """1, 2, 3, 7 -> 1-3, 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _compare(flags: argparse.Namespace) -> int:
    """Only networks that are committed are compared; no network is trained."""
    from distsim.sweep import compare_only

    stores = _stores(flags)
    metrics = tuple(flags.metrics) if flags.metrics else None
    orders = [_order(store, flags, metrics=metrics) for store in stores]
    orders = [one for one in (compare_only(one, store) for one, store in zip(orders, stores, strict=True)) if one]
    if not orders:
        raise FileNotFoundError("no run of the store has a committed network yet")
    finish(orders, stores[0].root, local=flags.local, address=flags.address, allow_drift=flags.allow_drift)
    return 0


def _pairs(flags: argparse.Namespace) -> int:
    from distsim import pairs
    from distsim.metrics.registry import known
    from distsim.sweep import LocalEngine, SweepFailed, check_workplace

    stores = _stores(flags)
    metrics = tuple(metric.name for metric in known(flags.metrics)) if flags.metrics else None
    orders = [_order(store, flags) for store in stores]
    root, failures = stores[0].root, []

    def work(engine: Any) -> None:
        for one, store in zip(orders, stores, strict=True):
            networks = [n for n in store.contents().networks if _chosen(n, flags.runs, flags.iterations)]
            planned = pairs.planned(flags.plan, networks)
            if not planned:
                raise FileNotFoundError(f"{one.name}: no two committed networks make a pair of this plan")
            chosen = metrics or one.sweep.extent.metrics
            memory = flags.memory * 2**30 if flags.memory else None
            failures.extend(pairs.compare(one, store, engine, planned, chosen, flags.layers, memory, flags.forecast))
            if not flags.forecast:
                table, masks = pairs.write_results(store, one.layers)
                print(pairs.as_text(table))
                print(f"masks: median Jaccard similarity {masks[masks['parameter'] == 'all']['jaccard'].median():.3f}")
                print(f"tables and figures in {store.storage.url}/{pairs.FOLDER}")

    check_workplace(orders, here=flags.address is None)
    if flags.forecast:
        work(LocalEngine(root, flags.allow_drift))
    elif flags.local:
        with at_work(root, one_writer=True):
            work(LocalEngine(root, flags.allow_drift))
    else:
        from distsim.ray_engine import RayEngine

        with at_work(root), RayEngine(root, flags.address, flags.allow_drift) as engine:
            work(engine)
    if failures:
        raise SweepFailed(failures)
    return 0


def _chosen(network: Any, runs: list[int] | None, iterations: list[int] | None) -> bool:
    """The complete network is iteration 0 of every run."""
    run, iteration = (None, 0) if network is None else network
    return (run is None or runs is None or run in runs) and (iterations is None or iteration in iterations)


def _layers(flags: argparse.Namespace) -> int:
    from pathlib import Path

    from distsim.across import Stored, layer_by_layer
    from distsim.figures import render
    from distsim.summary import to_csv_bytes

    sides = []
    for where, problem, text in zip(
        (flags.store, flags.other or flags.store),
        (flags.problem, flags.with_problem or flags.problem),
        flags.networks,
        strict=True,
    ):
        stores = _stores(argparse.Namespace(store=where, problem=problem))
        if len(stores) > 1:
            raise ValueError(f"{where} holds {', '.join(s.problem for s in stores)}: name one with --problem")
        sides.append(Stored(stores[0], _network(text)))
    device = resolved_device(flags.device, None)
    found = layer_by_layer(sides[0], sides[1], flags.metrics, flags.data, device)
    folder = Path(flags.out)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"layers_{sides[0].label}_{sides[1].label}"
    (folder / f"{name}.csv").write_bytes(to_csv_bytes(found.table))
    (folder / f"{name}.png").write_bytes(render(found.heatmap(), "png"))
    for metric in found.metrics:
        print(f"{metric}\n{found.matrix(metric).round(3).to_string()}\n")
    print(f"{folder / name}.csv and .png")
    return 0


def _report(flags: argparse.Namespace) -> int:
    from distsim import claims, results
    from distsim.models import build
    from distsim.store import StoreInUse

    stores = _stores(flags)
    layers = {store.problem: build(p := store.identity().problem, len(p.classes)).layers for store in stores}
    root = stores[0].root
    try:
        with at_work(root, one_writer=True):
            for store in stores:
                results.reduce(store, layers[store.problem], store.identity().seed, again=True)
            written = f"{len(results.draw(root, again=True))} figures in {root.url}/figures"
            tables = results.read_tables(root, [store.problem for store in stores])
    except StoreInUse as error:  # to look at a sweep that is under way is no work on it
        written = f"nothing was written: {error}"
        tables = results.joined(
            [results.collect(store, layers[store.problem], store.identity().seed)[0] for store in stores]
        )
    for store in stores:
        print(f"{store.problem}\n{results.as_text(tables, store.problem)}\n")
    print("claims of the papers")
    verdicts = claims.check(tables)
    judged = [verdict for verdict in verdicts if verdict.verdict != claims.NO_DATA]
    for verdict in judged:
        print(f"  {verdict.claim:4} {verdict.problem:20} {verdict.metric:9} {verdict.verdict:18} {verdict.text}")
    if lacking := dict.fromkeys(f"{v.claim} ({v.problem})" for v in verdicts if v not in judged):
        print(
            textwrap.fill(
                f"not enough data for {', '.join(lacking)}", 118, initial_indent="  ", subsequent_indent="    "
            )
        )
    print(f"\n{written}")
    return 0


def _list(flags: argparse.Namespace) -> int:
    for store in _stores(flags):
        contents = store.contents()
        runs = {network[0] for network in contents.networks if network is not None}
        last = max((network[1] for network in contents.networks if network is not None), default=0)
        identity = store.identity()
        print(
            f"{store.problem:20} {len(runs)} runs, up to iteration {last}, seed {identity.seed}, {identity.hash[:12]}"
        )
    return 0


def _doctor(flags: argparse.Namespace) -> int:
    from distsim.doctor import examine
    from distsim.environment import require_device
    from distsim.problems import PROBLEMS

    if flags.problem not in PROBLEMS:
        raise ValueError(f"unknown problem {flags.problem!r}; there are {', '.join(PROBLEMS)}")
    device = resolved_device(flags.device, None)
    require_device(device)
    examine(PROBLEMS[flags.problem], flags.storage, device, enough=flags.seconds)
    return 0


def _digest(flags: argparse.Namespace) -> int:
    for store in _stores(flags):
        store.identity()  # refuses a spec that was changed
        pieces = store.digests()
        if flags.pieces:
            for piece, digest in pieces.items():
                print(f"{digest}  {store.problem}/{piece}")
        whole = hashlib.sha256("".join(f"{p} {d}\n" for p, d in pieces.items()).encode()).hexdigest()
        print(f"{whole}  {store.problem} ({len(pieces)} pieces)")
    return 0


def _verify(flags: argparse.Namespace) -> int:
    from distsim.integrity import summary, verify_store

    report = verify_store(_root(flags), [flags.problem] if flags.problem else None)
    print("\n".join(map(one_line, summary(report))))
    return 0 if report.whole else 1


def _repair(flags: argparse.Namespace) -> int:
    import contextlib

    from distsim.integrity import verify_store
    from distsim.repair import carry_out, planned, summary

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


if __name__ == "__main__":
    sys.exit(main())
