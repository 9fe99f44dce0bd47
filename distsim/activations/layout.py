"""How activations are stored: their dtype, their chunks, their size."""

import math
from collections.abc import Mapping

import torch

from distsim.metrics.rounding import EPS, FLOOR, rank_of_products
from distsim.models import Layer

CHUNK_BYTES = 16 * 2**20  # least size of a chunk, if the array is that large
ROWS = 512  # examples per chunk, unless the layer is so small that it takes more to fill one
FLOAT16_LARGEST = 3e4  # float16 overflows at 65,504
FLOAT16_NOISE = 1e-5  # largest variance of float16's rounding error, as a share of its channel's variance
FLOAT16_MOVES = 1e-4  # largest fall of a layer's mean canonical correlation by that error
DOUBLE_ROWS = 2**16  # rows that are float64 at a time


class Float16Check:
    """A check whether a layer may be stored in float16: `add` all blocks, then take its truth value.

    It is true if nothing overflows, the rounding noise is small beside each channel's variance, and it is small beside
    the variance of each direction that CCA looks at. Normal values get a noise of 1e-7 of their square: a rounding is
    uniform within half a step, 2⁻¹¹ of the value at most, and so has a variance of up to 2⁻²²/3. A large mean, or
    values near float16's smallest, get relatively more, and then the layer is kept in float32.

    **Directions.** CCA scales every direction to unit variance, however small it is among channels that are nearly the
    same. Let R be the correlation matrix of the channels, N the covariance of the rounding errors in the same scale,
    and λ, v an eigenvalue of R and its vector. After rounding, the direction has the variance λ + n with n = vᵀNv, and
    n has nothing to do with the other network. Its correlation falls by the factor √(λ / (λ + n)), that is by n / 2λ at
    most. If R is of rank r, the mean of r correlations thus falls by Σ n / 2λ / r at most. It must not fall by more
    than `FLOAT16_MOVES`. A direction that is zero up to rounding (`metrics.rounding`) counts fully if its noise would
    lift it above that.

    R and N are summed in float64: λ of 1e-8 would be lost in float32, and N must be exactly zero where two channels are
    equal and so are their errors. That costs two products of the layer with itself. In trained networks and in random
    ones, the sum is below 1e-6 (four channels 1e-4 apart: .2).
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        self._n = 0
        self._largest = torch.zeros((), device=device)
        self._sum, self._squares, self._noise, self._sums, self._noises = (
            torch.zeros(channels, dtype=torch.float64, device=device) for _ in range(5)
        )
        self._products, self._noise_products = (
            torch.zeros(channels, channels, dtype=torch.float64, device=device) for _ in range(2)
        )
        self._shift: torch.Tensor | None = None

    def add(self, block: torch.Tensor) -> None:
        """Take a block (..., channels) into account."""
        rows = block.reshape(-1, block.shape[-1])
        if self._shift is None:
            self._shift = rows.mean(dim=0)
        self._n += len(rows)
        self._largest = torch.maximum(self._largest, rows.abs().max())
        noise = rows.to(torch.float16).to(torch.float32) - rows
        centred = rows - self._shift
        self._sum += centred.sum(dim=0).double()
        self._squares += (centred * centred).sum(dim=0).double()
        self._noise += (noise * noise).sum(dim=0).double()
        for part in rows.split(DOUBLE_ROWS):
            exact = part.double()
            errors = part.to(torch.float16).double() - exact
            exact -= self._shift.double()
            self._sums += exact.sum(dim=0)
            self._noises += errors.sum(dim=0)
            self._products += exact.T @ exact
            self._noise_products += errors.T @ errors

    def __bool__(self) -> bool:
        if self._products.device.type != "cpu":
            return bool(self.safe)
        variance = (self._squares - self._sum**2 / self._n).clamp_min(0)
        constant = variance <= self._squares * 1e-12
        # a constant channel stays constant whatever its rounding
        safe = constant | (self._noise <= FLOAT16_NOISE * variance)
        if not (bool(self._largest < FLOAT16_LARGEST) and bool(safe.all())):
            return False
        return bool(constant.all()) or self._fall(~constant) <= FLOAT16_MOVES

    def _fall(self, alive: torch.Tensor) -> float:
        """Return by how much rounding may lower the mean canonical correlation, over the channels that are alive."""
        R, N = (
            (products - torch.outer(sums, sums) / self._n)[alive][:, alive].cpu()
            for products, sums in ((self._products, self._sums), (self._noise_products, self._noises))
        )
        scale = torch.where(R.diagonal() > 0, R.diagonal().clamp_min(1e-300).rsqrt(), 0)
        R, N = (scale[:, None] * matrix * scale[None, :] for matrix in (R, N))
        values, vectors = (part.flip(-1) for part in torch.linalg.eigh(R))
        noise = (vectors * (N @ vectors)).sum(dim=0).clamp_min(0)
        rank = min(rank_of_products(values.numpy()), self._n - 1)
        lifted = min(rank_of_products((values + noise).numpy()), self._n - 1) - rank
        return (float((noise / values)[:rank].clamp_max(1).sum()) / 2 + max(0, lifted)) / max(1, rank)

    @property
    def safe(self) -> torch.Tensor:
        """Return the truth value as a tensor of no dimension, without waiting for the device.

        The sums are those of a CPU's truth value. Channels without variance are zero in the matrices, not cut out.
        """
        variance = (self._squares - self._sum**2 / self._n).clamp_min(0)
        alive = variance > self._squares * 1e-12
        quiet = (~alive | (self._noise <= FLOAT16_NOISE * variance)).all()
        R, N = (
            torch.where(alive[:, None] & alive, products - torch.outer(sums, sums) / self._n, 0).nan_to_num()
            for products, sums in ((self._products, self._sums), (self._noise_products, self._noises))
        )
        scale = torch.where(R.diagonal() > 0, R.diagonal().clamp_min(1e-300).rsqrt(), 0)
        R, N = (scale[:, None] * matrix * scale[None, :] for matrix in (R, N))
        values, vectors = (part.flip(-1) for part in torch.linalg.eigh(R))
        noise = (vectors * (N @ vectors)).sum(dim=0).clamp_min(0)
        columns = alive.sum()
        rank, lifted = (
            (part > FLOOR * columns * EPS * part[0]).sum().clamp_max(self._n - 1) for part in (values, values + noise)
        )
        share = torch.where(torch.arange(len(values), device=R.device) < rank, noise / values, 0).clamp_max(1)
        fall = (share.sum() / 2 + (lifted - rank).clamp_min(0)) / rank.clamp_min(1)
        return (self._largest < FLOAT16_LARGEST) & quiet & (~alive.any() | (fall <= FLOAT16_MOVES))


def storage_dtype(layer: Layer, rule: str) -> str:
    """Return the dtype in which a layer is first stored: under `auto`, float32 for fc and out, float16 for all others.

    rule : auto or float32
    """
    return "float32" if rule == "float32" or layer.kind in ("fc", "out") else "float16"


def chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunk an array over examples and image rows, at least 16 MiB each; a smaller array is one chunk.

    shape : (n, h, w, c) or (n, p)
    Sizes are those of float16 whatever is stored, so that a layer has the same panels in every network.
    """
    n, *rest = shape
    itemsize = 2
    per_row = math.prod(rest[1:]) * itemsize if len(rest) == 3 else math.prod(rest) * itemsize
    h = rest[0] if len(rest) == 3 else 1
    h_block = min(h, max(1, math.ceil(CHUNK_BYTES / (min(n, ROWS) * per_row))))
    n_block = min(n, max(ROWS, math.ceil(CHUNK_BYTES / (h_block * per_row))))
    return (n_block, h_block, *rest[1:]) if len(rest) == 3 else (n_block, *rest)


def bytes_per_network(shapes: Mapping[Layer, tuple[int, ...]], examples: int, rule: str) -> int:
    """Return the uncompressed bytes of one network's activations, if float16 is safe for all layers that may use it.

    shapes : each layer's output for one image, (h, w, c) or (p,)
    rule : as in `storage_dtype`
    """
    itemsize = {"float16": 2, "float32": 4}
    return examples * sum(math.prod(shape) * itemsize[storage_dtype(layer, rule)] for layer, shape in shapes.items())
