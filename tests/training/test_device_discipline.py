"""Training, evaluation and extraction on a device without hardware: nothing waits for it where it need not."""

import dataclasses

import numpy as np
import pytest
import torch
from fake_card import CARD, Discipline, Undisciplined, fake_card, on_card

from distsim.activations.probe import Probe, blocks, held, layer_shapes
from distsim.data import augment
from distsim.metrics import reads
from distsim.models import build
from distsim.problems import PROBLEMS
from distsim.sweep import extraction
from distsim.tf32 import SWITCH
from distsim.training.fused_stepper import Epoch, FusedStepper
from distsim.training.loop import EpochStreams, evaluate, finish, train_steps
from distsim.training.stepper import Arithmetic, Stepper

N = 4  # images
# What may read, and what may copy, in an epoch: its start and its end.
READS, COPIES = {"Stepper.loss"}, {"Stepper.begin"}
ALL_ARITHMETICS = [Arithmetic("float32"), Arithmetic("bfloat16"), Arithmetic("tf32"), Arithmetic("bfloat16", True)]


@pytest.fixture
def card(request):
    of_test = getattr(request.node, "callspec", None)
    name = of_test.params.get("name", "digits") if of_test else "digits"
    build(PROBLEMS[name], 10)  # the first time the network is run, and that must not be on the fake device
    with fake_card() as device:
        yield device


def images_of(problem, device, n=N):
    return torch.empty((n, problem.channels, problem.size, problem.size), dtype=torch.uint8, device=device)


def constants(problem, device="cpu"):
    return (torch.full((problem.channels,), 0.5, device=device),) * 2


def stepper(problem, device, arithmetic=None):
    """One whose step is not replayed but called."""
    pictures = augment.Pictures(images_of(problem, device), *constants(problem))
    labels = torch.zeros(N, dtype=torch.int64, device=device)
    made = Stepper(on_card(build(problem, 10)), pictures, labels, problem.recipe, arithmetic)
    made.step._graph.again = made._step
    return made


def epoch(made, problem, epochs=1):
    """Train under supervision. Return what read and what copied."""
    discipline = Discipline(READS, COPIES)
    with discipline:
        finish(train_steps(made, problem.recipe, EpochStreams(0, 0, 1), range(epochs)))
    return discipline.used


# --- the discipline itself -------------------------------------------------------------------------------------------


OFFENCES = {
    "float": lambda x, host: float(x.sum()),
    "bool": lambda x, host: bool((x > 0).all()),
    "item": lambda x, host: x.sum().item(),
    "cpu": lambda x, host: x.cpu(),
    "to the card": lambda x, host: host.to(CARD),
    "a copy from the CPU": lambda x, host: x.copy_(host),
    "a sum of both": lambda x, host: x + host,
    "a number of the CPU": lambda x, host: x + host[0, 0],
    "an index of the CPU": lambda x, host: x[torch.zeros(2, dtype=torch.int64)],
    "a mask": lambda x, host: x[x > 0],
    # these put Python's numbers on the card, and fail where the card would get memory of its own
    "a list as an index": lambda x, host: x[[0, 1]],
    "new numbers": lambda x, host: torch.tensor([1.0, 2.0], device=CARD),
}
REFUSED = r"^Stepper\._step, line \d+, (reads|copies|has)|Could not run 'aten::empty_strided'.* 'card' backend"


