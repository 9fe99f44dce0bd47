"""A network's activations on the probe: the output of each compared layer for the same images.

Blocks are channels last, (b, h, w, c) or (b, p). A sequence (b, t, d) becomes one row of an image, (b, 1, t, d). This
module does not know where they are stored.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distsim.activations.layout import Float16Check, storage_dtype
from distsim.data import Dataset, augment, probe_indices
from distsim.metrics.reads import NOW, Reads
from distsim.models import Layer, Network, logits_of
from distsim.models.calls import hooks
from distsim.specs import Identity, Problem
from distsim.tf32 import SWITCH

BATCH = 128  # examples per forward pass; fixed, because the batch size may change a convolution's last bits


@dataclass(frozen=True)
class Probe:
    """The images on which networks are compared, uint8 (n, c, h, w), never augmented, and their places in their set."""

    indices: NDArray[np.int64]
    images: torch.Tensor
    mean: torch.Tensor
    sd: torch.Tensor


def make_probe(identity: Identity, dataset: Dataset, device: torch.device | str = "cpu") -> Probe:
    """Make the problem's probe, which is the same for all its networks.

    ValueError: it is larger than the set that it is from, or the recipe has no normalisation.
    """
    problem = identity.problem
    indices = probe_indices(dataset, problem.probe, problem.probe_rule, identity.seed, problem.probe_from)
    whole = dataset.test_images if problem.probe_from == "test" else dataset.train_images
    mean, sd = augment.normalisation(problem.recipe, device)
    # one grey channel may have any stride: convolutions would round by it, and Ray's copy of the data has another
    images = torch.tensor(whole[indices], device=device).clone(memory_format=torch.contiguous_format)
    return Probe(indices, images, mean, sd)


@contextlib.contextmanager
def captured(network: nn.Module, layers: Sequence[Layer]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield a dict that holds the layers' outputs, channels last, after each forward pass inside the block.

    They are copies, made when a module has run, so that what later modules do in place does not change them.
    """
    outputs: dict[str, torch.Tensor] = {}
    times: Counter[str] = Counter()
    modules = dict(network.named_modules())
    wanted: dict[str, list[Layer]] = {}
    for layer in layers:
        wanted.setdefault(layer.module, []).append(layer)

    def begin(module: nn.Module, inputs: Any) -> None:
        outputs.clear()
        times.clear()

    def keep(path: str, output: torch.Tensor) -> None:
        times[path] += 1
        for layer in wanted[path]:
            if layer.call in (0, times[path]):
                outputs[layer.name] = _channels_last(output.detach(), layer)

    with hooks(network) as handles:
        handles.append(network.register_forward_pre_hook(begin))
        for path in wanted:
            handles.append(modules[path].register_forward_hook(lambda m, args, out, path=path: keep(path, out)))
        yield outputs


def _channels_last(output: torch.Tensor, layer: Layer) -> torch.Tensor:
    """Copy an output: (n, c, h, w) as (n, h, w, c), (n, t, d) as (n, 1, t, d), (n, p) as it is."""
    if output.ndim in (3, 4):
        axis = layer.axis if layer.axis is not None else (1 if output.ndim == 4 else 2)
        output = output.movedim(axis, -1)
        output = output.unsqueeze(1) if output.ndim == 3 else output
    return output.clone(memory_format=torch.contiguous_format)


