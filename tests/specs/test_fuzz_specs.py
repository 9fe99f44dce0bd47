"""Specs of whatever values: refused by name, or as good as any other."""

import copy
import dataclasses
import json
import math
import random
from typing import Any

import numpy as np
import pytest
from fuzzing import in_time

from distsim.specs import Extent, Identity, Problem, Pruning, Recipe, Request, Sweep, canonical_json

RECIPE = Recipe(epochs=10, batch_size=4, normalise=((0.5,), (0.5,)), milestones=(3, 6), augment=("flip",), patience=3)
PROBLEM = Problem("toy", "digits", "vgg_digits", 8, 1, RECIPE, Pruning(), classes=("a", "b"), train_limit=50)
IDENTITY = Identity(PROBLEM, data_digest="0" * 64)
VALID: dict[type, Any] = {
    Recipe: RECIPE,
    Pruning: Pruning(),
    Problem: PROBLEM,
    Identity: IDENTITY,
    Extent: Extent(runs=2, iterations=2),
    Request: Request(Extent(runs=2, iterations=2), "folder:/data", "cpu"),
    Sweep: Sweep(IDENTITY, Extent(1, 1), resources=(("cpu", 1.0),)),
}
FIELDS = [(kind, field.name) for kind in VALID for field in dataclasses.fields(kind)]
NASTY = (
    *(None, True, False, -1, 0, 1, 2, 7, 2**31, 2**63, -(10**30), 10**400, 10**5000, -(10**5000)),
    *(-0.5, 0.0, 0.5, 1.0, 1.5, 1e300, math.nan, math.inf, -math.inf, 1j),
    *("", "x", "é", "\udcff", "a\nb", "/", "..", "x" * 300, "sgd", "global", "7", b"x"),
    *((), (1,), (1, 2), (0.5,), (-1,), (math.nan,), ("a",), ("a", "a"), ("flip", "crop"), ("cka",), (None,), ((),)),
    *(
        ((), ()),
        ((0.5,), (0.5,)),
        ((0.5,), (0.0,)),
        ((0.5,), ()),
        ((1, 2, 3), (1, 2, 3)),
        (("cpu", 1.0),),
        (("cpu", 0),),
    ),
    *([], [1], ["cka"], {}, {"epochs": 1}, {1}, range(3), object(), int, len),
    *(np.int64(3), np.float32(0.5), np.float64(0.5), np.float64("nan"), np.bool_(True), np.array(1), np.zeros(2)),
    *VALID.values(),
)
# a word for the field where a sentence is about two of them
ALSO = {
    "rewind": "rewind_epoch",
    "scope": "pruning",
    "conv_rate": "rate",
    "fc_rate": "rate",
    "recipe": "normalise|rewind_epoch",
}
DRAWN = 150  # specs with several fields drawn, and as many trees


def refused_by_name(kind: type, changes: dict[str, Any]) -> bool:
    """Whether the spec refuses the changes; AssertionError: it does so without naming a field of them."""
    try:
        spec = dataclasses.replace(VALID[kind], **changes)
    except (ValueError, TypeError) as error:
        said = str(error)
        names = [*changes, *(ALSO[name] for name in changes if name in ALSO)]
        assert any(part in said for name in names for part in name.split("|")), f"{changes}: {said}"
        assert "\n" not in said
        assert len(said) < 500
        return True
    as_good_as_any(spec)
    return False


def as_good_as_any(spec: Any) -> None:
    """It can be written down, and what was written gives it back."""
    hash(spec)
    text = canonical_json(dataclasses.asdict(spec))
    assert json.loads(text) is not None
    if isinstance(spec, Recipe):
        if spec.normalise is not None and len(spec.normalise[0]) != PROBLEM.channels:
            return
        spec = dataclasses.replace(PROBLEM, recipe=spec)
    if isinstance(spec, Pruning):
        spec = dataclasses.replace(PROBLEM, pruning=spec)
    if isinstance(spec, Extent | Request):
        assert type(spec).from_dict(json.loads(canonical_json(spec.as_dict()))) == spec
    if isinstance(spec, Extent | Request | Sweep):
        return
    identity = spec if isinstance(spec, Identity) else Identity(spec, "0" * 64)
    if identity.format != IDENTITY.format:  # another distsim's
        return
    again = Identity.from_dict(json.loads(canonical_json(identity.as_dict())))
    assert again.hash == identity.hash
    assert again.as_dict() == identity.as_dict()


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda part: part if isinstance(part, str) else part.__name__)
def test_a_field_of_any_value(kind: type, name: str) -> None:
    """Each field takes some values and refuses more, by its name."""
    with in_time():
        refused = [refused_by_name(kind, {name: value}) for value in NASTY]
    assert sum(refused) > len(NASTY) / 2
    assert not refused_by_name(kind, {name: getattr(VALID[kind], name)})


@pytest.mark.parametrize("seed", range(DRAWN))
def test_several_fields_of_any_value(seed: int) -> None:
    rng = random.Random(seed)
    kind = rng.choice(list(VALID))
    names = [field.name for field in dataclasses.fields(kind)]
    chosen = rng.sample(names, rng.randrange(2, min(5, len(names)) + 1))
    with in_time():
        refused_by_name(kind, {name: rng.choice(NASTY) for name in chosen})


# --- what a spec.json may hold ---------------------------------------------------------------------------------------

JSON: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    10**30,
    0.5,
    1e308,
    math.nan,
    "",
    "x",
    [],
    [1],
    [[1], [1]],
    [[[]]],
    ["a", "a"],
    {},
    {"x": 1},
)


def changed_somewhere(tree: Any, rng: random.Random) -> None:
    """One value of the tree is another, is gone, or has a neighbour that does not belong there."""
    while True:
        key = rng.choice(list(tree))
        if not isinstance(tree[key], dict) or rng.random() < 0.2:
            break
        tree = tree[key]
    what = rng.randrange(4)
    if what == 0:
        del tree[key]
    elif what == 1:
        tree[rng.choice(("", "warmup", "é", "format "))] = rng.choice(JSON)
    else:
        tree[key] = rng.choice(JSON)


@pytest.mark.parametrize("seed", range(DRAWN))
def test_a_tree_changed_somewhere(seed: int) -> None:
    """ValueError or TypeError, or an identity that is its own tree; the tree is left as it was."""
    rng, tree = random.Random(seed), IDENTITY.as_dict()
    for _ in range(rng.randrange(1, 3)):
        changed_somewhere(tree, rng)
    before = copy.deepcopy(tree)
    with in_time():
        try:
            identity = Identity.from_dict(tree)
        except (ValueError, TypeError) as error:
            said, identity = str(error), None
        if identity is None:
            assert len(said) > 15
        else:
            as_good_as_any(identity)
            assert all(identity.as_dict()[name] == before[name] for name in before if name != "problem")
    assert repr(tree) == repr(before)


@pytest.mark.parametrize("tree", [*JSON, "text", (), 5, object()], ids=lambda value: repr(value)[:20])
def test_no_tree_at_all(tree: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"identity must be an object|its format is None"):
        Identity.from_dict(tree)
