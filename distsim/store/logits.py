"""A network's logits of the test images: a piece of its own beside the network, which functional similarity comes from.

Each image's largest logit is taken off before they are kept. Softmax does not see that. So float16 is finest where the
probabilities are largest, and rounding changes no prediction. Where it would, or a value is too large for it, float32
is kept. Beside a complete network's logits are the labels of the images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from distsim.specs import NetworkId, shown
from distsim.specs.fields import expect
from distsim.store.commits import Attempt, DamagedStore, Mark, read_object
from distsim.store.sweep_store import SweepStore

OBJECT = "logits.safetensors"
ROOM = 2**12  # bytes that an object may have besides its values: names and shapes
ITEMSIZE = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Logits:
    """The logits of the test images, (n, classes), less the largest of each image, and the labels or None, (n,)."""

    margins: NDArray[Any]
    labels: NDArray[np.int32] | None = None


def of_outputs(outputs: NDArray[np.float32], labels: NDArray[Any] | None, label: str) -> Logits:
    """Return what is kept of a network's outputs, (n, classes). label : the network's name in errors

    FloatingPointError: an output is not finite.
    """
    odd = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if len(odd):
        raise FloatingPointError(f"{label}: the logits of test image {odd[0]} are not finite")
    margins = outputs - outputs.max(axis=1, keepdims=True)
    with np.errstate(over="ignore", under="ignore"):
        half = margins.astype(np.float16)
    safe = np.isfinite(half).all() and np.array_equal(half.argmax(axis=1), outputs.argmax(axis=1))
    return Logits(half if safe else margins, None if labels is None else labels.astype(np.int32))


def commit(store: SweepStore, network: NetworkId, logits: Logits, **fields: Any) -> Mark:
    """Commit a network's logits. Return the mark that counts. fields : identity, environment and provenance of it"""
    tensors: dict[str, NDArray[Any]] = {"logits": logits.margins}
    if logits.labels is not None:
        tensors["labels"] = logits.labels
    n, classes = logits.margins.shape
    with Attempt(store.storage, store.piece_path(network, "logits")) as attempt:
        attempt.put(OBJECT, safetensors.numpy.save(tensors))
        values = {"examples": n, "classes": classes, "dtype": str(logits.margins.dtype)}
        return attempt.commit(values=values, **fields)


def read(store: SweepStore, network: NetworkId, mark: Mark) -> Logits:
    """Return a network's committed logits. DamagedStore: they are missing, changed, or not what the mark says."""
    piece = store.piece_path(network, "logits")
    try:
        require_object(network, mark)
        return decode(network, mark.values, read_object(store.storage, piece, mark, OBJECT))
    except ValueError as error:
        raise DamagedStore(f"the test logits of {network.label} in {store.storage.url} are damaged: {error}") from None


def require_object(network: NetworkId, mark: Mark) -> None:
    """Check the object that a mark names, before it is read. ValueError: it is another one, or too large."""
    expect(set(mark.objects) == {OBJECT}, f"the mark names {shown(', '.join(sorted(mark.objects)))}")
    size, most = mark.objects[OBJECT][0], most_bytes(network, mark.values)
    expect(size <= most, f"{OBJECT} has {size:,} bytes, at most {most:,} belong there")


def most_bytes(network: NetworkId, record: Mapping[str, Any]) -> int:
    """Return the most bytes of the object that this record describes."""
    each = record["classes"] * ITEMSIZE[record["dtype"]] + 4 * network.is_complete
    return int(record["examples"] * each + ROOM)


def decode(network: NetworkId, record: Mapping[str, Any], content: bytes) -> Logits:
    """Return the logits in an object. ValueError: it does not hold what this record describes."""
    try:
        tensors = safetensors.numpy.load(content)
    except Exception as error:  # safetensors' own error, or a KeyError for a dtype that NumPy does not have
        raise ValueError(f"{OBJECT} cannot be read: {error}") from None
    shape = (record["examples"], record["classes"])
    expected: dict[str, Any] = {"logits": (shape, record["dtype"])}
    if network.is_complete:
        expected["labels"] = (shape[:1], "int32")
    found = {name: (tensor.shape, str(tensor.dtype)) for name, tensor in tensors.items()}
    expect(found == expected, f"{OBJECT} holds {shown(found)} instead of {expected}")
    margins, labels = tensors["logits"], tensors.get("labels")
    expect(bool(np.isfinite(margins).all()), f"{OBJECT} has values that are not finite")
    expect(bool((margins.max(axis=1) == 0).all()), f"{OBJECT}: the largest logit of an image is not 0")
    known = labels is None or bool(((labels >= 0) & (labels < shape[1])).all())
    expect(known, f"{OBJECT} has labels that are not classes")
    return Logits(margins, labels)
