"""Folders of images per class, `train/<class>/*` and `test/<class>/*`, decoded once and cached.

Decoding differs between JPEG libraries. So the decoded bytes are what is cached, digested and trained on.
"""

import errno
import hashlib
import json
import os
import tempfile
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from distsim.data.dataset import Dataset, Images, check_classes
from distsim.data.fit import BITS, Greys, fit, greys_of
from distsim.specs import AS_IS, Reading

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))

# The formats of these extensions. Pillow would recognise many more by content, and run Ghostscript for PostScript.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

# Of one image. While it is decoded and made RGB, it takes 1.0 GB as grey of 16 bits (3.2 bytes a pixel), 1.2 GB as RGB
# and 1.5 GB with alpha, as measured with Pillow 13; an estimated 2.4 GB as CMYK or as a palette with alpha.
MOST_PIXELS = 300_000_000
NAMED = 5  # images that cannot be read, in one message
SAID = 20  # images that were left out, in one message
_CACHE_FORMAT = 4  # raise it when decoding or the cache's layout changes, so that old caches are not read
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_NOTES = "notes"  # JSON: which images were left out, and how grey values were scaled
_DECODE_BLOCK = 64  # images that a thread decodes before it asks for more
# Mean bytes of a file up to which one thread is faster, since opening a file holds Python's lock. Measured (2 cores,
# Pillow 13, one run each): CIFAR-10's 60,000 JPEGs of 1 kB took 8 s in one thread and 12 s in two; each JPEG of 800×600
# took 2.5 and 1.4 ms.
_SMALL_FILE = 10_000

PARTS = ("train", "test")
_Listing = dict[str, list[tuple[Path, os.stat_result]]]  # of train or test: class -> (file, its stat), by file name


def read_folder(
    path: str | Path, size: int, channels: int, classes: tuple[str, ...] = (), reading: Reading = AS_IS
) -> Dataset:
    """Read the images under `path` as a Dataset of (channels, size, size) images; see `distsim.data.fit.fit`.

    The classes are the folders in `train`, by name. If `classes` is given, only those are read, and labels follow their
    order. Names that differ only in the Unicode form of their accents (NFC, NFD) are one class, in NFC. Images
    are sorted by class name, then by file name. Hidden files are ignored, and so are files whose extension is not in
    EXTENSIONS. Decoded images are kept under `cache_root()` and used again as long as no file's name, size or time
    changes.

    Images of 16-bit grey are scaled by the bits that the largest value of the data set needs, such as 12 for 4,095.
    Fewer than 16 are said in a warning. `reading.bits` gives their number instead. Beside images of 8 bits, 16-bit
    images that hold only multiples of 257 were made from 8 bits, and use 16.
    Up to `reading.skip_bad` images that cannot be read are left out; a warning names them, and `Dataset.skipped` has
    the reasons.
    FileNotFoundError: there is no such folder, or no `train` or `test` in it. ValueError: `train` and `test` have
    different classes, a class in `classes` is missing, a class has no image, or more images than that cannot be read;
    the message names the first of them and counts them all.
    """
    root = expanded(path)
    names = _class_names(root, classes)
    listings = {part: _list_images(root / part, names) for part in PARTS}
    cached = cache_root() / f"{_cache_key(root, size, channels, names, listings, reading.bits)}.npz"
    found = _read_cache(cached, names)
    if found is None or len(found[0].skipped) > reading.skip_bad:
        found = _decode(listings, names, size, channels, reading)
        _write_cache(cached, *found)
    dataset, greys = found
    for said in (_skipped(dataset), _scaled(greys, reading.bits)):
        if said:
            warnings.warn(said, stacklevel=2)
    return dataset


@dataclass(frozen=True)
class _Greys:
    """What was found of grey values that are stored in more than 8 bits, and how they were scaled."""

    largest: int | None  # None: there is none
    bits: int


