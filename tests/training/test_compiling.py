"""Networks compiled for training: the masks of dropout, what compiles, and the sentence for what does not."""

import copy
import dataclasses

import pytest
import torch
from networks import Dropouts, Functional
from sweep_scripts import run_script
from torch import nn

import distsim
from distsim.data import augment, load
from distsim.environment import threads
from distsim.models import MODELS, Dropout, build
from distsim.problems import PROBLEMS
from distsim.seeds import torch_stream
from distsim.specs import COMPLETE
from distsim.store import Storage, SweepStore
from distsim.sweep.cost import training_rate
from distsim.sweep.forecast import compile_advice
from distsim.sweep.order import prepare
from distsim.sweep.training_worker import TrainingWorker
from distsim.training import compiling
from distsim.training.compiling import CannotCompile, Compiled
from distsim.training.stepper import Arithmetic, Stepper

CPU = torch.device("cpu")
SMALL = PROBLEMS["digits"].reduced_to(epochs=2, probe=60, train_limit=200)


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


@pytest.fixture
def traced(monkeypatch):
    """Networks are compiled to the operations that they run without, which takes a tenth of the time."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


def on_noise(problem, arithmetic=None, images=4):
    """A stepper of a problem on a few images of noise, one step an epoch, and its weights at the start."""
    shape = (images, problem.channels, problem.size, problem.size)
    noise = torch.randint(256, shape, dtype=torch.uint8, generator=torch_stream(0, "noise"))
    pictures = augment.Pictures(noise, *(torch.full((problem.channels,), 0.5),) * 2)
    network = build(problem, 10, torch_stream(0, "initialisation"))
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    made = Stepper(network, pictures, torch.arange(images) % 10, problem.recipe, arithmetic)
    made.reset(weights, {})
    return made


def stepped(made, steps=2):
    losses = []
    for step in range(steps):
        draws = augment.draw(made._recipe.augment, made.examples, made.size, torch_stream(step, "draws"))
        made.begin(torch.arange(made.examples), draws, [1e-2], [step] * made.dropouts)
        made.step()
        losses.append(made.loss())
    return losses, made.state()


def same(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


# --- the masks -------------------------------------------------------------------------------------------------------


class Dropping(nn.Module):
    """One dropout module called for images and for features, and another between."""

    def __init__(self, channels, size, classes):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.drop, self.other = nn.Dropout(0.3), nn.Dropout(0.6)
        self.last = nn.Linear(8 * size * size, classes)

    def forward(self, x):
        x = self.other(self.drop(self.conv(x))).flatten(1)
        return self.last(self.drop(x))


@pytest.fixture
def dropping(monkeypatch):
    monkeypatch.setitem(MODELS, "Dropping", Dropping)
    return dataclasses.replace(SMALL, model="Dropping")


def test_masks_drawn_before_the_pass_are_those_drawn_in_it(dropping):
    inside = build(dropping, 10, torch_stream(0, "initialisation")).to(memory_format=torch.channels_last).train()
    before = copy.deepcopy(inside)
    dropouts = [[module for module in each.modules() if isinstance(module, Dropout)] for each in (inside, before)]
    n = 5
    shapes = [[torch.Size((n, 8, 8, 8)), torch.Size((n, 512))], [torch.Size((n, 8, 8, 8))]]
    for one, other, of_calls in zip(*dropouts, shapes, strict=True):
        one.reseed(7, CPU)
        other.reseed(7, CPU)
        other.hold(of_calls, CPU)
    for step in range(3):
        images = torch.rand((n, 1, 8, 8), generator=torch_stream(step, "images"))
        for module in dropouts[1]:
            module.draw()
        results = []
        for network in (inside, before):
            with torch.autocast("cpu", torch.bfloat16, enabled=step == 2):
                results.append(network(images))
            results[-1].square().sum().backward()
        assert torch.equal(*results)
        same(*({name: p.grad for name, p in network.named_parameters()} for network in (inside, before)))
    for one, other in zip(*dropouts, strict=True):
        assert torch.equal(one.generator.get_state(), other.generator.get_state()), "as many numbers were drawn"


@pytest.mark.usefixtures("traced")
def test_a_module_that_is_called_twice_has_two_masks(dropping):
    losses, state = stepped(on_noise(dropping, Arithmetic(compile=True)))
    expected, plain = stepped(on_noise(dropping))
    assert losses == expected
    same(state, plain)


# --- what compiles ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_compiles_as_one_graph(name):
    """And its steps are those of the network itself, to the bit where no code is generated."""
    problem = PROBLEMS[name]
    losses, state = stepped(on_noise(problem, Arithmetic(compile=True)))
    expected, plain = stepped(on_noise(problem))
    assert losses == expected
    same(state, plain)


@pytest.mark.usefixtures("traced")
def test_a_compiled_pass_is_in_the_precision_of_the_step():
    losses, state = stepped(on_noise(SMALL, Arithmetic("bfloat16", compile=True)))
    expected, plain = stepped(on_noise(SMALL, Arithmetic("bfloat16")))
    assert losses == expected
    assert losses != stepped(on_noise(SMALL, Arithmetic(compile=True)))[0]
    same(state, plain)


@pytest.mark.usefixtures("traced")
def test_networks_of_one_structure_are_compiled_once(monkeypatch):
    """A pack trains many, and torch refuses to compile one function for too many kinds of arguments."""
    compiled, compile_ = [], torch.compile
    monkeypatch.setattr(compiling, "_passes", {})
    monkeypatch.setattr(torch, "compile", lambda *what, **how: compiled.append(how) or compile_(*what, **how))
    lanes = [on_noise(SMALL, Arithmetic(compile=True)) for _ in range(3)]
    with torch._dynamo.config.patch(error_on_recompile=True):  # of what was compiled for the first of them
        results = [stepped(lane) for lane in [*lanes, on_noise(SMALL, Arithmetic(compile=True))]]
    assert len(compiled) == 1
    assert compiled[0]["fullgraph"]
    for losses, state in results:
        assert losses == results[0][0]
        same(state, results[0][1])


@pytest.mark.usefixtures("traced")
def test_a_network_that_draws_from_the_global_generator_repeats_itself(monkeypatch):
    monkeypatch.setitem(MODELS, "Dropouts", Dropouts)
    problem = dataclasses.replace(SMALL, model="Dropouts")
    before = torch.get_rng_state()
    first, second = (stepped(on_noise(problem, Arithmetic(compile=True))) for _ in range(2))
    assert first[0] == second[0]
    same(first[1], second[1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("traced")
def test_only_training_runs_the_compiled_network(monkeypatch, tmp_path):
    """Evaluation and extraction run the network itself: without its compiled pass they give the same."""
    one = prepare(SMALL, runs=1, iterations=1, metrics=("cka",), compile=True)
    worker = TrainingWorker(SweepStore(Storage(tmp_path), "digits"), one.sweep, one.dataset)
    worker.store.claim(one.sweep.identity)
    passes, call = [], Compiled.__call__
    monkeypatch.setattr(Compiled, "__call__", lambda *args: passes.append(args[0]._network.training) or call(*args))
    worker.complete()
    assert passes == [True] * (1 + 2 * 3), "one to compile, and two epochs of three steps"
    mark = worker.store.mark(COMPLETE)
    assert mark.environment["compiler"].split()[0] in ("g++", "clang", "Apple") or "c++" in mark.environment["compiler"]
    trained = worker.store.load_network(COMPLETE)
    assert worker.trainer.evaluated(trained).items() <= trained.record.items()
    worker.store.drop_activations(COMPLETE)
    worker.extract(COMPLETE, trained)
    assert len(passes) == 7


class Died(BaseException):
    """Not an Exception: nothing catches it on the way, as nothing catches a SIGKILL."""


def dies(epoch, network):
    raise Died


@pytest.mark.long
def test_a_compiled_training_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    """With torch's own compiler, whose code rounds differently from the network itself, and is made anew each time."""

    def worker(name, **choices):
        monkeypatch.setattr(compiling, "_passes", {})
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "code" / str(len(workers))))
        one = prepare(SMALL, runs=1, iterations=1, metrics=("cka",), **choices)
        store = SweepStore(Storage(tmp_path / name), "digits")
        store.claim(one.sweep.identity)
        workers.append(TrainingWorker(store, one.sweep, one.dataset))
        return workers[-1]

    workers = []
    worker("whole", compile=True).complete()
    cut = worker("cut", compile=True)
    cut.trainer.after_epoch = (lambda epoch, network: epoch and dies(epoch, network),)
    with pytest.raises(Died):
        cut.complete()
    worker("cut", compile=True).complete()
    worker("plain").complete()
    whole, _, gone_on, plain = (
        made.store.load_network(COMPLETE).weights if made is not cut else None for made in workers
    )
    same(whole, gone_on)
    assert workers[0].store.digests() == workers[2].store.digests()
    assert any(not torch.equal(value, plain[name]) for name, value in whole.items())
    for name, value in whole.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-2, atol=1e-3)


