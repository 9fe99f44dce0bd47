"""Measures how fast networks are trained, beside a plain training loop, and what a sweep adds to the training.

python bench/training.py --data folder:PATH --write docs/benchmarks.md   # everything: about an hour on 2 cores
python bench/training.py --only 1 --problems cifar2,vgg_svhn             # some of it
python bench/training.py --device cuda --only 4                          # on a GPU; needs neither Ray nor Zarr
python bench/training.py --small                                         # everything in a minute, for a test

Sections: 1 images a second, 2 two trials at once, 3 what is not training, 4 GPU, 5 bfloat16 beside float32, 6 a step in
bfloat16 and in float32. Where other processes are at work nothing is judged: see --busy.
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import machine
import numpy as np
import seeds_loop
import torch
from report import Section, Table, numbers, replace, seconds, times
from torch import nn

from distsim.data import augment, load
from distsim.environment import threads
from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream
from distsim.specs import Problem
from distsim.training import optimizers as optim
from distsim.training.stepper import Arithmetic, Stepper, settle

ROOT = Path(__file__).resolve().parents[1]
NAMES = tuple(name for name in PROBLEMS if name != "digits")
TARGETS = {  # images a second, as a multiple of the original authors' code
    "float32": {"cifar2": 3.0, "cifar4": 3.0, "vgg_svhn": 1.7, "vgg16_cifar10": 1.5},
    "bfloat16": {"cifar2": 5.0, "cifar4": 5.0, "vgg_svhn": 4.0},
}
GPU_TARGETS = {"resnet_fast_cifar10": 60_000, "vgg16_cifar10": 40_000}
PACKS = (1, 5, 20)
ROUNDS = 3  # in each of which all that is compared takes its turn; medians count


def main(arguments: Sequence[str] | None = None) -> int:
    flags = _parser().parse_args(arguments)
    if flags.small:
        flags = argparse.Namespace(**vars(flags) | SMALL)
    if flags.child:
        print(json.dumps(bare(**json.loads(flags.child))))
        return 0
    conditions = machine.describe(flags.threads, flags.device)
    print(f"{conditions}\n", flush=True)
    flags.calm = machine.Calm(flags.busy)
    failed = []
    with threads(flags.threads):
        for number in flags.only:
            started = time.perf_counter()
            try:
                flags.calm.look(timed=number not in UNTIMED)
                title, what, tables = SECTIONS[number](flags)
            except machine.Busy as error:
                print(f"section {number} is {error}", file=sys.stderr, flush=True)
                failed.append(number)
                continue
            except Exception:  # the other sections may have taken long, so go on with them
                traceback.print_exc()
                failed.append(number)
                continue
            flags.calm.mark(tables)
            where = f"{what}\n\nOn {conditions}; {flags.calm.text()}."
            on = " on a GPU" if flags.device != "cpu" else ""
            section = Section(f"training {number}{on}", f"{number}. {title}{on}", where, tables)
            print(section.markdown(), flush=True)
            print(f"(section {number} took {seconds(time.perf_counter() - started)})\n", flush=True)
            if flags.write:
                replace(flags.write, section)
    return 1 if failed else 0


SMALL = {
    "busy": True,
    "problems": ("cifar2", "lenet5_mnist"),
    "seconds": 0.3,
    "threads": 1,
    "workers": (0,),
    "iteration_seconds": 1.0,
    "seeds": 2,
    "limit": 64,
    "images": 256,
    "packs": (1, 2),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        type=lambda text: numbers(text, SECTIONS),
        default=tuple(SECTIONS),
        help="numbers of sections, separated by commas (default: all)",
    )
    parser.add_argument(
        "--problems", type=lambda text: tuple(text.split(",")), default=NAMES, help="problems of sections 1 and 6"
    )
    parser.add_argument("--data", default="", help="folder:PATH for real images (default: drawn)")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of each measurement (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of everything measured (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument(
        "--iteration-seconds", type=float, default=10.0, help="for sections 2 and 3 (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds in section 5 (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=2000, help="training images in section 5 (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the sections into this Markdown document")
    machine.busy_flag(parser)
    parser.add_argument("--small", action="store_true", help="use tiny sizes, for a test")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.set_defaults(workers=(0, 1, 2), images=10_000, packs=PACKS)
    return parser


# --- what is trained -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Material:
    """A problem at full width with images for a measurement. Their content does not change the time."""

    problem: Problem
    images: torch.Tensor  # uint8 (n, c, s, s)
    labels: torch.Tensor

    @property
    def normalise(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean, sd = self.problem.recipe.normalise or ((0.5,) * self.problem.channels,) * 2
        device = self.images.device
        return torch.tensor(mean, device=device), torch.tensor(sd, device=device)

    @functools.cached_property
    def pictures(self) -> augment.Pictures:
        return augment.Pictures(self.images, *self.normalise)

    @property
    def classes(self) -> int:
        return len(self.problem.classes) or 10

    def to(self, device: str) -> "Material":
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))


def material(name: str, pictures: torch.Tensor) -> Material:
    problem = PROBLEMS[name]
    images = pictures[:, :, : problem.size, : problem.size]
    images = images.float().mean(dim=1, keepdim=True).byte() if problem.channels == 1 else images
    classes = len(problem.classes) or 10
    return Material(problem, images.contiguous(), torch.arange(len(images)) % classes)


def pictures(flags: argparse.Namespace) -> torch.Tensor:
    """Return the images of all measurements, uint8 (n, 3, 32, 32)."""
    if flags.data:
        return torch.from_numpy(load(PROBLEMS["cifar2"], flags.data).train_images[: flags.images])
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (flags.images, 3, 32, 32), generator=generator, dtype=torch.uint8)


class Ours:
    """The library's own training, step by step."""

    def __init__(
        self, inputs: Material, precision: str, deterministic: bool = False, options: Mapping[str, bool] | None = None
    ) -> None:
        """Set up the step. options : further fields of its Arithmetic"""
        recipe, problem = inputs.problem.recipe, inputs.problem
        device = inputs.images.device
        settle(device, deterministic)
        network = build(problem, inputs.classes, torch_stream(0, "initialisation"))
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        arithmetic = Arithmetic(precision, deterministic, **(options or {}))
        self.stepper = Stepper(network.to(device), inputs.pictures, inputs.labels, recipe, arithmetic)
        self.stepper.reset(weights, {})
        self.recipe, self.epoch = recipe, 0
        self._at = self.stepper.steps  # steps done in this epoch

    def turn(self) -> None:
        """Do one step. At the end of an epoch first begin a new one, which draws its order and augmentation."""
        if self._at == self.stepper.steps:
            n, generator = self.stepper.examples, torch_stream(0, "bench", self.epoch)
            draws = augment.draw(self.recipe.augment, n, self.stepper.size, generator)
            rates = [self.recipe.lr * 1e-3] * self.stepper.steps
            self.stepper.begin(torch.randperm(n, generator=generator), draws, rates, range(self.stepper.dropouts))
            self._at, self.epoch = 0, self.epoch + 1
        self.stepper.step()
        self._at += 1

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.turn()
        if self.stepper.device.type == "cuda":
            torch.cuda.synchronize()


