"""What distsim asks of a network, checked once, before anything is trained: each fault is a sentence.

The network is shown a few images in evaluation mode and in training mode, on the CPU, with other weights than it will
have: nothing of what is trained depends on it.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from distsim.models import calls as trace
from distsim.models import compared
from distsim.models.layers import KINDS, Dropout, Layer, Network
from distsim.specs import Problem, shown

Model = Callable[[int, int, int], nn.Module]
LAZY = nn.modules.lazy.LazyModuleMixin
ALONE = 1e-3  # of the largest output: how far that for one image may be from the same among others; rounding is 1e-6


class Refused(ValueError):
    """The network cannot be trained, pruned, compared or repeated as distsim does it."""


@dataclass(frozen=True)
class Contract:
    """What was found of a model."""

    layers: tuple[Layer, ...]
    output: str  # path of the last convolution or linear layer that runs
    draws: tuple[str, ...]  # modules that draw from torch's global generator in training


def construct(model: Model, problem: Problem, classes: int) -> nn.Module:
    """Call the model. Modules of type `nn.Dropout` become distsim's, which have a stream of their own.

    Lazy modules get their parameters from the first images that they see.
    """
    asked = (problem.channels, problem.size, classes)
    try:
        network = model(*asked)
        if isinstance(network, nn.Module) and any(isinstance(m, LAZY) for m in network.modules()):
            with torch.no_grad():
                network.eval()(_images(problem, 2))
            network.train()
    except Exception as error:  # of the user's own code
        raise Refused(f"called as (channels, size, classes) = {asked} it fails: {_told(error)}") from error
    if not isinstance(network, nn.Module):
        raise Refused(f"called as (channels, size, classes) it gives {type(network).__name__}, not a torch.nn.Module")
    swapped: dict[nn.Module, Dropout] = {}
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout and 0 < child.p < 1:
                setattr(parent, name, swapped.setdefault(child, Dropout(child.p)))
    return network


def examined(model: Model, problem: Problem, classes: int) -> Contract:
    """Return what is compared and what draws random numbers. Refused: the network breaks the contract, and how."""
    network = _under_a_seed(model, problem, classes)
    _require_definition(network)
    _require_parameters(network)
    images = _images(problem, compared.IMAGES)
    network.eval()
    with torch.no_grad():
        ran, single, result = _evaluated(network, images, classes)
    _require_prunable(network, problem, output := _output(network, ran))
    if not says_layers(network):
        _require_the_same(network, _under_a_seed(model, problem, classes))
    drawing = _trained(network, _images(problem, 1 if problem.recipe.batch_size == 1 else 2), classes)
    try:
        if says_layers(network):
            layers = compared.declared(network.layers, ran, single, problem.layers)  # type: ignore[arg-type]
        else:
            layers = tuple(compared.chosen(ran, result, single, problem.layers))
    except ValueError as error:
        raise Refused(str(error)) from None
    _require_names(layers)
    return Contract(layers, output, tuple(drawing))


def _under_a_seed(model: Model, problem: Problem, classes: int) -> nn.Module:
    torch.manual_seed(0)  # the caller keeps the generator's state
    return construct(model, problem, classes)


def says_layers(network: nn.Module) -> bool:
    return isinstance(network, Network) and hasattr(network, "layers")


def says_output(network: nn.Module) -> bool:
    return isinstance(network, Network) and hasattr(network, "output")


def _output(network: nn.Module, ran: list[trace.Call]) -> str:
    return str(network.output) if says_output(network) else compared.output_of(ran)


def _images(problem: Problem, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, problem.channels, problem.size, problem.size, generator=generator)


# --- the definition --------------------------------------------------------------------------------------------------


def _require_definition(network: nn.Module) -> None:
    """What a Network says of itself holds together; the weights are parameters."""
    modules = dict(network.named_modules())
    if says_layers(network):
        for layer in network.layers:  # type: ignore[union-attr]
            if layer.module not in modules:
                raise Refused(f"layer {layer.name} names {layer.module!r}, which is no module of it")
            if layer.kind not in KINDS:
                raise Refused(f"layer {layer.name} has kind {layer.kind!r}; kinds are {KINDS}")
        _require_names(network.layers)  # type: ignore[arg-type]
    if says_output(network) and network.output not in modules:
        raise Refused(f"output {network.output!r} is no module of it")
    for path, module in modules.items():
        if isinstance(module, nn.Conv2d | nn.Linear) and "weight" not in module._parameters:
            raise Refused(
                f"the weight of {path} is computed from other parameters (by weight_norm, spectral_norm or "
                "torch.nn.utils.prune), so it cannot be pruned: take that off"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.track_running_stats:
            raise Refused(
                f"{path} ({type(module).__name__}) has no running statistics: what it gives for an image depends on "
                "the images beside it; it needs track_running_stats=True"
            )


def _require_names(layers: tuple[Layer, ...]) -> None:
    names = [layer.name for layer in layers]
    if len(set(names)) != len(names):
        raise Refused(f"layer names are repeated: {names}")
    for name in names:
        if not name or set(name) & set("/\\,") or not name.isprintable() or name.startswith(("__", ".")):
            raise Refused(f"a layer is named {name!r}; its name is a folder's, without / \\ and ,")


def _require_parameters(network: nn.Module) -> None:
    parameters = dict(network.named_parameters())
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise Refused("it has no parameters to train")
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise Refused(f"parameter {name} is {parameter.dtype}; distsim trains torch.float32")
    for name, value in network.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise Refused(f"its state_dict holds {name}, which is {type(value).__name__} and no tensor")


def _require_prunable(network: nn.Module, problem: Problem, output: str) -> None:
    prunable = [path for path, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if not prunable:
        raise Refused("it has no nn.Conv2d or nn.Linear that may be pruned")
    if prunable == [output] and not problem.pruning.prune_output:
        raise Refused(f"it has nothing to prune besides its output {output!r}, which prune_output=False spares")


def _require_the_same(network: nn.Module, twin: nn.Module) -> None:
    """The constructor draws from torch's generator, if at all: that is given the sweep's seed."""
    if list(network.state_dict()) != list(twin.state_dict()):
        raise Refused("called twice, it gives networks with other parameters")
    for name, value in network.state_dict().items():
        if not torch.equal(value, twin.state_dict()[name]):
            raise Refused(
                f"called twice under the same torch.manual_seed, it gives other values of {name}: they must come from "
                "torch's random numbers, not NumPy's or Python's"
            )


# --- in evaluation mode ----------------------------------------------------------------------------------------------


def _evaluated(
    network: nn.Module, images: torch.Tensor, classes: int
) -> tuple[list[trace.Call], list[trace.Call], torch.Tensor]:
    """The calls for all images, those for the first alone, and what the network puts out for all."""
    before = torch.get_rng_state()
    ran, result = _shown(network, images, classes)
    if not torch.equal(torch.get_rng_state(), before):
        drew = [*trace.draws(network, images.clone()), "it"][0]
        raise Refused(
            f"{drew} draws random numbers in evaluation mode too, so activations would not repeat; "
            "functional.dropout needs training=self.training"
        )
    single, alone = _shown(network, images[:1], classes)
    far = (alone - result[:1]).abs().max()
    if far > ALONE * result.abs().max():  # false of what is not finite: training will tell
        raise Refused(
            "what it puts out for an image depends on the images beside it: is a dimension taken for another?"
        )
    return ran, single, result


def _shown(network: nn.Module, images: torch.Tensor, classes: int) -> tuple[list[trace.Call], torch.Tensor]:
    """Its calls and what it puts out. Refused: it fails, or does not put out a row of logits for each image."""
    n, channels, size, _ = images.shape
    what = (
        f"{n} image{'s' if n > 1 else ''} of {size} x {size} pixels and {channels} channel{'s' if channels > 1 else ''}"
    )
    mode = f"in {'training' if network.training else 'evaluation'} mode it"
    try:
        ran, result = trace.calls(network, images.clone())
    except Exception as error:  # of the user's own code
        raise Refused(f"{mode} fails for {what}: {_told(error)}") from error
    if not isinstance(result, torch.Tensor):
        raise Refused(
            f"{mode} puts out {_kind(result)}; expected a tensor of logits, (images, classes): wrap it in a module "
            "that returns these alone"
        )
    if tuple(result.shape) != (n, classes):
        raise Refused(f"{mode} puts out {tuple(result.shape)} for {what}; expected {(n, classes)}")
    if not result.is_floating_point():
        raise Refused(f"{mode} puts out {result.dtype}; expected logits, torch.float32")
    return ran, result


# --- in training mode ------------------------------------------------------------------------------------------------


def _trained(network: nn.Module, images: torch.Tensor, classes: int) -> list[str]:
    """The modules that draw from torch's global generator, found by a step forward and back."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.reseed(0, torch.device("cpu"))
    network.train()
    others = _hidden_state(network)
    torchs, numpys, pythons = torch.get_rng_state(), _numpy_state(), random.getstate()
    _, logits = _shown(network, images, classes)
    moved = {"NumPy": not _equal(_numpy_state(), numpys), "Python": random.getstate() != pythons}
    for library in (library for library, moves in moved.items() if moves):
        raise Refused(f"it draws from {library}'s global random numbers in training, which do not repeat: use torch's")
    drew = not torch.equal(torch.get_rng_state(), torchs)
    for name, value in _hidden_state(network).items():
        if name in others and not torch.equal(value, others[name]):
            raise Refused(
                f"the buffer {name} changes in training and is not in its state_dict, so an interrupted training would "
                "go on differently: register it with persistent=True"
            )
    try:
        nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)).backward()
    except RuntimeError as error:
        raise Refused(f"its gradient cannot be computed: {_told(error)}") from error
    return (trace.draws(network, images) or ["the network"]) if drew else []


def _hidden_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the buffers that a checkpoint does not hold."""
    kept = network.state_dict()
    return {name: copy.deepcopy(buffer) for name, buffer in network.named_buffers() if name not in kept}


def _numpy_state() -> Any:
    return np.random.get_state()  # noqa: NPY002  # to see whether the network moves it


def _equal(one: Any, two: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def _kind(value: Any) -> str:
    names = list(value) if isinstance(value, dict) else getattr(value, "_fields", None)
    return type(value).__name__ + (f" with {', '.join(map(str, names))}" if names else "")


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {shown(lines[0])[1:-1]}" if lines else type(error).__name__
