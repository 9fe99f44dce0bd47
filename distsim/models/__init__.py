"""The networks, by name. A model is a function (channels, size, classes) -> nn.Module with an entry in MODELS.

To add one, put it into MODELS, from a sweep script or here. docs/own-model.md has examples that a test runs.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from distsim.models.answers import NAME, logits_of
from distsim.models.contract import Contract, Refused, construct, examined, says_layers
from distsim.models.layers import Adopted, Dropout, Layer, Network, initialise
from distsim.models.lenet5 import LeNet5
from distsim.models.resnet_fast import ResNetFast
from distsim.models.vgg import VGG
from distsim.seeds import GLOBAL_GENERATOR
from distsim.specs import Problem

__all__ = ["MODELS", "Dropout", "Layer", "Network", "build", "logits_of"]

VGG16 = "64* 64* M 128* 128* M 256* 256* 256* M 512* 512* 512* M 512* 512* 512* M | gap"

MODELS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "vgg_cifar2": partial(VGG, "16* 16 M | fc 256§"),
    "vgg_cifar4": partial(VGG, "16* 16 M 32* 32 M | fc 256§"),
    "vgg_cifar6": partial(VGG, "64* 64 M 128* 128 M 256* 256 M | fc 256§"),
    "vgg_cifar8": partial(VGG, "64* 64* M 128* 128* M 256* 256* M 512* 512* M | fc 1024*§"),
    "vgg16_bn": partial(VGG, VGG16),
    "vgg_svhn": partial(VGG, "32* 32* M 64* 64* M 128* 128* M 256* M | gap"),
    "vgg_digits": partial(VGG, "16* 16 M 32* 32 M | fc 64§"),
    "resnet_fast": ResNetFast,
    "lenet5": LeNet5,
}
BUILT_IN = frozenset(MODELS)  # the models that come with distsim


@torch.inference_mode(False)
@torch.enable_grad()  # what is checked needs gradients, whatever the caller's mode is
def build(problem: Problem, classes: int | None = None, generator: torch.Generator | None = None) -> Network:
    """Make the problem's network on the CPU.

    The constructor runs under the generator's seed. A `Network` is then initialised by `initialise`; any other
    `nn.Module` keeps the weights that its constructor gave it. The global generator is left as it was.
    classes : number of outputs; None: the number of classes that the problem names
    generator : None if weights will be loaded afterwards
    ValueError: the model is unknown, or cannot be trained, pruned, compared or repeated (distsim.models.contract).
    """
    if problem.model not in MODELS:
        raise ValueError(f"unknown model {problem.model!r}; there are {', '.join(sorted(MODELS))}")
    if not (outputs := len(problem.classes) if classes is None else classes):
        raise ValueError(f"{problem.name}: the problem names no classes, so pass their number")
    model = MODELS[problem.model]
    try:
        contract = _contract(model, problem, outputs)
        with _seeded(0 if generator is None else generator.initial_seed()):
            network = construct(model, problem, outputs)
    except Refused as refused:
        raise ValueError(f"model {problem.model}: {refused}") from refused.__cause__
    if not isinstance(network, Network) or not says_layers(network):
        network = Adopted(network, contract.layers, contract.output)
    elif generator is not None:
        initialise(network, generator)
    network.__dict__.update(layers=contract.layers, output=contract.output, draws=contract.draws)
    network.__dict__[NAME] = problem.model
    return network


_CONTRACTS: dict[tuple[object, ...], tuple[object, Contract]] = {}


def _contract(model: Callable[[int, int, int], nn.Module], problem: Problem, outputs: int) -> Contract:
    """Return what `examined` finds. It runs once in a process for each model and each set of arguments."""
    alone = problem.recipe.batch_size == 1
    key = (id(model), problem.channels, problem.size, outputs, problem.layers, alone, problem.pruning.prune_output)
    if key not in _CONTRACTS:
        with _seeded(0):
            _CONTRACTS[key] = (model, examined(model, problem, outputs))  # with the model, so that its id is not reused
    return _CONTRACTS[key][1]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generator, from which constructors draw, inside the block, and restore it afterwards."""
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
