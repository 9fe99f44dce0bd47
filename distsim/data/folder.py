"""A folder of images per class, `train/<class>/*` and `test/<class>/*`, decoded once and cached.

Decoding differs between JPEG libraries, so what is cached, digested and trained on is the decoded bytes.
"""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from distsim.data.dataset import Dataset, Images, Labels, check_classes
from distsim.data.fit import fit

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))

# what these names stand for: Pillow would read much more by its content, PostScript by running Ghostscript
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

_CACHE_FORMAT = 1  # raise it when decoding or the cache's layout changes, so that older caches are not read
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_DECODE_BLOCK = 64  # images one thread decodes before it asks for more
# bytes; below it one thread is faster, as opening a file holds Python's lock: CIFAR-10's 60,000 JPEGs of 1 kB took 8 s
# in one thread and 12 s in two (2 cores, Pillow 13, one run each), while JPEGs of 800×600 took 2.5 and 1.4 ms each
_SMALL_FILE = 10_000

_Listing = dict[str, list[tuple[str, os.stat_result]]]  # of train or test: class -> (file name, its stat), by name


def read_folder(path: str | Path, size: int, channels: int, classes: tuple[str, ...] = ()) -> Dataset:
    """The images under `path` as a Dataset of (channels, size, size) images; see `distsim.data.fit.fit`.

    Classes are the folders in `train`, by name; with `classes` only those are read, and labels follow their order.
    Images come sorted by class name, then by file name. Hidden files and other extensions than EXTENSIONS are ignored.
    Decoded images are kept under `cache_root()` and used again while no file's name, size or time has changed.
    FileNotFoundError: no such folder, or no `train` or `test` in it. ValueError: `train` and `test` have different
    classes, one asked for is missing, a class has no image, an image cannot be read.
    """
    root = expanded(path)
    names = _class_names(root, classes)
    listings = {part: _list_images(root / part, names) for part in ("train", "test")}
    cached = cache_root() / f"{_cache_key(root, size, channels, names, listings)}.npz"
    dataset = _read_cache(cached, names)
    if dataset is None:
        train = _decode(root / "train", listings["train"], names, size, channels)
        test = _decode(root / "test", listings["test"], names, size, channels)
        dataset = Dataset(*train, *test, names)
        _write_cache(cached, dataset)
    return dataset


def expanded(path: str | Path) -> Path:
    """The path with its `~` replaced. ValueError: nobody here has that name, or links lead round in it."""
    try:
        full = Path(path).expanduser()
        full.resolve()
    except RuntimeError as error:
        raise ValueError(f"cannot use the path {path}: {error}") from None
    return full


def cache_root() -> Path:
    """Where decoded images are kept: $DISTSIM_CACHE, or ~/.cache/distsim/decoded."""
    chosen = os.environ.get("DISTSIM_CACHE")
    return expanded(chosen) if chosen else Path.home() / ".cache" / "distsim" / "decoded"


def _class_names(root: Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}: --data folder:PATH takes a folder with train/<class>/ and test/<class>/"
        )
    found = {}
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise FileNotFoundError(f"no folder {part} in {root}; it must hold train/<class>/ and test/<class>/")
        with os.scandir(root / part) as entries:
            found[part] = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    if not found["train"]:
        raise ValueError(f"no class folder in {root / 'train'}")
    if wanted:
        check_classes(wanted, found["train"])
    train, test = set(wanted or found["train"]), set(found["test"])
    differences = {"train": train - test, "test": set() if wanted else test - train}
    if any(differences.values()):
        only = "; ".join(f"only in {part}: {', '.join(sorted(names))}" for part, names in differences.items() if names)
        raise ValueError(f"train and test in {root} must have the same classes; {only}")
    return wanted or tuple(found["train"])


def _list_images(folder: Path, names: tuple[str, ...]) -> _Listing:
    listing: _Listing = {}
    for name in sorted(names):  # whatever the order of labels, so that a subset's images come in the whole's order
        with os.scandir(folder / name) as entries:
            named = [
                entry
                for entry in entries
                if not entry.name.startswith(".") and os.path.splitext(entry.name)[1].lower() in EXTENSIONS
            ]
            if lost := sorted(entry.path for entry in named if entry.is_symlink() and not os.path.exists(entry.path)):
                raise ValueError(f"cannot read image {lost[0]}: it is a link to nothing")
            images = [(entry.name, entry.stat()) for entry in named if entry.is_file()]
        if not images:
            raise ValueError(f"class {name!r} has no image in {folder / name}")
        listing[name] = sorted(images, key=lambda image: image[0])
    return listing


def _decode(folder: Path, listing: _Listing, names: tuple[str, ...], size: int, channels: int) -> tuple[Images, Labels]:
    files = [folder / name / file for name, images in listing.items() for file, _ in images]
    labels = [names.index(name) for name, images in listing.items() for _ in images]
    decoded = np.empty((len(files), channels, size, size), dtype=np.uint8)

    def decode_block(start: int) -> None:
        for i in range(start, min(start + _DECODE_BLOCK, len(files))):
            decoded[i] = _decode_one(files[i], size, channels)

    mean_bytes = sum(stat.st_size for images in listing.values() for _, stat in images) / len(files)
    workers = min(os.cpu_count() or 1, 16) if mean_bytes > _SMALL_FILE else 1
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # of odd metadata; what cannot be decoded is an error
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for _ in pool.map(decode_block, range(0, len(files), _DECODE_BLOCK)):
            pass  # map raises the first error here
    return decoded, np.array(labels, dtype=np.int64)


def _decode_one(file: Path, size: int, channels: int) -> Images:
    try:
        with Image.open(file, formats=_FORMATS) as image:
            return fit(image, size, channels)
    except (
        Exception
    ) as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error, EOFError and more
        raise ValueError(f"cannot read image {file}: {error}") from error


def _cache_key(root: Path, size: int, channels: int, names: Sequence[str], listings: dict[str, _Listing]) -> str:
    """SHA-256 of all that decides the decoded arrays, short of the files' contents."""
    files = [
        (f"{part}/{name}/{file}", stat.st_size, stat.st_mtime_ns)
        for part, listing in sorted(listings.items())
        for name, images in listing.items()
        for file, stat in images
    ]
    key = [_CACHE_FORMAT, str(root.resolve()), size, channels, list(names), files]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def _read_cache(cached: Path, names: tuple[str, ...]) -> Dataset | None:
    """The cached data set; None if there is none, or if it cannot be read (the archive carries checksums)."""
    try:
        with cached.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            train_images, train_labels, test_images, test_labels = (arrays[name] for name in _ARRAYS)
            return Dataset(train_images, train_labels, test_images, test_labels, names)
    except Exception:  # whatever a damaged archive makes NumPy and zipfile raise, the images can be decoded again
        return None


def _write_cache(cached: Path, dataset: Dataset) -> None:
    """Under a name of its own, then renamed: a reader sees a whole file or none. A failure costs only time."""
    temporary = None
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, allow_pickle=False, **{name: getattr(dataset, name) for name in _ARRAYS})
        os.replace(temporary, cached)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        warnings.warn(f"decoded images are not cached, and will be decoded again: {error}", stacklevel=3)
