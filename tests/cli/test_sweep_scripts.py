"""Every script in sweeps/ as a user runs it: tiny data in the real formats, networks at full width and depth.

What the papers ask for is written out here once more (SPEC 1 and 3), not taken from distsim.
"""

import argparse
import ast
import math
import re
import runpy
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image
from sweep_scripts import SWEEPS, Outcome, outcome, run_script, write_images, write_mnist, write_svhn

from distsim import plotting
from distsim.cli import sweeps
from distsim.problems import PROBLEMS
from distsim.results import figures
from distsim.results.figure_names import OF_P2
from distsim.results.reduce import read_tables
from distsim.results.titles import IN_WORDS
from distsim.specs import Problem
from distsim.store import Storage

FLAGS = (
    *("--runs", "--iterations", "--metrics", "--retention", "--epochs", "--train-limit", "--probe", "--data"),
    *("--download", "--classes", "--storage", "--address", "--local", "--device", "--cpus", "--gpus", "--seed"),
    *("--threads", "--allow-drift", "--activations", "--no-chance", "--comparison", "--pack", "--precision"),
    *("--fuse", "--compile", "--deterministic", "--skip-bad", "--bits", "--allow-slow", "--dry-run", "--probe-from"),
    *("--measure", "--permutations", "--control", "--control-runs", "--complete", "--quiet", "--log"),
)
STUDIES = {
    "p1": ("cifar2", "cifar4", "cifar6", "cifar8", "cifar10"),
    "p2": ("vgg16_cifar10", "resnet_fast_cifar10", "vgg_svhn"),
    "rewinding": (
        *("lenet5_mnist", "lenet5_mnist_wr", "lenet5_mnist_ft"),
        *("lenet5_mnist_local", "lenet5_mnist_local_wr", "lenet5_mnist_local_ft"),
        *("lenet5_mnist_mixed", "lenet5_mnist_mixed_wr", "lenet5_mnist_mixed_ft"),
        *("cifar2", "cifar2_lrr", "cifar2_ft"),
        *("cifar2_global", "cifar2_global_lrr", "cifar2_global_ft"),
        *("cifar2_local", "cifar2_local_lrr", "cifar2_local_ft"),
    ),
}
HIDDEN_METRICS = ("mean_cca", "svcca", "pwcca", "cka", "nbs", "cka_unbiased")
METRICS = (*HIDDEN_METRICS, "cosine")


