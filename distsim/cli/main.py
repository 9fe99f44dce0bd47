"""Run sweeps of iterative magnitude pruning, and work on what they have stored."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from distsim.cli import commands as work
from distsim.cli.arguments import cluster, control_flags, measure_flags, positive, se_flag, whole
from distsim.cli.claiming import do_claims
from distsim.cli.claiming import flags as claims_flags
from distsim.cli.compare_models import DESCRIPTION as OF_MODELS
from distsim.cli.compare_models import do_compare_models
from distsim.cli.compare_models import flags as compare_models_flags
from distsim.cli.ladder import do_ladder
from distsim.cli.ladder import flags as ladder_flags
from distsim.cli.output import reported
from distsim.cli.progress import flags as progress_flags
from distsim.cli.proving import do_prove
from distsim.cli.reporting import do_report
from distsim.cli.reporting import flags as report_flags
from distsim.cli.studies import do_merge
from distsim.cli.sweep_command import DESCRIPTION, do_sweep
from distsim.cli.sweep_command import flags as sweep_flags

# What needs torch is imported inside functions, so that --help answers at once.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of `distsim` and return its exit status. arguments : the command line, sys.argv's by default."""

    def carry_out() -> Any:
        words = sys.argv[1:] if arguments is None else list(arguments)
        if words[:1] == ["sweep"]:  # its flags depend on the problems that it names
            return do_sweep(words[1:])
        parser = _parser()
        flags, rest = parser.parse_known_args(words)
        if "rows" in flags and not any(text.startswith("-") for text in rest):
            flags.rows += rest  # argparse takes none behind a flag
        elif rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        return flags.command(flags)

    return reported(carry_out, typed=arguments is None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distsim", description=__doc__, epilog="`distsim COMMAND --help` explains a command and gives an example."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do: Any, help: str, example: str = "results/cifar2") -> argparse.ArgumentParser:
        description, epilog = help[0].upper() + help[1:] + ".", f"Example: distsim {name} {example}"
        subparser = commands.add_parser(name, help=help, description=description, epilog=epilog)
        subparser.set_defaults(command=do)
        subparser.add_argument("store", metavar="STORE", help="the sweep's --storage: a folder, or s3://bucket/prefix")
        subparser.add_argument("--problem", help="one problem of the store (default: all)")
        return subparser

    sweep = commands.add_parser(
        "sweep",
        help="run the sweep of a problem of the papers",
        description=DESCRIPTION,
        epilog="Example: distsim sweep cifar2 --data folder:PATH --runs 2 --set recipe.lr=0.0005 pruning.scope=local",
    )
    sweep_flags(sweep)
    run = command("run", work.do_run, "finish an interrupted sweep, or extend one", "results/cifar2 --runs 20")
    _workplace(run)
    _own_code(run)
    _run_flags(run)
    measure_flags(run)
    progress_flags(run)
    status = command("status", work.do_status, "show what a store holds and what is missing", "results/cifar2 --watch")
    status.add_argument(
        "--watch", action="store_true", help="show it again and again, until everything that was asked for is there"
    )
    compare = command(
        "compare",
        work.do_compare,
        "compute missing similarities, without training anything",
        "results/cifar2 --metrics cka procrustes",
    )
    _workplace(compare)
    _own_code(compare)
    progress_flags(compare)
    compare.add_argument("--metrics", nargs="+", metavar="NAME", help="metrics to compute (default: as last asked for)")
    pairs = command(
        "pairs", work.do_pairs, "compare a store's networks with each other", "results/cifar2 --plan iterations"
    )
    _workplace(pairs)
    _own_code(pairs)
    _pairs_flags(pairs)
    ranked = command(
        "ladder",
        do_ladder,
        "rank metrics by what they find of order, ancestry and loss barriers",
        "results/cifar2 --out ladder",
    )
    _workplace(ranked)
    _own_code(ranked)
    ladder_flags(ranked)
    layers = command(
        "layers",
        work.do_layers,
        "compare every layer of one network with every layer of another",
        "results/cifar2 --networks run=complete run=0,iteration=5 --metrics cka",
    )
    _layers_flags(layers)
    _own_code(layers)
    models = commands.add_parser(
        "compare-models",
        help="compare any PyTorch models, or files of activations, layer by layer",
        description=OF_MODELS,
        epilog="Example: distsim compare-models script.py:make_a script.py:make_b --data folder:PATH --size 224",
    )
    models.set_defaults(command=do_compare_models)
    compare_models_flags(models)
    report = command(
        "report",
        do_report,
        "write the report of what a store holds, one HTML file, and say what came out",
        "results/cifar2 --out cifar2.html",
    )
    report_flags(report)
    claims = command(
        "claims",
        do_claims,
        "judge the claims of the papers, under one definition of each metric or all",
        "results/cifar2 --multiverse",
    )
    claims_flags(claims)
    command("list", work.do_list, "list a store's problems")
    digest = command("digest", work.do_digest, "read and check everything in a store, and print a digest of it")
    digest.add_argument("--pieces", action="store_true", help="one line for each piece")
    command("verify", work.do_verify, "check that nothing in a store is damaged, and name what is")
    repair = command(
        "repair",
        work.do_repair,
        "remove what is damaged, and only that, so that the next run makes it again",
        "results/cifar2 --dry-run",
    )
    repair.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    repair.add_argument(
        "--allow-drift",
        action="store_true",
        help="also remove a damaged complete network, and everything that came from it, if this machine or its "
        "versions would not train the same one again",
    )
    merge = commands.add_parser(
        "merge",
        help="publish the tables of a sweep, or join those of several machines",
        description="Write the tables, figures and claims of a sweep into a folder that can be published, without "
        "weights and activations. Several sources are joined if they are of the same sweep. Runs that start from "
        "different complete networks, as other processors train them, are kept apart in the column `complete`.",
        epilog="Example: distsim merge results/cifar2 --into published/cifar2",
    )
    merge.set_defaults(command=do_merge)
    merge.add_argument("sources", nargs="+", metavar="SOURCE", help="a store, or the folder of a published study")
    merge.add_argument("--into", required=True, metavar="FOLDER", help="where the published study is written")
    merge.add_argument("--problem", help="one problem of the stores, where they hold several")
    prove = commands.add_parser(
        "prove",
        help="compute rows of a published table again, from their networks, and say whether they are equal",
        description="Compute rows of a published study again and compare. From a store's weights the values must be "
        "equal bit by bit in the environment of the row, and to 1e-4 on another processor or with other versions. The "
        "exit status is 0 if all rows are proven, 1 if one is not, and 3 if networks were trained again where no digit "
        "is promised.",
        epilog="Example: distsim prove results/cifar2 run=3,iteration=7,layer=conv1_2,metric=nbs",
    )
    prove.set_defaults(command=do_prove)
    _prove_flags(prove)
    _own_code(prove)
    doctor = commands.add_parser(
        "doctor",
        help="measure this machine and say which flags suit it",
        description="Measure this machine and say which flags suit it: trials at once, threads, precision.",
        epilog="Example: distsim doctor cifar2",
    )
    doctor.set_defaults(command=work.do_doctor)
    _doctor_flags(doctor)
    return parser


def _run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=whole, help="number of runs (default: as last asked for)")
    control_flags(parser, "(default: as last asked for)", "(default: as last asked for)")
    parser.add_argument(
        "--complete", type=whole, metavar="K", help="number of complete networks (default: as last asked for)"
    )
    parser.add_argument(
        "--iterations", type=whole, help="number of iterations in each run (default: as last asked for)"
    )
    parser.add_argument(
        "--allow-slow",
        action="store_true",
        help="train in bfloat16 also on a processor without instructions for it, which takes 2 to 14 times as long as "
        "in float32",
    )
    parser.add_argument(
        "--only",
        metavar="run=3,iteration=7",
        help="recompute one network in this process (run=complete: the complete one; control=retrain,run=0,iteration=1 "
        "of a control); commit it if it is missing, else say whether it equals the committed one bit by bit",
    )