# --- what does not compile -------------------------------------------------------------------------------------------


class Branching(Functional):
    """A network whose way depends on its values."""

    def forward(self, x):
        y = super().forward(x)
        return y * 2 if y.mean() > 0 else y


@pytest.fixture
def branching(monkeypatch):
    monkeypatch.setitem(MODELS, "Branching", Branching)
    return distsim.Problem("Branching", name="branching", probe=20, recipe=distsim.Recipe(epochs=1))


BRANCHING = (
    r"^torch cannot compile model Branching \(Data-dependent branching; test_compiling.py, line \d+\); "
    r"leave --compile out, which is another sweep$"
)


@pytest.mark.usefixtures("blank_figures")
def test_an_own_network_that_does_not_compile_is_refused_before_training(branching, tmp_path):
    data = load(SMALL, "")
    arrays = {"train": (data.train_images, data.train_labels), "test": (data.test_images, data.test_labels)}
    asked = {"data": arrays, "runs": 1, "iterations": 1, "metrics": "cka", "chance": False, "device": "cpu"}
    asked |= {"progress": False, "storage": tmp_path / "store", "control": "none"}
    with pytest.raises(CannotCompile, match=BRANCHING):
        distsim.run(branching, **asked, compile=True)
    assert not (tmp_path / "store" / "branching").exists()
    with pytest.raises(ValueError, match="compile must be True or False, got 'yes'"):
        distsim.run(branching, **asked, compile="yes")
    assert len(distsim.run(branching, **asked).networks) == 2


