"""What cannot be trained, pruned, compared or repeated is refused before training, in a sentence that says why."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from networks import Functional
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torchvision.models import googlenet

from distsim import models
from distsim.models import MODELS, Dropout, Layer, Network, build
from distsim.problems import PROBLEMS
from distsim.specs import Pruning
from distsim.sweep.order import prepare
from distsim.training.stepper import require_streams

DIGITS = PROBLEMS["digits"]


class Net(nn.Module):
    """A convolution and an output, with two places where a test puts something else."""

    def __init__(self, channels, size, classes, body=None, end=None, make=None):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.body = (make or nn.Identity)()
        self.out = nn.Linear(8, classes)
        self.inside, self.end = body or (lambda net, x: net.body(x)), end or (lambda net, x: x)

    def forward(self, x):
        x = self.inside(self, self.conv(x))
        return self.end(self, self.out(x.mean((2, 3))))


def net(**parts):
    return lambda channels, size, classes: Net(channels, size, classes, **parts)


def changed(change):
    def model(channels, size, classes):
        network = Net(channels, size, classes)
        change(network)
        return network

    return model


class NoParameters(nn.Module):
    def __init__(self, channels, size, classes):
        super().__init__()
        self.classes = classes

    def forward(self, x):
        return x.flatten(1)[:, : self.classes]


class NothingToPrune(NoParameters):
    def __init__(self, *asked):
        super().__init__(*asked)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * super().forward(x)


class SequenceFirst(nn.Module):
    """(t, n, d) within; its attention is told so."""

    def __init__(self, channels, size, classes):
        super().__init__()
        self.patch = nn.Conv2d(channels, 12, 4, stride=4)
        self.attn = nn.MultiheadAttention(12, 2)
        self.norm = nn.LayerNorm(12)
        self.out = nn.Linear(12, classes)

    def forward(self, x):
        x = self.patch(x).flatten(2).permute(2, 0, 1)
        return self.out(self.norm(self.attn(x, x, x)[0]).mean(0))


class BatchTakenForSequence(SequenceFirst):
    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)  # (n, t, d), to attention over the first dimension
        return self.out(self.norm(self.attn(x, x, x)[0]).mean(1))


class Counting(nn.Module):
    """A mean over the training, which only the module itself holds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen.add_(1)
        return x


class Remembers(Net):
    """Keeps something in a plain attribute, as `kept` says: no checkpoint holds it."""

    def __init__(self, channels, size, classes, kept):
        super().__init__(channels, size, classes)
        self.kept, self.memory, self.steps = kept, [], 0
        self.own = torch.Generator().manual_seed(0)
        self.numpys = np.random.default_rng(0)
        self.register_buffer("late", None, persistent=False)

    def forward(self, x):
        return super().forward(x) * (1 + self.kept(self, x))


def remembers(kept):
    return lambda channels, size, classes: Remembers(channels, size, classes, kept)


def counts(net, x):
    net.steps += net.training
    return 0.01 * net.steps


def counts_always(net, x):
    net.steps += 1
    return 0.01 * net.steps


def a_memory_bank(net, x):
    if net.training:
        net.memory.append(x.mean().detach())
    return torch.stack(net.memory).mean() if net.memory else 0.0


def a_running_mean_for_evaluation(net, x):
    if net.training:
        net.late = x.mean().detach()
        return 0.0
    return 0.0 if net.late is None else net.late


def a_generator_of_torchs(net, x):
    return torch.rand((), generator=net.own) if net.training else 0.0


def a_generator_of_numpys(net, x):
    return float(net.numpys.random()) if net.training else 0.0


class Named(Network):
    def __init__(self, channels, size, classes, layers, output="out"):
        super().__init__()
        self.conv, self.out, self.idle = nn.Conv2d(channels, 4, 3), nn.Linear(4, classes), nn.ReLU()
        self.layers, self.output = layers, output

    def forward(self, x):
        return self.out(self.conv(x).mean((2, 3)))


def named(*layers, output="out"):
    return lambda channels, size, classes: Named(channels, size, classes, layers, output)


def deep(channels, size, classes):
    body = [part for _ in range(4) for part in (nn.Conv2d(channels, channels, 3, padding=1), nn.MaxPool2d(2))]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(channels, classes))


