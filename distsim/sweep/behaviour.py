"""Records of what a network, a metric or a criterion computes from fixed numbers, to notice edits after a sweep began.

A network is filled with exact numbers and gets a small batch of exact images. It runs once in evaluation mode and once
forward and backward in training mode, in float64. Of everything that it puts out 16 projections are kept. A comment, a
name or another processor changes nothing; another activation, padding or dropout rate does (docs/behaviour.md).

Compared layers, the output, the loss, gradients and buffers decide. The outputs of modules (a ReLU may as well be a
function) only help to name the first place that differs.
"""

import contextlib
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distsim.metrics.channels import channel_pair
from distsim.metrics.kernels import kernel_pair
from distsim.metrics.registry import METRICS
from distsim.models import Dropout, Network, build
from distsim.seeds import torch_stream
from distsim.specs import Problem, shown
from distsim.sweep.exact import ExactDraws, projections, uniform
from distsim.training.criteria import criterion_of, score_of

SCHEME = 1  # version of what is evaluated; records of other versions cannot be compared
IMAGES = 4  # batch norm needs several; each costs VGG-16 0.15 s
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}  # of a layer's largest value
OF_ALL = 1e-3  # a layer's largest value counts as at least this share of the largest of all layers (or gradients): a
#                value that is zero but for rounding (the gradient of a bias before batch norm) has no scale of its own
NUDGE = {"float64": 2.0**-40, "float32": 2.0**-16}  # far above rounding
INITIAL = 1e-3  # tolerance of a parameter's initial mean and sd: processors draw normal numbers differently

DECIDE = ("layer", "outcome", "gradient", "buffer")
NAME = ("evaluation", "training")  # outputs of modules in these modes

Record = dict[str, Any]  # JSON values


def network_behaviour(problem: Problem, seed: int = 0, nudged: bool = False) -> Record:
    """Return what the problem's network computes from fixed numbers, and its initial parameters, as JSON values.

    seed : of the sweep, from which the network is initialised
    nudged : move all numbers by a relative 1e-12, to see how rounding changes the result
    """
    drawn, other = build(problem, generator=torch_stream(seed, "initialisation")), build(problem)
    other_buffers = dict(other.named_buffers())
    random = {name for name, value in drawn.named_buffers() if not torch.equal(value, other_buffers[name])}
    state = drawn.state_dict()
    record: Record = {
        "scheme": SCHEME,
        "problem": problem.name,
        "model": problem.model,
        "dtype": None,
        "reason": "",
        "computed": [],
        "parameters": {name: list(value.shape) for name, value in state.items()},
        "initial": {name: _mean_and_sd(value) for name, value in state.items() if value.is_floating_point()},
    }
    for dtype in (torch.float64, torch.float32):
        with _undisturbed(dtype):
            try:
                network = _filled(build(problem), random, nudged).to(dtype)
                computed = _computed(network, problem, nudged)
            except Exception as error:  # a user's code may not take float64, or not run on a batch of 4 at all
                record["reason"] = f"{type(error).__name__}: {error}"[:300]
            else:
                return record | {"dtype": str(dtype).removeprefix("torch."), "reason": "", "computed": computed}
    return record


def differences(old: Record, new: Record, nudged: Record | None = None) -> list[str]:
    """Return the places where the network differs from the stored record, in the order they are reached.

    nudged : the new network's record with all numbers nudged. Differences that the nudge also causes may be rounding.
    """
    theirs, ours = _by_place(old), _by_place(new)
    if theirs and not ours:
        return [*_of_parameters(old, new), f"its run on a fixed input ({new['reason']})"]
    tolerance = max(TOLERANCE[record["dtype"]] for record in (old, new)) if theirs and ours else 0.0
    floors, moved = _floors(old["computed"]), _by_place(nudged) if nudged is not None else {}
    differing: list[tuple[str, str]] = []
    for (of, name), entry in theirs.items() if ours else ():
        within = tolerance * max(entry["largest"] or 0.0, floors[of])
        difference = _difference(entry, ours.get((of, name)), within, moved.get((of, name)))
        if difference and (of in DECIDE or (of, name) in ours):
            label = _LABELS.get(of, "layer {!r}").format(name)
            differing.append((of, f"{label} ({difference})"))
    decided = any(of in DECIDE for of, _ in differing)
    places = [place for _, place in differing if decided]
    return [*_of_parameters(old, new), *places, *_of_initial_values(old, new)]


