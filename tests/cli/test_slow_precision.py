"""bfloat16 on a processor without it: refused in a sentence before anything is begun, unless one asks for it."""

import dataclasses
import json
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest
from sweep_scripts import Outcome, outcome, run_script

import distsim
from distsim import processor
from distsim.cli import main as cli
from distsim.problems import PROBLEMS
from distsim.specs import COMPLETE, NetworkId
from distsim.store import Storage, SweepStore
from distsim.sweep import at_work, forecast
from distsim.sweep.chain_training import train_chains
from distsim.sweep.engine import LocalEngine
from distsim.sweep.failures import SweepFailed
from distsim.sweep.order import Prepared, prepare, require_possible, take
from distsim.sweep.plan import Chain
from distsim.sweep.run import run
from distsim.sweep.training_worker import TrainingWorker

pytestmark = pytest.mark.usefixtures("blank_figures")

TINY = ("--runs", 1, "--iterations", 1, "--epochs", 2, "--probe", 60, "--train-limit", 200, "--metrics", "cka")
HALF = ("--local", *TINY, "--no-chance", "--precision", "bfloat16", "--device", "cpu")
LACKING = "this processor lacks instructions for bfloat16 (x)"
SENTENCE = f"digits: {LACKING}. Train in float32, "
SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=60, train_limit=200)


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor has no bfloat16, as far as distsim knows."""
    monkeypatch.setattr(processor, "lacks_bfloat16", lambda: LACKING)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep in bfloat16. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "lacks_bfloat16", lambda: "")
        assert run_script("digits", *HALF, "--storage", folder).status == 0
    return folder


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    """The same to change."""
    return Path(shutil.copytree(finished, tmp_path / "store"))


def command(*arguments: object) -> Outcome:
    return outcome(lambda: cli.main(list(map(str, arguments))))


def ordered(runs: int = 1) -> Prepared:
    return prepare(SMALL, runs=runs, iterations=1, metrics=("cka",), chance=False, precision="bfloat16")


# --- a sweep script --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("old")
def test_a_sweep_is_refused_before_its_data_are_looked_for(tmp_path: Path) -> None:
    """cifar2's are not there, which would be the next sentence."""
    where = ("--data", tmp_path / "nowhere", "--storage", tmp_path / "store")
    refused = run_script("cifar2", "--local", "--precision", "bfloat16", "--device", "cpu", *where)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.count("\n") == 1
    assert LACKING in refused.err
    assert "--allow-slow" in refused.err
    assert not (tmp_path / "store").exists()
    allowed = run_script("cifar2", "--local", "--precision", "bfloat16", "--device", "cpu", *where, "--allow-slow")
    assert "nowhere" in allowed.err, "now the data are looked for"
    plain = run_script("cifar2", "--local", "--device", "cpu", *where)
    assert "nowhere" in plain.err


def test_allow_slow_leaves_nothing_in_the_store(old: None, finished: Path, tmp_path: Path) -> None:
    """The flag is permission for one command: the store is the one of a faster processor, and it is asked for again."""
    folder = tmp_path / "store"
    assert SENTENCE in run_script("digits", *HALF, "--storage", folder).err
    result = run_script("digits", *HALF, "--storage", folder, "--allow-slow")
    assert (result.status, result.err) == (0, "")
    assert f"\n{LACKING}\n" in result.out, "the forecast says it"
    for name in ("spec.json", "request.json"):
        assert (folder / "digits" / name).read_bytes() == (finished / "digits" / name).read_bytes()
    assert "slow" not in (folder / "digits" / "request.json").read_text()
    more = run_script("digits", *HALF, "--storage", folder, "--runs", 2)
    assert (more.status, more.out) == (1, "")
    assert SENTENCE in more.err


@pytest.mark.usefixtures("old")
def test_what_is_finished_is_not_refused(store: Path) -> None:
    again = run_script("digits", *HALF, "--storage", store)
    assert (again.status, again.err) == (0, "")
    assert "nothing is missing" in again.out
    shutil.rmtree(store / "digits" / "runs" / "0000" / "iter_01" / "comparison")
    compared = run_script("digits", *HALF, "--storage", store)
    assert (compared.status, compared.err) == (0, ""), "comparisons are made in float32"
    assert "similarities to compute" in compared.out
    assert LACKING not in compared.out


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("old")
def test_a_store_goes_on_only_if_it_is_allowed_to(store: Path) -> None:
    assert "nothing is missing" in command("run", store, "--local").out
    gone = ("--data", "folder:/nowhere")  # another sentence, if the data were looked for
    refused = command("run", store, "--local", "--runs", 2, *gone)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.startswith(f"distsim: {SENTENCE}")
    assert json.loads((store / "digits" / "request.json").read_text())["runs"] == 1
    allowed = command("run", store, "--local", "--runs", 2, "--allow-slow")
    assert (allowed.status, allowed.err) == (0, "")
    assert NetworkId(1, 1) in SweepStore(Storage(store), "digits").contents().networks


@pytest.mark.usefixtures("old")
def test_a_network_is_trained_again_only_if_it_is_allowed_to(store: Path) -> None:
    only = ("run", store, "--network", "run=0,iteration=1", "--device", "cpu")
    assert command(*only).err.startswith(f"distsim: {SENTENCE}")
    assert "equal to the committed network bit by bit" in command(*only, "--allow-slow").out


