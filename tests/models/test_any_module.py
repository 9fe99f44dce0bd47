"""Networks that know nothing of distsim: what is compared of them, what is pruned, how they begin."""

import copy
import dataclasses
import functools

import pytest
import torch
from networks import Block, Dropouts, Functional, Transformer, small_resnet18
from torch import nn
from torch.nn import functional as F

from distsim.activations.probe import captured, layer_shapes
from distsim.models import MODELS, Dropout, Layer, Network, build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream

DIGITS = PROBLEMS["digits"]


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr("distsim.models.MODELS", models := dict(MODELS))
    return models


def built(model, registry, generator=None, **change):
    registry["mine"] = model
    return build(dataclasses.replace(DIGITS, model="mine", **change), 10, generator)


def names(network):
    return [layer.name for layer in network.layers]


BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]


# --- which layers ----------------------------------------------------------------------------------------------------


def test_the_rule_on_resnet18_takes_each_call_of_a_relu_and_the_pooling(registry):
    network = built(small_resnet18, registry)
    relus = [f"{block}.relu@{call}" for block in BLOCKS for call in (1, 2)]
    assert names(network) == ["relu", *relus, "avgpool", "fc"]
    assert [layer.kind for layer in network.layers] == ["conv"] * 17 + ["pool", "out"]
    assert network.output == "fc"


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["layer*.relu", "fc"], [*(f"{block}.relu@{call}" for block in BLOCKS for call in (1, 2)), "fc"]),
        (["fc", "layer?"], ["layer1", "layer2", "layer3", "layer4", "fc"]),  # in the order of the network
        (["layer[12].1.relu@2"], ["layer1.1.relu@2", "layer2.1.relu@2"]),
        (["*.downsample.0"], ["layer2.0.downsample.0", "layer3.0.downsample.0", "layer4.0.downsample.0"]),
        (["relu"], ["relu"]),
    ],
)
def test_patterns_name_layers(registry, patterns, expected):
    assert names(built(small_resnet18, registry, layers=patterns)) == expected


def test_a_module_is_named_as_it_is_or_by_a_pattern(registry):
    """Names of modules may have brackets, which patterns have too."""

    def odd(channels, size, classes):
        parts = {"[a]": nn.Linear(64, 8), "a": nn.Linear(8, 8), "fc": nn.Linear(8, classes)}
        network = nn.Sequential(nn.Flatten())
        for name, part in parts.items():
            network.add_module(name, part)
        return network

    assert names(built(odd, registry, layers=["[a]", "fc"])) == ["[a]", "fc"]
    assert names(built(odd, registry, layers=["[ab]", "fc"])) == ["a", "fc"]


def test_patterns_choose_among_the_layers_that_a_network_says(registry):
    network = build(dataclasses.replace(DIGITS, layers=("conv*", "out")), 10)
    assert names(network) == ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "out"]
    assert network.layers[0] == Layer("conv1_1", "conv", "blocks.conv1_1.relu")
    with pytest.raises(
        ValueError, match="model vgg_digits: layers: 'conv3_1' names no module that runs; near: 'conv2_1'"
    ):
        build(dataclasses.replace(DIGITS, layers=("conv3_1",)), 10)


def test_a_pattern_that_names_nothing_is_refused_with_what_is_near(registry):
    message = r"model mine: layers: 'layer5\*' names no module that runs; near: 'layer4', "
    with pytest.raises(ValueError, match=message):
        built(small_resnet18, registry, layers=["layer5*"])


def test_where_activations_are_functions_the_rule_takes_the_modules_before_them(registry):
    network = built(Functional, registry)
    assert [(layer.name, layer.kind) for layer in network.layers] == [
        ("norm1", "conv"),  # of conv1
        ("conv2", "conv"),
        ("hidden", "fc"),
        ("out", "out"),  # half of what `last` puts out, so no module's but the network's own
    ]
    assert network.layers[-1].module == ""
    assert network.output == "last"


