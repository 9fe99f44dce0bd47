"""Trainings between two epochs, in a store: what is believed, what is not, and what is left when all is done."""

import hashlib
import itertools
import json

import pytest
import safetensors.torch
import torch

from distsim import stopping
from distsim.problems import PROBLEMS
from distsim.specs import NetworkId
from distsim.store import Storage, StorageError, SweepStore
from distsim.store import checkpoints as kept
from distsim.store.checkpoints import StoredCheckpoints, StoredGroupCheckpoints
from distsim.store.epochs import delete_checkpoints
from distsim.sweep.chain_training import train_chains
from distsim.sweep.order import prepare
from distsim.sweep.plan import Chain
from distsim.sweep.training_worker import TrainingWorker
from distsim.training.checkpoint import Checkpoint

HERE = {"torch": "1", "threads": 1}


def checkpoint(epochs, value=1.0):
    tensors = {"network/w": torch.full((3, 2), value), "optimizer/step/w": torch.tensor(float(epochs))}
    return Checkpoint(tensors, {"losses": [0.5] * epochs, "memories": {}})


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path / "store")


@pytest.fixture(autouse=True)
def whatever_it_costs(monkeypatch):
    monkeypatch.setattr(kept, "SHARE", float("inf"))


def objects(storage):
    return list(storage.sizes())


def test_what_was_offered_last_comes_back(storage):
    checkpoints = StoredCheckpoints(storage, "complete", "abc", HERE)
    assert checkpoints.load() is None
    for epochs in (1, 2):
        checkpoints.offer(lambda epochs=epochs: checkpoint(epochs, value=epochs))
    (path,) = objects(storage)
    assert path.startswith("complete/epoch/")
    found = StoredCheckpoints(storage, "complete", "abc", dict(HERE)).load()
    assert found.values == {"losses": [0.5, 0.5], "memories": {}}
    assert torch.equal(found.tensors["network/w"], torch.full((3, 2), 2.0))
    assert found.tensors["optimizer/step/w"].shape == ()


def test_of_several_the_furthest_counts(storage):
    """Two writers, or one that died before it removed the older."""
    StoredCheckpoints(storage, "complete", "abc", HERE).offer(lambda: checkpoint(3))
    content = storage.get(objects(storage)[0])
    StoredCheckpoints(storage, "complete", "abc", HERE).offer(lambda: checkpoint(1))
    name = hashlib.sha256(content).hexdigest()
    storage.put(f"complete/epoch/{name}.safetensors", content)
    assert len(objects(storage)) == 2
    assert len(StoredCheckpoints(storage, "complete", "abc", HERE).load().values["losses"]) == 3


def test_the_older_one_stays_until_the_newer_is_written(storage, monkeypatch):
    checkpoints = StoredCheckpoints(storage, "complete", "abc", HERE)
    checkpoints.offer(lambda: checkpoint(1))

    def full(path, content):
        raise StorageError("the disk is full")

    monkeypatch.setattr(storage, "put", full)
    checkpoints.offer(lambda: checkpoint(2))
    assert len(StoredCheckpoints(storage, "complete", "abc", HERE).load().values["losses"]) == 1


@pytest.mark.parametrize("other", [("abd", HERE), ("abc", {"torch": "2", "threads": 1})], ids=["identity", "versions"])
def test_those_of_another_identity_or_environment_are_not_used(storage, other):
    StoredCheckpoints(storage, "complete", "abc", HERE).offer(lambda: checkpoint(1))
    assert StoredCheckpoints(storage, "complete", *other).load() is None


