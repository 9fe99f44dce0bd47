"""Images of a folder without an order of classes: wherever they lie in it."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from distsim.data.dataset import Images
from distsim.data.fit import fit
from distsim.data.folder import EXTENSIONS, FORMATS, expanded, large_images


def read_images(path: str | Path, size: int, channels: int, most: int) -> Images:
    """Return images of a folder and of the folders in it, (n, channels, size, size) uint8; see `distsim.data.fit.fit`.

    They are sorted by path. Of more than `most`, so many are taken, evenly spread. Of a folder with `test` in it, as
    sweeps have it, those in `test` are meant. Hidden files and folders are ignored.
    FileNotFoundError: there is no such folder. ValueError: it holds no image, or one that cannot be read.
    """
    root = expanded(path)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: --data folder:PATH takes a folder of images")
    if (root / "test").is_dir() and (root / "train").is_dir():
        root = root / "test"
    files = _files(root)
    if not files:
        raise ValueError(f"no image in {root}: images are files that end with {', '.join(sorted(EXTENSIONS))}")
    if len(files) > most:
        files = [files[place * len(files) // most] for place in range(most)]
    images = np.empty((len(files), channels, size, size), np.uint8)
    with large_images():
        for place, file in enumerate(files):
            try:
                with Image.open(file, formats=FORMATS) as image:
                    images[place] = fit(image, size, channels)
            except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError, struct.error and more
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ValueError(f"cannot read image {file}: {reason}") from error
    return images


def _files(root: Path) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        images = (
            name for name in names if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS
        )
        found += [Path(folder, name) for name in images]
    return sorted(found)
