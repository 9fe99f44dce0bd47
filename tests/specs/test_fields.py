"""How any spec is checked, becomes JSON and comes back, and how it grows."""

import dataclasses
import json
import math
import re
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from distsim.specs import (
    Extent,
    Identity,
    Problem,
    Pruning,
    Recipe,
    Request,
    UnknownField,
    added,
    canonical_json,
    digest,
    names,
)
from distsim.specs.fields import INLINE, Bound, Count, Share, check, from_dict, require, to_dict, unwritten

# --- checks ----------------------------------------------------------------------------------------------------------

SMALL = Annotated[int, Bound("be below 5", lambda n: n < 5)]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (int, (0, -1, 2**63 - 1, -(2**63) + 1)),
        (float, (0, 0.5, -1e300, sys.float_info.max, np.float64(0.5), 2**63 - 1)),
        (bool, (True, False)),
        (str, ("", "é", np.str_("x"))),
        (int | None, (None, 3)),
        (Literal["a", "b"], ("a", "b")),
        (Literal[1, 3], (1, 3)),
        (tuple[int, ...], ((), (1,), (1, 2, 3))),
        (tuple[str, float], (("cpu", 1), ("", 0.5))),
        (tuple[tuple[float, ...], tuple[float, ...]] | None, (None, ((), ()), ((1, 2), (0.5,)))),
        (tuple[Literal["a", "b"], ...], ((), ("b", "a"))),
        (SMALL, (4, -(10**9))),
        (SMALL | None, (None, 4)),
        (tuple[SMALL, ...], ((), (1, 4))),
        (Count, (1, 10**9)),
        (Share, (1e-9, 0.5)),
    ],
)
def test_what_fits_its_annotation_is_taken(kind: Any, values: tuple[Any, ...]) -> None:
    for value in values:
        require("it", value, kind)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (int, True, "a whole number (64 bits), got True"),
        (int, 2**63, "a whole number (64 bits), got 9223372036854775808"),
        (int, 1.0, "a whole number (64 bits), got 1.0"),
        (int, np.int64(1), "a whole number (64 bits), got np.int64(1)"),
        (float, math.nan, "a finite number, got nan"),
        (float, -math.inf, "a finite number, got -inf"),
        (float, True, "a finite number, got True"),
        (float, 10**400, f"a finite number, got {'1' + '0' * 99}..."),
        (bool, 1, "True or False, got 1"),
        (str, None, "text, got None"),
        (int | None, "3", "a whole number (64 bits) or None, got '3'"),
        (Literal["a", "b", "c"], "d", "a, b or c, got 'd'"),
        (Literal["a"], None, "a, got None"),
        (Literal[1, 3], True, "1 or 3, got True"),
        (Literal[1, 3], 2, "1 or 3, got 2"),
        (Literal["a", "b"], np.zeros(2), "a or b, got array([0., 0.])"),
        (tuple[int, ...], [1], "a tuple, each a whole number (64 bits), got [1]"),
        (tuple[int, ...], (1, "2"), "a tuple, each a whole number (64 bits), got (1, '2')"),
        (tuple[str, float], ("cpu",), "a tuple of 2, got ('cpu',)"),
        (tuple[Literal["a", "b"], ...], ("a", "c"), "a tuple, each a or b, got ('a', 'c')"),
        (SMALL, 5, "below 5, got 5"),
        (SMALL, 10**6, "below 5, got 1,000,000"),
        (SMALL | None, 5, "below 5, got 5"),
        (tuple[SMALL, ...], (1, 7), "below 5, got 7"),
        (tuple[SMALL, SMALL] | None, (9, 1), "below 5, got 9"),
        (SMALL, "5", "a whole number (64 bits), got '5'"),
        (Recipe, None, "a Recipe, got None"),
        (str | bool | float, None, "text or True or False or a finite number, got None"),
        (str | int | None, 0.5, "text or a whole number (64 bits) or None, got 0.5"),
    ],
)
def test_what_does_not_is_refused_by_its_name(kind: Any, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^it must be {re.escape(said)}$"):
        require("it", value, kind)


def test_a_number_that_python_does_not_write_is_refused_all_the_same() -> None:
    with pytest.raises(ValueError, match="it must be a finite number, got a number of thousands of digits"):
        require("it", 10**5000, float)


# --- JSON ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    rates: tuple[tuple[float, ...], ...] = ((0.5,), ())

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Outer:
    inner: Inner
    beside: Inner = field(metadata=INLINE)
    size: Count
    note: str = unwritten("none")

    def __post_init__(self) -> None:
        check(self)


OUTER = Outer(Inner(((1.0, 2.0), (3.0,))), Inner(), 3, "not written")
TREE = {"inner": {"rates": [[1.0, 2.0], [3.0]]}, "rates": [[0.5], []], "size": 3}


def test_a_spec_becomes_json_and_comes_back() -> None:
    assert to_dict(OUTER) == TREE
    assert names(Outer) == names(OUTER) == ("inner", "beside", "size")
    again = from_dict(Outer, json.loads(json.dumps(TREE)))
    assert again == dataclasses.replace(OUTER, note="none")


def test_reading_leaves_the_tree_as_it_was() -> None:
    before = canonical_json(TREE)
    from_dict(Outer, TREE)
    assert canonical_json(TREE) == before


@pytest.mark.parametrize(
    ("tree", "kind", "said"),
    [
        ([], TypeError, "outer must be an object with fields, got []"),
        (TREE | {"inner": None}, TypeError, "inner must be an object with fields, got None"),
        ({"inner": TREE["inner"], "rates": []}, TypeError, "outer lacks size"),
        ({"inner": {}, "rates": [], "size": 3}, TypeError, "inner lacks rates"),
        ({"inner": TREE["inner"], "size": 3}, TypeError, "inner lacks rates"),
        (TREE | {"note": "x"}, UnknownField, "outer has the field 'note', which this distsim does not know"),
        (TREE | {"beside": TREE["inner"]}, UnknownField, "outer has the field 'beside', which"),
        (TREE | {"inner": {"rates": [], "more": 1}}, UnknownField, "inner has the field 'more', which"),
        (TREE | {"size": 0}, ValueError, "size must be at least 1, got 0"),
        (TREE | {"rates": [0.5]}, ValueError, "rates must be a tuple, each a tuple, each a finite number, got (0.5,)"),
    ],
)
def test_a_tree_that_is_no_spec(tree: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind) as error:
        from_dict(Outer, tree)
    assert type(error.value) is kind
    assert str(error.value).startswith(said)


def test_lists_in_lists_in_lists_are_refused_in_a_sentence() -> None:
    """However deep: JSON's own limit is higher than Python's."""
    deep: list[Any] = []
    for _ in range(600):
        deep = [deep]
    with pytest.raises(ValueError, match="rates must be a tuple, each a tuple, each a finite number"):
        from_dict(Outer, TREE | {"rates": deep})


# --- specs that grow -------------------------------------------------------------------------------------------------

RECIPE = Recipe(epochs=10, batch_size=4)
PROBLEM = Problem("toy", "digits", "vgg_digits", 8, 1, RECIPE, Pruning())
IDENTITY = Identity(PROBLEM, data_digest="0" * 64)
REQUEST = Request(Extent(runs=2, iterations=3, measure=()), "folder:/data", "cpu")
HOLDERS: dict[type, tuple[type, str]] = {  # of each class: the one that holds it, and in which field
    Recipe: (Problem, "recipe"),
    Pruning: (Problem, "pruning"),
    Problem: (Identity, "problem"),
    Extent: (Request, "extent"),
}


def grown(kind: type, default: Any, absent: Any) -> dict[type, type]:
    """What this class and those that hold it become with a field `warmup` in this class."""
    there = {kind: _with(kind, ("warmup", int, added(default, absent=absent)))}
    while kind in HOLDERS:
        holder, name = HOLDERS[kind]
        (old,) = (one for one in dataclasses.fields(holder) if one.name == name)
        there[holder] = _with(holder, (name, there[kind], field(metadata=dict(old.metadata))))
        kind = holder
    return there


def _with(kind: type, declared: Any) -> type:
    return dataclasses.make_dataclass(kind.__name__, [declared], bases=(kind,), frozen=True)


def path_to(kind: type) -> list[str]:
    """The JSON objects from the root to that with this class's fields. An extent's stand in the root."""
    if kind not in HOLDERS or kind is Extent:
        return []
    holder, name = HOLDERS[kind]
    return [*path_to(holder), name]


def at(tree: Any, path: list[str]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def inside(spec: Any, kind: type) -> Any:
    """The spec of this class, or of its successor, in a spec that holds it."""
    if isinstance(spec, kind):
        return spec
    holder, name = HOLDERS[kind]
    return getattr(inside(spec, holder), name)


SPECS = [Recipe, Pruning, Problem, Identity, Extent, Request]


@pytest.fixture(params=SPECS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type:
    return request.param


def root_of(kind: type) -> Any:
    """A spec that is stored, of before the class grew."""
    return REQUEST if kind in (Extent, Request) else IDENTITY


def test_a_field_added_later_is_read_as_its_absence(kind: type) -> None:
    root = root_of(kind)
    new = grown(kind, default=5, absent=0)[type(root)].from_dict(root.as_dict())
    assert inside(new, kind).warmup == 0, "not the default"
    assert new.as_dict() == root.as_dict()
    assert canonical_json(new.as_dict()) == canonical_json(root.as_dict())


def test_a_field_added_later_is_in_the_hash_once_it_differs(kind: type) -> None:
    root = root_of(kind)
    there = grown(kind, default=5, absent=0)[type(root)]
    tree = json.loads(canonical_json(root.as_dict()))
    at(tree, path_to(kind))["warmup"] = 7
    new = there.from_dict(tree)
    assert inside(new, kind).warmup == 7
    assert new.as_dict() == tree
    hashes = {digest(one.as_dict()) for one in (root, new, there.from_dict(root.as_dict()))}
    assert hashes == {digest(root.as_dict()), digest(tree)}
    if root is IDENTITY:
        assert {new.hash, there.from_dict(root.as_dict()).hash} == {digest(tree), IDENTITY.hash}


def test_a_new_spec_has_the_default_and_writes_it(kind: type) -> None:
    spec = inside(root_of(kind), kind)
    values = {one.name: getattr(spec, one.name) for one in dataclasses.fields(spec)}
    made = grown(kind, default=5, absent=0)[kind](**values)
    assert made.warmup == 5
    assert to_dict(made) == to_dict(spec) | {"warmup": 5}


def test_another_default_redefines_no_store(kind: type) -> None:
    """Of stores from before the field, and of stores from between the two defaults."""
    root = root_of(kind)
    before, after = (grown(kind, default=default, absent=0)[type(root)] for default in (5, 9))
    tree = json.loads(canonical_json(root.as_dict()))
    at(tree, path_to(kind))["warmup"] = 5
    for old in (root.as_dict(), tree):
        then, now = before.from_dict(old), after.from_dict(old)
        assert inside(now, kind).warmup == inside(then, kind).warmup
        assert now.as_dict() == then.as_dict() == old


def test_another_default_of_an_old_field_redefines_no_store(kind: type) -> None:
    """What was there from the start is always written."""
    own = [one for one in dataclasses.fields(kind) if "inline" not in one.metadata]
    written = [one for one in own if one.name in names(kind) and "absent" not in one.metadata]
    defaulted = [(one.name, one.type, None) for one in written if one.default is not dataclasses.MISSING]
    changed = dataclasses.make_dataclass(kind.__name__, defaulted, bases=(kind,), frozen=True)
    tree = to_dict(inside(root_of(kind), kind))
    assert to_dict(from_dict(changed, tree)) == tree


def test_what_was_there_from_the_start_is_not_made_up(kind: type) -> None:
    tree = to_dict(inside(root_of(kind), kind))
    for name in tree:
        with pytest.raises(TypeError, match=f"lacks {name}$"):
            from_dict(kind, {other: value for other, value in tree.items() if other != name})


def test_an_older_distsim_says_that_it_does_not_know_the_field(kind: type) -> None:
    root = root_of(kind)
    tree = json.loads(canonical_json(root.as_dict()))
    at(tree, path_to(kind))["warmup"] = 7
    with pytest.raises(UnknownField, match=r"has the field 'warmup', which this distsim does not know"):
        type(root).from_dict(tree)
