"""Networks of a study as files for other programs."""

import io
import json
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from distsim import __version__
from distsim.specs import NetworkId, Problem

Format = Literal["state_dict", "torch_prune", "safetensors"]
ENDINGS: dict[Format, str] = {"state_dict": "pt", "torch_prune": "pt", "safetensors": "safetensors"}
OPEN_FILES = ("/dev", "/dev/fd", "/proc/self/fd")  # where names of open files are, such as /dev/stdout


class Exportable(Protocol):
    """What is asked of a network: it is a `distsim.api.network.StudyNetwork`."""

    @property
    def which(self) -> NetworkId: ...

    @property
    def record(self) -> dict[str, Any]: ...

    @property
    def problem(self) -> Problem: ...

    @property
    def identity(self) -> str: ...

    @property
    def weights(self) -> dict[str, Tensor]: ...

    @property
    def masks(self) -> dict[str, Tensor]: ...


def exported(network: Exportable, to: Format = "state_dict") -> bytes:
    """Return a network's weights as the bytes of a file. The network's code is not needed.

    state_dict     what torch.save writes of a dict of tensors, under the names of the network's own parameters and
                   buffers; torch.load reads it with weights_only=True
    torch_prune    the same as torch.nn.utils.prune keeps it: of each pruned parameter `name` a `name_orig` and a
                   `name_mask`, for a network to which prune.identity was applied in the same places
    safetensors    weights by name, and what `described` says as metadata

    ValueError: another format.
    """
    if to not in ENDINGS:
        raise ValueError(f"a network is exported to {', '.join(ENDINGS)}, got {to!r}")
    weights = {name: value.contiguous() for name, value in network.weights.items()}
    if to == "safetensors":
        import safetensors.torch

        said = described(network)
        metadata = {name: text if isinstance(text, str) else json.dumps(text) for name, text in said.items()}
        return safetensors.torch.save(weights, {"format": "pt", **metadata})
    if to == "torch_prune":
        weights = _reparametrised(weights, network.masks)
    written = io.BytesIO()
    torch.save(weights, written)
    return written.getvalue()


def files_of(network: Exportable, file: Path, to: Format) -> dict[Path, bytes]:
    """Return what an export writes: the network into this file, and what it is into a JSON file beside it.

    A pipe or a device, such as /dev/stdout, has nothing beside it. Errors are those of `exported`.
    """
    files = {file: exported(network, to)}
    if not _is_stream(file):
        about = json.dumps(described(network), indent=1, ensure_ascii=False) + "\n"
        files[about_of(file)] = about.encode()
    return files


def _is_stream(file: Path) -> bool:
    """Return whether this is a pipe, a device, or a name of an open file. /dev/stdout may lead to a file, or be one."""
    return file.exists() and (not file.is_file() or str(file.absolute().parent) in OPEN_FILES)


def about_of(file: Path) -> Path:
    """Return the JSON file that says what an exported network is."""
    return file.with_name(f"{file.name}.json")


def _reparametrised(weights: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights and masks under the names of torch.nn.utils.prune."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name in masks:
            found |= {f"{name}_orig": value, f"{name}_mask": masks[name].to(value.dtype)}
        else:
            found[name] = value
    return found


def described(network: Exportable) -> dict[str, Any]:
    """Return what someone needs to use the file: the network's place in its study, and what its input must be."""
    problem, record = network.problem, network.record
    means, sds = problem.recipe.normalise or ((), ())
    return {
        "problem": problem.name,
        "network": network.which.label,
        "model": problem.model,
        "classes": list(problem.classes),
        "input": [problem.channels, problem.size, problem.size],
        "normalise": {"mean": list(means), "sd": list(sds)},  # of pixels in [0, 1]
        "accuracy": record["accuracy"],
        "remaining": record["remaining"],
        "study": network.identity,
        "distsim": __version__,
    }