def _skipped(dataset: Dataset) -> str:
    """Say which images were left out, "" if none was."""
    if not dataset.skipped:
        return ""
    said = [f"{name} ({reason})" for name, reason in dataset.skipped[:SAID]]
    more = f"; and {len(dataset.skipped) - SAID} more" if len(dataset.skipped) > SAID else ""
    count = f"{len(dataset.skipped)} image{'s' * (len(dataset.skipped) > 1)}"
    return f"{count} that cannot be read {'is' if count == '1 image' else 'are'} left out: {'; '.join(said)}{more}"


def _scaled(greys: _Greys, asked: int | None) -> str:
    """Say how grey values of more than 8 bits were scaled, "" if as usual, by 16 bits."""
    white = 2**greys.bits - 1
    if asked is not None and greys.largest is None:
        return f"no image has grey values of more than 8 bits: bits {asked} changes nothing"
    if greys.largest is None or (asked is None and greys.bits == BITS):
        return ""
    cut = f", and all above {white:,} becoming 255" if greys.largest > white else ""
    return (
        f"the 16-bit grey values of these images are at most {greys.largest:,}: they are scaled by {greys.bits} bits"
        f"{' as asked' * (asked is not None)}, 0 to {white:,} becoming 0 to 255{cut}"
    )


def expanded(path: str | Path) -> Path:
    """Return the path with its `~` replaced. ValueError: there is no such user, or its links form a loop."""
    try:
        full = Path(path).expanduser()
        full.resolve()
    except RuntimeError as error:
        raise ValueError(f"cannot use the path {path}: {error}") from None
    return full


def cache_root() -> Path:
    """Return the folder where decoded images are kept: $DISTSIM_CACHE, or ~/.cache/distsim/decoded."""
    return in_cache("DISTSIM_CACHE", "decoded")


def in_cache(variable: str, name: str) -> Path:
    """Return the folder in this variable of the environment, or ~/.cache/distsim/NAME. ValueError: there is no home."""
    if folder := os.environ.get(variable):
        return expanded(folder)
    try:
        return Path.home() / ".cache" / "distsim" / name
    except RuntimeError:
        raise ValueError(f"this user has no home directory: set {variable} to a folder") from None


def _class_names(root: Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}: --data folder:PATH takes a folder with train/<class>/ and test/<class>/"
        )
    folders = {part: _class_folders(root / part) for part in PARTS}
    if not folders["train"]:
        raise ValueError(f"no class folder in {root / 'train'}")
    asked = [_composed(name) for name in wanted]
    check_classes(asked, sorted(folders["train"]))
    train, test = set(asked or folders["train"]), set(folders["test"])
    differences = {"train": train - test, "test": set() if wanted else test - train}
    if any(differences.values()):
        only = "; ".join(f"only in {part}: {', '.join(sorted(names))}" for part, names in differences.items() if names)
        raise ValueError(f"train and test in {root} must have the same classes; {only}")
    return wanted or tuple(sorted(folders["train"]))


def _class_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of classes in train or test, by the classes' names in NFC."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder.name} in {folder.parent}; it must hold train/<class>/ and test/<class>/"
        )
    folders: dict[str, Path] = {}
    with os.scandir(folder) as entries:
        shown = sorted(Path(entry.path) for entry in entries if not entry.name.startswith("."))
    if circles := [path for path in shown if path.is_symlink() and _broken(path) == _CIRCLE]:
        raise ValueError(f"cannot read class {circles[0]}: {_CIRCLE}")
    for path in filter(os.path.isdir, shown):
        if (other := folders.setdefault(_composed(path.name), path)) is not path:
            raise ValueError(
                f"{folder} has two folders of class {path.name!r}, whose names differ only in their Unicode form "
                f"({other.name!a} and {path.name!a}): put their images into one"
            )
    return folders


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _list_images(folder: Path, names: tuple[str, ...]) -> _Listing:
    listing: _Listing = {}
    folders = _class_folders(folder)
    for name in sorted(names):  # not in the order of labels, so that a subset's images keep the order of the whole
        with os.scandir(folders[_composed(name)]) as entries:
            named = [
                entry
                for entry in entries
                if not entry.name.startswith(".") and os.path.splitext(entry.name)[1].lower() in EXTENSIONS
            ]
            images = [
                (Path(entry.path), _stat(entry)) for entry in named if _points_to_nothing(entry) or entry.is_file()
            ]
        if not images:
            raise ValueError(f"class {name!r} has no image in {folder / name}")
        listing[name] = sorted(images, key=lambda image: image[0].name)
    return listing


