"""Models of torchvision, timm and Hugging Face as they come, with random weights. Nothing is downloaded.

timm and transformers are in the extra `zoo`; without them their tests are skipped.
"""

import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from distsim import metrics
from distsim.comparison.models import compare
from distsim.environment import threads

pytestmark = [
    pytest.mark.filterwarnings("ignore::distsim.metrics.UnreliableSimilarity"),
    pytest.mark.filterwarnings("ignore::distsim.comparison.similarities.LeftOut"),
]
N = 5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def library(name: str) -> Any:
    """A library that may be missing. What it warns of on import is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            pytest.skip(f"{name} is not installed: pip install 'distsim-imp[zoo]'")


def images(size: int = 64) -> torch.Tensor:
    return torch.randn(N, 3, size, size)


def test_torchvision() -> None:
    vit = torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=5)
    resnet = torchvision.models.resnet18(num_classes=5)
    found = compare({"vit": vit, "resnet": resnet}, images(), layers={"resnet": "layer?.1"})
    assert found.layers_y == ("layer1.1", "layer2.1", "layer3.1", "layer4.1")
    assert {"conv_proj", "encoder.layers.encoder_layer_1.mlp.3", "heads.head"} <= set(found.layers_x)
    blocks = compare(vit, vit, images(), layers="encoder.layers.encoder_layer_?")
    assert len(blocks.layers_x) == 2
    relus = compare(resnet, resnet, images().numpy(), layers="layer*.1.relu")
    assert relus.layers_x == tuple(f"layer{place}.1.relu" for place in (1, 2, 3, 4))
    np.testing.assert_allclose(np.diag(relus.matrix()), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050"])
def test_timm(name: str) -> None:
    timm = library("timm")
    size = {"img_size": 64} if name.startswith("vit") else {}
    model = timm.create_model(name, pretrained=False, num_classes=5, **size)
    found = compare(model, model, images())
    assert len(found.layers_x) > 10
    np.testing.assert_allclose(np.diag(found.matrix()), 1, rtol=0, atol=1e-6)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def texts(transformers: Any) -> Any:
    ids = torch.randint(1, 99, (N, 7))
    return transformers.BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def test_hugging_face_texts() -> None:
    transformers = library("transformers")
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=99, **SMALL))
    gpt2 = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=2, vocab_size=99, bos_token_id=0, eos_token_id=0, attn_pdrop=0.5
        )
    )
    data = texts(transformers)
    found = compare({"bert": bert, "gpt2": gpt2}, data, batch_size=3)
    assert {"transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj", "lm_head"} <= set(found.layers_y)
    blocks = compare(bert, bert, data, layers="encoder.layer.?")
    assert blocks.layers_x == ("encoder.layer.0", "encoder.layer.1")
    with torch.no_grad():
        states = bert.eval()(**data, output_hidden_states=True).hidden_states
    expected = metrics.cka(*(state.double().flatten(1).numpy() for state in states[1:3]))
    np.testing.assert_allclose(blocks.matrix().iloc[0, 1], expected, rtol=0, atol=1e-6)


def test_hugging_face_encoder_and_decoder() -> None:
    transformers = library("transformers")
    config = transformers.T5Config(
        vocab_size=99, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    t5, data = transformers.T5ForConditionalGeneration(config), texts(transformers)["input_ids"]
    both = compare(t5, t5, data, forward=lambda model, batch: model(input_ids=batch, decoder_input_ids=batch))
    assert {name.partition(".")[0] for name in both.layers_x} == {"encoder", "decoder", "lm_head"}
    encoder = compare(t5, t5, data, forward=lambda model, batch: model.encoder(batch))
    assert {name.partition(".")[0] for name in encoder.layers_x} == {"encoder"}
    with pytest.raises(ValueError, match=r"exactly one of|decoder_input_ids") as caught:
        compare(t5, t5, data)
    assert caught.value.__notes__ == ["model_a fails for a batch of (5, 7) of int64"]


def test_hugging_face_two_towers() -> None:
    transformers = library("transformers")
    text = {"vocab_size": 99, "bos_token_id": 0, "eos_token_id": 98} | SMALL
    vision = {"image_size": 64, "patch_size": 16} | SMALL
    clip = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))
    data = {"input_ids": texts(transformers)["input_ids"], "pixel_values": images()}
    found = compare(
        {"image": clip, "text": clip},
        data,
        forward={
            "image": lambda model, batch: model.get_image_features(batch["pixel_values"]),
            "text": lambda model, batch: model.get_text_features(batch["input_ids"]),
        },
        layers={"image": "vision_model.encoder.layers.?", "text": "text_model.encoder.layers.?"},
    )
    assert found.matrix().shape == (2, 2)
    assert {name.split(".")[0] for name in compare(clip, clip, data).layers_x} >= {"vision_model", "text_model"}
