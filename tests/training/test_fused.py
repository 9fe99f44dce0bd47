"""Fused networks: G runs in one step come out as each does alone, to rounding, and none reaches another."""

import copy
import dataclasses
import gc

import networks
import pytest
import torch
from torch import nn

from distsim.data import augment
from distsim.environment import threads
from distsim.models import MODELS, build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream
from distsim.training import compiling
from distsim.training.fused import FusedConv2d, fused, run_of, set_run, side_by_side
from distsim.training.fused_stepper import Epoch, FusedStepper
from distsim.training.fusible import NotFusible, require_fusible
from distsim.training.pruning import full_masks
from distsim.training.stepper import Arithmetic, Stepper

PAPERS = [name for name in PROBLEMS if name != "digits"]
IMAGES, BATCH, STEPS = 6, 2, 3
CLOSE = 1e-8  # of parameters after 3 steps in float64; seen: 2e-10 with Adam, which divides by small gradients


@pytest.fixture(autouse=True, scope="module")
def only_what_is_new():
    """The collections after each test leave alone what was there before: libraries, which take far longer."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield
    gc.collect()  # steppers are in cycles, and those of VGG16 hold gigabytes


class Doubles(augment.Pictures):
    """The images of a training in float64."""

    def batch(self, chosen, draws):
        return super().batch(chosen, draws).double()


class Material:
    """A problem with random images, and what each of some runs starts from: weights, masks, order, draws."""

    def __init__(self, problem, dtype=torch.float64, images=IMAGES):
        self.recipe = dataclasses.replace(problem.recipe, batch_size=BATCH)
        self.problem, self.classes, self.dtype = problem, len(problem.classes) or 10, dtype
        generator = torch.Generator().manual_seed(0)
        shape = (images, problem.channels, problem.size, problem.size)
        pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        kind = Doubles if dtype is torch.float64 else augment.Pictures
        self.pictures = kind(pixels, *(torch.full((problem.channels,), 0.5),) * 2)
        self.labels = torch.arange(images) % self.classes
        self.rates = [self.recipe.lr * (1 + step) / STEPS for step in range(images // BATCH)]

    def network(self, run):
        return build(self.problem, self.classes, torch_stream(run, "initialisation")).to(self.dtype)

    def start(self, run):
        """Weights and masks: of each parameter about a third is dead, of a run by itself."""
        network = self.network(run)
        generator, masks = torch_stream(run, "masks"), {}
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        for name in full_masks(network, self.problem.pruning):
            masks[name] = torch.rand(weights[name].shape, generator=generator) > 0.3
            weights[name] *= masks[name]
        return weights, masks

    def epoch(self, run):
        generator = torch_stream(run, "epoch")
        order = torch.randperm(self.pictures.n, generator=generator)
        return order, augment.draw(self.recipe.augment, self.pictures.n, self.problem.size, generator)

    def alone(self, run, arithmetic=None):
        """The stepper of one run after an epoch."""
        stepper = Stepper(self.network(run), self.pictures, self.labels, self.recipe, arithmetic)
        stepper.reset(*self.start(run))
        order, draws = self.epoch(run)
        stepper.begin(order, draws, self.rates, [10 * run + i for i in range(stepper.dropouts)])
        for _ in range(stepper.steps):
            stepper.step()
        return stepper

    def stepper(self, size, arithmetic=None):
        return FusedStepper(
            self.network(0).to(self.labels.device), size, self.pictures, self.labels, self.recipe, arithmetic
        )

    def together(self, size, runs, arithmetic=None, start=None):
        """The fused stepper after an epoch. runs : slot -> run"""
        stepper = self.stepper(size, arithmetic)
        stepper.reset_runs(start or {slot: self.start(run) for slot, run in runs.items()})
        self.train(stepper, runs)
        return stepper

    def train(self, stepper, runs):
        order, draws = self.epoch(0)
        order = torch.stack([self.epoch(runs.get(slot, 0))[0] for slot in range(stepper.runs)])
        draws = {
            name: torch.stack([self.epoch(runs.get(slot, 0))[1][name] for slot in range(stepper.runs)])
            for name in draws
        }
        seeds = [10 * runs.get(slot, 0) + i for i in range(stepper.modules) for slot in range(stepper.runs)]
        stepper.begin_epoch(Epoch(order, draws, self.rates, seeds))
        for _ in range(stepper.steps):
            stepper.step()


def apart(one, other):
    """The largest difference of two states."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("name", PAPERS)
