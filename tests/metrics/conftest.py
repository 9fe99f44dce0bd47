"""What the tests of the metrics share."""

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from distsim.metrics import arrays


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


def require(backend: str) -> Any:
    """A function that brings NumPy arrays to the backend: torch, cuda (torch on a GPU) or cupy.

    The test is skipped where it is missing, and fails if DISTSIM_REQUIRE names it: for machines that have a GPU.
    """
    if backend == "cupy" and importlib.util.find_spec("cupy") is None:
        missing(backend, "cupy is not installed")
    if backend == "cupy":
        import cupy

        try:
            devices = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            missing(backend, f"no CUDA device: {error}")
        if not devices:
            missing(backend, "no CUDA device")
        return cupy.asarray
    if backend == "cuda" and not torch.cuda.is_available():
        missing(backend, "no CUDA device")
    return lambda array: torch.tensor(array, device="cuda" if backend == "cuda" else "cpu")


def missing(backend: str, why: str) -> None:
    if backend in REQUIRED:
        pytest.fail(f"DISTSIM_REQUIRE names {backend}: {why}")
    pytest.skip(why)


REQUIRED = os.environ.get("DISTSIM_REQUIRE", "").split(",")
WITH_CUPY = importlib.util.find_spec("cupy") is not None or "cupy" in REQUIRED


@pytest.fixture(scope="module", params=["numpy", "torch", *([pytest.param("cupy", marks=pytest.mark.gpu)] * WITH_CUPY)])
def every_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test's NumPy arrays are brought to each backend on their way into the metrics."""
    if request.param == "numpy":
        yield
        return
    bring, checked = require(request.param), arrays._checked

    def brought(name: str, X: Any, Y: Any) -> Any:
        return checked(name, *(bring(A) if isinstance(A, np.ndarray) else A for A in (X, Y)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_checked", brought)
        yield
