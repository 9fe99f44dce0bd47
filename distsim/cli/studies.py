"""The commands of `distsim` about published studies. Each `do_...` takes the parsed flags and returns the status."""

import argparse
from typing import Any

from distsim.cli.output import print_line
from distsim.named_files import place
from distsim.words import counted


def merge_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `distsim merge`."""
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a store, or the folder of a published study")
    parser.add_argument("--into", required=True, metavar="FOLDER", help="write the published study into this folder")
    parser.add_argument("--problem", metavar="NAME", help="take this problem of stores that hold several")


def do_merge(flags: argparse.Namespace) -> int:
    """Join stores and published studies of one sweep, and publish the result."""
    from distsim.results.merging import merge, publish

    into, sources = place(flags.into, "--into"), [*flags.sources]
    study = merge([source(where, flags.problem) for where in sources], sources)
    files = publish(study, into)
    for part in study.parts:
        runs = f"{counted(part['runs'], 'run')}, up to iteration {part['iterations']}"
        hours = f"{part['training_hours']:.2f} h of training, {part['comparison_hours']:.2f} h of comparisons"
        print_line(f"complete network {part['complete']} ({part['weights'][:12]}): {runs}; {hours}")
    print_line(f"{study.problem}: {len(files)} files in {into}")
    return 0


def import_named(flags: argparse.Namespace) -> None:
    """Import the script that --import names, if it is given."""
    if flags.imported is not None:
        from distsim.sweep.own_code import import_file

        import_file(flags.imported)


def source(where: str, problem: str | None) -> Any:
    """Return the study in a folder or a store: as it was published, or as it would be."""
    from distsim.results.merging import of_store
    from distsim.results.published import read
    from distsim.store.existing import existing_store, published_in

    if (folder := published_in(where)) is not None:
        return of_problem(read(folder), where, problem)
    return of_store(existing_store(where, problem))


def of_problem(study: Any, where: str, problem: str | None) -> Any:
    """Return the study. FileNotFoundError: it is of another problem than the one asked for, if one is."""
    require_problem(study.problem, where, problem)
    return study


def require_problem(published: str, where: str, asked: str | None) -> None:
    """Check that a published study is of the problem that is asked for. FileNotFoundError: it is of another."""
    if asked not in (None, published):
        raise FileNotFoundError(f"no sweep of {asked} in {where}, which holds a published study of {published}")


def published_studies(flags: argparse.Namespace) -> list[Any]:
    """Return the published study that a command is asked about, or nothing if that is a store."""
    from distsim.store.existing import published_in

    folder = published_in(flags.store)
    if folder is None:
        return []
    from distsim.results.published import read  # pandas takes seconds to import

    return [of_problem(read(folder), flags.store, flags.problem)]
