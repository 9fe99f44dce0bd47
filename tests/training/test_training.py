import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distsim.data import augment
from distsim.environment import threads
from distsim.models import Dropout, Network
from distsim.models.layers import initialise
from distsim.seeds import torch_stream
from distsim.specs import Recipe
from distsim.training import early_stopping
from distsim.training import optimizers as optim
from distsim.training.early_stopping import EarlyStopping
from distsim.training.loop import EpochStreams, TrainingData, evaluate, train
from distsim.training.pruning import apply_masks

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05)
STREAMS = EpochStreams(seed=0, run=0, iteration=1)


class Tiny(Network):
    def __init__(self, dropout=0.5):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(4 * 8 * 8, 3)
        self.layers, self.output = (), "out"
        initialise(self, torch_stream(0, "tiny"))

    def forward(self, x):
        return self.out(self.dropout(F.relu(self.norm(self.conv(x))).flatten(1)))


def toy_data(n=70, validation=None, test=10):
    """Noise on which labels leave a mark, so that training gets somewhere."""

    def part(count, name):
        stream = torch_stream(0, name)
        labels = torch.randint(3, (count,), generator=stream)
        images = torch.randint(200, (count, 1, 8, 8), generator=stream, dtype=torch.uint8)
        images[torch.arange(count), 0, 0, labels] = 255
        return images, labels

    return TrainingData(
        *part(n, "train"),
        validation=part(validation, "validation") if validation else None,
        test=part(test, "test"),
        mean=torch.tensor([0.4]),
        sd=torch.tensor([0.25]),
    )


def half_masks(network):
    """Every second entry of the convolution's and the output's parameters is dead, and a whole filter."""
    masks = {}
    for name, parameter in network.named_parameters():
        if not name.startswith("norm"):
            masks[name] = (torch.arange(parameter.numel()) % 2 == 0).reshape(parameter.shape)
    masks["conv.weight"][1] = False
    apply_masks(network, masks)
    return masks


@pytest.fixture
def optimizers(monkeypatch):
    """The optimizers that training makes."""
    made, original = [], optim.optimizer

    def keep(recipe, parameters):
        made.append(original(recipe, parameters))
        return made[-1]

    monkeypatch.setattr(optim, "optimizer", keep)
    return made


# --- law 11: the dead stay dead ---


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adam", "lr": 1e-2},
        {"optimizer": "fast_sgd"},
        {"optimizer": "fast_sgd", "lars": True, "lr": 5.0},
    ],
    ids=["sgd", "adam", "fast_sgd", "lars"],
)
def test_pruned_weights_and_their_moments_are_exactly_zero(change, optimizers):
    network, data = Tiny(), toy_data()
    masks, start = half_masks(network), copy.deepcopy(network.state_dict())
    dead = {name: ~mask for name, mask in masks.items()}
    checked = []

    def check(epoch, network):
        for name, parameter in network.named_parameters():
            state = [value for value in optimizers[0].state[parameter].values() if value.shape == parameter.shape]
            assert len(state) == (2 if change["optimizer"] == "adam" else 1)
            if name in masks:
                assert (parameter[dead[name]] == 0).all(), name
                assert all((moment[dead[name]] == 0).all() for moment in state), name
                checked.append(name)
        return False

    recipe = dataclasses.replace(RECIPE, weight_decay=0.1, **change)
    train(network, data, recipe, STREAMS, masks, range(3), after_epoch=[check])
    assert checked == 3 * list(masks)
    for name, mask in masks.items():  # and the living live
        assert (network.state_dict()[name][mask] != start[name][mask]).float().mean() > 0.9, name


def test_without_masks_the_same_weights_come_back():
    """The control for law 11: what keeps them at zero is the mask."""
    network = Tiny()
    masks = half_masks(network)
    train(network, toy_data(), RECIPE, STREAMS, {}, range(1))
    assert any((network.state_dict()[name][~mask] != 0).any() for name, mask in masks.items())


# --- the loop ---


def test_the_loop_is_plain_sgd():
    """Against a loop written out, with torch's unfused SGD and the documented streams."""
    data, recipe = toy_data(), dataclasses.replace(RECIPE, weight_decay=0.01, augment=("flip",))
    network, other = Tiny(dropout=0.0), Tiny(dropout=0.0)
    losses = train(network, data, recipe, STREAMS, {}, range(2))
    rule = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    expected = []
    for epoch in range(2):
        order = torch.randperm(70, generator=STREAMS.generator("order", epoch))
        flip = augment.draw(("flip",), 70, 8, STREAMS.generator("augment", epoch))["flip"]
        other.dropout.reseed(0, torch.device("cpu"))
        epoch_losses = []
        for first in (0, 16, 32, 48):
            rows = order[first : first + 16]
            images = data.images[rows].float() / 255
            images = torch.where(flip[first : first + 16].view(-1, 1, 1, 1), images.flip(3), images)
            loss = F.cross_entropy(other((images - 0.4) / 0.25), data.labels[rows])
            rule.zero_grad()
            loss.backward()
            rule.step()
            epoch_losses.append(loss.item())
        expected.append(sum(epoch_losses) / 4)
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert expected[1] < expected[0]