class Synthetic:
    """The least that a step must do: forward, backward and update of a batch that is already on the device."""

    def __init__(self, inputs: Material, precision: str) -> None:
        recipe, problem = inputs.problem.recipe, inputs.problem
        self._network = build(problem, inputs.classes, torch_stream(0, "initialisation")).train()
        self._network.to(inputs.images.device, memory_format=torch.channels_last)
        for module in self._network.modules():
            if hasattr(module, "reseed"):
                module.reseed(0, inputs.images.device)
        batch = min(recipe.batch_size, len(inputs.images))
        images = augment.normalise(inputs.images[:batch], *inputs.normalise)
        self._images = images.contiguous(memory_format=torch.channels_last)
        self._labels, self._half = inputs.labels[:batch], precision == "bfloat16"
        self._optimizer = optim.optimizer(dataclasses.replace(recipe, lr=recipe.lr * 1e-3), self._network.parameters())

    def run(self, steps: int) -> None:
        for _ in range(steps):
            with torch.autocast(self._images.device.type, torch.bfloat16, enabled=self._half):
                loss = nn.functional.cross_entropy(self._network(self._images), self._labels)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()


def timed(run: Callable[[int], None], steps: int) -> float:
    started = time.perf_counter()
    run(steps)
    return time.perf_counter() - started


