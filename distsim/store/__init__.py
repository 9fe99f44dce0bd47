"""The store: the single truth about what of a sweep is done."""

from distsim.store.commits import DamagedStore, Mark
from distsim.store.storage import Storage, StorageError
from distsim.store.sweep_store import (
    Contents,
    IdentityMismatch,
    NetworkId,
    SweepStore,
    network_label,
    network_path,
    problems_in,
)

__all__ = [
    "Contents",
    "DamagedStore",
    "IdentityMismatch",
    "Mark",
    "NetworkId",
    "Storage",
    "StorageError",
    "SweepStore",
    "network_label",
    "network_path",
    "problems_in",
]
