"""The networks, by name. A model is a function (channels, size, classes) -> Network, and a line in MODELS.

To add one: write a `Network` that sets `layers` (what is compared, from input to output) and `output`, and put it in
MODELS, from a sweep script or here. docs/own-model.md has an example that a test runs.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from distsim.models.layers import KINDS, Dropout, Layer, Network, initialise
from distsim.models.lenet5 import LeNet5
from distsim.models.resnet_fast import ResNetFast
from distsim.models.vgg import VGG
from distsim.specs import Problem

__all__ = ["MODELS", "Dropout", "Layer", "Network", "build"]

VGG16 = "64* 64* M 128* 128* M 256* 256* 256* M 512* 512* 512* M 512* 512* 512* M | gap"

MODELS: dict[str, Callable[[int, int, int], Network]] = {
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
BUILT_IN = frozenset(MODELS)  # those that come with distsim


def build(problem: Problem, classes: int | None = None, generator: torch.Generator | None = None) -> Network:
    """Make the problem's network on the CPU, initialised from `generator`; without one, weights are to be loaded.

    classes : outputs of the network; None: as many as the problem names classes
    ValueError: unknown model, or one whose `layers` do not name its modules. The global generator is not touched.
    """
    if problem.model not in MODELS:
        raise ValueError(f"unknown model {problem.model!r}; there are {', '.join(sorted(MODELS))}")
    if not (outputs := len(problem.classes) if classes is None else classes):
        raise ValueError(f"{problem.name}: the problem names no classes, so say how many there are")
    with torch.random.fork_rng(devices=[]):  # module constructors draw from the global generator
        torch.manual_seed(0 if generator is None else generator.initial_seed())
        network = MODELS[problem.model](problem.channels, problem.size, outputs)
    _check_layers(problem.model, network)
    if generator is not None:
        initialise(network, generator)
    return network


_OWN_RANDOMNESS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def _check_layers(model: str, network: Network) -> None:
    modules = {name for name, _ in network.named_modules()}
    for layer in network.layers:
        if layer.module not in modules:
            raise ValueError(f"model {model}: layer {layer.name} names {layer.module!r}, which is no module of it")
        if layer.kind not in KINDS:
            raise ValueError(f"model {model}: layer {layer.name} has kind {layer.kind!r}; kinds are {KINDS}")
    names = [layer.name for layer in network.layers]
    if len(set(names)) != len(names):
        raise ValueError(f"model {model}: layer names are repeated: {names}")
    if any(isinstance(module, _OWN_RANDOMNESS) for module in network.modules()):
        raise ValueError(f"model {model}: use distsim.models.Dropout; torch's draws from a generator that all share")
    if network.output not in modules:
        raise ValueError(f"model {model}: output {network.output!r} is no module of it")
