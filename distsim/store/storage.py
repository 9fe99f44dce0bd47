"""A place for objects, by URL: a local folder, or an object store (s3://, gs://, az://), through obstore.

Three properties carry the whole design: an object is visible whole or not at all; `create` makes it exactly once
however many writers try (locally by a hard link, on S3 by a conditional put); and what `create` has made, with all that
was handed to `settle` before, outlasts a loss of power.
"""

import contextlib
import errno
import os
import random
import re
import shutil
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from obstore.store import LocalStore, from_url


class StorageError(OSError):
    """The storage cannot be reached or written; the text says what to look at."""


class NoSpace(StorageError):
    """There is no room for what is to be written: a full disk, or a quota that is used up."""


class Storage:
    """Objects under one URL. Cheap to pickle: it travels as its URL, credentials stay in the environment."""

    def __init__(self, url: str | Path) -> None:
        if not str(url):
            raise StorageError("storage needs a folder or a URL, got nothing")
        _require_a_place(str(url))
        self.conditional = True  # until `exclusive` has found otherwise
        self.url = str(url)
        try:
            if "://" not in self.url:
                self.url = str(Path(url).expanduser().resolve())
            if "://" in self.url:
                self._store: Any = from_url(self.url, retry_config=RETRIES)
            else:
                self._store = LocalStore(self.url, mkdir=True, automatic_cleanup=True)
        except (BaseError, OSError, ValueError, RuntimeError) as error:  # the last of ~nobody and of links in a loop
            raise storage_error(f"cannot use {self.url} as storage", error) from None

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.url,)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    @property
    def backend(self) -> Any:
        """The obstore store, for Zarr."""
        return self._store

    def within(self, prefix: str) -> "Storage":
        """The storage of the objects under a prefix. StorageError: a symbolic link leads out of the folder."""
        self._require_inside(prefix)
        inner = Storage(f"{self.url.rstrip('/')}/{prefix}")
        inner.conditional = self.conditional
        return inner

    @property
    def folder(self) -> Path | None:
        """The local folder, None for an object store."""
        return None if "://" in self.url else Path(self.url)

    def get(self, path: str) -> bytes | None:
        """The object's bytes, or None where there is none."""
        self._require_inside(path)
        try:
            return bytes(_again(lambda: obstore.get(self._store, path).bytes()))
        except FileNotFoundError:
            return None
        except (BaseError, OSError, ValueError) as error:
            raise storage_error(f"cannot read {path} in {self.url}", error) from None

    def put(self, path: str, content: bytes) -> None:
        """Write the object, replacing what is there. NoSpace: there is no room for it."""
        self._put(path, content, "overwrite")

    def create(self, path: str, content: bytes) -> bool:
        """Write the object only if there is none; False if there was another one, which is left as it is.

        An object with this very content counts as made by this call: a store that made it and could not say so is asked
        again, and then finds it there. Contents that are to exclude each other must therefore differ.
        """
        if not self.conditional:
            if (there := self.get(path)) is None:
                self.put(path, content)
            return there is None or there == content
        for last in (*[False] * len(DELAYS), True):
            try:
                self._put(path, content, "create")
            except AlreadyExistsError:
                there = self.get(path) if self.folder is None else b""
                if there is not None or last:
                    return self.folder is None and there == content
                time.sleep(DELAYS[0])  # S3's 409: it crossed another put, and neither of them may have been made
            else:
                break
        return True

    def exclusive(self) -> bool:
        """Whether `create` makes an object only once. Not every object store has conditional puts."""
        if self.folder is not None:
            return True
        path = f"probe-{uuid.uuid4().hex}"
        quick = from_url(self.url, retry_config={"max_retries": 2})  # 501 counts as a failure that may pass
        try:
            try:
                self.conditional = not _both_written(quick, path)
            except (BaseError, OSError, ValueError) as error:
                if "501 Not Implemented" not in str(error) and not _BUSY.search(str(error)):
                    raise
                # a server that is busy is given the time that it is given elsewhere
                self.conditional = bool(_BUSY.search(str(error))) and not _both_written(self._store, path)
        except (BaseError, OSError, ValueError) as error:
            raise storage_error(f"cannot write {path} in {self.url}", error) from None
        finally:
            self.delete([path])
        return self.conditional

    def settle(self, paths: Iterable[str]) -> None:
        """See to it that these objects outlast a loss of power. An object store sees to it when they are put."""
        if self.folder is not None:
            files = [Path(path) for path in paths]
            try:
                for file in files:
                    _sync(self.folder / file)
                _sync_folders(self.folder, {file.parent for file in files})
            except OSError as error:
                raise storage_error(f"cannot write {self.url}", error) from None

    def _put(self, path: str, content: bytes, mode: Any) -> None:
        self._require_inside(path)
        try:
            if mode == "create" and self.folder is not None:
                _link(self.folder, path, content)
            else:
                _again(partial(obstore.put, self._store, path, content, mode=mode, use_multipart=False))
        except AlreadyExistsError:
            raise
        except (BaseError, OSError, ValueError) as error:
            raise storage_error(f"cannot write {path} in {self.url}", error) from None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Path -> bytes of every object under a prefix (whole path segments)."""
        return {entry["path"]: entry["size"] for entry in self._list(prefix)}

    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly under a prefix, sorted."""
        self._require_inside(prefix)
        try:
            found = _again(lambda: obstore.list_with_delimiter(self._store, prefix=prefix or None))
        except FileNotFoundError:
            return []
        except (BaseError, OSError, ValueError) as error:
            raise storage_error(f"cannot list {prefix or '/'} in {self.url}", error) from None
        return sorted(path.rsplit("/", 1)[-1] for path in found["common_prefixes"])

    def delete(self, paths: list[str]) -> None:
        """Delete objects; those already gone are no error."""
        for path in paths:
            self._require_inside(path.rpartition("/")[0])  # a link itself may go
        # an object store takes a thousand in one request; a folder tells which one is gone already
        for some in [paths] * bool(paths) if self.folder is None else [[path] for path in paths]:
            try:
                _again(partial(obstore.delete, self._store, some))
            except FileNotFoundError:
                pass
            except (BaseError, OSError, ValueError) as error:
                raise storage_error(f"cannot delete {some[0]} in {self.url}", error) from None

    def delete_prefix(self, prefix: str) -> None:
        """Delete everything under a prefix, what a killed writer left half-written included."""
        self.delete(list(self.sizes(prefix)))
        if self.folder is not None:
            shutil.rmtree(self.folder / prefix, ignore_errors=True)

    def _list(self, prefix: str) -> Iterator[Any]:
        self._require_inside(prefix)
        inside = {""}
        try:
            for page in _again(lambda: list(obstore.list(self._store, prefix=prefix or None))):
                for entry in page:
                    parent = entry["path"].rpartition("/")[0]
                    if parent not in inside:
                        self._require_inside(parent)
                        inside.add(parent)
                    yield entry
        except FileNotFoundError:
            return
        except StorageError:
            raise
        except (BaseError, OSError, ValueError) as error:
            raise storage_error(f"cannot list {prefix or '/'} in {self.url}", error) from None

    def _require_inside(self, path: str) -> None:
        """A store may come from somebody else: nothing is read, written or deleted through a link out of its folder."""
        if self.folder is not None and path and not os.path.realpath(f"{self.url}/{path}").startswith(f"{self.url}/"):
            raise StorageError(f"{path} leads out of the store {self.url}")


