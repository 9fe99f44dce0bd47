"""The networks on which is measured: trained and pruned a little, with their activations in a store on disk.

The library's own training, pruning and extraction make everything, so spectra, dead channels, dtypes and chunks are
those of a sweep. Without a folder of images, images are drawn at random.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from place import Place

from distsim.data import Dataset
from distsim.problems import PROBLEMS
from distsim.specs import COMPLETE, PAPER_METRICS, Extent, NetworkId, Sweep
from distsim.store import Storage, SweepStore
from distsim.store.activations import Writer
from distsim.store.commits import Attempt, read_piece
from distsim.sweep.chain_training import train_chains
from distsim.sweep.order import identify, prepare
from distsim.sweep.plan import Chain
from distsim.sweep.training_worker import TrainingWorker

LAYERS = ("conv1_1", "conv1_2", "pool1", "fc1")  # of cifar2; the cosine is measured on its output layer
WIDE_CHANNELS = 64  # of VGG16-BN's widest layer, at 32 x 32


@dataclass(frozen=True)
class Networks:
    """The complete network and one run of pruned networks, with their activations."""

    bench: TrainingWorker
    iterations: int
    source: str  # of the images

    @property
    def n(self) -> int:
        return int(self.bench.sweep.problem.probe)

    def place(self, network: NetworkId) -> Place:
        storage = self.bench.store.storage
        return Place(storage.url, f"{network.path}/activations")

    @property
    def complete(self) -> Place:
        return self.place(COMPLETE)

    @property
    def pruned(self) -> list[Place]:
        return [self.place(NetworkId(0, i)) for i in range(1, self.iterations + 1)]


def networks(
    folder: Path, n: int, iterations: int, threads: int, epochs: int, limit: int | None, data: str
) -> Networks:
    """Train cifar2's network at full width, then prune and retrain it `iterations` times, with `epochs` epochs each.

    Networks that an earlier call left in the folder are used again. limit : training images, or None for all.
    """
    problem = PROBLEMS["cifar2"].reduced_to(epochs=epochs, probe=n, train_limit=limit)
    if data:
        order = prepare(problem, data=data, runs=1, iterations=iterations, retention="all", threads=threads)
        sweep, dataset = order.sweep, order.dataset
    else:
        dataset = drawn_dataset(problem.classes, train=max(n, limit or 0), test=200)
        identity = identify(dataclasses.replace(problem, train_limit=None), dataset, threads=threads)
        sweep = Sweep(identity, Extent(1, iterations, PAPER_METRICS, "all"))
    # one folder for each identity, so networks of other sizes need not be removed first
    store = SweepStore(Storage(folder / f"networks-{sweep.identity.hash[:12]}"), sweep.name)
    store.claim(sweep.identity)
    bench = TrainingWorker(store, sweep, dataset, allow_drift=True)
    bench.complete()
    every = tuple(range(1, iterations + 1))
    contents = store.contents()
    todo = Chain(
        run=0,
        train=tuple(i for i in every if NetworkId(0, i) not in contents.networks),
        extract=tuple(i for i in every if NetworkId(0, i) not in contents.activations),
    )
    failed: list[str] = []
    for _ in train_chains(bench, [todo], failed.append):
        pass
    if failed:
        raise RuntimeError("; ".join(failed))
    return Networks(bench, iterations, "CIFAR-10 (JPEG)" if data else "images made on the spot")


def drawn_dataset(classes: tuple[str, ...], train: int, test: int) -> Dataset:
    """Make images with a spectrum like that of photographs and a pattern that distinguishes the classes."""
    labels = torch.arange(train + test) % len(classes)
    images = drawn_images(labels, 32, torch.Generator().manual_seed(0)).numpy()
    return Dataset(images[:train], labels[:train].numpy(), images[train:], labels[train:].numpy(), classes)


def drawn_images(labels: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return uint8 images (n, 3, size, size): a random field with amplitude 1/f over a grating at the label's angle."""
    n, grid = len(labels), torch.linspace(-1, 1, size)
    images = torch.zeros(n, 3, size, size)
    cells = 2
    while cells <= size:
        coarse = torch.randn(n, 3, cells, cells, generator=generator)
        images += torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear") * 2 / cells
        cells *= 2
    angle = labels * (torch.pi / 4) + 0.2 * torch.randn(n, generator=generator)
    phase = 6.3 * torch.rand(n, generator=generator)
    along = angle.cos()[:, None, None] * grid[None, :, None] + angle.sin()[:, None, None] * grid[None, None, :]
    images += 0.5 * (8 * along + phase[:, None, None]).sin()[:, None]
    images += 0.1 * torch.randn(n, 3, size, size, generator=generator)  # camera noise
    return (127 + 50 * images).clamp(0, 255).to(torch.uint8)


def wide_pair(folder: Path, n: int, size: int) -> tuple[Place, Place]:
    """Write a layer of VGG16-BN's widest shape, (n, size, size, 64) in float16, for two networks, unless it is there.

    One is the output of a first convolution with random weights and a ReLU on drawn images. The other is the same with
    the smaller half of its weights pruned. Chunks of examples are written one by one, so that this process never holds
    a whole layer.
    """
    storage = Storage(folder / f"wide-{n}-{size}")
    places = [Place(storage.url, name) for name in ("complete", "pruned")]
    if all(read_piece(storage, place.piece) for place in places):
        return places[0], places[1]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(WIDE_CHANNELS, 3, 3, 3, generator=generator) / 27**0.5
    pruned = weight * (weight.abs() > weight.abs().median())
    attempts = [Attempt(storage, place.piece) for place in places]
    writers = [Writer(attempt) for attempt in attempts]
    shape = (n, size, size, WIDE_CHANNELS)
    for writer in writers:
        rows = writer.create("conv1_1", shape, "float16", {"position": 0, "kind": "conv"})
    for start in range(0, n, rows):
        labels = torch.arange(start, min(start + rows, n)) % 10
        blocks = _first_layers(drawn_images(labels, size, generator), (weight, pruned))
        for writer, block in zip(writers, blocks, strict=True):
            writer.write("conv1_1", start, block)
    for attempt in attempts:
        attempt.commit()
    return places[0], places[1]


def _first_layers(images: torch.Tensor, weights: tuple[torch.Tensor, ...]) -> list[NDArray[Any]]:
    """Return the layer's output for each of the weights, channels last, float16."""
    inputs = (images.float() - 127) / 64
    blocks = []
    for weight in weights:
        block = np.empty((len(inputs), *inputs.shape[2:], len(weight)), dtype=np.float16)
        for start in range(0, len(inputs), 64):
            part = torch.nn.functional.conv2d(inputs[start : start + 64], weight, padding=1).relu()
            block[start : start + 64] = part.permute(0, 2, 3, 1).half().numpy()
        blocks.append(block)
    return blocks
