"""A large finished store, made of one with a single run: all it costs is to put the objects."""

import dataclasses

from distsim.specs import RunId
from distsim.store import Storage
from distsim.store.commits import decode_mark


def multiply(one: Storage, many: Storage, problem: str, runs: int) -> None:
    """Puts every object of a store with run 0 into another store, for as many runs.

    Marks name the piece that they are of, so every object is what a commit of that run leaves. Chance levels are of run
    0 only, as in any sweep. Tables are left to the sweep's command.
    """
    names = [path for path in one.sizes(problem) if not path.startswith(f"{problem}/results/")]
    contents = {path: one.get(path) or b"" for path in names}
    first = _folder(0)
    for run in range(runs):
        for path, content in contents.items():
            of_run = path.startswith(f"{problem}/{first}/")
            if not run or (of_run and not {"chance", "null"} & set(path.split("/"))):
                many.put(path.replace(first, _folder(run)), _renamed(content, run) if of_run else content)


def _folder(run: int) -> str:
    return RunId.of(run).network(1).path.rpartition("/")[0]


def _renamed(content: bytes, run: int) -> bytes:
    """The mark of run 0 as that of another run. Other objects are as they are."""
    if not content.startswith(b"{") or not run:
        return content
    mark = decode_mark(content)
    values = mark.values | ({"run": run} if "run" in mark.values else {})
    piece = str(mark.provenance["piece"]).replace(_folder(0), _folder(run))
    return dataclasses.replace(mark, values=values, provenance=mark.provenance | {"piece": piece}).encode()