def metric_behaviour(name: str) -> Record:
    """Return the values of a registered metric on fixed pairs of matrices, as JSON values.

    A value is None if the metric is undefined, or if it gives different values for the same matrices.
    """
    metric = METRICS[name]
    values: list[float | None] = []
    for rows, columns in ((24, 6), (12, 18)):
        X = 2 * uniform(f"metric {rows} X", (rows, columns)) - 1
        Y = X @ (2 * uniform(f"metric {rows} Q", (columns, columns)) - 1) / columns
        Y = Y + uniform(f"metric {rows} Y", (rows, columns))
        sides: dict[str, Any] = {
            "channels": lambda X=X, Y=Y: (channel_pair(X, Y),),
            "kernel": lambda X=X, Y=Y: (kernel_pair(X, Y),),
            "output": lambda X=X, Y=Y: (X.copy(), Y.copy()),
        }
        first, again = (_value(metric.measure, sides[metric.view]()) for _ in range(2))
        values.append(first if first is not None and again is not None and _near(first, again) else None)
    return {"scheme": SCHEME, "metric": name, "view": metric.view, "values": values}


def metric_differences(old: Record, new: Record) -> list[str]:
    """Return how a metric's values differ from those of the stored record; [] if they do not."""
    if old["view"] != new["view"]:
        return [f"it is given {new['view']} here, {old['view']} in the store"]
    pairs = zip(old["values"], new["values"], strict=True)
    return [
        f"of the same two matrices it gives {_shown(b)} here, {_shown(a)} in the store"
        for a, b in pairs
        if (a is None) != (b is None) or (a is not None and b is not None and not _near(a, b))
    ]


def criterion_behaviour(name: str) -> Record:
    """Return the order in which a registered criterion prunes fixed weights, as JSON values.

    The weights are those of a convolution, its bias and a linear layer, in one pool. Only the order counts: a criterion
    that returns squares in place of magnitudes is the same.
    ValueError: the criterion fails, or scores the same weights differently the second time.
    """
    criterion, orders = criterion_of(name), []
    for _ in range(2):
        flat = []
        for parameter, shape in (("conv.weight", (5, 4, 3, 3)), ("conv.bias", (5,)), ("fc.weight", (6, 7))):
            weights, gradients = (_exact(f"criterion {parameter} {what}", shape) for what in ("weights", "gradients"))
            of_inputs = (1,) if len(shape) == 1 else (1, shape[1], *(1,) * (len(shape) - 2))
            measured = {"gradients": gradients, "activations": 1 + _exact(f"criterion {parameter} inputs", of_inputs)}
            given = {need: measured[need] for need in criterion.needs}
            flat.append(score_of(criterion, parameter, weights, given).flatten())
        scores = torch.cat(flat)
        if not torch.isfinite(scores).all():
            raise ValueError(f"criterion {name}: the score of a weight is not finite")
        orders.append(torch.argsort(scores, stable=True).tolist())
    if orders[0] != orders[1]:
        raise ValueError(
            f"criterion {name}: the same weights got other scores the second time, so that an interrupted sweep could "
            "not go on with the same results"
        )
    needs = sorted(criterion.needs)
    examples = criterion.examples if needs else 0
    return {"scheme": SCHEME, "criterion": name, "needs": needs, "examples": examples, "order": orders[0]}


def criterion_differences(old: Record, new: Record) -> list[str]:
    """Return how a criterion differs from the stored record; [] if it does not."""
    found = [
        f"it has {what} {shown(new[what])} here, {shown(old[what])} in the store"
        for what in ("needs", "examples")
        if new[what] != old[what]
    ]
    if new["order"] != old["order"]:
        found.append("it prunes the same weights in another order")
    return found


