"""Names of metrics in the similarity repository: each once, and only of metrics that it defines alike."""

import re

from distsim.metrics import repository_name
from distsim.metrics.registry import METRICS
from distsim.metrics.repository import NAMES


def test_each_name_stands_for_one_metric_and_is_one_of_the_repository() -> None:
    assert set(NAMES) <= set(METRICS)
    assert len(set(NAMES.values())) == len(NAMES)
    for name in NAMES.values():  # a measure, its choices, and what is returned, joined by hyphens
        assert re.fullmatch(r"[a-z]+(-[a-z]+=[a-z0-9.]+)*(-(score|squared_score))?", name), name
    assert {name for name in METRICS if repository_name(name) is not None} == set(NAMES)
    assert repository_name("cka") == "cka-kernel=linear-hsic=gretton-score"
    assert repository_name("cka_unbiased") == "cka-kernel=linear-hsic=song-score"


def test_metrics_of_another_definition_have_none() -> None:
    for name in ("pwcca", "pwcca_google", "cosine", "soft_matching", "knn_overlap", "linear_predictivity", "my_own"):
        assert repository_name(name) is None
