import dataclasses
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distsim.models import MODELS, Dropout, Layer, Network, build
from distsim.models.layers import initialise
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream

# what SPEC §3 compares, from input to output
LAYERS = {
    "cifar2": "conv1_1 conv1_2 pool1 fc1 out",
    "cifar4": "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 fc1 out",
    "cifar6": "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 pool3 fc1 out",
    "cifar8": "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 pool3 conv4_1 conv4_2 pool4 fc1 out",
    "cifar10": "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 pool3 conv4_1 conv4_2 pool4 fc1 out",
    "vgg16_cifar10": "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 conv3_3 pool3 "
    "conv4_1 conv4_2 conv4_3 pool4 conv5_1 conv5_2 conv5_3 pool5 out",
    "vgg_svhn": "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 pool3 conv4_1 pool4 out",
    "resnet_fast_cifar10": "prep l1_conv l1_pool l1_res1 l1_res2 l1_add l2_conv l2_pool "
    "l3_conv l3_pool l3_res1 l3_res2 l3_add pool out",
    "lenet5_mnist": "conv1 pool1 conv2 pool2 fc1 fc2 out",
    "digits": "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 fc1 out",
}
COUNTS = {"vgg16_cifar10": (19, 13, 5), "vgg_svhn": (12, 7, 4), "resnet_fast_cifar10": (15, 4, 4)}  # all, conv, pool
CLASSES = dict.fromkeys(LAYERS, 10) | {"cifar2": 2, "cifar4": 4, "cifar6": 6, "cifar8": 8}
PARAMETERS = {  # added up by hand, layer by layer: all; weights of convolutions and linear layers
    "cifar2": (1_052_146, 432 + 2_304 + 4_096 * 256 + 512),
    "cifar4": (542_324, 432 + 2_304 + 4_608 + 9_216 + 2_048 * 256 + 1_024),
    "cifar6": (2_196_678, 1_728 + 36_864 + 73_728 + 147_456 + 294_912 + 589_824 + 4_096 * 256 + 1_536),
    "cifar8": (6_797_640, 4_683_456 + 2_048 * 1_024 + 8_192),
    "cifar10": (6_799_690, 4_683_456 + 2_048 * 1_024 + 10_240),
    "vgg16_cifar10": (14_728_266, 14_715_584),
    "vgg_svhn": (586_154, 584_032),
    "resnet_fast_cifar10": (6_573_120, 6_568_640),
    "lenet5_mnist": (44_426, 150 + 2_400 + 256 * 120 + 120 * 84 + 840),
    "digits": (25_370, 144 + 2_304 + 4_608 + 9_216 + 128 * 64 + 640),
}
each_problem = pytest.mark.parametrize("name", sorted(LAYERS))


def network_of(name, generator=None):
    return build(PROBLEMS[name], CLASSES[name], generator)


def kind_of(layer_name):
    word = re.fullmatch(r"(?:l\d_)?([a-z]+)[\d_]*", layer_name)[1]  # l1_res2 -> res, conv3_1 -> conv
    return {"prep": "conv", "res": "conv_res"}.get(word, word)


@each_problem
def test_compared_layers(name):
    layers = network_of(name).layers
    assert [layer.name for layer in layers] == LAYERS[name].split()
    for layer in layers:
        assert layer.kind == kind_of(layer.name), layer.name
    if name in COUNTS:
        kinds = [layer.kind for layer in layers]
        assert (len(kinds), kinds.count("conv"), kinds.count("pool")) == COUNTS[name]


@each_problem
def test_hooks_find_their_modules(name):
    network = network_of(name)
    modules = dict(network.named_modules())
    expected = {
        "conv": nn.ReLU,
        "conv_res": nn.ReLU,
        "fc": nn.ReLU,
        "pool": nn.MaxPool2d | nn.AvgPool2d,
        "out": nn.Module,
        "add": nn.Module,
    }
    for layer in network.layers:
        assert isinstance(modules[layer.module], expected[layer.kind]), layer
    assert isinstance(modules[network.output], nn.Linear)


@each_problem
def test_parameter_counts(name):
    network = network_of(name)
    weights = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert (sum(p.numel() for p in network.parameters()), sum(weights)) == PARAMETERS[name]


@each_problem
def test_output_is_a_row_of_logits_per_image(name):
    problem = PROBLEMS[name]
    network = network_of(name).eval()
    with torch.no_grad():
        logits = network(torch.zeros(2, problem.channels, problem.size, problem.size))
    assert logits.shape == (2, CLASSES[name])


