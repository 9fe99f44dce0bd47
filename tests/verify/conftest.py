"""A finished store, made once for all tests of verify and repair."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import flips

from distsim.store import Storage, SweepStore
from distsim.verify.report import Finding, Report
from distsim.verify.store import verify_store


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store, with what interrupted writers left behind. Not to be changed."""
    folder = tmp_path_factory.mktemp("kept") / "store"
    with flips.undrawn():
        flips.make(folder)
    return folder


@pytest.fixture
def root(kept: Path, tmp_path: Path) -> Path:
    """The same to change."""
    return Path(shutil.copytree(kept, tmp_path / "store"))


@pytest.fixture
def store(root: Path) -> SweepStore:
    return SweepStore(Storage(root), "digits")


@pytest.fixture(scope="session")
def healthy(kept: Path) -> Report:
    return verify_store(Storage(kept))


@pytest.fixture
def new(root: Path, healthy: Report) -> Callable[[], list[Finding]]:
    """What verify says of the changed store, and did not say before."""

    def found() -> list[Finding]:
        said = set(healthy.findings)
        return [finding for finding in verify_store(Storage(root)).findings if finding not in said]

    return found
