"""What measures a GPU: its scripts are sound, results become tables, and the document shows what the records say."""

import importlib.util
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from distsim.extras import EXTRA

ROOT = Path(__file__).parents[1]
GPU = ROOT / "bench/gpu"
CARD = "NVIDIA H100 80GB HBM3"
MACHINE = {
    "card": CARD, "date": "2026-12-01", "commit": "abc1234", "code": "", "cores": 16, "python": "3.12.3",
    "driver": "580.159", "versions": {"torch": "2.11.0"}, "ray": False,
}  # fmt: skip


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The modules of bench/gpu can be imported, and are gone after the test."""
    monkeypatch.syspath_prepend(GPU)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "bench")):
            del sys.modules[name]


@pytest.fixture
def read(loaded: None) -> ModuleType:
    import read

    return read


def results(folder: Path, machine: dict[str, Any] | None = None, **parts: list[dict[str, Any]]) -> Path:
    """A folder as a GPU machine fills it."""
    folder.mkdir(exist_ok=True)
    (folder / "machine.json").write_text(json.dumps(MACHINE | (machine or {})))
    for part, rows in parts.items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rate(problem: str, images: int | None, **other: Any) -> dict[str, Any]:
    row = {
        "problem": problem, "precision": "bfloat16", "way": "alone", "compiled": False, "deterministic": False,
        "chains": 1, "batch": 128,
    }  # fmt: skip
    return row | ({"note": "out of time"} if images is None else {"images_per_second": images}) | other


def cells(text: str, title: str, first: str) -> list[str]:
    """The cells of the row that begins so, in the section of this title."""
    _, _, section = text.partition(f": {title}\n")
    row = next(line for line in section.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in row.strip("|").split("|")]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    env = {name: value for name, value in os.environ.items() if name not in ("DATA", "OUT", "IMAGES")} | environment
    return subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True)


# --- scripts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", sorted(GPU.glob("*.sh")), ids=lambda script: script.name)
def test_a_script_is_bash(script: Path) -> None:
    checked = run("bash", "-n", str(script))
    assert (checked.returncode, checked.stderr) == (0, "")


def test_what_a_bare_machine_lacks_has_pinned_versions() -> None:
    line = next(line for line in (GPU / "bundle.sh").read_text().splitlines() if line.startswith("NEEDED="))
    names = line.removeprefix("NEEDED=").strip('"').split()
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {"zarr", "obstore", "pillow"} <= set(names) <= pinned
    torchs = {"torch", "torchvision", "threadpoolctl", "safetensors"}
    there = torchs | {"sklearn", "scipy", "pandas", "pyarrow", "matplotlib"}  # as the script says
    needed = {module for module, extra in EXTRA.items() if extra in ("train", "store", "report")}
    assert needed - there <= {"PIL", *names}, "a sweep would refuse to start there"


def test_a_bundle_without_images_is_refused() -> None:
    made = run("bash", "bench/gpu/bundle.sh")
    assert made.returncode != 0
    assert "IMAGES: is not set: a folder with train/CLASS and test/CLASS" in made.stderr


def test_the_code_leaves_room_for_the_images_that_travel_with_it() -> None:
    """Published figures had grown until the bundle of 42 MiB no longer fitted beside them."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed.returncode:
        pytest.skip("this is not a clone")
    files = [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    most = next(line for line in (GPU / "bundle.sh").read_text().splitlines() if line.startswith("MOST="))
    assert most.startswith("MOST=$((60 * 2**20))")
    assert sum(file.stat().st_size for file in files) <= (60 - 42) * 2**20


@pytest.mark.parametrize("script", ["run.sh", "study.sh"])
def test_a_run_without_a_place_for_its_results_is_refused(script: str) -> None:
    made = run("bash", f"bench/gpu/{script}", DEVICE="cpu")
    assert made.returncode != 0
    assert "OUT: is not set: the folder of the results" in made.stderr


def test_a_row_is_there_at_once_and_a_failure_stops_nothing(
    loaded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    from rows import Rows

    monkeypatch.setenv("OUT", str(tmp_path))
    rows = Rows("rates", time.time() + 100)

    def written() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "rates.jsonl").read_text().splitlines()]

    rows.measure({"way": 1}, lambda: {"value": 2.0})
    assert written() == [{"way": 1, "value": 2.0}]
    rows.measure({"way": 2}, lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    rows.measure({"way": 3}, lambda: pytest.fail("measured"), lacking="fuse")
    late = Rows("late", time.time())
    late.measure({"way": 4}, lambda: pytest.fail("measured"))
    assert written()[1:] == [
        {"way": 2, "note": "failed: ZeroDivisionError: division by zero"},
        {"way": 3, "note": "not in this version: fuse"},
    ]
    assert json.loads((tmp_path / "late.jsonl").read_text()) == {"way": 4, "note": "out of time"}


def test_features_are_read_from_flags_and_modules(loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    import rows

    parser = argparse.ArgumentParser()
    monkeypatch.setattr("distsim.cli.sweeps.parser_for", lambda problems, defaults: parser)
    assert rows.features() <= {"tf32", "tails"}
    parser.add_argument("--fuse")
    parser.add_argument("--compile")
    assert {"fuse", "compile"} <= rows.features()
    assert rows.lacking("fuse", "compile", "tails") == ""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert rows.lacking("fuse", "tails") == "tails"


def test_every_open_cell_of_the_tables_is_measured(loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way that the tables show as open is one of those that rates.py goes through."""
    import rates
    import tables
    from cells import Newest

    monkeypatch.setattr(rates, "SMALL", False)
    planned = {
        (way.problem, way.precision, way.way, way.compiled, way.deterministic, way.chains) for way in rates.ways()
    }
    asked = set()

    class Asking(Newest):
        def find(self, part: str, having: str, **wanted: Any) -> None:
            if part == "rates":
                names = ("problem", "precision", "way", "compiled", "deterministic", "chains")
                asked.add(tuple((wanted | {"compiled": wanted.get("compiled", False)})[name] for name in names))

    newest = Asking([])
    for table in (*tables.rates(newest), *tables.kernels(newest)):
        assert table.rows
    never = {way for way in asked if way[2] == "eager" and way[0] not in rates.MAIN}  # their cells are empty
    assert asked - never <= planned
    opened = [row for table in tables.chains(newest) for row in table.rows]
    for problem, chains, way, *numbers in opened:
        name, _, compiled = way.replace("fused with own kernels", "tails").partition(", ")
        columns = [("float32", False), ("tf32", False), ("bfloat16", False), ("bfloat16", True)]
        for (precision, deterministic), cell in zip(columns, numbers, strict=True):
            if cell:
                assert (problem, precision, name, bool(compiled), deterministic, int(chains)) in planned


# --- tables ----------------------------------------------------------------------------------------------------------


def test_results_are_kept_and_the_newest_number_is_shown(read: ModuleType, tmp_path: Path) -> None:
    document, records = tmp_path / "benchmarks.md", tmp_path / "records"
    document.write_text("# Benchmarks\n")
    flags = ["--records", str(records), "--write", str(document), "--studies", str(tmp_path / "studies")]
    first = results(tmp_path / "a", rates=[rate("cifar2", 200_000), rate("cifar4", 100_000)])
    later = {"date": "2026-12-02", "commit": "def5678"}
    again = results(tmp_path / "b", later, rates=[rate("cifar2", 300_000), rate("cifar4", None)])
    assert read.main([str(first), *flags]) == 0
    assert cells(document.read_text(), "training", "cifar2")[6] == "200,000"
    assert "From session a. **open**: not measured yet" in document.read_text()
    for _ in range(2):  # the same results are kept once
        assert read.main([str(again), *flags]) == 0
    assert len(list(records.glob("*.json"))) == 2
    text = document.read_text()
    assert cells(text, "training", "cifar2")[6] == "300,000 (b)"
    assert cells(text, "training", "cifar4")[6] == "100,000 (a)"
    assert cells(text, "training", "cifar6")[6] == "**open**"
    assert cells(text, "sessions", "b")[1:3] == ["2026-12-02", "def5678"]
    assert read.main(["--check", *flags]) == 0
    document.write_text(text.replace("300,000 (b)", "400,000 (b)"))
    assert read.main(["--check", *flags]) == 1
    assert "400,000 (b)" in document.read_text(), "nothing is written"


def test_a_target_is_met_only_by_what_distsim_did(read: ModuleType, tmp_path: Path) -> None:
    from cells import Session

    def target(*rows: dict[str, Any]) -> str:
        session = Session(MACHINE, [{"part": "rates"} | row for row in rows])
        (section,) = (one for one in read.sections([session]) if one.name.endswith("targets"))
        return cells(f": targets\n{section.markdown()}", "targets", "vgg16_cifar10, images/s")[2]

    plain, compiled = rate("vgg16_cifar10", 48_669), rate("vgg16_cifar10", 67_226, compiled=True)
    assert target(plain) == "48,669: **missed**"
    assert target(plain, compiled | {"prototype": True}) == "48,669: **missed**"
    assert target(plain, compiled) == "67,226: met"
    assert target(rate("vgg16_cifar10", 99_999, way="eager")) == "**open**"


def test_a_result_of_each_part_finds_its_place(read: ModuleType, tmp_path: Path) -> None:
    kernels = {"kernels": 158, "kernel_us": 600, "longest": [[100.0, 2.0, "wgrad"], [50.0, 1.0, "adam"]]}
    folder = results(
        tmp_path / "out",
        tests=[
            {"failed": "tests/metrics/test_cka.py::test_cka", "why": "E  assert 1 == 2"},
            {"passed": 639, "failed": 1, "skipped": 2, "ran": "all", "seconds": 61.2},
        ],
        determinism=[
            {"way": "alone", "digest": "31fd"},
            {"way": "killed and resumed", "digest": "31fd", "as": "alone", "same": True},
            {"way": "packed", "digest": "3067", "as": "alone", "same": False},
            {"way": "fused", "note": "not in this version: fuse"},
        ],
        rates=[rate("cifar2", 200_000, **kernels), rate("cifar2", 889_263, way="fused", compiled=True, chains=20)],
        comparisons=[
            {"rate": "products, float64", "flops": 64e12},
            {"rate": "copies from pinned memory", "bytes_per_second": 52e9},
            {"piece": "QDWH with its bounds", "columns": 16384, "n": 5000, "seconds": 0.1, "to_eigenvalues": 4e-14},
            {
                "problem": "cifar2", "layer": "conv1_1", "columns": 16384, "n": 5000, "route": "qdwh", "seconds": 0.2,
                "nbs": 0.95, "lower": 0.95, "upper": 0.95000076, "cka": 0.9,
            },
            {"agreement": "cifar2", "n": 1000, "largest_difference": 1.2e-15},
        ],
    )  # fmt: skip
    with (folder / "comparisons.jsonl").open("a") as file:
        file.write('{"rate": "cut off in the mid')
    text = "\n".join(section.markdown() for section in read.sections([read.session_of(folder)], fresh=True))
    assert cells(text, "the same bits, and tests", "all")[1:] == ["639", "1", "2", "61"]
    assert "Failed: `tests/metrics/test_cka.py::test_cka`." in text
    assert cells(text, "the same bits, and tests", "packed")[1:] == ["alone", "**no**"]
    assert cells(text, "kernels", "cifar2")[1:] == ["alone", "158", "600", "wgrad 100; adam 50"]
    assert cells(text, "chains together", "cifar2")[1:3] == ["1", "alone"]
    assert cells(text, "what the card can do", "products, float64") == ["products, float64", "64 TFLOP/s"]
    assert cells(text, "what the card can do", "copies from pinned memory")[1] == "52 GB/s"
    assert cells(text, "pieces of a comparison", "QDWH with its bounds")[1:] == ["0.1", "4.0e-14", ""]
    assert cells(text, "comparisons of layers", "cifar2")[4:10] == ["0.2 s", "", "", "0.950000", "0.900000", "8.0e-07"]
    assert "differ by at most 1.2e-15" in text
    assert "cifar8" not in text, "what this session has no number for"


def test_a_study_comes_back_as_a_folder_to_merge(
    read: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {
        "problem": "cifar2", "asked": 20, "runs": 20, "iterations": 20, "networks": 401, "precision": "bfloat16",
        "flags": "--local --fuse 20", "training_seconds": 200.5, "comparison_seconds": 100.25, "seconds": 290,
        "status": 0,
    }  # fmt: skip
    folder = results(tmp_path / "out", study=[row | {"runs": 4, "status": 124}, row])
    (tmp_path / "study.json").write_text("{}")
    with tarfile.open(folder / "study.tar", "w") as archive:
        archive.add(tmp_path / "study.json", "./study.json")
    document = tmp_path / "benchmarks.md"
    flags = ["--records", str(tmp_path / "records"), "--write", str(document), "--studies", str(tmp_path / "studies")]
    assert read.main([str(folder), *flags]) == 0
    place = tmp_path / "studies/cifar2-2026-12-01"
    assert (place / "study.json").read_text() == "{}"
    assert f"distsim merge {place} --into results/published/cifar2\n" in capsys.readouterr().out
    shown = cells(document.read_text(), "a whole study", "cifar2")
    assert shown[1:] == ["20 × 20", "`--local --fuse 20`", "0.50 s", "0.25 s", "290 s"]
    assert cells(document.read_text(), "targets", "the whole study")[2] == "290 s: met"


def test_a_rehearsal_is_shown_and_not_kept(
    read: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results(tmp_path / "out", {"card": "CPU (a rehearsal)"}, rates=[rate("cifar2", 900)])
    records = tmp_path / "records"
    assert read.main([str(folder), "--records", str(records), "--write", str(tmp_path / "x.md")]) == 1
    assert "is a rehearsal on a CPU: it is not kept" in capsys.readouterr().err
    assert not records.exists()
    assert read.main(["--show", str(folder)]) == 0
    assert cells(capsys.readouterr().out, "training", "cifar2")[6] == "900"


def test_the_document_shows_the_records(read: ModuleType) -> None:
    assert read.main(["--check"]) == 0


def test_flags_are_told_without_places(loaded: None) -> None:
    import study

    asked = ["--local", "--device", "cuda", "--data", "folder:/x", "--precision", "bfloat16", "--fuse", "20"]
    assert study.told(asked) == "--local --precision bfloat16 --fuse 20"


# --- a rehearsal -----------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> str:
    """A folder of drawn images of cifar2's two classes, as --data takes it."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", 130), ("test", 20)):
        for name in ("automobile", "truck"):
            place = tmp_path / "images" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return f"folder:{tmp_path / 'images'}"


@pytest.mark.long
def test_a_rehearsal_on_a_cpu_measures_something_in_each_part(tmp_path: Path, images: str) -> None:
    out = tmp_path / "out"
    own = {"DEVICE": "cpu", "OUT": str(out), "DATA": images, "PYTHON": sys.executable}
    made = run("bash", "bench/gpu/run.sh", **own, DETERMINISM="600")  # sweeps of its own, beside the other parts
    assert made.returncode == 0, made.stdout + made.stderr
    assert made.stdout.count("status 0, ") == 5, made.stdout

    def rows(part: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (out / f"{part}.jsonl").read_text().splitlines()]

    (tests,) = rows("tests")
    assert tests["ran"] == "all"
    assert tests["passed"] > 10
    assert tests["failed"] == 0
    same = {row["way"]: row["same"] for row in rows("determinism") if "same" in row}
    assert set(same) >= {"killed and resumed", "packed"}
    assert all(same.values())
    noted = {row["note"] for row in (*rows("rates"), *rows("comparisons")) if "note" in row}
    assert {note.partition(":")[0] for note in noted} <= {"not in this version", "refused on a CPU"}
    assert {row["problem"] for row in rows("rates") if row.get("images_per_second", 0) > 0} == {
        "cifar2",
        "lenet5_mnist",
    }
    compared = {row["problem"] for row in rows("comparisons") if row.get("route") == "qdwh" and row["nbs"] is not None}
    assert compared == {"cifar2", "vgg16_cifar10"}
    assert len(list(out.iterdir())) <= 8


@pytest.mark.long
def test_a_rehearsed_study_comes_back(tmp_path: Path, images: str, read: ModuleType) -> None:
    out = tmp_path / "out"
    made = run("bash", "bench/gpu/study.sh", DEVICE="cpu", OUT=str(out), DATA=images, PYTHON=sys.executable)
    assert made.returncode == 0, made.stdout + made.stderr
    (*_, row) = [json.loads(line) for line in (out / "study.jsonl").read_text().splitlines()]
    assert (row["problem"], row["iterations"], row["status"]) == ("cifar2", 2, 0)
    assert row["networks"] == 1 + row["runs"] * 2
    assert row["chance"] > 0
    read.unpack(out, read.session_of(out), tmp_path)
    (place,) = tmp_path.glob("cifar2-*")
    merged = run(sys.executable, "-m", "distsim", "merge", str(place), "--into", str(tmp_path / "merged"))
    assert merged.returncode == 0, merged.stderr
    assert (tmp_path / "merged/results.parquet").exists()