def trained(streams=STREAMS, recipe=RECIPE, epochs=range(2)):
    network = Tiny()
    losses = train(network, toy_data(), recipe, streams, {}, epochs)
    return network.state_dict(), losses


def equal(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def test_the_same_streams_give_the_same_bits():
    recipe = dataclasses.replace(RECIPE, augment=("crop", "flip", "affine", "cutout"))
    (one, losses), (two, again) = trained(recipe=recipe), trained(recipe=recipe)
    assert equal(one, two)
    assert losses == again


@pytest.mark.parametrize("change", [{"seed": 1}, {"run": 1}, {"run": "complete"}, {"iteration": 2}])
def test_other_streams_give_other_weights(change):
    assert not equal(trained()[0], trained(dataclasses.replace(STREAMS, **change))[0])


def test_an_epoch_draws_by_its_index_not_by_its_place():
    """Training epochs 1 and 2 differs from 0 and 1: a retraining from a late reset uses the later epochs' streams."""
    assert not equal(trained(epochs=range(2))[0], trained(epochs=range(1, 3))[0])


def inputs_of(network):
    """The batches that the network is given, with its mode at the time."""
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append((module.training, inputs[0].clone())))
    return seen


def test_the_last_partial_batch_is_dropped_in_training():
    network = Tiny()
    seen = inputs_of(network)
    train(network, toy_data(70), RECIPE, STREAMS, {}, range(2))
    assert [len(images) for _, images in seen] == [16] * 8
    first, second = (torch.cat([images for _, images in seen[i : i + 4]]) for i in (0, 4))
    assert len(first.flatten(1).unique(dim=0)) == 64  # nobody twice
    assert not torch.equal(first, second)  # another order


def test_a_partial_batch_that_is_the_only_one_is_used():
    network = Tiny()
    seen = inputs_of(network)
    train(network, toy_data(10), RECIPE, STREAMS, {}, range(1))
    assert [len(images) for _, images in seen] == [10]


def test_training_augments_and_evaluation_does_not():
    data, network = toy_data(32), Tiny()
    clean = augment.normalise(data.images, data.mean, data.sd)
    seen = inputs_of(network)
    recipe = dataclasses.replace(RECIPE, augment=("crop", "flip", "affine", "cutout"))
    train(network, data, recipe, STREAMS, {}, range(1))
    evaluate(network, data.images, data.labels, data.mean, data.sd)
    *augmented, (_, evaluated) = seen
    assert torch.equal(evaluated, clean)
    rows = {tuple(row.tolist()) for row in clean.flatten(1)}
    outside = [tuple(row.tolist()) not in rows for _, images in augmented for row in images.flatten(1)]
    assert sum(outside) > 28  # nearly all of 32 are changed


def test_modes():
    """Each epoch trains in training mode, even after something evaluated in between."""
    data, network = toy_data(), Tiny()
    seen = inputs_of(network)

    def look(epoch, network):
        evaluate(network, *data.test, data.mean, data.sd)
        return False

    train(network.eval(), data, RECIPE, STREAMS, {}, range(2), after_epoch=[look])
    assert [mode for mode, _ in seen] == ([True] * 4 + [False]) * 2


def test_looking_on_changes_no_bit():
    data, watched = toy_data(), Tiny()

    def look(epoch, network):
        evaluate(network, *data.test, data.mean, data.sd)
        return False

    train(watched, data, RECIPE, STREAMS, {}, range(2), after_epoch=[look])
    assert equal(watched.state_dict(), trained()[0])


def test_evaluation_takes_every_image_once():
    network, data = Tiny(), toy_data(n=16, test=730)
    seen = inputs_of(network)
    accuracy, loss = evaluate(network, *data.test, data.mean, data.sd)
    assert [len(images) for _, images in seen] == [500, 230]
    images, labels = data.test
    with torch.no_grad():
        logits = network((images.float() / 255 - 0.4) / 0.25).double()
    assert accuracy == (logits.argmax(1) == labels).sum().item() / 730
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_the_rate_is_set_before_every_step(optimizers):
    network, seen = Tiny(), []

    def rate(epoch, step, steps):
        seen.append((epoch, step, steps))
        return 0.0  # so nothing moves

    before = copy.deepcopy(dict(network.named_parameters()))
    train(network, toy_data(), RECIPE, STREAMS, {}, range(5, 7), rate=rate)
    assert seen == [(epoch, step, 4) for epoch in (5, 6) for step in range(4)]
    assert equal(before, dict(network.named_parameters()))
    assert len(optimizers) == 1


