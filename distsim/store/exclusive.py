"""Files that get a name only if the name is free, and are whole and on the disk by then.

A hard link does this on every file system that has them, over NFS too. Where there are none, Linux can rename a file
without replacing another.
"""

import contextlib
import ctypes
import errno
import os
import random
import sys
from pathlib import Path

from distsim.store import local

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # what link() fails with there
NO_RENAMES = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # of renameat2()
_HERE, _NOREPLACE = -100, 1  # AT_FDCWD, RENAME_NOREPLACE


class NoHardLinks(OSError):
    """The file system cannot give a name to a file without perhaps replacing another."""


class NameTaken(FileExistsError):
    """Another file has the name."""


def create(root: Path, path: str, content: bytes) -> None:
    """Create a file under `root`. NameTaken: the name is not free. NoHardLinks: it cannot be done there."""
    target = root / path
    # obstore takes a name that ends in # and digits for an unfinished file, and does not list it
    staged = target.with_name(f"{target.name}#{random.SystemRandom().getrandbits(48)}")
    for last in (False, False, True):
        try:
            local.make_folder(target.parent)
            descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            break
        except FileNotFoundError:  # another writer deleted the folder with its last object
            if last:
                raise
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _name(staged, target)
    finally:
        staged.unlink(missing_ok=True)
    sync_folders(root, {Path(path).parent})


def _name(staged: Path, target: Path) -> None:
    """Give the staged file its name too. NameTaken: another file has it."""
    try:
        os.link(staged, target)
    except FileExistsError as error:
        # The answer of an NFS server may be lost after it has made the link. The client asks again, and is told this.
        if not _same(staged, target):
            raise NameTaken(error.errno, error.strerror, str(target)) from None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _rename(staged, target)


def _same(staged: Path, target: Path) -> bool:
    try:
        return os.path.samefile(staged, target)
    except OSError:
        return False


def _rename(staged: Path, target: Path) -> None:
    """Rename the staged file. NameTaken: another file has the name. NoHardLinks: the system cannot do this."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    failed = errno.ENOSYS
    if rename is not None:
        if rename(_HERE, os.fsencode(staged), _HERE, os.fsencode(target), _NOREPLACE) == 0:
            return
        failed = ctypes.get_errno()
    if failed == errno.EEXIST:
        raise NameTaken(failed, os.strerror(failed), str(target))
    if failed in NO_RENAMES:
        raise NoHardLinks(
            failed,
            "its file system has no hard links and no other way to create a file exclusively (exFAT, SMB and gcsfuse "
            "are such). Use a folder on another file system, or an object store such as s3://bucket/prefix",
        )
    raise OSError(failed, os.strerror(failed), str(target))


def sync(path: Path) -> None:
    """Bring a file or folder to the disk.

    Nothing happens if another writer has removed it, or if the file system cannot do it (some cannot for folders).
    """
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def sync_folders(root: Path, folders: set[Path]) -> None:
    """Bring the names in these folders to the disk, and the names of the folders themselves up to the root."""
    for inner in {parent for folder in folders for parent in (folder, *folder.parents)}:
        sync(root / inner)