@pytest.mark.usefixtures("old")
def test_commands_that_do_not_train_are_not_refused(store: Path) -> None:
    for what in (("compare", "--local", "--metrics", "svcca"), ("pairs", "--local", "--plan", "complete"), ("report",)):
        result = command(what[0], store, *what[1:])
        assert (result.status, result.err) == (0, "")


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("old")
def test_python_refuses_and_allows(tmp_path: Path) -> None:
    asked = {
        "runs": 1,
        "iterations": 1,
        "metrics": "cka",
        "epochs": 2,
        "probe": 60,
        "train_limit": 200,
        "chance": False,
    }
    asked |= {"precision": "bfloat16", "storage": tmp_path / "store", "device": "cpu", "progress": False, "control": ()}
    with pytest.raises(ValueError, match=f"^{re.escape(SENTENCE)}.*allow_slow=True"):
        distsim.run("digits", **asked)
    assert not (tmp_path / "store").exists()
    study = distsim.run("digits", **asked, allow_slow=True)
    assert len(study.networks) == 2
    assert len(distsim.run("digits", **asked).networks) == 2, "nothing is missing"
    with pytest.raises(ValueError, match="allow_slow must be True or False, got 'yes'"):
        distsim.run("digits", **asked, allow_slow="yes")  # type: ignore[arg-type]


# --- elsewhere -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("old")
def test_on_a_cluster_the_machine_that_trains_looks_at_itself(tmp_path: Path) -> None:
    order, root = ordered(), Storage(tmp_path)
    require_possible([order], root, here=False)
    take([order], root)
    store = SweepStore(root, "digits")
    worker = TrainingWorker(store, order.sweep, order.dataset)
    sentence = f"^on {re.escape(socket.gethostname())}: {re.escape(LACKING)}"
    with pytest.raises(processor.TooSlow, match=sentence):
        worker.complete()
    assert store.contents().networks == set()
    allowed = TrainingWorker(store, order.sweep, order.dataset, allow_slow=True)
    allowed.complete()
    worker.complete()  # it is committed, and only its activations could be missing
    with pytest.raises(processor.TooSlow, match=sentence):
        list(train_chains(worker, [Chain(0, (1,), (1,))], pytest.fail))
    with pytest.raises(processor.TooSlow, match=sentence):
        worker.redo(COMPLETE)
    list(train_chains(allowed, [Chain(0, (1,), ())], pytest.fail))
    list(train_chains(worker, [Chain(0, (), (1,))], pytest.fail))
    assert store.contents().activations == {COMPLETE, NetworkId(0, 1)}, "writing activations is not slow"


class OldWorker:
    """What a worker of Ray is given to make known, which here is that its processor has no bfloat16."""

    def make_known(self) -> None:
        from distsim import processor

        sentence = "this processor lacks instructions for bfloat16 (x)"
        processor.lacks_bfloat16 = lambda: sentence  # type: ignore[assignment]


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_of_ray_refuses_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from distsim.sweep.on_ray import engine as ray_engine

    ray.cloudpickle.register_pickle_by_value(sys.modules[OldWorker.__module__])
    monkeypatch.setattr(processor, "lacks_bfloat16", lambda: "")  # this is the driver's
    monkeypatch.setattr(ray_engine, "own", lambda orders: OldWorker())
    order, root = ordered(runs=2), Storage(tmp_path / "store")
    order = dataclasses.replace(order, sweep=dataclasses.replace(order.sweep, resources=(("cpu", 1.0),)))
    with pytest.raises(SweepFailed, match=rf"^digits, complete network: on .*: {re.escape(LACKING)}[^\n]*$"):
        at_work.carry_out([order], root, local=False, say=lambda line: None)
    assert at_work.carry_out([order], root, local=False, say=lambda line: None, allow_slow=True)


# --- the forecast ----------------------------------------------------------------------------------------------------


class Elsewhere(LocalEngine):
    here = False  # type: ignore[assignment]


def test_the_forecast_says_what_makes_training_slow(old: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    said: list[str] = []

    def sweep(folder: str, engine: type[LocalEngine]) -> list[str]:
        root = Storage(tmp_path / folder)
        take([ordered()], root)
        said.clear()
        run([ordered()], root, engine(root, allow_slow=True), said.append)
        return [line for line in said if line == LACKING or line.startswith("other processes hold cores")]

    assert sweep("small", LocalEngine) == [LACKING], "too little to train for its time to be measured"
    assert run([ordered()], Storage(tmp_path / "small"), LocalEngine(Storage(tmp_path / "small")), said.append) is False
    monkeypatch.setattr(forecast, "WORTH_MEASURING", 1)
    assert sweep("other", Elsewhere) == [], "nothing is known of other machines"
    slow, busy = sweep("large", LocalEngine)
    assert busy.endswith("Keep --threads 1, or wait")
    assert said.index(slow) > next(i for i, line in enumerate(said) if line.startswith("digits: training on "))
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert sweep("quiet", LocalEngine) == [LACKING]
