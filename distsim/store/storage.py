"""Storage for objects, named by a URL: a local folder or an object store (s3://, gs://, az://), through obstore.

The store relies on three properties. An object is visible whole or not at all. `create` makes it exactly once, however
many writers try (locally by a hard link, on S3 by a conditional put). What `create` has made, and all objects that were
given to `settle` before, survive a loss of power.
"""

import os
import re
import shutil
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from obstore.store import LocalStore, from_url

from distsim.store import aws, exclusive, local


class StorageError(OSError):
    """The storage cannot be read or written. The text says what to look at."""


class NoSpace(StorageError):
    """There is no room to write: the disk is full or a quota is used up."""


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
        _require_a_place(str(url))
        self.conditional = True  # `exclusive` sets it to False if the store has no conditional puts
        self.url = str(url)
        try:
            if "://" not in self.url:
                self.url = str(Path(url).expanduser().resolve())
            if "://" in self.url:
                config: Any = aws.config() if self.url.startswith(("s3:", "s3a:")) else {}
                self._store: Any = from_url(self.url, retry_config=RETRIES, config=config)
            else:
                self._store = LocalStore(self.url, mkdir=True, automatic_cleanup=True)
        except (BaseError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~nobody, or links in a loop
            raise storage_error(f"cannot use {self.url} as storage", error) from None

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.url,)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    @property
    def backend(self) -> Any:
        """Return the obstore store, for Zarr."""
        return self._store

    def within(self, prefix: str) -> "Storage":
        """Return the storage of the objects under a prefix. StorageError: a symbolic link leads out of the folder."""
        self._require_inside(prefix)
        inner = Storage(f"{self.url.rstrip('/')}/{prefix}")
        inner.conditional = self.conditional
        return inner

    @property
    def folder(self) -> Path | None:
        """Return the local folder, or None for an object store."""
        return None if "://" in self.url else Path(self.url)

    def get(self, path: str, most: int | None = None) -> bytes | None:
        """Return the object's bytes, or None if it does not exist. StorageError: it cannot be read.

        most : bytes that may be expected. Of a larger object, only the first most + 1 are read
        """
        self._require_inside(path)
        if self.folder is not None and local.is_special(self.folder / path):
            raise StorageError(f"cannot read {path} in {self.url}: it is not a regular file")
        try:
            return _again(lambda: self._read(path, most))
        except FileNotFoundError:
            return None
        except (BaseError, OSError, ValueError) as error:
            raise storage_error(f"cannot read {path} in {self.url}", error) from None

    def _read(self, path: str, most: int | None) -> bytes:
        found = obstore.get(self._store, path)
        if most is None or found.meta["size"] <= most:
            return bytes(found.bytes())
        return bytes(obstore.get_range(self._store, path, start=0, length=most + 1))

    def put(self, path: str, content: bytes) -> None:
        """Write the object and replace an existing one. NoSpace: there is no room for it."""
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
        for last in (*[False] * len(DELAYS), True):
            try:
                self._put(path, content, "create")
            except AlreadyExistsError:
                if self.folder is not None:
                    return False
                existing = self.get(path)
                if existing is not None or last:
                    return existing == content
                time.sleep(DELAYS[0])  # S3's 409: two puts collided, and perhaps neither was done
            else:
                break
        return True

    def exclusive(self) -> bool:
        """Return whether `create` makes an object only once, by trying it. Not every object store has conditional puts.

        The answer is kept in `conditional`. StorageError: the store cannot be written.
        """
        if self.folder is not None:
            return True
        path = f"probe-{uuid.uuid4().hex}"
        quick = from_url(self.url, retry_config={"max_retries": 2})  # obstore would retry a 501 for long
        try:
            try:
                self.conditional = not _both_written(quick, path)
            except (BaseError, OSError, ValueError) as error:
                if "501 Not Implemented" not in str(error) and not _BUSY.search(str(error)):
                    raise
                # a busy server gets the usual number of retries
                self.conditional = bool(_BUSY.search(str(error))) and not _both_written(self._store, path)
        except (BaseError, OSError, ValueError) as error:
            raise storage_error(f"cannot write {path} in {self.url}", error) from None
        finally:
            self.delete([path])
        return self.conditional

    def settle(self, paths: Iterable[str]) -> None:
        """Make these objects survive a loss of power. An object store does so when they are put."""
        if self.folder is not None:
            files = [Path(path) for path in paths]
            try:
                for file in files:
                    exclusive.sync(self.folder / file)
                exclusive.sync_folders(self.folder, {file.parent for file in files})
            except OSError as error:
                raise storage_error(f"cannot write {self.url}", error) from None

    def _put(self, path: str, content: bytes, mode: Any) -> None:
        self._require_inside(path)
        try:
            if mode == "create" and self.folder is not None:
                exclusive.create(self.folder, path, content)
            else:
                _again(partial(obstore.put, self._store, path, content, mode=mode, use_multipart=False))
        except AlreadyExistsError:
            raise
        except exclusive.NameTaken:
            raise AlreadyExistsError(f"{path} exists") from None
        except exclusive.NoHardLinks as error:
            raise StorageError(f"cannot use {self.url} as storage: {error.strerror}") from None
        except (BaseError, OSError, ValueError) as error:
            raise storage_error(f"cannot write {path} in {self.url}", error) from None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return path -> size in bytes of every object under a prefix, which must be whole path segments."""
        self._require_inside(prefix)
        if self.folder is None:
            return self._list(prefix)
        try:
            return local.files(self.folder, prefix)
        except local.LeadsOut as error:
            raise StorageError(f"{error} leads out of the store {self.url}") from None
        except OSError as error:
            raise storage_error(f"cannot list {prefix or '/'} in {self.url}", error) from None

    def folders(self, prefix: str = "") -> list[str]:
        """Return the names of the folders directly under a prefix, sorted."""
        self._require_inside(prefix)
        try:
            if self.folder is not None:
                return local.folders(self.folder, prefix)
            listing = _again(lambda: obstore.list_with_delimiter(self._store, prefix=prefix or None))
        except (BaseError, OSError, ValueError) as error:
            raise storage_error(f"cannot list {prefix or '/'} in {self.url}", error) from None
        return sorted(path.rsplit("/", 1)[-1] for path in listing["common_prefixes"])

    def delete(self, paths: list[str]) -> None:
        """Delete objects. An object that does not exist is not an error."""
        for path in paths:
            self._require_inside(path.rpartition("/")[0])  # the object itself may be a link
        # an object store takes a thousand in one request; a folder stops at the first one that is already gone
        batches = [[path] for path in paths] if self.folder is not None else [paths] if paths else []
        for batch in batches:
            try:
                _again(partial(obstore.delete, self._store, batch))
            except FileNotFoundError:
                pass
            except (BaseError, OSError, ValueError) as error:
                raise storage_error(f"cannot delete {batch[0]} in {self.url}", error) from None

    def delete_prefix(self, prefix: str) -> None:
        """Delete everything under a prefix, including files that a killed writer left half-written."""
        self.delete(list(self.sizes(prefix)))
        if self.folder is not None:
            shutil.rmtree(self.folder / prefix, ignore_errors=True)

    def _list(self, prefix: str) -> dict[str, int]:
        """Return path -> size of the objects in an object store."""
        try:
            pages = _again(lambda: list(obstore.list(self._store, prefix=prefix or None)))
        except (BaseError, OSError, ValueError) as error:
            raise storage_error(f"cannot list {prefix or '/'} in {self.url}", error) from None
        return {entry["path"]: entry["size"] for page in pages for entry in page}

    def _require_inside(self, path: str) -> None:
        """Refuse a path that leads out of the store's folder, as through a symbolic link. StorageError: it does.

        A store may come from somebody else, so nothing outside its folder is read, written or deleted.
        """
        if self.folder is not None and path and not os.path.realpath(f"{self.url}/{path}").startswith(f"{self.url}/"):
            raise StorageError(f"{path} leads out of the store {self.url}")


def _both_written(store: Any, path: str) -> bool:
    """Create an object twice. Return whether both succeeded: then the store has no conditional puts."""
    try:
        for content in (b"1", b"2"):
            _again(partial(obstore.put, store, path, content, mode="create"))
    except AlreadyExistsError:
        return False
    return True


def _again(work: Callable[[], Any]) -> Any:
    """Do the work, and repeat it if the connection breaks.

    obstore repeats most requests itself, but not conditional puts, deletions and listings.
    """
    for delay in DELAYS:
        try:
            return work()
        except GenericError as error:
            if not _BROKEN.search(first_line(error)):
                raise
            time.sleep(delay)
    return work()


def storage_error(what: str, error: BaseException) -> StorageError:
    """Make an error that says what could not be done and why. NoSpace if there is no room.

    Credentials that the server's answer may repeat are replaced by "...".
    """
    reason = aws.explained(first_line(error))
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= 8:
            reason = reason.replace(value, "...")
    if no_space(str(error)):  # asked first: S3 answers 403 for a full quota too
        return NoSpace(f"{what}: {reason}")
    if what.startswith("cannot write") and _NOT_ALLOWED.search(str(error)):
        return NotWritable(f"{what}: {reason}")
    return StorageError(f"{what}: {reason}")


def no_space(text: str) -> bool:
    """Return whether an error's text says that there is no room. Errors of other processes arrive as text only."""
    return _NO_SPACE.search(text) is not None