LOGITS = r"expected a tensor of logits, \(images, classes\)"
REFUSED = {
    # what it is
    "arguments": (
        lambda channels, size: nn.Linear(1, 1),
        r"called as \(channels, size, classes\) = \(1, 8, 10\) it fails: TypeE",
    ),
    "no module": (lambda channels, size, classes: "resnet", "it gives str, not a torch.nn.Module"),
    "no parameters": (NoParameters, "it has no parameters to train"),
    "frozen": (changed(lambda n: n.requires_grad_(False)), "it has no parameters to train"),
    "nothing to prune": (NothingToPrune, "it has no nn.Conv2d or nn.Linear that may be pruned$"),
    "float64": (changed(lambda n: n.double()), "parameter conv.weight is torch.float64; distsim trains torch.float32"),
    "weight_norm": (
        changed(lambda n: parametrizations.weight_norm(n.conv)),
        "the weight of conv is computed from other param",
    ),
    "spectral_norm": (
        changed(lambda n: parametrizations.spectral_norm(n.out)),
        "the weight of out is computed from other param",
    ),
    "pruned": (
        changed(lambda n: prune.random_unstructured(n.conv, "weight", 0.5)),
        "the weight of conv is computed from other",
    ),
    "numpy's numbers": (
        changed(lambda n: n.conv.weight.data.fill_(np.random.default_rng().random())),
        "called twice under the same torch.manual_seed, it gives different values of conv.weight",
    ),
    # what it returns
    "too deep": (deep, "in evaluation mode it fails for 3 images of 8 x 8 pixels and 1 channel: RuntimeError: "),
    "tuple": (net(end=lambda n, x: (x, x)), f"in evaluation mode it returns tuple; {LOGITS}"),
    "dict": (net(end=lambda n, x: {"logits": x}), f"in evaluation mode it returns dict with logits; {LOGITS}"),
    "auxiliary": (
        lambda channels, size, classes: nn.Sequential(
            nn.Conv2d(channels, 3, 1), nn.Upsample(96), googlenet(num_classes=classes, init_weights=False)
        ),
        f"in training mode it returns GoogLeNetOutputs with logits, aux_logits2, aux_logits1; {LOGITS}",
    ),
    "classes": (net(end=lambda n, x: x[:, :5]), r"returns \(3, 5\) for 3 images of .*; expected \(3, 10\)"),
    "a map": (net(end=lambda n, x: x[:, :, None]), r"returns \(3, 10, 1\) for 3 images of .*; expected \(3, 10\)"),
    "squeeze": (net(end=lambda n, x: x.squeeze()), r"returns \(10,\) for 1 image of .*; expected \(1, 10\)"),
    "whole numbers": (net(end=lambda n, x: x.long()), "returns torch.int64; expected logits"),
    "no gradient": (net(end=lambda n, x: x.detach()), "its gradient cannot be computed: RuntimeError: "),
    # what it depends on
    "batch statistics": (
        net(make=lambda: nn.BatchNorm2d(8, track_running_stats=False)),
        r"body \(BatchNorm2d\) has no running statistics, so its output for an image depends on the other images",
    ),
    "the batch for the sequence": (
        BatchTakenForSequence,
        "its output for an image depends on the other images in the batch: does a module",
    ),
    "softmax": (
        net(end=lambda n, x: x.softmax(0)),
        "its output for an image depends on the other images in the batch: does a module",
    ),
    "earlier images": (
        net(end=lambda n, x: x.cumsum(0)),
        "its output for an image depends on the other images in the batch: does a module",
    ),
    "the image before": (
        net(end=lambda n, x: x + torch.cat([0 * x[:1], x[:-1]])),
        "its output for an image depends on the other images in the batch: does a module",
    ),
    "dropout always": (
        net(body=lambda n, x: F.dropout(x)),
        r"the network \(Net\) draws random numbers in evaluation mode too",
    ),
    "numpy": (
        net(body=lambda n, x: x * np.random.rand() if n.training else x),  # noqa: NPY002
        "it draws from NumPy's global random numbers in training, which do not repeat",
    ),
    "python": (net(body=lambda n, x: x * random.random() if n.training else x), "it draws from Python's global random"),
    "hidden state": (net(make=Counting), r"the buffer body.seen changes in training and is not in its state_dict"),
    "a counter": (remembers(counts), "a new network with the same state_dict returns other values in evaluation mode"),
    "a memory bank": (remembers(a_memory_bank), "a new network with the same state_dict returns other values in eval"),
    "a late buffer": (remembers(a_running_mean_for_evaluation), "a new network with the same state_dict returns other"),
    "torch's generator": (remembers(a_generator_of_torchs), "other values in training mode, so a resumed training"),
    "numpy's generator": (remembers(a_generator_of_numpys), "other values in training mode, so a resumed training"),
    "a counter always": (
        remembers(counts_always),
        "in evaluation mode it returns other values for the same images a second time: it keeps something from one",
    ),
    "a computed bias": (
        changed(lambda n: parametrizations.weight_norm(n.conv, "bias", dim=None)),
        "the bias of conv is computed from other parameters",
    ),
    # what is compared
    "no tensor": (SequenceFirst, r"layer attn returns no tensor \(but a tuple, say\): name a module in it", "attn"),
    "sequence first": (
        SequenceFirst,
        r"layer norm returns \(4, 3, 12\) for 3 images and \(4, 1, 12\) for one; only \(n, c, h, w\), \(n, t, d\) and",
        "norm",
    ),
    "never runs": (
        changed(lambda n: n.add_module("idle", nn.ReLU())),
        "layers: 'idle' names no module that runs; near: ",
        "idle",
    ),
    "a slash": (changed(lambda n: n.conv.add_module("a/b", nn.ReLU())), "layers: 'x' names no module", "x"),
    # what a Network says
    "no such module": (named(Layer("out", "out", "line")), "layer out names 'line', which is not one of its modules"),
    "no such kind": (named(Layer("out", "dense", "out")), "layer out has kind 'dense'; kinds are"),
    "repeated": (named(Layer("out", "fc", "conv"), Layer("out", "out", "out")), "layer names are repeated"),
    "no such output": (named(Layer("out", "out", "out"), output="head"), "output 'head' is not one of its modules"),
    "an idle layer": (named(Layer("x", "conv", "idle")), "layer x: its module 'idle' does not run"),
    "a third call": (named(Layer("x", "conv", "conv", 3)), "layer x: call 3 of its module 'conv' does not run"),
    "a long name": (named(Layer("a/" * 60, "conv", "conv")), "a layer's name may have 200 bytes"),
    "a name of two lines": (named(Layer("a\nb", "conv", "conv")), "a layer's name must be printable text"),
    "no name": (named(Layer("", "conv", "conv")), "a layer's name must not be empty"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:.*spectral_norm.*")
@pytest.mark.parametrize("what", REFUSED)
def test_refused(monkeypatch, what):
    model, message, *layers = REFUSED[what]
    monkeypatch.setitem(MODELS, "mine", model)
    with pytest.raises(ValueError, match=message) as said:
        build(dataclasses.replace(DIGITS, model="mine", layers=tuple(layers)), 10)
    assert str(said.value).startswith("model mine: ")
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    "model",
    [Functional, SequenceFirst, net(make=lambda: nn.GroupNorm(2, 8)), net(make=lambda: nn.InstanceNorm2d(8)), named()],
    ids=["functional", "sequence first", "group norm", "instance norm", "a Network of no layers"],
)
def test_taken(monkeypatch, model):
    """Twins of what is refused: the rule passes over layers that cannot be compared, these norms look at one image."""
    monkeypatch.setitem(MODELS, "mine", model)
    network = build(dataclasses.replace(DIGITS, model="mine"), 10)
    assert all(layer.name != "attn" for layer in network.layers)


def test_an_output_that_is_left_alone_is_not_to_be_pruned(monkeypatch):
    monkeypatch.setitem(MODELS, "mine", lambda c, s, k: nn.Sequential(nn.Flatten(), nn.Linear(c * s * s, k)))
    problem = dataclasses.replace(DIGITS, model="mine", pruning=Pruning())
    assert build(problem, 10).output == "1"
    problem = dataclasses.replace(problem, pruning=Pruning(prune_output=False))
    message = "it has nothing to prune besides its output '1', which prune_output=False leaves unpruned"
    with pytest.raises(ValueError, match=message):
        build(problem, 10)


def test_one_image_a_step_is_tried_where_it_is_asked_for(monkeypatch):
    def model(channels, size, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))

    monkeypatch.setitem(MODELS, "mine", model)
    problem = dataclasses.replace(DIGITS, model="mine")
    build(problem, 10)
    problem = dataclasses.replace(problem, recipe=dataclasses.replace(problem.recipe, batch_size=1))
    with pytest.raises(
        ValueError, match=r"in training mode it fails for 1 image of 8 x 8 pixels .*more than 1 value per"
    ):
        build(problem, 10)


