"""Controls, and several complete networks: what they are, and that they change no bit of anything else."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import distsim
from distsim.cli import main as cli
from distsim.environment import threads
from distsim.problems import PROBLEMS
from distsim.results.committed import listing
from distsim.results.reduce import LISTING, current, read_tables
from distsim.specs import COMPLETE, NetworkId
from distsim.store import DamagedStore, Storage, SweepStore
from distsim.sweep import run as sweep
from distsim.sweep.engine import LocalEngine
from distsim.sweep.order import Prepared, compare_only, prepare, take
from distsim.sweep.run import run
from distsim.sweep.training_worker import TrainingWorker
from distsim.training.pruning import pools
from distsim.verify.store import verify_store
from tests.sweep_scripts import outcome, run_script

SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=60, train_limit=128)
BOTH = ("retrain", "random")
RETRAINED, RANDOM = (NetworkId(0, 2, control=name) for name in BOTH)


def ordered(**choices: Any) -> Prepared:
    asked = {"runs": 1, "iterations": 2, "metrics": ("cka",), "chance": False, "retention": "all"}
    return prepare(SMALL, **asked | choices)


def silent(text: str) -> None:
    pass


def computed(folder: Path, *orders: Prepared, engine: Any = None) -> SweepStore:
    root = Storage(folder)
    take(orders, root)
    run(orders, root, engine or LocalEngine(root), silent)
    return SweepStore(root, "digits")


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """One thread, and no figures, which take longer than the sweep."""
    with threads(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.reduce, "draw", lambda root: [])
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """A sweep of two complete networks, each with a run and both controls. Not to be changed."""
    return computed(tmp_path_factory.mktemp("whole"), ordered(complete=2, control=BOTH))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """The same without either. Not to be changed."""
    return computed(tmp_path_factory.mktemp("plain"), ordered())


def pieces(store: SweepStore) -> dict[str, str]:
    """The digests of everything but tables, which are about all of the store."""
    return {piece: digest for piece, digest in store.digests().items() if not piece.startswith("results/")}


# --- what they are ---------------------------------------------------------------------------------------------------


def test_retraining_prunes_nothing_and_is_another_training(whole: SweepStore) -> None:
    complete, retrained = whole.load_network(COMPLETE), whole.load_network(RETRAINED)
    assert all(mask.all() for mask in retrained.masks.values())
    assert retrained.record["remaining"] == 1
    first = whole.load_network(NetworkId(0, 1, control="retrain"))
    for other in (complete, first):
        assert any(not torch.equal(retrained.weights[name], tensor) for name, tensor in other.weights.items())
    assert retrained.record["train_loss"] != first.record["train_loss"], "another order of images"


def test_random_pruning_takes_as_many_of_each_pool(whole: SweepStore) -> None:
    pruned, random = whole.load_network(NetworkId(0, 2)), whole.load_network(RANDOM)
    network = distsim.open(whole.root.folder).network().model  # type: ignore[arg-type]
    for _, names in pools(network, SMALL.pruning).values():  # type: ignore[arg-type]
        alive = [sum(int(of.masks[name].sum()) for name in names) for of in (pruned, random)]
        assert alive[0] == alive[1]
    before = whole.load_network(NetworkId(0, 1, control="random")).masks
    assert all((before[name] | ~mask).all() for name, mask in random.masks.items()), "what is dead stays dead"
    kept = [random.weights[name][mask].abs().median() for name, mask in random.masks.items() if mask.dim() > 1]
    by_size = [pruned.weights[name][mask].abs().median() for name, mask in pruned.masks.items() if mask.dim() > 1]
    assert sum(by_size) > sum(kept)


def test_everything_but_themselves_keeps_its_bits(whole: SweepStore, plain: SweepStore) -> None:
    found, expected = pieces(whole), pieces(plain)
    assert expected.items() <= found.items()
    assert {path.split("/")[0] for path in found.keys() - expected.keys()} == {"controls", "complete-1", "pairs"}


def test_a_sweeps_tables_have_its_complete_networks_compared(whole: SweepStore) -> None:
    """Which is the last that a sweep computes: its tables are made after it."""
    reference = read_tables(whole.root).reference
    assert set(zip(reference["complete_x"], reference["complete_y"], strict=True)) == {(0, 1)}
    assert set(reference["layer"]) == set(current(whole)[0].similarities["layer"])  # type: ignore[index]
    mark = whole.results_mark()
    assert mark is not None
    assert mark.provenance[LISTING] == listing(whole.storage.listed()), "the next start needs to read no mark"


def test_networks_of_other_names_are_others(whole: SweepStore) -> None:
    """Each stream has its own name: no two networks of the sweep are equal, whatever they have in common."""
    networks = sorted(whole.contents().networks)
    weights = {whole.committed(network).objects["weights.safetensors"][1] for network in networks}
    assert len(networks) == len(weights) == 2 * (1 + 3 * 2)
    probes = {whole.committed(network).objects["probe.json"] for network in networks if network.is_complete}
    assert len(probes) == 1, "both are looked at on the same images"


# --- interrupted, resumed, extended ----------------------------------------------------------------------------------


class Killed(BaseException):
    pass


class Dying(LocalEngine):
    """An engine that dies in the middle of a control's training."""

    def _chains(self, worker: TrainingWorker, pack: Any, failed: Any) -> None:
        steps = 0

        def die(epoch: int, network: Any) -> bool:
            nonlocal steps
            steps += 1
            if pack[0].control and steps == 2:
                raise Killed
            return False

        worker.trainer.after_epoch = (die,)
        super()._chains(worker, pack, failed)


