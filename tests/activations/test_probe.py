import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from distsim.activations.layout import Float16Check, storage_dtype
from distsim.activations.probe import BATCH, Probe, as_numpy, blocks, captured, layer_shapes, make_probe
from distsim.data import load
from distsim.metrics import mean_cca
from distsim.models import Layer, Network, build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream
from distsim.specs import Identity
from distsim.sweep.order import identify

SMALL = dataclasses.replace(PROBLEMS["digits"], probe=300)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    """(data, identity, probe)"""
    data = load(SMALL, "")
    identity = identify(SMALL, data)
    return data, identity, make_probe(identity, data)


@pytest.fixture
def network():
    """A network of the problem, its batch norm statistics not those of a fresh one, left in training mode."""
    network = build(SMALL, 10, torch_stream(0, "initialisation"))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2, generator=torch_stream(0, "mean"))
            module.running_var.uniform_(0.5, 2.0, generator=torch_stream(0, "variance"))
    return network.train()


def whole(parts):
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def responses(network, probe):
    """Each layer's outputs as the modules gave them, from one forward pass of everything at once."""
    modules, outputs = dict(network.named_modules()), {}
    for layer in network.layers:
        modules[layer.module].register_forward_hook(
            lambda module, inputs, output, name=layer.name: outputs.update({name: output.clone()})
        )
    with torch.no_grad():
        mean, sd = probe.mean.view(-1, 1, 1), probe.sd.view(-1, 1, 1)
        network.eval()((probe.images.float() / 255 - mean) / sd)
    return outputs


# --- the probe ---


def test_the_probe_is_the_same_each_time_and_never_augmented(digits):
    data, identity, probe = digits
    augmented = dataclasses.replace(SMALL.recipe, augment=("crop", "flip", "affine", "cutout"))
    again = make_probe(identify(dataclasses.replace(SMALL, recipe=augmented), data), data)
    for one in (probe, again):
        assert one.images.dtype == torch.uint8
        np.testing.assert_array_equal(one.images.numpy(), data.train_images[probe.indices])
    np.testing.assert_array_equal(again.indices, probe.indices)
    assert len(np.unique(probe.indices)) == 300
    assert probe.mean.tolist() == pytest.approx(identity.problem.recipe.normalise[0])
    assert probe.sd.tolist() == pytest.approx(identity.problem.recipe.normalise[1])


def test_the_probe_depends_on_seed_and_rule(digits):
    data, _, probe = digits
    other = make_probe(identify(SMALL, data, seed=1), data)
    assert not np.array_equal(other.indices, probe.indices)
    first = make_probe(identify(dataclasses.replace(SMALL, probe_rule="first"), data), data)
    np.testing.assert_array_equal(first.indices, np.arange(300))


def test_a_probe_larger_than_the_training_set_is_refused(digits):
    data, identity, _ = digits
    too_large = dataclasses.replace(identity, problem=dataclasses.replace(identity.problem, probe=1500))
    with pytest.raises(ValueError, match="probe of 1500 images asked for, the training set has 14"):
        make_probe(too_large, data)


def test_a_probe_needs_the_normalisation(digits):
    data, _, _ = digits
    with pytest.raises(ValueError, match=r"no normalisation; make the spec with distsim.sweep.order.identify"):
        make_probe(Identity(SMALL, data_digest=data.digest), data)


# --- what is captured ---


def test_blocks_are_a_one_shot_forward_channels_last(digits, network):
    """Batch independence and layout at once: rows in the probe's order, (n, c, h, w) permuted to (n, h, w, c)."""
    _, _, probe = digits
    parts = list(blocks(network, probe))
    assert [len(part["out"]) for part in parts] == [128, 128, 44]
    assert BATCH == 128
    assert all(list(part) == [layer.name for layer in network.layers] for part in parts)
    found, expected = whole(parts), responses(network, probe)
    for layer in network.layers:
        reference = expected[layer.name]
        if reference.ndim == 4:
            reference = reference.permute(0, 2, 3, 1)
        assert found[layer.name].dtype == torch.float32
        assert all(part[layer.name].is_contiguous() for part in parts)
        torch.testing.assert_close(found[layer.name], reference, rtol=1e-6, atol=1e-6)
    assert found["conv1_1"].shape == (300, 8, 8, 16)
    assert found["pool1"].shape == (300, 4, 4, 16)
    assert found["fc1"].shape == (300, 64)
    assert (found["fc1"] >= 0).all()  # after the activation, and without dropout