def test_what_draws_otherwise_than_by_dropout_is_refused_on_a_gpu(monkeypatch):
    monkeypatch.setitem(MODELS, "mine", Functional)
    problem = dataclasses.replace(DIGITS, model="mine")
    message = r"the network \(Functional\) draws from torch's global generator, .* on a CPU only: use --device cpu"
    with pytest.raises(ValueError, match=message):
        prepare(problem, device="cuda")
    require_streams(build(problem, 10), "cpu")
    require_streams(build(DIGITS, 10), "cuda")
    assert any(isinstance(module, Dropout) for module in build(DIGITS, 10).modules())


def test_an_own_network_that_does_not_fit_its_images_is_refused():
    problem = dataclasses.replace(PROBLEMS["vgg16_cifar10"], size=16)
    with pytest.raises(ValueError, match="model vgg16_bn: in evaluation mode it fails for 3 images of 16 x 16 pixels"):
        build(problem, 10)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_network_is_built_whatever_the_mode_of_gradients(mode, monkeypatch):
    """As in the block of `with torch.no_grad()` in which a stored network is used for the first time."""
    monkeypatch.setattr(models, "_CONTRACTS", {})
    with mode():
        network = build(DIGITS, 10)
        assert not torch.is_grad_enabled()
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in network.parameters())
