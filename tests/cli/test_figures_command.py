"""`distsim figures`: what it draws, of what, where to, and what it says when it cannot."""

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from read_only import mounted
from sweep_scripts import Outcome, outcome

from distsim import plotting
from distsim.cli import drawing
from distsim.cli import main as cli
from distsim.results.figure_names import NAMES
from distsim.results.merging import of_store, publish
from distsim.store import existing_stores

OLD = Path(__file__).parents[1] / "stores" / "format4.tar.xz"


def figures(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main(["figures", *map(str, arguments)]))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a sweep of `golden`, that an earlier version wrote. Not to be changed."""
    where = tmp_path_factory.mktemp("kept")
    with tarfile.open(OLD) as archive:
        archive.extractall(where, filter="data")
    return next(path.parents[1] for path in where.rglob("spec.json"))


@pytest.fixture
def store(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "store"))


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_out_takes_the_files_and_the_store_stays_as_it_was(kept: Path, tmp_path: Path) -> None:
    before = contents(kept)
    done = figures(kept, "--out", tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    expected = {
        "fig1_accuracy_median.png",
        "fig2_svcca_by_layer.png",
        "fig4_accuracy_mean.png",
        "similarity_golden.png",
    }
    assert expected <= names(tmp_path / "out")
    assert done.out.split("\n")[:-1] == [f"{tmp_path / 'out'}/{name}" for name in sorted(names(tmp_path / "out"))]
    assert contents(kept) == before


def test_figures_metrics_layers_and_formats_are_chosen(kept: Path, tmp_path: Path) -> None:
    chosen = ("--figure", "fig2", "similarity", "--metric", "cka", "nbs", "--layers", "conv*", "--format", "svg", "pdf")
    assert figures(kept, *chosen, "--out", tmp_path).status == 0
    files = ("fig2_cka_by_layer_conv", "fig2_nbs_by_layer_conv", "similarity_golden_cka_nbs_conv")
    assert names(tmp_path) == {f"{file}.{format}" for file in files for format in ("svg", "pdf")}
    assert b"<svg" in (tmp_path / f"{files[0]}.svg").read_bytes()


def test_the_stores_own_figures_get_more_and_stay_whole(store: Path) -> None:
    done = figures(store, "--figure", "fig2", "--metric", "cka", "--format", "svg")
    assert (done.status, done.err) == (0, "")
    assert done.out == f"{store}/figures/fig2_cka_by_layer.svg\n"
    assert {"COMMIT.json", "fig1_accuracy_median.pdf", "fig2_cka_by_layer.svg"} <= names(store / "figures")
    of_both = figures(store, "--figure", "fig1", "--format", "svg")
    assert of_both.status == 0
    assert {"fig1_accuracy_median.svg", "fig2_cka_by_layer.svg"} <= names(store / "figures")
    verified = outcome(lambda: cli.main(["verify", str(store)]))
    assert verified.status == 0, verified.out
    assert "figures/" not in verified.out, "its mark names every file"


def test_a_published_study_is_drawn_too(kept: Path, tmp_path: Path) -> None:
    publish(of_store(existing_stores(kept)[0]), tmp_path / "study")
    done = figures(tmp_path / "study", "--figure", "fig1")
    assert (done.status, done.out) == (0, f"{tmp_path}/study/figures/fig1_accuracy_median.png\n")
    drawn = (tmp_path / "study" / "fig1_accuracy_median.png").read_bytes()
    assert (tmp_path / "study" / "figures" / "fig1_accuracy_median.png").read_bytes() == drawn


MISTAKES: dict[str, tuple[Iterable[str], str]] = {
    "no such figure": (("--figure", "fig3"), "argument --figure: invalid choice: 'fig3' (choose from "),
    "no such metric": (("--metric", "ckaa"), "metric must be one of "),
    "no such layer": (("--layers", "x*"), "layers: no layer matches 'x*'; there are conv1_1, "),
    "no such problem": (("--problem", "cifar2"), "no sweep of cifar2 in "),
    "a metric for none": (
        ("--figure", "fig1", "--metric", "cka"),
        "metric: fig1 shows accuracy, medians, so none can be chosen",
    ),
    "layers for none": (
        ("--figure", "fig8", "--layers", "out"),
        "layers: fig8 shows the output layer, so none can be chosen",
    ),
    "nothing to show": (("--figure", "functional"), "functional: the store has nothing of golden yet that it shows"),
    "no folder": (("--figure", "fig1", "--out", "/proc/none"), "--out '/proc/none' cannot be made: "),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_said_in_a_sentence(kept: Path, case: str) -> None:
    flags, sentence = MISTAKES[case]
    done = figures(kept, *flags)
    assert done.status in (1, 2)
    assert sentence in done.err
    assert "Traceback" not in done.err
    if case == "no such figure":
        assert all(name in done.err for name in NAMES)


def test_figures_of_p2_are_of_its_networks_or_of_the_only_problem(kept: Path, tmp_path: Path) -> None:
    assert figures(kept, "--figure", "fig5", "fig6", "--out", tmp_path).status == 0
    assert names(tmp_path) == {"similarity_golden.png"}, "golden has no number"


def test_a_store_on_a_read_only_file_system(kept: Path, tmp_path: Path) -> None:
    line = mounted(kept, tmp_path / "mounted")
    command = [*line, sys.executable, "-m", "distsim", "figures", str(tmp_path / "mounted"), "--figure", "fig1"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1
    assert refused.stderr.endswith("--out FOLDER writes the figures elsewhere\n")
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=120)
    assert (done.returncode, names(tmp_path / "out")) == (0, {"fig1_accuracy_median.png"}), done.stderr


def test_it_imports_neither_torch_nor_ray(kept: Path, store: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from distsim.cli.main import main; status = main(sys.argv[1:]); "
        "print(status, {'torch', 'ray'} & set(sys.modules))"
    )
    for arguments in ((kept, "--out", tmp_path), (store,)):
        line = [sys.executable, "-c", code, "figures", *map(str, arguments), "--figure", "fig4"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120)
        assert done.stdout.endswith("\n0 set()\n"), done.stdout + done.stderr


def test_its_formats_are_those_that_can_be_drawn() -> None:
    assert drawing.FORMATS == plotting.FORMATS
    assert set(plotting.KEPT) <= set(plotting.FORMATS)
