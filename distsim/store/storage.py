"""A place for objects, by URL: a local folder, or an object store (s3://, gs://, az://), through obstore.

Two properties carry the whole design: an object is visible whole or not at all, and `create` makes it exactly once
however many writers try (locally by a hard link, on S3 by a conditional put).
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url


class StorageError(OSError):
    """The storage cannot be reached or written; the text says what to look at."""


class Storage:
    """Objects under one URL. Cheap to pickle: it travels as its URL, credentials stay in the environment."""

    def __init__(self, url: str | Path) -> None:
        if not str(url):
            raise StorageError("storage needs a folder or a URL, got nothing")
        self.url = str(url) if "://" in str(url) else str(Path(url).expanduser().resolve())
        try:
            if "://" in self.url:
                self._store: Any = from_url(self.url)
            else:
                self._store = LocalStore(self.url, mkdir=True, automatic_cleanup=True)
        except (BaseError, OSError, ValueError) as error:
            raise StorageError(f"cannot use {self.url} as storage: {first_line(error)}") from None

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.url,)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    @property
    def backend(self) -> Any:
        """The obstore store, for Zarr."""
        return self._store

    def within(self, prefix: str) -> "Storage":
        """The storage of the objects under a prefix."""
        return Storage(f"{self.url.rstrip('/')}/{prefix}")

    @property
    def folder(self) -> Path | None:
        """The local folder, None for an object store."""
        return None if "://" in self.url else Path(self.url)

    def get(self, path: str) -> bytes | None:
        """The object's bytes, or None where there is none."""
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise StorageError(f"cannot read {path} in {self.url}: {first_line(error)}") from None

    def put(self, path: str, content: bytes) -> None:
        """Write the object, replacing what is there."""
        self._put(path, content, "overwrite")

    def create(self, path: str, content: bytes) -> bool:
        """Write the object only if there is none; False if there was one, which is left as it is."""
        try:
            self._put(path, content, "create")
        except AlreadyExistsError:
            return False
        return True

    def _put(self, path: str, content: bytes, mode: Any) -> None:
        try:
            obstore.put(self._store, path, content, mode=mode)
        except AlreadyExistsError:
            raise
        except (BaseError, OSError) as error:
            raise StorageError(f"cannot write {path} in {self.url}: {first_line(error)}") from None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Path -> bytes of every object under a prefix (whole path segments)."""
        return {entry["path"]: entry["size"] for entry in self._list(prefix)}

    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly under a prefix, sorted."""
        try:
            found = obstore.list_with_delimiter(self._store, prefix=prefix or None)
        except FileNotFoundError:
            return []
        except (BaseError, OSError) as error:
            raise StorageError(f"cannot list {prefix or '/'} in {self.url}: {first_line(error)}") from None
        return sorted(path.rsplit("/", 1)[-1] for path in found["common_prefixes"])

    def delete(self, paths: list[str]) -> None:
        """Delete objects; those already gone are no error."""
        for path in paths:
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError:
                pass
            except (BaseError, OSError) as error:
                raise StorageError(f"cannot delete {path} in {self.url}: {first_line(error)}") from None

    def delete_prefix(self, prefix: str) -> None:
        """Delete everything under a prefix, what a killed writer left half-written included."""
        self.delete(list(self.sizes(prefix)))
        if self.folder is not None:
            shutil.rmtree(self.folder / prefix, ignore_errors=True)

    def _list(self, prefix: str) -> Iterator[Any]:
        try:
            for page in obstore.list(self._store, prefix=prefix or None):
                yield from page
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise StorageError(f"cannot list {prefix or '/'} in {self.url}: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """obstore's errors go on for many lines of their own internals; the first says what happened."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
