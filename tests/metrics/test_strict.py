"""Every metric that claims it leaves its numbers on the device until the end, and mixes no devices."""

from typing import Any

import numpy as np
import pytest

from distsim import metrics
from distsim.comparison import pair, sides
from distsim.comparison.layer import Reference
from distsim.comparison.sides import InMemory
from distsim.metrics.registry import BUILT_IN, METRICS, Metric

pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")

from .strict import HostRead, Strict, no_shapes_from_data, strict

DEFERRED = [name for name, metric in BUILT_IN.items() if metric.deferred]
NOT_OF_TWO_ARRAYS = ("intrinsic_dimension", "repository_name")
PUBLIC = [name for name in metrics.__all__ if name[0].islower() and name not in NOT_OF_TWO_ARRAYS]
ROUTES = pytest.mark.parametrize("qdwh", [False, True], ids=["eigenvalues", "qdwh"])
SMALL, LARGE = [(90, 4, 4, 6), (90, 3, 3, 6)], [(600, 17, 6, 6), (600, 16, 6, 6)]
KINDS = ["Gram matrices", "features"]


@pytest.fixture(autouse=True)
def on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "capability", lambda device: (9, 0) if device == "strict" else (0, 0))
    for module in (sides, pair):
        bring = module.on_device
        monkeypatch.setattr(
            module,
            "on_device",
            lambda panel, device, bring=bring: panel if device == "strict" else bring(panel, device),
        )


def layers(shape: tuple[int, ...], dead: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal(shape).astype("float32")
    Y = X + 0.5 * rng.standard_normal(shape).astype("float32")
    Y[..., :dead] = 0.7
    return X, Y


def on_device(X: Any, Y: Any, names: list[str], qdwh: bool = False) -> Any:
    """The draft of a comparison on the device, during which the host learns nothing."""
    reference = Reference(InMemory(strict(X), kind="out", rows=2), names, "strict", qdwh=qdwh)
    before = Strict.reads
    with no_shapes_from_data():
        draft = reference.draft(InMemory(strict(Y), kind="out", rows=2))
    assert Strict.reads == before
    return draft


def by_numpy(X: Any, Y: Any, names: list[str], qdwh: bool = False) -> Any:
    return Reference(InMemory(X, kind="out", rows=2), names, qdwh=qdwh).compare(InMemory(Y, kind="out", rows=2))


def same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, result in expected.items():
        for field, value in result.items():
            near = pytest.approx(value, rel=0, abs=1e-12) if isinstance(value, float) else value
            assert found[name][field] == near, (name, field)


@ROUTES
@pytest.mark.parametrize("shape", SMALL, ids=KINDS)
@pytest.mark.parametrize("name", DEFERRED)
def test_a_metric_reads_its_numbers_once_at_the_end(name: str, shape: tuple[int, ...], qdwh: bool) -> None:
    X, Y = layers(shape)
    draft = on_device(X, Y, [name], qdwh)
    before = Strict.reads
    results = draft.results()
    assert Strict.reads == before + 1
    assert not draft.wrong
    same(results, by_numpy(X, Y, [name], qdwh))


@ROUTES
@pytest.mark.parametrize("shape", LARGE, ids=KINDS)
def test_all_metrics_together_read_once(shape: tuple[int, ...], qdwh: bool) -> None:
    """From 512 rows on, eigenproblems take the place of the SVD."""
    X, Y = layers(shape)
    draft = on_device(X, Y, DEFERRED, qdwh)
    before = Strict.reads
    results = draft.results()
    assert Strict.reads == before + 1
    assert not draft.wrong
    same(results, by_numpy(X, Y, DEFERRED, qdwh))


def test_dead_channels_need_no_second_look() -> None:
    """Ranks are smaller than the matrices, which keep their size."""
    X, Y = layers((90, 3, 3, 6), dead=2)
    names = [name for name in DEFERRED if METRICS[name].view == "channels"]
    draft = on_device(X, Y, names)
    results = draft.results()
    assert not draft.wrong
    assert (results["mean_cca"]["rank_y"], results["mean_cca"]["dead_y"]) == (4, 2)
    same(results, by_numpy(X, Y, names))


@pytest.mark.parametrize("look", [float, bool, int, list, np.asarray, lambda number: [1.0][number]])
def test_a_metric_that_looks_at_a_number_is_found_out(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nosy = Metric("nosy", "kernel", lambda pair: look(pair.x.trace), deferred=True)
    monkeypatch.setitem(METRICS, nosy.name, nosy)
    with pytest.raises(HostRead):
        on_device(*layers((90, 3, 3, 6)), [nosy.name])


@pytest.mark.parametrize("cut", [lambda pair, xp: pair.cross[pair.x.alive], lambda pair, xp: xp.nonzero(pair.x.alive)])
def test_a_metric_that_cuts_by_what_it_computed_is_found_out(cut: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nosy = Metric("nosy", "channels", lambda pair: cut(pair, pair.cross.__array_namespace__()), deferred=True)
    monkeypatch.setitem(METRICS, nosy.name, nosy)
    with pytest.raises((HostRead, RuntimeError)):
        on_device(*layers((90, 3, 3, 6)), [nosy.name])


def test_a_metric_that_makes_an_array_elsewhere_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(pair: Any) -> Any:
        return pair.x.trace + pair.cross.__array_namespace__().ones(())

    astray = Metric("astray", "kernel", measure, deferred=True)
    monkeypatch.setitem(METRICS, astray.name, astray)
    with pytest.raises((ValueError, AttributeError)):
        on_device(*layers((90, 3, 3, 6)), [astray.name])


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_mix_no_devices_and_read_where_reads_are_made(name: str) -> None:
    X, Y = (A.astype("float64") for A in layers((90, 6)))
    function = getattr(metrics, name)
    before = Strict.reads
    found = function(strict(X), strict(Y))
    assert Strict.reads > before
    assert {type(number) for number in np.atleast_1d(found).tolist()} == {float}
    assert found == pytest.approx(function(X, Y), rel=0, abs=1e-12)
