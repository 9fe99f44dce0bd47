"""A model whose code does well for a few images, and not for a batch of another size."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from torch import nn

from distsim.activations.probe import Probe, blocks
from distsim.models import MODELS, Network, build, logits_of
from distsim.problems import PROBLEMS
from distsim.specs import Recipe
from distsim.training.connectivity import measure_statistics
from distsim.training.criteria import Calibration, Criterion, scores
from distsim.training.loop import outputs

DIGITS = PROBLEMS["digits"]
MANY = 20


class Odd(nn.Module):
    """Whatever `odd` makes of the logits, for a batch of MANY images in training mode."""

    def __init__(self, odd):
        super().__init__()
        self.a, self.fc, self.odd = nn.Linear(64, 8), nn.Linear(8, 10), odd

    def forward(self, x):
        logits = self.fc(torch.relu(self.a(x.flatten(1))))
        return self.odd(logits) if self.training and len(x) == MANY else logits


def fails(logits):
    raise RuntimeError("boom\nand more")


def lacks_memory(logits):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


CASES = {
    "a tuple": (lambda logits: (logits, None), "returns tuple; expected a tensor of logits, (images, classes)"),
    "a row too few": (lambda logits: logits[1:], "returns a tensor (19, 10); expected"),
    "no rows": (lambda logits: logits.sum(), "returns a tensor (); expected"),
    "an error": (fails, "fails: RuntimeError: boom"),
    "an error of torch": (lambda logits: logits @ logits, "fails: RuntimeError: "),
    "no text": (lambda logits: (_ for _ in ()).throw(KeyError), "fails: KeyError"),
}


@pytest.fixture
def network(request, monkeypatch):
    monkeypatch.setattr("distsim.models.MODELS", dict(MODELS, mine=lambda *_: Odd(request.param)))
    return build(dataclasses.replace(DIGITS, model="mine"), 10)


@pytest.mark.parametrize(("network", "said"), CASES.values(), ids=CASES, indirect=["network"])
def test_what_a_model_does_for_a_batch_is_said_with_its_name(network, said):
    images = torch.zeros(MANY, 1, 8, 8)
    begins = "model mine: in training mode, for a batch of 20 images of 8 x 8 pixels and 1 channel, it "
    with pytest.raises(ValueError, match=re.escape(begins + said)):
        logits_of(network.train(), images)
    assert torch.equal(logits_of(network, images[1:]), network(images[1:]))
    assert torch.equal(logits_of(network.eval(), images), network(images))


@pytest.mark.parametrize("network", [lacks_memory], indirect=True)
def test_what_is_about_the_machine_is_raised_as_it_is(network):
    with pytest.raises(RuntimeError, match=r"^DefaultCPUAllocator"):
        logits_of(network.train(), torch.zeros(MANY, 1, 8, 8))


IMAGES = torch.zeros(MANY, 1, 8, 8, dtype=torch.uint8)
NORMAL = torch.zeros(1), torch.ones(1)


def with_norm(network):
    """Add a batch normalisation, whose statistics are to be measured, and which nothing runs."""
    network.add_module("norm", nn.BatchNorm2d(1))
    return network


RUNS = {
    "test set": lambda network: list(outputs(network, IMAGES, *NORMAL)),
    "probe": lambda network: list(blocks(network, Probe(np.arange(MANY), IMAGES, *NORMAL))),
    "statistics": lambda network: measure_statistics(with_norm(network), Probe(np.arange(MANY), IMAGES, *NORMAL)),
    "criterion": lambda network: scores(
        network,
        ["a.weight"],
        Criterion("mine", lambda weights, gradients: weights, ("gradients",)),
        Calibration(IMAGES, torch.zeros(MANY, dtype=torch.int64), *NORMAL),
    ),
}


@pytest.mark.parametrize("network", [fails], indirect=True)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_it_is_said_wherever_a_network_runs(network, run):
    run(network)
    network.register_forward_pre_hook(lambda module, inputs: fails(inputs))
    with pytest.raises(ValueError, match="model mine: in evaluation mode, for a batch of 20 images of 8 x 8 pixels"):
        run(network)


def test_a_submodule_may_have_any_name():
    """The name of the model is kept beside the modules of a Network."""
    network = build(dataclasses.replace(DIGITS, model="vgg_digits"), 10)
    assert isinstance(network, Network)
    assert "_distsim_model" not in dict(network.named_modules()) | network.state_dict()


@pytest.mark.parametrize("odd", ["a tuple", "an error"])
def test_a_sweep_says_it_in_one_sentence(odd, tmp_path):
    import distsim
    from distsim.sweep.failures import SweepFailed

    def mine(channels, size, classes):
        return Odd(CASES[odd][0])

    problem = distsim.Problem(mine, recipe=Recipe(epochs=1, batch_size=MANY), probe=40)
    images = torch.randint(0, 255, (40, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    labels = torch.arange(40).numpy() % 10
    with pytest.raises((ValueError, SweepFailed), match="model mine: in training mode, for a batch of 20 images"):
        distsim.run(
            problem,
            data={"train": (images, labels), "test": (images, labels)},
            storage=str(tmp_path / "store"),
            runs=1,
            iterations=1,
            progress=False,
        )
