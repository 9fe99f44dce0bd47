"""Accept what a caller passes as `data`: a location, or images and labels."""

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
    """Return the problem with its source set, the data's location ("" if there is none), and the data set if given.

    A plain path means a folder with one subfolder of images per class. For a problem of published data it means the
    folder where these are kept.
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
    problem: specs.Problem, location: str, dataset: Dataset | None, download: bool, reading: specs.Reading
) -> tuple[specs.Problem, Dataset | None]:
    """Return the problem with size, channels and probe taken from the data where it left them open; and the data set.

    The data set is None if nothing had to be loaded for this.
    """
    if dataset is not None:
        reading.require_folder("")
    if not isinstance(problem, ProblemOfData):
        return problem, dataset
    if dataset is None:
        if "size" in problem.of_data and location:
            raise ValueError(
                "size: images in a folder are cropped and resized; give the size in pixels, as in Problem(size=32)"
            )
        problem = _with(problem, channels=3)
        dataset = load(problem, location, download=download, reading=reading)
    else:
        _, channels, height, width = dataset.train_images.shape
        if "size" in problem.of_data and height != width:
            raise ValueError(
                f"data: images are {height} x {width} pixels, and networks take square ones; with Problem(size=...) "
                "they are cropped and resized"
            )
        problem = _with(problem, channels=channels, size=height)
        dataset = suited(problem, dataset)
    images = dataset.test_labels if problem.probe_from == "test" else dataset.train_labels
    return problem.settled(probe=min(PROBE, len(images))), dataset


def _with(problem: ProblemOfData, **fields: Any) -> ProblemOfData:
    return dataclasses.replace(problem, **{name: fields[name] for name in fields if name in problem.of_data})
