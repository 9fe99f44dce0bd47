"""The choice of the layers that are compared: those that patterns name, or those of a rule.

The rule takes every call of an activation module that follows a convolution, every pooling, every call of an activation
module that follows a linear layer, and the output. If no activation module follows any convolution (because activations
are functions), the convolutions themselves are taken, or the batch norms that come next. Linear layers likewise.
"""

import dataclasses
import difflib
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from distsim.models.calls import ACTIVATIONS, CONVOLUTIONS, NORMS, POOLINGS, Call
from distsim.models.layers import Layer

BATCH_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
CONV_LIKE = (CONVOLUTIONS, *NORMS, *ACTIVATIONS)
IMAGES = 3  # in the batch on which a network is run to see which modules run
SHAPES = "only (n, c, h, w), (n, t, d) and (n, p) can be compared, with n the number of images"


def output_of(ran: Sequence[Call]) -> str:
    """Return the path of the last convolution or linear layer that ran, or "" if none did."""
    paths = [call.path for call in ran if isinstance(call.module, CONVOLUTIONS | nn.Linear)]
    return paths[-1] if paths else ""


def declared(
    layers: Sequence[Layer], ran: Sequence[Call], single: Sequence[Call], patterns: Sequence[str]
) -> tuple[Layer, ...]:
    """Return those of a network's own `layers` that the patterns name, or all if there are no patterns.

    ran, single : as in `chosen`
    ValueError: a pattern names no layer, or a layer does not run or cannot be compared.
    """
    for pattern in patterns:
        if not any(_matches(pattern, layer.name, layer.module) for layer in layers):
            raise ValueError(_no_match(pattern, [layer.name for layer in layers]))
    named = tuple(x for x in layers if not patterns or any(_matches(pattern, x.name, x.module) for pattern in patterns))
    for layer in named:
        of_module = [call for call in ran if call.path == layer.module and layer.call in (0, call.call)]
        if not of_module:
            which = f"call {layer.call} of " if layer.call else ""
            raise ValueError(f"layer {layer.name}: {which}its module {layer.module!r} does not run")
        alone = {(call.path, call.call): call for call in single}
        if fault := _fault(of_module[-1], alone.get((layer.module, of_module[-1].call)), IMAGES):
            raise ValueError(f"layer {layer.name} {fault}; {SHAPES}")
    return named


def chosen(ran: Sequence[Call], result: torch.Tensor, single: Sequence[Call], patterns: Sequence[str]) -> list[Layer]:
    """Return the layers to compare, in the order in which they are computed.

    ran, result : calls and output for IMAGES images; single : calls for one of them; patterns : () for the rule
    ValueError: a pattern names no module that runs, or a named module's output cannot be compared.
    """
    out = _out(ran, result)
    times = Counter(call.path for call in ran)
    names = {call: f"{call.path}@{call.call}" if times[call.path] > 1 else call.path for call in ran}
    names[out] = names[out] or ("out" if "out" not in names.values() else "output")
    alone = {(call.path, call.call): call for call in single}
    wanted = _named(ran, names, patterns) if patterns else _ruled(ran, out)
    layers = []
    for call in wanted:
        fault = _fault(call, alone.get((call.path, call.call)), IMAGES)
        if fault and (patterns or call is out):
            raise ValueError(f"layer {names[call]} {fault}; {SHAPES}")
        if not fault:
            layers.append(_layer(call, names[call], call is out, times[call.path]))
    return layers


def _named(ran: Sequence[Call], names: dict[Call, str], patterns: Sequence[str]) -> list[Call]:
    wanted: set[Call] = set()
    for pattern in patterns:
        named = {call for call in ran if names[call]}
        exact = {call for call in named if pattern in (names[call], call.path)}  # names may have brackets
        matching = exact or {call for call in named if _matches(pattern, names[call], call.path)}
        if not matching:
            raise ValueError(_no_match(pattern, [name for name in names.values() if name]))
        wanted |= matching
    return [call for call in ran if call in wanted]


def _matches(pattern: str, name: str, path: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(path, pattern)


def _no_match(pattern: str, names: list[str]) -> str:
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5) or names[:3]
    return f"layers: {pattern!r} names no module that runs; near: {', '.join(map(repr, near))}"


def _ruled(ran: Sequence[Call], out: Call) -> list[Call]:
    leaves = [call for call in ran if call.leaf]
    hidden = [call for call in leaves if call.path != output_of(ran)]
    wanted: set[Call] = {out}
    for kind, weighted in (("conv", CONVOLUTIONS), ("fc", nn.Linear)):
        activations = [x for x in leaves if x.after == kind and isinstance(x.module, ACTIVATIONS)]
        wanted |= set(activations or _with_norm(hidden, weighted))
    wanted |= {call for call in leaves if isinstance(call.module, POOLINGS)}
    return [call for call in ran if call in wanted]


def _with_norm(leaves: Sequence[Call], weighted: type[nn.Module]) -> list[Call]:
    """Return the calls of `weighted` modules, or of the batch norms that run next."""
    taken = []
    for call, following in zip(leaves, [*leaves[1:], None], strict=True):
        if isinstance(call.module, weighted):
            taken.append(following if following is not None and isinstance(following.module, BATCH_NORMS) else call)
    return taken


def _out(ran: Sequence[Call], result: torch.Tensor) -> Call:
    """Return the last call of a leaf module whose output is the network's; else that of the innermost such module.

    The network itself counts as a module.
    """
    same = [x for x in ran if x.output is not None and torch.equal(x.output, result)]
    leaves = [call for call in same if call.leaf]
    return leaves[-1] if leaves else (same or [ran[-1]])[0]


def _fault(call: Call, single: Call | None, images: int) -> str:
    """Return why a call's output cannot be compared as a layer, or "" if it can.

    single : the same call for one image; images : in the batch of `call`
    """
    if call.output is None:
        return "returns no tensor (but a tuple, say): name a module in it, or an nn.Identity() that gets the tensor"
    shape = tuple(call.output.shape)
    if single is None or single.output is None:
        return "does not run for a single image"
    if not call.output.is_floating_point():
        return f"returns {call.output.dtype}"
    if len(shape) not in (2, 3, 4) or 0 in shape:
        return f"returns {shape} for {images} images"
    if shape[0] != images or tuple(single.output.shape) != (1, *shape[1:]):
        return f"returns {shape} for {images} images and {tuple(single.output.shape)} for one"
    return ""


def _layer(call: Call, name: str, out: bool, times: int) -> Layer:
    assert call.output is not None
    flat = call.output.ndim == 2
    if out:
        kind = "out"
    elif isinstance(call.module, POOLINGS):
        kind = "pool"
    elif flat:
        kind = "fc"
    else:
        spatial = call.output.ndim == 4 and isinstance(call.module, CONV_LIKE)
        kind = "conv" if spatial and call.after == "conv" else "other"
    layer = Layer(name, kind, call.path, call.call if times > 1 else 0)
    expected = 1 if call.output.ndim == 4 else call.output.ndim - 1
    return layer if call.axis == expected else dataclasses.replace(layer, axis=call.axis)