HARMS = {
    "cut": lambda content: content[:-1],
    "header": lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
    "weights": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_damaged_one_is_as_good_as_none(storage, harm):
    StoredCheckpoints(storage, "complete", "abc", HERE).offer(lambda: checkpoint(1))
    (path,) = objects(storage)
    storage.put(path, harm(storage.get(path)))
    assert StoredCheckpoints(storage, "complete", "abc", HERE).load() is None


def no_checkpoint(about):
    return safetensors.torch.save({"w": torch.zeros(2)}, metadata=about)


def with_values(values):
    return no_checkpoint({"about": json.dumps({"identity": "abc", "environment": HERE, "values": values})})


STRANGE = {
    "nothing": b"",
    "no safetensors": b"\x02\0\0\0\0\0\0\0{}",
    "no metadata": safetensors.torch.save({"w": torch.zeros(2)}),
    "about nothing": no_checkpoint({"format": "pt"}),
    "about a list": no_checkpoint({"about": "[1]"}),
    "about a number": no_checkpoint({"about": "3"}),
    "no values": no_checkpoint({"about": "{}"}),
    "too deep": no_checkpoint({"about": "[" * 100_000}),
    "values without fields": with_values({}),
    "values that are a number": with_values(3),
    "losses that are a number": with_values({"losses": 3, "memories": {}}),
    "losses that are text": with_values({"losses": ["x"], "memories": {}}),
    "losses that are infinite": with_values({"losses": [float("inf")], "memories": {}}),
    "no memories": with_values({"losses": [0.5]}),
    "memories that are a list": with_values({"losses": [0.5], "memories": []}),
    "a memory that is a number": with_values({"losses": [0.5], "memories": {"rewind": 3}}),
}


def test_a_checkpoint_may_have_any_tensors(storage):
    """What follows is refused for its values alone."""
    content = with_values({"losses": [0.5], "memories": {}})
    storage.put(f"complete/epoch/{hashlib.sha256(content).hexdigest()}.safetensors", content)
    assert StoredCheckpoints(storage, "complete", "abc", HERE).load() is not None


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
def test_what_is_no_checkpoint_is_as_good_as_none(storage, content):
    """Its name is its digest, as if distsim had written it."""
    storage.put(f"complete/epoch/{hashlib.sha256(content).hexdigest()}.safetensors", content)
    assert StoredCheckpoints(storage, "complete", "abc", HERE).load() is None


def test_files_of_others_beside_checkpoints_stay(storage, tmp_path):
    StoredCheckpoints(storage, "complete", "abc", HERE).offer(lambda: checkpoint(1))
    (own,) = objects(storage)
    (tmp_path / "store" / f"{own}#12").write_bytes(b"half")
    others = ("notes.txt", "0" * 64, "best.safetensors", "best.safetensors#12", "Homework #2", "mine/x")
    folder = tmp_path / "store" / "complete" / "epoch"
    (folder / "mine").mkdir()
    for name in others:
        (folder / name).write_bytes(b"mine")
    delete_checkpoints(storage, "complete")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(others)


def test_it_declines_what_would_cost_too_much(storage, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(kept, "SHARE", 0.02)
    monkeypatch.setattr(kept.time, "monotonic", lambda: now[0])
    checkpoints = StoredCheckpoints(storage, "complete", "abc", HERE)
    taken = []

    def offer(after):
        now[0] += after

        def take():
            taken.append(now[0])
            now[0] += 1.0  # what it costs
            return checkpoint(len(taken))

        checkpoints.offer(take)

    for after in (10, 30, 19, 40, 60):
        offer(after)
    assert taken == [10, 100, 161]  # the first; not after 30 s, not after 49, after 89, after 60


@pytest.mark.parametrize("together", [False, True], ids=["alone", "a group"])
def test_who_asks_it_to_stop_loses_no_epoch(storage, monkeypatch, together):
    """However early it is for a checkpoint. Nothing is written twice, and nothing after it."""
    monkeypatch.setattr(kept, "SHARE", 0.0)  # after the first none is due
    alone = StoredCheckpoints(storage, "complete", "abc", HERE)
    group = StoredGroupCheckpoints({0: alone})

    def offer(epochs):
        if together:
            group.offer(lambda: [(0, checkpoint(epochs))])
        else:
            alone.offer(lambda: checkpoint(epochs))

    def epochs():
        return len(StoredCheckpoints(storage, "complete", "abc", HERE).load().values["losses"])

    monkeypatch.setattr(kept.time, "monotonic", itertools.count().__next__)
    offer(1)
    offer(2)
    assert epochs() == 1
    stopping.ask()
    try:
        with pytest.raises(stopping.Stopped):
            offer(3)
    finally:
        stopping.forget()
    assert epochs() == 3
    assert len(objects(storage)) == 1


# --- a sweep that dies in the middle of a training ---


class Died(BaseException):
    """Not an Exception: nothing catches it on the way, as nothing catches a SIGKILL."""


def bench_of(tmp_path, name, problem, **more):
    one = prepare(problem, runs=1, iterations=2, **more)
    store = SweepStore(Storage(tmp_path / name), "digits")
    store.claim(one.sweep.identity)
    return TrainingWorker(store, one.sweep, one.dataset), store


def everything(bench):
    bench.complete()
    failed = []
    list(train_chains(bench, [Chain(0, (1, 2), (1, 2))], failed.append))
    assert not failed


def dies_after(bench, monkeypatch, epochs):
    left = [epochs]

    def count(epoch, network):
        trained.append(epoch)
        if left[0] == 0:
            raise Died
        left[0] -= 1
        return False

    trained = []
    monkeypatch.setattr(bench.trainer, "after_epoch", (count,))
    return trained


@pytest.mark.parametrize("died_after", [0, 2, 4, 5])
def test_an_interruption_costs_one_epoch(tmp_path, monkeypatch, died_after):
    """The complete network trains 4 epochs, each of 2 iterations 3 (from the late reset on)."""
    problem = PROBLEMS["digits"].reduced_to(epochs=4, probe=100, train_limit=200)
    whole, expected = bench_of(tmp_path, "whole", problem)
    everything(whole)
    bench, store = bench_of(tmp_path, "cut", problem)
    first = dies_after(bench, monkeypatch, died_after)
    with pytest.raises(Died):
        everything(bench)
    again, store = bench_of(tmp_path, "cut", problem)
    second = dies_after(again, monkeypatch, -1)
    everything(again)
    assert len(first) + len(second) == 4 + 3 + 3 + 1  # only the epoch that was cut off is trained twice
    assert store.digests() == expected.digests()
    assert not [path for path in store.storage.sizes() if "/epoch/" in path]


def test_runs_in_one_pack_are_those_alone(tmp_path):
    """One of them further than the other, and one that fails, which costs the others nothing."""
    problem = PROBLEMS["digits"].reduced_to(epochs=2, probe=100, train_limit=200)
    alone, expected = bench_of(tmp_path, "alone", problem)
    packed, store = bench_of(tmp_path, "packed", problem)
    works = [Chain(0, (1, 2), (1, 2)), Chain(1, (1,), ()), Chain(2, (1, 2), (2,))]
    alone.complete()
    packed.complete()
    failed = []
    for work in works:
        list(train_chains(alone, [work], failed.append))
    list(train_chains(packed, works[:1], failed.append))  # its chain is done already
    works.append(Chain(3, (2,), ()))  # its first iteration is not there and not asked for
    events = list(train_chains(packed, works, failed.append))
    assert failed == ["digits, run 3: run 3, iteration 1 of digits is not in " + store.root.url]
    assert {(event["run"], event["iteration"]) for event in events} == {(1, 1), (2, 1), (2, 2)}
    assert store.digests() == expected.digests()


def test_written_beside_the_training_the_bytes_are_the_same(tmp_path):
    problem = PROBLEMS["digits"].reduced_to(epochs=2, probe=100, train_limit=200)
    in_order, expected = bench_of(tmp_path, "order", problem)
    everything(in_order)
    beside, store = bench_of(tmp_path, "beside", problem)
    beside.beside = True
    everything(beside)
    assert store.digests() == expected.digests()


@pytest.mark.parametrize("last", [1, 2])
def test_what_fails_beside_the_training_ends_the_run_by_name(tmp_path, last):
    """Found out before the next network's activations are written, or at the end."""
    problem = PROBLEMS["digits"].reduced_to(epochs=2, probe=100, train_limit=200)
    bench, store = bench_of(tmp_path, "beside", problem)
    bench.beside = True
    bench.complete()

    def fails(network, step=None):
        raise ValueError("no room for the probe")

    bench.extract = fails
    failed = []
    list(train_chains(bench, [Chain(0, (1, 2), (last,))], failed.append))
    assert failed == ["digits, run 0: no room for the probe"]
    assert NetworkId(0, 1) in store.contents().networks
