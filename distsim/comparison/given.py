"""The models of a comparison: networks to run, or activations that were recorded elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distsim.comparison.choosing import Selector, choose_names
from distsim.comparison.inputs import Data
from distsim.comparison.recording import LayerOutput, layer_output

Model = Any  # an nn.Module, an array of activations (n, ...), or a dict of them by layer
LARGEST = 1e60  # of the largest value: metrics take fourth powers, which float64 must hold; nor less than 1/LARGEST
STEPS = 1000  # of float64 between a channel's smallest and largest value, where it had more digits before
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
        layers = _by_name(label, layers)
        names = list(layers) if selectors is None else choose_names(label, list(layers), selectors)
        self.outputs = [_output(label, name, layers[name], channels.get(name)) for name in names]
        lengths = {output.name: output.shape[0] for output in self.outputs}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{label}: layers have unequal numbers of examples: {lengths}")


def _by_name(label: str, given: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a dict with its keys as text. ValueError: two keys are the same text. label : whose they are"""
    named = {str(name): value for name, value in given.items()}
    if len(named) < len(given):
        texts = [str(name) for name in given]
        twice = next(name for name in named if texts.count(name) > 1)
        raise ValueError(f"{label} has two keys that both read {twice!r}: give them different names")
    return named


def _output(label: str, name: str, values: Any, channels: int | None) -> LayerOutput:
    where = f"{label}: layer {name!r}"
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{where} is a masked array, whose mask no metric takes: leave examples out, or use .filled()")
    if isinstance(values, torch.Tensor):
        if values.layout != torch.strided or values.is_quantized or values.is_meta:
            kind = "a quantised" if values.is_quantized else "a meta" if values.is_meta else "a sparse"
            raise TypeError(f"{where} is {kind} tensor; expected a dense one of real numbers")
        narrow = values.is_floating_point() and values.dtype != torch.float64  # NumPy has no bfloat16
        values = (values.detach().float() if narrow else values.detach()).cpu().numpy()
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
    return layer_output(name, _held(where, np.moveaxis(array, axis, -1)), array.ndim - 2)


def _held(where: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return real numbers as float32 if it holds them all, and otherwise as float64. where : names them in errors

    ValueError: they are so large, so small or so close together that float64 does not tell them apart.
    """
    if array.dtype in (np.float32, np.float16):
        return np.ascontiguousarray(array, np.float32)
    with np.errstate(over="ignore", under="ignore"):
        narrow: NDArray[Any] = np.ascontiguousarray(array, np.float32)
        wide: NDArray[np.float64] = np.ascontiguousarray(array, np.float64)
    held = narrow if np.array_equal(narrow, wide) else wide
    largest = float(np.abs(held).max())
    if largest and not 1 / LARGEST <= largest <= LARGEST:
        raise ValueError(
            f"{where} has values up to {largest:g}; expected {1 / LARGEST:g} to {LARGEST:g}: multiply them by a number"
        )
    if _is_coarse(array, wide):
        raise ValueError(
            f"{where} has a channel whose values differ by less than float64 holds beside their size: "
            "subtract a number from them"
        )
    return held


def _is_coarse(array: NDArray[Any], wide: NDArray[Any]) -> bool:
    """Return whether a channel, the last dimension, varies by less than `STEPS` steps of the float64 it became."""
    with np.errstate(invalid="ignore"):
        if np.array_equal(wide.astype(array.dtype), array):
            return False
    axes = tuple(range(array.ndim - 1))
    exact = object if array.dtype.kind in "iu" else array.dtype  # Python's whole numbers are of any size
    span = array.max(axes).astype(exact) - array.min(axes).astype(exact)
    return bool(((span > 0) & (span < STEPS * np.spacing(np.abs(wide).max(axes)))).any())


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
        return _by_name("the dict of models", first)
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
