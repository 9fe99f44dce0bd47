"""Similarity of two layers' activations: mean CCA, SVCCA, PWCCA, CKA, NBS and cosine.

Each metric is a function of two arrays of the same examples (NumPy, CuPy or torch) and returns a Python float. Values
are computed in float64, on the device where the arrays are.
"""

from distsim.metrics.arrays import UndefinedSimilarity, UnreliableSimilarity
from distsim.metrics.channels_only import cka_channels, nbs_channels
from distsim.metrics.cka import cka, cka_unbiased
from distsim.metrics.cosine import cosine
from distsim.metrics.dimension import intrinsic_dimension
from distsim.metrics.mean_cca import mean_cca, mean_squared_cca
from distsim.metrics.nbs import nbs, procrustes
from distsim.metrics.neighbours import knn_overlap
from distsim.metrics.null import cka_null
from distsim.metrics.predictivity import linear_predictivity
from distsim.metrics.pwcca import pwcca
from distsim.metrics.repository import repository_name
from distsim.metrics.rsa import rsa
from distsim.metrics.soft_matching import soft_matching
from distsim.metrics.svcca import svcca

__all__ = [
    "UndefinedSimilarity",
    "UnreliableSimilarity",
    "cka",
    "cka_channels",
    "cka_null",
    "cka_unbiased",
    "cosine",
    "intrinsic_dimension",
    "knn_overlap",
    "linear_predictivity",
    "mean_cca",
    "mean_squared_cca",
    "nbs",
    "nbs_channels",
    "procrustes",
    "pwcca",
    "repository_name",
    "rsa",
    "soft_matching",
    "svcca",
]
