"""Published studies: of a store, joined, written and read again."""

import dataclasses
import errno
import functools
import itertools
import json
import os
import shlex
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from distsim.cli.main import main
from distsim.problems import PROBLEMS
from distsim.results.columns import OF_OLDER, TABLES
from distsim.results.merging import _command, claims_table, merge, of_store, publish
from distsim.results.published import Published, read
from distsim.results.tables import summarise
from distsim.specs import COMPLETE, Extent, Identity, Request
from distsim.specs.changes import changed, merged, parsed
from distsim.store import DamagedStore, SweepStore, existing_stores
from distsim.store.existing import STUDY

OLD = Path(__file__).parents[1] / "stores" / "format4.tar.xz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run of digits."""
    where = tmp_path_factory.mktemp("published")
    with tarfile.open(OLD) as archive:
        archive.extractall(where, filter="data")
    return next(path.parents[1] for path in where.rglob("spec.json"))


@pytest.fixture(scope="module")
def store(folder: Path) -> SweepStore:
    (store,) = existing_stores(folder)
    return store


@pytest.fixture(scope="module")
def study(store: SweepStore) -> Published:
    return of_store(store)


@pytest.fixture(scope="module")
def kept(study: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published study. Not to be changed."""
    where = tmp_path_factory.mktemp("kept") / "study"
    publish(study, where)
    return where


def elsewhere(study: Published, weights: str = "a" * 64, device: str = "another card", by: float = 0.01) -> Published:
    """The study as another machine could have made it: other weights, other values."""
    tables = study.tables
    networks = tables.networks.assign(weights=weights)
    similarities = tables.similarities.assign(value=tables.similarities["value"] - by)
    return dataclasses.replace(
        study,
        tables=dataclasses.replace(tables, networks=networks, similarities=similarities),
        environments=study.environments.assign(device=device),
        parts=tuple({**part, "weights": weights} for part in study.parts),
    )


def test_every_row_of_the_store_is_there_and_says_where_it_was_computed(store: SweepStore, study: Published) -> None:
    written = pd.read_parquet(Path(store.storage.url) / "results/results.parquet")
    shared = [name for name in written if name in study.tables.similarities]
    published = study.tables.similarities[shared]
    assert_frame_equal(published, written[shared].astype(published.dtypes), check_exact=True)
    assert set(study.tables.similarities["environment"]) <= set(study.environments["environment"])
    mark = store.mark(COMPLETE)
    assert mark is not None
    for name in ("device", "torch", "numpy", "instruction_set"):
        assert list(study.environments[name]) == [str(mark.environment[name])]
    (part,) = study.parts
    assert (part["runs"], part["iterations"]) == (1, 2)
    asked = "--runs 1 --iterations 2 --control none --measure none"
    assert part["command"] == f"python SCRIPT {asked} --threads 1 --device cpu --storage STORE"
    assert part["training_hours"] > 0
    complete = study.tables.networks[study.tables.networks["run"].isna()]
    assert list(complete["weights"]) == [part["weights"]]


def test_the_command_has_every_flag_that_decides_numbers() -> None:
    """A new study without a flag has both controls, all that is measured, and the paper's recipe."""
    problem = PROBLEMS["cifar2"].reduced_to(epochs=20, train_limit=4000, probe=2000, probe_from="test")
    identity = Identity(problem, "0" * 64, seed=3, precision="bfloat16", compile=True)
    extent = Extent(2, 10, ("cka",), control=("retrain",), control_runs=1, complete=2, permutations=20, chance=False)
    request = Request(extent, "folder:images", "cpu")
    reduced = "--epochs 20 --train-limit 4000 --probe 2000 --probe-from test"
    assert _command(identity, request, 2, 8) == (
        f"python sweeps/cifar2.py --data folder:FOLDER {reduced} --runs 2 --iterations 8 --complete 2 "
        "--control retrain --control-runs 1 --metrics cka --permutations 20 --no-chance --threads 1 --device cpu "
        "--seed 3 --precision bfloat16 --compile --storage STORE"
    )


def test_the_command_sets_what_no_flag_does() -> None:
    """A recipe of one's own under a paper's name: the command says it in the words that `distsim sweep` reads."""
    recipe = {"lr": 0.003, "batch_size": 32, "augment": ["flip"], "schedule": "step", "milestones": [2, 5]}
    reduced = PROBLEMS["vgg16_cifar10"].reduced_to(epochs=6, train_limit=4000)
    tree = {"recipe": recipe | {"patience": "none"}, "pruning": {"scope": "local"}}
    problem = dataclasses.replace(changed(reduced, tree, "--set"), reduced=True)
    request = Request(Extent(1, 3), "folder:images", "cpu")
    words = shlex.split(_command(Identity(problem, "0" * 64), request, 1, 3))
    assert words[:3] == ["distsim", "sweep", "vgg16_cifar10"]
    settings = words[words.index("--set") + 1 : words.index("--storage")]
    assert "recipe.lr=0.003" in settings
    assert {setting.partition("=")[0] for setting in settings} == {
        *(f"recipe.{name}" for name in ("lr", "batch_size", "augment", "milestones")),
        "pruning.scope",
    }
    again = changed(reduced, functools.reduce(merged, map(parsed, settings)), "--set")
    assert dataclasses.replace(again, reduced=True) == problem
    script = dataclasses.replace(request, script="mine.py", script_sha256="0" * 64)
    assert _command(Identity(problem, "0" * 64), script, 1, 3).startswith("python mine.py --data")


def test_no_host_is_named(store: SweepStore, kept: Path) -> None:
    mark = store.mark(COMPLETE)
    assert mark is not None
    host = mark.provenance["host"]
    for file in kept.glob("*.parquet"):
        table = pd.read_parquet(file)
        assert "host" not in table
        assert not (table == host).any(axis=None)
    assert f'"{host}"' not in (kept / STUDY).read_text()


def test_what_is_written_is_read_again(study: Published, tmp_path: Path) -> None:
    files = publish(study, tmp_path)
    assert {STUDY, "claims.csv", "results.parquet", "environments.parquet", "fig1_accuracy_median.png"} <= set(files)
    again = read(tmp_path)
    assert (again.identity, again.parts, again.images) == (study.identity, study.parts, study.images)
    for name in ("similarities", "networks", "summary", "accuracy", "chance"):
        assert_frame_equal(getattr(again.tables, name), getattr(study.tables, name), check_exact=True)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    publish(merge([again], ["again"]), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before, "made again, nothing changes"


def test_what_was_not_measured_has_no_table(study: Published, kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    left = tmp_path / "functional.parquet"  # of a study that was there before
    left.write_bytes(b"")
    publish(study, tmp_path)
    assert {file.stem for file in tmp_path.glob("*.parquet")} == {*OF_OLDER, "environments"}
    again = read(tmp_path).tables.by_name
    assert [len(again[name]) for name in TABLES if name not in OF_OLDER] == [0, 0, 0]


def test_runs_of_another_complete_network_are_kept_apart(study: Published) -> None:
    joined = merge([study, elsewhere(study)], ["here", "there"])
    assert [part["complete"] for part in joined.parts] == [0, 1]
    rows = joined.tables.similarities
    assert_frame_equal(rows[rows["complete"] == 0].reset_index(drop=True), study.tables.similarities, check_exact=True)
    assert len(rows) == 2 * len(study.tables.similarities)
    assert list(joined.environments["environment"]) == [0, 1]
    assert set(rows.loc[rows["complete"] == 1, "environment"]) == {1}
    assert set(joined.environments.loc[1, ["device"]]) == {"another card"}
    counts = joined.tables.summary["count"] + joined.tables.summary["missing"]
    assert set(counts) == {2}, "statistics are over all runs of all complete networks"
    complete = joined.tables.accuracy[joined.tables.accuracy["iteration"] == 0]
    assert list(complete["count"]) == [2]


def test_the_same_run_twice_is_one_run(study: Published) -> None:
    joined = merge([study, study], ["here", "again"])
    assert len(joined.parts) == len(joined.environments) == 1
    for name in ("similarities", "networks", "chance", "summary"):
        assert_frame_equal(getattr(joined.tables, name), getattr(study.tables, name), check_exact=True)


def test_a_run_with_other_weights_from_the_same_complete_network_is_refused(study: Published) -> None:
    networks = study.tables.networks
    others = networks.assign(weights=networks["weights"].where(networks["iteration"] < 2, "b" * 64))
    other = dataclasses.replace(study, tables=dataclasses.replace(study.tables, networks=others))
    with pytest.raises(ValueError, match="run 0, iteration 2 has other weights in there than in a study before it"):
        merge([study, other], ["here", "there"])


def test_another_sweep_is_refused_by_the_fields_that_differ(study: Published) -> None:
    other = dataclasses.replace(study, identity=dataclasses.replace(study.identity, seed=7))
    with pytest.raises(ValueError, match="there is of another sweep than here: seed: 0 in here, 7 in there"):
        merge([study, other], ["here", "there"])


def test_intervals_over_several_complete_networks() -> None:
    """Complete networks are drawn first: few of them give no interval, however many runs they have."""

    def rows(completes: int, runs: int) -> pd.DataFrame:
        values = np.random.default_rng(0).normal(size=(completes, 1)) + np.linspace(-0.01, 0.01, runs)
        keys = {"problem": "p", "metric": "cka", "layer": "fc1", "iteration": 1, "kind": "fc", "position": 0}
        shared = keys | {"remaining": 0.8, "warning": ""}
        return pd.DataFrame(
            [shared | {"complete": c, "run": r, "value": values[c, r]} for c in range(completes) for r in range(runs)]
        )

    few, many = rows(3, 10), rows(20, 10)
    (low, high), value = summarise(few)[["ci_low", "ci_high"]].iloc[0], few["value"]
    assert (low, high) == (value.min(), value.max())
    interval, alone = summarise(many).iloc[0], summarise(many.drop(columns="complete")).iloc[0]
    assert many["value"].min() < interval["ci_low"] < interval["median"] < interval["ci_high"] < many["value"].max()
    width, alone_width = (row["ci_high"] - row["ci_low"] for row in (interval, alone))
    assert width > 2 * alone_width, "200 runs of 20 complete networks are not 200 independent values"


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (STUDY, lambda text: text.replace(b'"seed": 0', b'"seed": 1'), "its identity does not match its hash"),
        (STUDY, lambda text: text.replace(b'"runs": 1', b'"runs": "x"'), "is damaged: field parts"),
        (STUDY, lambda text: text.replace(b'"version": 1', b'"version": 9'), "was written by another distsim"),
        (STUDY, lambda text: b"[" * 100_000, "is damaged"),
        ("results.parquet", lambda content: content[:-1] + b"x", "results.parquet is damaged: its digest"),
        ("chance.parquet", None, "chance.parquet is missing"),
    ],
)
def test_a_damaged_folder_is_named(kept: Path, tmp_path: Path, file: str, change: object, said: str) -> None:
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    if callable(change):
        before = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(change(before))
        assert (tmp_path / file).read_bytes() != before
    else:
        (tmp_path / file).unlink()
    with pytest.raises(DamagedStore, match=said):
        read(tmp_path)


def test_claims_are_those_of_the_studys_problem(study: Published) -> None:
    claims = claims_table(study)
    assert set(claims["problem"]) <= {study.problem, "all"}
    judged = claims[claims["verdict"] != "not enough data"]
    assert set(judged["verdict"]) <= {"tendency: for", "tendency: against"}, "one run is not a study"
    assert all(json.loads(numbers) for numbers in judged["numbers"])


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = tmp_path / "study"
    assert main(["merge", str(folder), "--into", str(into)]) == 0
    said = capsys.readouterr().out
    assert "1 run, up to iteration 2" in said
    assert f"files in {into}" in said
    assert main(["merge", str(into), str(folder), "--into", str(into)]) == 0, "a study may be extended in place"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    assert main(["merge", str(folder), "--into", str(tmp_path / "mine")]) == 1
    assert "is not empty and holds no published study" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert main(["merge", str(tmp_path / "nowhere"), "--into", str(tmp_path / "new")]) == 1
    assert "no store in" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_claims_without_data_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", str(folder)]) == 0
    few = capsys.readouterr().out
    assert main(["claims", str(folder), "--all"]) == 0
    every = capsys.readouterr().out
    lacking = every.count("not enough data")
    assert "not enough data" not in few
    assert f"{lacking} more claims are about other problems" in few or f"{lacking} claims are about other" in few
    assert "--all shows them" not in every
    *judged, _ = few.splitlines()
    assert set(judged) <= set(every.splitlines())


def test_what_is_published_is_not_lost(study: Published, folder: Path, tmp_path: Path) -> None:
    into = tmp_path / "study"
    publish(merge([study, elsewhere(study)], ["here", "there"]), into)
    before = {file.name: file.read_bytes() for file in into.iterdir()}
    with pytest.raises(ValueError, match=r"holds \d+ networks? that would be lost: name it as a source, too"):
        publish(study, into)
    other = dataclasses.replace(study, identity=dataclasses.replace(study.identity, seed=7))
    with pytest.raises(ValueError, match="holds another study, of another sweep: seed: 7 in yours, 0 there"):
        publish(other, into)
    assert {file.name: file.read_bytes() for file in into.iterdir()} == before
    (into / "results.parquet").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"results.parquet is damaged.* It holds runs that would be lost: move the "):
        publish(study, into)
    with pytest.raises(ValueError, match="holds another study, of another sweep"):
        publish(other, into)
    publish(merge([study, elsewhere(study)], ["here", "there"]), into)  # what cannot be read is made again
    assert {file.name: file.read_bytes() for file in into.iterdir()} == before
    (into / "study.json").write_bytes(b"{")
    with pytest.raises(ValueError, match=r"study.json is damaged: .* What else is in this folder would be lost"):
        publish(study, into)