def _pairs_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plan",
        choices=("complete", "references", "runs", "iterations", "all"),
        default="runs",
        help="complete: each complete network with what comes from it; references: complete networks with each other, "
        "where the study has several; runs: run with run at equal iteration; iterations: iteration with iteration of "
        "each run; all: every network with every other (default: %(default)s)",
    )
    parser.add_argument("--runs", nargs="+", type=whole, metavar="RUN", help="only these runs (default: all)")
    parser.add_argument(
        "--iterations", nargs="+", type=whole, metavar="ITERATION", help="only these iterations (default: all)"
    )
    parser.add_argument("--layers", nargs="+", metavar="LAYER", help="only these layers (default: all compared layers)")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="metrics to compute (default: as last asked for)")
    parser.add_argument(
        "--memory", type=positive, metavar="GIB", help="memory for all workers together (default: half of what is free)"
    )
    parser.add_argument("--forecast", action="store_true", help="only say what the comparison would cost")
    se_flag(parser)


def _layers_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--networks",
        nargs=2,
        metavar=("A", "B"),
        default=["run=complete", "run=complete"],
        help="written as run=3,iteration=7, or run=complete for the complete network (default: that, twice)",
    )
    parser.add_argument("--with", dest="other", metavar="STORE", help="take B from this store (default: STORE)")
    parser.add_argument("--with-problem", metavar="PROBLEM", help="take B from this problem (default: --problem)")
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME", default=["cka"], help="metrics to compute (default: cka)"
    )
    parser.add_argument("--out", metavar="FOLDER", default=".", help="folder for table and figure (default: this one)")
    parser.add_argument("--data", help="where the data are (default: as last asked for)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="to compare on (default: auto)"
    )
    se_flag(parser)
    parser.add_argument(
        "--permutations",
        type=whole,
        default=0,
        metavar="N",
        help="compare with N permutations of B's examples too, each at the cost of the comparison: says for every "
        "metric what the best of many layers has by chance (default: for CKA by a formula, for others not)",
    )


