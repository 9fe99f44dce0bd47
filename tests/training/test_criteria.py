"""Pruning by a criterion of one's own: what it is given, and that it decides."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distsim.data import augment, load
from distsim.environment import threads
from distsim.models import MODELS, build
from distsim.problems import PROBLEMS
from distsim.sweep.behaviour import criterion_behaviour, criterion_differences
from distsim.sweep.order import identify
from distsim.training.chain import TrainedNetwork, Trainer
from distsim.training.criteria import BATCH, CRITERIA, Calibration, Criterion, criterion_of, register, scores
from distsim.training.group import GroupTrainer

SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=100, train_limit=250)


def reversed_magnitude(weights: Tensor) -> Tensor:
    return -weights.abs()


def taylor(weights: Tensor, gradients: Tensor) -> Tensor:
    return (weights * gradients).abs()


def wanda(weights: Tensor, activations: Tensor) -> Tensor:
    return weights.abs() * activations


def squares(weights: Tensor) -> Tensor:
    return weights**2


OWN = (
    Criterion("reversed_magnitude", reversed_magnitude),
    Criterion("taylor", taylor, ("gradients",), examples=130),
    Criterion("wanda", wanda, ("activations",), examples=130),
    Criterion("squares", squares),
)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for criterion in OWN:
        register(criterion)
    with threads(1):
        yield


def trainer_of(criterion: str) -> Trainer:
    problem = dataclasses.replace(SMALL, pruning=dataclasses.replace(SMALL.pruning, criterion=criterion))
    data = load(problem, "")
    return Trainer(identify(problem, data), data)


@pytest.fixture(scope="module")
def complete() -> TrainedNetwork:
    with threads(1):
        return trainer_of("magnitude").complete()


def masks_of(trainer: Trainer, complete: TrainedNetwork, times: int = 2) -> dict[str, Tensor]:
    """The masks after some prunings, without training in between."""
    network = build(trainer.problem, trainer.classes)
    for _ in range(times):
        _, masks = trainer.pruned(network, complete, complete)
        weights = {name: value * masks[name] if name in masks else value for name, value in complete.weights.items()}
        complete = dataclasses.replace(complete, weights=weights, masks=masks)
    return complete.masks


def calibration(trainer: Trainer) -> Calibration:
    data = trainer.data
    return Calibration(data.images, data.labels, data.mean, data.sd)


# --- who decides -----------------------------------------------------------------------------------------------------


def test_a_sweep_prunes_by_its_own_criterion(complete: TrainedNetwork) -> None:
    by_magnitude = masks_of(trainer_of("magnitude"), complete)
    largest_first = masks_of(trainer_of("reversed_magnitude"), complete)
    for name, mask in by_magnitude.items():
        assert mask.sum() == 0 or complete.weights[name].abs()[mask].min() > 0
    kept = torch.cat([complete.weights[name][mask].abs() for name, mask in largest_first.items()])
    gone = torch.cat([complete.weights[name][~mask].abs() for name, mask in largest_first.items()])
    other = torch.cat([complete.weights[name][~mask].abs() for name, mask in by_magnitude.items()])
    assert len(gone) == len(other), "how many go is the recipe's"
    assert gone.mean() > 2 * kept.mean()
    assert other.mean() < kept.mean()
    for name, mask in masks_of(trainer_of("squares"), complete).items():
        assert torch.equal(mask, by_magnitude[name]), "squares have the order of magnitudes"


def test_the_magnitude_of_ones_own_is_that_of_distsim(complete: TrainedNetwork) -> None:
    register(Criterion("mine", lambda weights: weights.abs()))
    ours, theirs = (masks_of(trainer_of(name), complete, times=4) for name in ("mine", "magnitude"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_random_control_is_drawn_as_ever(complete: TrainedNetwork) -> None:
    ours, theirs = (
        trainer_of(name).iterate(0, 1, complete, complete, control="random").masks for name in ("taylor", "magnitude")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("criterion", ["taylor", "wanda"])
def test_the_same_masks_come_out_again_and_among_fused_runs(criterion: str, complete: TrainedNetwork) -> None:
    trainer = trainer_of(criterion)
    first, again = (trainer.iterate(0, 1, complete, complete) for _ in range(2))
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)
    fused = Trainer(dataclasses.replace(trainer.identity, fuse=2), load(trainer.problem, ""))
    among = GroupTrainer(fused, 2).iterate(0, 1, complete, complete)
    assert all(torch.equal(first.masks[name], among.masks[name]) for name in first.masks)
    by_magnitude = masks_of(trainer_of("magnitude"), complete, times=1)
    assert any(not torch.equal(first.masks[name], by_magnitude[name]) for name in first.masks)


# --- what it is given ------------------------------------------------------------------------------------------------


def given_to(trainer: Trainer, complete: TrainedNetwork, needs: tuple[str, ...], examples: int) -> dict[str, dict]:
    """What a criterion gets of each parameter, in the order of the masks."""
    found = []

    def note(weights: Tensor, **measured: Tensor) -> Tensor:
        found.append({"weights": weights, **measured})
        return weights

    network = build(trainer.problem, trainer.classes)
    network.load_state_dict(complete.weights)
    names = list(complete.masks)
    scores(network, names, Criterion("note", note, needs, examples), calibration(trainer))
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("examples", [1, 130, 10_000])
def test_gradients_are_those_of_the_mean_loss(complete: TrainedNetwork, examples: int) -> None:
    trainer = trainer_of("magnitude")
    given = given_to(trainer, complete, ("gradients",), examples)
    data, n = trainer.data, min(examples, len(trainer.data.images))
    which = [i * len(data.images) // n for i in range(n)]
    network = build(trainer.problem, trainer.classes)
    network.load_state_dict(complete.weights)
    images = augment.normalise(data.images[which], data.mean, data.sd)
    F.cross_entropy(network.eval()(images), data.labels[which]).backward()
    for name, parameter in network.named_parameters():
        if name in given:
            assert given[name].keys() == {"weights", "gradients"}
            assert torch.equal(given[name]["weights"], parameter)
            torch.testing.assert_close(given[name]["gradients"], parameter.grad, rtol=1e-4, atol=1e-6)


class Branches(nn.Module):
    """Grouped convolutions, a layer that runs twice, tied weights, biases, and a layer that does not run."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 6, 3, padding=1, bias=True)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.twice = nn.Conv2d(6, 6, 1)
        self.last = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.first(x))))
        x = torch.relu(self.twice(torch.relu(self.twice(x)) + 1))
        return self.last(x.mean((2, 3)))


