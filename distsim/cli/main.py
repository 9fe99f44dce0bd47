"""`distsim`: work on the store of any sweep."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from distsim.cli.arguments import cluster, positive, whole
from distsim.cli.commands import (
    do_compare,
    do_digest,
    do_doctor,
    do_layers,
    do_list,
    do_pairs,
    do_repair,
    do_report,
    do_run,
    do_status,
    do_verify,
)
from distsim.cli.output import reported

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

    run = command("run", do_run, "do what a store lacks of what its sweep script last asked for")
    _workplace(run)
    _own_code(run)
    run.add_argument("--runs", type=whole, help="ask for this many runs")
    run.add_argument("--iterations", type=whole, help="ask for this many iterations")
    run.add_argument(
        "--only",
        metavar="run=3,iteration=7",
        help="recompute one network in this process (run=complete: the complete one); commit it if it is missing, else "
        "say whether it comes out bit by bit as committed",
    )
    command("status", do_status, "say what a store holds and what it lacks")
    compare = command("compare", do_compare, "compute the similarities that a store lacks, and nothing else")
    _workplace(compare)
    _own_code(compare)
    compare.add_argument("--metrics", nargs="+", help="ask for these")
    pairs = command("pairs", do_pairs, "compare a store's networks with each other")
    _workplace(pairs)
    _own_code(pairs)
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
    layers = command("layers", do_layers, "compare every layer of one network with every layer of another")
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
    _own_code(layers)
    command("report", do_report, "write tables and figures of what a store holds, and print the summary and the claims")
    command("list", do_list, "list a store's problems")
    digest = command("digest", do_digest, "read and check everything in a store and print its digests")
    digest.add_argument("--pieces", action="store_true", help="one line for each piece")
    command(
        "verify", do_verify, "read everything in a store, check that it is what was written, and say what is damaged"
    )
    repair = command("repair", do_repair, "drop what is damaged, and nothing else, so that the next run does it again")
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
    doctor.set_defaults(command=do_doctor)
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


def _own_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="imported",
        metavar="FILE",
        help="run this script as an import, for the networks and metrics of one's own that it registers (default: the "
        "script that started the sweep, if it lies outside the store, which must be a folder, and was not changed)",
    )


if __name__ == "__main__":
    sys.exit(main())
