"""What a comparison takes at n = 5,000: the device's own rates, its pieces, and layers by each route.

A part of run.sh. The networks are cifar2's and VGG16's, trained on cifar2's two classes and pruned a
little by the library.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rows import DEVICE, SMALL, Rows, synchronise, until

sys.path.append(str(Path(__file__).resolve().parents[1]))  # bench/, whose modules are used here too

from distsim.activations.probe import blocks, make_probe
from distsim.cli import doctor_gpu
from distsim.comparison.layer import InMemory, Reference
from distsim.data import load
from distsim.metrics import linalg, polar
from distsim.metrics.arrays import Workspace
from distsim.models import Layer, build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream
from distsim.specs import Identity
from distsim.sweep.order import adapted, identify
from distsim.training.loop import EpochStreams, TrainingData, train, training_data
from distsim.training.pruning import apply_masks, full_masks, prune
from distsim.training.stepper import Arithmetic, settle

N = 60 if SMALL else 5000  # examples
FEW = 40 if SMALL else 1000  # examples of the comparison with the CPU
TRAINED = 200 if SMALL else 10_000  # images
PRUNINGS = 3
METRICS = ("mean_cca", "svcca", "pwcca", "cka", "nbs")
ROUTES: dict[str, dict[str, Any]] = {  # from arrays on the host, but for `card`, whose arrays are on the device
    "card": {"qdwh": True},
    "qdwh": {"qdwh": True},
    "eigenvalues": {"qdwh": False},
    "fast": {"precision": "fast"},
}
ON_CARD = importlib.util.find_spec("distsim.comparison.devices") is not None
WIDEST = 3  # layers that are compared by all routes
ALL = "all layers"
SIZES = (256,) if SMALL else doctor_gpu.SIZES


@dataclass(frozen=True)
class Pair:
    """A layer of the complete and of the pruned network, float16, on the host."""

    problem: str
    layer: Layer
    x: NDArray[Any]
    y: NDArray[Any]

    def source(self, array: NDArray[Any], n: int = N, card: bool = False) -> InMemory:
        """Return the layer for n examples, on the host or on the device."""
        rows = 4 if array.ndim == 4 else None  # image rows in a panel
        chosen = np.ascontiguousarray(array[:n])
        return InMemory(torch.tensor(chosen, device=DEVICE) if card else chosen, self.layer.name, self.layer.kind, rows)


def main() -> int:
    rows = Rows("comparisons", until(__doc__))
    settle(torch.device(DEVICE), False)
    device_rates(rows)
    for name, epochs in (("cifar2", 8), ("vgg16_cifar10", 2)):
        pairs: list[Pair] = []
        rows.measure({"trained": name}, partial(make_pairs, name, 1 if SMALL else epochs, pairs))
        if SMALL:
            del pairs[3:-1]  # VGG16 has 18 layers
        if name == "cifar2" and pairs:
            pieces(rows, next(pair for pair in pairs if pair.layer.name == "conv1_2"))
            rows.measure({"agreement": name, "n": FEW}, partial(agreement, pairs))
        together: dict[str, Any] = {"problem": name, "layer": ALL, "columns": 0, "n": N, "route": "card"}
        rows.measure(together, partial(all_compared, pairs), "" if ON_CARD else "comparisons that stay on the card")
        for pair, route in ordered(pairs):
            way = {"problem": name, "layer": pair.layer.name, "columns": pair.x[0].size, "n": N, "route": route}
            rows.measure(way, partial(compared, pair, route))
    return 0


def ordered(pairs: list[Pair]) -> Iterator[tuple[Pair, str]]:
    """Yield all layers by the routes that a data-centre card takes, then the widest ones by the others."""
    for route in ("card", "qdwh") if ON_CARD else ("qdwh",):
        yield from ((pair, route) for pair in pairs)
    for pair in sorted(pairs, key=lambda pair: -pair.x.size)[:WIDEST]:
        yield from ((pair, route) for route in ("eigenvalues", "fast"))


def device_rates(rows: Rows) -> None:
    """Measure products in each arithmetic, FLOP/s, and copies, bytes/s, as `distsim doctor` does."""
    for name in doctor_gpu.PRODUCTS:
        way = {"rate": f"products, {name}"}
        rows.measure(way, lambda name=name: {"flops": doctor_gpu.product_rate(name, DEVICE, SIZES)})
    found: dict[str, float] = {}
    rows.measure({"rate": "copies of 256 MiB"}, lambda: found.update(doctor_gpu.copies(DEVICE)) or {})
    for what, rate in found.items():
        both: dict[str, tuple[str, float]] = {"within": ("within it, read and written", 2 * rate)}
        what, rate = both.get(what, (what, rate))
        rows.add(rate=f"copies {what}", bytes_per_second=round(rate))


# --- two networks ----------------------------------------------------------------------------------------------------


def make_pairs(name: str, epochs: int, pairs: list[Pair]) -> dict[str, Any]:
    """Train a network, prune and train it again, and append their layers. Return the seconds of both trainings."""
    where, device, two = os.environ["DATA"], torch.device(DEVICE), PROBLEMS["cifar2"].classes  # read faster than all
    problem = adapted(PROBLEMS[name], where, classes=two, epochs=epochs, probe=N, train_limit=TRAINED)
    dataset = load(problem, where)
    identity = identify(problem, dataset)
    recipe, classes = identity.problem.recipe, len(dataset.classes)
    data = training_data(dataset, recipe, 0, device)
    first = build(problem, classes, torch_stream(0, "initialisation"))
    seconds = trained(first, data, identity, {}, 0)
    masks = full_masks(first, problem.pruning)
    for _ in range(PRUNINGS):
        masks = prune(first, masks, problem.pruning)
    second = build(problem, classes, torch_stream(0, "initialisation"))
    second.load_state_dict({key: value.detach().cpu() for key, value in first.state_dict().items()})
    apply_masks(second, masks)
    seconds += trained(second, data, identity, masks, 1)
    probe = make_probe(identity, dataset, device)
    began = time.perf_counter()
    both = [activations(network, probe) for network in (first, second)]
    layers = {layer.name: layer for layer in first.layers if layer.name != first.output}
    pairs += [Pair(name, layer, both[0][key], both[1][key]) for key, layer in layers.items()]
    return {"seconds": round(seconds, 2), "extracted": round(time.perf_counter() - began, 2)}


def trained(network: Any, data: TrainingData, identity: Identity, masks: Any, iteration: int) -> float:
    """Train a network on the device, and return the seconds it took, its capture included."""
    recipe, began = identity.problem.recipe, time.perf_counter()
    network.to(torch.device(DEVICE))
    streams = EpochStreams(0, 0, iteration)
    train(network, data, recipe, streams, masks, range(recipe.epochs), arithmetic=Arithmetic("float32"))
    synchronise()
    return time.perf_counter() - began


def activations(network: Any, probe: Any) -> dict[str, NDArray[Any]]:
    parts: dict[str, list[torch.Tensor]] = {}
    for outputs in blocks(network, probe):
        for name, block in outputs.items():
            parts.setdefault(name, []).append(block.half().cpu())
    return {name: torch.cat(of_layer).numpy() for name, of_layer in parts.items()}


# --- comparisons -----------------------------------------------------------------------------------------------------


def compared(pair: Pair, route: str) -> dict[str, Any]:
    """Compare a layer from host arrays. Return seconds of the reference and of a comparison, after a first one."""
    card = route == "card"
    x, other = pair.source(pair.x, card=card), pair.source(pair.y, card=card)
    synchronise()
    began = time.perf_counter()
    reference = Reference(x, METRICS, device_of(route), **ROUTES[route])
    synchronise()
    once = time.perf_counter() - began
    took = []
    for _ in range(1 if SMALL else 2):
        began = time.perf_counter()
        results = reference.compare(other)
        synchronise()
        took.append(time.perf_counter() - began)
    nbs = results["nbs"]
    return {
        "reference_seconds": round(once, 4),
        "seconds": round(min(took), 4),
        "nbs": nbs["value"],
        "lower": nbs.get("lower"),
        "upper": nbs.get("upper"),
        "cka": results["cka"]["value"],
    }


def device_of(route: str) -> str:
    """Return the device by its name for comparisons. In a rehearsal the CPU does what a card would."""
    if not SMALL or route != "card":
        return DEVICE
    from distsim.comparison.devices import ON_CPU

    return ON_CPU


def all_compared(pairs: list[Pair]) -> dict[str, Any]:
    """Compare all layers of a network on the card, and read all numbers at the end. Return the seconds that takes."""
    from distsim.comparison.pair import read_together

    device = device_of("card")
    references = [Reference(pair.source(pair.x, card=True), METRICS, device, **ROUTES["card"]) for pair in pairs]
    others = [pair.source(pair.y, card=True) for pair in pairs]

    def compare() -> None:
        drafts = [reference.draft(other) for reference, other in zip(references, others, strict=True)]
        read_together(drafts)
        for reference, draft in zip(references, drafts, strict=True):
            draft.results()
            reference.learn(draft)

    seconds, _ = fastest(compare, 2)
    return {"seconds": round(seconds, 4)}


def agreement(pairs: list[Pair]) -> dict[str, Any]:
    """Return the largest difference between the device's and the CPU's values of all metrics and layers."""
    largest = 0.0
    for pair in pairs:
        x, y = pair.source(pair.x, FEW), pair.source(pair.y, FEW)
        here, there = (Reference(x, METRICS, device).compare(y) for device in (DEVICE, "cpu"))
        for metric, result in here.items():
            values = result["value"], there[metric]["value"]
            if None not in values:
                largest = max(largest, abs(values[0] - values[1]))
    return {"largest_difference": largest}


def pieces(rows: Rows, pair: Pair) -> None:
    """Measure what a comparison by NBS consists of, in float64, and the Gram matrix in float32 too."""
    on = {"layer": pair.layer.name, "columns": pair.x[0].size, "n": N}
    made: dict[str, Any] = {}

    def gram(dtype: torch.dtype, name: str, array: NDArray[Any]) -> dict[str, Any]:
        X = torch.tensor(array[:N].reshape(N, -1), device=DEVICE).to(dtype)
        X = X - X.mean(dim=0)
        seconds, K = fastest(lambda: X @ X.T)
        made[name] = K
        return {"seconds": seconds}

    def root(name: str) -> dict[str, Any]:
        K = made[name]
        K = K + K.trace() / N**2  # lifted, since centred rows are dependent
        made[f"lifted {name}"] = K
        seconds, made[f"root {name}"] = fastest(lambda: linalg.cholesky(K))
        return {"seconds": seconds}

    def product() -> dict[str, Any]:
        seconds, made["M"] = fastest(lambda: made["root y"].T @ made["root x"])
        return {"seconds": seconds}

    def eigenvalues() -> dict[str, Any]:
        S = linalg.congruence(made["root x"], made["lifted y"], Workspace())
        seconds, found = fastest(lambda: linalg.eigvalsh(S), 1)
        made["sum"] = float(found.clip(min=0).sqrt().sum())
        return {"seconds": seconds}

    def factor() -> dict[str, Any]:
        seconds, found = fastest(lambda: polar.enclosed(made["M"]))
        if found is None:
            return {"note": "failed: a matrix could not be factored"}
        exact = made.get("sum", float("nan"))
        apart = (found.upper - found.lower) / found.lower
        return {"seconds": seconds, "to_eigenvalues": found.value / exact - 1, "apart": apart}

    rows.measure({"piece": "Gram matrix, float32", **on}, partial(gram, torch.float32, "", pair.x))
    rows.measure({"piece": "Gram matrix, float64", **on}, partial(gram, torch.float64, "x", pair.x))
    rows.measure({"piece": "Gram matrix, float64, of the other side", **on}, partial(gram, torch.float64, "y", pair.y))
    rows.measure({"piece": "Cholesky factor", **on}, partial(root, "x"))
    rows.measure({"piece": "Cholesky factor of the other side", **on}, partial(root, "y"))
    rows.measure({"piece": "product of the two factors", **on}, product)
    rows.measure({"piece": "eigenvalues", **on}, eigenvalues)
    rows.measure({"piece": "QDWH with its bounds", **on}, factor)


def fastest(work: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """Return the least seconds of a few times that the work is done, after a first one, and what it returned."""
    result, took = work(), []
    for _ in range(times):
        synchronise()
        began = time.perf_counter()
        result = work()
        synchronise()
        took.append(time.perf_counter() - began)
    return min(took), result


if __name__ == "__main__":
    sys.exit(main())
