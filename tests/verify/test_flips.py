"""Bits flipped and objects lost in a finished store: verify names each one. The short form.

tests/faults/flips.py is the long one: 1,000 flips, 100 losses, and repairs. Repairs in short: tests/test_repair.py.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import flips
from faults.flips import KINDS, LOSSES, Damage, damaged, drawn, experiment, files, judged, kind_of, reading

from distsim.store import Storage
from distsim.verify.store import verify_store

pytestmark = pytest.mark.long

KINDS_THERE = {kind for kind, _ in KINDS}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("flips") / "store"
    with flips.undrawn():
        flips.make(folder)
        yield folder


def test_sixty_flips_twenty_losses_and_fifteen_forgeries(root: Path) -> None:
    by_object, by_damage, judgements = experiment(root, 60, 20, 15, seed=1)
    assert [judgement for judgement in judgements if judgement[1] == "silent"] == []
    assert sum(row.total() for row in by_object.rows.values()) == 95
    assert by_damage.rows["flip"].total() == 60
    harmless = {kind_of(damage.path) for damage, outcome in judgements if outcome == "harmless"}
    assert harmless <= {"lease, Tune's files", "leftovers", "ends of generations", "spec"}, "no part of any result"
    assert by_damage.rows["another's piece"]["found"] == by_damage.rows["another's piece, renamed"]["found"] == 5
    assert by_object.rows["chunks of activations"]["found"] >= 5


def test_in_two_processes_the_same_comes_out(root: Path) -> None:
    assert experiment(root, 4, 2, 1, seed=2, jobs=2) == experiment(root, 4, 2, 1, seed=2)


def test_outcomes_are_told_in_the_order_of_their_damages() -> None:
    dealt = list(range(5))
    assert flips.in_turn([dealt[0::2], dealt[1::2]]) == dealt


# --- the instrument itself -------------------------------------------------------------------------------------------


def test_every_kind_of_object_is_there_and_is_drawn(root: Path) -> None:
    assert {kind_of(path) for path in files(root)} == KINDS_THERE
    rng, sizes = random.Random(0), files(root)
    assert {kind_of(drawn(rng, sizes, "flip").path) for _ in range(400)} == KINDS_THERE


@pytest.mark.parametrize("how", ["flip", *LOSSES])
def test_a_damage_is_done_and_undone(root: Path, how: str) -> None:
    rng, sizes = random.Random(how), files(root)
    before = {path: (root / path).read_bytes() for path in sizes}
    damage = drawn(rng, sizes, how)
    with damaged(root, damage):
        now = {path: (root / path).read_bytes() for path in files(root)}
        different = {path for path in before if now.get(path) != before[path]}
        assert different == {damage.path}
        if how == "flip":
            bits = [x ^ y for x, y in zip(now[damage.path], before[damage.path], strict=True)]
            assert sum(bit.bit_count() for bit in bits) == 1
    assert {path: (root / path).read_bytes() for path in sizes} == before


def test_what_verify_would_not_name_is_silent(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is no part of what anybody reads."""
    healthy, before = verify_store(Storage(root)), reading(root)
    (results,) = root.glob("digits/results/results.csv")
    (lease,) = root.glob("lease/*.json")
    monkeypatch.setattr(flips, "verify_store", lambda root: healthy)
    for file, outcome in ((results, "silent"), (lease, "harmless")):
        damage = Damage("flip", file.relative_to(root).as_posix(), 77)
        with damaged(root, damage):
            assert judged(root, damage, healthy, before) == outcome
