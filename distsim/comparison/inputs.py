"""What models are run on: batches of any form, and what a model is given of a batch."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from distsim.comparison.arguments import whole

Data = Any  # a tensor, an array, a dict of these, a Dataset, or an iterable of batches
Choice = str | int | Callable[[Any], Any]  # what a model is given of a batch: a key, a place, or a function of it
Forward = Callable[[nn.Module, Any], Any]
A_BATCH = "a batch must be a tensor or an array, a tuple or list that begins with one, or a dict of them"


# --- batches ---------------------------------------------------------------------------------------------------------


def batches(data: Data, batch_size: int) -> Iterator[Any]:
    """Yield the batches of the data that have examples, with arrays as tensors.

    data : a tensor or an array (n, ...), or a dict of these, which is cut; a Dataset of single examples; or an iterable
        of batches, which are taken as they are
    TypeError: it is nothing of these. ValueError: tensors of a dict have unequal numbers of examples.
    """
    if _is_whole(data):
        together = as_tensors(data)
        n = _length_of(together)
        yield from (cut(together, n, start, start + batch_size) for start in range(0, n, batch_size))
        return
    if isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        data = torch.utils.data.DataLoader(data, batch_size)
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise TypeError(
            f"data must be a tensor, an array, a dict of them, a Dataset or a DataLoader, got {type(data).__name__}"
        )
    for given in _read(data):
        batch = as_tensors(given)
        if rows(batch) != 0:
            yield batch


def _read(data: Iterable[Any]) -> Iterator[Any]:
    """Yield what the data yield. What their own code raises has a note that says so."""
    iterator = iter(data)
    while True:
        try:
            given = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            error.add_note("data fails when a batch is read")
            raise
        yield given


def _is_whole(data: Data) -> bool:
    """Return whether the data are all examples together, in tensors, and no batches of them."""
    return isinstance(data, torch.Tensor | np.ndarray | Mapping)


def _length_of(together: Any) -> int:
    if isinstance(together, np.ndarray):
        raise TypeError(f"data is an array of {together.dtype}; expected real numbers")
    if isinstance(together, torch.Tensor):
        if together.ndim == 0:
            raise TypeError("data is a single number; expected a tensor of inputs (n, ...)")
        return len(together)
    lengths = {key: len(value) for key, value in together.items() if isinstance(value, torch.Tensor) and value.ndim}
    if not lengths:
        kinds = ", ".join(f"{key}: {type(value).__name__}" for key, value in together.items())
        raise TypeError(
            f"data is a dict without tensors ({kinds}); a tokenizer or an image processor gives tensors with "
            'return_tensors="pt" (and padding=True)'
        )
    if len(set(lengths.values())) > 1:
        raise ValueError(f"data is a dict whose tensors have unequal numbers of examples: {lengths}")
    return next(iter(lengths.values()))


def number_of_batches(data: Data, batch_size: int) -> int | None:
    """Return how many batches there are, or None if only reading them tells. ValueError: `batch_size` is below 1."""
    batch_size = whole("batch_size", batch_size, 1)
    if _is_whole(data):
        return -(-_length_of(as_tensors(data)) // batch_size)
    try:
        length = len(data) if isinstance(data, Sized) else None
    except TypeError:  # a DataLoader over a stream
        return None
    is_dataset = isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.IterableDataset)
    return -(-length // batch_size) if length is not None and is_dataset else length


def examples(data: Data, first: int, batch_size: int) -> int:
    """Return a lower bound of the number of examples. first : how many are in the first batch"""
    if _is_whole(data):
        return _length_of(as_tensors(data))
    return max(1, (number_of_batches(data, batch_size) or 1) - 1) * first


# --- what is inside a batch ------------------------------------------------------------------------------------------


def as_tensors(batch: Any) -> Any:
    """Return a batch with its NumPy arrays as tensors, those of floating point in PyTorch's default precision.

    TypeError: an array is masked: a model would see what the mask hides.
    """
    if isinstance(batch, np.ma.MaskedArray):
        raise TypeError("data holds a masked array, whose mask no model takes: fill it with .filled(...) first")
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "fiub":
        known = np.dtype(np.float64) if batch.dtype.kind == "f" and batch.dtype.itemsize > 8 else batch.dtype
        tensor = torch.from_numpy(np.ascontiguousarray(batch, known.newbyteorder("=")))
        return tensor.to(torch.get_default_dtype()) if batch.dtype.kind == "f" else tensor
    if isinstance(batch, Mapping):
        return {key: as_tensors(value) for key, value in batch.items()}
    if isinstance(batch, tuple | list) and any(isinstance(x, torch.Tensor | np.ndarray | Mapping) for x in batch):
        return type(batch)(as_tensors(part) for part in batch) if type(batch) in (tuple, list) else batch
    return batch


def tensors(batch: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors inside a batch, in their order."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from tensors(value)


def rows(batch: Any) -> int | None:
    """Return the number of examples in a batch, which is the length of its first tensor; None: it has no tensor."""
    return next((len(tensor) for tensor in tensors(batch) if tensor.ndim), None)


def cut(batch: Any, n: int, start: int, stop: int) -> Any:
    """Return some examples of a batch of n: these rows of all tensors, and these items of lists, that are n long."""
    if isinstance(batch, torch.Tensor):
        return batch[start:stop] if batch.ndim and len(batch) == n else batch
    if isinstance(batch, Mapping):
        return {key: cut(value, n, start, stop) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        if next(tensors(batch), None) is None:  # a list of texts, say
            return batch[start:stop] if len(batch) == n else batch
        return _alike(batch, [cut(part, n, start, stop) for part in batch])
    return batch


def joined(one: Any, other: Any) -> Any:
    """Return two batches of one example, of the same form, as one batch. Errors are those of `torch.cat`."""
    if isinstance(one, torch.Tensor):
        return torch.cat([one, other]) if one.ndim and len(one) == 1 else one
    if isinstance(one, Mapping):
        return {key: joined(value, other[key]) for key, value in one.items()}
    if isinstance(one, tuple | list):
        if next(tensors(one), None) is None:  # a list of texts, say
            return one + other if len(one) == 1 else one
        return _alike(one, [joined(*parts) for parts in zip(one, other, strict=True)])
    return one


def copied(batch: Any, device: torch.device | None) -> Any:
    """Return a copy of a batch with its tensors on a device: the model may write into its inputs."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device or batch.device, copy=True)
    if isinstance(batch, Mapping):
        return {key: copied(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return _alike(batch, [copied(part, device) for part in batch])
    return batch


def _alike(batch: Any, parts: list[Any]) -> Any:
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a named tuple
        return type(batch)(*parts)
    return tuple(parts) if isinstance(batch, tuple) else parts


def shown(batch: Any) -> str:
    """Return what a batch is, for a message: the shapes and dtypes of its tensors."""
    if isinstance(batch, torch.Tensor):
        return f"{tuple(batch.shape)} of {str(batch.dtype).removeprefix('torch.')}"
    if isinstance(batch, Mapping):
        return f"a dict of {', '.join(f'{key}: {shown(value)}' for key, value in batch.items())}"
    if isinstance(batch, tuple | list) and next(tensors(batch), None) is not None:
        return f"a {type(batch).__name__} of {', '.join(shown(part) for part in batch)}"
    return type(batch).__name__


# --- what a model is given -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feed:
    """How a model is run on a batch.

    batch : what the model is given of it; None: a tensor as it is, of a tuple or list the first, a dict by keywords
    forward : runs the model on that; None: `model(inputs)`
    """

    batch: Choice | None = None
    forward: Forward | None = None

    def chosen(self, batch: Any, model: nn.Module, label: str) -> Any:
        """Return what the model gets of a batch: a tensor, a dict of keywords, or a tuple of arguments.

        With `forward` and without `batch` it is the whole batch. label : the model's name in errors
        TypeError, ValueError: it is nothing that a model can be given, or has no examples that can be counted.
        """
        if self.batch is None and self.forward is not None:
            chosen = batch
        elif callable(self.batch):
            chosen = as_tensors(self.batch(batch))
        else:
            chosen = self._of_place(batch, label)
        if rows(chosen) is None or not isinstance(chosen, torch.Tensor | Mapping | tuple | list):
            if self.batch is None:
                raise TypeError(f"{A_BATCH}, got {_kind(batch)}")
            raise TypeError(f"{label}: batch must choose a tensor, a tuple or a dict of tensors, got {_kind(chosen)}")
        return _taken(model, chosen, label) if isinstance(chosen, Mapping) and self.forward is None else chosen

    def _of_place(self, batch: Any, label: str) -> Any:
        if self.batch is None:
            return batch[0] if isinstance(batch, tuple | list) and batch else batch
        try:
            if isinstance(batch, torch.Tensor):  # of which a place would be an example
                raise TypeError
            return batch[self.batch]
        except (KeyError, IndexError, TypeError):
            there = f"a dict of {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else _kind(batch)
            raise ValueError(f"{label}: batch={self.batch!r} is not in the batch, which is {there}") from None

    def run(self, model: nn.Module, chosen: Any) -> None:
        """Run the model on what was chosen."""
        if self.forward is not None:
            self.forward(model, chosen)
        elif isinstance(chosen, Mapping):
            model(**chosen)
        elif isinstance(chosen, tuple | list):
            model(*chosen)
        else:
            model(chosen)


def _kind(batch: Any) -> str:
    if isinstance(batch, torch.Tensor):
        return f"a tensor of {tuple(batch.shape)}" if batch.ndim else "a single number"
    if isinstance(batch, np.ndarray):
        return f"an array of {batch.dtype}"
    return f"{type(batch).__name__}" + (
        f" of {type(batch[0]).__name__}" if isinstance(batch, tuple | list) and batch else ""
    )


def _taken(model: nn.Module, batch: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return the entries of a dict that the model's `forward` takes; all, if it takes any keyword.

    ValueError: it takes none of them.
    """
    try:
        parameters = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # written in C++
        return dict(batch)
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return dict(batch)
    taken = {key: value for key, value in batch.items() if key in parameters}
    if not taken:
        raise ValueError(
            f"{label}: its forward takes {', '.join(parameters) or 'nothing'}, and a batch is a dict of "
            f"{', '.join(map(str, batch))}: choose its input with batch={next(iter(batch), 'KEY')!r}, say, or run it "
            "with forward=lambda model, batch: ..."
        )
    return taken


def feeds(batch: Any, forward: Any, names: list[str]) -> list[Feed]:
    """Return how each of the models is run. batch, forward : for all of them, or a dict by their names.

    TypeError, ValueError: not as `distsim.compare` describes them.
    """
    of_batch, of_forward = _by_model("batch", batch, names), _by_model("forward", forward, names)
    for chosen in of_batch:
        if chosen is not None and (isinstance(chosen, bool) or not (isinstance(chosen, str | int) or callable(chosen))):
            raise TypeError(f"batch must be a key, a place or a function of a batch, got {chosen!r}")
    for run in of_forward:
        if run is not None and not callable(run):
            raise TypeError(f"forward must be a function (model, batch), got {run!r}")
    return [Feed(*both) for both in zip(of_batch, of_forward, strict=True)]


def _by_model(argument: str, value: Any, names: list[str]) -> list[Any]:
    if not isinstance(value, Mapping):
        return [value] * len(names)
    require_names(argument, value, names)
    return [value.get(name) for name in names]


def require_names(argument: str, value: Mapping[Any, Any], names: list[str]) -> None:
    """Check that a dict's keys are names of models. ValueError: one is not."""
    if unknown := [key for key in value if key not in names]:
        raise ValueError(f"{argument} names {unknown[0]!r}, which is not one of the models: {', '.join(names)}")