def test_a_machine_without_a_compiler_says_so_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    refused = run_script(
        "cifar2", "--local", "--compile", "--device", "cpu", "--storage", tmp_path, "--data", "/nowhere"
    )
    assert (refused.status, refused.out, refused.err.count("\n")) == (1, "", 1)
    assert "--compile needs a C++ compiler on a CPU, and there is no no-such-compiler" in refused.err
    one = prepare(SMALL, runs=1, iterations=1, metrics=("cka",), compile=True)
    worker = TrainingWorker(SweepStore(Storage(tmp_path), "digits"), one.sweep, one.dataset)
    with pytest.raises(CannotCompile, match="there is no no-such-compiler"):
        worker.complete()


@pytest.mark.usefixtures("traced")
def test_what_fails_while_it_is_compiled_is_told_in_one_line(monkeypatch):
    """Such as a compiler that is there and does not work."""

    def fails(*_):
        raise RuntimeError("the compiler ended with status 1\nand much more")

    monkeypatch.setattr(compiling, "BACKEND", fails)
    with pytest.raises(
        CannotCompile, match=r"^torch cannot compile the network \([^\n]+\); leave --compile out"
    ) as caught:
        on_noise(SMALL, Arithmetic(compile=True))
    assert "status 1" in str(caught.value)


# --- the forecast ----------------------------------------------------------------------------------------------------


def test_the_forecast_recommends_it_where_it_pays():
    said = ". --compile, which is another sweep, may save about 12 min of that"
    assert compile_advice("cuda", False, 3600.0) == said
    assert compile_advice("cuda", False, 300.0) == "", "compiling takes much of what it saves"
    assert compile_advice("cuda", True, 3600.0) == ""
    assert compile_advice("cpu", False, 3600.0) == ""


@pytest.mark.usefixtures("traced")
def test_the_forecast_measures_the_compiled_step():
    for compiled in (False, True):
        assert training_rate(SMALL, 10, "cpu", enough=0.0, compiled=compiled) > 0
    assert len([key for key in compiling._passes if key[0].startswith("VGG") and key[-1] == "aot_eager"]) >= 1
