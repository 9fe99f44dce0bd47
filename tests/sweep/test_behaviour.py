"""An edit of a network that changes what it computes is refused by the store it began; any other is not noticed."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sweep_scripts import Outcome, outcome, run_script
from torch import nn

from distsim.cli import main as cli
from distsim.environment import threads
from distsim.metrics.registry import METRICS, Metric
from distsim.models import MODELS, Network
from distsim.problems import PROBLEMS
from distsim.results import reduce as results
from distsim.specs import Extent, Identity, Problem, Sweep, canonical_json
from distsim.specs.canonical import signed
from distsim.store import DamagedStore, Storage, SweepStore
from distsim.sweep import exact, kept_behaviour
from distsim.sweep.behaviour import differences, metric_behaviour, metric_differences, network_behaviour
from distsim.sweep.kept_behaviour import (
    NETWORK,
    BehaviourChanged,
    read_behaviour,
    require_same_behaviour,
)
from distsim.verify.report import DAMAGED, FOREIGN, NOTE
from distsim.verify.walk import verify

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F
from distsim.models import Dropout, Layer, Network


class Mine(Network):
    def __init__(self, channels, size, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.block = nn.Sequential()
        self.block.add_module("conv", nn.Conv2d(8, 8, 3, padding=1))
        self.block.add_module("norm", nn.BatchNorm2d(8))
        self.block.add_module("relu", nn.ReLU())
        self.add = nn.Identity()
        self.gap = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(8 * 4, 16)
        self.relu2 = nn.ReLU()
        self.dropout = Dropout(0.25)
        self.out = nn.Linear(16, classes)
        self.factor = nn.Parameter(torch.full((1,), 2.0))
        self.layers = (
            Layer("conv1", "conv", "relu1"),
            Layer("conv2", "conv", "block.relu"),
            Layer("add", "add", "add"),
            Layer("fc1", "fc", "relu2"),
            Layer("out", "out", "out"),
        )
        self.output = "out"

    def forward(self, x):
        x = self.pool1(self.relu1(self.norm1(self.conv1(x))))
        y = self.block(x)
        x = self.add(x + y)
        x = self.gap(x)
        x = self.dropout(self.relu2(self.fc(x.flatten(1))))
        return self.factor * self.out(x)
"""
FORWARD = SOURCE[SOURCE.index("    def forward") :]
BLOCK = SOURCE[SOURCE.index("        self.block = ") : SOURCE.index("        self.add = ")]
NEW_BLOCK = """

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.norm(self.conv(x)))


class Mine(Network):"""
CLASSES = tuple("0123456789")
PROBLEM = dataclasses.replace(PROBLEMS["digits"], name="mine", model="mine", classes=CLASSES)

