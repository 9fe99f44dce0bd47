"""The benchmarks run: every section measures something and finds its place. How fast anything is, no test says."""

import argparse
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from script("metrics", monkeypatch)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from script("training", monkeypatch)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from script("digits", monkeypatch)


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module. Loaded by its path, since tests/ has a package of that name."""
    monkeypatch.syspath_prepend(BENCH)
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module
    for name, other in list(sys.modules.items()):
        if str(getattr(other, "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


@pytest.mark.long
def test_every_section_of_the_metrics_benchmark(
    metrics: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text("# Title\n\n<!-- metrics 5: begin -->\nold\n<!-- metrics 5: end -->\n\nThe end.\n")
    assert metrics.main(["--small", "--write", str(document)]) == 0
    text, printed = document.read_text(), capsys.readouterr().out
    assert text.startswith("# Title\n\n<!-- metrics 5: begin -->\n### 5. ")
    assert "\nold\n" not in text
    for number in metrics.SECTIONS:
        (section,) = re.findall(f"<!-- metrics {number}: begin -->\n(.*?)<!-- metrics {number}: end -->", text, re.S)
        assert section in printed
        assert section.startswith(f"### {number}. ")
        assert "n = 60, **not the n = 5,000" in section
        tables = re.findall(r"(?:^\|.*\n)+", section, re.M)
        assert tables
        for table in tables:
            header, _, *rows = table.splitlines()
            assert rows or number == 2  # which has peers only
            assert {row.replace("\\|", "").count("|") for row in rows} <= {header.count("|")}


def test_a_section_measured_again_replaces_only_itself(metrics: ModuleType, tmp_path: Path) -> None:
    from report import Section, Table, replace

    document = tmp_path / "benchmarks.md"
    for name, value in (("one", "1"), ("two", "2"), ("one", "3 \\1")):
        table = Table(("what", "value"))
        table.add("it", value)
        replace(document, Section(name, f"The {name}", "Here.", [table]))
    text = document.read_text()
    assert text.index("### The one") < text.index("### The two")
    assert re.findall(r"it +\| (.*?) *\|", text) == ["3 \\1", "2"]
    assert text.count("begin -->") == 2


def test_networks_are_chosen_evenly(metrics: ModuleType) -> None:
    assert metrics.spaced(20, 1) == [10]
    assert metrics.spaced(20, 4) == [3, 8, 13, 18]
    assert metrics.spaced(8, 8) == list(range(1, 9))
    assert metrics.spaced(3, 5) == [1, 2, 3]


@pytest.mark.long
def test_sections_of_the_training_benchmark(
    training: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that start no Ray: 2 and 3 measure whole sweeps."""
    document = tmp_path / "benchmarks.md"
    assert training.main(["--small", "--only", "1,4,5,6", "--write", str(document)]) == 0
    text, printed = document.read_text(), capsys.readouterr().out
    for number in (1, 4, 5, 6):
        (section,) = re.findall(f"<!-- training {number}: begin -->\n(.*?)<!-- training {number}: end -->", text, re.S)
        assert section in printed
        for table in re.findall(r"(?:^\|.*\n)+", section, re.M):
            header, _, *rows = table.splitlines()
            assert rows
            assert {row.count("|") for row in rows} == {header.count("|")}
    rates = re.findall(r"^\| (cifar2|lenet5_mnist) +\| 128 +\| ([\d,]+) ", text, re.M)
    ratios = re.findall(r"^\| (cifar2|lenet5_mnist) +\| 128 +\| [\d.e-]+ s +\| [\d.e-]+ s +\| ([\d.]+)×", text, re.M)
    assert [name for name, ratio in ratios if float(ratio) > 0] == ["cifar2", "lenet5_mnist"]
    assert [name for name, rate in rates if int(rate.replace(",", ""))] == ["cifar2", "lenet5_mnist"]
    assert len(re.findall(r"^\| [012] +\| (?:accuracy|svcca|cka|nbs) ", text, re.M)) == 1 + 2 * 4
    assert "**open**" in text, "the GPU's rows"