def test_layout_by_example():
    network = Plain()
    with torch.no_grad(), captured(network, [Layer("input", "conv", "input")]) as outputs:
        network(torch.arange(5 * 3 * 2 * 2.0).reshape(5, 3, 2, 2))
    rows = outputs["input"].reshape(-1, 3)
    assert rows[0].tolist() == [0, 4, 8]
    assert rows[1].tolist() == [1, 5, 9]
    assert rows[4].tolist() == [12, 16, 20]


class Plain(Network):
    """A convolution and a linear layer, each of whose outputs an in-place ReLU overwrites."""

    def __init__(self):
        super().__init__()
        self.input = nn.Identity()
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 5)
        self.out = nn.Linear(5, 2)
        self.layers = (Layer("conv", "conv", "conv"), Layer("fc", "fc", "fc"), Layer("out", "out", "out"))
        self.output = "out"

    def forward(self, x):
        x = self.relu(self.conv(self.input(x))).mean(dim=(2, 3))
        return self.out(self.relu(self.fc(x)))


def plain_probe(n=10):
    images = torch.randint(256, (n, 3, 4, 4), dtype=torch.uint8, generator=torch_stream(0, "images"))
    return Probe(np.arange(n), images, torch.full((3,), 0.5), torch.full((3,), 0.25))


def test_what_later_modules_do_in_place_does_not_reach_it():
    """Law 9."""
    network, probe = Plain(), plain_probe()
    (part,) = blocks(network, probe)
    with torch.no_grad():
        conv = network.conv((probe.images.float() / 255 - 0.5) / 0.25)
        fc = network.fc(conv.relu().mean(dim=(2, 3)))
    assert (conv < 0).any()
    assert (fc < 0).any()
    torch.testing.assert_close(part["conv"], conv.permute(0, 2, 3, 1))
    torch.testing.assert_close(part["fc"], fc)


def test_arrays_require_no_grad_and_are_floats():
    """Law 10."""
    network, probe = Plain(), plain_probe()
    with captured(network, network.layers) as outputs:  # outside of no_grad
        result = network(torch.zeros(2, 3, 4, 4))
    assert result.requires_grad
    for value in outputs.values():
        assert not value.requires_grad
        assert value.grad_fn is None
    (part,) = blocks(network, probe)
    for dtype in ("float32", "float16"):
        array = as_numpy(part["conv"], dtype)
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.dtype(dtype)
        np.testing.assert_allclose(array, part["conv"].numpy(), rtol=1e-3, atol=1e-6)


def test_extraction_is_deterministic(digits, network):
    """Law 13: twice the same bits, though the network comes in training mode and the global generator has moved."""
    _, _, probe = digits
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one = whole(blocks(network, probe))
    torch.manual_seed(7)
    two = whole(blocks(network.train(), probe))
    for name, value in one.items():
        assert torch.equal(two[name], value), name
    for name, value in network.state_dict().items():  # batch norm's statistics among them
        assert torch.equal(value, before[name]), name


def test_only_the_layers_asked_for(digits, network):
    _, _, probe = digits
    chosen = [layer for layer in network.layers if layer.name in ("pool2", "out")]
    part = next(blocks(network, probe, chosen))
    assert list(part) == ["pool2", "out"]


def test_hooks_are_taken_off_again(digits, network):
    _, _, probe = digits
    list(blocks(network, probe))
    with pytest.raises(KeyError), captured(network, network.layers):
        raise KeyError
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_network_and_layer(digits, network, bad):
    _, _, probe = digits
    with torch.no_grad():
        network.blocks.conv2_1.conv.weight[3, 0, 1, 1] = bad
        network.blocks.conv2_1.conv.bias.fill_(1.0)
    message = "run 1, iteration 2: layer conv2_1 has activations that are not finite"
    with pytest.raises(FloatingPointError, match=message):
        next(blocks(network, probe, label="run 1, iteration 2"))


