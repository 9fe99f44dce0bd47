"""Two models, layer by layer: the public metrics on what the layers put out, whatever else happens in the models."""

import importlib
import itertools
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import distsim
from distsim import metrics, plotting
from distsim._version import __version__
from distsim.comparison import models, recording
from distsim.comparison.layer import InMemory, Reference
from distsim.comparison.models import compare
from distsim.comparison.pair import Result
from distsim.comparison.similarities import LeftOut, Similarities
from distsim.environment import threads
from distsim.metrics.jackknife import kept, split, standard_error
from distsim.metrics.registry import METRICS, Metric, register
from distsim.seeds import numpy_stream

CHANNELS = ("mean_cca", "svcca", "pwcca", "nbs_channels")
KERNELS = ("cka", "nbs", "cka_unbiased", "procrustes")
PUBLIC: dict[str, Any] = {name: getattr(metrics, name) for name in (*CHANNELS, *KERNELS, "cosine")} | {
    "pwcca": lambda X, Y: metrics.pwcca(X, Y, side="first")
}
N = 67

# Few inputs are enough to test what is computed. What is said of so few has tests of its own.
pytestmark = pytest.mark.filterwarnings("ignore::distsim.metrics.UnreliableSimilarity")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """And the same weights for every test."""
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Block(nn.Module):
    """As in ResNets: one in-place ReLU used twice, and a sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(x + self.norm2(self.conv2(y)))


def resnet(width: int = 6, size: int = 2) -> nn.Sequential:
    layers = nn.Sequential()
    layers.add_module("stem", nn.Conv2d(3, width, 3, padding=1, stride=size))
    layers.add_module("block", Block(width))
    layers.add_module("pool", nn.MaxPool2d(2))
    layers.add_module("flat", nn.Flatten())
    layers.add_module("out", nn.LazyLinear(5))
    layers(torch.zeros(2, 3, 12, 12))
    return layers


def mlp(*widths: int, inputs: int = 20) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, width in zip((inputs, *widths), widths, strict=False):
        layers += [nn.Linear(before, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def images(n: int = N, size: int = 12) -> torch.Tensor:
    return torch.randn(n, 3, size, size)


def by_hand(model: nn.Module, x: torch.Tensor, *names: str) -> dict[str, Any]:
    """What the layers put out, all at once."""
    kept: dict[str, Any] = {}
    modules = dict(model.named_modules())
    training = model.training
    hooks = [
        modules[name].register_forward_hook(lambda m, i, o, name=name: kept.update({name: o.detach().clone()}))
        for name in names
    ]
    model.eval()
    model(x.clone())
    model.train(training)
    for hook in hooks:
        hook.remove()
    return {name: kept[name].double().numpy() for name in names}


def pooled(X: Any, h: int, w: int) -> Any:
    return F.adaptive_avg_pool2d(torch.from_numpy(X), (h, w)).numpy()


# --- values ----------------------------------------------------------------------------------------------------------


def test_values_are_those_of_the_public_metrics() -> None:
    """Equal sizes, kernels held as features (180 of 200 examples) and as Gram matrices (216)."""
    a, b, x = resnet(6), resnet(5), images(200)
    names = ["stem", "block.conv1", "block"]
    found = compare(a, b, x, layers=names, metrics=(*CHANNELS, *KERNELS, "cosine"), batch_size=64)
    ours, theirs = by_hand(a, x, *names), by_hand(b, x, *names)
    for metric in (*CHANNELS, *KERNELS):
        for i in names:
            for j in names:
                value = found.matrix(metric).loc[i, j]
                np.testing.assert_allclose(value, PUBLIC[metric](ours[i], theirs[j]), rtol=0, atol=1e-9, err_msg=metric)
    assert np.isnan(found.matrix("cosine").to_numpy()).all(), "6 channels against 5"
    with pytest.raises(ValueError, match=r"^several metrics were computed: choose one, as in matrix\('mean_cca'\)$"):
        found.matrix()


def test_other_sizes_are_pooled_for_metrics_over_channels_only() -> None:
    a, b, x = resnet(size=1), resnet(size=2), images()
    found = compare(a, b, x, layers=(["stem", "out"], ["block", "pool", "out"]), metrics=("mean_cca", "svcca", "cka"))
    ours, theirs = by_hand(a, x, "stem", "out"), by_hand(b, x, "block", "pool", "out")
    sizes = {("stem", "block"): 6, ("stem", "pool"): 3, ("stem", "out"): 1, ("out", "block"): 1, ("out", "pool"): 1}
    for (i, j), size in sizes.items():
        X, Y = (pooled(A, size, size) if A.ndim == 4 else A[..., None, None] for A in (ours[i], theirs[j]))
        for metric in ("mean_cca", "svcca"):
            np.testing.assert_allclose(found.matrix(metric).loc[i, j], PUBLIC[metric](X, Y), rtol=0, atol=1e-9)
        kernel = metrics.cka(ours[i], theirs[j])
        np.testing.assert_allclose(found.matrix("cka").loc[i, j], kernel, rtol=0, atol=1e-9)


def test_sizes_that_do_not_divide_and_panels_of_any_height(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, x = nn.Conv2d(3, 4, 2), nn.Conv2d(3, 5, (3, 8)), images(40)  # 11 x 11 against 10 x 5
    pair = nn.Sequential(a), nn.Sequential(b)
    whole = compare(*pair, x, metrics="mean_cca").matrix().iloc[0, 0]
    X, Y = (by_hand(model, x, "0")["0"] for model in pair)
    np.testing.assert_allclose(whole, metrics.mean_cca(pooled(X, 10, 5), pooled(Y, 10, 5)), rtol=0, atol=1e-12)
    for module in (models, recording):
        monkeypatch.setattr(module, "PANEL_BYTES", 8 * 40 * 9 * 5 * 3)  # three rows; a few examples are pooled
    np.testing.assert_allclose(compare(*pair, x, metrics="mean_cca").matrix().iloc[0, 0], whole, rtol=0, atol=1e-12)


def test_cross_products_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, x = resnet(), resnet(), images()
    whole = compare(a, b, x, metrics=CHANNELS)
    monkeypatch.setattr(models, "CROSS_BYTES", 400)
    np.testing.assert_allclose(
        [row["value"] for row in compare(a, b, x, metrics=CHANNELS).rows],
        [row["value"] for row in whole.rows],
        rtol=0,
        atol=1e-12,
    )


def test_a_model_with_itself() -> None:
    model, x = resnet(), images()
    names = ["stem", "block.conv2", "block", "out"]
    found = compare(model, model, x, layers=names, metrics=("mean_cca", "cka", "nbs", "cosine"))
    for metric in found.metrics:
        matrix = found.matrix(metric).to_numpy()
        np.testing.assert_allclose(np.diag(matrix), 1, rtol=0, atol=1e-7)
        np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-9)
    crossed = compare(model, model, x, layers=(names[:2], names[1:]), metrics="cka").matrix()
    np.testing.assert_allclose(crossed, found.matrix("cka").loc[names[:2], names[1:]], rtol=0, atol=1e-12)


def test_only_one_forward_pass_of_a_model_with_itself() -> None:
    model, sizes = mlp(7), []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    compare(model, model, torch.randn(10, 20), batch_size=5)
    assert sizes == [2, 5, 2, 2, 5]  # two inputs at each end of the first batch run by themselves too


def test_two_models_that_share_modules() -> None:
    body = nn.Sequential(nn.Linear(20, 8), nn.ReLU(inplace=True))
    a, b, x = nn.Sequential(body, nn.Linear(8, 3)), nn.Sequential(body, nn.Linear(8, 4)), torch.randn(30, 20)
    matrix = compare(a, b, x, metrics="cka").matrix()
    np.testing.assert_allclose(matrix.loc["0.0", "0.0"], 1, rtol=0, atol=1e-12)
    expected = metrics.cka(by_hand(a, x, "1")["1"], by_hand(b, x, "1")["1"])
    np.testing.assert_allclose(matrix.loc["1", "1"], expected, rtol=0, atol=1e-9)


def test_float32_products_that_are_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gram matrices from float32 products, singular ones among them, are made again from float64 products."""
    monkeypatch.setattr("distsim.comparison.sides.NARROW", 0.0)
    model, x = resnet(), images(40)
    x[20:] = x[:20]
    found = compare(model, model, x, layers=["stem", "block"], metrics=("nbs", "cka")).matrix("nbs")
    hand = by_hand(model, x, "stem", "block")
    for i in hand:
        for j in hand:
            np.testing.assert_allclose(found.loc[i, j], metrics.nbs(hand[i], hand[j]), rtol=0, atol=1e-6)


