"""Which arithmetic a GPU computes with follows from its compute capability, and each keeps its bound.

The CPU tests put tensors on the CPU where a GPU's would be, and only the card's capability is made up.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distsim.comparison import devices, pair, sides
from distsim.comparison.devices import ON_CPU
from distsim.comparison.layer import Reference, compare_pairs
from distsim.comparison.sides import InMemory
from distsim.environment import require_device, threads
from distsim.metrics.rounding import EPS, EPS32

Array = NDArray[Any]
METRICS = ("mean_cca", "cka", "nbs")
EXACT = 1e-6
DATA_CENTRE, DESKTOP = (9, 0), (8, 9)
CARDS = pytest.mark.parametrize("card", [DATA_CENTRE, DESKTOP], ids=["9.0", "8.9"])
PRECISIONS = pytest.mark.parametrize("precision", ["exact", "fast"])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture
def no_layer_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "NARROW", 0)


@pytest.fixture
def on_card(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], None]:
    """A function that makes the device "cuda" a card of this capability whose tensors are on the CPU."""

    def on(capability: tuple[int, int]) -> None:
        monkeypatch.setattr(sides, "capability", lambda device: capability if device == "cuda" else (0, 0))
        for module in (sides, pair):
            monkeypatch.setattr(
                module,
                "on_device",
                lambda panel, device: devices.on_device(panel, "cpu" if device == "cpu" else ON_CPU),
            )

    return on


@pytest.fixture
def gpu() -> str:
    try:
        require_device("cuda")
    except ValueError as why:
        if "cuda" in os.environ.get("DISTSIM_REQUIRE", "").split(","):
            pytest.fail(f"DISTSIM_REQUIRE names cuda: {why}")
        pytest.skip(str(why))
    return "cuda"


def layers(n: int, size: int, channels: int, change: str = "") -> tuple[Array, Array]:
    """Two layers like trained ones: rectified, their spectrum a power law, the second a perturbed first."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((100, size * size * channels)) * np.arange(1, 101)[:, None] ** -0.7
    latent = rng.standard_normal((n, 100))
    made = []
    for shift in (0.0, 0.4):
        signal = (latent + shift * rng.standard_normal(latent.shape)) @ mix
        signal = np.maximum(signal + 0.05 * rng.standard_normal(signal.shape), 0)
        made.append(signal.reshape(n, size, size, channels).astype(np.float16))
    if change == "repeated examples":  # singular Gram matrices
        made = [np.concatenate([A[: n // 2]] * 2) for A in made]
    if change == "dead channels":
        made[1][..., 2:] = 0
    return made[0], made[1]


def values(X: Array, Y: Array, device: str, precision: str = "exact") -> dict[str, float]:
    results = Reference(InMemory(X, rows=4), METRICS, device, precision).compare(InMemory(Y, rows=4))
    return {name: result["value"] for name, result in results.items()}


CHANGES = pytest.mark.parametrize("change", ["", "repeated examples", "dead channels"])
SIZES = pytest.mark.parametrize("shape", [(600, 12, 8), (900, 12, 5)], ids=["Gram matrices", "features"])


@CARDS
@SIZES
@CHANGES
@pytest.mark.usefixtures("no_layer_is_too_small")
def test_fast_is_exact_on_a_gpu(
    card: tuple[int, int],
    shape: tuple[int, int, int],
    change: str,
    on_card: Callable[[tuple[int, int]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, Y = layers(*shape, change)
    on_card(card)
    found = values(X, Y, "cuda", "fast")
    assert found == values(X, Y, "cuda", "exact")
    pairs = compare_pairs([InMemory(X, rows=4), InMemory(Y, rows=4)], [(0, 1)], METRICS, "cuda", "fast")
    rounding = 1e-8 if card == DATA_CENTRE else EPS32  # a desktop card multiplies in float32, in another order
    assert {name: result["value"] for name, result in pairs[0, 1].items()} == pytest.approx(found, rel=0, abs=rounding)
    monkeypatch.setattr(sides, "NARROW", np.inf)
    assert found == pytest.approx(values(X, Y, "cpu"), rel=0, abs=EXACT)


@pytest.mark.usefixtures("no_layer_is_too_small")
def test_products_are_float64_where_that_runs_at_full_rate(on_card: Callable[[tuple[int, int]], None]) -> None:
    X, _ = layers(600, 12, 8)
    F, _ = layers(900, 12, 5)
    for card, unit in ((DATA_CENTRE, EPS), (DESKTOP, EPS32)):
        on_card(card)
        assert Reference(InMemory(X, rows=4), METRICS, "cuda").side.kernel.unit == unit
        assert Reference(InMemory(F, rows=4), METRICS, "cuda").side.kernel.narrow is (card == DESKTOP)
    assert Reference(InMemory(X, rows=4), METRICS, "cpu").side.kernel.unit == EPS32, "a CPU computes as before"


@pytest.mark.usefixtures("no_layer_is_too_small")
def test_float64_products_are_not_made_twice(
    on_card: Callable[[tuple[int, int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeated examples need them, and on such a card they are there."""
    on_card(DATA_CENTRE)
    monkeypatch.setattr(pair.PairSide, "wide", None)
    values(*layers(600, 12, 8, "repeated examples"), "cuda", "fast")


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_the_capability_of_a_gpu(gpu: str) -> None:
    import torch

    assert devices.capability("cuda") == torch.cuda.get_device_capability()


@pytest.mark.gpu
@CARDS
@PRECISIONS
@SIZES
@CHANGES
@pytest.mark.usefixtures("no_layer_is_too_small")
def test_each_route_keeps_its_bound_on_a_gpu(
    gpu: str,
    card: tuple[int, int],
    precision: str,
    shape: tuple[int, int, int],
    change: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CPU twin: test_fast_is_exact_on_a_gpu."""
    X, Y = layers(*shape, change)
    monkeypatch.setattr(sides, "capability", lambda device: card)
    found = values(X, Y, gpu, precision)
    monkeypatch.setattr(sides, "NARROW", np.inf)
    assert found == pytest.approx(values(X, Y, "cpu"), rel=0, abs=EXACT)


@pytest.mark.gpu
@CARDS
@PRECISIONS
def test_a_wide_layer_keeps_its_bound_on_a_gpu(
    gpu: str, card: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many features as cifar2's convolutions have. CPU twin: test_fast_is_exact_on_a_gpu."""
    X, Y = layers(2000, 16, 64)
    monkeypatch.setattr(sides, "capability", lambda device: DATA_CENTRE)
    exact = values(X, Y, gpu)
    monkeypatch.setattr(sides, "capability", lambda device: card)
    assert X.shape[0] ** 2 * X[0].size >= sides.NARROW, "large enough for float32 products on a card that takes them"
    assert values(X, Y, gpu, precision) == pytest.approx(exact, rel=0, abs=EXACT)
