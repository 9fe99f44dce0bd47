"""Comparison of whole networks as on a GPU, one forward pass each: on the CPU, with torch's tensors."""

import dataclasses
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distsim.activations.layout import Float16Check
from distsim.comparison.devices import ON_CPU
from distsim.environment import threads
from distsim.metrics import kernels, reads
from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.results import reduce as results
from distsim.results.reduce import read_tables
from distsim.specs import NetworkId
from distsim.store import Storage, SweepStore
from distsim.sweep import comparison_worker, cost, jobs, on_device
from distsim.sweep.comparison_worker import ComparisonWorker
from distsim.sweep.engine import LocalEngine
from distsim.sweep.failures import SweepFailed
from distsim.sweep.forecast import comparison_forecast
from distsim.sweep.on_device import OnDevice
from distsim.sweep.order import Prepared, prepare, take
from distsim.sweep.run import run

SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=200, train_limit=200)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "draw", lambda root, again=False: [])


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons go the way of `--activations memory` on a GPU."""
    in_memory = jobs.by_network
    monkeypatch.setattr(jobs, "by_network", lambda sweep: in_memory(dataclasses.replace(sweep, device="cuda")))
    before = ComparisonWorker.__init__

    def init(self: ComparisonWorker, *args: Any, **options: Any) -> None:
        before(self, *args, **options)
        self._device = ON_CPU

    monkeypatch.setattr(ComparisonWorker, "__init__", init)


def ordered(**choices: Any) -> Prepared:
    return prepare(SMALL, **{"runs": 2, "iterations": 2, "activations": "memory"} | choices)


def computed(folder: Path, one: Prepared) -> bool:
    take([one], Storage(folder))
    return run([one], Storage(folder), LocalEngine(Storage(folder)), lambda line: None)


@pytest.fixture(scope="module")
def layer_by_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw", lambda root, again=False: [])
        assert computed(folder, ordered())
    return folder


def same_tables(folder: Path, expected: Path, but: str = "") -> None:
    found, wanted = read_tables(Storage(folder)), read_tables(Storage(expected))
    for table in ("similarities", "chance"):
        ours, theirs = getattr(found, table), getattr(wanted, table)
        assert len(ours) == len(theirs) > 0
        for column in ours:
            if ours[column].dtype.kind == "f":
                np.testing.assert_allclose(ours[column], theirs[column], rtol=0, atol=1e-12, err_msg=column)
            else:
                pd.testing.assert_series_equal(ours[column], theirs[column])


def dtypes(folder: Path) -> dict[str, tuple[str, str]]:
    marks = SweepStore(Storage(folder), "digits").comparisons(of=NetworkId(0, 1))
    return {
        layer: (mark.provenance["dtype_x"], mark.provenance["dtype_y"])
        for (_, layer), found in marks.items()
        for mark in found
    }


@pytest.mark.usefixtures("as_on_a_gpu")
def test_values_are_those_of_the_cpu(layer_by_layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    held = on_device.held_together

    def counted(network: Any, probe: Any, layers: Any, *args: Any) -> Any:
        passes.append(len(layers))
        return held(network, probe, layers, *args)

    monkeypatch.setattr(on_device, "held_together", counted)
    monkeypatch.setattr(comparison_worker, "held", None)
    assert computed(tmp_path, ordered())
    assert passes == [8] * (1 + 4 + 4 + 1), (
        "one forward pass each: the complete network, 4 others, 4 of controls, one for chance"
    )
    assert not computed(tmp_path, ordered()), "nothing is missing"
    same_tables(tmp_path, layer_by_layer)
    assert dtypes(tmp_path) == dtypes(layer_by_layer)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_where_memory_is_short_it_goes_layer_by_layer(
    layer_by_layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison_worker, "free_on", lambda device: 1e6)
    monkeypatch.setattr(OnDevice, "compare", None)
    computed(tmp_path, ordered())
    same_tables(tmp_path, layer_by_layer)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_what_float16_cannot_hold_is_held_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distsim.activations.layout.FLOAT16_LARGEST", 0.5)
    choices: dict[str, Any] = {"runs": 1, "iterations": 1, "chance": False}
    computed(tmp_path / "network", ordered(**choices))
    assert ("float32", "float32") in dtypes(tmp_path / "network").values()
    monkeypatch.setattr(OnDevice, "fits", lambda *_: False)
    computed(tmp_path / "layer", ordered(**choices))
    assert dtypes(tmp_path / "network") == dtypes(tmp_path / "layer")
    found, wanted = (read_tables(Storage(tmp_path / name)).similarities["value"] for name in ("network", "layer"))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_network_that_cannot_be_loaded_does_not_hold_up_others(tmp_path: Path) -> None:
    one = ordered(iterations=1, chance=False)
    computed(tmp_path, one)
    store = SweepStore(Storage(tmp_path), "digits")
    for path in [path for path in store.storage.sizes() if "/comparison/" in path]:
        store.storage.delete([path])
    mark = store.mark(NetworkId(0, 1))
    assert mark is not None
    path = f"runs/0000/iter_01/attempt-{mark.attempt}/weights.safetensors"
    store.storage.put(path, b"x" + (store.storage.get(path) or b"")[1:])
    with pytest.raises(SweepFailed, match=r"runs/0000/iter_01.* is damaged"):
        computed(tmp_path, one)
    assert {network for network, _ in store.contents().comparisons} == {NetworkId(1, 1)}


# --- one network ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(layer_by_layer: Path) -> tuple[OnDevice, dict[str, tuple[str, ...]]]:
    one = ordered()
    store = SweepStore(Storage(layer_by_layer), "digits")
    worker = ComparisonWorker(store, one.sweep, one.dataset)
    wanted = {layer.name: one.sweep.extent.metrics for layer in build(one.sweep.problem).layers}
    weights = lambda which: store.load_network(which).weights  # noqa: E731
    device = OnDevice(one.sweep, worker._probe, weights, worker._forwarded, ON_CPU)
    device.prepare(wanted)
    return device, wanted


class Discipline(TorchDispatchMode):
    """A block in which no number is looked at and no size follows from values, but while `reads.read` runs."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masked = name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in self.FORBIDDEN or masked:
            raise AssertionError(f"the host waits for {name}")
        if name == "cumsum" and args[0].is_floating_point():
            raise AssertionError("on a GPU that has to repeat itself PyTorch has no cumulative sums")
        return func(*args, **(kwargs or {}))


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted, read = [0], reads.read

    def counting(value: Any) -> Any:
        counted[0] += isinstance(value, torch.Tensor)
        return read(value)

    monkeypatch.setattr(reads, "read", counting)
    return counted