def test_fast_is_near() -> None:
    a, b, x = resnet(), resnet(), images()
    exact, fast = (compare(a, b, x, metrics=("nbs", "cka"), precision=p) for p in ("exact", "fast"))
    np.testing.assert_allclose(fast.matrix("nbs"), exact.matrix("nbs"), rtol=0, atol=5e-4)


def test_cosine_where_shapes_are_equal() -> None:
    a, b, x = mlp(8, 4), mlp(8, 4), torch.randn(30, 20)
    found = compare(a, b, x, metrics="cosine")
    hand = by_hand(a, x, "1")["1"], by_hand(b, x, "1")["1"]
    np.testing.assert_allclose(found.matrix().loc["1", "1"], metrics.cosine(*hand), rtol=0, atol=1e-9)
    row = found.table.iloc[1]
    assert (row["layer_x"], row["layer_y"], row["reason"]) == ("1", "3", "unequal shapes: (8,) and (4,)")
    assert np.isnan(row["value"])


def test_sequences() -> None:
    """Tokens are positions of (n, t, d); a Conv1d puts out (n, c, t); (n, p) is compared with the mean over tokens."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.linear, self.out = nn.Conv1d(3, 6, 3), nn.LayerNorm(6), nn.Linear(6, 4), mlp(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.linear(self.norm(self.conv(x).transpose(1, 2)))
            return self.out(F.pad(x.mean(1), (0, 16)))

    a, b, x = Tokens(), Tokens(), torch.randn(50, 3, 9)
    found = compare(a, b, x, layers=["conv", "norm", "linear", "out.1"], metrics=("mean_cca", "cka"))
    ours, theirs = (by_hand(model, x, "conv", "norm", "linear", "out.1") for model in (a, b))
    rows = [A["conv"].transpose(0, 2, 1).reshape(-1, 6) for A in (ours, theirs)]
    cca = found.matrix("mean_cca")
    np.testing.assert_allclose(cca.loc["conv", "conv"], metrics.mean_cca(*rows), rtol=0, atol=1e-9)
    tokens = ours["norm"].reshape(-1, 6), theirs["linear"].reshape(-1, 4)
    np.testing.assert_allclose(cca.loc["norm", "linear"], metrics.mean_cca(*tokens), rtol=0, atol=1e-9)
    means = metrics.mean_cca(ours["linear"].mean(1), theirs["out.1"])
    np.testing.assert_allclose(cca.loc["linear", "out.1"], means, rtol=0, atol=1e-9)
    flat = ours["norm"].reshape(50, -1), theirs["linear"].reshape(50, -1)
    np.testing.assert_allclose(found.matrix("cka").loc["norm", "linear"], metrics.cka(*flat), rtol=0, atol=1e-9)


def test_channels_that_are_not_where_they_usually_are() -> None:
    class Last(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 2, 3, 1)

    a, b, x = nn.Sequential(nn.Conv2d(3, 4, 3), Last()), nn.Sequential(nn.Conv2d(3, 5, 3)), images()
    expected = compare(a, b, x, layers=(["0"], ["0"]), metrics="mean_cca").matrix().iloc[0, 0]
    found = compare(a, b, x, layers=(["1"], ["0"]), metrics="mean_cca", channels={"1": -1}).matrix().iloc[0, 0]
    assert found == expected
    with pytest.raises(ValueError, match=r"channels names \['2'\]"):
        compare(a, b, x, channels={"2": -1})
    with pytest.raises(ValueError, match="cannot be dimension 4"):
        compare(a, b, x, channels={"0": 4})


# --- which layers ----------------------------------------------------------------------------------------------------


def test_the_default_is_convolutions_and_linear_layers_as_they_run() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first, self.unused = nn.Linear(8, 3), nn.Linear(20, 8), nn.Linear(2, 2)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)[:, None]
            return self.second((x + self.attention(x, x, x)[0])[:, 0])

    model, other = Backwards(), resnet()
    with pytest.warns(LeftOut) as caught:
        found = compare(model, model, torch.randn(12, 20))
    said = str(caught[0].message)
    assert said.startswith("model_a: layers are left out ('attention': MultiheadAttention is not compared unless")
    assert "'unused': it does not run as a module" in said
    assert set(found.left_out["model_a"]) == {"attention", "attention.out_proj", "unused"}
    assert found.layers_x == found.layers_y == ("first", "second")
    assert compare(other, other, images()).layers_x == ("stem", "block.conv1", "block.conv2", "out")
    of_one = compare(other, other, images(), layers=(["block"], None))
    assert (of_one.layers_x, len(of_one.layers_y)) == (("block",), 4)


def test_a_layer_without_a_row_for_each_input_is_none_of_the_default() -> None:
    model = nn.Sequential(nn.Unflatten(1, (2, 10)), nn.Flatten(0, 1), nn.Linear(10, 3), nn.Unflatten(0, (-1, 2)))
    model.extend([nn.Flatten(), nn.Linear(6, 4)])
    x = torch.randn(12, 20)
    with pytest.warns(LeftOut, match=r"left out \('2': returns \(24, 3\) for 12 inputs"):
        assert compare(model, model, x).layers_x == ("5",)
    with pytest.raises(ValueError, match=r"model_a: layer '2' returns \(24, 3\) for 12 inputs"):
        compare(model, model, x, layers=["2"])


def test_of_a_layer_that_runs_twice_the_last_output_counts() -> None:
    model, x = resnet(), images()
    matrix = compare(model, model, x, layers=["block", "block.relu"]).matrix()
    np.testing.assert_allclose(matrix, 1, rtol=0, atol=1e-12)


def test_of_a_tuple_the_first_tensor_counts() -> None:
    model = nn.Sequential(nn.Linear(20, 6), nn.GRU(6, 4, batch_first=True))
    found = compare(model, model, torch.randn(30, 5, 20), layers=["0", "1"], metrics="mean_cca")
    assert found.table["columns_y"].tolist() == [6, 4, 6, 4]
    assert set(found.table["n"]) == {30 * 5}


def test_in_place_operations_do_not_reach_what_is_kept() -> None:
    a, x = mlp(8, 6), torch.randn(40, 20)
    b = nn.Sequential(*(nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in a))
    names = ["0", "1", "2", "3", "4"]
    np.testing.assert_allclose(np.diag(compare(a, b, x, layers=names).matrix()), 1, rtol=0, atol=1e-12)


def test_the_inputs_are_left_as_they_are() -> None:
    a, b, x = (
        nn.Sequential(nn.ReLU(inplace=True), nn.Linear(20, 4)),
        nn.Sequential(nn.Linear(20, 4)),
        torch.randn(9, 20),
    )
    before = x.clone()
    matrix = compare(a, b, x).matrix()
    assert torch.equal(x, before)
    hand = by_hand(a, x, "1")["1"], by_hand(b, x, "0")["0"]
    np.testing.assert_allclose(matrix.iloc[0, 0], metrics.cka(*hand), rtol=0, atol=1e-9)


# --- data ------------------------------------------------------------------------------------------------------------


class Stream(IterableDataset[Any]):
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.x)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_any_form_of_the_data_and_a_short_last_batch(last: int) -> None:
    a, b, x = resnet(), resnet(), images(32 + last)
    labels = torch.arange(len(x))
    forms = {
        "tensor": x,
        "list of batches": list(x.split(16)),
        "generator of pairs": ((part, 0) for part in x.split(16)),
        "loader": DataLoader(TensorDataset(x, labels), batch_size=16),
        "loader of a stream": DataLoader(Stream(x), batch_size=16),
    }
    names = ["stem", "block.norm2", "out"]
    expected = metrics.cka(by_hand(a, x, "block.norm2")["block.norm2"], by_hand(b, x, "out")["out"])
    for form, data in forms.items():
        found = compare(a, b, data, layers=names, metrics=("cka", "mean_cca"), batch_size=16)
        np.testing.assert_allclose(found.matrix("cka").loc["block.norm2", "out"], expected, rtol=0, atol=1e-6)
        assert set(found.table.query("metric == 'cka'")["n"]) == {32 + last}, form


def test_batches_that_are_none() -> None:
    model, x = mlp(4), torch.randn(8, 20)
    for wrong in (["text"], [[]], [torch.tensor(1.0)], [("text", x)], [np.array(["text"])]):
        with pytest.raises(TypeError, match="a batch must be a tensor or an array, a tuple or list that begins with"):
            compare(model, model, wrong)
    for wrong in (3, "digits"):
        with pytest.raises(TypeError, match=rf"data must be a tensor.*got {type(wrong).__name__}"):
            compare(model, model, wrong)
    for empty in ([], x[:0], [x[:0]]):
        with pytest.raises(ValueError, match="data is empty"):
            compare(model, model, empty)
    with pytest.raises(ValueError, match="batch_size"):
        compare(model, model, x, batch_size=0)


def test_more_than_the_memory_is_refused_after_the_first_batch() -> None:
    """A terabyte of pretended examples."""
    model, calls = mlp(1000), []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    with pytest.raises(MemoryError, match=r"for 1000000000 examples need \d+\.\d GiB, and .* GiB are free"):
        compare(model, model, torch.zeros(1, 20).expand(10**9, 20), batch_size=2)
    assert calls == [2, 2, 1, 1]  # the first batch, and parts of it


# --- the models afterwards -------------------------------------------------------------------------------------------


def state(model: nn.Module) -> list[Any]:
    modules = list(model.modules())
    return [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in modules]


class Fails(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no forward")


def test_models_are_left_as_they_were() -> None:
    a, b, x = resnet(), resnet(), images()
    a.train()
    a.block.norm1.eval()  # frozen
    b.eval()
    weights = {name: value.clone() for name, value in a.state_dict().items()}
    before = state(a), state(b)
    compare(a, b, x)
    assert (state(a), state(b)) == before
    assert all(torch.equal(value, weights[name]) for name, value in a.state_dict().items()), "running statistics too"
    assert all(parameter.grad is None and parameter.requires_grad for parameter in a.parameters())
    assert torch.is_grad_enabled()


def test_models_are_left_as_they_were_after_an_error() -> None:
    a, b, x = resnet(), nn.Sequential(nn.Linear(12, 3), Fails()), images()
    a.block.norm1.eval()
    before = state(a), state(b)
    with pytest.raises(RuntimeError, match="no forward"):
        compare(a, b, x)
    assert (state(a), state(b)) == before
    assert torch.is_grad_enabled()


# --- undefined, wrong ------------------------------------------------------------------------------------------------


def test_undefined_values_have_a_reason_and_no_warning() -> None:
    a, b, x = mlp(6, 4), mlp(6, 4), torch.randn(40, 20)
    with torch.no_grad():
        a[1].weight[:], a[1].bias[:] = 0, 0.3
        b[1].weight[0], b[1].bias[0] = 0, 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = compare(a, b, x, metrics=("mean_cca", "cka")).table
    of_dead = table[table["layer_x"] == "1"]
    assert of_dead["value"].isna().all()
    reasons = set(zip(of_dead["metric"], of_dead["reason"], strict=True))
    assert reasons == {
        ("mean_cca", "every channel is constant"),
        ("cka", "every activation is the same for all examples"),
    }
    assert set(of_dead["dead_x"]) == {6}
    assert set(table[table["layer_y"] == "1"]["dead_y"]) == {1}
    first = table.iloc[0]
    assert (first["metric"], first["rank_x"], first["rank_y"]) == ("mean_cca", 0, 5)
    assert table[table["metric"] == "cka"]["rank_x"].isna().all()


def test_constant_channels_stay_constant_when_pooled() -> None:
    a, b, x = nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Conv2d(3, 4, 6)), images()
    with torch.no_grad():
        a[0].weight[1], a[0].bias[1] = 0, 0.1
    table = compare(a, b, x, metrics="mean_cca").table  # 10 x 10 pooled to 7 x 7, windows of 4, 6 or 9
    assert (table.loc[0, "rank_x"], table.loc[0, "rank_y"], table.loc[0, "dead_x"]) == (3, 4, 1)


@pytest.mark.parametrize("side", ["model_a", "model_b"])
def test_activations_that_are_not_finite_name_model_and_layer(side: str) -> None:
    models = {"model_a": mlp(6, 4), "model_b": mlp(6, 4)}
    with torch.no_grad():
        models[side][3].bias[0] = float("inf")
    with pytest.raises(FloatingPointError, match=rf"{side}: layer 3 has activations that are not finite"):
        compare(models["model_a"], models["model_b"], torch.randn(9, 20))


def test_wrong_arguments() -> None:
    model, x = resnet(), images(9)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4))

    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return {"x": "y"}

    odd = nn.Sequential(nn.Linear(12, 4), Odd())
    five = nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Flatten(0))
    for expected, match, call in (
        (ValueError, r"model_b has no layer 'stem'; near: ", lambda: compare(model, linear, x, layers=["stem"])),
        (
            ValueError,
            r"no layer 'block.conv3'; near: 'block.conv2'",
            lambda: compare(model, model, x, layers=["block.conv3"]),
        ),
        (ValueError, "each once", lambda: compare(model, model, x, layers=["out", "out"])),
        (ValueError, "at least one", lambda: compare(model, model, x, layers=[])),
        (TypeError, "layers must be names, patterns or module types", lambda: compare(model, model, x, layers=3)),
        (TypeError, "layers must be names, patterns", lambda: compare(model, model, x, layers=[model[0]])),
        (TypeError, "layers must be names, patterns", lambda: compare(model, model, x, layers=[torch.Tensor])),
        (ValueError, r"unknown metrics \['ccka'\]", lambda: compare(model, model, x, metrics="ccka")),
        (ValueError, "metrics is empty", lambda: compare(model, model, x, metrics=())),
        (ValueError, "precision must be one of", lambda: compare(model, model, x, precision="low")),
        (TypeError, "model_b must be a torch.nn.Module, .* got function", lambda: compare(model, lambda x: x, x)),
        (TypeError, "layer '1' returns str", lambda: compare(odd, odd, x, layers=["1"])),
        (
            TypeError,
            "returns torch.int64",
            lambda: compare(nn.Sequential(nn.Identity()), model, x.long(), layers=(["0"], None)),
        ),
        (ValueError, r"'0' returns \(9, 3, 1, 12, 12\)", lambda: compare(five, model, x, layers=(["0"], None))),
        (ValueError, r"'1' returns \(3888,\) for 9 inputs", lambda: compare(five, model, x, layers=(["1"], None))),
        (
            ValueError,
            "model_a has no convolution or linear layer that can be compared",
            lambda: compare(nn.ReLU(), model, x),
        ),
    ):
        with pytest.raises(expected, match=match):
            call()


def test_a_named_layer_that_does_not_run() -> None:
    model = nn.Sequential(nn.Linear(20, 4))
    model.unused = nn.Linear(2, 2)
    model.forward = lambda x: model[0](x)
    with pytest.raises(ValueError, match="model_a: layer 'unused' does not run in the forward pass"):
        compare(model, model, torch.randn(9, 20), layers=["0", "unused"])


def test_outputs_that_change_their_size() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match=r"layer '0' returns \(10, 10, 4\), then \(6, 6, 4\)"):
        compare(model, model, [images(4, 12), images(4, 8)])


# --- the result ------------------------------------------------------------------------------------------------------


def test_the_table() -> None:
    a, b, x = resnet(), mlp(9, inputs=3 * 12 * 12), images()
    found = compare(a, b, x, layers=(["stem", "out"], ["1"]), metrics=("mean_cca", "cka"))
    assert found.table.columns.tolist() == [
        *("layer_x", "layer_y", "metric"),
        *Result.__annotations__,
        *("z", "calibrated", "se"),
    ]
    keys = [tuple(row) for row in found.table[["layer_x", "layer_y", "metric"]].to_numpy()]
    assert keys == [
        ("stem", "1", "mean_cca"),
        ("stem", "1", "cka"),
        ("out", "1", "mean_cca"),
        ("out", "1", "cka"),
    ]
    assert found.table["n"].tolist() == [N] * 4
    assert found.table["columns_x"].tolist() == [6, 6 * 6 * 6, 5, 5]
    matrix = found.matrix("cka")
    assert (matrix.index.tolist(), matrix.columns.tolist()) == (["stem", "out"], ["1"])
    assert (matrix.index.name, matrix.columns.name) == ("layer_x", "layer_y")
    with pytest.raises(ValueError, match=r"metric must be one of \('mean_cca', 'cka'\), got 'nbs'"):
        found.matrix("nbs")
    assert "rows" not in repr(found)
    assert found.table["n_per_p"].tolist() == [N / 9, N / 216, N / 9, N / 9]
    assert found.table["warning"].tolist() == ["", "0.28 by chance, with 67 rows", "", ""]


def test_the_old_names_of_the_layers_are_read_with_a_warning() -> None:
    found = compare(mlp(6), mlp(5, 4), torch.randn(12, 20))
    for old, new in (("layers_a", ("1",)), ("layers_b", ("1", "3"))):
        with pytest.warns(DeprecationWarning, match=f"{old} is now called {old[:-1]}{'xy'['ab'.index(old[-1])]}"):
            assert getattr(found, old) == new


def test_a_layer_against_its_like_is_what_a_sweep_finds() -> None:
    """To the bit, and with the same record: one engine."""
    a, b, x = mlp(9, 6), mlp(7, 6), torch.randn(40, 20)
    ours, theirs = (by_hand(model, x, "3")["3"].astype(np.float32) for model in (a, b))
    names = (*CHANNELS, *KERNELS, "cosine")
    swept = Reference(InMemory(ours, kind="out"), names).compare(InMemory(theirs, kind="out"))
    found = compare(a, b, x, layers=["3"], metrics=names)
    assert {row["metric"]: {name: row[name] for name in Result.__annotations__} for row in found.rows} == swept


def test_a_value_does_not_depend_on_what_else_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where NBS takes float64 products, CKA goes on without."""
    monkeypatch.setattr("distsim.comparison.sides.NARROW", 0.0)
    model, x = resnet(), images(40)
    x[20:] = x[:20]
    names = ["stem", "block"]
    both, alone = (compare(model, model, x, layers=names, metrics=metrics) for metrics in (("nbs", "cka"), "cka"))
    np.testing.assert_array_equal(both.matrix("cka"), alone.matrix("cka"))


