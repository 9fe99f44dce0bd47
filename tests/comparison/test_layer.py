"""The streamed comparison against the public metrics on whole arrays."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distsim import metrics
from distsim.activations import layout as module
from distsim.comparison import sides
from distsim.comparison.layer import Reference, applicable
from distsim.comparison.sides import InMemory
from distsim.environment import require_device, threads
from distsim.specs import PAPER_METRICS
from distsim.store import Storage
from distsim.store.activations import LayerArray, Reader, Writer
from distsim.store.commits import Attempt
from distsim.sweep.extraction import _Waiting

Array = NDArray[Any]

PUBLIC: dict[str, Callable[[Array, Array], float]] = {
    "mean_cca": lambda X, Y: metrics.mean_cca(X, Y, channels_last=True),
    "svcca": lambda X, Y: metrics.svcca(X, Y, channels_last=True),
    "pwcca": lambda X, Y: metrics.pwcca(X, Y, side="first", channels_last=True),
    "cka": lambda X, Y: metrics.cka(X, Y, channels_last=True),
    "nbs": lambda X, Y: metrics.nbs(X, Y, channels_last=True),
    "cosine": metrics.cosine,
}
BOTH = tuple(name for name in PAPER_METRICS if name != "cosine")


class Panels(InMemory):
    """An array read in panels of so many image rows."""

    def __init__(self, array: Array, rows: int, kind: str = "conv") -> None:
        super().__init__(array, "layer", kind)
        object.__setattr__(self, "rows", rows)

    @property
    def panel_rows(self) -> int:
        return self.rows  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """More would not be faster on arrays of this size, and far slower where other processes are busy."""
    with threads(1):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def pair(rng: np.random.Generator, shape: tuple[int, ...], columns: int | None = None) -> tuple[Array, Array]:
    """Two layers that share some of what they say; the second with another number of channels if asked for."""
    X = rng.normal(size=shape)
    mix = rng.normal(size=(shape[-1], columns or shape[-1]))
    Y = X @ mix + 2 * rng.normal(size=(*shape[:-1], mix.shape[1]))
    return np.maximum(X, -0.5), np.maximum(Y, 0) + rng.normal(size=mix.shape[1])


def compared(X: Array, Y: Array, rows: int = 10**6, kind: str = "conv", names: tuple[str, ...] = PAPER_METRICS) -> Any:
    return Reference(Panels(X, rows, kind), names).compare(Panels(Y, rows, kind))


def values(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    return {name: result["value"] for name, result in results.items()}


SHAPES = {
    "kernel of features": (300, 4, 3, 5),  # 60 features of 300 examples
    "kernel by Gram matrix": (40, 6, 5, 4),  # 120 features of 40 examples
    "as many features as examples": (60, 4, 3, 5),
    "flat": (120, 9),
    "flat and wide": (25, 60),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_equals_the_public_metrics(rng: np.random.Generator, shape: tuple[int, ...], rows: int, dtype: str) -> None:
    """Whatever was rounded in storing: the metrics of the rounded values are exact."""
    X, Y = (A.astype(dtype) for A in pair(rng, shape))
    results = compared(X, Y, rows)
    assert list(results) == list(BOTH)
    for name, result in results.items():
        if shape == (25, 60) and name == "pwcca":
            continue  # all correlations are 1, so that the vectors and their weights are not unique
        np.testing.assert_allclose(result["value"], PUBLIC[name](X, Y), rtol=0, atol=1e-10, err_msg=name)
        assert result["reason"] == ""


def test_equals_the_public_metrics_with_unequal_widths(rng: np.random.Generator) -> None:
    for shape, columns in (((100, 4, 3, 5), 11), ((100, 4, 3, 5), 2), ((200, 9), 4)):
        X, Y = pair(rng, shape, columns)  # 60 and 132 features of 100 examples: one side of each kind
        for name, value in values(compared(X, Y, 2)).items():
            np.testing.assert_allclose(value, PUBLIC[name](X, Y), rtol=0, atol=1e-10, err_msg=name)


def test_svcca_keeps_99_percent_of_the_variance(rng: np.random.Generator) -> None:
    """Of the directions with 97, 1.5, .8 and .7 %, the first two hold 98 %, and 99 % take the third."""
    X = np.linalg.qr(rng.normal(size=(500, 8)))[0]
    X, Y = X - X.mean(axis=0), X[:, :4]
    X = X[:, [0, 1, 4, 5]] * np.sqrt([0.97, 0.015, 0.008, 0.007])
    value = compared(X, Y, kind="fc", names=("svcca",))["svcca"]["value"]
    assert value == pytest.approx(metrics.svcca(X, Y, 0.99), abs=1e-10)
    assert abs(value - metrics.svcca(X, Y, 0.98)) > 0.1
    assert abs(value - metrics.svcca(X, Y, 0.995)) > 0.1


def test_the_output_layer_has_a_cosine_too(rng: np.random.Generator) -> None:
    X, Y = pair(rng, (90, 10))
    results = compared(X, Y, kind="out")
    assert list(results) == list(PAPER_METRICS)
    for name, value in values(results).items():
        np.testing.assert_allclose(value, PUBLIC[name](X, Y), rtol=0, atol=1e-10, err_msg=name)
    assert "cosine" not in compared(X, Y, kind="fc")
    assert applicable(PAPER_METRICS, "out") == PAPER_METRICS
    assert applicable(PAPER_METRICS, "fc") == BOTH
    assert applicable(("cosine",), "conv") == ()


@pytest.mark.parametrize("shape", [(200, 12, 3, 5), (40, 12, 5, 4)])
def test_the_size_of_panels_does_not_matter(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    X, Y = (A + 3.0 for A in pair(rng, shape))
    whole = values(compared(X, Y, 12))
    for rows in (1, 2, 5, 6, 11):
        assert values(compared(X, Y, rows)) == pytest.approx(whole, rel=0, abs=1e-12)


def test_the_references_panels_are_used_for_both(rng: np.random.Generator) -> None:
    """A layer kept in float32 in one network and in float16 in another may be chunked differently."""
    X, Y = pair(rng, (50, 6, 3, 4))
    mixed = Reference(Panels(X, 2), PAPER_METRICS).compare(Panels(Y, 5))
    assert mixed == Reference(Panels(X, 2), PAPER_METRICS).compare(Panels(Y, 2))


@pytest.mark.parametrize(("mean", "dtype", "tolerance"), [(1e4, "float32", 1e-6), (1e6, "float64", 1e-8)])
@pytest.mark.parametrize("shape", [(300, 4, 3, 5), (40, 6, 5, 4), (200, 9)])
def test_large_means_cost_no_digits(
    rng: np.random.Generator, shape: tuple[int, ...], mean: float, dtype: str, tolerance: float
) -> None:
    X, Y = ((A + mean).astype(dtype) for A in pair(rng, shape))
    exact = [A.astype(np.float64) - mean for A in (X, Y)]
    for name, value in values(compared(X, Y, 2)).items():
        np.testing.assert_allclose(value, PUBLIC[name](*exact), rtol=0, atol=tolerance, err_msg=name)


def test_a_panel_whose_mean_is_far_from_the_others(rng: np.random.Generator) -> None:
    """Values are shifted by the first panel's mean, which may suit the rest badly."""
    X, Y = pair(rng, (200, 4, 3, 5))
    for A in (X, Y):
        A[:, 0] += 100.0
    for name, value in values(compared(X, Y, 1)).items():
        np.testing.assert_allclose(value, PUBLIC[name](X, Y), rtol=0, atol=1e-10, err_msg=name)


