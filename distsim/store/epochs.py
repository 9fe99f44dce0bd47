"""The folder of a network's checkpoints, and their removal."""

import contextlib
import re

from distsim.specs import PATTERN
from distsim.store.storage import Storage

EPOCHS = "epoch"  # in the network's folder
CHECKPOINT = re.compile(rf"{PATTERN}/{EPOCHS}/[0-9a-f]{{64}}\.safetensors")


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