def test_each_of_the_papers_networks_comes_out_as_alone(name):
    """After three steps with masks, augmentation, dropout and the recipe's optimizer."""
    material = Material(PROBLEMS[name])
    assert material.pictures.n // BATCH == STEPS
    runs = {0: 3, 1: 5}
    together = material.together(2, runs)
    losses = together.losses()
    for slot, run in runs.items():
        alone = material.alone(run)
        assert apart(alone.state(), together.state_of(slot)) < CLOSE
        assert losses[slot] == pytest.approx(alone.loss(), rel=1e-6)  # float32 sums
        for parameter, mask in material.start(run)[1].items():
            assert not together.weights_of(slot)[parameter][~mask].any(), "the dead stay dead"


def test_lars_scales_each_filter_of_each_run():
    problem = dataclasses.replace(PROBLEMS["resnet_fast_cifar10"], size=8)
    with_lars = dataclasses.replace(problem, recipe=dataclasses.replace(problem.recipe, lars=True))
    material = Material(with_lars)
    together, plain = material.together(2, {0: 1, 1: 2}), Material(problem).together(2, {0: 1, 1: 2})
    for slot, run in enumerate((1, 2)):
        assert apart(material.alone(run).state(), together.state_of(slot)) < CLOSE
        assert apart(plain.state_of(slot), together.state_of(slot)) > 1e-3, "the ratio matters"


def small(**change):
    problem = dataclasses.replace(PROBLEMS["cifar2"], model="vgg_digits", size=8)
    return dataclasses.replace(problem, **change)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_has_the_same_bits_whatever_is_in_the_other_slots(precision):
    """Nothing, another run, or a run that is not a number."""
    material, arithmetic = Material(small(), torch.float32), Arithmetic(precision)
    alone = material.together(3, {1: 4}, arithmetic)
    among = material.together(3, {0: 7, 1: 4, 2: 9}, arithmetic)
    start = {slot: material.start(run) for slot, run in {0: 7, 1: 4, 2: 9}.items()}
    for slot in (0, 2):
        for tensor in start[slot][0].values():
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))
    beside_nan = material.together(3, {0: 7, 1: 4, 2: 9}, arithmetic, start)
    assert_equal(alone.state_of(1), among.state_of(1))
    assert_equal(alone.state_of(1), beside_nan.state_of(1))
    assert not torch.isfinite(beside_nan.state_of(0)["network/out.weight"]).any()
    assert [torch.isfinite(torch.tensor(loss)).item() for loss in beside_nan.losses()] == [False, True, False]


@pytest.mark.parametrize("name", PAPERS)
def test_a_run_that_is_not_a_number_reaches_no_other(name):
    """At the papers' widths, where a library may choose another algorithm."""
    material = Material(PROBLEMS[name], torch.float32, images=BATCH)
    start = {slot: material.start(slot) for slot in range(2)}
    clean = material.together(2, {0: 0, 1: 1}, start=copy.deepcopy(start))
    for tensor in start[0][0].values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
    assert_equal(clean.state_of(1), material.together(2, {0: 0, 1: 1}, start=start).state_of(1))


def test_a_stepper_is_used_again_without_a_trace_of_what_it_did():
    material = Material(small(), torch.float32)
    fresh = material.together(2, {0: 1})
    used = material.together(2, {0: 2, 1: 3})
    used.reset_runs({0: material.start(1)})
    material.train(used, {0: 1})
    assert_equal(fresh.state_of(0), used.state_of(0))


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "fast_sgd"])
def test_a_state_goes_on_in_another_stepper(optimizer):
    problem = small()
    material = Material(
        dataclasses.replace(problem, recipe=dataclasses.replace(problem.recipe, optimizer=optimizer)), torch.float32
    )
    first = material.together(2, {0: 1, 1: 2})
    state = first.state_of(1)
    assert {name.split("/")[0] for name in state} == {"network", "optimizer"}
    assert state.keys() == material.alone(2).state().keys(), "as a run alone keeps it"
    other = material.stepper(2)
    other.reset_runs({1: material.start(2)})
    other.load_runs({1: state})
    for stepper in (first, other):
        material.train(stepper, {0: 1, 1: 2})
    assert_equal(first.state_of(1), other.state_of(1))