# --- channels that say nothing ---------------------------------------------------------------------------------------


def test_dead_constant_and_repeated_channels(rng: np.random.Generator) -> None:
    X, Y = pair(rng, (200, 4, 3, 6))
    X[..., 0] = 0.0
    X[..., 1] = 7.3  # constant, as good as dead
    Y[..., 2] = 0.0
    Y[..., 4] = Y[..., 5]
    for rows in (1, 4):
        results = compared(X, Y, rows)
        for name, result in results.items():
            np.testing.assert_allclose(result["value"], PUBLIC[name](X, Y), rtol=0, atol=1e-10, err_msg=name)
            ranks = (None, None) if name in ("cka", "nbs") else (4, 4)
            assert (result["dead_x"], result["dead_y"], result["rank_x"], result["rank_y"]) == (2, 1, *ranks), name


def test_what_each_metric_saw_is_recorded(rng: np.random.Generator) -> None:
    X, Y = pair(rng, (50, 4, 3, 5), columns=7)
    for name, result in compared(X, Y, 2).items():
        size = {key: result[key] for key in ("n", "columns_x", "columns_y")}
        if name in ("cka", "nbs"):
            assert size == {"n": 50, "columns_x": 4 * 3 * 5, "columns_y": 4 * 3 * 7}
            assert (result["rank_x"], result["rank_y"]) == (None, None), "ranks are of the channels' covariance"
        else:
            assert size == {"n": 50 * 4 * 3, "columns_x": 5, "columns_y": 7}
            assert (result["rank_x"], result["rank_y"]) == (5, 7)
        assert (result["dead_x"], result["dead_y"]) == (0, 0)
    flat = compared(*pair(rng, (30, 8)), kind="out")
    for result in flat.values():
        assert (result["n"], result["columns_x"], result["columns_y"]) == (30, 8, 8)
    assert flat["cosine"]["rank_x"] is flat["cosine"]["rank_y"] is None