# what is changed -> (text, what stands in its place), one after the other
Edits = tuple[tuple[str, str], ...]
COSMETIC: dict[str, Edits] = {
    "comment": (("    def forward", "    # one residual connection\n    def forward"),),
    "docstring": (("class Mine(Network):", 'class Mine(Network):\n    """Of my own."""\n'),),
    "type hints": (("def forward(self, x):", "def forward(self, x: torch.Tensor) -> torch.Tensor:"),),
    "renamed variable": (("y = self.block(x)", "residual = self.block(x)"), ("x + y", "x + residual")),
    "renamed class": (("class Mine(Network):", "class Renamed(Network):"),),
    "renamed module without parameters": (("self.relu1", "self.act1"), ('"relu1"', '"act1"')),
    "forward first": (
        (FORWARD, ""),
        ("    def __init__(self, channels", f"{FORWARD}\n    def __init__(self, channels"),
    ),
    "activations made first": (
        ("        self.relu2 = nn.ReLU()\n", ""),
        ("        self.conv1 = nn", "        self.relu2 = nn.ReLU()\n        self.conv1 = nn"),
    ),
    "in place": (("self.relu1 = nn.ReLU()", "self.relu1 = nn.ReLU(inplace=True)"),),
    "function instead of module": (
        ("self.pool1(self.relu1", "F.max_pool2d(self.relu1"),
        ("self.conv1(x))))", "self.conv1(x))), 2)"),
    ),
    "function of a module's parameters": (
        ("self.fc(x.flatten(1))", "F.linear(x.flatten(1), self.fc.weight, self.fc.bias)"),
    ),
    "class instead of Sequential": (
        (BLOCK, "        self.block = Block()\n"),
        ("\nclass Mine(Network):", NEW_BLOCK),
    ),
    "the same shape otherwise": (("x.flatten(1)", "x.reshape(len(x), -1)"),),
    "the same sum otherwise": (("x + y", "torch.add(y, x)"),),
    "a statement for each module": (
        ("x = self.pool1(self.relu1(", "x = self.relu1("),
        ("self.conv1(x))))", "self.conv1(x)))\n        x = self.pool1(x)"),
    ),
    "a method of its own": (
        (
            "return self.factor * self.out(x)",
            "return self._head(x)\n\n    def _head(self, x):\n        return self.out(x) * self.factor",
        ),
    ),
    "another memory layout": (
        ("y = self.block(x)", "y = self.block(x.contiguous(memory_format=torch.channels_last))"),
    ),
    "a module that leaves its work to a function": (
        ("self.pool1 = nn.MaxPool2d(2)", "self.pool1 = nn.Identity()"),
        ("x = self.pool1(self.relu1(", "x = F.max_pool2d(self.pool1(self.relu1("),
        ("self.conv1(x))))", "self.conv1(x)))), 2)"),
    ),
    "a module that nothing calls": (("        self.add = ", "        self.later = nn.Tanh()\n        self.add = "),),
    "one more layer compared": (
        ('            Layer("fc1"', '            Layer("pool", "pool", "gap"),\n            Layer("fc1"'),
    ),
}

# what is changed -> (text, what stands in its place), the first place that is named
CONV1 = "nn.Conv2d(channels, 8, 3, padding=1)"
CONV2 = '"conv", nn.Conv2d(8, 8, 3, padding=1)'
LINEAR = "self.relu2(self.fc(x.flatten(1)))"
NORMED = "self.relu1(self.norm1(self.conv1(x)))"
RESULT = "return self.factor * self.out(x)"
REAL: dict[str, tuple[str, str, str]] = {
    "activation": ("self.relu1 = nn.ReLU()", "self.relu1 = nn.Hardswish()", "layer 'relu1'"),
    "slope of an activation": ("self.relu2 = nn.ReLU()", "self.relu2 = nn.LeakyReLU(0.001)", "layer 'relu2'"),
    "activation as a function": (
        "self.pool1(self.relu1(self.norm1(self.conv1(x))))",
        "self.pool1(self.relu1(F.silu(self.norm1(self.conv1(x)))))",
        "layer 'relu1'",
    ),
    "mode of padding": (CONV1, f"{CONV1[:-1]}, padding_mode='circular')", "layer 'conv1'"),
    "size of padding": (
        CONV1,
        "nn.Conv2d(channels, 8, 3, padding=0)",
        "layer 'conv1' (shape (4, 8, 6, 6) here, (4, 8, 8, 8)",
    ),
    "kind of pooling": ("self.pool1 = nn.MaxPool2d(2)", "self.pool1 = nn.AvgPool2d(2)", "layer 'pool1'"),
    "stride": (CONV1, f"{CONV1[:-1]}, stride=2)", "layer 'conv1'"),
    "dilation": (CONV2, '"conv", nn.Conv2d(8, 8, 3, padding=2, dilation=2)', "layer 'block.conv'"),
    "groups": (CONV2, f"{CONV2[:-1]}, groups=2)", "parameter 'block.conv.weight' (shape (8, 4, 3, 3)"),
    "order of norm and activation": (NORMED, "self.norm1(self.relu1(self.conv1(x)))", "layer 'norm1'"),
    "place of the norm": ("self.norm1(self.conv1(x))", "self.conv1(x)", "layer 'relu1'"),
    "rate of dropout": ("Dropout(0.25)", "Dropout(0.3)", "layer 'dropout' in training mode"),
    "no dropout": (f"self.dropout({LINEAR})", LINEAR, "layer 'out' in training mode"),
    "no bias": (CONV1, f"{CONV1[:-1]}, bias=False)", "parameter 'conv1.bias' (no longer there)"),
    "epsilon of batch norm": ("nn.BatchNorm2d(8)", "nn.BatchNorm2d(8, eps=1.1e-5)", "layer 'norm1'"),
    "momentum of batch norm": ("nn.BatchNorm2d(8)", "nn.BatchNorm2d(8, momentum=0.11)", "buffer 'norm1.running_mean'"),
    "no residual connection": ("x + y", "y", "layer 'add'"),
    "no gradient through the residual connection": (
        "x + y",
        "x.detach() + y",
        "the gradient of parameter 'conv1.weight'",
    ),
    "scale": ("return self.factor *", "return 1.001 * self.factor *", "the output in evaluation mode"),
    "scale in training": (
        "return self.factor *",
        "return (1.001 if self.training else 1) * self.factor *",
        "the output in training mode",
    ),
    "width": ("16", "12", "parameter 'fc.bias' (shape (12,) here, (16,)"),
    "output layer": (RESULT, "return F.log_softmax(self.factor * self.out(x), 1)", "the output in evaluation mode"),
    "size of a pooling": (
        "nn.AdaptiveAvgPool2d(2)",
        "nn.AdaptiveAvgPool2d((1, 4))",
        "layer 'gap' (shape (4, 8, 1, 4) here, (4, 8, 2, 2)",
    ),
    "what is compared": (
        'Layer("conv2", "conv", "block.relu")',
        'Layer("conv2", "conv", "block.norm")',
        "layer 'conv2'",
    ),
    "initial values": ("torch.full((1,), 2.0)", "torch.full((1,), 2.01)", "the initial values of 'factor' (mean 2.01"),
    "name of a parameter": ("self.factor", "self.scale", "parameter 'scale' (new)"),
    "a parameter that nothing uses": (
        "self.relu2 = ",
        "self.unused = nn.Parameter(torch.ones(3))\n        self.relu2 = ",
        "parameter 'unused' (new)",
    ),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "draw", lambda root, again=False: [])
    monkeypatch.setitem(MODELS, "mine", lambda *sizes: None)  # put back afterwards, whatever a script sets
    monkeypatch.delitem(MODELS, "mine")


