"""Conversion of images to a model's input: channels, size, bytes. Images are resized here and nowhere else."""

import numpy as np
from PIL import Image

from distsim.data.dataset import Images

BITS = 16  # of a pixel, at most
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
    image = _converted(image, "L" if channels == 1 else "RGB", bits)
    if shorter != size:
        # the longer side is rounded half up, and never falls below `size`
        width, height = ((2 * side * size + shorter) // (2 * shorter) for side in (width, height))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    if (width, height) != (size, size):
        image = image.crop((left, top, left + size, top + size))
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


def largest_grey(image: Image.Image) -> int | None:
    """Return the largest grey value of an image with more than 8 bits a pixel, None for every other image.

    ValueError: pixels have more than 16 bits.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return None
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() >= 2**BITS:
        raise ValueError("pixels of more than 16 bits are not supported")
    return int(values.max())


def _converted(image: Image.Image, mode: str, bits: int) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        # not by Pillow, whose conversion of 16 bits has changed between versions (clipping, shifting)
        largest_grey(image)
        white = 2**bits - 1
        values = np.minimum(np.asarray(image).astype(np.uint32), white)
        image = Image.fromarray(((2 * 255 * values + white) // (2 * white)).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # in two steps: Pillow warns if a palette with alpha loses it in one
    return image if image.mode == mode else image.convert(mode)