def test_directions_and_effective_ranks_are_recorded(rng: np.random.Generator) -> None:
    """Both from the eigenvalues of the covariance, by another route: NumPy's SVD of the centred rows."""
    scales = np.array([8.0, 4.0, 2.0, 0.3, 0.1])
    X, Y = pair(rng, (60, 4, 3, 5))
    X, Y = X * scales, Y * scales[::-1].copy()
    X[..., 1] = 3.0
    for name, result in compared(X, Y, 2).items():
        for A, side in ((X, "x"), (Y, "y")):
            rows = A.reshape(-1, 5)
            squares = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
            k = int(np.argmax(np.cumsum(squares) / squares.sum() >= 0.99)) + 1
            assert result[f"k_{side}"] == (k if name == "svcca" else None), name
            ratio = squares.sum() ** 2 / (squares**2).sum()
            if name in ("cka", "nbs"):
                assert result[f"effective_rank_{side}"] is None
            else:
                np.testing.assert_allclose(result[f"effective_rank_{side}"], ratio, rtol=1e-6)
    assert compared(X, Y, 2)["svcca"]["k_x"] == 2 < compared(X, Y, 2)["svcca"]["rank_x"]


def test_a_side_without_variance_has_no_directions(rng: np.random.Generator) -> None:
    X, Y = pair(rng, (60, 4, 3, 5))
    result = compared(X, np.zeros_like(Y), 2)["svcca"]
    assert (result["k_y"], result["effective_rank_y"], result["rank_y"]) == (0, 0.0, 0)


def test_the_rank_is_that_of_the_data(rng: np.random.Generator) -> None:
    X = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 9))
    Y = rng.normal(size=(400, 9))
    result = compared(X, Y, kind="fc")["svcca"]
    assert (result["rank_x"], result["rank_y"]) == (3, 9)
    few = compared(*pair(rng, (6, 9)), kind="fc")["mean_cca"]
    assert (few["rank_x"], few["rank_y"]) == (5, 5), "six centred rows span five dimensions"