def first_line(error: BaseException) -> str:
    """Return the first line of an error. It says what happened; obstore adds many lines about its internals."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


SCHEMES = ("s3", "gs", "az", "s3a", "adl", "azure", "abfs", "abfss")
_NO_SPACE = re.compile(
    r"no space left|disk quota exceeded|QuotaExceeded|StorageFull|Insufficient Storage", re.IGNORECASE
)
_NOT_ALLOWED = re.compile(r"read-only file system|permission denied|AccessDenied|status code: 403", re.IGNORECASE)
_BUSY = re.compile(r"status code: 5(?!01)")
RETRIES: Any = {"max_retries": 12, "backoff": {"base": 3}}
DELAYS = (0.1, 0.3, 1.0, 3.0, 10.0)
# "after 12 retries, ... - HTTP error" does not match: obstore has repeated that already
_BROKEN = re.compile(r" in [\d.]+[µm]?s - HTTP error: error sending|response body error|decoding response body")
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|ACCOUNT_KEY|SAS", re.IGNORECASE)


def _require_a_place(url: str) -> None:
    """Refuse a URL that is not a store's. StorageError: it has another scheme, or more in it than a bucket and prefix.

    The text does not repeat a URL that may hold credentials.
    """
    if "://" in url:
        parts = urllib.parse.urlsplit(url)
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise StorageError(
                f"a storage URL is {parts.scheme}://bucket/prefix and nothing else: credentials, endpoint and region "
                "come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, ...)"
            )
    match = re.match(r"([A-Za-z0-9]{2,}):/", url)
    if match and (match[1].lower() not in SCHEMES or "://" not in url):
        raise StorageError(
            f"cannot use {url} as storage: it is not a folder, and a URL must begin with {SCHEMES[0]}://, "
            f"{SCHEMES[1]}:// or {SCHEMES[2]}://"
        )
