"""The command line of every script in sweeps/: it turns flags into orders and carries them out."""

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, get_args

from distsim import extras
from distsim.cli import progress
from distsim.cli.arguments import (
    cluster,
    control_flags,
    dry_run_flag,
    measure_flags,
    measured,
    positive,
    resolved_device,
    whole,
)
from distsim.cli.output import Help, reported, say_loading
from distsim.cli.run import carry_out
from distsim.metrics.registry import METRICS as KNOWN
from distsim.specs import (
    CHOSEN,
    DEFAULT_METRICS,
    ActivationsIn,
    DeviceChoice,
    Exactness,
    Extent,
    Precision,
    ProbeFrom,
    Problem,
    Reading,
    Retention,
    names,
)

# What needs torch is imported inside functions, so that --help answers at once.

# Flags that are passed on under their names: what changes the problem, and what else the sweep is prepared with.
OF_PROBLEM = ("classes", "epochs", "probe", "probe_from", "train_limit")
OF_SWEEP = ("pack", *CHOSEN)


def main(*problems: Problem, arguments: Sequence[str] | None = None, **defaults: Any) -> int:
    """Run the sweep of one problem, or of several in one store, and return the exit status.

    arguments : the command line, sys.argv's by default. defaults : values for flags that this study sets itself.
    """
    typed = arguments is None
    return reported(lambda: run_flags(problems, parser_for(problems, defaults).parse_args(arguments)), typed)


def parser_for(problems: Sequence[Problem], defaults: dict[str, Any]) -> argparse.ArgumentParser:
    """Return the parser of a sweep script for these problems, with these defaults in place of the usual ones."""
    names = ", ".join(problem.name for problem in problems)
    parser = argparse.ArgumentParser(
        epilog="Example: python sweeps/digits.py --runs 2 --iterations 3",
        formatter_class=Help,
        description=f"Run the {names} sweep: train the complete network once, prune it iteratively in independent "
        "runs, compare every layer of every pruned network with the complete one, and draw the figures. The same "
        "command again resumes an interrupted sweep; larger --runs or --iterations extend a finished one.",
    )
    if len(problems) > 1:
        parser.add_argument(
            "--only",
            nargs="+",
            metavar="NAME",
            help="problems to run, of those above; * stands for any text, as in 'cifar*' (default: all)",
        )
    add_flags(parser, problems)
    parser.set_defaults(**({"only": None} | defaults))
    return parser


def add_flags(parser: argparse.ArgumentParser, problems: Sequence[Problem]) -> None:
    """Give a parser the flags of every sweep. Their help names the defaults of these problems."""
    _extent_flags(parser, problems)
    _smaller_flags(parser, problems)
    _data_flags(parser, problems)
    _place_flags(parser, f"results/{problems[0].name}")
    _numbers_flags(parser)
    progress.flags(parser.add_argument_group("what is shown"))


def run_flags(problems: Sequence[Problem], flags: argparse.Namespace) -> int:
    """Do what the flags of `parser_for` ask for, and return the exit status."""
    extras.require("a sweep", ["train", "store", "report"] if flags.local else ["train", "store", "report", "ray"])
    from distsim.store import new_root

    say_loading(flags.quiet)
    problems = _chosen(problems, flags.only)
    if flags.measure is not None and "none" in flags.measure and len(flags.measure) > 1:
        raise ValueError(f"--measure none stands alone, got {' '.join(flags.measure)}")
    if flags.data.startswith(("folder:", "files:")) and len({problem.source for problem in problems}) > 1:
        raise ValueError(
            f"{flags.data} holds one data set, but these problems need several: pass the folder of all of them"
        )
    with new_root(flags.storage, only_look=flags.dry_run) as root:
        carry_out(_orders(problems, flags, root), root, flags)
    return 0


def _chosen(problems: Sequence[Problem], patterns: Sequence[str] | None) -> Sequence[Problem]:
    """Return the problems that a pattern matches, in their order; all without patterns.

    ValueError: a pattern matches none.
    """
    if patterns is None:
        return problems
    for pattern in patterns:
        if not any(fnmatchcase(problem.name, pattern) for problem in problems):
            raise ValueError(f"--only {pattern}: there are {', '.join(problem.name for problem in problems)}")
    return [problem for problem in problems if any(fnmatchcase(problem.name, pattern) for pattern in patterns)]


