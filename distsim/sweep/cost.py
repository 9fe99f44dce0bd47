"""Forecast what training and comparisons cost: images, bytes, floating point operations and time."""

import dataclasses
import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distsim.activations.layout import chunk_shape
from distsim.activations.probe import BATCH
from distsim.comparison.sides import COLUMNS, HELD
from distsim.data import augment
from distsim.metrics.jackknife import BLOCKS
from distsim.metrics.registry import FROM_SUMS, known
from distsim.models import Network, build
from distsim.seeds import torch_stream
from distsim.specs import Problem
from distsim.training.fused_stepper import FusedStepper
from distsim.training.stepper import Arithmetic, State, Stepper, fix_workspace, settle
from distsim.words import duration as duration
from distsim.words import readable as readable

READING = 0.5e9  # bytes a second that one process reads and decodes, or computes in a forward pass
EIGENVALUES = 4  # times as long as a product of as many FLOPs
ON_GPU = 0.8e12  # FLOP/s of eigenvalues at most, which wait for a GPU's memory: an H100's at n = 5,000, in float64
SIZE = 1000  # of the product that is timed: a tenth of a second on one core
SIZE_ON_GPU = 4096
FEW = 16  # images of the batch with which a measurement of training begins on a CPU
LONG = 10.0  # seconds for which a measurement of training waits for its first two steps


@dataclass(frozen=True)
class Cost:
    """What comparisons cost. Costs can be added."""

    bytes: float = 0.0  # of activations, decoded
    flops: float = 0.0  # of float64 and float32 products
    of_eigenvalues: float = 0.0  # FLOP of eigenproblems, which run slower

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.flops + other.flops, self.of_eigenvalues + other.of_eigenvalues)

    def times(self, count: int) -> "Cost":
        """Return the cost of as many such comparisons."""
        return Cost(count * self.bytes, count * self.flops, count * self.of_eigenvalues)

    def seconds(self, rate: float, at_once: int = 1, device: str = "cpu") -> float:
        """Return about how long it takes with `at_once` comparisons, to a factor of two or three.

        rate : FLOP/s of the device's float64 products
        """
        of_eigenvalues = rate / EIGENVALUES if device == "cpu" else min(rate / EIGENVALUES, ON_GPU)
        return (self.bytes / READING + self.flops / rate + self.of_eigenvalues / of_eigenvalues) / at_once

    def sentence(self, rate: float | None, at_once: int = 1, device: str = "cpu") -> str:
        """Return the cost in words. Arguments: see `seconds`. rate : None leaves the time out"""
        flops = (self.flops + self.of_eigenvalues) / 1e12
        text = f"{readable(self.bytes)} to read, {flops:.3g} TFLOP"
        return text if rate is None else f"{text}, about {duration(self.seconds(rate, at_once, device))}"


def layer_cost(shape: tuple[int, ...], itemsize: int, networks: int, pairs: int, metrics: Iterable[str]) -> Cost:
    """Return the cost of one layer: `networks` networks are read once each, `pairs` pairs of them are compared.

    shape : (n, h, w, c) or (n, p)
    """
    views = {metric.view for metric in known(metrics)}
    n, p, c = shape[0], math.prod(shape[1:]), shape[-1]
    total = Cost(bytes=float(networks * n * p * itemsize))
    if "channels" in views:
        total += Cost(flops=2.0 * n * p * c * (networks + pairs), of_eigenvalues=9.0 * c**3 * (networks + pairs))
    if "kernel" in views and p >= n:  # Gram matrices, their Cholesky factors, congruences
        total += Cost(flops=networks * (float(n) ** 2 * p + n**3 / 3) + pairs * (4 / 3 * n**3 + 2.0 * n**2))
        total += Cost(of_eigenvalues=pairs * 4 / 3 * n**3)
    elif "kernel" in views:
        total += Cost(flops=networks * 2.0 * n * p**2 + pairs * (2.0 * n * p**2 + p**3))
        total += Cost(of_eigenvalues=pairs * 4 / 3 * p**3)
    return total


def beside_cost(shape: tuple[int, ...], nulls: Iterable[tuple[int, Iterable[str]]], se: Iterable[str]) -> Cost:
    """Return the cost of what is measured beside one pair's values of a layer, from the same pass.

    nulls : numbers of permutations, and the metrics that are computed with each; se : metrics with a standard error
    """
    total = Cost()
    for permutations, metrics in nulls:
        total += layer_cost(shape, 0, 0, permutations, metrics)
    chosen = known(se)
    n, p, c = shape[0], math.prod(shape[1:]), shape[-1]
    if any(metric.view == "channels" for metric in chosen):  # sums over blocks of a side and of the cross-products
        total += Cost(flops=4.0 * n * p * c, of_eigenvalues=BLOCKS * 9.0 * c**3 * 2)
    if any(metric.name in FROM_SUMS for metric in chosen):
        total += Cost(flops=6.0 * n**2 * BLOCKS if p >= n else 6.0 * n * p**2)
    if costly := [metric.name for metric in chosen if metric.view == "kernel" and metric.name not in FROM_SUMS]:
        total += layer_cost(shape, 0, 0, BLOCKS, costly) + Cost(flops=BLOCKS * 2 / 3 * min(n, p) ** 3)
    return total


