"""Data of one's own with anything in them: a data set, or a sentence that names the file."""

import gzip
import os
import random
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import DAMAGE, in_time, judged
from PIL import Image
from scipy.io import savemat
from sweep_scripts import run_script, write_mnist, write_svhn

from distsim.data import Dataset, load, read_folder
from distsim.data.fit import fit
from distsim.problems import PROBLEMS

HERE = ("--local", "--device", "cpu", "--runs", 1, "--iterations", 1, "--epochs", 1, "--train-limit", 10, "--probe", 5)
SIZE = 8
FOLDERS = 120  # drawn
DAMAGED = 60  # .mat files, and as many idx files


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTSIM_CACHE", str(tmp_path / "cache"))


def refused_by_the_script(script: str, data: str, storage: Path, *flags: object) -> str:
    """The sentence; nothing is in the store."""
    result = run_script(script, *HERE, *flags, "--data", data, "--storage", storage)
    assert result.status == 1
    assert not list(storage.rglob("*"))
    return judged(result)


# --- folders of images -----------------------------------------------------------------------------------------------


def pixels(rng: random.Random, *shape: int) -> Any:
    return np.frombuffer(rng.randbytes(int(np.prod(shape))), np.uint8).reshape(shape)


def picture(mode: str, suffix: str, height: int = 11, width: int = 9, **options: Any) -> Callable[..., None]:
    """Writes an image of this mode beside the path given, under a suffix of its own."""

    def write(path: Path, rng: random.Random) -> None:
        bands = len(Image.new(mode, (1, 1)).getbands())
        if mode == "1":
            image = Image.fromarray(pixels(rng, height, width) > 127)
        elif mode == "I;16":
            image = Image.frombytes(mode, (width, height), rng.randbytes(2 * height * width))
        elif mode == "P":
            image = Image.fromarray(pixels(rng, height, width, 3)).quantize(7)
        else:
            image = Image.frombytes(mode, (width, height), rng.randbytes(bands * height * width))
        image.save(path.with_suffix(suffix), **options)

    return write


def animated(path: Path, rng: random.Random) -> None:
    frames = [Image.fromarray(pixels(rng, 9, 9)) for _ in range(3)]
    frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:])


def content_of(good: Callable[..., None], suffix: str, change: Callable[[bytes, random.Random], bytes]) -> Any:
    """The bytes of an image, changed."""

    def write(path: Path, rng: random.Random) -> None:
        good(path, rng)
        file = path.with_suffix(suffix)
        file.write_bytes(change(file.read_bytes(), rng))

    return write