def _orders(problems: Sequence[Problem], flags: argparse.Namespace, root: Any) -> list[Any]:
    """Return an order for each problem. Everything that needs no data is checked for all of them first."""
    from distsim.sweep.order import (
        adapted,
        checked,
        prepare,
        require_tools,
        require_trainable,
        trial_resources,
        with_kept,
    )
    from distsim.training.stepper import Arithmetic

    device = resolved_device(flags.device, flags.address)
    asked = _values(flags, (*OF_SWEEP, *names(Extent))) | {"device": device}
    asked["resources"] = trial_resources(device, flags.threads, flags.cpus, flags.gpus)
    asked["reading"] = Reading(flags.skip_bad, flags.bits)
    asked |= measured(flags)
    problems = [adapted(problem, flags.data, **_values(flags, OF_PROBLEM)) for problem in problems]
    of_each = {problem.name: with_kept(root, problem.name, asked) for problem in problems}
    for problem in problems:
        extent = checked(problem, data=flags.data, **of_each[problem.name]).extent
        arithmetic = Arithmetic(flags.precision, flags.deterministic, flags.compile)
        require_trainable(root, problem, extent, arithmetic, device, flags.address is None, flags.allow_slow)
        if flags.address is None:
            require_tools(device, extent.metrics)
    return [prepare(problem, data=flags.data, download=flags.download, **of_each[problem.name]) for problem in problems]


def _values(flags: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(flags, name) for name in names}


def _defaults(problems: Sequence[Problem], of: Callable[[Problem], object]) -> str:
    """Write the default of a flag for help: the value of each problem, equal ones once."""
    return f"(default: {', '.join(dict.fromkeys(str(of(problem)) for problem in problems))})"


def _extent_flags(parser: argparse.ArgumentParser, problems: Sequence[Problem]) -> None:
    group = parser.add_argument_group("how much (may grow later)")
    group.add_argument(
        "--runs", type=whole, metavar="N", help=f"number of independent runs {_defaults(problems, lambda p: p.runs)}"
    )
    group.add_argument(
        "--iterations",
        type=whole,
        metavar="N",
        help=f"number of prunings in each run {_defaults(problems, lambda p: p.iterations)}",
    )
    group.add_argument(
        "--complete",
        type=whole,
        default=1,
        metavar="K",
        help="number of complete networks, each trained from another initialisation and with runs of its own; with "
        "one, bands and intervals say nothing about others (default: %(default)s)",
    )
    control_flags(
        group,
        "(default: both for a new study; one that has begun keeps what it asked for)",
        _defaults(problems, lambda p: p.control_runs),
    )
    group.add_argument(
        "--metrics",
        nargs="+",
        choices=tuple(KNOWN),
        metavar="NAME",
        help=f"similarities to compute; known are {', '.join(KNOWN)} (default: what the store was asked for last; of a "
        f"new one {', '.join(DEFAULT_METRICS)})",
    )
    group.add_argument(
        "--retention",
        choices=get_args(Retention),
        default="reference",
        help="which activations stay on disk after comparison: the complete network's, or all (default: %(default)s)",
    )
    group.add_argument(
        "--activations",
        choices=get_args(ActivationsIn),
        default="store",
        help="store: write activations once and read them for each comparison; memory: write none, and compute them by "
        "a forward pass for each layer and network, with the same results (default: %(default)s)",
    )
    group.add_argument(
        "--no-chance",
        dest="chance",
        action="store_false",
        help="do not measure the chance level (similarity with permuted examples, at iterations 1, 10 and 20 of run "
        "0), and no null",
    )
    measure_flags(group)


def _smaller_flags(parser: argparse.ArgumentParser, problems: Sequence[Problem]) -> None:
    group = parser.add_argument_group("a smaller problem (this is another sweep: use another --storage)")
    group.add_argument(
        "--epochs",
        type=whole,
        metavar="N",
        help="number of epochs of each training; schedules scale with them "
        f"{_defaults(problems, lambda p: p.recipe.epochs)}",
    )
    group.add_argument(
        "--train-limit",
        type=whole,
        metavar="N",
        help="number of training images, equally many of each class (default: all)",
    )
    group.add_argument(
        "--probe",
        type=whole,
        metavar="N",
        help=f"number of images on which layers are compared {_defaults(problems, lambda p: p.probe)}",
    )
    group.add_argument(
        "--probe-from",
        choices=get_args(ProbeFrom),
        help="which images layers are compared on: those that networks were trained on, as in the papers, or test "
        f"images, which they have not seen {_defaults(problems, lambda p: p.probe_from)}",
    )


