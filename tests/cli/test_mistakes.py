"""Commands with a mistake: said in one sentence, before the data are looked for, and nothing is left behind."""

import dataclasses
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_scripts import Outcome, outcome

import distsim
from distsim.cli import main as cli
from distsim.cli import sweeps
from distsim.metrics.registry import METRICS
from distsim.problems import PROBLEMS
from distsim.results import reduce
from distsim.specs import canonical_json, digest
from distsim.store import Storage, SweepStore
from distsim.sweep import order

SMALL = PROBLEMS["digits"].reduced_to(epochs=1, probe=50, train_limit=60)
HERE = ("--local", "--device", "cpu")


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduce, "draw", lambda root, again=False: [])


def command(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main([str(argument) for argument in arguments]))


def script(*arguments: object, problem: object = SMALL) -> Outcome:
    return outcome(lambda: sweeps.main(problem, arguments=[*HERE, *map(str, arguments)]))  # type: ignore[arg-type]


def refused(result: Outcome, message: str) -> None:
    assert result.status in (1, 2), result.out
    assert message in result.err
    assert "Traceback" not in result.err


def everything(folder: Path) -> list[str]:
    """Every path; drivers take turns in the files of a lease."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(path.as_posix() for path in paths if path.parent.name != "lease")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose request names a metric that nobody knows here, and its script, which is gone. Not to be changed."""
    folder = tmp_path_factory.mktemp("kept") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduce, "draw", lambda root, again=False: [])
        flags = ("--runs", "2", "--iterations", "1", "--metrics", "cka", "--no-chance", "--storage", folder)
        assert script(*flags).status == 0
    store = SweepStore(Storage(folder), "digits")
    asked = store.request().as_dict() | {
        "metrics": ["cka", "mine"],
        "script": "/gone/mine.py",
        "script_sha256": "0" * 64,
    }
    store.storage.put("request.json", canonical_json(asked | {"sha256": digest(asked)}).encode())
    return folder


@pytest.fixture
def store(kept: Path, tmp_path: Path) -> Iterator[Path]:
    assert "mine" not in METRICS
    yield Path(shutil.copytree(kept, tmp_path / "store"))
    assert "mine" not in METRICS


# --- a metric of one's own that is unknown here -----------------------------------------------------------------------


def test_what_does_not_compute_the_metric_works_without_it(store: Path) -> None:
    for name, *flags in (
        ("status",),
        ("list",),
        ("verify",),
        ("digest",),
        ("report",),
        ("repair", "--dry-run"),
        ("repair",),
        ("run", "--network", "run=1,iteration=1", "--device", "cpu"),
        ("pairs", "--metrics", "cka", *HERE),
        ("pairs", "--metrics", "cka", "--dry-run", "--device", "cpu"),
        ("compare", "--metrics", "cka", *HERE),
    ):
        status, _, err = command(name, store, *flags)
        assert (status, err) == (0, ""), name
    assert set(distsim.open(store).results["metric"]) == {"cka"}


def test_what_computes_it_asks_for_it_by_name(store: Path) -> None:
    before = everything(store)
    for name in ("run", "compare", "pairs"):
        result = command(name, store, *HERE)
        refused(result, "unknown metrics ['mine']")
        assert "the script /gone/mine.py does not exist. Name the script that registers it with --import" in result.err
    assert everything(store) == before


# --- one network ------------------------------------------------------------------------------------------------------


def test_a_network_whose_predecessor_is_missing_is_named_with_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "load", None)  # the data are not looked for
    result = command("run", store, "--network", "run=1,iteration=4", "--device", "cpu")
    refused(result, "run 1, iteration 4 of digits is pruned from run 1, iteration 3, which is not in ")
    shutil.rmtree(store / "digits" / "complete")
    result = command("run", store, "--network", "run=1,iteration=1", "--device", "cpu")
    refused(result, "run 1, iteration 1 of digits is pruned from the complete network, which is not in ")


# --- before the data are looked for -----------------------------------------------------------------------------------

VALUES = {
    ("--runs", "-1"): "runs must be at least 1, got -1",
    ("--iterations", "0"): "iterations must be at least 1, got 0",
    ("--runs", "1000", "--iterations", "1000"): "at most 100,000 networks, got 1,004,000",
    ("--metrics", "nonsense"): "invalid choice: 'nonsense'",
    ("--threads", "0"): "threads must be at least 1, got 0",
    ("--threads", "5000"): "threads must be at most 1,024, got 5,000",
    ("--pack", "0"): "pack must be at least 1, got 0",
    ("--probe", "0"): "probe must be at least 1, got 0",
    ("--epochs", "0"): "epochs must be at least 1, got 0",
    ("--train-limit", "-3"): "train_limit must be at least 1, got -3",
    ("--cpus", "0"): "'0' is not a number above zero",
    ("--device", "cuda"): "a GPU was asked for and PyTorch finds none",
    ("--storage", "s4://bucket"): "cannot use s4://bucket as storage",
}


@pytest.mark.parametrize("flags", VALUES, ids=" ".join)
def test_values_are_checked_before_the_data_are_looked_for(
    flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked_for(*args: object, **options: object) -> None:
        raise AssertionError("the data were looked for")

    monkeypatch.setattr(order, "load", looked_for)
    if "cuda" in flags:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(script("--storage", tmp_path / "new" / "store", *flags, problem=PROBLEMS["cifar2"]), VALUES[flags])
    assert everything(tmp_path) == []


def test_an_order_is_checked_before_its_data_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "load", None)
    with pytest.raises(ValueError, match="runs must be at least 1, got -1"):
        order.prepare(PROBLEMS["cifar2"], data="/nowhere", runs=-1)