def png(width: int, height: int, rows: bytes) -> bytes:
    """A grey PNG of any size that its header may claim."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n%%EOF\n"
JPEG, PNG = picture("RGB", ".jpg"), picture("RGB", ".png")

# one image more, whatever it is
GOOD: dict[str, Callable[..., None]] = {
    "jpeg": JPEG,
    "progressive jpeg": picture("RGB", ".jpeg", progressive=True),
    "grey jpeg": picture("L", ".JPG"),
    "cmyk jpeg": picture("CMYK", ".jpg"),
    "png": PNG,
    "grey and alpha": picture("LA", ".png"),
    "alpha": picture("RGBA", ".png"),
    "palette": picture("P", ".png"),
    "palette with alpha": picture("P", ".png", transparency=b"\x00\x80\xff"),
    "16 bits": picture("I;16", ".png"),
    "1 bit": picture("1", ".png"),
    "1x1": picture("RGB", ".png", 1, 1),
    "1x40": picture("RGB", ".png", 1, 40),
    "1x1 jpeg": picture("L", ".jpg", 1, 1),
    "bmp": picture("RGB", ".bmp"),
    "webp": picture("RGB", ".webp"),
    "tiff": picture("CMYK", ".tif"),
    "ppm": picture("RGB", ".ppm"),
    "pgm": picture("L", ".pgm"),
    "animated": animated,
    "a png named jpg": content_of(PNG, ".png", lambda content, rng: content),
    "something after the end": content_of(JPEG, ".jpg", lambda content, rng: content + rng.randbytes(50)),
}

# what is no image, and not taken for one
IGNORED: dict[str, Callable[[Path, Path], object]] = {
    "text": lambda root, folder: (folder / "notes.txt").write_text("none"),
    "hidden": lambda root, folder: (folder / ".hidden.jpg").write_text("none"),
    "macOS": lambda root, folder: (folder / "._0.jpg").write_bytes(b"\x00\x05\x16\x07"),
    "a folder named jpg": lambda root, folder: (folder / "folder.jpg").mkdir(),
    "a pipe named jpg": lambda root, folder: os.mkfifo(folder / "pipe.jpg"),
    "a nested folder": lambda root, folder: JPEG(made(folder / "nested") / "0", random.Random(0)),
    "a file beside the classes": lambda root, folder: (folder.parent / "readme.jpg").write_text("none"),
    "a hidden class": lambda root, folder: (folder.parent / ".hidden").mkdir(),
    "a third part": lambda root, folder: (root / "validation" / "other").mkdir(parents=True),
    "a loop of folders": lambda root, folder: (folder / "loop").symlink_to(folder),
}

# after which there is no data set
BAD: dict[str, Callable[[Path, Path, random.Random], object]] = {
    "text named jpg": lambda root, folder, rng: (folder / "bad.jpg").write_text("not an image"),
    "empty": lambda root, folder, rng: (folder / "bad.png").write_bytes(b""),
    "half a jpeg": lambda root, folder, rng: content_of(JPEG, ".jpg", halved)(folder / "bad", rng),
    "half a png": lambda root, folder, rng: content_of(PNG, ".png", halved)(folder / "bad", rng),
    "half a tiff": lambda root, folder, rng: content_of(picture("RGB", ".tif"), ".tif", halved)(folder / "bad", rng),
    "a bomb": lambda root, folder, rng: (folder / "bad.png").write_bytes(png(60_000, 60_000, b"")),
    "nearly a bomb": lambda root, folder, rng: (folder / "bad.png").write_bytes(png(10_000, 10_000, b"")),
    "a line": lambda root, folder, rng: (folder / "bad.png").write_bytes(png(200_000, 1, bytes(200_001))),
    "no pixels": lambda root, folder, rng: (folder / "bad.png").write_bytes(png(0, 0, b"")),
    "PostScript": lambda root, folder, rng: (folder / "bad.jpg").write_bytes(POSTSCRIPT),
    "a link to nothing": lambda root, folder, rng: (folder / "bad.jpg").symlink_to(root / "nothing"),
    "a link to itself": lambda root, folder, rng: (folder / "bad.jpg").symlink_to(folder / "bad.jpg"),
    "a class that is a link to itself": lambda root, folder, rng: (folder.parent / "bad").symlink_to("bad"),
    "a class too many": lambda root, folder, rng: JPEG(made(folder.parent / "bad") / "0", rng),
    "an empty class": lambda root, folder, rng: [made(root / part / "bad") for part in ("train", "test")],
    "a class of folders": lambda root, folder, rng: [made(root / part / "bad" / "x") for part in ("train", "test")],
    "a class that is a file": lambda root, folder, rng: as_file(folder),
    "no images": lambda root, folder, rng: emptied(folder),
    "no part": lambda root, folder, rng: shutil.rmtree(folder.parent),
    "a part that is a file": lambda root, folder, rng: as_file(folder.parent),
    "no classes": lambda root, folder, rng: [emptied(root / p) for p in ("train", "test")],
}

# after which there may be one
EITHER: dict[str, Callable[..., None]] = {
    f"{name} {change}": content_of(write, suffix, DAMAGE[change])
    for name, write, suffix in (
        *(("jpeg", JPEG, ".jpg"), ("png", PNG, ".png"), ("16 bits", picture("I;16", ".png"), ".png")),
        *(("bmp", picture("RGB", ".bmp"), ".bmp"), ("tiff", picture("RGB", ".tif"), ".tif"), ("gif", animated, ".gif")),
        *(("webp", picture("RGB", ".webp"), ".webp"), ("ppm", picture("RGB", ".ppm"), ".ppm")),
    )
    for change in ("truncated", "flipped", "scrambled")
}

NAMES = ("ant", "bee", "é", "with space", "line\nbreak", "\udcff", "x" * 200, "'", "%s", "-1", "nan", "0")


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder)
    return made(folder)


def as_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("bad")


def halved(content: bytes, rng: random.Random) -> bytes:
    return content[: len(content) // 2]


def folder_of_good(root: Path, rng: random.Random) -> tuple[list[str], int]:
    """Some classes of some images each; the classes, and how many training images there are."""
    names, count = rng.sample(NAMES, rng.randrange(1, 4)), 0
    for part in ("train", "test"):
        for name in names:
            for number in range(rng.randrange(1, 4)):
                GOOD[rng.choice(list(GOOD))](made(root / part / name) / f"{number}", rng)
                count += part == "train"
    return names, count


def case(seed: int) -> tuple[random.Random, str]:
    """A generator, and the kind of what the folder holds besides images: each kind at least once, in turn."""
    kinds = [*(f"good: {name}" for name in GOOD), *(f"ignored: {name}" for name in IGNORED)]
    kinds += [*(f"bad: {name}" for name in BAD), *(f"either: {name}" for name in EITHER)]
    assert len(kinds) <= FOLDERS
    return random.Random(seed), kinds[seed % len(kinds)]


@pytest.mark.parametrize("seed", range(FOLDERS), ids=lambda seed: f"{seed}-{case(seed)[1]}")
def test_a_folder_of_anything(tmp_path: Path, seed: int) -> None:
    rng, named = case(seed)
    kind, name = named.split(": ", 1)
    root = tmp_path / "images"
    names, count = folder_of_good(root, rng)
    part = rng.choice(("train", "test"))
    folder = root / part / rng.choice(names)
    if kind in ("good", "either"):
        (GOOD | EITHER)[name](folder / "more", rng)
        count += part == "train"
    elif kind == "ignored":
        IGNORED[name](root, folder)
    else:
        BAD[name](root, folder, rng)
    said = ""
    with in_time():
        try:
            found = read_folder(root, SIZE, 3)
        except (ValueError, OSError) as error:
            said = str(error)
    if kind == "bad" or (kind == "either" and said):
        assert str(root) in said
        data = f"folder:{root}"
        with in_time():
            spoken = refused_by_the_script("digits", data, tmp_path / "store", "--probe", 1, "--train-limit", 9)
        assert str(root) in spoken
        return
    assert not said
    assert found.classes == tuple(sorted(names))
    assert found.train_images.shape == (count, 3, SIZE, SIZE)


@pytest.mark.parametrize("name", GOOD)
def test_any_image_fits(tmp_path: Path, name: str) -> None:
    GOOD[name](tmp_path / "image", random.Random(0))
    (file,) = tmp_path.iterdir()
    with in_time(), Image.open(file) as image:
        for channels in (1, 3):
            assert fit(image, SIZE, channels).shape == (channels, SIZE, SIZE)


# --- SVHN's .mat files -----------------------------------------------------------------------------------------------

N = 20
LABELS = (np.arange(N) % 10 + 1).astype(np.uint8)[:, None]


@pytest.fixture(scope="module")
def svhn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_svhn(tmp_path_factory.mktemp("svhn") / "data", N, N)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mnist(tmp_path_factory.mktemp("mnist") / "data", N, N)


def whole(problem: str, root: Path, storage: Path) -> Dataset | None:
    """The data set; None where it is refused, which names a file or a class, and the script says the same."""
    with in_time():
        try:
            return load(PROBLEMS[problem], f"files:{root}")
        except (ValueError, FileNotFoundError) as error:
            said = str(error)
    assert str(root) in said or re.search("class '|no test image|train_images are|an image of 4000x1", said), said
    with in_time():
        assert refused_by_the_script(problem, f"files:{root}", storage).endswith(said)
    return None


@pytest.mark.parametrize("seed", range(DAMAGED))
def test_a_damaged_mat_file(svhn: Path, tmp_path: Path, seed: int) -> None:
    """Compressed or not, cut, with other bits or bytes: what is read is of the right kind."""
    rng, root = random.Random(seed), Path(shutil.copytree(svhn, tmp_path / "data"))
    file = root / rng.choice(("train_32x32.mat", "test_32x32.mat"))
    images = pixels(rng, 32, 32, 3, N)
    savemat(file, {"X": images, "y": LABELS, "other": {"a": [1, "b"]}}, do_compression=bool(seed % 2))
    change = rng.choice(("truncated", "flipped", "scrambled"))
    content = file.read_bytes()
    if seed % 3 == 0:  # at the beginning, where sizes and types are said
        file.write_bytes(DAMAGE[change](content[:300], rng) + content[300:] * (change != "truncated"))
    else:
        file.write_bytes(DAMAGE[change](content, rng))
    found = whole("vgg_svhn", root, tmp_path / "store")
    if found is not None:
        assert found.train_images.shape[1:] == (3, 32, 32)


def mat(**changes: Any) -> Callable[[Path], object]:
    content = {"X": np.zeros((32, 32, 3, N), np.uint8), "y": LABELS} | changes
    return lambda file: savemat(file, {key: value for key, value in content.items() if value is not None})


def sparse(kind: str) -> Any:
    from scipy import sparse

    return sparse.csc_matrix(np.ones((N, 1)), dtype=kind)


MATS: dict[str, Callable[[Path], object]] = {
    "no X": mat(X=None),
    "no y": mat(y=None),
    "nothing": mat(X=None, y=None),
    "other case": mat(X=None, y=None, x=np.zeros(3), Y=LABELS),
    "floats": mat(X=np.zeros((32, 32, 3, N))),
    "signed": mat(X=np.zeros((32, 32, 3, N), np.int8)),
    "images first": mat(X=np.zeros((N, 32, 32, 3), np.uint8)),
    "grey": mat(X=np.zeros((32, 32, N), np.uint8)),
    "large": mat(X=np.zeros((64, 64, 3, 2), np.uint8)),
    "no images": mat(X=np.zeros((32, 32, 3, 0), np.uint8), y=np.zeros((0, 1), np.uint8)),
    "an image": mat(X=np.zeros((32, 32, 3, 1), np.uint8), y=np.ones((1, 1), np.uint8)),
    "text": mat(X="images"),
    "a struct": mat(X={"data": np.zeros((32, 32, 3, N), np.uint8)}),
    "cells": mat(X=np.array([1, "two", [3]], dtype=object)),
    "few labels": mat(y=LABELS[:-1]),
    "many labels": mat(y=np.vstack([LABELS, LABELS])),
    "label 11": mat(y=LABELS + 1),
    "label -1": mat(y=LABELS.astype(np.int16) - 2),
    "halves": mat(y=LABELS + 0.5),
    "NaN": mat(y=LABELS * np.nan),
    "infinite": mat(y=LABELS * np.inf),
    "complex": mat(y=LABELS + 1j),
    "a text of labels": mat(y="1234567890" * 2),
    "labels in cells": mat(y=np.array([[str(i)] for i in range(N)], dtype=object)),
    "sparse labels": mat(y=sparse("float64")),
    "one digit": mat(y=np.ones((N, 1), np.uint8)),
    "text file": lambda file: file.write_text("X y\n1 2\n" * 100),
    "empty file": lambda file: file.write_bytes(b""),
    "only zeros": lambda file: file.write_bytes(bytes(1000)),
    "newer": lambda file: file.write_bytes(
        b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM\x89HDF\r\n\x1a\n" + bytes(500)
    ),
    "older": lambda file: savemat(file, {"X": np.zeros((3, 3)), "y": LABELS}, format="4"),
    "too large to be": lambda file: file.write_bytes(claimed_large(file)),
    "folder": lambda file: file.mkdir(),
    "link to nothing": lambda file: file.symlink_to("nothing"),
    "link to itself": lambda file: file.symlink_to(file),
}
MATS_THAT_FIT = {"row of labels": mat(y=LABELS.T), "zeros": mat(y=LABELS % 10), "float labels": mat(y=LABELS * 1.0)}


def claimed_large(file: Path) -> bytes:
    """A file whose X has 2 ** 31 - 1 images, says the header."""
    mat()(file)
    content = file.read_bytes()
    dimensions = struct.pack("<4i", 32, 32, 3, N)
    assert content.count(dimensions) == 1
    return content.replace(dimensions, struct.pack("<4i", 32, 32, 3, 2**31 - 1))


@pytest.mark.parametrize("kind", [*MATS, *MATS_THAT_FIT])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_mat_file_of_something_else(svhn: Path, tmp_path: Path, kind: str, part: str) -> None:
    root = Path(shutil.copytree(svhn, tmp_path / "data"))
    (root / f"{part}_32x32.mat").unlink()
    (MATS | MATS_THAT_FIT)[kind](root / f"{part}_32x32.mat")
    found = whole("vgg_svhn", root, tmp_path / "store")
    fits = kind in MATS_THAT_FIT or (part == "test" and kind in ("one digit", "an image"))
    assert (found is not None) == fits


# --- MNIST's idx files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(DAMAGED))
def test_a_damaged_idx_file(mnist: Path, tmp_path: Path, seed: int) -> None:
    """Packed or not; damaged before or after packing."""
    rng, root = random.Random(seed), Path(shutil.copytree(mnist, tmp_path / "data"))
    packed = rng.choice(sorted(root.iterdir()))
    plain = gzip.decompress(packed.read_bytes())
    damage = DAMAGE[rng.choice(("truncated", "flipped", "scrambled"))]
    if seed % 4 == 0:
        packed.write_bytes(damage(packed.read_bytes(), rng))
    elif seed % 4 == 1:
        packed.write_bytes(gzip.compress(damage(plain, rng)))
    else:
        packed.unlink()
        cut = 16 if seed % 4 == 2 else len(plain)
        packed.with_suffix("").write_bytes(damage(plain[:cut], rng) + plain[cut:])
    found = whole("lenet5_mnist", root, tmp_path / "store")
    if found is not None:
        assert found.train_images.shape[1:] == (1, 28, 28)


def idx(*lengths: int, kind: int = 8, content: bytes | None = None) -> bytes:
    values = bytes(int(np.prod(lengths, dtype=object))) if content is None else content
    return struct.pack(f">4B{len(lengths)}I", 0, 0, kind, len(lengths), *lengths) + values


IDX: dict[str, bytes] = {
    "empty": b"",
    "three bytes": b"\x00\x00\x08",
    "text": b"label,pixels\n" * 100,
    "zeros": bytes(1000),
    "a header": idx(N, 28, 28, content=b""),
    "no images": idx(0, 28, 28),
    "no rows": idx(N, 0, 28),
    "no columns": idx(N, 28, 0),
    "nothing at all": idx(0, 0, 0),
    "2 ** 31 images": idx(2**31, 28, 28, content=bytes(784)),
    "the most": idx(2**32 - 1, 2**32 - 1, 2**32 - 1, content=bytes(784)),
    "a product of 2 ** 64": idx(2**31, 2**31, 4, content=b""),
    "a product of 2 ** 64 and a bit": idx(2**31, 2**31, 4, content=bytes(784)),
    "one byte more": idx(N, 28, 28) + b"\x00",
    "floats": idx(N, 28, 28, kind=13),
    "two dimensions": idx(N, 784),
    "four dimensions": idx(N, 1, 28, 28),
    "few": idx(N - 1, 28, 28),
    "many": idx(N + 1, 28, 28),
    "labels": idx(N, content=LABELS.tobytes()),
    "a line": idx(N, 1, 4000),
    "another size": idx(N, 20, 20),
}


@pytest.mark.parametrize("parts", [("train",), ("train", "t10k")], ids="-".join)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("kind", IDX)
def test_idx_files_of_something_else(mnist: Path, tmp_path: Path, kind: str, packed: bool, parts: tuple[str]) -> None:
    root = Path(shutil.copytree(mnist, tmp_path / "data"))
    for part in parts:
        file = root / f"{part}-images-idx3-ubyte.gz"
        file.unlink()
        (file if packed else file.with_suffix("")).write_bytes(gzip.compress(IDX[kind]) if packed else IDX[kind])
    found = whole("lenet5_mnist", root, tmp_path / "store")
    assert (found is not None) == (kind == "another size" and len(parts) == 2)


ODD: dict[str, Callable[[Path], Iterator[object] | object]] = {
    "labels of 10": lambda root: replaced(root / "train-labels-idx1-ubyte.gz", idx(N, content=bytes([10]) * N)),
    "images for labels": lambda root: replaced(root / "train-labels-idx1-ubyte.gz", idx(N, 28, 28)),
    "one digit": lambda root: replaced(root / "train-labels-idx1-ubyte.gz", idx(N)),
    "few labels": lambda root: replaced(root / "t10k-labels-idx1-ubyte.gz", idx(N - 1)),
    "no test labels": lambda root: replaced(root / "t10k-labels-idx1-ubyte.gz", idx(0)),
    "a folder": lambda root: as_folder(root / "t10k-labels-idx1-ubyte.gz"),
    "a bomb": lambda root: (root / "train-images-idx3-ubyte.gz").write_bytes(bomb()),
    "a zip": lambda root: (root / "train-images-idx3-ubyte.gz").write_bytes(b"PK\x03\x04" + bytes(100)),
    "no folder": lambda root: shutil.rmtree(root),
    "an empty folder": emptied,
}


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def replaced(file: Path, content: bytes) -> object:
    return file.write_bytes(gzip.compress(content))


def bomb() -> bytes:
    """A header of 60 images and 8 GiB of zeros, in 8 MiB."""
    block = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [block.compress(idx(N, 28, 28))] + [block.compress(bytes(2**24)) for _ in range(4)]
    parts.append(block.flush())
    return b"".join(parts)


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_set_of_idx_files(mnist: Path, tmp_path: Path, kind: str) -> None:
    root = Path(shutil.copytree(mnist, tmp_path / "data"))
    ODD[kind](root)
    assert whole("lenet5_mnist", root, tmp_path / "store") is None
