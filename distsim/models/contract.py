"""The requirements on a network, checked once before anything is trained. Each fault is reported in one sentence.

The network runs on a few images in evaluation mode and in training mode, on the CPU. It has other weights than the one
that is trained, so nothing of the training depends on these runs.
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
from distsim.specs import Problem, layer_names, shown

Model = Callable[[int, int, int], nn.Module]
LAZY = nn.modules.lazy.LazyModuleMixin
# How far the output for an image alone may be from that for the image in a batch, as a share of the largest output.
# Rounding is 1e-6.
ALONE = 1e-3
# How far outputs for the same images may be from each other where they should have the same bits.
REPEATED = 1e-5
STEPS = 3  # of training, after which a network must be what its state_dict says


class Refused(ValueError):
    """Raised where distsim cannot train, prune, compare or repeat a network. The message says why."""


@dataclass(frozen=True)
class Contract:
    """What `examined` finds out about a model."""

    layers: tuple[Layer, ...]
    output: str  # path of the last convolution or linear layer that runs
    draws: tuple[str, ...]  # modules that draw from torch's global generator in training


def construct(model: Model, problem: Problem, classes: int) -> nn.Module:
    """Call the model and return its network.

    Modules of type `nn.Dropout` are replaced by distsim's, which have a random stream of their own. Lazy modules get
    their parameters from a few images. Refused: the call fails, or does not return a module.
    """
    asked = (problem.channels, problem.size, classes)
    try:
        network = model(*asked)
        if isinstance(network, nn.Module) and any(isinstance(m, LAZY) for m in network.modules()):
            with torch.no_grad():
                network.eval()(_images(problem, 2))
            network.train()
    except Exception as error:  # the user's code may raise anything
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
    """Run the network in both modes; return the layers to compare and the modules that draw random numbers.

    Refused: the network does not meet the requirements; the message says which.
    """
    network = _under_a_seed(model, problem, classes)
    _require_definition(network)
    _require_parameters(network)
    images = _images(problem, compared.IMAGES)
    network.eval()
    with torch.no_grad():
        ran, single, result = _evaluated(network, images, classes)
    _require_prunable(network, problem, output := _output(network, ran))
    twin = _under_a_seed(model, problem, classes)
    if not says_layers(network):
        _require_the_same(network, twin)
    batches = [_images(problem, 1 if problem.recipe.batch_size == 1 else 2, seed) for seed in range(STEPS + 1)]
    drawing = _trained(network, batches[0], classes)
    _require_no_memory(network, twin, batches, classes)
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
    """Return whether the network itself names the layers to compare."""
    return isinstance(network, Network) and hasattr(network, "layers")


def says_output(network: nn.Module) -> bool:
    """Return whether the network itself names its output module."""
    return isinstance(network, Network) and hasattr(network, "output")


def _output(network: nn.Module, ran: list[trace.Call]) -> str:
    return str(network.output) if says_output(network) else compared.output_of(ran)


def _images(problem: Problem, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, problem.channels, problem.size, problem.size, generator=generator)


# --- the definition --------------------------------------------------------------------------------------------------


def _require_definition(network: nn.Module) -> None:
    """Check that a Network's layers and output exist, that weights are parameters, and batch norm's statistics."""
    modules = dict(network.named_modules())
    if says_layers(network):
        for layer in network.layers:  # type: ignore[union-attr]
            if layer.module not in modules:
                raise Refused(f"layer {layer.name} names {layer.module!r}, which is not one of its modules")
            if layer.kind not in KINDS:
                raise Refused(f"layer {layer.name} has kind {layer.kind!r}; kinds are {KINDS}")
        _require_names(network.layers)  # type: ignore[arg-type]
    if says_output(network) and network.output not in modules:
        raise Refused(f"output {network.output!r} is not one of its modules")
    for path, module in modules.items():
        computed = [name for name in ("weight", "bias") if name not in module._parameters]
        if isinstance(module, nn.Conv2d | nn.Linear) and computed:
            raise Refused(
                f"the {computed[0]} of {path} is computed from other parameters (by weight_norm, spectral_norm or "
                "torch.nn.utils.prune), so it cannot be pruned: remove that"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.track_running_stats:
            raise Refused(
                f"{path} ({type(module).__name__}) has no running statistics, so its output for an image depends on "
                "the other images in the batch: use track_running_stats=True"
            )


def _require_names(layers: tuple[Layer, ...]) -> None:
    names = [layer.name for layer in layers]
    if len(set(names)) != len(names):
        raise Refused(f"layer names are repeated: {names}")
    for name in names:
        if fault := layer_names.fault(name):
            raise Refused(fault)


def _require_parameters(network: nn.Module) -> None:
    parameters = dict(network.named_parameters())
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise Refused("it has no parameters to train")
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise Refused(f"parameter {name} is {parameter.dtype}; distsim trains torch.float32")
    for name, value in network.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise Refused(f"its state_dict holds {name}, which is {type(value).__name__}, not a tensor")


def _require_prunable(network: nn.Module, problem: Problem, output: str) -> None:
    prunable = [path for path, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if not prunable:
        raise Refused("it has no nn.Conv2d or nn.Linear that may be pruned")
    if prunable == [output] and not problem.pruning.prune_output:
        raise Refused(
            f"it has nothing to prune besides its output {output!r}, which prune_output=False leaves unpruned"
        )


def _require_the_same(network: nn.Module, twin: nn.Module) -> None:
    """Check that two networks of one seed are equal: a constructor may draw from torch's generator only."""
    if list(network.state_dict()) != list(twin.state_dict()):
        raise Refused("called twice, it gives networks with different parameters")
    for name, value in network.state_dict().items():
        if not torch.equal(value, twin.state_dict()[name]):
            raise Refused(
                f"called twice under the same torch.manual_seed, it gives different values of {name}: draw them "
                "with torch, not with NumPy or Python"
            )


