"""Open what is there: a store, or a published study."""

from __future__ import annotations

from pathlib import Path

from distsim import specs
from distsim.api.arguments import names_checked
from distsim.api.study import Study


@names_checked
def open(store: str | Path) -> Study:
    """Open a store, or the folder of a published study, for reading. Nothing is created or written.

    store : a folder, or a URL such as s3://bucket/prefix
    FileNotFoundError: there is no store, or no sweep in it. DamagedStore: a table of a published study was changed.
    """
    if not isinstance(store, str | Path) or not str(store):
        raise ValueError(f"store must be a folder or a URL, got {specs.shown(store)}")
    from distsim.store.existing import published_in

    if (folder := published_in(store)) is not None:
        from distsim.api.published import PublishedStudy
        from distsim.results.published import read

        return PublishedStudy(folder, read(folder))
    from distsim.store import existing_stores

    return Study(existing_stores(store))
