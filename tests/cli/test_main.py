"""The `distsim` command on a small real store; and what wrong input gets: one sentence, status 1, nothing harmed."""

import argparse
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from read_only import mounted
from sweep_scripts import SWEEPS, Outcome, outcome, run_script, write_images, write_mnist, write_svhn
from terminal import Terminal
from torch import nn
from torchvision import datasets

from distsim.cli import main as cli
from distsim.cli import sweeps
from distsim.cli.output import reported
from distsim.models import MODELS, Layer, Network
from distsim.problems import PROBLEMS
from distsim.specs import NetworkId, Problem
from distsim.store import Storage, SweepStore
from distsim.store.storage import storage_error

pytestmark = pytest.mark.usefixtures("blank_figures")

HERE = ("--local", "--device", "cpu")
TINY = ("--epochs", 1, "--train-limit", 100, "--probe", 50)
SMALL = (*TINY, "--runs", 2, "--iterations", 2, "--metrics", "cka", "cosine", *HERE)


def distsim(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main([str(argument) for argument in arguments]))


def files(folder: Path, *without: str) -> dict[str, str]:
    """Path -> digest of every file, but of those that say which driver was at work last.

    The report says when pieces were computed, so it is left out with `provenance`.
    """
    without = (*without, "report.html") if "provenance" in without else without
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "lease")
    found = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return {path: digest for path, digest in found.items() if not any(part in path for part in without)}


def pieces(folder: Path, *without: str) -> dict[str, str]:
    """Piece -> digest, as the command prints them."""
    status, out, _ = distsim("digest", folder, "--pieces")
    assert status == 0
    found = dict(reversed(line.split("  ", 1)) for line in out.splitlines()[:-1])
    return {piece: digest for piece, digest in found.items() if not any(part in piece for part in without)}


def sentence(result: Outcome) -> str:
    """What the one line on stderr says, or the one failure below its heading; the exit status is 1."""
    assert result.status == 1
    first, *failures = result.err.splitlines()
    assert first.startswith("distsim: ")
    assert len(failures) == (1 if re.match(r"distsim: 1 failed\b", first) else 0), result.err
    text = failures[0].strip() if failures else first.removeprefix("distsim: ")
    assert len(text) > 15
    return text


@pytest.fixture(autouse=True, scope="module")
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    root = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTSIM_CACHE", str(root / "decoded"))
        patch.setenv("DISTSIM_DATA", str(root / "published"))
        yield


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two iterations. Not to be changed."""
    folder = tmp_path_factory.mktemp("kept")
    status, _, err = run_script("digits", *SMALL, "--storage", folder)
    assert (status, err) == (0, "")
    return folder


@pytest.fixture
def store(kept: Path, tmp_path: Path) -> Path:
    """The same to change."""
    return Path(shutil.copytree(kept, tmp_path / "store"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of three classes. Not to be changed."""
    return write_images(tmp_path_factory.mktemp("data") / "images", ("automobile", "truck", "frog"), train=6, test=1)


# --- the command -----------------------------------------------------------------------------------------------------


def test_list(kept: Path) -> None:
    identity = json.loads((kept / "digits" / "spec.json").read_text())["hash"]
    status, out, err = distsim("list", kept)
    assert (status, err) == (0, "")
    assert out.split(maxsplit=1) == ["digits", f"2 runs, up to iteration 2, seed 0, {identity[:12]}\n"]


def test_status_of_what_is_finished(kept: Path) -> None:
    status, out, err = distsim("status", kept)
    assert (status, err) == (0, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "digits: 2 runs x 2 iterations asked for",
        "complete network done",
        "pruned networks 4 of 4 (4 in the store)",
        "similarities none missing",
    ]


def test_status_of_what_is_not(store: Path) -> None:
    shutil.rmtree(store / "digits/runs/0001")
    (store / "digits/runs/0000/iter_02/COMMIT.json").unlink()
    shutil.rmtree(store / "digits/runs/0000/iter_01/comparison/out")
    status, out, _ = distsim("status", store)
    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[2] == "pruned networks 1 of 4 (1 in the store)"
    assert lines[3] == f"similarities {3 * (8 + 1) + 2} missing"  # cka of 8 layers, cosine of one; two of `out`
    assert lines[4] == "values by chance 2 missing"  # the cosine's, by two permutations; CKA's is a formula
    assert lines[5] == f"standard errors {3 * (8 + 1)} missing"
    assert lines[6:] == [
        "test logits 3 missing",
        "run 0: iterations 2 missing",
        "run 1: iterations 1-2 missing",
    ]


