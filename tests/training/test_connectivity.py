"""The loss between two networks, and channels brought into one order."""

import pytest
import torch
from torch import nn

from distsim.activations.probe import Probe
from distsim.models import build
from distsim.models.layers import Network
from distsim.problems import PROBLEMS
from distsim.training.alignment import Aligner, NotAligned, _reordered
from distsim.training.connectivity import Line, between, line, measure_statistics


def network(name, seed=0):
    """One of the papers' networks, with statistics of batch normalisation that are not those of the beginning."""
    torch.manual_seed(seed)
    problem = PROBLEMS[name]
    made = build(problem, len(problem.classes) or 10)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return made.eval()


def probe(problem, n=40):
    images = torch.randint(0, 256, (n, problem.channels, problem.size, problem.size), dtype=torch.uint8)
    return Probe(None, images, torch.tensor([0.5] * problem.channels), torch.tensor([0.25] * problem.channels))


def inputs(problem, n=4):
    return torch.randn(n, problem.channels, problem.size, problem.size)


def weights(made):
    return {name: tensor.clone() for name, tensor in made.state_dict().items()}


def test_a_barrier_is_the_largest_height_above_the_straight_line():
    assert Line((1.0, 0.5, 0.0)).barrier == 0
    assert Line((1.0, 2.0, 0.0)).barrier == 1.5
    assert Line((0.2, 0.3, 0.9, 0.5)).barrier == pytest.approx(0.9 - 0.4)
    assert Line((0.2, 0.1, 0.1, 0.2)).barrier == 0, "a valley is no barrier"


def test_between_is_the_ends_at_the_ends_and_counts_stay():
    a, b = weights(network("digits", 0)), weights(network("digits", 1))
    for share, end in ((0.0, a), (1.0, b)):
        assert all(torch.allclose(tensor, end[name]) for name, tensor in between(a, b, share).items())
    counts = [name for name in a if name.endswith("num_batches_tracked")]
    assert counts
    assert all(torch.equal(between(a, b, 0.5)[name], a[name]) for name in counts)


def test_statistics_are_the_mean_over_batches_and_nothing_else_changes():
    problem, made = PROBLEMS["digits"], network("digits")
    before, images = weights(made), probe(problem, 300)  # two full batches; the rest is left out
    measure_statistics(made, images)
    after = made.state_dict()
    first = next(module for module in made.modules() if isinstance(module, nn.BatchNorm2d))
    conv = next(module for module in made.modules() if isinstance(module, nn.Conv2d))
    seen = [conv((batch / 255 - 0.5) / 0.25).mean(dim=(0, 2, 3)) for batch in images.images[:256].split(128)]
    torch.testing.assert_close(first.running_mean, (seen[0] + seen[1]) / 2, rtol=1e-4, atol=1e-5)
    same = [name for name in before if torch.equal(before[name], after[name])]
    assert [name for name in before if name not in same and "running" not in name and "num_batches" not in name] == []
    assert not made.training
    assert first.momentum == 0.1


def test_a_line_to_itself_is_level_and_to_permuted_channels_is_not():
    problem, made = PROBLEMS["digits"], network("digits")
    images, labels = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8), torch.randint(0, 10, (30,))
    own = weights(made)
    level = line(lambda: network("digits"), own, own, probe(problem), (images, labels), steps=3)
    assert level.losses == pytest.approx([level.losses[0]] * 3)
    assert level.barrier == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["digits", "lenet5_mnist", "cifar2", "vgg_svhn", "resnet_fast_cifar10"])
def test_every_network_of_the_papers_is_brought_back_into_order(name):
    """Its channels are permuted at random, so that it computes the same. Aligned, it has its own weights again."""
    problem, made = PROBLEMS[name], network(name)
    aligner, own = Aligner(made), weights(made)
    shuffled = dict(own)
    generator = torch.Generator().manual_seed(0)
    orders = {id(channels): torch.randperm(channels.count, generator=generator) for channels in aligner._free}
    assert len(orders) >= 3
    for axis in aligner._axes:
        if id(axis.channels.root) in orders:
            shuffled[axis.name] = _reordered(shuffled[axis.name], axis, orders[id(axis.channels.root)])
    x = inputs(problem)
    with torch.no_grad():
        before = made(x)
        made.load_state_dict(shuffled)
        torch.testing.assert_close(made(x), before, rtol=1e-4, atol=1e-4)
    images = probe(problem)
    found = aligner.aligned(network(name), own, shuffled, images)
    x = (images.images / 255 - 0.5) / 0.25
    paths = [path for channels in aligner._free for path in channels.watched]
    again, there = (outputs(made, state, paths, x) for state in (found, own))
    for path in paths:  # channels that are dead on these images are alike, whatever their weights are
        torch.testing.assert_close(again[path], there[path], rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(shuffled[key], own[key]) for key in own)


def outputs(made, state, paths, x):
    found = {}
    made.load_state_dict(state)
    hooks = [
        made.get_submodule(path).register_forward_hook(lambda m, args, out, path=path: found.update({path: out}))
        for path in paths
    ]
    with torch.no_grad():
        made(x)
    for hook in hooks:
        hook.remove()
    return found


def test_a_dead_channel_is_matched_last():
    """Two of a network's channels are dead. The others keep their places."""
    problem, made = PROBLEMS["digits"], network("digits")
    first = next(name for name, module in made.named_modules() if isinstance(module, nn.BatchNorm2d))
    own, half_dead = weights(made), weights(made)
    for part in ("weight", "bias"):
        half_dead[f"{first}.{part}"][:2] = 0
    found = Aligner(made).aligned(network("digits"), own, half_dead, probe(problem))
    alive = half_dead[f"{first}.weight"] != 0
    assert torch.equal(found[f"{first}.weight"][alive], half_dead[f"{first}.weight"][alive])


class Odd(Network):
    """A network whose parts are given."""

    def __init__(self, *parts, forward=None):
        super().__init__()
        self.parts = nn.Sequential(*parts)
        self.out = nn.Linear(4, 2)
        self.way = forward or (lambda x: x)

    def forward(self, x):
        return self.out(self.way(self.parts(x)))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (Odd(nn.Linear(8, 4), nn.Softmax(dim=1)), "parts.1 is a Softmax, which cannot be followed"),
        (Odd(nn.Linear(8, 4), forward=lambda x: x.flip(1)), "it calls flip, which cannot be followed"),
        (Odd(nn.Conv2d(4, 4, 1, groups=2)), "parts.0 is a convolution in groups"),
        (Odd(nn.Linear(8, 4), forward=lambda x: x if x.sum() > 0 else -x), "its forward pass cannot be followed"),
    ],
    ids=["softmax", "flip", "groups", "branches"],
)
def test_what_cannot_be_followed_is_named(made, reason):
    with pytest.raises(NotAligned, match=reason):
        Aligner(made)
