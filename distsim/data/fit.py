"""Images brought to a model's input: channels, size, bytes. The one place that resizes."""

import numpy as np
from PIL import Image

from distsim.data.dataset import Images

LONGEST = 100  # sides to a side: a line of pixels, enlarged until it is `size` wide, would fill the memory


def fit(image: Image.Image, size: int, channels: int) -> Images:
    """The image as (channels, size, size) uint8, channels 1 (grey) or 3 (RGB).

    Converted, then the shorter side resized to `size` (bilinear with antialias: Pillow widens the filter when it
    shrinks), then cropped at the centre. An image of that size already keeps its pixels. Alpha is dropped, the first
    frame of an animation taken, 16-bit grey scaled to 8 bits. ValueError: pixels of more than 16 bits, or one side
    more than LONGEST times the other.
    """
    width, height = image.size
    shorter = min(width, height)
    if max(width, height) > LONGEST * shorter:
        raise ValueError(f"an image of {width}x{height} pixels is no picture")
    image = _converted(image, "L" if channels == 1 else "RGB")
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
    """Each of `images` (n, c, h, w), c = 1 or 3, through `fit`: (n, channels, size, size). Unchanged if it fits."""
    if images.shape[1:] == (channels, size, size):
        return images
    fitted = np.empty((len(images), channels, size, size), dtype=np.uint8)
    for i, pixels in enumerate(images):
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        fitted[i] = fit(image, size, channels)
    return fitted


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        # Pillow's own conversion of 16 bits has changed between versions (clipping, shifting): ours is fixed
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels of more than 16 bits are not supported")
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # from a palette with alpha Pillow warns unless alpha is dropped in a second step
    return image if image.mode == mode else image.convert(mode)