def test_batches_are_counted_for_each_run():
    material = Material(small(), torch.float32)
    (weights, masks), other = material.start(1), material.start(2)
    weights["blocks.conv1_1.norm.num_batches_tracked"] += 100  # as after a rewinding
    together = material.together(2, {0: 1, 1: 2}, start={0: (weights, masks), 1: other})
    counts = [int(together.weights_of(slot)["blocks.conv1_1.norm.num_batches_tracked"]) for slot in (0, 1)]
    assert counts == [100 + STEPS, STEPS]


@pytest.mark.parametrize("model", ["vgg_digits", "resnet_fast"])
def test_a_compiled_step_is_one_graph_each_way_and_trains_the_same(model, monkeypatch):
    """Traced and not generated, which would take a minute; dropout's masks are drawn outside."""
    monkeypatch.setattr(compiling, "BACKEND", compiling.TRACING)
    material, compiled = Material(small(model=model), torch.float32), Arithmetic(compile=True)
    found = material.together(2, {0: 1, 1: 2}, compiled)
    assert isinstance(found._logits, compiling.Compiled)
    assert_equal(found.state_of(1), material.together(2, {1: 2}, compiled).state_of(1))
    plain = material.together(2, {0: 1, 1: 2})
    assert found.losses() == pytest.approx(plain.losses(), rel=1e-4)


def test_images_of_runs_lie_side_by_side():
    images = torch.arange(2 * 3 * 2 * 4 * 4).view(6, 2, 4, 4)  # two runs of three images
    beside = side_by_side(images, 2)
    assert beside.shape == (3, 4, 4, 4)
    for run in range(2):
        assert torch.equal(beside[:, 2 * run : 2 * run + 2], images[3 * run : 3 * run + 3])


def test_a_convolution_of_several_groups_is_fused():
    generator = torch.Generator().manual_seed(0)
    convs = [nn.Conv2d(4, 6, 3, stride=2, padding="valid", dilation=1, groups=2) for _ in range(3)]
    together = FusedConv2d(convs[0], 3)
    for slot, conv in enumerate(convs):
        set_run(together, slot, conv.state_dict())
        assert_equal(run_of(together, slot), conv.state_dict())
    images = torch.randn(2, 12, 7, 7, generator=generator)
    alone = torch.cat([conv(part) for conv, part in zip(convs, images.split(4, dim=1), strict=True)], dim=1)
    torch.testing.assert_close(together(images), alone)


def test_fusing_leaves_the_network_as_it_was():
    network = build(PROBLEMS["digits"], 10, torch_stream(0, "initialisation"))
    before = copy.deepcopy(network.state_dict())
    together = fused(network, 3, 2, (1, 8, 8))
    assert_equal(network.state_dict(), before)
    assert {name: (3, *tensor.shape) for name, tensor in before.items()} == {
        name: tuple(tensor.shape) for name, tensor in together.state_dict().items()
    }


# --- what can be fused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_all_problems_can_be_fused(name):
    problem = PROBLEMS[name]
    require_fusible(problem, len(problem.classes) or 10)


class Body(nn.Module):
    """A convolution and a linear layer, with something between."""

    def __init__(self, between, channels, size, classes, **modules):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1, padding_mode=modules.pop("padding_mode", "zeros"))
        self.between = between
        for name, module in modules.items():
            setattr(self, name, module)
        self.last = nn.Linear(4 * size * size, classes)

    def forward(self, x):
        return self.last(self.between(self.conv(x)).flatten(1))


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Token(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, x):
        return x + self.token


def branches(x):
    return torch.cat([x[:, :2], -x[:, 2:]], dim=1)


def decides(x):
    return x if x.sum() > 0 else -x