def in_turns(runs: dict[str, Callable[[int], None]], enough: float) -> dict[str, float]:
    """Measure the seconds of a step of each: the median of rounds in which all take their turns, after a warm-up."""
    steps = {}
    for name, run in runs.items():
        began = time.perf_counter()
        while time.perf_counter() - began < enough / ROUNDS:  # warms up
            run(2)
        once = timed(run, 2) / 2
        steps[name] = max(2, round(enough / ROUNDS / once))
    seconds_a_step: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            seconds_a_step[name].append(timed(run, steps[name]) / steps[name])
    return {name: statistics.median(of_rounds) for name, of_rounds in seconds_a_step.items()}


# --- 1: images a second ----------------------------------------------------------------------------------------------

Found = tuple[str, str, list[Table]]  # title, what was measured, tables


def speed(flags: argparse.Namespace) -> Found:
    header = ("problem", "batch", "authors' code", "workers")
    for precision in ("float32", "bf16"):
        header += (precision, "to theirs", "target", "step's share", "target")
    table = Table(header)
    shown = pictures(flags)
    for name in flags.problems:
        inputs = material(name, shown)
        recipe = inputs.problem.recipe
        batch = min(recipe.batch_size, len(inputs.images))
        slow, workers = max(
            (seeds_loop.images_a_second(inputs, count, flags.seconds), count) for count in flags.workers
        )
        cells = [name, str(batch), f"{slow:,.0f}", str(workers)]
        for precision in ("float32", "bfloat16"):
            ours, bare_step = Ours(inputs, precision), Synthetic(inputs, precision)
            taken = in_turns({"ours": ours.run, "step": bare_step.run}, flags.seconds)
            rate, share = batch / taken["ours"], 100 * taken["step"] / taken["ours"]
            target = TARGETS[precision].get(name)
            cells += [f"{rate:,.0f}", times(rate / slow), _verdict(flags, rate / slow, target, "×")]
            cells += [f"{share:.0f} %", _verdict(flags, share, 90.0, " %")]
        table.add(*cells)
        print(" | ".join(cells), file=sys.stderr, flush=True)
    table.notes.append(
        "Images a second. The original authors' code: a DataLoader over PIL images with torchvision's "
        f"transforms, the best of {', '.join(map(str, flags.workers))} workers, and a plain float32 loop "
        f"(bench/seeds_loop.py), timed once for {flags.seconds:g} s. Ours: the library's step with "
        "augmentation, epochs' beginnings included. A step's share: forward, backward and update of one batch "
        f"that is there already, of our whole step; both are medians of {ROUNDS} rounds in which they take "
        "turns."
    )
    what = "All problems at full width, " + ("CIFAR-10 images (JPEG)." if flags.data else "images made on the spot.")
    return "Images a second", what, [table]


def _verdict(flags: argparse.Namespace, value: float, target: float | None, unit: str = "", most: bool = False) -> str:
    if target is None:
        return ""
    text = f"{'≤' if most else '≥'} {target:g}{unit}"
    if flags.small or not flags.calm.judged:
        return text
    return f"{text}: {'met' if (value <= target if most else value >= target) else '**missed**'}"


# --- 2: two trials at once -------------------------------------------------------------------------------------------


