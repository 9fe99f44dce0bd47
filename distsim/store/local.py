"""What lies in the folder of a store, where other files may lie too.

A file of somebody else's is left alone, whatever its name: names that no object of distsim's can have are not listed,
and links that are none of distsim's names are not followed. So are pipes and devices.
"""

import errno
import os
import re
import stat
from pathlib import Path

from distsim.specs import PATTERN

_UNFINISHED = re.compile(r".*#\d+")  # as obstore and `exclusive` name a file that is being written
_LEASE = "lease"
# Paths that distsim gives: beside the sweeps, and within a sweep's folder. In their place a link out of the store is
# refused, and a file where a folder belongs is named.
_FOLDERS_BESIDE = re.compile(rf"figures|{_LEASE}|tune|control")
_FILES_BESIDE = re.compile(r"report\.html|figures/COMMIT\.json")
_FOLDERS = re.compile(
    r"(?:complete-\d{1,9}/)?(?:controls(?:/[a-z]+)?|(?:controls/[a-z]+/)?runs(?:/\d{4,9})?)"
    r"|complete(?:-\d{1,9})?|behaviour|metrics|pairs|results|pair_results"
    rf"|{PATTERN}(?:/(?:epoch|comparison|chance|null|se|activations|logits|(?:(?:activations|logits)/)?attempt-[0-9a-f-]+))?"
)
_FILES = re.compile(
    r"(?:spec|request|layers)\.json|(?:pair_)?results/COMMIT\.json"
    rf"|{PATTERN}/(?:(?:activations|logits)/)?(?:COMMIT|DROPPED)(?:-\d+)?\.json"
)
_MARKS = ("COMMIT.json", "DROPPED.json")  # of the complete network: a folder with one is a sweep's without its spec
_NOT_OPEN = (errno.EACCES, errno.EPERM, errno.ELOOP)
_SPEC_BEGINS = 2**20  # bytes of a spec.json that are looked at
IN_THE_WAY = "is a file where a folder of distsim's belongs: move it"


class LeadsOut(OSError):
    """A link of a name of distsim's leads out of the store. The text is its path."""


def files(root: Path, prefix: str) -> dict[str, tuple[int, str]]:
    """Return path -> size and time of change of every object under a prefix of whole path segments.

    A folder that the user may not read is passed over, unless it is distsim's. PermissionError: it is. LeadsOut: a link
    leads outside.
    """

    def raised(error: OSError) -> None:
        _require_others(root, os.path.relpath(error.filename, root), error)

    found: dict[str, tuple[int, str]] = {}
    start = os.path.join(root, prefix) if prefix else str(root)
    for folder, folders, names in os.walk(start, onerror=raised):
        inner = os.path.relpath(folder, root)
        inner = "" if inner == "." else f"{inner}/"
        kept = []
        for name in sorted(folders):
            if _is_name(name) and not _link(root, f"{inner}{name}"):
                kept.append(name)
        folders[:] = kept
        for name in filter(_is_name, names):
            path = f"{inner}{name}"
            if _UNFINISHED.fullmatch(name):
                continue
            linked = _link(root, path)
            try:
                status = os.stat(root / path)
            except OSError as error:  # removed meanwhile, or a link to nothing, or one that may not be followed
                _require_others(root, path, error, linked)
                continue
            if stat.S_ISREG(status.st_mode) and (not linked or _inside(root, path)):
                found[path] = status.st_size, str(status.st_mtime_ns)
    return found


