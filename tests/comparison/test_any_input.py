"""`distsim.compare` for everybody: any form of data, of layers, of models and of their number."""

import collections
import io
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from distsim import metrics
from distsim.comparison import progress
from distsim.comparison.models import compare
from distsim.comparison.several import Comparisons
from distsim.comparison.similarities import LeftOut, Similarities
from distsim.environment import threads

pytestmark = pytest.mark.filterwarnings("ignore::distsim.metrics.UnreliableSimilarity")
N = 40


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def net(width: int = 6, inputs: int = 20) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(inplace=True), nn.Linear(width, 4))


def images_net(width: int = 4) -> nn.Sequential:
    block = nn.Sequential(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(
        collections.OrderedDict(stem=nn.Conv2d(3, width, 3), block1=block, flat=nn.Flatten(), out=nn.LazyLinear(5))
    )


class Texts(nn.Module):
    """As in Hugging Face: named inputs, a mask, a dict as output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(50, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        hidden = self.body(self.embed(input_ids))
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        return {"logits": self.head(hidden.mean(1))}


# --- data ------------------------------------------------------------------------------------------------------------


def test_arrays_are_what_tensors_are() -> None:
    a, b, x = net(), net(5), torch.randn(N, 20)
    expected = compare(a, b, x, batch_size=16).matrix()
    forms = {
        "float32": x.numpy(),
        "float64": x.numpy().astype(np.float64),
        "batches": [x[:16].numpy(), x[16:32].numpy(), x[32:].numpy()],
        "pairs": [(part.numpy(), np.zeros(len(part))) for part in x.split(16)],
        "dataset": TensorDataset(x, torch.zeros(N)),
    }
    for form, data in forms.items():
        np.testing.assert_array_equal(compare(a, b, data, batch_size=16).matrix(), expected, err_msg=form)


def test_a_dict_is_given_by_keywords_without_what_the_model_does_not_take() -> None:
    a, b = Texts(), Texts()
    ids, mask = torch.randint(0, 50, (N, 7)), (torch.rand(N, 7) > 0.3).long()
    whole = {"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(N)}
    with torch.no_grad():
        heads = [model(ids, mask)["logits"].numpy() for model in (a, b)]
    whole_as_arrays = {key: value.numpy() for key, value in whole.items()}
    loader = DataLoader([{key: value[i] for key, value in whole.items()} for i in range(N)], batch_size=16)
    for data in (whole, collections.UserDict(whole), whole_as_arrays, loader):
        with pytest.warns(LeftOut, match="'embed': Embedding is not compared"):
            found = compare(a, b, data, batch_size=16)
        assert found.layers_x == ("body", "head")
        np.testing.assert_allclose(found.matrix().loc["head", "head"], metrics.cka(*heads), rtol=0, atol=1e-6)
    named = compare(a, b, whole, layers=["body"])
    without = compare(a, b, {"input_ids": ids}, layers=["head"])
    assert named.layers_x == ("body",)
    assert abs(without.matrix().iloc[0, 0] - metrics.cka(*heads)) > 1e-4, "the mask is used"


def test_a_dict_that_the_model_cannot_be_given_is_refused_in_a_sentence() -> None:
    model, x = net(), torch.randn(N, 20)
    with pytest.raises(ValueError, match="model_a: its forward takes input, and a batch is a dict of image, label"):
        compare(model, model, {"image": x, "label": torch.zeros(N)})
    with pytest.raises(TypeError, match=r'data is a dict without tensors \(input_ids: list\).*return_tensors="pt"'):
        compare(Texts(), Texts(), {"input_ids": [[1, 2], [3, 4]]})
    with pytest.raises(ValueError, match=r"unequal numbers of examples: \{'a': 40, 'b': 39\}"):
        compare(model, model, {"a": x, "b": x[1:]})


def test_a_key_a_place_or_a_function_chooses_the_input() -> None:
    a, b, x = net(), net(5), torch.randn(N, 20)
    expected = compare(a, b, x, batch_size=16).matrix()
    batches = [{"id": "text", "image": part, "label": torch.zeros(len(part))} for part in x.split(16)]
    places = [(torch.zeros(len(part)), part) for part in x.split(16)]
    for data, batch in (
        (batches, "image"),
        (places, 1),
        (places, -1),
        (batches, lambda given: given["image"]),
        (batches, lambda given: (given["image"],)),
        (batches, lambda given: {"input": given["image"].numpy()}),
        (batches, {"model_a": "image", "model_b": lambda given: given["image"]}),
    ):
        np.testing.assert_array_equal(compare(a, b, data, batch=batch).matrix(), expected)
    for batch, match in (
        ("pixels", "model_a: batch='pixels' is not in the batch, which is a dict of id, image, label"),
        ("id", "model_a: batch must choose a tensor, a tuple or a dict of tensors, got str"),
        ({"model_c": "image"}, "batch names 'model_c', which is not one of the models: model_a, model_b"),
        (1.5, "batch must be a key, a place or a function of a batch, got 1.5"),
    ):
        with pytest.raises((ValueError, TypeError), match=re.escape(match)):
            compare(a, b, batches, batch=batch)
    with pytest.raises(ValueError, match=r"batch=1 is not in the batch, which is a tensor of \(40, 20\)"):
        compare(a, b, x, batch=1)


class TwoTowers(nn.Module):
    """As CLIP: images and texts, each with its own network."""

    def __init__(self) -> None:
        super().__init__()
        self.vision, self.text = net(), Texts()

    def forward(self, pixels: torch.Tensor, input_ids: torch.Tensor) -> Any:
        raise AssertionError("not asked for")


def test_a_function_runs_the_model() -> None:
    model, pixels, ids = TwoTowers(), torch.randn(N, 20), torch.randint(0, 50, (N, 7))
    data = {"pixels": pixels, "input_ids": ids}
    found = compare(
        {"image": model, "text": model},
        data,
        forward={
            "image": lambda model, batch: model.vision(batch["pixels"]),
            "text": lambda model, batch: model.text(batch["input_ids"]),
        },
        layers={"image": "vision.*", "text": ["text.body", "text.head"]},
        batch_size=16,
    )
    assert found.layers_x == ("vision.0", "vision.1", "vision.2")
    with torch.no_grad():
        expected = metrics.cka(model.vision(pixels).numpy(), model.text(ids)["logits"].numpy())
    np.testing.assert_allclose(found.matrix().loc["vision.2", "text.head"], expected, rtol=0, atol=1e-6)
    with pytest.raises(TypeError, match="forward must be a function"):
        compare(model, model, data, forward="vision")


def test_a_decoder_is_run_with_two_inputs() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(20, 6), nn.Linear(6 + 3, 4)

        def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return self.decode(torch.cat([self.encode(source), target], 1))

    model, source, target = Decoder(), torch.randn(N, 20), torch.randn(N, 3)
    batches = [(source[:16], target[:16]), (source[16:], target[16:])]
    found = compare(model, model, batches, batch=lambda batch: batch)
    assert found.layers_x == ("encode", "decode")
    same = compare(model, model, batches, forward=lambda model, batch: model(*batch))
    np.testing.assert_array_equal(same.matrix(), found.matrix())


def test_what_the_models_code_raises_says_what_it_was_given() -> None:
    model = net()
    with pytest.raises(RuntimeError) as caught:
        compare(model, model, torch.randn(N, 7))
    assert caught.value.__notes__ == ["model_a fails for a batch of (40, 7) of float32"]
    with pytest.raises(ValueError, match="layer '1' returns") as caught_ours:
        compare(nn.Sequential(nn.Linear(7, 7), nn.Flatten(0)), model, torch.randn(N, 7), layers=(["1"], None))
    assert not hasattr(caught_ours.value, "__notes__")


def test_inputs_of_several_sizes_are_refused_with_what_to_do() -> None:
    model = Texts()
    batches = [{"input_ids": torch.randint(0, 50, (8, length))} for length in (7, 9)]
    with pytest.raises(ValueError, match=r"'body' returns \(7, 6\), then \(9, 6\).*pad texts to one length"):
        compare(model, model, batches, layers=["body"])


# --- layers ----------------------------------------------------------------------------------------------------------


def test_patterns_and_types_choose_layers_in_the_order_in_which_they_run() -> None:
    model, x = images_net(), torch.randn(N, 3, 8, 8)
    model(x[:1])
    for layers, expected in {
        "block1*": ("block1.0", "block1.1", "block1.2", "block1"),
        "*.[02]": ("block1.0", "block1.2"),
        nn.Conv2d: ("stem", "block1.0"),
        nn.Conv2d | nn.ReLU: ("stem", "block1.0", "block1.2"),
        (nn.Linear, "stem"): ("stem", "out"),
        ("out", "stem"): ("out", "stem"),
        (nn.Linear, nn.Conv2d): ("stem", "block1.0", "out"),
        ("block1.*", "block1.0"): ("block1.0", "block1.1", "block1.2"),
    }.items():
        assert compare(model, model, x, layers=layers).layers_x == expected, layers
    found = compare(model, model, x, layers=("stem*", None))
    assert (found.layers_x, found.layers_y) == (("stem",), ("stem", "block1.0", "out"))
    found = compare(model, model, x, layers=[[nn.ReLU], "out"])
    assert (found.layers_x, found.layers_y) == (("block1.2",), ("out",))
    found = compare(model, model, x, layers={"model_b": "flat"})
    assert (len(found.layers_x), found.layers_y) == (3, ("flat",))
    for layers, match in (
        ("blok*", "model_a has no layer that matches the pattern 'blok\\*'; near: 'block1'"),
        (nn.Conv1d, "model_a has no layer of type Conv1d; it has BatchNorm2d, Conv2d"),
        ({"model_c": "stem"}, "layers names 'model_c', which is not one of the models"),
    ):
        with pytest.raises(ValueError, match=match):
            compare(model, model, x, layers=layers)


def test_what_a_pattern_finds_and_cannot_be_compared_is_left_out() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Flatten(0), nn.Unflatten(0, (-1, 6)), nn.Linear(6, 3))
    with pytest.warns(LeftOut, match=r"model_a: layers are left out \('1': returns \(240,\) for 40 inputs"):
        found = compare(model, model, torch.randn(N, 6), layers="*")
    assert found.layers_x == ("0", "2", "3")
    with pytest.raises(ValueError, match="model_a: layer '1' returns"):
        compare(model, model, torch.randn(N, 6), layers=["*", "1"])


def test_a_module_of_two_names_is_found_once() -> None:
    model = net()
    model.append(nn.Linear(4, 20))
    model.append(model[0])
    assert compare(model, model, torch.randn(N, 20), layers="*").layers_x == ("1", "2", "3", "0")


# --- several models --------------------------------------------------------------------------------------------------


def test_each_two_of_several_models() -> None:
    models, x = {"narrow": net(3), "middle": net(5), "wide": net(9)}, torch.randn(N, 20)
    found = compare(models, x, metrics=("cka", "mean_cca"))
    assert isinstance(found, Comparisons)
    assert list(found.pairs) == [("narrow", "middle"), ("narrow", "wide"), ("middle", "wide")]
    for (one, other), similarities in found.pairs.items():
        alone = compare(models[one], models[other], x, metrics=("cka", "mean_cca"))
        assert (similarities.model_x, similarities.model_y) == (one, other)
        np.testing.assert_array_equal(similarities.matrix("cka"), alone.matrix("cka"))
        rows = found.table[(found.table["model_x"] == one) & (found.table["model_y"] == other)]
        plain = alone.table
        assert rows.columns.tolist() == ["model_x", "model_y", *plain.columns]
        of_pair = pd.DataFrame(rows[plain.columns]).reset_index(drop=True)
        pd.testing.assert_frame_equal(of_pair, pd.DataFrame(plain), check_exact=True)
    assert found.models == ("narrow", "middle", "wide")
    assert found["narrow", "wide"].matrix("cka").equals(found.matrix("cka", ("narrow", "wide")))
    with pytest.raises(KeyError, match="no pair"):
        found["wide", "narrow"]
    labels = [(axes.get_ylabel(), axes.get_xlabel()) for axes in found.figure("cka").axes if axes.images]
    assert [pair for pair in labels if pair[1]] == list(found.pairs)
    assert repr(found) == "Comparisons(narrow, middle, wide; metrics=('cka', 'mean_cca'))"


def test_two_named_models_and_lists_of_models() -> None:
    a, b, x = net(3), net(5), torch.randn(N, 20)
    plain, named = compare(a, b, x), compare({"a": a, "b": b}, data=x)
    assert isinstance(named, Similarities)
    assert named.table.columns.tolist() == plain.table.columns.tolist()
    (axes, _) = named.figure().axes
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("a", "b")
    assert list(compare([a, b, a], x).pairs) == [("model_a", "model_b"), ("model_a", "model_c"), ("model_b", "model_c")]
    assert list(named.pairs) == [("a", "b")]
    with pytest.raises(ValueError, match="compare needs two models at least, got a"):
        compare({"a": a}, x)
    for call in (lambda: compare(a, b), lambda: compare({"a": a, "b": b}), lambda: compare(a, x)):
        with pytest.raises(TypeError, match="compare needs data"):
            call()
    with pytest.raises(TypeError, match="compare needs two models and data"):
        compare(a)
    with pytest.raises(TypeError, match="compare takes two models and data, or several models and data"):
        compare({"a": a, "b": b}, a, x)
    with pytest.raises(TypeError, match=r"b must be a torch\.nn\.Module, an array of activations.*got str"):
        compare({"a": a, "b": "b"}, x)


def test_one_pass_for_all_models() -> None:
    a, x, read = net(), torch.randn(N, 20), []

    def batches() -> Iterator[torch.Tensor]:
        for part in x.split(10):
            read.append(len(part))
            yield part

    ran: list[int] = []
    a.register_forward_pre_hook(lambda module, inputs: ran.append(len(inputs[0])))
    compare([a, net(), a], batches())
    assert read == [10] * 4
    assert ran == [2, 10, 2, 2, 10, 10, 10], "a model that is there twice runs once"


def test_errors_and_warnings_have_the_models_names() -> None:
    x = torch.randn(N, 20)
    broken = net()
    with torch.no_grad():
        broken[0].bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="pruned: layer 0 has activations that are not finite"):
        compare({"whole": net(), "pruned": broken}, x)


@pytest.mark.filterwarnings("default::distsim.metrics.UnreliableSimilarity")
def test_doubts_name_the_pair() -> None:
    with pytest.warns(metrics.UnreliableSimilarity, match="^a and b: .* of 4 similarities should be read with care"):
        compare({"a": net(30), "b": net(30), "c": net(30)}, torch.randn(12, 20), metrics="mean_cca")


# --- activations that exist already ----------------------------------------------------------------------------------


def test_activations_are_compared_as_if_a_model_had_returned_them() -> None:
    a, b, x = images_net(), images_net(3), torch.randn(N, 3, 8, 8)
    with torch.no_grad():
        kept = [
            {"stem": model.eval().stem(x).numpy(), "out": model(x)}  # an array and a tensor
            for model in (a, b)
        ]
    chosen = ("cka", "mean_cca", "cosine")
    expected = compare(a, b, x, layers=["stem", "out"], metrics=chosen).table
    for found in (
        compare(*kept, metrics=chosen),
        compare({"a": kept[0], "b": kept[1]}, metrics=chosen),
        compare(a, kept[1], x, layers=(["stem", "out"], None), metrics=chosen),
    ):
        np.testing.assert_allclose(found.table["value"], expected["value"], rtol=0, atol=1e-6)
    X, Y = kept[0]["stem"], kept[1]["stem"]
    assert compare(X, Y).matrix().loc["activations", "activations"] == pytest.approx(metrics.cka(X, Y), abs=1e-9)
    assert compare({"one": X, "two": Y}).model_y == "two"
    assert compare(*kept, layers="st*").layers_x == ("stem",)


def test_activations_that_cannot_be_compared() -> None:
    X = np.random.default_rng(0).normal(size=(N, 5))
    bad = X.copy()
    bad[3, 2] = np.inf
    for call, match in (
        (lambda: compare(X, X[1:]), "same examples, in the same order: model_a has 40, model_b has 39"),
        (lambda: compare(X, bad), "model_b: layer 'activations' has activations that are not finite"),
        (lambda: compare(X, X[:, 0]), r"model_b: layer 'activations' is \(40,\); expected"),
        (lambda: compare(X, X.astype(str)), "model_b: layer 'activations' holds <U32; expected real numbers"),
        (lambda: compare({"a": X}, {"a": X}, layers="b"), "model_a has no layer 'b'; near: 'a'"),
        (lambda: compare(X, X, layers=nn.Linear), "model_a is activations, whose layers have no types"),
        (lambda: compare(X, X, X), "all models are activations already"),
        (lambda: compare({"a": X, "b": X[1:]}, X), "model_a: layers have unequal numbers of examples"),
    ):
        with pytest.raises((ValueError, TypeError, FloatingPointError), match=match):
            call()


# --- what is seen ----------------------------------------------------------------------------------------------------


def test_what_a_notebook_shows() -> None:
    x = torch.randn(N, 20)
    two, three = compare({"a": net(), "<b>": net()}, x[:9]), compare([net(), net(), net()], x, metrics=("cka", "nbs"))
    for found, title in ((two, "a (2 layers) against &lt;b&gt; (2 layers): cka"), (three, "model_a, model_b, model_c")):
        shown = found._repr_html_()
        assert title in shown
        assert 'src="data:image/png;base64,iVBOR' in shown
        assert "<b>" not in shown
    assert two.doubts
    assert "similarities should be read with care" in two._repr_html_()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("asked", "terminal", "at_once", "seen"), [
    (True, True, False, True),
    (None, True, True, True),
    (None, True, False, False),
    (False, True, True, False),
    (True, False, True, False),
    (None, False, True, False),
])  # fmt: skip
def test_a_bar_is_seen_on_terminals_where_it_takes_long(
    asked: bool | None, terminal: bool, at_once: bool, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "AFTER", 0.0 if at_once else 1e9)
    monkeypatch.setenv("TERM", "xterm")
    compare(net(), net(), torch.randn(N, 20), progress=asked)
    said = stream.getvalue()
    assert ("comparing layers" in said, "running the models" in said) == (seen, seen), said


def test_a_bar_goes_away_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        compare(net(), net(), torch.randn(N, 7), progress=True)
    for thread in threading.enumerate():
        if "Refresh" in type(thread).__name__:
            thread.join(timeout=30)
            assert not thread.is_alive()


ARRAY, MODEL = np.random.default_rng(0).standard_normal((N, 4)), nn.Sequential(nn.Linear(20, 4))
WRONG: dict[str, Any] = {
    "metrics": [
        (5, "a name or a list of names, got 5"),
        (None, "got None"),
        ([[]], r"got \[\[\]\]"),
        ([5], r"got \[5\]"),
    ],
    "measure": [(5, "takes se and se_nbs, got 5"), (None, "got None"), ([[]], "got"), ([5, "x"], r"got \[5, 'x'\]")],
    "channels": [
        (5, "must be a dict of dimensions by layer, got 5"),
        ("0", "must be a dict of dimensions by layer, got '0'"),
        ({0: 1}, "must be by the layers' names, got 0"),
        ({"0": "x"}, r"\['0'\] must be a dimension, a whole number such as 1 or -1, got 'x'"),
        ({"0": None}, "must be a dimension"),
        ({"0": 1.0}, "must be a dimension, a whole number such as 1 or -1, got 1.0"),
        ({"zz": 1}, r"names \['zz'\], which are not among the layers"),
    ],
    "progress": [("no", "must be True, False or None, got 'no'"), (5, "got 5")],
    "batch_size": [(0, "must be a whole number from 1 on, got 0"), (2.0, "got 2.0")],
}


@pytest.mark.parametrize(("argument", "wrong", "said"), [(name, *case) for name in WRONG for case in WRONG[name]])
def test_a_mistaken_argument_is_named(argument: str, wrong: Any, said: str) -> None:
    for given in ((ARRAY, ARRAY), (MODEL, MODEL, torch.randn(N, 20))):
        with pytest.raises((TypeError, ValueError), match=rf"^{argument}.*{said}"):
            compare(*given, **{argument: wrong})


def test_numbers_of_numpy_are_numbers() -> None:
    chosen: Any = {"batch_size": np.int64(8), "permutations": np.int64(2), "channels": {"0": np.int64(-1)}}
    found = compare(MODEL, MODEL, torch.randn(N, 20), progress=np.bool_(False), **chosen)
    assert found.permutations == 2


@pytest.mark.parametrize("kind", [object, str, complex])
def test_data_that_are_no_numbers_are_refused(kind: type) -> None:
    with pytest.raises(TypeError, match=r"^data is an array of .*; expected real numbers"):
        compare(MODEL, MODEL, np.ones((N, 20)).astype(kind))


def test_arrays_of_any_byte_order_are_data() -> None:
    x = np.random.default_rng(0).standard_normal((N, 20)).astype(np.float32)
    expected = compare(MODEL, MODEL, x, metrics="nbs").rows
    for dtype in (">f4", np.longdouble):
        assert compare(MODEL, MODEL, x.astype(dtype), metrics="nbs").rows == expected
    with pytest.raises(TypeError, match="data holds a masked array"):
        compare(MODEL, MODEL, np.ma.masked_array(x, x > 0))


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (torch.rand(N, 3).to_sparse(), "a sparse tensor; expected a dense one"),
        (torch.rand(N, 3, device="meta"), "a meta tensor; expected a dense one"),
        (np.ma.masked_array(ARRAY, ARRAY > 0), "a masked array, whose mask no metric takes"),
    ],
)
def test_activations_that_are_no_dense_numbers_are_refused(layer: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"^model_b: layer 'fc' is {said}"):
        compare({"fc": ARRAY}, {"fc": layer})


def test_channels_of_activations_beside_a_network() -> None:
    x, activations = torch.randn(N, 20), np.random.default_rng(0).standard_normal((N, 7, 3))
    found = compare(MODEL, {"l": activations}, x, channels={"l": 1}, metrics="mean_cca")
    turned = compare(MODEL, {"l": activations.transpose(0, 2, 1)}, x, metrics="mean_cca")
    assert found.rows == turned.rows
    assert found.rows[0]["columns_y"] == 7


def test_keys_that_read_alike_are_two_layers() -> None:
    with pytest.raises(ValueError, match=r"^model_a has two keys that both read '1'"):
        compare({1: ARRAY, "1": ARRAY}, {"l": ARRAY})
    with pytest.raises(ValueError, match=r"^the dict of models has two keys that both read '1'"):
        compare({1: MODEL, "1": MODEL}, torch.randn(N, 20))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a + 1e7,
        lambda a: a * 1e-46,
        lambda a: a * 1e39,
        lambda a: torch.from_numpy(a) + 1e7,
        lambda a: a.astype(np.longdouble) * 1e-46,
    ],
)
def test_activations_of_float64_are_not_rounded_to_float32(change: Any) -> None:
    a, b = (np.random.default_rng(seed).standard_normal((N, 5)) for seed in (0, 1))
    names = ("cka", "svcca", "mean_cca", "nbs")
    found = compare(change(a), a + b, metrics=names)
    for row in found.rows:
        assert row["value"] == pytest.approx(getattr(metrics, row["metric"])(a, a + b), abs=1e-6), row["metric"]


def test_whole_numbers_are_not_rounded() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (N, 4)), rng.standard_normal((N, 4))
    expected = compare(a, b, metrics=("cka", "mean_cca")).rows
    for row, other in zip(compare(a + 2**30, b, metrics=("cka", "mean_cca")).rows, expected, strict=True):
        assert row["value"] == pytest.approx(other["value"], abs=1e-9)
    with pytest.raises(ValueError, match=r"^model_a: layer 'fc' has a channel whose values differ by less than"):
        compare({"fc": a + 2**62}, b)
    compare(rng.integers(2**62, 2**63, (N, 4)), b)


def test_numbers_that_float32_holds_are_the_same_in_any_type() -> None:
    """Such as what a network in float32 returned, with its rounding."""
    a, b = (torch.randn(N, 5) for _ in range(2))
    a[:, 0] = 1 + torch.rand(N) * 2**-22
    expected = compare(a, b, metrics=("cka", "mean_cca")).rows
    assert expected[0]["dead_x"] == 1
    for wide in (a.double(), a.numpy().astype(np.float64)):
        assert compare(wide, b, metrics=("cka", "mean_cca")).rows == expected


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_activations_of_no_size_for_float64_are_refused_by_name(size: float) -> None:
    with pytest.raises(ValueError, match=r"^model_b: layer 'fc' has values up to .*; expected 1e-60 to 1e\+60"):
        compare({"fc": ARRAY}, {"fc": size * ARRAY})
    dead = compare({"fc": ARRAY}, {"fc": 0 * ARRAY}).rows[0]
    assert dead["reason"] == "every activation is the same for all examples"