def concurrent(flags: argparse.Namespace) -> Found:
    problem = _sized(flags, "cifar2", threads_each=1)
    alone = _two_bare(problem, flags)
    trials = _two_trials(problem, flags)
    table = Table(("", "images/s, one", "the other", "together", "share", "target"))
    share = 100 * sum(trials) / sum(alone)
    table.add("bare processes", *(f"{rate:,.0f}" for rate in alone), f"{sum(alone):,.0f}", "100 %", "")
    table.add(
        "trials by Ray",
        *(f"{rate:,.0f}" for rate in trials),
        f"{sum(trials):,.0f}",
        f"{share:.0f} %",
        _verdict(flags, share, 95, " %"),
    )
    table.notes.append(
        "cifar2 at full width, float32, one thread each. Bare: two processes that do nothing but the library's steps. "
        "Trials: two runs of a sweep; the median over their iterations of images by the time that training took."
    )
    return "Two trials at once", "Two one-thread trainings at the same time.", [table]


def _sized(flags: argparse.Namespace, name: str, threads_each: int) -> Problem:
    """Return the problem with so many images that an iteration takes about `flags.iteration_seconds`."""
    with threads(threads_each):
        ours = Ours(material(name, pictures(flags)), "float32")
        ours.run(2)
        rate = ours.stepper.batch * 5 / timed(ours.run, 5)
    problem = PROBLEMS[name].reduced_to(epochs=4, probe=min(1000, flags.images), train_limit=flags.images)
    problem = dataclasses.replace(problem, pruning=dataclasses.replace(problem.pruning, rewind_epoch=0))
    images = round(rate * flags.iteration_seconds / problem.recipe.epochs)
    least = problem.recipe.batch_size
    return dataclasses.replace(problem, train_limit=max(least, min(images, flags.images)))


def bare(name: str, images: int, enough: float) -> dict[str, float]:
    """Measure images a second of the steps alone on one thread. Called in a new process, by `--child`."""
    with threads(1):
        shown = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8)
        ours = Ours(material(name, shown), "float32")
        ours.run(3)
        once = timed(ours.run, 3) / 3
        steps = max(3, round(enough / once))
        return {"rate": ours.stepper.batch * steps / timed(ours.run, steps)}


def _two_bare(problem: Problem, flags: argparse.Namespace) -> list[float]:
    request = {"name": problem.name, "images": problem.train_limit, "enough": 3 * flags.iteration_seconds}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(request)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    return [json.loads(process.communicate()[0].splitlines()[-1])["rate"] for process in running]


def _two_trials(problem: Problem, flags: argparse.Namespace) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        log = _sweep(problem, flags, Path(folder), runs=2, iterations=4, activations="memory", cores=1)
    trained = problem.recipe.epochs * _images_an_epoch(problem)
    rates: dict[str, list[float]] = {}
    for label, taken in log.durations("training"):
        rates.setdefault(label.partition(",")[0], []).append(trained / taken)
    return [statistics.median(of_run) for of_run in rates.values()]


def _images_an_epoch(problem: Problem) -> int:
    limit, batch = problem.train_limit or 0, problem.recipe.batch_size
    return limit // batch * batch


# --- 3: what is not training -----------------------------------------------------------------------------------------


def overhead(flags: argparse.Namespace) -> Found:
    problem = _sized(flags, "cifar2", threads_each=1)
    header = ("activations", "an iteration", "trained", "not training", "target", "of it kept epochs")
    table = Table((*header, "extraction", "of the wall time", "target", "activations written"))
    for kept in ("store", "memory"):
        with tempfile.TemporaryDirectory() as folder:
            log = _sweep(problem, flags, Path(folder), runs=1, iterations=4, activations=kept, cores=2)
            written = sum(
                file.stat().st_size
                for file in Path(folder).rglob("*")
                if file.is_file() and "/runs/" in str(file) and "/activations/" in str(file)
            )
        wall, training, extraction, epochs = log.chain()
        rest = 100 * (wall - training) / wall
        share = 100 * extraction / wall
        table.add(
            f"`{kept}`",
            seconds(wall / 4),
            seconds(training / 4),
            f"{rest:.1f} %",
            _verdict(flags, rest, 3, " %", most=True),
            f"{100 * epochs / wall:.1f} %",
            seconds(extraction / 4),
            f"{share:.1f} %",
            _verdict(flags, share, 15, " %", most=True),
            f"{written / 1e6:,.0f} MB",
        )
    table.notes.append(
        "cifar2 at full width, one run of 4 iterations in a Ray trial, one thread. Not training: from the beginning of "
        "the first iteration to the end of the last commit, what is no step: pruning, test set, weights, marks, "
        "reports, kept epochs, and waiting for extraction, if it is not done in time. Extraction (the probe's forward "
        "pass and writing) runs beside the next iteration's training, on another core here."
    )
    return "What is not training", "From the stages that the workers announce (`DISTSIM_STAGES`).", [table]


