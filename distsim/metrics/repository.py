"""The names of metrics in the similarity repository (Cloos et al. 2024; github.com/nacloos/similarity-repository).

A name there lists the choices that make a measure, and stands for its implementations of several authors:
`measure/AUTHORS/NAME` is one of them, `measure/*/NAME` all. Our metrics have a name here only where the definitions
agree, for matrices whose rows and columns are those of the metric's view (docs/metrics.md says what was tried).
"""

NAMES = {
    "mean_cca": "cca-score",
    "mean_squared_cca": "cca-squared_score",
    "svcca": "svcca-var=0.99-score",
    "cka": "cka-kernel=linear-hsic=gretton-score",
    "cka_unbiased": "cka-kernel=linear-hsic=song-score",
    "nbs": "nbs-score",
    "procrustes": "procrustes-distance=angular",
    "rsa": "rsa-rdm=euclidean-compare=spearman",
}


def repository_name(metric: str) -> str | None:
    """Return what the similarity repository calls a metric, or None if it has no measure of the same definition.

    metric : a name in `distsim.metrics.registry.METRICS`, or any other
    """
    return NAMES.get(metric)
