"""Values of all metrics stay what they were: on the CPU, and as a GPU computes them."""

import importlib.util
from typing import Any

import numpy as np
import pytest

from distsim.comparison.devices import ON_CPU
from distsim.comparison.layer import Reference
from distsim.comparison.sides import InMemory
from distsim.environment import threads
from distsim.metrics.registry import METRICS

# computed by version 0.2's NumPy code of 2026-11-27, before numbers were deferred on GPUs; (n, size, channels). Without
# pwcca_google, whose value depends on the signs that LAPACK returns. The last four of each came later
KEPT: dict[tuple[int, int, int], dict[str, float]] = {
    (80, 4, 6): {
        "mean_cca": 0.8296741420404719,
        "svcca": 0.8296741420404725,
        "pwcca": 0.8299455892874918,
        "cka": 0.822875545589994,
        "nbs": 0.9134939956072048,
        "cosine": 0.8294117610682317,
        "mean_cca_mass98": 0.8296741420404719,
        "mean_cca_columns": 0.6913951183670598,
        "mean_squared_cca": 0.6885804813584295,
        "svcca_mass98": 0.8296741420404725,
        "cka_channels": 0.6329562168330517,
        "nbs_channels": 0.7596674123372436,
        "cka_unbiased": 0.6019412424769622,
        "procrustes": 0.4190055267236411,
        "dimension": 39.34358490888217,
        "dimension_complete": 32.55786951164398,
        "rsa": 0.5217669990686881,
        "knn_overlap": 0.4025,
        "soft_matching": 0.6917052251093879,
        "linear_predictivity": 0.22271244661279732,
    },
    (150, 3, 6): {
        "mean_cca": 0.8286613091280323,
        "svcca": 0.8286613091280319,
        "pwcca": 0.8291338234631763,
        "cka": 0.7176256039636575,
        "nbs": 0.8103978738315533,
        "cosine": 0.8296554041614577,
        "mean_cca_mass98": 0.8286613091280323,
        "mean_cca_columns": 0.6905510909400269,
        "mean_squared_cca": 0.6869450996420567,
        "svcca_mass98": 0.8286613091280319,
        "cka_channels": 0.6324303730377454,
        "nbs_channels": 0.7590990098244523,
        "cka_unbiased": 0.6219301465785838,
        "procrustes": 0.6259654255111585,
        "dimension": 16.29748323291556,
        "dimension_complete": 6.410290464312784,
        "rsa": 0.5448649126193283,
        "knn_overlap": 0.306,
        "soft_matching": 0.691155917815976,
        "linear_predictivity": 0.5116106003105085,
    },
    (600, 11, 6): {
        "mean_cca": 0.8300584241939657,
        "svcca": 0.8300584241939655,
        "pwcca": 0.8304403663112708,
        "cka": 0.8263453826541912,
        "nbs": 0.9118992382995265,
        "cosine": 0.829267416310606,
        "mean_cca_mass98": 0.8300584241939657,
        "mean_cca_columns": 0.6917153534949714,
        "mean_squared_cca": 0.6891966776860389,
        "svcca_mass98": 0.8300584241939655,
        "cka_channels": 0.6333880461135428,
        "nbs_channels": 0.759557060287719,
        "cka_unbiased": 0.6637304132373492,
        "procrustes": 0.42290818405158764,
        "dimension": 76.65848044481584,
        "dimension_complete": 23.69809985002852,
        "rsa": 0.5536748828242136,
        "knn_overlap": 0.2555,
        "soft_matching": 0.6926834603718358,
        "linear_predictivity": 0.28843292696751544,
    },
}


def layers(n: int, size: int, channels: int) -> tuple[Any, Any]:
    """Two layers of whole numbers, made by a formula: rectified, alike, a channel of the second constant."""
    i = np.arange(n * size * size * channels, dtype=np.int64).reshape(n, size, size, channels)
    X = (i * i * 7919 + i * 104729) % 1009 - 400
    Y = X + (i * 31 + i * i * 17) % 607 - 300
    X, Y = np.maximum(X, 0), np.maximum(Y, 0)
    Y[..., -1] = 7
    return X.astype(np.float32), Y.astype(np.float32)


@pytest.mark.parametrize("device", ["cpu", ON_CPU])
@pytest.mark.parametrize("qdwh", [False, True])
@pytest.mark.parametrize("shape", KEPT)
def test_values_are_those_of_before(shape: tuple[int, int, int], qdwh: bool, device: str) -> None:
    X, Y = (InMemory(A, kind="out", rows=2) for A in layers(*shape))
    names = [name for name in KEPT[shape] if METRICS[name].needs == "" or importlib.util.find_spec(METRICS[name].needs)]
    with threads(1):
        found = Reference(X, names, device, qdwh=qdwh).compare(Y)
    for name in names:
        bound = {"rel": 1e-9} if "dimension" in name else {"rel": 0, "abs": 1e-12}
        assert found[name]["value"] == pytest.approx(KEPT[shape][name], **bound), name


def test_every_metric_has_a_kept_value() -> None:
    from distsim.metrics.registry import BUILT_IN

    for values in KEPT.values():
        assert set(BUILT_IN) - set(values) == {"pwcca_google"}