# --- in evaluation mode ----------------------------------------------------------------------------------------------


def _evaluated(
    network: nn.Module, images: torch.Tensor, classes: int
) -> tuple[list[trace.Call], list[trace.Call], torch.Tensor]:
    """Return the calls for all images, the calls for the first image alone, and the network's output for all images."""
    before = torch.get_rng_state()
    ran, result = _shown(network, images, classes)
    if not torch.equal(torch.get_rng_state(), before):
        drew = [*trace.draws(network, images.clone()), "it"][0]
        raise Refused(
            f"{drew} draws random numbers in evaluation mode too, so activations would not repeat; "
            "functional.dropout needs training=self.training"
        )
    if not _repeats(_shown(network, images, classes)[1], result):
        raise Refused(
            "in evaluation mode it returns other values for the same images a second time: it keeps something from one "
            "batch to the next, or draws random numbers"
        )
    single, first = _shown(network, images[:1], classes)
    _, last = _shown(network, images[-1:], classes)  # an image may be mixed with those before it only
    for alone, together in ((first, result[:1]), (last, result[-1:])):
        far = (alone - together).abs().max()
        if far > ALONE * result.abs().max():  # false if a value is not finite, which training reports
            raise Refused(
                "its output for an image depends on the other images in the batch: does a module take one dimension "
                "for another?"
            )
    return ran, single, result


def _shown(network: nn.Module, images: torch.Tensor, classes: int) -> tuple[list[trace.Call], torch.Tensor]:
    """Return the network's calls and its output.

    Refused: it fails, or does not return a row of logits for each image.
    """
    n, channels, size, _ = images.shape
    batch = (
        f"{n} image{'s' if n > 1 else ''} of {size} x {size} pixels and {channels} channel{'s' if channels > 1 else ''}"
    )
    mode = f"in {'training' if network.training else 'evaluation'} mode it"
    try:
        ran, result = trace.calls(network, images.clone())
    except Exception as error:  # the user's code may raise anything
        raise Refused(f"{mode} fails for {batch}: {_told(error)}") from error
    if not isinstance(result, torch.Tensor):
        raise Refused(
            f"{mode} returns {_kind(result)}; expected a tensor of logits, (images, classes): wrap it in a module "
            "that returns these alone"
        )
    if tuple(result.shape) != (n, classes):
        squeezed = ". In a batch of one image too, flatten(1) keeps the first dimension, squeeze() drops it"
        raise Refused(
            f"{mode} returns {tuple(result.shape)} for {batch}; expected {(n, classes)}{squeezed if n == 1 else ''}"
        )
    if not result.is_floating_point():
        raise Refused(f"{mode} returns {result.dtype}; expected logits, torch.float32")
    return ran, result