@pytest.mark.parametrize("offence", OFFENCES)
def test_a_step_that_waits_for_the_host_is_refused(card, offence, monkeypatch):
    """Each is put into the step, where a GPU would be waited for, or the capture would fail or keep an old value."""
    problem = PROBLEMS["digits"]
    made = stepper(problem, card)
    host, x = torch.empty(3, 4), torch.empty(3, 4, device=card)
    hold_back = Stepper._hold_back
    assert epoch(made, problem) == {"Stepper.begin", "Stepper.loss"}
    offended = []

    def offend(self):
        hold_back(self)
        offended.append(True)
        OFFENCES[offence](x, host)

    monkeypatch.setattr(Stepper, "_hold_back", offend)
    with pytest.raises((Undisciplined, NotImplementedError), match=REFUSED):
        epoch(made, problem)
    assert offended


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
def test_an_epoch_of_every_problem_reads_its_loss_only(card, name):
    problem = PROBLEMS[name]
    made = stepper(problem, card)
    made.reset(zeros(made.network), {})
    assert epoch(made, problem, 2) == {"Stepper.begin", "Stepper.loss"}


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "fast_sgd"])
@pytest.mark.parametrize("arithmetic", ALL_ARITHMETICS, ids=str)
def test_every_optimizer_and_precision_keeps_the_discipline(card, optimizer, arithmetic):
    augmented = ("crop", "flip", "affine", "cutout")
    recipe = dataclasses.replace(PROBLEMS["digits"].recipe, optimizer=optimizer, lars=True, augment=augmented)
    problem = dataclasses.replace(PROBLEMS["digits"], recipe=recipe)
    assert epoch(stepper(problem, card, arithmetic), problem) == {"Stepper.begin", "Stepper.loss"}


def fused_stepper(problem, device, arithmetic=None):
    pictures = augment.Pictures(images_of(problem, device), *constants(problem))
    labels = torch.zeros(N, dtype=torch.int64, device=device)
    made = FusedStepper(on_card(build(problem, 10)), 3, pictures, labels, problem.recipe, arithmetic)
    made.step._graph.again = made._step
    return made


def fused_epoch(made, problem):
    """Train fused runs under supervision, their losses not read. Return what copied."""
    draws = augment.draw(problem.recipe.augment, N, problem.size, torch.Generator())
    draws = {name: values.expand(3, *values.shape) for name, values in draws.items()}
    order, seeds = torch.zeros(3, N, dtype=torch.int64), [0] * 3 * made.modules
    discipline = Discipline(set(), COPIES)
    with discipline:
        made.begin_epoch(Epoch(order, draws, [0.1] * made.steps, seeds))
        for _ in range(made.steps):
            made.step()
    return discipline.used


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_step_of_fused_runs_reads_and_copies_nothing(card, name):
    problem = PROBLEMS[name]
    assert fused_epoch(fused_stepper(problem, card), problem) == COPIES


@pytest.mark.parametrize("arithmetic", ALL_ARITHMETICS, ids=str)
def test_fused_runs_keep_the_discipline_with_lars_in_every_precision(card, arithmetic):
    recipe = dataclasses.replace(PROBLEMS["digits"].recipe, optimizer="fast_sgd", lars=True)
    problem = dataclasses.replace(PROBLEMS["digits"], recipe=recipe)
    assert fused_epoch(fused_stepper(problem, card, arithmetic), problem) == COPIES


def test_a_step_of_fused_runs_that_waits_for_the_host_is_refused(card, monkeypatch):
    problem = PROBLEMS["digits"]
    made = fused_stepper(problem, card)
    monkeypatch.setattr(Stepper, "_hold_back", lambda self: float(self._rate))
    with pytest.raises(Undisciplined, match=r"^FusedStepper\._step, line \d+, reads"):
        fused_epoch(made, problem)


def zeros(network):
    """Weights as a store has them, on the CPU."""
    return {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in network.state_dict().items()}


def test_what_a_training_begins_and_goes_on_with_is_copied_once(card):
    made = stepper(PROBLEMS["digits"], card)
    weights = zeros(made.network)
    masks = {"out.weight": torch.ones(made.network.out.weight.shape, dtype=torch.bool)}
    discipline = Discipline(may_copy={"Stepper.reset", "Stepper.load", "on_cpu"})
    with discipline:
        made.reset(weights, masks)
        state = made.state()
        assert {tensor.device.type for tensor in state.values()} == {"cpu"}
        made.load(state)
    assert discipline.used == {"Stepper.reset", "Stepper.load", "on_cpu"}


