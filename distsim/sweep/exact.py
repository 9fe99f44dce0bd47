"""Numbers that are the same on every processor: made from a counter by integer arithmetic, exact in float32 already.

`torch.Generator` and NumPy's do not promise that: normal numbers and masks are drawn in another way where a processor
has other instructions, and a new version may draw them differently.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode  # the way in that torch's own notes on extending it name

PROJECTIONS = 16
_ROWS = 4096  # entries that one matrix of signs covers; 512 KiB stay in the cache


def words(name: str, count: int) -> NDArray[np.uint64]:
    """Return (count,) 64-bit words of the stream of this name: SplitMix64 (Steele et al. 2014) from its SHA-256."""
    return split_mix(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"), count)


def split_mix(start: int, count: int) -> NDArray[np.uint64]:
    z = np.arange(1, count + 1, dtype=np.uint64)  # sums and products of arrays are taken modulo 2^64
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(start)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniform(name: str, shape: Sequence[int]) -> NDArray[np.float64]:
    """Return numbers (2k + 1) / 2^17 in (0, 1) from the stream of this name, k of 16 bits."""
    count = math.prod(shape)
    k = words(name, -(-count // 4)).astype("<u8", copy=False).view("<u2")[:count].astype(np.float64)
    return ((2 * k + 1) / 2**17).reshape(tuple(shape))


def _signs(name: str, rows: int) -> NDArray[np.float64]:
    """Return (rows, 16) of +1 and -1: the bits of the stream's numbers."""
    bits = words(name, -(-rows // 4)).astype("<u8", copy=False).view(np.uint8)
    signs = np.unpackbits(bits, bitorder="little").reshape(-1, PROJECTIONS)[:rows].astype(np.float64)
    return 2 * signs - 1


_SIGNS = _signs("signs", _ROWS)


def projections(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the products of all n values with 16 fixed vectors of ±1/√n; zeros where there are no values.

    Rounding of each value by at most e moves a projection by about e. The signs of entry i are those of i mod 4096
    times those of i div 4096.
    """
    flat = values.reshape(-1)
    whole = len(flat) - len(flat) % _ROWS
    found = (flat[:whole].reshape(-1, _ROWS) @ _SIGNS) * _signs("blocks", whole // _ROWS)
    rest = flat[whole:] @ _SIGNS[: len(flat) - whole]
    total: NDArray[np.float64] = (found.sum(axis=0) + rest) / math.sqrt(max(len(flat), 1))
    return total


class ExactDraws(TorchDispatchMode):
    """Inside the block, what torch draws comes from numbered streams instead of a generator, whoever's that is.

    Dropout of every kind is a uniform or Bernoulli draw by the time it arrives here, so that its rate can be seen in
    what it lets through. Draws of kinds that are not known here stay torch's.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._drawn = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports torch's compiler: 887 modules, seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        self._drawn += 1
        match func._schema.name.removeprefix("aten::"):
            case "rand" | "rand_like":
                made = func(*args, **kwargs)
                return made.copy_(self._uniform(made))
            case "randn" | "randn_like":
                made = func(*args, **kwargs)
                return made.copy_(self._normal(made))
            case "uniform_":
                low, high = _given(args, kwargs, ("from", 0.0), ("to", 1.0))
                return args[0].copy_(low + (high - low) * self._uniform(args[0]))
            case "normal_":
                mean, sd = _given(args, kwargs, ("mean", 0.0), ("std", 1.0))
                return args[0].copy_(mean + sd * self._normal(args[0]))
            case "bernoulli_":
                (p,) = _given(args, kwargs, ("p", 0.5))
                return args[0].copy_(self._uniform(args[0]) >= 1 - p)
            case "bernoulli":
                (p,) = _given(args, kwargs, ("p", args[0]))
                return (self._uniform(args[0]) >= 1 - p).to(args[0].dtype)
            case "native_dropout" if args[2] in (True, None):
                kept = self._uniform(args[0]) >= args[1]
                return args[0] * kept / (1 - args[1]), kept
            case _:
                return func(*args, **kwargs)

    def _uniform(self, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(uniform(f"draw {self._drawn}", like.shape)).to(like.device)

    def _normal(self, like: torch.Tensor) -> torch.Tensor:
        """Near enough to normal, mean 0 and variance 1: four uniform numbers added, without a logarithm."""
        drawn = uniform(f"draw {self._drawn}", (4, *like.shape))
        return torch.from_numpy((drawn.sum(axis=0) - 2.0) * math.sqrt(3.0)).to(like.device)


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], *parameters: tuple[str, Any]) -> list[Any]:
    """Return the operation's parameters after its tensor, by place or by name, or their defaults."""
    rest = args[1:]
    return [
        rest[place] if place < len(rest) else kwargs.get(name, default)
        for place, (name, default) in enumerate(parameters)
    ]