def _exact(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(2 * uniform(name, shape) - 1).float()


# --- evaluating ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _undisturbed(dtype: torch.dtype) -> Iterator[None]:
    """Make this the default dtype, and restore it and the global generator at the end of the block."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@torch.no_grad()
def _filled(network: Network, random: set[str], nudged: bool) -> Network:
    """Fill parameters, running statistics and buffers that the constructor draws. Other buffers stay as they are."""
    network.double()
    for name, parameter in network.named_parameters():
        parameter.copy_(_fill(name, parameter.shape, nudged))
    for name, value in network.named_buffers():
        if value.is_floating_point() and (name in random or name.endswith(("running_mean", "running_var"))):
            value.copy_(_fill(name, value.shape, nudged))
    return network


def _fill(name: str, shape: torch.Size, nudged: bool) -> Tensor:
    """Return exact values for a parameter or buffer.

    Weights are scaled so that the size of values after ReLUs is kept (He et al. 2015). Factors are near 1, biases near
    0.
    """
    values = 2 * uniform(name, shape) - 1
    last = name.rpartition(".")[2]
    if len(shape) > 1:
        values *= math.sqrt(6 * shape[0] / max(math.prod(shape), 1))
    elif "bias" in last or last == "running_mean":
        values /= 4
    else:
        values = 1 + values / 2
    return _nudge(name, torch.from_numpy(values), nudged)


def _nudge(name: str, values: Tensor, nudged: bool) -> Tensor:
    if not nudged:
        return values
    size = NUDGE[str(torch.get_default_dtype()).removeprefix("torch.")]
    return values * (1 + size * (2 * torch.from_numpy(uniform(f"nudge {name}", values.shape)) - 1))


def _computed(network: Network, problem: Problem, nudged: bool) -> list[Record]:
    """Run the network and return one entry for each place, in the order in which they are reached."""
    shape = (IMAGES, problem.channels, problem.size, problem.size)
    images = math.sqrt(3) * (2 * torch.from_numpy(uniform("images", shape)) - 1)  # of variance 1
    images = _nudge("images", images, nudged).to(torch.get_default_dtype())
    labels = torch.arange(IMAGES) % len(problem.classes)
    for module in network.modules():
        if isinstance(module, Dropout):
            module.reseed(0, images.device)  # without a seed it refuses to run; ExactDraws replaces the draws
    entries: list[Record] = []
    with torch.no_grad(), ExactDraws(), _watched(network, "evaluation", entries):
        entries.append(_entry("outcome", "output in evaluation mode", network.eval()(images)))
    with ExactDraws(), _watched(network, "training", entries):
        output = network.train()(images)
        loss = nn.functional.cross_entropy(output, labels)
        loss.backward()
    entries += [_entry("outcome", "output in training mode", output), _entry("outcome", "loss", loss)]
    nothing = torch.zeros(0)
    for name, parameter in network.named_parameters():
        entries.append(_entry("gradient", name, nothing if parameter.grad is None else parameter.grad))
    return entries + [_entry("buffer", name, value) for name, value in network.named_buffers()]


@contextlib.contextmanager
def _watched(network: Network, mode: str, entries: list[Record]) -> Iterator[None]:
    """Add an entry for each output of a module, in the order of the calls inside the block."""
    compared = {layer.module: layer.name for layer in network.layers} if mode == "evaluation" else {}
    calls: dict[str, int] = {}

    def keep(name: str, output: Any) -> None:
        calls[name] = call = calls.get(name, 0) + 1
        for place, value in enumerate(_tensors(output), start=1):
            label = name + f", call {call}" * (call > 1) + f", output {place}" * (place > 1)
            entries.append(_entry(mode, label, value))
            if name in compared and place == 1:  # the last of several calls counts, as for activations
                layer = {"of": "layer", "name": compared[name]}
                if call > 1:
                    entries[:] = [entry for entry in entries if not layer.items() <= entry.items()]
                entries.append(entries[-1] | layer)

    handles = []
    for name, module in network.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if name and (own or name in compared or not [*module.children()]):
            hook = partial(lambda name, module, inputs, output: keep(name, output), name)
            handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield every tensor in what a module returns."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)


def _entry(of: str, name: str, value: Tensor) -> Record:
    value = value.detach()
    flat = (torch.view_as_real(value) if value.is_complex() else value).to(torch.float64).contiguous().cpu().numpy()
    largest = float(abs(flat).max()) if flat.size else 0.0
    finite = math.isfinite(largest)
    projected = projections(flat).tolist() if finite else []
    return {
        "of": of,
        "name": name,
        "shape": list(value.shape),
        "largest": largest if finite else None,
        "projections": projected,
    }


def _mean_and_sd(value: Tensor) -> list[float] | None:
    values = value.detach().double()
    if not value.numel() or not torch.isfinite(values).all():
        return None
    return [float(values.mean()), float(values.std(correction=0))]


def _value(measure: Any, sides: tuple[Any, ...]) -> float | None:
    try:
        value = float(measure(*sides))
    except Exception:  # Undefined; or a user's code, which may need more examples
        return None
    return value if math.isfinite(value) else None


# --- comparing -------------------------------------------------------------------------------------------------------


def _by_place(record: Record) -> dict[tuple[str, str], Record]:
    return {(entry["of"], entry["name"]): entry for entry in record["computed"]}


def _floors(entries: list[Record]) -> dict[str, float]:
    """Return kind of place -> scale below which a difference counts as rounding."""
    largest: dict[str, float] = {}
    for entry in entries:
        largest[entry["of"]] = max(largest.get(entry["of"], 0.0), entry["largest"] or 0.0)
    return {of: OF_ALL * value for of, value in largest.items()}


def _difference(theirs: Record, ours: Record | None, tolerance: float, moved: Record | None) -> str:
    if ours is None:
        return "no longer there"
    if theirs["shape"] != ours["shape"]:
        return f"shape {_shape(ours)} here, {_shape(theirs)} in the store"
    if (theirs["largest"] is None) != (ours["largest"] is None):
        return "finite " + ("in the store only" if ours["largest"] is None else "here only")
    apart = _apart(theirs, ours)
    if moved is not None and moved["shape"] == ours["shape"]:
        tolerance = max(tolerance, 100 * _apart(moved, ours))
    if apart <= tolerance:
        return ""
    return f"its projections are {apart:.2g} apart, its largest value is {theirs['largest']:.3g}"


def _apart(a: Record, b: Record) -> float:
    return max((abs(x - y) for x, y in zip(a["projections"], b["projections"], strict=False)), default=0.0)


_LABELS = {
    "gradient": "the gradient of parameter {!r}",
    "buffer": "buffer {!r} after a step of training",
    "outcome": "the {}",
    "training": "layer {!r} in training mode",
}


def _of_parameters(old: Record, new: Record) -> Iterator[str]:
    """Yield parameters and buffers with other names or shapes: the store's weights would not fit."""
    for name in dict.fromkeys((*new["parameters"], *old["parameters"])):
        theirs, ours = old["parameters"].get(name), new["parameters"].get(name)
        if ours is None or theirs is None:
            yield f"parameter {name!r} ({'no longer there' if ours is None else 'new'})"
        elif ours != theirs:
            yield f"parameter {name!r} (shape {tuple(ours)} here, {tuple(theirs)} in the store)"


def _of_initial_values(old: Record, new: Record) -> Iterator[str]:
    for name, ours in new["initial"].items():
        theirs = old["initial"].get(name, ours)
        if (ours is None) != (theirs is None):
            yield f"the initial values of {name!r} (finite {'in the store' if ours is None else 'here'} only)"
        elif (
            ours is not None
            and theirs is not None
            and max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) > INITIAL * max(abs(theirs[0]), theirs[1])
        ):
            here, there = (f"mean {mean:.4g}, sd {sd:.4g}" for mean, sd in (ours, theirs))
            yield f"the initial values of {name!r} ({here} here, {there} in the store)"


def _shape(entry: Record) -> tuple[int, ...]:
    return tuple(entry["shape"])


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= TOLERANCE["float64"] * max(abs(a), abs(b))


def _shown(value: float | None) -> str:
    return "no value" if value is None else f"{value:.12g}"