def test_the_rule_on_a_transformer(registry):
    network = built(Transformer, registry)
    assert [(layer.name, layer.kind) for layer in network.layers] == [
        ("patch", "conv"),
        ("layers.0.act", "other"),
        ("layers.1.act", "other"),
        ("head", "out"),
    ]
    problem = dataclasses.replace(DIGITS, model="mine")
    assert layer_shapes(network, problem)["layers.0.act"] == (1, 5, 24)  # (t, d) is one row of an image
    assert isinstance(network.get_submodule("layers"), nn.ModuleList)  # the user's own `layers` is where it was


@pytest.mark.parametrize("model", [small_resnet18, Functional, Transformer, Dropouts])
def test_each_layer_is_what_its_module_puts_out_at_that_call(registry, model):
    """Against the module's outputs, noted by hooks of this test's own on a plain twin."""
    network = built(model, registry, torch_stream(0, "initialisation")).eval()
    plain = model(1, 8, 10).eval()
    plain.load_state_dict(network.state_dict())
    noted = {}
    for path, module in plain.named_modules():
        module.register_forward_hook(
            lambda m, args, out, path=path: noted.setdefault(path, []).append(copy.deepcopy(out))
        )
    images = torch.randn(4, 1, 8, 8, generator=torch_stream(0, "images"))
    with torch.no_grad(), captured(network, network.layers) as outputs:
        torch.testing.assert_close(network(images), plain(images))
        assert list(outputs) == names(network)
        for layer in network.layers:
            expected = noted[layer.module][layer.call - 1]  # call 0 is the last
            if expected.ndim == 4:
                expected = expected.permute(0, 2, 3, 1)
            torch.testing.assert_close(outputs[layer.name].squeeze(), expected.squeeze(), msg=layer.name)
        first = {name: value.clone() for name, value in outputs.items()}
        network(-images)  # calls are counted anew
    assert all(outputs[name].shape == value.shape for name, value in first.items())
    assert not torch.equal(outputs[names(network)[0]], first[names(network)[0]])


def test_two_calls_of_a_module_are_two_layers(registry):
    network = built(small_resnet18, registry, torch_stream(0, "initialisation")).eval()
    images = torch.randn(4, 1, 8, 8, generator=torch_stream(0, "images"))
    with torch.no_grad(), captured(network, network.layers) as outputs:
        network(images)
    assert not torch.equal(outputs["layer1.0.relu@1"], outputs["layer1.0.relu@2"])


class ChannelsLast(nn.Module):
    """A convolution's output, then (n, h, w, c) through a linear layer, whose last dimension is 8 as h and w are."""

    def __init__(self, channels, size, classes):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.mlp = nn.Linear(8, 8)
        self.act = nn.GELU()
        self.back = nn.Identity()
        self.last = nn.Linear(8, classes)

    def forward(self, x):
        x = self.act(self.mlp(self.conv(x).permute(0, 2, 3, 1)))
        return self.last(x.mean((1, 2)))


def test_channels_are_where_a_linear_layer_puts_them(registry):
    network = built(ChannelsLast, registry, torch_stream(0, "initialisation"), layers=["conv", "mlp", "act"]).eval()
    images = torch.randn(4, 1, 8, 8, generator=torch_stream(0, "images"))
    with torch.no_grad(), captured(network, network.layers) as outputs:
        network(images)
        conv = network.conv(images).permute(0, 2, 3, 1)
        torch.testing.assert_close(outputs["conv"], conv)
        torch.testing.assert_close(outputs["mlp"], network.mlp(conv))
        torch.testing.assert_close(outputs["act"], F.gelu(network.mlp(conv)))


class Length(nn.Module):
    """A 1-d convolution over the pixels, (n, c, t), and an encoder layer that PyTorch runs at once where it may."""

    def __init__(self, channels, size, classes):
        super().__init__()
        self.conv = nn.Conv1d(channels, 12, 8, stride=8)
        self.relu = nn.ReLU()
        self.encoder = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.1, batch_first=True)
        self.last = nn.Linear(12, classes)

    def forward(self, x):
        x = self.relu(self.conv(x.flatten(2)))
        return self.last(self.encoder(x.transpose(1, 2)).mean(1))


