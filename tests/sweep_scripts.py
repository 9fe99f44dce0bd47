"""What the tests of whole sweeps share: running a script as a user does, and tiny data in the formats of the real."""

import contextlib
import gzip
import io
import runpy
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

SWEEPS = Path(__file__).parents[1] / "sweeps"
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Outcome(NamedTuple):
    """What a shell would see of a finished command."""

    status: int
    out: str
    err: str


def outcome(command: Callable[[], object]) -> Outcome:
    """Call the command in this process. What it lets through would be a traceback, and is raised here too."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = command()
        except SystemExit as end:
            status = end.code
    assert status is None or isinstance(status, int)
    return Outcome(status or 0, out.getvalue(), err.getvalue())


def run_script(script: str | Path, *arguments: object) -> Outcome:
    """A script of sweeps/ by name, or any by path, as `python SCRIPT ARGUMENTS` runs it.

    A sweep is run without controls unless the arguments say otherwise: few tests are about them, and they would take as
    long as the rest.
    """
    file = script if isinstance(script, Path) else SWEEPS / f"{script}.py"
    if "cli.sweeps import" in file.read_text() and not {"--control", "--help"} & set(arguments):
        arguments = (*arguments, "--control", "none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(file), *map(str, arguments)])
        return outcome(lambda: runpy.run_path(str(file), run_name="__main__"))


def write_images(root: Path, classes: Iterable[str] = CIFAR_CLASSES, train: int = 12, test: int = 2) -> Path:
    """A folder of 32x32 JPEGs, `train` and `test` of each class; each class has a colour of its own."""
    rng = np.random.default_rng(0)
    for name in classes:
        colour = rng.integers(40, 216, 3)
        for part, count in (("train", train), ("test", test)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(colour + rng.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:04d}.jpg", quality=90)
    return root


def write_svhn(root: Path, train: int = 60, test: int = 20) -> Path:
    """SVHN's two .mat files: X (32, 32, 3, n), and y (n, 1) in 1..10, where 10 is the digit 0."""
    rng = np.random.default_rng(1)
    root.mkdir(parents=True)
    for part, count in (("train", train), ("test", test)):
        labels = np.arange(count) % 10 + 1
        images = np.clip(20 * labels + rng.normal(0, 40, (32, 32, 3, count)), 0, 255)
        savemat(root / f"{part}_32x32.mat", {"X": images.astype(np.uint8), "y": labels[:, None].astype(np.uint8)})
    return root


def write_mnist(root: Path, train: int = 60, test: int = 20) -> Path:
    """MNIST's four idx files, compressed as they are published."""
    rng = np.random.default_rng(2)
    root.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % 10
        images = np.clip(20 * labels[:, None, None] + rng.normal(0, 40, (count, 28, 28)), 0, 255).astype(np.uint8)
        header = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28)
        (root / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        header = struct.pack(">4BI", 0, 0, 8, 1, count)
        (root / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.astype(np.uint8).tobytes()))
    return root
