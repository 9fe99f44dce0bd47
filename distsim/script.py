"""The command line of every script in sweeps/: flags to an order, an order to a finished store."""

import argparse
import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distsim.metrics.registry import METRICS as KNOWN
from distsim.specs import METRICS, MOST, PRECISIONS, Problem, shown

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
        default=list(METRICS),
        help=f"similarities to compute, of {', '.join(KNOWN)} (default: {', '.join(METRICS)})",
    )
    extent.add_argument(
        "--retention",
        choices=("reference", "all"),
        default="reference",
        help="which activations stay on disk once compared: the complete network's, or all (default: %(default)s)",
    )
    extent.add_argument(
        "--activations",
        choices=("store", "memory"),
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
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto (default): a GPU if it is here"
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
        choices=PRECISIONS,
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
        choices=("exact", "fast"),
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


def positive(text: str) -> float:
    """An amount of a resource. ArgumentTypeError: not above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MOST:  # nor is infinity, which no machine has
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is no number above zero" + f" and up to {MOST:,}" * (value > MOST)
        )
    return value


def whole(text: str) -> int:
    """A whole number. ArgumentTypeError: it is none, or longer than anything here can be."""
    try:
        value = int(text)
    except ValueError:
        value = 2**63
    if abs(value) >= 2**63:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no whole number" + " of 64 bits" * text.isdigit())
    return value


def cluster(text: str) -> str:
    """The address of a Ray cluster. ArgumentTypeError: it is none; Ray would import a module of its scheme's name."""
    found = re.fullmatch(r"(?:ray://)?[^\s/:@]+:([0-9]{1,5})", text)
    if text not in ("auto", "local") and not (found and 0 < int(found[1]) < 2**16):
        raise argparse.ArgumentTypeError(f"{shown(text)} is neither auto nor HOST:PORT nor ray://HOST:PORT")
    return text


def reported(work: Any) -> int:
    """Do the work; what a person can act on becomes one sentence on stderr and exit status 1."""
    from distsim.store import NoSpace
    from distsim.sweep import SweepFailed
    from distsim.work import EXPECTED

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text, nor terminals show all of it
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(work() or 0)
    except SweepFailed as error:
        print(f"distsim: {len(error.failures)} failed, the rest is done:", file=sys.stderr)
        for failure in error.failures:
            print(f"  {one_line(failure)}", file=sys.stderr)
        return 1
    except NoSpace as error:
        print(
            f"distsim: {one_line(error)}. What is committed is kept: make room, the same command goes on",
            file=sys.stderr,
        )
        return 1
    except (*EXPECTED, OSError) as error:
        print(f"distsim: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("distsim: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def one_line(said: object) -> str:
    """The sentence without line breaks and other control characters, which libraries and names of files may have."""
    text = re.sub(r"\s*\n\s*", " ", str(said).strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def adapted(problem: Problem, flags: argparse.Namespace) -> Problem:
    """The problem as the flags change it."""
    folder = flags.data.startswith("folder:")
    if flags.classes and flags.classes != problem.classes:
        recipe = dataclasses.replace(problem.recipe, normalise=None) if folder else problem.recipe
        problem = dataclasses.replace(problem, classes=flags.classes, recipe=recipe, reduced=True)
    if folder and problem.channels == 1:  # one's own images are RGB; grey data's constants do not fit them
        recipe = dataclasses.replace(problem.recipe, normalise=None)
        problem = dataclasses.replace(problem, channels=3, recipe=recipe)
    if folder:  # its images are in the order of the classes, so the first ones are no sample
        problem = dataclasses.replace(problem, probe_rule="uniform")
    return problem.reduced_to(epochs=flags.epochs, probe=flags.probe, train_limit=flags.train_limit)


def resources(flags: argparse.Namespace, device: str) -> tuple[tuple[str, float], ...]:
    """Of one trial, as Ray wants them."""
    wanted = {"cpu": flags.cpus or float(flags.threads)}
    if device == "cuda":
        wanted["gpu"] = flags.gpus or 1.0
    return tuple(sorted(wanted.items()))


def _run(problems: Sequence[Problem], flags: argparse.Namespace) -> int:
    from distsim.store import Storage
    from distsim.sweep import order

    if flags.data.startswith(("folder:", "files:")) and len({problem.source for problem in problems}) > 1:
        raise ValueError(f"{flags.data} holds one data set, these problems need several: pass the folder of them all")
    root = Storage(flags.storage)
    device = resolved_device(flags.device, flags.address)
    orders = [
        order(
            adapted(problem, flags),
            data=flags.data,
            download=flags.download,
            runs=flags.runs,
            iterations=flags.iterations,
            metrics=tuple(flags.metrics),
            retention=flags.retention,
            activations=flags.activations,
            chance=flags.chance,
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


def finish(orders: list[Any], root: Any, *, local: bool, address: str | None, allow_drift: bool) -> None:
    """Do what is missing, by Ray or in this process, and print what the store then says."""
    from distsim import results
    from distsim.sweep import LocalEngine, claim, describe, run

    say = _say
    with at_work(root, one_writer=local) as check:
        claim(orders, root, here=address is None)
        if local:
            engine: Any = LocalEngine(root, allow_drift, lambda event: say(describe(event)))
            worked = run(orders, root, engine, say, check)
        else:
            from distsim.ray_engine import RayEngine

            with RayEngine(root, address, allow_drift, lambda event: say(describe(event))) as engine:
                worked = run(orders, root, engine, say, check)
    if not worked:
        say("nothing is missing: the store holds everything that was asked for")
    for one in orders:
        tables = results.read_tables(root, [one.name])
        say(f"\n{one.name}: {one.sweep.extent.runs} runs, {one.sweep.extent.iterations} iterations")
        say(results.as_text(tables, one.name))
    say(f"\ntables in {root.url}/<problem>/results, figures in {root.url}/figures")


@contextlib.contextmanager
def at_work(root: Any, one_writer: bool = False) -> Iterator[Callable[[], None]]:
    """Hold the store's lease; what is yielded raises where another driver has taken over.

    StorageError: the store has no conditional puts. With `one_writer` it will do, but nothing keeps others away.
    """
    from distsim.store import Lease, StorageError

    if root.exclusive():
        with Lease(root, _say) as lease:
            yield lease.check
    elif one_writer:
        _say(f"{root.url} has no conditional puts: nothing keeps a second driver away, so start none")
        yield lambda: None
    else:
        raise StorageError(
            f"{root.url} has no conditional puts, so that writers could overwrite each other's commits: use --local, "
            "which is a single writer, or another object store"
        )


def resolved_device(device: str, address: str | None) -> str:
    """What `auto` means here. On a cluster the driver may have no GPU, so there it is asked for by name."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() and address is None else "cpu"


def _say(line: str) -> None:
    print(line, flush=True)


os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
