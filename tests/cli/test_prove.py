"""`distsim prove`: rows of a published table are computed again; what was changed is found, and nothing is written."""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import own_script
import pandas as pd
import pytest
from sweep_scripts import Outcome, outcome, run_script, write_images

from distsim.cli import main as cli
from distsim.data import load
from distsim.metrics.registry import BUILT_IN, METRICS
from distsim.models import MODELS
from distsim.results.merging import merge, of_store, publish
from distsim.results.published import read
from distsim.results.rows import RowName
from distsim.results.table_files import read_parquet_bytes, to_parquet_bytes
from distsim.specs import NetworkId
from distsim.store import existing_stores
from distsim.store.commits import decode_mark
from distsim.store.existing import STUDY

pytestmark = pytest.mark.usefixtures("blank_figures")

HERE = ("--local", "--device", "cpu")
TINY = ("--epochs", 1, "--train-limit", 100, "--probe", 50, "--runs", 2, "--iterations", 2)
ROW = "run=1,iteration=2,layer=conv2_2,metric=nbs"


def distsim(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main([str(argument) for argument in arguments]))


def sentence(result: Outcome) -> str:
    assert (result.status, result.out) == (1, ""), result
    (line,) = result.err.splitlines()
    return line.removeprefix("distsim: ")


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def published(store: Path, into: Path) -> Path:
    publish(of_store(existing_stores(store)[0]), into)
    return into


def edit(folder: Path, table: str, change: Callable[[pd.DataFrame], object]) -> None:
    """Change a published table as somebody does who also writes its digest anew."""
    file, record = folder / f"{table}.parquet", json.loads((folder / STUDY).read_text())
    frame = read_parquet_bytes(file.read_bytes())
    change(frame)
    file.write_bytes(to_parquet_bytes(frame))
    record["tables"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / STUDY).write_text(json.dumps(record))


def at(frame: pd.DataFrame, text: str) -> pd.Series:
    """Which row of a table has this name."""
    name = RowName.parse(text)
    chosen = (frame["run"] == name.network.run) & (frame["iteration"] == name.network.iteration)
    return chosen & (frame["layer"] == name.layer) & (frame["metric"] == name.metric) if name.layer else chosen


def moved(folder: Path, text: str, by: float, column: str = "value", table: str = "results") -> None:
    def change(frame: pd.DataFrame) -> None:
        frame.loc[at(frame, text), column] += by

    edit(folder, table, change)