@dataclass(frozen=True)
class Row:
    """A problem as the papers' tables have it, and the extent that this test runs it to."""

    layers: str  # name:width of every compared layer, from input to output
    normed: str = ""  # those with batch normalisation; "all": every convolution
    inputs: int = 3
    features: int = 0  # inputs of the first linear layer
    kernel: int = 3
    conv_rate: float = 0.2
    fc_rate: float = 0.2
    pools: str = "global"  # global | mixed: one pool of convolutions, one of hidden layers
    whole: bool = False  # biases are pruned too, the output is not
    data: str = "images"
    iterations: int = 1
    epochs: int = 1

    @property
    def widths(self) -> dict[str, int]:
        return {name: int(width) for name, width in (entry.split(":") for entry in self.layers.split())}

    @property
    def names(self) -> list[str]:
        return list(self.widths)

    def kind(self, layer: str) -> str:
        if layer == "prep" or "conv" in layer:
            return "conv"
        if re.search(r"_res\d$", layer):
            return "conv_res"
        for kind in ("pool", "add", "fc", "out"):
            if kind in layer:
                return kind
        raise AssertionError(f"{layer} is of no known kind")

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights that lead to each layer: widths of the layers before and of its own."""
        shapes: dict[str, tuple[int, ...]] = {}
        flat = False
        for (_, before), (name, width) in pairwise([("", self.inputs), *self.widths.items()]):
            if self.kind(name) in ("conv", "conv_res"):
                shapes[name] = (width, before, self.kernel, self.kernel)
            elif self.kind(name) in ("fc", "out"):
                shapes[name] = (width, before if flat else self.features)
                flat = True
        return shapes

    def alive(self, iterations: int) -> dict[str, int]:
        """What is left of each pool: floor(rate * survivors) go at each iteration."""
        sizes: dict[str, int] = {}
        for name, shape in self.weights.items():
            if self.whole and name == "out":
                continue
            pool = "all" if self.pools == "global" else self.kind(name)
            sizes[pool] = sizes.get(pool, 0) + math.prod(shape) + (shape[0] if self.whole else 0)
        for pool in sizes:
            rate = self.fc_rate if pool == "fc" else self.conv_rate
            tenths = round(rate * 10)
            for _ in range(iterations):
                sizes[pool] -= sizes[pool] * tenths // 10
        return sizes


P1 = {"pools": "mixed", "whole": True}
CIFAR6 = "conv1_1:64 conv1_2:64 pool1:64 conv2_1:128 conv2_2:128 pool2:128 conv3_1:256 conv3_2:256 pool3:256"
CIFAR8 = f"{CIFAR6} conv4_1:512 conv4_2:512 pool4:512 fc1:1024"
VGG16 = (
    "conv1_1:64 conv1_2:64 pool1:64 conv2_1:128 conv2_2:128 pool2:128 "
    "conv3_1:256 conv3_2:256 conv3_3:256 pool3:256 conv4_1:512 conv4_2:512 conv4_3:512 pool4:512 "
    "conv5_1:512 conv5_2:512 conv5_3:512 pool5:512 out:10"
)
RESNET = (
    "prep:64 l1_conv:128 l1_pool:128 l1_res1:128 l1_res2:128 l1_add:128 l2_conv:256 l2_pool:256 "
    "l3_conv:512 l3_pool:512 l3_res1:512 l3_res2:512 l3_add:512 pool:512 out:10"
)
SVHN = (
    "conv1_1:32 conv1_2:32 pool1:32 conv2_1:64 conv2_2:64 pool2:64 conv3_1:128 conv3_2:128 pool3:128 "
    "conv4_1:256 pool4:256 out:10"
)
ROWS = {
    "cifar2": Row(
        "conv1_1:16 conv1_2:16 pool1:16 fc1:256 out:2",
        normed="conv1_1",
        features=16 * 16 * 16,
        conv_rate=0.1,
        iterations=2,
        epochs=4,  # the first that leaves an epoch after the rewind to epoch 3
        **P1,
    ),
    "cifar4": Row(
        "conv1_1:16 conv1_2:16 pool1:16 conv2_1:32 conv2_2:32 pool2:32 fc1:256 out:4",
        normed="conv1_1 conv2_1",
        features=32 * 8 * 8,
        conv_rate=0.1,
        iterations=2,
        **P1,
    ),
    "cifar6": Row(
        f"{CIFAR6} fc1:256 out:6", normed="conv1_1 conv2_1 conv3_1", features=256 * 4 * 4, conv_rate=0.1, **P1
    ),
    "cifar8": Row(f"{CIFAR8} out:8", normed="all fc1", features=512 * 2 * 2, **P1),
    "cifar10": Row(f"{CIFAR8} out:10", normed="all fc1", features=512 * 2 * 2, **P1),
    "vgg16_cifar10": Row(VGG16, normed="all", features=512),
    "resnet_fast_cifar10": Row(RESNET, normed="all", features=512),
    "vgg_svhn": Row(SVHN, normed="all", features=256, data="svhn", iterations=2),
    "lenet5_mnist": Row(
        "conv1:6 pool1:6 conv2:16 pool2:16 fc1:120 fc2:84 out:10",
        inputs=1,
        features=16 * 4 * 4,
        kernel=5,
        conv_rate=0.5,
        fc_rate=0.5,
        whole=True,
        data="mnist",
        iterations=2,
    ),
    "digits": Row(
        "conv1_1:16 conv1_2:16 pool1:16 conv2_1:32 conv2_2:32 pool2:32 fc1:64 out:10",
        normed="conv1_1 conv2_1",
        inputs=1,
        features=32 * 2 * 2,
        data="",
        iterations=2,
        **P1,
    ),
}
EXAMPLES = 20  # of training; all of them are the probe
RENDERED = (
    "cifar2",
    "vgg16_cifar10",
    "lenet5_mnist",
    "digits",
)  # whose figures are rendered: those of all take longest


@dataclass(frozen=True)
class Finished:
    problem: str
    folder: Path
    outcome: Outcome
    figures: dict[str, Figure]  # that the script drew, by file name

    @property
    def row(self) -> Row:
        return ROWS[self.problem]

    @property
    def results(self) -> pd.DataFrame:
        return read_csv(self.folder / self.problem / "results" / "results.csv")

    def networks(self) -> Iterator[tuple[int, dict[str, NDArray[np.float32]]]]:
        """Iteration -> the tensors saved of it; 0 is the complete network."""
        files = sorted((self.folder / self.problem).glob("**/weights.safetensors"))
        assert len(files) == 1 + self.row.iterations
        for file in files:
            found = re.search(r"iter_(\d+)", str(file))
            yield int(found[1]) if found else 0, safetensors.numpy.load_file(file)


def read_csv(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, keep_default_na=False, na_values={"value": [""]})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """--data for each kind; nothing else on this machine is read or written."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTSIM_CACHE", str(root / "decoded"))
        patch.setenv("DISTSIM_DATA", str(root / "published"))
        yield {
            "": "",
            "images": f"folder:{write_images(root / 'images')}",
            "svhn": f"files:{write_svhn(root / 'svhn')}",
            "mnist": f"files:{write_mnist(root / 'mnist')}",
        }


