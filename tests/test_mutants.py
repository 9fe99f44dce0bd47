"""Mutants fit the code as it is, and the tool that tries them tells killed, surviving and stale ones apart."""

from pathlib import Path

import pytest
from mutants import run
from mutants.mutant import Mutant, Stale
from mutants.run import KINDS, MUTANTS, PROTOCOL, ROOT, SCIENCE, Broken, Outcome, chosen, summary, table, write


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_fits_the_code(mutant: Mutant) -> None:
    """Its text is there once, what takes its place is Python, and its tests exist. If not, mend the mutant's lines."""
    mutant.check(ROOT)


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    assert len(SCIENCE) >= 60
    assert len(PROTOCOL) >= 30
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.spoils.endswith(".") and mutant.tests and mutant.old != mutant.new for mutant in MUTANTS)


def test_each_kind_of_fault_that_was_found_is_made_again() -> None:
    """18 kinds, as they were counted when they were found, and 14 of later times."""
    assert len({kind.name for kind in KINDS}) == 32
    names = {mutant.name for mutant in MUTANTS}
    assert all(len(kind.names) >= 3 and set(kind.names) <= names for kind in KINDS)


# --- the tool, on a package of three lines ----------------------------------------------------------------------------

TESTS = """
from distsim.sums import add, same

def test_add():
    assert add(1, 2) == 3

def test_add_nothing():
    assert add(1, 0) == 1

def test_same():
    assert same(3) == 3
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in ("distsim", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "distsim" / "__init__.py").touch()
    (tmp_path / "distsim" / "sums.py").write_text(
        "def add(a, b):\n    return a + b\n\n\ndef same(a):\n    return a * 1\n"
    )
    (tmp_path / "tests" / "test_sums.py").write_text(TESTS)
    return tmp_path


def mutant(name: str, old: str, new: str, *tests: str, changes_nothing: str = "") -> Mutant:
    named = tuple(f"test_sums.py::{test}" for test in tests)
    return Mutant(name, "It spoils sums.", "sums.py", old, new, named, changes_nothing)


KILLED = mutant("killed", "a + b", "a - b", "test_add")
SURVIVES = mutant("survives", "a + b", "a - b", "test_add_nothing")
EQUAL = mutant("equal", "a * 1", "a / 1", "test_same", changes_nothing="a whole number divided by 1 is equal to itself")
NOT_EQUAL = mutant("not equal", "a * 1", "a * 2", "test_same", changes_nothing="it only seems so")
HANGS = mutant("hangs", "    return a + b", "    while True:\n        pass", "test_add")
FAILS_TO_IMPORT = mutant("no module", "def same", "import nothing_of_the_kind\ndef same", "test_add")


def test_outcomes(tree: Path) -> None:
    before = (tree / "distsim" / "sums.py").read_text()
    mutants = [KILLED, SURVIVES, EQUAL, NOT_EQUAL, FAILS_TO_IMPORT]
    outcomes = {outcome.mutant.name: outcome for outcome in run.run(mutants, jobs=2, root=tree, libraries=())}
    assert list(outcomes) == [one.name for one in mutants]
    assert {name for name, outcome in outcomes.items() if outcome.wrong} == {"survives", "not equal", "no module"}
    assert outcomes["killed"].killer == "tests/test_sums.py::test_add"
    assert outcomes["equal"].killer == outcomes["survives"].killer == ""
    assert "pytest ends with" in outcomes["no module"].error
    assert (tree / "distsim" / "sums.py").read_text() == before, "the checkout is only read"
    assert not list(tree.rglob("__pycache__"))


def test_a_mutant_that_hangs_is_noticed(tree: Path) -> None:
    (outcome,) = run.run([HANGS], jobs=1, root=tree, libraries=(), limit=4)
    assert (outcome.killer, outcome.wrong) == ("the limit of 4 s", False)


def test_tests_that_fail_anyway_kill_nothing(tree: Path) -> None:
    (tree / "tests" / "test_sums.py").write_text(TESTS.replace("== 3", "== 4"))
    with pytest.raises(Broken, match="do not pass on the code as it is"):
        run.run([KILLED], jobs=1, root=tree, libraries=())


@pytest.mark.parametrize(
    ("stale", "said"),
    [
        (mutant("gone", "a ** b", "a", "test_add"), r"gone: its old text occurs 0 times in distsim/sums\.py"),
        (mutant("twice", "return", "return not", "test_add"), "twice: its old text occurs 2 times"),
        (mutant("text", "a + b", "a +", "test_add"), r"text: with its new text distsim/sums\.py is no Python"),
        (mutant("untested", "a + b", "a", "test_ad"), r"untested: there is no test test_sums\.py::test_ad"),
        (Mutant("lost", "It spoils.", "other.py", "a", "b", ()), r"lost: there is no distsim/other\.py"),
    ],
    ids=lambda value: value.name if isinstance(value, Mutant) else "",
)
def test_a_stale_mutant_is_named(tree: Path, stale: Mutant, said: str) -> None:
    with pytest.raises(Stale, match=said):
        run.run([stale], jobs=1, root=tree, libraries=())


def test_the_sample_is_drawn_from_the_seed() -> None:
    assert chosen([], 12, 0) == chosen([], 12, 0) != chosen([], 12, 1)
    assert len(chosen([], 12, 0)) == 12
    assert chosen([], None, 0) == list(MUTANTS)
    assert [one.name for one in chosen([MUTANTS[3].name], None, 0)] == [MUTANTS[3].name]
    with pytest.raises(ValueError, match="there is no mutant nonesuch"):
        chosen(["nonesuch"], None, 0)


def test_the_table(tmp_path: Path) -> None:
    outcomes = [
        Outcome(KILLED, "tests/test_sums.py::test_add[a|b]", 1.6),
        Outcome(SURVIVES, "", 2.0),
        Outcome(EQUAL, "", 3.0),
    ]
    lines = table(outcomes).splitlines()[2:]
    assert lines == [
        "| killed | It spoils sums. | `tests/test_sums.py::test_add` | 2 |",
        "| survives | It spoils sums. | **survives** | 2 |",
        "| equal | It spoils sums. | changes nothing: a whole number divided by 1 is equal to itself | 3 |",
    ]
    assert summary(outcomes) == "3 mutants: 1 killed, 1 change nothing, 1 came out wrong"
    document = tmp_path / "mutants.md"
    document.write_text(f"# Mutants\n\n{run.BEGIN}\nno table yet\n{run.END}\n\nThe end.\n")
    for _ in range(2):
        write(document, outcomes, minutes=3.2)
        text = document.read_text()
        assert text.startswith("# Mutants\n\n")
        assert text.endswith(f"{run.END}\n\nThe end.\n")
        assert table(outcomes) in text
        assert "1 came out wrong. 3 minutes on" in text
        assert "no table yet" not in text
    document.write_text("# Nothing\n")
    with pytest.raises(ValueError, match="to put the table into"):
        write(document, outcomes, minutes=3.2)