def network_class(source: str) -> Any:
    space: dict[str, Any] = {"__name__": "mine"}
    exec(source, space)
    return next(c for n, c in space.items() if isinstance(c, type) and issubclass(c, Network) and c is not Network)


def recorded(source: str, **choices: Any) -> dict[str, Any]:
    """What is kept of a network of this source, as it comes back from a store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "mine", network_class(source))
        record: dict[str, Any] = json.loads(canonical_json(network_behaviour(PROBLEM, **choices)))
    assert record["dtype"] == "float64"
    return record


def edited(source: str, edits: Edits) -> str:
    for old, new in edits:
        assert old in source, old
        source = source.replace(old, new)
    return source


@pytest.fixture(scope="module")
def begun() -> dict[str, Any]:
    return recorded(SOURCE)


@pytest.mark.parametrize("name", COSMETIC)
def test_a_cosmetic_edit_is_not_noticed(name: str, begun: dict[str, Any]) -> None:
    source = edited(SOURCE, COSMETIC[name])
    assert source != SOURCE
    assert differences(begun, recorded(source)) == []


@pytest.mark.parametrize("name", REAL)
def test_a_real_edit_is_named_by_the_first_place_that_differs(name: str, begun: dict[str, Any]) -> None:
    old, new, place = REAL[name]
    source = edited(SOURCE, ((old, new),))
    first = differences(begun, recorded(source), recorded(source, nudged=True))[0]
    assert first.startswith(place), first


def test_there_are_enough_edits() -> None:
    assert len(COSMETIC) >= 15
    assert len(REAL) >= 15


# --- other processors, other kinds of networks -----------------------------------------------------------------------


def test_another_processor_and_other_threads_change_nothing(begun: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "source.py").write_text(SOURCE)
    code = f"""
        import json, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import torch
        from test_behaviour import SOURCE, recorded
        torch.set_num_threads(2)
        print(torch.backends.cpu.get_cpu_capability())
        print(json.dumps(recorded(SOURCE)))
    """
    plain = {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Prescott"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | plain,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    capability, text = done.stdout.splitlines()
    assert capability in ("DEFAULT", "NO AVX")
    theirs = json.loads(text)
    assert theirs != begun, "its last bits are others, or this test shows nothing"
    assert differences(begun, theirs) == []


def test_what_rounding_may_have_moved_is_no_difference(begun: dict[str, Any]) -> None:
    """A network that makes much of little: 2^-12 of a value decides about its output."""
    wild = edited(
        SOURCE,
        (("return self.factor *", "return torch.sin(2.0**12 * x).mean(1, keepdim=True) * self.factor *"),),
    )
    here, nudged = recorded(wild), recorded(wild, nudged=True)
    there = json.loads(json.dumps(here))
    for entry in there["computed"]:
        entry["projections"] = [
            value + 1e-8 * (entry["largest"] or 0) * (entry["of"] != "layer") for value in entry["projections"]
        ]
    assert differences(here, there)[0].startswith("layer"), "it differs where nothing was nudged"
    assert not any("the output" in said for said in differences(here, there, nudged))


@pytest.mark.parametrize("kind", ["nn.Dropout(0.25)", "nn.Dropout1d(0.25)", "nn.AlphaDropout(0.25)"])
def test_masks_of_every_kind_of_dropout_are_exact(kind: str) -> None:
    module = eval(kind)
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        with exact.ExactDraws():
            outputs.append(module(torch.ones(8, 16, 4)))
        assert kind != "nn.Dropout(0.25)" or torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(*outputs)
    kept = (outputs[0] > 0.5).float().mean()
    assert 0.6 < kept < 0.9, "the rate shows"


def test_own_dropout_lets_through_what_torchs_does() -> None:
    from distsim.models import Dropout

    ours, torchs = Dropout(0.3), nn.Dropout(0.3)
    ours.reseed(5, torch.device("cpu"))
    x = torch.linspace(1, 2, 1000, dtype=torch.float64)
    found = []
    for module in (ours, torchs):
        with exact.ExactDraws():
            found.append(module(x))
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


def test_other_draws_are_exact_too() -> None:
    def drawn() -> list[torch.Tensor]:
        like = torch.zeros(40, 50)
        p = torch.full((40, 50), 0.25)
        with exact.ExactDraws():
            return [
                torch.rand(40, 50),
                torch.rand_like(like),
                torch.empty(40, 50).uniform_(2, 4),
                torch.randn(40, 50),
                torch.randn_like(like),
                torch.empty(40, 50).normal_(3, 0.5),
                torch.bernoulli(p),
                torch.empty(40, 50).bernoulli_(p),
                torch.empty(40, 50).bernoulli_(0.25),
                torch.native_dropout(torch.ones(40, 50), 0.75, True)[1].float(),
            ]

    torch.manual_seed(1)
    first = drawn()
    torch.manual_seed(2)
    for ours, theirs in zip(first, drawn(), strict=True):
        assert torch.equal(ours, theirs)
    means = [float(values.mean()) for values in first]
    sds = [float(values.std()) for values in first]
    np.testing.assert_allclose(means, [0.5, 0.5, 3, 0, 0, 3, *[0.25] * 4], atol=0.06)
    np.testing.assert_allclose(sds, [12**-0.5] * 2 + [2 * 12**-0.5, 1, 1, 0.5, *[0.1875**0.5] * 4], rtol=0.06)
    assert len({float(values.sum()) for values in first[6:]}) == 4, "each draw has a stream of its own"


def test_a_network_that_wants_float32_is_compared_in_float32() -> None:
    narrow = edited(SOURCE, (("self.fc(x.flatten(1))", "self.fc(x.flatten(1).to(torch.float32))"),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "mine", network_class(narrow))
        here = network_behaviour(PROBLEM)
        patch.setitem(MODELS, "mine", network_class(edited(narrow, (("x + y", "x + 1.1 * y"),))))
        there = network_behaviour(PROBLEM)
    assert here["dtype"] == there["dtype"] == "float32"
    assert differences(here, here) == []
    assert differences(here, there)[0].startswith("layer 'add'")


def test_a_buffer_that_the_constructor_draws_is_filled() -> None:
    drawing = edited(
        SOURCE,
        (
            (
                "        self.layers = (",
                "        self.register_buffer('noise', torch.randn(1, 8, 1, 1))\n        self.layers = (",
            ),
            ("x + y", "x + self.noise * y"),
        ),
    )
    one, other = (recorded(drawing) for _ in range(2))
    assert one == other
    with pytest.MonkeyPatch.context() as patch:  # another processor's normal numbers
        drawn = torch.randn
        patch.setattr(torch, "randn", lambda *shape, **of: drawn(*shape, **of) * (1 + 1e-6))
        assert differences(one, recorded(drawing)) == []
    fixed = edited(drawing, (("torch.randn(1, 8, 1, 1)", "torch.full((1, 8, 1, 1), 0.5)"),))
    changed = edited(drawing, (("torch.randn(1, 8, 1, 1)", "torch.full((1, 8, 1, 1), 0.5000001)"),))
    assert differences(recorded(fixed), recorded(changed)), "a fixed one is part of what the network does"


def test_the_first_use_of_a_module_is_told_from_the_second(begun: dict[str, Any]) -> None:
    shared = edited(
        SOURCE,
        (
            ('"relu", nn.ReLU()', '"relu", self.relu1'),
            ('"block.relu"', '"relu1"'),
            ('Layer("conv1", "conv", "relu1")', 'Layer("conv1", "conv", "norm1")'),
        ),
    )
    record = recorded(shared)
    names = [entry["name"] for entry in record["computed"] if entry["of"] == "evaluation"]
    assert names.count("relu1") == names.count("relu1, call 2") == 1
    (kept,) = [entry for entry in record["computed"] if (entry["of"], entry["name"]) == ("layer", "conv2")]
    (second,) = [
        entry for entry in record["computed"] if entry["name"] == "relu1, call 2" and entry["of"] == "evaluation"
    ]
    assert kept["projections"] == second["projections"], "what is compared is the last"


def test_no_state_of_the_process_is_left_changed() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    recorded(SOURCE)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_default_dtype() == torch.float32


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_split_mix_is_that_of_the_paper() -> None:
    assert [int(word) for word in exact.split_mix(0, 3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_uniform_numbers_are_these_everywhere() -> None:
    numbers = exact.uniform("images", (2, 3))
    assert (numbers * 2**17).tolist() == PINNED
    large = exact.uniform("x", (100_000,))
    assert np.array_equal(large, large.astype(np.float32)), "exact in float32"
    assert abs(large.mean() - 0.5) < 0.004
    assert abs(large.std() - 12**-0.5) < 0.003
    assert abs(np.corrcoef(large[:-1], large[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(large, exact.uniform("y", (100_000,)))[0, 1]) < 0.01


PINNED = [[100965, 24983, 93817], [88319, 30815, 6075]]


@pytest.mark.parametrize("n", [0, 1, 100, 4096, 10_000])
def test_projections_are_products_with_vectors_of_signs(n: int) -> None:
    x = np.random.default_rng(n).normal(size=n)
    vectors = np.array([exact.projections(row) for row in np.eye(min(n, 64), n)]) * np.sqrt(max(n, 1))
    assert set(np.unique(vectors).round(12)) <= {-1.0, 1.0}
    if n <= 64:
        np.testing.assert_allclose(exact.projections(x), x @ vectors.reshape(n, 16) / np.sqrt(max(n, 1)), atol=1e-14)
    a, b = np.random.default_rng(1).normal(size=(2, n))
    np.testing.assert_allclose(
        exact.projections(a - 2 * b), exact.projections(a) - 2 * exact.projections(b), atol=1e-12
    )


def test_the_signs_of_two_blocks_are_not_the_same() -> None:
    first, second = (exact.projections(np.eye(1, 12_288, k)[0]) for k in (5, 4101))
    assert 0 < (first != second).sum() < 16


# --- metrics ---------------------------------------------------------------------------------------------------------


def mean_rho(pair: Any) -> float:
    return float(np.mean(pair.correlations))


def test_a_metric_that_changed_is_noticed() -> None:
    for view, measure, changed in (
        ("channels", mean_rho, lambda pair: mean_rho(pair) * (1 + 1e-8)),
        ("kernel", lambda pair: pair.shared, lambda pair: pair.shared * (1 + 1e-8)),
        ("output", lambda X, Y: float((X * Y).sum()), lambda X, Y: float((X * Y)[1:].sum())),
    ):
        found = []
        for one in (measure, lambda *sides, measure=measure: measure(*sides) * (1 + 1e-12), changed):
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(METRICS, "own", Metric("own", view, one))
                found.append(json.loads(canonical_json(metric_behaviour("own"))))
        assert None not in found[0]["values"], view
        assert metric_differences(found[0], found[1]) == []
        assert "of the same two matrices it gives" in metric_differences(found[0], found[2])[0]


def test_a_metric_that_draws_or_fails_has_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng()

    def wants_more(pair: Any) -> float:
        raise IndexError("too few")

    for measure in (lambda pair: rng.random(), wants_more):
        monkeypatch.setitem(METRICS, "own", Metric("own", "channels", measure))
        assert metric_behaviour("own")["values"] == [None, None]


# --- in a store ------------------------------------------------------------------------------------------------------


def sweep(problem: Problem = PROBLEM, **extent: Any) -> Sweep:
    return Sweep(Identity(problem, "0" * 64), Extent(1, 1, **extent))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepStore:
    monkeypatch.setitem(MODELS, "mine", network_class(SOURCE))
    return SweepStore(Storage(tmp_path / "store"), "mine")


def test_before_anything_was_trained_an_edit_is_free(store: SweepStore, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    require_same_behaviour(store, sweep(), said.append)
    first = store.storage.get(NETWORK)
    monkeypatch.setitem(MODELS, "mine", network_class(edited(SOURCE, (("x + y", "y"),))))
    require_same_behaviour(store, sweep(), said.append)
    assert store.storage.get(NETWORK) != first
    store.storage.put("complete/epoch/0001.safetensors", b"half a training")
    monkeypatch.setitem(MODELS, "mine", network_class(SOURCE))
    with pytest.raises(
        BehaviourChanged, match=r"^mine: the network mine behaves differently .* first at layer 'add' \("
    ):
        require_same_behaviour(store, sweep(), said.append)
    assert said == []


def test_two_drivers_that_start_at_once(store: SweepStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one wrote its record while this one evaluated."""
    theirs = recorded(edited(SOURCE, (("x + y", "y"),)))

    def meanwhile(*args: Any, **choices: Any) -> Any:
        store.storage.create(NETWORK, signed(theirs))
        store.storage.put("complete/COMMIT.json", b"")
        return network_behaviour(*args, **choices)

    monkeypatch.setattr(kept_behaviour, "network_behaviour", meanwhile)
    with pytest.raises(BehaviourChanged):
        require_same_behaviour(store, sweep(), print)