@pytest.fixture(scope="module", params=ROWS)
def finished(
    request: pytest.FixtureRequest, data: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Finished]:
    """A problem's own script, run to the end."""
    problem, row = request.param, ROWS[request.param]
    folder = tmp_path_factory.mktemp(problem)
    extent = ("--runs", 1, "--iterations", row.iterations, "--epochs", row.epochs)
    size = ("--train-limit", EXAMPLES, "--probe", EXAMPLES)
    where = ("--data", data[row.data], "--storage", folder, "--local", "--device", "cpu")
    # standard errors are the same of any network, and take longest of the widest
    beside = () if problem in ("cifar2", "digits") else ("--measure", "functional")
    drawn: list[dict[str, Figure]] = []
    draw_all = figures.draw_all
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_all", lambda *tables: drawn.append(draw_all(*tables)) or drawn[-1])
        if problem not in RENDERED:
            patch.setattr(plotting, "render", lambda figure, format: b"drawn")
        result = run_script(problem, *extent, *size, *where, *beside)
    yield Finished(problem, folder, result, *drawn)
    shutil.rmtree(folder)  # up to 150 MB of weights


# --- scripts as files ------------------------------------------------------------------------------------------------


def test_every_script_is_known_here() -> None:
    assert {file.stem for file in SWEEPS.glob("*.py")} == ROWS.keys() | STUDIES.keys()
    assert ROWS.keys() == PROBLEMS.keys()


SCRIPTS = (*ROWS, *STUDIES)


def help_of(name: str) -> dict[str, str]:
    """Flag -> what --help says of it; "": what it says of the script."""
    status, out, err = run_script(name, "--help")
    assert (status, err) == (0, "")
    about, *flags = re.split(r"^  (--[\w-]+)", out.split("\n\n", 1)[1], flags=re.MULTILINE)
    return {"": about} | {flag: " ".join(text.split()) for flag, text in zip(flags[::2], flags[1::2], strict=True)}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_names_every_flag(name: str) -> None:
    flags = help_of(name)
    about = flags.pop("")
    assert flags.keys() == set(FLAGS) | ({"--only"} if name in STUDIES else set())
    assert all(len(text.split()) > 3 for text in flags.values()), "it says something of each"
    for problem in STUDIES.get(name, (name,)):
        assert re.search(rf"\b{problem}\b", about), "it says what the script is about"
    assert f"(default: results/{name})" in flags["--storage"]


