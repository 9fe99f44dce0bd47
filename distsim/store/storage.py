"""Storage for objects, named by a URL: a local folder or an object store (s3://, gs://, az://), through obstore.

The store relies on three properties. An object is visible whole or not at all. `create` makes it exactly once, however
many writers try (locally by a hard link, on S3 by a conditional put). What `create` has made, and all objects that were
given to `settle` before, survive a loss of power.
"""

import contextlib
import os
import shutil
import time
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore

from distsim.store import exclusive, local, reasons, remote


class StorageError(OSError):
    """The storage cannot be read or written. The text says what to look at."""


class NoSpace(StorageError):
    """There is no room to write: the disk is full or a quota is used up."""


class NotReadable(StorageError):
    """An object may not be read: permission is missing, it is a pipe, or a link leads out of the store."""


class NotWritable(StorageError):
    """The storage may be read and not written: a read-only file system, or missing permission."""


class Storage:
    """Objects under one URL.

    A pickle of it holds the URL only; credentials stay in the environment. StorageError: the URL names no storage, or
    the storage cannot be opened.
    """

    def __init__(self, url: str | Path) -> None:
        if not str(url):
            raise StorageError("storage needs a folder or a URL, got nothing")
        try:
            remote.require_a_place(str(url))
        except ValueError as error:
            raise StorageError(str(error)) from None
        self._for_large: dict[int, Any] = {}  # size in bytes -> obstore store for requests of that size
        self.conditional = True  # `exclusive` sets it to False if the store has no conditional puts
        self.lease: Any = None  # the `store.lease.Lease` of this process, while it holds one; a root has it
        self._outer: Storage | None = None  # that this one is within, up to the root
        self.url = str(url)
        try:
            if "://" in self.url:
                self._store: Any = remote.connect(self.url)
            else:
                self.url = str(Path(url).expanduser().resolve())
                local.make_folder(Path(self.url))
                self._store = LocalStore(self.url, mkdir=True, automatic_cleanup=True)
        except (FileExistsError, NotADirectoryError):
            raise StorageError(f"cannot use {self.url} as storage: it, or a part of the path, is a file") from None
        except (BaseError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~nobody, or links in a loop
            raise storage_error(f"cannot use {self.url} as storage", error) from None

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.url,)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    def backend_for(self, size: int) -> Any:
        """Return the obstore store for requests that carry `size` bytes: a large one may take longer."""
        if self.folder is not None or size <= remote.TIMEOUT * remote.SLOWEST:
            return self._store
        size = 1 << size.bit_length()  # so that there are few of them
        if size not in self._for_large:
            self._for_large[size] = remote.connect(self.url, size)
        return self._for_large[size]

    def within(self, prefix: str) -> "Storage":
        """Return the storage of the objects under a prefix. StorageError: a symbolic link leads out of the folder."""
        self._require_inside(prefix)
        self.require_there()
        if self.folder is None:
            prefix = urllib.parse.quote(prefix)  # as the prefix of a URL is
        inner = Storage(f"{self.url.rstrip('/')}/{prefix}")
        inner.conditional, inner._outer = self.conditional, self
        return inner

    def require_there(self) -> None:
        """Check that the folder in which this process works (`lease`) is still there, so that it is not made anew.

        An object store keeps no folders. StoreGone (`distsim.store.lease`): it is not.
        """
        root = self
        while root._outer is not None:
            root = root._outer
        if root.lease is not None and root.folder is not None:
            root.lease.check_there()

    @property
    def folder(self) -> Path | None:
        """Return the local folder, or None for an object store."""
        return None if "://" in self.url else Path(self.url)

    def get(self, path: str, most: int | None = None) -> bytes | None:
        """Return the object's bytes, or None if it does not exist.

        NotReadable, StorageError: it cannot be read.

        most : bytes that may be expected. Of a larger object, only the first most + 1 are read
        """
        self._require_inside(path)
        if self.folder is not None and local.is_special(self.folder / path):
            raise NotReadable(f"cannot read {path} in {self.url}: it is not a regular file")
        with self._explaining("read", path):
            try:
                return remote.again(lambda: self._read(path, most))
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def _read(self, path: str, most: int | None) -> bytes:
        found = obstore.get(self._store, path)
        size = found.meta["size"]
        store = self.backend_for(size if most is None else min(size, most + 1))
        if most is not None and size > most:
            return bytes(obstore.get_range(store, path, start=0, length=most + 1))
        return bytes((found if store is self._store else obstore.get(store, path)).bytes())

    def put(self, path: str, content: bytes) -> None:
        """Write the object and replace an existing one. NoSpace: there is no room for it.

        StoreGone: the store that this process holds (`lease`) is not there any more.
        """
        self._put(path, content, "overwrite")

    def create(self, path: str, content: bytes) -> bool:
        """Write the object only if it does not exist. Return False if another one exists, which is left as it is.

        An existing object with the same content counts as written by this call: if an object store wrote it but its
        answer was lost, the request is repeated and finds the object there. So two writers of which only one may
        succeed must write different contents.
        """
        if not self.conditional:
            if (existing := self.get(path)) is None:
                self.put(path, content)
            return existing is None or existing == content
        for delay in (*COLLIDED, None):
            try:
                self._put(path, content, "create")
            except AlreadyExistsError:
                if self.folder is not None:
                    return False
                if (existing := self.get(path)) is not None:
                    return existing == content
                if delay is None:
                    raise StorageError(f"cannot write {path} in {self.url}: {NEVER}") from None
                time.sleep(delay)  # S3's 409: two puts collided, and perhaps neither was done
            else:
                break
        return True

    def reach(self) -> None:
        """Check that an object store answers and knows the key. StorageError: says why not, within half a minute.

        All other requests are patient, since a sweep should outlast what passes.
        """
        if self.folder is None:
            try:
                quick = remote.connect(self.url, first=True)
                remote.again(lambda: next(iter(obstore.list(quick)), None), first=True)
            except (BaseError, OSError, ValueError) as error:
                if not reasons.busy(str(error)):
                    raise storage_error(f"cannot use {self.url} as storage", error) from None

    def exclusive(self) -> bool:
        """Return whether `create` makes an object only once, by trying it. Not every object store has conditional puts.

        The answer is kept in `conditional`. StorageError: the store cannot be reached or written, or refuses every
        conditional put.
        """
        if self.folder is not None:
            return True
        self.reach()
        path = f"probe-{uuid.uuid4().hex}"
        quick = remote.connect(self.url, first=True)  # obstore would retry a 501 for long
        try:
            self.conditional = self._made_once(quick, path)
        except (BaseError, OSError, ValueError) as error:
            with contextlib.suppress(BaseError, OSError, ValueError):  # it may have been made, and why not is told here
                obstore.delete(quick, [path])
            if "501 Not Implemented" in str(error):
                self.conditional = False
                return False
            raise storage_error(f"cannot write {path} in {self.url}", error) from None
        self.delete([path])
        return self.conditional

    def _made_once(self, store: Any, path: str) -> bool:
        """Create an object twice. Return False if both succeeded: then the store has no conditional puts."""
        for delay in (*COLLIDED, None):
            try:
                remote.again(partial(obstore.put, store, path, b"1", mode="create"), first=True)
                break
            except AlreadyExistsError:
                if self.get(path) is not None:
                    break  # the answer to the first attempt was lost
                if delay is None:
                    raise ValueError(NEVER) from None
                time.sleep(delay)
        try:
            remote.again(partial(obstore.put, store, path, b"2", mode="create"), first=True)
        except AlreadyExistsError:
            return True
        return False

    def settle(self, paths: Iterable[str]) -> None:
        """Make these objects survive a loss of power. An object store does so when they are put."""
        if self.folder is not None:
            files = [Path(path) for path in paths]
            with explaining(f"cannot write {self.url}"):
                for folder in sorted({parent for file in files for parent in file.parents} - {Path()}):
                    local.share(self.folder / folder)  # Zarr has made some of them
                for file in files:
                    exclusive.sync(self.folder / file)
                exclusive.sync_folders(self.folder, {file.parent for file in files})

    def _put(self, path: str, content: bytes, mode: Any) -> None:
        self._require_inside(path)
        if not path.startswith("lease/"):  # its holder has looked
            self.require_there()
        with self._explaining("write", path):
            if mode == "overwrite" and self.folder is not None:
                with contextlib.suppress(FileNotFoundError):  # another writer is removing it; then obstore makes it
                    local.make_folder((self.folder / path).parent)
            if mode == "overwrite" or self.folder is None:
                store = self.backend_for(len(content))
                remote.again(partial(obstore.put, store, path, content, mode=mode, use_multipart=False))
                return
            try:
                exclusive.create(self.folder, path, content)
            except exclusive.NameTaken:
                raise AlreadyExistsError(f"{path} exists") from None
            except exclusive.NoHardLinks as error:
                raise StorageError(f"cannot use {self.url} as storage: {error.strerror}") from None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return path -> size in bytes of every object under a prefix, which must be whole path segments."""
        return {path: size for path, (size, _) in self.listed(prefix).items()}

    def listed(self, prefix: str = "") -> dict[str, tuple[int, str]]:
        """Return path -> size in bytes, and a text that is another one once the object was replaced.

        That is the ETag in an object store, and the time of the last change in a folder. One request lists a thousand
        objects. prefix : must be whole path segments
        """
        self._require_inside(prefix)
        with self._explaining("list", prefix):
            if self.folder is not None:
                try:
                    return local.files(self.folder, prefix)
                except local.LeadsOut as error:
                    raise StorageError(f"{error} leads out of the store {self.url}") from None
            pages = remote.again(lambda: list(obstore.list(self._store, prefix=prefix or None)))
            return {entry["path"]: (entry["size"], _version(entry)) for page in pages for entry in page}

    def folders(self, prefix: str = "") -> list[str]:
        """Return the names of the folders directly under a prefix, sorted."""
        self._require_inside(prefix)
        with self._explaining("list", prefix):
            if self.folder is not None:
                return local.folders(self.folder, prefix)
            listing = remote.again(lambda: obstore.list_with_delimiter(self._store, prefix=prefix or None))
            return sorted(path.rsplit("/", 1)[-1] for path in listing["common_prefixes"])

    def delete(self, paths: list[str]) -> None:
        """Delete objects. An object that does not exist is not an error."""
        for path in paths:
            self._require_inside(path.rpartition("/")[0])  # the object itself may be a link
        # an object store takes a thousand in one request; a folder stops at the first one that is already gone
        batches = [[path] for path in paths] if self.folder is not None else [paths] if paths else []
        for batch in batches:
            with explaining(f"cannot delete {batch[0]} in {self.url}"), contextlib.suppress(FileNotFoundError):
                remote.again(partial(obstore.delete, self._store, batch))

    def delete_prefix(self, prefix: str) -> None:
        """Delete everything under a prefix, including files that a killed writer left half-written."""
        self.delete(list(self.sizes(prefix)))
        if self.folder is not None:
            shutil.rmtree(self.folder / prefix, ignore_errors=True)

    def _require_inside(self, path: str) -> None:
        """Refuse a path that leads out of the store's folder, as through a symbolic link. StorageError: it does.

        A store may come from somebody else, so nothing outside its folder is read, written or deleted.
        """
        if self.folder is not None and path and not os.path.realpath(f"{self.url}/{path}").startswith(f"{self.url}/"):
            raise NotReadable(f"{path} leads out of the store {self.url}")

    @contextlib.contextmanager
    def _explaining(self, verb: str, path: str) -> Iterator[None]:
        """Make a StorageError of what is raised inside the block, which names a file in the place of a folder.

        verb : what cannot be done, path : with what; "" for everything
        """
        what = f"cannot {verb} {path or '/'} in {self.url}"
        try:
            with explaining(what):
                yield
        except StorageError:
            inside = f"{path}/x" if verb == "list" else path
            if self.folder is None or (there := local.in_the_way(self.folder, inside)) is None:
                raise
            raise StorageError(f"{what}: {there} {local.IN_THE_WAY}") from None


def _version(entry: Any) -> str:
    """Return what a listing says of an object's content: its ETag, or when it was put where a store has none."""
    return str(entry["e_tag"] or entry["last_modified"])