def test_sequences_of_either_layout_become_rows_of_an_image(registry):
    network = built(Length, registry, torch_stream(0, "initialisation"), layers=["relu", "encoder", "encoder.norm2"])
    shapes = layer_shapes(network, dataclasses.replace(DIGITS, model="mine"))
    assert shapes == {"relu": (1, 8, 12), "encoder": (1, 8, 12), "encoder.norm2": (1, 8, 12)}


class Square(nn.Module):
    """As many steps as channels: only the modules say which axis is which."""

    def __init__(self, channels, size, classes):
        super().__init__()
        self.conv = nn.Conv1d(channels, 8, 8, stride=8)
        self.relu = nn.ReLU()
        self.mixed = nn.Linear(8, 8)
        self.last = nn.Linear(8, classes)

    def forward(self, x):
        x = self.relu(self.conv(x.flatten(2)))  # (n, channels, steps)
        return self.last(self.mixed(x.transpose(1, 2)).mean(1))  # (n, steps, channels)


def test_channels_of_a_sequence_come_last_whatever_its_length(registry):
    network = built(Square, registry, torch_stream(0, "initialisation"), layers=["relu", "mixed"]).eval()
    images = torch.randn(5, 1, 8, 8, generator=torch_stream(0, "images"))
    with torch.no_grad(), captured(network, network.layers) as outputs:
        network(images)
    steps_last = F.relu(network.conv(images.flatten(2)))
    torch.testing.assert_close(outputs["relu"], steps_last.transpose(1, 2).unsqueeze(1))
    torch.testing.assert_close(outputs["mixed"], network.mixed(steps_last.transpose(1, 2)).unsqueeze(1))


def test_a_layer_does_not_depend_on_what_else_is_looked_at(registry):
    """PyTorch's joined encoder layer has other last bits, and runs where nobody looks inside."""
    network = built(Length, registry, torch_stream(0, "initialisation"), layers=["encoder.norm2", "last"]).eval()
    images = torch.randn(64, 1, 8, 8, generator=torch_stream(0, "images"))
    found = []
    for layers in (network.layers, network.layers[1:]):
        with torch.no_grad(), captured(network, layers) as outputs:
            network(images)
            found.append(outputs["last"])
    assert torch.equal(*found)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_network_may_say_which_call_of_a_module(registry):
    class Twice(Network):
        def __init__(self, channels, size, classes):
            super().__init__()
            self.conv = nn.Conv2d(channels, 4, 3, padding=1)
            self.relu = nn.ReLU()
            self.out = nn.Linear(4, classes)
            self.layers = (Layer("first", "conv", "relu", 1), Layer("last", "conv", "relu"), Layer("out", "out", "out"))
            self.output = "out"

        def forward(self, x):
            return self.out(self.relu(self.relu(self.conv(x)) - 0.1).mean((2, 3)))

    network = built(Twice, registry, torch_stream(0, "initialisation")).eval()
    with torch.no_grad(), captured(network, network.layers) as outputs:
        network(torch.randn(4, 1, 8, 8, generator=torch_stream(0, "images")))
    torch.testing.assert_close(outputs["last"], F.relu(outputs["first"] - 0.1))
    assert not torch.equal(outputs["last"], outputs["first"])


# --- how it begins, and what it is -----------------------------------------------------------------------------------


