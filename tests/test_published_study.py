"""A published study as `distsim.open` gives it, and as `list` and `report` print it: tables, and no networks."""

import dataclasses
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from sweep_scripts import Outcome, outcome, run_script

import distsim
from distsim.cli import main as cli
from distsim.results.merging import merge, of_store, publish
from distsim.results.published import read
from distsim.store import DamagedStore, existing_stores

SMALL = ("--epochs", 1, "--train-limit", 100, "--probe", 50, "--runs", 2, "--iterations", 2, "--metrics", "cka")


def command(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    assert run_script("digits", *SMALL, "--local", "--device", "cpu", "--storage", folder).status == 0
    return folder


@pytest.fixture(scope="module")
def kept(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is published of it. Not to be changed."""
    folder = tmp_path_factory.mktemp("published")
    publish(of_store(existing_stores(store)[0]), folder)
    return folder


def test_its_tables_are_those_of_the_store_and_say_from_which_network_and_where(store: Path, kept: Path) -> None:
    study, original = distsim.open(kept), distsim.open(str(store))
    assert isinstance(study, distsim.Study)
    assert repr(study) == f"Study({str(kept)!r}, problems=['digits'])"
    for name in ("results", "networks", "summary", "accuracy", "chance", "functional", "functional_summary"):
        table = getattr(original, name)
        pd.testing.assert_frame_equal(getattr(study, name)[list(table)], table)
    assert set(study.results["complete"]) == {0}
    assert set(study.results["environment"]) == set(study.environments["environment"]) == {0}
    assert study.parts["runs"].item() == 2
    pd.testing.assert_frame_equal(study.claims(), original.claims())
    assert len(study.figure("fig2", metric="cka").axes) == len(original.figure("fig2", metric="cka").axes)


def test_a_study_that_an_earlier_version_published_has_the_columns_of_today(kept: Path, tmp_path: Path) -> None:
    study = read(kept)
    older = study.tables.similarities.drop(columns=["lower", "upper"])
    publish(dataclasses.replace(study, tables=dataclasses.replace(study.tables, similarities=older)), tmp_path)
    assert "lower" not in pd.read_parquet(tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(read(tmp_path).tables.similarities, study.tables.similarities)
    assert list(merge([read(tmp_path), study], ["older", "today"]).tables.similarities) == list(
        study.tables.similarities
    )


def test_what_needs_networks_says_that_there_are_tables_only(kept: Path) -> None:
    study = distsim.open(kept)
    for ask in (study.status, lambda: study.network(run=0, iteration=1), study.network, lambda: study.provenance):
        with pytest.raises(FileNotFoundError, match=f"^{kept} is a published study, which has tables only and not "):
            ask()


def test_a_table_that_was_changed_is_refused(kept: Path, tmp_path: Path) -> None:
    study = Path(shutil.copytree(kept, tmp_path / "study"))
    file = study / "results.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedStore, match=r"results\.parquet is damaged: its digest is not the one in study\.json"):
        distsim.open(study)
    assert command("report", study).status == 1


def without_origin(report: bytes) -> bytes:
    """A report but for the line that says from which tables of a store it was made, and the digest of its bytes."""
    return re.sub(
        rb'\n<meta name="made-from" content="[0-9a-f]{64}">|\n<!-- SHA-256 of everything above: .*$',
        b"",
        report,
        flags=re.S,
    )


def test_list_and_report_print_it_and_the_report_is_the_only_file_written(store: Path, kept: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    listed, reported, of_store = command("list", kept), command("report", kept), command("report", store)
    assert listed.out == command("list", store).out.replace("\n", ", published\n")
    assert (reported.status, reported.err) == (0, "")
    table, end = of_store.out.rsplit("\n\n", 1)
    assert re.fullmatch(rf"\d+ figures in {store}/figures\nreport: {store}/report.html\n", end)
    assert reported.out == f"{table}\n\nreport: {kept}/report.html\n"
    after = {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    assert after.keys() - before.keys() == {kept / "report.html"}
    assert {path: after[path] for path in before} == before
    of_study, of_store = ((folder / "report.html").read_bytes() for folder in (kept, store))
    assert without_origin(of_study) == without_origin(of_store)
    assert without_origin(of_store) != of_store, "a store's report says what it was made from"
    assert command("report", kept, "--problem", "cifar2").err.startswith("distsim: no sweep of cifar2 in ")


def test_list_counts_complete_networks(kept: Path, tmp_path: Path) -> None:
    first = read(kept)
    networks = first.tables.networks.assign(weights=[f"{row:064x}" for row in range(len(first.tables.networks))])
    parts = ({**first.parts[0], "weights": f"{0:064x}"},)
    other = dataclasses.replace(first, tables=dataclasses.replace(first.tables, networks=networks), parts=parts)
    publish(merge([first, other], ["first", "other"]), tmp_path / "joined")
    assert " 4 runs, from 2 complete networks, up to iteration 2, " in command("list", tmp_path / "joined").out
