"""Values that come from other weights than those in the store, with right digests everywhere."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from distsim.results.reduce import collect
from distsim.specs import COMPLETE, NetworkId
from distsim.store import DamagedStore, Storage, SweepStore
from distsim.store.commits import MARK, read_mark
from distsim.store.descriptions import layers_of
from distsim.store.records import WEIGHTS, WEIGHTS_X, WEIGHTS_Y, weights_of
from distsim.verify.repair import carry_out, planned
from distsim.verify.report import DAMAGED, Finding
from distsim.verify.store import verify_store

NETWORK, OTHER = NetworkId(0, 2), NetworkId(1, 2)


def replace_weights(store: SweepStore) -> None:
    """Put another run's weights in the place of a network's; its mark vouches for them."""
    ours, theirs = store.mark(NETWORK), store.mark(OTHER)
    assert ours is not None
    assert theirs is not None
    objects = {}
    for name in ours.objects:
        content = store.storage.get(f"{OTHER.path}/attempt-{theirs.attempt}/{name}")
        assert content is not None
        store.storage.put(f"{NETWORK.path}/attempt-{ours.attempt}/{name}", content)
        objects[name] = theirs.objects[name]
    store.storage.put(f"{NETWORK.path}/{MARK}", dataclasses.replace(ours, objects=objects).encode())


def test_everything_names_the_weights_that_it_comes_from(store: SweepStore) -> None:
    marks = {network: store.mark(network) for network in store.contents().networks}
    weights = {network: weights_of(mark) for network, mark in marks.items() if mark is not None}
    for network in store.contents().activations:
        mark = store.activations_mark(network)
        assert mark is not None
        assert mark.provenance[WEIGHTS] == weights[network]
    for what in ("comparison", "chance"):
        for (network, _), of_layer in store.comparisons(what).items():
            for mark in of_layer:
                assert mark.provenance[WEIGHTS_X] == weights[COMPLETE]
                assert mark.provenance[WEIGHTS_Y] == weights[network]
    for mark in store.pair_marks().values():
        named = {name: sha256 for name, sha256 in mark.provenance.items() if name.startswith(f"{WEIGHTS} ")}
        assert named
        assert named.items() <= {f"{WEIGHTS} {network.path}": sha256 for network, sha256 in weights.items()}.items()


def test_weights_of_another_run(root: Path, store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    replace_weights(store)
    found = [finding for finding in new() if finding.severity == DAMAGED]
    assert [finding.piece for finding in found] == [NETWORK.path]
    assert found[0].sentence.startswith("its weights are not those that ")
    with pytest.raises(DamagedStore, match=r"run 0, iteration 2.* comes? from other weights than the network"):
        collect(store, layers_of(store), seed=0)
    dropped = [action for action in planned(Storage(root), verify_store(Storage(root))) if action.what == "drop"]
    assert [action.path for action in dropped] == [NETWORK.path], "it is trained again; what came from it stays"
    carry_out(Storage(root), dropped)
    assert store.mark(NETWORK) is None


def test_activations_of_another_network(root: Path, store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    """Two networks' activations changed places, and each mark says that it is where it should be."""
    pieces = [store.activations_path(network) for network in (NETWORK, OTHER)]
    folders = [root / "digits" / piece for piece in pieces]
    shutil.move(folders[0], root / "aside")
    shutil.move(folders[1], folders[0])
    shutil.move(root / "aside", folders[1])
    for piece, folder in zip(pieces, folders, strict=True):
        for file in folder.glob("COMMIT*.json"):
            path = f"{piece}/{file.name}"
            mark = read_mark(store.storage, path)
            assert mark is not None
            renamed = dataclasses.replace(mark, provenance=mark.provenance | {"piece": piece})
            store.storage.put(path, renamed.encode())
    found = [finding for finding in new() if finding.severity == DAMAGED]
    assert sorted({finding.piece for finding in found}) == pieces
    assert {finding.sentence for finding in found} == {
        f"comes from other weights than those of {network.path}" for network in (NETWORK, OTHER)
    }
    with pytest.raises(DamagedStore, match=r"activations of run 0, iteration 2 .* come from other weights"):
        store.activations_mark(NETWORK)


def test_values_of_other_weights(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    (path,) = store.storage.sizes(f"{NETWORK.path}/comparison/fc1")
    mark = read_mark(store.storage, path)
    assert mark is not None
    changed = dataclasses.replace(mark, provenance=mark.provenance | {WEIGHTS_X: "0" * 64})
    store.storage.put(path, changed.encode())
    assert [(f.piece, f.sentence) for f in new()] == [(path, "comes from other weights than those of complete")]
    with pytest.raises(DamagedStore, match=r"comparison of run 0, iteration 2, layer fc1, .* comes from other weights"):
        collect(store, layers_of(store), seed=0)
    older = {name: value for name, value in mark.provenance.items() if name not in (WEIGHTS_X, WEIGHTS_Y)}
    store.storage.put(path, dataclasses.replace(mark, provenance=older).encode())
    assert new() == [], "older marks do not name the weights"


def test_values_of_another_sweep(store: SweepStore) -> None:
    (path,) = store.storage.sizes(f"{NETWORK.path}/comparison/fc1")
    mark = read_mark(store.storage, path)
    assert mark is not None
    store.storage.put(path, dataclasses.replace(mark, identity="0" * 64).encode())
    with pytest.raises(DamagedStore, match=r"comparison of run 0, iteration 2, layer fc1, .* belongs to another sweep"):
        collect(store, layers_of(store), seed=0)