def product_rate(device: str = "cpu", here: bool = True) -> float | None:
    """Measure FLOP/s of float64 matrix products on the device; on the CPU with the threads as they are set.

    here : the work is done on this machine. None: it has no such device, or another machine's GPU does the work
    """
    if device != "cpu":
        return _rate_on_gpu() if here and torch.cuda.is_available() else None
    A = np.random.default_rng(0).standard_normal((SIZE, SIZE))
    A[:100] @ A  # what the first product sets up is not timed
    started = time.perf_counter()
    A @ A
    return 2 * SIZE**3 / (time.perf_counter() - started)


def _rate_on_gpu() -> float:
    fix_workspace()
    A = torch.rand(SIZE_ON_GPU, SIZE_ON_GPU, dtype=torch.float64, device="cuda")
    taken = []
    for _ in range(4):  # the first makes cuBLAS ready
        torch.cuda.synchronize()
        started = time.perf_counter()
        A @ A
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return 2 * SIZE_ON_GPU**3 / min(taken)


def comparison_memory(shape: tuple[int, ...], panel_rows: int) -> float:
    """Return the most bytes that comparing one layer, (n, h, w, c) or (n, p), adds to a process.

    These are Gram matrices, one of permuted examples among them, and what is made of them, a panel of each network as
    it is stored, and a few of its columns centred. Measured by bench/metrics.py, section 3.
    """
    n, p = shape[0], math.prod(shape[1:])
    smaller = min(n, p)
    panel = 2 * n * math.prod(shape[2:]) * panel_rows if len(shape) == 4 else 8 * n * p
    return 8 * 8.0 * n * smaller + 2 * (panel + 8.0 * n * min(p, COLUMNS))


def memory_on_device(shapes: Mapping[str, tuple[int, ...]], half: Collection[str]) -> float:
    """Return the most bytes that comparing networks one by one, with all layers of these shapes, takes on a device.

    These are both networks' activations, the complete network's sides, the other network's statistics until its numbers
    are read, what a forward pass keeps of a batch, and what comparing the largest layer takes besides.
    shapes : by layer, (n, h, w, c) or (n, p); half : the layers that are held in float16
    """
    total, batch, most = 0.0, 0.0, 0.0
    for name, shape in shapes.items():
        n, p, c = shape[0], math.prod(shape[1:]), shape[-1]
        smaller = min(n, p)
        total += 2.0 * n * p * (2 if name in half else 4)  # activations
        total += min(8.0 * n * p, HELD)  # the complete network's, centred, if they are kept
        total += 4 * 8.0 * n * smaller  # two sides' Gram matrices or features, and their roots
        total += 16 * 8.0 * c * c  # products of channels and what follows from them, sums of the check for float16
        batch += 2 * 4.0 * BATCH * p
        most = max(most, comparison_memory(shape, chunk_shape(shape)[1]))
    return total + batch + most


def images_to_train(problem: Problem, training_images: int, complete: int, pruned: int) -> int:
    """Return how many images pass forward and backward through networks in training.

    complete : number of complete networks
    pruned : number of pruned networks

    With early stopping it is the most that they can be.
    """
    recipe, pruning = problem.recipe, problem.pruning
    batch = min(recipe.batch_size, training_images)
    if recipe.patience is not None:
        training_images -= round(recipe.validation * training_images)
    epochs = {"WR": recipe.epochs - pruning.rewind_epoch, "LRR": recipe.epochs, "FT": pruning.finetune_epochs}
    return training_images // batch * batch * (recipe.epochs * complete + epochs[pruning.rewind] * pruned)


def training_rate(
    problem: Problem,
    classes: int,
    device: str,
    precision: str = "float32",
    enough: float = 1.0,
    pack: int = 1,
    compiled: bool = False,
    fuse: int = 1,
) -> float:
    """Measure images per second of this problem's training, with the threads as they are set.

    enough : seconds to measure
    pack : number of trainings that take turns, on a GPU each on a stream of its own
    compiled : the networks are compiled first, which is not counted
    fuse : number of runs that are trained in one step, whose images are counted together

    Where two steps would take longer than LONG, which is where a processor has no instructions for the precision, or a
    batch is large, the rate is that of a step with fewer images, and about right.
    """
    if device == "cpu" and not compiled and (slow := _slow_rate(problem, classes, precision, fuse)):
        return slow  # compiling for another size of batch would take longer than a slow step
    if fuse > 1:
        return _rate_of([_FusedLane(problem, classes, torch.device(device), precision, compiled, fuse)], enough)
    return next(pack_rates(problem, classes, device, precision, (pack,), enough, compiled))


