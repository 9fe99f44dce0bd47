"""layers.json and metrics/<name>.json: what is written is read, and nothing else is."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from distsim.problems import PROBLEMS
from distsim.specs import Identity
from distsim.specs.canonical import signed
from distsim.store import DamagedStore, IdentityMismatch, Storage, SweepStore
from distsim.store.described import (
    LARGEST,
    StoredLayer,
    StoredMetric,
    decode_layers,
    decode_metric,
    encode_layers,
    encode_metric,
)
from distsim.store.descriptions import describe_layers, layers_of

LAYERS = (StoredLayer("conv1", "conv", "blocks.0.relu", (8, 8, 16)), StoredLayer("out", "out", "out", (10,)))
PROBLEM = dataclasses.replace(PROBLEMS["digits"], classes=tuple("0123456789"))
IDENTITY = Identity(problem=PROBLEM, data_digest="0" * 64)


def store_in(folder: Path) -> SweepStore:
    store = SweepStore(Storage(folder), "digits")
    store.claim(IDENTITY)
    return store


def test_what_is_written_is_read() -> None:
    assert decode_layers(encode_layers(LAYERS, "abc")) == (LAYERS, "abc")
    of_the_network = (StoredLayer("out", "out", "", (10,)),)  # computed outside its modules
    assert decode_layers(encode_layers(of_the_network, "abc")) == (of_the_network, "abc")
    metric = StoredMetric("mine", "output", "my own")
    assert decode_metric(encode_metric(metric), "mine") == metric


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "x" * 100 + "/" * 40}, "may have 200 bytes"),
        ({"name": ""}, "field layers.0..name must be 1 to 200 printable characters"),
        ({"name": "x" * 201}, "name must be 1 to 200 printable characters"),
        ({"name": "two\nlines"}, "name must be 1 to 200 printable characters"),
        ({"kind": 3}, "field layers.0..kind must be text, got 3"),
        ({"module": None}, "module must be"),
        ({"module": "x" * 201}, "module must be at most 200 printable characters"),
        ({"shape": []}, "1 to 8 sizes"),
        ({"shape": [8, True]}, "shape.1. must be a whole number"),
        ({"shape": [0]}, "shape.0. must be at least 1"),
        ({"shape": [10**10]}, "shape.0. must be at most 1,000,000,000"),
        ({"shape": [1] * 9}, "1 to 8 sizes"),
        ({"shape": "10"}, "shape must be a list"),
        ({"more": 1}, "field layers.0. has the field 'more'"),
        ({"name": "out"}, "two of its layers have the same name"),
    ],
)
def test_a_strangers_layers_are_checked(change: dict[str, Any], message: str) -> None:
    tree = json.loads(encode_layers(LAYERS, "abc"))
    del tree["sha256"]
    tree["layers"][0] |= change
    with pytest.raises(ValueError, match=message):
        decode_layers(signed(tree))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is not JSON"),
        (b"[" * 10**5, "it is not JSON"),
        (b"[]", "does not match the digest in it"),
        (signed({"layers": [], "identity": "abc"}), "1 to 10,000 layers"),
        (signed({"layers": {}, "identity": "abc"}), "field layers must be a list"),
        (signed({"layers": [1], "identity": "abc"}), "field layers.0. must be an object"),
        (encode_layers(LAYERS, "abc").replace(b"conv1", b"conv2"), "does not match the digest in it"),
        (b" " * (LARGEST + 1), "more than 1,048,576 bytes"),
    ],
)
def test_what_is_no_layers_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_layers(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "it describes another metric, 'other'"),
        ({"view": "all"}, "view must be one of"),
        ({"view": ["output"]}, "view must be text"),
        ({"label": 7}, "label must be"),
        ({"extra": 7}, "has the field 'extra'"),
    ],
)
def test_a_strangers_metric_is_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_metric(signed({"name": "mine", "view": "kernel", "label": "m"} | change), "mine")


def test_the_store_says_what_its_layers_are(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    of_model = layers_of(store)
    assert [layer.name for layer in of_model][:2] == ["conv1_1", "conv1_2"], "without the object: the model's"
    describe_layers(store, LAYERS, IDENTITY)
    assert layers_of(store) == LAYERS
    before = store.storage.get("layers.json")
    describe_layers(store, LAYERS, IDENTITY)
    assert store.storage.get("layers.json") == before
    store.storage.put("layers.json", b"{}")
    with pytest.raises(DamagedStore, match=r"layers.json in .* is damaged: its content does not match the digest"):
        layers_of(store)
    describe_layers(store, LAYERS, IDENTITY)
    assert store.storage.get("layers.json") == before, "what is derived is made again"


def test_layers_of_what_is_committed_stay(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    describe_layers(store, LAYERS, IDENTITY)
    describe_layers(store, LAYERS[:1], IDENTITY)
    assert layers_of(store) == LAYERS[:1], "nothing was committed"
    store.storage.put("complete/COMMIT.json", b"{}")
    with pytest.raises(IdentityMismatch, match=r"model 'vgg_digits' differs in out: .*another --storage"):
        describe_layers(store, LAYERS, IDENTITY)
    assert layers_of(store) == LAYERS[:1]
