"""Amounts and lists in words."""

import pytest

from distsim.words import counted, duration, enumerated


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs"), (12345, "12,345 epochs")]
)
def test_counted(number: int, said: str) -> None:
    assert counted(number, "epoch") == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")],
)
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(("names", "said"), [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b and c")])
def test_enumerated(names: list[str], said: str) -> None:
    assert enumerated(names) == said
