"""The store: it alone says which parts of a sweep are done."""

from distsim.store.commits import DamagedStore, Mark
from distsim.store.contents import Contents
from distsim.store.existing import existing_root, existing_stores, new_root, problems_in
from distsim.store.lease import Lease, StoreGone, StoreInUse
from distsim.store.paths import Pair
from distsim.store.storage import NoSpace, NotWritable, Storage, StorageError
from distsim.store.sweep_store import IdentityMismatch, SweepStore

__all__ = [
    "Contents",
    "DamagedStore",
    "IdentityMismatch",
    "Lease",
    "Mark",
    "NoSpace",
    "NotWritable",
    "Pair",
    "Storage",
    "StorageError",
    "StoreGone",
    "StoreInUse",
    "SweepStore",
    "existing_root",
    "existing_stores",
    "new_root",
    "problems_in",
]
