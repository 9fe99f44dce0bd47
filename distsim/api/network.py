"""One network of a study: a module with its weights, its masks, its record, its activations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distsim import extras, specs
from distsim.activations.probe import held, layer_shapes, make_probe
from distsim.api.data import placed
from distsim.api.exporting import Format, files_of
from distsim.data import Dataset, load, suited
from distsim.data.arrays import as_images
from distsim.data.augment import normalisation, normalise
from distsim.data.fit import fit_all
from distsim.environment import threads
from distsim.models import Network, build
from distsim.named_files import place, write_together
from distsim.store import SweepStore
from distsim.store.activations import LayerArray, Reader
from distsim.store.commits import read_object
from distsim.store.logits import read as read_logits

if TYPE_CHECKING:
    import xarray

DIMENSIONS = {4: ("example", "row", "column", "channel"), 2: ("example", "feature")}


@dataclass(frozen=True, repr=False)
class StudyNetwork:
    """A network of a store, as `Study.network` returns it. Each part is read on first use."""

    store: SweepStore
    which: specs.NetworkId
    record: dict[str, Any]  # iteration, remaining, accuracy, loss, epochs, ...
    dataset: Dataset | None = None  # the study's, where it is at hand

    def __repr__(self) -> str:
        of, record = self.store.problem, self.record
        accuracy, remaining = record["accuracy"], record["remaining"]
        return f"<{self.which.label} of {of}: accuracy {accuracy:.4f}, remaining {remaining:.3f}>"

    @cached_property
    def model(self) -> nn.Module:
        """The network with its weights, on the CPU, in eval mode. It takes what `inputs` returns."""
        network = self._built
        network.load_state_dict(self.weights)
        return network.eval()

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Parameter or buffer -> its values, on the CPU. Pruned weights are zero."""
        return dict(self.store.load_network(self.which).weights)

    @property
    def identity(self) -> str:
        """The hash of what determines the study's numbers."""
        return self._identity.hash

    def export(self, path: Any, to: Format = "state_dict") -> Path:
        """Write the weights to a file for other programs, and return its path. Errors are those of `exported`.

        Beside it, under the same name and `.json`, lies what the network is (`distsim.api.exporting.described`).

        to : state_dict, torch_prune or safetensors, as `distsim.api.exporting.exported` describes them
        """
        file = place(path, "path")
        write_together(files_of(self, file, to), "path")
        return file

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """Parameter -> bool, True where it is alive. Parameters that are never pruned have none."""
        return {name: mask.bool() for name, mask in self.store.load_masks(self.which).items()}

    @cached_property
    def problem(self) -> specs.Problem:
        return self._identity.problem

    @cached_property
    def logits(self) -> NDArray[Any]:
        """The network's logits of the test images, (n, classes), less the largest of each image, in float16 or float32.

        FileNotFoundError: the store holds none, since it was not asked to measure `functional`.
        """
        mark = self.store.piece_mark(self.which, "logits")
        if mark is None:
            raise FileNotFoundError(
                f"the store has no test logits of {self.which.label}: distsim run STORE --measure functional"
            )
        return read_logits(self.store, self.which, mark).margins

    @property
    def _whose(self) -> dict[str, Any]:
        """Return the attributes that name another complete network and a control."""
        complete = {"complete": self.which.complete} if self.which.complete else {}
        return complete | ({"control": self.which.control} if self.which.control else {})

    @property
    def layers(self) -> list[str]:
        """Names of the layers that are compared, from input to output."""
        return self._reader.layers if self._reader is not None else [layer.name for layer in self._built.layers]

    def inputs(self, images: Any) -> Tensor:
        """Return images as the model takes them: normalised float32, (n, channels, size, size).

        images : in any form that `distsim.run` takes, (n, h, w), (n, c, h, w) or (n, h, w, c); of another size they are
        resized as in training.
        """
        problem = self.problem
        fitted = fit_all(as_images(images, "inputs"), problem.size, problem.channels)
        return normalise(torch.from_numpy(fitted), *normalisation(problem.recipe))

    def activations(self, layer: str, data: Any = None) -> xarray.DataArray:
        """Return a layer's responses to the probe, an `xarray.DataArray`.

        Its dimensions are (example, row, column, channel) or (example, feature); the coordinate `example` numbers the
        training images, or the test images (`Problem.probe_from`). Stored activations are read lazily: only the values
        that are used. Others are computed again from the data, the same values that were compared.

        data : as for `distsim.run`; by default the last known location
        ValueError: there is no such layer, or the data are not those of the study. ImportError: xarray is missing.
        """
        extras.require("an array with named dimensions", ["xarray"])
        import xarray

        if layer not in self.layers:
            raise ValueError(f"layer must be one of {', '.join(self.layers)}, got {specs.shown(layer)}")
        if self._reader is not None:
            stored = self._reader.layer(layer)
            values, kind, origin = _lazy(stored), stored.kind, "store"
        else:
            values, kind = self._recomputed(layer, data)
            origin = "recomputed"
        attributes = {"problem": self.store.problem, "iteration": self.which.iteration, "kind": kind, "origin": origin}
        return xarray.DataArray(
            xarray.Variable(
                DIMENSIONS[values.ndim],
                values,
                attributes | ({} if self.which.run is None else {"run": self.which.run}) | self._whose,
            ),
            coords={"example": self._examples},
            name=layer,
        )

    # --- what they are made from -------------------------------------------------------------------------------------

    @property
    def _built(self) -> Network:
        try:
            return build(self.problem)
        except ValueError as error:
            raise ValueError(
                f"{error}; add your own with distsim.Problem(model=...), or to distsim.models.MODELS"
            ) from None

    @cached_property
    def _identity(self) -> specs.Identity:
        return self.store.identity()

    @cached_property
    def _reader(self) -> Reader | None:
        mark = self.store.activations_mark(self.which)
        return None if mark is None else Reader(self.store.storage, self.store.activations_path(self.which), mark)

    @cached_property
    def _examples(self) -> list[int]:
        """Numbers of the images that are the probe, in the training or the test set (Problem.probe_from)."""
        origin = self.which.origin
        mark = self.store.committed(origin)
        return list(json.loads(read_object(self.store.storage, origin.path, mark, "probe.json"))["indices"])

    def _recomputed(self, name: str, data: Any) -> tuple[Any, str]:
        """Return a layer's values, a NumPy array in the dtype that a store would have, and the layer's kind."""
        identity, network = self._identity, self._built
        network.load_state_dict(self.store.load_network(self.which).weights)
        (layer,) = (layer for layer in network.layers if layer.name == name)
        shape = layer_shapes(network, identity.problem)[name]
        with threads(identity.threads):
            probe = make_probe(identity, self._dataset(data))
            label = f"{self.store.problem}, {self.which.label}"
            return held(network, probe, layer, shape, identity.storage, label).numpy(), layer.kind

    def _dataset(self, data: Any) -> Dataset:
        identity = self._identity
        if data is None and self.dataset is not None:
            return self.dataset
        _, location, dataset = placed(identity.problem, data)
        if data is None:
            location = self.store.request().data
        if dataset is None:
            dataset = load(identity.problem, location, reading=self.store.request().reading)
        else:
            dataset = suited(identity.problem, dataset)
        if dataset.digest != identity.data_digest:
            raise ValueError(f"data: these are not the data that {self.store.problem} was trained on")
        return dataset