# --- in training mode ------------------------------------------------------------------------------------------------


def _trained(network: nn.Module, images: torch.Tensor, classes: int) -> list[str]:
    """Run one step forward and back, and return the modules that draw from torch's global generator."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.reseed(0, torch.device("cpu"))
    network.train()
    hidden = _hidden_state(network)
    torchs, numpys, pythons = torch.get_rng_state(), _numpy_state(), random.getstate()
    _, logits = _shown(network, images, classes)
    moved = {"NumPy": not _equal(_numpy_state(), numpys), "Python": random.getstate() != pythons}
    for library in (library for library, moves in moved.items() if moves):
        raise Refused(f"it draws from {library}'s global random numbers in training, which do not repeat: use torch's")
    drew = not torch.equal(torch.get_rng_state(), torchs)
    for name, value in _hidden_state(network).items():
        if name in hidden and not torch.equal(value, hidden[name]):
            raise Refused(
                f"the buffer {name} changes in training and is not in its state_dict, so a resumed training would "
                "go on differently: register it with persistent=True"
            )
    try:
        nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)).backward()
    except RuntimeError as error:
        raise Refused(f"its gradient cannot be computed: {_told(error)}") from error
    return (trace.draws(network, images) or ["the network"]) if drew else []


def _require_no_memory(network: nn.Module, twin: nn.Module, batches: list[torch.Tensor], classes: int) -> None:
    """Check that after some steps a new network with the same state_dict does the same. `twin` is the new one.

    A checkpoint and a committed network hold the state_dict only. What a module keeps elsewhere would be lost: a
    counter, a memory of earlier batches, a random generator of its own.
    """
    for step, images in enumerate(batches[:-1]):
        _stepped(network, images, classes, step)
    try:
        twin.load_state_dict(network.state_dict())
    except RuntimeError as error:
        raise Refused(f"called twice, it gives networks with different parameters: {_told(error)}") from error
    for training in (False, True):
        one, other = (_stepped(each.train(training), batches[-1], classes, STEPS) for each in (network, twin))
        if not _repeats(one, other):
            raise Refused(
                f"after some steps of training, a new network with the same state_dict returns other values in "
                f"{'training' if training else 'evaluation'} mode, so a resumed training would go on differently: it "
                "keeps something elsewhere (a counter, a memory of earlier batches, a random generator of its own). "
                "Put it into a buffer, with persistent=True, and draw with torch's global generator"
            )


def _stepped(network: nn.Module, images: torch.Tensor, classes: int, step: int) -> torch.Tensor:
    """Run the network with the random streams of a step, and return its output."""
    torch.manual_seed(step)
    for module in network.modules():
        if isinstance(module, Dropout):
            module.reseed(step, torch.device("cpu"))
    with torch.no_grad():
        return _shown(network, images, classes)[1]


def _repeats(x: torch.Tensor, y: torch.Tensor) -> bool:
    return not bool((x - y).abs().max() > REPEATED * y.abs().max())  # true if a value is not finite


def _hidden_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the buffers that a checkpoint does not hold."""
    saved = network.state_dict()
    return {name: copy.deepcopy(buffer) for name, buffer in network.named_buffers() if name not in saved}


def _numpy_state() -> Any:
    return np.random.get_state()  # noqa: NPY002  # read to see whether the network draws from it


def _equal(x: Any, y: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(x, y, strict=True))


def _kind(value: Any) -> str:
    names = list(value) if isinstance(value, dict) else getattr(value, "_fields", None)
    return type(value).__name__ + (f" with {', '.join(map(str, names))}" if names else "")


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {shown(lines[0])[1:-1]}" if lines else type(error).__name__
