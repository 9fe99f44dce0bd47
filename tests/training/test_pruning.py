import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distsim.models import Network, build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream
from distsim.specs import Pruning, pruned_count
from distsim.training.pruning import apply_masks, full_masks, pools, prune, remaining, smallest


class Linear(Network):
    """One linear layer, without bias, that holds the weights given."""

    def __init__(self, weights):
        super().__init__()
        self.fc = nn.Linear(len(weights), 1, bias=False)
        self.fc.weight.data = torch.as_tensor(weights, dtype=torch.float32).reshape(1, -1)
        self.layers, self.output = (), "fc"


class Small(Network):
    """A convolution with batch norm, a hidden layer and an output: 4 + 2, 12 + 3 and 6 + 2 parameters to prune."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, (1, 2))
        self.norm = nn.BatchNorm2d(2)
        self.fc = nn.Linear(4, 3)
        self.out = nn.Linear(3, 2)
        self.layers, self.output = (), "out"


def magnitudes(network, start=1.0):
    """Give every parameter its rank: 1, 2, 3, ... in the order of `parameters()`, with alternating signs."""
    with torch.no_grad():
        for parameter in network.parameters():
            n = parameter.numel()
            values = torch.arange(start, start + n) * torch.tensor([1.0, -1.0]).repeat(n)[:n]
            parameter.copy_(values.reshape(parameter.shape))
            start += n
    return network


def alive(mask):
    return mask.flatten().tolist()


# --- counts and ties ---


@pytest.mark.parametrize(
    ("weights", "rate", "expected"),
    [
        ([1, 1, 1, 1, 2, 3, 4, 5, 6, 7], 0.2, "0011111111"),  # the earlier of equal ones go
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.2, "0011111111"),
        ([10, -9, 8, -7, 6, -5, 4, -3, 2, -1], 0.2, "1111111100"),  # by magnitude
        ([2, 1, 2, 1, 2], 0.6, "00101"),  # the two smallest, then the first of the equal
        ([3, 1, 2, 4], 0.2, "1111"),  # floor(0.8) = 0
        ([0, 0, 0, 0, 5], 0.4, "00111"),  # a weight that trained to zero is still alive
    ],
)
def test_exactly_the_smallest_go(weights, rate, expected):
    network, pruning = Linear(weights), Pruning(conv_rate=rate, fc_rate=rate)
    masks = prune(network, full_masks(network, pruning), pruning)
    assert "".join(str(int(a)) for a in alive(masks["fc.weight"])) == expected


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.data())
def test_smallest_is_the_head_of_a_stable_sort(values, data):
    count = data.draw(st.integers(0, len(values)))
    found = smallest(torch.tensor(values, dtype=torch.float32), count)
    expected = sorted(range(len(values)), key=lambda i: (values[i], i))[:count]
    assert sorted(found.tolist()) == sorted(expected)


def test_twenty_iterations_of_a_million_weights_leave_the_iterated_floor():
    weights = torch.randn(1_000_000, generator=torch_stream(0, "weights"))
    network, pruning = Linear(weights), Pruning()
    masks, expected = full_masks(network, pruning), 1_000_000
    for _ in range(20):
        before = masks["fc.weight"]
        masks = prune(network, masks, pruning)
        expected -= expected // 5  # floor(0.2 n), in integers
        assert int(masks["fc.weight"].sum()) == expected
        assert not (masks["fc.weight"] & ~before).any()  # nobody comes back
    assert expected == 11_531
    kept = weights[masks["fc.weight"].flatten()].abs()
    assert kept.min() > weights[~masks["fc.weight"].flatten()].abs().max()


def test_vgg16_of_the_paper():
    network = build(PROBLEMS["vgg16_cifar10"], 10, torch_stream(0, "initialisation"))
    pruning = PROBLEMS["vgg16_cifar10"].pruning
    masks = full_masks(network, pruning)
    left = sum(mask.numel() for mask in masks.values())
    assert left == 14_715_584
    masks = prune(network, masks, pruning)
    assert sum(int(mask.sum()) for mask in masks.values()) == left - left // 5
    for _ in range(20):
        left -= pruned_count(0.2, left)
    assert left == 169_661


def test_only_survivors_compete():
    """Dead weights are zero, the smallest of all; if they competed, nobody else would go."""
    network, pruning = Linear([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), Pruning()
    masks = {"fc.weight": torch.tensor([[False] * 5 + [True] * 5])}
    apply_masks(network, masks)
    masks = prune(network, masks, pruning)
    assert alive(masks["fc.weight"]) == [False] * 6 + [True] * 4


def test_masks_are_new_each_time():
    network, pruning = Linear(range(1, 11)), Pruning()
    full = full_masks(network, pruning)
    prune(network, full, pruning)
    assert full["fc.weight"].all()


# --- pools ---


def test_global_ranks_layers_together():
    network, pruning = magnitudes(Small()), Pruning(conv_rate=0.5, fc_rate=0.5)
    masks = prune(network, full_masks(network, pruning), pruning)
    # 22 weights, those of the convolution and then of fc have the smallest values: 4 + 7 of 11 go
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "conv.weight": 0,
        "fc.weight": 5,
        "out.weight": 6,
    }
    assert alive(masks["fc.weight"]) == [False] * 7 + [True] * 5


def test_local_ranks_each_layer_alone_at_the_rate_of_its_kind():
    network, pruning = magnitudes(Small()), Pruning(scope="local", conv_rate=0.5, fc_rate=0.25, biases=True)
    assert pools(network, pruning) == {
        "conv": (0.5, ["conv.weight", "conv.bias"]),
        "fc": (0.25, ["fc.weight", "fc.bias"]),
        "out": (0.25, ["out.weight", "out.bias"]),
    }
    masks = prune(network, full_masks(network, pruning), pruning)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "conv.weight": 1,  # 3 of 6
        "conv.bias": 2,
        "fc.weight": 9,  # floor(15 / 4) = 3
        "fc.bias": 3,
        "out.weight": 4,  # 2 of 8
        "out.bias": 2,
    }


def test_mixed_ranks_by_kind():
    network = magnitudes(Small())
    pruning = Pruning(scope="mixed", conv_rate=0.5, fc_rate=0.25, biases=True, prune_output=False)
    assert pools(network, pruning) == {
        "conv": (0.5, ["conv.weight", "conv.bias"]),
        "fc": (0.25, ["fc.weight", "fc.bias"]),
    }
    masks = prune(network, full_masks(network, pruning), pruning)
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    assert counts == {"conv.weight": 1, "conv.bias": 2, "fc.weight": 9, "fc.bias": 3}


def test_biases_compete_with_weights():
    network = Small()
    nn.init.constant_(network.conv.weight, 5.0)
    nn.init.constant_(network.conv.bias, 0.1)
    pruning = Pruning(scope="mixed", conv_rate=0.4, biases=True)
    masks = prune(network, full_masks(network, pruning), pruning)
    assert alive(masks["conv.bias"]) == [False, False]
    assert masks["conv.weight"].all()


@pytest.mark.parametrize("name", ["cifar2", "cifar4", "cifar6", "cifar8", "digits"])
def test_pools_of_p1(name):
    problem = PROBLEMS[name]
    network = build(problem, 10)
    convs = [layer.name for layer in network.layers if layer.kind == "conv"]
    assert pools(network, problem.pruning) == {
        "conv": (
            0.2 if name in ("cifar8", "digits") else 0.1,
            [f"blocks.{conv}.conv.{part}" for conv in convs for part in ("weight", "bias")],
        ),
        "fc": (0.2, ["head.fc1.linear.weight", "head.fc1.linear.bias"]),
    }


@pytest.mark.parametrize("name", ["vgg16_cifar10", "vgg_svhn", "resnet_fast_cifar10"])
def test_pools_of_p2(name):
    problem = PROBLEMS[name]
    network = build(problem, 10)
    weights = [f"{path}.weight" for path, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert pools(network, problem.pruning) == {"all": (0.2, weights)}
    assert len(weights) == {"vgg16_cifar10": 14, "vgg_svhn": 8, "resnet_fast_cifar10": 9}[name]
    assert f"{network.output}.weight" in weights


def test_pool_of_lenet5():
    network = build(PROBLEMS["lenet5_mnist"], 10)
    layers = ("conv1", "conv2", "fc1", "fc2")
    names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    assert pools(network, PROBLEMS["lenet5_mnist"].pruning) == {"all": (0.5, names)}
    assert sum(mask.numel() for mask in full_masks(network, PROBLEMS["lenet5_mnist"].pruning).values()) == 44_426 - 850


def test_nothing_to_prune_is_refused():
    with pytest.raises(ValueError, match="no convolution or linear layer that may be pruned"):
        pools(Linear([1, 2]), Pruning(prune_output=False))


# --- not finite ---


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(bad):
    network, pruning = Linear([1, 2, bad, 4, 5]), Pruning()
    with pytest.raises(ValueError, match="cannot prune: a surviving parameter is not finite"):
        prune(network, full_masks(network, pruning), pruning)


# --- masks applied ---


def test_apply_masks_zeroes_the_dead_and_leaves_the_rest():
    network = magnitudes(Small())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    masks = full_masks(network, Pruning())
    masks["fc.weight"][0] = False
    apply_masks(network, masks)
    after = network.state_dict()
    assert torch.equal(after["fc.weight"][0], torch.zeros(4))
    assert torch.equal(after["fc.weight"][1:], before["fc.weight"][1:])
    assert all(torch.equal(after[name], before[name]) for name in before if name != "fc.weight")


def test_a_dead_weight_becomes_zero_even_if_it_was_not_finite():
    network = Linear([1, float("nan"), 3])
    apply_masks(network, {"fc.weight": torch.tensor([[True, False, True]])})
    assert network.fc.weight.tolist() == [[1, 0, 3]]


def test_remaining_counts_all_parameters_and_the_pool():
    network = Small()  # 22 weights, 7 biases, 4 of batch norm
    masks = full_masks(network, Pruning())
    assert remaining(network, masks) == (1.0, 1.0)
    masks["fc.weight"].view(-1)[:11] = False
    assert remaining(network, masks) == ((33 - 11) / 33, 11 / 22)


# --- networks as users bring them ---


class Tied(Network):
    """`second` has the weight of `first`, `out` that of `embedding`, which is no layer that is pruned."""

    def __init__(self, output="out"):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.embedding = nn.Embedding(3, 4)
        self.out = nn.Linear(4, 3)
        self.second.weight = self.first.weight
        self.out.weight = self.embedding.weight
        self.layers, self.output = (), output


def test_a_shared_weight_is_in_one_pool_once_under_its_first_name():
    network, pruning = magnitudes(Tied()), Pruning(biases=True, conv_rate=0.5, fc_rate=0.5)
    names = ["first.weight", "first.bias", "second.bias", "embedding.weight", "out.bias"]
    assert pools(network, pruning) == {"all": (0.5, names)}
    masks = prune(network, full_masks(network, pruning), pruning)
    apply_masks(network, masks)
    assert list(masks) == names
    assert torch.equal(network.second.weight, network.first.weight)
    assert remaining(network, masks)[1] == pytest.approx(20 / 39)  # 16 + 4 + 4 + 12 + 3, of which 19 go


def test_a_weight_that_the_output_shares_is_left_alone_with_it():
    pruning = Pruning(prune_output=False)
    assert pools(Tied(), pruning) == {"all": (0.2, ["first.weight"])}
    assert pools(Tied(output="second"), pruning) == {"all": (0.2, ["embedding.weight"])}


def test_nothing_is_left_alone_where_the_output_is_no_layer_that_is_pruned():
    assert list(full_masks(Tied(output=""), Pruning(prune_output=False))) == ["first.weight", "embedding.weight"]
