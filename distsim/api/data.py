"""What a caller passes as `data`, for a problem: a location, or images and labels."""

import dataclasses
from pathlib import Path
from typing import Any

from distsim import specs
from distsim.api.problem import PROBE, ProblemOfData
from distsim.data import Dataset, load, suited
from distsim.data.arrays import dataset_of
from distsim.problems import ARRAYS


def placed(
    problem: specs.Problem, data: Any, classes: tuple[str, ...] = ()
) -> tuple[specs.Problem, str, Dataset | None]:
    """Return the problem with the source that the data are, their location ("" for none), and the data set if given.

    A plain path is a folder of images per class where the problem has no published source, else where that is kept.
    """
    if data is None:
        return problem, "", None
    if isinstance(data, str | Path):
        own = problem.source in (ARRAYS, "folder")
        location = f"folder:{data}" if own and not str(data).startswith(("folder:", "files:")) else str(data)
        return (dataclasses.replace(problem, source="folder") if own else problem), location, None
    dataset = dataset_of(data, classes or problem.classes)
    if problem.source != ARRAYS:  # the papers' claims are not about these images
        problem = dataclasses.replace(problem, source=ARRAYS, reduced=True)
    return problem, "", dataset


def settled(
    problem: specs.Problem, location: str, dataset: Dataset | None, download: bool
) -> tuple[specs.Problem, Dataset | None]:
    """Return the problem with what it left to the data, and the data set if it is loaded by now."""
    if not isinstance(problem, ProblemOfData):
        return problem, dataset
    if dataset is None:
        if "size" in problem.of_data and location:
            raise ValueError(
                "size: images of a folder are cropped and resized, so say to how many pixels: Problem(size=)"
            )
        problem = _with(problem, channels=3)
        dataset = load(problem, location, download=download)
    else:
        _, channels, height, width = dataset.train_images.shape
        if "size" in problem.of_data and height != width:
            raise ValueError(
                f"data: images are {height} x {width} pixels, and networks take squares: with Problem(size=) they are "
                "cropped and resized"
            )
        problem = _with(problem, channels=channels, size=height)
        dataset = suited(problem, dataset)
    return problem.settled(probe=min(PROBE, len(dataset.train_labels))), dataset


def _with(problem: ProblemOfData, **fields: Any) -> ProblemOfData:
    return dataclasses.replace(problem, **{name: fields[name] for name in fields if name in problem.of_data})