@each_problem
def test_batch_norm_and_dropout_are_where_the_table_has_them(name):
    network = network_of(name)
    norms = [path for path, m in network.named_modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    dropouts = [path for path, m in network.named_modules() if isinstance(m, Dropout)]
    convs = [layer.name for layer in network.layers if layer.kind == "conv"]
    first = [f"blocks.{conv}.norm" for conv in convs if conv.endswith("_1")]
    if name in ("cifar2", "cifar4", "cifar6", "digits"):  # the first of each block
        assert norms == first
    elif name in ("cifar8", "cifar10"):
        assert norms == [*(f"blocks.{conv}.norm" for conv in convs), "head.fc1.norm"]
    elif name in ("vgg16_cifar10", "vgg_svhn"):
        assert norms == [f"blocks.{conv}.norm" for conv in convs]
    else:
        assert len(norms) == {"lenet5_mnist": 0, "resnet_fast_cifar10": 8}[name]
    assert dropouts == (["head.fc1.dropout"] if name.startswith("cifar") or name == "digits" else [])
    assert all(m.p == 0.5 for m in network.modules() if isinstance(m, Dropout))


@each_problem
def test_batch_norm_is_pytorchs_default(name):
    norms = [m for m in network_of(name).modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    for norm in norms:
        assert (norm.momentum, norm.eps, norm.affine, norm.track_running_stats) == (0.1, 1e-5, True, True)


def test_order_within_a_block_and_within_the_hidden_layer():
    network = network_of("cifar8")
    assert [type(m) for m in network.blocks.conv1_1] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert [type(m) for m in network.head.fc1] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, Dropout]
    assert network.blocks.conv1_1.conv.bias is not None
    assert network.blocks.conv1_1.conv.padding == (1, 1)


def with_statistics(network):
    """The network in evaluation mode, with running statistics and scales that show in its output."""
    with torch.no_grad():
        for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)):
            norm.running_mean.uniform_(-0.1, 0.1, generator=torch_stream(0, "mean"))
            norm.running_var.uniform_(0.5, 2.0, generator=torch_stream(0, "variance"))
            norm.weight.uniform_(0.5, 2.0, generator=torch_stream(0, "scale"))
    return network.eval()


