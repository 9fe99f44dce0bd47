"""The models and inputs that a command line names: of scripts, of files, of folders of images."""

import argparse
import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distsim.data import load
from distsim.data.augment import normalise
from distsim.data.folder import expanded
from distsim.data.loose import read_images
from distsim.problems import PROBLEMS
from distsim.sweep.own_code import imported

FILES = (".npy", ".npz", ".safetensors")
PUBLISHED = ("digits", "cifar10", "mnist", "svhn")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HOW = "a model is script.py:NAME, package.module:NAME, or a file of activations (.npy, .npz, .safetensors)"


# --- models ----------------------------------------------------------------------------------------------------------


def names_of(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the models' names, each once, and their places. ValueError: there are too few, or two of one label."""
    if len(texts) < 2:
        raise ValueError(f"there is one model, {texts[0]}: name two at least (the same one twice compares its layers)")
    names, places = list[str](), list[str]()
    for text in texts:
        match = re.match(r"([^=/\\:]+)=(.+)", text)
        label, place = (match[1], match[2]) if match else ("", text)
        if label in names:
            raise ValueError(f"two models have the name {label}: give each its own, as in a=script.py:make")
        name = label or _short(place)
        number = 2
        while name in names:
            name, number = f"{_short(place)} {number}", number + 1
        names.append(name)
        places.append(place)
    return names, places


def _short(place: str) -> str:
    return Path(place).stem if place.lower().endswith(FILES) else place.rpartition(":")[2] or place


def model(place: str, device: str) -> Any:
    """Return the model at a place: a module on the device, or its activations by layer.

    ValueError: there is none; the message says what was found. FileNotFoundError: there is no such file.
    """
    if place.lower().endswith(FILES):
        return _arrays(place)
    if ":" not in place:
        if expanded(place).is_dir():
            raise ValueError(f"{place} is a folder: {HOW}. Networks of a store are compared by distsim layers")
        raise ValueError(f"{place} is not a model: {HOW}")
    made = _named(place)
    if isinstance(made, type) or (callable(made) and not isinstance(made, nn.Module)):
        made = _called(place, made)
    if not isinstance(made, nn.Module):
        raise ValueError(f"{place} is {_kind(made)}; a model is a torch.nn.Module, or a function that returns one")
    return made.to(device)


def _named(place: str) -> Any:
    """Return what a name in a script or a module is. ValueError: nothing is there."""
    source, _, name = place.rpartition(":")
    if source.endswith(".py"):
        module: Any = imported(source)
    else:
        try:
            module = importlib.import_module(source)
        except Exception as error:  # the user's code may raise anything
            raise ValueError(f"{source} cannot be imported: {type(error).__name__}: {error}") from error
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            there = [key for key, value in vars(module).items() if callable(value) or isinstance(value, nn.Module)]
            public = [key for key in there if not key.startswith("_")][:10]
            raise ValueError(f"{source} has no {name!r}; it has {', '.join(public) or 'nothing that could be meant'}")
        found = getattr(found, part)
    return found


def _called(place: str, make: Callable[..., Any]) -> Any:
    try:
        required = [
            name
            for name, one in inspect.signature(make).parameters.items()
            if one.default is one.empty
            and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        ]
    except (TypeError, ValueError):
        required = []
    if required:
        raise ValueError(
            f"{place} needs the arguments {', '.join(required)}: name a function without arguments that calls it"
        )
    try:
        return make()
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{place} fails: {type(error).__name__}: {error}") from error


def selectors(texts: Sequence[str], models: Mapping[str, Any]) -> list[Any]:
    """Return what chooses layers: names and patterns as they are, names of types as the types.

    A text is a type if no layer has that name and the modules of a model are of a class with it.
    """
    networks = [one for one in models.values() if isinstance(one, nn.Module)]
    named = {name for network in networks for name, _ in network.named_modules()}
    kinds = {type(module).__name__: type(module) for network in networks for module in network.modules()}
    chosen = [kinds[text] if text in kinds and text not in named else text for text in texts]
    return list(dict.fromkeys(chosen))


# --- inputs ----------------------------------------------------------------------------------------------------------


def inputs(flags: argparse.Namespace) -> Any:
    """Return the inputs that --data names, as `distsim.compare` takes them. ValueError, FileNotFoundError: none."""
    where, examples = flags.data, flags.examples
    if where in PUBLISHED:
        return _as_inputs(_published(where), flags)
    if where.startswith("folder:"):
        images = read_images(where.removeprefix("folder:"), flags.size, 1 if flags.grey else 3, examples)
        return _as_inputs(images, flags)
    if where.lower().endswith(FILES):
        arrays = _arrays(where)
        if where.lower().endswith(".npy") or len(arrays) == 1:
            return _spread(next(iter(arrays.values())), examples)
        return {name: _spread(array, examples) for name, array in arrays.items()}
    if ":" in where:
        made = _named(where)
        if callable(made) and not isinstance(made, torch.Tensor):
            made = _called(where, made)
        if isinstance(made, torch.Tensor | np.ndarray):
            return _spread(made, examples)
        if made is None:
            raise ValueError(
                f"--data {where} returns None; expected a tensor, an array, a dict of them or a DataLoader"
            )
        return made
    raise ValueError(
        f"--data {where} is not one of folder:PATH, a file ({', '.join(FILES)}), {', '.join(PUBLISHED)}, "
        "or script.py:NAME"
    )


def _published(name: str) -> Any:
    """Return the test images of a published data set; of digits all images, which are few."""
    problem = next(problem for problem in PROBLEMS.values() if problem.source == name)
    problem = dataclasses.replace(problem, classes=(), train_limit=None)
    try:
        dataset = load(problem, "")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--data {name} is not on this machine yet: {error}") from error
    if name == "digits":
        return np.concatenate([dataset.train_images, dataset.test_images])
    return dataset.test_images


def _as_inputs(images: Any, flags: argparse.Namespace) -> torch.Tensor:
    """Return images (n, c, h, w) of bytes as numbers from 0 to 1, normalised as asked."""
    tensor = torch.from_numpy(_spread(images, flags.examples))
    channels = tensor.shape[1]
    scaled = tensor.float() / 255
    if flags.normalise == "none":
        return scaled
    if flags.normalise == "data":
        mean, sd = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3)).clamp_min(1e-6)
    elif channels == 3:
        mean, sd = (torch.tensor(values) for values in IMAGENET)
    else:
        raise ValueError(f"--normalise imagenet is for images of three channels; these have {channels}")
    return normalise(tensor, mean, sd)


