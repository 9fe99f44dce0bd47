"""Networks of two stores, or of one, on the same images: every layer of one against every layer of the other.

Models may differ, and so may what their layers put out: `distsim.compare` pools positions to the smaller size.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from distsim.activations.probe import captured, make_probe
from distsim.comparison.models import compare
from distsim.comparison.similarities import Row, Similarities
from distsim.data import augment, load
from distsim.environment import require_cupy, threads
from distsim.models import Network, build
from distsim.specs import Identity, NetworkId
from distsim.store import SweepStore


@dataclass(frozen=True)
class Stored:
    """A network of a store."""

    store: SweepStore
    network: NetworkId

    @property
    def label(self) -> str:
        """As part of a file's name."""
        which = "complete" if self.network.is_complete else f"run{self.network.run}-iteration{self.network.iteration}"
        return f"{self.store.problem}-{which}"


def layer_by_layer(
    a: Stored, b: Stored, metrics: Sequence[str], data: str | None = None, device: str = "cpu"
) -> Similarities:
    """The similarity of every compared layer of `a` to every one of `b`, on the probe of a's store.

    Each network sees the images under its own normalisation. data : where a's data lie; None: where they were last.
    ValueError: the networks take images of different shapes. FileNotFoundError: a network is not committed.
    """
    identity, theirs = a.store.identity(), b.store.identity()
    sizes = [(one.problem.channels, one.problem.size, one.problem.size) for one in (identity, theirs)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{a.label} takes images of {sizes[0]}, {b.label} of {sizes[1]}: they must be the same")
    require_cupy(device)
    dataset = load(identity.problem, a.store.request().data if data is None else data)
    if dataset.digest != identity.data_digest:
        raise ValueError(f"the data are not those that {a.store.problem} was trained on: see --data")
    probe = make_probe(identity, dataset)
    models = [_Seeing(one, spec, device) for one, spec in ((a, identity), (b, theirs))]
    names = [list(model.names) for model in models]
    with threads(identity.threads):
        found = compare(models[0], models[1], probe.images, layers=names, metrics=metrics, device=device)
    return _renamed(found, models[0].names, models[1].names)


class _Seeing(nn.Module):
    """A stored network that takes images as bytes, and puts what each compared layer gives through a module of its own.

    A layer is one call of a module, with its channels where `build` found them; `compare` knows modules only.
    """

    def __init__(self, stored: Stored, identity: Identity, device: str) -> None:
        super().__init__()
        problem = identity.problem
        self.network: Network = build(problem)
        self.network.load_state_dict(stored.store.load_network(stored.network).weights)
        if problem.recipe.normalise is None:
            raise ValueError(f"{stored.store.problem}: the recipe has no normalisation")
        mean, sd = (torch.tensor(values, dtype=torch.float32) for values in problem.recipe.normalise)
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


def _renamed(found: Similarities, names_x: dict[str, str], names_y: dict[str, str]) -> Similarities:
    """With the layers' own names for those of their modules."""
    rows = tuple(
        Row(**{**row, "layer_x": names_x[row["layer_x"]], "layer_y": names_y[row["layer_y"]]}) for row in found.rows
    )
    return dataclasses.replace(
        found,
        layers_x=tuple(names_x[name] for name in found.layers_x),
        layers_y=tuple(names_y[name] for name in found.layers_y),
        rows=rows,
    )