@dataclasses.dataclass(frozen=True)
class Log:
    """The stages that workers announced: (time, pid, stage, details)."""

    lines: list[tuple[float, int, str, str]]

    def durations(self, stage: str) -> Iterator[tuple[str, float]]:
        """Yield (details, seconds) for each time that a process was in the stage."""
        begun: dict[tuple[int, str], float] = {}
        for at, pid, name, details in self.lines:
            if name != stage:
                continue
            word, _, label = details.partition(" ")
            if word == "begin":
                begun[pid, label] = at
            elif word == "end":
                yield label, at - begun.pop((pid, label))

    def chain(self) -> tuple[float, float, float, float]:
        """Return the seconds of the only run: wall time, training steps, extractions, and keeping epochs."""
        of_run = [line for line in self.lines if "run 0" in line[3]]
        first = min(at for at, _, name, details in of_run if name == "training" and details.startswith("begin"))
        last = max(at for at, _, name, details in of_run if name == "commit" and details.startswith("end"))
        log = Log(of_run)
        keeping = Log([line for line in self.lines if "runs/0000" in line[3]]).durations("checkpoint")
        kept = sum(taken for _, taken in keeping)
        training = sum(taken for _, taken in log.durations("training")) - kept
        return last - first, training, sum(taken for _, taken in log.durations("extraction")), kept


def _sweep(
    problem: Problem, flags: argparse.Namespace, folder: Path, runs: int, iterations: int, activations: str, cores: int
) -> Log:
    """Train a sweep of the problem on Ray, one thread for each run, and return its log."""
    from distsim.store import Storage, SweepStore
    from distsim.sweep.on_ray.engine import RayEngine
    from distsim.sweep.order import prepare, take
    from distsim.sweep.plan import missing, wave

    stages = folder / "stages"
    os.environ["DISTSIM_STAGES"] = str(stages)
    root = Storage(folder / "store")
    order = prepare(
        problem,
        data=flags.data or f"folder:{_drawn_folder(folder, problem.train_limit or 0)}",
        runs=runs,
        iterations=iterations,
        activations=activations,
        retention="all" if activations == "store" else "reference",
        metrics=("cka",),
        chance=False,
        threads=1,
        resources=(("cpu", float(cores)),),
    )
    take([order], root)
    lacking = missing(order.sweep, SweepStore(root, order.name).contents(), order.layers)
    chains = {order.name: wave(order.sweep, lacking, None, order.per_network)}
    with RayEngine(root, None, allow_drift=False) as engine:
        failures = engine.train([order], chains, {order.name})
    del os.environ["DISTSIM_STAGES"]
    if failures:
        raise RuntimeError("; ".join(failures))
    lines = []
    for line in stages.read_text().splitlines():
        at, pid, name, *details = line.split(" ")
        lines.append((float(at), int(pid), name, " ".join(details)))
    return Log(lines)