def test_channels_behind_a_dead_layer_are_dead_whatever_the_last_bits() -> None:
    A = np.full((20, 3, 3, 4), 0.7, np.float32)
    A[::3] = np.nextafter(A[::3], np.float32(1))
    A[..., 3] += np.float32(1e-4) * np.arange(20, dtype=np.float32)[:, None, None]
    assert recording.LayerOutput("layer", A, 2, (3, 3)).dead == 3


@pytest.fixture
def own_metric() -> Iterator[str]:
    register(Metric("widths", "channels", lambda pair: pair.x.columns - pair.y.columns / 100, "difference of widths"))
    yield "widths"
    del METRICS["widths"]


def test_a_metric_of_ones_own(own_metric: str) -> None:
    found = compare(mlp(6, 4), mlp(3), torch.randn(9, 20), metrics=[own_metric])
    np.testing.assert_allclose(found.matrix(), [[5.97], [3.97]])
    assert "difference of widths" in {axes.get_ylabel() for axes in found.heatmap().figure.axes}


def texts(panel: Any) -> list[str]:
    return [text.get_text() for text in panel.texts]


def test_the_heat_map_names_every_layer() -> None:
    found = compare(resnet(), mlp(9, 8, inputs=3 * 12 * 12), images(), metrics=("cka", "mean_cca"))
    panels = [axes for axes in found.heatmap().axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == 2
    for panel in panels:
        assert [label.get_text() for label in panel.get_yticklabels()] == list(found.layers_x)
        assert [label.get_text() for label in panel.get_xticklabels()] == list(found.layers_y)
    written = [text.rstrip("*") for text in texts(panels[0])]  # a star: with a warning
    assert written == [f"{value:.2f}" for value in found.matrix("cka").to_numpy().ravel()]
    (panel, bar) = found.heatmap("mean_cca").axes
    assert bar.get_ylabel() == "mean CCA"
    assert panel.images[0].get_clim() == (0, 1)
    assert panel.get_ylim()[0] < panel.get_ylim()[1], "first layers below"
    assert plotting.render(found.heatmap("cka"), "png") == plotting.render(found.heatmap("cka"), "png")
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("Sequential (y)", "Sequential (x)")


@pytest.mark.parametrize("metric", ["cka", "procrustes"])
def test_similar_layers_are_dark_in_a_heat_map_of_distances_too(metric: str) -> None:
    x = mlp(6, 4)
    panel, bar = compare(x, x, torch.randn(9, 20), metrics=[metric]).heatmap().axes
    (image,) = panel.images
    shades = image.cmap(image.norm(image.get_array()))[..., :3].sum(-1)  # 3 is white
    assert shades[0, 0] < shades[0, 1], "a layer and itself"
    colours = [text.get_color() for text in panel.texts]
    assert (colours[0], bar.get_ylabel()) == (
        "white",
        {"cka": "CKA", "procrustes": "angular Procrustes, 0 for equal layers"}[metric],
    )


def test_the_heat_map_has_the_models_names() -> None:
    x, y = mlp(6, 4), mlp(6, 4)
    named = compare({"dense": x, "pruned": y}, torch.randn(9, 20)).heatmap().axes[0]
    assert (named.get_xlabel(), named.get_ylabel()) == ("pruned", "dense")
    itself = compare(x, x, torch.randn(9, 20))
    assert (itself.model_x, itself.model_y) == ("Sequential", "Sequential")
    unlike = compare(x, torch.randn(9, 3), torch.randn(9, 20))
    assert (unlike.model_x, unlike.model_y) == ("model x", "model y")


def heat_map(values: Any) -> Any:
    names_a, names_b = (tuple(f"features.{i}.block" for i in range(count)) for count in np.shape(values))
    rows = [{"metric": "procrustes", "value": value} for value in np.ravel(values)]
    return Similarities(names_a, names_b, ("procrustes",), tuple(rows)).heatmap().axes[0]


def test_heat_maps_of_many_layers_and_of_values_that_are_missing_or_unusual() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, (20, 20))
    values[3, 4] = np.nan
    panel = heat_map(values)
    assert texts(panel) == ["×"]
    assert panel.texts[0].get_position() == (4, 3)
    for labels in (panel.get_xticklabels(), panel.get_yticklabels()):
        assert len(labels) == 20
        boxes = [label.get_window_extent() for label in labels]
        assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))
    for label in panel.get_yticklabels():
        assert label.get_window_extent().x0 >= 0
    for label in panel.get_xticklabels():
        assert label.get_window_extent().y0 >= 0
    assert heat_map([[-0.25, 1.5]]).images[0].get_clim() == (-0.25, 1.5)
    assert texts(heat_map([[np.nan]])) == ["×"]


