"""What later drivers replace: tables, figures, the request. An older driver's never stay in place of a newer one's.

A driver may lose its lease at any moment, also between its last look at the lease and a write. On a plain path, which
people expect for `results/results.csv`, no look can prevent that. So a driver first creates one object that holds the
whole set of files and is named by its fencing number, `lease/000008-1.digits.results.zip`. This decides. Then it copies
the newest set to the plain paths, and looks again until there is no newer one. A driver that wakes late finds the newer
set and copies that over what it has just written. A driver that takes over finishes what the one before has begun to
copy. Readers use the plain paths, as in stores without such sets.

If a late driver is killed just after a write, the mark beside the files does not fit them: readers and `distsim verify`
say so, and the next driver writes them again.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from distsim.store.commits import MARK, DamagedStore, Mark
from distsim.store.lease import FOLDER
from distsim.store.storage import Storage

Key = tuple[int, int]  # fencing number, and how many times its driver has replaced these files
_SET = re.compile(rf"{FOLDER}/(?P<number>\d{{6,18}})-(?P<time>[1-9]\d{{0,8}})\.(?P<group>.+)\.zip", re.ASCII)
_MADE = b"distsim"  # the comment in a set; other files of such names are somebody else's
LARGEST = 2**29  # bytes of a set; the tables and figures of 10,000 networks take a tenth of it
_PATHS = re.compile(  # of what is replaced
    r"report\.html|figures/[^/]+|[^/]+/(?:results/[^/]+|pair_results/(?:[^/]+/)?[^/]+|(?:spec|request|layers)\.json|(?:behaviour|metrics)/[^/]+\.json)"
)


def replace(root: Storage, folder: str, files: Mapping[str, bytes], gone: Iterable[str] = (), **fields: Any) -> Mark:
    """Write a set of files in place of an older one, in a folder of the store. Return its mark, which is written last.

    files : name -> content
    gone : names of files of the older set, which are deleted
    fields : of the Mark

    Nothing is fenced where no lease is held (`Storage.lease`). StoreInUse: the lease is lost, and the folder is as the
    newer driver has it.
    """
    objects = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    mark = Mark(attempt="", objects=objects, **fields)
    everything: dict[str, bytes | None] = {f"{folder}/{name}": None for name in gone}
    everything |= {f"{folder}/{name}": content for name, content in files.items()}
    _replace(root, folder, everything | {f"{folder}/{MARK}": mark.encode()})
    return mark


def replace_one(root: Storage, path: str, content: bytes) -> None:
    """Write an object in place of an older one. Leases and errors are those of `replace`."""
    _replace(root, path, {path: content})


def finish(root: Storage, number: int) -> None:
    """Finish what driver `number` has begun to replace and, killed or silent, may have left half done."""
    matches = list(filter(None, map(_SET.fullmatch, root.sizes(FOLDER))))
    for group in sorted({match["group"] for match in matches if int(match["number"]) == number}):
        with suppress(DamagedStore):  # what is half done has no mark, and is written again
            _copy(root, group)


def _replace(root: Storage, place: str, files: Mapping[str, bytes | None]) -> None:
    lease, group = root.lease, place.replace("/", ".")
    if lease is None:
        _write(root, files, set(files), lambda: False)
        return
    lease.check()
    mine = _keep(root, group, lease.number, files)
    if lease.lost:  # what the newer driver has removed must not come back
        _remove(root, group, {mine})
        lease.check()
    _copy(root, group, mine, files)
    lease.check()


# --- plain paths -----------------------------------------------------------------------------------------------------


def _copy(root: Storage, group: str, mine: Key | None = None, files: Mapping[str, bytes | None] | None = None) -> None:
    """Copy the newest set to the plain paths, until no newer one is there. Remove older ones.

    mine, files : the set of this driver, which needs not be read
    """
    touched: set[str] = set()
    while True:
        newest = _newest(root, group)
        if newest is None:
            return
        wanted: dict[str, bytes | None] = dict.fromkeys(touched)  # what the newer driver does not have goes again
        wanted |= files if files is not None and newest == mine else _read(root, group, newest)
        first = newest == mine and not touched
        names = set(wanted) if first else {path for path, content in wanted.items() if root.get(path) != content}
        touched |= names
        if _write(root, wanted, names, partial(_replaced, root, group, newest)) and not _replaced(root, group, newest):
            break
    _remove(root, group, {key for key in _keys(root, group) if key < newest})


def _write(root: Storage, files: Mapping[str, bytes | None], names: set[str], stop: Callable[[], bool]) -> bool:
    """Bring these of the files to the store. The mark beside them goes first and comes back last. False: stopped.

    stop : is asked before each operation
    """
    marks = [path for path in files if names and path.endswith(f"/{MARK}")]
    last = [(path, files[path]) for path in (*sorted(names.difference(marks)), *marks)]
    steps = [*dict.fromkeys(marks).items(), *last]
    for path, content in steps:
        if stop():
            return False
        if content is None:
            root.delete([path])
        else:
            root.put(path, content)
    return True


# --- sets ------------------------------------------------------------------------------------------------------------


def _path(group: str, key: Key) -> str:
    return f"{FOLDER}/{key[0]:06d}-{key[1]}.{group}.zip"


def _keys(root: Storage, group: str) -> list[Key]:
    matches = filter(None, map(_SET.fullmatch, root.sizes(FOLDER)))
    return [(int(match["number"]), int(match["time"])) for match in matches if match["group"] == group]


def _newest(root: Storage, group: str) -> Key | None:
    return max(_keys(root, group), default=None)


def _replaced(root: Storage, group: str, newest: Key) -> bool:
    return _newest(root, group) != newest


def _keep(root: Storage, group: str, number: int, files: Mapping[str, bytes | None]) -> Key:
    """Create the object that holds the files, and return its key."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for path, data in sorted(files.items()):
            if data is not None:
                archive.writestr(zipfile.ZipInfo(path), data)
        archive.comment = _MADE
    time = 1 + max((time for of, time in _keys(root, group) if of == number), default=0)
    while not root.create(_path(group, (number, time)), content.getvalue()):
        time += 1
    return number, time


def _read(root: Storage, group: str, key: Key) -> dict[str, bytes]:
    """Return the files of a set, none if it is gone. DamagedStore: it holds something else."""
    content = root.get(_path(group, key), most=LARGEST)
    if content is None:
        return {}
    files = {}
    try:
        if len(content) > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                path = entry.filename
                as_named = f"{path.replace('/', '.')}.".startswith(f"{group}.")
                as_kept = entry.compress_type == zipfile.ZIP_STORED and entry.file_size <= len(content)
                if not (as_named and as_kept and _PATHS.fullmatch(path) and path.isprintable()):
                    raise ValueError(f"{path!r} does not belong in it")
                files[path] = archive.read(entry)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise DamagedStore(f"{_path(group, key)} in {root.url} is damaged: {error}") from None
    return files


def _remove(root: Storage, group: str, keys: set[Key]) -> None:
    """Remove these sets, but no file of somebody else's."""
    for path in (_path(group, key) for key in sorted(keys)):
        content = root.get(path, most=LARGEST) or b""
        if content.startswith(b"PK") and content.endswith(_MADE):
            root.delete([path])