REFUSED = {
    "layer norm": (lambda: nn.LayerNorm(8), "module between is a LayerNorm, which is not known here"),
    "group norm": (lambda: nn.GroupNorm(2, 4), "module between is a GroupNorm"),
    "softmax": (lambda: nn.Softmax(dim=1), "module between is a Softmax"),
    "parameter": (Token, "module between has token of its own, outside the modules that are known"),
    "cat": (lambda: Calls(branches), "its forward calls (getitem|cat), which is not known here"),
    "condition": (lambda: Calls(decides), "its forward calls sum|its forward cannot be followed"),
    "all channels": (lambda: Calls(lambda x: x.mean((2, 3), keepdim=True).mean((2, 3), keepdim=True) + x), None),
    "mean of channels": (lambda: Calls(lambda x: x - x.mean(1, keepdim=True)), r"takes a mean with \(1, True\)"),
    "average of all batches": (lambda: nn.BatchNorm2d(4, momentum=None), "averages over all batches"),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_is_not_known_is_refused_by_name(what, monkeypatch):
    between, message = REFUSED[what]
    monkeypatch.setitem(MODELS, "own", lambda channels, size, classes: Body(between(), channels, size, classes))
    problem = dataclasses.replace(PROBLEMS["digits"], model="own")
    if message is None:
        require_fusible(problem, 10)
        return
    with pytest.raises(NotFusible, match=f"^model own cannot be trained with --fuse: .*({message})"):
        require_fusible(problem, 10)


def test_other_padding_is_refused(monkeypatch):
    def own(channels, size, classes):
        return Body(nn.ReLU(), channels, size, classes, padding_mode="reflect")

    monkeypatch.setitem(MODELS, "own", own)
    with pytest.raises(NotFusible, match="module conv pads with 'reflect', only zeros are known"):
        require_fusible(dataclasses.replace(PROBLEMS["digits"], model="own"), 10)


def test_a_dropout_that_is_called_twice_is_refused(monkeypatch):
    """It would drop the same each time."""

    class Twice(nn.Module):
        def __init__(self, channels, size, classes):
            super().__init__()
            self.hidden, self.drop = nn.Linear(channels * size * size, 8), nn.Dropout(0.5)
            self.last = nn.Linear(8, classes)

        def forward(self, x):
            return self.last(self.drop(torch.relu(self.hidden(self.drop(x.flatten(1))))))

    monkeypatch.setitem(MODELS, "own", Twice)
    with pytest.raises(NotFusible, match="its forward calls drop, a Dropout, 2 times"):
        require_fusible(dataclasses.replace(PROBLEMS["digits"], model="own"), 10)


def test_what_mixes_channels_is_found_by_what_comes_out(monkeypatch):
    """A linear layer on pixels passes each look at names."""

    class Mixes(nn.Module):
        def __init__(self, channels, size, classes):
            super().__init__()
            self.conv = nn.Conv2d(channels, size, 3, padding=1)
            self.mix, self.last = nn.Linear(size, size), nn.Linear(size**3, classes)

        def forward(self, x):
            return self.last(self.mix(self.conv(x)).flatten(1))

    monkeypatch.setitem(MODELS, "own", Mixes)
    with pytest.raises(NotFusible, match="side by side, two networks give other outputs than each alone"):
        require_fusible(dataclasses.replace(PROBLEMS["digits"], model="own"), 10)


def test_ones_own_networks(monkeypatch):
    problem = dataclasses.replace(PROBLEMS["digits"], model="own")
    for own, message in (
        (networks.small_resnet18, None),
        (networks.Functional, "draws from torch's global generator"),
        (networks.Transformer, r"layers.0.attn \(MultiheadAttention\) draws from torch's global generator"),
    ):
        monkeypatch.setitem(MODELS, "own", own)
        if message is None:
            require_fusible(problem, 10)
        else:
            with pytest.raises(NotFusible, match=message):
                require_fusible(problem, 10)


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_captured_fused_step_repeats_itself_whatever_is_in_the_other_slots():
    """The CPU's twin: test_a_run_has_the_same_bits_whatever_is_in_the_other_slots."""
    from distsim.training.stepper import settle

    device = torch.device("cuda")
    settle(device, deterministic=True)
    material = Material(PROBLEMS["cifar2"], torch.float32)
    pixels = torch.randint(256, (IMAGES, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    material.pictures = augment.Pictures(pixels.to(device), *(torch.full((3,), 0.5),) * 2)
    material.labels = material.labels.to(device)
    arithmetic = Arithmetic("bfloat16", deterministic=True)
    alone = material.together(3, {1: 4}, arithmetic)
    among = material.together(3, {0: 7, 1: 4, 2: 9}, arithmetic)
    assert_equal(alone.state_of(1), among.state_of(1))


@pytest.mark.parametrize("name", ["digits", "cifar2"])
def test_a_compiled_group_has_the_bits_of_one_that_is_not(name, monkeypatch):
    """Traced and run operation by operation, which rounds as before; dropout's masks are drawn outside the graph."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    material, runs = Material(PROBLEMS[name], torch.float32), {0: 4, 1: 1}
    compiled, eager = (material.together(2, runs, Arithmetic(compile=compile)) for compile in (True, False))
    assert apart(compiled.state(), eager.state()) == 0
    assert compiled.losses() == eager.losses()