# --- larger models, and without the edges ----------------------------------------------------------------------------


def test_two_models_of_torchvision() -> None:
    a, b = torchvision.models.resnet18(num_classes=10), torchvision.models.vgg11_bn(num_classes=10)
    x = torch.randn(5, 3, 32, 32)
    names = ["conv1", "layer1", "layer3.0.relu", "fc"], ["features.0", "features.9", "classifier.6"]
    found = compare(a, b, DataLoader(TensorDataset(x), batch_size=4), layers=names, metrics=("cka", "svcca"))
    assert found.matrix("cka").shape == found.matrix("svcca").shape == (4, 3)
    ours, theirs = by_hand(a, x, *names[0]), by_hand(b, x, *names[1])
    for i in names[0]:
        for j in names[1]:
            value = found.matrix("cka").loc[i, j]
            np.testing.assert_allclose(value, metrics.cka(ours[i], theirs[j]), rtol=0, atol=1e-5)


def test_a_transformer() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2, enable_nested_tensor=False)
    with pytest.warns(LeftOut, match=r"'layers.0.self_attn': MultiheadAttention"):
        found = compare(model, model, torch.randn(20, 5, 8), metrics=("cka", "mean_cca"))
    assert found.layers_x == ("layers.0.linear1", "layers.0.linear2", "layers.1.linear1", "layers.1.linear2")
    assert set(found.table.query("metric == 'mean_cca'")["n"]) == {100}


