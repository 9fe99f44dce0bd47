"""Files and folders outside a store that the user names: where they are, and how they are written.

A file is written beside its place under another name and then put there. So whatever ends the command, and however full
the disk is, there is the old file or the new one, and never a part of it.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

UNFINISHED = ".distsim-"  # how names of files begin that are not whole yet


def place(path: str | os.PathLike[str], name: str = "") -> Path:
    """Return the path with ~ and ~user replaced by the home.

    name : of the flag or the argument, such as --out, for the error

    ValueError: there is no such home, or no path can be like this.
    """
    try:
        if "\0" in os.fspath(path):
            raise ValueError("it holds a zero byte")
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as error:
        said = "there is no such home folder" if isinstance(error, RuntimeError) else error
        raise ValueError(f"{_named(name, path)} cannot be used: {said}") from None


def make_folder(folder: Path, name: str = "") -> Path:
    """Make a folder that may be there, and those above it, and return it. ValueError: it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        files = (f"{part} is a file" for part in (folder, *folder.parents) if part.is_file())
        reason = next(files, error.strerror or str(error))
        raise ValueError(f"{_named(name, folder)} cannot be made: {reason}") from None
    return folder


def write(file: Path, content: bytes, name: str = "") -> Path:
    """Write a file, and the folders above it, and return its path. A link is followed.

    ValueError: it cannot be written. What was there before is whole.
    """
    write_together({file: content}, name)
    return file


def write_together(files: Mapping[Path, bytes], name: str = "") -> None:
    """Write files that belong together, as `write` does each. All are on the disk before the first takes its place."""
    targets: dict[Path, tuple[Path, bytes]] = {}
    for file, content in files.items():
        make_folder(file.parent, name)
        with _said(file, name):
            targets[Path(os.path.realpath(file))] = file, content
    in_place = {target: put for target, put in targets.items() if _is_special(target) or _only_the_file(target)}
    _put({target: put for target, put in targets.items() if target not in in_place}, name)
    for target, (file, content) in in_place.items():  # such as /dev/stdout
        with _said(file, name):
            target.write_bytes(content)


def write_all(folder: Path, files: Mapping[str, bytes], name: str = "") -> None:
    """Write files into a folder, each under its name in it. All are on the disk before the first takes its place.

    A link in the place of a file is replaced, and what it leads to is left alone. ValueError: they cannot be written.
    """
    make_folder(folder, name)
    _put({folder / inside: (folder / inside, content) for inside, content in files.items()}, name)


def _put(files: Mapping[Path, tuple[Path, bytes]], name: str) -> None:
    """Put each file, of what an error calls it and its content, into its place when all are written."""
    aside: dict[Path, Path] = {}
    try:
        for target, (file, content) in files.items():
            with _said(file, name):
                if target.is_dir():
                    raise IsADirectoryError("it is a folder")
                aside[target] = _write_aside(target, content)
        for target, (file, _) in files.items():
            with _said(file, name):
                aside[target].replace(target)
                del aside[target]
    finally:
        for left in aside.values():
            left.unlink(missing_ok=True)


def _write_aside(target: Path, content: bytes) -> Path:
    """Write a new file beside the target, and return its path. Nothing stays of one that cannot be written."""
    aside = target.with_name(f"{UNFINISHED}{secrets.token_hex(8)}")
    try:
        with open(aside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # there is none yet, or the file system knows no permissions
            aside.chmod(stat.S_IMODE(os.stat(target).st_mode))
    except BaseException:  # Ctrl-C too
        aside.unlink(missing_ok=True)
        raise
    return aside


def _is_special(target: Path) -> bool:
    return target.exists() and not target.is_file() and not target.is_dir()


def _only_the_file(target: Path) -> bool:
    """Return whether the file may be written, but no other file beside it."""
    return target.is_file() and os.access(target, os.W_OK) and not os.access(target.parent, os.W_OK | os.X_OK)


@contextlib.contextmanager
def _said(file: Path, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = str(error) if isinstance(error, IsADirectoryError) else error.strerror or error
        raise ValueError(f"{_named(name, file)} cannot be written: {reason}") from None


def _named(name: str, path: str | os.PathLike[str]) -> str:
    return f"{name} {os.fspath(path)!r}".strip()
