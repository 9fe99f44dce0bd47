"""Open the sweeps of an existing store, or a storage that may be new. A command that fails leaves no empty folders."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from distsim.specs.problem import OTHER_FOLDERS
from distsim.store import local
from distsim.store.paths import PAIRS, place_of
from distsim.store.remote import require_a_place
from distsim.store.storage import NotReadable, Storage
from distsim.store.sweep_store import SweepStore

_RECORD = re.compile(r"behaviour/(?:network|metric-[^/]+|criterion-[^/]+)\.json|layers\.json")
_DIGEST = re.compile("[0-9a-f]{16}")
STUDY = "study.json"  # of a published study (distsim.results.published)


def existing_root(where: str | Path) -> Storage:
    """Return the storage of a folder or a URL.

    FileNotFoundError: the folder does not exist. ValueError: it is no URL of a store. StorageError: the object store
    does not answer, or refuses the key.
    """
    require_a_place(str(where))
    if "://" not in str(where) and not _is_folder(where):  # Storage would create the folder
        raise FileNotFoundError(f"there is no store in {where}")
    root = Storage(where)
    root.reach()
    return root


@contextlib.contextmanager
def new_root(where: str | Path, only_look: bool = False) -> Iterator[Storage]:
    """Open the storage of a folder or a URL, which need not exist, for the work inside the block.

    If the work fails, the folders that were made for it and are still empty are removed.

    only_look : the work writes nothing, so they are removed in any case
    """
    try:
        folder = None if "://" in str(where) else Path(where).expanduser().resolve()
        absent = [] if folder is None else [path for path in (folder, *folder.parents) if not path.exists()]
        there = set(folder.iterdir()) if folder is not None and folder.is_dir() else set()
    except (OSError, ValueError, RuntimeError):  # no place for a store, as Storage says
        folder, absent, there = None, [], set()
    kept = False
    try:
        yield Storage(where)
        kept = not only_look
    finally:
        if not kept:
            with contextlib.suppress(OSError):
                inside = set(folder.iterdir()) - there if folder is not None else set()
                for made in (*inside, *absent):
                    with contextlib.suppress(OSError):  # it is not empty, or is no folder
                        made.rmdir()


def _is_folder(where: str | Path) -> bool:
    try:
        return Path(where).expanduser().resolve().is_dir()  # as Storage finds it
    except (OSError, RuntimeError, ValueError):  # a name that is too long, ~nobody, links in a loop
        return False


def existing_stores(where: str | Path, problem: str | None = None) -> list[SweepStore]:
    """Return the sweeps in a store, of one problem or of all. FileNotFoundError: there is no such sweep."""
    root = existing_root(where)
    names = problems_in(root)
    if not names:
        raise no_sweep(root)
    if problem is not None and problem not in names:
        raise FileNotFoundError(f"no sweep of {problem} in {root.url}; there are {', '.join(names)}{unreadable(root)}")
    return [SweepStore(root, name) for name in ([problem] if problem else names)]


def no_sweep(root: Storage) -> FileNotFoundError:
    """Return the error of a store without a sweep. Of a published study it says what can be done with it."""
    if root.folder is not None and is_published(root.folder):
        return FileNotFoundError(
            f"{root.url} is a published study: it has tables and no networks. The commands report, figures, claims, "
            "prove and verify can read it"
        )
    return FileNotFoundError(f"no sweep in {root.url}{unreadable(root)}")


def unreadable(root: Storage) -> str:
    """Return words that name the folders which may hold a sweep and may not be read, "" if there are none."""
    names = [] if root.folder is None else local.shut(root.folder)
    return f" ({', '.join(names)} cannot be read: permission is missing)" if names else ""


def existing_store(where: str | Path, problem: str | None = None) -> SweepStore:
    """Return the sweep in a store. ValueError: it holds several, and none is named."""
    stores = existing_stores(where, problem)
    if len(stores) > 1:
        raise ValueError(f"{where} holds {', '.join(s.problem for s in stores)}: name one with --problem")
    return stores[0]


def problems_in(root: Storage) -> list[str]:
    """Return the names of the problems that have a sweep in the store, sorted.

    Another's folder is none of them, also if there is a file spec.json in it, or if it may not be read.
    """
    return [name for name in root.folders() if name not in OTHER_FOLDERS and _is_sweep(root, name)]


def _is_sweep(root: Storage, name: str) -> bool:
    try:
        spec = root.get(f"{name}/spec.json")
    except NotReadable:
        if root.folder is None:
            raise
        spec = b""  # a sweep's, or somebody else's: what lies beside it tells
    return spec is not None and (b'"identity"' in spec or holds_sweep(name, root.sizes(name)))  # it may be damaged


def holds_sweep(name: str, paths: Iterable[str]) -> bool:
    """Return whether distsim has written one of these paths into the folder, so that it is a sweep's."""
    return any(_is_record(path.removeprefix(f"{name}/")) for path in paths if path.startswith(f"{name}/"))


def _is_record(path: str) -> bool:
    """Return whether a path within a folder is that of a mark, or of another record that only distsim writes."""
    place = place_of(path)
    if place is None or place.kind == "figures":
        return _RECORD.fullmatch(path) is not None
    return place.kind not in PAIRS or _DIGEST.fullmatch(place.named) is not None


def is_published(folder: Path) -> bool:
    """Return whether this is the folder of a published study, which may be damaged.

    Where there are sweeps, a study.json is not looked at: it may be anybody's. OSError: the folder cannot be read.
    """
    return (folder / STUDY).is_file() and not problems_in(Storage(folder))


def published_in(where: str | Path) -> Path | None:
    """Return the folder of the published study at this place, or None if that is something else, such as a store."""
    if "://" in str(where):
        return None
    try:
        folder = Path(where).expanduser()
        return folder if is_published(folder) else None
    except (OSError, RuntimeError, ValueError):  # no folder can have such a name
        return None