def test_distsim_compare_is_the_function_and_importing_distsim_needs_nothing() -> None:
    assert distsim.compare is compare
    assert importlib.import_module("distsim").__version__ == __version__
    with pytest.raises(AttributeError, match="module 'distsim' has no attribute 'comparing'"):
        distsim.comparing  # noqa: B018
    code = "import distsim, sys; print(distsim.__version__, 'torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{__version__} False False\n"


def test_the_computing_part_imports_no_edges() -> None:
    code = """
import sys
for name in ("ray", "zarr", "pyarrow", "pandas", "obstore", "matplotlib"):
    sys.modules[name] = None
import torch
torch.set_num_threads(1)
import distsim
from distsim._version import __version__
model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
found = distsim.compare(model, model, torch.randn(20, 5), metrics=("cka", "mean_cca"))
print(len(found.rows), round(found.rows[0]["value"], 6))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "8 1.0\n"


# --- values that say little ------------------------------------------------------------------------------------------


def dense(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 4))


@pytest.mark.parametrize("width", [2, 7])  # few layers, whose values are written, and many
def test_values_with_a_warning_have_a_star_in_the_heat_map(width: int) -> None:
    a, b = (nn.Sequential(*[nn.Linear(30, 30) for _ in range(2 * width)]) for _ in range(2))
    found = compare(a, b, torch.randn(20, 30), metrics=("mean_cca", "cosine"))  # cosine has no such check
    figure = found.heatmap()
    of_cca, of_cosine = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(of_cca.texts) == (2 * width) ** 2
    assert all(text.get_text().endswith("*") for text in of_cca.texts)
    assert not any("*" in text.get_text() for text in of_cosine.texts)
    assert figure._supxlabel.get_text() == "* to be read with care: column warning"
    assert found.heatmap("cosine")._supxlabel is None


@pytest.mark.filterwarnings("default::distsim.metrics.UnreliableSimilarity")
def test_one_warning_says_which_values_say_little() -> None:
    images = torch.randn(40, 1, 8, 8)
    with pytest.warns(metrics.UnreliableSimilarity) as caught:
        found = compare(dense(1), dense(2), images, layers=["3", "5"], metrics=("mean_cca", "cka"))
    (warning,) = caught
    assert warning.filename == __file__
    rows = found.table.set_index(["layer_x", "layer_y", "metric"])
    assert (
        rows.loc[("3", "3", "mean_cca"), "warning"] == "39 of 39 correlations are 1 by force: ranks 39 and 39, 40 rows"
    )
    assert rows.loc[("3", "3", "mean_cca"), "value"] == pytest.approx(1, abs=1e-9)
    assert rows.loc[("3", "3", "cka"), "warning"].endswith("by chance, with 40 rows")
    assert rows.loc[("5", "5", "mean_cca"), "warning"] == ""
    assert str(warning.message).startswith(f"{int(found.table['warning'].astype(bool).sum())} of 8 similarities")


def test_enough_inputs_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(dense(1), dense(2), torch.randn(400, 1, 8, 8), layers=["5"], metrics=("mean_cca", "svcca", "cka"))


# --- models that are not what they seem ------------------------------------------------------------------------------


def test_a_compiled_model_that_has_run_is_compared_as_it_was_before() -> None:
    plain, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)), torch.randn(30, 1, 8, 8)
    expected = compare(plain, plain, x).matrix()
    compiled = torch.compile(plain, backend="eager").eval()
    with torch.no_grad():
        compiled(x)  # keeps a graph that calls no hooks
    np.testing.assert_array_equal(compare(compiled, compiled, x).matrix(), expected)
    named = compare(compiled, plain, x, layers=(["_orig_mod.0", "_orig_mod.3"], ["0", "3"]))
    np.testing.assert_array_equal(named.matrix(), expected)


class Video(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.direct, self.head = nn.Conv3d(1, 2, 3), nn.Linear(2 * 4**3, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.direct.forward(self.body(x).flatten(1)))  # no hook sees `direct`


def test_layers_that_are_left_out_are_named() -> None:
    x = torch.randn(20, 1, 6, 6, 6)
    with pytest.warns(LeftOut) as caught:
        found = compare(Video(), Video(), x)
    assert [str(warning.message).partition(":")[0] for warning in caught] == ["model_a", "model_b"]
    assert found.left_out["model_a"] == {
        "body": "Conv3d is not compared unless it is named in layers=[...]",
        "direct": "it does not run as a module in the forward pass",
    }


class Mixing(nn.Module):
    """Something between two layers."""

    def __init__(self, between: Any) -> None:
        super().__init__()
        self.first, self.between, self.second = nn.Linear(20, 8), between, nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.between(self.first(x)))


class Attention(nn.Module):
    """Takes the examples of a batch for the steps of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


