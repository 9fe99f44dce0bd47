"""Networks and activations whose objects have the right digests, and which no reader can believe all the same."""

import copy
import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from damage import changed, one

from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.specs import COMPLETE, Identity, NetworkId, Problem, canonical_json, digest
from distsim.store import Storage, SweepStore
from distsim.store.activations import Reader, Writer
from distsim.store.arrays import chunk_names, decoded
from distsim.store.commits import MARK, Attempt, drop, read_mark, read_piece
from distsim.training.chain import TrainedNetwork
from distsim.verify import networks
from distsim.verify.networks import Model
from distsim.verify.report import DAMAGED, FOREIGN, UNREAD, Finding
from distsim.verify.store import verify_store

# --- networks --------------------------------------------------------------------------------------------------------


def test_sharded_activations(store: SweepStore, root: Path, new: Callable[[], list[Finding]]) -> None:
    """As an object store gets them: one object for a block of examples."""
    mark = store.activations_mark(NetworkId(1, 2))
    piece = store.activations_path(NetworkId(1, 2))
    assert mark is not None
    reader = Reader(store.storage, piece, mark)
    with_values = {name: (reader.layer(name).read(), reader.layer(name).kind) for name in reader.layers}
    drop(store.storage, piece)
    attempt = Attempt(store.storage, piece)
    writer = Writer(attempt, sharded=True)
    for position, (name, (values, kind)) in enumerate(with_values.items()):
        writer.create(name, values.shape, str(values.dtype), {"position": position, "kind": kind})
        writer.write(name, 0, values)
    attempt.commit(values={"layers": writer.layers}, identity=mark.identity, environment=mark.environment)
    assert new() == []
    file = one(root, f"digits/{piece}/attempt-*/conv1_1/c/*/*/*/*")
    changed(file)
    assert [finding.object for finding in new()] == [file.relative_to(root / "digits").as_posix()]


def replaced(store: SweepStore, network: NetworkId, files: dict[str, bytes] | None = None, **changes: Any) -> None:
    """Commit the network again with other tensors, record or files, as a faulty writer would."""
    mark, step = store.mark(network), store.load_network(network)
    assert mark is not None
    probe = {"probe.json": store.storage.get(f"complete/attempt-{mark.attempt}/probe.json") or b""}
    store.storage.delete([f"{network.path}/{MARK}"])
    files = files if files is not None or not network.is_complete else probe
    step = dataclasses.replace(step, **changes)
    store.commit_network(network, step, files, identity=mark.identity, environment=mark.environment)


def another_name(step: TrainedNetwork) -> dict[str, Any]:
    return {"masks": {f"{name}s": mask for name, mask in step.masks.items()}}


def first_rows(step: TrainedNetwork) -> dict[str, Any]:
    return {"weights": {name: tensor[:1].clone() if tensor.ndim else tensor for name, tensor in step.weights.items()}}


def numbers(step: TrainedNetwork) -> dict[str, Any]:
    return {"masks": {name: mask.to(torch.uint8) for name, mask in step.masks.items()}}


WRONG: dict[str, Callable[[TrainedNetwork], dict[str, Any]]] = {
    "it is the record of run 0, iteration 2": lambda step: {"record": step.record | {"run": 0}},
    "it is the record of run 1, iteration 1": lambda step: {"record": step.record | {"iteration": 1}},
    "field values.accuracy must be a finite number": lambda step: {"record": step.record | {"accuracy": "high"}},
    "field values.remaining is missing": lambda step: {
        "record": {name: value for name, value in step.record.items() if name != "remaining"}
    },
    "weights: it lacks": lambda step: {"weights": dict(list(step.weights.items())[1:])},
    "the model's is": first_rows,
    "which the model does not have": another_name,
    "torch.uint8": numbers,
}


@pytest.mark.parametrize("said", WRONG)
def test_a_network_that_cannot_be(store: SweepStore, said: str, new: Callable[[], list[Finding]]) -> None:
    replaced(store, NetworkId(1, 2), **WRONG[said](store.load_network(NetworkId(1, 2))))
    found = [finding for finding in new() if finding.piece == "runs/0001/iter_02"]
    assert any(said in finding.sentence and finding.severity == DAMAGED for finding in found), found


