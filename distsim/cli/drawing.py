"""`distsim figures`: the papers' figures of what a store or a published study holds, as files."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distsim.cli.arguments import store_flags
from distsim.cli.output import print_line
from distsim.cli.run import at_work
from distsim.named_files import place, write_all
from distsim.results.figure_names import NAMES

FORMATS = ("png", "pdf", "svg")  # distsim.plotting.FORMATS, which takes matplotlib to import
FOLDER = "figures"


def flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    store_flags(parser)
    described = "; ".join(f"{name} {what}" for name, what in NAMES.items())
    parser.add_argument(
        "--figure",
        nargs="+",
        choices=tuple(NAMES),
        metavar="NAME",
        help=f"draw only these: {described} (default: all that there are)",
    )
    parser.add_argument(
        "--metric",
        "--metrics",
        dest="metrics",
        nargs="+",
        metavar="NAME",
        help="show these metrics, in the figures that have several or one by layer (default: those of each figure)",
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="LAYER",
        help="show only the layers with such names, as in 'conv*' out, in figures by layer (default: all; fig2 leaves "
        "out the output layer, as the paper does)",
    )
    parser.add_argument(
        "--format", nargs="+", choices=FORMATS, default=["png"], metavar="FORMAT", help="png, pdf, svg (default: png)"
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="write the files into this folder, and nothing into the store (default: the folder figures of the store)",
    )


def do_figures(flags: argparse.Namespace) -> int:
    """Draw the figures, write them, and print the name of each file."""
    from distsim.api.opening import open as opened
    from distsim.plotting import render

    study = opened(flags.store)
    if flags.problem not in (None, *study.problems):
        raise FileNotFoundError(f"no sweep of {flags.problem} in {flags.store}; there are {', '.join(study.problems)}")
    drawn = study.figures(flags.figure, problem=flags.problem, metric=flags.metrics, layers=flags.layers)
    if not drawn:
        raise FileNotFoundError(f"{flags.store} holds no table with values yet: there is nothing to draw")
    files = {
        f"{name}.{format}": render(figure, format)
        for name, figure in drawn.items()
        for format in dict.fromkeys(flags.format)
    }
    where = _written(flags, files)
    for name in files:
        print_line(f"{where}/{name}")
    return 0


def _written(flags: argparse.Namespace, files: Mapping[str, bytes]) -> str:
    """Write the files where --out says, or else to the store's own figures. Return the folder."""
    from distsim.store.existing import published_in

    study = published_in(flags.store)
    if flags.out is None and study is None:
        return _into_store(flags, files)
    folder = place(flags.out, "--out") if flags.out is not None else Path(study or "") / FOLDER
    try:
        write_all(folder, files, "--out" if flags.out is not None else "")
    except ValueError as error:
        if flags.out is not None:
            raise
        raise ValueError(f"{error}. --out FOLDER writes the figures elsewhere") from None
    return str(folder)


def _into_store(flags: argparse.Namespace, files: Mapping[str, bytes]) -> str:
    from distsim.results import reduce
    from distsim.store import NotWritable, StoreInUse, existing_stores
    from distsim.store.descriptions import layers_of

    stores: list[Any] = existing_stores(flags.store)  # all problems share the figures
    root = stores[0].root
    try:
        with at_work(root, one_writer=True):
            for store in stores:
                if reduce.current(store) is None:
                    reduce.reduce(store, layers_of(store), store.identity().seed)
            reduce.add_figures(root, files)
    except (StoreInUse, NotWritable) as error:
        raise type(error)(f"{error}. --out FOLDER writes the figures elsewhere") from None
    return f"{root.url}/{FOLDER}"