def _both_written(store: Any, path: str) -> bool:
    """Create an object twice. Whether both went well: then the store has no conditional puts."""
    try:
        for content in (b"1", b"2"):
            _again(partial(obstore.put, store, path, content, mode="create"))
    except AlreadyExistsError:
        return False
    return True


def _again(work: Callable[[], Any]) -> Any:
    """Do what obstore does not try again when its connection breaks: conditional puts, deletions, listings."""
    for delay in DELAYS:
        try:
            return work()
        except GenericError as error:
            if not _BROKEN.search(first_line(error)):
                raise
            time.sleep(delay)
    return work()


def storage_error(what: str, error: BaseException) -> StorageError:
    """A sentence of what could not be done and why, without the credentials that an answer may repeat."""
    reason = first_line(error)
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= 8:
            reason = reason.replace(value, "...")
    return (NoSpace if no_space(str(error)) else StorageError)(f"{what}: {reason}")


def no_space(text: str) -> bool:
    """Whether an error's text says that there is no room: it may come from another process, as text."""
    return _NO_SPACE.search(text) is not None


def first_line(error: BaseException) -> str:
    """obstore's errors go on for many lines of their own internals; the first says what happened."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


SCHEMES = ("s3", "gs", "az", "s3a", "adl", "azure", "abfs", "abfss")
_NO_SPACE = re.compile(
    r"no space left|disk quota exceeded|QuotaExceeded|StorageFull|Insufficient Storage", re.IGNORECASE
)
_BUSY = re.compile(r"status code: 5(?!01)")
RETRIES: Any = {"max_retries": 12, "backoff": {"base": 3}}
DELAYS = (0.1, 0.3, 1.0, 3.0, 10.0)
# not "after 12 retries, ... - HTTP error": that was tried again
_BROKEN = re.compile(r" in [\d.]+[µm]?s - HTTP error: error sending|response body error|decoding response body")
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|ACCOUNT_KEY|SAS", re.IGNORECASE)


def _require_a_place(url: str) -> None:
    """StorageError where a URL carries more than a place, which the text does not repeat, or is of no store."""
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
            f"cannot use {url} as storage: it is no folder, and a URL begins with {SCHEMES[0]}://, {SCHEMES[1]}:// "
            f"or {SCHEMES[2]}://"
        )


def _link(root: Path, path: str, content: bytes) -> None:
    """Create a file that is whole and on disk before it has its name, or AlreadyExistsError."""
    target = root / path
    # obstore takes a name that ends like this for a file being written, and does not list it
    staged = target.with_name(f"{target.name}#{random.SystemRandom().getrandbits(48)}")
    for last in (False, False, True):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            break
        except FileNotFoundError:  # somebody deleted the last object of this folder, and the folder with it
            if last:
                raise
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(staged, target)
    except FileExistsError:
        raise AlreadyExistsError(f"{path} exists") from None
    finally:
        staged.unlink(missing_ok=True)
    _sync_folders(root, {Path(path).parent})


def _sync(path: Path) -> None:
    """Nothing where another writer has removed it, or the file system has no such thing (folders of some)."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def _sync_folders(root: Path, folders: set[Path]) -> None:
    """The names in these folders, and the folders' own up to the root."""
    for inner in {parent for folder in folders for parent in (folder, *folder.parents)}:
        _sync(root / inner)
