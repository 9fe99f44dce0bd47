"""Open the sweeps of an existing store. Nothing is created."""

from pathlib import Path

from distsim.store.storage import Storage
from distsim.store.sweep_store import SweepStore, problems_in


def existing_root(where: str | Path) -> Storage:
    """Return the storage of a folder or a URL.

    FileNotFoundError: the folder does not exist. StorageError: the object store does not answer, or refuses the key.
    """
    if "://" not in str(where) and not _is_folder(where):  # Storage would create the folder
        raise FileNotFoundError(f"no store in {where}")
    root = Storage(where)
    root.reach()
    return root


def _is_folder(where: str | Path) -> bool:
    try:
        return Path(where).expanduser().is_dir()
    except RuntimeError:  # ~nobody
        return False


def existing_stores(where: str | Path, problem: str | None = None) -> list[SweepStore]:
    """Return the sweeps in a store, of one problem or of all. FileNotFoundError: there is no such sweep."""
    root = existing_root(where)
    names = problems_in(root)
    if not names:
        raise FileNotFoundError(f"no sweep in {root.url}")
    if problem is not None and problem not in names:
        raise FileNotFoundError(f"no sweep of {problem} in {root.url}; there are {', '.join(names)}")
    return [SweepStore(root, name) for name in ([problem] if problem else names)]
