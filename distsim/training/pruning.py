"""Pruning: which parameters compete, and exactly how many of them are removed.

A mask is a boolean tensor of its parameter's shape, True where the parameter is alive. Masks exist for prunable
parameters only.
"""

from collections.abc import Mapping

import torch
from torch import nn

from distsim.models import Network
from distsim.specs import Pruning, pruned_count

Masks = dict[str, torch.Tensor]


def pools(network: Network, pruning: Pruning) -> dict[str, tuple[float, list[str]]]:
    """Map each pool's name to its rate and parameter names. The parameters of a pool compete.

    A parameter of several modules (tied weights) is in one pool only, once, under its first name. If the output is not
    pruned, its parameters are in no pool, even where another module has them too.
    ValueError: no parameter may be pruned.
    """
    members: dict[str, tuple[float, list[str]]] = {}
    names_of: dict[torch.Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    output = dict(network.named_modules()).get(network.output)
    if isinstance(output, nn.Conv2d | nn.Linear) and not pruning.prune_output:
        for parameter in output.parameters():
            names_of.pop(parameter, None)
    for path, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        kind = "conv" if isinstance(module, nn.Conv2d) else "fc"
        rate = pruning.conv_rate if kind == "conv" else pruning.fc_rate
        pool = {"global": "all", "mixed": kind, "local": path}[pruning.scope]
        candidates = [module.weight, module.bias] if pruning.biases else [module.weight]
        names = [names_of.pop(parameter) for parameter in candidates if parameter in names_of]
        if names:
            members.setdefault(pool, (rate, []))[1].extend(names)
    if not members:
        raise ValueError("the network has no convolution or linear layer that may be pruned")
    return members


def full_masks(network: Network, pruning: Pruning) -> Masks:
    """Return the complete network's masks, in which everything is alive."""
    parameters = dict(network.named_parameters())
    names = [name for _, members in pools(network, pruning).values() for name in members]
    return {name: torch.ones(parameters[name].shape, dtype=torch.bool) for name in names}


def prune(
    network: Network,
    masks: Mapping[str, torch.Tensor],
    pruning: Pruning,
    at_random: torch.Generator | None = None,
    scores: Mapping[str, torch.Tensor] | None = None,
) -> Masks:
    """Return the masks after one more pruning, which removes the floor(rate · survivors) lowest of each pool.

    The lowest are those of the smallest magnitude among the network's present parameters, or of the smallest score.
    Among equal ones, the first is removed first: in the order of `named_modules`, then of the flattened parameter. The
    work is done on the network's device, or that of the scores. The masks are on the CPU.

    at_random : remove as many of each pool, drawn from this generator (of the CPU), whatever their magnitudes are
    scores : of each parameter (distsim.training.criteria); None: magnitudes
    ValueError: a surviving parameter, or its score, is not finite.
    """
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    ranked = {name: parameter.abs() for name, parameter in parameters.items()} if scores is None else scores
    result: Masks = {}
    for rate, names in pools(network, pruning).values():
        alive = torch.cat([masks[name].flatten().to(ranked[name].device) for name in names])
        score = torch.cat([ranked[name].flatten() for name in names])[alive]
        if not torch.isfinite(score).all():
            what = "a surviving parameter" if scores is None else "the score of a surviving parameter"
            raise ValueError(f"cannot prune: {what} is not finite")
        keep = torch.ones(len(score), dtype=torch.bool, device=score.device)
        count = pruned_count(rate, len(score))
        if at_random is None:
            keep[smallest(score, count)] = False
        else:
            keep[torch.randperm(len(score), generator=at_random)[:count].to(keep.device)] = False
        alive[alive.clone()] = keep
        sizes = [parameters[name].numel() for name in names]
        for name, part in zip(names, alive.split(sizes), strict=True):
            result[name] = part.reshape(parameters[name].shape).clone().cpu()
    return result


def smallest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices of the `count` smallest entries of a vector; among equal entries the earlier come first."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=values.device)
    if values.is_cuda:  # where kthvalue is refused under --deterministic
        threshold = values.sort().values[count - 1]
    else:
        threshold = values.kthvalue(count).values
    below = (values < threshold).nonzero().flatten()
    ties = (values == threshold).nonzero().flatten()[: count - len(below)]
    return torch.cat([below, ties])


def apply_masks(network: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    """Set every dead parameter to exactly zero, in place."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)


def remaining(network: nn.Module, masks: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """Return alive / all parameters of the network, and alive / prunable parameters."""
    alive = sum(int(mask.sum()) for mask in masks.values())
    prunable = sum(mask.numel() for mask in masks.values())
    total = sum(parameter.numel() for parameter in network.parameters())
    return (total - prunable + alive) / total, alive / prunable
