"""Similarity of two layers' activations: mean CCA, SVCCA, PWCCA, CKA, NBS and cosine.

Each is a function of two arrays of the same examples, NumPy, CuPy or torch, and returns a Python float. Values are
computed in float64 where the arrays live.
"""

from distsim.metrics.arrays import UndefinedSimilarity
from distsim.metrics.cka import cka
from distsim.metrics.cosine import cosine
from distsim.metrics.mean_cca import mean_cca
from distsim.metrics.nbs import nbs
from distsim.metrics.pwcca import pwcca
from distsim.metrics.svcca import svcca

__all__ = ["UndefinedSimilarity", "cka", "cosine", "mean_cca", "nbs", "pwcca", "svcca"]