def given_to_main(name: str) -> tuple[Sequence[Problem], dict[str, object]]:
    """The problems and defaults with which a script calls `distsim.cli.sweeps.main`."""
    given: list[tuple[Sequence[Problem], dict[str, object]]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "main", lambda *problems, **defaults: given.append((problems, defaults)))
        assert run_script(name).status == 0
    ((problems, defaults),) = given
    return problems, defaults


@pytest.mark.parametrize("name", SCRIPTS)
def test_importing_a_script_runs_nothing(name: str) -> None:
    assert outcome(lambda: runpy.run_path(str(SWEEPS / f"{name}.py")) and 0) == (0, "", "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_opens_with_its_question_and_commands_that_parse(name: str) -> None:
    text = ast.get_docstring(ast.parse((SWEEPS / f"{name}.py").read_text())) or ""
    commands = [shlex.split(line) for line in text.splitlines() if line.strip().startswith("python ")]
    assert commands, "no command that runs it"
    assert not text.startswith("python")
    problems, defaults = given_to_main(name)
    parser = sweeps.parser_for(problems, defaults)
    for _, file, *arguments in commands:
        assert file == f"sweeps/{name}.py"
        flags = parser.parse_args(arguments)
        assert isinstance(flags, argparse.Namespace)
        assert sweeps._chosen(problems, flags.only)


def test_defaults_are_those_of_the_papers() -> None:
    for name, runs, iterations, epochs, probe in (
        ("cifar2", 20, 20, 50, 5000),
        ("cifar4", 20, 20, 50, 5000),
        ("cifar6", 20, 20, 100, 5000),
        ("cifar8", 20, 20, 200, 5000),
        ("cifar10", 20, 20, 200, 5000),
        ("vgg16_cifar10", 20, 20, 160, 5000),
        ("resnet_fast_cifar10", 5, 20, 24, 5000),
        ("vgg_svhn", 5, 20, 15, 5000),
        ("lenet5_mnist", 1, 2, 15, 500),
    ):
        flags = help_of(name)
        for flag, value in (("runs", runs), ("iterations", iterations), ("epochs", epochs), ("probe", probe)):
            assert f"(default: {value})" in flags[f"--{flag}"], (name, flag)


# --- each problem, from data to figures ------------------------------------------------------------------------------


def test_the_script_succeeds_and_prints_what_it_found(finished: Finished) -> None:
    status, out, err = finished.outcome
    assert (status, err) == (0, "")
    for iteration in range(1, finished.row.iterations + 1):
        assert f"{finished.problem} run 0 iteration {iteration}: accuracy" in out
    assert "tables in" in out


def test_networks_have_their_full_width_and_depth(finished: Finished) -> None:
    row = finished.row
    shapes = sorted(row.weights.values())
    normed = set(row.normed.split())
    if "all" in normed:
        normed |= {name for name in row.names if row.kind(name) in ("conv", "conv_res")}
    widths = sorted(row.widths[name] for name in normed - {"all"})
    for _, tensors in finished.networks():
        assert sorted(tensor.shape for tensor in tensors.values() if tensor.ndim > 1) == shapes
        means = [tensor for name, tensor in tensors.items() if name.endswith("running_mean")]
        assert sorted(len(mean) for mean in means) == widths, "batch normalisation"


def test_survivors_are_counted_exactly(finished: Finished) -> None:
    row = finished.row
    for iteration, tensors in finished.networks():
        if iteration == 0:
            continue
        alive = {"conv": 0, "fc": 0}
        for name, tensor in tensors.items():
            kind = "conv" if tensor.ndim == 4 else "fc"
            bias = tensors.get(re.sub(r"weight$", "bias", name))
            if tensor.ndim < 2 or (row.whole and len(tensor) == row.widths["out"]):
                continue
            alive[kind] += np.count_nonzero(tensor) + (np.count_nonzero(bias) if row.whole else 0)
        expected = row.alive(iteration)
        assert (alive if row.pools == "mixed" else {"all": sum(alive.values())}) == expected, iteration


def test_every_layer_has_every_metric_or_a_reason(finished: Finished) -> None:
    row, results = finished.row, finished.results
    expected = {
        (finished.problem, 0, iteration, position, name, row.kind(name), metric)
        for iteration in range(1, row.iterations + 1)
        for position, name in enumerate(row.names)
        for metric in (METRICS if name == "out" else HIDDEN_METRICS)
    }
    keys = ["problem", "run", "iteration", "position", "layer", "kind", "metric"]
    assert len(results) == len(expected)
    assert set(results[keys].itertuples(index=False, name=None)) == expected
    missing = results["value"].isna()
    assert (results["reason"] != "").eq(missing).all(), "a reason where there is no value, and only there"
    assert results["value"][~missing].between(0, 1).all()
    assert missing.mean() < 0.5
    channels = results[results["metric"].isin(("mean_cca", "svcca", "pwcca"))]
    assert (channels["columns_x"] == channels["layer"].map(row.widths)).all(), "as many columns as the layer is wide"
    assert (channels["columns_y"] == channels["columns_x"]).all()


def test_the_layers_are_as_many_as_the_papers_say() -> None:
    for problem, kinds in {
        "vgg16_cifar10": {"conv": 13, "pool": 5, "out": 1},
        "vgg_svhn": {"conv": 7, "pool": 4, "out": 1},
        "resnet_fast_cifar10": {"conv": 4, "pool": 4, "conv_res": 4, "add": 2, "out": 1},
    }.items():
        row = ROWS[problem]
        assert {kind: [row.kind(n) for n in row.names].count(kind) for kind in kinds} == kinds
        assert len(row.names) == sum(kinds.values())


def test_seven_kinds_of_figure_are_written_and_open(finished: Finished) -> None:
    numbers = {problem: f"{name}_" for name, problem in OF_P2.items()}
    names = {
        "fig1_accuracy_median",
        "fig2_svcca_by_layer",
        "fig4_accuracy_mean",
        f"{numbers.get(finished.problem, '')}similarity_{finished.problem}",
        f"fig8_output_{finished.problem}",
        f"functional_{finished.problem}",  # predictions for the test images
        f"more_similarities_{finished.problem}",  # mean CCA, which the four panels do not show
    }
    files = [file for file in (finished.folder / "figures").iterdir() if file.suffix != ".json"]
    assert {file.name for file in files} == {f"{name}.{format}" for name in names for format in ("png", "pdf")}
    for file in files if finished.problem in RENDERED else ():
        if file.suffix == ".png":
            with Image.open(file) as image:
                image.load()
                assert min(image.size) > 300
                assert len(image.convert("L").getcolors() or ()) > 10, "it is not blank"
        else:
            content = file.read_bytes()
            assert content.startswith(b"%PDF-")
            assert content.rstrip().endswith(b"%%EOF")


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def lines_of(panel: Axes) -> list[Line2D]:
    """The panel's lines, without the marks over some of their points."""
    return [line for line in panel.lines if line.get_gid() is None]


def check_layer_panel(panel: Axes, layers: list[str], results: pd.DataFrame, metric: str) -> None:
    """Its ticks are the layers; its lines, one for each iteration, go through the table's values (of the one run)."""
    # of panels that share an axis only the lowest show the labels, so the axis is asked for what it would write
    assert panel.xaxis.get_major_formatter().format_ticks(panel.get_xticks()) == layers
    assert len(lines_of(panel)) == results["iteration"].nunique()
    for iteration, line in enumerate(lines_of(panel), start=1):
        rows = results[(results["metric"] == metric) & (results["iteration"] == iteration)].set_index("layer")
        np.testing.assert_array_equal(line.get_xdata(), np.arange(len(layers)))
        np.testing.assert_array_equal(line.get_ydata(), rows["value"].reindex(layers))


def test_every_panel_has_every_layer(finished: Finished) -> None:
    names, results = finished.row.names, finished.results
    drawn = finished.figures
    for figure in ("fig1_accuracy_median", "fig4_accuracy_mean"):
        (panel,) = panels(drawn[figure])
        assert panel.get_title().replace("\n", " ") == f"{IN_WORDS[finished.problem]}, reduced"
        assert len(np.asarray(panel.lines[0].get_xdata())) == 1 + finished.row.iterations
    (panel,) = panels(drawn["fig2_svcca_by_layer"])
    marks = {line.get_gid() for line in panel.lines}
    hidden = results[(results["metric"] == "svcca") & (results["layer"] != "out")]
    assert ("care" in marks) == (hidden["warning"] != "").any()
    assert panel.get_title().replace("\n", " ") == f"{IN_WORDS[finished.problem]}, reduced"
    check_layer_panel(panel, names[:-1], results, "svcca")
    (four,) = (panels(figure) for name, figure in drawn.items() if name.endswith(f"similarity_{finished.problem}"))
    assert [panel.get_ylabel() for panel in four] == ["mean SVCCA", "PWCCA", "CKA", "NBS"]
    for panel, metric in zip(four, ("svcca", "pwcca", "cka", "nbs"), strict=True):
        check_layer_panel(panel, names, results, metric)
    (panel,) = panels(drawn[f"fig8_output_{finished.problem}"])
    lines = {line.get_label(): line for line in lines_of(panel)}
    assert lines.keys() == {"mean SVCCA", "PWCCA", "CKA", "NBS", "cosine"}
    for label, metric in zip(lines, ("svcca", "pwcca", "cka", "nbs", "cosine"), strict=True):
        rows = results[(results["metric"] == metric) & (results["layer"] == "out")]
        np.testing.assert_array_equal(lines[label].get_xdata(), rows["iteration"])
        np.testing.assert_array_equal(lines[label].get_ydata(), rows["value"])


# --- several problems ------------------------------------------------------------------------------------------------


def test_several_problems_land_in_one_store(data: dict[str, str], tmp_path: Path) -> None:
    """As p1.py and p2.py do, with the two cheapest."""
    two = {name: PROBLEMS[name] for name in ("cifar2", "cifar4")}
    size = shlex.split("--runs 1 --iterations 1 --epochs 1 --train-limit 20 --probe 20 --metrics svcca cosine")
    where = ["--local", "--device", "cpu", "--data", data["images"], "--storage", str(tmp_path)]
    status, out, err = outcome(lambda: sweeps.main(*two.values(), arguments=[*size, *where, "--control", "none"]))
    assert (status, err) == (0, "")
    assert {folder.name for folder in tmp_path.iterdir()} == {"cifar2", "cifar4", "figures", "lease", "report.html"}
    for name in two:
        results = read_csv(tmp_path / name / "results" / "results.csv")
        assert set(results["problem"]) == {name}
        assert set(results["layer"]) == set(ROWS[name].names)
        assert f"\n{name}: 1 run, 1 iteration\n" in out
    drawn = figures.draw_all(read_tables(Storage(tmp_path)))
    for figure in ("fig1_accuracy_median", "fig2_svcca_by_layer", "fig4_accuracy_mean"):
        assert [panel.get_title() for panel in panels(drawn[figure])] == ["cifar2", "cifar4"]
    again = outcome(lambda: sweeps.main(*two.values(), arguments=[*size, *where, "--control", "none"]))
    assert again.status == 0
    assert "nothing is missing" in again.out