def folders(root: Path, prefix: str) -> list[str]:
    """Return the names of the folders directly under a prefix, sorted. Links are not among them."""
    try:
        with os.scandir(root / prefix) as entries:
            return sorted(e.name for e in entries if _is_name(e.name) and e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. What is made in a folder that a group shares is the group's too (`share`)."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    share(folder)


def share(folder: Path) -> None:
    """Let the group write into a folder of this user's, if the folder above is the group's: setgid and writable.

    Else a member whose umask is 022 would keep the others from what lies there.
    """
    try:
        above, own = os.stat(folder.parent), os.stat(folder)
    except FileNotFoundError:  # another writer has removed it
        return
    shared = above.st_mode & stat.S_ISGID and above.st_mode & stat.S_IWGRP and own.st_gid == above.st_gid
    if shared and own.st_uid == os.geteuid() and own.st_mode & stat.S_IRWXG != stat.S_IRWXG:
        os.chmod(folder, stat.S_IMODE(own.st_mode) | stat.S_IRWXG | stat.S_ISGID)


def is_special(path: Path) -> bool:
    """Return whether there is something that is neither a file nor a folder.

    That is a pipe or a device, which may block, or a link that leads to itself.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return error.errno == errno.ELOOP
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is that of a sweep: its spec.json is distsim's, or its complete network is there.

    What cannot be read is not distsim's. At most the beginning of one file is read.
    """
    try:
        spec = folder / "spec.json"
        if os.path.isfile(spec) and _inside(folder, "spec.json"):
            with open(spec, "rb") as file:
                if b'"identity"' in file.read(_SPEC_BEGINS):
                    return True
    except OSError:
        pass
    return any(os.path.isfile(folder / "complete" / name) for name in _MARKS)


def in_the_way(root: Path, path: str) -> str | None:
    """Return the first part of an object's path that is a file where a folder belongs, or None if there is none."""
    parts = path.split("/")
    above = ("/".join(parts[:length]) for length in range(1, len(parts)))
    return next((part for part in above if os.path.isfile(root / part)), None)


def is_folders_place(path: str, in_sweep: bool) -> bool:
    """Return whether distsim makes a folder of this path, in the folder of a sweep or in that of a store."""
    return (_FOLDERS if in_sweep else _FOLDERS_BESIDE).fullmatch(path) is not None


def shut(root: Path) -> list[str]:
    """Return the names of the folders directly in a store that the user may not read, sorted."""
    return [name for name in folders(root, "") if not os.access(root / name, os.R_OK | os.X_OK)]


def _within_sweep(root: Path, path: str) -> str | None:
    """Return the part of a path that is within the folder of a sweep, or None if it is in none.

    root : the folder of a store, or that of a sweep
    """
    if is_sweep(root):
        return path
    first, _, rest = path.partition("/")
    return rest if is_sweep(root / first) else None


def _is_own(root: Path, path: str) -> bool:
    """Return whether distsim has an object or a folder at this path."""
    inner = _within_sweep(root, path)
    if inner is None and (_FOLDERS_BESIDE.fullmatch(path) or _FILES_BESIDE.fullmatch(path)):
        return True
    if inner is None and not os.path.isdir(root / _LEASE):  # no store yet, or the folder of a sweep without its spec
        inner = path
    return inner is not None and (_FOLDERS.fullmatch(inner) or _FILES.fullmatch(inner)) is not None


def _require_others(root: Path, path: str, error: OSError, linked: bool = False) -> None:
    """Raise the error again, unless the path is gone, or is somebody else's and may not be looked at.

    All that lies in a sweep may be part of it, except links. path : "." for the root itself
    """
    if isinstance(error, FileNotFoundError):
        return
    own = path == "." or path.startswith("tune/") or _is_own(root, path)
    if own or error.errno not in _NOT_OPEN or (not linked and _within_sweep(root, path) is not None):
        raise error


def _is_name(name: str) -> bool:
    """Return whether an object can have this name: printable text, which undecodable bytes are not."""
    return name.isprintable()


def _link(root: Path, path: str) -> bool:
    """Return whether the path is a link. LeadsOut: it is in the place of something of distsim's and leads out."""
    if not os.path.islink(root / path):
        return False
    if _is_own(root, path) and not _inside(root, path):
        raise LeadsOut(path)
    return True


def _inside(root: Path, path: str) -> bool:
    return os.path.realpath(root / path).startswith(f"{os.path.realpath(root)}/")