@contextlib.contextmanager
def explaining(what: str) -> Iterator[None]:
    """Make a `storage_error` of what the storage raises inside the block. what : cannot be done"""
    try:
        yield
    except (StorageError, AlreadyExistsError):
        raise
    except (BaseError, OSError, ValueError) as error:
        raise storage_error(what, error) from None


def storage_error(what: str, error: BaseException) -> StorageError:
    """Make an error that says what could not be done and why: NoSpace, NotWritable and NotReadable where it is that.

    Credentials that the server's answer may repeat are replaced by "...".
    """
    text = str(error)
    reason = reasons.explained(text) or type(error).__name__
    if reasons.no_space(text):  # asked first: S3 answers 403 for a full quota too
        return NoSpace(f"{what}: {reason}")
    if reasons.not_allowed(text):
        kind = {"cannot write": NotWritable, "cannot read": NotReadable}.get(" ".join(what.split()[:2]), StorageError)
        return kind(f"{what}: {reason}")
    return StorageError(f"{what}: {reason}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error. It says what happened; obstore adds many lines about its internals."""
    return reasons.first_line(str(error)) or type(error).__name__


COLLIDED = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds to wait after a conditional put that was refused though nothing is there
NEVER = (
    "the store refuses to create an object that does not exist (412 or 409 to every conditional put), so it cannot "
    "hold a sweep"
)