@pytest.mark.parametrize("constant", [0.0, 7.3])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("shape", [(100, 4, 3, 5), (30, 4, 3, 5), (60, 10)])
def test_a_side_without_variance_has_no_value_but_a_reason(
    rng: np.random.Generator, shape: tuple[int, ...], side: int, constant: float
) -> None:
    sides = list(pair(rng, shape))
    sides[side] = np.full_like(sides[side], constant)
    for rows in (1, 4):
        results = compared(*sides, rows, kind="out" if len(shape) == 2 else "conv")
        cosine = results.pop("cosine", None)
        for name, result in results.items():
            assert result["value"] is None, name
            assert "constant" in result["reason"] or "same for all" in result["reason"]
            assert result[f"dead_{'xy'[side]}"] == shape[-1]
            ranks = (result[f"rank_{'xy'[side]}"], result[f"rank_{'yx'[side]}"])
            assert ranks == ((None, None) if name in ("cka", "nbs") else (0, shape[-1]))
        if cosine is not None and constant == 0.0:
            assert cosine["value"] is None
            assert "zero" in cosine["reason"]
        elif cosine is not None:
            assert cosine["value"] == pytest.approx(metrics.cosine(*sides), abs=1e-12)


def test_images_that_all_look_the_same_have_channels_but_no_kernel(rng: np.random.Generator) -> None:
    """Pixels differ within an image, so that channels have variance; examples do not, so that kernels have none."""
    X, Y = pair(rng, (50, 4, 3, 5))
    Y[:] = Y[:1]
    for rows in (1, 4):
        results = compared(X, Y, rows)
        assert {name for name, result in results.items() if result["value"] is None} == {"cka", "nbs"}
        np.testing.assert_allclose(results["mean_cca"]["value"], PUBLIC["mean_cca"](X, Y), rtol=0, atol=1e-10)


# --- which metrics, what shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("mean_cca",), ("nbs",), ("cosine",), ("cka", "svcca"), ("cosine", "pwcca")])
@pytest.mark.parametrize("shape", [(80, 4, 3, 5), (80, 10)])
def test_some_metrics_get_the_values_of_all(
    rng: np.random.Generator, names: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    """Bit by bit: metrics that are asked for later must fit those that are there."""
    X, Y = pair(rng, shape)
    Y[..., 0] = 1.5
    kind = "out" if len(shape) == 2 else "conv"
    everything = compared(X, Y, 2, kind)
    some = compared(X, Y, 2, kind, names)
    assert list(some) == list(applicable(names, kind))
    assert some == {name: everything[name] for name in applicable(names, kind)}


def test_the_same_bits_when_called_twice(rng: np.random.Generator) -> None:
    X, Y = pair(rng, (60, 6, 3, 5))
    reference = Reference(Panels(X, 2), PAPER_METRICS)
    first, second = reference.compare(Panels(Y, 2)), reference.compare(Panels(Y, 2))
    reference.compare(Panels(X, 2))
    assert first == second == reference.compare(Panels(Y, 2)) == compared(X, Y, 2)


def test_a_network_equals_itself(rng: np.random.Generator) -> None:
    X, _ = pair(rng, (60, 6, 3, 5))
    assert values(compared(X, X, 2)) == pytest.approx(dict.fromkeys(BOTH, 1.0), abs=1e-12)


def test_inputs_are_left_as_they_are(rng: np.random.Generator) -> None:
    X, Y = pair(rng, (30, 6, 3, 5))
    before = X.copy(), Y.copy()
    compared(X, Y, 2)
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(Y, before[1])


@pytest.mark.parametrize("shape", [(31, 4, 3, 5), (30, 5, 3, 5), (30, 4, 2, 5), (30, 5), (30, 12, 5)])
def test_shapes_that_do_not_fit(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    X = rng.normal(size=(30, 4, 3, 5))
    with pytest.raises(ValueError, match=r"layer: shapes \(30, 4, 3, 5\) and .* do not fit together"):
        compared(X, rng.normal(size=shape))


def test_outputs_of_unequal_width_have_no_cosine(rng: np.random.Generator) -> None:
    X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 5))
    found = compared(X, Y, kind="out", names=("cosine",))["cosine"]
    assert (found["value"], found["reason"]) == (None, "unequal shapes: (4,) and (5,)")
    assert (found["columns_x"], found["columns_y"]) == (4, 5)


def test_the_cpu_is_always_there() -> None:
    require_device("cpu")


