"""Run sweeps of iterative magnitude pruning, and work on what they have stored."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distsim import extras
from distsim.cli import (
    checking,
    claiming,
    commands,
    compare_models,
    controlling,
    doctoring,
    drawing,
    exporting,
    ladder,
    pairing,
    proving,
    reporting,
    studies,
)
from distsim.cli import completion as completing
from distsim.cli import sweep_command as sweeping
from distsim.cli.arguments import store_flags
from distsim.cli.output import UNUSABLE, Help, reported, say_loading

# What needs torch is imported inside functions, so that --help answers at once.

TRAINS = ("train", "store", "report")
READS = ("store", "report")


@dataclass(frozen=True)
class Command:
    """One command of `distsim`."""

    name: str
    does: str  # what it does, as an order
    example: str  # what follows `distsim NAME`
    flags: Callable[[argparse.ArgumentParser], None]
    do: Callable[[Any], int]
    needs: tuple[str, ...] = ()  # extras that it needs; with --local absent, `ray` too
    more: str = ""  # what else --help says of it


COMMANDS = (
    Command(
        "sweep",
        "run the sweep of a problem of the papers",
        sweeping.EXAMPLE,
        sweeping.flags,
        sweeping.do_sweep,
        TRAINS,
        more=sweeping.DESCRIPTION,
    ),
    Command(
        "run",
        "finish an interrupted sweep, or extend one",
        "results/cifar2 --runs 20",
        commands.run_flags,
        commands.do_run,
        TRAINS,
    ),
    Command(
        "status",
        "show what a store holds and what is missing",
        "results/cifar2 --watch",
        commands.status_flags,
        commands.do_status,
        ("store",),
    ),
    Command(
        "ctl",
        "pause a running sweep, let it go on, or stop it after this network, from anywhere",
        "results/cifar2 pause",
        controlling.flags,
        controlling.do_ctl,
        ("store",),
        more=controlling.DESCRIPTION,
    ),
    Command(
        "compare",
        "compute missing similarities, without training anything",
        "results/cifar2 --metrics cka procrustes",
        commands.compare_flags,
        commands.do_compare,
        TRAINS,
    ),
    Command(
        "pairs",
        "compare a store's networks with each other",
        "results/cifar2 --plan iterations",
        pairing.pairs_flags,
        pairing.do_pairs,
        TRAINS,
    ),
    Command(
        "ladder",
        "rank metrics by what they find of order, ancestry and loss barriers",
        "results/cifar2 --out ladder",
        ladder.flags,
        ladder.do_ladder,
        TRAINS,
    ),
    Command(
        "layers",
        "compare every layer of one network with every layer of another",
        "results/cifar2 --networks run=complete run=0,iteration=5 --metrics cka",
        pairing.layers_flags,
        pairing.do_layers,
        TRAINS,
    ),
    Command(
        "compare-models",
        "compare any PyTorch models, or files of activations, layer by layer",
        "script.py:make_a script.py:make_b --data folder:PATH --size 224",
        compare_models.flags,
        compare_models.do_compare_models,
        ("train", "report"),
        more=compare_models.DESCRIPTION,
    ),
    Command(
        "report",
        "write the report of what a store holds, one HTML file, and say what came out",
        "results/cifar2 --out cifar2.html",
        reporting.flags,
        reporting.do_report,
        READS,
    ),
    Command(
        "figures",
        "draw the papers' figures of what a store or a published study holds",
        "results/cifar2 --figure fig2 similarity --metric cka nbs --layers 'conv*' --format svg",
        drawing.flags,
        drawing.do_figures,
        READS,
    ),
    Command(
        "claims",
        "judge the claims of the papers, under one definition of each metric or all",
        "results/cifar2 --multiverse",
        claiming.flags,
        claiming.do_claims,
        READS,
    ),
    Command("list", "list a store's problems", "results/cifar2", store_flags, commands.do_list, ("store",)),
    Command(
        "digest",
        "read and check everything in a store, and print a digest of it",
        "results/cifar2",
        checking.digest_flags,
        checking.do_digest,
        ("store",),
    ),
    Command(
        "verify",
        "check that nothing in a store is damaged, and name what is",
        "results/cifar2",
        store_flags,
        checking.do_verify,
        TRAINS,
    ),
    Command(
        "repair",
        "remove what is damaged, and only that, so that the next run makes it again",
        "results/cifar2 --dry-run",
        checking.repair_flags,
        checking.do_repair,
        TRAINS,
    ),
    Command(
        "merge",
        "publish the tables of a sweep, or join those of several machines",
        "results/cifar2 --into published/cifar2",
        studies.merge_flags,
        studies.do_merge,
        READS,
        more="Write the tables, figures and claims of a sweep into a folder that can be published, without weights and "
        "activations. Several sources are joined if they are of the same sweep. Runs that start from different "
        "complete networks, as other processors train them, are kept apart in the column `complete`.",
    ),
    Command(
        "export",
        "write a network for other programs, or a study as a folder to deposit",
        "results/cifar2 --network run=3,iteration=7 --to safetensors",
        exporting.flags,
        exporting.do_export,
        READS,
        more=exporting.DESCRIPTION,
    ),
    Command(
        "prove",
        "compute rows of a published table again, from their networks, and say whether they are equal",
        "results/cifar2 run=3,iteration=7,layer=conv1_2,metric=nbs",
        proving.flags,
        proving.do_prove,
        TRAINS,
        more="Compute rows of a published study again and compare. From a store's weights the values must be equal bit "
        "by bit in the environment of the row, and to 1e-4 on another processor or with other versions. The exit "
        "status is 0 if all rows are proven, 1 if one is not, and 3 if networks were trained again where values "
        "need not be equal.",
    ),
    Command(
        "doctor",
        "measure this machine and say which flags suit it; or ask the machines of a cluster",
        "cifar2",
        doctoring.flags,
        doctoring.do_doctor,
        TRAINS,
        more="Measure this machine and say which flags suit it: trials at once, threads, precision. With --address, "
        "ask each machine of a Ray cluster whether a sweep can work there.",
    ),
    Command(
        "completion",
        "print what makes a shell complete commands, flags and values",
        "bash",
        completing.flags,
        completing.do_completion,
        more=completing.DESCRIPTION,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of `distsim` and return its exit status. arguments : the command line, sys.argv's by default."""

    def carry_out() -> int:
        words = sys.argv[1:] if arguments is None else list(arguments)
        if words[:1] == ["sweep"]:  # its flags depend on the problems that it names
            return sweeping.do_sweep(words[1:])
        flags = _parsed(words)
        command: Command = flags.command
        by_ray = ("ray",) if getattr(flags, "local", None) is False else ()
        extras.require(f"distsim {command.name}", (*command.needs, *by_ray))
        if "train" in command.needs:
            say_loading(getattr(flags, "quiet", False))
        return command.do(flags)

    return reported(carry_out, typed=arguments is None)


def _parsed(words: list[str]) -> argparse.Namespace:
    whole = parser()
    flags, rest = whole.parse_known_args(words)
    if "rows" in flags and not any(text.startswith("-") for text in rest):
        flags.rows += rest  # argparse takes none behind a flag
    elif rest:
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    return flags


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    whole = argparse.ArgumentParser(
        prog="distsim",
        description=__doc__,
        epilog="`distsim COMMAND --help` explains a command and gives an example. The exit status is 0 if all went "
        f"well, 1 if something did not, {UNUSABLE} if the command line cannot be read or a library is not installed.",
    )
    subparsers = whole.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        of_command = subparsers.add_parser(
            command.name,
            help=command.does,
            description=command.more or f"{command.does[0].upper()}{command.does[1:]}.",
            epilog=f"Example: distsim {command.name} {command.example}",
            formatter_class=Help,
        )
        command.flags(of_command)
        of_command.set_defaults(command=command, parser=whole)
    return whole


if __name__ == "__main__":
    sys.exit(main())