class Functional(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x)


@pytest.mark.parametrize("between", [Functional(), nn.BatchNorm1d(8, track_running_stats=False), Attention()])
@pytest.mark.parametrize("n", [3, 30])
def test_values_that_depend_on_the_batch_are_refused_by_name(between: nn.Module, n: int) -> None:
    model, x = Mixing(between), torch.randn(n, 20)
    with pytest.raises(ValueError, match="model_a: layer 'second' returns other values for the same inputs"):
        compare(model, model, x, layers=["first", "second"])
    compare(model, model, x, layers=["first"])


class Causal(nn.Module):
    """Mixes each example with those before it only."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.lstm, self.attention = how, nn.LSTM(8, 8), nn.MultiheadAttention(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "sum":
            return x.cumsum(0)
        if self.how == "recurrence":
            return self.lstm(x)[0]
        if self.how == "largest":  # which is an early one
            return x / x.abs().amax()
        mask = nn.Transformer.generate_square_subsequent_mask(len(x))
        return x + self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


@pytest.mark.parametrize("how", ["sum", "recurrence", "attention", "largest"])
@pytest.mark.parametrize("n", [2, 3, 30])
def test_values_that_depend_on_earlier_examples_only_are_refused_by_name(how: str, n: int) -> None:
    x = torch.randn(n, 20)
    x[0] *= 10
    model = Mixing(Causal(how))
    with pytest.raises(ValueError, match="model_a: layer 'second' returns other values for the same inputs"):
        compare(model, model, x, layers=["first", "second"])
    compare(model, model, x, layers=["first"])


@pytest.mark.parametrize("sizes", [(1, 29), (1, 1, 28), (1,) * 30])
def test_batches_of_one_input_are_checked_too(sizes: tuple[int, ...]) -> None:
    model, data = Mixing(nn.BatchNorm1d(8, track_running_stats=False)), list(torch.randn(30, 20).split(sizes))
    model.between.forward = lambda x: F.batch_norm(x, None, None, training=True) if len(x) > 1 else x
    with pytest.raises(ValueError, match="model_a: layer 'second' returns other values for the same inputs"):
        compare(model, model, data, layers=["first", "second"])
    sound = Mixing(nn.BatchNorm1d(8))
    compare(sound, sound, data, layers=["first", "second"])


def test_dicts_of_one_input_are_checked_together() -> None:
    model = Mixing(nn.BatchNorm1d(8))
    data = [{"x": x, "name": ["a"], "scale": torch.tensor(2.0)} for x in torch.randn(30, 20).split(1)]
    sizes = set()
    model.register_forward_pre_hook(lambda module, args, kwargs: sizes.add(len(kwargs["x"])), with_kwargs=True)
    compare(model, model, data)
    assert sizes == {1, 2}


class Rounding(nn.Module):
    """Returns other values for large batches, by a share of each value.

    Libraries round otherwise for another size of the batch, on some processors and not on others.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + self.share) if len(x) > 10 else x


