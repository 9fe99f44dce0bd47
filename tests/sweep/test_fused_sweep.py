"""Sweeps with --fuse G: the same bits after an interruption, an extension, a failure, and trained again."""

import dataclasses

import pytest
import torch
from sweep_scripts import run_script

import distsim
from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.results import reduce as results
from distsim.specs import COMPLETE, Identity, NetworkId, RunId, Sweep
from distsim.store import Storage, SweepStore
from distsim.store import checkpoints as kept
from distsim.sweep import cost, forecast, training_memory, training_worker
from distsim.sweep.chain_training import train_chains
from distsim.sweep.engine import LocalEngine
from distsim.sweep.order import check_workplace, checked, prepare, take
from distsim.sweep.plan import Chain, Missing, trials_of
from distsim.sweep.proof import Networks
from distsim.sweep.retraining import retrain
from distsim.sweep.run import run
from distsim.sweep.training_worker import TrainingWorker
from distsim.training.checkpoint import Checkpoint

SMALL = PROBLEMS["digits"].reduced_to(epochs=3, probe=60, train_limit=200)
LRR = dataclasses.replace(SMALL, pruning=dataclasses.replace(SMALL.pruning, rewind="LRR"))
QUICK = {"metrics": ("cka",), "chance": False, "activations": "memory"}


@pytest.fixture(autouse=True, scope="module")
def no_figures():
    """They take longer than these sweeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw", lambda root, again=False: [])
        yield


@pytest.fixture(autouse=True)
def whatever_it_costs(monkeypatch):
    """Every epoch is kept."""
    monkeypatch.setattr(kept, "SHARE", float("inf"))


def silent(text):
    pass


def ordered(runs, iterations=2, problem=SMALL, fuse=4, **choices):
    return prepare(problem, runs=runs, iterations=iterations, fuse=fuse, **QUICK | choices)


def sweep(folder, order):
    """Bring a store to what is asked for, in this process."""
    root = Storage(folder)
    take([order], root)
    run([order], root, LocalEngine(root), silent)
    return SweepStore(root, "digits")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Four runs in one group, trained without anything happening."""
    return sweep(tmp_path_factory.mktemp("four"), ordered(4))


def digests(store, runs):
    return {piece: digest for piece, digest in store.digests().items() if piece.startswith(tuple(paths(runs)))}


def paths(runs):
    return ["complete", *(f"runs/{run:04d}/" for run in runs)]


def test_runs_of_a_group_are_committed_and_compared(four):
    contents = four.contents()
    assert contents.networks == {COMPLETE, *(NetworkId(r, i) for r in range(4) for i in (1, 2))}
    assert {network for network, _ in contents.comparisons} == contents.networks - {COMPLETE}
    assert four.identity().fuse == 4
    assert not [path for path in four.storage.sizes() if "/epoch/" in path]


def test_the_complete_network_is_that_of_an_unfused_sweep(four, tmp_path):
    unfused = sweep(tmp_path, ordered(1, 1, fuse=1))
    assert digests(unfused, ()) == digests(four, ())
    assert digests(unfused, (0,)) != digests(four, (0,)), "fused trainings round otherwise"


def test_extended_from_two_runs_to_four_nothing_changes(four, tmp_path):
    two = sweep(tmp_path, ordered(2))
    assert digests(two, (0, 1)) == digests(four, (0, 1))
    extended = sweep(tmp_path, ordered(4))
    assert extended.digests() == four.digests()


def test_more_iterations_and_a_second_group(four, tmp_path):
    store = sweep(tmp_path, ordered(1, 1))
    store = sweep(tmp_path, ordered(5, 1))
    assert digests(store, ()) == digests(four, ())
    for which in (NetworkId(1, 1), NetworkId(3, 1)):
        assert digests(store, (which.run,)).items() <= digests(four, (which.run,)).items()
    weights = [store.load_network(NetworkId(run, 1)).weights["out.weight"] for run in (0, 4)]
    assert not torch.equal(*weights), "two runs of one slot"


class Died(BaseException):
    """Not an Exception: nothing catches it on the way, as nothing catches a SIGKILL."""


def dying(worker, monkeypatch, after):
    """Die once so many epochs of a group have been trained."""
    epochs = []

    def count(epoch):
        epochs.append(epoch)
        if len(epochs) > after >= 0:
            raise Died

    monkeypatch.setattr(worker.groups, "announce", count)
    return epochs


def bench_of(folder, order):
    store = SweepStore(Storage(folder), "digits")
    store.claim(order.sweep.identity)
    return TrainingWorker(store, order.sweep, order.dataset), store