# --- from disk -------------------------------------------------------------------------------------------------------


def stored(storage: Storage, piece: str, array: Array) -> LayerArray:
    attempt = Attempt(storage, piece)
    writer = Writer(attempt)
    waiting = _Waiting(writer, "layer")
    rows = writer.create("layer", array.shape, str(array.dtype), {"position": 0, "kind": "conv"})
    for block in np.array_split(array, 7):
        waiting.add(block, rows)
    waiting.flush()
    return Reader(storage, piece, attempt.commit()).layer("layer")


@pytest.mark.parametrize("shape", [(50, 6, 4, 3), (400, 6, 4, 3), (50, 9)])
def test_from_chunks_on_disk(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 2 * 16 * 2 * 4 * 3)
    monkeypatch.setattr(module, "ROWS", 16)
    X, Y = pair(rng, shape)
    X, Y = X.astype(np.float16), Y.astype(np.float32)
    storage = Storage(tmp_path)
    x, y = stored(storage, "x", X), stored(storage, "y", Y)
    assert x.panel_rows == y.panel_rows == (2 if len(shape) == 4 else 1), "the same panels whatever the dtype"
    on_disk = Reference(x, PAPER_METRICS).compare(y)
    assert on_disk == compared(X, Y, 2), "the same bits as from memory in the same panels"
    for name, value in values(on_disk).items():
        np.testing.assert_allclose(value, PUBLIC[name](X, Y), rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("again", [0, 3])
def test_a_layer_is_read_once_and_at_most_a_panel_at_a_time(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, again: int
) -> None:
    if again:  # the reference is not small
        monkeypatch.setattr(sides, "HELD", 0)
    read: list[tuple[str, tuple[int, ...]]] = []

    class Watched(Panels):
        def panels(self, rows: int) -> Iterator[Any]:
            for panel in super().panels(rows):
                read.append((self.kind, panel.shape))
                yield panel

    X, Y = pair(rng, (30, 6, 3, 5))
    reference = Reference(Watched(X, 2, "conv"), PAPER_METRICS)
    assert read == [("conv", (30, 2, 3, 5))] * 3
    read.clear()
    reference.compare(Watched(Y, 2, "pool"))
    assert sorted(read) == [("conv", (30, 2, 3, 5))] * again + [("pool", (30, 2, 3, 5))] * 3
    kernels = Reference(Watched(X, 2, "conv"), ("cka",))
    read.clear()
    kernels.compare(Watched(Y, 2, "pool"))
    assert read == [("pool", (30, 2, 3, 5))] * 3, "without cross-products our own side is not read again"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_values_that_are_not_finite_are_found_and_their_network_and_layer_named(
    rng: np.random.Generator, tmp_path: Path, value: float, side: int
) -> None:
    X, Y = pair(rng, (30, 6, 3, 5))
    (X, Y)[side][3, 2, 1, 4] = value
    x, y = (stored(Storage(tmp_path), f"runs/000{run}/iter_01", A) for run, A in enumerate((X, Y)))
    with pytest.raises(FloatingPointError, match=rf"array layer of runs/000{side}/iter_01/.* not finite"):
        Reference(x, PAPER_METRICS).compare(y)


def test_few_rows_are_warned_of(rng: np.random.Generator) -> None:
    X, Y = pair(rng, (30, 6, 3, 5))  # 540 rows of 5 channels, 30 of 90
    results = compared(X, Y, 6)
    K, L = (A.T @ A for A in (side.reshape(30, -1).T - side.reshape(30, -1).mean(0)[:, None] for side in (X, Y)))
    chance = np.trace(K) * np.trace(L) / (29 * np.linalg.norm(K) * np.linalg.norm(L))
    expected = {"nbs": "fewer rows than columns", "cka": f"{chance:.2f} by chance, with 30 rows"}
    for name, result in results.items():
        few = name in ("cka", "nbs")
        assert result["warning"] == expected.get(name, ""), name
        assert result["n_per_p"] == (30 / 90 if few else 540 / 5), name
        assert result["value"] is not None