def test_activations_are_what_each_weight_is_multiplied_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "branches", Branches)
    pruning = dataclasses.replace(SMALL.pruning, biases=True, prune_output=True)
    problem = dataclasses.replace(SMALL, model="branches", name="branches", pruning=pruning)
    data = load(problem, "")
    trainer = Trainer(identify(problem, data), data)
    complete = trainer.complete()
    given = given_to(trainer, complete, ("activations",), 10_000)
    network = Branches(1, 8, 10)
    names = dict(zip(network.state_dict(), complete.weights, strict=True))
    network.load_state_dict({name: complete.weights[theirs] for name, theirs in names.items()})
    inputs: dict[str, list[Tensor]] = {}
    for name, module in network.named_children():
        module.register_forward_pre_hook(lambda m, given, name=name: inputs.setdefault(name, []).append(given[0]))
    with torch.no_grad():
        network(augment.normalise(trainer.data.images, trainer.data.mean, trainer.data.sd))
    assert len(inputs["twice"]) == 2
    for name, module in network.named_children():
        axes = (0, 2, 3) if isinstance(module, nn.Conv2d) else (0,)
        level = torch.cat(inputs[name]).double().square().mean(axes).sqrt()
        found = given[names[f"{name}.weight"]]["activations"].expand(module.weight.shape)
        for out in range(module.weight.shape[0]):
            group = out // (module.weight.shape[0] // getattr(module, "groups", 1))
            inside = module.weight.shape[1]
            expected = level[group * inside : (group + 1) * inside]
            shown = found[out].reshape(inside, -1)
            torch.testing.assert_close(shown, expected.float()[:, None].expand_as(shown), rtol=1e-5, atol=0)
        assert given[names[f"{name}.bias"]]["activations"].tolist() == [1]


