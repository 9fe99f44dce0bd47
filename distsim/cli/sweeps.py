"""The command line of every script in sweeps/: flags to an order, an order to a finished store."""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any, get_args

from distsim.cli.arguments import cluster, positive, resolved_device, resources, whole
from distsim.cli.output import reported
from distsim.cli.run import finish
from distsim.metrics.registry import METRICS as KNOWN
from distsim.specs import (
    PAPER_METRICS,
    ActivationsIn,
    DeviceChoice,
    Exactness,
    Extent,
    Precision,
    Problem,
    Retention,
    names,
)

# Everything that needs torch is imported inside functions: --help answers at once.


def main(*problems: Problem, arguments: Sequence[str] | None = None, **defaults: Any) -> int:
    """Run the sweep of one problem, or of several into one store; the process's exit status.

    arguments : the command line, sys.argv's by default. defaults : of flags, by name, where the study has its own.
    """
    flags = parser_for(problems, defaults).parse_args(arguments)  # before what needs torch: --help answers at once
    return reported(lambda: _run(problems, flags))


def parser_for(problems: Sequence[Problem], defaults: dict[str, Any]) -> argparse.ArgumentParser:
    names = ", ".join(problem.name for problem in problems)
    parser = argparse.ArgumentParser(
        description=f"The {names} sweep: trains the complete network once, prunes it iteratively in independent "
        "runs, compares every layer of every pruned network with the complete one, and draws the figures. The same "
        "command again resumes what was interrupted; larger --runs or --iterations extend what is there.",
    )

    def each(of: Callable[[Problem], object]) -> str:
        return f"(default: {', '.join(dict.fromkeys(str(of(problem)) for problem in problems))})"

    extent = parser.add_argument_group("how much (may grow later)")
    extent.add_argument("--runs", type=whole, help=f"independent chains of prunings {each(lambda p: p.runs)}")
    extent.add_argument("--iterations", type=whole, help=f"prunings in each chain {each(lambda p: p.iterations)}")
    extent.add_argument(
        "--metrics",
        nargs="+",
        choices=tuple(KNOWN),
        metavar="NAME",
        default=list(PAPER_METRICS),
        help=f"similarities to compute, of {', '.join(KNOWN)} (default: {', '.join(PAPER_METRICS)})",
    )
    extent.add_argument(
        "--retention",
        choices=get_args(Retention),
        default="reference",
        help="which activations stay on disk once compared: the complete network's, or all (default: %(default)s)",
    )
    extent.add_argument(
        "--activations",
        choices=get_args(ActivationsIn),
        default="store",
        help="store: written once and read for each comparison; memory: a forward pass for each layer and network, "
        "nothing on disk, the same bits (default: %(default)s)",
    )
    extent.add_argument(
        "--no-chance",
        dest="chance",
        action="store_false",
        help="do not measure what similarity permuted examples give, at iterations 1, 10 and 20 of run 0",
    )
    smaller = parser.add_argument_group("the problem made smaller (another sweep: use another --storage)")
    smaller.add_argument(
        "--epochs", type=whole, help=f"of each training; schedules scale {each(lambda p: p.recipe.epochs)}"
    )
    smaller.add_argument(
        "--train-limit", type=whole, help="training images, shared evenly by the classes (default: all)"
    )
    smaller.add_argument(
        "--probe", type=whole, help=f"images that representations are compared on {each(lambda p: p.probe)}"
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        default="",
        metavar="WHERE",
        help="folder:PATH for images in PATH/train/CLASS and PATH/test/CLASS; files:PATH for own files in the data "
        "set's format; a plain path for the folder in which torchvision keeps it (default: $DISTSIM_DATA, else "
        "~/.cache/distsim/data)",
    )
    data.add_argument("--download", action="store_true", help="fetch the published data set if it is not there")
    data.add_argument(
        "--classes",
        type=lambda text: tuple(name.strip() for name in text.split(",")),
        help="a subset by name, with commas; one's own images are then normalised by their own mean and sd "
        f"{each(lambda p: ','.join(p.classes) or 'all')}",
    )
    place = parser.add_argument_group("where")
    place.add_argument(
        "--storage",
        default=f"results/{problems[0].name}",
        help="a folder, or s3://bucket/prefix; several problems may share one (default: %(default)s)",
    )
    place.add_argument(
        "--address", type=cluster, help="of a Ray cluster: auto, or ray://host:10001; without it Ray starts here"
    )
    place.add_argument("--local", action="store_true", help="everything in this process, in order, without Ray")
    place.add_argument(
        "--device", choices=get_args(DeviceChoice), default="auto", help="auto (default): a GPU if it is here"
    )
    place.add_argument("--cpus", type=positive, help="of one trial (default: --threads)")
    place.add_argument("--gpus", type=positive, help="of one trial; a fraction shares a GPU (default: 1 on a GPU)")
    place.add_argument(
        "--pack",
        type=whole,
        default=1,
        help="runs that one trial trains in turns, step by step: on a GPU, networks too small to fill it fill it "
        "together; each run is committed by itself and comes out as alone (default: %(default)s)",
    )
    numbers = parser.add_argument_group("what else determines the numbers")
    numbers.add_argument("--seed", type=whole, default=0, help="of every random stream (default: %(default)s)")
    numbers.add_argument(
        "--threads", type=whole, default=1, help="of one trial and one comparison, on the CPU (default: %(default)s)"
    )
    numbers.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="float32",
        help="of training: float32, or bfloat16 for convolutions and products, faster where the hardware has it; "
        "activations are always computed in float32 (default: %(default)s)",
    )
    numbers.add_argument(
        "--deterministic",
        action="store_true",
        help="a GPU repeats itself bit by bit, at a price in time; a CPU always does",
    )
    numbers.add_argument(
        "--comparison",
        choices=get_args(Exactness),
        default="exact",
        help="exact: NBS to 1e-6; fast: to 5e-4, in a fraction of the time for large layers (default: %(default)s)",
    )
    numbers.add_argument(
        "--allow-drift",
        action="store_true",
        help="go on with other versions or another device than the store's, which is recorded with each result",
    )
    parser.set_defaults(**defaults)
    return parser


def adapted(problem: Problem, flags: argparse.Namespace) -> Problem:
    """The problem as the flags change it."""
    from distsim.sweep.order import adapted

    return adapted(
        problem,
        flags.data,
        classes=flags.classes,
        epochs=flags.epochs,
        probe=flags.probe,
        train_limit=flags.train_limit,
    )


def _run(problems: Sequence[Problem], flags: argparse.Namespace) -> int:
    from distsim.store import Storage
    from distsim.sweep.order import prepare

    if flags.data.startswith(("folder:", "files:")) and len({problem.source for problem in problems}) > 1:
        raise ValueError(f"{flags.data} holds one data set, these problems need several: pass the folder of them all")
    root = Storage(flags.storage)
    device = resolved_device(flags.device, flags.address)
    orders = [
        prepare(
            adapted(problem, flags),
            data=flags.data,
            download=flags.download,
            **{name: getattr(flags, name) for name in names(Extent)},
            device=device,
            resources=resources(flags, device),
            pack=flags.pack,
            seed=flags.seed,
            threads=flags.threads,
            precision=flags.precision,
            deterministic=flags.deterministic,
            comparison=flags.comparison,
        )
        for problem in problems
    ]
    finish(orders, root, local=flags.local, address=flags.address, allow_drift=flags.allow_drift)
    return 0


os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