def _data_flags(parser: argparse.ArgumentParser, problems: Sequence[Problem]) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        default="",
        metavar="WHERE",
        help="take the images from here: folder:PATH for images in PATH/train/CLASS and PATH/test/CLASS; files:PATH "
        "for your own files in the data set's format; a plain path for the folder in which torchvision keeps the "
        "data set (default: $DISTSIM_DATA, else ~/.cache/distsim/data)",
    )
    group.add_argument("--download", action="store_true", help="fetch the published data set if it is not there")
    group.add_argument(
        "--skip-bad",
        type=whole,
        default=0,
        metavar="N",
        help="leave out at most N images of a folder that cannot be read; they are named, and another choice of images "
        "is another sweep (default: %(default)s)",
    )
    group.add_argument(
        "--bits",
        type=whole,
        metavar="B",
        help="read grey values of a folder that are stored in more than 8 bits as numbers from 0 to 2^B - 1 (default: "
        "the bits that the largest value in the data set has, if all images are of this kind, else 16)",
    )
    group.add_argument(
        "--classes",
        type=lambda text: tuple(name.strip() for name in text.split(",")),
        metavar="A,B,...",
        help="names of the classes to use, with commas; your own images are then normalised by their own mean and sd "
        f"{_defaults(problems, lambda p: ','.join(p.classes) or 'all')}",
    )


def _place_flags(parser: argparse.ArgumentParser, storage: str) -> None:
    group = parser.add_argument_group("where")
    group.add_argument(
        "--storage",
        default=storage,
        metavar="STORE",
        help="the store: a folder, or s3://bucket/prefix; several problems may share one (default: %(default)s)",
    )
    group.add_argument(
        "--address",
        type=cluster,
        metavar="HOST:PORT",
        help="work on the Ray cluster at this address, which may also be auto or ray://HOST:10001 (default: start Ray "
        "on this machine)",
    )
    group.add_argument("--local", action="store_true", help="do everything in this process, in order, without Ray")
    dry_run_flag(group)
    group.add_argument(
        "--device",
        choices=get_args(DeviceChoice),
        default="auto",
        help="compute on the CPU, on a GPU (cuda), or on a GPU if there is one, else the CPU (auto) (default: "
        "%(default)s)",
    )
    group.add_argument("--cpus", type=positive, metavar="N", help="CPUs for each trial (default: --threads)")
    group.add_argument(
        "--gpus",
        type=positive,
        metavar="N",
        help="GPUs for each trial; with a fraction, trials share a GPU (default: 1 on a GPU)",
    )
    group.add_argument(
        "--pack",
        type=whole,
        default=1,
        metavar="N",
        help="number of runs that one trial trains in turns, step by step, so that small networks fill a GPU together; "
        "each run is committed by itself, with the same result as alone (default: %(default)s)",
    )


def _numbers_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what else determines the results")
    group.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="seed of every random stream (default: %(default)s)"
    )
    group.add_argument(
        "--threads",
        type=whole,
        default=1,
        metavar="N",
        help="CPU threads for each trial and comparison (default: %(default)s)",
    )
    group.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="float32",
        help="dtype of training: float32, or bfloat16 for convolutions and matrix products, which is faster on "
        "hardware that supports it; tf32, on a GPU only, is float32 with products in TF32; activations are always "
        "computed in float32 (default: %(default)s)",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="let torch compile the network for training, which takes up to a minute once a process and saves about a "
        "fifth of each step on a GPU; on a CPU it needs a C++ compiler",
    )
    group.add_argument(
        "--fuse",
        type=whole,
        default=1,
        metavar="G",
        help="train G runs in one step, as one network, which is several times as fast for small networks on a GPU; it "
        "rounds differently from training each alone (default: %(default)s)",
    )
    group.add_argument(
        "--allow-slow",
        action="store_true",
        help="train in bfloat16 also on a processor without instructions for it, which takes 2 to 16 times as long as "
        "in float32",
    )
    group.add_argument(
        "--deterministic",
        action="store_true",
        help="make a GPU repeat its results bit by bit, which takes more time; a CPU always does",
    )
    group.add_argument(
        "--comparison",
        choices=get_args(Exactness),
        default="exact",
        help="how exactly NBS is computed. exact: to 1e-6; fast: to 5e-4, in a fraction of the time for large "
        "layers on a CPU, and exact on a GPU (default: %(default)s)",
    )
    group.add_argument(
        "--allow-drift",
        action="store_true",
        help="go on although versions or device are not the store's; this is recorded with each result",
    )


os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