def test_own_metrics_are_kept_and_distsims_are_not(store: SweepStore, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setitem(METRICS, "own", Metric("own", "channels", mean_rho))
    require_same_behaviour(store, sweep(metrics=("cka", "svcca")), said.append)
    assert set(store.storage.sizes("behaviour")) == {NETWORK}
    require_same_behaviour(store, sweep(metrics=("cka", "own")), said.append)
    assert set(store.storage.sizes("behaviour")) == {NETWORK, "behaviour/metric-own.json"}
    monkeypatch.setitem(METRICS, "own", Metric("own", "channels", lambda pair: mean_rho(pair) ** 2))
    require_same_behaviour(store, sweep(metrics=("cka", "own")), said.append)  # nothing was measured with it
    store.storage.put("pairs/out/0123456789abcdef.json", b"")
    monkeypatch.setitem(METRICS, "own", Metric("own", "channels", mean_rho))
    require_same_behaviour(store, sweep(metrics=("cka",)), said.append)
    with pytest.raises(
        BehaviourChanged, match=r"^mine: the metric own is not the one .* it gives 0\.\d+ here, 0\.\d+ in"
    ):
        require_same_behaviour(store, sweep(metrics=("own",)), said.append)
    assert said == []


def test_a_network_that_does_not_run_on_the_fixed_input_is_said(
    store: SweepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    pair_only = edited(SOURCE, (("y = self.block(x)", "y = self.block(x)\n        assert len(x) != 4, 'not four'"),))
    monkeypatch.setitem(MODELS, "mine", network_class(pair_only))
    for _ in range(2):
        require_same_behaviour(store, sweep(), said.append)
    assert set(said) == {
        "mine: edits of the network mine cannot be noticed, because it fails on a fixed input: AssertionError: not four"
    }
    assert read_behaviour(store.storage, NETWORK, "mine") is not None
    (store.storage.folder / NETWORK).unlink()  # type: ignore[operator]
    monkeypatch.setitem(MODELS, "mine", network_class(SOURCE))
    require_same_behaviour(store, sweep(), said.append)
    store.storage.put("complete/COMMIT.json", b"")
    monkeypatch.setitem(MODELS, "mine", network_class(pair_only))
    with pytest.raises(BehaviourChanged, match=r"first at its run on a fixed input \(Ass"):
        require_same_behaviour(store, sweep(), said.append)


def changed_record(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """A record with a change in it and the digest that fits."""

    def apply(content: bytes) -> bytes:
        tree = json.loads(content)
        del tree["sha256"]
        change(tree)
        return signed(tree)

    return apply


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-20],
    "a bit": lambda content: content.replace(b'"model":"mine"', b'"model":"minf"'),
    "no object": lambda content: b"[1]",
    "nothing in it": lambda content: b"{}",
    "deep": lambda content: b"[" * 100_000,
    "not a number": lambda content: b'{"scheme":NaN}',
    "another problem's": changed_record(lambda tree: tree.update(problem="other")),
    "another scheme": changed_record(lambda tree: tree.update(scheme=2)),
    "a field more": changed_record(lambda tree: tree.update(more=1)),
    "nothing computed": changed_record(lambda tree: tree.update(computed=[])),
    "dtype": changed_record(lambda tree: tree.update(dtype="float8")),
    "an entry": changed_record(lambda tree: tree["computed"].append(1)),
    "an entry's field": changed_record(lambda tree: tree["computed"][0].pop("shape")),
    "an entry's type": changed_record(lambda tree: tree["computed"][0].update(name=["x"])),
    "an entry's kind": changed_record(lambda tree: tree["computed"][0].update(of="other")),
    "a shape": changed_record(lambda tree: tree["computed"][0].update(shape=[-1])),
    "a projection": changed_record(lambda tree: tree["computed"][0]["projections"].pop()),
    "a text for a number": changed_record(lambda tree: tree["computed"][0]["projections"].__setitem__(0, "1")),
    "a parameter": changed_record(lambda tree: tree["parameters"].update(x="y")),
    "an initial value": changed_record(lambda tree: tree["initial"].update(x=[1])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_one_sentence(store: SweepStore, damage: str) -> None:
    require_same_behaviour(store, sweep(), print)
    content = store.storage.get(NETWORK) or b""
    changed = DAMAGES[damage](content)
    assert changed != content
    store.storage.put(NETWORK, changed)
    with pytest.raises(
        DamagedStore, match=r"^behaviour/network\.json in .* is damaged: [^\n]*\. distsim repair removes it"
    ):
        require_same_behaviour(store, sweep(), print)
    (finding,) = [one for one in verify(store).findings if one.piece == NETWORK]
    assert finding.severity == DAMAGED


def test_a_record_that_is_too_large_is_not_parsed(store: SweepStore, monkeypatch: pytest.MonkeyPatch) -> None:
    require_same_behaviour(store, sweep(), print)
    monkeypatch.setattr("distsim.sweep.kept_behaviour.LARGEST", 100)
    with pytest.raises(DamagedStore, match="it has more than 100 bytes"):
        require_same_behaviour(store, sweep(), print)


def test_what_verify_says_of_the_folder(store: SweepStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "own", Metric("own", "channels", mean_rho))
    store.claim(sweep().identity)
    require_same_behaviour(store, sweep(metrics=("own",)), print)
    assert not [one for one in verify(store).findings if one.piece.startswith("behaviour")]
    store.storage.put("behaviour/notes.txt", b"mine")
    metric = "behaviour/metric-own.json"
    store.storage.put(metric, (store.storage.get(metric) or b"").replace(b"channels", b"channelz"))
    store.storage.delete([NETWORK])
    found = {one.piece: one.severity for one in verify(store).findings if one.piece.startswith("behaviour")}
    assert found == {"behaviour/notes.txt": FOREIGN, metric: DAMAGED, NETWORK: NOTE}


# --- a sweep from end to end -----------------------------------------------------------------------------------------

SCRIPT = """{source}

import dataclasses, sys
from distsim.cli.sweeps import main
from distsim.models import MODELS
from distsim.problems import PROBLEMS

MODELS["mine"] = Mine
PROBLEM = dataclasses.replace(PROBLEMS["digits"], name="mine", model="mine")
if __name__ == "__main__":
    sys.exit(main(PROBLEM))
"""
FLAGS = ("--local", "--device", "cpu", "--epochs", "1", "--train-limit", "60", "--probe", "30", "--no-chance")
FLAGS = (*FLAGS, "--metrics", "cka", "--runs", "1")


def started(folder: Path, source: str, *flags: object) -> Outcome:
    script = folder / "mine.py"
    script.write_text(SCRIPT.format(source=source))
    return run_script(script, *FLAGS, "--storage", folder / "store", *flags)


def test_a_sweep_goes_on_after_a_cosmetic_edit_and_not_after_a_real_one(tmp_path: Path) -> None:
    record = tmp_path / "store/mine" / NETWORK
    assert started(tmp_path, SOURCE, "--iterations", 1).status == 0
    first = record.read_bytes()
    cosmetic = edited(SOURCE, COSMETIC["class instead of Sequential"])
    done = started(tmp_path, cosmetic, "--iterations", 2)
    assert done.status == 0, done.err
    assert "behaves" not in done.out
    real = edited(SOURCE, (REAL["activation"][:2],))
    for flags in ((), ("--allow-drift",)):
        refused = started(tmp_path, real, "--iterations", 3, *flags)
        assert refused.status == 1
        assert refused.err.startswith(
            "distsim: mine: the network mine behaves differently from the one this store was begun with: first at "
            "layer 'relu1' (its projections are "
        )
        assert refused.err.endswith(". Undo the edit, or use another --storage\n")
        assert refused.err.count("\n") == 1
    assert not (tmp_path / "store/mine/runs/0000/iter_03").exists()
    assert record.read_bytes() == first
    store = str(tmp_path / "store")
    for command in (
        ["run", store, "--network", "run=0,iteration=1"],
        ["run", store, "--local"],
        ["pairs", store, "--local", "--plan", "iterations"],
    ):
        refused = outcome(lambda command=command: cli.main(command))
        assert refused.status == 1, command
        assert "the network mine behaves differently" in refused.err, command
    assert outcome(lambda: cli.main(["status", store])).status == 0
    assert outcome(lambda: cli.main(["verify", store])).status == 0


def test_a_store_of_before_gets_a_record_and_says_so(tmp_path: Path) -> None:
    record, store = tmp_path / "store/mine" / NETWORK, str(tmp_path / "store")
    assert started(tmp_path, SOURCE, "--iterations", 1).status == 0
    first, digests = record.read_bytes(), outcome(lambda: cli.main(["digest", store, "--pieces"]))
    record.unlink()
    assert outcome(lambda: cli.main(["digest", store, "--pieces"])) == digests
    done = started(tmp_path, SOURCE, "--iterations", 1)
    assert done.status == 0
    assert "mine: the store had no record of the behaviour of its network mine: now it has one\n" in done.out
    assert record.read_bytes() == first
    record.write_bytes(first[:-1])
    refused = started(tmp_path, SOURCE, "--iterations", 1)
    assert refused.status == 1
    assert "behaviour/network.json in" in refused.err
    verified = outcome(lambda: cli.main(["verify", store]))
    assert verified.status == 1
    assert "mine/behaviour/network.json: is damaged: " in verified.out
    repaired = outcome(lambda: cli.main(["repair", store]))
    assert "delete mine/behaviour/network.json" in repaired.out
    assert not record.exists()
    done = started(tmp_path, SOURCE, "--iterations", 1)
    assert (done.status, "now it has one" in done.out) == (0, True)
    assert record.read_bytes() == first
    assert outcome(lambda: cli.main(["digest", store, "--pieces"])) == digests