def everything(worker, runs=range(4), iterations=(1, 2)):
    failed = []
    worker.complete()
    events = list(train_chains(worker, [Chain(run, tuple(iterations), ()) for run in runs], failed.append))
    return events, failed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four runs in one group, trained by one worker without anything happening. Not to be changed."""
    worker, store = bench_of(tmp_path_factory.mktemp("whole"), ordered(4, problem=LRR))
    everything(worker)
    return store


@pytest.mark.parametrize("died_after", [0, 1, 2, 3, 5])
def test_an_interruption_costs_one_epoch_of_a_group(whole, tmp_path, monkeypatch, died_after):
    """Each of two iterations trains 3 epochs. After the last one nothing is kept but the networks."""
    order = ordered(4, problem=LRR)
    worker, store = bench_of(tmp_path / "cut", order)
    first = dying(worker, monkeypatch, died_after)
    with pytest.raises(Died):
        everything(worker)
    again, store = bench_of(tmp_path / "cut", order)
    second = dying(again, monkeypatch, -1)
    _, failed = everything(again)
    assert not failed
    assert len(first) + len(second) == 3 + 3 + 1, "only the epoch that was cut off is trained twice"
    assert store.digests() == whole.digests()
    assert not [path for path in store.storage.sizes() if "/epoch/" in path]


def test_died_between_two_commits_of_a_group(whole, tmp_path, monkeypatch):
    order = ordered(3, problem=LRR)
    worker, store = bench_of(tmp_path / "cut", order)
    commit = store.commit_network

    def dies(network, *more, **fields):
        if network == NetworkId(1, 1):
            raise Died
        return commit(network, *more, **fields)

    monkeypatch.setattr(store, "commit_network", dies)
    with pytest.raises(Died):
        everything(worker, range(3))
    committed = store.contents().networks
    assert NetworkId(0, 1) in committed
    assert NetworkId(1, 1) not in committed
    again, store = bench_of(tmp_path / "cut", order)
    everything(again, range(3))
    assert store.digests() == digests(whole, range(3))


def test_a_run_that_diverges_is_given_up_alone(whole, tmp_path):
    order = ordered(3, problem=LRR)
    worker, store = bench_of(tmp_path / "wild", order)
    everything(worker, range(3), (1,))
    harm(store, order, NetworkId(1, 1))
    events, failed = everything(worker, range(3))
    assert {(event["run"], event["iteration"]) for event in events} == {(0, 2), (2, 2)}
    assert len(failed) == 1
    assert failed[0].startswith("digits, run 1: training diverged: run 1, iteration 2: the loss of epoch 1 is")
    assert digests(store, (0, 2)) == digests(whole, (0, 2))
    assert NetworkId(1, 2) not in store.contents().networks


@pytest.mark.parametrize("beside", [False, True])
def test_a_run_whose_activations_are_not_finite_is_given_up_alone(tmp_path, beside):
    order = ordered(3, problem=LRR, activations="store")
    worker, store = bench_of(tmp_path, order)
    everything(worker, range(3), (1,))
    harm(store, order, NetworkId(1, 1))
    worker.beside = beside
    failed = []
    list(train_chains(worker, [Chain(run, (2,), (1, 2)) for run in range(3)], failed.append))
    assert failed
    assert all(sentence.startswith("digits, run 1") for sentence in failed)
    assert any("not finite" in sentence for sentence in failed)
    good = {NetworkId(run, iteration) for run in (0, 2) for iteration in (1, 2)}
    assert store.contents().activations - {COMPLETE} == good
    assert good <= store.contents().networks


def harm(store, order, which):
    """Put a network in place of a committed one whose retraining diverges."""
    from distsim.environment import environment, provenance
    from distsim.store.commits import drop

    one = store.load_network(which)
    weights = {name: tensor * 1e25 if tensor.is_floating_point() else tensor for name, tensor in one.weights.items()}
    drop(store.storage, which.path)
    fields = {"identity": order.sweep.identity.hash, "environment": environment(order.sweep)}
    store.commit_network(which, dataclasses.replace(one, weights=weights), **fields, provenance=provenance(0.0, 1.0))


def test_networks_are_extracted_beside_the_training_too(tmp_path):
    problem = SMALL.reduced_to(epochs=2)
    order = ordered(3, problem=problem, activations="store", retention="all")
    here = sweep(tmp_path / "here", order)
    worker, store = bench_of(tmp_path / "beside", order)
    worker.beside = True
    failed = []
    worker.complete()
    events = list(train_chains(worker, [Chain(run, (1, 2), (1, 2)) for run in range(3)], failed.append))
    assert not failed
    assert {(event["run"], event["iteration"]) for event in events} == {(r, i) for r in range(3) for i in (1, 2)}
    assert store.contents().activations == here.contents().activations
    expected = here.digests()
    for piece, digest in store.digests().items():
        assert expected[piece] == digest, piece


def test_one_network_trained_again_is_equal(four):
    order = ordered(4)
    worker = TrainingWorker(four, order.sweep, order.dataset)
    said = worker.redo(NetworkId(2, 2))
    assert said.startswith("digits, run 2, iteration 2: trained again, equal to the committed network bit by bit")


def test_networks_of_tables_alone_are_trained_again_to_the_same_bits(four, tmp_path):
    order = ordered(4)
    again = retrain(
        order.sweep.identity,
        order.dataset,
        "cpu",
        [NetworkId(1, 2), NetworkId(3, 1)],
        Storage(tmp_path),
        silent,
        lambda event: None,
    )
    assert again.contents().networks == {COMPLETE, NetworkId(1, 1), NetworkId(1, 2), NetworkId(3, 1)}
    for which in again.contents().networks:
        ours, theirs = (store.load_network(which).weights for store in (again, four))
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    Networks(again, order.sweep.identity, order.dataset, "cpu", ("cka",))


def test_the_time_of_a_group_is_shared_among_its_networks(tmp_path, monkeypatch):
    """So that the hours of a study are those of its machine."""
    made = training_worker.provenance
    monkeypatch.setattr(training_worker, "provenance", lambda started, ended, n: made(0.0, 12.0, n))  # each takes 12 s
    store = sweep(tmp_path, ordered(4, 1))
    assert store.mark(COMPLETE).provenance["seconds"] == 12
    assert [store.mark(NetworkId(run, 1)).provenance["seconds"] for run in range(4)] == [3, 3, 3, 3]


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_the_forecast_counts_empty_slots(tmp_path, monkeypatch):
    """Five runs in groups of four: two groups of two iterations, 16 trainings for 10 networks."""
    monkeypatch.setattr(forecast, "WORTH_MEASURING", 1)
    order = ordered(5)
    lack = Missing((0,), dict.fromkeys(map(RunId.of, range(5)), (1, 2)), (), {})
    engine = LocalEngine(Storage(tmp_path))
    said = forecast.training_forecast([order], order, lack, engine)
    # 192 images in 3 batches; 3 epochs of the complete network, 2 of a pruned one
    assert said.startswith(
        "digits: training on 4,416 images over all epochs in steps of 4 runs, 38% of them empty, with "
    )
    assert " of memory, about " in said
    assert forecast._images(order, lack, slots=True) == 192 * (3 + 2 * 16)
    assert cost.training_rate(SMALL, 10, "cpu", enough=0.0, fuse=4) > 0
    warnings = forecast.training_warnings([order], {"digits": lack}, engine, None)
    assert forecast.FUSED_ON_CPU in warnings
    alone = ordered(5, fuse=1)
    assert forecast.FUSED_ON_CPU not in forecast.training_warnings([alone], {"digits": lack}, engine, None)


@pytest.mark.parametrize("name", ["cifar2", "vgg16_cifar10"])
def test_memory_grows_with_the_runs(name):
    problem = PROBLEMS[name]
    sweeps = [Sweep(Identity(problem, "0" * 64, fuse=fuse), ordered(1, 1).sweep.extent) for fuse in (1, 2, 3)]
    one, two, three = (training_memory.training_memory(asked, 10_000) for asked in sweeps)
    assert two - one == pytest.approx(three - two)
    parameters = sum(parameter.nbytes for parameter in build(problem).parameters())
    assert two - one > 5 * parameters, "itself, gradient, masks, optimizer, update"


def test_a_step_that_does_not_fit_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(training_memory, "free_memory", lambda: 1e6)
    order = ordered(2)
    with pytest.raises(
        ValueError, match=r"digits: training 4 runs in one step takes about .* MB of memory, but only 1 "
    ):
        check_workplace([order], here=True)
    worker, _ = bench_of(tmp_path, order)
    with pytest.raises(ValueError, match="use a smaller --fuse"):
        list(train_chains(worker, [Chain(0, (1,), ())], [].append))
    check_workplace([ordered(2, fuse=1)], here=True)  # alone it is not looked at


# --- checkpoints of a group ------------------------------------------------------------------------------------------


def parts(storage, runs):
    return {run: kept.StoredCheckpoints(storage, f"runs/{run:04d}/iter_01", "abc", {}) for run in runs}


def checkpoint(epochs):
    return Checkpoint({"network/w": torch.full((2,), float(epochs))}, {"losses": [0.5] * epochs, "memories": {}})


def test_a_group_goes_on_from_the_last_epoch_that_all_share(tmp_path):
    storage = Storage(tmp_path)
    of_runs = parts(storage, range(3))
    group = kept.StoredGroupCheckpoints(of_runs)
    assert group.load(range(3)) == {}
    for epochs in (1, 2):
        group.offer(lambda epochs=epochs: [(run, checkpoint(epochs)) for run in range(3)])
    assert len(list(storage.sizes())) == 3, "older ones are deleted"
    of_runs[0].write(checkpoint(3))  # the writer died before the others
    loaded = kept.StoredGroupCheckpoints(parts(storage, range(3))).load(range(3))
    assert [len(each.values["losses"]) for each in loaded.values()] == [2, 2, 2]
    assert len(kept.StoredGroupCheckpoints(parts(storage, [0])).load([0])[0].values["losses"]) == 3
    assert kept.StoredGroupCheckpoints(parts(storage, range(4))).load(range(4)) == {}, "a run that has none"


def test_older_checkpoints_of_a_group_stay_until_all_are_written(tmp_path):
    storage = Storage(tmp_path)
    kept.StoredGroupCheckpoints(parts(storage, range(2))).offer(lambda: [(run, checkpoint(1)) for run in range(2)])

    def dies():
        yield 0, checkpoint(2)
        raise Died

    with pytest.raises(Died):
        kept.StoredGroupCheckpoints(parts(storage, range(2))).offer(dies)
    assert kept.StoredGroupCheckpoints(parts(storage, range(2))).load(range(2)).keys() == {0, 1}


# --- what is asked for -----------------------------------------------------------------------------------------------


def test_an_unfused_identity_is_that_of_earlier_versions():
    plain = Identity(SMALL, "0" * 64)
    assert "fuse" not in plain.as_dict()
    assert plain.hash == Identity(SMALL, "0" * 64, fuse=1).hash
    fused = Identity(SMALL, "0" * 64, fuse=2)
    assert fused.hash != plain.hash
    assert Identity.from_dict(plain.as_dict()).fuse == 1
    assert Identity.from_dict(fused.as_dict()).hash == fused.hash


def test_groups_are_of_neighbouring_runs_whichever_are_left():
    chains = [Chain(number, (1,), ()) for number in (0, 2, 3, 5, 9)]
    identity = Identity(SMALL, "0" * 64, fuse=4)
    asked = Sweep(identity, ordered(1, 1).sweep.extent)
    assert [[chain.run for chain in group] for group in trials_of(asked, chains)] == [[0, 2, 3], [5], [9]]


def test_fuse_with_pack_is_refused():
    with pytest.raises(ValueError, match="fuse and pack exclude each other, got fuse 4 and pack 2"):
        checked(SMALL, runs=2, fuse=4, pack=2)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--fuse", "4", "--pack", "2"), "fuse and pack exclude each other, got fuse 4 and pack 2"),
        (("--fuse", "0"), "fuse must be at least 1, got 0"),
        (("--fuse", "many"), "argument --fuse: 'many' is not a whole number"),
    ],
)
def test_the_flag_of_a_script(flags, said, tmp_path):
    outcome = run_script("digits", "--local", "--device", "cpu", "--storage", tmp_path / "store", *flags)
    assert outcome.status != 0
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "store" / "digits").exists()


def test_from_python(four, tmp_path):
    with pytest.raises(ValueError, match="fuse must be a whole number"):
        distsim.run("digits", storage=tmp_path, fuse="all")
    settings = {"epochs": 3, "probe": 60, "train_limit": 200, "device": "cpu", "progress": False, "control": ()} | QUICK
    study = distsim.run("digits", storage=tmp_path, runs=2, iterations=1, fuse=4, **settings)
    assert len(study.networks) == 3
    store = SweepStore(Storage(tmp_path), "digits")
    for which in (NetworkId(0, 1), NetworkId(1, 1)):
        mark, other = store.mark(which), four.mark(which)
        assert mark.digest == other.digest


@pytest.mark.parametrize(
    ("fuse", "message"), [(0, "fuse must be at least 1, got 0"), (101, "fuse must be at most 100")]
)
def test_a_size_that_cannot_be(fuse, message):
    with pytest.raises(ValueError, match=message):
        checked(SMALL, runs=2, fuse=fuse)


def test_another_size_is_another_sweep(four):
    with pytest.raises(ValueError, match=r"holds another sweep of digits\. It differs in fuse"):
        take([ordered(4, fuse=2)], four.root)
