"""`distsim export`: a network as a file for other programs, or a study as a folder to deposit."""

import argparse
import dataclasses
from typing import Any

from distsim.cli.arguments import store_flags
from distsim.cli.output import print_line
from distsim.named_files import place, write_together

DESCRIPTION = (
    "Write a network of a store for other programs, with --network, or write tables, figures, report and recipe of a "
    "store or of a published study into a folder that can be deposited, with --publish."
)
FORMATS = ("state_dict", "torch_prune", "safetensors")  # distsim.api.exporting.ENDINGS, which takes torch to import


def flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    store_flags(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--network",
        metavar="run=3,iteration=7",
        help="export this network; run=complete is the complete network",
    )
    what.add_argument(
        "--publish", metavar="FOLDER", help="write the study into this folder, ready to be deposited: no weights"
    )
    parser.add_argument(
        "--to",
        choices=FORMATS,
        default="state_dict",
        metavar="FORMAT",
        help="state_dict and torch_prune are read by torch.load, safetensors by safetensors; torch_prune has a mask "
        "beside each pruned parameter, as torch.nn.utils.prune keeps it (default: state_dict)",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="write the network to this file (default: its name, in the folder you are in)"
    )


def do_export(flags: argparse.Namespace) -> int:
    """Write what is asked for, and print its path."""
    if flags.network is None:
        if flags.out is not None:
            raise ValueError("--out is the file of a network; --publish names the folder already")
        return _publish(flags)
    return _network(flags)


def _network(flags: argparse.Namespace) -> int:
    from distsim import extras

    extras.require("distsim export --network", ["train"])
    from distsim.api.exporting import ENDINGS, about_of, files_of
    from distsim.api.network import StudyNetwork
    from distsim.specs import NetworkId
    from distsim.store.existing import existing_store
    from distsim.sweep.stored_models import Stored

    store = existing_store(flags.store, flags.problem)
    which = NetworkId.parse(flags.network)
    network = StudyNetwork(store, which, store.committed(which).values)
    file = place(flags.out or f"{Stored(store, which).label}.{ENDINGS[flags.to]}", "--out")
    files = files_of(network, file, flags.to)
    write_together(files, "--out")
    beside = f", and what it is in {about_of(file)}" if about_of(file) in files else ""
    print_line(f"{network.which.label} of {store.problem}: {file}{beside}")
    return 0


def _publish(flags: argparse.Namespace) -> int:
    from distsim.cli.commands import stores_of
    from distsim.cli.studies import published_studies
    from distsim.results.archive import deposit
    from distsim.results.merging import of_store

    studies = published_studies(flags) or [of_store(store) for store in stores_of(flags)]
    for study in studies:
        folder = place(flags.publish, "--publish") / (study.problem if len(studies) > 1 else "")
        files, kept = deposit(study, folder, _recipe(study))
        print_line(f"{study.problem}: {len(files)} files in {folder}")
        if kept:
            print_line(
                f"not written, because you may have edited them: {', '.join(kept)}. Remove them to make them anew"
            )
    print_line("Put your names, a title and a licence into README.md and LICENSES.md before you deposit it.")
    return 0


def _recipe(study: Any) -> str:
    """Return the file with which `distsim sweep --config` runs the study again."""
    from distsim.cli.sweep_command import as_config
    from distsim.results.report.parts import extent

    identity, networks = study.identity, study.tables.networks
    runs, iterations = study.tables.pruned.networks["run"].max() + 1, extent(study)[1]
    controls = [name for name in ("retrain", "random") if name in set(networks["control"])]
    of_controls = networks[networks["control"] != ""]
    sweep: dict[str, Any] = {
        "complete": max(part.get("number", 0) for part in study.parts) + 1,
        "control": controls or "none",
        **({"control-runs": int(of_controls["run"].max()) + 1} if controls else {}),
        "metrics": list(dict.fromkeys(study.tables.pruned.similarities["metric"])),
        "seed": identity.seed,
        "threads": identity.threads,
        "precision": identity.precision,
    }
    return as_config(dataclasses.replace(identity.problem, runs=int(runs), iterations=max(iterations, 1)), sweep)
