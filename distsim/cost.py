"""What comparisons cost, before they are made: bytes to read, multiplications and additions, and about how long."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from distsim.extraction import readable
from distsim.metrics.registry import known

READING = 0.5e9  # bytes a second that one process reads and decodes, or puts out by a forward pass
EIGENVALUES = 4  # times as long as a product of as many FLOPs
SIZE = 1500  # of the products that are timed


@dataclass(frozen=True)
class Cost:
    bytes: float = 0.0  # of activations, decoded
    flops: float = 0.0  # of float64 and float32 products
    of_eigenvalues: float = 0.0  # FLOPs of eigenproblems, which run slower

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.flops + other.flops, self.of_eigenvalues + other.of_eigenvalues)

    def seconds(self, rate: float, at_once: int = 1) -> float:
        """At `rate` FLOP/s, so many comparisons at once: a guess, good to a factor of two or three."""
        return (self.bytes / READING + (self.flops + EIGENVALUES * self.of_eigenvalues) / rate) / at_once

    def sentence(self, rate: float, at_once: int = 1) -> str:
        flops = (self.flops + self.of_eigenvalues) / 1e12
        return f"{readable(self.bytes)} to read, {flops:.3g} TFLOP, about {duration(self.seconds(rate, at_once))}"


def layer_cost(shape: tuple[int, ...], itemsize: int, networks: int, pairs: int, metrics: Iterable[str]) -> Cost:
    """Of one layer: so many networks are read, each once, and so many pairs of them compared.

    shape : (n, h, w, c) or (n, p)
    """
    views = {metric.view for metric in known(metrics)}
    n, p, c = shape[0], math.prod(shape[1:]), shape[-1]
    total = Cost(bytes=float(networks * n * p * itemsize))
    if "channels" in views:
        total += Cost(flops=2.0 * n * p * c * (networks + pairs), of_eigenvalues=9.0 * c**3 * (networks + pairs))
    if "kernel" in views and p >= n:  # Gram matrices, their Cholesky factors, congruences
        total += Cost(flops=networks * (float(n) ** 2 * p + n**3 / 3) + pairs * (4 / 3 * n**3 + 2.0 * n**2))
        total += Cost(of_eigenvalues=pairs * 4 / 3 * n**3)
    elif "kernel" in views:
        total += Cost(flops=networks * 2.0 * n * p**2 + pairs * (2.0 * n * p**2 + p**3))
        total += Cost(of_eigenvalues=pairs * 4 / 3 * p**3)
    return total


def product_rate() -> float:
    """FLOP/s of float64 products here and now, with the threads as they are set."""
    A = np.random.default_rng(0).standard_normal((SIZE, SIZE))
    A @ A
    started = time.perf_counter()
    A @ A
    return 2 * SIZE**3 / (time.perf_counter() - started)


def duration(seconds: float) -> str:
    """As a person says it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