def pack_rates(
    problem: Problem,
    classes: int,
    device: str,
    precision: str,
    packs: Iterable[int],
    enough: float,
    compiled: bool = False,
) -> Iterator[float]:
    """Yield images per second of packs of these sizes, ascending, as `training_rate` measures each.

    A larger pack goes on with the runs of the smaller one. So nothing of a GPU is freed while it works.
    """
    lanes: list[_Lane] = []
    for pack in packs:
        lanes += [_Lane(problem, classes, torch.device(device), precision, compiled) for _ in range(pack - len(lanes))]
        yield _rate_of(lanes, enough)


def _rate_of(lanes: list["_Lane"], enough: float) -> float:
    """Measure images per second of runs that take turns."""
    images = len(lanes) * lanes[0].images  # in a step of each
    on_gpu = lanes[0].stepper.device.type == "cuda"
    started = time.perf_counter()
    for lane in lanes * 2:  # the first steps choose kernels and allocate memory
        lane.step()
    lanes[0].wait()
    if (taken := time.perf_counter() - started) > 2 * enough:  # so slow that this start says enough
        return 2 * images / taken
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < enough:
        for _ in range(50 if on_gpu else 1):  # a GPU loses time when it is waited for
            for lane in lanes:
                lane.step()
            steps += 1
        lanes[0].wait()
    return steps * images / (time.perf_counter() - started)


def _slow_rate(problem: Problem, classes: int, precision: str, fuse: int = 1) -> float | None:
    """Measure images per second of a step of FEW images on the CPU. None: whole steps can be waited for."""
    batch = problem.recipe.batch_size
    recipe = dataclasses.replace(problem.recipe, batch_size=min(FEW, batch))
    lane = _Lane(dataclasses.replace(problem, recipe=recipe), classes, torch.device("cpu"), precision)
    taken = 0.0
    for _ in range(2):  # the first step chooses kernels and allocates memory; one that is as slow says enough
        started = time.perf_counter()
        lane.step()
        taken = time.perf_counter() - started
        if taken > LONG / 4:
            break
    rate = recipe.batch_size / taken
    return rate if 2 * batch * fuse / rate > LONG else None


class _Lane:
    """A network that is trained on noise."""

    def __init__(
        self, problem: Problem, classes: int, device: torch.device, precision: str, compiled: bool = False
    ) -> None:
        settle(device, False)
        recipe, n = problem.recipe, 4 * problem.recipe.batch_size
        generator = torch_stream(0, "rate")
        images = torch.randint(256, (n, problem.channels, problem.size, problem.size), generator=generator)
        network = build(problem, classes, generator)
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        pictures = augment.Pictures(images.byte().to(device), *(torch.full((problem.channels,), 0.5),) * 2)
        labels = torch.arange(n, device=device) % classes
        arithmetic = Arithmetic(precision, compile=compiled)
        self.stepper = self._stepper(network.to(device), pictures, labels, recipe, arithmetic)
        self._reset(weights)
        self._draws, self._at = augment.draw(recipe.augment, n, problem.size, generator), self.stepper.steps

    def _stepper(self, *of: Any) -> Stepper:
        return Stepper(*of)

    def _reset(self, weights: State) -> None:
        self.stepper.reset(weights, {})

    @property
    def images(self) -> int:
        """Return the number of images in a step."""
        return self.stepper.batch

    def step(self) -> None:
        if self._at == self.stepper.steps:
            rates, seeds = [0.0] * self._at, range(self.stepper.dropouts)
            self._begin(torch.arange(self.stepper.examples), self._draws, rates, seeds)
            self._at = 0
        self.stepper.step()
        self._at += 1

    def _begin(self, order: torch.Tensor, draws: State, rates: list[float], seeds: range) -> None:
        self.stepper.begin(order, draws, rates, seeds)

    def wait(self) -> None:
        if self.stepper.device.type == "cuda":
            torch.cuda.synchronize(self.stepper.device)


class _FusedLane(_Lane):
    """Fused networks that are trained on noise."""

    def __init__(
        self, problem: Problem, classes: int, device: torch.device, precision: str, compiled: bool, fuse: int
    ) -> None:
        self._fuse = fuse
        super().__init__(problem, classes, device, precision, compiled=compiled)

    def _stepper(self, network: Network, *of: Any) -> FusedStepper:
        return FusedStepper(network, self._fuse, *of)

    def _reset(self, weights: State) -> None:
        assert isinstance(self.stepper, FusedStepper)
        self.stepper.reset_runs({slot: (weights, {}) for slot in range(self._fuse)})

    @property
    def images(self) -> int:
        return self._fuse * self.stepper.batch

    def _begin(self, order: torch.Tensor, draws: State, rates: list[float], seeds: range) -> None:
        together = {name: values.expand(self._fuse, *values.shape) for name, values in draws.items()}
        super()._begin(order.expand(self._fuse, -1), together, rates, seeds)