def test_anyone_may_stop_and_all_are_asked():
    asked = []

    def ask(name, answer):
        return lambda epoch, network: asked.append((name, epoch)) or answer(epoch)

    losses = train(
        Tiny(),
        toy_data(),
        RECIPE,
        STREAMS,
        {},
        range(3),
        after_epoch=[ask("first", lambda epoch: epoch == 1), ask("second", lambda epoch: False)],
    )
    assert len(losses) == 2
    assert asked == [("first", 0), ("second", 0), ("first", 1), ("second", 1)]


@pytest.mark.parametrize(
    ("streams", "where"),
    [
        (EpochStreams(0, 3, 2), r"training diverged: run 3, iteration 2: the loss of epoch 1 is (nan|inf)"),
        (EpochStreams(0, "complete", 0), r"training diverged: complete network: the loss of epoch 1 is (nan|inf)"),
    ],
)
def test_a_loss_that_is_not_finite_says_where(streams, where):
    recipe = dataclasses.replace(RECIPE, lr=1e30)
    with pytest.raises(FloatingPointError, match=where):
        train(Tiny(), toy_data(), recipe, streams, {}, range(3))


# --- early stopping ---


@pytest.fixture
def script(monkeypatch):
    """Validation losses in the order written, whatever the network."""

    def play(losses):
        left = iter(losses)
        monkeypatch.setattr(early_stopping, "evaluate", lambda *arguments: (0.0, next(left)))

    return play


def stopped_at(stopping, network, epochs):
    """The epoch after which it stops. Each epoch leaves its index in the network's bias and in a buffer."""
    for epoch in range(epochs):
        with torch.no_grad():
            network.out.bias.fill_(epoch)
            network.norm.running_mean.fill_(epoch)
        if stopping(epoch, network):
            return epoch
    return None


@pytest.mark.parametrize(
    ("losses", "patience", "earliest", "stop", "best"),
    [
        ([5, 4, 3, 3, 3], 2, 0, 4, 2),  # equal is not smaller
        ([5, 4, 6, 3, 6, 6, 6], 3, 0, 6, 3),  # a smaller value starts the count again
        ([5, 6], 1, 0, 1, 0),
        ([1, 9, 9, 5, 6, 7], 2, 3, 5, 3),  # what came before `earliest` counts for nothing
        ([5, 4, 3, 2, 1], 2, 0, None, 4),
    ],
)
def test_patience(script, losses, patience, earliest, stop, best):
    script(losses)
    stopping = EarlyStopping(toy_data(validation=6), patience, earliest)
    assert stopped_at(stopping, Tiny(), len(losses)) == stop
    assert stopping.best_epoch == best
    assert stopping.best_loss == losses[best]
    assert stopping.losses == losses
    assert (stopping.best_state["out.bias"] == best).all()
    assert (stopping.best_state["norm.running_mean"] == best).all()  # buffers too


def test_early_stopping_looks_at_the_validation_split():
    data, network = toy_data(validation=40), Tiny()
    stopping = EarlyStopping(data, patience=1)
    stopping(0, network)
    assert stopping.losses == [evaluate(network, *data.validation, data.mean, data.sd)[1]]
    assert stopping.losses != [evaluate(network, *data.test, data.mean, data.sd)[1]]


def test_early_stopping_ends_training(script):
    script([3, 2, 4, 4])
    data = toy_data(validation=6)
    recipe = dataclasses.replace(RECIPE, epochs=9)
    losses = train(Tiny(), data, recipe, STREAMS, {}, range(9), after_epoch=[EarlyStopping(data, patience=2)])
    assert len(losses) == 4


@pytest.mark.parametrize("loss", [float("inf"), float("nan")])
def test_a_validation_loss_that_is_not_finite_ends_the_training_by_name(script, loss):
    script([3, loss])
    data = toy_data(validation=6)
    said = rf"training diverged: {STREAMS.label}: the validation loss of epoch 2 is {loss}"
    with pytest.raises(FloatingPointError, match=said):
        train(Tiny(), data, RECIPE, STREAMS, {}, range(2), after_epoch=[EarlyStopping(data, patience=2)])


def test_early_stopping_needs_a_validation_split():
    with pytest.raises(ValueError, match="early stopping needs a validation split"):
        EarlyStopping(toy_data(), patience=2)


# --- threads ---


def test_threads_are_set_and_put_back():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before
