"""CIFAR-10, SVHN and MNIST as published. torchvision fetches them; their md5 checksums are checked here.

torchvision reports a missing and a damaged file alike as "not found or corrupted", and does not check MNIST's unpacked
files at all.
"""

import contextlib
import hashlib
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import numpy as np
from torchvision import datasets

from distsim.data.dataset import Dataset, Images, Labels
from distsim.data.formats import MNIST_FILES, SVHN_FILES, read_mnist, read_svhn

_MNIST_RAW_MD5 = (  # of the unpacked files, in the order of MNIST_FILES; torchvision has only those of the .gz files
    "6bbc9ace898e44ae57da46a324031adb",
    "a25bea736e30d166cdddb491f175f624",
    "2646ac647ad5339dbf082846283269ea",
    "27ae3e4e09519cfbb04c329615203637",
)


@dataclass(frozen=True)
class Published:
    """A published data set: its files, their checksums, how to fetch and how to read them."""

    title: str
    files: tuple[dict[str, str], ...]  # for each file: its possible names under the root -> their md5
    fetch: Callable[[Path], None]
    read: Callable[..., Dataset] | None  # from the files; None: they are pickles, which `files:PATH` does not read


def read_published(source: str, root: Path, *, download: bool) -> Dataset:
    """Read the published data set `source` (a key of PUBLISHED) from `root`, which is laid out as by torchvision.

    download : fetch missing files first
    FileNotFoundError: a file is missing. ValueError: the checksum of a file is not the published one.
    ConnectionError: the download failed.
    """
    published = PUBLISHED[source]
    if download and not all(_present(root, names) for names in published.files):
        try:
            root.mkdir(parents=True, exist_ok=True)
            with _https_only():
                published.fetch(root)
        except (OSError, RuntimeError) as error:
            said = " ".join(str(error).split())  # torchvision's message has several lines
            raise ConnectionError(f"could not download {published.title} to {root}: {said}") from error
    files = _checked_files(published, root)
    return _read_cifar10(root) if published.read is None else published.read(*files)


class _HttpsOnly(urllib.request.HTTPSHandler, urllib.request.HTTPHandler, urllib.request.HTTPDefaultErrorHandler):
    """Opens https only. torchvision tries http where https fails: it gets the failure of https again."""

    _failed: URLError | None = None

    def https_open(self, req: urllib.request.Request) -> Any:
        try:
            return super().https_open(req)
        except URLError as error:
            self._failed = error
            raise

    def http_error_default(self, req: urllib.request.Request, fp: Any, code: int, msg: str, hdrs: Any) -> Any:
        self._failed = HTTPError(req.full_url, code, msg, hdrs, fp)
        raise self._failed

    def http_open(self, req: urllib.request.Request) -> Any:
        raise self._failed or URLError(f"{req.full_url} is not fetched: what comes by http can be changed on its way")


@contextlib.contextmanager
def _https_only() -> Iterator[None]:
    """Let urllib open https only in the block, also where a server redirects to http."""
    before = getattr(urllib.request, "_opener", None)  # there is no public way to ask
    urllib.request.install_opener(urllib.request.build_opener(_HttpsOnly()))
    try:
        yield
    finally:
        urllib.request.install_opener(before)  # type: ignore[arg-type]  # None: one is made when it is needed


def _present(root: Path, names: dict[str, str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def _checked_files(published: Published, root: Path) -> list[Path]:
    present = [_present(root, names) for names in published.files]
    missing = [next(iter(names)) for names, file in zip(published.files, present, strict=True) if file is None]
    if missing:
        problem = f"no {published.title} in {root}"
        if len(missing) < len(present):
            problem = f"{published.title} in {root} lacks {', '.join(missing)}"
        raise FileNotFoundError(
            f"{problem}: pass --download to fetch it, or --data folder:PATH for a folder of images per class"
        )
    files = [file for file in present if file is not None]
    for names, file in zip(published.files, files, strict=True):
        _check_md5(published, file, names[file.relative_to(root).as_posix()])
    return files


def _check_md5(published: Published, file: Path, expected: str) -> None:
    with file.open("rb") as content:
        md5 = hashlib.file_digest(content, "md5").hexdigest()
    if md5 != expected:
        message = (
            f"{file} is there but damaged: its md5 is {md5}, that of the published {published.title} {expected}; "
            "delete it and pass --download to fetch it again"
        )
        if published.read is not None:
            message += ", or, if it is a file of your own in this format, pass --data files:PATH"
        raise ValueError(message)


def _fetch_cifar10(root: Path) -> None:
    datasets.CIFAR10(root, download=True)


def _fetch_svhn(root: Path) -> None:
    """Fetch from torchvision's place, which it asks by http."""
    places = datasets.SVHN.split_list.items()
    by_https = {split: [url.replace("http:", "https:", 1), *rest] for split, (url, *rest) in places}
    source = type("SVHN", (datasets.SVHN,), {"split_list": by_https})
    for split in ("train", "test"):
        source(root, split, download=True)


def _fetch_mnist(root: Path) -> None:
    """Fetch from those of torchvision's mirrors that have https."""
    mirrors = [url for url in datasets.MNIST.mirrors if url.startswith("https:")]
    type("MNIST", (datasets.MNIST,), {"mirrors": mirrors})(root, download=True)  # its folder has the class's name


def _read_cifar10(root: Path) -> Dataset:
    # the files are pickles, which could run code: their checksums were checked before, and torchvision checks them too
    train, test = datasets.CIFAR10(root, train=True), datasets.CIFAR10(root, train=False)

    def arrays(part: datasets.CIFAR10) -> tuple[Images, Labels]:
        return np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets, dtype=np.int64)

    return Dataset(*arrays(train), *arrays(test), tuple(train.classes))


def _cifar10_files() -> tuple[dict[str, str], ...]:
    cifar = datasets.CIFAR10
    listed = [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]
    return tuple({f"{cifar.base_folder}/{name}": md5} for name, md5 in listed)


def _svhn_files() -> tuple[dict[str, str], ...]:
    md5 = {name: checksum for _, name, checksum in datasets.SVHN.split_list.values()}
    return tuple({name: md5[name]} for name in SVHN_FILES)


def _mnist_files() -> tuple[dict[str, str], ...]:
    packed = dict(datasets.MNIST.resources)
    return tuple(
        {f"MNIST/raw/{name}": raw_md5, f"MNIST/raw/{name}.gz": packed[f"{name}.gz"]}
        for name, raw_md5 in zip(MNIST_FILES, _MNIST_RAW_MD5, strict=True)
    )


PUBLISHED: dict[str, Published] = {
    "cifar10": Published("CIFAR-10", _cifar10_files(), _fetch_cifar10, None),
    "svhn": Published("SVHN", _svhn_files(), _fetch_svhn, read_svhn),
    "mnist": Published("MNIST", _mnist_files(), _fetch_mnist, read_mnist),
}