def test_vgg_equals_its_formula():
    """The network with batch norm everywhere."""
    network = with_statistics(network_of("cifar8", torch_stream(0, "initialisation")))
    x, w = torch.randn(2, 3, 32, 32, generator=torch_stream(0, "x")), network.state_dict()

    def normalised(h, path):
        norm = [w[f"{path}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(h, *norm))

    with torch.no_grad():
        h = x
        for block in (1, 2, 3, 4):
            for conv in (f"blocks.conv{block}_1", f"blocks.conv{block}_2"):
                h = normalised(F.conv2d(h, w[f"{conv}.conv.weight"], w[f"{conv}.conv.bias"], padding=1), conv)
            h = F.max_pool2d(h, 2)
        assert h.shape == (2, 512, 2, 2)
        fc = "head.fc1.linear"
        h = normalised(F.linear(h.flatten(1), w[f"{fc}.weight"], w[f"{fc}.bias"]), "head.fc1")
        torch.testing.assert_close(network(x), F.linear(h, w["out.weight"], w["out.bias"]))


def test_resnet_fast_equals_its_formula():
    network = with_statistics(network_of("resnet_fast_cifar10", torch_stream(0, "initialisation")))
    x = torch.randn(2, 3, 32, 32, generator=torch_stream(0, "x"))
    with torch.no_grad():
        state = network.state_dict()

        def cnr(h, path):
            norm = [state[f"{path}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
            return F.relu(F.batch_norm(F.conv2d(h, state[f"{path}.conv.weight"], padding=1), *norm))

        h = cnr(x, "prep")
        h = F.max_pool2d(cnr(h, "l1.conv"), 2)
        h = h + cnr(cnr(h, "l1.residual.res1"), "l1.residual.res2")
        h = F.max_pool2d(cnr(h, "l2.conv"), 2)
        h = F.max_pool2d(cnr(h, "l3.conv"), 2)
        h = h + cnr(cnr(h, "l3.residual.res1"), "l3.residual.res2")
        assert h.shape == (2, 512, 4, 4)
        expected = 0.125 * F.max_pool2d(h, 4).flatten(1) @ state["linear.weight"].T
        torch.testing.assert_close(network(x), expected)
    assert not any("conv.bias" in key or key == "linear.bias" for key in state)


def test_lenet5_equals_its_formula():
    network = network_of("lenet5_mnist", torch_stream(0, "initialisation"))
    w = network.state_dict()
    x = torch.randn(3, 1, 28, 28, generator=torch_stream(0, "x"))
    with torch.no_grad():
        h = F.avg_pool2d(F.relu(F.conv2d(x, w["conv1.weight"], w["conv1.bias"])), 2)
        h = F.avg_pool2d(F.relu(F.conv2d(h, w["conv2.weight"], w["conv2.bias"])), 2).flatten(1)
        assert h.shape == (3, 16 * 4 * 4)
        for fc in ("fc1", "fc2"):
            h = F.relu(F.linear(h, w[f"{fc}.weight"], w[f"{fc}.bias"]))
        torch.testing.assert_close(network(x), F.linear(h, w["out.weight"], w["out.bias"]))


# --- initialisation ---


def test_initialisation_has_pytorchs_default_distribution():
    """Uniform within ±1/√fan_in, by its bounds and its sd, and by comparison with what torch's constructors draw."""
    ours, default = network_of("digits", torch_stream(0, "initialisation")), network_of("digits")
    theirs = dict(default.named_modules())
    for path, module in ours.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        fan_in = module.in_features if isinstance(module, nn.Linear) else module.in_channels * 9
        bound = 1 / math.sqrt(fan_in)
        for network_layer in (module, theirs[path]):
            assert network_layer.weight.abs().max() <= bound
            assert network_layer.bias.abs().max() <= bound
            assert network_layer.weight.abs().max() > 0.95 * bound
            n = network_layer.weight.numel()
            # sd of a uniform's sample sd is sd · √(0.2 / n); five of them
            sd = bound / math.sqrt(3)
            assert abs(network_layer.weight.std() - sd) < 5 * sd * math.sqrt(0.2 / n)
            assert abs(network_layer.weight.mean()) < 5 * sd / math.sqrt(n)


def test_initialisation_comes_from_its_generator_alone():
    torch.manual_seed(1)
    one = network_of("cifar4", torch_stream(0, "initialisation")).state_dict()
    torch.manual_seed(2)
    two = network_of("cifar4", torch_stream(0, "initialisation")).state_dict()
    other = network_of("cifar4", torch_stream(1, "initialisation")).state_dict()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    assert not torch.equal(one["out.weight"], other["out.weight"])
    assert not torch.equal(one["blocks.conv1_1.conv.weight"], other["blocks.conv1_1.conv.weight"])


def test_initialisation_resets_batch_norm():
    norm = nn.Sequential(nn.BatchNorm2d(3))
    norm(torch.randn(4, 3, 2, 2, generator=torch_stream(0, "x")) + 5)
    nn.init.constant_(norm[0].weight, 7.0)
    initialise(norm, torch_stream(0, "initialisation"))
    for name, value in nn.BatchNorm2d(3).state_dict().items():
        assert torch.equal(norm[0].state_dict()[name], value), name


def test_building_does_not_move_the_global_generator():
    before = torch.get_rng_state()
    network_of("cifar2")
    network_of("cifar2", torch_stream(0, "initialisation"))
    assert torch.equal(torch.get_rng_state(), before)


# --- dropout ---

CPU = torch.device("cpu")


def test_dropout_has_its_own_stream_and_repeats_it():
    dropout, x = Dropout(0.5).train(), torch.ones(100, 100)
    dropout.reseed(3, CPU)
    before = torch.get_rng_state()
    first, second = dropout(x), dropout(x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    dropout.reseed(3, CPU)
    assert torch.equal(dropout(x), first)
    assert torch.equal(dropout(x), second)
    assert not torch.equal(first, second)
    dropout.reseed(4, CPU)
    assert not torch.equal(dropout(x), first)


@pytest.mark.parametrize("p", [0.5, 0.25])
def test_dropout_keeps_the_expected_value(p):
    dropout = Dropout(p).train()
    dropout.reseed(0, CPU)
    n = 100_000
    y = dropout(torch.ones(n))
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 1 / (1 - p)]))
    kept = int((y > 0).sum())
    assert abs(kept - n * (1 - p)) < 5 * math.sqrt(n * p * (1 - p))


def test_dropout_masks_the_gradient_too():
    dropout, x = Dropout(0.5).train(), torch.ones(1000, requires_grad=True)
    dropout.reseed(0, CPU)
    y = dropout(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_dropout_is_the_identity_in_evaluation():
    x = torch.randn(5, generator=torch_stream(0, "x"))
    assert torch.equal(Dropout(0.5).eval()(x), x)


def test_dropout_refuses_to_train_without_a_stream():
    with pytest.raises(RuntimeError, match=r"Dropout.reseed must be called before training"):
        Dropout(0.5).train()(torch.ones(3))


# --- definitions that do not hold together ---


class Toy(Network):
    def __init__(self, layers, output="linear"):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.layers, self.output = layers, output


@pytest.mark.parametrize(
    ("layers", "output", "message"),
    [
        ([Layer("out", "out", "line")], "linear", "model toy: layer out names 'line', which is not one of its modules"),
        ([Layer("out", "dense", "linear")], "linear", "model toy: layer out has kind 'dense'; kinds are"),
        ([Layer("out", "fc", "linear"), Layer("out", "out", "linear")], "linear", "layer names are repeated"),
        ([Layer("out", "out", "linear")], "head", "model toy: output 'head' is not one of its modules"),
    ],
)
def test_a_bad_definition_is_refused(monkeypatch, layers, output, message):
    monkeypatch.setitem(MODELS, "toy", lambda channels, size, classes: Toy(layers, output))
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(PROBLEMS["digits"], model="toy"), 10)


def test_an_unknown_model_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="unknown model 'vgg19'; there are lenet5, resnet_fast, vgg16_bn"):
        build(dataclasses.replace(PROBLEMS["digits"], model="vgg19"), 10)