@torch.no_grad()
def blocks(
    network: Network,
    probe: Probe,
    layers: Sequence[Layer] | None = None,
    label: str = "network",
    reads: Mapping[str, Reads] | None = None,
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the layers' outputs, float32 and channels last, for `BATCH` examples at a time, in the probe's order.

    layers : None for all layers of the network; label : the network's name in errors
    reads : by layer; where they are deferred, no value is looked at, and they require finite activations at the end
    FloatingPointError: an activation is not finite. ValueError: a layer does not run for each batch.
    """
    layers = network.layers if layers is None else layers
    finite: dict[str, torch.Tensor] = {}
    reads = reads or {layer.name: NOW for layer in layers}

    def require(name: str, condition: torch.Tensor) -> None:
        error = FloatingPointError(f"{label}: layer {name} has activations that are not finite")
        reads[name].require(condition, error)

    network.eval()
    with captured(network, layers) as outputs:
        for images in probe.images.split(BATCH):
            with SWITCH.float32():
                logits_of(network, augment.normalise(images, probe.mean, probe.sd))
            for layer in layers:
                if layer.name not in outputs:
                    raise ValueError(f"{label}: layer {layer.name} does not run for every batch of images")
                here = torch.isfinite(outputs[layer.name]).all()
                if reads[layer.name].deferred:
                    finite[layer.name] = finite.get(layer.name, here) & here
                else:
                    require(layer.name, here)
            yield {layer.name: outputs[layer.name] for layer in layers}
    for name, everywhere in finite.items():
        require(name, everywhere)


def layer_shapes(network: Network, problem: Problem) -> dict[str, tuple[int, ...]]:
    """Return the shape of each layer's output for one image, by name: (h, w, c) or (p,).

    ValueError: an output has another number of dimensions.
    """
    training = network.training
    network.eval()
    with torch.no_grad(), captured(network, network.layers) as outputs:
        device = next(network.parameters()).device
        network(torch.zeros(1, problem.channels, problem.size, problem.size, device=device))
    network.train(training)
    for layer in network.layers:
        if outputs[layer.name].ndim not in (2, 4):
            shape = tuple(outputs[layer.name].shape[1:])
            raise ValueError(
                f"layer {layer.name} returns {shape} for one image; only (c, h, w), (t, d) and (p,) can be compared"
            )
    return {layer.name: tuple(outputs[layer.name].shape[1:]) for layer in network.layers}


def as_numpy(block: torch.Tensor, dtype: str) -> NDArray[Any]:
    """Convert a block to a NumPy array in host memory."""
    return block.to(getattr(torch, dtype)).cpu().numpy()


def held(
    network: Network, probe: Probe, layer: Layer, shape: tuple[int, ...], rule: str, label: str = "network"
) -> torch.Tensor:
    """Return a layer's activations for the whole probe, (n, h, w, c) or (n, p), on the probe's device.

    They have the dtype in which they would be stored, and so the same values as from disk.
    shape : of the output for one image; rule : as in `storage_dtype`; label and errors : as in `blocks`
    """
    activations, checks = held_together(network, probe, [layer], {layer.name: shape}, rule, label)
    if layer.name in checks and not checks[layer.name]:
        del activations  # free the memory before the second pass
        return held(network, probe, layer, shape, "float32", label)
    return activations[layer.name]


def held_together(
    network: Network,
    probe: Probe,
    layers: Sequence[Layer],
    shapes: Mapping[str, tuple[int, ...]],
    rule: str,
    label: str = "network",
    reads: Mapping[str, Reads] | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, Float16Check]]:
    """Return several layers' activations from one pass over the probe, by layer, and checks of those in float16.

    Where a check fails, the layer has to be held in float32, as `held` does.
    shapes : of each layer's output for one image; other arguments : as in `held` and `blocks`
    """
    n, device = len(probe.images), probe.images.device
    activations, checks, start = {}, {}, 0
    for layer in layers:
        dtype, shape = storage_dtype(layer, rule), shapes[layer.name]
        activations[layer.name] = torch.empty((n, *shape), dtype=getattr(torch, dtype), device=device)
        if dtype == "float16":
            checks[layer.name] = Float16Check(shape[-1], device)
    for outputs in blocks(network, probe, layers, label, reads):
        end = start + len(next(iter(outputs.values())))
        for name, block in outputs.items():
            if name in checks:
                checks[name].add(block)
            activations[name][start:end] = block
        start = end
    return activations, checks
