"""The check of JSON against a type names the first field that does not fit."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsim.specs import json_shape
from distsim.specs.fields import Bound, Natural
from distsim.specs.json_shape import require_json, require_record


class Inner(TypedDict):
    count: Natural
    name: NotRequired[Annotated[str, Bound("be short", lambda text: len(text) < 5)]]


class Outer(TypedDict):
    inner: dict[str, Inner]
    sizes: list[int | None]
    pair: tuple[str, float]
    kind: NotRequired[Literal["a", "b"]]
    anything: NotRequired[Any]


GOOD: dict[str, Any] = {"inner": {"x": {"count": 3, "name": "abc"}}, "sizes": [1, None], "pair": ["a", 1]}


def test_what_fits() -> None:
    require_json("", GOOD, Outer)
    require_json("", GOOD | {"kind": "b", "anything": {"deep": [[]]}, "unknown": 3}, Outer)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 2**64) | st.floats() | st.sampled_from(["a", "b", "c", "longer"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["count", "name"]), inner),
    ),
    st.sampled_from(["count", "name", "inner", "sizes", "pair", "kind", "anything"]),
    st.sampled_from(["", "count", "name", "inner", "pair"]),
)
def test_the_quick_check_lets_through_what_the_one_that_names_fields_does(value: Any, place: str, gone: str) -> None:
    changed = {"count": 3, place: value} if place in ("count", "name") else GOOD | {place: value}
    changed.pop(gone, None)
    kind = Inner if place in ("count", "name") else Outer
    try:
        json_shape._require_kind("", changed, kind)
    except ValueError:
        assert not json_shape._shaped(kind)(changed)
    else:
        assert json_shape._shaped(kind)(changed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inner": []}, "field inner must be an object, got []"),
        ({"inner": {"x": 3}}, "field inner.x must be an object, got 3"),
        ({"inner": {"x": {}}}, "field inner.x.count is missing"),
        ({"inner": {"x": {"count": -1}}}, "field inner.x.count must not be negative, got -1"),
        ({"inner": {"x": {"count": True}}}, "field inner.x.count must be a whole number (64 bits), got True"),
        ({"inner": {"x": {"count": 2**63}}}, "field inner.x.count must be a whole number (64 bits), got 9223"),
        ({"inner": {"x": {"count": 1, "name": "abcdef"}}}, "field inner.x.name must be short, got 'abcdef'"),
        ({"inner": {"y" * 80: 3}}, "field inner.'yyy"),
        ({"inner": {"line\nbreak": 3}}, r"field inner.'line\nbreak' must be an object"),
        ({"sizes": None}, "field sizes must be a list, got None"),
        ({"sizes": [1, "2"]}, "field sizes[1] must be a whole number (64 bits) or None, got '2'"),
        ({"pair": ["a"]}, "field pair must be a list of 2, got ['a']"),
        ({"pair": ["a", float("nan")]}, "field pair[1] must be a finite number, got nan"),
        ({"kind": "c"}, "field kind must be a or b, got 'c'"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r"must|missing") as caught:
        require_json("", GOOD | change, Outer)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"pair": ["\ud800", 1]}, "pair"),
        ({"inner": {"x": {"count": 1, "name": "\udce9"}}}, "inner.x.name"),
        ({"inner": {"\udce9": {"count": 1}}}, "inner"),
        ({"unknown": [[{"deep": "a\ud800"}]]}, "unknown.deep"),
        ({"\ud800": 1}, ""),
    ],
)
def test_text_that_cannot_be_encoded(change: dict[str, Any], where: str) -> None:
    """JSON can hold halves of a character, which no file and no terminal takes. "é" and "\U0001f600" are whole."""
    require_json("", GOOD | {"anything": ["é", {"\U0001f600": "\U0001f600"}]}, Outer)
    with pytest.raises(ValueError, match="must be text that can be encoded, got '") as caught:
        require_json("", GOOD | change, Outer)
    assert str(caught.value).startswith(f"field {where} must" if where else "it must")


def test_text_however_deep_it_lies() -> None:
    deep: Any = "\ud800"
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ValueError, match="field unknown must be text that can be encoded"):
        require_json("", GOOD | {"unknown": deep}, Outer)


def test_a_record_has_no_other_fields() -> None:
    require_record("", GOOD, Outer)
    with pytest.raises(ValueError, match=r"^field a has the field 'unknown', which this distsim does not know$"):
        require_record("a", GOOD | {"unknown": 3}, Outer)


def test_the_whole_value() -> None:
    with pytest.raises(ValueError, match=r"^it must be an object, got 3$"):
        require_json("", 3, Outer)
    lacking = {name: value for name, value in GOOD.items() if name != "pair"}
    with pytest.raises(ValueError, match=r"^field pair is missing$"):
        require_json("", lacking, Outer)
