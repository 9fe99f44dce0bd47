"""Images a second: every problem in every precision, compiled, packed and fused, and the longest kernels of a step.

A part of run.sh. What matters most comes first, since the rest may be left out for lack of time.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rows import DEVICE, SMALL, Rows, lacking, synchronise, until

sys.path.append(str(Path(__file__).resolve().parents[1]))  # bench/, whose modules are used here too

import training

from distsim.data import augment
from distsim.models import build
from distsim.seeds import torch_stream
from distsim.training.stepper import Arithmetic, settle

ENOUGH = 0.1 if SMALL else 0.6  # seconds of a measurement
IMAGES = 300 if SMALL else 10_000  # of the data set, on the device
PROFILED = 2 if SMALL else 5  # steps
LONGEST = 8  # kernels that are named
MAIN = ("cifar2", "vgg16_cifar10", "resnet_fast_cifar10")
GROUP = 2 if SMALL else 20  # chains together


@dataclass(frozen=True)
class Way:
    """A way to train. Its fields are the first ones of its row."""

    problem: str
    precision: str
    # or: eager (a plain PyTorch step, its batch on the device), packed, fused, tails (fused, with kernels of our own)
    way: str = "alone"
    compiled: bool = False
    deterministic: bool = False
    chains: int = 1

    @property
    def lacks(self) -> str:
        """Return the first feature that it needs and this version does not have, or ""."""
        fused, tails = self.way in ("fused", "tails"), self.way == "tails"
        needed = {"fuse": fused, "tails": tails, "compile": self.compiled, "tf32": self.precision == "tf32"}
        return lacking(*(feature for feature, needs in needed.items() if needs))


def ways() -> Iterator[Way]:
    """Yield what is measured, the most important first."""
    if SMALL:
        yield from (Way("cifar2", precision) for precision in ("float32", "tf32"))
        yield from (Way("lenet5_mnist", "float32", way) for way in ("alone", "eager"))
        yield from (Way("cifar2", "float32", way, chains=GROUP) for way in ("packed", "fused", "tails"))
        yield Way("lenet5_mnist", "float32", compiled=True)
        return
    yield from (Way(name, "bfloat16", compiled=compiled) for compiled in (False, True) for name in MAIN)
    yield from (Way("cifar2", "bfloat16", "fused", compiled, chains=GROUP) for compiled in (True, False))
    yield Way("cifar2", "bfloat16", "tails", chains=GROUP)
    yield from (Way(name, precision) for precision in ("float32", "tf32") for name in MAIN)
    yield from (Way("cifar2", "bfloat16", "packed", chains=count) for count in (GROUP, 5))
    yield Way("cifar2", "tf32", "fused", compiled=True, chains=GROUP)
    yield from (Way("cifar2", "float32", way, chains=GROUP) for way in ("fused", "tails"))
    for name in ("cifar10", "vgg16_cifar10"):  # groups with 512 channels too
        yield Way(name, "bfloat16", "fused", compiled=True, chains=5)
    others = [name for name in training.NAMES if name not in MAIN]
    yield from (Way(name, precision) for precision in ("bfloat16", "float32", "tf32") for name in others)
    for count in (1, 5, GROUP):
        yield Way("cifar2", "bfloat16", "packed" if count > 1 else "alone", deterministic=True, chains=count)
    yield from (Way(name, "bfloat16", "eager") for name in MAIN)
    yield from (Way(name, precision, compiled=True) for precision in ("tf32", "float32") for name in MAIN)
    yield from (Way(name, precision, compiled=True) for precision in ("bfloat16", "tf32", "float32") for name in others)


def main() -> int:
    rows = Rows("rates", until(__doc__))
    for way in ways():
        refused = SMALL and (way.precision == "tf32" or way.way == "tails")
        if refused:
            rows.add(**asdict(way), note="refused on a CPU")
        else:
            rows.measure(asdict(way), lambda way=way: measured(way), way.lacks)
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
    return 0


def measured(way: Way) -> dict[str, Any]:
    """Return the images a second of all chains together, and how many kernels a step has and how long they take."""
    run, batch = made(way)
    taken = training.in_turns({"way": run}, ENOUGH)["way"]
    return {"batch": batch, "images_per_second": round(way.chains * batch / taken), **kernels(run)}


def made(way: Way) -> tuple[Callable[[int], None], int]:
    """Return what does so many steps of all chains, and the batch of one chain."""
    inputs = training.material(way.problem, images()).to(DEVICE)
    batch = min(inputs.problem.recipe.batch_size, len(inputs.images))
    if way.way == "eager":
        return waited(training.Synthetic(inputs, way.precision).run), batch
    if way.way in ("fused", "tails"):
        return waited(fused(inputs, way)), batch
    options = {"compile": True} if way.compiled else {}
    chains = [training.Ours(inputs, way.precision, way.deterministic, options) for _ in range(way.chains)]

    def run(steps: int) -> None:
        for _ in range(steps):
            for chain in chains:
                chain.turn()

    return waited(run), batch


def fused(inputs: training.Material, way: Way) -> Callable[[int], None]:
    """Return what does so many fused steps of all chains, each with its own order and augmentation."""
    from distsim.training.fused_stepper import Epoch, FusedStepper

    problem, recipe, count = inputs.problem, inputs.problem.recipe, way.chains
    settle(inputs.labels.device, way.deterministic)
    network = build(problem, inputs.classes, torch_stream(0, "initialisation"))
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    arithmetic = Arithmetic(way.precision, way.deterministic, **({"compile": True} if way.compiled else {}))
    stepper = FusedStepper(network, count, inputs.pictures, inputs.labels, recipe, arithmetic, way.way == "tails")
    stepper.reset_runs({slot: (weights, {}) for slot in range(count)})
    generators = [torch_stream(slot, "bench") for slot in range(count)]
    order = torch.stack([torch.randperm(stepper.examples, generator=generator) for generator in generators])
    drawn = [augment.draw(recipe.augment, stepper.examples, stepper.size, generator) for generator in generators]
    draws = {name: torch.stack([of_run[name] for of_run in drawn]) for name in drawn[0]}
    rates, seeds = [recipe.lr * 1e-3] * stepper.steps, range(stepper.modules * count)
    done = stepper.steps

    def run(steps: int) -> None:
        nonlocal done
        for _ in range(steps):
            if done == stepper.steps:
                stepper.begin_epoch(Epoch(order, draws, rates, seeds))
                done = 0
            stepper.step()
            done += 1

    return run


def waited(run: Callable[[int], None]) -> Callable[[int], None]:
    def and_wait(steps: int) -> None:
        run(steps)
        synchronise()

    return and_wait


@cache
def images() -> torch.Tensor:
    return training.pictures(argparse.Namespace(data=os.environ["DATA"], images=IMAGES))


def kernels(run: Callable[[int], None]) -> dict[str, Any]:
    """Return a step's number of kernels, their microseconds, and the longest ones: microseconds, number and name.

    On a CPU these are PyTorch's operations.
    """
    from torch.profiler import ProfilerActivity, profile

    on_gpu = DEVICE == "cuda"
    kinds = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    with warnings.catch_warnings(), profile(activities=kinds, acc_events=True) as found:
        warnings.simplefilter("ignore")
        run(PROFILED)
    spent = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, spent))
    longest = [[round(getattr(e, spent) / PROFILED, 1), round(e.count / PROFILED, 1), e.key[:80]] for e in events]
    return {
        "kernels": round(sum(count for _, count, _ in longest)),
        "kernel_us": round(sum(us for us, _, _ in longest)),
        "longest": longest[:LONGEST],
    }


if __name__ == "__main__":
    sys.exit(main())