def _drawn_folder(folder: Path, images: int) -> Path:
    """Make a folder of random images of two classes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", images), ("test", 200)):
        for i in range(count):
            place = folder / "images" / part / ("automobile", "truck")[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return folder / "images"


# --- 4: a GPU --------------------------------------------------------------------------------------------------------


def on_gpu(flags: argparse.Namespace) -> Found:
    rates = Table(("problem", "precision", "images/s", "target"))
    packs = Table(("cifar2 chains", "images/s together", "to one", "target", "deterministic", "costs"))
    if flags.device == "cpu":
        command = "**open**: `python bench/training.py --device cuda --only 4`"
        rates.add("on a GPU", command, "", "")
        packs.add("on a GPU", command, "", "", "", "")
    else:
        shown = pictures(argparse.Namespace(**vars(flags) | {"images": 50_000 if not flags.small else flags.images}))
        for name, target in GPU_TARGETS.items():
            for precision in ("bfloat16", "float32"):
                ours = Ours(material(name, shown).to("cuda"), precision)
                rate = ours.stepper.batch / in_turns({"ours": ours.run}, flags.seconds)["ours"]
                wanted = target if precision == "bfloat16" else None
                rates.add(name, precision, f"{rate:,.0f}", _verdict(flags, rate, wanted))
        one = 0.0
        inputs = material("cifar2", shown[: min(len(shown), 10_000)]).to("cuda")
        for count in flags.packs:
            free, bound = (pack_rate(inputs, count, flags.seconds, fixed) for fixed in (False, True))
            one = one or free
            packs.add(
                str(count),
                f"{free:,.0f}",
                times(free / one),
                _verdict(flags, free / one, 6.0 if count == 20 else None, "×"),
                f"{bound:,.0f}",
                f"{100 * (1 - bound / free):.0f} %",
            )
    return "Training on a GPU", "Captured steps, data and augmentation on the device.", [rates, packs]


def pack_rate(inputs: Material, count: int, enough: float, deterministic: bool) -> float:
    """Measure images a second of `count` chains that take turns, each on its own stream."""
    chains = [Ours(inputs, "bfloat16", deterministic) for _ in range(count)]

    def run(steps: int) -> None:
        for _ in range(steps):
            for ours in chains:
                ours.turn()
        torch.cuda.synchronize()

    taken = in_turns({"pack": run}, enough)["pack"]
    return count * chains[0].stepper.batch / taken


# --- 5: bfloat16 beside float32 --------------------------------------------------------------------------------------


def precisions(flags: argparse.Namespace) -> Found:
    from distsim.results import reduce as results
    from distsim.store import Storage
    from distsim.sweep.engine import LocalEngine
    from distsim.sweep.order import prepare, take
    from distsim.sweep.run import run

    epochs, iterations = (1, 2) if flags.small else (6, 4)
    problem = PROBLEMS["cifar4"].reduced_to(epochs=epochs, probe=min(500, flags.limit), train_limit=flags.limit)
    values_of: dict[str, list[Any]] = {"float32": [], "bfloat16": []}
    for seed in range(flags.seeds):
        for precision, of_seeds in values_of.items():
            with tempfile.TemporaryDirectory() as folder:
                root = Storage(Path(folder) / "store")
                data = flags.data or f"folder:{_drawn_classes(Path(folder), flags.limit)}"
                order = prepare(
                    problem, data=data, runs=1, iterations=iterations, chance=False, metrics=("svcca", "cka", "nbs"),
                    seed=seed, threads=flags.threads, precision=precision, activations="memory",
                )  # fmt: skip
                take([order], root)
                run([order], root, LocalEngine(root, allow_slow=True), say=lambda line: None)
                of_seeds.append(_of_iterations(results.read_tables(root, [order.name]), iterations))
    header = ("iteration", "value", "float32", "sd of seeds", "bfloat16", "sd of seeds", "difference", "noise")
    table = Table(header)
    for iteration in range(iterations + 1):
        for value in values_of["float32"][0][iteration]:
            plain, half = (
                np.array([of_seed[iteration][value] for of_seed in of_seeds]) for of_seeds in values_of.values()
            )
            noise = 2 * float(np.sqrt((plain.var(ddof=1) + half.var(ddof=1)) / len(plain)))
            table.add(
                str(iteration),
                value,
                f"{plain.mean():.4f}",
                f"{plain.std(ddof=1):.4f}",
                f"{half.mean():.4f}",
                f"{half.std(ddof=1):.4f}",
                f"{half.mean() - plain.mean():+.4f}",
                f"± {noise:.4f}",
            )
    table.notes.append(
        f"cifar4 made smaller: {flags.limit:,} training images, {epochs} epochs, {flags.seeds} seeds, one run each; "
        "similarities are the mean over the layers. Noise: twice the standard error of the difference of the means."
    )
    return "bfloat16 beside float32", "Accuracies and similarities of the same sweeps in both precisions.", [table]


def _of_iterations(tables: Any, iterations: int) -> list[dict[str, float]]:
    """Return for each iteration, the complete network first, the accuracy and each metric's mean over the layers."""
    of_iterations: list[dict[str, float]] = []
    for iteration in range(iterations + 1):
        networks = tables.networks[tables.networks["iteration"] == iteration]
        values = {"accuracy": float(networks["accuracy"].iloc[0])}
        rows = tables.similarities[tables.similarities["iteration"] == iteration]
        values |= {str(metric): float(value) for metric, value in rows.groupby("metric")["value"].mean().items()}
        of_iterations.append(values)
    return of_iterations