def test_a_full_disk_leaves_the_study_that_was_there(
    study: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables, figures and study.json are those of before. A new folder is empty, and can be used later."""
    into = tmp_path / "study"
    publish(study, into)
    before = {file.name: file.read_bytes() for file in into.iterdir()}
    both = merge([study, elsewhere(study)], ["here", "there"])
    room = itertools.count(5, -1)  # files for which there is room

    def full(descriptor: int) -> None:
        if next(room) == 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"cannot be written: No space left on device"):
        publish(both, into)
    assert {file.name: file.read_bytes() for file in into.iterdir()} == before
    room = itertools.count(0, -1)
    with pytest.raises(ValueError, match=r"cannot be written: No space left on device"):
        publish(both, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "new" / ".DS_Store").write_bytes(b"a file browser's")
    publish(both, tmp_path / "new")  # the same again, when there is room
    assert len(read(tmp_path / "new").parts) == 2


def test_a_link_in_a_published_study_is_replaced(study: Published, tmp_path: Path) -> None:
    into, precious = tmp_path / "study", tmp_path / "precious.csv"
    precious.write_text("mine")
    publish(study, into)
    (into / "claims.csv").unlink()
    (into / "claims.csv").symlink_to(precious)
    publish(study, into)
    assert precious.read_text() == "mine"
    assert (into / "claims.csv").read_text().startswith("claim,")