def test_the_complete_networks_own_files(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    def said() -> list[str]:
        return [finding.sentence for finding in new() if finding.severity == DAMAGED]

    complete = store.load_network(COMPLETE)
    assert complete.rewind is not None
    replaced(store, COMPLETE, files={}, rewind=complete.rewind)
    assert said() == ["its mark does not name probe.json"]
    replaced(store, COMPLETE, files={"probe.json": b"{}"}, rewind=dict(list(complete.rewind.items())[1:]))
    assert said()[0].startswith("rewind: it lacks")
    replaced(store, COMPLETE, files={"probe.json": b"{}"}, rewind=None)
    assert said() == ["its mark does not name rewind.safetensors"]


def test_weights_that_are_no_safetensors(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    mark = store.mark(NetworkId(1, 2))
    assert mark is not None
    content = safetensors.torch.save({"x": torch.zeros(3)})[:-4]
    store.storage.put(f"runs/0001/iter_02/attempt-{mark.attempt}/weights.safetensors", content)
    entry = (len(content), hashlib.sha256(content).hexdigest())
    objects = mark.objects | {"weights.safetensors": entry}
    store.storage.put(f"runs/0001/iter_02/{MARK}", dataclasses.replace(mark, objects=objects).encode())
    assert ("runs/0001/iter_02", UNREAD) in {(finding.piece, finding.severity) for finding in new()}


# --- activations -----------------------------------------------------------------------------------------------------


def again(
    store: SweepStore, network: NetworkId, alter: Callable[[Writer, str, Any, str, int], None], **fields: Any
) -> None:
    """Write the network's activations once more, each layer by `alter`."""
    mark = store.activations_mark(network)
    assert mark is not None
    piece = store.activations_path(network)
    reader = Reader(store.storage, piece, mark)
    layers = [(name, reader.layer(name).read(), reader.layer(name).kind) for name in reader.layers]
    drop(store.storage, piece)
    attempt = Attempt(store.storage, piece)
    writer = Writer(attempt)
    for position, (name, values, kind) in enumerate(layers):
        alter(writer, name, values, kind, position)
    values = fields.pop("values", {"layers": writer.layers})
    attempt.commit(**{"identity": mark.identity, "values": values} | fields)


def written(writer: Writer, name: str, values: Any, kind: str, position: int) -> None:
    writer.create(name, values.shape, str(values.dtype), {"position": position, "kind": kind})
    writer.write(name, 0, values)


def test_activations_that_cannot_be(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    def said(alter: Callable[..., None], **fields: Any) -> str:
        again(store, NetworkId(1, 1), alter, **fields)
        return "; ".join(finding.sentence for finding in new())

    mark = store.activations_mark(NetworkId(1, 1))
    assert mark is not None
    assert said(written) == "", "as it was"
    assert said(written, values={}) == "", "older marks say nothing of the values"
    swapped = mark.values["layers"] | {"pool1": mark.values["layers"]["pool2"]}
    assert said(written, values={"layers": swapped}) == "its values do not match the digest in its mark"
    turned: Callable[..., None] = lambda writer, name, values, kind, position: written(  # noqa: E731
        writer, name, values, kind, 7 - position
    )
    assert said(turned).count("it is of a layer at position") == 8
    fewer: Callable[..., None] = lambda writer, name, values, *more: written(writer, name, values[:50], *more)  # noqa: E731
    assert said(fewer).count("the array's shape is [50, ") == 8


def test_activations_whose_mark_names_other_layers(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    def without(writer: Writer, name: str, *more: Any) -> None:
        if name != "pool1":
            written(writer, name, *more)

    again(store, NetworkId(1, 1), without)
    (found,) = new()
    assert found.sentence.startswith("its mark names the layers")
    assert "pool1" not in found.sentence


def test_activations_whose_mark_lacks_a_chunk(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    """It would read as zeros."""
    piece = store.activations_path(NetworkId(1, 1))
    mark = store.activations_mark(NetworkId(1, 1))
    assert mark is not None
    objects = {name: entry for name, entry in mark.objects.items() if name != "pool1/c/0/0/0/0"}
    store.storage.put(f"{piece}/COMMIT-2.json", dataclasses.replace(mark, objects=objects).encode())
    said = {finding.severity: finding.sentence for finding in new()}
    assert said == {DAMAGED: "its mark names 0 chunks, 1 belong to the array", FOREIGN: "is not written by distsim"}


# --- metadata of arrays ----------------------------------------------------------------------------------------------

PROBLEM = dataclasses.replace(PROBLEMS["digits"].reduced_to(epochs=3, probe=40, train_limit=200), classes=tuple("01"))
METADATA: dict[str, Any] = {
    "node_type": "array",
    "shape": [40, 8, 8, 16],
    "data_type": "float16",
    "attributes": {"position": 0, "kind": "conv"},
    "codecs": [
        {
            "name": "sharding_indexed",
            "configuration": {
                "codecs": [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 0}}, {"name": "crc32c"}],
                "index_codecs": [{"name": "bytes"}, {"name": "crc32c"}],
            },
        }
    ],
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [16, 3, 8, 16]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
}


def array_faults(
    metadata: Any, problem: Problem = PROBLEM, named: Iterable[str] | None = None, **choices: Any
) -> list[str]:
    model = Model(Identity(problem, "digest of the data", **choices), build(problem))
    chunks = chunk_names(METADATA) if named is None else named
    try:
        decoded(json.dumps(metadata).encode())
    except ValueError as error:
        return [str(error)]
    return list(networks.array_faults(model, "conv1_1", metadata, set(chunks)))


def test_an_array() -> None:
    assert array_faults(METADATA) == []
    assert array_faults(METADATA | {"data_type": "float32"}) == [], "float16 could not hold it"
    assert len(array_faults(METADATA, storage="float32")) == 1
    assert len(array_faults(METADATA, dataclasses.replace(PROBLEM, probe=41))) == 1
    for name, value in {
        "shape": [40, 8, 8, 17],
        "node_type": "group",
        "data_type": "float64",
        "attributes": {"position": 2, "kind": "conv"},
        "codecs": [{"name": "bytes"}, {"name": "gzip"}],
        "chunk_grid": {"name": "rectangular"},
        "chunk_key_encoding": {"name": "v2"},
    }.items():
        assert len(array_faults(METADATA | {name: value})) == 1, name
    inside = copy.deepcopy(METADATA)
    inside["codecs"][0]["configuration"]["index_codecs"].append({"name": "blosc"})
    (said,) = array_faults(inside)
    assert "it is encoded by blosc, which distsim does not use" in said
    for nonsense in (None, [], {}, {"shape": 3}, METADATA | {"codecs": None}, METADATA | {"codecs": [3]}):
        assert len(array_faults(nonsense)) >= 1


def test_the_chunks_of_an_array() -> None:
    names = list(chunk_names(METADATA))
    assert len(names) == 3 * 3
    assert names[:4] == ["c/0/0/0/0", "c/0/1/0/0", "c/0/2/0/0", "c/1/0/0/0"]
    assert array_faults(METADATA, named=names[1:]) == ["its mark names 8 chunks, 9 belong to the array"]
    assert array_faults(METADATA, named=[*names[1:], "c/3/0/0/0"]) == ["its mark names 9 chunks, 9 belong to the array"]
    for shape in ([1] * 4, [0] * 4, [-1] * 4, [16, 3, 8], "16", None, [10**9] * 4, [0.5] * 4):
        grid = {"name": "regular", "configuration": {"chunk_shape": shape}}
        assert len(array_faults(METADATA | {"chunk_grid": grid})) == 1, shape


# --- bounded work ----------------------------------------------------------------------------------------------------


def test_a_mark_of_very_many_objects(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    """One sentence says so, and nothing of them is read."""
    many = {f"object-{number}": (1, "0" * 64) for number in range(20_000)}
    for piece, said in (
        ("runs/0001/iter_02", "its mark names 'object-0', which a network does not have"),
        ("runs/0001/iter_02/activations", "its mark names 'object-0', which belongs to no array"),
    ):
        mark = read_piece(store.storage, piece)
        assert mark is not None
        path = f"{piece}/{MARK}" if store.storage.get(f"{piece}/{MARK}") else f"{piece}/COMMIT-2.json"
        store.storage.put(path, dataclasses.replace(mark, objects=mark.objects | many).encode())
        found = [finding.sentence for finding in new() if finding.piece == piece and finding.severity == DAMAGED]
        assert found == [said]
        store.storage.put(path, mark.encode())


def test_weights_of_more_bytes_than_the_model_has(store: SweepStore, new: Callable[[], list[Finding]]) -> None:
    mark = store.mark(NetworkId(1, 2))
    assert mark is not None
    objects = mark.objects | {"weights.safetensors": (10**12, mark.objects["weights.safetensors"][1])}
    store.storage.put(f"runs/0001/iter_02/{MARK}", dataclasses.replace(mark, objects=objects).encode())
    (found,) = (finding.sentence for finding in new() if finding.severity == DAMAGED)
    assert found == "weights.safetensors has 1,000,000,000,000 bytes, more than the model's tensors"


def test_a_spec_of_huge_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not run to learn its shapes, which would take all memory."""

    def built(problem: Problem) -> None:
        raise AssertionError("it is built")

    monkeypatch.setattr("distsim.verify.walk.build", built)
    file = root / "digits" / "spec.json"
    spec = json.loads(file.read_text())
    spec["identity"]["problem"]["size"] = 4096
    spec["hash"] = digest(spec["identity"])
    file.write_text(canonical_json(spec))
    sentences = [finding.sentence for finding in verify_store(Storage(root)).findings]
    assert "its images have 4,096 x 4,096 pixels: shapes and masks are not checked" in sentences


def test_a_table_that_unpacks_to_millions_of_rows(root: Path, new: Callable[[], list[Finding]]) -> None:
    column = pa.array(["x"]).dictionary_encode().take(pa.array(np.zeros(10**6, np.int64)))
    sink = io.BytesIO()
    pq.write_table(pa.table(dict.fromkeys(("table", "piece", "digest"), column)), sink, compression="zstd")
    content = sink.getvalue()
    file = root / "digits" / "results" / "provenance.parquet"
    file.write_bytes(content)
    mark = read_mark(Storage(root), "digits/results/COMMIT.json")
    assert mark is not None
    objects = mark.objects | {file.name: (len(content), hashlib.sha256(content).hexdigest())}
    (root / "digits" / "results" / MARK).write_bytes(dataclasses.replace(mark, objects=objects).encode())
    (found,) = new()
    assert (found.object, found.severity) == ("results/provenance.parquet", DAMAGED)
    assert re.search(r"a table of [\d,]+ bytes would unpack to 1,000,000 rows", found.sentence)
