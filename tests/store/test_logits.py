"""Test logits as they are kept: what rounding may change, and what a store may not make anyone believe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from distsim.specs import COMPLETE, NetworkId
from distsim.store import DamagedStore, SweepStore, logits
from distsim.store.logits import Logits, of_outputs

PRUNED = NetworkId(0, 1)
LABELS = np.arange(6) % 3


def outputs(seed: int = 0, n: int = 6, classes: int = 3, scale: float = 4.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((n, classes))).astype(np.float32)


@given(st.integers(0, 2**31), st.floats(1e-9, 1e9))
def test_rounding_changes_no_prediction(seed: int, scale: float) -> None:
    of = outputs(seed, 30, 8, scale)
    kept = of_outputs(of, None, "network").margins
    np.testing.assert_array_equal(kept.argmax(axis=1), of.argmax(axis=1))
    assert (kept.max(axis=1) == 0).all()
    np.testing.assert_allclose(kept, of - of.max(axis=1, keepdims=True), rtol=2**-11, atol=2**-25)


def test_float16_is_kept_where_it_can_be() -> None:
    assert of_outputs(outputs(), None, "network").margins.dtype == np.float16
    assert of_outputs(outputs(scale=1e6), None, "network").margins.dtype == np.float32, "above 65,504"
    close = np.array([[0.0, 1e-9]], np.float32)  # float16 has nothing between 0 and 6e-8, and the first would win
    assert of_outputs(close, None, "network").margins.dtype == np.float32


def test_what_is_not_finite_is_said() -> None:
    of = outputs()
    of[4, 1] = np.inf
    with pytest.raises(FloatingPointError, match=r"^run 0: the logits of test image 4 are not finite$"):
        of_outputs(of, None, "run 0")


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    return SweepStore(str(tmp_path), "digits")


@pytest.mark.parametrize(("network", "labels"), [(COMPLETE, LABELS), (PRUNED, None)])
def test_they_are_read_as_they_were_kept(store: SweepStore, network: NetworkId, labels: Any) -> None:
    kept = of_outputs(outputs(), labels, "network")
    mark = logits.commit(store, network, kept)
    read = logits.read(store, network, mark)
    np.testing.assert_array_equal(read.margins, kept.margins)
    assert (read.labels is None) == (labels is None)
    assert mark.values == {"examples": 6, "classes": 3, "dtype": "float16"}
    assert store.piece_mark(network, "logits") == mark
    assert logits.commit(store, network, of_outputs(outputs(1), labels, "network")) == mark, "the first one stays"


def margins(change: Callable[[np.ndarray], Any] = lambda kept: kept) -> np.ndarray:
    changed: np.ndarray = change(of_outputs(outputs(), None, "network").margins)
    return changed


ODD: dict[str, tuple[NetworkId, dict[str, np.ndarray], str]] = {
    "another shape": (PRUNED, {"logits": margins(lambda kept: kept[:5])}, "instead of"),
    "another dtype": (PRUNED, {"logits": margins(lambda kept: kept.astype(np.float32))}, "instead of"),
    "another name": (PRUNED, {"weights": margins()}, "instead of"),
    "labels of a pruned network": (PRUNED, {"logits": margins(), "labels": LABELS.astype(np.int32)}, "instead of"),
    "no labels": (COMPLETE, {"logits": margins()}, "instead of"),
    "labels that are not classes": (
        COMPLETE,
        {"logits": margins(), "labels": (LABELS + 1).astype(np.int32)},
        "labels that are not classes",
    ),
    "not finite": (PRUNED, {"logits": margins(lambda kept: kept - np.float16(np.inf))}, "not finite"),
    "no largest logit": (PRUNED, {"logits": margins(lambda kept: kept - np.float16(1))}, "the largest logit"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_object_that_holds_something_else_is_refused(store: SweepStore, name: str) -> None:
    network, tensors, sentence = ODD[name]
    values = {"examples": 6, "classes": 3, "dtype": "float16"}
    with pytest.raises(ValueError, match=sentence):
        logits.decode(network, values, safetensors.numpy.save(tensors))


def test_what_no_reader_of_safetensors_reads() -> None:
    values = {"examples": 6, "classes": 3, "dtype": "float16"}
    for content in (b"", b"\xff" * 100, safetensors.numpy.save({"logits": margins()})[:-1]):
        with pytest.raises(ValueError, match="cannot be read"):
            logits.decode(PRUNED, values, content)


def test_an_object_that_is_larger_than_the_mark_says_is_not_read(
    store: SweepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Logits(np.zeros((3000, 3), np.float16))
    mark = logits.commit(store, PRUNED, large)
    mark.values["examples"] = 6
    monkeypatch.setattr(logits, "read_object", lambda *_: pytest.fail("it is read"))
    with pytest.raises(DamagedStore, match=r"run 0, iteration 1 .* 18,0.. bytes, at most 4,132 belong there"):
        logits.read(store, PRUNED, mark)