def elsewhere(folder: Path) -> None:
    edit(folder, "environments", lambda frame: frame.__setitem__("instruction_set", "another"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two iterations. Not to be changed."""
    folder = tmp_path_factory.mktemp("kept")
    metrics = ("--metrics", "mean_cca", "cka", "nbs", "cosine")
    assert run_script("digits", *TINY, *metrics, *HERE, "--storage", folder).status == 0
    return folder


@pytest.fixture(scope="module")
def tables(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is published of it. Not to be changed."""
    return published(kept, tmp_path_factory.mktemp("tables") / "study")


@pytest.fixture
def study(tables: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(tables, tmp_path / "study"))


# --- from weights ----------------------------------------------------------------------------------------------------


def test_values_are_computed_again_to_the_bit(kept: Path, study: Path) -> None:
    before = files(kept), files(study)
    result = distsim("prove", study, ROW, "run=0,iteration=1", "run=complete", "--random", 12, "--store", kept)
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    verdicts = [line.rpartition(": ")[2] for line in lines if line.startswith("run=")]
    assert verdicts == ["equal"] * 15
    assert lines[-1] == "15 of 15 rows are proven"
    of_row = read(study).tables.similarities.pipe(lambda frame: frame[at(frame, ROW)])["value"].item()
    assert lines[:3] == [
        f"{ROW}: equal",
        f"    in the table  {of_row!r}",
        f"    computed      {of_row!r}, difference 0",
    ]
    assert (files(kept), files(study)) == before


def test_a_store_is_a_study_too_and_rows_may_stand_behind_flags(kept: Path) -> None:
    result = distsim("prove", kept, "--device", "cpu", ROW)
    assert (result.status, result.out.splitlines()[-1]) == (0, "1 of 1 row is proven")


def test_rows_at_random_depend_on_the_seed_alone(kept: Path, study: Path) -> None:
    def drawn(seed: int) -> list[str]:
        result = distsim("prove", study, "--random", 3, "--seed", seed, "--store", kept)
        assert result.status == 0
        return [line.partition(": ")[0] for line in result.out.splitlines() if line.startswith("run=")]

    assert drawn(1) == drawn(1)
    assert len({*drawn(1), *drawn(2)}) > 3


def test_a_changed_value_is_found_and_the_others_are_still_proven(kept: Path, study: Path) -> None:
    moved(study, ROW, 2**-40)
    moved(study, "run=0,iteration=2", 1 / 360, "accuracy", "networks")
    other = "run=0,iteration=1,layer=conv2_2,metric=nbs"
    result = distsim("prove", study, ROW, other, "run=0,iteration=2", "--store", kept)
    assert result.status == 1
    assert f"{ROW}: differs\n" in result.out
    assert (
        "difference 9.1e-13\n    by its record this is the environment of the row, where values repeat to the bit\n"
        in result.out
    )
    assert "the store has committed 0." in result.out
    assert f"{other}: equal\n" in result.out
    assert "run=0,iteration=2: differs\n" in result.out
    assert result.out.endswith("1 of 3 rows are proven\n")


@pytest.mark.parametrize(
    ("column", "text", "table"),
    [
        ("n", ROW, "results"),
        ("rank_x", ROW.replace("nbs", "mean_cca"), "results"),
        ("remaining", ROW, "results"),
        ("loss", "run=1,iteration=2", "networks"),
    ],
)
def test_a_changed_number_beside_the_value_is_found(
    kept: Path, study: Path, column: str, text: str, table: str
) -> None:
    moved(study, text, 1, column, table)
    result = distsim("prove", study, text, "--store", kept)
    assert result.status == 1
    assert re.search(rf"difference 0\n    {column} is \S+ here, and \S+ in the table\n", result.out), result.out


def test_weights_of_another_network_prove_nothing(kept: Path, study: Path) -> None:
    def swap(frame: pd.DataFrame) -> None:
        mine, other = at(frame, "run=1,iteration=2"), at(frame, "run=0,iteration=2")
        frame.loc[mine, "weights"] = frame.loc[other, "weights"].item()

    edit(study, "networks", swap)
    result = distsim("prove", study, ROW, "--store", kept)
    assert result.status == 1
    assert "run 1, iteration 2 has other weights here: their SHA-256 is " in result.out
    assert "computed" not in result.out


def test_a_store_whose_value_is_another_is_found(kept: Path, study: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(kept, tmp_path / "store"))
    (file,) = (store / "digits/runs/0001/iter_02/comparison/conv2_2").iterdir()
    mark = decode_mark(file.read_bytes())
    mark.values["nbs"]["value"] = 0.25
    file.write_bytes(dataclasses.replace(mark, values=mark.values).encode())
    result = distsim("prove", study, ROW, "--store", store)
    assert result.status == 1
    assert re.search(r"difference 0\n    the store has committed 0.25 for it\n", result.out), result.out


@pytest.mark.parametrize(
    ("by", "verdict", "status"), [(0, "equal", 0), (1e-6, "equal to 0.0001", 0), (1e-3, "differs", 1)]
)
def test_on_another_processor_values_agree_to_a_ten_thousandth(
    kept: Path, study: Path, by: float, verdict: str, status: int
) -> None:
    elsewhere(study)
    moved(study, ROW, by)
    result = distsim("prove", study, ROW, "--store", kept)
    assert result.status == status
    assert result.out.startswith(f"{ROW}: {verdict}\n")
    assert re.search(r"another environment: instruction_set is \w+ here and was another\n", result.out)


def test_on_another_processor_one_image_may_be_taken_for_another(kept: Path, study: Path) -> None:
    elsewhere(study)
    images = len(load(read(study).identity.problem, "").test_labels)
    moved(study, "run=1,iteration=1", 1 / images, "accuracy", "networks")
    moved(study, "run=1,iteration=2", 2 / images, "accuracy", "networks")
    result = distsim("prove", study, "run=1,iteration=1", "run=1,iteration=2", "--store", kept)
    assert f"run=1,iteration=1: equal to within one image of {images}\n" in result.out
    assert "run=1,iteration=2: differs\n" in result.out


# --- trained again ---------------------------------------------------------------------------------------------------


def test_where_only_tables_are_left_networks_are_trained_again(study: Path) -> None:
    before = files(study)
    result = distsim("prove", study, ROW, "run=1,iteration=1", "--retrain")
    assert (result.status, result.err) == (0, "")
    assert "digits: 3 networks to train" in result.out
    assert "digits: training on 192 images over all epochs" in result.out
    assert re.findall(r"digits (.*): accuracy", result.out) == [
        "complete network",
        "run 1 iteration 1",
        "run 1 iteration 2",
    ]
    assert f"\n{ROW}: equal\n" in result.out
    assert files(study) == before


def test_rows_of_controls_and_of_another_complete_network_are_proven_too(tmp_path: Path) -> None:
    """From their weights, and from networks that are trained again."""
    store, controls = tmp_path / "store", ("--control", "retrain", "random", "--control-runs", 1)
    smaller = ("--runs", 1, "--iterations", 2, "--complete", 2, "--metrics", "cka", "nbs")
    assert run_script("digits", *TINY, *smaller, *controls, *HERE, "--storage", store).status == 0
    study, on = published(store, tmp_path / "study"), "layer=conv2_2,metric=nbs"
    rows = [
        f"complete=0,control=retrain,run=0,iteration=2,{on}",
        f"run=0,iteration=1,complete=1,{on}",
        f"control=random,run=0,iteration=2,complete=1,{on}",
    ]
    for how in (("--store", store), ("--retrain",)):
        result = distsim("prove", study, *rows, *how)
        assert (result.status, result.err) == (0, ""), how
        assert result.out.count(": equal\n") == 3, how
        assert result.out.endswith("3 of 3 rows are proven\n")


def test_a_changed_value_is_found_by_training_too(study: Path) -> None:
    moved(study, ROW, 1e-9)
    result = distsim("prove", study, ROW, "--retrain")
    assert result.status == 1
    assert f"\n{ROW}: differs\n" in result.out


def test_on_another_processor_training_promises_no_digit_and_the_spread_is_said(study: Path) -> None:
    elsewhere(study)
    moved(study, ROW, 1e-6)
    values = read(study).tables.similarities.query("iteration == 2 and layer == 'conv2_2' and metric == 'nbs'")["value"]
    result = distsim("prove", study, ROW, "--retrain")
    assert (result.status, result.err) == (3, "")
    assert f"\n{ROW}: equality is not promised\n" in result.out
    spread = f"2 runs of the study have {values.min():.6g} to {values.max():.6g} there, sd {values.std():.2g}"
    assert (
        f"    {spread}\n0 of 1 row is proven; for 1 equality is not promised here, so nothing follows\n" in result.out
    )


def test_without_a_store_it_says_what_is_needed(study: Path) -> None:
    said = sentence(distsim("prove", study, ROW, "run=0,iteration=1"))
    weights = read(study).tables.networks.pipe(lambda frame: frame[at(frame, "run=1,iteration=2")])["weights"].item()
    assert said.startswith(
        f"{study} has tables only, and {ROW} needs networks. Name the store that has run 1, iteration 2"
    )
    assert f"(weights {weights[:12]}, complete network " in said
    assert "with --store, or train them again with --retrain: the complete network and 3 pruned ones" in said


# --- several complete networks ---------------------------------------------------------------------------------------


@pytest.fixture
def joined(kept: Path, study: Path, tmp_path: Path) -> Path:
    """The study, after the runs of a complete network that another processor trained."""
    first = read(study)
    networks = first.tables.networks.assign(weights=[f"{row:064x}" for row in range(len(first.tables.networks))])
    parts = ({**first.parts[0], "weights": f"{0:064x}"},)
    other = dataclasses.replace(first, tables=dataclasses.replace(first.tables, networks=networks), parts=parts)
    publish(merge([other, first], ["other", "first"]), tmp_path / "joined")
    return tmp_path / "joined"


def test_the_store_decides_which_complete_network_is_meant(kept: Path, joined: Path) -> None:
    result = distsim("prove", joined, ROW, "--random", 2, "--store", kept)
    assert result.status == 0, result.out
    assert f"run=1,iteration=2,complete=1{ROW[17:]}: equal\n" in result.out
    assert result.out.count("complete=1") == 3
    result = distsim("prove", joined, "run=1,iteration=2,complete=0", "--store", kept)
    assert re.match(r"run 1, iteration 2 \(weights 0+\w, complete network 0{12}\) is not in ", sentence(result))


def test_otherwise_it_must_be_said(joined: Path) -> None:
    said = sentence(distsim("prove", joined, ROW, "--retrain"))
    assert said.startswith(
        f"{ROW}: the study has several complete networks; add one of complete=0 (000000000000), comp"
    )
    said = sentence(distsim("prove", joined, f"{ROW},complete=2", "--retrain"))
    assert "the study has no such complete network, it has complete=0 (" in said
    assert distsim("prove", joined, f"{ROW},complete=1", "--retrain").status == 0


# --- an own network and metric, and a value that is missing ----------------------------------------------------------


@pytest.fixture
def registered() -> Iterator[None]:
    """The registries are as before afterwards. They begin without what the pages of docs/ register by these names."""
    before = dict(MODELS), dict(METRICS)
    for name in ("wide", *own_script.METRICS):
        MODELS.pop(name, None)
        if name not in BUILT_IN:
            METRICS.pop(name, None)
    yield
    for now, then in zip((MODELS, METRICS), before, strict=True):
        now.clear()
        now.update(then)


def test_a_missing_value_is_proven_by_its_reason_and_own_code_is_named(tmp_path: Path, registered: None) -> None:
    script, store = tmp_path / "own.py", tmp_path / "store"
    text = own_script.SCRIPT.replace("return 4.5", 'raise Undefined("every side is like the other")')
    script.write_text(
        text.replace("import dataclasses\n", "import dataclasses\nfrom distsim.metrics.arrays import Undefined\n")
    )
    flags = ("--metrics", *own_script.METRICS, "--no-chance")
    done = run_script(script, "--runs", 1, "--iterations", 1, *flags, *HERE, "--storage", store)
    assert done.status == 0, done
    study = published(store, tmp_path / "study")
    row = "run=0,iteration=1,layer=wide_conv,metric=z_spread"
    proof = distsim("prove", study, row, "run=0,iteration=1,layer=out,metric=a_distance", "--store", store)
    assert (proof.status, proof.err) == (0, "")
    assert proof.out.startswith(f"{row}: equal\n    in the table  no value: every side is like the other\n    computed")

    def rename(frame: pd.DataFrame) -> None:
        frame.loc[at(frame, row), "reason"] = "the day was long"

    edit(study, "results", rename)
    assert distsim("prove", study, row, "--store", store).out.startswith(f"{row}: differs\n")

    for registry, name in ((MODELS, "wide"), (METRICS, "z_spread")):
        registry.pop(name)
    said = sentence(distsim("prove", study, row, "--retrain"))
    assert said == "unknown model 'wide'. Name the script that registers it with --import FILE"


def test_an_edited_network_is_noticed(tmp_path: Path, registered: None) -> None:
    script, store = tmp_path / "own.py", tmp_path / "store"
    script.write_text(own_script.SCRIPT)
    done = run_script(script, "--runs", 1, "--iterations", 1, "--metrics", "cka", *HERE, "--storage", store)
    assert done.status == 0, done
    before = files(store)
    for registry, names in ((MODELS, ["wide"]), (METRICS, ["z_spread", "a_distance"])):
        for name in names:
            registry.pop(name)
    edited = tmp_path / "edited.py"
    edited.write_text(
        own_script.SCRIPT.replace("nn.Conv2d(channels, 8, 3", "nn.Conv2d(channels, 8, 5").replace(
            "padding=1", "padding=2"
        )
    )
    said = sentence(distsim("prove", store, "run=0,iteration=1,layer=wide_conv,metric=cka", "--import", edited))
    assert said.startswith("digits_wide: the network wide behaves differently from the one this store was begun with")
    assert files(store) == before


# --- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = {
    "no run": ("run=7,iteration=1", "run=7,iteration=1: the study has the runs 0, 1"),
    "no iteration": ("run=1,iteration=9", "run=1,iteration=9: run 1 has iterations up to 2"),
    "no layer": ("run=1,iteration=2,layer=conv9,metric=nbs", "there is no layer 'conv9'; there are conv1_1, "),
    "no metric": (
        "run=1,iteration=2,layer=conv2_2,metric=nbz",
        "no metric 'nbz' of layer conv2_2; there are mean_cca, cka",
    ),
    "half a row": ("run=1,iteration=2,layer=conv2_2", "a row is named run=3,iteration=7,layer=conv1_2,metric=nbs, or "),
    "a word": ("best", "a row is named run=3,iteration=7,layer=conv1_2,metric=nbs, or for a network's accuracy"),
    "twice": ("run=1,run=0,iteration=2", "a row is named "),
    "a layer of the complete one": ("run=complete,layer=conv2_2,metric=nbs", "so it has no layers"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_row_that_is_not_there_is_said_to_be_none(kept: Path, study: Path, case: str) -> None:
    row, said = MISTAKES[case]
    assert said in sentence(distsim("prove", study, row, "--store", kept))


def test_other_mistakes(kept: Path, study: Path, tmp_path: Path) -> None:
    assert sentence(distsim("prove", study)).startswith(
        "name a row, such as run=3,iteration=7,layer=conv1_2,metric=nbs"
    )
    assert sentence(distsim("prove", study, "--random", 0)) == "--random takes a whole number from 1 on, got 0"
    many = sentence(distsim("prove", study, "--random", 10_000, "--store", kept))
    assert many.startswith("10000 rows were asked for, and there are ")
    assert sentence(distsim("prove", study, ROW, "--problem", "cifar2")).startswith(f"no sweep of cifar2 in {study}")
    images = write_images(tmp_path / "images", "0123456789", train=10, test=1)
    said = sentence(distsim("prove", study, ROW, "--store", kept, "--data", f"folder:{images}"))
    assert said.startswith(f"the images at folder:{images} are not those of the study: their digest is ")


def test_a_store_of_another_sweep_is_refused(kept: Path, study: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    small = ("--runs", 1, "--iterations", 1, "--metrics", "cosine", "--no-chance")
    assert run_script("digits", *TINY, *small, "--seed", 5, *HERE, "--storage", other).status == 0
    said = sentence(distsim("prove", study, ROW, "--store", other))
    assert said.endswith("seed: 0 in the study, 5 in the store")


def test_a_network_that_the_table_does_not_fit_is_a_sentence_for_its_row(kept: Path, study: Path) -> None:
    def rename(frame: pd.DataFrame) -> None:
        frame.loc[at(frame, ROW), "layer"] = "elsewhere"

    edit(study, "results", rename)
    result = distsim("prove", study, ROW.replace("conv2_2", "elsewhere"), "run=1,iteration=1", "--store", kept)
    assert result.status == 1
    assert "not proven: it cannot be computed: the network has no layer 'elsewhere'; it has conv1_1, " in result.out
    assert "run=1,iteration=1: equal\n" in result.out


def test_names_of_rows_are_read_as_they_are_written() -> None:
    for text in ("run=3,iteration=7,layer=a,b=c,d,metric=nbs", "run=3,iteration=7", "run=complete", ROW):
        assert str(RowName.parse(text)) == text
    assert RowName.parse("metric=nbs,layer=x,complete=2,iteration=7,run=3") == RowName(NetworkId(3, 7), "x", "nbs", 2)
    assert str(RowName(NetworkId(3, 7), "x", "nbs", 2)) == "run=3,iteration=7,complete=2,layer=x,metric=nbs"
