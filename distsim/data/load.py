"""Load a problem's data set from a location.

A location is one of
    folder:PATH   images in train/<class>/ and test/<class>/, whatever the problem's source is
    files:PATH    your own files in the format of the problem's source; their checksums are not compared
    PATH or ""    the folder in which torchvision keeps published data sets; "" means `default_root()`
"""

from dataclasses import replace
from pathlib import Path

from distsim.data.dataset import Dataset, limit, subset
from distsim.data.fit import fit_all
from distsim.data.folder import expanded, in_cache, read_folder
from distsim.problems import ARRAYS
from distsim.specs import AS_IS, Problem, Reading

# scikit-learn, SciPy and torchvision take seconds to import, and a load needs at most one of them. So the modules that
# use them are imported inside the functions below.


def load(problem: Problem, location: str, *, download: bool = False, reading: Reading = AS_IS) -> Dataset:
    """Load the problem's data: its classes in its order, its train_limit applied, images (channels, size, size).

    download : fetch published data that `location` lacks
    reading : how a folder of images is read
    FileNotFoundError: there is no data; the message says what to pass. ValueError: files are damaged or malformed, a
    class is unknown, or the location does not fit the source; `reading` is not the usual one, but this is no folder of
    images. ConnectionError: the download failed.
    """
    return suited(problem, _read(problem, location, download, reading))


def suited(problem: Problem, dataset: Dataset) -> Dataset:
    """Return the data set as the problem wants it: its classes in its order, its train_limit, images of its size.

    ValueError: a class that the data set does not have.
    """
    if problem.classes:
        dataset = subset(dataset, problem.classes)
    if problem.train_limit is not None:
        dataset = limit(dataset, problem.train_limit)
    return _fitted(dataset, problem.size, problem.channels)


def default_root() -> Path:
    """Return the folder of published data sets if no location is given: $DISTSIM_DATA, or ~/.cache/distsim/data."""
    return in_cache("DISTSIM_DATA", "data")


def _read(problem: Problem, location: str, download: bool, reading: Reading) -> Dataset:
    scheme, _, path = location.partition(":")
    if scheme in ("folder", "files") and location != scheme and not path:
        raise ValueError(f"--data {location} names no folder: pass {scheme}:PATH")
    if location.startswith("folder:"):
        return read_folder(path, problem.size, problem.channels, problem.classes, reading)
    reading.require_folder(location)
    if location.startswith("files:"):
        return _read_own_files(problem.source, expanded(path))
    if problem.source == "folder":
        raise ValueError(f"problem {problem.name} reads a folder of images per class: pass --data folder:PATH")
    if problem.source == ARRAYS:
        raise ValueError(
            f"the images of {problem.name} came from Python, and nothing says where they are now: pass the same ones, "
            "as data, to distsim.run"
        )
    if problem.source == "digits":
        from distsim.data.digits import read_digits

        return read_digits()

    from distsim.data.published import PUBLISHED, read_published

    if problem.source not in PUBLISHED:
        known = ", ".join(("digits", "folder", *PUBLISHED))
        raise ValueError(f"problem {problem.name} has the unknown source {problem.source!r}; there are {known}")
    return read_published(problem.source, expanded(location) if location else default_root(), download=download)


def _read_own_files(source: str, root: Path) -> Dataset:
    from distsim.data.formats import MNIST_FILES, SVHN_FILES, read_mnist, read_svhn

    if source == "svhn":
        return read_svhn(*(_own_file([root / name]) for name in SVHN_FILES))
    if source == "mnist":
        folders = (root, root / "MNIST" / "raw")
        candidates = [[folder / f"{name}{end}" for folder in folders for end in ("", ".gz")] for name in MNIST_FILES]
        return read_mnist(*(_own_file(paths) for paths in candidates))
    raise ValueError(
        f"files:PATH reads the formats of svhn and mnist, not of {source}"
        f"{' (its batches are Python pickles, which could run code)' if source == 'cifar10' else ''}: "
        "pass --data folder:PATH for a folder of images per class"
    )


def _own_file(candidates: list[Path]) -> Path:
    """Return the first file that exists."""
    for file in candidates:
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"no {candidates[0].name} in {candidates[0].parent}: files:PATH takes the folder that holds it"
    )


def _fitted(dataset: Dataset, size: int, channels: int) -> Dataset:
    if dataset.train_images.shape[1:] == (channels, size, size):
        return dataset
    train, test = (fit_all(images, size, channels) for images in (dataset.train_images, dataset.test_images))
    return replace(dataset, train_images=train, test_images=test)