def _points_to_nothing(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


_CIRCLE = "its link leads in a circle"


def _broken(link: Path) -> str:
    """Say what is wrong with a link that leads to no file."""
    try:
        link.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return _CIRCLE
    return "its link points to nothing"


def _stat(entry: os.DirEntry[str]) -> os.stat_result:
    return entry.stat(follow_symlinks=not _points_to_nothing(entry))


def _decode(
    listings: dict[str, _Listing], names: tuple[str, ...], size: int, channels: int, reading: Reading
) -> tuple[Dataset, _Greys]:
    """Decode all images. If those of 16 bits do not use them, decode again, by fewer bits.

    ValueError: more images cannot be read than may be left out.
    """
    labels = {
        part: np.array([names.index(name) for name, images in listing.items() for _ in images], dtype=np.int64)
        for part, listing in listings.items()
    }
    bits = reading.bits or BITS
    with large_images():
        decoded = {part: _decode_part(listings[part], size, channels, bits) for part in PARTS}
        failures = [failure for part in PARTS for failure in decoded[part].failures]
        if len(failures) > reading.skip_bad:
            raise ValueError(_unreadable(failures, reading.skip_bad))
        greys = {grey for part in decoded.values() for grey in part.greys}
        largest = max((grey.largest for grey in greys if grey is not None), default=None)
        if reading.bits is None:
            bits = _bits_used(greys)
        if bits != (reading.bits or BITS):
            decoded = {part: _decode_part(listings[part], size, channels, bits) for part in PARTS}
    for part, found in decoded.items():
        if found.failures:
            kept = np.delete(np.arange(len(labels[part])), [failure.at for failure in found.failures])
            found.images, labels[part] = found.images[kept], labels[part][kept]
    skipped = tuple(
        (_text(f"{part}/{failure.named}"), failure.reason) for part in PARTS for failure in decoded[part].failures
    )
    train, test = (decoded[part].images for part in PARTS)
    return Dataset(train, labels["train"], test, labels["test"], names, skipped), _Greys(largest, bits)


def _bits_used(greys: set[Greys | None]) -> int:
    """Return how many bits the images use that are stored in more than 8. None stands for the other images."""
    deep = [grey for grey in greys if grey is not None]
    largest = max((grey.largest for grey in deep), default=2**BITS - 1)
    widened = None in greys and all(grey.widened for grey in deep)
    return BITS if widened or largest >= 2 ** (BITS - 1) else max(8, largest.bit_length())


@dataclass(frozen=True)
class _Failure:
    """An image that cannot be read."""

    at: int  # among the images of its part
    file: Path
    reason: str

    @property
    def named(self) -> str:
        """Return class/file, the same on file systems that write accents differently."""
        return _composed(f"{self.file.parent.name}/{self.file.name}")


@dataclass
class _Decoded:
    """The images of train or test, and what was found while they were decoded."""

    images: Images  # arbitrary where an image cannot be read
    greys: set[Greys | None]  # of images with more than 8 bits; None stands for the other images
    failures: list[_Failure]


def _decode_part(listing: _Listing, size: int, channels: int, bits: int) -> _Decoded:
    files = [file for images in listing.values() for file, _ in images]
    decoded = np.empty((len(files), channels, size, size), dtype=np.uint8)

    def decode_block(start: int) -> tuple[set[Greys | None], list[_Failure]]:
        greys, failures = set[Greys | None](), list[_Failure]()
        for i in range(start, min(start + _DECODE_BLOCK, len(files))):
            try:
                if not os.path.exists(files[i]):
                    raise OSError(_broken(files[i]))
                with Image.open(files[i], formats=FORMATS) as image:
                    of_image = greys_of(image)
                    decoded[i] = fit(image, size, channels, bits)
                    greys.add(of_image)
            except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError, struct.error and more
                said = " ".join(str(error).split()).replace(f" {str(files[i])!r}", "")  # the file is named anyway
                failures.append(_Failure(i, files[i], _text(said or type(error).__name__)))
        return greys, failures

    mean_bytes = sum(stat.st_size for images in listing.values() for _, stat in images) / len(files)
    workers = min(os.cpu_count() or 1, 16) if mean_bytes > _SMALL_FILE else 1
    with ThreadPoolExecutor(workers) as pool:
        done = list(pool.map(decode_block, range(0, len(files), _DECODE_BLOCK)))
    greys = {grey for values, _ in done for grey in values}
    return _Decoded(decoded, greys, [failure for _, failures in done for failure in failures])


@contextmanager
def large_images() -> Iterator[None]:
    """Let Pillow open images of up to MOST_PIXELS, and keep its warnings about odd metadata to itself."""
    usual = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = MOST_PIXELS
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def _text(named: str) -> str:
    """Return text that JSON can hold, with the bytes of file names that are not UTF-8 written as escapes."""
    return named.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unreadable(failures: list[_Failure], allowed: int) -> str:
    """Say which images cannot be read, the first few by name."""
    said = [f"{failure.file}: {failure.reason}" for failure in failures[:NAMED]]
    instead = "" if allowed else f". --skip-bad {len(failures)} leaves out what cannot be read"
    if len(failures) == 1:
        return f"cannot read image {said[0]}{instead}"
    more = f"; and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
    but = f", and skip_bad {allowed} leaves out at most {allowed}" if allowed else ""
    return f"cannot read {len(failures)} images{but}: {'; '.join(said)}{more}{instead}"


def _cache_key(
    root: Path, size: int, channels: int, names: Sequence[str], listings: dict[str, _Listing], bits: int | None
) -> str:
    """Return the SHA-256 of everything that decides the decoded arrays, except the files' contents."""
    files = [
        (f"{part}/{file.parent.name}/{file.name}", stat.st_size, stat.st_mtime_ns)
        for part, listing in sorted(listings.items())
        for name, images in listing.items()
        for file, stat in images
    ]
    key = [_CACHE_FORMAT, str(root.resolve()), size, channels, list(names), files, bits]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def _read_cache(cached: Path, names: tuple[str, ...]) -> tuple[Dataset, _Greys] | None:
    """Return the cached data set, or None if there is none or it cannot be read (the archive carries checksums)."""
    try:
        with cached.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            train_images, train_labels, test_images, test_labels = (arrays[name] for name in _ARRAYS)
            notes = json.loads(str(arrays[_NOTES]))
        skipped = tuple((str(name), str(reason)) for name, reason in notes["skipped"])
        dataset = Dataset(train_images, train_labels, test_images, test_labels, names, skipped)
        return dataset, _Greys(**notes["greys"])
    except Exception:  # whatever a damaged archive makes NumPy and zipfile raise, the images can be decoded again
        return None


def _write_cache(cached: Path, dataset: Dataset, greys: _Greys) -> None:
    """Write the cache under a temporary name, then rename it, so that a reader sees a whole file or none.

    A failure is a warning: it costs only time.
    """
    temporary = None
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            notes = json.dumps({"skipped": dataset.skipped, "greys": asdict(greys)})
            arrays = {name: getattr(dataset, name) for name in _ARRAYS}
            np.savez(file, allow_pickle=False, **arrays | {_NOTES: np.array(notes)})
        os.replace(temporary, cached)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        warnings.warn(f"decoded images are not cached, and will be decoded again: {error}", stacklevel=3)