def test_the_host_waits_once_for_a_network(
    whole: tuple[OnDevice, dict[str, tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the route of a data-centre GPU. On others the eigenvalues of dead features are looked at."""
    device, wanted = whole
    monkeypatch.setattr(kernels, "on_full_rate", lambda A: True)
    counted = counted_reads(monkeypatch)
    with Discipline():
        found = {layer: results() for layer, results, _ in device.compare(NetworkId(0, 1), wanted)}
    assert found.keys() == wanted.keys()
    assert counted == [1]


@pytest.mark.parametrize("look", [bool, float, lambda x: x[x > 0], torch.nonzero])
def test_a_look_at_a_number_is_found_out(look: Any) -> None:
    with Discipline(), pytest.raises(AssertionError, match="the host waits"):
        look(torch.ones(1))


def test_activations_that_are_not_finite_fail_their_layer_only(
    whole: tuple[OnDevice, dict[str, tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, wanted = whole
    load = device._weights

    def broken(which: NetworkId) -> Any:
        weights = dict(load(which))
        return weights | {"out.bias": torch.full_like(weights["out.bias"], torch.inf)}

    monkeypatch.setattr(device, "_weights", broken)
    failed = []
    for layer, results_of, _ in device.compare(NetworkId(0, 1), wanted):
        try:
            results_of()
        except FloatingPointError as error:
            failed.append((layer, str(error)))
    assert failed == [("out", "digits, run 0, iteration 1: layer out has activations that are not finite")]


class Peak(TorchDispatchMode):
    """A block that measures the most bytes that tensors take in it."""

    def __init__(self) -> None:
        super().__init__()
        self.most, self._sizes, self._alive = 0, dict[int, int](), list[Any]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self._alive.append(weakref.ref(tensor))
        tensors = [tensor for ref in self._alive if (tensor := ref()) is not None]
        self._alive = [weakref.ref(tensor) for tensor in tensors]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        self.most = max(self.most, sum(storages.values()))
        return made


def test_the_memory_that_it_takes_is_forecast(whole: tuple[OnDevice, dict[str, tuple[str, ...]]]) -> None:
    device, wanted = whole
    fresh = OnDevice(device.sweep, device.probe, device._weights, device._again, ON_CPU)
    with Peak() as peak:
        fresh.prepare(wanted)
        for _ in range(2):
            for _, results_of, _ in fresh.compare(NetworkId(0, 1), wanted):
                results_of()
    shapes = {name: (len(device.probe.images), *device._shapes[name]) for name in wanted}
    forecast = cost.memory_on_device(shapes, {"conv1_1", "conv1_2", "pool1", "conv2_1", "conv2_2", "pool2"})
    assert 0.2 * forecast < peak.most < forecast
    assert fresh.fits(wanted, 2 * forecast)
    assert not fresh.fits(wanted, forecast)


# --- float16 ----------------------------------------------------------------------------------------------------------


def rows(kind: str) -> torch.Tensor:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((4000, 12)).astype(np.float32)
    match kind:
        case "large mean":
            A += 300
        case "dead channels":
            A[:, 3:7] = 0
        case "all dead":
            A[:] = 0.3
        case "nearly the same":
            A[:] = A[:, :1] + 1e-4 * A
        case "equal channels":
            A[:, 6:] = A[:, :6]
        case "too large":
            A *= 1e5
        case "one channel":
            A = A[:, :1]
    return torch.tensor(A)


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "large mean",
        "dead channels",
        "all dead",
        "nearly the same",
        "equal channels",
        "too large",
        "one channel",
    ],
)
def test_the_device_decides_on_float16_as_the_cpu_does(kind: str) -> None:
    A = rows(kind)
    check = Float16Check(A.shape[1], A.device)
    for block in A.split(900):
        check.add(block)
    with Discipline():
        safe = check.safe
    assert bool(safe) is bool(check)


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_on_a_gpu_jobs_are_networks_and_their_memory_is_said(tmp_path: Path) -> None:
    one = ordered()
    on_gpu = dataclasses.replace(one, sweep=dataclasses.replace(one.sweep, device="cuda"))
    lacking = {NetworkId(run, 1): {"conv1_1": ("cka",), "fc1": ("nbs",)} for run in range(50)}
    made = jobs.comparisons(lacking, on_gpu.sweep, slots=1)
    assert [len(job.networks) for job in made] == [20, 20, 10], "a job that dies begins anew"
    assert [(layer.layer, layer.all_metrics) for layer in made[0].layers] == [("conv1_1", ("cka",)), ("fc1", ("nbs",))]
    assert made[0].label == "run 0, iteration 1 to run 19, iteration 1"
    said = comparison_forecast([on_gpu], made, LocalEngine(Storage(tmp_path)))
    assert said.endswith("of the GPU's memory")
    layers = jobs.comparisons(lacking, one.sweep, slots=1)
    assert [job.label for job in layers] == ["layer conv1_1", "layer fc1"]
    assert "memory" not in comparison_forecast([one], layers, LocalEngine(Storage(tmp_path)))