def test_digest_is_of_the_contents(kept: Path, store: Path) -> None:
    status, out, _ = distsim("digest", store)
    assert status == 0
    assert re.fullmatch(rf"[0-9a-f]{{64}}  digits \({len(pieces(kept))} pieces\)\n", out)
    assert distsim("digest", kept).out == out
    shutil.rmtree(store / "digits/runs/0001/iter_02")
    assert distsim("digest", store).out != out
    assert run_script("digits", *SMALL, "--storage", store).status == 0
    assert distsim("digest", store).out == out


@pytest.mark.parametrize(
    "pattern",
    [
        "digits/complete/attempt-*/weights.safetensors",
        "digits/runs/0001/iter_01/attempt-*/masks.safetensors",
        "digits/complete/activations/attempt-*/pool1/c/0/0/0/0",
        "digits/results/summary.csv",
    ],
)
def test_digest_finds_a_changed_byte(store: Path, pattern: str) -> None:
    (file,) = store.glob(pattern)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert file.relative_to(store / "digits").as_posix() in sentence(distsim("digest", store))


def test_report_makes_tables_and_figures_anew(store: Path) -> None:
    before = files(store, "provenance", "results/COMMIT.json")  # who computed it when is not part of a result
    shutil.rmtree(store / "digits/results")
    shutil.rmtree(store / "figures")
    status, out, err = distsim("report", store)
    assert (status, err) == (0, "")
    assert files(store, "provenance", "results/COMMIT.json") == before
    assert (store / "figures/fig1_accuracy_median.pdf").exists()
    assert re.search(r"^iteration +remaining +runs +accuracy +cka +cosine$", out, re.MULTILINE)
    assert out.endswith(f"report: {store}/report.html\n")


def test_run_does_what_is_missing(store: Path) -> None:
    before = pieces(store)
    shutil.rmtree(store / "digits/runs/0001/iter_02")
    status, out, err = distsim("run", store, "--local")
    assert (status, err) == (0, "")
    assert "1 of 5 networks to train" in out
    assert pieces(store) == before
    assert "nothing is missing" in distsim("run", store, "--local").out


def test_run_extends(store: Path) -> None:
    before = pieces(store, "results/")
    status, out, err = distsim("run", store, "--local", "--runs", 3)
    assert (status, err) == (0, "")
    assert "2 of 7 networks to train" in out
    after = pieces(store, "results/")
    assert {piece: after[piece] for piece in before} == before, "what was there is as it was"
    assert distsim("status", store).out.startswith("digits: 3 runs x 2 iterations asked for")
    assert distsim("list", store).out.split(maxsplit=1)[1].startswith("3 runs, ")


