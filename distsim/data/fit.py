"""Conversion of images to a model's input: channels, size, bytes. Images are resized here and nowhere else."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from distsim.data.dataset import Images

BITS = 16  # of a pixel, at most
WIDER = 257  # 8 bits, 0 to 255, times this are 16 bits, 0 to 65,535
_STRIP = 2**20  # pixels with more than 8 bits that are looked at, or converted, at once
LONGEST = 100  # longer / shorter side, at most: enlarging a thin line until it is `size` wide would fill the memory


def fit(image: Image.Image, size: int, channels: int, bits: int = BITS) -> Images:
    """Return the image as (channels, size, size) uint8, with 1 channel (grey) or 3 (RGB).

    The image is converted, then resized so that its shorter side is `size`, then cropped at the centre. Resizing is
    bilinear with antialiasing: Pillow widens the filter when it shrinks. An image that has the size already keeps its
    pixels. Alpha is dropped, the first frame of an animation is taken.

    bits : significant bits of grey values that are stored in more than 8 bits. 0 to 2^bits - 1 is scaled to 0 to 255,
        rounded half up, and what is larger becomes 255
    ValueError: pixels have more than 16 bits, or one side is more than LONGEST times the other.
    """
    width, height = image.size
    shorter = min(width, height)
    if max(width, height) > LONGEST * shorter:
        raise ValueError(
            f"an image of {width}x{height} pixels is too narrow: one side may be at most {LONGEST} times the other"
        )
    mode = "L" if channels == 1 else "RGB"
    image = _converted(image, mode, bits)
    if shorter != size:
        # the longer side is rounded half up, and never falls below `size`
        width, height = ((2 * side * size + shorter) // (2 * shorter) for side in (width, height))
        image = _resized(image, width, height)
    left, top = (width - size) // 2, (height - size) // 2
    if (width, height) != (size, size):
        image = image.crop((left, top, left + size, top + size))
    if image.mode != mode:
        image = image.convert(mode)
    pixels = np.asarray(image, dtype=np.uint8).reshape(size, size, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def fit_all(images: Images, size: int, channels: int) -> Images:
    """Apply `fit` to each of `images` (n, c, h, w), c = 1 or 3: (n, channels, size, size).

    Images that have that shape already are returned as they are.
    """
    if images.shape[1:] == (channels, size, size):
        return images
    fitted = np.empty((len(images), channels, size, size), dtype=np.uint8)
    for i, pixels in enumerate(images):
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        fitted[i] = fit(image, size, channels)
    return fitted


@dataclass(frozen=True)
class Greys:
    """The grey values of an image that is stored in more than 8 bits."""

    largest: int
    widened: bool  # all are multiples of 257: 8 bits that were made 16, from 0 to 255 to 0 to 65,535


def greys_of(image: Image.Image) -> Greys | None:
    """Return what the grey values are of an image with more than 8 bits a pixel, None for every other image.

    ValueError: pixels have more than 16 bits.
    """
    if image.mode == "F":
        raise ValueError(_TOO_DEEP)
    if not _is_deep(image):
        return None
    largest, widened = 0, True
    for _, values in _strips(image):
        if values.min() < 0 or values.max() >= 2**BITS:
            raise ValueError(_TOO_DEEP)
        largest = max(largest, int(values.max()))
        widened = widened and not (values % WIDER).any()
    return Greys(largest, widened)


_TOO_DEEP = "pixels of more than 16 bits are not supported"


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _strips(image: Image.Image) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield the image in strips of whole rows, (rows, width), each with its first row.

    Some pixels at a time: the arithmetic needs a dozen bytes for each, and a scan has 90 million.
    """
    width, height = image.size
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        yield top, np.asarray(image.crop((0, top, width, min(top + rows, height))))


def _converted(image: Image.Image, mode: str, bits: int) -> Image.Image:
    """Return the image in `mode`, or in one that is converted to it after resizing, with the same pixels.

    Pillow has 4 bytes for a pixel of RGB. So grey images become RGB late, and alpha is dropped late.
    """
    if _is_deep(image):
        return _of_bytes(image, bits)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # in two steps: Pillow warns if a palette with alpha loses it in one
    if image.mode == "LA":
        return image.getchannel("L")
    late = image.mode == "L" or (image.mode == "RGBA" and mode == "RGB")
    return image if late or image.mode == mode else image.convert(mode)


def _of_bytes(image: Image.Image, bits: int) -> Image.Image:
    """Return an image with more than 8 bits as grey of 8 bits.

    Not by Pillow, whose conversion of 16 bits has changed between versions (clipping, shifting).
    """
    greys_of(image)
    white = 2**bits - 1
    scaled = np.empty(image.size[::-1], dtype=np.uint8)
    for top, strip in _strips(image):
        values = np.minimum(strip.astype(np.uint32), white)
        scaled[top : top + len(strip)] = (2 * 255 * values + white) // (2 * white)
    return Image.fromarray(scaled)


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the image in another size. Of RGBA the colours alone: Pillow would weight them by alpha."""
    if image.mode != "RGBA":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    return Image.merge("RGB", [_resized(image.getchannel(band), width, height) for band in "RGB"])
