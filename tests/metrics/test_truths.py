"""Metrics on data whose truth is known: independent sides, 5 % in common, copies with growing noise.

The draws of bench/truths.py, fewer of them and of the default metrics.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from distsim.metrics.registry import METRICS

BENCH = Path(__file__).parents[2] / "bench"
DEFAULT = ("mean_cca", "svcca", "pwcca", "cka", "nbs", "cosine", "cka_unbiased")


@pytest.fixture(scope="module")
def truths() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_truths", BENCH / "truths.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        spec.loader.exec_module(module)
    sys.modules.pop("report", None)
    return module


def test_independent_sides_are_within_two_sd_of_chance(truths: ModuleType) -> None:
    """z from 20 permutations, and in closed form for CKA."""
    for name, z in truths.z_values(DEFAULT, 200).items():
        least = 0.93 if METRICS[name].null else 0.88
        assert np.mean(np.abs(z) <= 2) >= least, name


def test_five_per_cent_in_common_are_found(truths: ModuleType) -> None:
    found = truths.z_values(("cka", "nbs"), 5, n=400, p=20, shared=0.05)
    assert min(found["cka"] + found["nbs"]) > 2


def test_copies_are_found_in_their_order_and_with_their_ancestor(truths: ModuleType) -> None:
    order, ancestry = truths.copies(("cka", "nbs"), 3)
    assert set(order.values()) == set(ancestry.values()) == {1.0}
