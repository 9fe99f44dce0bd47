"""The folder of a network's checkpoints: how far they are, and their removal."""

import contextlib
import json
import re
from collections.abc import Iterable

from distsim.specs import PATTERN, NetworkId
from distsim.store.storage import Storage

EPOCHS = "epoch"  # in the network's folder
CHECKPOINT = re.compile(rf"{PATTERN}/{EPOCHS}/[0-9a-f]{{64}}\.safetensors")


HEAD = 2**16  # bytes of a checkpoint that are read first: more than its head has, as a rule
LARGEST_HEAD = 2**24


def epochs_kept(storage: Storage, paths: Iterable[str] | None = None) -> dict[NetworkId, int]:
    """Return network -> the most epochs that a checkpoint of it holds. Only the heads of checkpoints are read.

    paths : what the storage of a problem holds; None: it is listed

    StorageError: the storage cannot be read.
    """
    epochs: dict[NetworkId, int] = {}
    for path in storage.sizes() if paths is None else paths:
        if (match := CHECKPOINT.fullmatch(path)) is not None:
            network = NetworkId.of_match(match)
            epochs[network] = max(epochs.get(network, 0), _epochs(storage, path))
    return {network: count for network, count in epochs.items() if count}


def _epochs(storage: Storage, path: str) -> int:
    """Return the number of epochs after which a checkpoint was written, 0 if it is none or has just been deleted."""
    content = storage.get(path, most=HEAD) or b""
    length = int.from_bytes(content[:8], "little")  # a safetensors file begins with it, and then has JSON
    if HEAD < length + 8 <= LARGEST_HEAD:
        content = storage.get(path, most=length + 8) or b""
    try:
        about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["about"])
        return len(about["values"]["losses"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0


def delete_checkpoints(storage: Storage, network: str) -> None:
    """Delete a network's checkpoints, half-written ones too, and no file of somebody else's beside them.

    network : its path
    """
    folder = f"{network}/{EPOCHS}"
    storage.delete([path for path in storage.sizes(folder) if CHECKPOINT.fullmatch(path)])
    if storage.folder is not None:
        for unfinished in (storage.folder / folder).glob("*.safetensors#*"):
            if CHECKPOINT.fullmatch(f"{folder}/{unfinished.name.rpartition('#')[0]}"):
                unfinished.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is gone, or something else is in it
            (storage.folder / folder).rmdir()
