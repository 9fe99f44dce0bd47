"""Which networks can be fused: a check of modules and functions by name, and of what comes out."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from distsim.models import MODELS, Dropout, Network, build
from distsim.seeds import torch_stream
from distsim.specs import Problem
from distsim.training.fused import BY_CHANNEL, REPLACED, FusedDropout, fused, set_run, side_by_side

IMAGES = 2  # on which a fused network is compared with single ones
SAME = 1e-9  # share of the largest output by which they may differ in float64: their sums have other orders

# Functions and methods that act on each value or channel by itself, or flatten. Those with axes are looked at too.
FUNCTIONS = frozenset(
    (
        *("add", "sub", "mul", "truediv", "div", "neg", "iadd", "isub", "imul", "add_", "sub_", "mul_", "div_"),
        *("relu", "relu_", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish"),
        *("hardtanh", "hardsigmoid", "sigmoid", "logsigmoid", "tanh", "softplus", "softsign"),
        *("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"),
        *("flatten", "mean", "contiguous", "clone"),
    )
)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class NotFusible(ValueError):
    """Raised where several runs of a network cannot be trained in one step. The message says why."""


def require_fusible(problem: Problem, classes: int | None = None) -> None:
    """Check that runs of this problem can be trained in one step.

    It runs once in a process for each network.
    NotFusible, which is a ValueError, names the module or function that distsim cannot fuse.
    """
    model = MODELS.get(problem.model)
    key = (id(model), problem.channels, problem.size, classes or len(problem.classes))
    if key not in _FUSIBLE:
        _require(problem, classes)
        _FUSIBLE[key] = model


_FUSIBLE: dict[tuple[int, ...], object] = {}  # with the model, so that its id is not used again


def _require(problem: Problem, classes: int | None) -> None:
    network = build(problem, classes)
    for fault in _faults(network):
        raise NotFusible(f"model {problem.model} cannot be trained with --fuse: {fault}")
    if not _comes_out_the_same(problem, classes):
        raise NotFusible(
            f"model {problem.model} cannot be trained with --fuse: side by side, two networks give other outputs than "
            "each alone, so something in its forward relates channels to each other"
        )


def _faults(network: Network) -> Iterator[str]:
    if network.draws:
        yield f"{network.draws[0]} draws from torch's global generator"
    owners: dict[nn.Parameter, str] = {}
    for path, module in network.named_modules():
        yield from _faults_of(path, module)
        for name, parameter in module.named_parameters(recurse=False):
            where = f"{path}.{name}".lstrip(".")
            if parameter in owners:
                yield f"{where} is the parameter {owners[parameter]} too"
            owners[parameter] = where
    yield from _unknown_functions(network)


def _faults_of(path: str, module: nn.Module) -> Iterator[str]:
    kind, where = type(module), f"module {path}" if path else "the network"
    settings: Any = module
    if kind is nn.Conv2d and settings.padding_mode != "zeros":
        yield f"{where} pads with {settings.padding_mode!r}, only zeros are known"
    elif kind in (nn.BatchNorm1d, nn.BatchNorm2d) and settings.momentum is None:
        yield f"{where} averages over all batches (momentum=None)"
    elif kind is nn.Flatten and (settings.start_dim, settings.end_dim) != (1, -1):
        yield f"{where} flattens dimensions {settings.start_dim} to {settings.end_dim}, only 1 to -1 is known"
    elif kind is nn.Dropout and 0 < settings.p < 1:
        yield f"{where} is a Dropout that draws from torch's global generator"
    elif _known(module) or kind in CONTAINERS:
        return
    elif kind.__module__.startswith("torch.nn."):
        yield f"{where} is a {kind.__name__}, which is not known here"
    else:
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        yield from (f"{where} has {name} of its own, outside the modules that are known" for name, _ in own)


def _known(module: nn.Module) -> bool:
    return type(module) in (*REPLACED, *BY_CHANNEL, nn.Flatten, nn.Dropout)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return _known(module)


def _unknown_functions(network: Network) -> Iterator[str]:
    """Yield a sentence for each function of the network's forward that is not known."""
    try:
        graph = _Tracer().trace(network.__dict__.get("_adopted", network))
    except Exception as error:  # the user's code may raise anything, for instance because it asks for a value
        told = (str(error).strip().splitlines() or [""])[0]
        yield f"its forward cannot be followed ({type(error).__name__}: {told})"
        return
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for path, module in network.named_modules():
        if isinstance(module, Dropout) and called.count(path) > 1:
            yield f"its forward calls {path}, a Dropout, {called.count(path)} times"
    for node in graph.nodes:
        if node.op == "get_attr":
            yield f"its forward uses {node.target}, which belongs to no module that is known"
        elif node.op in ("call_function", "call_method"):
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
            axes = (*node.args[1:], *node.kwargs.values())
            if name not in FUNCTIONS:
                yield f"its forward calls {name}, which is not known here"
            elif name == "flatten" and axes != (1,):
                yield f"its forward flattens with {axes}, only flatten(1) is known"
            elif name == "mean" and axes[:1] not in (((2, 3),), ((-2, -1),), ([2, 3],), ([-2, -1],)):
                yield f"its forward takes a mean with {axes}, only one over (2, 3) is known"


def _comes_out_the_same(problem: Problem, classes: int | None) -> bool:
    """Compare two fused networks with each alone, in float64 and in both modes."""
    alone = [build(problem, classes, torch_stream(seed, "fusible")).double() for seed in range(2)]
    image = (problem.channels, problem.size, problem.size)
    network = fused(alone[0], len(alone), IMAGES, image)
    images = torch.rand(len(alone) * IMAGES, *image, generator=torch_stream(0, "images"), dtype=torch.float64)
    for training in (False, True):
        for slot, one in enumerate(alone):
            set_run(network, slot, one.state_dict())
        try:
            together = _output(network.train(training), side_by_side(images, len(alone)))
        except RuntimeError:  # shapes do not fit
            return False
        parts = [_output(one.train(training), part) for one, part in zip(alone, images.split(IMAGES), strict=True)]
        if together.ndim != 2 or together.shape[1] != len(alone) * parts[0].shape[1]:
            return False
        apart = (together - torch.cat(parts, dim=1)).abs().max()
        if not apart <= SAME * max(part.abs().max() for part in parts):
            return False
    return True


def _output(network: nn.Module, images: Tensor) -> Tensor:
    """Run a network or several fused ones. All streams of dropout begin anew, for each run the same."""
    for module in network.modules():
        if isinstance(module, FusedDropout):
            for stream in module.streams:
                stream.reseed(0, torch.device("cpu"))
            module.draw()
        elif isinstance(module, Dropout):
            module.reseed(0, torch.device("cpu"))
    with torch.no_grad():
        result: Tensor = network(images.clone())  # an activation may work in place
    return result
