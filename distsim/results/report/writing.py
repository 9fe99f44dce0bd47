"""Writing the report: into a store, where it is replaced like tables and figures, or into a file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from distsim.named_files import write as write_whole
from distsim.results.merging import of_store
from distsim.results.published import Published
from distsim.results.reduce import made_from
from distsim.results.report.page import html, is_of, ours, verdicts_of
from distsim.specs import shown
from distsim.store import Storage, SweepStore
from distsim.store.existing import problems_in
from distsim.store.fenced import replace_one

NAME = "report.html"


def studies_of(stores: Sequence[SweepStore]) -> list[Published]:
    """Return what these sweeps hold, of those that have a network. Values are those of the tables; nothing is written.

    DamagedStore: something of it cannot be read.
    """
    return [of_store(store) for store in stores if any(network.is_complete for network in store.contents().networks)]


def write(root: Storage, again: bool = False) -> str | None:
    """Write the report of everything in a store to `report.html`. Return its place, or None if there is no network yet.

    Nothing is written where a report of the same tables is there, or an equal one. again : make it all the same

    ValueError: a file of that name is there which is not distsim's.
    """
    stores, place, there = (
        [SweepStore(root, problem) for problem in problems_in(root)],
        f"{root.url}/{NAME}",
        root.get(NAME),
    )
    if there is not None and not again and is_of(there, {store.problem: made_from(store) for store in stores}):
        return place
    studies = studies_of(stores)
    if not studies:
        return None
    content = html(studies, verdicts_of(studies))
    if there is not None and not ours(there):
        raise ValueError(f"{place} was not written by distsim: move it, or name another file with distsim report --out")
    if there != content:
        replace_one(root, NAME, content)
    return place


def write_file(studies: Sequence[Published], file: Path) -> Path:
    """Write the report of studies to a file, and return its path. ValueError: it cannot be written."""
    try:
        if file.is_file() and not ours(file.read_bytes()):
            raise ValueError(f"{shown(str(file))} is not a report of distsim's, and is left alone: name another file")
    except OSError as error:
        raise ValueError(f"the report {str(file)!r} cannot be written: {error.strerror or error}") from None
    elsewhere = [dataclasses.replace(study, made_from="") for study in studies]  # it stands beside no store
    return write_whole(file, html(elsewhere, verdicts_of(elsewhere)), "the report")
