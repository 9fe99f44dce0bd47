"""Functional similarity of a sweep's networks to their complete network, from their logits of the test images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distsim.metrics.functional import MEASURES, measured
from distsim.results.columns import ALL_CLASSES
from distsim.specs import NetworkId
from distsim.store import DamagedStore, Mark, SweepStore
from distsim.store.logits import Logits, read


def rows(
    store: SweepStore, marks: Mapping[NetworkId, Mark], networks: Mapping[NetworkId, Mark], classes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table of each pruned network whose logits are there, and its complete network's.

    marks : of logits; networks : of the networks themselves. DamagedStore: logits are damaged
    """
    references: dict[NetworkId, Logits] = {}
    for network, mark in marks.items():
        origin = network.origin
        if network.is_complete or origin not in marks:
            continue
        if origin not in references:
            references[origin] = read(store, origin, marks[origin])
        record = networks[network].values
        named = {"problem": store.problem, "complete": network.complete, "control": network.control}
        named |= {"run": network.run, "iteration": network.iteration}
        named |= {name: record[name] for name in ("remaining", "remaining_pool")}
        try:
            measures = list(compared(references[origin], read(store, network, mark), classes))
        except ValueError as error:
            raise DamagedStore(f"{network.label} in {store.storage.url}: {error}") from None
        yield from (named | of_class for of_class in measures)


def compared(reference: Logits, other: Logits, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the measures of all test images, then of each class that has any.

    reference : of the complete network, with labels. ValueError: they are of other images or classes
    """
    labels, shapes = reference.labels, (reference.margins.shape, other.margins.shape)
    if labels is None or shapes[0] != shapes[1]:
        raise ValueError(f"test logits: {shapes[0]} of the complete network and {shapes[1]} are not of the same images")
    of_images = measured(reference.margins, other.margins, labels)
    chosen = [(ALL_CLASSES, np.ones(len(labels), bool)), *((name, labels == at) for at, name in enumerate(classes))]
    for name, which in chosen:
        if which.any():
            values = {measure: float(of_images[measure][which].mean()) for measure in MEASURES}
            yield {"class": name, "n": int(which.sum()), **values}
