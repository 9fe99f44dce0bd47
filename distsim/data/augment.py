"""Training augmentation of a whole batch by a single gather of pixels.

Crop, flip and affine only move pixels. So for each image their composition is one integer map from output pixels to
input pixels, or to none (zero). The result equals that of torchvision's functions, applied one after the other:

    crop    zero padding of 4, then a window at an offset of 0..8 in each direction
    flip    left to right, with probability 1/2
    affine  rotation by an angle in ±15° about the image's centre, then translation by up to ±10 % of the side, rounded
            to whole pixels; nearest neighbour, zero fill: RandomAffine(15, translate=(0.1, 0.1))
    normalise
    cutout  a square of 8×8 around a pixel anywhere in the image, clipped at the border, set to 0 after normalisation
"""

import math
from typing import get_args

import torch
from torch import Tensor, nn

from distsim.specs import Augmentation, Recipe

AUGMENTATIONS = get_args(Augmentation)

PADDING = 4  # of the crop, pixels
DEGREES = 15.0  # largest rotation
TRANSLATION = 0.1  # largest translation, of the side
CUTOUT = 8  # side of the square, pixels

_NUMBERS = 8  # uniform numbers per example: 2 for crop, 1 for flip, 3 for affine, 2 for cutout


def draw(augment: tuple[str, ...], n: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the random choices for n examples of size×size pixels, say an epoch: n rows for each step in `augment`.

        crop    (n, 2) int64    row and column of the window in the padded image, 0..8
        flip    (n,) bool
        affine  (n, 3) float32  degrees, and whole pixels to the right and downwards
        cutout  (n, 2) int64    row and column of the square's centre

    The result is on the generator's device. Eight uniform numbers per example are drawn whatever `augment` holds, so
    that a step's choices do not depend on the other steps. ValueError: a step is not in AUGMENTATIONS.
    """
    unknown = set(augment) - set(AUGMENTATIONS)
    if unknown:
        raise ValueError(f"augment knows {AUGMENTATIONS}, not {sorted(unknown)}")
    # torch's float32 uniforms are at most 1 - 2⁻²⁴, and u·k then rounds below the integer k: floor(u·k) < k
    u = torch.rand(n, _NUMBERS, generator=generator, device=generator.device)
    draws = {
        "crop": (u[:, 0:2] * (2 * PADDING + 1)).floor().long(),
        "flip": u[:, 2] < 0.5,
        "affine": (2 * u[:, 3:6] - 1) * torch.tensor([DEGREES, *[TRANSLATION * size] * 2], device=u.device),
        "cutout": (u[:, 6:8] * size).floor().long(),
    }
    draws["affine"][:, 1:].round_()
    return {name: draws[name] for name in AUGMENTATIONS if name in augment}


def apply(images: Tensor, draws: dict[str, Tensor], mean: Tensor, sd: Tensor) -> Tensor:
    """Augment and normalise images.

    images : (b, c, s, s) uint8; draws : from `draw`, b rows of each; mean, sd : (c,) of pixels in [0, 1]
    Returns (b, c, s, s) float32 on the images' device. The draws must be on that device too. Without draws this is
    `normalise`.
    ValueError: the images are not square or have more than 4 channels, or the draws have another number of rows.
    """
    return Pictures(images, mean, sd).batch(torch.arange(len(images), device=images.device), draws)


class Pictures:
    """A set of images, stored so that `batch` can augment any of them fast.

    The channels of a pixel are packed into one number, so that one gather moves them all.

    images : (n, c, s, s) uint8, c at most 4; mean, sd : (c,) of pixels in [0, 1]
    ValueError: the images are not square, or have more than 4 channels.
    """

    def __init__(self, images: Tensor, mean: Tensor, sd: Tensor) -> None:
        n, c, height, width = images.shape
        if height != width:
            raise ValueError(f"apply: images must be square, got {tuple(images.shape)}")
        if c > 4:
            raise ValueError(f"apply: images may have at most 4 channels, got {c}")
        self.n, self.channels, self.size = n, c, height
        self._bytes = 1 if c == 1 else 4  # per pixel
        pixels = images.new_zeros((n, height * width + 1, self._bytes))  # with one zero pixel after each image
        pixels[:, :-1, :c] = images.permute(0, 2, 3, 1).reshape(n, -1, c)
        self._pixels = (pixels if c == 1 else pixels.view(torch.int32)).view(n, -1)
        scale, shift = _linear(mean, sd, images.device)
        # repeated for a whole image, because broadcasting over three values is not vectorised
        self._scale, self._shift = (self._of_pixels(values) for values in (scale, shift))

    def _of_pixels(self, values: Tensor) -> Tensor:
        padded = nn.functional.pad(values.view(-1), (0, self._bytes - self.channels))
        return padded.repeat(self.size * self.size)

    def batch(self, chosen: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """Augment and normalise the images with the indices `chosen`, (b,) int64; the rest is as in `apply`.

        Returns (b, c, s, s) float32, channels last in memory. ValueError: a draw has another number of rows.
        """
        b, size = len(chosen), self.size
        for name, rows in draws.items():
            if len(rows) != b:
                raise ValueError(f"apply: {b} images, but {len(rows)} rows of {name}")
        if draws.keys() & {"crop", "flip", "affine"}:
            source = _source(draws, b, size, chosen.device) + (chosen * (size * size + 1)).view(b, 1, 1)
            pixels = self._pixels.view(-1).index_select(0, source.view(-1))
        else:
            pixels = self._pixels.index_select(0, chosen)[:, :-1].contiguous()
        values = pixels.view(torch.uint8).view(b, -1).to(torch.float32).mul_(self._scale).add_(self._shift)
        result = values.view(b, size, size, self._bytes)[..., : self.channels].permute(0, 3, 1, 2)
        result = result.contiguous(memory_format=torch.channels_last)
        if "cutout" in draws:
            result.masked_fill_(_square(draws["cutout"], size), 0.0)
        return result


def normalise(images: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """Return (images / 255 - mean) / sd as float32; images : (b, c, h, w) uint8, mean and sd : (c,).

    Computed as x·scale + shift in two operations, each of which rounds once, with both constants taken in float64. So a
    pixel's value depends only on its byte and channel, not on its place in the batch.
    """
    scale, shift = _linear(mean, sd, images.device)
    return images.to(torch.float32).mul_(scale).add_(shift)


def normalisation(recipe: Recipe, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return a recipe's means and standard deviations, (c,) each. ValueError: it leaves them to the data."""
    if recipe.normalise is None:
        raise ValueError("the recipe has no normalisation; make the spec with distsim.sweep.order.identify")
    mean, sd = (torch.tensor(values, dtype=torch.float32, device=device) for values in recipe.normalise)
    return mean, sd


def _linear(mean: Tensor, sd: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift that normalise bytes, (c, 1, 1) each."""
    mean, sd = (t.to(device, torch.float64).view(-1, 1, 1) for t in (mean, sd))
    return (1 / (255 * sd)).float(), (-mean / sd).float()


def _source(draws: dict[str, Tensor], b: int, size: int, device: torch.device) -> Tensor:
    """Return the index of the input pixel from which each output pixel comes, for crop, flip and affine.

    The indices are (b, s, s) int64, within the image. An output pixel that comes from none has size·size, one past the
    end.

    The steps are followed backwards: an output pixel comes from column x of the flipped image (`_affine_source`), and
    that from column ±x + offset of the original. Both columns must be inside their image. The second is monotonic in x,
    so this allows one interval of x per example. The same holds for rows. Coordinates are integers in float32, which
    are exact below 2²⁴.
    """
    x, y = _affine_source(draws, b, size, device)
    sign, left, top = _window(draws, b, size, device)

    def outside(position: Tensor, first: Tensor, second: Tensor) -> Tensor:
        low, high = torch.minimum(first, second).clamp(min=0), torch.maximum(first, second).clamp(max=size - 1)
        return (position < low) | (position > high)

    # columns 0 and size - 1 of the original in the flipped image's coordinates; rows likewise, but they are not flipped
    beyond = outside(x, -left * sign, (size - 1 - left) * sign) | outside(y, -top, size - 1 - top)
    source = (y + top) * size + (x * sign + left)
    return source.masked_fill_(beyond, size * size).long()


def _affine_source(draws: dict[str, Tensor], b: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the columns and rows of the pixels that the affine step takes, (b, s, s) or broadcastable to it.

    They may be outside the image. For an output pixel p they are R(-angle)·(p - centre - translation) + centre, with
    halves rounded to even as in grid_sample's nearest neighbour.
    """
    middle = (size - 1) / 2
    x = torch.arange(size, dtype=torch.float32, device=device).view(1, 1, size)
    y = x.view(1, size, 1)
    if "affine" not in draws:
        return x.expand(b, size, size), y
    degrees, right, down = draws["affine"].double().unbind(1)
    cos, sin = torch.cos(degrees * (math.pi / 180)), torch.sin(degrees * (math.pi / 180))
    # the constant terms are computed in float64, so that only the sums over pixels have float32's rounding
    x0 = middle - cos * right - sin * down
    y0 = middle + sin * right - cos * down
    cos, sin, x0, y0 = (t.float().view(b, 1, 1) for t in (cos, sin, x0, y0))
    x, y = x - middle, y - middle
    return (cos * x + (sin * y + x0)).round_(), (cos * y + y0 - sin * x).round_()


def _window(draws: dict[str, Tensor], b: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return sign, left and top, each (b, 1, 1).

    Column x and row y after crop and flip are column sign·x + left and row y + top before them.
    """
    sign = torch.ones(b, 1, 1, device=device)
    left, top = torch.zeros_like(sign), torch.zeros_like(sign)
    if "crop" in draws:
        top, left = (draws["crop"].float() - PADDING).view(b, 2, 1, 1).unbind(1)
    if "flip" in draws:
        flipped = draws["flip"].view(b, 1, 1)
        sign = torch.where(flipped, -1.0, 1.0)
        left = torch.where(flipped, left + (size - 1), left)
    return sign, left, top


def _square(centres: Tensor, size: int) -> Tensor:
    """Return which pixels are in the cut-out squares, (b, 1, s, s) bool.

    The first row of a square is CUTOUT / 2 above its centre.
    """
    from_first = torch.arange(size, device=centres.device) - centres.unsqueeze(2) + CUTOUT // 2  # (b, 2, s)
    inside = (from_first >= 0) & (from_first < CUTOUT)
    return (inside[:, 0, :, None] & inside[:, 1, None, :]).unsqueeze(1)
