"""Functional similarity: how alike two networks' predictions are, whatever their representations are.

All functions take logits of the same images, (n, classes); adding a number to all logits of an image changes nothing.
Klabunde et al. 2025 survey these measures.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MEASURES = ("agreement", "churn", "jsd", "lost", "won")
Numbers = NDArray[np.floating[Any]]


def differing(X: Numbers, Y: Numbers) -> NDArray[np.bool_]:
    """Return for each image, (n,), whether the two networks predict different classes. Of equal logits the first wins.

    Its mean is the churn of Milani Fard et al. 2016, P(argmax x ≠ argmax y), in [0, 1]; 1 - churn is the agreement.
    """
    return np.asarray(X.argmax(axis=1) != Y.argmax(axis=1))


def divergences(X: Numbers, Y: Numbers) -> NDArray[np.float64]:
    """Return for each image, (n,), the Jensen–Shannon divergence of the two softmax outputs, in bits, in [0, 1].

        JSD(p, q) = (KL(p ‖ m) + KL(q ‖ m))/2      m = (p + q)/2, logarithms to base 2

    Lin 1991, Eq. 4.1 with equal weights. It is 0 for equal outputs, and 1 for outputs that share no class.
    """
    p, q = softmax(X), softmax(Y)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 · log 0 is 0
        terms = [np.where(r > 0, r * np.log2(r / middle), 0.0).sum(axis=1) for r in (p, q)]
    return np.clip((terms[0] + terms[1]) / 2, 0.0, 1.0)  # rounding may leave [0, 1] by a unit


def softmax(X: Numbers) -> NDArray[np.float64]:
    """Return the probabilities of the classes, float64 (n, classes)."""
    powers = np.exp(X.astype(np.float64) - X.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def measured(X: Numbers, Y: Numbers, labels: NDArray[np.integer[Any]]) -> dict[str, NDArray[np.float64]]:
    """Return each of `MEASURES` for each image, (n,). Their means over images are the measures.

    X, Y : logits of the reference and of the other network. labels : (n,), the images' classes

    lost : 1 where the reference is right and the other network is not; won : the other way round
    """
    churn = differing(X, Y)
    right, still = X.argmax(axis=1) == labels, Y.argmax(axis=1) == labels
    found = {"agreement": ~churn, "churn": churn, "lost": right & ~still, "won": ~right & still}
    whole = {name: of_images.astype(np.float64) for name, of_images in found.items()} | {"jsd": divergences(X, Y)}
    return {name: whole[name] for name in MEASURES}
