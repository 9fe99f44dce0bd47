"""Comparison of two stored networks on the same images: every layer of one with every layer of the other.

The networks may be of two stores and two models. If their layers have different sizes, `distsim.compare` pools
positions to the smaller one.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from distsim.activations.probe import captured, make_probe
from distsim.comparison.models import compare
from distsim.comparison.similarities import Row, Similarities
from distsim.data import augment, load
from distsim.environment import require_device, threads
from distsim.metrics.arrays import UnreliableSimilarity
from distsim.models import Network, build
from distsim.specs import Identity, NetworkId
from distsim.store import SweepStore
from distsim.training.stepper import settle


@dataclass(frozen=True)
class Stored:
    """A network in a store."""

    store: SweepStore
    network: NetworkId

    @property
    def label(self) -> str:
        """Return the network's name as part of a file name."""
        network = self.network
        which = "complete" if network.is_complete else f"run{network.run}-iteration{network.iteration}"
        control = f"{network.control}-" if network.control else ""
        number = f"-of-complete{network.complete}" if network.complete else ""
        return f"{self.store.problem}-{control}{which}{number}"

    @property
    def in_words(self) -> str:
        """Return what figures call the network."""
        network = self.network
        complete = f"complete network {network.complete}" if network.complete else "complete network"
        if network.is_complete:
            return f"{self.store.problem}, {complete}"
        origin = f" from {complete}" if network.complete else ""
        control = f"{network.control} control, " if network.control else ""
        return f"{self.store.problem}, {control}run {network.run}{origin}, iteration {network.iteration}"


def layer_by_layer(
    a: Stored,
    b: Stored,
    metrics: Sequence[str],
    data: str | None = None,
    device: str = "cpu",
    measure: Sequence[str] = (),
    permutations: int = 0,
) -> Similarities:
    """Return the similarity of every compared layer of `a` to every one of `b`, on the probe of a's store.

    Each network gets the images with its own normalisation. Nothing is warned of: see `Similarities.doubts`.

    data : location of a's data; None: the one in the store's last request
    measure, permutations : as for `distsim.compare`

    ValueError: the networks take images of different shapes, or the data are not those of a's sweep.
    FileNotFoundError: a network is not committed.
    """
    identities = identity, _ = a.store.identity(), b.store.identity()
    shapes = [(x.problem.channels, x.problem.size, x.problem.size) for x in identities]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{a.label} takes images of {shapes[0]}, {b.label} of {shapes[1]}: they must be the same")
    require_device(device)
    request = a.store.request()
    dataset = load(identity.problem, request.data if data is None else data, reading=request.reading)
    if dataset.digest != identity.data_digest:
        raise ValueError(
            f"the data are not those that {a.store.problem} was trained on: give their location with --data"
        )
    settle(torch.device(device), identity.deterministic)
    probe = make_probe(identity, dataset)
    models = [_BytesToLayers(stored, x, device) for stored, x in zip((a, b), identities, strict=True)]
    names = [list(model.names) for model in models]
    with threads(identity.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableSimilarity)  # the result says it, with the layers' own names
        similarities = compare(
            models[0],
            models[1],
            probe.images,
            layers=names,
            metrics=metrics,
            device=device,
            measure=measure,
            permutations=permutations,
        )
    called = dataclasses.replace(similarities, model_x=a.in_words, model_y=b.in_words)
    return _renamed(called, models[0].names, models[1].names)


class _BytesToLayers(nn.Module):
    """A stored network that takes images as bytes and has one module for each compared layer.

    `compare` knows modules only, but a layer is one call of a module, whose channels may not be in the second place. So
    each layer's output is passed through an identity module.
    """

    def __init__(self, stored: Stored, identity: Identity, device: str) -> None:
        super().__init__()
        self.network: Network = build(identity.problem)
        self.network.load_state_dict(stored.store.load_network(stored.network).weights)
        mean, sd = augment.normalisation(identity.problem.recipe)
        self.register_buffer("mean", mean)
        self.register_buffer("sd", sd)
        self.taps = nn.ModuleList(nn.Identity() for _ in self.network.layers)
        self.names = {f"taps.{place}": layer.name for place, layer in enumerate(self.network.layers)}
        self.to(device)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with captured(self.network, self.network.layers) as outputs:
            out: torch.Tensor = self.network(augment.normalise(images, self.get_buffer("mean"), self.get_buffer("sd")))
            for tap, layer in zip(self.taps, self.network.layers, strict=True):
                output = outputs[layer.name]
                tap(output.permute(0, 3, 1, 2) if output.ndim == 4 else output)
        return out


def _renamed(similarities: Similarities, names_x: dict[str, str], names_y: dict[str, str]) -> Similarities:
    """Return the similarities with the layers' names in place of those of their modules."""
    rows = tuple(
        Row(**{**row, "layer_x": names_x[row["layer_x"]], "layer_y": names_y[row["layer_y"]]})
        for row in similarities.rows
    )
    return dataclasses.replace(
        similarities,
        layers_x=tuple(names_x[name] for name in similarities.layers_x),
        layers_y=tuple(names_y[name] for name in similarities.layers_y),
        rows=rows,
    )