def test_a_step_is_rehearsed_and_captured_in_its_own_products(card):
    """The switch is one of the whole process: it is on in these steps only."""
    problem, used = PROBLEMS["digits"], []

    def note(module, inputs):
        used.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))

    pictures = augment.Pictures(images_of(problem, card), *constants(problem))
    for arithmetic in ALL_ARITHMETICS:
        used.clear()
        network = on_card(build(problem, 10))
        network.register_forward_pre_hook(note)
        with SWITCH.float32():
            before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        Stepper(network, pictures, torch.zeros(N, dtype=torch.int64, device=card), problem.recipe, arithmetic)
        assert set(used) == {(True, True) if arithmetic.precision == "tf32" else before}
        assert len(used) == 4, "three rehearsals and the capture"
        note(None, None)
        assert used[-1] == ((False, False) if arithmetic.precision == "tf32" else before)


# --- evaluation and extraction ---------------------------------------------------------------------------------------


def test_an_evaluation_reads_two_numbers(card):
    problem = PROBLEMS["digits"]
    network, images = on_card(build(problem, 10)), images_of(problem, card, 1100)
    labels, reads = torch.zeros(1100, dtype=torch.int64, device=card), Discipline({"evaluate"})
    count = []
    reads._allow = lambda *what, allow=reads._allow: (count.append(what), allow(*what))
    with reads:
        evaluate(network, images, labels, *constants(problem, card))
    assert len(count) == 2, "three batches, and what they add up to"
    with pytest.raises(Undisciplined, match=r"evaluate, .* reads a value"), Discipline():
        evaluate(network, images, labels, *constants(problem, card))


@pytest.fixture
def looked(monkeypatch):
    """What distsim asked the card for through `distsim.metrics.reads.read`, which answers True here."""
    asked = []

    def read(value):
        assert value.device.type == CARD
        asked.append(value)
        return np.ones(value.shape, bool)

    monkeypatch.setattr(reads, "read", read)
    return asked


@pytest.mark.parametrize("name", PROBLEMS)
def test_activations_stay_on_the_card(card, looked, name):
    """But for what says whether they are finite, and whether float16 is enough."""
    problem = PROBLEMS[name]
    network = on_card(build(problem, 10))
    probe = Probe(None, images_of(problem, card), *constants(problem, card))
    shapes = layer_shapes(network, problem)
    with Discipline():
        for outputs in blocks(network, probe):
            assert {block.device.type for block in outputs.values()} == {CARD}
            assert {layer: tuple(block.shape[1:]) for layer, block in outputs.items()} == shapes
    assert len(looked) == len(network.layers), "one batch; whether each layer is finite"
    later = {layer.name: reads.Reads(deferred=True) for layer in network.layers}
    with Discipline():
        list(blocks(network, probe, reads=later))
    assert len(looked) == len(network.layers), "deferred reads have asked for nothing"
    assert all(len(of_layer.required) == 1 for of_layer in later.values())
    layer = network.layers[0]
    with Discipline({"Float16Check.__bool__"}):
        assert held(network, probe, layer, shapes[layer.name], "auto").device.type == CARD
    with pytest.raises(Undisciplined, match=r"Float16Check.__bool__, .* reads a value"), Discipline():
        held(network, probe, layer, shapes[layer.name], "auto")


def test_extraction_copies_what_it_writes(card, looked, monkeypatch):
    problem, copied = PROBLEMS["digits"], []
    network = on_card(build(problem, 10))
    probe = Probe(None, images_of(problem, card), *constants(problem, card))
    shapes = layer_shapes(network, problem)

    class Written:
        def create(self, *what):
            return N

        def write(self, layer, start, block):
            copied.append(layer)

    dtypes = {layer.name: "float16" for layer in network.layers}
    monkeypatch.setattr(torch.Tensor, "numpy", lambda tensor: np.zeros(tensor.shape))
    with Discipline({"Float16Check.__bool__"}, {"as_numpy"}) as discipline:
        extraction._write(Written(), network, probe, network.layers, shapes, dtypes, "digits")
    assert discipline.used == {"Float16Check.__bool__", "as_numpy"}
    assert len(looked) == len(network.layers)
    assert copied == [layer.name for layer in network.layers]