def test_the_script_and_the_command_extend_alike(store: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other"))
    assert distsim("run", store, "--local", "--iterations", 3).status == 0
    assert run_script("digits", *SMALL, "--iterations", 3, "--storage", other).status == 0
    assert pieces(store) == pieces(other)


@pytest.mark.parametrize("network", ["run=1,iteration=2", "run=0,iteration=1", "run=complete"])
def test_only_says_that_a_network_comes_out_as_committed(store: Path, network: str) -> None:
    before = files(store)
    status, out, err = distsim("run", store, "--network", network)
    assert (status, err) == (0, "")
    assert re.fullmatch(
        r"digits, .*: trained again, equal to the committed network bit by bit, accuracy 0\.\d{4}\n", out
    )
    assert files(store) == before


def test_only_computes_what_is_not_there(store: Path) -> None:
    before = pieces(store)
    (store / "digits/runs/0001/iter_02/COMMIT.json").unlink()
    status, out, _ = distsim("run", store, "--network", "run=1,iteration=2")
    assert status == 0
    assert out.startswith("digits, run 1, iteration 2: trained and committed")
    assert pieces(store) == before


def test_only_finds_a_network_that_comes_out_different(store: Path) -> None:
    digits, network = SweepStore(Storage(store), "digits"), NetworkId(1, 2)
    mark, step = digits.mark(network), digits.load_network(network)
    assert mark is not None
    (name, weights) = next((name, tensor) for name, tensor in step.weights.items() if tensor.ndim == 4)
    weights[weights != 0] *= 1 + 2**-20
    (store / "digits/runs/0001/iter_02/COMMIT.json").unlink()
    digits.commit_network(network, step, identity=mark.identity, environment=mark.environment, provenance={})
    said = sentence(distsim("run", store, "--network", "run=1,iteration=2"))
    assert said.startswith("digits, run 1, iteration 2: comes out different")
    assert name in said


@pytest.mark.parametrize(
    "text",
    ["run=x", "iteration=1", "run=0", "run=0,iteration=0", "run=-1,iteration=1", "complete", "run=0;iteration=1"],
)
def test_only_says_what_it_takes(store: Path, text: str) -> None:
    before = files(store)
    assert "run=complete" in sentence(distsim("run", store, "--network", text))
    assert files(store) == before


def test_only_trains_another_complete_network_before_its_runs(store: Path) -> None:
    before = files(store)
    said = sentence(distsim("run", store, "--network", "run=0,iteration=1,complete=1"))
    assert "is pruned from the complete network 1, which is not in" in said
    assert files(store) == before
    status, out, err = distsim("run", store, "--network", "run=complete,complete=1")
    assert (status, err) == (0, "")
    assert out.startswith("digits, complete network 1: trained and committed, accuracy ")
    after = files(store)
    assert after.items() >= before.items(), "all else is as it was"
    assert {path.split("/")[1] for path in after.keys() - before.keys()} == {"complete-1"}


def test_only_needs_the_network_before(store: Path) -> None:
    assert "run 7, iteration 1" in sentence(distsim("run", store, "--network", "run=7,iteration=2"))


def test_compare_adds_metrics_and_trains_nothing(store: Path) -> None:
    before = files(store, "results/", "figures/", "request.json", "report.html")
    shutil.rmtree(store / "digits/runs/0001/iter_02")  # it must not be trained again
    status, out, err = distsim("compare", store, "--local", "--metrics", "cka", "nbs", "cosine")
    assert (status, err) == (0, "")
    assert "to train" not in out
    assert re.search(r"^iteration +remaining +runs +accuracy +cka +nbs +cosine$", out, re.MULTILINE)
    after = files(store)
    assert not {path for path in after if "runs/0001/iter_02" in path}
    there = {path: digest for path, digest in before.items() if "runs/0001/iter_02" not in path}
    assert {path: after.get(path) for path in there} == there
    new = {path for path in after if "/comparison/" in path and path.endswith("nbs.json")}
    assert {path.split("/comparison/")[0] for path in new} == {"digits/runs/0000/iter_01", "digits/runs/0001/iter_01"}


def test_compare_without_a_pruned_network(store: Path) -> None:
    shutil.rmtree(store / "digits/runs")
    assert "no run of the store has a committed network" in sentence(distsim("compare", store, "--local"))


@pytest.mark.parametrize("command", ["list", "status", "digest", "report", "compare", "run"])
def test_what_is_no_store_is_said_to_be_none(store: Path, tmp_path: Path, command: str) -> None:
    assert sentence(distsim(command, tmp_path / "nowhere")) == f"there is no store in {tmp_path / 'nowhere'}"
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "empty").mkdir()
    assert sentence(distsim(command, tmp_path / "empty")) == f"no sweep in {tmp_path / 'empty'}"
    (tmp_path / "file").write_text("something else")
    assert sentence(distsim(command, tmp_path / "file")) == f"there is no store in {tmp_path / 'file'}"
    assert sentence(distsim(command, store, "--problem", "cifar2")) == (
        f"no sweep of cifar2 in {store}; there are digits"
    )


