"""Data sets as bytes in host memory, and the augmentation and normalisation of their batches."""

from distsim.data.augment import apply, draw, normalise
from distsim.data.dataset import (
    Dataset,
    limit,
    pixel_statistics,
    probe_indices,
    stratified_split,
    subset,
    validation_split,
)
from distsim.data.folder import cache_root, read_folder
from distsim.data.load import default_root, load, suited

__all__ = [
    "Dataset",
    "apply",
    "cache_root",
    "default_root",
    "draw",
    "limit",
    "load",
    "normalise",
    "pixel_statistics",
    "probe_indices",
    "read_folder",
    "stratified_split",
    "subset",
    "suited",
    "validation_split",
]