def test_a_plain_module_keeps_what_its_constructor_drew_under_the_sweeps_seed(registry):
    generator = torch_stream(0, "initialisation")
    network = built(small_resnet18, registry, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        expected = small_resnet18(1, 8, 10).state_dict()
    assert list(network.state_dict()) == list(expected)
    for name, value in network.state_dict().items():
        assert torch.equal(value, expected[name]), name
    other = built(small_resnet18, registry, torch_stream(1, "initialisation")).state_dict()
    assert not torch.equal(other["layer1.0.conv1.weight"], expected["layer1.0.conv1.weight"])


def test_a_plain_module_may_come_with_weights_of_its_own(registry):
    def pretrained(channels, size, classes):
        network = Functional(channels, size, classes)
        nn.init.constant_(network.conv1.weight, 0.25)
        return network

    assert torch.all(built(pretrained, registry, torch_stream(0, "initialisation")).conv1.weight == 0.25)


@pytest.mark.parametrize("model", [small_resnet18, Transformer])
def test_building_does_not_move_the_global_generator(registry, model):
    before = torch.get_rng_state()
    built(model, registry)
    built(model, registry, torch_stream(0, "initialisation"))
    assert torch.equal(torch.get_rng_state(), before)


def test_modes_reach_the_module_itself(registry):
    network = built(Functional, registry)
    images = torch.randn(64, 1, 8, 8, generator=torch_stream(0, "images"))
    assert torch.equal(network.eval()(images), network(images))  # no dropout
    network.train()
    with torch.random.fork_rng(devices=[]):
        assert not torch.equal(network(images), network(images))


def test_a_copy_is_a_network_of_its_own(registry):
    network = built(Functional, registry).eval()
    twin = copy.deepcopy(network)
    images = torch.randn(2, 1, 8, 8, generator=torch_stream(0, "images"))
    assert torch.equal(twin(images), network(images))
    with torch.no_grad():
        twin.last.weight.zero_()
    assert not torch.equal(twin(images), network(images))
    assert names(twin) == names(network)


@pytest.mark.parametrize(
    "model",
    [
        functools.partial(Transformer, width=8),
        lambda channels, size, classes: nn.Sequential(
            nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes)
        ),
    ],
    ids=["partial", "lazy"],
)
def test_a_model_is_anything_that_can_be_called(registry, model):
    one, two = (built(model, registry, torch_stream(0, "initialisation")).state_dict() for _ in range(2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert all(isinstance(value, torch.Tensor) for value in one.values())


def test_the_contract_is_that_of_the_model_asked_for(registry):
    """What was found of a model is kept; another under the same name, or for other images, is another."""
    assert names(built(Functional, registry))[0] == "norm1"
    assert names(built(Transformer, registry))[0] == "patch"
    assert built(Functional, registry, size=16).hidden.in_features == 8 * 64
    assert names(built(Functional, registry, layers=["conv2"])) == ["conv2"]


# --- what draws ------------------------------------------------------------------------------------------------------


def test_dropout_of_torch_becomes_distsims(registry):
    network = built(Transformer, registry)
    assert [type(network.get_submodule(f"layers.{block}.drop")) for block in (0, 1)] == [Dropout] * 2
    assert network.get_submodule("layers.0.drop").p == 0.1


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (small_resnet18, ()),
        (Functional, ("the network (Functional)",)),
        (
            Transformer,
            tuple(
                f"layers.{block}.{name}"
                for block in (0, 1)
                for name in ("attn (MultiheadAttention)", "drop_path (DropPath)")
            ),
        ),
        (
            Dropouts,
            (
                "drop2 (Dropout2d)",
                "drop1 (Dropout1d)",
                "drop3 (Dropout3d)",
                "alpha (AlphaDropout)",
                "features (FeatureAlphaDropout)",
            ),
        ),
    ],
)
def test_what_else_draws_is_found(registry, model, expected):
    assert built(model, registry).draws == expected


def test_the_networks_of_distsim_draw_from_streams_of_their_own():
    assert all(build(problem, 10).draws == () for problem in PROBLEMS.values())


def test_a_block_of_the_transformer_trains_as_written():
    """The networks of these tests are what they say: attention and dropout really draw."""
    block, x = Block(12, 0.5).train(), torch.ones(64, 5, 12)
    with torch.random.fork_rng(devices=[]):
        assert not torch.equal(block(x), block(x))