@pytest.mark.parametrize(
    ("dtype", "rounding", "more"),
    [
        (torch.bfloat16, 2**-6, 2**-4),
        (torch.float16, 2**-9, 2**-4),
        (torch.float32, 1e-5, 2e-3),
        (torch.float64, 2e-7, 2e-6),
    ],
)
def test_rounding_is_no_dependence_on_the_batch(dtype: torch.dtype, rounding: float, more: float) -> None:
    x = torch.randn(60, 20).to(dtype)
    model = Mixing(Rounding(rounding)).to(dtype)
    compare(model, model, x, layers=["between"])
    model = Mixing(Rounding(more)).to(dtype)
    with pytest.raises(ValueError, match="model_a: layer 'between' returns other values for the same inputs"):
        compare(model, model, x, layers=["between"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_does_not_depend_on_the_batch(dtype: torch.dtype) -> None:
    model = resnet(16, 8).to(dtype)
    compare(model, model, images(60).to(dtype))


@pytest.mark.parametrize("steps", [32, 16, 8])  # 8 steps are as many as channels
@pytest.mark.parametrize("layer", range(8))
def test_channels_of_a_signal_are_not_its_steps(layer: int, steps: int) -> None:
    norms = (nn.GroupNorm(2, 8), nn.InstanceNorm1d(8))
    first = (nn.Conv1d(1, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2))
    model, x = nn.Sequential(*first, *norms, nn.GELU(), nn.AvgPool1d(2)), torch.randn(30, 1, steps)
    found = compare(model, model, x, layers=[str(layer)], metrics="cka_channels").table.iloc[0]
    with torch.no_grad():
        inside = model.eval()[: layer + 1](x)
    assert (found["n"], found["columns_x"]) == (30 * inside.shape[2], 8)
    by_hand = inside.movedim(1, -1)[:, None].numpy()  # as one row of an image
    other = nn.Sequential(nn.Conv1d(1, 3, 1))
    measured = compare(model, other, x, layers=([str(layer)], ["0"]), metrics="mean_cca").matrix().iloc[0, 0]
    pooled = F.adaptive_avg_pool1d(other(x).detach().double(), inside.shape[2]).movedim(1, -1)[:, None].numpy()
    np.testing.assert_allclose(measured, metrics.mean_cca(by_hand, pooled, channels_last=True), rtol=0, atol=1e-9)


def test_old_names_of_columns_are_read_with_a_warning() -> None:
    table = compare(mlp(7), mlp(7), torch.randn(40, 20)).table
    with pytest.warns(DeprecationWarning, match="columns_b is now called columns_y"):
        assert table["columns_b"].tolist() == table["columns_y"].tolist()
    with pytest.warns(DeprecationWarning, match="rank_a is now called rank_x"):
        table.iloc[0]["rank_a"]
    with pytest.raises(KeyError):
        table["nothing_b"]
    assert table.query("layer_x == layer_y")["value"].notna().all()


class SequenceFirst(nn.Module):
    """(t, n, d) within, by a linear layer that runs there."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inside, self.out = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.inside(self.embed(x).transpose(0, 1)).mean(0))


def test_a_sequence_that_is_as_long_as_the_batch_is_not_taken_for_examples() -> None:
    model, data = SequenceFirst(), torch.randn(20, 20, 3)
    with pytest.warns(LeftOut, match=r"'inside': returns \(20, 2, 8\) for 2 inputs"):
        found = compare(model, model, data)
    assert found.layers_x == ("embed", "out")
    with pytest.raises(ValueError, match=r"model_a: layer 'inside' returns \(20, 2, 8\) for 2 inputs"):
        compare(model, model, data, layers=["inside"])


class Gram(nn.Linear):
    """Returns (n, n): what each input has in common with each of its batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y @ y.T


def test_a_layer_that_is_as_wide_as_the_batch_is_left_out() -> None:
    model, data = nn.Sequential(nn.Linear(6, 8), Gram(8, 4)), torch.randn(20, 6)
    with pytest.warns(LeftOut, match=r"'1': returns \(2, 2\) for 2 inputs"):
        assert compare(model, model, data).layers_x == ("0",)
    with pytest.raises(ValueError, match=r"model_a: layer '1' returns \(2, 2\) for 2 inputs"):
        compare(model, model, data, layers=["1"])


def test_weights_without_a_module_of_their_own_are_named() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model.append(model[0])
    model.register_parameter("scales", nn.Parameter(torch.ones(6, 6)))
    with pytest.warns(LeftOut):
        found = compare(model, model, torch.randn(40, 6))
    assert found.layers_x == ("2", "0"), "the last call counts"
    reasons = {
        "3": "it is the same module as '0'",
        "scales": "it is a parameter of the model itself, not a module's",
    }
    assert found.left_out == {"model_a": reasons}


def test_the_best_of_many_layers_is_more_by_chance_than_any_of_them() -> None:
    """Of models of unrelated inputs: what is found is what is said, on average over the layers of x."""
    torch.manual_seed(0)
    a, b = mlp(8, 8, 8), mlp(8, 8, 8)
    inputs = torch.randn(60, 20)
    found = compare(a, b, inputs, metrics=("cka", "cka_unbiased", "nbs"))
    table = found.table[found.table["metric"] == "cka"]
    assert set(found.best_by_chance) == {"cka", "cka_unbiased"}, "NBS needs permutations"
    for best, (_, of_layer) in zip(found.best_by_chance["cka"], table.groupby("layer_x", sort=False), strict=True):
        assert of_layer["null"].max() < best < of_layer["null"].max() + 3 * of_layer["null_sd"].max()
    assert f"by chance, the most similar of {len(found.layers_y)} layers of y is" in found.said_of_the_best


def test_the_best_of_many_layers_by_chance_is_measured_for_any_metric() -> None:
    """One order of the examples for all layers of y at once, as `Taken` layers compared one by one have it."""
    torch.manual_seed(0)
    a, b, inputs = mlp(8, 8, 8), mlp(8, 8, 8), torch.randn(60, 20)
    names = ("svcca", "nbs", "cka", "procrustes")
    found = compare(a, b, inputs, metrics=names, permutations=20)
    table = found.table
    assert found.table["z"].notna().all(), "20 permutations are enough for a standard deviation"
    assert "permuted" not in table
    for metric in names:
        by_layer = list(found._of(metric))
        assert all(len(row["permuted"]) == 20 for row in by_layer)
        for best, name in zip(found.best_by_chance[metric], found.layers_x, strict=True):
            values = np.array([row["permuted"] for row in by_layer if row["layer_x"] == name])
            alone = table[(table["metric"] == metric) & (table["layer_x"] == name)]["null"]
            if metric == "procrustes":
                assert best == pytest.approx(values.min(axis=0).mean())
                assert best <= alone.min() + 1e-12, "the best distance is the smallest"
            else:
                assert best == pytest.approx(values.max(axis=0).mean())
                assert best >= alone.max() - 1e-12
    assert table[table["metric"] == "procrustes"]["calibrated"].isna().all(), "it is not 1 for equal sides"
    assert table[table["metric"] == "nbs"]["calibrated"].notna().all()
    assert f"by chance, the most similar of {len(found.layers_y)} layers of y is" in found.said_of_the_best
    assert "in the mean of 20 permutations" in found.said_of_the_best
    few = compare(a, b, inputs, metrics=("nbs", "cka"), permutations=2)
    of_nbs = few.table[few.table["metric"] == "nbs"]
    assert of_nbs["null"].notna().all()
    assert of_nbs["z"].isna().all(), "two are too few for a standard deviation"
    assert few.table["null"][few.table["metric"] == "cka"].tolist() == table["null"][table["metric"] == "cka"].tolist()


def test_a_permutation_is_that_of_the_other_models_inputs() -> None:
    a, b, inputs = resnet(), resnet(), images()
    names = (*CHANNELS, "cka", "nbs", "cosine")
    found = compare(a, b, inputs, layers=["stem", "out"], metrics=names, permutations=1)
    order = numpy_stream(0, "chance", "compare", N, 0).permutation(N)
    shuffled = _Outputs(b, inputs, order, ("stem", "out"))
    expected = compare(a, shuffled, inputs, layers=(["stem", "out"], ["taps.0", "taps.1"]), metrics=names, batch_size=N)
    for row, other in zip(found.rows, expected.rows, strict=True):
        assert row["permuted"] == [pytest.approx(other["value"], abs=1e-6)], (row["layer_x"], row["metric"])


class _Outputs(nn.Module):
    """A model's outputs for all inputs, in another order: for an input, that of the one in its place."""

    def __init__(self, model: nn.Module, inputs: torch.Tensor, order: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        found: dict[str, torch.Tensor] = {}
        model.eval()
        hooks = [
            model.get_submodule(name).register_forward_hook(
                lambda module, args, out, name=name: found.__setitem__(name, out)
            )
            for name in names
        ]
        with torch.no_grad():
            model(inputs)
        for hook in hooks:
            hook.remove()
        self.inputs, self.outputs = inputs, [found[name][torch.as_tensor(order)] for name in names]
        self.taps = nn.ModuleList(nn.Identity() for _ in names)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = [int((self.inputs == one).flatten(1).all(1).nonzero()[0]) for one in x]
        for tap, output in zip(self.taps, self.outputs, strict=True):
            tap(output[places])
        return x


def test_standard_errors_are_those_of_inputs_without_a_tenth() -> None:
    a, b, inputs = resnet(), resnet(), images()
    names = ("mean_cca", "nbs_channels", "cka", "nbs", "cosine")
    chosen: Any = {"layers": ["stem", "out"], "metrics": names}
    plain, asked = compare(a, b, inputs, **chosen), compare(a, b, inputs, measure=("se", "se_nbs"), **chosen)
    assert plain.table["se"].isna().all(), "off by default"
    assert [row["value"] for row in plain.rows] == [row["value"] for row in asked.rows]
    without = [compare(a, b, inputs[kept(N, block)], **chosen).table["value"] for block in split(N, 0)]
    expected = [standard_error(list(values)) for values in np.array(without).T]
    assert asked.table["se"].to_numpy() == pytest.approx(np.array(expected), abs=1e-7, nan_ok=True)
    assert asked.table["se"].notna().any()
    cheap = compare(a, b, inputs, measure="se", **chosen).table
    assert cheap[cheap["metric"] == "nbs"]["se"].isna().all(), "se_nbs asks for it"
    assert cheap[cheap["metric"] == "cka"]["se"].tolist() == asked.table[asked.table["metric"] == "cka"]["se"].tolist()
    few = compare(a, b, inputs[:9], measure="se", **chosen).table
    assert few["se"].isna().all(), "nine inputs make no ten blocks"


def test_what_is_asked_for_beside_values_is_checked() -> None:
    for wrong, said in {
        (("measure", "null"),): "measure takes se and se_nbs, got 'null'",
        (("permutations", -1),): "permutations must be a whole number from 0 to 10,000, got -1",
        (("permutations", True),): "permutations must be a whole number from 0 to 10,000, got True",
    }.items():
        with pytest.raises(ValueError, match=said):
            compare(mlp(8), mlp(8), torch.randn(20, 20), **dict(wrong))
