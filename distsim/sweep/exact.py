"""Numbers that are the same on every processor: made from a counter by integer arithmetic, and exact in float32.

The generators of PyTorch and NumPy do not promise that. They draw normal numbers and masks differently on processors
with other instructions, and a new version may change them.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode  # named in torch's notes on extending it

PROJECTIONS = 16
_ROWS = 4096  # entries per matrix of signs; its 512 KiB stay in the cache


def words(name: str, count: int) -> NDArray[np.uint64]:
    """Return (count,) 64-bit words of the stream of this name: SplitMix64 (Steele et al. 2014) from its SHA-256."""
    return split_mix(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"), count)


def split_mix(start: int, count: int) -> NDArray[np.uint64]:
    """Return the first (count,) words of SplitMix64 from this start."""
    z = np.arange(1, count + 1, dtype=np.uint64)  # array sums and products are modulo 2^64
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(start)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniform(name: str, shape: Sequence[int]) -> NDArray[np.float64]:
    """Return numbers (2k + 1) / 2^17 in (0, 1) from the stream of this name, where k has 16 bits."""
    count = math.prod(shape)
    k = words(name, -(-count // 4)).astype("<u8", copy=False).view("<u2")[:count].astype(np.float64)
    return ((2 * k + 1) / 2**17).reshape(tuple(shape))


def _signs(name: str, rows: int) -> NDArray[np.float64]:
    """Return a (rows, 16) matrix of +1 and -1, from the bits of the stream."""
    bits = words(name, -(-rows // 4)).astype("<u8", copy=False).view(np.uint8)
    signs = np.unpackbits(bits, bitorder="little").reshape(-1, PROJECTIONS)[:rows].astype(np.float64)
    return 2 * signs - 1


_SIGNS = _signs("signs", _ROWS)


def projections(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the products of all n values with 16 fixed vectors of ±1/√n, or zeros if n = 0.

    Rounding each value by at most e moves a projection by about e. The signs of entry i are those of i mod 4096 times
    those of i div 4096.
    """
    flat = values.reshape(-1)
    whole = len(flat) - len(flat) % _ROWS
    blocks = (flat[:whole].reshape(-1, _ROWS) @ _SIGNS) * _signs("blocks", whole // _ROWS)
    rest = flat[whole:] @ _SIGNS[: len(flat) - whole]
    total: NDArray[np.float64] = (blocks.sum(axis=0) + rest) / math.sqrt(max(len(flat), 1))
    return total


class ExactDraws(TorchDispatchMode):
    """A `with` block in which torch draws from numbered streams, whichever generator is asked for.

    Dropout of every kind arrives here as a uniform or Bernoulli draw, so its rate shows in what it lets through. Kinds
    of draws that are not listed here stay torch's.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._drawn = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise the first operation imports torch's compiler, 887 modules, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        self._drawn += 1
        match func._schema.name.removeprefix("aten::"):
            case "rand" | "rand_like":
                drawn = func(*args, **kwargs)
                return drawn.copy_(self._uniform(drawn))
            case "randn" | "randn_like":
                drawn = func(*args, **kwargs)
                return drawn.copy_(self._normal(drawn))
            case "uniform_":
                low, high = _parameters(args, kwargs, ("from", 0.0), ("to", 1.0))
                return args[0].copy_(low + (high - low) * self._uniform(args[0]))
            case "normal_":
                mean, sd = _parameters(args, kwargs, ("mean", 0.0), ("std", 1.0))
                return args[0].copy_(mean + sd * self._normal(args[0]))
            case "bernoulli_":
                (p,) = _parameters(args, kwargs, ("p", 0.5))
                return args[0].copy_(self._uniform(args[0]) >= 1 - p)
            case "bernoulli":
                (p,) = _parameters(args, kwargs, ("p", args[0]))
                return (self._uniform(args[0]) >= 1 - p).to(args[0].dtype)
            case "native_dropout" if args[2] in (True, None):
                mask = self._uniform(args[0]) >= args[1]
                return args[0] * mask / (1 - args[1]), mask
            case _:
                return func(*args, **kwargs)

    def _uniform(self, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(uniform(f"draw {self._drawn}", like.shape)).to(like.device)

    def _normal(self, like: torch.Tensor) -> torch.Tensor:
        """Return nearly normal numbers of mean 0 and variance 1: sums of four uniform numbers, without a logarithm."""
        drawn = uniform(f"draw {self._drawn}", (4, *like.shape))
        return torch.from_numpy((drawn.sum(axis=0) - 2.0) * math.sqrt(3.0)).to(like.device)


def _parameters(args: tuple[Any, ...], kwargs: dict[str, Any], *defaults: tuple[str, Any]) -> list[Any]:
    """Return the parameters after the tensor, given by position or by name, or their defaults."""
    rest = args[1:]
    return [
        rest[place] if place < len(rest) else kwargs.get(name, default)
        for place, (name, default) in enumerate(defaults)
    ]