def test_killed_within_a_control_and_resumed(tmp_path: Path, whole: SweepStore) -> None:
    order = ordered(complete=2, control=BOTH)
    with pytest.raises(Killed):
        computed(tmp_path, order, engine=Dying(Storage(tmp_path)))
    begun = SweepStore(Storage(tmp_path), "digits").contents().networks
    assert NetworkId(0, 1, control="retrain") in begun
    assert RETRAINED not in begun
    assert computed(tmp_path, order).digests() == whole.digests()


def test_extended_by_controls_and_then_by_a_complete_network(
    tmp_path: Path, whole: SweepStore, plain: SweepStore
) -> None:
    shutil.copytree(str(plain.root.folder), tmp_path, dirs_exist_ok=True)
    computed(tmp_path, ordered(control=BOTH))
    assert computed(tmp_path, ordered(complete=2, control=BOTH)).digests() == whole.digests()


def test_a_lost_network_of_a_control_comes_back(tmp_path: Path, whole: SweepStore) -> None:
    shutil.copytree(str(whole.root.folder), tmp_path, dirs_exist_ok=True)
    lost = NetworkId(0, 1, 1, "random")
    (weights,) = (tmp_path / "digits" / lost.path).glob("attempt-*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    report = verify_store(Storage(tmp_path))
    assert [finding.piece for finding in report.findings] == [lost.path]
    assert outcome(lambda: cli.main(["repair", str(tmp_path)])).status == 0
    assert NetworkId(0, 2, 1, "random") in SweepStore(Storage(tmp_path), "digits").contents().networks
    assert computed(tmp_path, ordered(complete=2, control=BOTH)).digests() == whole.digests()


def test_one_network_of_a_control_again(whole: SweepStore) -> None:
    order = ordered(complete=2, control=BOTH)
    worker = TrainingWorker(whole, order.sweep, order.dataset)
    for network in (RETRAINED, NetworkId(0, 1, 1, "random"), NetworkId(complete=1), NetworkId(0, 1, 1)):
        assert "equal to the committed network bit by bit" in worker.redo(network)
    with pytest.raises(FileNotFoundError, match="retrain, run 5, iteration 2 of digits is retrained from control"):
        worker.redo(NetworkId(5, 2, control="retrain"))


@pytest.mark.ray
def test_ray_makes_the_same(tmp_path: Path, whole: SweepStore, ray_cluster: Path) -> None:
    from distsim.sweep.on_ray.engine import RayEngine

    with RayEngine(Storage(tmp_path), None, False) as engine:
        store = computed(tmp_path, ordered(complete=2, control=BOTH), engine=engine)
    assert store.digests() == whole.digests()


def test_fused_runs_have_controls_that_are_trained_alone(tmp_path: Path) -> None:
    """The fused runs keep their bits, and the controls are those of a sweep whose runs are not fused."""
    both = ordered(runs=2, fuse=2, iterations=1, complete=2, control=BOTH, control_runs=1)
    fused = computed(tmp_path / "fused", both)
    without = computed(tmp_path / "without", ordered(runs=2, fuse=2, iterations=1))
    assert pieces(without).items() <= pieces(fused).items()
    alone = computed(tmp_path / "alone", ordered(iterations=1, control=BOTH))
    for name in BOTH:
        ours, theirs = (store.load_network(NetworkId(0, 1, control=name)) for store in (fused, alone))  # type: ignore[arg-type]
        assert all(torch.equal(ours.weights[each], tensor) for each, tensor in theirs.weights.items())
    assert NetworkId(1, 1, 1) in fused.contents().networks


# --- whose a piece is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [NetworkId(0, 1, control="random"), NetworkId(0, 1), NetworkId(0, 1, 1, "retrain")])
def test_a_record_of_another_network_is_refused(tmp_path: Path, whole: SweepStore, other: NetworkId) -> None:
    """Also where its mark does not say whose it is."""
    shutil.copytree(str(whole.root.folder), tmp_path, dirs_exist_ok=True)
    store, place = SweepStore(Storage(tmp_path), "digits"), NetworkId(0, 1, control="retrain")
    mark = store.committed(other)
    provenance = {name: value for name, value in mark.provenance.items() if name != "piece"}
    forged = dataclasses.replace(mark, provenance=provenance)
    (tmp_path / "digits" / place.path / "COMMIT.json").write_bytes(forged.encode())
    with pytest.raises(DamagedStore, match="it is the record of a network of complete network"):
        store.mark(place)


# --- how they are shown ----------------------------------------------------------------------------------------------


def test_tables_say_whose_each_row_is(whole: SweepStore) -> None:
    found = current(whole)
    assert found is not None
    tables, provenance = found
    for table in (tables.similarities, tables.networks, provenance):
        assert set(table["complete"]) == {0, 1}
        assert set(table["control"]) == {"", *BOTH}
    assert (tables.summary["complete"] == 2).all()
    assert set(tables.summary["control"]) == {"", *BOTH}
    assert set(tables.summary["count"]) == {2}
    accuracy = tables.accuracy.set_index(["control", "iteration"])
    assert accuracy.loc[("retrain", 2), "remaining"] == 1
    assert accuracy.loc[("random", 2), "remaining"] == accuracy.loc[("", 2), "remaining"] < 1
    assert ("retrain", 0) not in accuracy.index
    pruned = tables.pruned
    assert set(pruned.summary["control"]) == {""}


def test_a_network_by_its_names(whole: SweepStore) -> None:
    study = distsim.open(whole.root.folder)  # type: ignore[arg-type]
    network = study.network(run=0, iteration=2, control="retrain", complete=1)
    assert network.which == NetworkId(0, 2, 1, "retrain")
    assert network.activations("fc1").attrs["control"] == "retrain"
    assert study.network(complete=1).which == study.network(run=0, iteration=0, complete=1).which
    with pytest.raises(ValueError, match="control must be one of '', retrain, random, got 'both'"):
        study.network(run=0, iteration=1, control="both")
    status = str(study.status()[0])
    assert "from each of 2 complete networks" in status
    assert "controls          8 of 8 networks" in status


def test_comparing_takes_the_controls_that_are_there(tmp_path: Path, whole: SweepStore) -> None:
    shutil.copytree(str(whole.root.folder), tmp_path, dirs_exist_ok=True)
    store = SweepStore(Storage(tmp_path), "digits")
    asked = ordered(runs=3, iterations=4, complete=3, control=BOTH)
    cut = compare_only(asked, store)
    assert cut is not None
    extent = cut.sweep.extent
    assert (extent.runs, extent.iterations, extent.complete, extent.control) == (1, 2, 2, BOTH)
    shutil.rmtree(tmp_path / "digits" / RETRAINED.path)
    cut = compare_only(asked, store)
    assert cut is not None
    assert (cut.sweep.extent.complete, cut.sweep.extent.control) == (2, ("random",))


# --- what is asked for without a word --------------------------------------------------------------------------------

TINY = ("--local", "--device", "cpu", "--runs", 1, "--iterations", 1, "--metrics", "cka", "--no-chance")
TINY = (*TINY, "--epochs", 2, "--train-limit", 100, "--probe", 40)


def test_a_new_study_has_controls_and_one_that_began_without_keeps_to_that(tmp_path: Path) -> None:
    def controls(folder: Path) -> set[str]:
        return {network.control for network in SweepStore(Storage(folder), "digits").contents().networks}

    old, new = tmp_path / "old", tmp_path / "new"
    run_script("digits", *TINY, "--storage", old, "--control", "none")
    from distsim.cli import sweeps

    def script(folder: Path, *more: str) -> int:
        line = [*map(str, TINY), "--storage", str(folder), *more]
        return outcome(lambda: sweeps.main(PROBLEMS["digits"], arguments=line)).status

    assert script(old) == 0
    assert controls(old) == {""}
    study = {"runs": 1, "iterations": 1, "epochs": 2, "train_limit": 100, "probe": 40, "metrics": "cka"}
    distsim.run("digits", **study, chance=False, device="cpu", storage=old, progress=False)  # type: ignore[arg-type]
    assert controls(old) == {""}
    assert script(old, "--control", "random") == 0
    assert controls(old) == {"", "random"}
    assert script(new) == 0
    assert controls(new) == {"", *BOTH}
    assert SweepStore(Storage(new), "digits").request().extent.control_runs == 1, "as the problem says"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"control": "both"}, "control must be one of retrain, random, none, got 'both'"),
        ({"control": ["none", "random"]}, "control: none stands alone, got none, random"),
        ({"control": 3}, "control must be a name or a list of names, got 3"),
        ({"control_runs": 0}, "control_runs must be at least 1, got 0"),
        ({"complete": 0}, "complete must be at least 1, got 0"),
        ({"complete": 10**6}, "runs x iterations with controls of all complete networks must be at most 100,000"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        distsim.run("digits", storage=tmp_path / "new", progress=False, **given)
    assert not (tmp_path / "new").exists()
