"""What stands beside a verdict about the images that it rests on."""

from pathlib import Path

import pytest

from distsim.problems import PROBLEMS
from distsim.results.claims.images import remark
from distsim.specs import Extent, Identity, Request
from distsim.store import Storage, SweepStore


def store(folder: Path, problem: str, data: str | None) -> SweepStore:
    """A store in which nothing is done yet. data : None: it has no request."""
    one = SweepStore(Storage(folder), problem)
    one.claim(Identity(PROBLEMS[problem], data_digest="0" * 64))
    if data is not None:
        one.write_request(Request(Extent(runs=1, iterations=1), data, "cpu"))
    return one


@pytest.mark.parametrize(
    ("problem", "data", "expected"),
    [
        ("cifar2", "", ""),  # where torchvision keeps it, with published checksums
        ("cifar2", "/data/torchvision", ""),
        ("cifar2", "folder:/data/cifar10-jpeg", "on re-encoded images"),
        ("vgg_svhn", "files:/data/svhn", "on re-encoded images"),
        ("vgg16_cifar10", "folder:/data/animals", "on re-encoded images"),
        ("lenet5_mnist", None, "on images of unknown origin"),
        ("digits", "", ""),  # they come with scikit-learn
    ],
)
def test_images_that_are_not_the_published_ones_are_named(
    tmp_path: Path, problem: str, data: str | None, expected: str
) -> None:
    assert remark(store(tmp_path, problem, data)) == expected


def test_a_damaged_request_says_nothing_of_the_images(tmp_path: Path) -> None:
    one = store(tmp_path, "cifar2", "folder:/data")
    (tmp_path / "cifar2" / "request.json").write_text("{")
    assert remark(one) == "on images of unknown origin"