def _lazy(stored: LayerArray) -> Any:
    """Wrap the stored array for xarray, which reads parts of it when their values are needed."""
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class Lazy(BackendArray):  # type: ignore[misc]  # xarray is not always there
        def __init__(self) -> None:
            self.shape, self.dtype = stored.shape, np.dtype(stored.dtype)

        def __getitem__(self, key: Any) -> Any:
            support = indexing.IndexingSupport.BASIC
            return indexing.explicit_indexing_adapter(key, self.shape, support, stored.read)

    return indexing.LazilyIndexedArray(Lazy())


def network_of(store: SweepStore, which: specs.NetworkId, dataset: Dataset | None = None) -> StudyNetwork:
    """Return a committed network. FileNotFoundError: it is not in the store; the message says what is."""
    mark = store.mark(which)
    if mark is None:
        raise FileNotFoundError(
            f"{which.label} of {store.problem} is not in {store.root.url}, which holds {_held(store)}"
        )
    return StudyNetwork(store, which, dict(mark.values), dataset)


def _held(store: SweepStore) -> str:
    networks = store.contents().networks
    if not (runs := sorted({network.run for network in networks if network.run is not None})):
        return "no pruned network"
    last = max(network.iteration for network in networks)
    return f"iterations up to {last} of the runs {', '.join(map(str, runs))}"
