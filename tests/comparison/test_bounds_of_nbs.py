"""The bounds of NBS in results: where its route by polar factors is taken, and nowhere else."""

import numpy as np
import pytest
import torch

from distsim import environment
from distsim.comparison import sides
from distsim.comparison.layer import InMemory, Reference, compare_pairs
from distsim.metrics import polar

METRICS = ("svcca", "cka", "nbs", "procrustes")


def activations(n=120, size=6, channels=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, size, size, channels)).astype("float32")
    return X, (X + 0.5 * rng.standard_normal(X.shape)).astype("float32")


def compared(X, Y, **options):
    return Reference(InMemory(X, rows=2), METRICS, **options).compare(InMemory(Y, rows=2))


@pytest.mark.parametrize("size", [6, 3], ids=["Gram matrices", "features"])
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_nbs_lies_between_its_bounds(size, precision):
    X, Y = activations(size=size)
    usual, ours = compared(X, Y), compared(X, Y, precision=precision, qdwh=True)
    nbs = ours["nbs"]
    assert nbs["lower"] <= nbs["value"] <= nbs["upper"] <= nbs["lower"] * (1 + 1e-6)
    assert nbs["lower"] <= usual["nbs"]["value"] <= nbs["upper"]
    assert nbs["value"] == pytest.approx(usual["nbs"]["value"], rel=1e-11)
    assert ours["procrustes"]["value"] == pytest.approx(usual["procrustes"]["value"], rel=1e-9)
    for name in ("svcca", "cka", "procrustes"):
        assert (ours[name]["lower"], ours[name]["upper"]) == (None, None)
    assert ours["svcca"] == usual["svcca"]
    assert ours["cka"] == usual["cka"]


def test_pairs_have_the_same_bounds():
    X, Y = activations()
    of_pairs = compare_pairs([InMemory(X, rows=2), InMemory(Y, rows=2)], [(0, 1)], METRICS, qdwh=True)
    assert of_pairs[0, 1] == compared(X, Y, qdwh=True)


def test_on_a_cpu_there_are_none():
    X, Y = activations()
    assert compared(X, Y) == compared(X, Y, qdwh=False)
    assert (compared(X, Y)["nbs"]["lower"], compared(X, Y)["nbs"]["upper"]) == (None, None)


@pytest.mark.parametrize(("capability", "route"), [((9, 0), "qdwh"), ((8, 6), "eigenvalues")])
def test_the_card_decides_which_route_is_recorded(capability, route, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert environment._route("cuda") == route
    assert environment._route("cpu") == "eigenvalues"


def test_where_eigenvalues_decide_there_are_none(monkeypatch):
    X, Y = activations()
    usual = compared(X, Y)
    monkeypatch.setattr(polar, "cholesky", lambda A, reads: None)
    assert compared(X, Y, qdwh=True) == usual


def test_a_layer_and_itself():
    X, _ = activations()
    nbs = compared(X, X, qdwh=True)["nbs"]
    assert nbs["value"] == pytest.approx(1, abs=1e-12)
    assert nbs["lower"] <= nbs["value"] <= nbs["upper"] == 1


def test_a_layer_without_variance_has_neither_value_nor_bounds():
    X, _ = activations()
    nbs = compared(X, np.ones_like(X), qdwh=True)["nbs"]
    assert (nbs["value"], nbs["lower"], nbs["upper"]) == (None, None, None)
    assert nbs["reason"] == "every activation is the same for all examples"


def test_singular_sides_of_float32_products_are_read_again_in_float64(monkeypatch):
    X, Y = (np.tile(A[:60], (2, 1, 1, 1)) for A in activations())
    usual = compared(X, Y)["nbs"]["value"]
    monkeypatch.setattr(sides, "NARROW", 0)
    reference = Reference(InMemory(X, rows=2), ("nbs",), qdwh=True)
    nbs = reference.compare(InMemory(Y, rows=2))["nbs"]
    assert "wide" in vars(reference.side)
    assert nbs["value"] == pytest.approx(usual, abs=1e-6)
    assert nbs["lower"] <= nbs["value"] <= nbs["upper"]