def _prove_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help="the folder of a published study, or a store")
    parser.add_argument(
        "rows",
        nargs="*",
        metavar="ROW",
        help="run=3,iteration=7,layer=conv1_2,metric=nbs; without layer and metric the network's accuracy (of the "
        "complete one: run=complete); with complete=1 where the study has several complete networks",
    )
    parser.add_argument("--random", type=whole, metavar="N", help="also N rows that are drawn at random")
    parser.add_argument("--seed", type=whole, default=0, help="of these rows (default: %(default)s)")
    parser.add_argument(
        "--store", action="append", metavar="STORE", help="a store that holds the networks; may be given several times"
    )
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="train the networks again, for studies of which only tables are left; its cost is said before it begins",
    )
    parser.add_argument("--problem", help="one problem of a store that holds several")
    parser.add_argument("--data", metavar="WHERE", help="where the images are (default: as the store last asked for)")
    parser.add_argument("--skip-bad", type=whole, default=0, metavar="N", help="images: as for the sweep script")
    parser.add_argument("--bits", type=whole, metavar="B", help="images: as for the sweep script")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="(default: a GPU if the row was computed on one and there is one here, else the CPU)",
    )


def _doctor_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "problem", nargs="?", default="cifar2", help="what is trained for some seconds (default: cifar2)"
    )
    parser.add_argument(
        "--storage", metavar="STORE", default="results", help="the storage that is measured (default: %(default)s)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="to measure (default: auto)")
    parser.add_argument("--seconds", type=positive, default=3.0, help="seconds of each measurement (default: 3)")


def _workplace(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(allow_slow=False)  # only what trains has the flag
    parser.add_argument("--local", action="store_true", help="do everything in this process, in order, without Ray")
    parser.add_argument("--address", type=cluster, help="address of a Ray cluster (default: start Ray on this machine)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="(default: as last asked for)")
    parser.add_argument("--data", help="where the data are (default: as last asked for)")
    parser.add_argument("--cpus", type=positive, help="CPUs for each trial (default: one for each thread)")
    parser.add_argument("--gpus", type=positive, help="GPUs for each trial (default: 1 on a GPU)")
    parser.add_argument(
        "--allow-drift", action="store_true", help="go on although versions or device differ from the store's"
    )


def _own_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="imported",
        metavar="FILE",
        help="import this script, which registers your own networks and metrics (default: the script that started the "
        "sweep, if it was not changed, lies outside the store, and the store is a folder)",
    )


if __name__ == "__main__":
    sys.exit(main())
