"""Titles of problems in figures: of the papers' problems in words, of others their names."""

from collections.abc import Iterable, Mapping

from distsim.problems import CIFAR_CLASSES, PROBLEMS, departures
from distsim.specs import Problem

Titles = Mapping[str, str]  # problem -> its title, where that is not its name
IN_WORDS = {
    **{f"cifar{number}": f"CIFAR-10, {number} of {len(CIFAR_CLASSES)} classes" for number in (2, 4, 6, 8)},
    "cifar10": "CIFAR-10, all classes",
    "vgg16_cifar10": "CIFAR-10, VGG16",
    "resnet_fast_cifar10": "CIFAR-10, ResNet_fast",
    "vgg_svhn": "SVHN, VGG",
    "lenet5_mnist": "MNIST, LeNet-5",
    "digits": "8×8 digits, VGG",
}
_NETWORK_OR_DATA = {"source", "model", "size", "channels", "classes"}


def titles_of(problems: Iterable[Problem]) -> dict[str, str]:
    """Return the titles of problems. A problem that differs from the papers' of its name says so.

    The papers compare on training images, so a comparison on test images is named too.
    """
    return {problem.name: _title(problem) for problem in problems}


def title(problem: str, titles: Titles | None) -> str:
    """Return the title of a problem, or its name where it has none."""
    return (titles or {}).get(problem, problem)


def in_order(problems: Iterable[str]) -> list[str]:
    """Return each problem once: the papers' problems in the papers' order, then the others by name."""
    present = set(problems)
    return [name for name in PROBLEMS if name in present] + sorted(present - PROBLEMS.keys())


def _title(problem: Problem) -> str:
    changed = set(departures(problem)) - {"reduced"}
    same = problem.name in IN_WORDS and not changed & _NETWORK_OR_DATA
    said = [IN_WORDS[problem.name] if same else problem.name]
    if problem.name in PROBLEMS and (problem.reduced or changed) and changed != {"probe_from"}:
        said.append("reduced")
    return ", ".join([*said, *(["test images"] if problem.probe_from == "test" else [])])