def test_a_bad_image_in_the_last_block_is_found_too(digits, network):
    _, _, probe = digits
    broken = dataclasses.replace(probe, sd=torch.tensor([1e-45]))
    with pytest.raises(FloatingPointError, match="network: layer conv1_1"):
        list(blocks(network, broken))


# --- shapes and dtypes ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits", {"conv1_1": (8, 8, 16), "pool1": (4, 4, 16), "pool2": (2, 2, 32), "fc1": (64,), "out": (10,)}),
        ("lenet5_mnist", {"conv1": (24, 24, 6), "pool2": (4, 4, 16), "fc1": (120,), "fc2": (84,), "out": (10,)}),
        (
            "resnet_fast_cifar10",
            {"prep": (32, 32, 64), "l1_add": (16, 16, 128), "l3_res2": (4, 4, 512), "pool": (1, 1, 512), "out": (10,)},
        ),
    ],
)
def test_layer_shapes(name, expected):
    problem = PROBLEMS[name]
    network = build(problem, 10, torch_stream(0, "initialisation")).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shapes = layer_shapes(network, problem)
    assert list(shapes) == [layer.name for layer in network.layers]
    assert {layer: shapes[layer] for layer in expected} == expected
    assert network.training  # as it came
    assert not any(module._forward_hooks for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_storage_dtype_by_rule_and_kind():
    kinds = ("conv", "conv_res", "pool", "add", "fc", "out")
    layers = [Layer("x", kind, "x") for kind in kinds]
    assert [storage_dtype(layer, "auto") for layer in layers] == ["float16"] * 4 + ["float32"] * 2
    assert {storage_dtype(layer, "float32") for layer in layers} == {"float32"}


# --- is float16 safe ---


def safe(values, block=100):
    """The check's verdict on (n, ..., channels), given in blocks."""
    check = Float16Check(values.shape[-1], CPU)
    for part in values.split(block):
        check.add(part)
    return bool(check)


def normal(*shape):
    return torch.randn(*shape, generator=torch_stream(0, "normal"))


RELU = torch.relu(normal(400, 4, 4, 8))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_relu_like_data_are_safe(scale):
    assert safe(scale * RELU)


def test_the_largest_value_decides():
    top = RELU / RELU.max()
    assert safe(top * 2.99e4)
    assert not safe(top * 3.01e4)
    assert not safe(top * -3.01e4)
    one = RELU.clone()
    one[-1, -1, -1, -1] = 7e4  # overflows in float16
    assert not safe(one)


def test_a_large_mean_with_a_small_variance_is_not_safe():
    noise = normal(1000, 4)
    assert not safe(100 + noise)  # float16's steps are 1/16 there
    assert safe(1 + noise)
    one_channel = noise.clone()
    one_channel[:, 2] = 100 + noise[:, 2]
    assert not safe(one_channel)  # every channel must be
    late = 100 + 0.1 * noise
    late[0] = 0.0  # the first block says nothing of the mean
    assert not safe(late, block=1)


def test_tiny_amplitudes_are_not_safe():
    assert not safe(1e-6 * RELU)
    assert safe(1e-4 * RELU)


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 123.456, 1e-9])
def test_constant_and_dead_channels_are_safe(value):
    """They stay constant whatever float16 rounds them to."""
    assert safe(torch.full((333, 2, 2, 3), value))
    some = RELU.clone()
    some[..., 5] = value
    assert safe(some)


def test_nearly_constant_is_not_constant():
    values = torch.full((1000, 2), 0.3)
    values[-1] = 0.3001  # in the last block, and float16's steps are 0.00024 there
    assert not safe(values)


