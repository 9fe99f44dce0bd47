"""The models of a comparison: networks to run, or activations that were recorded elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from distsim.comparison.choosing import Selector, choose_names
from distsim.comparison.inputs import Data
from distsim.comparison.recording import LayerOutput, layer_output

Model = Any  # an nn.Module, an array of activations (n, ...), or a dict of them by layer
ALONE = "activations"  # name of the layer, where activations are one array
KINDS = "a torch.nn.Module, an array of activations, or a dict of such arrays by layer"


class Given:
    """Activations that exist already: what `distsim.comparison.recording.Recording` is once it has run."""

    def __init__(
        self, label: str, activations: Model, selectors: Sequence[Selector] | None, channels: Mapping[str, int]
    ) -> None:
        """Take the arrays of the chosen layers. label, selectors, channels : as for a Recording

        FloatingPointError: a value is not finite. TypeError, ValueError: an array is not as described.
        """
        self.label, self.left_out = label, dict[str, str]()
        layers = activations if isinstance(activations, Mapping) else {ALONE: activations}
        layers = {str(name): values for name, values in layers.items()}
        names = list(layers) if selectors is None else choose_names(label, list(layers), selectors)
        self.outputs = [_output(label, name, layers[name], channels.get(name)) for name in names]
        lengths = {output.name: output.shape[0] for output in self.outputs}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{label}: layers have unequal numbers of examples: {lengths}")


def _output(label: str, name: str, values: Any, channels: int | None) -> LayerOutput:
    where = f"{label}: layer {name!r}"
    if isinstance(values, torch.Tensor):
        values = values.detach().float().cpu().numpy() if values.is_floating_point() else values.cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{where} holds {array.dtype}; expected real numbers")
    if array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise ValueError(f"{where} is {array.shape}; expected (n, p), (n, t, d) or (n, c, h, w)")
    axis = channels if channels is not None else 1 if array.ndim == 4 else -1
    if axis % array.ndim == 0 or not -array.ndim <= axis < array.ndim:
        raise ValueError(f"{where} is {array.shape}, whose channels cannot be dimension {axis}")
    if not np.isfinite(array).all():
        raise FloatingPointError(f"{where} has activations that are not finite")
    last = np.ascontiguousarray(np.moveaxis(array, axis, -1), np.float32)
    return layer_output(name, last, array.ndim - 2)


def is_model(value: Any) -> bool:
    """Return whether this can be one of the models of a comparison."""
    if isinstance(value, Mapping):
        return bool(value) and all(_is_array(one) for one in value.values())
    return isinstance(value, nn.Module) or _is_array(value)


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray)


def models_of(first: Any, second: Any, data: Data) -> tuple[dict[str, Model], bool, Data]:
    """Return the models by name, whether the caller named them, and the data.

    first, second, data : the arguments of `distsim.compare`: two models and data, or several models and data
    TypeError, ValueError: they are nothing of this.
    """
    several = _several(first, alone=second is None)
    if several is None:
        models, named = {"model_a": first, "model_b": second}, False
    else:
        if data is None:
            second, data = None, second
        if second is not None:
            raise TypeError("compare takes two models and data, or several models and data: compare({...}, data)")
        models, named = several, isinstance(first, Mapping)
    if len(models) < 2:
        raise ValueError(
            f"compare needs two models at least, got {', '.join(models) or 'none'}; a model may be given twice"
        )
    if several is None and second is None:
        raise TypeError("compare needs two models and data: compare(model_a, model_b, data)")
    for name, model in models.items():
        if not is_model(model):
            raise TypeError(f"{name} must be {KINDS}, got {_kind(model)}")
    _require_data(models, data)
    return models, named, data


def _several(first: Any, alone: bool) -> dict[str, Model] | None:
    """Return the models that one argument holds, or None if it is a model. alone : it is the only argument"""
    if isinstance(first, Mapping):
        if is_model(first) and not alone:
            return None
        return {str(name): model for name, model in first.items()}
    if isinstance(first, list | tuple):
        return {f"model_{_letters(place)}": model for place, model in enumerate(first)}
    return None


def _letters(place: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    before = _letters(place // 26 - 1) if place >= 26 else ""
    return before + chr(ord("a") + place % 26)


def _require_data(models: Mapping[str, Model], data: Data) -> None:
    networks = [name for name, model in models.items() if isinstance(model, nn.Module)]
    if networks and data is None:
        raise TypeError(
            f"compare needs data: inputs that {networks[0]} is run on, as in compare(model_a, model_b, data)"
        )
    if not networks and data is not None:
        raise TypeError("all models are activations already, so leave data out")


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(sorted({type(one).__name__ for one in value.values()})) or 'nothing'}"
    return type(value).__name__
