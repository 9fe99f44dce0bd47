"""Metrics of one's own: what they must return, and that each error names the metric and the layer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from distsim.comparison.models import compare
from distsim.metrics.arrays import Undefined
from distsim.metrics.registry import METRICS, Metric

pytestmark = pytest.mark.filterwarnings("ignore::distsim.metrics.UnreliableSimilarity")
A, B = (np.random.default_rng(seed).standard_normal((30, 4)) for seed in (0, 1))


def compared(monkeypatch: pytest.MonkeyPatch, measure: Callable[..., Any], view: str = "kernel", **more: Any) -> Any:
    monkeypatch.setitem(METRICS, "own", Metric("own", view, measure, **more))
    return compare({"fc": A}, {"fc": B}, metrics=["cka", "own"]).rows[1]


def undefined(reason: str) -> Callable[..., Any]:
    def measure(pair: Any) -> Any:
        raise Undefined(reason)

    return measure


NUMBER = "expected a finite number of at most 1e\\+100 in size"


@pytest.mark.parametrize(
    "value",
    ["x", "0.5", None, 1j, float("nan"), float("inf"), 1e308, 10**400, np.ones(2), torch.ones(2), [0.5], {}],
    ids=repr,
)
def test_a_value_must_be_a_finite_number(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^metric own returned [\s\S]* for layer fc; {NUMBER}$"):
        compared(monkeypatch, lambda pair: value)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), np.array(0.5)], ids=repr)
def test_any_number_is_a_value(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    assert compared(monkeypatch, lambda pair: value)["value"] == 0.5
    assert compared(monkeypatch, lambda pair: True)["value"] == 1
    assert compared(monkeypatch, undefined("too\nfew"))["reason"] == "too\nfew"


@pytest.mark.parametrize("reason", ["", "half a character: \ud800"])
def test_a_reason_must_be_a_text(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^metric own raised Undefined with '.*' for layer fc; expected a text that"):
        compared(monkeypatch, undefined(reason))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"caution": lambda pair: None}, 'caution returned None for layer fc; expected text, ""'),
        ({"caution": lambda pair: "\ud800"}, 'caution returned .* for layer fc; expected text, ""'),
        ({"kept": lambda pair: 3}, "kept returned 3 for layer fc; expected two whole numbers"),
        ({"kept": lambda pair: (1, 2, 3)}, r"kept returned \(1, 2, 3\) for layer fc; expected two whole numbers"),
        ({"kept": lambda pair: (1, 0.5)}, r"kept returned \(1, 0.5\) for layer fc; expected two whole numbers"),
        ({"enclosed": lambda pair: 0.5}, "enclosed returned 0.5 for layer fc; expected two finite numbers, or None"),
        ({"null": lambda pair: (0.5, "x")}, r"null returned \(0.5, 'x'\) for layer fc; expected two finite numbers"),
        ({"caution": lambda pair: [][0]}, "caution fails for layer fc: IndexError: list index out of range"),
    ],
)
def test_what_is_said_beside_a_value_is_checked(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=f"^metric own's {said}"):
        compared(monkeypatch, lambda pair: 0.5, "channels", **more)


def test_what_a_metric_raises_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^metric own's measure fails for layer fc: KeyError: 'x'$") as raised:
        compared(monkeypatch, lambda pair: {}["x"])
    assert isinstance(raised.value.__cause__, KeyError)
    monkeypatch.setitem(METRICS, "own", Metric("own", "kernel", lambda pair: {}["x"]))
    with pytest.raises(ValueError, match="for layer a and b: KeyError"):
        compare({"a": A}, {"b": B}, metrics="own")


def test_a_lack_of_memory_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(pair: Any) -> float:
        raise MemoryError("of my own")

    with pytest.raises(MemoryError, match="of my own"):
        compared(monkeypatch, measure)


def test_numbers_beside_a_value_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    more: dict[str, Any] = {"kept": lambda pair: np.array([2, 3]), "enclosed": lambda pair: (0, np.float64(1))}
    found = compared(monkeypatch, lambda pair: 0.5, "channels", null=lambda pair: None, **more)
    assert (found["k_x"], found["k_y"], found["lower"], found["upper"], found["null"]) == (2, 3, 0, 1, None)
