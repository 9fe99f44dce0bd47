"""The commands of `distsim` about published studies. Each `do_...` takes the parsed flags and returns the status."""

import argparse
from pathlib import Path
from typing import Any

from distsim.cli.output import print_line


def do_merge(flags: argparse.Namespace) -> int:
    """Join stores and published studies of one sweep, and publish the result."""
    from distsim.results.merging import merge, publish

    into, sources = Path(flags.into).expanduser(), [*flags.sources]
    study = merge([_source(where, flags.problem) for where in sources], sources)
    files = publish(study, into)
    for part in study.parts:
        runs = f"{part['runs']} runs, up to iteration {part['iterations']}"
        hours = f"{part['training_hours']:.2f} h of training, {part['comparison_hours']:.2f} h of comparisons"
        print_line(f"complete network {part['complete']} ({part['weights'][:12]}): {runs}; {hours}")
    print_line(f"{study.problem}: {len(files)} files in {into}")
    return 0


def _source(where: str, problem: str | None) -> Any:
    """Return the study in a folder, published or not."""
    from distsim.results.merging import of_store
    from distsim.results.published import is_published, read
    from distsim.store import existing_stores

    if "://" not in where and is_published(folder := Path(where).expanduser()):
        return read(folder)
    stores = existing_stores(where, problem)
    if len(stores) > 1:
        raise ValueError(f"{where} holds {', '.join(s.problem for s in stores)}: name one with --problem")
    return of_store(stores[0])