@pytest.mark.parametrize("arguments", [(), ("frobnicate", "store"), ("list",), ("run", "store", "--runs", "many")])
def test_a_line_that_does_not_parse_is_answered_with_the_usage(arguments: tuple[str, ...]) -> None:
    status, out, err = distsim(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: distsim ")


def test_help_imports_nothing_that_takes_seconds() -> None:
    """Of the command, of its subcommands, and of every sweep script."""
    code = (
        "import contextlib, io, runpy, sys\n"
        "for module, *line in eval(sys.argv[1]):\n"
        "    sys.argv = [module, *line]\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):\n"
        "        (runpy.run_path if module.endswith('.py') else runpy.run_module)(module, run_name='__main__')\n"
        "    assert text.getvalue().startswith('usage: '), module\n"
        f"print(sorted({set(SLOW)} & sys.modules.keys()))\n"
    )
    lines = [("distsim", "--help"), *(("distsim", command.name, "--help") for command in cli.COMMANDS)]
    lines += [(str(file), "--help") for file in SWEEPS.glob("*.py")]
    done = subprocess.run([sys.executable, "-c", code, repr(lines)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


SLOW = ("torch", "ray", "zarr", "pandas", "pyarrow", "matplotlib", "scipy", "sklearn")  # to import


@pytest.fixture(scope="module")
def published(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    assert distsim("merge", kept, "--into", folder).status == 0
    return folder


@pytest.mark.parametrize("line", [("list", "kept"), ("status", "kept"), ("list", "published"), ("completion", "bash")])
def test_what_reads_json_imports_nothing_that_takes_seconds(
    line: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    command, argument = line
    where = request.getfixturevalue(argument) if argument in ("kept", "published") else argument
    code = (
        "import sys\n"
        "from distsim.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        f"raise SystemExit(status or ' '.join({set(SLOW)} & sys.modules.keys()) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, command, where], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == distsim(command, where).out


@pytest.mark.parametrize("command", ["status", "digest", "repair", "run", "compare"])
def test_what_needs_networks_says_that_a_published_study_has_none(published: Path, command: str) -> None:
    said = sentence(distsim(command, published))
    assert said.startswith(f"{published} is a published study: it has tables and no networks. The commands report, ")


def test_the_tables_of_a_published_study_are_verified(published: Path) -> None:
    assert distsim("verify", published) == (
        0,
        "digits, published: its tables are what study.json says: nothing damaged\n",
        "",
    )
    table = published / "results.parquet"
    content = table.read_bytes()
    table.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        assert sentence(distsim("verify", published)) == (
            f"{table} is damaged: its digest is not the one in study.json"
        )
    finally:
        table.write_bytes(content)


def test_what_imports_torch_says_so_at_a_terminal(kept: Path) -> None:
    """It says so first, and only there."""
    line = [sys.executable, "-m", "distsim", "verify", kept]
    terminal = Terminal(line)
    assert terminal.status() == 0
    assert terminal.seen.splitlines()[0] == "distsim: loading PyTorch ..."
    quick = Terminal([*line[:3], "list", kept])
    assert quick.status() == 0
    assert "loading" not in quick.seen
    assert subprocess.run(line, capture_output=True, text=True, timeout=120).stderr == ""


@pytest.mark.parametrize("line", [("run", "--runs", 3), ("compare", "--metrics", "svcca")])
def test_a_dry_run_writes_nothing(store: Path, line: tuple[object, ...]) -> None:
    before, (command, *flags) = files(store), line
    status, out, err = distsim(command, store, "--local", "--dry-run", *flags)
    assert (status, err) == (0, "")
    assert {"run": "2 of 7 networks to train", "compare": "similarities"}[str(command)] in out
    assert files(store) == before


def test_a_flag_under_its_former_name(store: Path) -> None:
    new = distsim("pairs", store, "--local", "--plan", "complete", "--only-runs", 0, "--dry-run")
    old = distsim("pairs", store, "--local", "--plan", "complete", "--runs", 0, "--forecast")
    assert (old.status, old.out) == (new.status, new.out) == (0, old.out)
    assert new.err == ""
    assert [line.split(";")[0] for line in old.err.splitlines()] == [
        "distsim: --runs is now --only-runs",
        "distsim: --forecast is now --dry-run",
    ]
    assert "--forecast" not in distsim_help("pairs")


def distsim_help(command: str) -> str:
    status, out, _ = outcome(lambda: cli.main([command, "--help"]))
    assert status == 0
    return out


OTHERWISE = {  # flags that are no more than alike, and why
    ("--out", "metavar"): "a file or a folder, whichever the command writes",
    ("--measure", "choices"): "what a command can measure",
    ("--metrics", "choices"): "own metrics are known only once the store's script is imported",
}


def test_a_flag_means_the_same_in_every_command() -> None:
    (found,) = (action for action in cli.parser()._actions if action.choices)
    meanings: dict[tuple[str, str], dict[object, str]] = {}
    for name, parser in dict(found.choices or {}).items():
        for action in parser._actions:
            if action.help == argparse.SUPPRESS:
                continue
            for flag in action.option_strings:
                for what in ("nargs", "type", "choices", "metavar"):
                    value = getattr(action, what)
                    meanings.setdefault((flag, what), {}).setdefault(str(value), name)
    different = {key: values for key, values in meanings.items() if len(values) > 1 and key not in OTHERWISE}
    assert not different
    assert all(len(meanings[key]) > 1 for key in OTHERWISE), "an exception that is none"


def test_every_flag_is_explained_in_more_than_a_fragment() -> None:
    (found,) = (action for action in cli.parser()._actions if action.choices)
    for name, parser in dict(found.choices or {}).items():
        for action in parser._actions:
            text = (action.help or "").split("(default")[0].strip()
            fragment = len(text.split()) < 3 or text.split()[0] in ("of", "to", "as", "for", "only")
            assert action.help == argparse.SUPPRESS or text.startswith("only say") or not fragment, (name, action)


def test_in_a_shell(kept: Path, tmp_path: Path) -> None:
    """The exit status and both streams of real processes: the installed command, and a script."""
    command = Path(sys.executable).with_name("distsim")

    def shell(*line: object) -> Outcome:
        done = subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=300, cwd=tmp_path)
        return Outcome(done.returncode, done.stdout, done.stderr)

    assert shell(command, "list", kept) == distsim("list", kept)
    assert sentence(shell(command, "list", "nowhere")) == "there is no store in nowhere"
    script_line = (sys.executable, SWEEPS / "cifar2.py", "--local", "--data", "folder:nowhere")
    assert sentence(shell(*script_line)).startswith("no folder nowhere: --data folder:PATH takes")


# --- wrong input to a sweep script: the store it points to stays as it is ---------------------------------------------


@pytest.fixture
def refused(store: Path) -> Iterator[Callable[..., str]]:
    """Run a script that must fail with one sentence; afterwards the store is as it was, file by file."""
    before = files(store)

    def run(name: str, *arguments: object) -> str:
        return sentence(run_script(name, "--storage", store, *HERE, *arguments))

    yield run
    assert files(store) == before


def test_unknown_class(refused: Callable[..., str], images: Path) -> None:
    said = refused("cifar2", "--data", f"folder:{images}", "--classes", "automobile,lorry")
    assert said == "unknown class 'lorry'; the data has automobile, frog, truck"
    said = refused("cifar2", "--data", f"folder:{images}", "--classes", "automobile,trucks")
    assert said.endswith("(did you mean 'truck'?)")
    said = refused("digits", "--classes", "1,seven")
    assert said == "unknown class 'seven'; the data has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"


def test_a_class_that_the_folder_lacks(refused: Callable[..., str], images: Path) -> None:
    said = refused("cifar4", "--data", f"folder:{images}")  # it wants airplane and ship
    assert said.startswith("unknown class 'airplane'; the data has automobile, frog, truck")


def test_data_that_are_not_there(refused: Callable[..., str], images: Path, tmp_path: Path) -> None:
    assert refused("cifar2", "--data", f"folder:{tmp_path}/nowhere").startswith(f"no folder {tmp_path}/nowhere: ")
    assert "--download" in refused("cifar2")
    assert "--download" in refused("vgg_svhn", "--data", tmp_path / "nowhere")
    assert refused("lenet5_mnist", "--data", f"files:{tmp_path}").startswith("no train-images-idx3-ubyte in ")
    assert refused("cifar2", "--data", "folder:").startswith("--data folder: names no folder")
    lacking = Path(shutil.copytree(images, tmp_path / "lacking"))
    shutil.rmtree(lacking / "test")
    assert refused("cifar2", "--data", f"folder:{lacking}").startswith(f"no folder test in {lacking}")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 and no more"])
def test_a_file_that_is_not_an_image(refused: Callable[..., str], images: Path, tmp_path: Path, content: bytes) -> None:
    mine = Path(shutil.copytree(images, tmp_path / "mine"))
    bad = mine / "train" / "truck" / "0003.jpg"
    bad.write_bytes(content)
    assert str(bad) in refused("cifar2", "--data", f"folder:{mine}")
    bad.write_bytes((mine / "train" / "truck" / "0001.jpg").read_bytes()[:500])
    assert str(bad) in refused("cifar2", "--data", f"folder:{mine}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--probe", 51, "--train-limit", 50),
            "probe of 51 images asked for, the training set has 50: use --probe 50 or fewer",
        ),
        (("--probe", 0), "probe must be at least 1, got 0"),
        (("--train-limit", 9), "a limit of 9 training images leaves some of the 10 classes without one"),
        (("--epochs", 0), "epochs must be at least 1, got 0"),
        (("--runs", 0), "runs must be at least 1, got 0"),
        (("--runs", -2), "runs must be at least 1, got -2"),
        (("--iterations", 0), "iterations must be at least 1, got 0"),
        (("--iterations", -1), "iterations must be at least 1, got -1"),
        (("--threads", 0), "threads must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range(refused: Callable[..., str], flags: tuple[object, ...], message: str) -> None:
    """The problem is the store's own, so that anything that were accepted would be done."""
    assert refused("digits", *SMALL, *flags) == message


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        (("--seed", 1), ["seed: 1 asked for, 0 in the store"]),
        (("--probe", 40), ["problem.probe: 40 asked for, 50 in the store"]),
        (
            ("--epochs", 2, "--train-limit", 110, "--threads", 2),
            [
                "problem.recipe.epochs: 2 asked for, 1 in the store",
                "problem.pruning.rewind_epoch: 1 asked for, 0 in the store",
                "problem.train_limit: 110 asked for, 100 in the store",
                "threads: 2 asked for, 1 in the store",
            ],
        ),
    ],
)
def test_a_store_of_another_sweep(refused: Callable[..., str], flags: tuple[object, ...], fields: list[str]) -> None:
    said = refused("digits", *SMALL, *flags)
    assert "holds another sweep of digits" in said
    assert all(field in said for field in fields), said
    assert "problem.model" not in said, "only what differs is named"


def test_other_data_are_another_sweep(tmp_path: Path, images: Path) -> None:
    def run() -> Outcome:
        size = ("--runs", 1, "--iterations", 1, "--epochs", 1, "--probe", 5, "--metrics", "cosine")
        return run_script("cifar2", *size, *HERE, "--data", f"folder:{mine}", "--storage", tmp_path / "store")

    mine = Path(shutil.copytree(images, tmp_path / "mine"))
    assert run().status == 0
    before = files(tmp_path / "store")
    (mine / "train" / "truck" / "0000.jpg").unlink()
    assert "data_digest" in sentence(run())
    assert files(tmp_path / "store") == before


def test_an_unknown_metric(store: Path) -> None:
    before = files(store)
    status, _, err = run_script("digits", *SMALL, "--storage", store, "--metrics", "ckaa")
    assert status == 2
    assert re.fullmatch(r".*argument --metrics: invalid choice: 'ckaa' \(choose from .*cka.*\)", err.splitlines()[-1])
    assert re.match(r"unknown metrics? .*ckaa", sentence(distsim("compare", store, "--local", "--metrics", "ckaa")))
    assert files(store) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_where_there_is_none(refused: Callable[..., str]) -> None:
    assert re.search("GPU was asked for.*--device cpu", refused("digits", *SMALL, "--device", "cuda"))


@pytest.mark.parametrize("name", ["cifar2", "vgg_svhn", "lenet5_mnist"])
def test_a_download_that_is_not_possible(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        for spelling in (variable, variable.upper()):
            monkeypatch.setenv(spelling, "http://127.0.0.1:9")  # nothing listens at the discard port
    monkeypatch.setenv("no_proxy", "")
    urllib.request.install_opener(None)  # the one in use keeps the proxies it began with
    try:
        said = refused(name, "--download", "--data", tmp_path / "new")
    finally:
        urllib.request.install_opener(None)
    assert said.startswith("could not download ")
    assert str(tmp_path / "new") in said


def test_published_data_with_another_checksum(refused: Callable[..., str], tmp_path: Path) -> None:
    svhn, mnist = write_svhn(tmp_path / "svhn", 10, 10), write_mnist(tmp_path / "mnist" / "MNIST" / "raw", 10, 10)
    cifar = tmp_path / "cifar" / datasets.CIFAR10.base_folder
    cifar.mkdir(parents=True)
    for name, _ in (*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list, ("batches.meta", "")):
        (cifar / name).write_bytes(b"not what was published")
    for problem, root, file in (
        ("vgg_svhn", svhn, svhn / "train_32x32.mat"),
        ("lenet5_mnist", tmp_path / "mnist", mnist / "train-images-idx3-ubyte.gz"),
        ("cifar2", cifar.parent, cifar / "data_batch_1"),
    ):
        said = refused(problem, "--data", root)
        assert said.startswith(f"{file} is there but damaged: its md5 is ")


# --- places that cannot be written ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "file/store", "/proc/distsim"])
def test_a_place_where_no_folder_can_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    where = tmp_path / place
    said = sentence(run_script("digits", *SMALL, "--storage", where))
    assert said.startswith(f"cannot use {where} as storage: ")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_file_system_that_is_read_only(kept: Path, tmp_path: Path) -> None:
    """The whole store, seen through a read-only mount in a name space of the child's own."""
    line = mounted(kept, tmp_path / "mounted")
    script_line = [sys.executable, str(SWEEPS / "digits.py"), *map(str, SMALL), "--runs", "3", "--storage"]
    done = subprocess.run([*line, *script_line, tmp_path / "mounted"], capture_output=True, text=True, timeout=300)
    said = sentence(Outcome(done.returncode, done.stdout, done.stderr))
    assert said.startswith("cannot write ")
    assert "Read-only file system" in said


def test_a_store_that_may_only_be_read_is_looked_at(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(self: Storage, path: str, content: bytes, mode: object) -> None:
        raise storage_error(f"cannot write {path} in {self.url}", OSError("Read-only file system (os error 30)"))

    monkeypatch.setattr(Storage, "_put", put)
    before = files(kept)
    status, out, err = distsim("report", kept)
    assert (status, err) == (0, "")
    assert "\nnothing was written: cannot write " in out
    assert distsim("status", kept).status == 0
    dry = distsim("pairs", kept, "--plan", "complete", "--metrics", "cka", "--dry-run", *HERE)
    assert (dry.status, dry.err) == (0, "")
    assert files(kept) == before


# --- numbers that are not finite --------------------------------------------------------------------------------------


def run_problem(problem: Problem, *arguments: object) -> Outcome:
    """A sweep script of one's own, which is a call of `main`."""
    return outcome(lambda: sweeps.main(problem, arguments=[*map(str, arguments), *HERE, "--control", "none"]))


def test_a_training_that_diverges(tmp_path: Path) -> None:
    recipe = dataclasses.replace(PROBLEMS["digits"].recipe, lr=1e38)
    mine = dataclasses.replace(PROBLEMS["digits"], recipe=recipe)
    size = ("--epochs", 2, "--train-limit", 100, "--probe", 50, "--runs", 1, "--iterations", 1)
    said = sentence(run_problem(mine, *size, "--storage", tmp_path))
    assert re.fullmatch(r"digits, complete network: training diverged: .*the loss of epoch 2 is nan", said), said
    assert "complete network  missing" in distsim("status", tmp_path).out


def test_a_last_step_that_overflows(tmp_path: Path) -> None:
    """The only step of the only epoch: its loss is finite, what the weights are afterwards is not."""
    recipe = dataclasses.replace(PROBLEMS["digits"].recipe, lr=1e38, batch_size=100)
    mine = dataclasses.replace(PROBLEMS["digits"], recipe=recipe)
    said = sentence(run_problem(mine, *TINY, "--runs", 1, "--iterations", 1, "--storage", tmp_path))
    assert re.match(r"digits, complete network: .*\blayer \w+ .*not finite", said), said
    assert "complete network  missing" in distsim("status", tmp_path).out


class Overflowing(Network):
    """In evaluation its middle layer overflows, and the next hides it: accuracy and loss are finite."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.inflate = Inflate()
        self.bound = nn.Hardtanh()
        self.linear = nn.Linear(4 * size * size, classes)
        self.layers = (
            Layer("first", "conv", "conv"),
            Layer("second", "conv", "inflate"),
            Layer("third", "conv", "bound"),
            Layer("out", "out", "linear"),
        )
        self.output = "linear"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.bound(self.inflate(self.conv(x))).flatten(1))


class Inflate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.training else (x + 1e-30) * 3e38 * 3e38


def test_activations_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "overflowing", Overflowing)
    mine = dataclasses.replace(PROBLEMS["digits"], model="overflowing")
    said = sentence(run_problem(mine, *TINY, "--runs", 1, "--iterations", 1, "--storage", tmp_path))
    assert said == "digits, complete network: layer second has activations that are not finite"
    assert "complete network  done" in distsim("status", tmp_path).out, "the network itself is fine"


# --- damaged stores ---------------------------------------------------------------------------------------------------


def clear(said: str) -> bool:
    """Whether a sentence is free of what Python says to programmers."""
    return not re.search(r"NoneType|object (is|has|cannot)|not iterable|: '\w+'$|unexpected keyword", said)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "not JSON": lambda content: content[:-20],
    "not text": lambda content: b"\xff\xfe" + content,
    "a list": lambda content: b"[1]",
    "null": lambda content: b"null",
    "no fields": lambda content: b"{}",
}


@pytest.mark.parametrize("kind", [*DAMAGE, "a changed field"])
def test_a_damaged_spec(store: Path, kind: str) -> None:
    file = store / "digits" / "spec.json"
    change = DAMAGE.get(kind, lambda content: content.replace(b'"probe":50', b'"probe":49'))
    file.write_bytes(change(file.read_bytes()))
    before = files(store)
    for result in (
        run_script("digits", *SMALL, "--storage", store),
        *(distsim(command, store) for command in ("list", "status", "digest", "report")),
        *(distsim(command, store, "--local") for command in ("run", "compare")),
    ):
        said = sentence(result)
        assert said.startswith(f"spec.json in {store / 'digits'} is damaged"), said
        assert clear(said), said
    assert files(store) == before


@pytest.mark.parametrize("kind", [*DAMAGE, "a changed field"])
def test_a_damaged_request(store: Path, kind: str) -> None:
    """The command cannot know what was asked for; the script says it again, and all is well."""
    file = store / "digits" / "request.json"
    before, good = files(store), file.read_bytes()
    change = DAMAGE.get(kind, lambda content: content.replace(b'"runs":2', b'"runs":"two"'))
    file.write_bytes(change(good))
    assert file.read_bytes() != good
    for result in (distsim("status", store), distsim("run", store, "--local"), distsim("compare", store, "--local")):
        said = sentence(result)
        assert "request.json" in said
        assert clear(said), said
    assert run_script("digits", *SMALL, "--storage", store).status == 0
    assert files(store) == before


def test_a_request_that_was_never_written(store: Path) -> None:
    """A sweep ended between its two first files."""
    before = files(store)
    (store / "digits" / "request.json").unlink()
    for result in (distsim("status", store), distsim("run", store, "--local"), distsim("compare", store, "--local")):
        assert clear(sentence(result))
    assert distsim("list", store).status == 0
    assert run_script("digits", *SMALL, "--storage", store).status == 0
    assert files(store) == before


@pytest.mark.parametrize("kind", [*DAMAGE, "a changed field"])
@pytest.mark.parametrize("network", ["complete", "runs/0001/iter_02"])
def test_a_damaged_mark(store: Path, network: str, kind: str) -> None:
    file = store / "digits" / network / "COMMIT.json"
    change = DAMAGE.get(kind, lambda content: re.sub(rb'"accuracy":[\d.]+', b'"accuracy":1.0', content))
    file.write_bytes(change(file.read_bytes()))
    before = files(store, "request.json", "results/", "figures/")
    result = run_script("digits", *SMALL, "--iterations", 3, "--storage", store)
    assert result.status == 1
    first, *failures = result.err.splitlines()
    others = sum(int(more) for line in failures for more in re.findall(r"^[^:]* and (\d+) more: ", line))
    assert re.match(rf"distsim: {len(failures) + others} failed\b", first)
    assert failures
    for said in failures:
        assert f"{network}/COMMIT.json" in said
        assert clear(said), said
    after = files(store)
    assert {path: after.get(path) for path in before} == before, "nothing committed was harmed"
    said = sentence(distsim("digest", store))
    assert f"{network}/COMMIT.json" in said
    assert clear(said), said


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("place", ["digits/results", "figures"])
def test_damaged_marks_of_what_is_derived(store: Path, place: str, kind: str) -> None:
    """Tables and figures can be made again, and are."""
    file, before = store / place / "COMMIT.json", files(store, "provenance", "results/COMMIT.json")
    file.write_bytes(DAMAGE[kind](file.read_bytes()))
    status, _, err = distsim("report", store)
    assert (status, err) == (0, "")
    assert files(store, "provenance", "results/COMMIT.json") == before


def test_doubtful_similarities_are_said_with_the_layers_own_names(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the table goes
    status, out, err = distsim("layers", store, "--metrics", "svcca")
    assert (status, err) == (0, "")
    (said,) = re.findall(r"^\d+ of \d+ similarities .* svcca of (\S+) and (\S+): ", out, re.MULTILINE)
    assert not any(name.startswith("taps") for name in said), out


def test_a_path_of_an_unknown_user_is_refused_in_a_sentence(tmp_path: Path) -> None:
    status, _, err = run_script("digits", "--local", "--data", "~nobody.here", "--storage", str(tmp_path / "s"))
    assert status == 1
    assert re.fullmatch(r"distsim: cannot use the path ~nobody\.here: .*\n", err), err


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_warning_is_a_sentence_without_a_line_of_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert reported(lambda: warnings.warn("one thing\nand another", UserWarning, stacklevel=1)) == 0
    assert capsys.readouterr().err == "distsim: one thing and another\n"


def test_every_command_has_an_example_that_it_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a narrow terminal, too, it is one line: a half one would be a command when it is copied."""
    monkeypatch.setenv("COLUMNS", "60")
    (commands,) = (action for action in cli.parser()._actions if action.dest == "command" or action.choices)
    for name, parser in dict(commands.choices).items():
        assert parser.format_help().splitlines()[-1] == parser.epilog
        example = parser.epilog.removeprefix("Example: distsim ")
        assert example.split()[0] == name
        assert cli.parser().parse_args(example.split())