@pytest.mark.parametrize("name", ["metrics", "training"])
def test_nothing_is_measured_beside_other_processes(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # in which the load of a section before it would fade
    bench = request.getfixturevalue(name)
    monkeypatch.setitem(bench.SECTIONS, 1, lambda flags: pytest.fail("measured"))
    monkeypatch.setitem(bench.SECTIONS, 2, lambda flags: pytest.fail("measured"))
    assert bench.main(["--only", "1,2"]) == 1
    refused = r"^section (\d) is not measured: the load of other processes is \d+\.\d, above 0\.5, .* use --busy"
    assert re.findall(refused, capsys.readouterr().err, re.M) == ["1", "2"]


def test_times_measured_beside_other_processes_are_marked_and_not_judged(training: ModuleType) -> None:
    from machine import Busy, Calm
    from report import Table

    calm, flags = Calm(anyway=True, load=lambda: 3.0), argparse.Namespace(small=False)
    flags.calm = calm
    calm.look()
    assert training._verdict(flags, 2.0, 1.0, "×") == "≥ 1×"
    table = Table(("what",))
    calm.mark([table])
    assert table.notes == [
        "Measured beside other processes (load of other processes 3.0 at the start), so nothing is judged."
    ]
    calm.look(timed=False)
    assert training._verdict(flags, 2.0, 1.0, "×") == "≥ 1×: met", "accuracy does not depend on the load"
    quiet = Calm(anyway=False, load=lambda: 0.5)
    quiet.look()
    quiet.mark([table])
    assert quiet.judged
    assert len(table.notes) == 1
    with pytest.raises(Busy):
        Calm(anyway=False, load=lambda: 0.51).look()
    unknown = Calm(anyway=False, load=lambda: None)
    unknown.look()
    assert (unknown.judged, unknown.text()) == (True, "load unknown")


def test_a_section_waits_for_what_the_one_before_it_left(training: ModuleType) -> None:
    from machine import FADING, LOOKS, Busy, Calm

    slept: list[float] = []
    fading = [0.1, 2.0, 1.0, 0.4]
    calm = Calm(anyway=False, load=lambda: fading.pop(0) if len(fading) > 1 else fading[0], sleep=slept.append)
    calm.look()
    assert slept == []
    calm.look()
    assert (slept, calm.load) == ([LOOKS] * 2, 0.4)
    fading[:] = [2.0]
    slept.clear()
    with pytest.raises(Busy):
        calm.look()
    assert sum(slept) == FADING


def test_what_workers_announced_is_read_as_durations(training: ModuleType) -> None:
    lines = [
        (1.0, 7, "training", "begin a run 0, iteration 1"),
        (2.0, 7, "checkpoint", "begin runs/0000/iter_01/epoch"),
        (2.5, 7, "checkpoint", "end runs/0000/iter_01/epoch"),
        (4.0, 7, "training", "end a run 0, iteration 1"),
        (4.0, 7, "commit", "begin a run 0, iteration 1"),
        (4.5, 7, "commit", "end a run 0, iteration 1"),
        (4.6, 7, "extraction", "begin a, run 0, iteration 1"),
        (5.6, 7, "extraction", "end a, run 0, iteration 1"),
    ]
    assert list(training.Log(lines).durations("training")) == [("a run 0, iteration 1", 3.0)]
    wall, trained, extraction, kept = training.Log(lines).chain()
    assert (wall, trained, round(extraction, 9), kept) == (3.5, 2.5, 1.0, 0.5)


def test_a_seed_that_trains_badly_fails_the_digits_benchmark(
    digits: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert digits.main(["--seeds", "1"]) == 0
    assert re.search(r"^\| 0 +\| \d+\.\d % +\|\n\nmin .*; all above 97\.0 %$", capsys.readouterr().out, re.M)
    monkeypatch.setattr(digits, "accuracies", lambda seeds, count: [0.98, 0.97, 0.9])
    assert digits.main(["--seeds", "3"]) == 1
    assert "min 90.0 %, median 97.0 %, max 98.0 %; at or below 97.0 %: 1, 2\n" in capsys.readouterr().out


@pytest.fixture(scope="module")
def replication() -> Iterator[ModuleType]:
    """bench/replication.py, which makes the sections of the published studies once: that takes most of a minute."""
    with pytest.MonkeyPatch.context() as patch:
        (module,) = (module for module in script("replication", patch))
        for name in ("sections", "sensitivities", "ladders"):
            patch.setattr(module, name, once(getattr(module, name)))
        yield module


def once(make: Callable[[Any], Iterator[Any]]) -> Callable[[Any], list[Any]]:
    made: list[Any] = []

    def kept(given: Any) -> list[Any]:
        made.extend([] if made else make(given))
        return made

    return kept


def test_the_published_studies_give_the_tables_of_the_document(replication: ModuleType) -> None:
    assert replication.main(["--check"]) == 0


def test_a_document_that_says_something_else_is_found(replication: ModuleType, tmp_path: Path) -> None:
    text = replication.DOCUMENT.read_text()
    changed = tmp_path / "replication.md"
    changed.write_text(text.replace("| conv1_2 ", "| conv1_3 "))
    assert changed.read_text() != text
    assert replication.main(["--check", "--write", str(changed)]) == 1
    assert changed.read_text() == text.replace("| conv1_2 ", "| conv1_3 "), "nothing is written"


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from script("idle", monkeypatch)


def test_slots_are_idle_where_no_process_is_in_a_stage(idle: ModuleType) -> None:
    """Of two slots over 10 s one trains all the time, and the other one for 2 s, and compares for 3 s."""
    stages = """
        0.0 7 training begin digits complete network
        1.0 7 training end digits complete network
        2.0 7 training begin digits run 0, iteration 1
        2.0 8 training begin digits run 1, iteration 1
        3.0 8 extraction begin digits, run 1, iteration 1
        4.0 8 training end digits run 1, iteration 1
        4.0 8 extraction end digits, run 1, iteration 1
        5.0 9 comparison begin digits run 1, iteration 1 fc1
        8.0 9 comparison end digits run 1, iteration 1 fc1
        9.0 7 epoch digits run 0, iteration 1, 3
        12.0 7 training end digits run 0, iteration 1
    """
    wall, share = idle.idle_share("\n".join(line.strip() for line in stages.strip().splitlines()), 2)
    assert wall == 10
    assert share == pytest.approx(1 - (10 + 2 + 3) / 20)