def test_a_criterion_changes_neither_the_network_nor_the_next_parameter(complete: TrainedNetwork) -> None:
    def greedy(weights: Tensor, gradients: Tensor, activations: Tensor) -> Tensor:
        score = weights * gradients * activations
        for value in (weights, gradients, activations):
            value.zero_()
        return score

    trainer = trainer_of("magnitude")
    network = build(trainer.problem, trainer.classes).train()
    network.load_state_dict(complete.weights)
    criterion = Criterion("greedy", greedy, ("gradients", "activations"), BATCH + 1)
    found = scores(network, list(complete.masks), criterion, calibration(trainer))
    assert all(value.count_nonzero() for value in found.values())
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, complete.weights[name]) for name, value in network.state_dict().items())


# --- mistakes --------------------------------------------------------------------------------------------------------


def nan_for_the_living(weights: Tensor) -> Tensor:
    return torch.where(weights != 0, torch.nan, 0.0)


def broken(weights: Tensor) -> Tensor:
    raise KeyError("scale")


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (nan_for_the_living, "cannot prune: the score of a surviving parameter is not finite"),
        (broken, "criterion wrong: parameter 'layers.0.weight': KeyError: 'scale'"),
        (lambda weights: weights.sum(), r"it must return a tensor of shape \(16, 1, 3, 3\), got \(\)"),
        (lambda weights: 3.0, r"it must return a tensor of shape \(16, 1, 3, 3\), got float"),
        (lambda weights, gradients: weights, "missing 1 required positional argument: 'gradients'"),
    ],
)
def test_a_criterion_that_fails_is_a_sentence(score: object, says: str, complete: TrainedNetwork) -> None:
    register(Criterion("wrong", score))  # type: ignore[arg-type]
    says = says.replace("layers.0.weight", next(iter(complete.masks)))
    with pytest.raises(ValueError, match=says):
        masks_of(trainer_of("wrong"), complete)


def test_what_is_dead_may_have_any_score(complete: TrainedNetwork) -> None:
    register(Criterion("inverse", lambda weights: -1 / weights))
    masks = masks_of(trainer_of("inverse"), complete, times=3)
    assert sum(int(mask.sum()) for mask in masks.values()) < sum(int(m.sum()) for m in complete.masks.values())


def test_declarations_are_checked() -> None:
    for wrong, says in (
        (lambda: Criterion("two words", torch.abs), "must be an identifier"),
        (lambda: Criterion("x", torch.abs, ("hessian",)), "needs must be some of"),
        (lambda: Criterion("x", torch.abs, "gradients"), "in a tuple, got 'gradients'"),  # type: ignore[arg-type]
        (lambda: Criterion("x", torch.abs, examples=0), "examples must be at least 1"),
        (lambda: register(Criterion("magnitude", torch.sign)), "there is already another criterion named magnitude"),
        (lambda: criterion_of("nobodys"), "unknown criterion 'nobodys'; there are magnitude, reversed_magnitude"),
    ):
        with pytest.raises(ValueError, match=says):
            wrong()
    with pytest.raises(ValueError, match="criterion must be an identifier of at most 100 letters, got 'a b'"):
        dataclasses.replace(SMALL.pruning, criterion="a b")


# --- how it behaves --------------------------------------------------------------------------------------------------


def test_behaviour_is_the_order_in_which_weights_go() -> None:
    recorded = {criterion.name: criterion_behaviour(criterion.name) for criterion in OWN}
    magnitude = criterion_behaviour("magnitude")
    assert criterion_differences(magnitude, recorded["squares"]) == []
    assert criterion_differences(magnitude, recorded["reversed_magnitude"]) == [
        "it prunes the same weights in another order"
    ]
    found = criterion_differences(recorded["taylor"], recorded["wanda"])
    assert found[0] == "it has needs ['activations'] here, ['gradients'] in the store"
    more = dataclasses.replace(OWN[1], examples=131)
    CRITERIA["taylor"] = more
    assert criterion_differences(recorded["taylor"], criterion_behaviour("taylor")) == [
        "it has examples 131 here, 130 in the store"
    ]


def test_a_criterion_that_draws_is_refused() -> None:
    register(Criterion("dice", torch.rand_like))
    with pytest.raises(ValueError, match="criterion dice: the same weights got other scores the second time"):
        criterion_behaviour("dice")