def _drawn_classes(folder: Path, images: int) -> Path:
    from material import drawn_images
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    names = PROBLEMS["cifar4"].classes
    for part, count in (("train", images), ("test", 400)):
        labels = torch.arange(count) % len(names)
        for i, image in enumerate(drawn_images(labels, 32, generator).permute(0, 2, 3, 1).numpy()):
            place = folder / "images" / part / names[int(labels[i])]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i}.png")
    return folder / "images"


# --- 6: a step in bfloat16 and in float32 ----------------------------------------------------------------------------

KERNELS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")  # variables that make a processor act as an older one
STEPS = 5  # of each precision


def imitated(flags: argparse.Namespace) -> Found:
    """Measure on a CPU by processor time, which counts no waiting for a core that others hold."""
    clock, on = time.perf_counter, ""
    if flags.device == "cpu":
        forced = [f"{name}={os.environ[name]}" for name in KERNELS if name in os.environ]
        kernels = [f"torch's kernels for {torch.backends.cpu.get_cpu_capability()}", *forced]
        clock, on = time.process_time, f" of processor time, {', '.join(kernels)}"
    table = Table(("problem", "batch", "float32", "bfloat16", "to float32's", "least to most"))
    shown = pictures(flags)
    for name in flags.problems:
        inputs = material(name, shown).to(flags.device)
        ways = [Ours(inputs, precision) for precision in ("float32", "bfloat16")]
        used = _steps_in_turns(ways, clock)
        plain, half = (statistics.median(taken) for taken in zip(*used, strict=True))
        ratios = sorted(b / a for a, b in used)
        table.add(
            name,
            str(ways[0].stepper.batch),
            seconds(plain),
            seconds(half),
            times(statistics.median(ratios)),
            f"{times(ratios[0])} to {times(ratios[-1])}",
        )
        print(" | ".join(table.rows[-1]), file=sys.stderr, flush=True)
    table.notes.append(
        f"Seconds of one step{on}: medians of {STEPS} rounds in which the two take turns, after two steps of each."
    )
    return "A step in bfloat16 and in float32", "What bfloat16 costs or saves on this processor.", [table]


def _steps_in_turns(ways: "list[Ours]", clock: Callable[[], float]) -> list[list[float]]:
    """Return the seconds of a step of each way, in each round."""
    for way in ways:
        way.run(2)
    rounds = []
    for _ in range(STEPS):
        rounds.append([])
        for way in ways:
            before = clock()
            way.run(1)
            rounds[-1].append(clock() - before)
    return rounds


SECTIONS: dict[int, Callable[[argparse.Namespace], Found]] = {
    1: speed,
    2: concurrent,
    3: overhead,
    4: on_gpu,
    5: precisions,
    6: imitated,
}
UNTIMED = {5}

if __name__ == "__main__":
    sys.exit(main())
