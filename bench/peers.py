"""The same similarities by other libraries, each by the call that its own documentation shows for arrays.

A call takes float32 arrays (n, h, w, c) of a reference and of other networks, and returns one value for each of these.
A library is imported only when it is called.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Peer:
    """One way to compute one metric by another library."""

    package: str
    call: str  # as its documentation writes it
    metric: str  # our name for the same definition
    compute: Callable[[Array, Sequence[Array]], list[float]]
    growth: int  # its time grows at most with this power of n
    remark: str = ""  # how its definition differs

    @property
    def name(self) -> str:
        return f"{self.package} {self.call}"


def examples(X: Array) -> Array:
    return X.reshape(len(X), -1)


def pixels(X: Array) -> Array:
    return X.reshape(-1, X.shape[-1])


def _pytorch_cka(X: Array, Ys: Sequence[Array]) -> list[float]:
    import torch
    from cka.cka import cka_from_features

    features = [[torch.from_numpy(examples(A)) for A in side] for side in ([X], Ys)]
    return [float(value) for value in cka_from_features(*features)[0]]


def _ckatorch(X: Array, Ys: Sequence[Array]) -> list[float]:
    import torch
    from ckatorch.core import cka_base

    x = torch.from_numpy(examples(X))
    return [float(cka_base(x, torch.from_numpy(examples(Y)))) for Y in Ys]


def _repsim_cka(X: Array, Ys: Sequence[Array]) -> list[float]:
    import repsim

    return [float(repsim.cka([examples(X), examples(Y)], "linear", "gretton")[0, 1]) for Y in Ys]


def _repsim_cca(X: Array, Ys: Sequence[Array]) -> list[float]:
    import repsim

    return [float(repsim.cca([pixels(X), pixels(Y)], "pillai")[0, 1]) for Y in Ys]


def _repsim_svcca(X: Array, Ys: Sequence[Array]) -> list[float]:
    import repsim

    return [float(repsim.svcca([pixels(X), pixels(Y)], "pillai")[0, 1]) for Y in Ys]


def _repsim_pwcca(X: Array, Ys: Sequence[Array]) -> list[float]:
    import repsim

    return [float(repsim.pwcca([pixels(X), pixels(Y)])[0, 1]) for Y in Ys]


def _cca_zoo(X: Array, Ys: Sequence[Array]) -> list[float]:
    from cca_zoo.linear import CCA

    values = []
    for Y in Ys:
        views = [pixels(X), pixels(Y)]
        values.append(float(CCA(n_components=min(view.shape[1] for view in views)).fit(views).score(views)))
    return values


PEERS = (
    Peer("pytorch-cka", "cka_from_features", "cka_unbiased", _pytorch_cka, 3, "unbiased; float32 throughout"),
    Peer("ckatorch", "cka_base", "cka", _ckatorch, 3, "float64; its norms are torch's"),
    Peer("repsim", "cka (linear, gretton)", "cka", _repsim_cka, 3),
    Peer("repsim", "cca (pillai)", "mean_cca", _repsim_cca, 1, "divides by the rank before centring"),
    Peer("repsim", "svcca (pillai)", "svcca", _repsim_svcca, 1, "whitens before it reduces: another number"),
    Peer("repsim", "pwcca", "pwcca", _repsim_pwcca, 1, "mean of the weights of both sides"),
    Peer("cca-zoo", "CCA.fit and score", "mean_cca", _cca_zoo, 1, "mean over directions up to the smaller rank"),
)