def test_the_rounding_noise_is_weighed_against_the_variance():
    """Against the definition in float64, on both sides of the limit: noise of 1e-5 of the variance."""
    verdicts = []
    for mean in (4.0, 8.0, 12.0, 16.0, 20.0, 40.0):
        values = mean + normal(2000, 1)
        noise = (values.half().double() - values.double()).square().mean()
        share = float(noise / values.double().var(correction=0))
        verdicts.append(safe(values))
        assert verdicts[-1] == (share <= 1e-5), (mean, share)
    assert verdicts == [True] * 3 + [False] * 3


def test_the_verdict_does_not_depend_on_the_blocks():
    for values in (RELU, 100 + normal(400, 3), 10 + normal(400, 3), 1e-6 * RELU):
        assert len({safe(values, block) for block in (1, 7, 100, 400)}) == 1


def mean_cca_moves(values):
    """By how much float16 moves the mean CCA with a network that has the same directions and others."""
    rows = values.reshape(-1, values.shape[-1])
    p = rows.shape[1]
    differences = rows[:, 1:] - rows[:, :-1]  # as the other network may have them
    other = torch.cat([1e3 * differences, rows], 1).double() @ normal(2 * p - 1, p).double()
    return mean_cca(rows.double().numpy(), other.numpy()) - mean_cca(rows.half().double().numpy(), other.numpy())


@pytest.mark.parametrize("apart", [1e-4, 1e-3, 5e-2])
@pytest.mark.parametrize("channels", [8, 64])
def test_channels_that_are_nearly_the_same_are_not_safe_where_rounding_drowns_their_difference(apart, channels):
    """Each channel's own noise is small, but CCA depends on the difference of channels too."""
    values = normal(3000, channels)
    values[:, 1:4] = values[:, :1] + apart * normal(3000, 4)[:, 1:]
    assert safe(values) == (apart == 5e-2)
    moved = mean_cca_moves(values)
    assert abs(moved) < 1e-4 if apart == 5e-2 else moved > 2e-4


def test_one_pair_among_many_channels_is_seen():
    values = normal(3000, 128)
    values[:, 100] = values[:, 3] + 1e-4 * normal(3000, 2)[:, 1]
    assert not safe(values)


def test_equal_channels_are_safe_and_those_that_depend_on_others_are_not():
    """Equal channels are rounded alike, so that their difference stays zero. A sum of two is rounded by itself."""
    values = normal(3000, 8)
    values[:, 1] = values[:, 0]
    values[:, 2] = -2 * values[:, 0]
    assert safe(values)
    exact = (values * 64).round() / 64  # so that the sum has no rounding in float32
    exact[:, 3] = exact[:, 4] + 1000 * exact[:, 5]
    assert not safe(exact)


def test_fewer_rows_than_channels_are_no_reason():
    assert safe(normal(50, 64))


def test_layers_of_real_networks_stay_float16():
    """Of random ones, of every size of rows: stores that have begun go on in the same dtype."""
    problem = PROBLEMS["digits"]
    images = torch.tensor(load(problem, "").train_images[:300])
    probe = Probe(np.arange(300), images, torch.tensor([0.3]), torch.tensor([0.35]))
    for seed in range(3):
        network = build(problem, 10, torch_stream(seed, "network"))
        whole: dict[str, list[torch.Tensor]] = {}
        for outputs in blocks(network, probe):
            for layer in network.layers:
                if layer.kind in ("conv", "pool"):
                    whole.setdefault(layer.name, []).append(outputs[layer.name])
        assert len(whole) == 6
        assert all(safe(torch.cat(parts)) for parts in whole.values())


def test_grey_images_have_the_same_layout_whatever_the_strides_of_their_one_channel(digits) -> None:
    """A convolution of one channel rounds by the stride, which a copy of the data in another process does not keep."""
    data, identity, _ = digits
    broadcast = np.lib.stride_tricks.as_strided(
        data.train_images, data.train_images.shape, (data.train_images.strides[0], 0, *data.train_images.strides[2:])
    )
    probe = make_probe(identity, dataclasses.replace(data, train_images=broadcast))
    _, _, height, width = probe.images.shape
    assert probe.images.stride() == (height * width, height * width, width, 1)
    assert torch.equal(probe.images, make_probe(identity, data).images)