def _spread(array: Any, examples: int) -> Any:
    """Return this many of the rows, evenly spread, or all if there are no more."""
    if getattr(array, "ndim", 0) == 0 or len(array) <= examples:
        return array
    return array[np.arange(examples) * len(array) // examples]


def _arrays(file: str) -> dict[str, Any]:
    """Return the arrays of a .npy, .npz or .safetensors file, by name. ValueError: it is damaged, or holds objects."""
    path = expanded(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    ending = path.suffix.lower()
    try:
        if ending == ".safetensors":
            from safetensors.torch import load_file

            loaded = load_file(path)  # such a file keeps no order
            found: dict[str, Any] = {name: loaded[name] for name in sorted(loaded, key=_by_number)}
        else:
            loaded = np.load(path, allow_pickle=False)
            found = {name: loaded[name] for name in loaded.files} if ending == ".npz" else {path.stem: loaded}
    except Exception as error:  # a damaged file makes NumPy, zipfile and safetensors raise many kinds
        raise ValueError(f"{file} cannot be read as {ending}: {error}") from error
    if not found:
        raise ValueError(f"{file} holds no array")
    return found


def _by_number(name: str) -> list[tuple[int, str]]:
    """Return by what names of layers are sorted: layer2 before layer10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part) if place % 2 else 0, part) for place, part in enumerate(parts)]


def _kind(made: object) -> str:
    return "None" if made is None else f"of type {type(made).__name__}"
