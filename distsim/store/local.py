"""What lies in the folder of a store, where other files may lie too.

A file of somebody else's is left alone, whatever its name: names that no object of distsim's can have are not listed,
and links that are none of distsim's names are not followed. So are pipes and devices.
"""

import os
import re
import stat
from pathlib import Path

_UNFINISHED = re.compile(r".*#\d+")  # as obstore and `exclusive` name a file that is being written
# Names of files and folders that distsim gives. In their place a link out of the store is refused.
_OWN = re.compile(
    r"runs|complete(-\d+)?|activations|logits|comparison|chance|null|se|results|pairs|pair_results|figures|lease|tune|control"
    r"|behaviour|metrics"
    r"|epoch|\d{4,9}|iter_\d+|attempt-[0-9a-f-]+|(spec|request|layers)\.json|report\.html|(COMMIT|DROPPED)(-\d+)?\.json"
)


class LeadsOut(OSError):
    """A link of a name of distsim's leads out of the store. The text is its path."""


def files(root: Path, prefix: str) -> dict[str, tuple[int, str]]:
    """Return path -> size and time of change of every object under a prefix of whole path segments.

    LeadsOut: a link leads outside.
    """
    found: dict[str, tuple[int, str]] = {}
    start = os.path.join(root, prefix) if prefix else str(root)
    for folder, folders, names in os.walk(start, onerror=_raised):
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
            except FileNotFoundError:  # removed meanwhile, or a link to nothing
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
    """Return whether there is something that is neither a file nor a folder: a pipe or a device, which may block."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _is_name(name: str) -> bool:
    """Return whether an object can have this name: printable text, which undecodable bytes are not."""
    return name.isprintable()


def _link(root: Path, path: str) -> bool:
    """Return whether the path is a link. LeadsOut: it has a name of distsim's and leads out of the store."""
    if not os.path.islink(root / path):
        return False
    if _OWN.fullmatch(path.rpartition("/")[2]) and not _inside(root, path):
        raise LeadsOut(path)
    return True


def _inside(root: Path, path: str) -> bool:
    return os.path.realpath(root / path).startswith(f"{os.path.realpath(root)}/")


def _raised(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