def test_a_network_that_cannot_be_trained_is_refused_before_the_data_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = dataclasses.replace(PROBLEMS["cifar2"], layers=("nonsense",))
    refused(script("--storage", tmp_path / "s", "--data", tmp_path / "d", problem=problem), "'nonsense'")
    assert everything(tmp_path) == []


@pytest.mark.parametrize("name", ["run", "compare"])
def test_values_of_commands_are_checked_first_too(name: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "load", None)
    flags = {"run": ("--runs", "-1"), "compare": ("--metrics", "ccca")}[name]
    before = everything(store)
    refused(
        command(name, store, *HERE, *flags),
        {"run": "runs must be at least 1, got -1", "compare": "metrics ['ccca']"}[name],
    )
    assert everything(store) == before


def test_distsim_run_checks_first_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for asked, message in {
        "runs": "runs must be at least 1, got -1",
        "iterations": "iterations must be at least 1, got -1",
        "pack": "pack must be at least 1, got -1",
    }.items():
        with pytest.raises(ValueError, match=message):
            distsim.run("cifar2", data="/nowhere", storage="new/store", **{asked: -1})
        with pytest.raises(ValueError, match=message):
            distsim.run(distsim.Problem(model="lenet5", size=8), data="/nowhere", storage="new/store", **{asked: -1})
    assert everything(tmp_path) == []


# --- nothing is left behind -------------------------------------------------------------------------------------------


def test_a_failed_script_leaves_nothing_behind(store: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for flags in (
        ("--data", f"folder:{nowhere}"),
        ("--data", f"files:{nowhere}"),
        ("--classes", "0,eleven"),
        ("--probe", "1000000"),
        ("--train-limit", "1"),
        ("--data", nowhere, "--storage", tmp_path / "deep" / "er" / "store"),
    ):
        before = everything(tmp_path)
        problem = PROBLEMS["cifar2"] if nowhere in flags else SMALL
        assert script("--storage", tmp_path / "new", *flags, problem=problem).status == 1
        assert everything(tmp_path) == before, flags
    shutil.rmtree(store / "lease")
    before = everything(tmp_path)
    refused(script("--storage", store, "--seed", 5), "holds another sweep of digits")
    assert everything(tmp_path) == before


def test_a_cluster_that_does_not_answer_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    flags = ["--device", "cpu", "--address", address, "--storage", str(tmp_path / "new")]
    refused(outcome(lambda: sweeps.main(SMALL, arguments=flags)), f"no Ray cluster answers at {address}")
    with pytest.raises(ConnectionError, match=f"no Ray cluster answers at {address}"):
        distsim.run(SMALL, storage=tmp_path / "new", local=False, address=address, device="cpu")
    assert everything(tmp_path) == []


def test_an_empty_folder_of_the_users_stays(tmp_path: Path) -> None:
    (tmp_path / "mine" / "inner").mkdir(parents=True)
    (tmp_path / "mine" / "note.txt").write_text("mine")
    before = everything(tmp_path)
    assert script("--storage", tmp_path / "mine", "--probe", "1000000").status == 1
    assert everything(tmp_path) == before


def test_failed_commands_leave_nothing_behind(store: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    commands = ("status", "list", "report", "verify", "repair", "digest", "pairs", "run", "compare", "layers")
    before = everything(tmp_path)
    for name in commands:
        local = HERE if name in ("pairs", "run", "compare") else ()
        assert command(name, nowhere, *local).status == 1, name
        assert command(name, store, "--problem", "nosuch", *local).status == 1, name
    for flags in (
        ("layers", store, "--metrics", "nonsense", "--out", tmp_path / "out"),
        ("layers", store, "--networks", "run=9,iteration=1", "run=complete", "--out", tmp_path / "out"),
        ("layers", store, "--with", nowhere, "--out", tmp_path / "out"),
        ("pairs", store, *HERE, "--metrics", "cka", "--layers", "nosuch"),
        ("run", store, *HERE, "--import", nowhere),
        ("doctor", "nosuch", "--storage", nowhere),
    ):
        assert command(*flags).status == 1, flags
    assert everything(tmp_path) == before


# --- places outside the store ----------------------------------------------------------------------------------------

OUT = [
    ("claims", "--out"),
    ("report", "--out"),
    ("figures", "--out"),
    ("export", "--publish"),
    ("export --network run=complete", "--out"),
    ("merge", "--into"),
]


@pytest.mark.parametrize(("line", "flag"), OUT)
def test_places_that_cannot_be_are_said(line: str, flag: str, store: Path, tmp_path: Path) -> None:
    name, *more = line.split()
    refused(command(name, store, *more, flag, "~nobodyhere/x"), "cannot be used: there is no such home folder")
    file = tmp_path / "file"
    file.write_text("mine")
    refused(command(name, store, *more, flag, file / "x"), f"cannot be made: {file} is a file")
    assert file.read_text() == "mine"


def test_a_home_means_the_same_in_each_flag(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert command("export", store, "--network", "run=complete", "--out", "~/weights.pt").status == 0
    networks = ("run=complete", "run=0,iteration=1")
    assert command("layers", store, "--networks", *networks, "--metrics", "cka", "--out", "~/layers").status == 0
    assert not (tmp_path / "~").exists()
    home = {file.relative_to(tmp_path / "home").parts[0] for file in (tmp_path / "home").rglob("*") if file.is_file()}
    assert home == {"weights.pt", "weights.pt.json", "layers"}


def test_a_folder_that_is_gone_is_said(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    refused(command("layers", "store", "--networks", "run=complete", "run=0,iteration=1"), "in which this command was")
    monkeypatch.chdir(tmp_path)
